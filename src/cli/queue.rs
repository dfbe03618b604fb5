//! `roadcall queue …`.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::Connection;
use super::client::connect;
use super::failure::Failure;
use super::output::{print_json, print_rows, say};
use super::run::topology_roles;
use crate::bus::Bus;
use crate::config::Config;
use crate::node::{letter, owner};
use crate::role::RoleName;

#[derive(Debug, Subcommand)]
pub(super) enum QueueVerb {
    /// Depth and place of every queue of this site.
    List,
    /// Give a queue to the role's database in this state directory (changes who may read it). For when the database
    /// that had it is gone for good: what that one did is not known here.
    Adopt {
        /// The queue; the role where it reads none.
        queue: String,
        /// Really do it. No process may still run with the other database.
        #[arg(long)]
        yes: bool,
    },
}

pub(super) async fn queue(connection: &Connection, verb: &QueueVerb) -> Result<ExitCode, Failure> {
    let config = connection.config()?;
    match verb {
        QueueVerb::List => list(connection, &config).await,
        QueueVerb::Adopt { queue, yes } => adopt(connection, &config, queue, *yes).await,
    }
}

async fn list(connection: &Connection, config: &Config) -> Result<ExitCode, Failure> {
    let bus = connect(config, "roadcall-cli").await?;
    let mut rows = Vec::new();
    for role in topology_roles(config)? {
        let Some(queue) = role.queue() else { continue };
        let state = bus.queue(queue).await?;
        let letters = letter::of_queue(&bus, queue).await?;
        rows.push(json!({
            "queue": queue, "role": role.as_str(), "depth": state.pending + state.ack_pending,
            "inFlight": state.ack_pending, "deadLetters": letters.len(),
            "deliveredSeq": state.delivered_seq, "ackFloorSeq": state.ack_floor_seq,
        }));
    }
    print_rows(
        connection,
        &Value::Array(rows),
        &[
            "queue",
            "role",
            "depth",
            "inFlight",
            "deadLetters",
            "deliveredSeq",
        ],
    )?;
    Ok(ExitCode::SUCCESS)
}

async fn adopt(
    connection: &Connection,
    config: &Config,
    queue: &str,
    yes: bool,
) -> Result<ExitCode, Failure> {
    let read_by = |role: &RoleName| owner::adopted_as(*role) == queue;
    let Some(role) = RoleName::ALL.into_iter().find(read_by) else {
        let names: Vec<&str> = RoleName::BUILT.into_iter().map(owner::adopted_as).collect();
        return Err(Failure::usage(
            &format!("no queue is named '{queue}'"),
            &format!("the queues are {}", names.join(", ")),
        ));
    };
    let path = config.site.state_dir.join(format!("{role}.db"));
    if !yes {
        return Err(Failure::usage(
            &format!("queue adopt gives {queue} to {}", path.display()),
            "make sure that no process runs with the other database, then give --yes",
        ));
    }
    let bus = connect(config, "roadcall-cli").await?;
    let (ours, before) = owner::adopt(&bus, role, &path).await?;
    if connection.json {
        let before = before.map(|id| id.to_string());
        print_json(&json!({ "queue": queue, "owner": ours, "before": before }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let before = before.map_or_else(|| "nobody".to_owned(), |id| id.to_string());
    say(format_args!(
        "{queue} belongs to {ours} ({}); before: {before}",
        path.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}
