//! A whole site on a real broker: the incident from breakdown to arrival, foreign events, letters, wrong input.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::{Site, connect, eventually, site};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, DLQ, EVENTS, Headers};
use roadcall::config::Config;
use roadcall::event::{Id, ids};
use roadcall::node::run::{Node, desired, routes, settle_topology};
use roadcall::role::RoleName;

fn config(site: &Site) -> Config {
    let mut config = Config::default();
    config.site.state_dir = site.dir.path().join("state");
    config.bus.url.clone_from(&site.broker.url);
    config
}

fn id(n: u8) -> Id {
    ids::derive_v7(1, &[&[n]])
}

async fn call(bus: &JetStream, actor: &str, command: &str, body: Value) -> Value {
    let mut headers = Headers::default();
    headers.push("Roadcall-Actor", actor);
    let reply = bus
        .call(
            "hub",
            command,
            &headers,
            body.to_string().into_bytes(),
            Duration::from_secs(5),
        )
        .await;
    serde_json::from_slice(&reply.expect("a reply").body).expect("JSON")
}

fn event(event_id: Id, incident: Id, detail: Value) -> Vec<u8> {
    let mut detail = detail;
    detail["eventId"] = json!(event_id);
    detail["timestamp"] = json!("2026-01-15T10:00:00.000Z");
    detail["version"] = json!("1.0");
    detail["incidentId"] = json!(incident);
    let event = json!({
        "id": event_id, "source": "roadcall.tracking", "detail-type": "VendorArrived",
        "time": "2026-01-15T10:00:00.000Z", "site": "hub", "detail": detail,
    });
    event.to_string().into_bytes()
}

fn arrival() -> Value {
    json!({
        "vendorId": id(2), "driverId": id(1), "sessionId": id(3), "arrivedAt": "2026-01-15T10:00:00.000Z",
        "location": { "lat": 40.0, "lon": -74.0 }, "distanceMeters": 12.5,
    })
}

/// Publishes with nats-py: no code of ours between the body and the stream.
async fn publish_foreign(site: &Site, incident: Id, msg_id: Id, body: Vec<u8>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let client = root.join("target/python");
    assert!(
        client.join("nats").is_dir(),
        "no nats-py; run `make python-client`"
    );
    let mut python = tokio::process::Command::new("python3");
    python
        .env("PYTHONPATH", client)
        .arg(root.join("tests/data/foreign.py"))
        .arg(&site.broker.url)
        .arg(format!("roadcall.hub.tracking.VendorArrived.{incident}"))
        .arg(msg_id.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut child = python.spawn().expect("python3 runs");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(&body).await.expect("written");
    drop(stdin);
    let output = child.wait_with_output().await.expect("ends");
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_event_is_handled_and_a_broken_one_becomes_a_letter_that_blocks_nobody() {
    let site = site().await;
    let bus = connect(&site).await;
    let node = Node::start(connect(&site).await, &config(&site), &RoleName::BUILT, true)
        .await
        .expect("started");
    let mut broken = arrival();
    broken["distanceMeters"] = json!(-1);
    publish_foreign(&site, id(10), id(20), event(id(20), id(10), broken)).await;
    publish_foreign(&site, id(10), id(21), event(id(21), id(10), arrival())).await;
    let handled = |node: &Node| {
        let counts = node.counts();
        counts
            .iter()
            .find(|(role, _)| *role == RoleName::Incident)
            .map(|(_, counts)| *counts)
            .expect("runs")
    };
    eventually(
        "the sound event is handled behind the broken one",
        || async { (handled(&node).handled == 1).then_some(()) },
    )
    .await;
    let letters = eventually("the letters", || async {
        let stored = bus.read(DLQ, "dlq.>", 1, 10, false).await.expect("read");
        // A VendorArrived goes to incident, notifications, reporting and audit.
        (stored.len() == 4).then_some(stored)
    })
    .await;
    let letter: Value = serde_json::from_slice(
        &letters
            .iter()
            .find(|stored| stored.subject.starts_with("dlq.incident-queue."))
            .expect("one per queue")
            .body,
    )
    .expect("JSON");
    assert_eq!(letter["reason"], "invalid_event");
    assert_eq!(letter["eventId"], json!(id(20)));
    let said = letter["attempts"][0]["error"].as_str().expect("text");
    assert!(said.starts_with("detail.distanceMeters: "), "{said}");
    node.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");
    site.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_answered_once_per_request_id_and_refusals_have_codes() {
    let site = site().await;
    let bus = connect(&site).await;
    let node = Node::start(connect(&site).await, &config(&site), &RoleName::BUILT, true)
        .await
        .expect("started");
    let driver = format!("driver:{}", id(1));
    let body = json!({ "type": "tire", "lat": 40.7, "lon": -74.0, "clientRequestId": "r1" });
    let first = call(&bus, &driver, "incident.create", body.clone()).await;
    let again = call(&bus, &driver, "incident.create", body).await;
    assert_eq!(first["ok"]["incidentId"], again["ok"]["incidentId"]);
    let wrong = call(
        &bus,
        &driver,
        "incident.create",
        json!({ "type": "boat", "lat": 1, "lon": 1 }),
    )
    .await;
    assert_eq!(
        (&wrong["error"]["code"], &wrong["error"]["field"]),
        (&json!("VALIDATION_ERROR"), &json!("type"))
    );
    let nobody = call(&bus, "somebody", "incident.list", json!({})).await;
    assert_eq!(nobody["error"]["code"], "AUTHENTICATION_ERROR");
    // Nobody is near, so the case is exhausted and the incident escalated: four events in the archive, each once.
    eventually("the escalation", || async {
        let escalated = bus
            .read(
                EVENTS,
                "roadcall.hub.incident.IncidentEscalated.*",
                1,
                10,
                true,
            )
            .await
            .expect("read");
        (escalated.len() == 1).then_some(())
    })
    .await;
    let created = bus
        .read(
            EVENTS,
            "roadcall.hub.incident.IncidentCreated.*",
            1,
            10,
            true,
        )
        .await
        .expect("read");
    assert_eq!(created.len(), 1);
    node.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");

    // What is left in the stores is enough to go on from: a second start finds nothing to do.
    let node = Node::start(connect(&site).await, &config(&site), &RoleName::BUILT, true)
        .await
        .expect("started again");
    let third = call(&bus, &driver, "incident.list", json!({})).await;
    assert_eq!(third["ok"]["items"].as_array().map(Vec::len), Some(1));
    node.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");
    site.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_refuses_to_start_on_a_topology_that_is_missing() {
    let site = site().await;
    let config = config(&site);
    let wanted = desired(
        &config,
        &routes(&config).expect("valid"),
        &[RoleName::Vendor],
    );
    let bus = connect(&site).await;
    let missing = settle_topology(&bus, &wanted, false)
        .await
        .expect_err("nothing is there")
        .to_string();
    assert!(
        missing.contains("EVENTS is missing") && missing.contains("vendor-queue is missing"),
        "{missing}"
    );
    settle_topology(&bus, &wanted, true).await.expect("made");
    settle_topology(&bus, &wanted, false)
        .await
        .expect("no difference");
    site.broker.shutdown().await;
}

#[test]
fn the_demo_drives_incidents_to_a_closed_file() {
    let output = Command::new(env!("CARGO_BIN_EXE_roadcall"))
        .env_clear()
        .env(
            "PATH",
            crate::support::nats_server()
                .parent()
                .expect("has a folder"),
        )
        .args(["demo", "--incidents", "3", "--pace", "2000", "--json"])
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let summary: Value =
        serde_json::from_str(text.lines().last().expect("a summary")).expect("JSON");
    let found = [
        "incidents",
        "arrived",
        "closed",
        "deadLetters",
        "duplicateEffects",
    ]
    .map(|name| summary[name].as_u64());
    assert_eq!(found, [3, 3, 3, 0, 0].map(Some), "{summary}");
}

#[test]
fn the_bench_measures_a_replays_start_in_a_small_archive_and_a_larger_one() {
    let output = Command::new(env!("CARGO_BIN_EXE_roadcall"))
        .env_clear()
        .env(
            "PATH",
            crate::support::nats_server()
                .parent()
                .expect("has a folder"),
        )
        .args(["bench", "--replay", "--archive", "2000", "--json"])
        .output()
        .expect("runs");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let archived: Vec<&Value> = report["replay"]
        .as_array()
        .expect("two")
        .iter()
        .map(|one| &one["archived"])
        .collect();
    assert_eq!(archived, [&json!(1000), &json!(2000)]);
    assert!(
        report["ratio"]["fromFirst"].as_f64() > Some(0.0),
        "{report}"
    );
}

#[test]
fn the_bench_drives_incidents_behind_its_measurements_in_both_sync_modes() {
    let output = Command::new(env!("CARGO_BIN_EXE_roadcall"))
        .env_clear()
        .env(
            "PATH",
            crate::support::nats_server()
                .parent()
                .expect("has a folder"),
        )
        .args(["bench", "--events", "300", "--rate", "300"])
        .args(["--incidents", "2", "--pace", "10000", "--json"])
        .output()
        .expect("runs");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    let documents: Vec<Value> = serde_json::Deserializer::from_slice(&output.stdout)
        .into_iter()
        .collect::<Result<_, _>>()
        .expect("JSON");
    let modes: Vec<&Value> = documents.iter().map(|found| &found["syncMode"]).collect();
    assert_eq!(modes, ["2m", "always"]);
    for document in &documents {
        let found = &document["incidents"];
        assert_eq!(
            (&found["incidents"], &found["arrived"], &found["closed"]),
            (&json!(2), &json!(2), &json!(2))
        );
        for waits in ["callToOffer", "callToAssigned"] {
            let waits = &found[waits];
            assert!(
                waits["p50Ms"].as_i64() <= waits["p99Ms"].as_i64()
                    && waits["p50Ms"].as_i64() > Some(0),
                "{document}"
            );
            assert!(waits["within60S"].is_number(), "{document}");
        }
        let latency = &found["publishToHandledMs"];
        assert!(
            latency["p50"].as_u64() <= latency["p99"].as_u64(),
            "{document}"
        );
        assert!(
            latency["p99"].is_u64() && document["ratio"]["loop"].is_number(),
            "{document}"
        );
    }
}

#[test]
fn wrong_arguments_get_one_line_and_64() {
    for (arguments, says) in [
        (
            vec!["--role", "dispatcher"],
            "no role is named 'dispatcher'",
        ),
        (vec!["--site", "HUB", "config", "check"], "site.id"),
        (
            vec!["--config", "/nowhere.toml", "config", "check"],
            "/nowhere.toml",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_roadcall"))
            .env_clear()
            .args(&arguments)
            .output()
            .expect("runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {text}");
        assert!(
            text.starts_with("error[RC") && text.contains(says) && text.contains("help:"),
            "{arguments:?}: {text}"
        );
    }
}
