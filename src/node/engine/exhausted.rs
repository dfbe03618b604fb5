//! Deliveries that the server gave up because no engine ever answered them: the audit role writes their letters, the
//! role that owns the queue takes note of them at its next start (DESIGN 7, Dead).

use super::deliver::arrival;
use super::{Engine, Incoming, StepOutput};
use crate::bus::AckToken;
use crate::event::{DeadReason, Id, Ts, ids};
use crate::node::letter::Letter;
use crate::store::{self, InboxRow, Outcome};

/// An exhausted delivery, with the letter that it should have.
#[derive(Debug, Clone)]
pub struct Exhausted {
    /// The letter, of any role's queue.
    pub letter: Letter,
    /// The event, where it could be decoded.
    pub cause: Option<Id>,
    /// What happened, in a sentence.
    pub said: String,
    /// When the archive took the event.
    pub first_seen: Ts,
    /// Identity of the stream of advisories.
    pub advisory_stream: i64,
    /// The advisory's sequence there.
    pub advisory_seq: u64,
    /// For acknowledging the advisory.
    pub token: AckToken,
}

/// What a queue's letter asks of the role that owns the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing: the event's outcome is `dead`, or it waits here.
    Settled,
    /// Its event has another outcome: the letter is about deliveries whose acks were lost.
    Wrong,
    /// Its event has no outcome, as far as the letter alone can tell.
    Open,
}

impl Engine {
    /// Puts the letter of an exhausted delivery into the outbox, once per event of a queue, and tells of it.
    ///
    /// The letter only fills a gap: where the engine of the owning role made one at the same time, that one stays.
    pub(super) fn exhausted(
        &mut self,
        exhausted: &Exhausted,
        now: Ts,
        output: &mut StepOutput,
    ) -> Result<(), store::Error> {
        output.acks.push(exhausted.token.clone());
        let letter = &exhausted.letter;
        // The advisory's mark in the inbox: no event has this id.
        let mark = ids::derive_v8(
            exhausted.first_seen.ms(),
            &[
                b"advisory",
                letter.dead_letter_id.uuid().as_bytes(),
                letter.event_id.as_bytes(),
            ],
        );
        if self.store.inbox_outcome(mark)?.is_some() {
            self.counts.duplicates += 1;
            return Ok(());
        }
        tracing::error!(
            event_id = letter.event_id, queue = letter.queue, seq = letter.seq, reason = %letter.reason,
            error = exhausted.said, "no reader answered, a letter goes to the dead letters"
        );
        let body = self.letter_body(letter)?;
        let headers = [("Content-Type".to_owned(), "application/json".to_owned())];
        let msg_id = format!(
            "{}:{}:{}:advisory:{}",
            letter.queue, letter.stream, letter.seq, letter.dead_letter_id
        );
        let subject = letter.subject();
        self.store
            .append_letter(&msg_id, &subject, &headers, &body, true, now.ms())?;
        output.outbox_grew = true;
        self.tell_of(
            letter,
            exhausted.cause,
            exhausted.first_seen,
            &exhausted.said,
            now,
            output,
        )?;
        self.store.record(&InboxRow {
            event_id: mark,
            outcome: Outcome::Done,
            stream_id: exhausted.advisory_stream,
            stream_seq: exhausted.advisory_seq,
            at_ms: now.ms(),
        })
    }

    /// What a letter of this role's queue asks for. Between steps.
    ///
    /// # Errors
    /// A store error.
    pub fn standing(&self, letter: &Letter) -> Result<Standing, store::Error> {
        let Ok(event_id) = Id::parse(&letter.event_id) else {
            // An unreadable event has an id of our own making; its place says as much.
            let died = self.store.another_died_at(
                letter.stream,
                letter.seq,
                Id::from_uuid(uuid::Uuid::nil()),
            )?;
            return Ok(if died {
                Standing::Settled
            } else {
                Standing::Open
            });
        };
        Ok(match self.store.inbox_outcome(event_id)? {
            Some(Outcome::Dead) => Standing::Settled,
            Some(_) if letter.reason == DeadReason::DeliveryExhausted => Standing::Wrong,
            Some(_) => Standing::Settled,
            None if self.store.waits(event_id)? => Standing::Settled,
            None => Standing::Open,
        })
    }

    /// Takes note of what the letters of this role's queue say: `dead` are archived events that have one and no outcome
    /// here, `wrong` letters are taken back. Returns how many events were marked.
    ///
    /// # Errors
    /// A store error: nothing was noted.
    pub fn settle_letters(
        &mut self,
        now: Ts,
        dead: &[Incoming],
        wrong: &[Letter],
    ) -> Result<usize, store::Error> {
        self.in_step(|engine| {
            engine.waits = true;
            let mut marked = 0;
            for incoming in dead {
                let row = arrival(incoming, now);
                if engine.seen(row.event_id)? {
                    continue;
                }
                engine.store.record(&InboxRow {
                    event_id: row.event_id,
                    outcome: Outcome::Dead,
                    stream_id: row.stream_id,
                    stream_seq: row.stream_seq,
                    at_ms: now.ms(),
                })?;
                marked += 1;
            }
            for letter in wrong {
                // What a redrive in fill mode would come to: a duplicate, and the letter is done with.
                let msg_id = format!("{}:redriven", letter.msg_id());
                engine
                    .store
                    .retire_letter(&msg_id, &letter.subject(), "redriven", now.ms())?;
            }
            Ok(marked)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, RwLock};

    use super::super::{Settings, Work};
    use super::*;
    use crate::event::{Codec, Site};
    use crate::node::letter::Dead;
    use crate::role::audit::AuditRole;
    use crate::role::{Role, RoleName};
    use crate::routing::Routes;
    use crate::store::{Identity, Options, Reader, Store, Synchronous};

    fn audit(dir: &std::path::Path) -> Engine {
        let options = Options {
            path: dir.join("audit.db"),
            synchronous: Synchronous::Off,
            site: Site::new("hub").expect("valid"),
            role: RoleName::Audit.as_str().to_owned(),
            queue: "audit-queue".to_owned(),
            codec: Codec::Json,
        };
        let fresh = Identity {
            store_id: ids::derive_v7(1, &[b"store"]),
            epoch: "1".to_owned(),
        };
        let role = AuditRole::default();
        let store = Store::open(options, role.migrations(), &fresh).expect("opened");
        let routes = Arc::new(RwLock::new(Arc::new(Routes::shipped())));
        Engine::new(store, Box::new(role), routes, Settings::default())
    }

    fn exhausted(queue: &str, seq: u64) -> Work {
        let letter = Letter::of(Dead {
            site: &Site::new("hub").expect("valid"),
            queue,
            stream_id: 7,
            stream_seq: seq,
            event: None,
            subject: "roadcall.hub.tracking.VendorArrived.x",
            headers: &[],
            body: b"{}",
            attempts: Vec::new(),
            reason: DeadReason::DeliveryExhausted,
            first_seen_at: Ts::from_ms(0).to_string(),
            dead_at: Ts::from_ms(0).to_string(),
            sequence_reused: false,
        });
        Work::Exhausted(Box::new(Exhausted {
            letter,
            cause: None,
            said: "nobody answered".to_owned(),
            first_seen: Ts::from_ms(0),
            advisory_stream: 8,
            advisory_seq: 1,
            token: AckToken("t".to_owned()),
        }))
    }

    #[test]
    fn an_advisory_that_comes_again_makes_no_second_letter_and_is_acknowledged() {
        let dir = tempfile::TempDir::new().expect("a directory");
        let mut engine = audit(dir.path());
        let now = Ts::from_ms(1_000);
        let work = [
            exhausted("incident-queue", 1),
            exhausted("incident-queue", 1),
        ];
        let output = engine.step(now, &work).expect("stepped");
        assert_eq!(output.acks.len(), 2);
        // Before the relay had a chance, and in another process.
        drop(engine);
        let mut engine = audit(dir.path());
        let work = [exhausted("incident-queue", 1), exhausted("match-queue", 1)];
        engine.step(now, &work).expect("stepped");
        let reader = Reader::open(&dir.path().join("audit.db")).expect("opened");
        let rows = reader.outbox(1, 100, 100).expect("read");
        let subjects: Vec<&str> = rows.iter().map(|row| row.subject.as_str()).collect();
        assert_eq!(
            subjects,
            [
                "dlq.incident-queue.1",
                "roadcall.hub.ops.DeadLetterCreated.incident-queue",
                "dlq.match-queue.1",
                "roadcall.hub.ops.DeadLetterCreated.match-queue",
            ]
        );
        assert_eq!(rows[0].expected_last_subject_seq, Some(0));
        // Letters do not count in `Roadcall-Seq`.
        let seqs: Vec<&str> = rows
            .iter()
            .flat_map(|row| &row.headers)
            .filter(|(name, _)| name == "Roadcall-Seq")
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(seqs, ["audit:1:1", "audit:1:2"]);
    }
}
