//! The clock of a running node. Roles and the engine get the time as an argument; it is read only here.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use chrono::Utc;
use uuid::{NoContext, Timestamp, Uuid};

use crate::event::{Id, Ts};

/// How soon a clock that is set by hand is looked at again by whoever waits for a time on it.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Where the spans of the system's clock begin.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The system's clock, or one that is set by hand: a site whose timers are to be seen firing needs no patience then.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    /// Unix milliseconds; `None` for the system's.
    hand: Option<&'static AtomicI64>,
}

/// The system's clock, which is what every process has.
#[allow(non_upper_case_globals)] // Everywhere but in a site that is driven by hand it is the type's only value.
pub const Clock: Clock = Clock { hand: None };

impl Clock {
    /// A clock that shows what `hand` holds, milliseconds since the epoch. It must not go back while a node runs by it.
    #[must_use]
    pub fn by_hand(hand: &'static AtomicI64) -> Self {
        Self { hand: Some(hand) }
    }

    /// The time now.
    #[must_use]
    pub fn now(self) -> Ts {
        Ts::from_ms(match self.hand {
            None => Utc::now().timestamp_millis(),
            Some(hand) => hand.load(Ordering::SeqCst),
        })
    }

    /// An id for something that begins here, a command or a first event: UUIDv7, so it is unique and grows with time.
    #[must_use]
    pub fn new_id(self) -> Id {
        Id::from_uuid(match self.hand {
            None => Uuid::now_v7(),
            Some(_) => {
                let ms = self.now().ms().unsigned_abs();
                let nanos = u32::try_from(ms % 1000).unwrap_or(0) * 1_000_000;
                Uuid::new_v7(Timestamp::from_unix(NoContext, ms / 1000, nanos))
            }
        })
    }

    /// For measuring spans: time since some moment, which unlike [`Self::now`] no correction of the system's clock moves.
    #[must_use]
    pub fn steady(self) -> Duration {
        match self.hand {
            None => START.elapsed(),
            Some(_) => Duration::from_millis(self.now().ms().unsigned_abs()),
        }
    }

    /// How long since `time`; nothing when it is still to come.
    #[must_use]
    pub fn since(self, time: Ts) -> Duration {
        let passed_ms = self.now().ms() - time.ms();
        Duration::from_millis(u64::try_from(passed_ms).unwrap_or(0))
    }

    /// How long until `time`; nothing when it has passed.
    #[must_use]
    pub fn until(self, time: Ts) -> Duration {
        let left_ms = time.ms() - self.now().ms();
        Duration::from_millis(u64::try_from(left_ms).unwrap_or(0))
    }

    /// Returns when the clock shows `time`.
    pub async fn reach(self, time: Ts) {
        if self.hand.is_none() {
            return tokio::time::sleep(self.until(time)).await;
        }
        while self.now() < time {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_clock_set_by_hand_shows_what_it_was_set_to_and_wakes_who_waits_for_it() {
        let hand: &'static AtomicI64 = Box::leak(Box::new(AtomicI64::new(1_000)));
        let clock = Clock::by_hand(hand);
        assert_eq!(
            (clock.now(), clock.steady()),
            (Ts::from_ms(1_000), Duration::from_secs(1))
        );
        let (first, second) = (clock.new_id(), clock.new_id());
        assert_ne!(first, second);
        let waiting = tokio::spawn(clock.reach(Ts::from_ms(2_000)));
        hand.store(1_999, Ordering::SeqCst);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        hand.store(2_000, Ordering::SeqCst);
        waiting.await.expect("woken");
        assert!(clock.new_id() > first, "ids grow with its time");
        assert_eq!(clock.since(Ts::from_ms(500)), Duration::from_millis(1_500));
        assert_eq!(clock.until(Ts::from_ms(500)), Duration::ZERO);
    }
}
