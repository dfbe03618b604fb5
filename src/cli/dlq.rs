//! `roadcall dlq …`: dead letters.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::Connection;
use super::client::connect;
use super::failure::Failure;
use super::output::{print_json, print_rows};
use crate::bus::{Bus, DLQ};
use crate::node::letter::Letter;

#[derive(Debug, Subcommand)]
pub(super) enum DlqVerb {
    /// List the letters that are neither redriven nor purged.
    List {
        /// Only this queue's.
        #[arg(long)]
        queue: Option<String>,
        /// Exit 2 when there are any.
        #[arg(long)]
        check: bool,
    },
    /// Show one, payload and attempts included.
    Show {
        /// The queue.
        #[arg(long)]
        queue: String,
        /// The event's sequence in the archive.
        #[arg(long)]
        seq: u64,
    },
}

pub(super) async fn dlq(connection: &Connection, verb: DlqVerb) -> Result<ExitCode, Failure> {
    let config = connection.config()?;
    let bus = connect(&config, "roadcall-cli").await?;
    let (filter, seq, check) = match &verb {
        DlqVerb::List { queue, check } => (queue.clone(), None, *check),
        DlqVerb::Show { queue, seq } => (Some(queue.clone()), Some(*seq), false),
    };
    let filter = filter.map_or_else(|| "dlq.>".to_owned(), |queue| format!("dlq.{queue}.>"));
    let mut letters: Vec<Letter> = Vec::new();
    let mut from = 1;
    loop {
        let stored = bus.read(DLQ, &filter, from, 1000, false).await?;
        let Some(last) = stored.last() else { break };
        from = last.seq + 1;
        letters.extend(
            stored
                .iter()
                .filter_map(|message| serde_json::from_slice(&message.body).ok()),
        );
    }
    if let Some(seq) = seq {
        let letter = letters.into_iter().find(|letter| letter.seq == seq);
        let letter = letter.ok_or_else(|| {
            Failure::other(
                format!("there is no letter of sequence {seq}"),
                "see roadcall dlq list",
            )
        })?;
        print_json(&serde_json::to_value(letter).unwrap_or(Value::Null))?;
        return Ok(ExitCode::SUCCESS);
    }
    let found = !letters.is_empty();
    let rows = serde_json::to_value(letters).unwrap_or(Value::Null);
    print_rows(
        connection,
        &rows,
        &[
            "queue",
            "seq",
            "deliveries",
            "detailType",
            "entity",
            "reason",
            "deadAt",
        ],
    )?;
    Ok(ExitCode::from(if check && found { 2 } else { 0 }))
}
