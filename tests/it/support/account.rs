//! A nats-server on which one role lives in an account of its own without JetStream (BROKER 9): account `RC` has the streams
//! and exports single services of them, the role's account imports exactly those. What is listed here is what a role needs.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{free_port, nats_server};

/// What a role's account imports of `RC`, and whether an answer is more than one message.
fn services(site: &str, role: &str, service: &str, queue: &str) -> Vec<(String, bool)> {
    let one = |subject: String| (subject, false);
    let many = |subject: String| (subject, true);
    let info = [
        "EVENTS",
        "ADVISORIES",
        "API_CALLS",
        "CARRY",
        "DLQ",
        "KV_REPLAYS",
        "KV_TOPOLOGY",
        "OBJ_SNAPSHOTS",
    ];
    let mut services: Vec<(String, bool)> = info
        .iter()
        .map(|stream| one(format!("$JS.API.STREAM.INFO.{stream}")))
        .collect();
    services.extend([
        // What the role writes: its events, those about its letters and replays, the letters, its progress, its ownership.
        one(format!("roadcall.{site}.{service}.>")),
        one(format!("roadcall.{site}.ops.>")),
        one(format!("dlq.{queue}.>")),
        one("$KV.REPLAYS.progress.>".to_owned()),
        one(format!("$KV.TOPOLOGY.owner.{role}")),
        // Its queue.
        one("$JS.API.INFO".to_owned()),
        one(format!("$JS.API.CONSUMER.INFO.EVENTS.{queue}")),
        one("$JS.API.CONSUMER.INFO.ADVISORIES.audit-advisories".to_owned()),
        one("$JS.API.CONSUMER.INFO.API_CALLS.audit-api-calls".to_owned()),
        one(format!("$JS.API.CONSUMER.RESET.EVENTS.{queue}")),
        many(format!("$JS.API.CONSUMER.MSG.NEXT.EVENTS.{queue}")),
        one(format!("$JS.ACK.{site}.*.EVENTS.{queue}.>")),
        // What it reads: the archive for the relay's tail and for replays, letters, jobs, switches and logs of filters.
        many("$JS.API.DIRECT.GET.EVENTS".to_owned()),
        many("$JS.API.DIRECT.GET.DLQ".to_owned()),
        many("$JS.API.DIRECT.GET.KV_REPLAYS".to_owned()),
        many("$JS.API.DIRECT.GET.KV_TOPOLOGY".to_owned()),
        one("$JS.API.DIRECT.GET.KV_TOPOLOGY.>".to_owned()),
        // Its snapshots: read, put, and the old ones removed.
        many("$JS.API.DIRECT.GET.OBJ_SNAPSHOTS".to_owned()),
        one("$O.SNAPSHOTS.>".to_owned()),
        one("$JS.API.STREAM.PURGE.OBJ_SNAPSHOTS".to_owned()),
    ]);
    services
}

/// The server's configuration. Account `RC` has the user `app`; the role's account and its user are named as the role.
fn config(dir: &Path, port: u16, role: &str) -> String {
    let (account, queue) = (role.to_uppercase(), format!("{role}-queue"));
    let services = services("hub", role, role, &queue);
    let export = |(subject, many): &(String, bool)| {
        let kind = if *many { "stream" } else { "singleton" };
        format!("{{ service: \"{subject}\", accounts: [{account}], response_type: \"{kind}\" }}")
    };
    let import = |(subject, _): &(String, bool)| {
        format!("{{ service: {{ account: RC, subject: \"{subject}\" }} }}")
    };
    let exports: Vec<String> = services.iter().map(export).collect();
    let imports: Vec<String> = services.iter().map(import).collect();
    let commands = format!("svc.roadcall.hub.{role}.>");
    format!(
        r#"
server_name: hub
listen: "127.0.0.1:{port}"
feature_flags {{ js_ack_fc_v2: true }}
jetstream {{ store_dir: "{store}", domain: hub, sync_interval: always, max_file_store: 20GB }}
accounts {{
  SYS {{ users: [{{ user: sys, password: sys }}] }}
  RC {{
    jetstream: enabled
    users: [{{ user: app, password: app }}]
    exports: [
      {exports}
    ]
    imports: [{{ service: {{ account: {account}, subject: "{commands}" }} }}]
  }}
  {account} {{
    users: [{{ user: {role}, password: {role} }}]
    exports: [{{ service: "{commands}", accounts: [RC] }}]
    imports: [
      {imports}
    ]
  }}
}}
system_account: SYS
"#,
        store = dir.join("nats").display(),
        exports = exports.join("\n      "),
        imports = imports.join("\n      "),
    )
}

/// The server and processes on it; all are killed when it is dropped.
pub struct Accounts {
    pub dir: tempfile::TempDir,
    port: u16,
    children: Vec<Child>,
}

impl Accounts {
    /// Starts the server, with an account for `role`.
    pub fn new(role: &str) -> Self {
        let (dir, port) = (tempfile::TempDir::new().expect("a directory"), free_port());
        let file = dir.path().join("nats.conf");
        std::fs::write(&file, config(dir.path(), port, role)).expect("written");
        let broker = Command::new(nats_server())
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("nats.log")).expect("a log"))
            .spawn()
            .expect("started");
        Self {
            dir,
            port,
            children: vec![broker],
        }
    }

    pub fn url(&self, user: &str) -> String {
        format!("nats://{user}:{user}@127.0.0.1:{}", self.port)
    }

    /// The binary, connected as `user`.
    pub fn roadcall(&self, user: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_roadcall"));
        command
            .env_clear()
            .args(["--nats", &self.url(user)])
            .stdin(Stdio::null());
        command
    }

    /// Runs a role as `user`, its log in `<role>.log`.
    pub fn start(&mut self, user: &str, role: &str) {
        let log = std::fs::File::create(self.log(role)).expect("a log");
        let child = self
            .roadcall(user)
            .arg("--state-dir")
            .arg(self.dir.path().join(role))
            .args(["--role", role])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("started");
        self.children.push(child);
    }

    pub fn log(&self, role: &str) -> std::path::PathBuf {
        self.dir.path().join(format!("{role}.log"))
    }
}

impl Drop for Accounts {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            // Ended already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
