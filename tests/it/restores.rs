//! Databases wiped and restored from their snapshots: a restored role comes to the state that it would have had, nothing of it
//! gets into the archive twice, and what was lost is said.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use rusqlite::types::ValueRef;
use serde_json::{Value, json};

use crate::crash::{Reported, Story, archive, call};
use crate::snapshots::{at, caught_up, create, database, state, status};
use crate::support::counting::{Counting, Fate, QUEUE, event};
use crate::support::processes::{Processes, ROLES};
use crate::support::{eventually, eventually_within};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{AckToken, Bus, Delivery, EVENTS, StreamId};
use roadcall::event::{Actor, Codec, Id, Site, Ts, ids};
use roadcall::node::engine::{Engine, Incoming, Settings, Work};
use roadcall::role::permission::Caller;
use roadcall::role::{Code, Command as Request, Entropy, Role, RoleName};
use roadcall::routing::Routes;
use roadcall::store::{
    Archived, CatchUp, Identity, Options, OutboxRow, Reader, Store, Synchronous,
};

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
pub fn business(path: &Path, written: &[&str]) -> BTreeMap<String, Vec<String>> {
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
                .filter(|(_, name)| !(loose && name.ends_with("_ms")));
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
pub fn outcomes(path: &Path) -> BTreeMap<Vec<u8>, i64> {
    let connection = rusqlite::Connection::open(path).expect("opened");
    let mut rows = connection
        .prepare("SELECT event_id, outcome FROM inbox")
        .expect("prepared");
    let rows = rows.query_map((), |row| Ok((row.get(0)?, row.get(1)?)));
    rows.and_then(Iterator::collect).expect("read")
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
pub const WRITTEN: [&str; 2] = ["delivery", "seen"];
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
        if *role != "kb" {
            // Wherever it is by then: it goes on from there.
            site.kill(role);
        }
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
async fn a_whole_site_is_wiped_and_goes_on_without_an_event_twice() {
    let mut site = Processes::all();
    site.ready().await;
    let bus = site.connect().await;
    tell(&bus, 0..6).await;
    for role in ROLES {
        create(&site, role);
    }
    tell(&bus, 6..12).await;
    settled(&bus, &ROLES).await;
    let before = archive(&bus).await;
    for role in ROLES {
        wipe(&mut site, role);
    }
    for role in ROLES {
        let (code, _, words) = at(&site, role, &["snapshot", "restore", "--role", role]);
        assert_eq!(code, Some(0), "{words}");
    }
    for role in ROLES {
        site.start(role);
    }
    let mut lost = 0;
    for role in ROLES {
        lost += caught_up(&bus, role).await["notMadeAgain"]
            .as_u64()
            .unwrap_or_default();
    }
    assert!(
        lost > 0,
        "reports and answers of people were lost, and that is said"
    );
    settled(&bus, &ROLES).await;
    let after = archive(&bus).await;
    let kept = |id: &String| after.contains_key(id);
    assert!(before.keys().all(kept));
    let (code, rows, words) = site.run(&["audit", "--json"]);
    assert_eq!(code, Some(0), "{rows}\n{words}");
    // With people whom nothing of what was lost concerns.
    tell(&bus, 12..18).await;
    settled(&bus, &ROLES).await;
    archive(&bus).await;
    let (code, rows, words) = site.run(&["audit", "--json"]);
    assert_eq!(code, Some(0), "{rows}\n{words}");
}

/// A database and the engine over it, without a broker.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn engine(&self, name: &str) -> Engine {
        let role = Box::new(Counting::default());
        let options = Options {
            path: self.dir.path().join(name),
            synchronous: Synchronous::Off,
            site: Site::new("hub").expect("valid"),
            role: "vendor".to_owned(),
            queue: QUEUE.to_owned(),
            codec: Codec::Json,
        };
        let fresh = identity(1);
        let store = Store::open(options, role.migrations(), &fresh).expect("opened");
        let routes = Arc::new(RwLock::new(Arc::new(Routes::shipped())));
        let mut engine = Engine::new(store, role, routes, Settings::default());
        engine.start(Ts::from_ms(1_000)).expect("started");
        engine
    }

    fn reader(&self, name: &str) -> Reader {
        Reader::open(&self.dir.path().join(name)).expect("opened")
    }
}

fn identity(n: u8) -> Identity {
    Identity {
        store_id: ids::derive_v8(i64::from(n), &[b"store"]),
        epoch: format!("e{n}"),
    }
}

fn write(n: u64) -> Work {
    let Value::Object(body) = json!({ "n": n }) else {
        unreachable!("an object")
    };
    Work::Command(Box::new(Request {
        id: ids::derive_v7(1_000, &[&n.to_be_bytes()]),
        name: "test.write".to_owned(),
        caller: Caller::of(Actor::Operator("test".to_owned())),
        body,
        client_request_id: None,
        traceparent: None,
        entropy: Entropy([7; 32]),
    }))
}

fn delivered(n: u64) -> Work {
    let message = event(n, n, Fate::Fine, Ts::from_ms(1_000));
    Work::Delivery(Box::new(Incoming::from_queue(Delivery {
        stream: StreamId(7),
        seq: n,
        subject: message.subject,
        headers: message.headers,
        body: message.body,
        delivered: 1,
        received_at_ms: 1_000,
        token: AckToken::default(),
    })))
}

#[test]
fn timers_and_commands_wait_until_a_restored_role_has_caught_up_and_what_is_archived_is_not_emitted()
 {
    let desk = Desk {
        dir: tempfile::tempdir().expect("a directory"),
    };
    let now = Ts::from_ms(2_000);
    let mut engine = desk.engine("first.db");
    // The command sets a timer that is due at once.
    engine
        .step(now, &[write(100), delivered(1)])
        .expect("stepped");
    let copy = desk.dir.path().join("second.db");
    roadcall::store::snapshot::copy(&desk.dir.path().join("first.db"), &copy).expect("copied");
    engine
        .step(now, &[delivered(2), delivered(3)])
        .expect("stepped");
    assert_eq!(engine.counts().timers, 1);
    let rows = desk.reader("first.db").outbox(1, 100, 100).expect("read");
    assert_eq!(rows.len(), 4);
    let archived = |at: usize| Archived {
        id: Id::parse(&rows[at].msg_id).expect("an id"),
        seq: at as u64,
        entity: "k".to_owned(),
        n: 40,
    };

    let owed = CatchUp {
        stream_seq: 1,
        ..CatchUp::default()
    };
    roadcall::store::snapshot::begin_life(&copy, &identity(2), &owed).expect("prepared");
    {
        // As `node::catchup` does: the event of number 2 is archived, that of number 3 is not.
        let role = Counting::default();
        let options = desk.engine("third.db").store().options().clone();
        let options = Options {
            path: copy.clone(),
            ..options
        };
        let mut store = Store::open(options, role.migrations(), &identity(3)).expect("opened");
        assert_eq!(*store.identity(), identity(2));
        store.begin().expect("begun");
        let other = Archived {
            id: ids::derive_v8(9, &[b"of a command"]),
            ..archived(0)
        };
        store
            .learn_archived(&[archived(0), archived(2), other])
            .expect("learned");
        store.begin_catch_up(3).expect("begun");
        store.commit().expect("committed");
    }
    let mut engine = desk.engine("second.db");
    let refused = engine.step(now, &[write(200)]).expect("stepped");
    let (_, reply) = &refused.replies[0];
    let code = reply.as_ref().expect_err("it is refused").code;
    assert_eq!(code, Code::ServiceUnavailable);
    engine
        .step(now, &[delivered(1), delivered(2), delivered(3)])
        .expect("stepped");
    let counts = engine.counts();
    assert_eq!(
        (counts.timers, counts.handled, counts.duplicates),
        (0, 2, 1)
    );
    let emitted = desk.reader("second.db").outbox(3, 100, 100).expect("read");
    assert_eq!(emitted.len(), 1, "that of number 3 alone");
    assert_eq!(emitted[0].msg_id, rows[3].msg_id);
    let number = |row: &OutboxRow| {
        let of = row.headers.iter().find(|(name, _)| name == "Roadcall-Seq");
        of.map(|(_, value)| value.clone())
    };
    assert_eq!(number(&emitted[0]).as_deref(), Some("vendor:e2:1"));

    engine.step(now, &[Work::CaughtUp]).expect("stepped");
    assert_eq!(engine.counts().timers, 1);
    let lost = engine.store().not_made_again().expect("read");
    assert_eq!(lost.count, 1, "the one that no input leads to");
    let taken = engine.step(now, &[write(200)]).expect("stepped");
    assert!(taken.replies[0].1.is_ok());
    // A restart does not begin anew.
    drop(engine);
    assert!(!desk.engine("second.db").store().catching_up());
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
