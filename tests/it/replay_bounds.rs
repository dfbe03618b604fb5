//! What a replay is told to leave out: bounds of time, a pattern, an entity, a rate; what only counts; and that live traffic
//! goes on beside it.

use std::process::Output;

use serde_json::{Value, json};

use crate::support::counting::{Fate, QUEUE, event, event_id, roadcall};
use crate::support::noting::{self, Noting, Run};
use crate::support::{Site, connect, eventually, site};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, EVENTS, REPLAYS_STREAM};
use roadcall::config::Config;
use roadcall::event::Ts;
use roadcall::node::clock::Clock;
use roadcall::node::registry;
use roadcall::node::run::Node;
use roadcall::role::{Role, RoleName};

/// Events that are there, five groups of ten.
const COUNT: u64 = 50;
const ENTITIES: u64 = 5;

async fn publish(bus: &JetStream, numbers: std::ops::Range<u64>) {
    let now = Clock.now();
    let messages = numbers.map(|n| event(n, n % ENTITIES, Fate::Fine, now));
    let published = bus.publish(messages.collect()).await;
    assert!(published.stopped.is_none(), "{:?}", published.stopped);
}

/// A site with a noting role and the audit role, its events handled, each group taken by the archive at times of its own.
async fn handled() -> (Site, JetStream, Node) {
    let site = site().await;
    let mut config = Config::default();
    config.site.state_dir = site.dir.path().join("state");
    config.bus.url.clone_from(&site.broker.url);
    let dir = site.dir.path().to_owned();
    let build = move |config: &Config, name: RoleName| match name {
        RoleName::Vendor => Some(Box::new(Noting::quiet(&dir)) as Box<dyn Role>),
        other => registry::build(config, other),
    };
    let bus = connect(&site).await;
    let roles = [RoleName::Vendor, RoleName::Audit];
    let node = Node::start_with(bus.clone(), &config, &roles, true, &build).await;
    let node = node.expect("started");
    for first in (0..COUNT).step_by(10) {
        publish(&bus, first..first + 10).await;
        let last = received(&bus, first + 9).await;
        eventually("the clock to go on", || async {
            (Clock.now() > last).then_some(())
        })
        .await;
    }
    eventually("all to be handled", || async {
        (noting::count(site.dir.path(), false) == COUNT).then_some(())
    })
    .await;
    (site, bus, node)
}

async fn end(site: Site, node: Node) {
    let grace = std::time::Duration::from_secs(10);
    node.shutdown(grace).await.expect("stopped in order");
    site.broker.shutdown().await;
}

/// When the archive took event `n`.
async fn received(bus: &JetStream, n: u64) -> Ts {
    let found = roadcall::node::archive::find(bus, event_id(n)).await;
    Ts::from_ms(found.expect("read").expect("there").received_at_ms)
}

fn run(site: &Site, arguments: &[&str]) -> Output {
    let state = site.dir.path().join("state");
    let start = ["replay", "start", "--queue", QUEUE, "--mode", "force"];
    roadcall(site, &state, "", &[&start[..], arguments].concat())
}

fn said(output: &Output) -> Value {
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{words}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Carries a job out; gives its end and the numbers of the events that it brought, in order.
fn replay(site: &Site, arguments: &[&str]) -> (Value, Vec<u64>) {
    let dir = site.dir.path();
    let before = noting::runs(dir).len();
    let done = said(&run(site, &[arguments, &["--wait"]].concat()));
    assert_eq!(done["state"], "COMPLETED", "{done}");
    let runs: Vec<Run> = noting::runs(dir).split_off(before);
    assert!(runs.iter().all(|run| run.replay), "{runs:?}");
    assert_eq!(done["handled"], runs.len(), "{done}");
    (done, runs.iter().map(|run| run.n).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounds_patterns_and_entities_leave_out_what_they_should() {
    let (site, bus, node) = handled().await;
    let at = async |n: u64| received(&bus, n).await.to_string();
    let (start, end_) = (at(10).await, at(30).await);
    let (_, all) = replay(&site, &["--start", &start, "--end", &end_]);
    assert_eq!(
        all,
        (10..30).collect::<Vec<u64>>(),
        "the start counts, the end does not"
    );
    let (_, open) = replay(&site, &["--start", &at(40).await]);
    assert_eq!(open, (40..50).collect::<Vec<u64>>());

    let pattern = r#"{"detail":{"driverId":[{"suffix":"7"}]}}"#;
    let (done, some) = replay(&site, &["--from-seq", "1", "--pattern", pattern]);
    assert_eq!(
        some,
        [0x7, 0x17, 0x27],
        "whose numbers end so in hexadecimal"
    );
    assert_eq!(done["done"], done["total"], "{done}");
    let key = "00000000-0000-0000-0000-000000000003";
    let (_, some) = replay(
        &site,
        &["--from-seq", "1", "--to-seq", "25", "--entity", key],
    );
    assert_eq!(some, [3, 8, 13, 18, 23]);
    let (_, both) = replay(
        &site,
        &[
            "--start",
            &start,
            "--end",
            &end_,
            "--entity",
            key,
            "--pattern",
            pattern,
        ],
    );
    assert_eq!(both, [23], "0x17 of entity 3");

    let (done, none) = replay(&site, &["--start", &start, "--end", &start]);
    assert_eq!((&done["total"], none.len()), (&json!(0), 0), "{done}");
    let (done, none) = replay(&site, &["--start", "2099-01-01T00:00:00Z"]);
    assert_eq!((&done["total"], none.len()), (&json!(0), 0), "{done}");
    end(site, node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_counts_by_type_and_changes_nothing() {
    let (site, bus, node) = handled().await;
    let dir = site.dir.path();
    let all = async || {
        let archive = bus.stream(EVENTS).await.expect("asked").last_seq;
        let jobs = bus.stream(REPLAYS_STREAM).await.expect("asked").last_seq;
        (archive, jobs, noting::runs(dir).len())
    };
    let before = all().await;
    let counted =
        |arguments: &[&str]| said(&run(&site, &[arguments, &["--dry-run", "--json"]].concat()));
    let (start, end_) = (
        received(&bus, 10).await.to_string(),
        received(&bus, 30).await.to_string(),
    );
    let window = ["--start", &start, "--end", &end_];
    let of = |events: u64| json!([{ "detailType": "IncidentRated", "events": events }]);
    assert_eq!(counted(&window), of(20));
    let key = "00000000-0000-0000-0000-000000000003";
    assert_eq!(counted(&["--from-seq", "1", "--entity", key]), of(10));
    let pattern = r#"{"detail":{"driverId":[{"suffix":"7"}]}}"#;
    assert_eq!(counted(&["--from-seq", "1", "--pattern", pattern]), of(3));
    assert_eq!(counted(&["--start", &start, "--end", &start]), json!([]));
    assert_eq!(all().await, before, "nothing has changed");
    end(site, node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_holds_and_live_events_are_handled_beside_the_replay() {
    /// Events a second: the job takes ten of them.
    const RATE: u64 = 5;
    let (site, bus, node) = handled().await;
    let dir = site.dir.path();
    said(&run(
        &site,
        &["--from-seq", "1", "--rate", "5", "--name", "slow"],
    ));
    eventually("the replay to begin", || async {
        (noting::count(dir, true) > 0).then_some(())
    })
    .await;
    publish(&bus, COUNT..COUNT + 20).await;
    eventually("the live events to be handled", || async {
        (noting::count(dir, false) == COUNT + 20).then_some(())
    })
    .await;
    let runs = noting::runs(dir);
    let last = runs.last().expect("some").clone();
    let replayed = runs.iter().filter(|run| run.replay).count() as u64;
    assert!(replayed < COUNT, "the replay went on meanwhile: {last:?}");
    let state = site.dir.path().join("state");
    let status = roadcall(&site, &state, "", &["replay", "status", "slow", "--wait"]);
    let done = said(&status);
    assert_eq!(
        done["handled"], COUNT,
        "what came later is behind its end: {done}"
    );
    let steps = noting::steps(dir);
    assert!(steps.iter().all(|step| *step <= RATE), "{steps:?}");
    end(site, node).await;
}
