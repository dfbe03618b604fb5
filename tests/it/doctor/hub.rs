//! A hub of five processes with one state directory, as systemd would run it: the broker, the door, matching, and the other
//! roles in one; and what `roadcall doctor` says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::sites::place::{PATIENCE, connect};
use crate::support::{eventually_within, free_port, nats_server};
use roadcall::bus::jetstream::JetStream;

/// The processes, in the order of their start, and what each runs.
const PROCESSES: [(&str, &str); 4] = [
    ("broker", "broker"),
    (
        "rest",
        "incident,vendor,tracking,payments,notifications,reporting,telephony,auth,kb,config,audit",
    ),
    ("match", "match"),
    ("gateway", "gateway"),
];

/// Seconds of waiting between looks; each look is a process and takes several times as long.
const LOOKING: u32 = 15;

pub struct Hub {
    root: tempfile::TempDir,
    pub port: u16,
    children: BTreeMap<&'static str, (Child, usize)>,
}

impl Hub {
    /// All of it, ready.
    pub async fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let (port, leaf) = (free_port(), free_port());
        let mut hub = Self {
            root,
            port,
            children: BTreeMap::new(),
        };
        let text = format!(
            "[site]\nid = 'hub'\nstate_dir = '{}'\n[bus]\nurl = 'nats://127.0.0.1:{port}'\n\
             [gateway]\nlisten = '127.0.0.1:{}'\n[engine]\nretry_delay = '300ms'\nnot_yet_max = '20s'\ncommand_timeout = '2s'\n\
             [audit]\nalarm_period = '5s'\n\
             [broker]\nbinary = '{}'\nlisten = '127.0.0.1:{port}'\nmonitor_url = 'http://127.0.0.1:{}'\n\
             leaf_listen = '127.0.0.1:{leaf}'\nleaf_url = ['nats-leaf://127.0.0.1:{leaf}']\nstore_dir = '{}'\n",
            hub.state().display(),
            free_port(),
            nats_server().display(),
            free_port(),
            hub.path("nats").display(),
        );
        std::fs::write(hub.file(), text).expect("written");
        std::fs::create_dir(hub.state()).expect("made");
        for (name, _) in PROCESSES {
            hub.start(name, &[]).await;
        }
        // Without somebody who is told of an alarm, each is a letter.
        hub.json(&[
            "auth",
            "create-admin",
            "--phone",
            "+15550001111",
            "--name",
            "Ann",
        ]);
        eventually_within(PATIENCE, "the messages' role to know her", || async {
            let queue = hub.json(&["queue", "show", "notifications-queue"]);
            (queue["depth"] == 0 && queue["deliveredSeq"] != 0).then_some(())
        })
        .await;
        hub
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    pub fn file(&self) -> PathBuf {
        self.path("roadcall.toml")
    }

    pub fn roadcall(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_roadcall"));
        command
            .env_clear()
            .arg("--config")
            .arg(self.file())
            .stdin(Stdio::null());
        command
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// Starts one, with these variables, and waits until it is ready.
    pub async fn start(&mut self, name: &'static str, environment: &[(&str, &str)]) {
        let roles = PROCESSES.iter().find(|(one, _)| *one == name);
        let roles = roles.expect("one of them").1;
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(self.path(&format!("{name}.log")))
            .expect("a log");
        let ready = || self.log(name).matches(r#""message":"ready""#).count();
        let before = ready();
        let child = self
            .roadcall()
            .envs(environment.iter().copied())
            .args(["--role", roles])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("started");
        eventually_within(PATIENCE, &format!("{name} is ready"), || async {
            (ready() > before).then_some(())
        })
        .await;
        self.children.insert(name, (child, before));
    }

    pub fn signal(&self, name: &str, signal: Signal) {
        let pid = Pid::from_child(&self.children[name].0);
        kill_process(pid, signal).expect("sent");
    }

    /// SIGHUP to all but the broker, whose own settings no case changes.
    pub fn hang_up(&self) {
        for name in self.children.keys() {
            self.signal(name, Signal::HUP);
        }
    }

    /// An orderly end.
    pub fn stop(&mut self, name: &'static str) {
        self.signal(name, Signal::TERM);
        let (mut child, _) = self.children.remove(name).expect("it runs");
        let status = child.wait().expect("ended");
        assert!(status.success(), "{name}: {status}: {}", self.log(name));
    }

    /// SIGKILL.
    pub fn kill(&mut self, name: &'static str) {
        let (mut child, _) = self.children.remove(name).expect("it runs");
        child.kill().expect("killed");
        child.wait().expect("ended");
    }

    /// Runs a command that must succeed.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.roadcall().args(arguments).output().expect("runs");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {words}");
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    pub async fn connect(&self) -> JetStream {
        connect(&format!("nats://127.0.0.1:{}", self.port)).await
    }

    /// Somebody reports a breakdown; gives the incident.
    pub fn breakdown(&self, n: u64) -> String {
        let driver = format!("00000000-0000-7000-8000-{n:012}");
        let created = self.json(&[
            "incident", "create", "--driver", &driver, "--type", "tire", "--lat", "40.7", "--lon",
            "-74.0",
        ]);
        created["incidentId"].as_str().expect("an id").to_owned()
    }

    /// The doctor's findings, each whole, the worst first.
    pub fn doctor(&self) -> Vec<Value> {
        findings(self.roadcall().arg("doctor").arg("--json"))
    }

    /// Waits until the doctor finds this and no more; alarms, which may or may not be raised by then, do not count.
    pub async fn found(&self, wanted: &[(&str, &str)]) -> Vec<Value> {
        expect(wanted, || self.doctor()).await
    }

    /// Waits until nothing is wrong at all.
    pub async fn healthy(&self) {
        healthy(|| self.roadcall()).await;
    }
}

/// Waits until nothing is wrong at a site: nothing found, nothing left out, exit 0.
pub async fn healthy(roadcall: impl Fn() -> Command) {
    let last = std::sync::Mutex::new(String::new());
    let look = || async {
        let output = roadcall().arg("doctor").output().expect("runs");
        let words = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        let mut last = last.lock().expect("nobody panics with it");
        if *last != words {
            eprintln!("{words}");
            last.clone_from(&words);
        }
        (output.status.code() == Some(0) && words == "nothing is wrong\n").then_some(())
    };
    eventually_within(LOOKING, "a healthy site", look).await;
}

/// What a look says; exit 2 exactly if there are findings.
pub fn findings(command: &mut Command) -> Vec<Value> {
    let output = command.output().expect("runs");
    let words = String::from_utf8_lossy(&output.stderr);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{words}"));
    let found = found.as_array().expect("a list").clone();
    let code = output.status.code();
    assert_eq!(code == Some(2), !found.is_empty(), "{code:?} {found:?}");
    let rank = |one: &Value| match one["severity"].as_str() {
        Some("critical") => 0,
        Some("warning") => 1,
        Some("note") => 2,
        other => panic!("severity {other:?}"),
    };
    assert!(found.is_sorted_by_key(rank), "{found:?}");
    for one in &found {
        for field in ["check", "subject", "finding", "evidence", "do"] {
            let text = one[field].as_str().unwrap_or_default();
            assert!(!text.is_empty() && !text.contains('\n'), "{field} of {one}");
        }
    }
    found
}

fn names(found: &[Value]) -> BTreeSet<(String, String)> {
    let text = |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
    let faults = found.iter().filter(|one| one["check"] != json!("alarm"));
    faults
        .map(|one| (text(one, "check"), text(one, "subject")))
        .collect()
}

/// See [`Hub::found`].
pub async fn expect(wanted: &[(&str, &str)], look: impl Fn() -> Vec<Value>) -> Vec<Value> {
    let owned = |(check, subject): &(&str, &str)| ((*check).to_owned(), (*subject).to_owned());
    let wanted: BTreeSet<(String, String)> = wanted.iter().map(owned).collect();
    let last = std::sync::Mutex::new(BTreeSet::new());
    eventually_within(LOOKING, &format!("the doctor names {wanted:?}"), || async {
        let found = look();
        let names = names(&found);
        let mut last = last.lock().expect("nobody panics with it");
        if *last != names && names != wanted {
            eprintln!("wanted {wanted:?}, found {found:#?}");
            last.clone_from(&names);
        }
        (names == wanted).then_some(found)
    })
    .await
}

impl Drop for Hub {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (name, _) in PROCESSES {
                let log = self.log(name);
                let lines: Vec<&str> = log.lines().collect();
                let last = &lines[lines.len().saturating_sub(6)..];
                eprintln!("--- {name}: {}", last.join("\n"));
            }
        }
        for (child, _) in self.children.values_mut() {
            // Ended already is as good. A stopped one must be let go first.
            let _ = kill_process(Pid::from_child(child), Signal::CONT);
            let _ = child.kill();
            let _ = child.wait();
        }
        let pid = std::fs::read_to_string(self.path("nats").join("nats-server.pid"));
        let pid = pid.ok().and_then(|text| text.trim().parse().ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
