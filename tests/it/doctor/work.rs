//! What is wrong with the work: roles that are down, queues, letters, replays, the topology, rules, a full archive.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::hub::Hub;
use crate::support::eventually_within;
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, EVENTS, Headers, Outgoing};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_the_work_are_named() {
    let mut hub = Hub::new().await;
    hub.healthy().await;
    let bus = hub.connect().await;
    silence(&mut hub).await;
    switched(&hub).await;
    topology(&hub, &bus).await;
    letters(&hub, &bus).await;
    old(&hub).await;
    archive(&hub, &bus).await;
}

fn says(found: &[Value], check: &str) -> String {
    let one = found.iter().find(|one| one["check"] == check);
    let one = one.unwrap_or_else(|| panic!("no {check} in {found:?}"));
    one["finding"].as_str().expect("a text").to_owned()
}

/// A role that does not run, with a replay that waits for it; then one that hangs.
async fn silence(hub: &mut Hub) {
    hub.stop("match");
    hub.breakdown(1);
    let role = ("role-down", "match");
    let found = hub.found(&[role]).await;
    let found = match says(&found, "role-down") {
        words if words.contains("of match-queue wait") => found,
        // The incident's events were not out of its role yet.
        _ => {
            eventually_within(30, "its queue to fill", || async {
                let found = hub.doctor();
                says(&found, "role-down")
                    .contains("of match-queue wait")
                    .then_some(found)
            })
            .await
        }
    };
    assert!(
        found[0]["do"]
            .as_str()
            .is_some_and(|line| line.starts_with("systemctl start roadcall@match")),
        "{found:?}"
    );
    let started = hub.json(&[
        "replay",
        "start",
        "--queue",
        "match-queue",
        "--from-seq",
        "1",
    ]);
    let name = started["name"].as_str().expect("a name").to_owned();
    let found = hub.found(&[role, ("replay-stuck", &name)]).await;
    assert!(
        says(&found, "replay-stuck").contains("does not run"),
        "{found:?}"
    );
    hub.start("match", &[]).await;
    hub.healthy().await;

    hub.signal("match", Signal::STOP);
    let found = hub.found(&[role]).await;
    assert!(
        says(&found, "role-down").contains("does not answer"),
        "{found:?}"
    );
    hub.signal("match", Signal::CONT);
    hub.healthy().await;
}

/// A queue that is paused, empty and not; a rule that is switched off.
async fn switched(hub: &Hub) {
    hub.json(&["queue", "pause", "match-queue"]);
    let found = hub.found(&[("queue-paused", "match-queue")]).await;
    assert_eq!(found[0]["severity"], "warning");
    hub.breakdown(2);
    eventually_within(30, "the queue to fill", || async {
        let found = hub.doctor();
        (found[0]["severity"] == "critical" && says(&found, "queue-paused").contains("wait"))
            .then_some(())
    })
    .await;
    hub.json(&["queue", "resume", "match-queue"]);
    hub.healthy().await;

    let rule = "roadcall-vendor-jobs";
    hub.json(&["rule", "disable", rule]);
    let found = hub.found(&[("rule-disabled", rule)]).await;
    assert!(says(&found, "rule-disabled").contains("vendor-queue"));
    hub.json(&["rule", "enable", rule]);
    hub.healthy().await;
}

async fn info(bus: &JetStream, asked: &str) -> Value {
    let info = bus.api(asked, &Value::Null).await.expect("asked");
    info["config"].clone()
}

async fn update_stream(bus: &JetStream, name: &str, field: &str, value: Value) {
    let mut config = info(bus, &format!("STREAM.INFO.{name}")).await;
    config[field] = value;
    let subject = format!("STREAM.UPDATE.{name}");
    bus.api(&subject, &config).await.expect("updated");
}

/// Objects that somebody changed or removed by hand.
async fn topology(hub: &Hub, bus: &JetStream) {
    let mend = || hub.json(&["topology", "apply", "--yes", "--json"]);
    update_stream(bus, "DLQ", "max_age", json!(3_600_000_000_000_u64)).await;
    let found = hub.found(&[("topology-drift", "DLQ")]).await;
    assert!(says(&found, "topology-drift").contains("max_age"));
    mend();
    hub.healthy().await;

    let mut config = info(bus, "CONSUMER.INFO.EVENTS.kb-queue").await;
    let object = config.as_object_mut().expect("an object");
    object.remove("filter_subject");
    object.insert(
        "filter_subjects".to_owned(),
        json!(["roadcall.hub.kb.Nothing.*"]),
    );
    let request = json!({ "stream_name": EVENTS, "config": config, "action": "update" });
    bus.api("CONSUMER.CREATE.EVENTS.kb-queue", &request)
        .await
        .expect("updated");
    hub.found(&[("topology-filters", "kb-queue")]).await;
    mend();
    hub.healthy().await;

    bus.api("CONSUMER.DELETE.EVENTS.kb-queue", &Value::Null)
        .await
        .expect("deleted");
    let found = hub.found(&[("topology-missing", "kb-queue")]).await;
    assert_eq!(found[0]["severity"], "critical");
    mend();
    hub.healthy().await;

    bus.api("STREAM.DELETE.OBJ_SNAPSHOTS", &Value::Null)
        .await
        .expect("deleted");
    hub.found(&[("topology-missing", "OBJ_SNAPSHOTS")]).await;
    mend();
    hub.healthy().await;
}

/// Every letter is thrown away.
async fn purge(hub: &Hub, queues: &[String]) {
    for queue in queues {
        let purge = [
            "dlq",
            "purge",
            "--queue",
            queue,
            "--all",
            "--because",
            "a test",
            "--yes",
        ];
        hub.json(&purge);
    }
}

/// The queues that have letters.
fn with_letters(hub: &Hub) -> Vec<String> {
    let letters = hub.json(&["dlq", "list", "--json"]);
    let letters = letters.as_array().expect("a list").iter();
    let queue = |letter: &Value| letter["queue"].as_str().expect("a queue").to_owned();
    let mut queues: Vec<String> = letters.map(queue).collect();
    queues.sort();
    queues.dedup();
    queues
}

/// A foreign program writes nonsense.
async fn letters(hub: &Hub, bus: &JetStream) {
    for n in 0..3 {
        let mut headers = Headers::default();
        headers.push("Content-Type", "application/json");
        let message = Outgoing {
            subject: format!("roadcall.hub.kb.DocumentUploaded.nonsense-{n}"),
            headers,
            body: "{\"id\":".into(),
            msg_id: format!("nonsense-{n}"),
            expected_last_subject_seq: None,
        };
        let published = bus.publish(vec![message]).await;
        assert!(published.stopped.is_none());
    }
    let found = eventually_within(
        30,
        "three letters in each queue that takes them",
        || async {
            let found = hub.doctor();
            let three = |one: &&Value| {
                let words = one["finding"].as_str().unwrap_or_default();
                one["check"] == "letters" && words.contains("gave 3 events up, most often (3)")
            };
            let queues = with_letters(hub);
            (!queues.is_empty() && found.iter().filter(three).count() == queues.len())
                .then_some(found)
        },
    )
    .await;
    assert!(
        says(&found, "letters").contains("because of invalid_event"),
        "{found:?}"
    );
    assert!(
        found.iter().all(|one| one["check"] == "letters"),
        "{found:?}"
    );
    purge(hub, &with_letters(hub)).await;
    hub.healthy().await;
}

/// An offer of a cycle that never begins waits, becomes old, and in the end a letter.
async fn old(hub: &Hub) {
    let incident = hub.breakdown(3);
    let id = |n: u64| format!("00000000-0000-7000-8000-{n:012}");
    let accepted = json!({
        "offerId": id(90), "incidentId": incident, "vendorId": id(91), "driverId": id(3), "acceptedBy": "operator:test",
        "distanceMiles": 1.0, "etaMinutes": 5, "cycle": 9, "acceptedAt": "2026-01-01T00:00:00Z",
    });
    let publish = [
        "event",
        "publish",
        "--type",
        "OfferAccepted",
        "--source",
        "roadcall.match",
        "--entity",
        &incident,
        "--detail",
        &accepted.to_string(),
    ];
    hub.json(&publish);
    let database = hub.state().join("incident.db");
    // As if it had come an hour earlier.
    eventually_within(30, "the offer to wait", || async {
        let connection = rusqlite::Connection::open(&database).expect("opens");
        let sql = "UPDATE waiting SET received_at_ms = received_at_ms - 3600000 WHERE received_at_ms > 3600000";
        (connection.execute(sql, ()).ok()? > 0).then_some(())
    })
    .await;
    eventually_within(30, "the queue to be found old", || async {
        let found = hub.doctor();
        let mut old = found.iter().filter(|one| one["check"] == "queue-old");
        let one = old.next()?;
        (one["subject"] == "incident-queue" && one["severity"] == "critical").then_some(())
    })
    .await;
    eventually_within(60, "a letter", || async {
        let found = hub.doctor();
        let letter = |one: &&Value| one["check"] == "letters" && one["subject"] == "incident-queue";
        let one = found.iter().find(letter)?;
        one["finding"]
            .as_str()?
            .contains("OfferAccepted")
            .then_some(())
    })
    .await;
    purge(hub, &with_letters(hub)).await;
    hub.healthy().await;
}

/// The archive takes nothing more, and what roles make stays with them.
async fn archive(hub: &Hub, bus: &JetStream) {
    let bytes = bus.stream(EVENTS).await.expect("asked").bytes;
    update_stream(bus, EVENTS, "max_bytes", json!(bytes)).await;
    hub.breakdown(4);
    let database = hub.state().join("incident.db");
    let found = eventually_within(60, "an outbox that is stuck", || async {
        let found = hub.doctor();
        let stuck = found
            .iter()
            .any(|one| one["check"] == "outbox-stuck" && one["subject"] == "incident");
        if !stuck {
            // As if it had been made an hour earlier.
            let connection = rusqlite::Connection::open(&database).ok()?;
            let sql = "UPDATE outbox SET created_at_ms = created_at_ms - 3600000
                WHERE n > coalesce((SELECT max(last_n) FROM published), 0)";
            connection.execute(sql, ()).ok()?;
        }
        stuck.then_some(found)
    })
    .await;
    let full = found.iter().find(|one| one["check"] == "archive-full");
    assert_eq!(full.expect("full")["severity"], "critical");
    says(&found, "topology-drift");
    hub.json(&["topology", "apply", "--yes", "--json"]);
    hub.healthy().await;
}
