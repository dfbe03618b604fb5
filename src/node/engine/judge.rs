//! Whether an event is to be handled at all: its rule, its age, and how long it waited (DOMAIN 4.1 and 4.2).

use super::{Engine, millis};
use crate::event::{Event, Ts};
use crate::role::Mode;
use crate::routing::WhenOlder;

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
    pub(super) fn judge(&self, event: &Event, mode: Mode, received_at_ms: i64, now: Ts) -> Verdict {
        // A poisoned lock only says that a reload panicked while writing a pointer; the old pointer is whole.
        let routes = self
            .routes
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone();
        let Some(target) = routes.decide(self.queue, event) else {
            return Verdict::Filtered;
        };
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
