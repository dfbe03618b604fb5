//! Real processes killed with SIGKILL, a real broker killed and rolled back, under load from a seed: every accepted
//! command has its effect once, every event is in the archive once, queues drain, no letters.
//!
//! `ROADCALL_KILLS=50 cargo test crash` runs the long form; `ROADCALL_KILL_SEED` repeats one.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::support::{eventually, free_port, nats_server};
use roadcall::bus::jetstream::{Config, JetStream};
use roadcall::bus::{Bus, DLQ, EVENTS, Headers};
use roadcall::event::{Id, ids};

const ROLES: [&str; 5] = ["incident", "vendor", "match", "tracking", "audit"];

/// A site of separate processes on one external broker.
struct Site {
    dir: tempfile::TempDir,
    port: u16,
    broker: Child,
    roles: BTreeMap<&'static str, Child>,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::TempDir::new().expect("a directory");
        let port = free_port();
        let broker = start_broker(dir.path(), port);
        Self {
            dir,
            port,
            broker,
            roles: BTreeMap::new(),
        }
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    fn roadcall(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_roadcall"));
        command
            .env_clear()
            .args(["--nats", &self.url()])
            .stdin(Stdio::null());
        command
    }

    fn start(&mut self, role: &'static str) {
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(self.dir.path().join(format!("{role}.log")))
            .expect("a log");
        let state = self.dir.path().join(role);
        let child = self
            .roadcall()
            .arg("--state-dir")
            .arg(state)
            .args(["--role", role])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("started");
        self.roles.insert(role, child);
    }

    /// SIGKILL, then a start.
    fn kill(&mut self, role: &'static str) {
        if let Some(mut child) = self.roles.remove(role) {
            child.kill().expect("killed");
            child.wait().expect("ended");
        }
        self.start(role);
    }

    fn kill_broker(&mut self) {
        self.broker.kill().expect("killed");
        self.broker.wait().expect("ended");
        self.broker = start_broker(self.dir.path(), self.port);
    }

    /// Replaces the broker's store by the copy at `older` while it is down.
    fn roll_back(&mut self, older: &Path) {
        self.broker.kill().expect("killed");
        self.broker.wait().expect("ended");
        let store = self.dir.path().join("nats");
        std::fs::remove_dir_all(&store).expect("removed");
        copy_dir(older, &store);
        self.broker = start_broker(self.dir.path(), self.port);
    }

    async fn connect(&self) -> JetStream {
        eventually("a connection", || async {
            JetStream::connect(Config {
                url: self.url(),
                credentials: None,
                name: "test".to_owned(),
                connect_timeout: Duration::from_secs(2),
                request_timeout: Duration::from_secs(2),
            })
            .await
            .ok()
        })
        .await
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for child in self.roles.values_mut().chain([&mut self.broker]) {
            // Ended already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start_broker(dir: &Path, port: u16) -> Child {
    let config = dir.join("nats.conf");
    let text = format!(
        "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{}\", domain: hub, sync_interval: always, max_file_store: 20GB }}\n",
        dir.join("nats").display()
    );
    std::fs::write(&config, text).expect("written");
    Command::new(nats_server())
        .arg("-c")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started")
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("listed") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else if let Err(error) = std::fs::copy(entry.path(), &target) {
            // The server may remove a file between listing and copying: this is a live store.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        }
    }
}

/// Sends a command until it is answered: the same request id makes a repeat harmless.
async fn call(bus: &JetStream, actor: &str, command: &str, body: &Value) -> Value {
    eventually(command, || async {
        let mut headers = Headers::default();
        headers.push("Roadcall-Actor", actor);
        let reply = bus
            .call(
                "hub",
                command,
                &headers,
                body.to_string().into_bytes(),
                Duration::from_secs(2),
            )
            .await;
        let value: Value = serde_json::from_slice(&reply.ok()?.body).ok()?;
        let passing = ["SERVICE_UNAVAILABLE", "NOT_FOUND"]
            .iter()
            .any(|code| value["error"]["code"] == *code);
        (!passing).then_some(value)
    })
    .await
}

fn id(kind: &str, n: u64) -> Id {
    ids::derive_v7(1, &[kind.as_bytes(), &n.to_be_bytes()])
}

async fn report(bus: &JetStream, n: u64) -> Value {
    let driver = format!("driver:{}", id("driver", n));
    let body =
        json!({ "type": "tire", "lat": 10.0, "lon": 20.0, "clientRequestId": format!("r{n}") });
    let reply = call(bus, &driver, "incident.create", &body).await;
    assert!(reply["ok"]["incidentId"].is_string(), "{reply}");
    reply["ok"]["incidentId"].clone()
}

/// Reads the whole archive; fails if an event is there twice.
async fn archive(bus: &JetStream) -> BTreeMap<String, String> {
    let mut events = BTreeMap::new();
    let mut from = 1;
    loop {
        let stored = bus
            .read(EVENTS, "roadcall.>", from, 1000, true)
            .await
            .expect("read");
        let Some(last) = stored.last() else {
            return events;
        };
        from = last.seq + 1;
        for message in stored {
            let event_id = message
                .headers
                .get("Nats-Msg-Id")
                .expect("an id")
                .to_owned();
            let before = events.insert(event_id.clone(), message.subject.clone());
            assert_eq!(before, None, "event {event_id} is in the archive twice");
        }
    }
}

/// Waits until every queue is empty and nothing waits in a store for its time.
async fn drained(bus: &JetStream) {
    eventually("the queues drain", || async {
        for role in ROLES {
            let queue = format!("{role}-queue");
            let state = bus.queue(&queue).await.ok()?;
            if state.pending + state.ack_pending > 0 {
                return None;
            }
        }
        Some(())
    })
    .await;
}

/// Every incident is created once and escalated once: nobody is near, so that its story ends by itself.
async fn check_stories(bus: &JetStream, incidents: u64) {
    eventually("every incident is escalated", || async {
        let escalated = bus
            .read(
                EVENTS,
                "roadcall.hub.incident.IncidentEscalated.*",
                1,
                1000,
                true,
            )
            .await
            .ok()?;
        (escalated.len() as u64 == incidents).then_some(())
    })
    .await;
    drained(bus).await;
    let events = archive(bus).await;
    let count = |kind: &str| {
        events
            .values()
            .filter(|subject| subject.contains(kind))
            .count() as u64
    };
    for kind in [
        ".IncidentCreated.",
        ".MatchExhausted.",
        ".IncidentEscalated.",
    ] {
        assert_eq!(count(kind), incidents, "{kind}");
    }
    assert_eq!(
        bus.stream(DLQ).await.expect("asked").messages,
        0,
        "no letters"
    );
}

fn apply_topology(site: &Site) {
    let output = site
        .roadcall()
        .args(["topology", "apply", "--yes"])
        .output()
        .expect("runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn seed() -> u64 {
    std::env::var("ROADCALL_KILL_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(7)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_roles_and_broker_lose_nothing_and_double_nothing() {
    let kills: u64 = std::env::var("ROADCALL_KILLS")
        .ok()
        .and_then(|kills| kills.parse().ok())
        .unwrap_or(8);
    let mut random = ChaCha8Rng::seed_from_u64(seed());
    let mut site = Site::new();
    let bus = site.connect().await;
    apply_topology(&site);
    ROLES.iter().for_each(|role| site.start(role));
    let mut made = 0;
    for kill in 0..kills {
        for _ in 0..random.random_range(1..6) {
            report(&bus, made).await;
            made += 1;
        }
        match random.random_range(0..6) {
            5 => site.kill_broker(),
            role => site.kill(ROLES[role]),
        }
        eprintln!("seed {} kill {kill} of {kills}, {made} incidents", seed());
    }
    check_stories(&bus, made).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolled_back_broker_gets_back_what_it_lost() {
    let mut site = Site::new();
    let bus = site.connect().await;
    apply_topology(&site);
    ROLES.iter().for_each(|role| site.start(role));
    for n in 0..5 {
        report(&bus, n).await;
    }
    check_stories(&bus, 5).await;
    let older = site.dir.path().join("older");
    copy_dir(&site.dir.path().join("nats"), &older);
    for n in 5..15 {
        report(&bus, n).await;
    }
    check_stories(&bus, 15).await;
    let before = archive(&bus).await;
    site.roll_back(&older);
    let again = site.connect().await;
    eventually("the archive holds every event again", || async {
        let stored = again.stream(EVENTS).await.ok()?;
        (stored.messages == before.len() as u64).then_some(())
    })
    .await;
    assert_eq!(
        archive(&again).await.keys().collect::<Vec<_>>(),
        before.keys().collect::<Vec<_>>()
    );
    for n in 15..20 {
        report(&again, n).await;
    }
    check_stories(&again, 20).await;
}
