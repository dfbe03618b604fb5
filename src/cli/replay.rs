//! `roadcall replay …`: archived events to a queue again.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::Connection;
use super::client::Client;
use super::event::parse_pattern;
use super::failure::Failure;
use super::output::{print_json, print_rows};
use crate::bus::jetstream::JetStream;
use crate::bus::{Bus, EVENTS};
use crate::event::{Ts, decode, to_value};
use crate::node::{archive, jobs};
use crate::role::RoleName;

/// How often a waiting command looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Messages in one read.
const PAGE: usize = 1000;

#[derive(Debug, Subcommand)]
pub(super) enum ReplayVerb {
    /// Bring archived events to a queue again (changes data).
    Start(Box<Start>),
    /// How far a replay is.
    Status {
        /// Its name.
        name: String,
        /// Wait for its end; exit 0 only if it completed.
        #[arg(long)]
        wait: bool,
    },
    /// All replays and redrives.
    List {
        /// Only those in this state: STARTING, RUNNING, COMPLETED, CANCELLING, CANCELLED or FAILED.
        #[arg(long)]
        state: Option<String>,
    },
    /// Stop one before its next event (changes data).
    Cancel {
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    /// Only what is not done, dead letters included.
    Fill,
    /// Run the handler anew; what it emits is dropped unless --allow-external.
    Force,
}

#[derive(Debug, Args)]
pub(super) struct Start {
    /// The queue.
    #[arg(long)]
    queue: String,
    /// First sequence.
    #[arg(long, conflicts_with = "start")]
    from_seq: Option<u64>,
    /// Last sequence, inclusive; the archive's last one now, if absent.
    #[arg(long, conflicts_with = "end")]
    to_seq: Option<u64>,
    /// Events that the archive took at this time or later.
    #[arg(long, value_name = "TIME", required_unless_present = "from_seq")]
    start: Option<Ts>,
    /// Events that the archive took before this time.
    #[arg(long, value_name = "TIME")]
    end: Option<Ts>,
    /// Only events that this pattern matches.
    #[arg(long, value_name = "JSON")]
    pattern: Option<String>,
    /// Only events of this entity.
    #[arg(long, value_name = "KEY")]
    entity: Option<String>,
    /// A name of your own.
    #[arg(long)]
    name: Option<String>,
    /// What it is for.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// What to do with events that are done.
    #[arg(long, value_enum, default_value_t = Mode::Fill)]
    mode: Mode,
    /// Let it call outside, and publish what `force` emits.
    #[arg(long)]
    allow_external: bool,
    /// Events a second at the most.
    #[arg(long)]
    rate: Option<u32>,
    /// Only count, by detail-type; changes nothing.
    #[arg(long)]
    dry_run: bool,
    /// Wait for its end; exit 0 only if it completed.
    #[arg(long)]
    wait: bool,
}

pub(super) async fn replay(connection: &Connection, verb: ReplayVerb) -> Result<ExitCode, Failure> {
    match verb {
        ReplayVerb::Start(start) => start.run(connection).await,
        ReplayVerb::Status { name, wait } => {
            let client = Client::open(connection).await?;
            follow(&client.bus, &name, wait).await
        }
        ReplayVerb::List { state } => {
            let client = Client::open(connection).await?;
            let mut rows: Vec<Value> = jobs::all(&client.bus).await?.into_values().collect();
            rows.retain(|row| state.as_deref().is_none_or(|state| row["state"] == state));
            rows.sort_by_key(|row| row["startedAt"].as_str().map(str::to_owned));
            let columns = [
                "name", "queue", "state", "fromSeq", "toSeq", "done", "total", "handled", "failed",
            ];
            print_rows(connection, &Value::Array(rows), &columns)?;
            Ok(ExitCode::SUCCESS)
        }
        ReplayVerb::Cancel { name } => {
            let client = Client::open(connection).await?;
            let reply = client
                .call("replay.cancel", &json!({ "name": name }))
                .await?;
            print_json(&reply)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl Start {
    async fn run(self, connection: &Connection) -> Result<ExitCode, Failure> {
        let pattern = parse_pattern(self.pattern.as_deref())?;
        let client = Client::open(connection).await?;
        let state = client.bus.stream(EVENTS).await?;
        let at = async |time: &Ts| {
            archive::first_at(&client.bus, time.ms(), state.first_seq, state.last_seq + 1).await
        };
        let from = match (self.from_seq, &self.start) {
            (None, Some(start)) => at(start).await?,
            (from, _) => from.unwrap_or(state.first_seq).max(1),
        };
        let to = match (self.to_seq, &self.end) {
            (None, Some(end)) => at(end).await?.saturating_sub(1),
            (to, _) => to.unwrap_or(state.last_seq),
        };
        if self.dry_run {
            return self
                .count(connection, &client.bus, pattern.as_ref(), (from, to))
                .await;
        }
        let mut body = json!({
            "queue": self.queue, "fromSeq": from,
            // A window of time without events is an empty one of sequences.
            "toSeq": if self.to_seq.is_some() { to } else { to.max(from - 1) },
            "mode": match self.mode { Mode::Fill => "fill", Mode::Force => "force" },
            "allowExternal": self.allow_external,
        });
        let optional = [
            ("name", json!(self.name)),
            ("pattern", json!(pattern)),
            ("entity", json!(self.entity)),
            ("rate", json!(self.rate)),
            ("description", json!(self.description)),
        ];
        for (name, value) in optional.into_iter().filter(|(_, value)| !value.is_null()) {
            body[name] = value;
        }
        let reply = client.call("replay.start", &body).await?;
        if !self.wait {
            print_json(&reply)?;
            return Ok(ExitCode::SUCCESS);
        }
        let name = reply["name"].as_str().unwrap_or_default().to_owned();
        follow(&client.bus, &name, true).await
    }

    /// What a replay would bring, by detail-type.
    async fn count(
        &self,
        connection: &Connection,
        bus: &JetStream,
        pattern: Option<&crate::routing::pattern::Pattern>,
        (mut from, to): (u64, u64),
    ) -> Result<ExitCode, Failure> {
        let config = connection.config()?;
        let routes = crate::node::run::routes(&config)?;
        let known = RoleName::ALL
            .iter()
            .any(|role| role.queue() == Some(&self.queue));
        if !known {
            let names: Vec<&str> = RoleName::ALL
                .iter()
                .filter_map(|role| role.queue())
                .collect();
            return Err(Failure::usage(
                &format!("--queue: no queue is named '{}'", self.queue),
                &format!("the queues are {}", names.join(", ")),
            ));
        }
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        while from <= to {
            let page = bus.read(EVENTS, "roadcall.>", from, PAGE, false).await?;
            let Some(last) = page.last() else { break };
            from = last.seq + 1;
            for stored in page.iter().filter(|stored| stored.seq <= to) {
                let event = decode(
                    &stored.subject,
                    stored.headers.get("Content-Type"),
                    &stored.body,
                );
                let Ok(event) = event else {
                    continue;
                };
                let wanted = routes.decide(&self.queue, &event).is_some()
                    && self
                        .entity
                        .as_deref()
                        .is_none_or(|key| event.entity().as_str() == key)
                    && pattern.is_none_or(|pattern| pattern.matches(&to_value(&event)));
                if wanted {
                    *counts.entry(event.detail_type.clone()).or_default() += 1;
                }
            }
        }
        let rows: Vec<Value> = counts
            .into_iter()
            .map(|(detail_type, events)| json!({ "detailType": detail_type, "events": events }))
            .collect();
        print_rows(connection, &Value::Array(rows), &["detailType", "events"])?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Shows a job, at its end if `wait`.
pub(super) async fn follow(bus: &JetStream, name: &str, wait: bool) -> Result<ExitCode, Failure> {
    let mut looks = 0;
    loop {
        let row = jobs::all(bus).await?.remove(name);
        let state = row
            .as_ref()
            .and_then(|row| row["state"].as_str())
            .unwrap_or_default();
        let ended = ["COMPLETED", "CANCELLED", "FAILED"].contains(&state);
        match &row {
            // A job that was just accepted may still be on its way from the outbox.
            None if wait && looks < 50 => {}
            None => {
                return Err(Failure::other(
                    format!("no replay is named '{name}'"),
                    "see roadcall replay list",
                ));
            }
            Some(row) if ended || !wait => {
                print_json(row)?;
                let failed = wait && state != "COMPLETED";
                return Ok(ExitCode::from(u8::from(failed)));
            }
            Some(_) => {}
        }
        looks += 1;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
