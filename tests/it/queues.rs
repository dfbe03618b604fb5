//! `roadcall queue list`: the broker's numbers and what waits in the role, asked or read from its file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::counting::{Counting, Fate, QUEUE, node, put, roadcall};
use crate::support::processes::{Processes, QUEUELESS, ROLES};
use crate::support::{Site, connect, eventually, site};
use roadcall::bus::jetstream::JetStream;
use roadcall::event::{Codec, Id, Site as SiteId};
use roadcall::role::Role;
use roadcall::store::{Identity, Options, Store, Synchronous};

const HOUR_S: u64 = 3600;

/// The one row of `queue list --json`.
fn listed(site: &Site, state: &Path) -> Value {
    let output = roadcall(site, state, "", &["queue", "list", "--json"]);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    let rows: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(rows.as_array().map(Vec::len), Some(1), "{rows}");
    rows[0].clone()
}

fn fields(row: &Value, names: [&str; 4]) -> [Value; 4] {
    names.map(|name| row[name].clone())
}

const HELD: [&str; 4] = ["depth", "inFlight", "waiting", "waitingFrom"];

async fn pause(bus: &JetStream, until: &str) {
    let request = json!({ "pause_until": until });
    let subject = format!("CONSUMER.PAUSE.EVENTS.{QUEUE}");
    bus.api(&subject, &request).await.expect("paused");
}

/// As if everything that waits had come an hour earlier.
fn age_what_waits(database: &Path) {
    let connection = rusqlite::Connection::open(database).expect("opens");
    let sql = "UPDATE waiting SET received_at_ms = received_at_ms - 3600000";
    connection.execute(sql, ()).expect("updated");
}

/// A database of the role that has never read the queue.
fn another_database(dir: &Path) -> PathBuf {
    let state = dir.join("another");
    std::fs::create_dir_all(&state).expect("made");
    let options = Options {
        path: state.join("vendor.db"),
        synchronous: Synchronous::Off,
        site: SiteId::new("hub").expect("valid"),
        role: "vendor".to_owned(),
        queue: QUEUE.to_owned(),
        codec: Codec::Json,
    };
    let fresh = Identity {
        store_id: Id::from_uuid(uuid::Uuid::from_u128(7)),
        epoch: "1".to_owned(),
    };
    Store::open(options, Counting::default().migrations(), &fresh).expect("opened");
    state
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn depth_has_what_waits_in_the_role_and_without_the_role_in_its_file() {
    let site = site().await;
    let (state, elsewhere) = (site.dir.path().join("state"), site.dir.path().join("cli"));
    let node = node(&site, &state, "").await;
    let bus = connect(&site).await;
    let empty = listed(&site, &elsewhere);
    assert_eq!(
        fields(&empty, HELD),
        [json!(0), json!(0), json!(0), json!("role")]
    );
    assert_eq!(
        [&empty["oldestAgeSeconds"], &empty["pausedUntil"]],
        [&Value::Null; 2]
    );

    // One fails and is tried again in five minutes; another one of its key is behind it.
    put(&bus, 1, 1, Fate::Fails).await;
    put(&bus, 2, 1, Fate::Fine).await;
    let both = eventually("both wait", || async {
        let row = listed(&site, &elsewhere);
        (row["waiting"] == 2 && row["inFlight"] == 0).then_some(row)
    })
    .await;
    assert_eq!(
        fields(&both, HELD),
        [json!(2), json!(0), json!(2), json!("role")]
    );
    assert!(
        both["oldestAgeSeconds"]
            .as_u64()
            .is_some_and(|age| age < HOUR_S)
    );
    age_what_waits(&state.join("vendor.db"));

    // A third one stays with the broker.
    pause(&bus, "2099-01-01T02:00:00+02:00").await;
    put(&bus, 3, 2, Fate::Fine).await;
    let three = listed(&site, &elsewhere);
    assert_eq!(
        fields(&three, HELD),
        [json!(3), json!(0), json!(2), json!("role")]
    );
    assert_eq!(three["pausedUntil"], "2099-01-01T00:00:00.000Z");
    assert!(three["oldestAgeSeconds"].as_u64() >= Some(HOUR_S));
    node.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");

    let from_file = listed(&site, &state);
    assert_eq!(
        fields(&from_file, HELD),
        [json!(3), json!(0), json!(2), json!("file")]
    );
    assert!(from_file["oldestAgeSeconds"].as_u64() >= Some(HOUR_S));
    // Neither the role nor its own database: what is left is the broker's, and the row says so.
    for state in [elsewhere, another_database(site.dir.path())] {
        let row = listed(&site, &state);
        assert_eq!(
            fields(&row, HELD),
            [json!(1), json!(0), Value::Null, Value::Null]
        );
        assert!(
            row["oldestAgeSeconds"]
                .as_u64()
                .is_some_and(|age| age < HOUR_S)
        );
        let output = roadcall(&site, &state, "", &["queue", "list"]);
        let table = String::from_utf8_lossy(&output.stdout);
        assert!(table.contains("1+"), "{table}");
        let note = String::from_utf8_lossy(&output.stderr);
        assert!(note.starts_with("note: vendor-queue: "), "{note}");
    }
    site.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_age_is_that_of_the_oldest_event_without_an_outcome() {
    let site = site().await;
    let state = site.dir.path().join("state");
    let node = node(&site, &state, "").await;
    let bus = connect(&site).await;
    put(&bus, 1, 1, Fate::Fine).await;
    put(&bus, 2, 2, Fate::Contradicts).await;
    let row = eventually("both have an outcome", || async {
        let row = listed(&site, &state);
        (row["ackFloorSeq"] == row["deliveredSeq"] && row["deadLetters"] == 1).then_some(row)
    })
    .await;
    // One is done, the other a letter: what has an outcome has no age, and is not in the depth.
    assert_eq!(
        (&row["depth"], &row["oldestAgeSeconds"]),
        (&json!(0), &Value::Null)
    );
    node.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");
    put(&bus, 3, 3, Fate::Fine).await;
    let row = listed(&site, &state);
    assert_eq!(row["depth"], 1);
    assert!(row["oldestAgeSeconds"].is_u64(), "{row}");
    site.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_role_answers_for_itself_and_only_to_operators() {
    let site = Processes::all();
    let rows = eventually("every role answers", || async {
        let (code, rows, _) = site.run(&["queue", "list", "--json"]);
        let answers = |row: &Value| row["waitingFrom"] == "role";
        let all = rows.as_array().is_some_and(|rows| rows.iter().all(answers));
        (code == Some(0) && all).then_some(rows)
    })
    .await;
    let mut roles: Vec<&str> = rows
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|row| row["role"].as_str())
        .collect();
    let mut wanted = ROLES.to_vec();
    wanted.retain(|role| !QUEUELESS.contains(role));
    roles.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(roles, wanted);
    let status = site.json(&["call", "audit.status"]);
    assert_eq!(
        (&status["role"], &status["waiting"]),
        (&json!("audit"), &json!(0))
    );
    let driver = format!("driver:{}", uuid::Uuid::from_u128(1));
    let (code, _, words) = site.run(&["queue", "list", "--as", &driver]);
    assert_eq!(code, Some(1));
    assert!(words.starts_with("error[AUTHORIZATION_ERROR]: "), "{words}");
    let (code, _, words) = site.run(&["call", "audit.outcome", "{\"eventId\":\"x\"}"]);
    assert_eq!(code, Some(1));
    assert!(words.contains("give eventId, or stream and seq"), "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_queue_keeps_what_comes_also_over_a_restart_until_it_is_resumed() {
    let site = site().await;
    let state = site.dir.path().join("state");
    let role = node(&site, &state, "").await;
    let bus = connect(&site).await;
    let paused = roadcall(&site, &state, "", &["queue", "pause", QUEUE, "--for", "1h"]);
    assert!(paused.status.success(), "{paused:?}");
    role.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");
    let role = node(&site, &state, "").await;
    put(&bus, 1, 1, Fate::Fine).await;
    put(&bus, 2, 1, Fate::Fine).await;
    eventually("both to be counted", || async {
        (listed(&site, &state)["depth"] == 2).then_some(())
    })
    .await;
    let output = roadcall(&site, &state, "", &["queue", "show", QUEUE]);
    let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(shown["pausedUntil"].is_string(), "{shown}");
    assert_eq!(shown["inFlight"], 0, "{shown}");

    for (arguments, says) in [
        (
            ["queue", "pause", "no-queue"].as_slice(),
            "no queue of this site is named 'no-queue'",
        ),
        (
            &["queue", "pause", QUEUE, "--for", "soon"],
            "--for: 'soon' is no duration",
        ),
    ] {
        let refused = roadcall(&site, &state, "", arguments);
        assert_eq!(refused.status.code(), Some(64));
        let words = String::from_utf8_lossy(&refused.stderr);
        assert!(words.contains(says), "{words}");
    }

    let resumed = roadcall(&site, &state, "", &["queue", "resume", QUEUE]);
    assert!(resumed.status.success(), "{resumed:?}");
    eventually("both to be handled", || async {
        let row = listed(&site, &state);
        (row["depth"] == 0 && row["pausedUntil"].is_null()).then_some(())
    })
    .await;
    role.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");
    site.broker.shutdown().await;
}
