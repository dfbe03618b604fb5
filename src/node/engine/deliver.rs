//! From a delivery to its outcome: the failure table of the engine.
//!
//! | outcome | in the step's commit | then |
//! |---|---|---|
//! | ok | inbox `done` + state + outbox | ack; successors of the key |
//! | already in the inbox or in `waiting` | nothing | ack, count a duplicate |
//! | Transient, tries left | savepoint back; `waiting` row with the try and its error | ack; again when due |
//! | Transient, last try; Permanent | savepoint back; inbox `dead` + letter in the outbox | ack; successors |
//! | NotYet | savepoint back; `waiting` row | ack; after the key's next commit |
//! | behind a waiting one of its key | `waiting` row | ack; after its predecessor |
//! | too old (`drop`), residual says no | inbox `expired`, `filtered` | ack |
//!
//! Every delivery is acked once the step has committed: from then on it lives here.

use std::sync::Arc;

use super::judge::Verdict;
use super::{Engine, Incoming, StepOutput, millis};
use crate::event::{DeadReason, DecodeError, Event, Id, Known, Producer, Ts, ids};
use crate::node::letter::entity_token;
use crate::node::origin;
use crate::role::{HandlerError, Input, Mode, Received};
use crate::store::{
    self, Attempt, Class, Context, InboxRow, Origin, Outcome, Reach, WaitingRow, WaitingState,
};

/// When a key is asked for again.
const KEY_RETRY_MS: i64 = 2_000;

impl Engine {
    pub(super) fn deliver(
        &mut self,
        incoming: &Incoming,
        now: Ts,
        output: &mut StepOutput,
    ) -> Result<(), store::Error> {
        self.counts.received += 1;
        output.acks.push(incoming.delivery.token.clone());
        let mut row = arrival(incoming, now);
        if self.seen(row.event_id)? {
            self.counts.duplicates += 1;
            return Ok(());
        }
        if self.ordered
            && self.waits
            && incoming.decoded.is_ok()
            && self.store.key_blocked(&row.entity, None)?
        {
            row.state = WaitingState::Behind;
            self.counts.parked += 1;
            return self.store.add_waiting(&row);
        }
        self.attempt(row, &incoming.decoded, incoming.mode, now, output)
    }

    /// Whether the event has an outcome or waits already.
    pub(super) fn seen(&self, event_id: Id) -> Result<bool, store::Error> {
        Ok(self.store.inbox_outcome(event_id)?.is_some()
            || (self.waits && self.store.waits(event_id)?))
    }

    /// Runs waiting rows whose time has come, and those that this releases.
    pub(super) fn run_due_waiting(
        &mut self,
        now: Ts,
        output: &mut StepOutput,
    ) -> Result<(), store::Error> {
        if !self.waits {
            return Ok(());
        }
        // Bounded, so that a long queue behind one key can't keep a step from ever committing.
        let mut left = self.settings.batch_max;
        while left > 0 {
            let rows = self.store.due_waiting(now.ms(), left)?;
            // Suspects run alone, never inside a step with others (see `recover`).
            let rows: Vec<_> = rows
                .into_iter()
                .filter(|row| row.state != WaitingState::InHand)
                .collect();
            if rows.is_empty() {
                break;
            }
            left = left.saturating_sub(rows.len());
            for row in rows {
                self.attempt_again(row, now, output)?;
            }
        }
        Ok(())
    }

    /// Tries a waiting row once more.
    pub(super) fn attempt_again(
        &mut self,
        row: WaitingRow,
        now: Ts,
        output: &mut StepOutput,
    ) -> Result<(), store::Error> {
        let content_type = row
            .headers
            .iter()
            .find(|(name, _)| name == "Content-Type")
            .map(|(_, value)| value.as_str());
        let decoded = crate::event::decode(&row.subject, content_type, &row.body).map(Arc::new);
        let mode = mode_of(&row.headers);
        self.attempt(row, &decoded, mode, now, output)
    }

    /// Brings one event as far as it gets now. `row.id` is 0 for one that does not wait yet.
    pub(super) fn attempt(
        &mut self,
        row: WaitingRow,
        decoded: &Result<Arc<Event>, DecodeError>,
        mode: Mode,
        now: Ts,
        output: &mut StepOutput,
    ) -> Result<(), store::Error> {
        let event = match decoded {
            Ok(event) => event,
            Err(error) => {
                return self.bury(row, None, error.reason(), error.to_string(), now, output);
            }
        };
        let own = self.store.options().site.clone();
        if let Some(text) = origin::doubt(own.as_str(), &row.subject, &row.headers) {
            return self.bury(
                row,
                Some(event),
                DeadReason::InvalidEvent,
                text,
                now,
                output,
            );
        }
        let first = row.attempts == 0 && row.state != WaitingState::NotYet;
        let (late, too_old) = match self.judge(event, mode, row.received_at_ms, now, first) {
            Verdict::Handle { late, too_old } => (late, too_old),
            Verdict::Filtered => {
                self.counts.filtered += 1;
                return self.leave(&row, Outcome::Filtered, now);
            }
            Verdict::Expired => {
                self.counts.expired += 1;
                tracing::info!(event_id = %event.id, role = %self.role.name(), queue = self.queue, seq = row.stream_seq, detail_type = event.detail_type, "expired");
                return self.leave(&row, Outcome::Expired, now);
            }
        };
        let context = self.context_of(event, &row, mode, now);
        let received = Received {
            event: Arc::clone(event),
            mode,
            too_old,
            producer: Producer::of(&row.headers),
        };
        if let (Some(Known::UserDataDeleted(erased)), Some(keys)) =
            (event.known(), self.store.keys())
        {
            keys.forget(&erased.user_id.to_string());
        }
        let result = self.run(context, &Input::Event(Box::new(received)), |_| Ok(()))?;
        if !matches!(result, Ok(_) | Err(HandlerError::NotYet(_))) {
            self.failed_by_rule(event);
        }
        match result {
            Ok(done) => {
                self.counts.handled += 1;
                self.counts.late += u64::from(late);
                self.collect(done, output);
                self.leave(&row, Outcome::Done, now)
            }
            Err(HandlerError::Permanent(reason, text)) => {
                self.bury(row, Some(event), reason, text, now, output)
            }
            Err(HandlerError::NotYet(text)) => {
                self.wait_for_predecessor(row, event, text, now, output)
            }
            // A refusal makes sense only as a reply; for an event it is a handler that can never succeed.
            Err(HandlerError::Rejected(rejection)) => {
                let text = format!("{}: {}", rejection.code, rejection.message);
                self.bury(
                    row,
                    Some(event),
                    DeadReason::HandlerFailed,
                    text,
                    now,
                    output,
                )
            }
            Err(HandlerError::Transient(text)) => self.try_later(row, event, text, now, output),
            Err(HandlerError::Store(error))
                if matches!(error.class, Class::NoKey | Class::UnknownKey) =>
            {
                self.wait_for_key(row, event, &error, now, output)
            }
            Err(HandlerError::Store(error)) => {
                self.try_later(row, event, error.to_string(), now, output)
            }
        }
    }

    fn context_of(&self, event: &Event, row: &WaitingRow, mode: Mode, now: Ts) -> Context {
        let traceparent = row
            .headers
            .iter()
            .find(|(name, _)| name == "traceparent")
            .map(|(_, value)| value.clone());
        let site = &self.store.options().site;
        let home = event.home.clone().unwrap_or_else(|| event.site.clone());
        Context {
            now,
            input_id: event.id,
            input_time: event.time,
            first: false,
            origin: Origin {
                cause: Some(event.id),
                correlation: event.correlation,
                home: (home != *site).then_some(home),
                traceparent,
                asked_by: None,
            },
            delivery: match mode {
                Mode::Live => None,
                Mode::Replay => Some("replay"),
                Mode::Redrive => Some("redrive"),
            },
            reach: match mode {
                Mode::Replay if !row.headers.iter().any(|(name, _)| name == WAITING_EXTERNAL) => {
                    Reach::NoExternal
                }
                _ => Reach::Full,
            },
            trace: None,
        }
    }

    /// Records an outcome, takes the row out of `waiting`, and lets those behind it go on.
    pub(super) fn leave(
        &mut self,
        row: &WaitingRow,
        outcome: Outcome,
        now: Ts,
    ) -> Result<(), store::Error> {
        self.store.record(&InboxRow {
            event_id: row.event_id,
            outcome,
            stream_id: row.stream_id,
            stream_seq: row.stream_seq,
            at_ms: now.ms(),
        })?;
        if row.id != 0 {
            self.store.remove_waiting(row.id)?;
        }
        let letter = row.headers.iter().find(|(name, _)| name == WAITING_LETTER);
        if let Some((_, subject)) = letter.filter(|_| outcome == Outcome::Done) {
            let msg_id = format!("{subject}:redriven:{}", now.ms());
            self.store
                .retire_letter(&msg_id, subject, "redriven", now.ms())?;
        }
        if !self.waits {
            return Ok(());
        }
        if outcome == Outcome::Done {
            self.store.poke_not_yet(&row.entity, now.ms())?;
        }
        self.release(&row.entity, now)
    }

    /// Makes the first row behind of a key due, if nothing blocks it any more.
    pub(super) fn release(&mut self, entity: &str, now: Ts) -> Result<(), store::Error> {
        if let Some(mut next) = self.store.next_behind(entity)? {
            next.due_at_ms = Some(now.ms());
            self.store.update_waiting(&next)?;
        }
        Ok(())
    }

    fn wait_for_predecessor(
        &mut self,
        mut row: WaitingRow,
        event: &Event,
        text: String,
        now: Ts,
        output: &mut StepOutput,
    ) -> Result<(), store::Error> {
        let until_ms = *row
            .not_yet_until_ms
            .get_or_insert(now.ms() + millis(self.settings.not_yet_max));
        if now.ms() >= until_ms {
            return self.try_later(row, event, text, now, output);
        }
        let held_others_up = row.id != 0 && row.state != WaitingState::NotYet;
        row.state = WaitingState::NotYet;
        row.running = false;
        row.due_at_ms = Some(until_ms);
        self.put(&row)?;
        if held_others_up {
            self.release(&row.entity, now)
        } else {
            Ok(())
        }
    }

    /// Who keeps the keys of personal data does not answer: that is no fault of the event, and it spends no try. Nor does a key
    /// that nobody has yet, for as long as a predecessor is waited for; then it is one that never was.
    fn wait_for_key(
        &mut self,
        mut row: WaitingRow,
        event: &Event,
        error: &store::Error,
        now: Ts,
        output: &mut StepOutput,
    ) -> Result<(), store::Error> {
        if error.class == Class::UnknownKey {
            let until_ms = *row
                .not_yet_until_ms
                .get_or_insert(now.ms() + millis(self.settings.not_yet_max));
            if now.ms() >= until_ms {
                return self.try_later(row, event, error.to_string(), now, output);
            }
        }
        tracing::warn!(event_id = %event.id, role = %self.role.name(), queue = self.queue, seq = row.stream_seq, %error, "waits for a key");
        row.state = WaitingState::Retry;
        row.running = false;
        row.due_at_ms = Some(now.ms() + KEY_RETRY_MS);
        self.put(&row)
    }

    fn try_later(
        &mut self,
        mut row: WaitingRow,
        event: &Event,
        text: String,
        now: Ts,
        output: &mut StepOutput,
    ) -> Result<(), store::Error> {
        self.counts.failed += 1;
        if row.attempts + 1 >= self.settings.max_deliver {
            return self.bury(
                row,
                Some(event),
                DeadReason::HandlerFailed,
                text,
                now,
                output,
            );
        }
        tracing::warn!(event_id = %event.id, role = %self.role.name(), queue = self.queue, seq = row.stream_seq, attempt = row.attempts + 1, error = text, "handler failed, will be tried again");
        row.attempts += 1;
        row.errors.push(Attempt {
            at: now.to_string(),
            error: text,
        });
        row.state = WaitingState::Retry;
        row.running = false;
        row.due_at_ms = Some(now.ms() + millis(self.settings.retry_delay));
        self.put(&row)
    }

    pub(super) fn put(&mut self, row: &WaitingRow) -> Result<(), store::Error> {
        self.waits = true;
        if row.id == 0 {
            self.counts.parked += 1;
            self.store.add_waiting(row)
        } else {
            self.store.update_waiting(row)
        }
    }
}

pub(super) fn defect(store: &store::Store, op: &'static str, message: String) -> store::Error {
    store::Error {
        class: Class::Defect,
        op,
        message,
        path: store.path().to_owned(),
    }
}

/// The row that a delivery would wait as.
pub(super) fn arrival(incoming: &Incoming, now: Ts) -> WaitingRow {
    let delivery = &incoming.delivery;
    let event_id = match &incoming.decoded {
        Ok(event) => event.id,
        // Whatever id the body claims can't be trusted; the place in the stream with the body names it for good.
        Err(_) => ids::derive_v8(
            delivery.received_at_ms,
            &[
                b"unreadable",
                &delivery.stream.0.to_be_bytes(),
                &delivery.seq.to_be_bytes(),
                &delivery.body,
            ],
        ),
    };
    let mut headers = delivery.headers.0.clone();
    match incoming.mode {
        Mode::Live => {}
        Mode::Replay => headers.push((WAITING_MODE.to_owned(), "replay".to_owned())),
        Mode::Redrive => headers.push((WAITING_MODE.to_owned(), "redrive".to_owned())),
    }
    WaitingRow {
        id: 0,
        event_id,
        stream_id: delivery.stream.0,
        stream_seq: delivery.seq,
        entity: entity_token(&delivery.subject).to_owned(),
        state: WaitingState::Retry,
        attempts: 0,
        starts: 0,
        deaths: 0,
        running: false,
        due_at_ms: None,
        not_yet_until_ms: None,
        first_seen_at_ms: now.ms(),
        received_at_ms: delivery.received_at_ms,
        subject: delivery.subject.clone(),
        headers,
        body: delivery.body.to_vec(),
        errors: Vec::new(),
    }
}

/// What the engine itself notes in a waiting row's headers; never on the wire.
const WAITING: &str = "Roadcall-Waiting-";
/// That it came by a replay or redrive.
const WAITING_MODE: &str = "Roadcall-Waiting-Mode";
/// That the replay may call outside.
pub(super) const WAITING_EXTERNAL: &str = "Roadcall-Waiting-External";
/// The subject of the letter that it had.
pub(super) const WAITING_LETTER: &str = "Roadcall-Waiting-Letter";

pub(super) fn of_the_wire(headers: &[(String, String)]) -> Vec<(String, String)> {
    let came = |(name, _): &&(String, String)| !name.starts_with(WAITING);
    headers.iter().filter(came).cloned().collect()
}

fn mode_of(headers: &[(String, String)]) -> Mode {
    match headers
        .iter()
        .find(|(name, _)| name == WAITING_MODE)
        .map(|(_, value)| value.as_str())
    {
        Some("replay") => Mode::Replay,
        Some("redrive") => Mode::Redrive,
        _ => Mode::Live,
    }
}
