//! Sites whose roles run in the test's own process by a clock that is set by hand, each on a real broker in a process of its
//! own, linked as any others are.
//!
//! What is simulated: the time of every role, timer, relay, retry, breaker, snapshot and log of these sites. What is not: the
//! servers' clocks. nats-server stamps what it stores, counts its ages and its windows of duplicates by the machine's clock,
//! and nobody can tell it otherwise.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

use super::place::{PATIENCE, Place, drained};
use crate::domain::world::all_is_sent;
use crate::support::ends::web::Web;
use crate::support::ends::{hooks, sms};
use crate::support::eventually_within;
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, EVENTS};
use roadcall::config::units::Span;
use roadcall::config::{Config, Loaded, PushDriver, SmsDriver, Sources};
use roadcall::event::Ts;
use roadcall::node::clock::Clock;
use roadcall::node::registry;
use roadcall::node::run::Node;
use roadcall::role::RoleName;

pub const DAY_MS: i64 = 86_400_000;
const TICK_MS: i64 = 20;

/// The clock of all sites of a test. It runs at the machine's pace, and is moved.
pub struct Hand {
    at: &'static AtomicI64,
    runs: tokio::task::JoinHandle<()>,
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.runs.abort();
    }
}

impl Hand {
    /// Begins so many days ago, and an hour for the test itself: so it never shows a time that is later than what the
    /// servers write on the same event, and no event seems to have waited in an archive for days.
    pub fn days_ago(days: i64) -> Self {
        let now_ms = chrono::Utc::now().timestamp_millis();
        let start_ms = now_ms - days * DAY_MS - 3_600_000;
        let at: &'static AtomicI64 = Box::leak(Box::new(AtomicI64::new(start_ms)));
        let runs = tokio::spawn(async move {
            let mut ticks = interval(Duration::from_millis(TICK_MS.unsigned_abs()));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                at.fetch_add(TICK_MS, Ordering::SeqCst);
            }
        });
        Self { at, runs }
    }

    pub fn clock(&self) -> Clock {
        Clock::by_hand(self.at)
    }

    pub fn now(&self) -> Ts {
        self.clock().now()
    }

    /// Moves it; gives what it shows then.
    pub fn pass(&self, ms: i64) -> Ts {
        Ts::from_ms(self.at.fetch_add(ms, Ordering::SeqCst) + ms)
    }
}

/// A site: its broker in a process, its roles here, and the services that carry its messages.
pub struct Here {
    pub place: Place,
    pub bus: JetStream,
    pub texts: Web,
    pub pushes: Web,
    pub roles: Vec<RoleName>,
    config: Config,
    clock: Clock,
    node: Option<Node>,
}

impl Here {
    /// The roles that the site's files list, on the broker that runs already.
    pub async fn start(place: Place, hand: &Hand) -> Self {
        let (texts, pushes) = (sms::start().await, hooks::start().await);
        let sources = Sources {
            files: vec![place.dir.join("roadcall.toml")],
            ..Sources::default()
        };
        let mut config = Loaded::load(&sources).expect("valid").config;
        let messages = &mut config.notifications;
        messages.sms = SmsDriver::Twilio;
        messages.sms_url.clone_from(&texts.url);
        sms::ACCOUNT.clone_into(&mut messages.sms_account);
        sms::TOKEN.clone_into(&mut messages.sms_token);
        sms::FROM.clone_into(&mut messages.sms_from);
        messages.push = PushDriver::Webhook;
        messages.push_url = format!("{}/send", pushes.url);
        hooks::SECRET.clone_into(&mut messages.push_secret);
        // Looked at by the machine's clock: what the site says of itself must not keep the test waiting.
        config.audit.alarm_period = Span::secs(1);
        let listed = |role: &RoleName| {
            let named = |name: &String| name == "all" || name == role.as_str();
            config.site.roles.iter().any(named)
        };
        let roles = RoleName::BUILT.into_iter().filter(listed).collect();
        let mut here = Self {
            bus: place.connect().await,
            place,
            texts,
            pushes,
            roles,
            config,
            clock: hand.clock(),
            node: None,
        };
        here.run().await;
        here
    }

    async fn run(&mut self) {
        let (bus, build) = (self.place.connect().await, &registry::build);
        let node = Node::start_at(bus, &self.config, &self.roles, false, build, self.clock);
        self.node = Some(node.await.expect("started"));
    }

    /// The box is switched off.
    pub async fn off(&mut self) {
        let node = self.node.take().expect("it runs");
        let stopped = node.shutdown(Duration::from_secs(10)).await;
        stopped.expect("stopped");
        self.place.kill();
    }

    /// And on.
    pub async fn on(&mut self) {
        self.place.start();
        self.place.ready().await;
        self.bus = self.place.connect().await;
        self.run().await;
    }

    pub async fn end(mut self) {
        let node = self.node.take().expect("it runs");
        let stopped = node.shutdown(Duration::from_secs(10)).await;
        stopped.expect("stopped");
    }

    /// Waits until nothing is due or on its way at this site: no event, timer, retry or call to the outside.
    pub async fn quiet(&self) {
        let what = format!("{} is quiet", self.place.site);
        eventually_within(PATIENCE, &what, || async {
            let before = self.bus.stream(EVENTS).await.ok()?.last_seq;
            if !drained(&self.bus).await? {
                return None;
            }
            for role in &self.roles {
                let database = self.database(*role);
                if !all_is_sent(&database) || due(&database, self.clock.now()) > 0 {
                    return None;
                }
            }
            let after = self.bus.stream(EVENTS).await.ok()?.last_seq;
            (before == after).then_some(())
        })
        .await;
    }

    pub fn database(&self, role: RoleName) -> std::path::PathBuf {
        self.config.site.state_dir.join(format!("{role}.db"))
    }

    /// What the delivery log has, with what it does not show.
    pub fn deliveries(&self) -> Vec<Value> {
        let database = read_only(&self.database(RoleName::Notifications));
        let mut rows = database.prepare("SELECT doc FROM delivery").expect("sound");
        let docs = rows.query_map((), |row| row.get::<_, String>(0));
        docs.expect("read")
            .map(|doc| serde_json::from_str(&doc.expect("read")).expect("JSON"))
            .collect()
    }

    /// Events in the archive, in its order, by a subject's filter.
    pub async fn archived(&self, filter: &str) -> Vec<Value> {
        let page = self.bus.read(EVENTS, filter, 1, 1000, false).await;
        let page = page.expect("read");
        let parse = |body: &[u8]| -> Value { serde_json::from_slice(body).expect("JSON") };
        page.iter().map(|stored| parse(&stored.body)).collect()
    }
}

fn read_only(database: &Path) -> Connection {
    let opened = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY);
    let opened = opened.expect("opened");
    opened.busy_timeout(Duration::from_secs(10)).expect("set");
    opened
}

/// Timers and retries whose time has come, and calls without a result.
fn due(database: &Path, now: Ts) -> i64 {
    let sql = "SELECT (SELECT count(*) FROM timer WHERE retry_at_ms <= ?1)
        + (SELECT count(*) FROM waiting WHERE due_at_ms <= ?1) + (SELECT count(*) FROM effect)";
    let counted = read_only(database).query_row(sql, [now.ms()], |row| row.get(0));
    counted.expect("counted")
}
