//! Whole archives out of one broker and into another: of the same site and of another one, as NDJSON and as CBOR, with an
//! import that is killed in the middle.
//!
//! `ROADCALL_FULL=1` runs the long form with 100,000 events.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::counting::{Fate, event, event_id};
use crate::support::noting::{self, Noting};
use crate::support::{Site, connect, eventually, grows_to, site, sized};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, CARRY, EVENTS, Outgoing};
use roadcall::config::Config;
use roadcall::node::clock::Clock;
use roadcall::node::run::Node;
use roadcall::role::{Role, RoleName};

const ENTITIES: u64 = 50;
/// Events in one publish.
const PART: u64 = 5_000;

/// `roadcall` at the broker of `at`, as the site `name`.
fn command(at: &Site, name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roadcall"));
    command
        .env_clear()
        .args(["--site", name, "--nats", &at.broker.url, "--state-dir"])
        .arg(at.dir.path().join("state"))
        .args(arguments)
        .stdin(Stdio::null());
    command
}

fn run(at: &Site, name: &str, arguments: &[&str]) -> Output {
    command(at, name, arguments).output().expect("runs")
}

fn said(output: &Output) -> Value {
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{words}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

async fn empty(name: &str) -> (Site, JetStream) {
    let at = site().await;
    said(&run(&at, name, &["topology", "apply", "--yes", "--json"]));
    let bus = connect(&at).await;
    (at, bus)
}

/// Event `n` of the site `name`.
fn event_of(name: &str, n: u64) -> Outgoing {
    let mut message = event(n, n % ENTITIES, Fate::Fine, Clock.now());
    message.subject = message
        .subject
        .replace("roadcall.hub.", &format!("roadcall.{name}."));
    let mut body: Value = serde_json::from_slice(&message.body).expect("JSON");
    body["site"] = json!(name);
    message.body = body.to_string().into();
    message
}

/// A broker of the site `name` with `count` events.
async fn filled(name: &str, count: u64) -> (Site, JetStream) {
    let (at, bus) = empty(name).await;
    for first in (0..count).step_by(PART as usize) {
        let part = first..count.min(first + PART);
        let published = bus.publish(part.map(|n| event_of(name, n)).collect()).await;
        assert!(published.stopped.is_none(), "{:?}", published.stopped);
    }
    (at, bus)
}

fn exported(at: &Site, name: &str, format: &str, count: u64) -> PathBuf {
    let file = at.dir.path().join(format!("events.{format}"));
    let out = file.to_str().expect("UTF-8");
    let told = said(&run(
        at,
        name,
        &["archive", "export", "--format", format, "--out", out],
    ));
    assert_eq!(told["events"], count);
    file
}

/// Message ids in the archive's order, by subject.
async fn ids(bus: &JetStream, origin: &str) -> BTreeMap<String, Vec<String>> {
    let (mut ids, mut from) = (BTreeMap::new(), 1);
    let filter = format!("roadcall.{origin}.incident.>");
    loop {
        let page = bus
            .read(EVENTS, &filter, from, 1000, true)
            .await
            .expect("read");
        let Some(last) = page.last() else { return ids };
        from = last.seq + 1;
        for stored in page {
            let id = stored.headers.get("Nats-Msg-Id").expect("an id").to_owned();
            ids.entry(stored.subject).or_insert_with(Vec::new).push(id);
        }
    }
}

/// Imports `file`, is killed when `stream` has some of it, and imports it again to the end. Gives what the second run said.
async fn import_killed(at: &Site, bus: &JetStream, file: &Path, stream: &str) -> Value {
    let name = file.to_str().expect("UTF-8");
    let mut child = command(at, "hub", &["archive", "import", name])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    eventually("some to be there", || async {
        (bus.stream(stream).await.ok()?.messages > 0).then_some(())
    })
    .await;
    assert!(
        child.try_wait().expect("asked").is_none(),
        "killed at its work"
    );
    child.kill().expect("killed");
    child.wait().expect("ended");
    said(&run(at, "hub", &["archive", "import", name]))
}

fn total(told: &Value) -> u64 {
    let number = |name: &str| told[name].as_u64().expect("a number");
    number("imported") + number("skipped")
}

fn whole(at: &Site, name: &str, count: u64) {
    let verified = said(&run(at, name, &["archive", "verify"]));
    assert_eq!(
        (&verified["messages"], &verified["missing"]),
        (&json!(count), &json!([])),
        "{verified}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_goes_into_an_empty_broker_whole_though_the_import_is_killed() {
    let count = sized(6_000, 100_000);
    let (from, bus) = filled("hub", count).await;
    whole(&from, "hub", count);
    let wanted = ids(&bus, "hub").await;
    for format in ["ndjson", "cbor"] {
        let file = exported(&from, "hub", format, count);
        let (to, bus) = empty("hub").await;
        let told = import_killed(&to, &bus, &file, EVENTS).await;
        assert_eq!(total(&told), count, "{told}");
        assert_ne!(told["skipped"], 0, "the first run brought some: {told}");
        assert!(
            ids(&bus, "hub").await == wanted,
            "same ids, same order per entity"
        );
        whole(&to, "hub", count);
        to.broker.shutdown().await;
    }
    from.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_sites_archive_comes_in_under_its_ids_once_and_is_handled_as_a_replay() {
    let count = sized(6_000, 100_000);
    let (from, bus) = filled("depot-a", count).await;
    let wanted = ids(&bus, "depot-a").await;
    let files = ["ndjson", "cbor"].map(|format| exported(&from, "depot-a", format, count));
    from.broker.shutdown().await;
    for file in files {
        let (to, bus) = empty("hub").await;
        let told = import_killed(&to, &bus, &file, CARRY).await;
        assert_eq!(total(&told), count, "{told}");
        assert!(
            ids(&bus, "depot-a").await == wanted,
            "same ids, same order per entity"
        );
        let again = run(
            &to,
            "hub",
            &["archive", "import", file.to_str().expect("UTF-8")],
        );
        assert_eq!(said(&again), json!({ "imported": 0, "skipped": count }));
        whole(&to, "hub", count);
        handled_as_replay(&to, &bus, count).await;
        to.broker.shutdown().await;
    }
}

/// The rules judge them as they do the site's own, and nobody outside is called.
async fn handled_as_replay(at: &Site, bus: &JetStream, count: u64) {
    let mut config = Config::default();
    config.site.state_dir = at.dir.path().join("state");
    let dir = at.dir.path().to_owned();
    let build = |_: &Config, name: RoleName| {
        (name == RoleName::Vendor).then(|| Box::new(Noting::quiet(&dir)) as Box<dyn Role>)
    };
    let node = Node::start_with(bus.clone(), &config, &[RoleName::Vendor], true, &build).await;
    let node = node.expect("started");
    let replayed = async || noting::count(at.dir.path(), true);
    grows_to("all to be handled", count, replayed).await;
    assert_eq!(noting::count(at.dir.path(), false), 0, "none as live");
    let grace = std::time::Duration::from_secs(10);
    node.shutdown(grace).await.expect("stopped in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_topology_gets_the_way_in_and_an_import_before_names_what_is_missing() {
    let (from, _) = filled("depot-a", 20).await;
    let file = exported(&from, "depot-a", "ndjson", 20);
    let name = file.to_str().expect("UTF-8");
    from.broker.shutdown().await;
    let (to, bus) = empty("hub").await;
    // As it was made before there was CARRY.
    let info = bus
        .api("STREAM.INFO.EVENTS", &Value::Null)
        .await
        .expect("asked");
    let mut config = info["config"].clone();
    config["sources"] = json!([]);
    bus.api("STREAM.UPDATE.EVENTS", &config)
        .await
        .expect("updated");
    bus.api("STREAM.DELETE.CARRY", &Value::Null)
        .await
        .expect("deleted");
    let refused = run(&to, "hub", &["archive", "import", name]);
    let words = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        words.contains("CARRY") && words.contains("topology apply"),
        "{words}"
    );

    let planned = run(&to, "hub", &["topology", "plan", "--json"]);
    assert_eq!(planned.status.code(), Some(2));
    let plan: Value = serde_json::from_slice(&planned.stdout).expect("JSON");
    let changes: Vec<(&Value, &Value)> = plan
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| (&one["object"], &one["change"]))
        .collect();
    let safe = json!("safe");
    assert_eq!(
        changes,
        [(&json!("CARRY"), &safe), (&json!("EVENTS"), &safe)]
    );
    said(&run(&to, "hub", &["topology", "apply", "--yes", "--json"]));
    assert_eq!(
        run(&to, "hub", &["topology", "plan"]).status.code(),
        Some(0)
    );
    let told = said(&run(&to, "hub", &["archive", "import", name]));
    assert_eq!(told, json!({ "imported": 20, "skipped": 0 }));
    let first = roadcall::node::archive::find(&bus, event_id(0)).await;
    let first = first.expect("read").expect("there");
    assert_eq!(first.headers.get("Roadcall-Imported"), Some("1"));
    to.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_can_be_nobodys_is_refused_by_its_number() {
    let (to, _) = empty("hub").await;
    let file = to.dir.path().join("wrong.ndjson");
    let name = file.to_str().expect("UTF-8");
    for (subject, says) in [
        ("roadcall.DEPOT.incident.X.k", "site token"),
        ("roadcall.depot-a.*.X.k", "wildcard"),
        ("else.depot-a.incident.X.k", "roadcall."),
    ] {
        let record = json!({
            "seq": 1, "subject": subject, "receivedAt": "2026-01-15T10:00:00.000Z",
            "headers": { "Nats-Msg-Id": "x" }, "bodyHex": "00",
        });
        std::fs::write(&file, record.to_string()).expect("written");
        let refused = run(&to, "hub", &["archive", "import", name]);
        let words = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            words.contains("record 1: subject: ") && words.contains(says),
            "{words}"
        );
    }
    to.broker.shutdown().await;
}
