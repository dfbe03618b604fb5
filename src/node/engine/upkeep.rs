//! Housekeeping inside the step: outcomes and replies past their horizon go, a little at a time.

use super::{Engine, millis};
use crate::event::{Id, Ts};
use crate::store;

/// From one round of housekeeping to the next.
const EVERY_MS: i64 = 60_000;
/// Rows looked at in one round, so that no step is held up.
const ROWS_MAX: usize = 500;

/// Where housekeeping stands. Its place is not worth keeping: a restart begins at the oldest rows, which are the ones
/// that go.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    next_ms: Option<i64>,
    inbox_cursor: Option<Id>,
}

impl Upkeep {
    pub(super) fn next_ms(&self) -> Option<i64> {
        self.next_ms
    }
}

impl Engine {
    pub(super) fn run_upkeep(&mut self, now: Ts) -> Result<(), store::Error> {
        let due = *self.upkeep.next_ms.get_or_insert(now.ms() + EVERY_MS);
        if now.ms() < due {
            return Ok(());
        }
        let horizon = now.ms() - millis(self.settings.inbox_horizon);
        self.upkeep.inbox_cursor =
            self.store
                .prune_inbox(horizon, self.upkeep.inbox_cursor, ROWS_MAX)?;
        self.store
            .prune_replies(now.ms() - millis(self.settings.reply_horizon), ROWS_MAX)?;
        self.upkeep.next_ms = Some(now.ms() + EVERY_MS);
        Ok(())
    }
}
