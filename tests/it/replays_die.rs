//! Replays over processes that are killed: the role that carries a job out, the broker, the command that waits. The role is a
//! noting one in a process of its own; the audit role and the command line are the shipped ones.
//!
//! `ROADCALL_FULL=1` runs the long form: 100,000 events, of which 50,000 are replayed.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::counting::{Fate, QUEUE, event};
use crate::support::noting::{self, Killable, Run};
use crate::support::processes::Processes;
use crate::support::{eventually, grows_to, sized};
use roadcall::bus::Bus;
use roadcall::node::clock::Clock;

/// Events in one publish.
const PART: u64 = 5_000;

/// Not a test: the process of the noting role.
#[test]
fn process() {
    noting::process();
}

/// A site with `count` events at the sequences 1 to `count`, all of them handled, the audit role, and the noting role.
async fn handled(count: u64) -> (Processes, Killable) {
    let mut site = Processes::new();
    site.apply_topology();
    let bus = site.connect().await;
    for first in (0..count).step_by(PART as usize) {
        let now = Clock.now();
        let part = first..count.min(first + PART);
        let messages = part.map(|n| event(n, n % 7, Fate::Fine, now)).collect();
        let published = bus.publish(messages).await;
        assert!(published.stopped.is_none(), "{:?}", published.stopped);
    }
    site.start("audit");
    site.role_ready("audit").await;
    let role = start(&site).await;
    let live = async || noting::count(site.dir.path(), false);
    grows_to("all to be handled", count, live).await;
    (site, role)
}

async fn start(site: &Processes) -> Killable {
    Killable::start("replays_die::process", &site.url(), site.dir.path()).await
}

fn job(site: &Processes, arguments: &[&str]) -> Value {
    let start = ["replay", "start", "--queue", QUEUE];
    site.json(&[&start, arguments].concat())
}

async fn in_state(site: &Processes, name: &str, states: &[&str]) -> Value {
    eventually("the state of the job", || async {
        let (_, status, _) = site.run(&["replay", "status", name]);
        let there = states.iter().any(|state| status["state"] == *state);
        there.then_some(status)
    })
    .await
}

async fn replayed(site: &Processes, at_least: u64) {
    eventually("events to be replayed", || async {
        (noting::count(site.dir.path(), true) >= at_least).then_some(())
    })
    .await;
}

fn replays_of(numbers: std::ops::Range<u64>) -> Vec<Run> {
    numbers.map(|n| Run { n, replay: true }).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_the_archive_is_handled_again_in_order_and_a_fill_finds_it_done() {
    let count = sized(4_000, 100_000);
    let half = count / 2;
    let (site, _role) = handled(count).await;
    let dir = site.dir.path();
    let (from, to) = ((half + 1).to_string(), count.to_string());
    let window = ["--from-seq", &from, "--to-seq", &to, "--wait"];
    let done = job(
        &site,
        &[&window[..], &["--mode", "force", "--name", "again"]].concat(),
    );
    let told = |done: &Value| {
        let of = |name: &str| done[name].clone();
        (
            of("state"),
            of("done"),
            of("total"),
            of("handled"),
            of("duplicates"),
        )
    };
    let wanted = (
        json!("COMPLETED"),
        json!(half),
        json!(half),
        json!(half),
        json!(0),
    );
    assert_eq!(told(&done), wanted, "{done}");
    assert_eq!(site.json(&["replay", "status", "again"]), done);
    let runs = noting::runs(dir);
    assert_eq!(runs.len() as u64, count + half);
    assert!(
        runs[count as usize..] == replays_of(half..count),
        "in order"
    );

    let done = job(&site, &[&window[..], &["--name", "fill"]].concat());
    let wanted = (
        json!("COMPLETED"),
        json!(half),
        json!(half),
        json!(0),
        json!(half),
    );
    assert_eq!(told(&done), wanted, "{done}");
    assert_eq!(noting::runs(dir).len(), runs.len(), "nothing ran");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_outlives_its_role_the_broker_and_the_command_that_waits() {
    let count = sized(2_000, 20_000);
    let (mut site, role) = handled(count).await;
    let dir = site.dir.path().to_owned();
    role.kill();
    let rate = (count / 6).to_string();
    let to = count.to_string();
    let window = ["--from-seq", "1", "--to-seq", &to, "--mode", "force"];
    let slow = [&window[..], &["--rate", &rate, "--name", "slow"]].concat();
    assert_eq!(job(&site, &slow)["state"], "STARTING");
    let mut waiting = site
        .roadcall()
        .args(["replay", "status", "slow", "--wait"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let status = in_state(&site, "slow", &["STARTING"]).await;
    assert_eq!(status["handled"], 0, "nobody is there to do it: {status}");

    let role = start(&site).await;
    replayed(&site, 1).await;
    role.kill();
    let before = noting::count(&dir, true);
    assert!(before < count, "killed in the middle");
    let role = start(&site).await;
    replayed(&site, before + 1).await;
    assert!(waiting.try_wait().expect("asked").is_none(), "it waits");
    waiting.kill().expect("killed");
    waiting.wait().expect("ended");
    site.kill_broker();
    let now = noting::count(&dir, true);
    assert!(now < count, "the broker died in the middle");
    let done = in_state(&site, "slow", &["COMPLETED"]).await;
    assert_eq!(done["handled"], count, "{done}");
    let runs = noting::runs(&dir);
    let again = &runs[count as usize..];
    assert!(again == replays_of(0..count), "none skipped, none twice");
    drop(role);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_job_stops_within_a_second_of_work() {
    /// Events a second, and so in a page.
    const RATE: u64 = 50;
    let (site, _role) = handled(2_000).await;
    let dir = site.dir.path();
    job(
        &site,
        &[
            "--from-seq",
            "1",
            "--to-seq",
            "2000",
            "--mode",
            "force",
            "--rate",
            "50",
            "--name",
            "slow",
        ],
    );
    replayed(&site, 1).await;
    assert_eq!(
        site.json(&["replay", "cancel", "slow"])["state"],
        "CANCELLING"
    );
    in_state(&site, "slow", &["CANCELLING", "CANCELLED"]).await;
    let then = noting::count(dir, true);
    let done = in_state(&site, "slow", &["CANCELLED"]).await;
    let handled = done["handled"].as_u64().expect("a number");
    assert!(handled <= then + RATE, "{then} were handled: {done}");
    assert_eq!(noting::runs(dir)[2_000..], replays_of(0..handled));
    let (code, ..) = site.run(&["replay", "status", "slow", "--wait"]);
    assert_eq!(code, Some(1), "it did not complete");
}
