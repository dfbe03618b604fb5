//! The consumer: brings a queue's deliveries to the writer, decoded, and its acks back to the broker.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::engine::Work;
use super::intake::Intake;
use super::writer::Job;
use crate::bus::{AckToken, Bus};

/// How long one fetch waits for a first delivery.
const FETCH_WAIT: Duration = Duration::from_secs(5);

/// Reads `queue` until told to stop. The channel to the writer is bounded: a slow writer slows the pull down.
pub async fn consume<B: Bus>(
    bus: B,
    queue: &'static str,
    batch_max: usize,
    mut intake: Intake,
    jobs: mpsc::Sender<Job>,
    stop: CancellationToken,
) {
    let mut epoch = bus.connection_epoch();
    let mut delay = Duration::from_millis(100);
    loop {
        let result = tokio::select! {
            () = stop.cancelled() => return,
            result = round(&bus, queue, batch_max, &mut epoch) => result,
        };
        match result {
            Ok(deliveries) => {
                delay = Duration::from_millis(100);
                for delivery in deliveries {
                    if !hold(&mut intake, &bus, queue, &delivery.subject, &stop).await {
                        return;
                    }
                    let work = Work::Delivery(Box::new(intake.incoming(delivery)));
                    if jobs.send(Job::Do(work)).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                tracing::warn!(queue, %error, "the queue can't be read, trying again");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(delay) => delay = (delay * 2).min(Duration::from_secs(5)),
                }
            }
        }
    }
}

/// Holds a delivery back until its rules are known. False when told to stop.
async fn hold<B: Bus>(
    intake: &mut Intake,
    bus: &B,
    queue: &str,
    subject: &str,
    stop: &CancellationToken,
) -> bool {
    loop {
        match intake.understood(bus, queue, subject, stop).await {
            Ok(go_on) => return go_on,
            Err(error) => tracing::warn!(queue, %error, "the queue can't be asked, trying again"),
        }
        tokio::select! {
            () = stop.cancelled() => return false,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

async fn round<B: Bus>(
    bus: &B,
    queue: &str,
    batch_max: usize,
    epoch: &mut u64,
) -> Result<Vec<crate::bus::Delivery>, crate::bus::Error> {
    let now = bus.connection_epoch();
    if now != *epoch {
        // What was on its way to the connection before, or in the hands of a server process that is gone, would be handed out
        // again only after ack_wait, behind newer ones: reset brings it at once.
        bus.reset(queue).await?;
        *epoch = now;
    }
    bus.fetch(queue, batch_max, FETCH_WAIT).await
}

/// Sends acks until the channel closes. One that is lost only means a second delivery.
pub async fn acknowledge<B: Bus>(bus: B, mut acks: mpsc::UnboundedReceiver<Vec<AckToken>>) {
    while let Some(tokens) = acks.recv().await {
        if let Err(error) = bus.ack(tokens).await {
            tracing::warn!(%error, "acks could not be sent, the deliveries will come again");
        }
    }
}
