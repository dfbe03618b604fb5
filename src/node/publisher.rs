//! The relay's loop: a thread per role that runs passes, waits for hints, and tells the writer what it learned.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::engine::Work;
use super::relay::Relay;
use super::writer::Job;
use crate::bus::Bus;

/// Looks at the outbox at least so often, in case a hint was lost.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// From one pruning of the kept tail to the next.
const SETTLE_EVERY: Duration = Duration::from_secs(20);

/// How the loop goes.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a published row is kept: twice the broker's sync interval, 60 s at least (DESIGN 4).
    pub keep: Duration,
    /// Wakes the loop.
    pub hint: Arc<Notify>,
    /// The clock.
    pub clock: Clock,
}

/// Runs passes until told to stop, then until the outbox is empty or the broker fails.
pub async fn publish<B: Bus>(
    mut relay: Relay<B>,
    settings: Settings,
    jobs: mpsc::WeakSender<Job>,
    stop: CancellationToken,
) {
    let mut delay = Duration::from_millis(50);
    let mut settled_at = settings.clock.now();
    loop {
        let wait = match relay.pass(settings.clock.now()).await {
            Ok(pass) => {
                if !tell(&jobs, pass.work).await {
                    return;
                }
                match pass.stopped {
                    Some(error) => {
                        tracing::warn!(%error, "publishing stopped, the outbox waits");
                        Some(&mut delay)
                    }
                    None if pass.more => continue,
                    None => None,
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the relay can't go on, trying again");
                Some(&mut delay)
            }
        };
        if let Some(delay) = wait {
            if stop.is_cancelled() {
                return;
            }
            tokio::time::sleep(*delay).await;
            *delay = (*delay * 2).min(Duration::from_secs(5));
            continue;
        }
        delay = Duration::from_millis(50);
        if settings.clock.now() - settled_at
            > chrono::TimeDelta::from_std(SETTLE_EVERY).unwrap_or_default()
        {
            settled_at = settings.clock.now();
            let before_ms =
                settled_at.ms() - i64::try_from(settings.keep.as_millis()).unwrap_or(i64::MAX);
            let settle = relay.server_id().map(|id| Work::Settled {
                server_id: id.to_owned(),
                before_ms,
            });
            if !tell(&jobs, settle.into_iter().collect()).await {
                return;
            }
        }
        tokio::select! {
            () = settings.hint.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Weak: the writer must be able to end when everybody else has let go of it.
async fn tell(jobs: &mpsc::WeakSender<Job>, work: Vec<Work>) -> bool {
    if work.is_empty() {
        return true;
    }
    let Some(jobs) = jobs.upgrade() else {
        return false;
    };
    for item in work {
        if jobs.send(Job::Do(item)).await.is_err() {
            return false;
        }
    }
    true
}
