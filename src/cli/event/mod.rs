//! `roadcall event …`: the archive and the catalogue.

mod publish;

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use self::publish::Publish;
use super::Connection;
use super::client::connect;
use super::failure::Failure;
use super::output::{print_json, say};
use crate::bus::{Bus, EVENTS, Stored};
use crate::event::{Event, EventType, Id, asyncapi, catalogue, decode, lookup, schema, to_value};
use crate::node::archive;
use crate::routing::pattern::Pattern;

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
        /// Only events that this pattern matches: {"source":[…],"detail-type":[…]}.
        #[arg(long, value_name = "JSON")]
        pattern: Option<String>,
        /// Go on with new ones.
        #[arg(long)]
        follow: bool,
    },
    /// Print one archived event.
    Get {
        /// Its id.
        #[arg(required_unless_present = "seq")]
        id: Option<Id>,
        /// Its sequence.
        #[arg(long, conflicts_with = "id")]
        seq: Option<u64>,
    },
    /// Check an event and put it into the archive (changes data).
    Publish(Publish),
    /// List every event type.
    Catalog,
    /// Print the JSON Schema of an event type.
    Schema {
        /// The detail-type.
        detail_type: String,
        /// Of this version instead of the one that is written, like 1.0.
        #[arg(long)]
        version: Option<String>,
    },
    /// Print the catalogue as an AsyncAPI 3.0 document in YAML.
    Asyncapi,
}

pub(super) async fn event(connection: &Connection, verb: EventVerb) -> Result<ExitCode, Failure> {
    match verb {
        EventVerb::Tail {
            from_seq,
            count,
            subject,
            pattern,
            follow,
        } => {
            let tail = Tail {
                count,
                subject,
                pattern: parse_pattern(pattern.as_deref())?,
                follow,
            };
            tail.print(connection, from_seq).await
        }
        EventVerb::Get { id, seq } => get(connection, id, seq).await,
        EventVerb::Publish(publish) => {
            print_json(&publish::publish(connection, publish).await?)?;
            Ok(ExitCode::SUCCESS)
        }
        EventVerb::Catalog => {
            catalog(connection)?;
            Ok(ExitCode::SUCCESS)
        }
        EventVerb::Asyncapi => {
            let document = asyncapi();
            if connection.json {
                print_json(&document)?;
            } else {
                let yaml = serde_saphyr::to_string(&document)
                    .map_err(|error| Failure::other(format!("the document: {error}"), ""))?;
                say(yaml.trim_end())?;
            }
            Ok(ExitCode::SUCCESS)
        }
        EventVerb::Schema {
            detail_type,
            version,
        } => {
            print_json(&schema_of(&detail_type, version.as_deref())?)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn schema_of(detail_type: &str, version: Option<&str>) -> Result<Value, Failure> {
    let row = lookup(detail_type).ok_or_else(|| {
        Failure::usage(
            &format!("no event is named '{detail_type}'"),
            "see roadcall event catalog",
        )
    })?;
    let wanted = version.unwrap_or(row.version);
    let found = row.versions.iter().find(|version| version.name == wanted);
    let found = found.ok_or_else(|| {
        Failure::usage(
            &format!("--version: {detail_type} has no version '{wanted}'"),
            &format!("there is {}", names(row).join(", ")),
        )
    })?;
    Ok(schema(row, found))
}

/// The versions that are read, oldest first.
fn names(row: &EventType) -> Vec<&'static str> {
    row.versions.iter().map(|version| version.name).collect()
}

fn catalog(connection: &Connection) -> Result<(), Failure> {
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
                "versions": names(row), "entity": row.entity_field, "when": row.when, "queues": queues,
            })
        })
        .collect();
    if connection.json {
        return print_json(&Value::Array(rows));
    }
    for row in catalogue() {
        say(format_args!(
            "{:24} {:20} {:4} {:9} {}",
            row.detail_type,
            row.source.as_str(),
            row.version,
            names(row).join(","),
            row.when
        ))?;
    }
    Ok(())
}

/// What `event tail` prints.
struct Tail {
    count: Option<usize>,
    subject: String,
    pattern: Option<Pattern>,
    follow: bool,
}

impl Tail {
    async fn print(self, connection: &Connection, mut from: u64) -> Result<ExitCode, Failure> {
        let config = connection.config()?;
        let bus = connect(&config, "roadcall-cli").await?;
        let mut left = self.count.unwrap_or(usize::MAX);
        loop {
            let stored = bus.read(EVENTS, &self.subject, from, 1000, false).await?;
            for message in stored
                .iter()
                .filter(|message| self.wants(message))
                .take(left)
            {
                say(line(message))?;
                left -= 1;
            }
            from = stored.last().map_or(from, |last| last.seq + 1);
            if left == 0 || (stored.is_empty() && !self.follow) {
                return Ok(ExitCode::SUCCESS);
            }
            if stored.is_empty() {
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        }
    }

    fn wants(&self, message: &Stored) -> bool {
        let Some(pattern) = &self.pattern else {
            return true;
        };
        decoded(message).is_ok_and(|event| pattern.matches(&to_value(&event)))
    }
}

pub(super) fn parse_pattern(text: Option<&str>) -> Result<Option<Pattern>, Failure> {
    let parse = |text| {
        serde_json::from_str(text).map_err(|error| {
            Failure::usage(
                &format!("--pattern: {error}"),
                "write it like '{\"detail-type\":[{\"prefix\":\"Offer\"}]}'",
            )
        })
    };
    text.map(parse).transpose()
}

async fn get(
    connection: &Connection,
    id: Option<Id>,
    seq: Option<u64>,
) -> Result<ExitCode, Failure> {
    let config = connection.config()?;
    let bus = connect(&config, "roadcall-cli").await?;
    let seq = match (seq, id) {
        (Some(seq), _) => Some(seq),
        (None, Some(id)) => archive::find(&bus, id).await?.map(|stored| stored.seq),
        (None, None) => None,
    };
    let stored = match seq {
        Some(seq) => archive::at(&bus, seq).await?,
        None => None,
    };
    let stored = stored.ok_or_else(|| {
        Failure::other("the archive has no such event", "see roadcall event tail")
    })?;
    print_json(&line(&stored))?;
    Ok(ExitCode::SUCCESS)
}

fn decoded(message: &Stored) -> Result<Event, crate::event::DecodeError> {
    decode(
        &message.subject,
        message.headers.get("Content-Type"),
        &message.body,
    )
}

fn line(message: &Stored) -> Value {
    let received_at = crate::event::Ts::from_ms(message.received_at_ms);
    let mut line =
        json!({ "seq": message.seq, "subject": message.subject, "receivedAt": received_at });
    match decoded(message) {
        Ok(event) => line["event"] = to_value(&event),
        Err(error) => line["invalid"] = error.to_string().into(),
    }
    line
}
