//! Bad situations, with the real binary and real parts: each one clear line with its code, the right exit code, and
//! nothing lost once the situation is mended. And a reload while running.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::processes::Processes;
use crate::support::{eventually, free_port, nats_server};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, EVENTS, Headers};
use roadcall::event::{Id, ids};

/// A process whose errors go to a file; killed on drop.
struct Role {
    child: Child,
    log: PathBuf,
}

impl Role {
    fn start(mut command: Command, dir: &Path) -> Self {
        let log = dir.join("role.log");
        let file = std::fs::File::create(&log).expect("a log");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("started");
        Self { child, log }
    }

    fn words(&self) -> String {
        std::fs::read_to_string(&self.log).expect("a log")
    }

    fn says(&self, words: &str) -> Option<()> {
        self.words().contains(words).then_some(())
    }

    async fn ready(&self) {
        eventually("the role is ready", || async {
            self.says("\"message\":\"ready\"")
        })
        .await;
    }

    /// Waits for its end: the exit code, and the one error line with its help.
    async fn end(mut self) -> (Option<i32>, String) {
        let words = |role: &Self| role.words();
        let child = std::cell::RefCell::new(&mut self.child);
        let status = eventually("the process ends", || async {
            child.borrow_mut().try_wait().expect("asked")
        })
        .await;
        let words = words(&self);
        let lines: Vec<&str> = words.lines().collect();
        let errors: Vec<usize> = (0..lines.len())
            .filter(|at| lines[*at].starts_with("error["))
            .collect();
        assert_eq!(errors.len(), 1, "exactly one error line: {words}");
        let at = errors[0];
        assert!(
            lines
                .get(at + 1)
                .is_some_and(|line| line.starts_with("  help: ")),
            "{words}"
        );
        (status.code(), lines[at].to_owned())
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn roadcall() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roadcall"));
    command.env_clear();
    command
}

/// Runs to its end and expects this exit code and these words in the one error line.
async fn fails(command: Command, exit: i32, says: &[&str]) {
    let dir = tempfile::tempdir().expect("a directory");
    let (code, line) = Role::start(command, dir.path()).end().await;
    assert_eq!(code, Some(exit), "{line}");
    for words in says {
        assert!(line.contains(words), "{words} in {line}");
    }
}

/// A role against the broker of `site`.
fn role(site: &Processes, name: &str, state: &Path) -> Command {
    let mut command = site.roadcall();
    command.args(["--role", name, "--state-dir"]).arg(state);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_role_and_a_wrong_key_are_named() {
    let mut command = roadcall();
    command.args(["--role", "dispatcher"]);
    fails(command, 64, &["RC0001", "no role is named 'dispatcher'"]).await;

    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("roadcall.toml");
    std::fs::write(&file, "[engine]\nretry_dely = '5s'\n").expect("written");
    let mut command = roadcall();
    command.args(["--role", "match", "--config"]).arg(&file);
    let output = command.output().expect("runs");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{words}");
    let wanted = format!(
        "error[RC0101]: engine.retry_dely in {}: there is no such key\n  help: did you mean engine.retry_delay?\n",
        file.display()
    );
    assert_eq!(words, wanted);

    let mut command = roadcall();
    command
        .args(["--role", "match"])
        .env("ROADCALL__ENGINE__MAX_DELIVER", "many");
    let says = [
        "RC0101",
        "engine.max_deliver",
        "ROADCALL__ENGINE__MAX_DELIVER",
    ];
    fails(command, 64, &says).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_without_a_broker_says_so_and_the_next_one_with_it_goes() {
    let dir = tempfile::tempdir().expect("a directory");
    let nobody = format!("nats://127.0.0.1:{}", free_port());
    let mut command = roadcall();
    command
        .args(["--role", "audit", "--nats", &nobody, "--state-dir"])
        .arg(dir.path());
    fails(command, 1, &["RC0201", "did not answer"]).await;
    let site = Processes::new();
    site.apply_topology();
    let role = Role::start(role(&site, "audit", dir.path()), dir.path());
    role.ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topology_that_is_missing_is_named() {
    let site = Processes::new();
    site.connect().await;
    let dir = tempfile::tempdir().expect("a directory");
    let says = ["RC0203", "EVENTS is missing", "audit-queue is missing"];
    fails(role(&site, "audit", dir.path()), 1, &says).await;
    let check = ["check", "--role", "audit", "--json", "--state-dir"];
    let output = site.roadcall().args(check).arg(dir.path()).output();
    let output = output.expect("runs");
    assert_eq!(output.status.code(), Some(2));
    let rows: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let rows = rows.as_array().expect("a list");
    let is =
        |row: &&Value, check: &str, status: &str| row["check"] == check && row["status"] == status;
    assert!(
        rows.iter().any(|row| is(&row, "topology", "drift")),
        "{rows:?}"
    );
    assert!(rows.iter().any(|row| is(&row, "broker", "ok")), "{rows:?}");
    site.apply_topology();
    let output = site.roadcall().args(check).arg(dir.path()).output();
    assert_eq!(output.expect("runs").status.code(), Some(0));
}

/// An executable that says that it is a nats-server of 2.9.
fn old_server(dir: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("nats-server");
    std::fs::write(&path, "#!/bin/sh\necho 'nats-server: v2.9.16'\n").expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
    path
}

/// A listener that greets like a nats-server of 2.9 and answers pings.
fn old_broker() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let greeting = json!({
        "server_id": "OLD", "server_name": "old", "version": "2.9.16", "go": "go1.20", "host": "127.0.0.1",
        "port": address.port(), "headers": true, "max_payload": 1_048_576, "proto": 1, "jetstream": true,
    });
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut writer = stream.try_clone().expect("a second handle");
            let _ = write!(writer, "INFO {greeting}\r\n");
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if line.starts_with("PING") {
                    let _ = write!(writer, "PONG\r\n");
                }
            }
        }
    });
    format!("nats://{address}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_too_old_is_refused_by_its_version() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().join("state");
    let mut command = roadcall();
    command
        .env("ROADCALL__BROKER__BINARY", old_server(dir.path()))
        .args(["--role", "all", "--state-dir"])
        .arg(&state);
    fails(command, 1, &["RC0212", "2.9.16", "2.10.25 or newer"]).await;
    assert!(
        !state.exists(),
        "nothing is made before the version is known"
    );

    let mut command = roadcall();
    command
        .args(["--role", "match", "--nats", &old_broker(), "--state-dir"])
        .arg(&state);
    fails(command, 1, &["RC0204", "2.9.16", "2.10.25 or newer"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_directory_that_cannot_be_made_is_named() {
    // Below a file, because permissions do not stop root.
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("written");
    let state = file.join("state");
    let site = Processes::new();
    site.apply_topology();
    let path = state.display().to_string();
    fails(role(&site, "audit", &state), 1, &["RC0302", &path]).await;

    let mut command = roadcall();
    command
        .env("ROADCALL__BROKER__BINARY", nats_server())
        .env("ROADCALL__BROKER__LISTEN", "127.0.0.1:0")
        .args(["--role", "all", "--state-dir"])
        .arg(&state);
    fails(command, 1, &["RC0213", &path]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_a_newer_version_is_left_alone() {
    let site = Processes::new();
    site.apply_topology();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("audit.db");
    let started = Role::start(role(&site, "audit", dir.path()), dir.path());
    started.ready().await;
    drop(started);
    let connection = rusqlite::Connection::open(&path).expect("opened");
    let version = || {
        let found = connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
        found.expect("read")
    };
    let known = version();
    let set = |version: i64| {
        let set = connection.pragma_update(None, "user_version", version);
        set.expect("set");
    };
    set(99_000);
    let says = ["RC0315", "newer", "audit.db"];
    fails(role(&site, "audit", dir.path()), 1, &says).await;
    assert_eq!(version(), 99_000);
    set(known);
    let started = Role::start(role(&site, "audit", dir.path()), dir.path());
    started.ready().await;
}

/// A directory with little room. A small tmpfs where this process may mount one; else the processes are limited in the
/// size of their files, which SQLite reports as a failed write instead of a full disk.
pub struct Tight {
    pub dir: tempfile::TempDir,
    mounted: bool,
}

const ROOM: &str = "3m";
/// In the shell's blocks of 512 bytes.
const BLOCKS: &str = "2048";

impl Tight {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mounted = mount(&format!("size={ROOM}"), dir.path());
        Self { dir, mounted }
    }

    fn role(&self, site: &Processes, name: &str) -> Command {
        self.limited(&role(site, name, self.dir.path()))
    }

    /// The same command where it has no more room than there is.
    pub fn limited(&self, role: &Command) -> Command {
        let mut command = Command::new("sh");
        let limit = if self.mounted {
            "exec \"$@\"".to_owned()
        } else {
            // Without the trap the kernel would kill the process instead of failing its write.
            format!("trap '' XFSZ; ulimit -f {BLOCKS}; exec \"$@\"")
        };
        command
            .args(["-c", &limit, "sh"])
            .arg(role.get_program())
            .args(role.get_args())
            .env_clear();
        command
    }

    fn code(&self) -> &'static str {
        if self.mounted { "RC0310" } else { "RC0311" }
    }

    pub fn loosen(&self) {
        assert!(!self.mounted || mount("remount,size=64m", self.dir.path()));
    }
}

impl Drop for Tight {
    fn drop(&mut self) {
        if self.mounted {
            // What is still mounted goes with the machine's /tmp.
            let _ = Command::new("umount").arg(self.dir.path()).status();
        }
    }
}

fn mount(options: &str, dir: &Path) -> bool {
    let mut command = Command::new("mount");
    command
        .args(["-t", "tmpfs", "-o", options, "tmpfs"])
        .arg(dir);
    command.stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn driver(n: u64) -> Id {
    ids::derive_v7(1, &[b"driver", &n.to_be_bytes()])
}

/// Reports a breakdown: the incident, or nothing when there was no good answer.
async fn report(bus: &JetStream, n: u64) -> Option<String> {
    let mut headers = Headers::default();
    headers.push("Roadcall-Actor", format!("driver:{}", driver(n)));
    let body = json!({
        "type": "tire", "lat": 40.7, "lon": -74.0, "clientRequestId": format!("r{n}"),
        "phone": "+15550001111",
    });
    let body = body.to_string().into_bytes();
    let wait = Duration::from_secs(5);
    let reply = bus
        .call("hub", "incident.create", &headers, body, wait)
        .await;
    let value: Value = serde_json::from_slice(&reply.ok()?.body).ok()?;
    value["ok"]["incidentId"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_a_role_and_with_room_again_nothing_is_lost() {
    let site = Processes::new();
    site.apply_topology();
    let bus = site.connect().await;
    let tight = Tight::new();
    let logs = tempfile::tempdir().expect("a directory");
    let started = Role::start(tight.role(&site, "incident"), logs.path());
    started.ready().await;
    let mut accepted: Vec<String> = Vec::new();
    let mut n = 0;
    while let Some(incident) = report(&bus, n).await {
        accepted.push(incident);
        n += 1;
        assert!(n < 20_000, "the disk does not fill");
    }
    let (code, line) = started.end().await;
    assert_eq!(code, Some(1), "{line}");
    assert!(
        line.contains(tight.code()) && line.contains("incident.db"),
        "{line}"
    );
    assert!(
        accepted.len() > 3,
        "some were accepted before: {}",
        accepted.len()
    );

    tight.loosen();
    let started = Role::start(role(&site, "incident", tight.dir.path()), logs.path());
    started.ready().await;
    // The same request again: it was not accepted, and is now.
    accepted.push(report(&bus, n).await.expect("there is room"));
    for (n, incident) in accepted.iter().enumerate() {
        let again = report(&bus, n as u64).await.expect("kept");
        assert_eq!(again, *incident, "the first answer of request {n} is kept");
    }
    let wanted = accepted.len();
    eventually("every event is in the archive once", || async {
        let subject = "roadcall.hub.incident.IncidentCreated.*";
        let mut found: Vec<String> = Vec::new();
        let mut from = 1;
        loop {
            let page = bus.read(EVENTS, subject, from, 1000, true).await.ok()?;
            let Some(last) = page.last() else { break };
            from = last.seq + 1;
            found.extend(page.iter().map(|stored| stored.subject.clone()));
        }
        assert!(found.len() <= wanted, "{} of {wanted}", found.len());
        let has = |incident: &String| found.iter().any(|subject| subject.ends_with(incident));
        (found.len() == wanted && accepted.iter().all(has)).then_some(())
    })
    .await;
}

/// The rounds after which matching gave an incident up.
async fn rounds(bus: &JetStream, incident: &str) -> u64 {
    let subject = format!("roadcall.hub.match.MatchExhausted.{incident}");
    let stored = eventually("matching gives up", || async {
        let mut found = bus.read(EVENTS, &subject, 1, 1, false).await.ok()?;
        found.pop()
    })
    .await;
    let event: Value = serde_json::from_slice(&stored.body).expect("JSON");
    event["detail"]["rounds"].as_u64().expect("a number")
}

fn hang_up(role: &Role) {
    let pid = i32::try_from(role.child.id()).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("not 0");
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("signalled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_takes_over_what_can_change_live_and_refuses_the_rest_by_name() {
    let site = Processes::new();
    site.apply_topology();
    let bus = site.connect().await;
    let dir = tempfile::tempdir().expect("a directory");
    let (config, rules) = (
        dir.path().join("roadcall.toml"),
        dir.path().join("rules.toml"),
    );
    let shipped = include_str!("../../config/rules.toml");
    std::fs::write(&rules, shipped).expect("written");
    let write = |more: &str| {
        let text = format!("[rules]\nfile = '{}'\n{more}", rules.display());
        std::fs::write(&config, text).expect("written");
    };
    write("");
    let mut command = role(&site, "incident,match", dir.path());
    command.arg("--config").arg(&config);
    let running = Role::start(command, dir.path());
    running.ready().await;
    let before = report(&bus, 1).await.expect("accepted");
    assert_eq!(rounds(&bus, &before).await, 3);

    write("[matching]\nrounds = 2\n[engine]\nmax_deliver = 7\n");
    let narrower = shipped.replace(
        "[\"OfferAccepted\", \"MatchExhausted\"]",
        "[\"OfferAccepted\"]",
    );
    assert_ne!(narrower, shipped);
    std::fs::write(&rules, &narrower).expect("written");
    hang_up(&running);
    eventually("a reload", || async {
        running.says("configuration reloaded")
    })
    .await;
    let words = running.words();
    for wanted in [
        "matching.rounds changed",
        "engine.max_deliver changed, but needs a restart",
        "rule roadcall-incident-assignment changes subject filters",
    ] {
        assert!(words.contains(wanted), "{wanted}: {words}");
    }
    let after = report(&bus, 2).await.expect("accepted");
    assert_eq!(rounds(&bus, &after).await, 2);

    write("[matching]\nrounds = 99\n");
    hang_up(&running);
    eventually("a refusal", || async { running.says("not reloaded") }).await;
    let third = report(&bus, 3).await.expect("still accepted");
    assert_eq!(rounds(&bus, &third).await, 2);

    // Once the server has the narrower filters, the waiting rule is taken over without another signal.
    write("[matching]\nrounds = 2\n");
    let mut command = site.roadcall();
    command
        .args(["topology", "apply", "--yes", "--config"])
        .arg(&config);
    assert!(command.output().expect("runs").status.success());
    eventually("the waiting rule", || async {
        running.says("the topology fits the new rules")
    })
    .await;
}

#[test]
fn every_error_code_has_a_page() {
    let output = roadcall().args(["explain", "--json"]).output();
    let rows: Value = serde_json::from_slice(&output.expect("runs").stdout).expect("JSON");
    for row in rows.as_array().expect("a list") {
        let code = row["code"].as_str().expect("a code");
        let output = roadcall().args(["explain", code]).output().expect("runs");
        let page = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            page.starts_with(code) && page.contains("What to do"),
            "{page}"
        );
    }
    let output = roadcall().args(["explain", "RC0"]).output();
    assert_eq!(output.expect("runs").status.code(), Some(64));
}
