//! A role that counts its effects, and events that say how it fares with them. It runs under the name of the role vendor,
//! whose queue takes `IncidentRated`; the stars and the rater carry the fate, so that it is the same at every try.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Site, connect};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, Headers, Outgoing};
use roadcall::config::Config;
use roadcall::event::{
    Base, Codec, Count1, DeadReason, Event, Id, IncidentRated, Known, NonNegative, Rate, RatedBy,
    RatingAverage, Site as SiteId, Stars, Ts, VendorMetricsUpdated, encode, ids,
};
use roadcall::node::clock::Clock;
use roadcall::node::run::Node;
use roadcall::role::permission::{Permission, Scope};
use roadcall::role::{
    Code, Command as Request, CommandSpec, HandlerError, Input, NoBody, Rejection, Role, RoleName,
};
use roadcall::store::{Tx, params};

/// The role's queue.
pub const QUEUE: &str = "vendor-queue";
/// For how long after its time an event of [`Fate::FailsAtFirst`] fails, milliseconds.
pub const ILL_MS: i64 = 250_000;

/// What becomes of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Fine,
    /// Transient, always.
    Fails,
    /// Transient until [`ILL_MS`] have passed.
    FailsAtFirst,
    /// Transient, twice.
    FailsTwice,
    /// Permanent.
    Contradicts,
    /// Refused, which no event can be.
    Refused,
    Panics,
    /// Asks for the event of the next number.
    Waits,
    /// Ends the process.
    Kills,
    /// Keeps the process busy as long as there is a file `hang`.
    Hangs,
}

const FATES: [(Fate, u8, RatedBy); 10] = [
    (Fate::Fine, 5, RatedBy::Driver),
    (Fate::FailsTwice, 5, RatedBy::Vendor),
    (Fate::Fails, 4, RatedBy::Driver),
    (Fate::FailsAtFirst, 4, RatedBy::Vendor),
    (Fate::Contradicts, 3, RatedBy::Driver),
    (Fate::Refused, 3, RatedBy::Vendor),
    (Fate::Panics, 2, RatedBy::Driver),
    (Fate::Hangs, 2, RatedBy::Vendor),
    (Fate::Waits, 1, RatedBy::Driver),
    (Fate::Kills, 1, RatedBy::Vendor),
];

/// The counting role as a whole node of its own, its database in `state`, with these rules (empty: those that ship).
pub async fn node(site: &Site, state: &Path, rules: &str) -> Node {
    let mut config = Config::default();
    config.site.state_dir = state.to_owned();
    config.rules.file = rules.to_owned();
    start(site, &config, &Log::default()).await
}

/// The same with this configuration; its tries go into `log`.
pub async fn start(site: &Site, config: &Config, log: &Log) -> Node {
    let build = |_: &Config, name: RoleName| {
        let log = log.clone();
        let role = Counting {
            log,
            ..Counting::default()
        };
        (name == RoleName::Vendor).then(|| Box::new(role) as Box<dyn Role>)
    };
    let roles = [RoleName::Vendor];
    let node = Node::start_with(connect(site).await, config, &roles, true, &build).await;
    node.expect("started")
}

/// What the handler was given, in order: outside of what a failure takes back.
#[derive(Debug, Default, Clone)]
pub struct Log(Arc<Mutex<Tries>>);

#[derive(Debug, Default)]
struct Tries {
    /// Event and entity.
    in_order: Vec<(u64, u64)>,
    of_event: HashMap<u64, u32>,
}

impl Log {
    /// Notes a try of event `n` of the entity `key`; says which one it is.
    fn note(&self, n: u64, key: u64) -> u32 {
        let mut log = self.0.lock().expect("nobody panics in here");
        log.in_order.push((n, key));
        let tries = log.of_event.entry(n).or_default();
        *tries += 1;
        *tries
    }

    /// The tries as (event, entity).
    pub fn tries(&self) -> Vec<(u64, u64)> {
        self.0
            .lock()
            .expect("nobody panics in here")
            .in_order
            .clone()
    }

    /// Fails where an event of an entity was tried before its predecessor had its last try. Events of an entity are numbered
    /// as they were published.
    pub fn assert_order(&self) {
        let mut last = HashMap::new();
        for (n, key) in self.tries() {
            let before = last.insert(key, n);
            let in_order = before.is_none_or(|before| before <= n);
            assert!(in_order, "entity {key}: {n} was tried after {before:?}");
        }
    }
}

/// What `roadcall audit` says of the role's queue; fails unless each event has its outcome.
pub fn accounted(site: &Site, state: &Path) -> Value {
    let output = roadcall(site, state, "", &["audit", "--json"]);
    let words = String::from_utf8_lossy(&output.stderr);
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{words}"));
    let row = rows[0].clone();
    assert_eq!(row["queue"], QUEUE, "{rows}");
    let left = (&row["unaccounted"], &row["pending"]);
    assert_eq!(left, (&json!(0), &json!(0)), "{row}");
    assert_eq!(output.status.code(), Some(0), "{words}");
    row
}

/// Publishes event `n` about the entity `key`, as of now.
pub async fn put(bus: &JetStream, n: u64, key: u64, fate: Fate) {
    let published = bus.publish(vec![event(n, key, fate, Clock.now())]).await;
    assert!(published.stopped.is_none(), "{:?}", published.stopped);
}

/// Runs `roadcall` at a site that has no other role, with this state directory and these rules.
pub fn roadcall(site: &Site, state: &Path, rules: &str, arguments: &[&str]) -> Output {
    let config = site.dir.path().join("roadcall.toml");
    let text = format!("[site]\nroles = ['vendor']\n[rules]\nfile = '{rules}'\n");
    std::fs::write(&config, text).expect("written");
    Command::new(env!("CARGO_BIN_EXE_roadcall"))
        .env_clear()
        .arg("--config")
        .arg(config)
        .args(["--nats", &site.broker.url, "--state-dir"])
        .arg(state)
        .args(arguments)
        .output()
        .expect("runs")
}

fn number(n: u64) -> Id {
    Id::from_uuid(Uuid::from_u128(n.into()))
}

/// The id of event `n`.
pub fn event_id(n: u64) -> Id {
    ids::derive_v7(1, &[b"event", &n.to_be_bytes()])
}

/// Event `n`, about the entity `key`.
pub fn event(n: u64, key: u64, fate: Fate, time: Ts) -> Outgoing {
    let (_, stars, rated_by) = FATES
        .iter()
        .find(|(other, ..)| *other == fate)
        .expect("listed");
    let detail = IncidentRated {
        incident_id: number(key),
        driver_id: number(n),
        vendor_id: number(key),
        rated_by: *rated_by,
        stars: Stars::new(*stars).expect("in range"),
        rated_at: time,
    };
    let base = Base {
        id: event_id(n),
        time,
        site: SiteId::new("hub").expect("valid"),
        home: None,
        cause: None,
        correlation: None,
        metadata: Default::default(),
    };
    let event = Event::build(&detail, base);
    let mut headers = Headers::default();
    headers.push("Content-Type", Codec::Json.content_type());
    Outgoing {
        subject: event.subject().to_string(),
        headers,
        body: Bytes::from(encode(&event, Codec::Json).expect("small")),
        msg_id: event.id.to_string(),
        expected_last_subject_seq: None,
    }
}

/// One effect: the event's number, its entity, and when it was handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect {
    pub n: u64,
    pub key: u64,
    pub at_ms: i64,
}

/// The effects in the order in which they came about.
pub fn effects(database: &Path) -> Vec<Effect> {
    let connection = rusqlite::Connection::open(database).expect("opens");
    let mut statement = connection
        .prepare("SELECT n, key, at_ms FROM effect_of ORDER BY ordinal")
        .expect("prepared");
    let whole = |value: i64| value.unsigned_abs();
    let rows = statement
        .query_map((), |row| {
            Ok(Effect {
                n: whole(row.get(0)?),
                key: whole(row.get(1)?),
                at_ms: row.get(2)?,
            })
        })
        .expect("queried");
    rows.collect::<Result<_, _>>().expect("read")
}

/// How often the role added one.
pub fn tally(database: &Path) -> u64 {
    let connection = rusqlite::Connection::open(database).expect("opens");
    let n: i64 = connection
        .query_row("SELECT n FROM tally", (), |row| row.get(0))
        .expect("read");
    n.unsigned_abs()
}

/// The role. Each effect is a row, one more in a sum, and an event.
#[derive(Debug, Default)]
pub struct Counting {
    /// Where the files `hang` and `hanging` are.
    pub dir: PathBuf,
    /// Each try.
    pub log: Log,
}

impl Counting {
    fn effect(tx: &mut Tx<'_>, n: u64, key: Id) -> Result<(), HandlerError> {
        let now = tx.now().ms();
        let number = key.uuid().as_u128() as i64;
        tx.execute(
            "INSERT INTO effect_of (n, key, at_ms) VALUES (?1, ?2, ?3)",
            params![n as i64, number, now],
        )?;
        tx.execute("UPDATE tally SET n = n + 1", ())?;
        tx.emit(&VendorMetricsUpdated {
            vendor_id: key,
            rating_average: RatingAverage::new(5.0).expect("in range"),
            rating_count: 1,
            acceptance_rate: Rate::new(1.0).expect("in range"),
            avg_response_seconds: NonNegative::new(1.0).expect("in range"),
            completion_rate: Rate::new(1.0).expect("in range"),
            total_jobs: 1,
            metrics_version: Count1::new(1).expect("in range"),
        })?;
        Ok(())
    }

    fn suffer(&self, tx: &Tx<'_>, fate: Fate, n: u64, at: (Ts, u32)) -> Result<(), HandlerError> {
        let (time, tried) = at;
        let transient = |text: &str| Err(HandlerError::Transient(text.to_owned()));
        match fate {
            Fate::Fine => Ok(()),
            Fate::Fails => transient("never"),
            Fate::FailsAtFirst if tx.now().ms() - time.ms() < ILL_MS => transient("not yet well"),
            Fate::FailsAtFirst => Ok(()),
            Fate::FailsTwice if tried < 3 => transient("not yet"),
            Fate::FailsTwice => Ok(()),
            Fate::Contradicts => Err(HandlerError::Permanent(
                DeadReason::Conflict,
                "contradicts".to_owned(),
            )),
            Fate::Refused => Err(Rejection::new(Code::Conflict, "no").into()),
            Fate::Panics => panic!("a defect of the handler"),
            Fate::Waits => {
                let there: Option<i64> = tx.value(
                    "SELECT 1 FROM effect_of WHERE n = ?1",
                    params![n as i64 + 1],
                )?;
                there
                    .map(|_| ())
                    .ok_or_else(|| HandlerError::NotYet("its predecessor is missing".to_owned()))
            }
            Fate::Kills => std::process::abort(),
            Fate::Hangs => {
                if self.dir.join("hang").exists() {
                    std::fs::write(self.dir.join("hanging"), "").expect("written");
                }
                while self.dir.join("hang").exists() {
                    std::thread::park_timeout(Duration::from_millis(10));
                }
                Ok(())
            }
        }
    }

    fn command(tx: &mut Tx<'_>, command: &Request) -> Result<(), HandlerError> {
        let n = command
            .body
            .get("n")
            .and_then(Value::as_u64)
            .expect("a number");
        Self::effect(tx, n, number(n))?;
        tx.schedule(tx.now(), "test", "k", &json!({}))?;
        match command.body.get("how").and_then(Value::as_str) {
            Some("refused") => Err(Rejection::field("n", "is not wanted").into()),
            Some("fails") => Err(HandlerError::Transient("not now".to_owned())),
            Some("panics") => panic!("a defect of the handler"),
            _ => Ok(tx.reply(&json!({ "n": n }))?),
        }
    }
}

impl Role for Counting {
    fn name(&self) -> RoleName {
        RoleName::Vendor
    }

    fn migrations(&self) -> &'static [&'static str] {
        &[
            "CREATE TABLE effect_of (ordinal INTEGER PRIMARY KEY AUTOINCREMENT, n INTEGER NOT NULL UNIQUE,
                key INTEGER NOT NULL, at_ms INTEGER NOT NULL);
             CREATE TABLE tally (n INTEGER NOT NULL);
             INSERT INTO tally VALUES (0);",
        ]
    }

    fn commands(&self) -> &'static [CommandSpec] {
        const COMMANDS: &[CommandSpec] = &[CommandSpec::new::<NoBody>(
            "test.write",
            Permission::AdminOps,
            true,
        )];
        COMMANDS
    }

    fn scope(&self, _: &Tx<'_>, _: &Request) -> Result<Scope, HandlerError> {
        Ok(Scope::Open)
    }

    fn handle(&mut self, tx: &mut Tx<'_>, input: &Input) -> Result<(), HandlerError> {
        match input {
            Input::Event(received) => {
                let Some(Known::IncidentRated(rated)) = received.event.known() else {
                    return Ok(());
                };
                let (fate, ..) = FATES
                    .iter()
                    .find(|(_, stars, by)| *stars == rated.stars.get() && *by == rated.rated_by)
                    .expect("listed");
                let n = rated.driver_id.uuid().as_u128() as u64;
                let key = rated.incident_id.uuid().as_u128() as u64;
                let tried = self.log.note(n, key);
                // Written first, so that whatever fails has something to take back.
                Self::effect(tx, n, rated.incident_id)?;
                self.suffer(tx, *fate, n, (received.event.time, tried))
            }
            Input::Command(command) => Self::command(tx, command),
            Input::Timer(_) | Input::Effect(_) => Ok(()),
        }
    }
}
