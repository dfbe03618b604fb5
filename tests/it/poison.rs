//! Bad events among many good ones, on a real broker: each event gets its one outcome, order holds within an entity, and
//! no entity waits for another's. `ROADCALL_FULL=1` makes it a hundred thousand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::counting::{
    Fate, Log, QUEUE, accounted, effects, event, event_id, start, tally,
};
use crate::support::{Site, connect, eventually, eventually_within, site, sized};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, Outgoing};
use roadcall::config::Config;
use roadcall::config::units::Span;
use roadcall::event::DeadReason;
use roadcall::node::clock::Clock;
use roadcall::node::letter::{Letter, of_queue};
use roadcall::node::run::Node;

/// What is published as event `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    Undecodable,
    Panics,
    Flaky,
}

/// One in a hundred of each bad kind.
fn kind(n: u64) -> Kind {
    match n % 100 {
        7 => Kind::Undecodable,
        31 => Kind::Panics,
        63 => Kind::Flaky,
        _ => Kind::Good,
    }
}

fn message(n: u64, key: u64, kind: Kind) -> Outgoing {
    let fate = match kind {
        Kind::Good | Kind::Undecodable => Fate::Fine,
        Kind::Panics => Fate::Panics,
        Kind::Flaky => Fate::FailsTwice,
    };
    let mut message = event(n, key, fate, Clock.now());
    if kind == Kind::Undecodable {
        message.body = message.body.slice(..message.body.len() / 2);
    }
    message
}

async fn publish(bus: &JetStream, messages: Vec<Outgoing>) {
    for part in messages.chunks(1000) {
        let published = bus.publish(part.to_vec()).await;
        assert!(published.stopped.is_none(), "{:?}", published.stopped);
    }
}

fn config(state: &Path, retry_delay: Span) -> Config {
    let mut config = Config::default();
    config.site.state_dir = state.to_owned();
    config.engine.retry_delay = retry_delay;
    config
}

async fn stop(node: Node) {
    let stopped = node.shutdown(Duration::from_secs(30)).await;
    stopped.expect("stopped");
}

/// How many wait in the role, and how many of them for a next try.
fn waiting(database: &Path) -> (u64, u64) {
    let connection = rusqlite::Connection::open(database).expect("opens");
    let sql = "SELECT count(*), count(due_at_ms) FROM waiting";
    let read = connection.query_row(sql, (), |row| Ok((row.get(0)?, row.get(1)?)));
    read.map(|(all, due): (i64, i64)| (all.unsigned_abs(), due.unsigned_abs()))
        .expect("read")
}

/// As if the time for every next try had come. The role must not run.
fn come_due(database: &Path) {
    let connection = rusqlite::Connection::open(database).expect("opens");
    let sql = "UPDATE waiting SET due_at_ms = 0 WHERE due_at_ms IS NOT NULL";
    connection.execute(sql, ()).expect("updated");
}

async fn letters(site: &Site, count: u64) -> Vec<Letter> {
    let bus = connect(site).await;
    eventually("the letters", || async {
        let letters = of_queue(&bus, QUEUE).await.expect("read");
        (letters.len() as u64 == count).then_some(letters)
    })
    .await
}

/// The events that need no other's retry: each until the first of its entity that fails.
fn free(count: u64, keys: u64) -> (Vec<u64>, u64) {
    let (mut failing, mut good, mut held) = (BTreeSet::new(), Vec::new(), 0);
    for n in 0..count {
        match kind(n) {
            // Is dead at once, and holds nobody up.
            Kind::Undecodable => {}
            Kind::Good if !failing.contains(&(n % keys)) => good.push(n),
            Kind::Good => held += 1,
            Kind::Panics | Kind::Flaky => {
                failing.insert(n % keys);
                held += 1;
            }
        }
    }
    (good, held)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_events_are_handled_poison_is_in_letters_and_no_entity_waits_for_another() {
    let (count, site) = (sized(3_000, 100_000), site().await);
    // No common divisor with 100, or the same entities would have all the poison.
    let keys = count / 10 + 7;
    let state: PathBuf = site.dir.path().join("state");
    let database = state.join("vendor.db");
    let log = Log::default();
    // Nothing is tried a second time as long as this node runs.
    let node = start(&site, &config(&state, Span::secs(3600)), &log).await;
    let bus = connect(&site).await;
    let messages = (0..count).map(|n| message(n, n % keys, kind(n)));
    publish(&bus, messages.collect()).await;
    let (good, held) = free(count, keys);
    let patience = 30 + u32::try_from(count / 200).expect("small");
    eventually_within(patience, "all that waits for nobody to be done", || async {
        let all = tally(&database) == good.len() as u64 && waiting(&database).0 == held;
        all.then_some(())
    })
    .await;
    let mut handled: Vec<u64> = effects(&database).iter().map(|effect| effect.n).collect();
    handled.sort_unstable();
    assert_eq!(handled, good, "those and no others");
    stop(node).await;

    come_due(&database);
    let node = start(
        &site,
        &config(&state, Span(Duration::from_millis(20))),
        &log,
    )
    .await;
    eventually_within(patience, "nothing to wait any more", || async {
        (waiting(&database).0 == 0).then_some(())
    })
    .await;
    let of_kind = |wanted: Kind| (0..count).filter(move |n| kind(*n) == wanted);
    let well: Vec<u64> = (0..count)
        .filter(|n| matches!(kind(*n), Kind::Good | Kind::Flaky))
        .collect();
    let mut handled: Vec<u64> = effects(&database).iter().map(|effect| effect.n).collect();
    handled.sort_unstable();
    assert_eq!(handled, well, "each good and each flaky one, once");
    log.assert_order();
    let mut tries: BTreeMap<u64, u32> = BTreeMap::new();
    for (n, _) in log.tries() {
        *tries.entry(n).or_default() += 1;
    }
    for (n, tries) in tries {
        let failed_before = matches!(kind(n), Kind::Flaky | Kind::Panics);
        assert_eq!(tries, if failed_before { 3 } else { 1 }, "event {n}");
    }
    let poison = count / 50;
    let letters = letters(&site, poison).await;
    let of_reason = |reason: DeadReason| letters.iter().filter(move |one| one.reason == reason);
    let died: BTreeSet<String> = of_reason(DeadReason::HandlerFailed)
        .map(|letter| letter.event_id.clone())
        .collect();
    let panicking = of_kind(Kind::Panics).map(|n| event_id(n).to_string());
    assert_eq!(died, panicking.collect());
    assert!(of_reason(DeadReason::HandlerFailed).all(|letter| letter.deliveries == 3));
    let unread: BTreeSet<u64> = of_reason(DeadReason::InvalidEvent)
        .map(|letter| letter.seq)
        .collect();
    // Nothing was published before them.
    assert_eq!(
        unread.len() as u64,
        of_kind(Kind::Undecodable).count() as u64
    );
    assert!(of_reason(DeadReason::InvalidEvent).all(|letter| letter.deliveries == 1));
    let row = accounted(&site, &state);
    assert_eq!(
        (&row["done"], &row["dead"]),
        (&(count - poison).into(), &poison.into())
    );
    stop(node).await;
    accounted(&site, &state);
    site.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incidents_events_keep_their_order_through_every_retry() {
    let (incidents, site) = (sized(40, 4_000), site().await);
    let state = site.dir.path().join("state");
    let database = state.join("vendor.db");
    let log = Log::default();
    let node = start(
        &site,
        &config(&state, Span(Duration::from_millis(30))),
        &log,
    )
    .await;
    let bus = connect(&site).await;
    // Ten events of each incident, one after the other; several fail in each, and which differs from one to the next.
    let kind = |n: u64| match (n / incidents + n % incidents) % 10 {
        1 | 2 | 6 => Kind::Flaky,
        4 => Kind::Panics,
        8 => Kind::Undecodable,
        _ => Kind::Good,
    };
    let count = 10 * incidents;
    let messages = (0..count).map(|n| message(n, n % incidents, kind(n)));
    publish(&bus, messages.collect()).await;
    let well = (0..count).filter(|n| matches!(kind(*n), Kind::Good | Kind::Flaky));
    let well: Vec<u64> = well.collect();
    eventually_within(300, "all to be handled", || async {
        (tally(&database) == well.len() as u64 && waiting(&database).0 == 0).then_some(())
    })
    .await;
    log.assert_order();
    let mut of_incident: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for effect in effects(&database) {
        of_incident.entry(effect.key).or_default().push(effect.n);
    }
    for (key, handled) in &of_incident {
        let expected: Vec<u64> = well
            .iter()
            .copied()
            .filter(|n| n % incidents == *key)
            .collect();
        assert_eq!(handled, &expected, "incident {key}");
    }
    assert_eq!(of_incident.len() as u64, incidents);
    letters(&site, 2 * incidents).await;
    let row = accounted(&site, &state);
    assert_eq!(row["dead"], 2 * incidents, "{row}");
    stop(node).await;
    site.broker.shutdown().await;
}
