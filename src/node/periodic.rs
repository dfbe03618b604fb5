//! What is looked at again each period, until told to stop.

use std::fmt::Display;
use std::future::Future;

use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// Somebody who looks.
pub(super) trait Looks {
    /// Why a look broke off; the next one does it again.
    type Error: Display;

    /// What is said before the error's own words.
    const TROUBLE: &'static str;

    /// One look.
    fn look(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Has it look at each tick until told to stop. The same error is told once, until it is another one or none.
pub(super) async fn run<L: Looks>(mut it: L, mut ticks: Interval, stop: CancellationToken) {
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let looked = tokio::select! {
            () = stop.cancelled() => return,
            looked = it.look() => looked,
        };
        let error = looked.err().map(|error| error.to_string());
        if let Some(error) = error.as_ref().filter(|_| error != told) {
            tracing::warn!(error, "{}", L::TROUBLE);
        }
        told = error;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    struct Counting(Arc<AtomicUsize>);

    impl Looks for Counting {
        type Error = String;
        const TROUBLE: &'static str = "trouble";

        async fn look(&mut self) -> Result<(), String> {
            match self.0.fetch_add(1, Ordering::SeqCst) {
                3 => std::future::pending().await,
                n => Err(format!("look {n}")),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_looks_each_period_whatever_comes_of_it_and_ends_in_the_middle_of_a_look() {
        let (looks, stop) = (Arc::<AtomicUsize>::default(), CancellationToken::new());
        let ticks = tokio::time::interval(Duration::from_secs(1));
        let running = tokio::spawn(run(Counting(Arc::clone(&looks)), ticks, stop.clone()));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(looks.load(Ordering::SeqCst), 4);
        stop.cancel();
        running.await.expect("ended");
    }
}
