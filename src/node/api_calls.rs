//! Calls to JetStream's API that change something go into the ledger: who deleted a stream, purged one, reset a consumer.
//!
//! The server tells of each call (`$JS.EVENT.ADVISORY.API`), also of those that only look; the stream keeps them until they were
//! looked at here. It is in memory, so what was told in the moments before the broker died is lost.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::audit_notes::{Said, note, tell};
use super::clock::Clock;
use super::writer::Job;
use crate::bus::{API_QUEUE, Bus, Delivery};
use crate::role::audit::ledger::Note;

/// How long one fetch waits for a first one.
const FETCH_WAIT: Duration = Duration::from_secs(5);
/// In hand at the most; as many as one command takes.
const AT_ONCE: usize = 100;
/// After a failure.
const AGAIN: Duration = Duration::from_secs(5);

/// Words of API subjects that change something.
const CHANGES: [&str; 15] = [
    "STREAM.CREATE",
    "STREAM.UPDATE",
    "STREAM.DELETE",
    "STREAM.PURGE",
    "STREAM.MSG.DELETE",
    "STREAM.RESTORE",
    "STREAM.SNAPSHOT",
    "STREAM.PEER.REMOVE",
    "STREAM.LEADER.STEPDOWN",
    "CONSUMER.CREATE",
    "CONSUMER.DURABLE.CREATE",
    "CONSUMER.DELETE",
    "CONSUMER.PAUSE",
    "CONSUMER.RESET",
    "CONSUMER.UNPIN",
];

/// The server's words; it sends more than this.
#[derive(Deserialize)]
struct Told {
    id: String,
    subject: String,
    #[serde(default)]
    client: Value,
    #[serde(default)]
    response: String,
}

/// What is to be noted; nothing for a call that changes nothing, or that Roadcall makes all the time.
fn noted(body: &[u8]) -> Option<Note> {
    let told: Told = serde_json::from_slice(body).ok()?;
    let (_, call) = told.subject.split_once(".API.")?;
    let what = CHANGES.iter().find(|what| {
        call.strip_prefix(**what)
            .is_some_and(|rest| rest.starts_with('.'))
    })?;
    let about = call[what.len() + 1..].to_owned();
    // Old snapshots are removed every few minutes, and reads outside a queue make a consumer that goes by itself.
    if about.starts_with("OBJ_SNAPSHOTS") || passing(what, &told.response) {
        return None;
    }
    let refused = serde_json::from_str::<Value>(&told.response);
    let refused = refused.is_ok_and(|response| response["error"].is_object());
    let word = |name: &str| told.client[name].as_str().unwrap_or_default().to_owned();
    let client = format!("nats:{}/{}@{}", word("acc"), word("user"), word("host"));
    let outcome = if refused { " (refused)" } else { "" };
    Some(note(&Said {
        id: &told.id,
        actor: &client,
        action: &format!("{what}{outcome}"),
        subject: &format!("jetstream/{about}"),
    }))
}

/// Whether a consumer was made that has no name of its own.
fn passing(what: &str, response: &str) -> bool {
    let made: Value = serde_json::from_str(response).unwrap_or_default();
    what == "CONSUMER.CREATE"
        && made["config"].is_object()
        && made["config"]["durable_name"].as_str().is_none()
}

/// Reads until told to stop.
pub async fn watch<B: Bus>(bus: B, jobs: mpsc::Sender<Job>, clock: Clock, stop: CancellationToken) {
    loop {
        let fetched = tokio::select! {
            () = stop.cancelled() => return,
            fetched = bus.fetch(API_QUEUE, AT_ONCE, FETCH_WAIT) => fetched,
        };
        let done = match fetched {
            Ok(calls) => pass_on(&bus, &calls, &jobs, clock).await,
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = done {
            tracing::warn!(
                error,
                "calls to JetStream's API could not be noted, trying again"
            );
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }
}

async fn pass_on<B: Bus>(
    bus: &B,
    calls: &[Delivery],
    jobs: &mpsc::Sender<Job>,
    clock: Clock,
) -> Result<(), String> {
    let notes: Vec<Note> = calls.iter().filter_map(|call| noted(&call.body)).collect();
    tell(jobs, notes, clock).await?;
    let tokens = calls.iter().map(|call| call.token.clone()).collect();
    bus.ack(tokens).await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(subject: &str, response: &Value) -> Vec<u8> {
        let client = json!({ "acc": "RC", "user": "app", "host": "127.0.0.1" });
        let told = json!({ "id": "x", "subject": subject, "client": client, "response": response.to_string() });
        told.to_string().into_bytes()
    }

    #[test]
    fn what_changes_something_is_noted_with_its_outcome_and_looks_are_not() {
        let noted = |subject: &str, response: Value| {
            noted(&told(subject, &response))
                .map(|note| (note.action.to_string(), note.subject.to_string()))
        };
        let gone = noted(
            "$JS.hub.API.STREAM.DELETE.EVENTS",
            json!({ "success": true }),
        );
        let entry = |action: &str, subject: &str| Some((action.to_owned(), subject.to_owned()));
        assert_eq!(gone, entry("STREAM.DELETE", "jetstream/EVENTS"));
        let refused = noted(
            "$JS.API.STREAM.PURGE.EVENTS",
            json!({ "error": { "code": 403 } }),
        );
        assert_eq!(refused, entry("STREAM.PURGE (refused)", "jetstream/EVENTS"));
        for (subject, response) in [
            ("$JS.API.STREAM.INFO.EVENTS", json!({})),
            ("$JS.API.STREAM.CREATED.X", json!({})),
            ("$JS.API.STREAM.PURGE.OBJ_SNAPSHOTS", json!({})),
            (
                "$JS.API.CONSUMER.CREATE.EVENTS.x",
                json!({ "config": { "name": "x" } }),
            ),
        ] {
            assert_eq!(noted(subject, response), None, "{subject}");
        }
        let made = json!({ "config": { "durable_name": "spy" } });
        let made = noted("$JS.API.CONSUMER.CREATE.EVENTS.spy", made);
        assert_eq!(made, entry("CONSUMER.CREATE", "jetstream/EVENTS.spy"));
        assert!(super::noted(b"no JSON").is_none());
    }
}
