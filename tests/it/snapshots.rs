//! Snapshots of the roles' databases: how many are kept, and what is refused when one is to be restored. `restores` has what
//! becomes of a restored role.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::crash::call;
use crate::support::processes::Processes;
use crate::support::{connect, eventually, eventually_within, site};
use crate::trouble::Tight;
use roadcall::bus::SNAPSHOTS_BUCKET;
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::jetstream::objects::ObjectInfo;
use roadcall::config::Config;
use roadcall::node::clock::Clock;
use roadcall::node::registry;
use roadcall::node::run::Node;
use roadcall::node::snapshot;
use roadcall::role::RoleName;

pub fn state(site: &Processes, role: &str) -> PathBuf {
    site.dir.path().join(role)
}

pub fn database(site: &Processes, role: &str) -> PathBuf {
    state(site, role).join(format!("{role}.db"))
}

/// A command in the state directory of a role.
pub fn at(site: &Processes, role: &str, arguments: &[&str]) -> (Option<i32>, Value, String) {
    let dir = state(site, role);
    let mut all = vec!["--state-dir", dir.to_str().expect("UTF-8"), "--json"];
    all.extend(arguments);
    site.run(&all)
}

pub fn create(site: &Processes, role: &str) -> Value {
    let (code, taken, words) = at(site, role, &["snapshot", "create", "--role", role]);
    assert_eq!(code, Some(0), "{words}");
    assert_eq!(taken["role"], role);
    taken
}

/// What a role says of itself.
pub async fn status(bus: &JetStream, role: &str) -> Value {
    let reply = call(bus, "operator:test", &format!("{role}.status"), &json!({})).await;
    reply["ok"].clone()
}

/// What the role says of its restored database, once it has caught up.
pub async fn caught_up(bus: &JetStream, role: &str) -> Value {
    eventually_within(60, "the role to catch up", || async {
        let restored = status(bus, role).await["restored"].clone();
        restored["caughtUpAt"].is_string().then_some(restored)
    })
    .await
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
        let name = (new.name.as_str(), "test", new.mtime.as_str());
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
    for round in 1..=5_u64 {
        let mut headers = roadcall::bus::Headers::default();
        headers.push("Roadcall-Actor", "operator:test");
        let body = json!({ "role": "driver", "phone": format!("+1888000000{round}"), "name": "D",
            "email": format!("d{round}@fleet.example") });
        let body = body.to_string().into_bytes();
        let made = bus.call(
            "hub",
            "auth.create_user",
            &headers,
            body,
            Duration::from_secs(10),
        );
        assert_eq!(made.await.expect("answered").error_code, None);
        // The longest span between two, and a bit.
        hand.fetch_add(4_000_000, Ordering::SeqCst);
        eventually("a snapshot of what changed", || async {
            (newest().await.1 == Some(round)).then_some(())
        })
        .await;
    }
    // The other one's database did not change, or only by what the engine tidies up in it.
    let of =
        |found: &[snapshot::Snapshot], role| found.iter().filter(|one| one.role == role).count();
    let found = snapshot::list(&bus).await.expect("read");
    assert_eq!(of(&found, RoleName::Auth), 3);
    assert!((1..3).contains(&of(&found, RoleName::Vendor)), "{found:?}");
    node.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");
    site.broker.shutdown().await;
}
