//! Replays and redrives: archived events brought to the handler again, a page of them in a step together with the job's
//! place, so that a crash neither skips nor repeats one (DESIGN 7).

use std::sync::Arc;

use super::deliver::{WAITING_EXTERNAL, WAITING_LETTER, arrival};
use super::judge::Verdict;
use super::{Counts, Engine, Incoming, StepOutput};
use crate::event::{
    Actor, DeadLetterRedriven, Event, Id, Key, Producer, ReplayCancelled, ReplayCompleted,
    ReplayEnd, ReplayMode, Text, Ts, ids,
};
use crate::node::letter::Letter;
use crate::role::audit::job::{Job, Kind};
use crate::role::{HandlerError, Input, Mode, Received};
use crate::store::{
    self, Context, Origin, Outcome, Reach, ReplayRow, ReplayState, Tx, WaitingState,
};

/// Consecutive events of a job.
#[derive(Debug, Clone)]
pub struct ReplayPage {
    /// The job.
    pub job: Arc<Job>,
    /// First and last sequence, both inclusive.
    pub bounds: (u64, u64),
    /// The events, in order.
    pub events: Vec<Replayed>,
    /// Everything before it has been looked at with this page.
    pub next_seq: u64,
    /// How the job ends with this page, if it does.
    pub end: Option<End>,
}

/// An archived event.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// The event.
    pub incoming: Incoming,
    /// Its letter, where it has one.
    pub letter: Option<Arc<Letter>>,
}

/// How a job ends.
#[derive(Debug, Clone)]
pub enum End {
    /// Nothing is left.
    Completed,
    /// Somebody stopped it.
    Cancelled(Actor),
    /// It can't go on, for this reason.
    Failed(String),
}

/// What became of one event.
enum Tally {
    Handled,
    Duplicate,
    Filtered,
    Failed,
}

impl Engine {
    /// Handles a page and moves the job's place. A page that was handled before does nothing.
    pub(super) fn replay(
        &mut self,
        page: &ReplayPage,
        now: Ts,
        output: &mut StepOutput,
    ) -> Result<(), store::Error> {
        let name = page.job.name.as_str();
        let mut row = match self.store.replay(name)? {
            Some(row) => row,
            None => self.begun(page, now)?,
        };
        if row.state == ReplayState::Running {
            for replayed in &page.events {
                if replayed.incoming.delivery.seq < row.next_seq {
                    continue;
                }
                let tally = match page.job.mode {
                    ReplayMode::Fill => self.fill(&page.job, replayed, now, output)?,
                    ReplayMode::Force => self.rerun(&page.job, replayed, now, output)?,
                };
                match tally {
                    Tally::Handled => row.handled += 1,
                    Tally::Duplicate => row.duplicates += 1,
                    Tally::Filtered => row.filtered += 1,
                    Tally::Failed => row.failed += 1,
                }
            }
            row.next_seq = row.next_seq.max(page.next_seq);
            if let Some(end) = &page.end {
                self.end(&mut row, end, now, output)?;
            }
            self.store.put_replay(&row)?;
        }
        output.replays.push(row);
        Ok(())
    }

    fn begun(&mut self, page: &ReplayPage, now: Ts) -> Result<ReplayRow, store::Error> {
        tracing::info!(
            role = %self.role.name(), queue = self.queue, replay = %page.job.name, from_seq = page.bounds.0,
            to_seq = page.bounds.1, "a replay begins"
        );
        let mut row = ReplayRow {
            name: page.job.name.to_string(),
            state: ReplayState::Running,
            from_seq: page.bounds.0,
            to_seq: page.bounds.1,
            next_seq: page.bounds.0,
            handled: 0,
            duplicates: 0,
            filtered: 0,
            failed: 0,
            started_at_ms: now.ms(),
            ended_at_ms: None,
            error: None,
        };
        if page.job.kind == Kind::Rebuild
            && let Err(error) = self.empty(page, now)?
        {
            row.state = ReplayState::Failed;
            row.ended_at_ms = Some(now.ms());
            row.error = Some(error.to_string());
            self.store.put_replay(&row)?;
        }
        Ok(row)
    }

    /// Empties the role's projection, in the commit that begins its rebuild: a crash leaves the old one, or a rebuild that
    /// goes on. The inner error is the role's.
    fn empty(
        &mut self,
        page: &ReplayPage,
        now: Ts,
    ) -> Result<Result<(), HandlerError>, store::Error> {
        let decoded = |replayed: &Replayed| Some(replayed.incoming.decoded.as_ref().ok()?.time);
        let Some(archive_from) = page.events.iter().filter_map(decoded).min() else {
            // Nothing comes that could fill it again.
            return Ok(Ok(()));
        };
        let input_id = ids::derive_v8(now.ms(), &[b"rebuild", page.job.name.as_str().as_bytes()]);
        let mut tx = Tx::open(&mut self.store, told_at(input_id, now))?;
        match self.role.empty(&mut tx, archive_from) {
            Ok(()) => tx.keep().map(|_| Ok(())),
            Err(error) => {
                tx.abandon()?;
                match error {
                    HandlerError::Store(error) if error.fatal() => Err(error),
                    error => Ok(Err(error)),
                }
            }
        }
    }

    /// Runs what is not done, dead letters included; expired stays expired.
    fn fill(
        &mut self,
        job: &Job,
        replayed: &Replayed,
        now: Ts,
        output: &mut StepOutput,
    ) -> Result<Tally, store::Error> {
        let incoming = &replayed.incoming;
        let mut row = arrival(incoming, now);
        let outcome = self.store.inbox_outcome(row.event_id)?;
        if matches!(outcome, Some(Outcome::Done | Outcome::Expired))
            || self.store.waits(row.event_id)?
        {
            return Ok(Tally::Duplicate);
        }
        if let Some(letter) = &replayed.letter {
            // A letter that dies again is the same letter with more attempts.
            row.errors.clone_from(&letter.attempts);
            row.headers
                .push((WAITING_LETTER.to_owned(), letter.subject()));
            if let Ok(first_seen) = letter.first_seen_at.parse::<Ts>() {
                row.first_seen_at_ms = first_seen.ms();
            }
        }
        if job.allow_external {
            row.headers
                .push((WAITING_EXTERNAL.to_owned(), "1".to_owned()));
        }
        if self.ordered
            && self.waits
            && incoming.decoded.is_ok()
            && self.store.key_blocked(&row.entity, None)?
        {
            row.state = WaitingState::Behind;
            self.put(&row)?;
            return Ok(Tally::Failed);
        }
        if let (Some(letter), Kind::Redrive) = (&replayed.letter, job.kind) {
            self.tell_of_redrive(letter, job, now, output)?;
        }
        let before = self.counts;
        self.attempt(row, &incoming.decoded, incoming.mode, now, output)?;
        Ok(told_by(before, self.counts))
    }

    fn tell_of_redrive(
        &mut self,
        letter: &Letter,
        job: &Job,
        now: Ts,
        output: &mut StepOutput,
    ) -> Result<(), store::Error> {
        let queue = Key::new(letter.queue.clone()).map_err(|error| {
            super::deliver::defect(&self.store, "naming a queue", error.to_string())
        })?;
        let letter_id = letter.dead_letter_id;
        let parts: [&[u8]; 3] = [
            b"redriven",
            letter_id.uuid().as_bytes(),
            job.name.as_str().as_bytes(),
        ];
        let mut tx = Tx::open(
            &mut self.store,
            told_at(ids::derive_v8(now.ms(), &parts), now),
        )?;
        tx.emit(&DeadLetterRedriven {
            dead_letter_id: letter_id,
            queue,
            original_event_id: Text::lossy(&letter.event_id),
            redriven_by: job.started_by.clone(),
            redriven_at: now,
        })?;
        let done = tx.keep()?;
        self.collect(done, output);
        Ok(())
    }

    /// Runs the handler anew under the job's name, whatever it did before.
    fn rerun(
        &mut self,
        job: &Job,
        replayed: &Replayed,
        now: Ts,
        output: &mut StepOutput,
    ) -> Result<Tally, store::Error> {
        let incoming = &replayed.incoming;
        let Ok(event) = &incoming.decoded else {
            return Ok(Tally::Failed);
        };
        let received_at_ms = incoming.delivery.received_at_ms;
        let too_old = match self.judge(event, incoming.mode, received_at_ms, now, false) {
            Verdict::Handle { too_old, .. } => too_old,
            Verdict::Filtered | Verdict::Expired => return Ok(Tally::Filtered),
        };
        let context = self.context_of_rerun(job, event, now);
        let received = Received {
            event: Arc::clone(event),
            mode: incoming.mode,
            too_old,
            producer: Producer::of(&incoming.delivery.headers.0),
        };
        match self.run(context, &Input::Event(Box::new(received)), |_| Ok(()))? {
            Ok(done) => {
                self.collect(done, output);
                Ok(Tally::Handled)
            }
            Err(HandlerError::Store(error)) if error.fatal() => Err(error),
            Err(error) => {
                tracing::warn!(
                    event_id = %event.id, role = %self.role.name(), queue = self.queue, replay = %job.name,
                    seq = incoming.delivery.seq, %error, "a replayed event failed, the replay goes on"
                );
                Ok(Tally::Failed)
            }
        }
    }

    fn context_of_rerun(&self, job: &Job, event: &Event, now: Ts) -> Context {
        let site = &self.store.options().site;
        let home = event.home.clone().unwrap_or_else(|| event.site.clone());
        let id = event.id.uuid();
        Context {
            now,
            input_id: ids::derive_v8(
                event.time.ms(),
                &[b"replay", job.name.as_str().as_bytes(), id.as_bytes()],
            ),
            input_time: event.time,
            first: false,
            origin: Origin {
                cause: Some(event.id),
                correlation: event.correlation,
                home: (home != *site).then_some(home),
                traceparent: None,
                asked_by: None,
            },
            delivery: Some("replay"),
            reach: if job.allow_external {
                Reach::Full
            } else {
                Reach::StateOnly
            },
            trace: None,
        }
    }

    fn end(
        &mut self,
        row: &mut ReplayRow,
        end: &End,
        now: Ts,
        output: &mut StepOutput,
    ) -> Result<(), store::Error> {
        row.ended_at_ms = Some(now.ms());
        let name = ids::derive_v8(now.ms(), &[b"replay-end", row.name.as_bytes()]);
        tracing::info!(
            role = %self.role.name(), queue = self.queue, replay = row.name, handled = row.handled,
            failed = row.failed, ?end, "a replay ended"
        );
        let replay_name = row.name.parse().map_err(|error: crate::event::TypeError| {
            super::deliver::defect(&self.store, "naming a replay", error.to_string())
        })?;
        let mut tx = Tx::open(&mut self.store, told_at(name, now))?;
        match end {
            End::Cancelled(by) => {
                row.state = ReplayState::Cancelled;
                tx.emit(&ReplayCancelled {
                    replay_name,
                    events_replayed: row.handled,
                    cancelled_by: by.clone(),
                    cancelled_at: now,
                })?;
            }
            End::Completed | End::Failed(_) => {
                let error = match end {
                    End::Failed(why) => Some(why.clone()),
                    _ => None,
                };
                row.state = match error {
                    None => ReplayState::Completed,
                    Some(_) => ReplayState::Failed,
                };
                tx.emit(&ReplayCompleted {
                    replay_name,
                    state: match error {
                        None => ReplayEnd::Completed,
                        Some(_) => ReplayEnd::Failed,
                    },
                    events_replayed: row.handled,
                    event_last_replayed_time: None,
                    error: error.as_deref().map(Text::lossy),
                })?;
                row.error = error;
            }
        }
        let done = tx.keep()?;
        self.collect(done, output);
        Ok(())
    }
}

fn told_at(input_id: Id, now: Ts) -> Context {
    Context {
        now,
        input_id,
        input_time: now,
        first: false,
        origin: Origin::default(),
        delivery: None,
        reach: Reach::Full,
        trace: None,
    }
}

/// What the counts say became of an event.
fn told_by(before: Counts, after: Counts) -> Tally {
    if after.handled > before.handled {
        Tally::Handled
    } else if after.filtered > before.filtered || after.expired > before.expired {
        Tally::Filtered
    } else {
        Tally::Failed
    }
}

/// How archived events are handled for a job.
#[must_use]
pub fn mode_of(job: &Job) -> Mode {
    match job.kind {
        Kind::Replay | Kind::Rebuild => Mode::Replay,
        Kind::Redrive => Mode::Redrive,
    }
}
