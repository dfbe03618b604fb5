//! `roadcall topology …`: the broker's streams and queues against what the site needs.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::Connection;
use super::client::connect;
use super::failure::Failure;
use super::output::print_rows;
use super::roles::topology_roles;
use crate::bus::topology::Class;
use crate::config;
use crate::event::Actor;
use crate::node::clock::Clock;
use crate::node::filters;
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
    let settings = connection.config()?;
    let bus = connect(&settings, "roadcall-topology").await?;
    let wanted = desired(&settings, &routes(&settings)?, &topology_roles(&settings)?);
    let changes = filters::plan(&bus, &wanted).await?;
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
    let by = Actor::Operator(config::user());
    let mut refused = false;
    for change in &changes {
        if apply && matches!(change.change, Class::Safe | Class::Backfill) {
            filters::apply(&bus, &wanted, change, &by, Clock.now()).await?;
        }
        refused |= matches!(change.change, Class::Recreate | Class::Refuse);
    }
    if apply && !refused {
        filters::begin_logs(&bus, &wanted, Clock.now()).await?;
    }
    let rows = serde_json::to_value(&changes).unwrap_or(Value::Null);
    print_rows(connection, &rows, &["object", "kind", "change", "detail"])?;
    Ok(ExitCode::from(match (apply, changes.is_empty(), refused) {
        (false, false, _) => 2,
        (true, _, true) => 1,
        _ => 0,
    }))
}
