//! An event's whole story: where it came from, who gets it by the rules, what became of it in each queue, what it led to
//! (DESIGN 10, explain).
//!
//! The archive, the rules, `DLQ` and the broker's cursors are read here; what a role did, the role or its database says
//! ([`super::inquiry`]). Where nobody can say it, the story says that it is unknown.

use serde::Serialize;
use serde_json::Value;

use super::archive;
use super::engine::Settings;
use super::inquiry::{Error, Inquiry, Source};
use super::letter::{self, Letter};
use super::status::{Ended, Record, Requested, Waits, Wanted};
use crate::bus::jetstream::queue_info::QueueInfo;
use crate::bus::{self, Bus, EVENTS, Stored};
use crate::event::{DeadReason, Event, Id, Subject, Ts, decode, to_value};
use crate::role::RoleName;
use crate::routing::{Routes, Target, WhenOlder, filter};
use crate::store::Attempt;

/// Causes of causes that are looked up at the most.
const CAUSES_MAX: usize = 16;
/// Later events that are looked through for those that this one led to.
const LED_TO_WITHIN: u64 = 10_000;
/// Messages in one read.
const PAGE: usize = 1000;

/// The story. Field names are those that `roadcall explain --json` prints.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the fields that need words have them
pub struct Story {
    pub event_id: Id,
    pub seq: u64,
    /// Identity of the archive that `seq` belongs to.
    pub stream: i64,
    pub subject: String,
    pub received_at: Ts,
    /// Now less the event's own time.
    pub age_seconds: Option<u64>,
    /// The envelope, where it can be read.
    pub event: Option<Value>,
    /// Why it can't.
    pub invalid: Option<String>,
    /// `Roadcall-Seq`: role, store epoch and number of who published it; none for a foreign event.
    pub producer: Option<String>,
    /// `replay` or `redrive` for what was emitted while handling one.
    pub delivery: Option<String>,
    pub cause: Option<Cause>,
    /// Events whose cause this one is, as far as `led_to_searched_to`.
    pub led_to: Vec<Link>,
    pub led_to_searched_to: u64,
    /// What brought it from another site, in the server's words.
    pub sync_hops: Vec<String>,
    pub queues: Vec<QueueStory>,
    pub letters: Vec<LetterLine>,
}

/// An event of the archive, in short.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the names say it
pub struct Link {
    pub event_id: String,
    pub seq: u64,
    pub detail_type: String,
    pub entity: String,
    pub received_at: Ts,
}

/// What led to an event, and what led to that.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    /// An event's id, or a command's.
    pub id: Id,
    /// The event; `None` for a command, and for an event that the archive does not have.
    pub event: Option<Link>,
    /// What led to it.
    pub cause: Option<Box<Self>>,
}

/// The event in one queue.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the fields that need words have them
pub struct QueueStory {
    pub queue: String,
    pub role: RoleName,
    /// The queue's subject filter that lets it through.
    pub filter: String,
    /// The rule that brings it here, or would by source and detail-type; none where only the filter is wide enough.
    pub rule: Option<String>,
    /// Whether the residual predicate, what the filter can't say of the rules, lets it through.
    pub residual: bool,
    pub max_event_age_seconds: Option<u64>,
    /// What the engine would do with it now: `handle`, `late`, `escalate`, `expire`, `filter`, or `giveUp` what can't be
    /// read.
    pub decision: &'static str,
    /// `done`, `expired`, `dead` or `filtered`; `waiting` in the role; `inHand` or `pending` with the broker;
    /// `unaccounted` where the queue is past it and the role has no record; `unknown` where the role can't be asked.
    pub outcome: String,
    pub ended: Option<Ended>,
    pub waiting: Option<Waits>,
    /// Failed tries; not kept for what was done in the end.
    pub attempts: Vec<Attempt>,
    /// Calls to the outside without a handled result; `None` where the role can't be asked.
    pub effects: Option<Vec<Requested>>,
    /// Who said so.
    pub from: Option<Source>,
    /// Why it is not known.
    pub note: Option<String>,
}

/// A letter about the event.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the fields that need words have them
pub struct LetterLine {
    pub queue: String,
    pub seq: u64,
    /// `open`, or what became of the letter: `redriven`, `purged`.
    pub state: String,
    pub reason: Option<DeadReason>,
    pub dead_at: Option<String>,
    pub deliveries: Option<u32>,
    #[serde(skip)]
    attempts: Vec<Attempt>,
}

/// Tells the story of the event with this id; `None` when the archive has no such event.
///
/// # Errors
/// The broker failed, or whoever asks may not ask the roles.
pub async fn tell(
    inquiry: &Inquiry,
    routes: &Routes,
    roles: &[RoleName],
    id: Id,
    now: Ts,
) -> Result<Option<Story>, Error> {
    let bus = &inquiry.bus;
    let stream = bus.stream(EVENTS).await?.identity;
    let Some(found) = archive::find(bus, id).await? else {
        return Ok(None);
    };
    let Some(stored) = archive::at(bus, found.seq).await? else {
        return Ok(None);
    };
    let decoded = decoded(&stored);
    let event = decoded.as_ref().ok();
    let seen = Seen {
        stored: &stored,
        stream: stream.0,
        event,
        now,
    };
    let letters = seen.letters(inquiry).await?;
    let mut queues = Vec::new();
    for role in roles {
        queues.extend(seen.in_queue(inquiry, routes, *role, &letters).await?);
    }
    let header = |name: &str| stored.headers.get(name).map(str::to_owned);
    let (led_to, led_to_searched_to) = led_to(bus, id, stored.seq).await?;
    let cause = event.and_then(|event| event.cause);
    Ok(Some(Story {
        event_id: id,
        seq: stored.seq,
        stream: stream.0,
        subject: stored.subject.clone(),
        received_at: Ts::from_ms(stored.received_at_ms),
        age_seconds: event.map(|event| seconds(now.ms() - event.time.ms())),
        event: event.map(to_value),
        invalid: decoded.as_ref().err().map(ToString::to_string),
        producer: header("Roadcall-Seq"),
        delivery: header("Roadcall-Delivery"),
        cause: causes(bus, cause, stored.seq).await?,
        led_to,
        led_to_searched_to,
        sync_hops: header("Nats-Stream-Source").into_iter().collect(),
        queues,
        letters,
    }))
}

/// The event as the archive has it.
struct Seen<'s> {
    stored: &'s Stored,
    stream: i64,
    event: Option<&'s Event>,
    now: Ts,
}

impl Seen<'_> {
    async fn letters(&self, inquiry: &Inquiry) -> Result<Vec<LetterLine>, bus::Error> {
        let about = |letter: &Letter| match self.event {
            Some(event) => letter.event_id == event.id.to_string(),
            None => letter.stream == self.stream && letter.subject == self.stored.subject,
        };
        let seq = self.stored.seq;
        let found = letter::of_sequence(&inquiry.bus, seq).await?;
        let lines = found
            .into_iter()
            .filter_map(|(queue, letter)| match letter {
                Ok(letter) => about(&letter).then(|| LetterLine {
                    queue,
                    seq,
                    state: "open".to_owned(),
                    reason: Some(letter.reason),
                    dead_at: Some(letter.dead_at),
                    deliveries: Some(letter.deliveries),
                    attempts: letter.attempts,
                }),
                Err(state) => Some(LetterLine {
                    queue,
                    seq,
                    state,
                    reason: None,
                    dead_at: None,
                    deliveries: None,
                    attempts: Vec::new(),
                }),
            });
        Ok(lines.collect())
    }

    /// The event in the queue of `role`; `None` where no filter of it lets the event through.
    async fn in_queue(
        &self,
        inquiry: &Inquiry,
        routes: &Routes,
        role: RoleName,
        letters: &[LetterLine],
    ) -> Result<Option<QueueStory>, Error> {
        let Some(queue) = role.queue() else {
            return Ok(None);
        };
        let passes = |filter: &String| filter::matches(filter, &self.stored.subject);
        let Some(filter) = routes.filters(queue).into_iter().find(passes) else {
            return Ok(None);
        };
        let (target, admitting) = self.targets(routes, queue);
        // The broker first: what it has let go of, the role has recorded by the time that it is asked.
        let info = match inquiry.bus.queue_info(queue).await {
            Ok(info) => Some(info),
            Err(bus::Error::Missing(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let wanted = match self.event {
            Some(event) => Wanted::Event { event_id: event.id },
            None => Wanted::Place {
                stream: self.stream,
                seq: self.stored.seq,
            },
        };
        let (record, from, note) = match inquiry.record(role, wanted).await? {
            Ok((record, source)) => (Some(record), Some(source), None),
            Err(why) => (None, None, Some(why)),
        };
        let letter = letters
            .iter()
            .find(|letter| letter.queue == queue && letter.state == "open");
        let outcome = self.outcome(info.as_ref(), record.as_ref(), letter);
        let tried = match &record {
            Some(Record {
                waiting: Some(waits),
                ..
            }) => waits.attempts.clone(),
            _ => letter.map_or_else(Vec::new, |letter| letter.attempts.clone()),
        };
        Ok(Some(QueueStory {
            queue: queue.to_owned(),
            role,
            filter,
            rule: target.or(admitting).map(|target| target.rule.clone()),
            residual: target.is_some(),
            max_event_age_seconds: target
                .and_then(|target| target.max_event_age)
                .map(|age| age.as_secs()),
            decision: self.decision(target),
            outcome,
            attempts: tried,
            effects: record.as_ref().map(|record| record.effects.clone()),
            ended: record.as_ref().and_then(|record| record.ended.clone()),
            waiting: record.and_then(|record| record.waiting),
            from,
            note,
        }))
    }

    /// The rule that brings the event to `queue`, and the first one that might have, by source and detail-type.
    fn targets<'r>(
        &self,
        routes: &'r Routes,
        queue: &str,
    ) -> (Option<&'r Target>, Option<&'r Target>) {
        let Ok(subject) = self.stored.subject.parse::<Subject>() else {
            return (None, None);
        };
        let mut admitting = routes.admitting(queue, subject.source, &subject.detail_type);
        let first = admitting.next().map(|(_, target)| target);
        match self.event {
            Some(event) => (routes.decide(queue, event), first),
            // What can't be read is given up before any predicate looks at it.
            None => (first, first),
        }
    }

    /// As the engine judges a live delivery (`engine::judge`).
    fn decision(&self, target: Option<&Target>) -> &'static str {
        let Some(event) = self.event else {
            return "giveUp";
        };
        let Some(target) = target else {
            return "filter";
        };
        let Some(max_age) = target.max_event_age else {
            return "handle";
        };
        let older = |ms: i64, than: std::time::Duration| {
            u128::from(ms.max(0).unsigned_abs()) > than.as_millis()
        };
        let old = older(self.now.ms() - event.time.ms(), max_age);
        let waited_ms = self.now.ms() - self.stored.received_at_ms;
        match target.when_older {
            WhenOlder::Drop if old || older(waited_ms, Settings::default().drop_after) => "expire",
            WhenOlder::Late if old => "late",
            WhenOlder::Escalate if old => "escalate",
            _ => "handle",
        }
    }

    fn outcome(
        &self,
        info: Option<&QueueInfo>,
        record: Option<&Record>,
        letter: Option<&LetterLine>,
    ) -> String {
        let outcome = match (record, letter) {
            (
                Some(Record {
                    ended: Some(ended), ..
                }),
                _,
            ) => return ended.outcome.clone(),
            (
                Some(Record {
                    waiting: Some(_), ..
                }),
                _,
            ) => "waiting",
            (None, Some(_)) => "dead",
            (record, _) => match info.map(|info| &info.state) {
                Some(state) if self.stored.seq > state.delivered_seq => "pending",
                Some(state) if self.stored.seq > state.ack_floor_seq && state.ack_pending > 0 => {
                    "inHand"
                }
                Some(_) if record.is_some() => "unaccounted",
                _ => "unknown",
            },
        };
        outcome.to_owned()
    }
}

fn decoded(stored: &Stored) -> Result<Event, crate::event::DecodeError> {
    let content_type = stored.headers.get("Content-Type");
    decode(&stored.subject, content_type, &stored.body)
}

fn link(stored: &Stored) -> Link {
    let tokens: Vec<&str> = stored.subject.split('.').collect();
    let token = |at: usize| tokens.get(at).copied().unwrap_or_default().to_owned();
    let id = stored.headers.get("Nats-Msg-Id").unwrap_or_default();
    Link {
        event_id: id.to_owned(),
        seq: stored.seq,
        detail_type: token(3),
        entity: token(4),
        received_at: Ts::from_ms(stored.received_at_ms),
    }
}

/// Climbs from cause to cause. Each was in the archive before what it led to.
async fn causes<B: Bus>(
    bus: &B,
    mut cause: Option<Id>,
    mut before: u64,
) -> Result<Option<Cause>, bus::Error> {
    let mut found: Vec<Cause> = Vec::new();
    while let Some(id) = cause
        && found.len() < CAUSES_MAX
    {
        let stored = match archive::find_before(bus, id, before).await? {
            Some(stored) => archive::at(bus, stored.seq).await?,
            None => None,
        };
        cause = stored
            .as_ref()
            .and_then(|stored| decoded(stored).ok()?.cause);
        before = stored.as_ref().map_or(before, |stored| stored.seq);
        found.push(Cause {
            id,
            event: stored.as_ref().map(link),
            cause: None,
        });
    }
    let onto = |above: Option<Cause>, cause: Cause| {
        Some(Cause {
            cause: above.map(Box::new),
            ..cause
        })
    };
    Ok(found.into_iter().rev().fold(None, onto))
}

/// The events among the next [`LED_TO_WITHIN`] whose cause is `id`, and how far was looked.
async fn led_to<B: Bus>(bus: &B, id: Id, seq: u64) -> Result<(Vec<Link>, u64), bus::Error> {
    let text = id.to_string();
    let mut links = Vec::new();
    let mut to = seq;
    while to < seq + LED_TO_WITHIN {
        let page = bus.read(EVENTS, "roadcall.>", to + 1, PAGE, false).await?;
        let Some(last) = page.last() else { break };
        to = last.seq;
        // Most are about something else, which their bytes tell more quickly than a decoder.
        let names = |stored: &&Stored| {
            stored
                .body
                .windows(text.len())
                .any(|at| at == text.as_bytes())
        };
        for stored in page.iter().filter(names) {
            if decoded(stored).is_ok_and(|event| event.cause == Some(id)) {
                links.push(link(stored));
            }
        }
    }
    Ok((links, to))
}

fn seconds(ms: i64) -> u64 {
    ms.max(0).unsigned_abs() / 1000
}
