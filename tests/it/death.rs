//! Processes that die with deliveries in hand, on a real nats-server. The test binary runs itself again as the process:
//! a whole node around the counting role, because no shipped role kills its process.
//!
//! The queue's `ack_wait` is five minutes in all of these, so whatever comes again within the half minute that a test
//! waits came by the reset of the restart.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::counting::{Counting, Fate, QUEUE, effects, event, event_id};
use crate::support::{Site, connect, eventually, site};
use roadcall::bus::jetstream::{self, JetStream};
use roadcall::bus::{ADVISORIES, Bus, DLQ, Outgoing};
use roadcall::config::Config;
use roadcall::event::Ts;
use roadcall::node::clock::Clock;
use roadcall::node::run::Node;
use roadcall::role::{Role, RoleName};

/// The variables that make a process of this test binary: the broker, the state directory, and what it does.
const URL: &str = "ROADCALL_TEST_URL";
const DIR: &str = "ROADCALL_TEST_DIR";
const DOES: &str = "ROADCALL_TEST_DOES";

/// A process of the counting role; killed when it is dropped.
struct Process {
    child: Child,
    dir: PathBuf,
}

impl Process {
    /// `work` runs the node; `take` takes what the queue has and dies.
    fn spawn(site: &Site, does: &str) -> Self {
        let dir = site.dir.path().to_owned();
        let _ = std::fs::remove_file(dir.join("ready"));
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(dir.join("role.log"))
            .expect("a log");
        let child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "death::process", "--nocapture"])
            .env_clear()
            .env(URL, &site.broker.url)
            .env(DIR, &dir)
            .env(DOES, does)
            // Held open: the process ends when this one is gone.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("started");
        Self { child, dir }
    }

    async fn ready(site: &Site) -> Self {
        let process = Self::spawn(site, "work");
        process.has("ready").await;
        process
    }

    /// Waits for a file that the process makes.
    async fn has(&self, file: &str) {
        eventually(file, || async {
            self.dir.join(file).exists().then_some(())
        })
        .await;
    }

    fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }

    /// The signal that ended it, if it has ended.
    fn died_of(&mut self) -> Option<i32> {
        let status = self.child.try_wait().expect("asked");
        status.map(|status| status.signal().unwrap_or(0))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test: what [`Process`] runs. Without its variables it does nothing.
#[test]
fn process() {
    let variable = |name| std::env::var(name).ok();
    let (Some(url), Some(dir), Some(does)) = (variable(URL), variable(DIR), variable(DOES)) else {
        return;
    };
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        match does.as_str() {
            "take" => take_and_die(&url).await,
            _ => work(&url, Path::new(&dir)).await,
        }
    });
}

async fn dial(url: &str) -> JetStream {
    let config = jetstream::Config {
        url: url.to_owned(),
        credentials: None,
        identity: None,
        ca_file: None,
        name: "process".to_owned(),
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(5),
        publish: jetstream::Form::default(),
    };
    JetStream::connect(config).await.expect("connected")
}

async fn work(url: &str, dir: &Path) {
    let mut config = Config::default();
    config.site.state_dir = dir.join("state");
    config.bus.url = url.to_owned();
    let build = |_: &Config, name: RoleName| {
        let role = Counting {
            dir: dir.to_owned(),
            ..Counting::default()
        };
        (name == RoleName::Vendor).then(|| Box::new(role) as Box<dyn Role>)
    };
    let roles = [RoleName::Vendor];
    let node = Node::start_with(dial(url).await, &config, &roles, true, &build).await;
    let node = node.expect("started");
    std::fs::write(dir.join("ready"), "").expect("written");
    node.stop.cancelled().await;
}

async fn take_and_die(url: &str) {
    let bus = dial(url).await;
    bus.reset(QUEUE).await.expect("reset");
    loop {
        let taken = bus
            .fetch(QUEUE, 100, Duration::from_secs(5))
            .await
            .expect("fetched");
        if !taken.is_empty() {
            std::process::abort();
        }
    }
}

fn now() -> Ts {
    Clock.now()
}

fn fine(n: u64, key: u64) -> Outgoing {
    event(n, key, Fate::Fine, now())
}

async fn publish(bus: &JetStream, messages: Vec<Outgoing>) {
    let published = bus.publish(messages).await;
    assert!(published.stopped.is_none(), "{:?}", published.stopped);
}

/// Holds the process up in its first event until everything published is in its hands.
async fn all_in_hand(process: &Process, bus: &JetStream, count: u64) {
    process.has("hanging").await;
    eventually("everything to be in hand", || async {
        let state = bus.queue(QUEUE).await.expect("asked");
        (state.ack_pending == count && state.pending == 0).then_some(())
    })
    .await;
}

async fn letters(bus: &JetStream) -> Vec<Value> {
    let stored = bus.read(DLQ, "dlq.>", 1, 100, false).await.expect("read");
    stored
        .iter()
        .map(|stored| serde_json::from_slice(&stored.body).expect("JSON"))
        .collect()
}

fn database(site: &Site) -> PathBuf {
    site.dir.path().join("state/vendor.db")
}

async fn handled(site: &Site, count: usize) {
    eventually("all to be handled", || async {
        (effects(&database(site)).len() == count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_role_handles_what_it_had_in_hand_first_in_order_and_at_once() {
    let site = site().await;
    let bus = connect(&site).await;
    let process = Process::ready(&site).await;
    let hang = site.dir.path().join("hang");
    std::fs::write(&hang, "").expect("written");
    let mut messages = vec![event(0, 0, Fate::Hangs, now())];
    messages.extend((1..30).map(|n| fine(n, n % 5)));
    publish(&bus, messages).await;
    all_in_hand(&process, &bus, 30).await;
    process.kill();
    std::fs::remove_file(&hang).expect("removed");
    publish(&bus, (30..40).map(|n| fine(n, n % 5)).collect()).await;
    let _process = Process::ready(&site).await;
    handled(&site, 40).await;
    let order: Vec<u64> = effects(&database(&site))
        .iter()
        .map(|effect| effect.n)
        .collect();
    assert_eq!(order, (0..40).collect::<Vec<_>>());
    assert_eq!(letters(&bus).await, Vec::<Value>::new());
    site.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_event_survives_ten_kills() {
    let site = site().await;
    let bus = connect(&site).await;
    Process::ready(&site).await.kill();
    publish(&bus, vec![fine(1, 1), fine(2, 1)]).await;
    for round in 0..10 {
        let mut process = Process::spawn(&site, "take");
        let signal = eventually("the process to die", || {
            let died = process.died_of();
            async move { died }
        })
        .await;
        assert_eq!(signal, 6, "round {round}");
        assert_eq!(
            bus.queue(QUEUE).await.expect("asked").ack_pending,
            2,
            "round {round}"
        );
    }
    let _process = Process::ready(&site).await;
    handled(&site, 2).await;
    assert_eq!(letters(&bus).await, Vec::<Value>::new());
    let advisories = bus.stream(ADVISORIES).await.expect("asked").messages;
    assert_eq!(advisories, 0, "the server counts none of those deliveries");
    site.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_kills_its_process_is_a_letter_after_three_deaths_alone_and_delays_nobody() {
    const COUNT: u64 = 30;
    const KILLER: u64 = 10;
    let site = site().await;
    let bus = connect(&site).await;
    let mut process = Process::ready(&site).await;
    let hang = site.dir.path().join("hang");
    std::fs::write(&hang, "").expect("written");
    let message = |n| match n {
        0 => event(n, n, Fate::Hangs, now()),
        KILLER => event(n, KILLER, Fate::Kills, now()),
        // The one behind it is about the same entity.
        n if n == KILLER + 1 => fine(n, KILLER),
        _ => fine(n, n),
    };
    publish(&bus, (0..COUNT).map(message).collect()).await;
    all_in_hand(&process, &bus, COUNT).await;
    std::fs::remove_file(&hang).expect("removed");
    let mut deaths = 0;
    let letter = loop {
        let died = eventually("a death or a letter", || {
            let died = process.died_of();
            let bus = &bus;
            async move {
                match died {
                    Some(signal) => Some(Err(signal)),
                    None => letters(bus).await.into_iter().next().map(Ok),
                }
            }
        })
        .await;
        match died {
            Ok(letter) => break letter,
            Err(signal) => assert_eq!(signal, 6, "death {deaths}"),
        }
        deaths += 1;
        process = Process::spawn(&site, "work");
    };
    assert_eq!(deaths, 4, "once among others, three times alone");
    assert_eq!(letter["reason"], "process_died");
    assert_eq!(letter["eventId"], event_id(KILLER).to_string());
    handled(&site, COUNT as usize - 1).await;
    let dead_at: Ts = letter["deadAt"]
        .as_str()
        .expect("text")
        .parse()
        .expect("a time");
    for effect in effects(&database(&site)) {
        assert_ne!(effect.n, KILLER);
        let before = effect.at_ms < dead_at.ms();
        assert_eq!(
            before,
            effect.n != KILLER + 1,
            "{effect:?}: only its successor waits for it"
        );
    }
    assert_eq!(letters(&bus).await.len(), 1);
    site.broker.shutdown().await;
}
