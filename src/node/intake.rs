//! What a queue's deliveries count as, and whether this process knows the rules by which they came.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::engine::{Incoming, SharedRoutes};
use super::filters::{FilterLog, passes};
use crate::bus::{self, Bus, Delivery};
use crate::role::Mode;
use crate::routing::Routes;

/// How often the rules are looked at while a delivery waits for newer ones.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Looks between two complaints.
const COMPLAIN_EVERY: u32 = 50;

/// How deliveries of one queue are taken.
#[derive(Debug, Clone, Default)]
pub struct Intake {
    /// Stream identity and last sequence of the archive when the queue was made.
    made_at: Option<(i64, u64)>,
    /// The rules in force; without them everything is taken as it comes.
    routes: Option<SharedRoutes>,
    /// The filters that the queue has by the rules last seen.
    seen: Option<(Arc<Routes>, Vec<String>)>,
}

impl Intake {
    /// As the queue's log and the rules say.
    #[must_use]
    pub fn new(log: Option<&FilterLog>, routes: SharedRoutes) -> Self {
        Self {
            made_at: log.map(|log| (log.stream, log.made_at_seq)),
            routes: Some(routes),
            seen: None,
        }
    }

    /// Decodes a delivery. What lay in the archive when the queue was made is handled as a fill replay is (DESIGN 6).
    #[must_use]
    pub fn incoming(&self, delivery: Delivery) -> Incoming {
        let (stream, seq) = (delivery.stream.0, delivery.seq);
        let mut incoming = Incoming::from_queue(delivery);
        if self
            .made_at
            .is_some_and(|(of, to)| of == stream && seq <= to)
        {
            incoming.mode = Mode::Replay;
        }
        incoming
    }

    /// Waits until this process knows rules that `subject` can have come by: after `topology apply` the server is ahead of it
    /// for a moment, and judged by the old rules the event would be filtered for good. What only old filters let through
    /// needs no waiting; the rules filter it. False when told to stop.
    ///
    /// # Errors
    /// The broker can't be asked.
    pub async fn understood<B: Bus>(
        &mut self,
        bus: &B,
        queue: &str,
        subject: &str,
        stop: &CancellationToken,
    ) -> Result<bool, bus::Error> {
        let mut looks = 0_u32;
        loop {
            if self.knows(queue, subject) || !passes(&bus.filters(queue).await?, subject) {
                return Ok(true);
            }
            if looks.is_multiple_of(COMPLAIN_EVERY) && looks > 0 {
                tracing::warn!(
                    queue,
                    "the queue's filters on the broker are those of newer rules than this process has; it waits for them"
                );
            }
            looks += 1;
            tokio::select! {
                () = stop.cancelled() => return Ok(false),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    fn knows(&mut self, queue: &str, subject: &str) -> bool {
        let Some(routes) = &self.routes else {
            return true;
        };
        let now = Arc::clone(&routes.read().unwrap_or_else(PoisonError::into_inner));
        let fresh = |(of, _): &(Arc<Routes>, Vec<String>)| Arc::ptr_eq(of, &now);
        if !self.seen.as_ref().is_some_and(fresh) {
            self.seen = Some((Arc::clone(&now), now.filters(queue)));
        }
        self.seen
            .as_ref()
            .is_some_and(|(_, filters)| passes(filters, subject))
    }
}
