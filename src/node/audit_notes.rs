//! What the node has to tell the ledger: through the audit role where that runs in this process, else by its command.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::commands::ACTOR_HEADER;
use super::order;
use super::writer::Job;
use crate::bus::Headers;
use crate::bus::jetstream::JetStream;
use crate::event::{List, Text};
use crate::role::audit::ledger::{NOTE, Note, Notes};

/// Refusals that wait for the audit role at the most; more are only in the log.
const WAITING_MAX: usize = 1000;
/// The same refusal to the same caller is noted once in this time.
const ONCE_IN: Duration = Duration::from_secs(60);
/// Callers that are kept in mind for that.
const KNOWN_MAX: usize = 10_000;
/// After a failure.
const AGAIN: Duration = Duration::from_secs(5);
/// How long the audit role may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A note before its fields are cut to their lengths.
pub(super) struct Said<'a> {
    pub(super) id: &'a str,
    pub(super) actor: &'a str,
    pub(super) action: &'a str,
    pub(super) subject: &'a str,
}

pub(super) fn note(said: &Said<'_>) -> Note {
    Note {
        id: Text::lossy(said.id),
        actor: Text::lossy(said.actor),
        action: Text::lossy(said.action),
        subject: Text::lossy(said.subject),
    }
}

fn body(notes: Vec<Note>) -> Option<Value> {
    // Nothing to say, or more than one command takes: the callers give at most so many.
    let notes = List::new(notes).ok()?;
    // Texts always have a JSON form.
    serde_json::to_value(Notes { notes }).ok()
}

/// Gives notes to the audit role of this process; 100 at the most.
pub(super) async fn tell(
    jobs: &mpsc::Sender<Job>,
    notes: Vec<Note>,
    clock: Clock,
) -> Result<(), String> {
    let Some(body) = body(notes) else {
        return Ok(());
    };
    let told = order::give(jobs, clock, NOTE, &body).await;
    told.map(drop).map_err(|error| error.to_string())
}

/// A command that its role refused because of who gave it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Refused {
    pub(super) actor: String,
    pub(super) command: String,
}

/// Where a role's refusals go.
pub(super) fn refusals() -> (mpsc::Sender<Refused>, mpsc::Receiver<Refused>) {
    mpsc::channel(WAITING_MAX)
}

/// Brings refusals to the site's audit role until told to stop; while it does not answer they wait.
pub(super) async fn bring(
    bus: JetStream,
    site: String,
    mut refused: mpsc::Receiver<Refused>,
    clock: Clock,
    stop: CancellationToken,
) {
    let mut known: HashMap<Refused, Duration> = HashMap::new();
    loop {
        let one = tokio::select! {
            () = stop.cancelled() => return,
            one = refused.recv() => match one {
                Some(one) => one,
                None => return,
            },
        };
        let now = clock.steady();
        known.retain(|_, at| now.saturating_sub(*at) < ONCE_IN);
        if known.contains_key(&one) || known.len() >= KNOWN_MAX {
            continue;
        }
        let id = clock.new_id().to_string();
        let note = note(&Said {
            id: &id,
            actor: &one.actor,
            action: &format!("{} (denied)", one.command),
            subject: &format!("command/{}", one.command),
        });
        known.insert(one, now);
        let Some(body) = body(vec![note]) else {
            continue;
        };
        while !told(&bus, &site, &body).await {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }
}

async fn told(bus: &JetStream, site: &str, body: &Value) -> bool {
    let mut headers = Headers::default();
    headers.push(ACTOR_HEADER, order::node().to_string());
    let body = body.to_string().into_bytes();
    bus.call(site, NOTE, &headers, body, ANSWER_MAX)
        .await
        .is_ok_and(|reply| reply.error_code.is_none())
}
