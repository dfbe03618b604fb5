//! Dead letters: what stream `DLQ` holds for an event that a queue gave up (DESIGN 6 and 7).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::bus::{self, Bus, DLQ};
use crate::event::{DeadReason, Event, Id, Site, best_effort_id, ids};
use crate::store::Attempt;

/// Letters in one read.
const PAGE: usize = 1000;

/// A letter's body. Field names are those that `roadcall dlq list|show --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Letter {
    /// UUIDv5-like id of (site, queue, stream identity, sequence): a letter that dies again keeps it.
    pub dead_letter_id: Id,
    /// The queue that gave the event up.
    pub queue: String,
    /// Stream sequence of the event in `EVENTS`.
    pub seq: u64,
    /// Identity of the stream that `seq` belongs to.
    pub stream: i64,
    /// How often it was tried.
    pub deliveries: u32,
    /// The event's id, as far as it could be read.
    pub event_id: String,
    /// The event's source, as far as it could be read.
    pub source: String,
    /// The event's detail-type, as far as it could be read.
    pub detail_type: String,
    /// The entity key from the subject.
    pub entity: String,
    /// Subject as delivered.
    pub subject: String,
    /// Headers as delivered.
    pub headers: Map<String, Value>,
    /// The body as delivered, where it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The body as delivered in hexadecimal, where it is not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_hex: Option<String>,
    /// Each failed try.
    pub attempts: Vec<Attempt>,
    /// Why it was given up.
    pub reason: DeadReason,
    /// When this queue first had it, RFC 3339.
    pub first_seen_at: String,
    /// When it was given up, RFC 3339.
    pub dead_at: String,
    /// Version of the program whose handler gave it up.
    pub handler_version: String,
    /// Set where another event died at the same sequence before a rollback of the broker; it keeps the two apart.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sequence_reused: bool,
}

/// What a letter is made from.
#[derive(Debug)]
pub struct Dead<'a> {
    /// Site whose queue gave it up.
    pub site: &'a Site,
    /// That queue.
    pub queue: &'a str,
    /// Identity of the stream.
    pub stream_id: i64,
    /// Sequence there.
    pub stream_seq: u64,
    /// The event, where it could be decoded.
    pub event: Option<&'a Event>,
    /// Subject as delivered.
    pub subject: &'a str,
    /// Headers as delivered.
    pub headers: &'a [(String, String)],
    /// Body as delivered.
    pub body: &'a [u8],
    /// Each failed try, the last one included.
    pub attempts: Vec<Attempt>,
    /// Why it was given up.
    pub reason: DeadReason,
    /// When this queue first had it, RFC 3339.
    pub first_seen_at: String,
    /// When it was given up, RFC 3339.
    pub dead_at: String,
    /// Whether another event died at the same sequence: its letter must stay.
    pub sequence_reused: bool,
}

/// The id of the letter for one sequence of one queue. `twin` is empty, or the event's id where the sequence was given
/// out again after a rollback and another event's letter already has the plain id.
#[must_use]
fn dead_letter_id(site: &Site, queue: &str, stream_id: i64, stream_seq: u64, twin: &str) -> Id {
    ids::derive_v8(
        0,
        &[
            b"dead-letter",
            site.as_str().as_bytes(),
            queue.as_bytes(),
            &stream_id.to_be_bytes(),
            &stream_seq.to_be_bytes(),
            twin.as_bytes(),
        ],
    )
}

impl Letter {
    /// Writes the letter for an event that was given up.
    #[must_use]
    pub fn of(dead: Dead<'_>) -> Self {
        let (event_id, source, detail_type) = match dead.event {
            Some(event) => (
                event.id.to_string(),
                event.source.to_string(),
                event.detail_type.clone(),
            ),
            None => best_effort_id(dead.body),
        };
        let text = std::str::from_utf8(dead.body).ok();
        let twin = if dead.sequence_reused {
            event_id.as_str()
        } else {
            ""
        };
        Self {
            dead_letter_id: dead_letter_id(
                dead.site,
                dead.queue,
                dead.stream_id,
                dead.stream_seq,
                twin,
            ),
            queue: dead.queue.to_owned(),
            seq: dead.stream_seq,
            stream: dead.stream_id,
            deliveries: u32::try_from(dead.attempts.len())
                .unwrap_or(u32::MAX)
                .max(1),
            event_id,
            source,
            detail_type,
            entity: entity_token(dead.subject).to_owned(),
            subject: dead.subject.to_owned(),
            headers: dead
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), Value::from(value.clone())))
                .collect(),
            payload: text.map(str::to_owned),
            payload_hex: text.is_none().then(|| hex(dead.body)),
            attempts: dead.attempts,
            reason: dead.reason,
            first_seen_at: dead.first_seen_at,
            dead_at: dead.dead_at,
            handler_version: env!("CARGO_PKG_VERSION").to_owned(),
            sequence_reused: dead.sequence_reused,
        }
    }

    /// The event as far as it can be read, whatever it was written in.
    #[must_use]
    pub fn event(&self) -> Option<Value> {
        let content_type = self.headers.get("Content-Type").and_then(Value::as_str);
        let body = match (&self.payload, &self.payload_hex) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(digits)) => unhex(digits)?,
            (None, None) => return None,
        };
        let read = crate::event::parse(content_type, &body);
        read.ok().map(Value::Object)
    }

    /// Where the letter goes: one subject per queue and sequence, so a later letter replaces an earlier one.
    #[must_use]
    pub fn subject(&self) -> String {
        if self.sequence_reused {
            // What a foreign body claims as its id may be no token of a subject.
            let own = Id::parse(&self.event_id).unwrap_or(self.dead_letter_id);
            return format!("dlq.{}.{}.{own}", self.queue, self.seq);
        }
        format!("dlq.{}.{}", self.queue, self.seq)
    }

    /// `Nats-Msg-Id` of the letter (DESIGN 6, DLQ).
    #[must_use]
    pub fn msg_id(&self) -> String {
        format!(
            "{}:{}:{}:{}",
            self.queue, self.stream, self.seq, self.deliveries
        )
    }
}

/// The letters of `queue` that are neither redriven nor purged, oldest first.
///
/// # Errors
/// Any bus error.
pub async fn of_queue<B: Bus>(bus: &B, queue: &str) -> Result<Vec<Letter>, bus::Error> {
    let mut letters = Vec::new();
    let mut from = 1;
    loop {
        let filter = format!("dlq.{queue}.>");
        let page = bus.read(DLQ, &filter, from, PAGE, false).await?;
        let Some(last) = page.last() else {
            return Ok(letters);
        };
        from = last.seq + 1;
        // An empty body says that it is redriven or purged; anything else that is no letter is not ours to judge.
        letters.extend(
            page.iter()
                .filter_map(|stored| serde_json::from_slice::<Letter>(&stored.body).ok()),
        );
    }
}

/// What stream `DLQ` has about the event at `seq`, of every queue: the queue and its letter, or without one what became
/// of it (`redriven`, `purged`).
///
/// # Errors
/// Any bus error.
pub async fn of_sequence<B: Bus>(
    bus: &B,
    seq: u64,
) -> Result<Vec<(String, Result<Letter, String>)>, bus::Error> {
    let mut found = Vec::new();
    // The second form is that of a sequence that was given out again after a rollback.
    for filter in [format!("dlq.*.{seq}"), format!("dlq.*.{seq}.*")] {
        for stored in bus.read(DLQ, &filter, 1, PAGE, false).await? {
            let queue = stored.subject.split('.').nth(1).unwrap_or_default();
            let left = stored.headers.get("Roadcall-Letter").unwrap_or("purged");
            let letter =
                serde_json::from_slice::<Letter>(&stored.body).map_err(|_| left.to_owned());
            found.push((queue.to_owned(), letter));
        }
    }
    Ok(found)
}

/// The last token of a subject: the entity key, also where the rest of it is wrong.
#[must_use]
pub fn entity_token(subject: &str) -> &str {
    subject.rsplit('.').next().unwrap_or(subject)
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok())
        .collect()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
