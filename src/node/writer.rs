//! The writer: one thread per role that owns the engine and turns what arrives into steps (DESIGN 4).
//!
//! It runs a small runtime of its own, so that waiting for work, for a timer and for the broker at start are one wait. A
//! fatal store error ends it; the node then stops the process.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::effects::Asked;
use super::engine::{Counts, Engine, Incoming, Settings, Standing, StepOutput, Work};
use super::intake::Intake;
use super::latency::Latency;
use super::{archive, letter};
use crate::bus::{AckToken, Bus};
use crate::event::{Id, Site, Ts};
use crate::role::{Command, Mode, Rejection, Role};
use crate::store::{self, ReplayRow};

/// What a command is answered.
pub type Reply = Result<Value, Rejection>;

/// Work for the writer, with whom to answer.
#[derive(Debug)]
pub enum Job {
    /// Something for the next step.
    Do(Work),
    /// A command whose reply somebody waits for.
    Ask(Box<Command>, oneshot::Sender<Reply>),
    /// Other numbers for the role and the engine, from the next step on.
    Reload(Box<Terms>),
    /// The sites that lack the role, from the next step on.
    StandIn(BTreeSet<Site>),
    /// Somebody wants to know whether steps get done: told behind the next one.
    Beat(oneshot::Sender<()>),
}

/// What a reload brings to a writer.
pub struct Terms {
    /// The role with its new numbers.
    pub role: Box<dyn Role>,
    /// The engine's numbers.
    pub settings: Settings,
}

impl std::fmt::Debug for Terms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Terms of {}", self.role.name())
    }
}

/// What the writer shares with the rest of the node.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Hint for the relay that the outbox grew.
    pub outbox: Arc<Notify>,
    /// Deliveries to acknowledge.
    pub acks: mpsc::UnboundedSender<Vec<AckToken>>,
    /// Calls to make.
    pub effects: mpsc::UnboundedSender<Asked>,
    /// Replay jobs that got further.
    pub replays: mpsc::UnboundedSender<ReplayRow>,
    /// What happened so far.
    pub counts: Arc<Mutex<Counts>>,
    /// From the archive to the committed outcome.
    pub latency: Latency,
    /// From the event's own time to the committed outcome: with the producer's outbox and clock in it.
    pub age: Latency,
    /// Ends when the process should stop.
    pub stop: CancellationToken,
}

/// A writer before its thread.
pub struct Writer<B> {
    /// The engine.
    pub engine: Engine,
    /// The broker, asked only while starting.
    pub bus: B,
    /// The role's queue, if it reads one.
    pub queue: Option<&'static str>,
    /// What its deliveries count as.
    pub intake: Intake,
    /// Inputs in one step at the most.
    pub batch_max: usize,
    /// The clock.
    pub clock: Clock,
    /// What it shares.
    pub shared: Shared,
}

impl<B: Bus> Writer<B> {
    /// Starts, says `ready`, and works until `jobs` is closed or the store fails for good. An orderly end is noted in
    /// the store.
    ///
    /// # Errors
    /// A fatal store error: nothing of the last step was committed.
    pub async fn run(
        mut self,
        mut jobs: mpsc::Receiver<Job>,
        ready: oneshot::Sender<()>,
    ) -> Result<(), store::Error> {
        let held = self.recover().await?;
        let started = self.clock.now();
        // Nobody to tell is fine: then the node is stopping already.
        let _ = ready.send(());
        self.shared.outbox.notify_one();
        let mut batch: Vec<Job> = held
            .into_iter()
            .map(|incoming| Job::Do(Work::Delivery(Box::new(incoming))))
            .collect();
        loop {
            if batch.is_empty() && !self.wait(&mut jobs, &mut batch, started).await? {
                break;
            }
            self.step(std::mem::take(&mut batch)).await?;
            self.run_suspects(started).await?;
        }
        self.engine.stop()
    }

    /// Waits for work or the next due time. False when there will be no more work.
    async fn wait(
        &mut self,
        jobs: &mut mpsc::Receiver<Job>,
        batch: &mut Vec<Job>,
        started: Ts,
    ) -> Result<bool, store::Error> {
        let due = [self.engine.next_due()?, self.engine.suspects_due(started)?]
            .into_iter()
            .flatten()
            .min();
        let Some(due) = due else {
            return Ok(jobs.recv_many(batch, self.batch_max).await > 0);
        };
        tokio::select! {
            biased;
            received = jobs.recv_many(batch, self.batch_max) => Ok(received > 0),
            () = self.clock.reach(due) => Ok(true),
        }
    }

    async fn step(&mut self, batch: Vec<Job>) -> Result<(), store::Error> {
        let (mut askers, mut beats) = (HashMap::new(), Vec::new());
        let mut work = Vec::with_capacity(batch.len());
        for job in batch {
            match job {
                Job::Do(item) => work.push(item),
                Job::Ask(command, asker) => {
                    askers.insert(command.id, asker);
                    work.push(Work::Command(command));
                }
                Job::Reload(terms) => self.engine.reload(terms.role, terms.settings),
                Job::StandIn(sites) => self.engine.stand_in_for(sites),
                Job::Beat(beat) => beats.push(beat),
            }
        }
        let times: Vec<Times> = work.iter().filter_map(times).collect();
        let output = loop {
            match self.engine.step(self.clock.now(), &work) {
                Ok(output) => break output,
                Err(error) if error.fatal() => return Err(error),
                // Busy: the same work again; nothing was committed, acked or answered.
                Err(error) => {
                    tracing::warn!(role = %self.engine.role().name(), %error, "the step failed, it is run again");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        let now_ms = self.clock.now().ms();
        let since = |ms: i64| u64::try_from(now_ms - ms).unwrap_or(0);
        for times in times {
            self.shared.latency.record(since(times.received_ms));
            self.shared.age.record(since(times.made_ms));
        }
        self.hand_out(output, &mut askers);
        for beat in beats {
            // Whoever asked may have given up: the process is stopping.
            let _ = beat.send(());
        }
        Ok(())
    }

    fn hand_out(&self, mut output: StepOutput, askers: &mut HashMap<Id, oneshot::Sender<Reply>>) {
        if output.outbox_grew {
            self.shared.outbox.notify_one();
        }
        if !output.acks.is_empty() {
            // The receiver lives as long as the node; a lost ack only means a second delivery.
            let _ = self.shared.acks.send(output.acks);
        }
        for call in output.effects {
            // Nobody takes it while the node stops: it is in the store, and made after the next start.
            let place = output.places.remove(&call.key);
            let _ = self.shared.effects.send(Asked::Kept(call, place));
        }
        for (id, call) in output.answers {
            if let Some(asker) = askers.remove(&id) {
                // Nobody takes it while the node stops: the asker is told so by the closed channel.
                let place = output.places.remove(&call.key);
                let _ = self.shared.effects.send(Asked::Reply(call, place, asker));
            }
        }
        for row in output.replays {
            // Only whoever carries jobs out wants to know; the place is in the store.
            let _ = self.shared.replays.send(row);
        }
        for (id, reply) in output.replies {
            if let Some(asker) = askers.remove(&id) {
                // The asker may have given up waiting.
                let _ = asker.send(reply);
            }
        }
        *self
            .shared
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = self.engine.counts();
    }

    /// What must happen before the first step: see how the last process ended, put what was in hand aside, run it alone.
    /// Returns deliveries that came along and are new.
    async fn recover(&mut self) -> Result<Vec<Incoming>, store::Error> {
        let clean = self.engine.start(self.clock.now())?;
        // First of all: what follows hands its own calls out by itself.
        let mut places = self.engine.pending_places()?;
        for call in self.engine.pending_effects()? {
            let place = places.remove(&call.key);
            let _ = self.shared.effects.send(Asked::Kept(call, place));
        }
        let mut held = Vec::new();
        if let Some(queue) = self.queue {
            // Before anything is taken: what the server gave up is handed out again after a reset, and must not run.
            self.settle_letters(queue).await?;
            held = self.take_in_hand(queue, clean).await?;
        }
        while let Some(output) = self.engine.run_alone(self.clock.now(), false)? {
            self.hand_out(output, &mut HashMap::new());
        }
        Ok(held)
    }

    /// Takes note of letters that others wrote for this queue (DESIGN 7, Dead).
    async fn settle_letters(&mut self, queue: &'static str) -> Result<(), store::Error> {
        let read = || letter::of_queue(&self.bus, queue);
        let what = "reading the queue's letters";
        let Some(letters) = self.until_it_works(what, read).await else {
            return Ok(());
        };
        let (mut dead, mut wrong) = (Vec::new(), Vec::new());
        for letter in letters {
            match self.engine.standing(&letter)? {
                Standing::Settled => {}
                Standing::Wrong => wrong.push(letter),
                Standing::Open => {
                    let look = || archive::of_letter(&self.bus, &letter);
                    let found = self.until_it_works("reading a letter's event", look).await;
                    dead.extend(
                        found
                            .flatten()
                            .map(|event| Incoming::new(event, Mode::Live)),
                    );
                }
            }
        }
        if dead.is_empty() && wrong.is_empty() {
            return Ok(());
        }
        let marked = self
            .engine
            .settle_letters(self.clock.now(), &dead, &wrong)?;
        tracing::warn!(
            queue,
            marked,
            taken_back = wrong.len(),
            "others wrote letters for this queue; their events are dead, or were handled after all"
        );
        Ok(())
    }

    async fn take_in_hand(
        &mut self,
        queue: &'static str,
        clean: bool,
    ) -> Result<Vec<Incoming>, store::Error> {
        let mut held = Vec::new();
        let Some(before) = self
            .until_it_works("resetting the queue", || self.bus.reset(queue))
            .await
        else {
            return Ok(held);
        };
        let mut expected = !clean && before.ack_pending > 0;
        while expected {
            let wait = Duration::from_secs(2);
            let fetch = || self.bus.fetch(queue, self.batch_max, wait);
            let Some(deliveries) = self.until_it_works("taking what was in hand", fetch).await
            else {
                break;
            };
            expected = deliveries
                .last()
                .is_some_and(|delivery| delivery.seq < before.delivered_seq);
            let (in_hand, new): (Vec<_>, Vec<_>) = deliveries
                .into_iter()
                .map(|delivery| self.intake.incoming(delivery))
                .partition(|incoming| incoming.delivery.seq <= before.delivered_seq);
            held.extend(new);
            let acks = self.engine.park(self.clock.now(), &in_hand)?;
            let _ = self.shared.acks.send(acks);
        }
        Ok(held)
    }

    /// Asks the broker until it answers; `None` when the process should stop meanwhile.
    async fn until_it_works<T, F>(&self, what: &str, ask: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, crate::bus::Error>>,
    {
        let mut delay = Duration::from_millis(100);
        loop {
            tokio::select! {
                () = self.shared.stop.cancelled() => return None,
                result = ask() => match result {
                    Ok(value) => return Some(value),
                    Err(error) => tracing::warn!(role = %self.engine.role().name(), %error, "{what} failed, trying again"),
                }
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(Duration::from_secs(5));
        }
    }

    async fn run_suspects(&mut self, started: Ts) -> Result<(), store::Error> {
        while self
            .engine
            .suspects_due(started)?
            .is_some_and(|due| due <= self.clock.now())
        {
            let Some(output) = self.engine.run_alone(self.clock.now(), true)? else {
                return Ok(());
            };
            self.hand_out(output, &mut HashMap::new());
        }
        Ok(())
    }
}

/// When a delivery's event was made and when the archive took it, Unix milliseconds.
struct Times {
    made_ms: i64,
    received_ms: i64,
}

fn times(work: &Work) -> Option<Times> {
    let Work::Delivery(incoming) = work else {
        return None;
    };
    let received_ms = incoming.delivery.received_at_ms;
    let made_ms = incoming.decoded.as_ref().map(|event| event.time.ms());
    Some(Times {
        made_ms: made_ms.unwrap_or(received_ms),
        received_ms,
    })
}
