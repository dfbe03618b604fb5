//! What is wrong between sites: a depot that never came, one that is silent, a hub that is, what did not come, and an alarm
//! of another site.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};

use super::hub::{Hub, expect, findings, healthy};
use crate::sites::place::Place;
use crate::support::free_port;
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, Headers, Outgoing};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_between_sites_are_named() {
    let mut hub = Hub::new().await;
    hub.healthy().await;

    let unused = hub.path("depot-z.site.toml").display().to_string();
    hub.json(&["site", "add", "depot-z", "--out", &unused]);
    hub.found(&[("depot-silent", "depot-z")]).await;
    hub.json(&["site", "remove", "depot-z", "--yes"]);
    hub.healthy().await;

    let more = "[audit]\nalarm_period = '5s'";
    let mut depot = Place::new(&hub.path(""), "depot-a", "depot-a", free_port(), more);
    let file = depot.dir.join("site.toml").display().to_string();
    hub.json(&["site", "add", "depot-a", "--out", &file]);
    depot.start();
    depot.ready().await;
    depot.json(&[
        "auth",
        "create-admin",
        "--phone",
        "+15550002222",
        "--name",
        "Bob",
    ]);
    hub.healthy().await;
    healthy(|| depot.roadcall()).await;

    alarm(&hub, &depot).await;

    depot.kill();
    let found = hub.found(&[("link-down", "depot-a")]).await;
    assert_eq!(found[0]["severity"], "warning");
    depot.start();
    depot.ready().await;
    hub.healthy().await;

    hub.stop("broker");
    let at_depot = || findings(depot.roadcall().args(["--json", "doctor"]));
    let found = expect(&[("link-down", "hub")], at_depot).await;
    let line = found[0]["do"].as_str().expect("a line");
    assert!(line.starts_with("nc -vz 127.0.0.1 "), "{line}");
    hub.start("broker", &[]).await;
    hub.healthy().await;
    healthy(|| depot.roadcall()).await;

    missing(&hub).await;
}

/// A letter at the depot is named there; the hub hears of the alarm.
async fn alarm(hub: &Hub, depot: &Place) {
    let bus = depot.connect().await;
    let mut headers = Headers::default();
    headers.push("Content-Type", "application/json");
    put(
        &bus,
        "roadcall.depot-a.kb.DocumentUploaded.nonsense",
        headers,
        b"{\"id\":",
    )
    .await;
    let has_alarm = |found: &[Value]| {
        found.iter().any(|one| {
            let subject = one["subject"].as_str().unwrap_or_default();
            one["check"] == "alarm"
                && subject.starts_with("dead-letters ")
                && subject.ends_with(" depot-a")
        })
    };
    crate::support::eventually_within(60, "the hub to say so", || async {
        has_alarm(&hub.doctor()).then_some(())
    })
    .await;
    let there = findings(depot.roadcall().args(["--json", "doctor"]));
    let letters: Vec<&str> = there
        .iter()
        .filter(|one| one["check"] == "letters")
        .filter_map(|one| one["subject"].as_str())
        .collect();
    assert!(!letters.is_empty(), "{there:?}");
    assert!(
        !has_alarm(&there),
        "the letters themselves say more: {there:?}"
    );
    for place in [depot.roadcall(), hub.roadcall()] {
        purge_all(place);
    }
    hub.healthy().await;
    healthy(|| depot.roadcall()).await;
}

/// Throws every letter of a site away.
fn purge_all(mut dlq: Command) {
    let (program, before) = (
        dlq.get_program().to_owned(),
        dlq.get_args().map(ToOwned::to_owned).collect::<Vec<_>>(),
    );
    let output = dlq.args(["dlq", "list", "--json"]).output().expect("runs");
    let letters: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let queue = |letter: &Value| letter["queue"].as_str().expect("a queue").to_owned();
    let queues: BTreeSet<String> = letters
        .as_array()
        .expect("a list")
        .iter()
        .map(queue)
        .collect();
    for queue in queues {
        let purge = [
            "dlq",
            "purge",
            "--queue",
            &queue,
            "--all",
            "--because",
            "a test",
            "--yes",
        ];
        let status = Command::new(&program)
            .env_clear()
            .args(&before)
            .args(purge)
            .output();
        assert!(status.expect("runs").status.success());
    }
}

async fn put(bus: &JetStream, subject: &str, headers: Headers, body: &[u8]) {
    let message = Outgoing {
        subject: subject.to_owned(),
        msg_id: format!(
            "{subject} {}",
            headers.get("Roadcall-Seq").unwrap_or_default()
        ),
        headers,
        body: body.to_vec().into(),
        expected_last_subject_seq: None,
    };
    let published = bus.publish(vec![message]).await;
    assert!(published.stopped.is_none(), "{published:?}");
}

/// Events of a third site, as a stick would bring them, with a hole.
async fn missing(hub: &Hub) {
    let bus = hub.connect().await;
    let bring = async |n: u64| {
        let id = format!("00000000-0000-7000-8000-00000000010{n}");
        let at = format!("2026-01-01T00:00:0{n}Z");
        let body = json!({
            "id": id, "source": "roadcall.auth", "detail-type": "UserVerified", "time": at, "site": "depot-q",
            "detail": { "eventId": id, "timestamp": at, "version": "1.0", "userId": id, "verifiedAt": at },
        });
        let mut headers = Headers::default();
        headers.push("Content-Type", "application/json");
        headers.push("Roadcall-Seq", format!("auth:0192f3c1:{n}"));
        let subject = format!("carry.depot-q.auth.UserVerified.{id}");
        put(&bus, &subject, headers, body.to_string().as_bytes()).await;
    };
    bring(1).await;
    bring(5).await;
    let found = hub.found(&[("events-missing", "depot-q")]).await;
    let says = found[0]["finding"].as_str().expect("a text");
    assert!(says.contains("3 events of depot-q"), "{says}");
    assert!(says.contains("numbers 2 to 4 of role auth"), "{says}");
    for n in 2..=4 {
        bring(n).await;
    }
    hub.healthy().await;
}
