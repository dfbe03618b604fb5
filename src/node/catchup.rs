//! How a restored role comes to the present (DESIGN 7 and 8): its queue is set back to where the snapshot stood and hands
//! everything from there on out again, in order; the inbox drops what the snapshot has.
//!
//! Until the queue has passed the end that the archive had, timers are held and commands that change something are refused:
//! both would meet a state of long ago. What the role published in its life before it learns first, so that nothing of it is
//! published twice (`store::catch_up`).

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::engine::Work;
use super::writer::Job;
use super::{archive, filters, letter, run};
use crate::bus::jetstream::JetStream;
use crate::bus::{self, Bus, EVENTS, Stored, StreamState};
use crate::event::{Id, decode};
use crate::role::RoleName;
use crate::store::{Archived, CatchUp, Store};

/// How far before the snapshot's time another archive is read: its own times may differ (DESIGN 8).
const EARLIER_MS: i64 = 3_600_000;
/// Messages in one read.
const PAGE: usize = 1000;
/// Between two looks at the queue.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Sets the role's queue back to where its snapshot stood; gives the first sequence that it goes on from.
///
/// # Errors
/// Any bus error.
pub async fn set_back(bus: &JetStream, role: RoleName, owed: &CatchUp) -> Result<u64, bus::Error> {
    let events = bus.stream(EVENTS).await?;
    let from = first_owed(bus, owed, &events).await?;
    let Some(queue) = role.queue() else {
        return Ok(from);
    };
    match bus.reset_to(queue, from).await {
        // A queue without rules has no consumer.
        Ok(()) | Err(bus::Error::Missing(_)) => Ok(from),
        Err(error) => Err(error),
    }
}

async fn first_owed<B: Bus>(
    bus: &B,
    owed: &CatchUp,
    events: &StreamState,
) -> Result<u64, bus::Error> {
    let same = events.identity.0 == owed.stream_id && owed.stream_seq <= events.last_seq;
    if !same {
        let ms = owed.since_ms - EARLIER_MS;
        return archive::first_at(bus, ms, events.first_seq, events.last_seq + 1).await;
    }
    let wanted = owed.stream_seq + 1;
    if wanted < events.first_seq {
        tracing::warn!(
            first_seq = wanted,
            last_seq = events.first_seq - 1,
            "the archive no longer has what came right after the snapshot; what these events changed is lost"
        );
    }
    Ok(wanted.max(events.first_seq))
}

/// Begins to catch up where that is owed, before anything is taken off the queue; gives the sequence to be reached.
///
/// # Errors
/// The broker, or the store.
pub async fn begin(
    bus: &JetStream,
    role: RoleName,
    store: &mut Store,
) -> Result<Option<u64>, run::Error> {
    if !store.catching_up() {
        return Ok(None);
    }
    let owed = store.catch_up().cloned().unwrap_or_default();
    if owed.to_seq.is_some() {
        return Ok(owed.to_seq);
    }
    let events = bus.stream(EVENTS).await?;
    // Again, should the restore have died before it did: nobody took anything since.
    let from = set_back(bus, role, &owed).await?;
    let filter = format!("roadcall.{}.>", store.options().site);
    let mut next = from;
    loop {
        let page = bus.read(EVENTS, &filter, next, PAGE, false).await?;
        let Some(last) = page.last() else { break };
        next = last.seq + 1;
        let own: Vec<Archived> = page.iter().filter_map(|stored| own(stored, role)).collect();
        in_step(store, |store| store.learn_archived(&own))?;
    }
    in_step(store, |store| store.begin_catch_up(events.last_seq))?;
    tracing::info!(
        %role, snapshot = owed.snapshot, from_seq = from, to_seq = events.last_seq,
        "the restored role catches up"
    );
    Ok(Some(events.last_seq))
}

fn in_step<T>(
    store: &mut Store,
    work: impl FnOnce(&mut Store) -> Result<T, crate::store::Error>,
) -> Result<T, crate::store::Error> {
    store.begin()?;
    match work(store) {
        Ok(value) => store.commit().map(|()| value),
        Err(error) => {
            store.rollback();
            Err(error)
        }
    }
}

/// An archived event, if this role published it: `Roadcall-Seq` says so.
fn own(stored: &Stored, role: RoleName) -> Option<Archived> {
    let publisher = stored.headers.get("Roadcall-Seq")?.split(':').next()?;
    if publisher != role.as_str() {
        return None;
    }
    let id = Id::parse(stored.headers.get("Nats-Msg-Id")?).ok()?;
    let content_type = stored.headers.get("Content-Type");
    let n = decode(&stored.subject, content_type, &stored.body)
        .ok()
        .and_then(|event| event.detail["metadata"]["sequence"].as_str()?.parse().ok());
    Some(Archived {
        id,
        seq: stored.seq,
        entity: letter::entity_token(&stored.subject).to_owned(),
        n: n.unwrap_or(0),
    })
}

/// Waits until the queue has passed `to_seq`, and tells the writer.
pub async fn watch(
    bus: JetStream,
    queue: Option<&'static str>,
    to_seq: u64,
    jobs: mpsc::Sender<Job>,
    stop: CancellationToken,
) {
    let mut delay = LOOK_EVERY;
    loop {
        let state = match queue {
            None => None,
            Some(queue) => match bus.queue(queue).await {
                Ok(state) => Some(state),
                Err(error) => {
                    tracing::warn!(queue, %error, "the queue of a restored role can't be asked, trying again");
                    delay = (delay * 2).min(Duration::from_secs(5));
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(delay) => continue,
                    }
                }
            },
        };
        if state.is_none_or(|state| filters::passed(&state, to_seq)) {
            // A writer that has ended is told nothing; the next one asks again.
            let _ = jobs.send(Job::Do(Work::CaughtUp)).await;
            return;
        }
        delay = LOOK_EVERY;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(delay) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;
    use crate::bus::memory::{Faults, MemoryBus};
    use crate::bus::{Headers, Outgoing};

    /// An archive with a message each ten minutes.
    async fn archive() -> MemoryBus {
        let clock = Arc::new(AtomicI64::new(0));
        let bus = MemoryBus::new(Arc::clone(&clock), 1, Faults::default());
        for n in 0..30 {
            clock.store(n * 600_000, Ordering::SeqCst);
            let message = Outgoing {
                subject: "roadcall.hub.vendor.VendorRegistered.k".to_owned(),
                headers: Headers::default(),
                body: bytes::Bytes::new(),
                msg_id: format!("m{n}"),
                expected_last_subject_seq: None,
            };
            assert!(bus.publish(vec![message]).await.stopped.is_none());
        }
        bus
    }

    #[tokio::test]
    async fn the_same_archive_is_read_behind_the_snapshot_and_another_one_an_hour_before_it() {
        let bus = archive().await;
        let events = bus.stream(EVENTS).await.expect("there");
        let owed = CatchUp {
            stream_id: events.identity.0,
            stream_seq: 12,
            since_ms: 20 * 600_000,
            ..CatchUp::default()
        };
        let from = async |owed: &CatchUp| first_owed(&bus, owed, &events).await.expect("asked");
        assert_eq!(from(&owed).await, 13);
        let another = CatchUp {
            stream_id: owed.stream_id + 1,
            ..owed.clone()
        };
        // The message of minute 200 less an hour; the first one came at minute 0.
        assert_eq!(from(&another).await, 15);
        // Rolled back behind the snapshot: the same name, and other messages.
        let rolled_back = CatchUp {
            stream_seq: 31,
            ..owed.clone()
        };
        assert_eq!(from(&rolled_back).await, 15);
        let all = CatchUp {
            stream_seq: 30,
            ..owed
        };
        assert_eq!(from(&all).await, 31);
    }
}
