//! The circuit breaker in front of an external service (DOMAIN 6).

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Calls older than this no longer count.
const WINDOW: Duration = Duration::from_secs(60);
/// Fewer calls in the window say nothing.
const CALLS_MIN: usize = 10;
/// How long it stays open before one probe may pass.
const OPEN_FOR: Duration = Duration::from_secs(30);

/// Counts how calls end and refuses new ones while a service is down. Pure: the time is an argument,
/// since a moment that is the caller's to choose.
#[derive(Debug, Default)]
pub struct Breaker {
    calls: VecDeque<(Duration, bool)>,
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum State {
    #[default]
    Closed,
    Open {
        since: Duration,
    },
    /// One probe is out.
    Probing,
}

/// How a breaker stands, for people who look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Calls are made.
    Closed,
    /// None is made.
    Open,
    /// One is made, to see whether the service works again.
    HalfOpen,
}

impl Breaker {
    /// How it stands.
    pub fn standing(&self) -> BreakerState {
        match self.state {
            State::Closed => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::Probing => BreakerState::HalfOpen,
        }
    }

    /// Whether a call may be made now. After a yes the caller must report how it ended.
    pub fn admit(&mut self, now: Duration) -> bool {
        match self.state {
            State::Closed => true,
            State::Open { since } if now.saturating_sub(since) >= OPEN_FOR => {
                self.state = State::Probing;
                true
            }
            State::Open { .. } | State::Probing => false,
        }
    }

    /// Takes in how an admitted call ended.
    pub fn report(&mut self, now: Duration, succeeded: bool) {
        match (self.state, succeeded) {
            (State::Probing, true) => {
                self.calls.clear();
                self.state = State::Closed;
                return;
            }
            (State::Probing, false) => {
                self.state = State::Open { since: now };
                return;
            }
            // A call from before it opened.
            (State::Open { .. }, _) => return,
            (State::Closed, _) => {}
        }
        self.calls.push_back((now, succeeded));
        while self
            .calls
            .front()
            .is_some_and(|(at, _)| now.saturating_sub(*at) > WINDOW)
        {
            self.calls.pop_front();
        }
        let failed = self.calls.iter().filter(|(_, succeeded)| !succeeded);
        if self.calls.len() >= CALLS_MIN && 2 * failed.count() >= self.calls.len() {
            self.state = State::Open { since: now };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn opens_at_half_failed_of_ten_and_not_before() {
        let (mut breaker, start) = (Breaker::default(), seconds(7));
        for n in 0..9 {
            breaker.report(start, n % 2 == 0);
            assert!(breaker.admit(start), "{n}");
        }
        assert_eq!(breaker.standing(), BreakerState::Closed);
        breaker.report(start, false);
        assert!(!breaker.admit(start));
        assert_eq!(breaker.standing(), BreakerState::Open);
    }

    #[test]
    fn old_calls_do_not_count() {
        let (mut breaker, start) = (Breaker::default(), seconds(7));
        (0..9).for_each(|_| breaker.report(start, false));
        breaker.report(start + seconds(61), false);
        assert!(breaker.admit(start + seconds(61)));
    }

    #[test]
    fn after_half_a_minute_one_probe_decides() {
        let (mut breaker, start) = (Breaker::default(), seconds(7));
        (0..10).for_each(|_| breaker.report(start, false));
        assert!(!breaker.admit(start + seconds(29)));
        assert!(breaker.admit(start + seconds(30)));
        assert!(!breaker.admit(start + seconds(31)), "one probe at a time");
        assert_eq!(breaker.standing(), BreakerState::HalfOpen);
        breaker.report(start + seconds(31), false);
        assert!(!breaker.admit(start + seconds(60)));
        assert!(breaker.admit(start + seconds(61)));
        breaker.report(start + seconds(61), true);
        assert!(breaker.admit(start + seconds(61)));
        assert!(breaker.admit(start + seconds(61)), "closed again");
    }
}
