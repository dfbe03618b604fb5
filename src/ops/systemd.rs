//! What the service manager is told: ready, what is being done, reloading, stopping, and a beat for its watchdog.
//!
//! A beat says that work gets done, not that a timer runs: each one follows an answer of everything that has to go on.
//! Where no service manager listens, nothing here does anything.

use std::future::Future;
use std::time::Duration;

use sd_notify::NotifyState as S;

/// A beat is due so many times in the watchdog's span: one or two may come late.
const BEATS_IN_SPAN: u32 = 3;

/// Everything that was asked for runs; `status` is what `systemctl status` shows.
pub fn ready(status: &str) {
    tell(&[S::Status(status), S::Ready]);
}

/// What is being done just now.
pub fn status(text: &str) {
    tell(&[S::Status(text)]);
}

/// A reload begins; [`reloaded`] ends it.
pub fn reloading() {
    let since = S::monotonic_usec_now().ok();
    let states: Vec<S<'_>> = [Some(S::Reloading), since].into_iter().flatten().collect();
    tell(&states);
}

/// The reload is over.
pub fn reloaded() {
    tell(&[S::Ready]);
}

/// The process drains and ends.
pub fn stopping() {
    tell(&[S::Status("draining"), S::Stopping]);
}

fn tell(states: &[S<'_>]) {
    // A service manager that does not listen is no reason to stop working.
    let _ = sd_notify::notify(states);
}

/// Feeds the watchdog for as long as `alive` answers yes. While it does not answer, or says no, there is no beat, and the
/// service manager ends the process after the span that it set. Without a watchdog it waits for ever.
pub async fn watch<F>(mut alive: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let Some(span) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    let pause = (span / BEATS_IN_SPAN).max(Duration::from_millis(10));
    loop {
        if alive().await {
            tell(&[S::Watchdog]);
        }
        tokio::time::sleep(pause).await;
    }
}
