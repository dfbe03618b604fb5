//! The clock of a running node. Roles and the engine get the time as an argument; it is read only here.

use std::time::Duration;

use chrono::Utc;

use crate::event::Ts;

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock;

impl Clock {
    /// The time now.
    #[must_use]
    pub fn now(self) -> Ts {
        Ts::from_ms(Utc::now().timestamp_millis())
    }

    /// How long until `time`; nothing when it has passed.
    #[must_use]
    pub fn until(self, time: Ts) -> Duration {
        let left_ms = time.ms() - self.now().ms();
        Duration::from_millis(u64::try_from(left_ms).unwrap_or(0))
    }
}
