//! DOMAIN's scenarios that are about a process and not about one role: those of single roles stand beside the roles.

use std::path::Path;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use serde_json::json;

use roadcall::bus::memory::{Faults, MemoryBus};
use roadcall::bus::{Bus, EVENTS};
use roadcall::event::{Actor, Codec, Id, Site, Ts, ids};
use roadcall::node::engine::{Engine, Incoming, Settings, StepOutput, Work};
use roadcall::node::relay::Relay;
use roadcall::role::incident::{IncidentOptions, IncidentRole};
use roadcall::role::matching::MatchRole;
use roadcall::role::permission::Caller;
use roadcall::role::{Command, Entropy, Mode, Role};
use roadcall::routing::Routes;
use roadcall::store::{Identity, Options, Store, Synchronous};

const START_MS: i64 = 1_768_471_200_000;

/// A role as a process has it; dropping it is the process's death.
struct Process {
    engine: Engine,
    relay: Relay<MemoryBus>,
}

impl Process {
    fn start(dir: &Path, bus: &MemoryBus, role: Box<dyn Role>) -> Self {
        let name = role.name();
        let site = Site::new("hub").expect("valid");
        let path = dir.join(format!("{name}.db"));
        let options = Options {
            path: path.clone(),
            synchronous: Synchronous::Full,
            site: site.clone(),
            role: name.as_str().to_owned(),
            queue: name.queue().unwrap_or_default().to_owned(),
            codec: Codec::Json,
        };
        let fresh = Identity {
            store_id: ids::derive_v8(2, &[name.as_str().as_bytes()]),
            epoch: "1".to_owned(),
        };
        let store = Store::open(options, role.migrations(), &fresh).expect("opens");
        let routes = Arc::new(RwLock::new(Arc::new(Routes::shipped())));
        let mut engine = Engine::new(store, role, routes, Settings::default());
        engine.start(now()).expect("starts");
        let relay = Relay::new(bus.clone(), &path).expect("opens");
        Self { engine, relay }
    }

    /// Takes what the queue has and commits it; the acks are the caller's.
    async fn handle(&mut self, bus: &MemoryBus, queue: &str) -> StepOutput {
        let deliveries = bus
            .fetch(queue, 100, Duration::ZERO)
            .await
            .expect("fetched");
        let work: Vec<Work> = deliveries
            .into_iter()
            .map(|delivery| Work::Delivery(Box::new(Incoming::new(delivery, Mode::Live))))
            .collect();
        self.engine.step(now(), &work).expect("committed")
    }

    /// Publishes what the outbox holds, and lets the store know.
    async fn publish(&mut self) {
        let pass = self.relay.pass(now()).await.expect("passes");
        assert!(pass.stopped.is_none(), "{:?}", pass.stopped);
        self.engine.step(now(), &pass.work).expect("committed");
    }
}

fn now() -> Ts {
    Ts::from_ms(START_MS)
}

fn incident_role() -> Box<dyn Role> {
    Box::new(IncidentRole::new(IncidentOptions::default()))
}

fn match_role() -> Box<dyn Role> {
    Box::new(MatchRole::new(Default::default()))
}

async fn subjects(bus: &MemoryBus) -> Vec<String> {
    let stored = bus
        .read(EVENTS, "roadcall.>", 1, 100, true)
        .await
        .expect("read");
    let kind = |subject: &str| subject.split('.').nth(3).map(str::to_owned);
    stored
        .iter()
        .filter_map(|stored| kind(&stored.subject))
        .collect()
}

#[tokio::test]
async fn s19_killed_between_commit_and_publish_and_between_effect_and_ack() {
    let dir = tempfile::tempdir().expect("a directory");
    let bus = MemoryBus::new(Arc::new(AtomicI64::new(START_MS)), 1, Faults::default());
    let queue = "match-queue";
    let filters = Routes::shipped().filters(queue);
    bus.create_queue(queue, filters, Duration::from_secs(300), 1000);

    // The command is answered, its event is committed, and the process dies before the relay has run.
    let mut incident = Process::start(dir.path(), &bus, incident_role());
    let driver = ids::derive_v7(1, &[b"driver"]);
    let command = Command {
        id: Id::from_uuid(uuid::Uuid::now_v7()),
        name: "incident.create".to_owned(),
        caller: Caller::of(Actor::Driver(driver)),
        body: json!({ "type": "tire", "lat": 1.0, "lon": 2.0, "clientRequestId": "r" })
            .as_object()
            .expect("an object")
            .clone(),
        client_request_id: Some("r".to_owned()),
        traceparent: None,
        entropy: Entropy([7; 32]),
    };
    let output = incident
        .engine
        .step(now(), &[Work::Command(Box::new(command))]);
    assert!(output.expect("committed").replies[0].1.is_ok());
    drop(incident);
    assert_eq!(subjects(&bus).await, [""; 0]);

    let mut incident = Process::start(dir.path(), &bus, incident_role());
    incident.publish().await;
    assert_eq!(
        subjects(&bus).await,
        ["IncidentCreated"],
        "it appears after the restart"
    );
    incident.publish().await;

    // Downstream the effect is committed, and the process dies before the delivery is acknowledged.
    let mut matching = Process::start(dir.path(), &bus, match_role());
    let unacknowledged = matching.handle(&bus, queue).await;
    assert_eq!(unacknowledged.acks.len(), 1);
    drop(matching);

    let mut matching = Process::start(dir.path(), &bus, match_role());
    bus.reset(queue).await.expect("reset");
    let again = matching.handle(&bus, queue).await;
    assert_eq!(
        matching.engine.counts().duplicates,
        1,
        "the delivery comes again"
    );
    bus.ack(again.acks).await.expect("acked");
    matching.publish().await;
    assert_eq!(
        subjects(&bus).await,
        ["IncidentCreated", "MatchExhausted"],
        "one effect"
    );
}
