//! `roadcall event …`: the archive and the catalogue.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use super::Connection;
use super::client::connect;
use super::commands::print_json;
use super::failure::Failure;
use crate::bus::{Bus, EVENTS, Stored};
use crate::event::{catalogue, decode, schema, to_value};

#[derive(Debug, Subcommand)]
pub(super) enum EventVerb {
    /// Print archived events, one JSON object a line.
    Tail {
        /// From this sequence.
        #[arg(long, default_value_t = 1)]
        from_seq: u64,
        /// So many at the most.
        #[arg(long)]
        count: Option<usize>,
        /// Only these subjects.
        #[arg(long, default_value = "roadcall.>")]
        subject: String,
        /// Go on with new ones.
        #[arg(long)]
        follow: bool,
    },
    /// List every event type.
    Catalog,
    /// Print the JSON Schema of an event type.
    Schema {
        /// The detail-type.
        detail_type: String,
    },
}

pub(super) async fn event(connection: &Connection, verb: EventVerb) -> Result<ExitCode, Failure> {
    match verb {
        EventVerb::Tail {
            from_seq,
            count,
            subject,
            follow,
        } => tail(connection, from_seq, count, &subject, follow).await,
        EventVerb::Catalog => {
            catalog(connection);
            Ok(ExitCode::SUCCESS)
        }
        EventVerb::Schema { detail_type } => {
            let schema = schema(&detail_type).ok_or_else(|| {
                Failure::usage(
                    &format!("no event is named '{detail_type}'"),
                    "see roadcall event catalog",
                )
            })?;
            print_json(&schema);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn catalog(connection: &Connection) {
    let rows: Vec<Value> = catalogue()
        .map(|row| {
            let mut queues: Vec<String> = row
                .queues
                .iter()
                .map(|queue| format!("{queue}-queue"))
                .collect();
            queues.extend(["reporting-queue".to_owned(), "audit-queue".to_owned()]);
            json!({
                "detailType": row.detail_type, "source": row.source, "version": row.version,
                "entity": row.entity_field, "when": row.when, "queues": queues,
            })
        })
        .collect();
    if connection.json {
        return print_json(&Value::Array(rows));
    }
    for row in catalogue() {
        println!(
            "{:24} {:20} {:4} {}",
            row.detail_type,
            row.source.as_str(),
            row.version,
            row.when
        );
    }
}

async fn tail(
    connection: &Connection,
    mut from: u64,
    count: Option<usize>,
    subject: &str,
    follow: bool,
) -> Result<ExitCode, Failure> {
    let config = connection.config()?;
    let bus = connect(&config, "roadcall-cli").await?;
    let mut left = count.unwrap_or(usize::MAX);
    loop {
        let stored = bus
            .read(EVENTS, subject, from, left.min(1000), false)
            .await?;
        for message in &stored {
            println!("{}", line(message));
            from = message.seq + 1;
        }
        left -= stored.len();
        if left == 0 || (stored.is_empty() && !follow) {
            return Ok(ExitCode::SUCCESS);
        }
        if stored.is_empty() {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
}

fn line(message: &Stored) -> Value {
    let received_at = crate::event::Ts::from_ms(message.received_at_ms);
    let mut line =
        json!({ "seq": message.seq, "subject": message.subject, "receivedAt": received_at });
    match decode(
        &message.subject,
        message.headers.get("Content-Type"),
        &message.body,
    ) {
        Ok(event) => line["event"] = to_value(&event),
        Err(error) => line["invalid"] = error.to_string().into(),
    }
    line
}
