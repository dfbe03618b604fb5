//! A fleet's configuration on its way to the sites: canaries, what is checked before anything is touched, what is kept, what
//! a kill leaves, and a site that runs and does not come up with what it got.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::processes::Processes;
use crate::support::{eventually, free_port, nats_server, sized};
use roadcall::config::fleet::versions::{current, kept};
use roadcall::config::{Config, Loaded, Sources};
use roadcall::node::processes::{Process, running};

/// A fleet directory and the directories of its sites.
struct Fleet {
    dir: TempDir,
}

impl Fleet {
    fn new() -> Self {
        Self {
            dir: TempDir::new().expect("a directory"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file of the fleet.
    fn says(&self, file: &str, text: &str) {
        write(&self.path("fleet").join(file), text);
    }

    /// A site that the fleet knows, with a directory of its own.
    fn site(&self, site: &str, main: &str) -> PathBuf {
        let state = self.path("state").join(site);
        let file = self.path("sites").join(site).join("roadcall.toml");
        write(&file, main);
        self.says(
            &format!("sites/{site}.toml"),
            &format!("[site]\nstate_dir = '{}'", state.display()),
        );
        file
    }

    /// `roadcall config …` with this fleet.
    fn command(&self, verb: &str, more: &[&str]) -> Command {
        let mut command = roadcall();
        command.args(["config", verb]).args(more);
        command.arg("--fleet").arg(self.path("fleet"));
        command
    }

    /// The same for sites elsewhere; its exit code, output and errors.
    fn of_sites(&self, verb: &str, more: &[&str]) -> (Option<i32>, String, String) {
        let mut command = self.command(verb, more);
        said(command.arg("--sites-root").arg(self.path("sites")))
    }

    /// What the sites have, by file.
    fn tree(&self, site: &str) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        walk(&self.path("sites").join(site), &mut found);
        found
    }
}

fn roadcall() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roadcall"));
    let broker = nats_server();
    command
        .env_clear()
        .env("PATH", broker.parent().expect("has a folder"))
        .stdin(Stdio::null());
    command
}

fn said(command: &mut Command) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("has a folder")).expect("made");
    std::fs::write(path, text).expect("written");
}

/// Every file below, links followed but for `current`, whose target counts.
fn walk(dir: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        if path.ends_with("fleet/current") {
            let target = std::fs::read_link(&path).expect("a link");
            found.insert(path, target.display().to_string());
        } else if path.is_dir() {
            walk(&path, found);
        } else {
            let text = std::fs::read_to_string(&path).expect("text");
            found.insert(path, text);
        }
    }
}

/// The configuration of a site as a process of a role reads it.
fn effective(main: &Path, role: &str) -> Config {
    let sources = Sources {
        files: vec![main.to_owned()],
        roles: vec![role.to_owned()],
        ..Sources::default()
    };
    Loaded::load(&sources).expect("valid").config
}

#[test]
fn a_bad_config_for_fifty_sites_stops_at_the_canary_and_rollback_restores() {
    let fleet = Fleet::new();
    let sites: Vec<String> = (1..=50).map(|n| format!("site-{n:02}")).collect();
    let good = |rounds: u32| format!("[broker]\nmode = 'embedded'\n[matching]\nrounds = {rounds}");
    fleet.says("base.toml", &good(4));
    fleet.says("fleet.toml", "canaries = ['site-17']\nhealth_within = '0s'");
    let mains: Vec<PathBuf> = sites.iter().map(|site| fleet.site(site, "")).collect();
    assert_eq!(fleet.of_sites("plan", &[]).0, Some(2));
    let (code, out, errors) = fleet.of_sites("apply", &["--yes"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(out.starts_with("site-17 has "), "{out}");
    assert_eq!(out.lines().count(), 50, "{out}");
    assert_eq!(fleet.of_sites("plan", &[]).0, Some(0));
    let rounds = |main: &PathBuf| effective(main, "match").matching.rounds;
    assert!(mains.iter().all(|main| rounds(main) == 4));

    // Nothing is wrong with it until somebody starts it: there is no such broker.
    let before: Vec<_> = sites.iter().map(|site| fleet.tree(site)).collect();
    let bad = good(5).replace("[matching]", "binary = '/nowhere/nats-server'\n[matching]");
    fleet.says("base.toml", &bad);
    let (code, out, errors) = fleet.of_sites("apply", &["--yes"]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{errors}");
    assert!(
        errors.contains("site-17 did not become healthy"),
        "{errors}"
    );
    assert!(errors.contains("/nowhere/nats-server"), "{errors}");
    assert!(
        errors.contains("49 sites behind it are untouched"),
        "{errors}"
    );
    for (site, before) in sites.iter().zip(&before) {
        assert_eq!(fleet.tree(site), *before, "{site}");
    }

    // The same mended goes everywhere, and can be taken back everywhere.
    fleet.says("base.toml", &good(5));
    let (code, _, errors) = fleet.of_sites("apply", &["--yes"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(mains.iter().all(|main| rounds(main) == 5));
    let (code, _, _) = fleet.of_sites("rollback", &["--yes"]);
    assert_eq!(code, Some(64), "nobody said which");
    let (code, _, errors) = fleet.of_sites("rollback", &["--yes", "--site", &sites.join(",")]);
    assert_eq!(code, Some(0), "{errors}");
    for (site, before) in sites.iter().zip(&before) {
        assert_eq!(fleet.tree(site), *before, "{site}");
    }
}

#[test]
fn what_is_wrong_before_the_start_touches_no_site() {
    let fleet = Fleet::new();
    fleet.says(
        "base.toml",
        "[matching]\nroundz = 4\n[engine]\nbatch_max = 0",
    );
    fleet.says("roles/matcher.toml", "");
    for site in ["depot-a", "depot-b"] {
        fleet.site(site, "");
    }
    let before = (fleet.tree("depot-a"), fleet.tree("depot-b"));
    let (code, _, _) = fleet.of_sites("apply", &[]);
    assert_eq!(code, Some(64), "without --yes");
    let (code, _, errors) = fleet.of_sites("apply", &["--yes"]);
    assert_eq!(code, Some(64), "{errors}");
    for words in [
        "fleet/base.toml: there is no such key",
        "engine.batch_max",
        "no role matcher",
    ] {
        assert_eq!(errors.matches(words).count(), 1, "{words}: {errors}");
    }
    assert_eq!((fleet.tree("depot-a"), fleet.tree("depot-b")), before);

    // One of two sites is enough to stop both: it has a file of its own where the fleet's has to be.
    fleet.says("base.toml", "");
    std::fs::remove_file(fleet.path("fleet/roles/matcher.toml")).expect("removed");
    write(&fleet.path("sites/depot-b/conf.d/50-fleet.toml"), "");
    let (code, _, errors) = fleet.of_sites("apply", &["--yes"]);
    assert_eq!(code, Some(64), "{errors}");
    assert!(errors.contains("depot-b/conf.d/50-fleet.toml"), "{errors}");
    assert_eq!(fleet.tree("depot-a"), before.0);
}

#[test]
fn a_plan_names_each_key_what_it_needs_and_no_secret() {
    let fleet = Fleet::new();
    fleet.says(
        "base.toml",
        "[matching]\nrounds = 4\n[engine]\nack_wait = '1m'",
    );
    fleet.says("roles/match.toml", "[engine]\nbatch_max = 32");
    let secret =
        "site.id = 'depot-a'\nhub.url = ['nats-leaf://127.0.0.1:7422']\nhub.password = 'before'";
    let main = fleet.site("depot-a", secret);
    let mut site = std::fs::read_to_string(fleet.path("fleet/sites/depot-a.toml")).expect("there");
    site.push_str("\n[hub]\npassword = 'hush'\n[bus]\nurl = 'nats://joe:hush@127.0.0.1:4222'");
    fleet.says("sites/depot-a.toml", &site);
    let here = |verb: &str, more: &[&str]| {
        let mut command = fleet.command(verb, more);
        said(
            command
                .arg("--config")
                .arg(&main)
                .args(["--site", "depot-a"]),
        )
    };
    let (code, out, errors) = here("plan", &[]);
    assert_eq!(code, Some(2), "{errors}");
    for line in [
        "  live    matching.rounds: 3 -> 4",
        "  restart engine.ack_wait: 5m -> 1m",
        "  restart engine.batch_max (match): 256 -> 32",
        "  restart hub.password: *** -> ***",
        "  restart bus.url: nats://127.0.0.1:4222 -> nats://***@127.0.0.1:4222",
    ] {
        assert!(out.lines().any(|said| said == line), "{line}: {out}");
    }
    assert!(!out.contains("hush"), "{out}");
    let (code, out, _) = here("plan", &["--json"]);
    let plan: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &plan[0]["site"]), (Some(2), &"depot-a".into()));
    assert!(!out.contains("hush"), "{out}");
    let (code, out, _) = here("render", &[]);
    assert_eq!(code, Some(0));
    assert!(
        out.contains("password = \"***\"") && !out.contains("hush"),
        "{out}"
    );

    // Nothing of it runs here: the files are all there is to do.
    let (code, out, errors) = here("apply", &["--yes"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(!format!("{out}{errors}").contains("hush"), "{out}{errors}");
    assert_eq!(here("plan", &[]).0, Some(0));
    assert_eq!(effective(&main, "match").hub.password, "hush");
    let (code, out, _) = here("apply", &["--yes"]);
    assert_eq!(code, Some(0));
    assert!(out.ends_with(" already\n"), "{out}");
}

#[test]
fn the_last_three_versions_are_kept_and_gone_back_to_one_by_one() {
    let fleet = Fleet::new();
    let main = fleet.site("depot-a", "");
    fleet.says("fleet.toml", "health = ['/bin/true']");
    for rounds in 1..=5 {
        fleet.says("base.toml", &format!("[matching]\nrounds = {rounds}"));
        let (code, _, errors) = fleet.of_sites("apply", &["--yes"]);
        assert_eq!(code, Some(0), "{errors}");
    }
    assert_eq!(kept(&fleet.path("sites/depot-a")).len(), 3);
    // What never became healthy costs none of those that are kept.
    fleet.says(
        "fleet.toml",
        "health = ['/bin/false']\nhealth_within = '0s'",
    );
    fleet.says("base.toml", "[matching]\nrounds = 6");
    assert_eq!(fleet.of_sites("apply", &["--yes"]).0, Some(1));
    fleet.says("fleet.toml", "health = ['/bin/true']");
    assert_eq!(kept(&fleet.path("sites/depot-a")).len(), 3);
    for rounds in [4, 3] {
        let (code, _, errors) = fleet.of_sites("rollback", &["--yes", "--site", "depot-a"]);
        assert_eq!(code, Some(0), "{errors}");
        assert_eq!(effective(&main, "match").matching.rounds, rounds);
    }
    let (code, _, errors) = fleet.of_sites("rollback", &["--yes", "--site", "depot-a"]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("no earlier version is kept"), "{errors}");
    assert_eq!(effective(&main, "match").matching.rounds, 3);
}

/// Which version is in force: each says the same number for everybody and for a role.
fn whole(main: &Path) -> usize {
    let config = effective(main, "match");
    let number = usize::try_from(config.matching.rounds).expect("small");
    assert_eq!(config.engine.batch_max, number, "half of a version");
    number
}

#[test]
fn a_kill_in_the_middle_leaves_the_old_version_or_the_new_one_whole() {
    let fleet = Fleet::new();
    let main = fleet.site("depot-a", "");
    fleet.says("fleet.toml", "health = ['/bin/true']");
    let version = |n: usize| {
        fleet.says("base.toml", &format!("[matching]\nrounds = {n}"));
        fleet.says("roles/match.toml", &format!("[engine]\nbatch_max = {n}"));
    };
    version(1);
    assert_eq!(fleet.of_sites("apply", &["--yes"]).0, Some(0));
    let (lock, seed) = (fleet.path("sites/depot-a/fleet/lock"), 7);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (mut old, mut killed) = (1, BTreeMap::new());
    for step in 0..sized(60, 600) {
        let new = usize::try_from(step % 2).expect("small") + 2;
        version(new);
        // Gone already where a kill came before it.
        let _ = std::fs::remove_file(&lock);
        let mut command = fleet.command("apply", &["--yes"]);
        let mut child = command
            .arg("--sites-root")
            .arg(fleet.path("sites"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        while !lock.exists() && child.try_wait().expect("asked").is_none() {
            std::thread::yield_now();
        }
        // Now it is at the files of the site.
        std::thread::sleep(Duration::from_micros(random.random_range(0..8_000)));
        // One that has ended is as good.
        let _ = child.kill();
        let ended = child.wait().expect("ended");
        let is = whole(&main);
        assert!(
            is == old || is == new,
            "step {step}: {is} after {old} and {new}"
        );
        if ended.code().is_none() {
            *killed.entry(is == old).or_insert(0) += 1;
        }
        old = is;
    }
    assert_eq!(
        killed.len(),
        2,
        "kills came before the step and behind it: {killed:?}"
    );
    version(4);
    let (code, _, errors) = fleet.of_sites("apply", &["--yes"]);
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(whole(&main), 4);
    let left = fleet.tree("depot-a").into_keys();
    let half: Vec<PathBuf> = left
        .filter(|path| path.to_string_lossy().contains("half-"))
        .collect();
    assert!(half.is_empty(), "{half:?}");
    assert!(kept(&fleet.path("sites/depot-a")).len() <= 3);
}

/// Runs a command again whenever it ends, as a service manager does, until it is dropped. The id of the process that runs is
/// in a file.
struct Supervised {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    pid: PathBuf,
}

impl Supervised {
    fn start(mut command: Command, pid: PathBuf) -> Self {
        let (stop, stopped) = mpsc::channel();
        let file = pid.clone();
        let thread = std::thread::spawn(move || {
            loop {
                let mut child = command.spawn().expect("started");
                write(&file, &child.id().to_string());
                child.wait().expect("ended");
                match stopped.recv_timeout(Duration::from_millis(100)) {
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    _ => return,
                }
            }
        });
        Self {
            stop: Some(stop),
            thread: Some(thread),
            pid,
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        drop(self.stop.take());
        // It may just be starting another one: that one is asked as well.
        while self
            .thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
        {
            let pid = std::fs::read_to_string(&self.pid).unwrap_or_default();
            let _ = Command::new("kill")
                .args(["-9", &pid])
                .stderr(Stdio::null())
                .status();
        }
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// A site that runs here: the broker of a test, and a process of the role incident with the door over HTTP.
struct Running {
    // First, so that it is dropped while the file with its id is there.
    _process: Supervised,
    fleet: Fleet,
    site: Processes,
    main: PathBuf,
    state: PathBuf,
}

impl Running {
    async fn start() -> Self {
        let site = Processes::new();
        site.apply_topology();
        let fleet = Fleet::new();
        let door = free_port();
        let main = fleet.site(
            "hub",
            &format!(
                "[bus]\nurl = '{}'\n[gateway]\nlisten = '127.0.0.1:{door}'",
                site.url()
            ),
        );
        let state = fleet.path("state/hub");
        // The state directory is not the fleet's: it is given before there is one.
        fleet.says("sites/hub.toml", "");
        let mut text = std::fs::read_to_string(&main).expect("there");
        text.push_str(&format!("\n[site]\nstate_dir = '{}'", state.display()));
        write(&main, &text);
        let pid = fleet.path("pid");
        fleet.says(
            "fleet.toml",
            &format!(
                "restart = ['/bin/sh', '-c', 'kill $(cat {}) || true']\nhealth_within = '20s'",
                pid.display()
            ),
        );
        let log = std::fs::File::create(fleet.path("log")).expect("a log");
        let mut command = roadcall();
        command
            .arg("--config")
            .arg(&main)
            .args(["--role", "incident,gateway"])
            .stdout(Stdio::null())
            .stderr(log);
        let process = Supervised::start(command, pid);
        let running = Self {
            fleet,
            site,
            main,
            state,
            _process: process,
        };
        running.process().await;
        running
    }

    /// The process that runs.
    async fn process(&self) -> Process {
        eventually("a process", || async { running(&self.state).pop() }).await
    }

    fn config(&self, verb: &str, more: &[&str]) -> (Option<i32>, String, String) {
        let mut command = self.fleet.command(verb, more);
        command.env("PATH", "/usr/bin:/bin");
        said(command.arg("--config").arg(&self.main))
    }

    fn version(&self) -> String {
        let held = current(self.main.parent().expect("has a folder"));
        held.map(|held| held.digest).unwrap_or_default()
    }

    /// What the role says of itself, over the broker.
    fn in_force(&self) -> Value {
        self.site.json(&["call", "incident.status", "{}"])["inForce"].clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_site_that_does_not_come_up_goes_back_by_itself() {
    let site = Running::start().await;
    let first = site.process().await;
    assert_eq!(site.in_force()["fleet"], "");

    // What can change live needs no restart.
    site.fleet.says("base.toml", "[log]\nlevel = 'debug'");
    let (code, out, _) = site.config("plan", &[]);
    assert_eq!(code, Some(2));
    assert!(
        out.contains(&format!("incident,gateway (pid {})", first.pid)),
        "{out}"
    );
    let (code, _, errors) = site.config("apply", &["--yes"]);
    assert_eq!(code, Some(0), "{errors}");
    let live = site.process().await;
    assert_eq!(
        (live.pid, &live.in_force.fleet),
        (first.pid, &site.version())
    );
    let said = site.in_force();
    assert_eq!(said["fleet"], site.version().as_str());
    assert_eq!(said["configDigest"], live.in_force.config_digest.as_str());
    assert_ne!(live.in_force.config_digest, first.in_force.config_digest);
    assert_eq!(site.config("plan", &[]).0, Some(0));

    // Another door needs one.
    let door = free_port();
    let with_door =
        |port: u16| format!("[log]\nlevel = 'debug'\n[gateway]\nlisten = '127.0.0.1:{port}'");
    site.fleet.says("base.toml", &with_door(door));
    let (code, _, errors) = site.config("apply", &["--yes"]);
    assert_eq!(code, Some(0), "{errors}");
    let restarted = site.process().await;
    assert_ne!(restarted.pid, first.pid);
    assert_eq!(restarted.in_force.fleet, site.version());
    TcpStream::connect(("127.0.0.1", door)).expect("the door is open");
    let good = site.version();

    // A door that somebody else has is found out only at the start.
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = taken.local_addr().expect("an address").port();
    site.fleet.says("base.toml", &with_door(port));
    site.fleet.says(
        "fleet.toml",
        &std::fs::read_to_string(site.fleet.path("fleet/fleet.toml"))
            .expect("there")
            .replace("20s", "6s"),
    );
    let (code, out, errors) = site.config("apply", &["--yes"]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{errors}");
    let line = errors.lines().next().expect("a line");
    assert!(
        line.contains("hub did not become healthy") && line.contains("did not come back"),
        "{errors}"
    );
    assert!(line.ends_with(&format!("it is back at {good}")), "{errors}");
    assert_eq!(site.version(), good);
    assert_eq!(site.process().await.in_force.fleet, good);
    TcpStream::connect(("127.0.0.1", door)).expect("the old door is open");
    assert_eq!(site.in_force()["fleet"], good.as_str());

    // And what is healthy can be taken back as well.
    let (code, _, errors) = site.config("rollback", &["--yes"]);
    assert_eq!(code, Some(0), "{errors}");
    let back = site.process().await;
    assert_eq!(back.in_force.fleet, live.in_force.fleet);
    assert_eq!(back.in_force.config_digest, live.in_force.config_digest);
}
