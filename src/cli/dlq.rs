//! `roadcall dlq …`: dead letters.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Connection;
use super::client::{Client, connect};
use super::event::parse_pattern;
use super::failure::Failure;
use super::output::{print_json, print_rows};
use super::replay;
use crate::bus::jetstream::JetStream;
use crate::event::Ts;
use crate::node::letter::{self, Letter};

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
    /// Send letters back to their queue (changes data); a letter that dies again is the same one with more attempts.
    Redrive {
        #[command(flatten)]
        chosen: Box<Chosen>,
        /// Events a second at the most.
        #[arg(long)]
        rate: Option<u32>,
        /// Wait until all have been tried.
        #[arg(long)]
        wait: bool,
    },
    /// Discard letters for good (changes data).
    Purge {
        #[command(flatten)]
        chosen: Box<Chosen>,
        /// Why.
        #[arg(long, value_name = "TEXT")]
        because: String,
    },
}

/// Letters in one command.
const PURGED_AT_ONCE: usize = 1000;

/// Which letters of a queue.
#[derive(Debug, Args)]
pub(super) struct Chosen {
    /// The queue.
    #[arg(long)]
    queue: String,
    /// These sequences of the archive.
    #[arg(long, value_delimiter = ',', value_name = "N,…")]
    seq: Vec<u64>,
    /// All of them.
    #[arg(long, conflicts_with_all = ["seq", "reason", "detail_type", "since", "until", "pattern"])]
    all: bool,
    /// Those given up for this reason, for example `handler_failed`.
    #[arg(long)]
    reason: Option<String>,
    /// Those of this detail-type.
    #[arg(long = "type", value_name = "DETAIL-TYPE")]
    detail_type: Option<String>,
    /// Those whose event happened at this time or later.
    #[arg(long, value_name = "TIME")]
    since: Option<Ts>,
    /// Those whose event happened before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<Ts>,
    /// Those whose event matches this pattern.
    #[arg(long, value_name = "JSON")]
    pattern: Option<String>,
    /// Only show which letters would be meant.
    #[arg(long)]
    dry_run: bool,
    /// Really do it.
    #[arg(long)]
    yes: bool,
}

impl Chosen {
    fn is_empty(&self) -> bool {
        let by_field =
            self.reason.is_some() || self.detail_type.is_some() || self.pattern.is_some();
        let by_time = self.since.is_some() || self.until.is_some();
        !self.all && self.seq.is_empty() && !by_field && !by_time
    }

    /// The letters that are meant, oldest first.
    async fn letters(&self, bus: &JetStream) -> Result<Vec<Letter>, Failure> {
        if self.is_empty() {
            return Err(Failure::usage(
                "it is not said which letters",
                "give --seq, --reason, --type, --since, --until, --pattern, or --all",
            ));
        }
        let pattern = parse_pattern(self.pattern.as_deref())?;
        let mut letters = letter::of_queue(bus, &self.queue).await?;
        letters.retain(|letter| {
            let event = letter.event();
            let time = event
                .as_ref()
                .and_then(|event| event["time"].as_str()?.parse::<Ts>().ok());
            (self.seq.is_empty() || self.seq.contains(&letter.seq))
                && self
                    .reason
                    .as_deref()
                    .is_none_or(|reason| letter.reason.to_string() == reason)
                && self
                    .detail_type
                    .as_deref()
                    .is_none_or(|name| letter.detail_type == name)
                && self
                    .since
                    .is_none_or(|since| time.is_some_and(|time| time >= since))
                && self
                    .until
                    .is_none_or(|until| time.is_some_and(|time| time < until))
                && pattern.as_ref().is_none_or(|pattern| {
                    event.as_ref().is_some_and(|event| pattern.matches(event))
                })
        });
        if let Some(missing) = self
            .seq
            .iter()
            .find(|seq| !letters.iter().any(|one| one.seq == **seq))
        {
            return Err(Failure::other(
                format!("{} has no letter of sequence {missing}", self.queue),
                "see roadcall dlq list",
            ));
        }
        Ok(letters)
    }

    fn consent(&self, what: &str, count: usize) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        Err(Failure::usage(
            &format!("this {what} {count} letters of {}", self.queue),
            "look with --dry-run, then give --yes",
        ))
    }
}

async fn redrive(
    connection: &Connection,
    chosen: &Chosen,
    rate: Option<u32>,
    wait: bool,
) -> Result<ExitCode, Failure> {
    let client = Client::open(connection).await?;
    let letters = chosen.letters(&client.bus).await?;
    if chosen.dry_run {
        return show(connection, letters, false);
    }
    chosen.consent("sends back", letters.len())?;
    if letters.is_empty() {
        return Err(Failure::other(
            "no letter is meant",
            "see roadcall dlq list",
        ));
    }
    let seqs: Vec<u64> = letters.iter().map(|letter| letter.seq).collect();
    let mut body = json!({ "queue": chosen.queue, "seqs": seqs });
    if let Some(rate) = rate {
        body["rate"] = json!(rate);
    }
    let reply = client.call("dlq.redrive", &body).await?;
    match reply["name"].as_str() {
        Some(name) if wait => replay::follow(&client.bus, name, true).await,
        _ => {
            print_json(&reply)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn purge(
    connection: &Connection,
    chosen: &Chosen,
    because: &str,
) -> Result<ExitCode, Failure> {
    let client = Client::open(connection).await?;
    let letters = chosen.letters(&client.bus).await?;
    if chosen.dry_run {
        return show(connection, letters, false);
    }
    chosen.consent("discards", letters.len())?;
    for part in letters.chunks(PURGED_AT_ONCE) {
        let named: Vec<Value> = part
            .iter()
            .map(|letter| {
                json!({
                    "deadLetterId": letter.dead_letter_id, "eventId": letter.event_id,
                    "letterSubject": letter.subject(),
                })
            })
            .collect();
        let body = json!({ "queue": chosen.queue, "letters": named, "reason": because });
        client.call("dlq.purge", &body).await?;
    }
    print_json(&json!({ "queue": chosen.queue, "purged": letters.len() }))?;
    Ok(ExitCode::SUCCESS)
}

fn show(connection: &Connection, letters: Vec<Letter>, check: bool) -> Result<ExitCode, Failure> {
    let found = !letters.is_empty();
    let rows = serde_json::to_value(letters).unwrap_or(Value::Null);
    let columns = [
        "queue",
        "seq",
        "deliveries",
        "detailType",
        "entity",
        "reason",
        "deadAt",
    ];
    print_rows(connection, &rows, &columns)?;
    Ok(ExitCode::from(if check && found { 2 } else { 0 }))
}

pub(super) async fn dlq(connection: &Connection, verb: DlqVerb) -> Result<ExitCode, Failure> {
    match verb {
        DlqVerb::List { queue, check } => {
            let letters = read(connection, queue.as_deref()).await?;
            show(connection, letters, check)
        }
        DlqVerb::Show { queue, seq } => {
            let letters = read(connection, Some(&queue)).await?;
            let letter = letters.into_iter().find(|letter| letter.seq == seq);
            let letter = letter.ok_or_else(|| {
                Failure::other(
                    format!("there is no letter of sequence {seq}"),
                    "see roadcall dlq list",
                )
            })?;
            print_json(&serde_json::to_value(letter).unwrap_or(Value::Null))?;
            Ok(ExitCode::SUCCESS)
        }
        DlqVerb::Redrive { chosen, rate, wait } => redrive(connection, &chosen, rate, wait).await,
        DlqVerb::Purge { chosen, because } => purge(connection, &chosen, &because).await,
    }
}

/// The letters of one queue, or of all.
async fn read(connection: &Connection, queue: Option<&str>) -> Result<Vec<Letter>, Failure> {
    let config = connection.config()?;
    let bus = connect(&config, "roadcall-cli").await?;
    Ok(letter::of_queue(&bus, queue.unwrap_or("*")).await?)
}
