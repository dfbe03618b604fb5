//! `roadcall topology …`: the broker's streams and queues against what the site needs.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::Connection;
use super::client::connect;
use super::failure::Failure;
use super::output::print_rows;
use super::run::topology_roles;
use crate::bus::topology::{self, Class};
use crate::node::run::{desired, routes};

#[derive(Debug, Subcommand)]
pub(super) enum TopologyVerb {
    /// Print the differences; exit 2 if there are any.
    Plan,
    /// Make what is missing and update what differs (changes the broker's streams and queues).
    Apply {
        /// Really do it.
        #[arg(long)]
        yes: bool,
    },
}

pub(super) async fn topology(
    connection: &Connection,
    verb: TopologyVerb,
) -> Result<ExitCode, Failure> {
    let config = connection.config()?;
    let bus = connect(&config, "roadcall-topology").await?;
    let wanted = desired(&config, &routes(&config)?, &topology_roles(&config)?);
    let changes = topology::plan(&bus, &wanted).await?;
    let apply = match verb {
        TopologyVerb::Plan => false,
        TopologyVerb::Apply { yes: true } => true,
        TopologyVerb::Apply { yes: false } => {
            return Err(Failure::usage(
                "topology apply changes the broker",
                "look at roadcall topology plan, then give --yes",
            ));
        }
    };
    let mut refused = false;
    for change in &changes {
        if apply && matches!(change.change, Class::Safe | Class::Backfill) {
            topology::apply(&bus, change).await?;
        }
        refused |= matches!(change.change, Class::Recreate | Class::Refuse);
    }
    let rows = serde_json::to_value(&changes).unwrap_or(Value::Null);
    print_rows(connection, &rows, &["object", "kind", "change", "detail"])?;
    Ok(ExitCode::from(match (apply, changes.is_empty(), refused) {
        (false, false, _) => 2,
        (true, _, true) => 1,
        _ => 0,
    }))
}
