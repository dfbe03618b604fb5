//! Sites as processes: each runs its own broker and all roles in one process, as on a box.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{eventually_within, free_port, nats_server};
use roadcall::bus::jetstream::{Config, Form, Identity, JetStream};
use roadcall::bus::{Bus, DLQ, EVENTS, Error};
use roadcall::role::RoleName;

/// Seconds that anything may take while several sites share a small machine.
pub const PATIENCE: u32 = 180;

/// A box: one site, or one server of a hub of several.
pub struct Place {
    pub site: String,
    pub dir: PathBuf,
    pub port: u16,
    /// What `--role` says.
    pub roles: &'static str,
    /// Where it can be reached from here.
    pub host: String,
    /// What its commands are run by.
    through: Vec<String>,
    child: Option<Child>,
    starts: usize,
}

impl Place {
    /// A box with these lines in its configuration beside what every one has. Not started.
    pub fn new(root: &Path, name: &str, site: &str, port: u16, more: &str) -> Self {
        let dir = root.join(name);
        std::fs::create_dir_all(&dir).expect("made");
        let text = format!(
            "[site]\nid = '{site}'\nstate_dir = '{}'\n[bus]\nurl = 'nats://127.0.0.1:{port}'\n\
             [gateway]\nlisten = '127.0.0.1:{}'\n[engine]\nretry_delay = '300ms'\n\
             [broker]\nbinary = '{}'\nlisten = '127.0.0.1:{port}'\n{more}\n",
            dir.join("state").display(),
            free_port(),
            nats_server().display(),
        );
        std::fs::write(dir.join("roadcall.toml"), text).expect("written");
        Self {
            site: site.to_owned(),
            dir,
            port,
            roles: "all",
            host: "127.0.0.1".to_owned(),
            through: Vec::new(),
            child: None,
            starts: 0,
        }
    }

    /// The same box with identities for everybody who connects there.
    pub fn with_identities(self) -> Self {
        let dir = self.dir.join("identities");
        let made = self
            .roadcall()
            .args(["auth", "init", "--identities"])
            .arg(&dir)
            .output();
        assert!(made.expect("runs").status.success());
        let text = format!("[bus]\nidentities_dir = '{}'\n", dir.display());
        std::fs::create_dir_all(self.dir.join("conf.d")).expect("made");
        std::fs::write(self.dir.join("conf.d/identities.toml"), text).expect("written");
        self
    }

    /// The same box in a network namespace, reached from here at `host`.
    pub fn inside(mut self, namespace: &str, host: &str) -> Self {
        let file = self.dir.join("roadcall.toml");
        let text = std::fs::read_to_string(&file).expect("read");
        let here = format!("\nlisten = '127.0.0.1:{}'\n", self.port);
        let there = format!("\nlisten = '0.0.0.0:{}'\n", self.port);
        std::fs::write(&file, text.replace(&here, &there)).expect("written");
        let words = ["/usr/bin/env", "ip", "netns", "exec", namespace];
        self.through = words.map(str::to_owned).to_vec();
        self.host = host.to_owned();
        self
    }

    pub fn roadcall(&self) -> Command {
        let mut words = self.through.iter().map(String::as_str);
        let binary = env!("CARGO_BIN_EXE_roadcall");
        let mut command = Command::new(words.next().unwrap_or(binary));
        command.env_clear();
        if !self.through.is_empty() {
            let path = "/usr/sbin:/usr/bin:/sbin:/bin";
            command.args(words).arg(binary).env("PATH", path);
        }
        command
            .arg("--config")
            .arg(self.dir.join("roadcall.toml"))
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

    pub fn start(&mut self) {
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(self.dir.join("log"))
            .expect("a log");
        let child = self
            .roadcall()
            .args(["--role", self.roles])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("started"));
        self.starts += 1;
    }

    /// SIGKILL to the process and to its nats-server, as when the box loses its power.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        // Ended already is as good, for both.
        let _ = child.kill();
        let _ = child.wait();
        let pid = std::fs::read_to_string(self.dir.join("state/nats/nats-server.pid"));
        let pid = pid.ok().and_then(|text| text.trim().parse().ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }

    /// Lets it read its configuration again.
    pub fn hang_up(&self) {
        let child = self.child.as_ref().expect("it runs");
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("signalled");
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Waits until it has said that it is ready after its last start.
    pub async fn ready(&self) {
        let what = format!("{} is ready ({})", self.site, self.dir.display());
        eventually_within(PATIENCE, &what, || async {
            (self.log().matches(r#""message":"ready""#).count() >= self.starts).then_some(())
        })
        .await;
    }

    pub async fn connect(&self) -> JetStream {
        self.connect_by("operator").await
    }

    /// The same as somebody, where there are identities.
    pub async fn connect_by(&self, name: &str) -> JetStream {
        let file = self.dir.join(format!("identities/{name}.nk"));
        let seed = std::fs::read_to_string(file).ok();
        let url = format!("nats://{}:{}", self.host, self.port);
        connect_as(&url, seed.map(|seed| seed.trim().to_owned())).await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(12)..];
            eprintln!("--- {}: {}", self.dir.display(), last.join("\n"));
        }
        self.kill();
    }
}

/// A connection, as soon as somebody answers.
pub async fn connect(url: &str) -> JetStream {
    connect_as(url, None).await
}

/// The same as who has this seed.
async fn connect_as(url: &str, seed: Option<String>) -> JetStream {
    eventually_within(PATIENCE, "a connection", || async {
        let seed = seed.clone();
        let config = Config {
            url: url.to_owned(),
            credentials: None,
            identity: seed.map(|seed| Identity::new(move || Ok(seed.clone()))),
            ca_file: None,
            name: "test".to_owned(),
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
            publish: Form::default(),
        };
        JetStream::connect(config).await.ok()
    })
    .await
}

/// The ids of an archive's events with this origin, in its order. An id that is there twice ends the test.
pub async fn ids_of(bus: &JetStream, origin: &str) -> Option<Vec<String>> {
    let mut ids = Vec::new();
    let (filter, mut from) = (format!("roadcall.{origin}.>"), 1);
    loop {
        let stored = bus.read(EVENTS, &filter, from, 1000, true).await.ok()?;
        let Some(last) = stored.last() else {
            let distinct: std::collections::BTreeSet<&String> = ids.iter().collect();
            assert_eq!(
                distinct.len(),
                ids.len(),
                "{origin}: an event is there twice"
            );
            return Some(ids);
        };
        from = last.seq + 1;
        let id = |stored: &roadcall::bus::Stored| {
            let id = stored.headers.get("Nats-Msg-Id").expect("an id");
            id.to_owned()
        };
        ids.extend(stored.iter().map(id));
    }
}

/// Whether every source of the archive has brought everything.
async fn no_lag(bus: &JetStream) -> Option<bool> {
    let asked = format!("STREAM.INFO.{EVENTS}");
    let info = bus.api(&asked, &Value::Null).await.ok()?;
    let sources = info["sources"].as_array()?.clone();
    Some(sources.iter().all(|source| source["lag"] == json!(0)))
}

pub async fn drained(bus: &JetStream) -> Option<bool> {
    for queue in RoleName::BUILT.iter().filter_map(|role| role.queue()) {
        let state = match bus.queue(queue).await {
            Ok(state) => state,
            // The hub does it for this depot.
            Err(Error::Missing(_)) => continue,
            Err(_) => return None,
        };
        if state.pending + state.ack_pending > 0 {
            return Some(false);
        }
    }
    Some(true)
}

/// The events of an origin that came by the link, and those that were sent again later because the server had passed them by.
async fn came(bus: &JetStream, origin: &str) -> Option<(Vec<String>, Vec<String>)> {
    let all = ids_of(bus, origin).await?;
    let (filter, mut from) = (format!("roadcall.{origin}.>"), 1);
    let mut again = Vec::new();
    loop {
        let stored = bus.read(EVENTS, &filter, from, 1000, true).await.ok()?;
        let Some(last) = stored.last() else { break };
        from = last.seq + 1;
        let resent = |it: &&roadcall::bus::Stored| it.headers.get("Roadcall-Resent").is_some();
        let ids = stored.iter().filter(resent);
        again.extend(ids.filter_map(|it| it.headers.get("Nats-Msg-Id").map(str::to_owned)));
    }
    let linked = all.into_iter().filter(|id| !again.contains(id)).collect();
    Some((linked, again))
}

/// Whether a site has what another one has of an origin: all of it, in its order but for what was sent again.
async fn agree(from: &JetStream, to: &JetStream, origin: &str) -> Option<bool> {
    let (mut there, (linked, again)) = (ids_of(from, origin).await?, came(to, origin).await?);
    let complete = there.len() == linked.len() + again.len();
    there.retain(|id| !again.contains(id));
    Some(complete && there == linked)
}

/// Hub and depots have the same events of each origin, in the same order but for those that had to be sent again; their
/// queues are empty, and nothing is on its way.
pub async fn same_everywhere(hub: &JetStream, depots: &[(&str, &JetStream)]) {
    let seen = std::sync::Mutex::new(Vec::new());
    eventually_within(PATIENCE, "the archives are the same", || async {
        for (site, depot) in depots {
            if !agree(depot, hub, site).await? || !agree(hub, depot, "hub").await? {
                let up = (ids_of(depot, site).await?, ids_of(hub, site).await?);
                let down = (ids_of(hub, "hub").await?, ids_of(depot, "hub").await?);
                // Said when it changes: where a failure stopped.
                let counts = [up.0.len(), up.1.len(), down.0.len(), down.1.len()];
                let mut seen = seen.lock().expect("nobody panics with it");
                if *seen != counts {
                    eprintln!(
                        "{site}: up {} of {}, down {} of {}",
                        counts[1], counts[0], counts[3], counts[2]
                    );
                    *seen = counts.to_vec();
                }
                return None;
            }
        }
        for bus in depots.iter().map(|(_, depot)| *depot).chain([hub]) {
            if !no_lag(bus).await? || !drained(bus).await? {
                return None;
            }
        }
        Some(())
    })
    .await;
}

/// No letters, and the audit knows what became of every event.
pub async fn nothing_lost(places: &[&Place]) {
    for place in places {
        let bus = place.connect().await;
        let letters = bus.stream(DLQ).await.expect("asked").messages;
        let (_, listed, _) = place.run(&["dlq", "list", "--json"]);
        assert_eq!(letters, 0, "{}: letters: {listed}", place.site);
        eventually_within(PATIENCE, "the audit to find everything", || async {
            let (code, rows, words) = place.run(&["audit", "--json"]);
            let rows = rows.as_array()?.clone();
            let lost: Vec<&Value> = rows
                .iter()
                .filter(|row| row["unaccounted"] != json!(0))
                .collect();
            if code != Some(0) || !lost.is_empty() {
                eprintln!("{}: audit {code:?} {lost:?} {words}", place.site);
                return None;
            }
            Some(())
        })
        .await;
    }
}
