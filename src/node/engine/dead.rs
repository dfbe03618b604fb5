//! What becomes of an event that is given up: its letter, and the event that tells of it.

use super::deliver::{defect, of_the_wire};
use super::{Engine, StepOutput};
use crate::event::{Count1, DeadLetterCreated, DeadReason, Event, Id, Key, Source, Text, Ts, ids};
use crate::node::letter::{Dead, Letter};
use crate::store::{self, Attempt, Context, Origin, Outcome, Reach, Tx, WaitingRow};

impl Engine {
    /// Gives an event up: outcome `dead`, a letter, and the event that tells of it.
    pub(super) fn bury(
        &mut self,
        mut row: WaitingRow,
        event: Option<&Event>,
        reason: DeadReason,
        text: String,
        now: Ts,
        output: &mut StepOutput,
    ) -> Result<(), store::Error> {
        self.counts.dead += 1;
        tracing::error!(event_id = %row.event_id, role = %self.role.name(), queue = self.queue, seq = row.stream_seq, reason = %reason, error = text, "given up, a letter goes to the dead letters");
        row.errors.push(Attempt {
            at: now.to_string(),
            error: text.clone(),
        });
        let letter = Letter::of(Dead {
            site: &self.store.options().site,
            queue: self.queue,
            stream_id: row.stream_id,
            stream_seq: row.stream_seq,
            event,
            subject: &row.subject,
            headers: &of_the_wire(&row.headers),
            body: &row.body,
            attempts: row.errors.clone(),
            reason,
            first_seen_at: Ts::from_ms(row.first_seen_at_ms).to_string(),
            dead_at: now.to_string(),
            sequence_reused: self.store.another_died_at(
                row.stream_id,
                row.stream_seq,
                row.event_id,
            )?,
        });
        self.trace_letter(&row, event, letter.dead_letter_id, reason);
        let body = self.letter_body(&letter)?;
        let headers = [("Content-Type".to_owned(), "application/json".to_owned())];
        self.store.append_letter(
            &letter.msg_id(),
            &letter.subject(),
            &headers,
            &body,
            false,
            now.ms(),
        )?;
        output.outbox_grew = true;
        let first_seen = Ts::from_ms(row.first_seen_at_ms);
        self.tell_of(&letter, Some(row.event_id), first_seen, &text, now, output)?;
        self.leave(&row, Outcome::Dead, now)
    }

    pub(super) fn letter_body(&self, letter: &Letter) -> Result<Vec<u8>, store::Error> {
        serde_json::to_vec(letter)
            .map_err(|error| defect(&self.store, "writing a letter", error.to_string()))
    }

    /// Emits the event that tells of a letter.
    pub(super) fn tell_of(
        &mut self,
        letter: &Letter,
        cause: Option<Id>,
        first_seen: Ts,
        text: &str,
        now: Ts,
        output: &mut StepOutput,
    ) -> Result<(), store::Error> {
        // A dead ops event makes no further event, or a failing audit role would feed on its own letters (DOMAIN 3.3).
        if letter.source == Source::Ops.to_string() {
            return Ok(());
        }
        let detail = DeadLetterCreated {
            dead_letter_id: letter.dead_letter_id,
            queue: Key::new(letter.queue.clone())
                .map_err(|error| defect(&self.store, "naming a queue", error.to_string()))?,
            original_event_id: Text::lossy(&letter.event_id),
            original_source: Text::lossy(&letter.source),
            original_detail_type: Text::lossy(&letter.detail_type),
            deliveries: Count1::new(letter.deliveries.into())
                .map_err(|error| defect(&self.store, "counting deliveries", error.to_string()))?,
            reason: letter.reason,
            error: Text::lossy(text),
            first_seen_at: first_seen,
        };
        let attempts = letter.deliveries.to_be_bytes();
        let context = Context {
            now,
            input_id: ids::derive_v8(
                now.ms(),
                &[
                    b"letter",
                    letter.dead_letter_id.uuid().as_bytes(),
                    &attempts,
                ],
            ),
            input_time: now,
            first: false,
            origin: Origin {
                cause,
                ..Origin::default()
            },
            delivery: None,
            reach: Reach::Full,
            trace: None,
        };
        let mut tx = Tx::open(&mut self.store, context)?;
        tx.emit(&detail)?;
        let done = tx.keep()?;
        self.collect(done, output);
        Ok(())
    }
}
