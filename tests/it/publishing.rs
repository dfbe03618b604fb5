//! `event.publish`: what producers outside give to the audit role is in the archive once, under their own source, entry by
//! entry, and stays there when the broker loses it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Site, connect, eventually, site};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::memory::{Faults, MemoryBus};
use roadcall::bus::{Bus, EVENTS, Headers, Stored};
use roadcall::config::Config;
use roadcall::event::{Actor, Codec, Id, Site as SiteId, Ts, decode, ids};
use roadcall::node::engine::{Engine, Settings, Work};
use roadcall::node::relay::Relay;
use roadcall::node::run::Node;
use roadcall::role::audit::AuditRole;
use roadcall::role::permission::Caller;
use roadcall::role::{Command, Entropy, Role, RoleName};
use roadcall::routing::Routes;
use roadcall::store::{Identity, Options, Store, Synchronous};

fn id(n: u64) -> Id {
    ids::derive_v7(1, &[&n.to_be_bytes()])
}

/// An arrival as its producer would send it, with the event id `n`.
fn arrival(n: u64) -> Value {
    json!({ "source": "roadcall.tracking", "detail-type": "VendorArrived", "detail": {
        "eventId": id(n), "timestamp": "2026-01-15T10:00:00.000Z", "version": "1.0", "incidentId": id(1000 + n),
        "vendorId": id(2), "driverId": id(1), "sessionId": id(3), "arrivedAt": "2026-01-15T10:00:00.000Z",
        "location": { "lat": 40.0, "lon": -74.0 }, "distanceMeters": 12.5,
    }})
}

/// A rating in EventBridge's spelling, its detail a text without id and time.
fn rating(time: &str) -> Value {
    let detail = json!({
        "version": "1.0", "incidentId": id(7), "driverId": id(1), "vendorId": id(2), "ratedBy": "driver", "stars": 5,
        "ratedAt": "2026-01-15T10:00:00.000Z",
    });
    json!({
        "Source": "roadcall.incident", "DetailType": "IncidentRated", "Detail": detail.to_string(), "Time": time,
        "Resources": ["incident/x"],
    })
}

async fn call(bus: &JetStream, actor: &str, body: Value) -> Value {
    let mut headers = Headers::default();
    headers.push("Roadcall-Actor", actor);
    let (body, wait) = (body.to_string().into_bytes(), Duration::from_secs(5));
    let reply = bus.call("hub", "event.publish", &headers, body, wait).await;
    serde_json::from_slice(&reply.expect("answered").body).expect("JSON")
}

async fn publish(bus: &JetStream, entries: Vec<Value>) -> Value {
    call(bus, "operator:test", json!({ "entries": entries })).await["ok"].clone()
}

/// The archive by event id; fails where one is there twice.
async fn archive<B: Bus>(bus: &B) -> BTreeMap<String, Stored> {
    let stored = bus.read(EVENTS, "roadcall.>", 1, 1000, false).await;
    let stored = stored.expect("read");
    let count = stored.len();
    let by_id: BTreeMap<_, _> = stored
        .into_iter()
        .map(|one| {
            (
                one.headers.get("Nats-Msg-Id").expect("an id").to_owned(),
                one,
            )
        })
        .collect();
    assert_eq!(by_id.len(), count, "one of them is there twice");
    by_id
}

async fn archived(bus: &JetStream, count: usize) -> BTreeMap<String, Stored> {
    eventually("the events to be in the archive", || async {
        (bus.stream(EVENTS).await.ok()?.messages == count as u64).then_some(())
    })
    .await;
    archive(bus).await
}

async fn node(site: &Site) -> Node {
    let mut config = Config::default();
    config.site.state_dir = site.dir.path().join("state");
    let node = Node::start(connect(site).await, &config, &[RoleName::Audit], true).await;
    node.expect("started")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_succeeds_by_the_entry_and_what_failed_is_sent_again_under_its_id() {
    let mut site = site().await;
    let node = node(&site).await;
    let bus = connect(&site).await;
    let time = "2026-01-15T11:22:33.000Z";
    let mut broken = arrival(2);
    broken["detail"]
        .as_object_mut()
        .expect("an object")
        .remove("vendorId");
    let mut old = arrival(3);
    old["detail"]["version"] = json!("9.0");
    let mut elsewhere = arrival(4);
    elsewhere["source"] = json!("roadcall.vendor");
    let unknown = json!({ "source": "roadcall.incident", "detail-type": "Foo", "detail": {} });
    let mut huge = arrival(5);
    huge["detail"]["note"] = json!("x".repeat(256 * 1024));
    let mut late = rating(time);
    late["EventBusName"] = json!("default");
    let batch = vec![
        arrival(1),
        broken,
        rating(time),
        old,
        elsewhere,
        unknown,
        huge,
        late,
        json!(1),
    ];
    let answer = publish(&bus, batch).await;
    assert_eq!(answer["failed"], 7, "{answer}");
    let entries = answer["entries"].as_array().expect("a list");
    assert_eq!(entries[0], json!({ "eventId": id(1) }));
    let rated = entries[2]["eventId"].as_str().expect("an id").to_owned();
    let said: Vec<_> = [1, 3, 4, 5, 6, 7, 8]
        .map(|n| (&entries[n]["error"]["code"], &entries[n]["error"]["field"]))
        .into_iter()
        .collect();
    let wrong = |field: &str| (json!("VALIDATION_ERROR"), json!(field));
    let expected = [
        wrong("detail.vendorId"),
        wrong("detail.version"),
        wrong("source"),
        wrong("detail-type"),
        wrong("body"),
        wrong("EventBusName"),
    ];
    for ((code, field), (its_code, its_field)) in said.iter().zip(&expected) {
        assert_eq!((code, field), (&its_code, &its_field), "{answer}");
    }
    assert_eq!(said.len(), 7);

    let there = archived(&bus, 2).await;
    let stored = &there[&rated];
    let subject = format!("roadcall.hub.incident.IncidentRated.{}", id(7));
    assert_eq!(stored.subject, subject);
    let event = decode(&subject, stored.headers.get("Content-Type"), &stored.body).expect("valid");
    assert_eq!(
        (event.time.to_string(), event.id.to_string()),
        (time.to_owned(), rated.clone())
    );
    assert_eq!(
        (&event.resources[..], event.correlation),
        (&["incident/x".to_owned()][..], Some(id(7)))
    );
    let numbers: Vec<&str> = there
        .values()
        .filter_map(|one| one.headers.get("Roadcall-Seq")?.rsplit(':').next())
        .collect();
    assert_eq!(numbers.len(), 2);
    assert!(
        numbers.contains(&"1") && numbers.contains(&"2"),
        "{numbers:?}"
    );

    // The whole batch again, put right: what was accepted is not published again, and the rest is.
    let again = publish(&bus, vec![arrival(1), arrival(2), arrival(3), arrival(2)]).await;
    let same = json!({ "entries": [
        { "eventId": id(1) }, { "eventId": id(2) }, { "eventId": id(3) }, { "eventId": id(2) },
    ], "failed": 0 });
    assert_eq!(again, same);
    archived(&bus, 4).await;
    let mut other = arrival(1);
    other["detail"]["distanceMeters"] = json!(1.0);
    let refused = publish(&bus, vec![other]).await;
    assert_eq!(
        refused["entries"][0]["error"]["code"], "CONFLICT",
        "{refused}"
    );

    let refused = call(
        &bus,
        "driver:0192f3c1-0000-7000-8000-000000000001",
        json!({ "entries": [arrival(9)] }),
    )
    .await;
    assert_eq!(refused["error"]["code"], "AUTHORIZATION_ERROR", "{refused}");
    let refused = call(&bus, "operator:test", json!({ "entries": [] })).await;
    assert_eq!(refused["error"]["field"], "entries", "{refused}");

    // The broker comes back from an older store: what was accepted is there again, and nothing twice.
    let older = site.copy_store();
    let more: Vec<Value> = (10..15).map(arrival).collect();
    publish(&bus, more).await;
    let before = archived(&bus, 9).await;
    bus.close().await;
    site.roll_back(&older).await;
    let bus = connect(&site).await;
    let after = archived(&bus, 9).await;
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        after.keys().collect::<Vec<_>>()
    );
    bus.close().await;
    site.restart().await;
    let bus = connect(&site).await;
    publish(&bus, vec![arrival(14), arrival(15)]).await;
    archived(&bus, 10).await;
    node.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");
    site.broker.shutdown().await;
}

/// The audit role's engine on the model, with its own relay.
struct Process {
    engine: Engine,
    relay: Relay<MemoryBus>,
    clock: Arc<AtomicI64>,
}

impl Process {
    fn start(dir: &std::path::Path, bus: &MemoryBus, clock: &Arc<AtomicI64>) -> Self {
        let path = dir.join("audit.db");
        let options = Options {
            path: path.clone(),
            synchronous: Synchronous::Off,
            site: SiteId::new("hub").expect("valid"),
            role: "audit".to_owned(),
            queue: "audit-queue".to_owned(),
            codec: Codec::Cbor,
        };
        let fresh = Identity {
            store_id: id(1),
            epoch: "1".to_owned(),
        };
        let store = Store::open(options, AuditRole::default().migrations(), &fresh).expect("opens");
        let routes = Arc::new(RwLock::new(Arc::new(Routes::shipped())));
        let engine = Engine::new(
            store,
            Box::new(AuditRole::default()),
            routes,
            Settings::default(),
        );
        let relay = Relay::new(bus.clone(), &path).expect("opens");
        let clock = Arc::clone(clock);
        Self {
            engine,
            relay,
            clock,
        }
    }

    fn now(&self) -> Ts {
        Ts::from_ms(self.clock.load(Ordering::SeqCst))
    }

    fn publish(&mut self, numbers: std::ops::Range<u64>) {
        let entries: Vec<Value> = numbers.map(arrival).collect();
        let body = json!({ "entries": entries });
        let command = Command {
            id: Id::from_uuid(uuid::Uuid::now_v7()),
            name: "event.publish".to_owned(),
            caller: Caller::of(Actor::Operator("test".to_owned())),
            body: body.as_object().expect("an object").clone(),
            client_request_id: None,
            traceparent: None,
            entropy: Entropy([7; 32]),
        };
        let work = [Work::Command(Box::new(command))];
        let output = self.engine.step(self.now(), &work).expect("stepped");
        let reply = output.replies[0].1.as_ref().expect("accepted");
        assert_eq!(reply["failed"], 0, "{reply}");
    }

    /// Brings out what is there; returns how many messages were sent.
    async fn relay(&mut self) -> usize {
        let mut sent = 0;
        loop {
            let pass = self.relay.pass(self.now()).await.expect("passed");
            sent += pass.published;
            self.engine.step(self.now(), &pass.work).expect("marked");
            if pass.published == 0 && !pass.more {
                return sent;
            }
        }
    }
}

#[tokio::test]
async fn the_tail_is_verified_under_every_source_that_was_published_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(AtomicI64::new(1_768_471_200_000));
    let bus = MemoryBus::new(Arc::clone(&clock), 1, Faults::default());
    let mut process = Process::start(dir.path(), &bus, &clock);
    process.publish(0..6);
    assert_eq!(process.relay().await, 6);

    // Long after the server has forgotten their ids: what is in the archive is found there and not sent again.
    clock.fetch_add(600_000, Ordering::SeqCst);
    bus.restart();
    assert_eq!(process.relay().await, 0);
    drop(process);
    let mut process = Process::start(dir.path(), &bus, &clock);
    assert_eq!(process.relay().await, 0);
    assert_eq!(archive(&bus).await.len(), 6);

    // What the archive lost is sent again, and only that.
    bus.roll_back(2);
    process.publish(4..8);
    assert_eq!(process.relay().await, 4);
    assert_eq!(archive(&bus).await.len(), 8);
}
