//! After an unclean stop: what was in hand is put into `waiting` before any handler runs, then handled one by one with
//! the running one marked, so that an event that kills its process names itself (DESIGN 4, Restart).

use super::deliver::arrival;
use super::{Engine, Incoming, StepOutput, millis};
use crate::bus::AckToken;
use crate::event::{DeadReason, Ts};
use crate::store::{self, WaitingState};

impl Engine {
    /// Notes that the process runs, and whether the one before it stopped in order. After an unclean stop this counts
    /// the deaths, buries whoever died too often, and turns everything that was due into work to be done alone.
    ///
    /// # Errors
    /// A store error.
    pub fn start(&mut self, now: Ts) -> Result<bool, store::Error> {
        let clean = self.store.take_clean_mark()?;
        if clean {
            return Ok(true);
        }
        self.in_step(|engine| {
            engine.waits = true;
            let deaths = engine.store.count_deaths()?;
            // A row that was due may have been the one that was running when the process died.
            for mut row in engine.store.due_waiting(now.ms(), i32::MAX as usize)? {
                row.state = WaitingState::InHand;
                row.starts += 1;
                row.due_at_ms = None;
                engine.store.update_waiting(&row)?;
            }
            tracing::warn!(role = %engine.role.name(), queue = engine.queue, deaths, "the last stop was not in order");
            engine.bury_killers(now)
        })?;
        Ok(false)
    }

    fn bury_killers(&mut self, now: Ts) -> Result<(), store::Error> {
        let mut output = StepOutput::default();
        for row in self.store.in_hand()? {
            if row.deaths < self.settings.max_deaths {
                continue;
            }
            let text = format!(
                "the process died {} times while handling this event alone",
                row.deaths
            );
            let content_type = row
                .headers
                .iter()
                .find(|(name, _)| name == "Content-Type")
                .map(|(_, value)| value.clone());
            let event = crate::event::decode(&row.subject, content_type.as_deref(), &row.body).ok();
            self.bury(
                row,
                event.as_ref(),
                DeadReason::ProcessDied,
                text,
                now,
                &mut output,
            )?;
        }
        Ok(())
    }

    /// Puts deliveries that were in hand at an unclean stop into `waiting`, in one commit, before any handler runs.
    /// Returns the acks to send.
    ///
    /// # Errors
    /// A store error: nothing was parked.
    pub fn park(
        &mut self,
        now: Ts,
        deliveries: &[Incoming],
    ) -> Result<Vec<AckToken>, store::Error> {
        self.in_step(|engine| {
            engine.waits = true;
            for incoming in deliveries {
                engine.counts.received += 1;
                let mut row = arrival(incoming, now);
                if engine.store.inbox_outcome(row.event_id)?.is_some() {
                    engine.counts.duplicates += 1;
                } else if !engine.store.count_start(row.event_id)? {
                    row.state = WaitingState::InHand;
                    row.starts = 1;
                    engine.put(&row)?;
                }
            }
            Ok(deliveries
                .iter()
                .map(|incoming| incoming.delivery.token.clone())
                .collect())
        })
    }

    /// Handles the next row that must run alone: first a commit that marks it as running, then its own step. Suspects
    /// (rows that died while running alone) are left until `suspects` is true. `None` when there is nothing left.
    ///
    /// # Errors
    /// A store error.
    pub fn run_alone(
        &mut self,
        now: Ts,
        suspects: bool,
    ) -> Result<Option<StepOutput>, store::Error> {
        let Some(mut row) = self
            .store
            .in_hand()?
            .into_iter()
            .find(|row| suspects || row.deaths == 0)
        else {
            return Ok(None);
        };
        if self.ordered && self.store.key_blocked(&row.entity, Some(row.stream_seq))? {
            row.state = WaitingState::Behind;
            return self
                .in_step(|engine| engine.store.update_waiting(&row))
                .map(|()| Some(StepOutput::default()));
        }
        row.running = true;
        self.in_step(|engine| engine.store.update_waiting(&row))?;
        let mut output = StepOutput::default();
        self.in_step(|engine| {
            row.running = false;
            engine.store.update_waiting(&row)?;
            engine.attempt_again(row, now, &mut output)
        })?;
        Ok(Some(output))
    }

    /// When the suspects may run: a moment after the start, so that everybody else goes first. `None` without suspects.
    ///
    /// # Errors
    /// A store error.
    pub fn suspects_due(&self, started: Ts) -> Result<Option<Ts>, store::Error> {
        let any = self.waits && self.store.in_hand()?.iter().any(|row| row.deaths > 0);
        Ok(any.then(|| Ts::from_ms(started.ms() + millis(self.settings.suspect_delay))))
    }

    /// Notes that the process stops in order.
    ///
    /// # Errors
    /// A store error.
    pub fn stop(&mut self) -> Result<(), store::Error> {
        self.store.set_clean_mark()
    }

    pub(super) fn in_step<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, store::Error>,
    ) -> Result<T, store::Error> {
        self.store.begin()?;
        match work(self) {
            Ok(value) => {
                self.store.commit()?;
                self.rules.keep();
                self.keep_traces();
                Ok(value)
            }
            Err(error) => {
                self.store.rollback();
                self.rules.undo();
                self.undo_traces();
                Err(error)
            }
        }
    }
}
