//! Sends spans in the background: in batches, tried again while the collector can't, dropped in the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Batch, wire};
use crate::provider::CallError;
use crate::provider::otlp::Collector;

/// Spans in one request, give or take a step's.
const REQUEST_SPANS: usize = 512;
/// How long a first span waits for others.
const LINGER: Duration = Duration::from_secs(1);
/// What is waited before each further try of a request. Then it is dropped: newer spans wait behind it.
const WAITS: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

pub(super) struct Exporter {
    pub(super) collector: Collector,
    pub(super) resource: wire::Resource,
    pub(super) waiting: Arc<AtomicUsize>,
    pub(super) closing: CancellationToken,
}

impl Exporter {
    /// Until it is told to close and nothing waits any more.
    pub(super) async fn run(self, mut batches: mpsc::UnboundedReceiver<Batch>) {
        let mut healthy = true;
        loop {
            let taken = self.take(&mut batches).await;
            if taken.is_empty() {
                return;
            }
            let result = self.deliver(&taken).await;
            // Said once, not once a request: a collector may be away for weeks.
            match &result {
                Ok(()) if !healthy => tracing::info!("the collector takes spans again"),
                Err(error) if healthy => {
                    tracing::warn!(?error, "the collector takes no spans, they are dropped");
                }
                _ => {}
            }
            healthy = result.is_ok();
            for batch in &taken {
                let counted = match healthy {
                    true => &batch.counted.exported,
                    false => &batch.counted.dropped,
                };
                counted.fetch_add(batch.spans.len() as u64, Ordering::Relaxed);
            }
            self.waiting.fetch_sub(spans(&taken), Ordering::Relaxed);
        }
    }

    /// What the next request has in it; nothing when it is the end.
    async fn take(&self, batches: &mut mpsc::UnboundedReceiver<Batch>) -> Vec<Batch> {
        let mut taken = Vec::new();
        let first = tokio::select! {
            biased;
            first = batches.recv() => first,
            () = self.closing.cancelled() => None,
        };
        taken.extend(first);
        let linger = tokio::time::sleep(LINGER);
        tokio::pin!(linger);
        while !taken.is_empty() && spans(&taken) < REQUEST_SPANS {
            tokio::select! {
                biased;
                next = batches.recv() => match next {
                    Some(batch) => taken.push(batch),
                    None => break,
                },
                () = self.closing.cancelled() => break,
                () = &mut linger => break,
            }
        }
        taken
    }

    async fn deliver(&self, taken: &[Batch]) -> Result<(), CallError> {
        let body = wire::encode(&self.resource, taken);
        let mut waits = WAITS.into_iter();
        loop {
            let error = match self.collector.send(&body).await {
                Ok(()) => return Ok(()),
                Err(refused @ CallError::Refused(_)) => return Err(refused),
                Err(error) => error,
            };
            let Some(wait) = waits.next().filter(|_| !self.closing.is_cancelled()) else {
                return Err(error);
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.closing.cancelled() => {}
            }
        }
    }
}

fn spans(batches: &[Batch]) -> usize {
    batches.iter().map(|batch| batch.spans.len()).sum()
}
