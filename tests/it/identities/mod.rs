//! A site on which everybody is told apart: the broker and each role are processes of their own, and a role has the seed of its
//! own identity and no other (DESIGN 9, BROKER 9).

mod attacks;
mod files;
mod rotation;
mod table;
mod whole;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use async_nats::ConnectOptions;
use serde_json::Value;

use crate::support::{eventually, eventually_within, free_port, nats_server};
use roadcall::bus::jetstream::{Config, Form, Identity, JetStream};

/// Role, queue, service in the subjects of its events, a command that it answers.
pub const ROLES: [(&str, &str, &str, &str); 12] = [
    ("incident", "incident-queue", "incident", "incident.create"),
    ("vendor", "vendor-queue", "vendor", "vendor.register"),
    ("match", "match-queue", "match", "offer.accept"),
    (
        "tracking",
        "tracking-queue",
        "tracking",
        "tracking.report_fix",
    ),
    (
        "payments",
        "payment-approval-queue",
        "payment",
        "payment.approve",
    ),
    (
        "notifications",
        "notifications-queue",
        "",
        "notification.send",
    ),
    ("reporting", "reporting-queue", "", "report.kpis"),
    ("telephony", "telephony-queue", "telephony", "call.intake"),
    ("auth", "", "auth", "user.update"),
    ("kb", "kb-queue", "kb", "kb.upload"),
    ("config", "", "config", "geofence.add"),
    ("audit", "audit-queue", "", "dlq.redrive"),
];

/// Everybody.
pub fn everybody() -> impl Iterator<Item = &'static str> {
    let roles = ROLES.iter().map(|(role, ..)| *role);
    roles.chain(["gateway", "operator", "reader"])
}

/// The site; its processes are killed when it is dropped.
pub struct Guarded {
    pub dir: tempfile::TempDir,
    port: u16,
    running: BTreeMap<String, Child>,
    starts: BTreeMap<String, usize>,
}

impl Guarded {
    /// With the broker running, and these lines in its configuration.
    pub async fn new(broker_lines: &str) -> Self {
        let (dir, port) = (tempfile::TempDir::new().expect("a directory"), free_port());
        let mut site = Self {
            dir,
            port,
            running: BTreeMap::new(),
            starts: BTreeMap::new(),
        };
        let text = format!(
            "[site]\nstate_dir = '{}'\n[bus]\nurl = 'nats://127.0.0.1:{port}'\nidentities_dir = '{}'\n\
             [gateway]\nlisten = '127.0.0.1:{}'\n[engine]\nretry_delay = '300ms'\n\
             [broker]\nbinary = '{}'\nlisten = '127.0.0.1:{port}'\n{broker_lines}\n",
            site.dir.path().join("state").display(),
            site.identities().display(),
            free_port(),
            nats_server().display(),
        );
        std::fs::write(site.dir.path().join("roadcall.toml"), text).expect("written");
        site.init(&[]);
        site.start("broker");
        site.ready("broker").await;
        site
    }

    pub fn identities(&self) -> PathBuf {
        self.dir.path().join("identities")
    }

    /// `roadcall auth init --identities` with these words.
    pub fn init(&self, words: &[&str]) -> String {
        let mut command = self.roadcall();
        command.args(["auth", "init", "--identities"]);
        let output = command.arg(self.identities()).args(words).output();
        let output = output.expect("runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn roadcall(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_roadcall"));
        command
            .env_clear()
            .arg("--config")
            .arg(self.dir.path().join("roadcall.toml"))
            .stdin(Stdio::null());
        command
    }

    /// Runs a command; gives its exit code, what it printed as JSON (null if it is none), and its errors.
    pub fn run(&self, arguments: &[&str]) -> (Option<i32>, Value, String) {
        let output = self.roadcall().args(arguments).output().expect("runs");
        let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), value, words)
    }

    /// Runs a command that must succeed.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let (code, value, words) = self.run(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {words}");
        value
    }

    /// Starts a process whose only seed is its own: it gets it as a service manager would hand it on, and of the identities'
    /// directory it sees nothing.
    pub fn start(&mut self, name: &str) {
        let given = self.dir.path().join(format!("given-{name}"));
        std::fs::create_dir_all(&given).expect("made");
        let mut command = self.roadcall();
        if name != "broker" {
            let file = format!("{name}.nk");
            std::fs::copy(self.identities().join(&file), given.join(&file)).expect("copied");
            command.env("CREDENTIALS_DIRECTORY", &given).env(
                "ROADCALL_BUS__IDENTITIES_DIR",
                self.dir.path().join("nowhere"),
            );
        }
        self.spawn(name, command);
    }

    /// Starts a process that reads its seed where all of them are.
    pub fn start_from_files(&mut self, name: &str) {
        let command = self.roadcall();
        self.spawn(name, command);
    }

    fn spawn(&mut self, name: &str, mut command: Command) {
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(self.log_file(name))
            .expect("a log");
        let child = command
            .args(["--role", name])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.running
            .insert(name.to_owned(), child.expect("started"));
        *self.starts.entry(name.to_owned()).or_default() += 1;
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.log"))
    }

    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.log_file(name)).unwrap_or_default()
    }

    pub async fn ready(&self, name: &str) {
        let starts = self.starts[name];
        eventually_within(120, &format!("{name} is ready"), || async {
            (self.log(name).matches(r#""message":"ready""#).count() >= starts).then_some(())
        })
        .await;
    }

    /// Every role as a process.
    pub async fn start_roles(&mut self) {
        ROLES.iter().for_each(|(role, ..)| self.start(role));
        for (role, ..) in ROLES {
            self.ready(role).await;
        }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    fn seed(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.identities().join(format!("{name}.nk")));
        text.expect("a seed").trim().to_owned()
    }

    /// A bare client of somebody's.
    pub async fn client(&self, name: &str) -> async_nats::Client {
        // While the server reads its configuration again somebody may be refused who is let in right after.
        eventually("a connection", || async {
            let options = ConnectOptions::with_nkey(self.seed(name))
                .request_timeout(Some(Duration::from_secs(2)))
                .subscription_capacity(1 << 20);
            options.connect(self.url()).await.ok()
        })
        .await
    }

    /// The connection of somebody's.
    pub async fn bus(&self, name: &str) -> JetStream {
        let seed = self.seed(name);
        eventually("a connection", || async {
            let seed = seed.clone();
            JetStream::connect(Config {
                url: self.url(),
                credentials: None,
                identity: Some(Identity::new(move || Ok(seed.clone()))),
                ca_file: None,
                name: "test".to_owned(),
                connect_timeout: Duration::from_secs(2),
                request_timeout: Duration::from_secs(2),
                publish: Form::default(),
            })
            .await
            .ok()
        })
        .await
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in self.running.keys() {
                let log = self.log(name);
                let worse = |line: &&str| !line.contains(r#""level":"INFO""#);
                let lines: Vec<&str> = log.lines().filter(worse).collect();
                let last = &lines[lines.len().saturating_sub(6)..];
                eprintln!("--- {name}: {}", last.join("\n"));
            }
        }
        let server = self.dir.path().join("state/nats/nats-server.pid");
        let server = std::fs::read_to_string(server);
        for child in self.running.values_mut() {
            // Ended already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
        let pid = server.ok().and_then(|text| text.trim().parse().ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}
