//! A role that notes each run of its handler in order, calls outside, and can be made ill, in place of the vendor role; and a
//! process of its own around it, to be killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::eventually;
use roadcall::bus::jetstream::{Config as BusConfig, Form, JetStream};
use roadcall::config::Config;
use roadcall::event::{Count1, Known, NonNegative, Rate, RatingAverage, VendorMetricsUpdated};
use roadcall::node::run::Node;
use roadcall::role::permission::{Permission, Scope};
use roadcall::role::{Command, CommandSpec, HandlerError, Input, Mode, NoBody, Role, RoleName};
use roadcall::store::{EffectCall, EffectClass, Tx, params};

/// The role in whose place it is, and that of the queue of [`super::counting::QUEUE`].
const ROLE: RoleName = RoleName::Vendor;

/// The variables that make a process of this test binary: the broker and the directory.
const URL: &str = "ROADCALL_NOTING_URL";
const DIR: &str = "ROADCALL_NOTING_DIR";

/// One run of the handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub n: u64,
    pub replay: bool,
}

/// Notes each event; a loud one emits and calls outside as well. While there is a file `ill`, events of [`Fate::Contradicts`] fail.
pub struct Noting {
    dir: PathBuf,
    loud: bool,
}

impl Noting {
    /// One that emits and calls outside.
    pub fn loud(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            loud: true,
        }
    }

    /// One that only notes.
    pub fn quiet(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            loud: false,
        }
    }
}

impl Role for Noting {
    fn name(&self) -> RoleName {
        RoleName::Vendor
    }

    fn migrations(&self) -> &'static [&'static str] {
        &[
            "CREATE TABLE run (ordinal INTEGER PRIMARY KEY AUTOINCREMENT, n INTEGER NOT NULL, replay INTEGER NOT NULL,
                at_ms INTEGER NOT NULL);
           CREATE TABLE called (key TEXT NOT NULL);",
        ]
    }

    fn commands(&self) -> &'static [CommandSpec] {
        const COMMANDS: &[CommandSpec] = &[CommandSpec::new::<NoBody>(
            "test.none",
            Permission::AdminOps,
            false,
        )];
        COMMANDS
    }

    fn scope(&self, _: &Tx<'_>, _: &Command) -> Result<Scope, HandlerError> {
        Ok(Scope::Open)
    }

    fn handle(&mut self, tx: &mut Tx<'_>, input: &Input) -> Result<(), HandlerError> {
        match input {
            Input::Event(received) => {
                let Some(Known::IncidentRated(rated)) = received.event.known() else {
                    return Ok(());
                };
                let n = rated.driver_id.uuid().as_u128() as i64;
                if rated.stars.get() == 3 && self.dir.join("ill").exists() {
                    return Err(HandlerError::Permanent(
                        roadcall::event::DeadReason::Conflict,
                        "ill".to_owned(),
                    ));
                }
                let replay = received.mode == Mode::Replay;
                tx.execute(
                    "INSERT INTO run (n, replay, at_ms) VALUES (?1, ?2, ?3)",
                    params![n, replay, tx.now().ms()],
                )?;
                if !self.loud {
                    return Ok(());
                }
                tx.emit(&VendorMetricsUpdated {
                    vendor_id: rated.vendor_id,
                    rating_average: RatingAverage::new(5.0).expect("in range"),
                    rating_count: 1,
                    acceptance_rate: Rate::new(1.0).expect("in range"),
                    avg_response_seconds: NonNegative::new(1.0).expect("in range"),
                    completion_rate: Rate::new(1.0).expect("in range"),
                    total_jobs: 1,
                    metrics_version: Count1::new(1).expect("in range"),
                })?;
                let key = tx.new_id().to_string();
                Ok(tx.effect(EffectCall {
                    key,
                    kind: "call".to_owned(),
                    class: EffectClass::External,
                    request: Value::Null,
                    secret: None,
                })?)
            }
            Input::Effect(result) => {
                tx.execute("INSERT INTO called (key) VALUES (?1)", params![result.key])?;
                Ok(())
            }
            Input::Command(_) | Input::Timer(_) => Ok(()),
        }
    }
}

fn select<T>(dir: &Path, sql: &str, map: impl Fn(&rusqlite::Row<'_>) -> T) -> Vec<T> {
    let database = dir.join(format!("state/{ROLE}.db"));
    let connection = rusqlite::Connection::open(database).expect("opened");
    let mut statement = connection.prepare(sql).expect("prepared");
    let rows = statement
        .query_map((), |row| Ok(map(row)))
        .expect("queried");
    rows.map(|row| row.expect("a row")).collect()
}

/// All runs, in order. `dir` is that which has `state` in it.
pub fn runs(dir: &Path) -> Vec<Run> {
    let sql = "SELECT n, replay FROM run ORDER BY ordinal";
    select(dir, sql, |row| Run {
        n: row.get::<_, i64>(0).expect("a number").unsigned_abs(),
        replay: row.get(1).expect("a flag"),
    })
}

/// How many runs there are, of replays or of live events.
pub fn count(dir: &Path, replay: bool) -> u64 {
    if !dir.join(format!("state/{ROLE}.db")).exists() {
        return 0;
    }
    let sql = format!("SELECT count(*) FROM run WHERE replay = {replay}");
    let n = select(dir, &sql, |row| row.get::<_, i64>(0).expect("a number"));
    n[0].unsigned_abs()
}

/// How many replayed events ran in each step, in order.
pub fn steps(dir: &Path) -> Vec<u64> {
    let sql = "SELECT count(*) FROM run WHERE replay GROUP BY at_ms ORDER BY at_ms";
    select(dir, sql, |row| {
        row.get::<_, i64>(0).expect("a number").unsigned_abs()
    })
}

/// How many calls outside had a result.
pub fn calls(dir: &Path) -> usize {
    select(dir, "SELECT key FROM called", |_| ()).len()
}

/// A process around a quiet role; killed when it is dropped.
pub struct Killable {
    child: Child,
}

impl Killable {
    /// The process, ready. It is this test binary again, with `entry` as its only test, which calls [`process`].
    pub async fn start(entry: &str, url: &str, dir: &Path) -> Self {
        let _ = std::fs::remove_file(dir.join("noting-ready"));
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(dir.join("noting.log"))
            .expect("a log");
        let child = Process::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", entry, "--nocapture"])
            .env_clear()
            .env(URL, url)
            .env(DIR, dir)
            // Held open: the process ends when this one is gone.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("started");
        let process = Self { child };
        eventually("the role to be ready", || async {
            dir.join("noting-ready").exists().then_some(())
        })
        .await;
        process
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What [`Killable`] runs. Without its variables it does nothing.
pub fn process() {
    let variable = |name| std::env::var(name).ok();
    let (Some(url), Some(dir)) = (variable(URL), variable(DIR)) else {
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
    runtime.block_on(work(&url, Path::new(&dir)));
}

async fn work(url: &str, dir: &Path) {
    let mut config = Config::default();
    config.site.state_dir = dir.join("state");
    config.bus.url = url.to_owned();
    let bus = BusConfig {
        url: url.to_owned(),
        credentials: None,
        identity: None,
        ca_file: None,
        name: "noting".to_owned(),
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(5),
        publish: Form::default(),
    };
    let bus = JetStream::connect(bus).await.expect("connected");
    let build = |_: &Config, name: RoleName| {
        (name == ROLE).then(|| Box::new(Noting::quiet(dir)) as Box<dyn Role>)
    };
    let node = Node::start_with(bus, &config, &[ROLE], true, &build).await;
    let node = node.expect("started");
    std::fs::write(dir.join("noting-ready"), "").expect("written");
    node.stop.cancelled().await;
}
