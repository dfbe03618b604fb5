//! Whether an event is to be handled at all: its rule, its age, and how long it waited (DOMAIN 4.1 and 4.2).

use std::sync::{Arc, PoisonError};

use super::{Engine, millis};
use crate::event::{Event, Ts};
use crate::node::figures::RuleTally;
use crate::role::Mode;
use crate::routing::{Routes, WhenOlder};

/// What the rules say about an event now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// To the handler.
    Handle {
        /// Older than its rule's age, where the rule says `late`.
        late: bool,
        /// Older than its rule's age, where the rule says `escalate`.
        too_old: bool,
    },
    /// No rule brings it to this queue, or the residual predicate says no.
    Filtered,
    /// Too old, where the rule says `drop`.
    Expired,
}

impl Engine {
    /// What rules did so far; goes on counting.
    #[must_use]
    pub fn rules(&self) -> RuleTally {
        self.rules.clone()
    }

    /// Counts a failed run for the rule that brings the event here.
    pub(super) fn failed_by_rule(&mut self, event: &Event) {
        let routes = self.routes();
        if let Some(target) = routes.decide(self.queue, event) {
            self.rules.count(&target.rule, |counts| counts.failed += 1);
        }
    }

    /// The rules in force.
    pub(super) fn routes(&self) -> Arc<Routes> {
        // A poisoned lock only says that a reload panicked while writing a pointer; the old pointer is whole.
        Arc::clone(&self.routes.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// `first` says that it was not asked before, so that the rule counts it.
    pub(super) fn judge(
        &mut self,
        event: &Event,
        mode: Mode,
        received_at_ms: i64,
        now: Ts,
        first: bool,
    ) -> Verdict {
        let routes = self.routes();
        let Some(target) = routes.decide(self.queue, event) else {
            return Verdict::Filtered;
        };
        if first {
            self.rules.count(&target.rule, |counts| counts.matched += 1);
        }
        let Some(max_age) = target.max_event_age else {
            return Verdict::Handle {
                late: false,
                too_old: false,
            };
        };
        let waited_ms = now.ms() - received_at_ms;
        if target.when_older == WhenOlder::Drop && waited_ms > millis(self.settings.drop_after) {
            return Verdict::Expired;
        }
        let old = now.ms() - event.time.ms() > millis(max_age);
        match target.when_older {
            _ if !old => Verdict::Handle {
                late: false,
                too_old: false,
            },
            WhenOlder::Drop => Verdict::Expired,
            WhenOlder::Late => Verdict::Handle {
                late: true,
                too_old: false,
            },
            // For a replayed event drop and escalate both mean drop (DOMAIN 4.1).
            WhenOlder::Escalate if mode == Mode::Replay => Verdict::Expired,
            WhenOlder::Escalate => Verdict::Handle {
                late: false,
                too_old: true,
            },
        }
    }
}
