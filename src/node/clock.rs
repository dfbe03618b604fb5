//! The clock of a running node. Roles and the engine get the time as an argument; it is read only here.

use std::time::Duration;

use chrono::Utc;

use crate::event::{Id, Ts};

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock;

impl Clock {
    /// The time now.
    #[must_use]
    pub fn now(self) -> Ts {
        Ts::from_ms(Utc::now().timestamp_millis())
    }

    /// An id for something that begins here, a command or a first event: UUIDv7, so it is unique and grows with time.
    #[must_use]
    pub fn new_id(self) -> Id {
        Id::from_uuid(uuid::Uuid::now_v7())
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
}
