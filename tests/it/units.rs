//! The units and what stands behind them: sound and closed by systemd's own judgement; ready only when the work can begin;
//! beats of the watchdog that follow work done; exits that a service manager can heed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::net::UnixDatagram;

use crate::support::processes::Processes;
use crate::support::{connect, eventually, free_port, nats_server, site};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, EVENTS};
use roadcall::config::Config;
use roadcall::node::run::Node;
use roadcall::role::permission::{Permission, Scope};
use roadcall::role::{self, CommandSpec, HandlerError, Input, NoBody, Role, RoleName};
use roadcall::store::Tx;

const UNITS: [&str; 4] = [
    "roadcall@all.service",
    "roadcall@incident.service",
    "roadcall-broker.service",
    "roadcall.target",
];
/// No unit may be more open than this, in tenths.
const EXPOSURE_MAX: &str = "20";
/// How long the service manager of these tests waits for a beat.
const WATCHDOG_USEC: &str = "300000";
/// No beat for so long is silence: a multiple of that.
const SILENCE: Duration = Duration::from_secs(2);

fn units_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

/// systemd-analyze on copies of the units that start the binary of this build; `None` where there is no systemd.
fn analyze(arguments: &[&str]) -> Option<(bool, String)> {
    let dir = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(units_dir()).expect("listed") {
        let path = entry.expect("an entry").path();
        if !path.is_file() {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("UTF-8");
        let text = text.replace("/usr/bin/roadcall", env!("CARGO_BIN_EXE_roadcall"));
        std::fs::write(dir.path().join(path.file_name().expect("named")), text).expect("written");
    }
    let output = Command::new("systemd-analyze")
        .args(arguments)
        .current_dir(dir.path())
        .output()
        .ok()?;
    let words = [output.stdout, output.stderr].concat();
    Some((
        output.status.success(),
        String::from_utf8_lossy(&words).into_owned(),
    ))
}

#[test]
fn the_units_are_sound_and_closed() {
    let mut verify = vec!["verify", "--man=no"];
    let paths = UNITS.map(|unit| format!("./{unit}"));
    verify.extend(paths.iter().map(String::as_str));
    let Some((sound, words)) = analyze(&verify) else {
        eprintln!("left out: there is no systemd-analyze on this machine");
        return;
    };
    assert!(sound && words.trim().is_empty(), "{words}");
    for path in paths.iter().filter(|path| path.ends_with(".service")) {
        let threshold = format!("--threshold={EXPOSURE_MAX}");
        let (closed, words) =
            analyze(&["security", "--offline=yes", &threshold, path]).expect("it is there");
        assert!(closed, "{words}");
        eprintln!("{}", words.lines().last().unwrap_or_default());
    }
}

#[test]
fn a_wrong_configuration_never_makes_a_unit_loop() {
    for file in ["roadcall@.service", "roadcall-broker.service"] {
        let text = std::fs::read_to_string(units_dir().join(file)).expect("read");
        for line in [
            "RestartPreventExitStatus=64",
            "Restart=always",
            "Type=notify",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{file} lacks {line}"
            );
        }
        // Its exit code is not heeded by RestartPreventExitStatus: it must not be what fails the start.
        let before = text.lines().filter(|line| line.starts_with("ExecStartPre"));
        assert!(
            before
                .into_iter()
                .all(|line| line.starts_with("ExecStartPre=-/usr/bin/roadcall check")),
            "{file}"
        );
    }
}

/// What a service manager hears from the processes that it starts.
struct Manager {
    dir: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = UnixDatagram::bind(dir.path().join("notify")).expect("bound");
        Self { dir, socket }
    }

    /// Starts a command as its service; stderr goes to a file.
    fn start(&self, mut command: Command) -> Service {
        let log = self.dir.path().join("log");
        let file = std::fs::File::create(&log).expect("a log");
        let child = command
            .env("NOTIFY_SOCKET", self.dir.path().join("notify"))
            .env("WATCHDOG_USEC", WATCHDOG_USEC)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("started");
        Service { child, log }
    }

    async fn next(&self, patience: Duration) -> Option<String> {
        let mut buffer = [0; 4096];
        let received = tokio::time::timeout(patience, self.socket.recv(&mut buffer)).await;
        let count = received.ok()?.expect("received");
        Some(String::from_utf8_lossy(&buffer[..count]).into_owned())
    }

    /// Waits for a message with this line; gives those before it.
    async fn hears(&self, line: &str) -> Vec<String> {
        let mut before = Vec::new();
        loop {
            let Some(message) = self.next(Duration::from_secs(30)).await else {
                panic!("{line} was not said, but {before:?}");
            };
            if message.lines().any(|said| said == line) {
                return before;
            }
            before.push(message);
        }
    }

    /// Waits until there are no more beats.
    async fn silence(&self) {
        // What was on its way when the work stopped, and no more: 10 beats fit into a second.
        for _ in 0..20 {
            if self.next(SILENCE).await.is_none() {
                return;
            }
        }
        panic!("it goes on beating");
    }

    /// Everything that was said so far.
    async fn said(&self) -> String {
        let mut said = String::new();
        while let Some(message) = self.next(Duration::from_millis(1)).await {
            said.push_str(&message);
        }
        said
    }
}

/// A started process; killed on drop.
struct Service {
    child: Child,
    log: PathBuf,
}

impl Service {
    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        kill_process(Pid::from_raw(pid).expect("not zero"), signal).expect("sent");
    }

    async fn end(&mut self) -> Option<i32> {
        let child = std::cell::RefCell::new(&mut self.child);
        let status = eventually("the process ends", || async {
            child.borrow_mut().try_wait().expect("asked")
        });
        status.await.code()
    }

    fn words(&self) -> String {
        std::fs::read_to_string(&self.log).expect("a log")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The role of a site of processes, as a command.
fn role(site: &Processes, role: &str) -> Command {
    let mut command = site.roadcall();
    command.arg("--state-dir").arg(site.dir.path().join(role));
    command.args(["--role", role]);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_is_ready_when_it_answers_and_beats_while_it_commits() {
    let manager = Manager::new();
    let nobody = free_port();
    let mut command = Command::new(env!("CARGO_BIN_EXE_roadcall"));
    command
        .env_clear()
        .env("ROADCALL__BUS__CONNECT_TIMEOUT", "200ms")
        .args(["--nats", &format!("nats://127.0.0.1:{nobody}")])
        .arg("--state-dir")
        .arg(manager.dir.path().join("state"))
        .args(["--role", "incident"]);
    let mut service = manager.start(command);
    assert_eq!(service.end().await, Some(1), "{}", service.words());
    let said = manager.said().await;
    assert!(!said.contains("READY=1"), "without a broker: {said}");
    assert!(said.contains("STATUS=RC0201: "), "{said}");

    let site = Processes::new();
    site.connect().await;
    let mut service = manager.start(role(&site, "incident"));
    assert_eq!(service.end().await, Some(1), "{}", service.words());
    let said = manager.said().await;
    assert!(!said.contains("READY=1"), "without a topology: {said}");

    site.apply_topology();
    let mut service = manager.start(role(&site, "incident"));
    let before = manager.hears("READY=1").await;
    assert!(
        !before.iter().any(|said| said.contains("WATCHDOG=1")),
        "{before:?}"
    );
    // No patience with it: who is ready answers at once.
    let (code, _, words) = site.run(&["incident", "list"]);
    assert_eq!(code, Some(0), "{words}");
    manager.hears("WATCHDOG=1").await;
    manager.hears("WATCHDOG=1").await;

    // A broker of somebody else's that is lost is waited for, which is no reason to be killed.
    let lost = Stopped::new(i32::try_from(site.broker_id()).expect("a process id"));
    manager.said().await;
    for _ in 0..10 {
        manager.hears("WATCHDOG=1").await;
    }
    drop(lost);

    // The wedge: a transaction of somebody else keeps the writer in its step.
    let database = site.dir.path().join("incident/incident.db");
    let other = rusqlite::Connection::open(database).expect("opened");
    other
        .busy_timeout(Duration::from_secs(10))
        .expect("patient");
    other.execute_batch("BEGIN IMMEDIATE").expect("taken");
    manager.silence().await;
    other.execute_batch("ROLLBACK").expect("given back");
    manager.hears("WATCHDOG=1").await;

    service.signal(Signal::TERM);
    manager.hears("STOPPING=1").await;
    assert_eq!(service.end().await, Some(0), "{}", service.words());
}

/// A server that stands still; it goes on when this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: i32) -> Self {
        let pid = Pid::from_raw(pid).expect("not zero");
        kill_process(pid, Signal::STOP).expect("stopped");
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have ended meanwhile.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_is_ready_with_its_queues_and_beats_while_jetstream_answers() {
    let manager = Manager::new();
    let (state, port) = (manager.dir.path().join("state"), free_port());
    let mut command = Command::new(env!("CARGO_BIN_EXE_roadcall"));
    command
        .env_clear()
        .env("ROADCALL__BROKER__BINARY", nats_server())
        .env("ROADCALL__BROKER__LISTEN", format!("127.0.0.1:{port}"))
        .env("ROADCALL__BUS__REQUEST_TIMEOUT", "300ms")
        .arg("--state-dir")
        .arg(&state)
        .args(["--role", "broker"]);
    let mut service = manager.start(command);
    manager.hears("READY=1").await;
    let bus = dial(port).await;
    assert_eq!(bus.stream(EVENTS).await.expect("made").messages, 0);
    bus.queue("match-queue").await.expect("made");
    manager.hears("WATCHDOG=1").await;
    let pid = std::fs::read_to_string(state.join("nats/nats-server.pid"));
    let pid = pid.expect("written by the server");
    let stopped = Stopped::new(pid.trim().parse().expect("a number"));
    manager.silence().await;
    drop(stopped);
    manager.hears("WATCHDOG=1").await;
    service.signal(Signal::TERM);
    manager.hears("STOPPING=1").await;
    assert_eq!(service.end().await, Some(0), "{}", service.words());
}

async fn dial(port: u16) -> JetStream {
    let config = roadcall::bus::jetstream::Config {
        url: format!("nats://127.0.0.1:{port}"),
        credentials: None,
        identity: None,
        ca_file: None,
        name: "test".to_owned(),
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(5),
        publish: roadcall::bus::jetstream::Form::default(),
    };
    JetStream::connect(config).await.expect("connected")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_configuration_ends_with_64_and_is_never_ready() {
    let manager = Manager::new();
    let config = manager.dir.path().join("roadcall.toml");
    let rules = manager.dir.path().join("rules.toml");
    std::fs::write(&rules, "this is no rules file").expect("written");
    let broken = format!("[rules]\nfile = '{}'", rules.display());
    let site = Processes::new();
    site.apply_topology();
    for text in ["[engine]\nbatch = 1", "[site]\nid = 'not a site'", &broken] {
        std::fs::write(&config, text).expect("written");
        for name in ["incident", "gateway"] {
            let mut command = role(&site, name);
            command.arg("--config").arg(&config);
            let mut service = manager.start(command);
            assert_eq!(service.end().await, Some(64), "{text}: {}", service.words());
            let said = manager.said().await;
            assert!(!said.contains("READY=1"), "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_for_the_journal_have_a_level_and_no_time_or_colour() {
    let site = Processes::new();
    site.apply_topology();
    let log = site.dir.path().join("journal");
    let file = std::fs::File::create(&log).expect("made");
    let stat = file.metadata().expect("asked");
    let start = |device: u64, file: std::fs::File| {
        let mut command = role(&site, "incident");
        command
            .env("JOURNAL_STREAM", format!("{device}:{}", stat.ino()))
            .stdout(Stdio::null())
            .stderr(file);
        let child = command.spawn().expect("started");
        Service {
            child,
            log: log.clone(),
        }
    };
    let service = start(stat.dev(), file.try_clone().expect("cloned"));
    let ready = eventually("a line that says ready", || async {
        let words = service.words();
        words
            .lines()
            .find(|line| line.contains(" ready "))
            .map(str::to_owned)
    });
    let ready = ready.await;
    assert!(ready.starts_with("<6>roadcall::"), "{ready}");
    let words = service.words();
    assert!(
        words.lines().all(|line| line.starts_with('<')) && !words.contains('\u{1b}'),
        "{words}"
    );
    drop(service);
    // The variable may be inherited by somebody whose stderr is not the journal.
    file.set_len(0).expect("emptied");
    let service = start(stat.dev() + 1, file);
    eventually("JSON", || async {
        service
            .words()
            .contains("\"message\":\"ready\"")
            .then_some(())
    })
    .await;
}

/// Blocks its thread in a command until it is let go.
struct Wedged(Arc<Door>);

#[derive(Default)]
struct Door {
    entered: AtomicBool,
    open: Mutex<bool>,
    opened: Condvar,
}

impl Door {
    fn wait(&self) {
        self.entered.store(true, Ordering::SeqCst);
        let open = self.open.lock().expect("nobody panics with it");
        let waited = self.opened.wait_while(open, |open| !*open);
        drop(waited.expect("nobody panics with it"));
    }

    fn let_go(&self) {
        *self.open.lock().expect("nobody panics with it") = true;
        self.opened.notify_all();
    }
}

impl Role for Wedged {
    fn name(&self) -> RoleName {
        RoleName::Vendor
    }

    fn migrations(&self) -> &'static [&'static str] {
        &["CREATE TABLE empty (n INTEGER NOT NULL)"]
    }

    fn commands(&self) -> &'static [CommandSpec] {
        const COMMANDS: &[CommandSpec] = &[CommandSpec::new::<NoBody>(
            "test.wedge",
            Permission::AdminOps,
            false,
        )];
        COMMANDS
    }

    fn scope(&self, _: &Tx<'_>, _: &role::Command) -> Result<Scope, HandlerError> {
        Ok(Scope::Open)
    }

    fn handle(&mut self, _: &mut Tx<'_>, input: &Input) -> Result<(), HandlerError> {
        if matches!(input, Input::Command(_)) {
            self.0.wait();
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_is_stuck_in_a_step_has_no_pulse() {
    let site = site().await;
    let mut config = Config::default();
    config.site.state_dir = site.dir.path().join("state");
    config.bus.url.clone_from(&site.broker.url);
    let door = Arc::new(Door::default());
    let made = Arc::clone(&door);
    let build = move |_: &Config, _: RoleName| -> Option<Box<dyn Role>> {
        Some(Box::new(Wedged(Arc::clone(&made))))
    };
    let bus = connect(&site).await;
    let node = Node::start_with(bus.clone(), &config, &[RoleName::Vendor], true, &build).await;
    let node = node.expect("started");
    let pulse = node.pulse();
    assert!(pulse.felt().await, "an idle role gets on");
    let asked = tokio::spawn({
        let bus = bus.clone();
        async move {
            let body = json!({}).to_string().into_bytes();
            let mut headers = roadcall::bus::Headers::default();
            headers.push("Roadcall-Actor", "operator:test");
            let patience = Duration::from_secs(30);
            bus.call("hub", "test.wedge", &headers, body, patience)
                .await
        }
    });
    eventually("the step that does not end", || async {
        door.entered.load(Ordering::SeqCst).then_some(())
    })
    .await;
    let felt = tokio::time::timeout(SILENCE, pulse.felt()).await;
    assert!(felt.is_err(), "{felt:?}");
    door.let_go();
    assert!(pulse.felt().await, "it gets on again");
    asked.await.expect("no panic").expect("an answer");
    let stopped = node.shutdown(Duration::from_secs(10)).await;
    stopped.expect("stopped");
    assert!(!pulse.felt().await, "an ended role is not alive");
    site.broker.shutdown().await;
}

#[test]
fn completions_and_manual_pages_name_the_commands() {
    let run = |arguments: &[&str]| -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_roadcall"));
        let output = command.env_clear().args(arguments).output().expect("runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]);
        assert!(
            script.contains("incident") && script.contains("redrive"),
            "{shell}"
        );
    }
    let page = run(&["man"]);
    assert!(
        page.contains(".TH roadcall 1") && page.contains("roadcall\\-incident"),
        "{page}"
    );
    let dir = tempfile::tempdir().expect("a directory");
    run(&["man", "--dir", dir.path().to_str().expect("UTF-8")]);
    let of_command = dir.path().join("roadcall-dlq-redrive.1");
    let text = std::fs::read_to_string(of_command).expect("a page");
    assert!(text.contains("redrive"), "{text}");
}
