//! A site of separate processes on one external broker, each role with a state directory of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::{eventually, free_port, nats_server};
use roadcall::bus::Bus;
use roadcall::bus::jetstream::{Config, Form, JetStream};
use roadcall::role::RoleName;

/// The roles of this build.
pub const ROLES: [&str; 12] = [
    "incident",
    "vendor",
    "match",
    "tracking",
    "payments",
    "notifications",
    "reporting",
    "telephony",
    "auth",
    "kb",
    "config",
    "audit",
];

/// Those that read no queue.
pub const QUEUELESS: [&str; 2] = ["auth", "config"];

/// The processes; all are killed when it is dropped.
pub struct Processes {
    pub dir: tempfile::TempDir,
    /// What the commands to come are given first, such as `--config`.
    pub arguments: Vec<String>,
    port: u16,
    broker: Child,
    roles: BTreeMap<&'static str, Child>,
}

impl Processes {
    pub fn new() -> Self {
        let dir = tempfile::TempDir::new().expect("a directory");
        let port = free_port();
        let broker = start_broker(dir.path(), port);
        Self {
            dir,
            arguments: Vec::new(),
            port,
            broker,
            roles: BTreeMap::new(),
        }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The binary, connected to this site.
    pub fn roadcall(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_roadcall"));
        command
            .env_clear()
            .args(&self.arguments)
            .args(["--nats", &self.url()])
            .stdin(Stdio::null());
        command
    }

    pub fn start(&mut self, role: &'static str) {
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

    /// The broker, its topology, and all roles.
    pub fn all() -> Self {
        let mut site = Self::new();
        site.apply_topology();
        ROLES.iter().for_each(|role| site.start(role));
        site
    }

    /// Waits until every role has said that it is ready: before, nobody answers its commands.
    pub async fn ready(&self) {
        for role in ROLES {
            self.role_ready(role).await;
        }
    }

    /// Waits until this role has said so.
    pub async fn role_ready(&self, role: &str) {
        let log = self.dir.path().join(format!("{role}.log"));
        eventually("the roles to be ready", || async {
            let text = std::fs::read_to_string(&log).ok()?;
            text.contains(r#""message":"ready""#).then_some(())
        })
        .await;
    }

    /// `roadcall topology apply --yes`, as soon as the broker answers.
    pub fn apply_topology(&self) {
        for _ in 0..100 {
            let mut command = self.roadcall();
            let output = command.args(["topology", "apply", "--yes"]).output();
            let output = output.expect("runs");
            if output.status.success() {
                return;
            }
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(words.contains("RC0201"), "{words}");
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the broker does not answer");
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

    /// Waits until every queue is empty.
    pub async fn drained(&self, bus: &JetStream) {
        eventually("the queues drain", || async {
            let roles = ROLES.map(|role| role.parse::<RoleName>().expect("a role"));
            for queue in roles.iter().filter_map(|role| role.queue()) {
                let state = bus.queue(queue).await.ok()?;
                if state.pending + state.ack_pending > 0 {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    /// The broker's process id.
    pub fn broker_id(&self) -> u32 {
        self.broker.id()
    }

    /// SIGTERM, an orderly end, and a start up to `ready`.
    pub async fn restart(&mut self, role: &'static str) {
        self.stop(role).await;
        let log = self.dir.path().join(format!("{role}.log"));
        let words = || std::fs::read_to_string(&log).expect("a log");
        let starts = || words().matches(r#""message":"ready""#).count();
        let before = starts();
        self.start(role);
        eventually("the role to be ready again", || async {
            (starts() > before).then_some(())
        })
        .await;
    }

    /// SIGTERM and an orderly end.
    pub async fn stop(&mut self, role: &'static str) {
        let mut child = self.roles.remove(role).expect("runs");
        let pid = i32::try_from(child.id()).expect("a process id");
        let pid = rustix::process::Pid::from_raw(pid).expect("not zero");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("sent");
        let ended = tokio::task::spawn_blocking(move || child.wait()).await;
        let status = ended.expect("no panic").expect("ended");
        let log = self.dir.path().join(format!("{role}.log"));
        let words = || std::fs::read_to_string(&log).expect("a log");
        assert!(status.success(), "{role}: {status}: {}", words());
    }

    /// SIGKILL.
    pub fn end(&mut self, role: &'static str) {
        if let Some(mut child) = self.roles.remove(role) {
            child.kill().expect("killed");
            child.wait().expect("ended");
        }
    }

    /// SIGKILL, then a start.
    pub fn kill(&mut self, role: &'static str) {
        self.end(role);
        self.start(role);
    }

    pub fn kill_broker(&mut self) {
        self.broker.kill().expect("killed");
        self.broker.wait().expect("ended");
        self.broker = start_broker(self.dir.path(), self.port);
    }

    /// Replaces the broker's store by the copy at `older` while it is down.
    pub fn roll_back(&mut self, older: &Path) {
        self.broker.kill().expect("killed");
        self.broker.wait().expect("ended");
        let store = self.dir.path().join("nats");
        std::fs::remove_dir_all(&store).expect("removed");
        copy_dir(older, &store);
        self.broker = start_broker(self.dir.path(), self.port);
    }

    pub async fn connect(&self) -> JetStream {
        eventually("a connection", || async {
            JetStream::connect(Config {
                url: self.url(),
                credentials: None,
                identity: None,
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

impl Drop for Processes {
    fn drop(&mut self) {
        for child in self.roles.values_mut().chain([&mut self.broker]) {
            // Ended already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Ends the nats-servers that were started with a configuration below `dir`: one survives the process that ran it when that is
/// killed.
pub fn end_brokers_below(dir: &Path) {
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else {
            continue;
        };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        let mut words = command.split('\0');
        let server = words
            .next()
            .is_some_and(|word| word.ends_with("nats-server"));
        if server && words.any(|word| Path::new(word).starts_with(dir)) {
            // Ended already is as good.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
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

/// Copies a directory that may be in use.
pub fn copy_dir(from: &Path, to: &Path) {
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
