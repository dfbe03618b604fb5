//! What a role says about itself: how much waits in its database (`<role>.status`), and what became of an event
//! (`<role>.outcome`).
//!
//! Both read the role's file beside its writer and on a channel of their own, so a role whose writer is busy or stuck
//! still answers. They change nothing; [`super::inquiry`] asks them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::clock::Clock;
use super::commands::{answer, command};
use super::engine::Counts;
use super::figures::{Figures, Gathered};
use super::writer::Reply;
use crate::bus::jetstream::service::Request;
use crate::config::Config;
use crate::event::{Id, Ts};
use crate::role::permission::{self, Permission, Scope};
use crate::role::{Code, Command, Rejection, RoleName};
use crate::store::{self, Attempt, Outcome, Reader, ReplayRow, ReplayState, Sought, WaitingState};

/// Events that are asked about at once at the most.
const MANY_MAX: usize = 1000;

/// The command that asks a role how much waits.
#[must_use]
pub fn status_of(role: RoleName) -> String {
    format!("{role}.status")
}

/// The command that asks a role what became of an event.
#[must_use]
pub fn outcome_in(role: RoleName) -> String {
    format!("{role}.outcome")
}

/// The command that asks a role what became of many events.
#[must_use]
pub fn outcomes_in(role: RoleName) -> String {
    format!("{role}.outcomes")
}

/// Events that are asked about at once, 1000 at the most.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Many {
    /// Which.
    pub events: Vec<Wanted>,
}

/// How a role stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The role.
    pub role: RoleName,
    /// Its database; none before its first start.
    pub store_id: Option<Id>,
    /// Deliveries that wait in it for a retry or a predecessor.
    pub waiting: u64,
    /// When the archive took the oldest of them.
    pub oldest_waiting_at: Option<Ts>,
    /// Events that it has promised and that are not known to be in the archive; none from a role that is older than this.
    #[serde(default)]
    pub outbox: Option<u64>,
    /// When it made the oldest of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbox_since: Option<Ts>,
    /// What it has published; none from a role that is older than this, and before its first start.
    #[serde(default)]
    pub made: Option<Made>,
    /// What its process counted since it started; none where nobody but the file answers.
    #[serde(default)]
    pub counts: Option<Counts>,
    /// What its process is and by what configuration it runs; none where nobody but the file answers.
    #[serde(default)]
    pub in_force: Option<InForce>,
    /// What else its process measured since then.
    #[serde(default)]
    pub figures: Option<Figures>,
    /// Of the replays that run in it now, taken together; none from a role that is older than this.
    #[serde(default)]
    pub replays: Option<ReplayFigures>,
    /// The snapshot that its database was restored from, if it ever was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<Restored>,
}

/// How far replays are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayFigures {
    /// How many run.
    pub running: u64,
    /// Sequences within their bounds.
    pub sequences: u64,
    /// Those that have been looked at.
    pub sequences_done: u64,
    /// Events handled with success.
    pub handled: u64,
    /// Events left alone, which had an outcome or wait.
    pub duplicates: u64,
    /// Events that were not for the queue, or too old.
    pub filtered: u64,
    /// Events that could not be handled now.
    pub failed: u64,
}

impl ReplayFigures {
    fn of(rows: &[ReplayRow]) -> Self {
        let mut all = Self::default();
        for row in rows.iter().filter(|row| row.state == ReplayState::Running) {
            all.running += 1;
            all.sequences += (row.to_seq + 1).saturating_sub(row.from_seq);
            all.sequences_done += row.next_seq.saturating_sub(row.from_seq);
            all.handled += row.handled;
            all.duplicates += row.duplicates;
            all.filtered += row.filtered;
            all.failed += row.failed;
        }
        all
    }
}

/// How many events a role has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Made {
    /// Which life of its database.
    pub epoch: String,
    /// The highest number that it gave out.
    pub last: u64,
}

/// Where a restored database comes from, and what of its life before it knows nothing of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    /// The snapshot's number.
    pub snapshot: u64,
    /// When it was taken.
    pub taken_at: Ts,
    /// When the role had caught up with the archive; none until then.
    pub caught_up_at: Option<Ts>,
    /// Events of its own in the archive that it did not come to again: from commands, timers and calls.
    pub not_made_again: u64,
    /// Where the first of them is; 0 where there is none.
    pub first_seq: u64,
    /// Where the last of them is.
    pub last_seq: u64,
}

fn restored(reader: &Reader) -> Result<Option<Restored>, store::Error> {
    let Some(catch_up) = reader.catch_up()? else {
        return Ok(None);
    };
    let lost = reader.not_made_again()?;
    Ok(Some(Restored {
        snapshot: catch_up.snapshot,
        taken_at: Ts::from_ms(catch_up.taken_at_ms),
        caught_up_at: catch_up.done_at_ms.map(Ts::from_ms),
        not_made_again: lost.count,
        first_seq: lost.first_seq,
        last_seq: lost.last_seq,
    }))
}

/// What a process is, and by what configuration it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InForce {
    /// Version of the program.
    pub version: String,
    /// [`Config::digest`] of what is in force.
    pub config_digest: String,
    /// Version of the fleet's files that it has read; empty where there are none.
    pub fleet: String,
    /// Keys whose files say something else by now, and that wait for a restart.
    pub waiting_for_restart: Vec<String>,
    /// The authorities of the hub, for this process alone: how long they are good for is measured.
    #[serde(skip)]
    pub hub_ca: String,
}

impl InForce {
    /// This program by `config`.
    #[must_use]
    pub fn of(config: &Config, waiting_for_restart: Vec<String>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_digest: config.digest(),
            fleet: config.site.fleet.clone(),
            waiting_for_restart,
            hub_ca: config.hub.ca.clone(),
        }
    }
}

/// The same for whoever asks a process's roles; told anew at each reload.
pub type SharedInForce = Arc<Mutex<InForce>>;

/// Which event is asked about: by id, or by its place where no id can be read from its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    rename_all_fields = "camelCase",
    expecting = "give eventId, or stream and seq"
)]
#[allow(missing_docs)] // the names say it
pub enum Wanted {
    Event { event_id: Id },
    Place { stream: i64, seq: u64 },
}

/// What a role has about an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// How it ended, if it has.
    pub ended: Option<Ended>,
    /// Why and since when it waits, if it does.
    pub waiting: Option<Waits>,
    /// Calls to the outside that it led to and whose results are not handled yet.
    pub effects: Vec<Requested>,
}

/// An outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// `done`, `expired`, `dead` or `filtered`.
    pub outcome: String,
    /// When.
    pub at: Ts,
    /// The sequence that it was delivered under.
    pub seq: u64,
    /// Identity of the stream that `seq` belongs to.
    pub stream: i64,
}

/// A delivery that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waits {
    /// `retry`, `behind` another one of its key, `notYet` (a predecessor is missing), or `inHand` (the process died).
    pub why: String,
    /// When it is tried next; none for one behind another.
    pub due_at: Option<Ts>,
    /// When the role first had it.
    pub first_seen_at: Ts,
    /// When the archive took it.
    pub received_at: Ts,
    /// Failed tries.
    pub attempts: Vec<Attempt>,
    /// How often the process died while this one alone was running.
    pub deaths: u32,
}

/// A call to the outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Requested {
    /// Its idempotency key.
    pub key: String,
    /// What kind of call.
    pub kind: String,
    /// When it was asked for.
    pub requested_at: Ts,
    /// `pending`, or `answered` where the role could not handle the result yet.
    pub state: String,
}

/// A role's database, for reading.
#[derive(Debug, Clone)]
pub struct Database {
    role: RoleName,
    path: PathBuf,
    gathered: Option<Gathered>,
    in_force: Option<SharedInForce>,
}

impl Database {
    /// The database that `role` has, or would have, in the configuration's state directory.
    #[must_use]
    pub fn new(config: &Config, role: RoleName) -> Self {
        Self {
            role,
            path: config.site.state_dir.join(format!("{role}.db")),
            gathered: None,
            in_force: None,
        }
    }

    /// The same, of a role that runs in this process and is measured there.
    #[must_use]
    pub fn measured(self, gathered: Gathered) -> Self {
        Self {
            gathered: Some(gathered),
            ..self
        }
    }

    /// The same, of a role whose process says by what it runs.
    #[must_use]
    pub fn by(self, in_force: SharedInForce) -> Self {
        Self {
            in_force: Some(in_force),
            ..self
        }
    }

    /// The file, whether or not it is there.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// How the role stands.
    ///
    /// # Errors
    /// A store error.
    pub fn status(&self) -> Result<Status, store::Error> {
        let reader = Reader::open(&self.path)?;
        let backlog = reader.backlog()?;
        Ok(Status {
            role: self.role,
            store_id: reader.store_id()?,
            waiting: backlog.rows,
            oldest_waiting_at: backlog.oldest_received_at_ms.map(Ts::from_ms),
            outbox: Some(reader.outbox_depth()?),
            outbox_since: reader.outbox_since_ms()?.map(Ts::from_ms),
            made: reader.made()?.map(|(epoch, last)| Made { epoch, last }),
            counts: self.gathered.as_ref().map(Gathered::counts),
            figures: self.gathered.as_ref().map(Gathered::figures),
            replays: Some(ReplayFigures::of(&reader.replays()?)),
            restored: restored(&reader)?,
            in_force: self.in_force.as_ref().map(|in_force| {
                let told = in_force.lock().unwrap_or_else(PoisonError::into_inner);
                told.clone()
            }),
        })
    }

    /// What became of each: `done`, `expired`, `dead`, `filtered`, `waiting`, or nothing that the role knows of.
    ///
    /// # Errors
    /// A store error.
    pub fn outcomes(&self, events: &[Wanted]) -> Result<Vec<Option<String>>, store::Error> {
        let reader = Reader::open(&self.path)?;
        events
            .iter()
            .map(|wanted| {
                let found = reader.record(sought(*wanted))?;
                let waits = found.waiting.map(|_| "waiting".to_owned());
                let ended = found
                    .outcome
                    .map(|row| outcome_name(row.outcome).to_owned());
                // A dead one that was redriven waits again.
                Ok(waits.or(ended))
            })
            .collect()
    }

    /// What the role has about an event.
    ///
    /// # Errors
    /// A store error.
    pub fn record(&self, wanted: Wanted) -> Result<Record, store::Error> {
        let found = Reader::open(&self.path)?.record(sought(wanted))?;
        let requested = found.requested.into_iter().map(|call| Requested {
            state: if call.answered { "answered" } else { "pending" }.to_owned(),
            requested_at: Ts::from_ms(call.created_at_ms),
            key: call.key,
            kind: call.kind,
        });
        Ok(Record {
            ended: found.outcome.map(|row| Ended {
                outcome: outcome_name(row.outcome).to_owned(),
                at: Ts::from_ms(row.at_ms),
                seq: row.stream_seq,
                stream: row.stream_id,
            }),
            waiting: found.waiting.map(|row| Waits {
                why: waiting_name(row.state).to_owned(),
                due_at: row.due_at_ms.map(Ts::from_ms),
                first_seen_at: Ts::from_ms(row.first_seen_at_ms),
                received_at: Ts::from_ms(row.received_at_ms),
                attempts: row.errors,
                deaths: row.deaths,
            }),
            effects: requested.collect(),
        })
    }
}

fn sought(wanted: Wanted) -> Sought {
    match wanted {
        Wanted::Event { event_id } => Sought::Event(event_id),
        Wanted::Place { stream, seq } => Sought::Place {
            stream_id: stream,
            stream_seq: seq,
        },
    }
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "done",
        Outcome::Expired => "expired",
        Outcome::Dead => "dead",
        Outcome::Filtered => "filtered",
    }
}

fn waiting_name(state: WaitingState) -> &'static str {
    match state {
        WaitingState::Retry => "retry",
        WaitingState::Behind => "behind",
        WaitingState::NotYet => "notYet",
        WaitingState::InHand => "inHand",
    }
}

/// Answers questions until the service stops. One at a time: they are rare, and each is a look or two by index.
pub async fn serve(mut requests: mpsc::Receiver<Request>, database: Database, clock: Clock) {
    while let Some(request) = requests.recv().await {
        let id = clock.new_id();
        let reply = match command(&request, id) {
            Err(rejection) => Err(rejection),
            Ok(command) => {
                let database = database.clone();
                // SQLite blocks.
                let looked = tokio::task::spawn_blocking(move || reply(&database, &command)).await;
                looked.unwrap_or_else(|_| Err(failed("the look panicked")))
            }
        };
        answer(&request, id, reply, clock).await;
    }
}

fn reply(database: &Database, command: &Command) -> Reply {
    let measuring = permission::check(&command.caller, Permission::OpsMeasure, &Scope::Open);
    if measuring.is_err() {
        permission::check(&command.caller, Permission::AdminOps, &Scope::Open)?;
    }
    let looked = if command.name == status_of(database.role) {
        database.status().map(serde_json::to_value)
    } else if command.name == outcomes_in(database.role) {
        let many: Many = parse(&command.body)?;
        if many.events.len() > MANY_MAX {
            let message = format!("has more than {MANY_MAX}; ask in parts");
            return Err(Rejection::field("events", message));
        }
        database.outcomes(&many.events).map(serde_json::to_value)
    } else {
        let wanted: Wanted = parse(&command.body)?;
        database.record(wanted).map(serde_json::to_value)
    };
    match looked {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(failed(error)),
        Err(error) => Err(failed(error)),
    }
}

/// A body as it is asked for.
pub(super) fn parse<T: DeserializeOwned>(body: &Map<String, Value>) -> Result<T, Rejection> {
    serde_json::from_value(Value::Object(body.clone()))
        .map_err(|error| Rejection::new(Code::ValidationError, error.to_string()))
}

fn failed(error: impl std::fmt::Display) -> Rejection {
    tracing::warn!(%error, "the role's database could not be read for somebody who asked");
    Rejection::new(Code::InternalError, error.to_string())
}
