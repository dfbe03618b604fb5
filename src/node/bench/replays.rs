//! How long a replay takes from its command to the first event that is handled, in a small archive and in a large one: a whole
//! node with the shipped audit role, every archived event handled before (DESIGN 13).

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::raw::{rated, rated_about};
use super::{Error, connect, message};
use crate::bus::jetstream::raw::Raw;
use crate::bus::jetstream::{Form, JetStream};
use crate::bus::{Bus, EVENTS, Headers};
use crate::config::Config;
use crate::event::{Id, ids};
use crate::node::archive::first_at;
use crate::node::clock::Clock;
use crate::node::registry;
use crate::node::run::{self, Node};
use crate::role::permission::{Permission, Scope};
use crate::role::{Command, CommandSpec, HandlerError, Input, NoBody, Role, RoleName};
use crate::store::{Reader, ReplayState, Tx};

/// Events in the small archive.
const SMALL: u64 = 1000;
/// Events that a job is about.
const WINDOW: u64 = 256;
/// Jobs of each kind; the figure is their median, for a role looks for jobs every half second.
const JOBS: usize = 15;
/// Events made and published at once.
const PART: u64 = 51_200;
/// How long a job may take.
const PATIENCE: Duration = Duration::from_secs(600);

const ROLES: [RoleName; 2] = [RoleName::Vendor, RoleName::Audit];

const RULES: &str = r#"
[[rule]]
name = "bench-archive"
pattern = { source = ["roadcall.incident"], detail-type = ["IncidentRated", "WorkCompleted"] }
targets = [{ queue = "vendor-queue" }]

[[rule]]
name = "bench-ops"
pattern = { source = ["roadcall.ops"] }
targets = [{ queue = "audit-queue" }]
"#;

/// Milliseconds from the command to the first event, for one size of archive.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Starts {
    /// Events in the archive.
    pub archived: u64,
    /// Of a job over its first events.
    pub from_first_ms: f64,
    /// Over its last ones.
    pub from_last_ms: f64,
    /// Over its last ones by their time, which has to be found first.
    pub from_time_ms: f64,
    /// Over all of them, for an entity that only the last one is about.
    pub late_entity_ms: f64,
    /// Over all of them, for a pattern that only the last one matches: everything is read.
    pub late_pattern_ms: f64,
    /// Live events handled a second over the first tenth of what was added to reach this size, and over the last.
    pub live_per_second: (u64, u64),
}

/// The large archive over the small one; of the live rate the last tenth over the first.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ratio {
    /// Of a job over the first events.
    pub from_first: f64,
    /// Over the last ones.
    pub from_last: f64,
    /// By time.
    pub from_time: f64,
    /// For a late entity.
    pub late_entity: f64,
    /// What the growth of archive and inbox costs a live event: 1 is nothing.
    pub live: f64,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The small archive, then the large one.
    pub replay: Vec<Starts>,
    /// One over the other.
    pub ratio: Ratio,
}

/// Measures with `large` events of `size` bytes at the most, on the broker and in the state directory of `config`.
///
/// # Errors
/// The broker or a database failed.
pub async fn run(
    config: &Config,
    large: u64,
    size: usize,
    tell: impl Fn(&str),
) -> Result<Report, Error> {
    let mut config = config.clone();
    let rules = config.site.state_dir.join("bench-rules.toml");
    std::fs::write(&rules, RULES).map_err(bench)?;
    config.rules.file = rules.display().to_string();
    let bus = connect(&config.bus.url, Form::Batches, None).await?;
    let raw = Raw::connect(&config.bus.url).await?;
    let mut bench = Bench {
        config,
        bus,
        raw,
        size,
        archived: 0,
        jobs: 0,
    };
    let (small, large) = (
        bench.measure(SMALL, &tell).await?,
        bench.measure(large, &tell).await?,
    );
    let ratio = |of: fn(&Starts) -> f64| rounded(of(&large) / of(&small).max(0.001), 1000.0);
    let (early, late) = large.live_per_second;
    Ok(Report {
        ratio: Ratio {
            from_first: ratio(|one| one.from_first_ms),
            from_last: ratio(|one| one.from_last_ms),
            from_time: ratio(|one| one.from_time_ms),
            late_entity: ratio(|one| one.late_entity_ms),
            live: rounded(late as f64 / early.max(1) as f64, 1000.0),
        },
        replay: vec![small, large],
    })
}

fn bench(error: impl std::fmt::Display) -> Error {
    Error::Bench(error.to_string())
}

fn rounded(value: f64, unit: f64) -> f64 {
    (value * unit).round() / unit
}

struct Bench {
    config: Config,
    bus: JetStream,
    raw: Raw,
    size: usize,
    archived: u64,
    jobs: u32,
}

impl Bench {
    async fn measure(&mut self, archived: u64, tell: &impl Fn(&str)) -> Result<Starts, Error> {
        tell(&format!("filling the archive with {archived} events"));
        let before = self.archived;
        let late = self.fill(archived).await?;
        tell("handling them");
        let (seen, mut events) = mpsc::unbounded_channel();
        let build = move |config: &Config, name: RoleName| match name {
            RoleName::Vendor => Some(Box::new(Noticing { seen: seen.clone() }) as Box<dyn Role>),
            other => registry::build(config, other),
        };
        // A connection of its own: the node closes it when it stops, and the larger archive comes after that.
        let bus = connect(&self.config.bus.url, Form::Batches, None).await?;
        let node = Node::start_with(bus, &self.config, &ROLES, true, &build).await;
        let node = node.map_err(bench)?;
        let live_per_second = live(&mut events, archived - before).await?;
        let last = self.bus.stream(EVENTS).await?.last_seq;
        let oldest = self
            .bus
            .read(EVENTS, "roadcall.*.incident.>", 1, 1, true)
            .await?;
        let first = oldest.first().map_or(1, |stored| stored.seq);
        let end = self.last_event().await?;
        tell("replays");
        let ends = |from: u64| json!({ "fromSeq": from, "toSeq": from + WINDOW - 1 });
        let from_first_ms = self.median(&mut events, &ends(first)).await?;
        let from_last_ms = self.median(&mut events, &ends(end + 1 - WINDOW)).await?;
        let from_time_ms = self.median_by_time(&mut events, end, last).await?;
        let all = |key: &str, value: Value| json!({ "fromSeq": first, "toSeq": end, key: value });
        let late_entity_ms = self
            .median(&mut events, &all("entity", json!(late)))
            .await?;
        let pattern = json!({ "detail": { "driverId": [late] } });
        let late_pattern_ms = self.start(&mut events, &all("pattern", pattern)).await?;
        node.shutdown(Duration::from_secs(10))
            .await
            .map_err(bench)?;
        Ok(Starts {
            archived,
            from_first_ms,
            from_last_ms,
            from_time_ms,
            late_entity_ms,
            late_pattern_ms: rounded(late_pattern_ms, 10.0),
            live_per_second,
        })
    }

    /// Fills up to `archived` events, the last of which is about an entity of its own. Gives that.
    async fn fill(&mut self, archived: u64) -> Result<Id, Error> {
        if self.archived == 0 {
            let routes = run::routes(&self.config).map_err(bench)?;
            let desired = run::desired(&self.config, &routes, &ROLES);
            run::settle_topology(&self.bus, &desired, true)
                .await
                .map_err(bench)?;
        }
        let own = ids::derive_v8(1, &[b"bench-late", &archived.to_be_bytes()]);
        while self.archived < archived {
            let (first, now) = (self.archived, Clock.now());
            let end = archived.min(first + PART);
            let event = |n: u64| match n + 1 == archived {
                true => rated_about(n, own, now),
                false => rated(n, now),
            };
            let part: Result<Vec<_>, Error> =
                (first..end).map(|n| message(event(n), self.size)).collect();
            self.raw.publish_in_batches(&part?).await?;
            self.archived = end;
        }
        Ok(own)
    }

    fn database(&self) -> std::path::PathBuf {
        self.config.site.state_dir.join("vendor.db")
    }

    /// The last sequence that is one of the bench's events: behind it stand those of the jobs.
    async fn last_event(&self) -> Result<u64, Error> {
        let info = self
            .bus
            .api(
                &format!("STREAM.MSG.GET.{EVENTS}"),
                &json!({ "last_by_subj": "roadcall.*.incident.IncidentRated.*" }),
            )
            .await?;
        info["message"]["seq"]
            .as_u64()
            .ok_or_else(|| bench("the archive is empty"))
    }

    async fn median(&mut self, events: &mut Seen, body: &Value) -> Result<f64, Error> {
        let mut all = Vec::with_capacity(JOBS);
        for _ in 0..JOBS {
            all.push(self.start(events, body).await?);
        }
        Ok(middle(all))
    }

    async fn median_by_time(
        &mut self,
        events: &mut Seen,
        end: u64,
        last: u64,
    ) -> Result<f64, Error> {
        let stored = self.bus.read(EVENTS, "roadcall.>", end, 1, true).await?;
        let time = stored.first().map_or(0, |stored| stored.received_at_ms);
        let mut all = Vec::with_capacity(JOBS);
        for _ in 0..JOBS {
            let began = Instant::now();
            let from = first_at(&self.bus, time, 1, last + 1).await?;
            let found = began.elapsed().as_secs_f64() * 1000.0;
            let body = json!({ "fromSeq": from, "toSeq": end });
            all.push(found + self.start(events, &body).await?);
        }
        Ok(middle(all))
    }

    /// Starts a job; gives the milliseconds until its first event was handled, when it has ended.
    async fn start(&mut self, events: &mut Seen, body: &Value) -> Result<f64, Error> {
        self.jobs += 1;
        let name = format!("bench-{}", self.jobs);
        let mut body = body.clone();
        body["name"] = json!(name);
        body["queue"] = json!("vendor-queue");
        body["mode"] = json!("force");
        let mut headers = Headers::default();
        headers.push("Roadcall-Actor", "operator:bench");
        while events.try_recv().is_ok() {}
        let began = Instant::now();
        let bytes = body.to_string().into_bytes();
        let reply = self.bus.call(
            "hub",
            "replay.start",
            &headers,
            bytes,
            Duration::from_secs(10),
        );
        let reply = reply.await.map_err(bench)?;
        if reply.error_code.is_some() {
            return Err(bench(String::from_utf8_lossy(&reply.body)));
        }
        let seen = tokio::time::timeout(PATIENCE, events.recv()).await;
        let at = seen
            .ok()
            .flatten()
            .ok_or_else(|| bench(format!("replay {name} brought nothing")))?;
        self.ended(&name).await?;
        Ok(at.duration_since(began).as_secs_f64() * 1000.0)
    }

    async fn ended(&self, name: &str) -> Result<(), Error> {
        loop {
            let rows = Reader::open(&self.database())?.replays()?;
            let ended = |row: &&crate::store::ReplayRow| {
                row.name == name && row.state != ReplayState::Running
            };
            if rows.iter().any(|row| ended(&row)) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// When the role handled an event.
type Seen = mpsc::UnboundedReceiver<Instant>;

/// Takes `count` live events; gives how many came a second in the first tenth and in the last.
async fn live(events: &mut Seen, count: u64) -> Result<(u64, u64), Error> {
    let mut at = Vec::with_capacity(count as usize);
    while (at.len() as u64) < count {
        let seen = tokio::time::timeout(PATIENCE, events.recv()).await;
        let when = seen
            .ok()
            .flatten()
            .ok_or_else(|| bench("the backlog is not handled"))?;
        at.push(when);
    }
    let tenth = at.len() / 10;
    let rate = |part: &[Instant]| match (part.first(), part.last()) {
        (Some(first), Some(last)) => {
            super::per_second(part.len() as u64, last.duration_since(*first))
        }
        _ => 0,
    };
    Ok((rate(&at[..tenth]), rate(&at[at.len() - tenth..])))
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = values.len().saturating_sub(1) / 2;
    rounded(values.get(at).copied().unwrap_or_default(), 10.0)
}

/// Says of each event that it handled it.
struct Noticing {
    seen: mpsc::UnboundedSender<Instant>,
}

impl Role for Noticing {
    fn name(&self) -> RoleName {
        RoleName::Vendor
    }

    fn migrations(&self) -> &'static [&'static str] {
        &[]
    }

    fn commands(&self) -> &'static [CommandSpec] {
        const COMMANDS: &[CommandSpec] = &[CommandSpec::new::<NoBody>(
            "bench.none",
            Permission::AdminOps,
            false,
        )];
        COMMANDS
    }

    fn scope(&self, _: &Tx<'_>, _: &Command) -> Result<Scope, HandlerError> {
        Ok(Scope::Open)
    }

    fn handle(&mut self, _: &mut Tx<'_>, input: &Input) -> Result<(), HandlerError> {
        if let Input::Event(_) = input {
            // Nobody listens any more when the bench has ended.
            let _ = self.seen.send(Instant::now());
        }
        Ok(())
    }
}
