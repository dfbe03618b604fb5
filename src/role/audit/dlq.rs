//! `dlq.redrive` and `dlq.purge`. Which letters there are the caller knows, who reads them off the stream: a role sees no
//! stream.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::job::{Job, Kind};
use super::queue;
use super::replay::{named, told, write};
use crate::event::{DeadLetterPurged, Id, Key, ReplayMode, Text};
use crate::role::{Command, HandlerError, Rejection};
use crate::store::Tx;

/// Letters in one purge at the most: each becomes an event and a row of the outbox.
const PURGE_MAX: usize = 1000;

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Redrive {
    queue: String,
    /// Sequences of the events; absent means every letter of the queue.
    seqs: Option<Vec<u64>>,
    name: Option<Key>,
    rate: Option<u32>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

pub(super) fn redrive(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let redrive: Redrive = command.parse()?;
    let queue = queue(&redrive.queue)?;
    if redrive.rate == Some(0) {
        return Err(Rejection::field("rate", "is 0; leave it out for no limit").into());
    }
    let mut seqs = redrive.seqs.unwrap_or_default();
    seqs.sort_unstable();
    seqs.dedup();
    let job = Job {
        name: named(tx, redrive.name, "redrive")?,
        queue: queue.to_owned(),
        kind: Kind::Redrive,
        mode: ReplayMode::Fill,
        from_seq: seqs.first().copied(),
        to_seq: seqs.last().copied(),
        seqs,
        pattern: None,
        entity: None,
        offered: Vec::new(),
        allow_external: true,
        rate: redrive.rate,
        description: None,
        started_by: command.actor().clone(),
        started_at: tx.now(),
        cancelled_by: None,
    };
    write(tx, &job, "STARTING")?;
    tx.reply(&told(&job, "STARTING")).map_err(Into::into)
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Purge {
    queue: String,
    letters: Vec<Named>,
    reason: String,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// A letter, as `dlq list` shows it.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Named {
    dead_letter_id: Id,
    event_id: String,
    /// The letter's own subject in `DLQ`.
    letter_subject: String,
}

pub(super) fn purge(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let purge: Purge = command.parse()?;
    let queue = queue(&purge.queue)?;
    if purge.reason.trim().is_empty() {
        return Err(Rejection::field("reason", "is empty; say why they are discarded").into());
    }
    if purge.letters.len() > PURGE_MAX {
        let message = format!("has more than {PURGE_MAX} letters; purge them in parts");
        return Err(Rejection::field("letters", message).into());
    }
    let prefix = format!("dlq.{queue}.");
    for (n, letter) in purge.letters.iter().enumerate() {
        if !letter.letter_subject.starts_with(&prefix) {
            let field = format!("letters[{n}].letterSubject");
            return Err(Rejection::field(field, format!("is no letter of {queue}")).into());
        }
        tx.retire_letter(&letter.letter_subject, "purged")?;
        tx.emit(&DeadLetterPurged {
            dead_letter_id: letter.dead_letter_id,
            queue: Key::new(queue).map_err(|error| HandlerError::Transient(error.to_string()))?,
            original_event_id: Text::lossy(&letter.event_id),
            purged_by: command.actor().clone(),
            reason: Text::lossy(&purge.reason),
            purged_at: tx.now(),
        })?;
    }
    tx.reply(&Purged {
        queue: queue.to_owned(),
        purged: purge.letters.len(),
    })
    .map_err(Into::into)
}

/// How many letters of a queue are gone.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "LettersPurged")]
pub(super) struct Purged {
    queue: String,
    purged: usize,
}
