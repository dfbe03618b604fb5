//! Queues of a cluster whose leader is another server now.
//!
//! A queue's consumer lives on one of the cluster's servers. When that one dies and our connection is to another, nothing
//! breaks here: but acks on their way to it are lost, and so may be deliveries on their way to us. The next leader would
//! bring both after ack_wait, behind newer ones of their key. So a new leader counts as a new connection, at which every
//! role has what is not acknowledged handed out again, in order, at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::Client;
use futures::{FutureExt, StreamExt};
use tokio_util::sync::CancellationToken;

use crate::bus::{EVENTS, Error};

/// Consumers of a server that died get their leaders within this of each other, mostly.
const TOGETHER: Duration = Duration::from_millis(500);

/// Counts `epoch` and what it gives up whenever consumers on `EVENTS` have got a leader, until `stop`. A single server
/// never says so.
pub(super) async fn watch(
    client: &Client,
    epoch: Arc<AtomicU64>,
    stop: CancellationToken,
) -> Result<Arc<AtomicU64>, Error> {
    let subject = format!("$JS.EVENT.ADVISORY.CONSUMER.LEADER_ELECTED.{EVENTS}.*");
    let mut elected = client
        .subscribe(subject)
        .await
        .map_err(|error| Error::Unavailable(error.to_string()))?;
    let leaders: Arc<AtomicU64> = Arc::default();
    let counted = Arc::clone(&leaders);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                advisory = elected.next() => if advisory.is_none() { return },
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TOGETHER) => {}
            }
            while let Some(Some(_)) = elected.next().now_or_never() {}
            counted.fetch_add(1, Ordering::SeqCst);
            epoch.fetch_add(1, Ordering::SeqCst);
            tracing::info!("queues have another leader in the cluster");
        }
    });
    Ok(leaders)
}
