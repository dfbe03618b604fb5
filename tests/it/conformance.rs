//! One suite over both buses: what the engine and the relay rely on holds on a real nats-server, and the model that the
//! simulation runs on behaves the same.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::support::{Site, connect, eventually, site};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::memory::{Faults, MemoryBus};
use roadcall::bus::topology::{self, Desired, QueueSpec};
use roadcall::bus::{ATOMIC_BATCH_MAX, Bus, DLQ, Delivery, EVENTS, Error, Headers, Outgoing};

/// How long a delivery stays its reader's.
const ACK_WAIT: Duration = Duration::from_secs(1);
/// The queue of everything, and the one of a single type.
const ALL: &str = "all-queue";
const ONE: &str = "one-queue";

/// A broker under test.
trait Rig {
    type B: Bus;
    fn bus(&self) -> &Self::B;
    /// Lets time pass where it does not by itself.
    fn pass(&self, time: Duration);
    /// A new process of the broker over the same store; back when it answers.
    async fn restart(&mut self);
}

struct Real {
    bus: JetStream,
    site: Site,
}

impl Real {
    async fn new() -> Self {
        let site = site().await;
        let bus = connect(&site).await;
        let queue = |name: &str, filter: &str| QueueSpec {
            name: name.to_owned(),
            filters: vec![filter.to_owned()],
            rules: String::new(),
            ack_wait: ACK_WAIT,
            max_deliver: 20,
            max_ack_pending: 1000,
        };
        let desired = Desired {
            site: "hub".to_owned(),
            archive_max_age: Duration::from_secs(3600),
            archive_max_bytes: None,
            letter_max_age: Duration::from_secs(3600),
            replicas: 1,
            copies_max_age: Duration::from_secs(86_400),
            queues: vec![
                queue(ALL, "roadcall.>"),
                queue(ONE, "roadcall.*.vendor.One.*"),
            ],
            links: Vec::new(),
        };
        for change in topology::plan(&bus, &desired).await.expect("planned") {
            topology::apply(&bus, &change).await.expect("applied");
        }
        Self { bus, site }
    }
}

impl Rig for Real {
    type B = JetStream;
    fn bus(&self) -> &JetStream {
        &self.bus
    }
    fn pass(&self, _: Duration) {}
    async fn restart(&mut self) {
        let before = self.bus.connection_epoch();
        self.site.restart().await;
        eventually("a new connection", || async {
            let again = self.bus.connection_epoch() > before;
            (again && self.bus.stream(EVENTS).await.is_ok()).then_some(())
        })
        .await;
    }
}

struct Model {
    bus: MemoryBus,
    now_ms: Arc<AtomicI64>,
}

impl Model {
    fn new() -> Self {
        let now_ms = Arc::new(AtomicI64::new(1_768_471_200_000));
        let bus = MemoryBus::new(Arc::clone(&now_ms), 1, Faults::default());
        bus.create_queue(ALL, vec!["roadcall.>".to_owned()], ACK_WAIT, 1000);
        bus.create_queue(
            ONE,
            vec!["roadcall.*.vendor.One.*".to_owned()],
            ACK_WAIT,
            1000,
        );
        Self { bus, now_ms }
    }
}

impl Rig for Model {
    type B = MemoryBus;
    fn bus(&self) -> &MemoryBus {
        &self.bus
    }
    fn pass(&self, time: Duration) {
        let ms = i64::try_from(time.as_millis()).expect("short");
        self.now_ms.fetch_add(ms, Ordering::SeqCst);
    }
    async fn restart(&mut self) {
        self.bus.restart();
    }
}

fn message(kind: &str, n: u64) -> Outgoing {
    let mut headers = Headers::default();
    headers.push("Content-Type", "text/plain");
    Outgoing {
        subject: format!("roadcall.hub.vendor.{kind}.e{}", n % 7),
        headers,
        body: Bytes::from(format!("body {n}")),
        msg_id: format!("id-{n}"),
        expected_last_subject_seq: None,
    }
}

fn messages(range: std::ops::Range<u64>) -> Vec<Outgoing> {
    range.map(|n| message("One", n)).collect()
}

async fn publish(rig: &impl Rig, messages: Vec<Outgoing>) -> Vec<u64> {
    let published = rig.bus().publish(messages).await;
    assert!(published.stopped.is_none(), "{:?}", published.stopped);
    published.acks.iter().map(|ack| ack.seq).collect()
}

/// Fetches until `count` deliveries have come.
async fn take(rig: &impl Rig, queue: &str, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    for _ in 0..200 {
        if taken.len() == count {
            return taken;
        }
        let wait = Duration::from_millis(100);
        taken.extend(
            rig.bus()
                .fetch(queue, count - taken.len(), wait)
                .await
                .expect("fetched"),
        );
        rig.pass(wait);
    }
    panic!("{} of {count} deliveries came", taken.len());
}

fn seqs(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.seq).collect()
}

async fn ack(rig: &impl Rig, deliveries: &[Delivery]) {
    let tokens = deliveries.iter().map(|delivery| delivery.token.clone());
    rig.bus().ack(tokens.collect()).await.expect("acked");
}

async fn floor_at(rig: &impl Rig, queue: &str, floor: u64) {
    eventually("the acks to arrive", || async {
        let state = rig.bus().queue(queue).await.expect("asked");
        (state.ack_floor_seq == floor).then_some(())
    })
    .await;
}

async fn what_is_published_is_there_in_order(rig: &mut impl Rig) {
    let count = 2 * ATOMIC_BATCH_MAX as u64 + 10;
    let acked = publish(rig, messages(0..count)).await;
    assert_eq!(acked, (1..=count).collect::<Vec<_>>());
    let state = rig.bus().stream(EVENTS).await.expect("asked");
    assert_eq!(
        (state.first_seq, state.last_seq, state.messages),
        (1, count, count)
    );
    let read = rig
        .bus()
        .read(EVENTS, "roadcall.>", 5, 3, false)
        .await
        .expect("read");
    assert_eq!(
        read.iter().map(|stored| stored.seq).collect::<Vec<_>>(),
        [5, 6, 7]
    );
    let sent = message("One", 4);
    assert_eq!(
        (&read[0].subject, &read[0].body),
        (&sent.subject, &sent.body)
    );
    assert_eq!(read[0].headers.get("Nats-Msg-Id"), Some("id-4"));
    assert_eq!(read[0].headers.get("Content-Type"), Some("text/plain"));
    let bare = rig
        .bus()
        .read(EVENTS, &sent.subject, 1, 1000, true)
        .await
        .expect("read");
    assert!(
        bare.iter()
            .all(|stored| stored.body.is_empty() && stored.subject == sent.subject)
    );
    assert_eq!(
        bare.len() as u64,
        (0..count).filter(|n| n % 7 == 4).count() as u64
    );
    assert!(
        rig.bus()
            .read(EVENTS, "roadcall.>", count + 1, 10, true)
            .await
            .expect("read")
            .is_empty()
    );
}

async fn a_repeated_id_is_acknowledged_and_stored_once(rig: &mut impl Rig) {
    publish(rig, messages(0..5)).await;
    let published = rig.bus().publish(messages(3..8)).await;
    assert!(published.stopped.is_none(), "{:?}", published.stopped);
    let acks: Vec<(u64, bool)> = published
        .acks
        .iter()
        .map(|ack| (ack.seq, ack.duplicate))
        .collect();
    assert_eq!(
        acks,
        [(4, true), (5, true), (6, false), (7, false), (8, false)]
    );
    assert_eq!(rig.bus().stream(EVENTS).await.expect("asked").messages, 8);
}

async fn a_letter_fills_only_a_gap(rig: &mut impl Rig) {
    let letter = |id: &str| Outgoing {
        subject: "dlq.all-queue.5".to_owned(),
        msg_id: id.to_owned(),
        expected_last_subject_seq: Some(0),
        ..message("One", 0)
    };
    publish(rig, vec![letter("first")]).await;
    let second = rig.bus().publish(vec![letter("second")]).await;
    assert!(second.stopped.is_none(), "{:?}", second.stopped);
    assert!(second.acks[0].duplicate, "what it was to fill is filled");
    let there = rig
        .bus()
        .read(DLQ, "dlq.>", 1, 10, true)
        .await
        .expect("read");
    assert_eq!(there.len(), 1);
    assert_eq!(there[0].headers.get("Nats-Msg-Id"), Some("first"));
    assert_eq!(rig.bus().stream(DLQ).await.expect("asked").messages, 1);
}

async fn a_queue_hands_out_what_it_filters_once_in_order(rig: &mut impl Rig) {
    let mixed: Vec<Outgoing> = (0..30)
        .map(|n| message(if n % 3 == 0 { "One" } else { "Other" }, n))
        .collect();
    publish(rig, mixed).await;
    let state = rig.bus().queue(ONE).await.expect("asked");
    assert_eq!(
        (state.pending, state.ack_pending, state.ack_floor_seq),
        (10, 0, 0)
    );
    let taken = take(rig, ONE, 10).await;
    assert_eq!(seqs(&taken), (0..10).map(|n| 3 * n + 1).collect::<Vec<_>>());
    assert!(taken.iter().all(|delivery| delivery.delivered == 1));
    assert_eq!(taken[1].body, message("One", 3).body);
    assert_eq!(taken[1].headers.get("Nats-Msg-Id"), Some("id-3"));
    let stream = rig.bus().stream(EVENTS).await.expect("asked");
    assert!(
        taken
            .iter()
            .all(|delivery| delivery.stream == stream.identity)
    );
    ack(rig, &taken).await;
    floor_at(rig, ONE, 28).await;
    rig.pass(2 * ACK_WAIT);
    let nothing = rig
        .bus()
        .fetch(ONE, 10, 2 * ACK_WAIT)
        .await
        .expect("fetched");
    assert!(nothing.is_empty(), "{nothing:?}");
    assert_eq!(
        take(rig, ALL, 30).await.len(),
        30,
        "the queues know nothing of each other"
    );
}

async fn what_is_not_acknowledged_comes_again(rig: &mut impl Rig) {
    publish(rig, messages(0..6)).await;
    let taken = take(rig, ALL, 6).await;
    let (acked, kept): (Vec<Delivery>, Vec<Delivery>) = taken
        .into_iter()
        .partition(|delivery| delivery.seq % 2 == 0);
    ack(rig, &acked).await;
    let again = take(rig, ALL, 3).await;
    assert_eq!(
        seqs(&again).into_iter().collect::<BTreeSet<_>>(),
        seqs(&kept).into_iter().collect()
    );
    assert!(
        again.iter().all(|delivery| delivery.delivered == 2),
        "{again:?}"
    );
}

async fn a_reset_brings_what_was_in_hand_first_and_at_once(rig: &mut impl Rig) {
    publish(rig, messages(0..10)).await;
    let taken = take(rig, ALL, 6).await;
    ack(rig, &taken[..2]).await;
    floor_at(rig, ALL, 2).await;
    publish(rig, messages(10..12)).await;
    let before = rig.bus().reset(ALL).await.expect("reset");
    assert_eq!(before.ack_floor_seq, 2);
    // A standing pull may have taken more than it was asked for so far.
    assert!((6..=12).contains(&before.delivered_seq), "{before:?}");
    assert_eq!(before.ack_pending, before.delivered_seq - 2);
    let again = rig
        .bus()
        .fetch(ALL, 100, ACK_WAIT / 2)
        .await
        .expect("fetched");
    // One fetch brings what has arrived by then, which may be a single message.
    assert_eq!(seqs(&again).first(), Some(&3), "before ack_wait is over");
    let mut all = seqs(&again);
    all.extend(seqs(&take(rig, ALL, 10 - again.len()).await));
    assert_eq!(all, (3..=12).collect::<Vec<_>>());
}

async fn a_new_process_keeps_everything_and_is_told_apart(rig: &mut impl Rig) {
    publish(rig, messages(0..10)).await;
    let taken = take(rig, ALL, 4).await;
    ack(rig, &taken[..2]).await;
    floor_at(rig, ALL, 2).await;
    let (before, epoch) = (
        rig.bus().stream(EVENTS).await.expect("asked"),
        rig.bus().connection_epoch(),
    );
    rig.restart().await;
    let after = rig.bus().stream(EVENTS).await.expect("asked");
    assert_ne!(after.server_id, before.server_id);
    assert!(rig.bus().connection_epoch() > epoch);
    assert_eq!(
        (after.identity, after.messages),
        (before.identity, before.messages)
    );
    rig.bus().reset(ALL).await.expect("reset");
    assert_eq!(seqs(&take(rig, ALL, 8).await), (3..=10).collect::<Vec<_>>());
}

async fn what_is_missing_is_named(rig: &mut impl Rig) {
    let missing = |error: Error| matches!(error, Error::Missing(_));
    let wait = Duration::from_millis(100);
    assert!(missing(
        rig.bus()
            .fetch("no-queue", 1, wait)
            .await
            .expect_err("no queue")
    ));
    assert!(missing(
        rig.bus().queue("no-queue").await.expect_err("no queue")
    ));
    assert!(missing(
        rig.bus().reset("no-queue").await.expect_err("no queue")
    ));
    assert!(missing(
        rig.bus().stream("NONE").await.expect_err("no stream")
    ));
    assert!(missing(
        rig.bus()
            .read("NONE", ">", 1, 1, true)
            .await
            .expect_err("no stream")
    ));
}

/// Each property on each bus, on a broker of its own.
macro_rules! on_both {
    ($($property:ident),* $(,)?) => {
        mod on_nats_server {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $property() {
                let mut rig = Real::new().await;
                super::$property(&mut rig).await;
                rig.site.broker.shutdown().await;
            })*
        }
        mod on_the_model {
            use super::*;
            $(#[tokio::test]
            async fn $property() {
                super::$property(&mut Model::new()).await;
            })*
        }
    };
}

on_both!(
    what_is_published_is_there_in_order,
    a_repeated_id_is_acknowledged_and_stored_once,
    a_letter_fills_only_a_gap,
    a_queue_hands_out_what_it_filters_once_in_order,
    what_is_not_acknowledged_comes_again,
    a_reset_brings_what_was_in_hand_first_and_at_once,
    a_new_process_keeps_everything_and_is_told_apart,
    what_is_missing_is_named,
);
