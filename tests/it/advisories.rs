//! What no engine answered: the server's advisories become letters, the role that owns the queue takes note of them; and
//! who owns a queue at all.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Site, connect, eventually, site};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{ADVISORY_QUEUE, Bus, DLQ, EVENTS, Headers, Outgoing, Stored};
use roadcall::config::Config;
use roadcall::config::units::Span;
use roadcall::event::{Id, ids};
use roadcall::node::engine::Counts;
use roadcall::node::run::{Node, desired, routes, settle_topology};
use roadcall::role::RoleName;

const QUEUE: &str = "incident-queue";
const ADVISORY: &str = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.EVENTS.incident-queue";

fn config(site: &Site, state: &str) -> Config {
    let mut config = Config::default();
    config.site.state_dir = site.dir.path().join(state);
    config.bus.url.clone_from(&site.broker.url);
    config.engine.ack_wait = Span::secs(1);
    config
}

async fn start(site: &Site, state: &str, roles: &[RoleName]) -> Node {
    Node::start(connect(site).await, &config(site, state), roles, true)
        .await
        .expect("started")
}

/// The queues of both roles, before either runs.
async fn topology(site: &Site, bus: &JetStream) {
    let config = config(site, "state");
    let roles = [RoleName::Incident, RoleName::Audit];
    let wanted = desired(&config, &routes(&config).expect("valid"), &roles);
    settle_topology(bus, &wanted, true).await.expect("made");
}

async fn stop(node: Node) {
    node.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");
}

fn id(n: u8) -> Id {
    ids::derive_v7(1, &[&[n]])
}

/// Publishes an event of an incident that nobody knows; handling it means doing nothing.
async fn arrival(bus: &JetStream, event_id: Id) -> u64 {
    let detail = json!({
        "eventId": event_id, "timestamp": "2026-01-15T10:00:00.000Z", "version": "1.0", "incidentId": id(10),
        "vendorId": id(2), "driverId": id(1), "sessionId": id(3), "arrivedAt": "2026-01-15T10:00:00.000Z",
        "location": { "lat": 40.0, "lon": -74.0 }, "distanceMeters": 12.5,
    });
    let event = json!({
        "id": event_id, "source": "roadcall.tracking", "detail-type": "VendorArrived",
        "time": "2026-01-15T10:00:00.000Z", "site": "hub", "detail": detail,
    });
    let subject = format!("roadcall.hub.tracking.VendorArrived.{}", id(10));
    put(bus, &subject, &event_id.to_string(), event.to_string()).await
}

async fn put(bus: &JetStream, subject: &str, msg_id: &str, body: String) -> u64 {
    let message = Outgoing {
        subject: subject.to_owned(),
        headers: Headers::default(),
        body: body.into(),
        msg_id: msg_id.to_owned(),
        expected_last_subject_seq: None,
    };
    let published = bus.publish(vec![message]).await;
    assert!(published.stopped.is_none(), "{:?}", published.stopped);
    published.acks[0].seq
}

async fn letters(bus: &JetStream) -> Vec<Stored> {
    bus.read(DLQ, "dlq.>", 1, 100, false).await.expect("read")
}

async fn told(bus: &JetStream) -> usize {
    let filter = "roadcall.hub.ops.DeadLetterCreated.*";
    let read = bus.read(EVENTS, filter, 1, 100, true).await;
    read.expect("read").len()
}

/// Waits until every one of `count` advisories is acknowledged, and what they led to is published.
async fn advisories_done(bus: &JetStream, count: u64) {
    eventually("the advisories are acknowledged", || async {
        let state = bus.queue(ADVISORY_QUEUE).await.expect("asked");
        let done = state.ack_floor_seq >= count && state.pending + state.ack_pending == 0;
        done.then_some(())
    })
    .await;
}

fn counts(node: &Node, wanted: RoleName) -> Counts {
    let all = node.counts();
    all.iter()
        .find(|(role, _)| *role == wanted)
        .map(|(_, counts)| *counts)
        .expect("runs")
}

/// Takes the queue's next event until the server gives it up: nobody ever answers. The pull stays, or the server would
/// not say so.
async fn read_without_answer(reader: &JetStream) {
    let mut seen = 0;
    while seen < 3 {
        let wait = Duration::from_secs(5);
        for delivery in reader.fetch(QUEUE, 10, wait).await.expect("fetched") {
            seen = seen.max(delivery.delivered);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_reader_answers_gets_one_letter_and_is_redriven_by_itself_once() {
    let site = site().await;
    let bus = connect(&site).await;
    topology(&site, &bus).await;
    let seq = arrival(&bus, id(20)).await;
    let reader = connect(&site).await;
    read_without_answer(&reader).await;

    let audit = start(&site, "audit", &[RoleName::Audit]).await;
    let stored = eventually("the letter", || async { letters(&bus).await.pop() }).await;
    assert_eq!(stored.subject, format!("dlq.{QUEUE}.{seq}"));
    let letter: Value = serde_json::from_slice(&stored.body).expect("JSON");
    let said = |name: &str| letter[name].clone();
    assert_eq!(
        [
            said("reason"),
            said("eventId"),
            said("detailType"),
            said("entity"),
            said("deliveries")
        ],
        [
            json!("delivery_exhausted"),
            json!(id(20)),
            json!("VendorArrived"),
            json!(id(10)),
            json!(3)
        ]
    );
    assert!(
        said("payload")
            .as_str()
            .is_some_and(|text| text.contains("distanceMeters"))
    );

    // The server's words again, before and after a restart of the audit role, and words that make no letter.
    let advisory = bus
        .read("ADVISORIES", ">", 1, 1, false)
        .await
        .expect("read");
    let words = String::from_utf8(advisory[0].body.to_vec()).expect("text");
    put(&bus, ADVISORY, "again", words.clone()).await;
    put(&bus, ADVISORY, "junk", "{".to_owned()).await;
    put(&bus, ADVISORY, "beyond", with_seq(&words, 1_000_000)).await;
    advisories_done(&bus, 4).await;
    stop(audit).await;
    put(&bus, ADVISORY, "once more", words).await;
    let audit = start(&site, "audit", &[RoleName::Audit]).await;
    advisories_done(&bus, 5).await;
    eventually("the event that tells of it", || async {
        (told(&bus).await == 1).then_some(())
    })
    .await;
    let after = letters(&bus).await;
    assert_eq!(after.len(), 1);
    assert_eq!(after[0].seq, stored.seq);
    drop(reader);

    // Its own role, which is handed everything from the start: the first event is dead and does not run from the queue. Its
    // letter is redriven, so that it runs once; another start does nothing more.
    let delete = format!("CONSUMER.DELETE.{EVENTS}.{QUEUE}");
    bus.api(&delete, &Value::Null).await.expect("deleted");
    arrival(&bus, id(21)).await;
    let incident = start(&site, "incident", &[RoleName::Incident]).await;
    eventually("both are handled", || async {
        (counts(&incident, RoleName::Incident).handled == 2).then_some(())
    })
    .await;
    eventually("the queue is empty", || async {
        let state = bus.queue(QUEUE).await.expect("asked");
        (state.pending + state.ack_pending == 0).then_some(())
    })
    .await;
    let counted = counts(&incident, RoleName::Incident);
    assert_eq!((counted.received, counted.duplicates), (2, 1));
    eventually("the letter is taken back", || async {
        let left = letters(&bus).await.pop()?;
        let redriven = left.headers.get("Roadcall-Letter") == Some("redriven");
        (left.body.is_empty() && redriven).then_some(())
    })
    .await;
    assert_eq!((letters(&bus).await.len(), told(&bus).await), (1, 1));
    stop(incident).await;
    let incident = start(&site, "incident", &[RoleName::Incident]).await;
    arrival(&bus, id(22)).await;
    eventually("the next event is handled", || async {
        (counts(&incident, RoleName::Incident).handled == 1).then_some(())
    })
    .await;
    let redriven = "roadcall.hub.ops.DeadLetterRedriven.*";
    let redriven = bus.read(EVENTS, redriven, 1, 10, true).await.expect("read");
    assert_eq!(redriven.len(), 1);
    stop(incident).await;
    stop(audit).await;
    site.broker.shutdown().await;
}

fn with_seq(advisory: &str, seq: u64) -> String {
    let mut value: Value = serde_json::from_str(advisory).expect("JSON");
    value["stream_seq"] = json!(seq);
    value.to_string()
}

/// `roadcall audit` of the queue; its exit code, and its one row.
fn audit(site: &Site) -> (Option<i32>, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_roadcall"))
        .env_clear()
        .args(["--nats", &site.broker.url, "--state-dir"])
        .arg(site.dir.path().join("incident"))
        .args(["audit", "--queue", QUEUE, "--json"])
        .output()
        .expect("runs");
    let words = String::from_utf8_lossy(&output.stderr);
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{words}"));
    (output.status.code(), rows[0].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_finds_what_no_advisory_told_of_and_it_is_handled_once() {
    let site = site().await;
    let bus = connect(&site).await;
    topology(&site, &bus).await;
    for n in 20..23 {
        arrival(&bus, id(n)).await;
    }
    let reader = connect(&site).await;
    read_without_answer(&reader).await;
    drop(reader);
    // What the server said of it is gone before anybody could read it.
    eventually("the advisories", || async {
        let state = bus.stream("ADVISORIES").await.expect("asked");
        (state.messages == 3).then_some(())
    })
    .await;
    bus.api("STREAM.PURGE.ADVISORIES", &Value::Null)
        .await
        .expect("purged");
    let auditor = start(&site, "audit", &[RoleName::Audit]).await;
    let (code, row) = eventually("nothing to be in hand any more", || async {
        let (code, row) = audit(&site);
        (row["pending"] == 0).then_some((code, row))
    })
    .await;
    assert_eq!((code, &row["unaccounted"]), (Some(2), &json!(3)), "{row}");
    eventually("the letters", || async {
        (letters(&bus).await.len() == 3).then_some(())
    })
    .await;
    audit(&site);
    let incident = start(&site, "incident", &[RoleName::Incident]).await;
    eventually("all to be handled", || async {
        (counts(&incident, RoleName::Incident).handled == 3).then_some(())
    })
    .await;
    eventually("every letter to be taken back", || async {
        let left = letters(&bus).await;
        left.iter()
            .all(|letter| letter.body.is_empty())
            .then_some(())
    })
    .await;
    let (code, row) = audit(&site);
    assert_eq!(
        (code, &row["done"], &row["unaccounted"]),
        (Some(0), &json!(3), &json!(0)),
        "{row}"
    );
    assert_eq!(told(&bus).await, 3, "one letter each");
    stop(incident).await;
    stop(auditor).await;
    site.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_for_an_event_that_was_handled_after_all_is_taken_back() {
    let site = site().await;
    let bus = connect(&site).await;
    let roles = [RoleName::Incident, RoleName::Audit];
    let node = start(&site, "state", &roles).await;
    let seq = arrival(&bus, id(20)).await;
    eventually("the event is handled", || async {
        (counts(&node, RoleName::Incident).handled == 1).then_some(())
    })
    .await;
    let advisory = json!({
        "type": "io.nats.jetstream.advisory.v1.terminated", "id": "x", "timestamp": "2099-01-01T00:00:00.123456789Z",
        "stream": "EVENTS", "consumer": QUEUE, "consumer_seq": 1, "stream_seq": seq, "deliveries": 1,
        "reason": "bad schema", "domain": "hub",
    });
    let elsewhere = advisory.to_string().replace("\"hub\"", "\"depot-a\"");
    put(
        &bus,
        &ADVISORY.replace("MAX_DELIVERIES", "MSG_TERMINATED"),
        "a",
        elsewhere,
    )
    .await;
    advisories_done(&bus, 1).await;
    assert_eq!(letters(&bus).await.len(), 0, "another site's");
    put(
        &bus,
        &ADVISORY.replace("MAX_DELIVERIES", "MSG_TERMINATED"),
        "b",
        advisory.to_string(),
    )
    .await;
    let stored = eventually("the letter", || async { letters(&bus).await.pop() }).await;
    let letter: Value = serde_json::from_slice(&stored.body).expect("JSON");
    assert_eq!(
        letter["attempts"][0]["error"],
        "a reader of the queue terminated it: bad schema"
    );
    stop(node).await;
    let node = start(&site, "state", &roles).await;
    eventually("the letter is taken back", || async {
        let left = letters(&bus).await.pop()?;
        let taken_back =
            left.body.is_empty() && left.headers.get("Roadcall-Letter") == Some("redriven");
        taken_back.then_some(())
    })
    .await;
    stop(node).await;
    site.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_database_is_refused_until_it_adopts_the_queue() {
    let site = site().await;
    let bus = connect(&site).await;
    stop(start(&site, "first", &[RoleName::Incident]).await).await;
    stop(start(&site, "first", &[RoleName::Incident]).await).await;
    let refused = refusal(&site, "second").await;
    assert!(
        refused.contains("incident-queue belongs to another database of role incident")
            && refused.contains("roadcall queue adopt incident-queue --yes"),
        "{refused}"
    );
    let (code, words) = adopt(&site, "second", &["incident-queue"]);
    assert_eq!(code, Some(64), "{words}");
    let (code, words) = adopt(&site, "nowhere", &["incident-queue", "--yes"]);
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("has no database here"), "{words}");
    let (code, words) = adopt(&site, "second", &["incident-queue", "--yes"]);
    assert_eq!(code, Some(0), "{words}");
    stop(start(&site, "second", &[RoleName::Incident]).await).await;
    assert!(refusal(&site, "first").await.contains("queue adopt"));
    bus.close().await;
    site.broker.shutdown().await;

    // A broker with an empty store knows no owner: the first to come is it.
    let fresh = crate::support::site().await;
    let mut moved = config(&fresh, "unused");
    moved.site.state_dir = site.dir.path().join("first");
    let node = Node::start(connect(&fresh).await, &moved, &[RoleName::Incident], true).await;
    stop(node.expect("started")).await;
    fresh.broker.shutdown().await;
}

async fn refusal(site: &Site, state: &str) -> String {
    let bus = connect(site).await;
    let started = Node::start(bus, &config(site, state), &[RoleName::Incident], true).await;
    started.err().expect("refused").to_string()
}

fn adopt(site: &Site, state: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_roadcall"))
        .env_clear()
        .args(["--nats", &site.broker.url, "--state-dir"])
        .arg(site.dir.path().join(state))
        .args(["queue", "adopt"])
        .args(arguments)
        .output()
        .expect("runs");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), words)
}
