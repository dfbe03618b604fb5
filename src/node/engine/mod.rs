//! The engine: turns inputs into commits, for any role.
//!
//! [`Engine::step`] takes whatever has arrived, runs each input in a savepoint, and commits them together: one fsync for
//! hundreds of events. It is synchronous and takes the time as an argument, so the simulation drives the very code that
//! production runs. What it wants done outside (acks, replies, effects) comes back in a [`StepOutput`] and happens only
//! after the commit.
//!
//! The failure table stands in `deliver`, a letter is made in `dead`; what happens after an unclean stop stands in `recover`.

mod command;
mod counts;
mod dead;
mod deliver;
mod exhausted;
mod judge;
mod recover;
mod replay;
mod traced;
mod upkeep;
mod work;

use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use crate::event::trace::TraceContext;
use crate::event::{Site, Ts, ids};
use crate::node::figures::RuleTally;
use crate::role::{HandlerError, Input, Role, Timer};
use crate::routing::Routes;
use crate::store::{
    self, Context, DueTimer, EffectCall, EffectOutcome, Reach, Store, Tx, TxOutput,
};

use self::traced::Ended;
pub use counts::Counts;
pub use exhausted::{Exhausted, Standing};
pub use replay::{End, ReplayPage, Replayed, mode_of};
pub use work::{Incoming, StepOutput, Work};

/// The rules in force; replaced as a whole on SIGHUP.
pub type SharedRoutes = Arc<RwLock<Arc<Routes>>>;

/// The engine's numbers (config section `engine`).
#[derive(Debug, Clone)]
pub struct Settings {
    /// Inputs in one commit at the most.
    pub batch_max: usize,
    /// Tries before a letter.
    pub max_deliver: u32,
    /// From one try to the next.
    pub retry_delay: Duration,
    /// How long a missing predecessor is waited for without spending a try.
    pub not_yet_max: Duration,
    /// After what wait a queue forgets an event whose rule says `drop` (DOMAIN 4.2: 4 d).
    pub drop_after: Duration,
    /// How long outcomes are kept (DESIGN promise 2).
    pub inbox_horizon: Duration,
    /// How long replies are kept for retries of their command.
    pub reply_horizon: Duration,
    /// How long a suspect of killing the process is held back after a start, so that everybody else goes first.
    pub suspect_delay: Duration,
    /// Deaths while running alone before a letter (`process_died`).
    pub max_deaths: u32,
}

impl Default for Settings {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self {
            batch_max: 256,
            max_deliver: 3,
            retry_delay: Duration::from_secs(300),
            not_yet_max: Duration::from_secs(3600),
            drop_after: 4 * day,
            inbox_horizon: 97 * day,
            reply_horizon: 30 * day,
            suspect_delay: Duration::from_secs(1),
            max_deaths: 3,
        }
    }
}

/// A role with its store, ready to be stepped.
pub struct Engine {
    store: Store,
    role: Box<dyn Role>,
    routes: SharedRoutes,
    settings: Settings,
    queue: &'static str,
    ordered: bool,
    waits: bool,
    counts: Counts,
    rules: RuleTally,
    upkeep: upkeep::Upkeep,
    traces: Option<Box<traced::Traces>>,
}

impl Engine {
    /// Puts a role and its opened store together.
    #[must_use]
    pub fn new(
        store: Store,
        role: Box<dyn Role>,
        routes: SharedRoutes,
        settings: Settings,
    ) -> Self {
        let name = role.name();
        Self {
            store,
            queue: name.queue().unwrap_or(""),
            ordered: name.ordered(),
            role,
            routes,
            settings,
            waits: true,
            counts: Counts::default(),
            rules: RuleTally::default(),
            upkeep: upkeep::Upkeep::default(),
            traces: None,
        }
    }

    /// Goes on with other numbers; between steps, so that a step runs under one set of them.
    pub fn reload(&mut self, role: Box<dyn Role>, settings: Settings) {
        self.role = role;
        self.settings = settings;
    }

    /// Makes what these sites lack the role for (DESIGN 8, Home); between steps.
    pub fn stand_in_for(&mut self, sites: BTreeSet<Site>) {
        self.store.stand_in_for(sites);
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The role's store, for reading.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The commands that the role answers.
    #[must_use]
    pub fn role(&self) -> &dyn Role {
        self.role.as_ref()
    }

    /// Runs due timers, due waiting rows and `work` in one commit.
    ///
    /// # Errors
    /// A store error: nothing was committed. If it is not fatal the same work may be stepped again.
    pub fn step(&mut self, now: Ts, work: &[Work]) -> Result<StepOutput, store::Error> {
        let counts_before = self.counts;
        self.store.begin()?;
        let mut output = StepOutput::default();
        let result = self
            .run_step(now, work, &mut output)
            .and_then(|()| self.store.commit());
        match result {
            Ok(()) => {
                self.counts.steps += 1;
                self.rules.keep();
                self.keep_traces();
                Ok(output)
            }
            Err(error) => {
                self.store.rollback();
                self.counts = counts_before;
                self.rules.undo();
                self.undo_traces();
                Err(error)
            }
        }
    }

    fn run_step(
        &mut self,
        now: Ts,
        work: &[Work],
        output: &mut StepOutput,
    ) -> Result<(), store::Error> {
        self.waits = self.store.anything_waits()?;
        self.run_due_timers(now, output)?;
        self.run_due_results(now, output)?;
        self.run_due_waiting(now, output)?;
        for item in work {
            match item {
                Work::Delivery(incoming) => self.deliver(incoming, now, output)?,
                Work::Command(command) => self.command(command, now, output)?,
                Work::Effect { key, outcome } => self.effect_result(key, outcome, now, output)?,
                Work::Exhausted(exhausted) => self.exhausted(exhausted, now, output)?,
                Work::Replay(page) => self.replay(page, now, output)?,
                Work::Published(runs) => runs
                    .iter()
                    .try_for_each(|run| self.store.mark_published(run))?,
                Work::CaughtUp => self.caught_up(now, output)?,
                Work::Verified(runs) => self.store.rewrite_published(runs)?,
                Work::Settled {
                    server_id,
                    before_ms,
                } => {
                    self.store.prune_outbox(server_id, *before_ms)?;
                }
            }
        }
        // What this batch released or woke up goes on in the same commit.
        self.run_due_waiting(now, output)?;
        self.run_upkeep(now)
    }

    /// When [`Engine::step`] should be called next even if no work arrives.
    ///
    /// # Errors
    /// A store error.
    pub fn next_due(&self) -> Result<Option<Ts>, store::Error> {
        let timer = match self.store.catching_up() {
            true => None,
            false => self.store.next_timer_due()?,
        };
        let waiting = self.store.next_waiting_due()?;
        let result = self.store.next_result_due()?;
        Ok([timer, waiting, result, self.upkeep.next_ms()]
            .into_iter()
            .flatten()
            .min()
            .map(Ts::from_ms))
    }

    /// Calls that were asked for and have no handled result: what a start runs again.
    ///
    /// # Errors
    /// A store error.
    pub fn pending_effects(&self) -> Result<Vec<EffectCall>, store::Error> {
        Ok(self
            .store
            .pending_effects()?
            .into_iter()
            .map(|pending| pending.call)
            .collect())
    }

    /// The spans that asked for them, by their keys; nothing where nothing is traced.
    ///
    /// # Errors
    /// A store error.
    pub fn pending_places(&self) -> Result<HashMap<String, TraceContext>, store::Error> {
        if self.traces.is_none() {
            return Ok(HashMap::new());
        }
        let place = |pending: store::PendingEffect| {
            let text = pending.origin.traceparent?;
            Some((pending.call.key, TraceContext::parse(&text)?))
        };
        let pending = self.store.pending_effects()?;
        Ok(pending.into_iter().filter_map(place).collect())
    }

    fn run_due_timers(&mut self, now: Ts, output: &mut StepOutput) -> Result<(), store::Error> {
        // What a restored role has yet to hear may stop them.
        if self.store.catching_up() {
            return Ok(());
        }
        for timer in self.store.due_timers(now.ms(), self.settings.batch_max)? {
            self.fire(&timer, now, output)?;
        }
        Ok(())
    }

    fn caught_up(&mut self, now: Ts, output: &mut StepOutput) -> Result<(), store::Error> {
        if !self.store.catching_up() {
            return Ok(());
        }
        self.store.end_catch_up(now.ms())?;
        self.run_due_timers(now, output)?;
        let lost = self.store.not_made_again()?;
        let role = self.role.name();
        tracing::info!(%role, queue = self.queue, "the restored role has caught up");
        if lost.count > 0 {
            tracing::warn!(
                %role, count = lost.count, first_seq = lost.first_seq, last_seq = lost.last_seq,
                "the archive has events of this role that it did not come to again: what commands, timers and calls changed after the snapshot is not in its database"
            );
        }
        Ok(())
    }

    fn fire(
        &mut self,
        timer: &DueTimer,
        now: Ts,
        output: &mut StepOutput,
    ) -> Result<(), store::Error> {
        let due_ms = timer.due_at.ms().to_be_bytes();
        let input_id = ids::derive_v8(
            timer.due_at.ms(),
            &[
                b"timer",
                timer.kind.as_bytes(),
                timer.key.as_bytes(),
                &due_ms,
                self.store.options().role.as_bytes(),
            ],
        );
        let context = Context {
            now,
            input_id,
            input_time: timer.due_at,
            first: false,
            origin: timer.origin(),
            delivery: None,
            reach: Reach::Full,
            trace: None,
        };
        let input = Input::Timer(Timer {
            kind: timer.kind.clone(),
            key: timer.key.clone(),
            due_at: timer.due_at,
            payload: timer.payload.clone(),
        });
        // Removed before the handler runs, so that the handler may set it anew; an error brings it back.
        let result = self.run(context, &input, |tx| {
            tx.cancel_timer(&timer.kind, &timer.key).map(|_| ())
        })?;
        match result {
            Ok(done) => {
                self.counts.timers += 1;
                self.collect(done, output);
            }
            Err(error) => {
                self.counts.failed += 1;
                let retry_at_ms = now.ms() + millis(self.settings.retry_delay);
                tracing::warn!(role = %self.role.name(), timer = timer.kind, key = timer.key, %error, "timer failed, put off");
                self.store.put_timer_off(timer, retry_at_ms)?;
            }
        }
        Ok(())
    }

    fn run_due_results(&mut self, now: Ts, output: &mut StepOutput) -> Result<(), store::Error> {
        for (key, outcome) in self.store.due_results(now.ms(), self.settings.batch_max)? {
            self.effect_result(&key, &outcome, now, output)?;
        }
        Ok(())
    }

    fn effect_result(
        &mut self,
        key: &str,
        outcome: &EffectOutcome,
        now: Ts,
        output: &mut StepOutput,
    ) -> Result<(), store::Error> {
        let Some(pending) = self.store.pending_effect(key)? else {
            return Ok(());
        };
        // The same call asked for by the same input ends in events with the same ids, whenever it ends: a restored role makes
        // it again.
        let (asked_by, input_time) = match pending.origin.asked_by {
            Some((id, ms)) => (id.uuid().into_bytes().to_vec(), Ts::from_ms(ms)),
            // Asked for by an older build.
            None => (Vec::new(), now),
        };
        let parts: [&[u8]; 3] = [b"effect", key.as_bytes(), &asked_by];
        let input_id = ids::derive_v8(input_time.ms(), &parts);
        let context = Context {
            now,
            input_id,
            input_time,
            first: false,
            origin: pending.origin,
            delivery: None,
            reach: Reach::Full,
            trace: None,
        };
        let input = Input::Effect(crate::role::EffectResult {
            key: key.to_owned(),
            kind: pending.call.kind.clone(),
            outcome: outcome.clone(),
            request: pending.call.request.clone(),
        });
        match self.run(context, &input, |_| Ok(()))? {
            Ok(done) => {
                self.store.remove_effect(key)?;
                self.collect(done, output);
            }
            // The call is not made again for that: its result is kept and handled later.
            Err(error) => {
                self.counts.failed += 1;
                tracing::error!(role = %self.role.name(), effect = key, %error, "the result of an effect could not be handled, put off");
                let due_at_ms = now.ms() + millis(self.settings.retry_delay);
                self.store.put_result_off(key, outcome, due_at_ms)?;
            }
        }
        Ok(())
    }

    /// Runs the role on one input in a savepoint. The outer error is one of the store that concerns the whole step; the
    /// inner one is the handler's, with everything it wrote undone.
    fn run(
        &mut self,
        mut context: Context,
        input: &Input,
        prepare: impl FnOnce(&mut Tx<'_>) -> Result<(), store::Error>,
    ) -> Result<Result<TxOutput, HandlerError>, store::Error> {
        let began = self.trace_begins(&mut context, input);
        let mut tx = Tx::open(&mut self.store, context)?;
        let role = &mut self.role;
        prepare(&mut tx)?;
        let result = catch_unwind(AssertUnwindSafe(|| role.handle(&mut tx, input))).unwrap_or_else(
            |panic| {
                self.counts.panics += 1;
                Err(HandlerError::Transient(format!(
                    "the handler panicked: {}",
                    panic_text(panic.as_ref())
                )))
            },
        );
        match result {
            Ok(()) => {
                let done = tx.keep()?;
                self.trace_ends(began.as_ref(), input, &Ended::Kept(&done.traced));
                Ok(Ok(done))
            }
            Err(HandlerError::Store(error))
                if error.fatal() || error.class == store::Class::Busy =>
            {
                Err(error)
            }
            Err(error) => {
                let place = tx.place();
                tx.abandon()?;
                self.trace_ends(began.as_ref(), input, &Ended::Undone(place, &error));
                Ok(Err(error))
            }
        }
    }

    fn collect(&mut self, done: TxOutput, output: &mut StepOutput) {
        self.counts.emitted += u64::from(done.emitted);
        output.outbox_grew |= done.emitted > 0;
        if let Some(here) = done.traced.here {
            let places = done.effects.iter().map(|call| (call.key.clone(), here));
            output.places.extend(places);
        }
        output.effects.extend(done.effects);
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

/// A span as whole milliseconds; beyond 292 million years it is cut.
fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
