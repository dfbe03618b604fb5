//! The audit role on a real broker: the event log's files over kills, what of a person they hold (nothing), the ledger, and
//! alarms from a letter to its redrive.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::support::processes::Processes;
use crate::support::schema::Schema;
use crate::support::{Site, connect, eventually, site};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, EVENTS, Headers, Outgoing};
use roadcall::config::Config;
use roadcall::config::units::Span;
use roadcall::event::{Id, MASK, decode, ids};
use roadcall::node::run::{Node, desired, routes, settle_topology};
use roadcall::role::RoleName;

const PHONE: &str = "+12125550147";
const NAME: &str = "Wilhelmina Quackenbush";
const EMAIL: &str = "wilhelmina@quackenbush.example";

fn id(kind: &str, n: u64) -> Id {
    ids::derive_v7(1, &[kind.as_bytes(), &n.to_be_bytes()])
}

async fn put(bus: &JetStream, source: &str, kind: &str, entity: &str, n: u64, detail: Value) {
    let event_id = id(kind, n);
    let mut detail = detail;
    detail["eventId"] = json!(event_id);
    detail["timestamp"] = json!("2026-01-15T10:00:00.000Z");
    detail["version"] = json!("1.0");
    detail["metadata"] = json!({ "note": format!("call {NAME}") });
    let event = json!({
        "id": event_id, "source": format!("roadcall.{source}"), "detail-type": kind,
        "time": "2026-01-15T10:00:00.000Z", "site": "hub", "detail": detail,
    });
    let message = Outgoing {
        subject: format!("roadcall.hub.{source}.{kind}.{entity}"),
        headers: Headers::default(),
        body: event.to_string().into(),
        msg_id: event_id.to_string(),
        expected_last_subject_seq: None,
    };
    let published = bus.publish(vec![message]).await;
    assert!(published.stopped.is_none(), "{:?}", published.stopped);
}

async fn person(bus: &JetStream, n: u64) {
    let user = id("user", n);
    let detail = json!({
        "userId": user, "phone": PHONE, "role": "driver", "name": NAME, "email": EMAIL, "timezone": "UTC",
        "status": "active", "profileVersion": 1, "registeredAt": "2026-01-15T10:00:00.000Z",
        "unknownField": PHONE,
    });
    put(bus, "auth", "UserRegistered", &user.to_string(), n, detail).await;
}

/// `log search` with these arguments.
fn search(site: &Processes, state: &Path, arguments: &[&str]) -> Vec<Value> {
    let output = site
        .roadcall()
        .arg("--state-dir")
        .arg(state)
        .args(["log", "search"])
        .args(arguments)
        .output()
        .expect("runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// Everything in the log's files, unpacked.
fn text_of(directory: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(directory).expect("listed") {
        let path = entry.expect("an entry").path();
        let file = std::fs::File::open(&path).expect("opened");
        let mut bytes = Vec::new();
        if path.extension().is_some_and(|ending| ending == "gz") {
            flate2::read::MultiGzDecoder::new(file).read_to_end(&mut bytes)
        } else {
            std::io::BufReader::new(file).read_to_end(&mut bytes)
        }
        .expect("read");
        text.push_str(&String::from_utf8(bytes).expect("UTF-8"));
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_event_is_one_line_over_kills_without_a_word_of_a_person_and_the_ledger_holds() {
    const BURST: u64 = 120;
    let mut site = Processes::new();
    site.apply_topology();
    site.start("audit");
    site.role_ready("audit").await;
    let bus = site.connect().await;
    let state = site.dir.path().join("audit");
    for burst in 0..4 {
        for n in 0..BURST {
            person(&bus, burst * BURST + n).await;
            // In the middle of its work, and once while it starts.
            if n == BURST / 2 || (burst == 2 && n == BURST / 2 + 1) {
                site.kill("audit");
            }
        }
    }
    // Of another shape: a detail-type that nobody knows.
    let whole = json!({ "incidentId": id("incident", 1), "phone": PHONE });
    put(
        &bus,
        "incident",
        "Foo",
        &id("incident", 1).to_string(),
        1,
        whole,
    )
    .await;
    let all = 4 * BURST + 1;
    let lines = eventually("every event to be logged", || async {
        if !state.join("log").is_dir() {
            return None;
        }
        let lines = search(&site, &state, &[]);
        (lines.len() as u64 >= all).then_some(lines)
    })
    .await;
    site.kill("audit");
    site.role_ready("audit").await;
    eventually("the queue to be empty", || async {
        let state = bus.queue("audit-queue").await.ok()?;
        (state.pending + state.ack_pending == 0).then_some(())
    })
    .await;
    let mut times = BTreeMap::new();
    for line in search(&site, &state, &[]) {
        *times.entry(line["eventId"].to_string()).or_insert(0) += 1;
    }
    assert_eq!(times.len() as u64, all, "{} lines before", lines.len());
    assert!(times.values().all(|times| *times == 1), "{times:?}");
    let user = id("user", 7).to_string();
    let found = search(
        &site,
        &state,
        &["--entity", &user, "--type", "UserRegistered"],
    );
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["detail"]["phone"], MASK);
    assert_eq!(
        search(&site, &state, &["--until", "2026-01-15T10:00:00.000Z"]).len(),
        0
    );

    let text = text_of(&state.join("log"));
    for word in [PHONE, NAME, "Quackenbush", EMAIL] {
        assert!(!text.contains(word), "{word} is in the log");
    }
    // Where the files are elsewhere, the role answers.
    let elsewhere = search(
        &site,
        &site.dir.path().join("elsewhere"),
        &["--entity", &user],
    );
    assert_eq!(elsewhere.len(), 1);
    assert_eq!(elsewhere[0]["eventId"], found[0]["eventId"]);

    // The ledger has each change of a user once, and a row that somebody alters shows.
    let verified = site.json(&["ledger", "verify", "--json"]);
    assert_eq!(verified["ok"], true);
    let output = site.roadcall().args(["ledger", "export"]).output();
    let text = String::from_utf8(output.expect("runs").stdout).expect("UTF-8");
    let changes = text.lines().filter(|row| row.contains("UserRegistered"));
    assert_eq!(changes.count() as u64, 4 * BURST);
    let database = rusqlite::Connection::open(state.join("audit.db")).expect("opened");
    database.busy_timeout(Duration::from_secs(10)).expect("set");
    let alter = "UPDATE ledger SET actor = 'admin:nobody' WHERE seq = 17";
    assert_eq!(database.execute(alter, []).expect("altered"), 1);
    let (code, found, words) = site.run(&["ledger", "verify", "--json"]);
    assert_eq!(code, Some(2), "{words}");
    assert_eq!(found["findings"][0]["seq"], 17);
    assert_eq!(found["wrong"], 1);
}

fn config(site: &Site) -> Config {
    let mut config = Config::default();
    config.site.state_dir = site.dir.path().join("state");
    config.site.roles = vec!["incident".to_owned(), "audit".to_owned()];
    config.bus.url.clone_from(&site.broker.url);
    config.engine.ack_wait = Span::secs(1);
    config.audit.alarm_period = Span::secs(1);
    config
}

async fn start(site: &Site, role: RoleName) -> Node {
    Node::start(connect(site).await, &config(site), &[role], true)
        .await
        .expect("started")
}

/// `alarm list --check`: its exit code, and name and subject of each.
fn alarms(site: &Site) -> (Option<i32>, Vec<(String, String)>) {
    let output = Command::new(env!("CARGO_BIN_EXE_roadcall"))
        .env_clear()
        .args(["--nats", &site.broker.url, "--state-dir"])
        .arg(site.dir.path().join("elsewhere"))
        .args(["alarm", "list", "--check", "--json"])
        .output()
        .expect("runs");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{words}"));
    let text = |row: &Value, name: &str| row[name].as_str().expect("a text").to_owned();
    let rows = rows.as_array().expect("a list").iter();
    let rows = rows.map(|row| (text(row, "alarmName"), text(row, "subject")));
    (output.status.code(), rows.collect())
}

/// How often an alarm's events of this kind about the incidents' queue are in the archive.
async fn told(bus: &JetStream, kind: &str, alarm: &str) -> usize {
    let filter = format!("roadcall.hub.ops.{kind}.{alarm}");
    let stored = bus
        .read(EVENTS, &filter, 1, 100, false)
        .await
        .expect("read");
    let about = |body: &[u8]| {
        let event: Value = serde_json::from_slice(body).expect("JSON");
        event["detail"]["subject"] == "incident-queue"
    };
    stored.iter().filter(|stored| about(&stored.body)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_and_a_silent_role_raise_alarms_once_that_end_with_their_cause() {
    let site = site().await;
    let bus = connect(&site).await;
    let config = config(&site);
    let roles = [RoleName::Incident, RoleName::Audit];
    let wanted = desired(&config, &routes(&config).expect("valid"), &roles);
    settle_topology(&bus, &wanted, true).await.expect("made");
    // An event that nobody answers until the server gives it up; handling it later means doing nothing.
    let incident = id("incident", 2);
    let detail = json!({
        "incidentId": incident, "vendorId": id("vendor", 1), "driverId": id("driver", 1), "sessionId": id("session", 1),
        "arrivedAt": "2026-01-15T10:00:00.000Z", "location": { "lat": 40.0, "lon": -74.0 }, "distanceMeters": 12.5,
    });
    put(
        &bus,
        "tracking",
        "VendorArrived",
        &incident.to_string(),
        1,
        detail,
    )
    .await;
    let reader = connect(&site).await;
    let mut seen = 0;
    while seen < 3 {
        let wait = Duration::from_secs(5);
        for delivery in reader
            .fetch("incident-queue", 10, wait)
            .await
            .expect("fetched")
        {
            seen = seen.max(delivery.delivered);
        }
    }
    let audit = start(&site, RoleName::Audit).await;
    for alarm in ["dead-letters", "no-data"] {
        eventually("the alarm to be delivered", || async {
            (told(&bus, "AlarmRaised", alarm).await > 0).then_some(())
        })
        .await;
    }
    let (code, raised) = alarms(&site);
    assert_eq!(code, Some(2));
    for alarm in ["dead-letters", "no-data"] {
        let row = (alarm.to_owned(), "incident-queue".to_owned());
        assert!(raised.contains(&row), "{raised:?}");
    }
    // The role that owns the queue begins: the letter is redriven, and its numbers are there again.
    let incident = start(&site, RoleName::Incident).await;
    eventually("the alarms to end", || async {
        let (code, raised) = alarms(&site);
        (code == Some(0) && raised.is_empty()).then_some(())
    })
    .await;
    for alarm in ["dead-letters", "no-data"] {
        assert_eq!(told(&bus, "AlarmRaised", alarm).await, 1, "{alarm}");
        eventually("the end to be delivered", || async {
            (told(&bus, "AlarmCleared", alarm).await == 1).then_some(())
        })
        .await;
    }
    for node in [audit, incident] {
        node.shutdown(Duration::from_secs(10))
            .await
            .expect("stopped");
    }
    site.broker.shutdown().await;
}

/// Whether a schema is that of a personal value, directly or as one that may be absent.
fn personal(schema: &Value) -> bool {
    let named = schema["$ref"]
        .as_str()
        .is_some_and(|name| name.starts_with("#/$defs/Personal"));
    let either = schema["anyOf"].as_array();
    named || either.is_some_and(|schemas| schemas.iter().any(personal))
}

/// The paths of personal fields in `schema`, with how many there are in `value` that are not masked.
fn unmasked(definitions: &Value, schema: &Value, value: &Value, found: &mut (usize, Vec<String>)) {
    if value.is_null() {
        return;
    }
    if personal(schema) {
        found.0 += 1;
        if value != MASK {
            found.1.push(format!("{schema}"));
        }
        return;
    }
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.trim_start_matches("#/$defs/");
        return unmasked(definitions, &definitions[name], value, found);
    }
    for schema in schema["anyOf"].as_array().into_iter().flatten() {
        unmasked(definitions, schema, value, found);
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        unmasked(definitions, schema, &value[name], found);
    }
    for item in value.as_array().into_iter().flatten() {
        unmasked(definitions, &schema["items"], item, found);
    }
}

#[test]
fn no_personal_field_of_any_type_comes_through() {
    let mut runner = TestRunner::deterministic();
    let mut with_personal = 0;
    for row in roadcall::event::catalogue() {
        let newest = row.versions.last().expect("a version");
        let root = roadcall::event::schema(row, newest);
        let schema = Schema::of(row, newest);
        let mut found = (0, Vec::new());
        for _ in 0..20 {
            let sample = schema
                .samples()
                .new_tree(&mut runner)
                .expect("a sample")
                .current();
            let body = sample.json();
            let event = decode(&sample.subject, Some("application/json"), &body).expect("valid");
            let masked = event.known().expect("known").masked();
            unmasked(&root["$defs"], &schema.detail(), &masked, &mut found);
        }
        assert!(found.1.is_empty(), "{}: {:?}", row.detail_type, found.1);
        with_personal += usize::from(found.0 > 0);
    }
    // IncidentCreated, VendorRegistered, TrackingStarted, CallStarted, UserRegistered and more: the walk does see them.
    assert!(with_personal >= 8, "{with_personal}");
}
