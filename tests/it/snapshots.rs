//! Snapshots of the roles' databases: taken under load, brought back after everything was wiped, and what is refused. A
//! restored role comes to the state that it would have had, and nothing of it gets into the archive twice.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use rusqlite::types::ValueRef;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::crash::{Reported, Story, archive, call};
use crate::support::processes::{Processes, ROLES};
use crate::support::{connect, eventually, eventually_within, site};
use crate::trouble::Tight;
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::jetstream::objects::ObjectInfo;
use roadcall::bus::{Bus, EVENTS, SNAPSHOTS_BUCKET};
use roadcall::config::Config;
use roadcall::node::clock::Clock;
use roadcall::node::registry;
use roadcall::node::run::Node;
use roadcall::node::snapshot;
use roadcall::role::RoleName;

/// What the engine itself keeps; the rest is the role's.
const OF_THE_ENGINE: [&str; 11] = [
    "meta",
    "outbox",
    "published",
    "waiting",
    "timer",
    "effect",
    "reply",
    "replay",
    "archived",
    "inbox",
    "silence",
];

fn state(site: &Processes, role: &str) -> PathBuf {
    site.dir.path().join(role)
}

fn database(site: &Processes, role: &str) -> PathBuf {
    state(site, role).join(format!("{role}.db"))
}

/// A command in the state directory of a role.
fn at(site: &Processes, role: &str, arguments: &[&str]) -> (Option<i32>, Value, String) {
    let dir = state(site, role);
    let mut all = vec!["--state-dir", dir.to_str().expect("UTF-8"), "--json"];
    all.extend(arguments);
    site.run(&all)
}

fn create(site: &Processes, role: &str) -> Value {
    let (code, taken, words) = at(site, role, &["snapshot", "create", "--role", role]);
    assert_eq!(code, Some(0), "{words}");
    assert_eq!(taken["role"], role);
    taken
}

/// A document without what says when it was written.
fn timeless(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|name, _| !(name.ends_with("At") || name == "at" || name == "nextTry"));
            map.values_mut().for_each(timeless);
        }
        Value::Array(list) => list.iter_mut().for_each(timeless),
        _ => {}
    }
}

/// The role's own tables, each row as text; those of `written` without the times at which they were written.
fn business(path: &Path, written: &[&str]) -> BTreeMap<String, Vec<String>> {
    let connection = rusqlite::Connection::open(path).expect("opened");
    let names: Vec<String> = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name")
        .and_then(|mut names| names.query_map((), |row| row.get(0))?.collect())
        .expect("read");
    let own = names
        .into_iter()
        .filter(|name| !OF_THE_ENGINE.contains(&name.as_str()));
    own.map(|name| {
        let loose = written.contains(&name.as_str());
        let mut rows = connection
            .prepare(&format!("SELECT * FROM {name}"))
            .expect("prepared");
        let columns: Vec<String> = rows.column_names().map(str::to_owned).collect();
        let text = |row: &rusqlite::Row<'_>| {
            let cells = columns
                .iter()
                .enumerate()
                .filter(|(_, name)| !loose && name.ends_with("_ms"));
            let cells = cells.map(|(index, column)| {
                let cell = match row.get_ref(index).expect("a cell") {
                    ValueRef::Text(text) => {
                        let text = String::from_utf8_lossy(text).into_owned();
                        match serde_json::from_str::<Value>(&text) {
                            Ok(mut document) if loose => {
                                timeless(&mut document);
                                document.to_string()
                            }
                            _ => text,
                        }
                    }
                    other => format!("{other:?}"),
                };
                format!("{column}={cell}")
            });
            Ok(cells.collect::<Vec<_>>().join(" "))
        };
        let mut found: Vec<String> = rows
            .query_map((), text)
            .and_then(Iterator::collect)
            .expect("read");
        found.sort();
        (name, found)
    })
    .collect()
}

/// The outcomes that a role has, by event.
fn outcomes(path: &Path) -> BTreeMap<Vec<u8>, i64> {
    let connection = rusqlite::Connection::open(path).expect("opened");
    let mut rows = connection
        .prepare("SELECT event_id, outcome FROM inbox")
        .expect("prepared");
    let rows = rows.query_map((), |row| Ok((row.get(0)?, row.get(1)?)));
    rows.and_then(Iterator::collect).expect("read")
}

/// What a role says of itself.
async fn status(bus: &JetStream, role: &str) -> Value {
    let reply = call(bus, "operator:test", &format!("{role}.status"), &json!({})).await;
    reply["ok"].clone()
}

/// The events that wait in a role.
fn waiting(path: &Path) -> BTreeSet<Vec<u8>> {
    let connection = rusqlite::Connection::open(path).expect("opened");
    let mut rows = connection
        .prepare("SELECT event_id FROM waiting")
        .expect("prepared");
    let rows = rows.query_map((), |row| row.get(0));
    rows.and_then(Iterator::collect).expect("read")
}

/// Waits until these roles have nothing left to do but what waits for its time: nothing moves over many looks.
async fn settled(bus: &JetStream, roles: &[&str]) {
    let quiet = std::cell::Cell::new((0, 0));
    eventually_within(120, "the site to settle", || async {
        let now = bus.stream(EVENTS).await.ok()?.last_seq;
        let mut idle = true;
        for role in roles {
            let name: RoleName = role.parse().expect("a role");
            if let Some(queue) = name.queue() {
                let state = bus.queue(queue).await.ok()?;
                idle &= state.pending + state.ack_pending == 0;
            }
            idle &= status(bus, role).await["outbox"] == 0;
        }
        let (looks, seq) = quiet.get();
        let same = idle && seq == now;
        quiet.set((if same { looks + 1 } else { 0 }, now));
        (looks >= 10).then_some(())
    })
    .await;
}

async fn tell(bus: &JetStream, numbers: std::ops::Range<u64>) -> Vec<Reported> {
    let mut told = tokio::task::JoinSet::new();
    for n in numbers {
        told.spawn(
            Story {
                n,
                vendor: n % 3 != 0,
            }
            .tell(bus.clone()),
        );
    }
    told.join_all().await
}

/// The role's database as it is in the moment of its death, kept as that of a twin which was never wiped.
fn wipe(site: &mut Processes, role: &'static str) -> PathBuf {
    site.end(role);
    let twin = site.dir.path().join(format!("twin-{role}.db"));
    let path = database(site, role);
    for end in ["", "-wal"] {
        let of = |path: &Path| PathBuf::from(format!("{}{end}", path.display()));
        if of(&path).exists() {
            std::fs::copy(of(&path), of(&twin)).expect("copied");
        }
    }
    std::fs::remove_dir_all(state(site, role)).expect("wiped");
    twin
}

/// What the role says of its restored database, once it has caught up.
async fn caught_up(bus: &JetStream, role: &str) -> Value {
    eventually_within(60, "the role to catch up", || async {
        let restored = status(bus, role).await["restored"].clone();
        restored["caughtUpAt"].is_string().then_some(restored)
    })
    .await
}

/// The numbers that this life of the role has in the archive, of its `Roadcall-Seq`.
async fn numbers(bus: &JetStream, role: &str, epoch: &str) -> Vec<u64> {
    let (mut found, mut from) = (Vec::new(), 1);
    let of_life = format!("{role}:{epoch}:");
    loop {
        let page = bus
            .read(EVENTS, "roadcall.>", from, 1000, true)
            .await
            .expect("read");
        let Some(last) = page.last() else {
            return found;
        };
        from = last.seq + 1;
        found.extend(page.iter().filter_map(|stored| {
            let of = stored.headers.get("Roadcall-Seq")?.strip_prefix(&of_life)?;
            of.parse::<u64>().ok()
        }));
    }
}

/// How many numbers the role has given out in its present life.
fn given_out(path: &Path) -> u64 {
    let connection = rusqlite::Connection::open(path).expect("opened");
    let sql = "SELECT value FROM meta WHERE name = 'roadcall_seq'";
    let text: String = connection
        .query_row(sql, (), |row| row.get(0))
        .expect("there");
    text.parse().expect("a number")
}

/// Message by message what notifications told, to see that nothing was told under another id again.
async fn told_of(bus: &JetStream) -> BTreeMap<String, u64> {
    let mut times = BTreeMap::new();
    let mut from = 1;
    loop {
        let page = bus
            .read(EVENTS, "roadcall.hub.notifications.>", from, 1000, false)
            .await
            .expect("read");
        let Some(last) = page.last() else {
            return times;
        };
        from = last.seq + 1;
        for stored in &page {
            let event: Value = serde_json::from_slice(&stored.body).expect("JSON");
            let about = format!(
                "{} {}",
                event["detail-type"], event["detail"]["notificationId"]
            );
            *times.entry(about).or_default() += 1;
        }
    }
}

/// Tables that say when the role did something; what the others say comes from events.
const WRITTEN: [&str; 2] = ["delivery", "seen"];
const WIPED: [&str; 4] = ["vendor", "reporting", "notifications", "kb"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_box_is_restored_and_catches_up_to_the_state_of_a_twin_that_never_was() {
    let mut site = Processes::all();
    site.ready().await;
    let bus = site.connect().await;
    // What commands change is not in the archive's power to bring back: all of it comes before the snapshot.
    for n in 0..18 {
        Story {
            n,
            vendor: n % 3 != 0,
        }
        .prepare(&bus)
        .await;
    }
    tell(&bus, 0..5).await;
    // In the middle of it.
    let (_, taken) = tokio::join!(tell(&bus, 5..10), async {
        let about = "roadcall.hub.incident.IncidentCreated.>";
        eventually("the load to begin", || async {
            (bus.read(EVENTS, about, 1, 10, true).await.ok()?.len() > 6).then_some(())
        })
        .await;
        tokio::task::block_in_place(|| WIPED.map(|role| create(&site, role)))
    });
    tell(&bus, 10..18).await;
    settled(&bus, &ROLES).await;
    let before = archive(&bus).await;
    assert!(taken[1]["position"].as_u64() < Some(before.len() as u64));

    let twins = WIPED.map(|role| wipe(&mut site, role));
    for (role, taken) in WIPED.iter().zip(&taken) {
        let (code, done, words) = at(&site, role, &["snapshot", "restore", "--role", role]);
        assert_eq!(code, Some(0), "{words}");
        assert_eq!(
            (&done["id"], &done["movedTo"]),
            (&taken["id"], &Value::Null)
        );
        assert_ne!(done["storeId"], taken["storeId"]);
        assert_ne!(done["epoch"], taken["epoch"]);
        site.start(role);
    }
    for role in WIPED {
        let restored = caught_up(&bus, role).await;
        assert_eq!(restored["snapshot"], 1);
        // These roles do what events tell them; nothing of it is lost.
        assert_eq!(restored["notMadeAgain"], 0, "{role}: {restored}");
    }
    settled(&bus, &ROLES).await;

    let (code, rows, words) = site.run(&["audit", "--json"]);
    assert_eq!(code, Some(0), "{rows}\n{words}");
    let rows = rows.as_array().cloned().unwrap_or_default();
    assert_eq!(rows.len(), 10);
    // Nobody told notifications who the drivers are: what they are to be told waits there.
    let whole = |row: &Value| {
        row["unaccounted"] == 0 && (row["pending"] == 0 || row["queue"] == "notifications-queue")
    };
    assert!(rows.iter().all(whole), "{rows:?}");
    for (role, twin) in WIPED.iter().zip(&twins) {
        let path = database(&site, role);
        let (ours, theirs) = (business(&path, &WRITTEN), business(twin, &WRITTEN));
        assert!(
            ours.values().map(Vec::len).sum::<usize>() > 0 || *role == "kb",
            "{role}"
        );
        for (table, rows) in &theirs {
            assert_eq!(ours.get(table), Some(rows), "{role}.{table}");
        }
        assert_eq!(ours.len(), theirs.len());
        assert_eq!(outcomes(&path), outcomes(twin), "{role}");
        assert_eq!(waiting(&path), waiting(twin), "{role}");
    }
    // `archive` fails where an event is there twice; and nothing came to it but what is new.
    let after = archive(&bus).await;
    assert_eq!(before, after);
    for (about, times) in told_of(&bus).await {
        assert_eq!(times, 1, "{about}");
    }
    // Not even offered again: the server's dedup window had nothing to do.
    for role in WIPED {
        assert_eq!(given_out(&database(&site, role)), 0, "{role}");
    }

    // And the site goes on.
    let more = tell(&bus, 18..22).await;
    settled(&bus, &ROLES).await;
    assert_eq!(more.len(), 4);
    let (code, rows, _) = site.run(&["audit", "--json"]);
    assert_eq!(code, Some(0), "{rows}");
    for role in WIPED {
        let life = site.json(&["call", &format!("{role}.status"), "{}"]);
        assert_eq!(life["role"], role);
        let path = database(&site, role);
        let epoch = rusqlite::Connection::open(&path).expect("opened");
        let sql = "SELECT value FROM meta WHERE name = 'epoch'";
        let epoch: String = epoch.query_row(sql, (), |row| row.get(0)).expect("there");
        let published = numbers(&bus, role, &epoch).await;
        let wanted: Vec<u64> = (1..=given_out(&path)).collect();
        assert_eq!(published, wanted, "{role} counts without a hole");
    }
    archive(&bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_commands_changed_after_the_snapshot_is_named_and_numbers_go_on() {
    let mut site = Processes::new();
    site.apply_topology();
    site.start("incident");
    site.role_ready("incident").await;
    let bus = site.connect().await;
    let report = async |n: u64| {
        let body = json!({ "type": "tire", "lat": 40.7, "lon": -74.0, "clientRequestId": format!("r{n}") });
        let driver = format!("driver:{}", crate::crash::id("driver", n));
        let reply = call(&bus, &driver, "incident.create", &body).await;
        reply["ok"]["incidentId"]
            .as_str()
            .expect("an id")
            .to_owned()
    };
    let kept = report(1).await;
    create(&site, "incident");
    let lost = report(2).await;
    let cancelled = json!({ "incidentId": kept, "reason": "driver_request" });
    let reply = call(&bus, "operator:test", "incident.cancel", &cancelled).await;
    assert!(reply.get("ok").is_some(), "{reply}");
    settled(&bus, &["incident"]).await;
    let about_kept = format!("roadcall.hub.incident.*.{kept}");
    let had = bus
        .read(EVENTS, &about_kept, 1, 100, false)
        .await
        .expect("read")
        .len() as u64;
    wipe(&mut site, "incident");
    let (code, _, words) = at(
        &site,
        "incident",
        &["snapshot", "restore", "--role", "incident"],
    );
    assert_eq!(code, Some(0), "{words}");
    site.start("incident");
    let restored = caught_up(&bus, "incident").await;
    assert!(restored["notMadeAgain"].as_u64() >= Some(2), "{restored}");
    let log = std::fs::read_to_string(site.dir.path().join("incident.log")).expect("a log");
    assert!(log.contains("did not come to again"), "{log}");
    // The same request again is a new incident; the old one is not known.
    assert_ne!(report(2).await, lost);
    let reply = call(&bus, "operator:test", "incident.cancel", &cancelled).await;
    assert!(reply.get("ok").is_some(), "{reply}");
    eventually("the second cancellation is archived", || async {
        let page = bus.read(EVENTS, &about_kept, 1, 100, false).await.ok()?;
        let last: Value = serde_json::from_slice(&page.last()?.body).ok()?;
        // Whoever goes by the producer's numbers takes it for newer than all that the archive has.
        let number = last["detail"]["metadata"]["sequence"]
            .as_str()?
            .parse::<u64>()
            .ok()?;
        (page.len() as u64 > had).then(|| assert!(number > had, "{number} of {had}"))
    })
    .await;
}

async fn objects(bus: &JetStream) -> Vec<ObjectInfo> {
    bus.objects(SNAPSHOTS_BUCKET).await.expect("read")
}

/// A site with one role, whose roles keep two snapshots.
async fn small() -> Processes {
    let mut site = Processes::new();
    let file = site.dir.path().join("roadcall.toml");
    std::fs::write(&file, "[snapshot]\nkeep = 2\n").expect("written");
    site.arguments = vec!["--config".to_owned(), file.display().to_string()];
    site.apply_topology();
    site.start("incident");
    site.role_ready("incident").await;
    site
}

fn refused(site: &Processes, arguments: &[&str], exit: i32, says: &[&str]) {
    let mut all = vec!["snapshot", "restore", "--role", "incident"];
    all.extend(arguments);
    let dir = state(site, "incident");
    let output = site
        .roadcall()
        .arg("--state-dir")
        .arg(dir)
        .args(&all)
        .output()
        .expect("runs");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(exit), "{words}");
    assert_eq!(words.matches("error[").count(), 1, "{words}");
    for said in says {
        assert!(words.contains(said), "{said} in {words}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_so_many_are_kept_and_a_role_that_runs_or_has_a_database_is_left_alone() {
    let mut site = small().await;
    let bus = site.connect().await;
    let none = site.json(&["snapshot", "list", "--json"]);
    assert_eq!(none, json!([]));
    refused(&site, &["--yes"], 1, &["RC0303", "already runs"]);
    for n in 1..=4 {
        assert_eq!(create(&site, "incident")["id"], n);
    }
    let listed = site.json(&["snapshot", "list", "--json"]);
    let ids: Vec<&Value> = listed
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| &one["id"])
        .collect();
    assert_eq!(ids, [3, 4]);
    assert_eq!(
        listed[0]["schema"].as_str().map(|text| text.contains('.')),
        Some(true)
    );
    assert!(listed[0]["bytes"].as_u64() > listed[0]["storedBytes"].as_u64());
    // What was removed left nothing.
    let stream = bus
        .api(
            "STREAM.INFO.OBJ_SNAPSHOTS",
            &json!({ "subjects_filter": ">" }),
        )
        .await
        .expect("asked");
    let subjects = stream["state"]["subjects"].as_object().expect("a map");
    assert_eq!(subjects.len(), 4, "{subjects:?}");

    // Running, elsewhere too: there the lock is another one.
    refused(&site, &["--yes"], 1, &["RC0303"]);
    let elsewhere = site.dir.path().join("elsewhere");
    let output = site
        .roadcall()
        .arg("--state-dir")
        .arg(&elsewhere)
        .args(["snapshot", "restore", "--role", "incident"])
        .output()
        .expect("runs");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("role incident runs"),
        "{output:?}"
    );

    site.end("incident");
    let path = database(&site, "incident");
    // A role that is down is read from its file.
    assert_eq!(create(&site, "incident")["id"], 5);
    let before = std::fs::read(&path).expect("read");
    refused(&site, &[], 64, &["incident.db", "--yes"]);
    refused(&site, &["--id", "1", "--yes"], 1, &["no snapshot 1"]);
    assert_eq!(std::fs::read(&path).expect("read"), before);
    let (code, done, words) = at(
        &site,
        "incident",
        &["snapshot", "restore", "--role", "incident", "--yes"],
    );
    assert_eq!(code, Some(0), "{words}");
    let moved = PathBuf::from(done["movedTo"].as_str().expect("a path"));
    assert_eq!(std::fs::read(moved).expect("kept"), before);
    site.start("incident");
    assert_eq!(caught_up(&bus, "incident").await["snapshot"], 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_and_one_of_a_newer_roadcall_are_refused() {
    let mut site = small().await;
    let bus = site.connect().await;
    create(&site, "incident");
    create(&site, "incident");
    site.end("incident");
    let path = database(&site, "incident");
    let before = std::fs::read(&path).expect("read");
    let found = objects(&bus).await;
    let [old, new] = found.as_slice() else {
        panic!("{found:?}")
    };
    let facts: Value = serde_json::from_str(&new.metadata["roadcall"]).expect("JSON");
    let mut packed = Vec::new();
    bus.get_object(new, |bytes| packed.write_all(bytes))
        .await
        .expect("whole");
    let put = async |facts: &Value, bytes: &[u8]| {
        let metadata = BTreeMap::from([("roadcall".to_owned(), facts.to_string())]);
        let name = (new.name.as_str(), "test");
        bus.put_object(SNAPSHOTS_BUCKET, name, metadata, bytes)
            .await
            .expect("put");
    };

    // Other bytes under its name; then one byte of the database; then more of them than there should be.
    put(&facts, b"not compressed at all").await;
    refused(&site, &["--yes"], 1, &["RC0317", "incident 2 is damaged"]);
    let mut plain = Vec::new();
    GzDecoder::new(packed.as_slice())
        .read_to_end(&mut plain)
        .expect("unpacked");
    let pack = |bytes: &[u8]| {
        let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
        packer.write_all(bytes).expect("packed");
        packer.finish().expect("packed")
    };
    let mut changed = plain.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    put(&facts, &pack(&changed)).await;
    refused(
        &site,
        &["--yes"],
        1,
        &["RC0317", "not the one that was taken"],
    );
    put(&facts, &pack(&[plain.as_slice(), b"more"].concat())).await;
    refused(&site, &["--yes"], 1, &["RC0317", "larger"]);
    put(&facts, &packed[..packed.len() - 20]).await;
    refused(&site, &["--yes"], 1, &["RC0317"]);

    // A newer schema: the version stands at byte 60 of the file.
    let mut newer = plain.clone();
    newer[60..64].copy_from_slice(&99_000_u32.to_be_bytes());
    let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(&newer));
    let mut of_newer = facts.clone();
    of_newer["sha256"] = json!(digest);
    put(&of_newer, &pack(&newer)).await;
    refused(&site, &["--yes"], 1, &["RC0315", "newer"]);
    let mut of_others = facts.clone();
    of_others["site"] = json!("depot-a");
    put(&of_others, &packed).await;
    refused(&site, &["--yes"], 1, &["depot-a"]);

    // Its pieces are gone.
    let subject = format!("$O.{SNAPSHOTS_BUCKET}.C.{}", old.nuid);
    bus.api("STREAM.PURGE.OBJ_SNAPSHOTS", &json!({ "filter": subject }))
        .await
        .expect("purged");
    refused(&site, &["--yes", "--id", "1"], 1, &["RC0317", "0 bytes"]);

    assert_eq!(
        std::fs::read(&path).expect("read"),
        before,
        "nothing was touched"
    );
    let left: BTreeSet<String> = std::fs::read_dir(state(&site, "incident"))
        .expect("listed")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter(|name| {
            name.contains("restoring") || name.contains("replaced") || name.contains("copy")
        })
        .collect();
    assert_eq!(left, BTreeSet::new());
    put(&facts, &packed).await;
    let (code, _, words) = at(
        &site,
        "incident",
        &["snapshot", "restore", "--role", "incident", "--yes"],
    );
    assert_eq!(code, Some(0), "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_while_restoring_leaves_the_database_as_it_was() {
    let mut site = Processes::new();
    site.apply_topology();
    site.start("incident");
    site.role_ready("incident").await;
    let bus = site.connect().await;
    site.end("incident");
    // A database of which the disk has room for one.
    let tight = Tight::new();
    let path = database(&site, "incident");
    let connection = rusqlite::Connection::open(&path).expect("opened");
    connection
        .execute_batch(
            "PRAGMA journal_mode = DELETE; CREATE TABLE ballast (bytes BLOB);
             INSERT INTO ballast VALUES (randomblob(1800000));",
        )
        .expect("filled");
    drop(connection);
    create(&site, "incident");
    let there = tight.dir.path().join("incident.db");
    std::fs::copy(&path, &there).expect("copied");
    let before = std::fs::read(&there).expect("read");
    let output = tight
        .limited(&{
            let mut command = site.roadcall();
            command
                .arg("--state-dir")
                .arg(tight.dir.path())
                .args(["snapshot", "restore", "--role", "incident", "--yes"]);
            command
        })
        .output()
        .expect("runs");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("error[RC03"), "{words}");
    assert_eq!(std::fs::read(&there).expect("read"), before);
    tight.loosen();
    let output = site
        .roadcall()
        .arg("--state-dir")
        .arg(tight.dir.path())
        .args(["snapshot", "restore", "--role", "incident", "--yes"])
        .output()
        .expect("runs");
    assert!(output.status.success(), "{output:?}");
    drop(bus);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_role_takes_them_by_its_schedule() {
    let hand: &'static AtomicI64 = Box::leak(Box::new(AtomicI64::new(Clock.now().ms())));
    let clock = Clock::by_hand(hand);
    let site = site().await;
    let mut config = Config::default();
    config.site.state_dir = site.dir.path().join("state");
    config.snapshot.every = roadcall::config::units::Span::secs(3600);
    let roles = [RoleName::Vendor, RoleName::Auth];
    let node = Node::start_at(
        connect(&site).await,
        &config,
        &roles,
        true,
        &registry::build,
        clock,
    )
    .await;
    let node = node.expect("started");
    let bus = connect(&site).await;
    let newest = async || {
        let found = snapshot::list(&bus).await.expect("read");
        let of = |role| {
            found
                .iter()
                .filter(|one| one.role == role)
                .map(|one| one.id)
                .max()
        };
        (of(RoleName::Vendor), of(RoleName::Auth))
    };
    assert_eq!(newest().await, (None, None));
    for round in 1..=5 {
        // The longest span between two, and a bit.
        hand.fetch_add(4_000_000, Ordering::SeqCst);
        eventually("a snapshot of each", || async {
            (newest().await == (Some(round), Some(round))).then_some(())
        })
        .await;
    }
    assert_eq!(snapshot::list(&bus).await.expect("read").len(), 6);
    node.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");
    site.broker.shutdown().await;
}
