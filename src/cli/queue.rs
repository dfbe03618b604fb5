//! `roadcall queue …`.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::Connection;
use super::client::connect;
use super::failure::Failure;
use super::output::print_rows;
use super::run::topology_roles;
use crate::bus::{Bus, DLQ};

#[derive(Debug, Subcommand)]
pub(super) enum QueueVerb {
    /// Depth and place of every queue of this site.
    List,
}

pub(super) async fn queue(connection: &Connection, _verb: &QueueVerb) -> Result<ExitCode, Failure> {
    let config = connection.config()?;
    let bus = connect(&config, "roadcall-cli").await?;
    let mut rows = Vec::new();
    for role in topology_roles(&config)? {
        let Some(queue) = role.queue() else { continue };
        let state = bus.queue(queue).await?;
        let letters = bus
            .read(DLQ, &format!("dlq.{queue}.>"), 1, 1000, false)
            .await?;
        rows.push(json!({
            "queue": queue, "role": role.as_str(), "depth": state.pending + state.ack_pending,
            "inFlight": state.ack_pending, "deadLetters": letters.iter().filter(|letter| !letter.body.is_empty()).count(),
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
