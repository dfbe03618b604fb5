//! What is at rest: the broker's store encrypted under a key that a start must have, another key by command, killed at any
//! moment; and who may read what a site leaves on the disk. The real binary with its own nats-server.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::processes::{copy_dir, end_brokers_below};
use crate::support::{eventually, free_port, nats_server, sized};
use roadcall::bus::jetstream::{Config, Form, JetStream};

const KEY: &str = "first-key-of-this-site-0123456789";
const OTHER: &str = "another-key-of-a-site-0123456789+";
/// The drivers whose names are looked for in files.
const DRIVER: &str = "0190b2c4-5a5a-7000-8000-";
const INCIDENTS: usize = 4;

/// A site in a directory: one process with all roles and the broker.
struct Box {
    dir: tempfile::TempDir,
    port: u16,
    running: Option<Child>,
    /// Further sections.
    sections: &'static str,
}

impl Box {
    fn new(profile: &str) -> Self {
        let site = Self {
            dir: tempfile::tempdir().expect("a directory"),
            port: free_port(),
            running: None,
            sections: "",
        };
        site.configure(profile, "");
        site
    }

    /// Writes the configuration; `more` are further lines of `[broker]`.
    fn configure(&self, profile: &str, more: &str) {
        let port = self.port;
        let text = format!(
            "[site]\nprofile = '{profile}'\nstate_dir = '{}'\n[bus]\nurl = 'nats://127.0.0.1:{port}'\n\
             [broker]\nbinary = '{}'\nlisten = '127.0.0.1:{port}'\n{more}\n[snapshot]\nscheduled = false\n{}\n",
            self.path("state").display(),
            nats_server().display(),
            self.sections
        );
        std::fs::write(self.path("roadcall.toml"), text).expect("written");
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn store(&self) -> PathBuf {
        self.path("state/nats")
    }

    /// A file with a key, mode 0600.
    fn key(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, format!("{text}\n")).expect("written");
        set_mode(&path, 0o600);
        path.display().to_string()
    }

    fn roadcall(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_roadcall"));
        command
            .env_clear()
            .arg("--config")
            .arg(self.path("roadcall.toml"))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.roadcall(arguments).output().expect("runs")
    }

    fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {words}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    async fn start(&mut self) {
        let log = std::fs::File::create(self.path("log")).expect("a log");
        let mut command = self.roadcall(&["--role", "all"]);
        let child = command.stdout(Stdio::null()).stderr(log).spawn();
        self.running = Some(child.expect("started"));
        eventually("the site is ready", || async {
            let log = self.log();
            assert!(!log.contains("error["), "{log}");
            log.contains(r#""message":"ready""#).then_some(())
        })
        .await;
    }

    async fn stop(&mut self) {
        let mut child = self.running.take().expect("runs");
        let pid = i32::try_from(child.id()).expect("a process id");
        let pid = rustix::process::Pid::from_raw(pid).expect("not zero");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("sent");
        let ended = tokio::task::spawn_blocking(move || child.wait()).await;
        assert!(ended.expect("no panic").expect("ended").success());
    }

    /// Breakdowns, and the archive that they come to when nothing moves any more.
    async fn live(&mut self) -> String {
        self.start().await;
        for n in 0..INCIDENTS {
            let driver = format!("{DRIVER}{n:012}");
            self.good(&[
                "incident",
                "create",
                "--driver",
                &driver,
                "--type",
                "tire",
                "--lat",
                "40.7",
                "--lon",
                "-74",
                "--phone",
                "+12125550147",
            ]);
        }
        let mut seen: Vec<String> = Vec::new();
        let looks = std::cell::RefCell::new(&mut seen);
        eventually("nothing moves any more", || async {
            let now = self.holds();
            let mut looks = looks.borrow_mut();
            looks.push(now);
            let last = looks.iter().rev().take(3).collect::<Vec<_>>();
            (last.len() == 3 && last.iter().all(|look| *look == last[0])).then_some(())
        })
        .await;
        let before = seen.pop().expect("looked");
        self.stop().await;
        before
    }

    /// Every event of the archive.
    fn holds(&self) -> String {
        let info: Value =
            serde_json::from_str(&self.good(&["archive", "info", "--json"])).expect("JSON");
        let count = info["messages"].as_u64().expect("a number").to_string();
        self.good(&["event", "tail", "--from-seq", "1", "--count", &count])
    }

    /// When each queue's consumer was made: one that was lost is made anew by a start.
    async fn consumers(&self) -> BTreeMap<String, String> {
        let bus = JetStream::connect(Config {
            url: format!("nats://127.0.0.1:{}", self.port),
            credentials: None,
            identity: None,
            ca_file: None,
            name: "test".to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(5),
            publish: Form::default(),
        })
        .await
        .expect("connected");
        let answer = bus.api("CONSUMER.LIST.EVENTS", &Value::Null).await;
        let answer = answer.expect("listed");
        let consumers = answer["consumers"].as_array().expect("a list");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let made = |one: &Value| (text(&one["name"]), text(&one["created"]));
        consumers.iter().map(made).collect()
    }

    /// Starts, and finds every one of these events.
    async fn is_back(&mut self, events: &str) {
        self.start().await;
        // Starts do not archive anything; who counts on that compares the beginning.
        assert!(self.holds().starts_with(events), "events are missing");
        let log = self.log();
        assert!(!log.contains("Error"), "{log}");
        self.stop().await;
    }

    /// A start that is refused with this code and these words, and leaves the store as it is.
    fn refused(&self, exit: i32, words: &[&str]) {
        let before = tree(&self.store().join("jetstream"));
        assert!(!before.is_empty());
        for arguments in [["--role", "all"], ["--role", "broker"]] {
            let output = self.run(&arguments);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(exit), "{said}");
            let errors = said
                .lines()
                .filter(|line| line.starts_with("error["))
                .count();
            assert_eq!(errors, 1, "{said}");
            for word in words {
                assert!(said.contains(word), "{word} in {said}");
            }
            assert!(![KEY, OTHER].iter().any(|key| said.contains(key)), "{said}");
        }
        assert_eq!(tree(&self.store().join("jetstream")), before);
    }

    /// What `check` says of the encryption.
    fn told(&self) -> (String, String) {
        let output = self.run(&["check", "--role", "all", "--json"]);
        let found: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
        let line = found.iter().find(|line| line["check"] == "encryption");
        let text = |name: &str| {
            line.expect("a line")[name]
                .as_str()
                .expect("a text")
                .to_owned()
        };
        (text("status"), text("detail"))
    }

    /// The files of the store with `needle` in them.
    fn in_clear(&self, needle: &str) -> Vec<PathBuf> {
        let files = files_below(&self.store());
        let has = |path: &PathBuf| {
            let bytes = std::fs::read(path).expect("read");
            bytes
                .windows(needle.len())
                .any(|part| part == needle.as_bytes())
        };
        files.into_iter().filter(has).collect()
    }
}

impl Drop for Box {
    fn drop(&mut self) {
        if let Some(child) = &mut self.running {
            // Ended already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
        end_brokers_below(self.dir.path());
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
}

fn entries_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            entries_below(&path, found);
        }
        found.push(path);
    }
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    entries_below(dir, &mut found);
    found.retain(|path| path.is_file());
    found
}

/// Every file with what is in it and when it was written.
fn tree(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let read = |path: PathBuf| {
        let written = path.metadata().expect("there").modified().expect("a time");
        (path.clone(), (std::fs::read(path).expect("read"), written))
    };
    files_below(dir).into_iter().map(read).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encrypted_store_opens_with_its_key_alone_and_is_not_touched_without() {
    for cipher in ["chachapoly", "aes"] {
        let mut site = Box::new("dev");
        let named = |path: &str| format!("store_key_file = '{path}'\nstore_cipher = '{cipher}'");
        let own = site.key("own", KEY);
        site.configure("dev", &named(&own));
        let events = site.live().await;
        assert!(events.contains(DRIVER) && events.matches('\n').count() > INCIDENTS);
        for needle in [DRIVER, "roadcall.hub.", KEY] {
            assert_eq!(site.in_clear(needle), Vec::<PathBuf>::new(), "{needle}");
        }
        assert!(!site.log().contains(KEY));
        assert_eq!(site.told().0, "ok");

        site.configure("dev", &named(&site.key("other", OTHER)));
        site.refused(1, &["RC0217", "is not the one"]);
        assert_eq!(site.told().0, "failed");
        site.configure("dev", &format!("store_cipher = '{cipher}'"));
        site.refused(1, &["RC0217", "there is no key"]);
        site.configure("prod", &format!("store_cipher = '{cipher}'"));
        site.refused(1, &["RC0217", "there is no key"]);
        assert!(!site.path("state/store.key").exists());
        site.configure("dev", &named(&site.path("nowhere").display().to_string()));
        site.refused(64, &["RC0101", "is not there"]);
        site.configure("dev", &named(&site.key("short", "0123456789")));
        site.refused(64, &["RC0101", "10 characters"]);
        set_mode(Path::new(&own), 0o640);
        site.configure("dev", &named(&own));
        site.refused(64, &["RC0101", "0640"]);
        set_mode(Path::new(&own), 0o600);
        let wrong = if cipher == "aes" { "chachapoly" } else { "aes" };
        site.configure("dev", &named(&own).replace(cipher, wrong));
        site.refused(1, &["RC0217", wrong]);

        site.configure("dev", &named(&own));
        site.is_back(&events).await;

        // A rotation leaves the consumers with all that they know.
        site.start().await;
        let consumers = site.consumers().await;
        assert!(consumers.contains_key("match-queue"), "{consumers:?}");
        site.stop().await;
        let new = site.key("new", OTHER);
        let said = site.good(&["auth", "rotate-store-key", "--new-key-file", &new, "--yes"]);
        assert!(said.contains("data keys"), "{said}");
        assert_eq!(std::fs::read_to_string(&own).expect("read").trim(), OTHER);
        site.is_back(&events).await;
        site.start().await;
        assert_eq!(site.consumers().await, consumers);
        site.stop().await;
        site.configure("dev", &named(&format!("{own}.old")));
        site.refused(1, &["RC0217", "is not the one"]);
    }
}

/// The commands killed after a while, again and again on a copy of the same store: whatever is left opens by itself.
async fn killed_at_any_moment(site: &mut Box, events: &str) {
    let (state, kept) = (site.path("state"), site.path("kept"));
    copy_dir(&state, &kept);
    let whole = std::time::Instant::now();
    site.good(&["auth", "rotate-store-key", "--yes"]);
    let whole = whole.elapsed();
    let rounds = u32::try_from(sized(6, 60)).expect("few");
    let mut cut_off = 0;
    for round in 0..rounds {
        std::fs::remove_dir_all(&state).expect("removed");
        copy_dir(&kept, &state);
        let mut command = site.roadcall(&["auth", "rotate-store-key", "--yes"]);
        let mut child = command.stdout(Stdio::null()).spawn().expect("started");
        tokio::time::sleep(whole * round / rounds + Duration::from_millis(3)).await;
        child.kill().expect("killed");
        child.wait().expect("ended");
        cut_off += u32::from(site.path("state/store.key.new").exists());
        assert_ne!(site.told().0, "failed", "round {round}");
        site.is_back(events).await;
        // The next one goes through, or finishes that one.
        site.good(&["auth", "rotate-store-key", "--yes"]);
        assert!(!site.path("state/store.key.new").exists());
        assert_eq!(site.told().0, "ok", "round {round}");
    }
    site.is_back(events).await;
    assert!(cut_off > 0, "no kill came in between");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_killed_at_any_moment_leaves_a_store_that_opens() {
    let mut site = Box::new("prod");
    let events = site.live().await;
    killed_at_any_moment(&mut site, &events).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_store_is_encrypted_by_command_whole_or_not_at_all() {
    let mut site = Box::new("dev");
    // It goes to profile prod and back, and sealing is never switched off again.
    site.sections = "[privacy]\nseal = false";
    let events = site.live().await;
    assert!(
        !site.in_clear(DRIVER).is_empty(),
        "the search finds what is in the clear"
    );
    let (status, detail) = site.told();
    assert!(
        status == "note" && detail.starts_with("off"),
        "{status} {detail}"
    );
    // A site of an earlier version goes on, and says what it is.
    site.configure("prod", "");
    site.is_back(&events).await;
    assert!(site.log().contains("is not encrypted"));
    assert!(!site.path("state/store.key").exists());
    site.configure(
        "dev",
        &format!("store_key_file = '{}'", site.key("own", KEY)),
    );
    site.refused(1, &["RC0217", "is not encrypted"]);
    let output = site.run(&["auth", "rotate-store-key"]);
    assert_eq!(output.status.code(), Some(64));

    site.configure("dev", "");
    killed_at_any_moment(&mut site, &events).await;
    // What is written from now on is not in the clear either, also into streams that were empty.
    site.live().await;
    assert_eq!(site.in_clear(DRIVER), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn production_makes_its_key_and_leaves_nothing_that_others_may_read() {
    let mut site = Box::new("prod");
    assert!(site.told().1.contains("will be encrypted"));
    let loose = || {
        let mut found = vec![site.path("state")];
        entries_below(&site.path("state"), &mut found);
        let open = |path: &PathBuf| {
            let mode = path.symlink_metadata().expect("there").permissions().mode();
            mode & 0o077 != 0
        };
        found.into_iter().filter(open).collect::<Vec<_>>()
    };
    // A lax umask: the shell sets it and becomes the program.
    let mut command = Command::new("/bin/sh");
    let log = std::fs::File::create(site.path("log")).expect("a log");
    command
        .args([
            "-c",
            "umask 0000; exec \"$@\"",
            "sh",
            env!("CARGO_BIN_EXE_roadcall"),
        ])
        .arg("--config")
        .arg(site.path("roadcall.toml"))
        .args(["--role", "all,gateway"])
        .env_clear()
        .env("ROADCALL__GATEWAY__LISTEN", "127.0.0.1:0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    let child = command.spawn().expect("started");
    eventually("the site is ready", || async {
        site.log().contains(r#""message":"ready""#).then_some(())
    })
    .await;
    assert_eq!(loose(), Vec::<PathBuf>::new());
    let key = std::fs::read_to_string(site.path("state/store.key")).expect("made");
    let key = key.trim().to_owned();
    let pid = std::fs::read_to_string(site.store().join("nats-server.pid")).expect("a pid");
    let arguments = std::fs::read(format!("/proc/{}/cmdline", pid.trim())).expect("read");
    assert!(key.len() >= 32 && !String::from_utf8_lossy(&arguments).contains(&key));
    assert!(!site.log().contains(&key) && site.in_clear(&key).is_empty());
    site.running = Some(child);
    site.stop().await;

    // Loosened by a copy or an older version: closed again, and said once.
    for below in [
        "state",
        "state/vendor.db",
        "state/log",
        "state/nats/jetstream/RC",
    ] {
        set_mode(&site.path(below), 0o755);
    }
    for said in [1, 0] {
        site.start().await;
        assert_eq!(site.log().matches("others could read").count(), said);
        site.stop().await;
    }
    assert_eq!(site.told().0, "ok");
}
