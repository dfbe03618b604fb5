//! The engine over the broker's model and a virtual clock: each row of its failure table, order and waiting under many
//! failing keys, every event once however often it is delivered, and deaths of the process at chosen moments. `death`
//! has the deaths of real processes.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::support::counting::{
    Counting, Effect, Fate, ILL_MS, QUEUE, effects, event, event_id, tally,
};
use roadcall::bus::memory::{Faults, MemoryBus};
use roadcall::bus::{Bus, DLQ, EVENTS, Outgoing};
use roadcall::event::{Actor, Codec, Site, Ts, ids};
use roadcall::node::engine::{Counts, Engine, Incoming, Settings, Work};
use roadcall::node::relay::Relay;
use roadcall::role::permission::Caller;
use roadcall::role::{Command, Entropy, Mode, Rejection, Role};
use roadcall::routing::Routes;
use roadcall::store::{Identity, Options, Store, Synchronous};

const START_MS: i64 = 1_768_471_200_000;
/// As `topology` sets it for a queue: four batches.
const IN_HAND_MAX: usize = 1024;
const BATCH: usize = 256;

/// A role's process on the model. Dropping `engine` is its death.
struct Bench {
    bus: MemoryBus,
    clock: Arc<AtomicI64>,
    path: PathBuf,
    engine: Option<Engine>,
    _dir: tempfile::TempDir,
}

fn done<F: Future>(future: F) -> F::Output {
    futures::executor::block_on(future)
}

fn at(ms: i64) -> Ts {
    Ts::from_ms(START_MS + ms)
}

impl Bench {
    fn new(in_hand_max: usize) -> Self {
        let clock = Arc::new(AtomicI64::new(START_MS));
        let bus = MemoryBus::new(Arc::clone(&clock), 1, Faults::default());
        let filters = Routes::shipped().filters(QUEUE);
        bus.create_queue(QUEUE, filters, Duration::from_secs(300), in_hand_max);
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("vendor.db");
        let mut bench = Self {
            bus,
            clock,
            path,
            engine: None,
            _dir: dir,
        };
        bench.start();
        bench
    }

    fn now(&self) -> Ts {
        Ts::from_ms(self.clock.load(Ordering::SeqCst))
    }

    /// Opens the store and notes how the last process ended; says whether that was in order.
    fn start(&mut self) -> bool {
        let role = Box::new(Counting::default());
        let options = Options {
            path: self.path.clone(),
            synchronous: Synchronous::Off,
            site: Site::new("hub").expect("valid"),
            role: "vendor".to_owned(),
            queue: QUEUE.to_owned(),
            codec: Codec::Json,
        };
        let fresh = Identity {
            store_id: ids::derive_v8(2, &[b"store"]),
            epoch: "e1".to_owned(),
        };
        let store = Store::open(options, role.migrations(), &fresh).expect("the store opens");
        let routes = Arc::new(RwLock::new(Arc::new(Routes::shipped())));
        let settings = Settings {
            batch_max: BATCH,
            ..Settings::default()
        };
        let mut engine = Engine::new(store, role, routes, settings);
        let clean = engine.start(self.now()).expect("started");
        self.engine = Some(engine);
        clean
    }

    fn engine(&mut self) -> &mut Engine {
        self.engine.as_mut().expect("runs")
    }

    fn die(&mut self) {
        self.engine = None;
    }

    fn counts(&mut self) -> Counts {
        self.engine().counts()
    }

    fn publish(&self, messages: Vec<Outgoing>) {
        let published = done(self.bus.publish(messages));
        assert!(published.stopped.is_none(), "{:?}", published.stopped);
    }

    fn fetch(&self, max: usize) -> Vec<Incoming> {
        let fetched = done(self.bus.fetch(QUEUE, max, Duration::ZERO)).expect("fetched");
        fetched
            .into_iter()
            .map(|delivery| Incoming::new(delivery, Mode::Live))
            .collect()
    }

    fn step(&mut self, incoming: Vec<Incoming>) {
        let work: Vec<Work> = incoming
            .into_iter()
            .map(|incoming| Work::Delivery(Box::new(incoming)))
            .collect();
        let now = self.now();
        let output = self.engine().step(now, &work).expect("stepped");
        done(self.bus.ack(output.acks)).expect("acked");
    }

    /// Takes what the queue has and what is due, until nothing is left to do now.
    fn run(&mut self) {
        loop {
            let incoming = self.fetch(BATCH);
            let idle = incoming.is_empty();
            self.step(incoming);
            let due = self.engine().next_due().expect("asked");
            if idle && due.is_none_or(|due| due > self.now()) {
                return;
            }
        }
    }

    /// The same at `ms` after the start.
    fn run_at(&mut self, ms: i64) {
        self.clock.store(START_MS + ms, Ordering::SeqCst);
        self.run();
    }

    /// What must be handled alone, to the last.
    fn run_alone(&mut self) {
        let now = self.now();
        while self.engine().run_alone(now, true).expect("ran").is_some() {}
    }

    /// Brings the outbox to the broker.
    fn relay(&mut self) {
        let mut relay = Relay::new(self.bus.clone(), &self.path).expect("relay");
        loop {
            let now = self.now();
            let pass = done(relay.pass(now)).expect("passed");
            self.engine().step(now, &pass.work).expect("marked");
            if pass.published == 0 && !pass.more {
                return;
            }
        }
    }

    fn letters(&mut self) -> Vec<Value> {
        self.relay();
        let stored = done(self.bus.read(DLQ, "dlq.>", 1, usize::MAX, false)).expect("read");
        stored
            .iter()
            .map(|stored| serde_json::from_slice(&stored.body).expect("JSON"))
            .collect()
    }

    fn effects(&self) -> Vec<Effect> {
        effects(&self.path)
    }

    /// Numbers of the handled events in the order in which they were handled.
    fn handled(&self) -> Vec<u64> {
        self.effects().iter().map(|effect| effect.n).collect()
    }

    fn command(&mut self, n: u64, how: &str) -> Result<Value, Rejection> {
        let Value::Object(body) = json!({ "n": n, "how": how }) else {
            unreachable!("an object")
        };
        let now = self.now();
        let command = Command {
            id: ids::derive_v7(now.ms(), &[how.as_bytes()]),
            name: "test.write".to_owned(),
            caller: Caller::of(Actor::Operator("test".to_owned())),
            body,
            client_request_id: Some("r1".to_owned()),
            traceparent: None,
            entropy: Entropy([7; 32]),
        };
        let work = [Work::Command(Box::new(command))];
        let mut output = self.engine().step(now, &work).expect("stepped");
        output.replies.remove(0).1
    }

    fn outbox_end(&mut self) -> i64 {
        self.engine().store().outbox_end()
    }
}

fn fine(n: u64, key: u64) -> Outgoing {
    event(n, key, Fate::Fine, at(0))
}

fn text<'v>(letter: &'v Value, name: &str) -> &'v str {
    letter[name].as_str().expect("text")
}

/// Times of a letter's tries, seconds after the start.
fn tries(letter: &Value) -> Vec<i64> {
    let attempts = letter["attempts"].as_array().expect("a list");
    let second = |attempt: &Value| {
        let time: Ts = text(attempt, "at").parse().expect("a time");
        (time.ms() - START_MS) / 1000
    };
    attempts.iter().map(second).collect()
}

#[test]
fn a_transient_failure_is_tried_at_0_300_and_600_seconds_and_then_dead() {
    for (fate, words, panics) in [
        (Fate::Fails, "never", 0),
        (
            Fate::Panics,
            "the handler panicked: a defect of the handler",
            3,
        ),
    ] {
        let mut bench = Bench::new(IN_HAND_MAX);
        bench.publish(vec![event(1, 1, fate, at(0)), fine(2, 1), fine(3, 2)]);
        bench.run();
        assert_eq!(bench.handled(), [3], "its key waits, others go on");
        for ms in [299_999, 300_000, 599_999] {
            bench.run_at(ms);
        }
        assert_eq!(
            bench.counts().failed,
            2,
            "{fate:?}: neither sooner nor later"
        );
        assert!(bench.letters().is_empty());
        bench.run_at(600_000);
        let letters = bench.letters();
        assert_eq!(letters.len(), 1);
        assert_eq!(tries(&letters[0]), [0, 300, 600]);
        assert_eq!(text(&letters[0], "reason"), "handler_failed");
        assert_eq!(text(&letters[0], "eventId"), event_id(1).to_string());
        assert_eq!(text(&letters[0]["attempts"][2], "error"), words);
        assert_eq!(letters[0]["deliveries"], 3);
        assert_eq!(
            bench.handled(),
            [3, 2],
            "its successor goes on behind the letter"
        );
        assert_eq!(bench.counts().panics, panics);
        assert_eq!(tally(&bench.path), 2, "nothing of the failed tries is left");
    }
}

#[test]
fn a_permanent_failure_and_a_refusal_are_dead_at_once() {
    let mut bench = Bench::new(IN_HAND_MAX);
    bench.publish(vec![
        event(1, 1, Fate::Contradicts, at(0)),
        fine(2, 1),
        event(3, 2, Fate::Refused, at(0)),
        fine(4, 2),
    ]);
    bench.run();
    let letters = bench.letters();
    let reasons: Vec<(&str, Vec<i64>)> = letters
        .iter()
        .map(|letter| (text(letter, "reason"), tries(letter)))
        .collect();
    assert_eq!(
        reasons,
        [("conflict", vec![0]), ("handler_failed", vec![0])]
    );
    assert_eq!(bench.handled(), [2, 4]);
    let told = done(
        bench
            .bus
            .read(EVENTS, "roadcall.hub.ops.DeadLetterCreated.*", 1, 9, true),
    );
    assert_eq!(
        told.expect("read").len(),
        2,
        "an event tells of each letter"
    );
}

#[test]
fn an_event_whose_predecessor_is_missing_is_tried_after_each_commit_of_its_key() {
    let mut bench = Bench::new(IN_HAND_MAX);
    bench.publish(vec![event(1, 1, Fate::Waits, at(0)), fine(7, 2)]);
    bench.run();
    bench.run_at(1_000_000);
    assert_eq!(bench.counts().failed, 0, "it spends no attempt");
    bench.publish(vec![fine(8, 1)]);
    bench.run();
    assert_eq!(bench.handled(), [7, 8], "its key goes on without it");
    bench.publish(vec![fine(2, 1), fine(3, 1)]);
    bench.run();
    assert_eq!(bench.handled(), [7, 8, 2, 3, 1]);
    assert!(bench.letters().is_empty());
}

#[test]
fn a_predecessor_that_never_comes_is_a_transient_failure_after_an_hour() {
    let mut bench = Bench::new(IN_HAND_MAX);
    bench.publish(vec![event(1, 1, Fate::Waits, at(0))]);
    bench.run();
    for seconds in [3_599, 3_600, 3_900, 4_199] {
        bench.run_at(seconds * 1000);
    }
    assert!(bench.letters().is_empty());
    bench.run_at(4_200_000);
    assert_eq!(tries(&bench.letters()[0]), [3_600, 3_900, 4_200]);
}

#[test]
fn a_refused_or_failed_command_leaves_nothing_and_its_request_id_is_free() {
    let mut bench = Bench::new(IN_HAND_MAX);
    for (how, code) in [
        ("refused", "VALIDATION_ERROR"),
        ("fails", "SERVICE_UNAVAILABLE"),
        ("panics", "SERVICE_UNAVAILABLE"),
    ] {
        let reply = bench.command(1, how).expect_err("is not done");
        assert_eq!(reply.code.as_str(), code, "{how}");
        assert_eq!((tally(&bench.path), bench.outbox_end()), (0, 0), "{how}");
        let timer = bench.engine().store().next_timer_due().expect("asked");
        assert_eq!(timer, None, "{how}");
    }
    assert_eq!(bench.command(1, "well"), Ok(json!({ "n": 1 })));
    assert_eq!(
        bench.command(1, "again"),
        Ok(json!({ "n": 1 })),
        "the kept reply"
    );
    assert_eq!((tally(&bench.path), bench.outbox_end()), (1, 1));
}

#[test]
fn ten_thousand_events_delivered_a_hundred_times_each_have_ten_thousand_effects() {
    const EVENTS_COUNT: u64 = 10_000;
    const TIMES: usize = 100;
    let seed = 42;
    let mut bench = Bench::new(usize::MAX);
    let fate = |n: u64| {
        if n.is_multiple_of(50) {
            Fate::FailsAtFirst
        } else {
            Fate::Fine
        }
    };
    bench.publish(
        (0..EVENTS_COUNT)
            .map(|n| event(n, n % 1000, fate(n), at(0)))
            .collect(),
    );
    let distinct = bench.fetch(usize::MAX);
    assert_eq!(distinct.len() as u64, EVENTS_COUNT);
    let mut deliveries: Vec<usize> = (0..distinct.len()).flat_map(|at| [at; TIMES]).collect();
    deliveries.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    for (round, batch) in deliveries.chunks(BATCH).enumerate() {
        bench.step(batch.iter().map(|at| distinct[*at].clone()).collect());
        if round == deliveries.len() / BATCH / 2 {
            // The ill ones get well half-way, so that copies of them come before, while they wait, and after.
            bench.clock.fetch_add(300_000, Ordering::SeqCst);
        }
    }
    bench.run();
    let counts = bench.counts();
    assert_eq!(counts.received, EVENTS_COUNT * TIMES as u64, "seed {seed}");
    assert_eq!(counts.handled, EVENTS_COUNT, "seed {seed}");
    assert_eq!(tally(&bench.path), EVENTS_COUNT, "seed {seed}");
    assert_eq!(bench.effects().len() as u64, EVENTS_COUNT, "seed {seed}");
    assert_eq!(
        bench.engine().store().waiting_count().expect("counted"),
        0,
        "seed {seed}"
    );
    bench.relay();
    let archive = done(bench.bus.stream(EVENTS)).expect("asked");
    assert_eq!(
        archive.messages,
        2 * EVENTS_COUNT,
        "one event follows from each, seed {seed}"
    );
    assert!(bench.letters().is_empty());
}

#[test]
fn a_thousand_failing_keys_do_not_stop_the_queue_for_others() {
    const KEYS: u64 = 1_000;
    let mut bench = Bench::new(IN_HAND_MAX);
    // Per ill key one that fails and three behind it, far more than the broker lets out at once; then the sound ones.
    let mut messages: Vec<Outgoing> = (0..KEYS)
        .map(|key| event(key, key, Fate::FailsAtFirst, at(0)))
        .collect();
    messages.extend((KEYS..4 * KEYS).map(|n| fine(n, n % KEYS)));
    messages.extend((4 * KEYS..5 * KEYS).map(|n| fine(n, n)));
    bench.publish(messages);
    bench.run();
    assert_eq!(
        bench.handled(),
        (4 * KEYS..5 * KEYS).collect::<Vec<_>>(),
        "no time has passed"
    );
    let state = done(bench.bus.queue(QUEUE)).expect("asked");
    assert_eq!(
        (state.pending, state.ack_pending),
        (0, 0),
        "what waits, waits here"
    );
    assert_eq!(
        bench.engine().store().waiting_count().expect("counted"),
        4 * KEYS
    );
    bench.publish(vec![fine(5 * KEYS, 5 * KEYS)]);
    bench.run_at(ILL_MS);
    assert_eq!(bench.handled().last(), Some(&(5 * KEYS)));
    bench.run_at(300_000);
    let effects = bench.effects();
    assert_eq!(effects.len() as u64, 5 * KEYS + 1);
    for key in 0..KEYS {
        let of_key = effects
            .iter()
            .filter(|effect| effect.key == key)
            .map(|effect| effect.n);
        let wanted: Vec<u64> = (0..4).map(|round| key + round * KEYS).collect();
        assert_eq!(of_key.collect::<Vec<_>>(), wanted, "in order");
    }
    assert_eq!(bench.engine().store().waiting_count().expect("counted"), 0);
    assert!(bench.letters().is_empty());
}

#[test]
fn what_was_in_hand_at_a_death_comes_first_and_in_order() {
    let mut bench = Bench::new(IN_HAND_MAX);
    bench.publish((0..10).map(|n| fine(n, n % 3)).collect());
    let handled = bench.fetch(3);
    bench.step(handled);
    let in_hand = bench.fetch(4);
    assert_eq!(in_hand.len(), 4);
    bench.die();
    bench.publish((10..12).map(|n| fine(n, n % 3)).collect());
    assert!(!bench.start(), "the death is seen");
    let before = done(bench.bus.reset(QUEUE)).expect("reset");
    assert_eq!(before.ack_pending, 4);
    let again: Vec<Incoming> = bench
        .fetch(BATCH)
        .into_iter()
        .filter(|incoming| incoming.delivery.seq <= before.delivered_seq)
        .collect();
    let now = bench.now();
    let acks = bench.engine().park(now, &again).expect("parked");
    done(bench.bus.ack(acks)).expect("acked");
    assert_eq!(bench.handled(), [0, 1, 2], "parked before any handler runs");
    bench.run_alone();
    assert_eq!(bench.handled(), (0..7).collect::<Vec<_>>());
}

/// Starts a process that takes what is in hand and dies before it handles anything.
fn start_and_die(bench: &mut Bench, parks: bool) {
    assert!(!bench.start());
    done(bench.bus.reset(QUEUE)).expect("reset");
    let in_hand = bench.fetch(BATCH);
    if parks {
        let now = bench.now();
        bench.engine().park(now, &in_hand).expect("parked");
    }
    bench.die();
}

#[test]
fn a_healthy_event_survives_ten_kills() {
    for parks in [false, true] {
        let mut bench = Bench::new(IN_HAND_MAX);
        bench.publish(vec![fine(1, 1), fine(2, 1)]);
        bench.fetch(BATCH);
        bench.die();
        for _ in 0..10 {
            start_and_die(&mut bench, parks);
        }
        bench.start();
        done(bench.bus.reset(QUEUE)).expect("reset");
        bench.run_alone();
        bench.run();
        assert_eq!(bench.handled(), [1, 2]);
        assert!(bench.letters().is_empty());
    }
}

#[test]
fn an_event_that_kills_its_process_is_a_letter_after_its_third_death_alone() {
    let mut bench = Bench::new(IN_HAND_MAX);
    bench.publish(vec![fine(1, 1), fine(2, 2), fine(3, 1)]);
    let in_hand = bench.fetch(BATCH);
    bench.die();
    bench.start();
    let now = bench.now();
    bench.engine().park(now, &in_hand).expect("parked");
    // A death while event 1 runs alone, as the next process finds it: marked as running.
    for death in 1..=3 {
        let connection = rusqlite::Connection::open(&bench.path).expect("opens");
        let marked = connection
            .execute("UPDATE waiting SET running = 1 WHERE stream_seq = 1", ())
            .expect("marked");
        assert_eq!(marked, 1, "death {death}");
        assert!(bench.letters().is_empty(), "death {death}");
        bench.die();
        bench.start();
        if death == 1 {
            let first = bench.engine().run_alone(now, false).expect("ran");
            assert!(first.is_some());
            assert_eq!(bench.handled(), [2], "the others go before the suspect");
        }
    }
    bench.run_alone();
    bench.run();
    let letters = bench.letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(text(&letters[0], "reason"), "process_died");
    assert_eq!(text(&letters[0], "eventId"), event_id(1).to_string());
    let words = text(&letters[0]["attempts"][0], "error");
    assert_eq!(
        words,
        "the process died 3 times while handling this event alone"
    );
    assert_eq!(
        bench.handled(),
        [2, 3],
        "its successor goes on behind the letter"
    );
}
