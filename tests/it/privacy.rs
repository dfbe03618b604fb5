//! Personal data sealed for each person (DOMAIN 3.2): real processes, each role with its own state directory, so that keys come
//! by command and from nowhere else.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::processes::{Processes, end_brokers_below};
use crate::support::{eventually, free_port, nats_server};
use roadcall::bus::{Bus, EVENTS};

const PHONE: &str = "+12125550147";
const NAME: &str = "Wilhelmina Quackenbush";

/// A site that seals, with these roles.
async fn site(roles: &[&'static str]) -> Processes {
    let mut site = Processes::new();
    let config = site.dir.path().join("roadcall.toml");
    std::fs::write(
        &config,
        "[broker]\nmode = 'external'\n[privacy]\nseal = true\n",
    )
    .expect("written");
    site.arguments = vec!["--config".to_owned(), config.display().to_string()];
    site.apply_topology();
    for role in roles {
        site.start(role);
    }
    for role in roles {
        site.role_ready(role).await;
    }
    site
}

fn call(site: &Processes, command: &str, body: &Value) -> Value {
    site.json(&["call", command, &body.to_string(), "--json"])
}

/// An account of a driver; gives his id.
fn driver(site: &Processes, phone: &str, name: &str) -> String {
    let body = json!({ "phone": phone, "name": name, "role": "driver" });
    let user = call(site, "auth.create_user", &body);
    user["userId"].as_str().expect("an id").to_owned()
}

fn breakdown(site: &Processes, driver: &str) -> Value {
    site.json(&[
        "incident",
        "create",
        "--driver",
        driver,
        "--type",
        "tire",
        "--lat",
        "40.71284",
        "--lon",
        "-74.00601",
        "--phone",
        PHONE,
        "--json",
    ])
}

/// The bodies of all archived events of a type.
async fn archived(site: &Processes, kind: &str) -> Vec<Value> {
    let bus = site.connect().await;
    let filter = format!("roadcall.*.*.{kind}.*");
    let read = bus
        .read(EVENTS, &filter, 1, 1000, false)
        .await
        .expect("read");
    let body = |body: &[u8]| serde_json::from_slice(body).expect("JSON");
    read.iter().map(|stored| body(&stored.body)).collect()
}

async fn archived_one(site: &Processes, kind: &str) -> Value {
    eventually(kind, || async { archived(site, kind).await.pop() }).await
}

/// The lines of `privacy export`.
fn export(site: &Processes, subject: &str) -> String {
    let mut command = site.roadcall();
    let output = command
        .args(["privacy", "export", "--subject", subject])
        .output()
        .expect("runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Files below a directory that have `needle` in them.
pub fn files_with(dir: &Path, needle: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else if let Ok(bytes) = std::fs::read(&path)
            && bytes
                .windows(needle.len())
                .any(|part| part == needle.as_bytes())
        {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sealed_for_a_person_is_read_with_his_key_and_never_again_when_he_is_erased() {
    let site = site(&["audit", "auth", "incident"]).await;
    let (ann, bob) = (
        driver(&site, PHONE, NAME),
        driver(&site, "+12125550999", "Robert Tables"),
    );
    let made = breakdown(&site, &ann);
    assert_eq!(made["phone"], PHONE, "who may see it sees it: {made}");
    let others = breakdown(&site, &bob);
    let event = archived_one(&site, "IncidentCreated").await;
    for field in ["phone", "location"] {
        let text = event["detail"][field].as_str().expect("a text");
        assert!(text.starts_with("sealed:1:"), "{event}");
    }
    let mine = export(&site, &ann);
    assert!(
        mine.contains(PHONE) && mine.contains(NAME) && mine.contains("40.71284"),
        "{mine}"
    );
    assert!(!mine.contains("Robert Tables"), "{mine}");

    let (code, _, words) = site.run(&["privacy", "erase", "--subject", &ann]);
    assert_eq!(code, Some(64), "{words}");
    let erased = site.json(&["privacy", "erase", "--subject", &ann, "--yes", "--json"]);
    assert!(erased["keysDestroyed"].as_u64() >= Some(1), "{erased}");
    let mine = export(&site, &ann);
    assert!(
        !mine.contains(PHONE) && !mine.contains(NAME) && !mine.contains("40.71284"),
        "{mine}"
    );
    assert!(mine.contains("***"), "{mine}");
    let id = others["incidentId"].as_str().expect("an id");
    let seen = call(&site, "incident.get", &json!({ "incidentId": id }));
    assert_eq!(
        seen["phone"], PHONE,
        "another person's data is as it was: {seen}"
    );

    let (code, _, words) = site.run(&["archive", "verify"]);
    assert_eq!(code, Some(0), "{words}");
    let rows = site
        .roadcall()
        .args(["ledger", "export"])
        .output()
        .expect("runs");
    let rows = String::from_utf8(rows.stdout).expect("UTF-8");
    for action in ["keys destroyed", "key of", "key list"] {
        assert!(rows.contains(action), "{action}: {rows}");
    }
    let (code, _, words) = site.run(&["ledger", "verify"]);
    assert_eq!(code, Some(0), "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_keeper_of_keys_nothing_is_lost_and_nothing_is_written_in_clear() {
    let mut site = site(&["audit", "auth", "incident"]).await;
    let (ann, bob) = (
        driver(&site, PHONE, NAME),
        driver(&site, "+12125550999", "Robert Tables"),
    );
    breakdown(&site, &ann);
    site.end("audit");
    // Her key is known to the role still.
    breakdown(&site, &ann);
    let (code, _, words) = site.run(&[
        "incident", "create", "--driver", &bob, "--type", "tire", "--lat", "40.7", "--lon", "-74",
        "--phone", PHONE,
    ]);
    assert_eq!(code, Some(1));
    assert!(words.contains("SERVICE_UNAVAILABLE"), "{words}");
    site.start("audit");
    site.role_ready("audit").await;
    eventually("his key can be had again", || async {
        let (code, ..) = site.run(&[
            "incident", "create", "--driver", &bob, "--type", "tire", "--lat", "40.7", "--lon",
            "-74", "--phone", PHONE,
        ]);
        (code == Some(0)).then_some(())
    })
    .await;
    eventually("three incidents", || async {
        (archived(&site, "IncidentCreated").await.len() == 3).then_some(())
    })
    .await;
    let found = files_with(site.dir.path(), PHONE);
    assert!(found.is_empty(), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_without_business_with_it_gets_no_key_and_that_is_in_the_ledger() {
    let site = site(&["audit", "incident"]).await;
    let ask = |name: &str| {
        let body = json!({ "subject": "0190b2c4-5a5a-7000-8000-000000000001" }).to_string();
        site.run(&["call", name, &body, "--as", "system:x", "--json"])
    };
    for who in ["reporting", "kb", "config", "nobody"] {
        let (code, _, words) = ask(&format!("key.of.{who}"));
        assert_eq!(code, Some(1), "{who}");
        assert!(words.contains("AUTHORIZATION_ERROR"), "{who}: {words}");
    }
    // A sealed text that somebody got hold of is not opened for him by a reply.
    let text = "sealed:1:AAAA:BBBB";
    let body = json!({ "driverId": "0190b2c4-5a5a-7000-8000-000000000001", "type": "tire", "lat": 1, "lon": 2,
        "description": text });
    let (code, _, words) = site.run(&["call", "incident.create", &body.to_string(), "--json"]);
    assert_eq!(code, Some(1), "{words}");
    assert!(
        words.contains("VALIDATION_ERROR") && words.contains("description"),
        "{words}"
    );
    let (code, answer, words) = ask("key.of.incident");
    assert_eq!(code, Some(0), "{words}");
    assert!(answer["key"]["key"].is_string(), "{answer}");
}

/// What the demo left, run again: the broker in one process and the roles in another, so that each can be stopped alone.
struct Kept {
    dir: tempfile::TempDir,
    running: Vec<(&'static str, std::process::Child)>,
}

impl Kept {
    /// After a whole demo of so many incidents.
    fn of_demo(incidents: u32) -> Self {
        let kept = Self {
            dir: tempfile::tempdir().expect("a directory"),
            running: Vec::new(),
        };
        let port = free_port();
        let text = format!(
            "[site]\nstate_dir = '{}'\n[bus]\nurl = 'nats://127.0.0.1:{port}'\n[broker]\nmode = 'external'\nbinary = '{}'\nlisten = \
             '127.0.0.1:{port}'\n[privacy]\nseal = true\n[log]\nlevel = 'debug'\n",
            kept.state().display(),
            nats_server().display()
        );
        std::fs::write(kept.dir.path().join("roadcall.toml"), text).expect("written");
        let state = kept.state().display().to_string();
        let count = incidents.to_string();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_roadcall"));
        let output = command
            .env_clear()
            .env("PATH", nats_server().parent().expect("a folder"))
            .args([
                "demo",
                "--incidents",
                &count,
                "--pace",
                "1000",
                "--keep",
                &state,
                "--json",
            ])
            .output()
            .expect("runs");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words}");
        std::fs::write(kept.dir.path().join("demo.ndjson"), output.stdout).expect("written");
        kept
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn roadcall(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_roadcall"));
        command
            .env_clear()
            .arg("--config")
            .arg(self.dir.path().join("roadcall.toml"))
            .args(arguments)
            .stdin(std::process::Stdio::null());
        command
    }

    fn good(&self, arguments: &[&str]) -> String {
        let output = self.roadcall(arguments).output().expect("runs");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {words}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.good(arguments)).expect("JSON")
    }

    fn call(&self, command: &str, body: &Value) -> Value {
        self.json(&["call", command, &body.to_string(), "--json"])
    }

    async fn start(&mut self, what: &'static str) {
        let path = self.dir.path().join(format!("{what}.log"));
        let log = std::fs::File::create(&path).expect("a log");
        let child = self
            .roadcall(&["--role", what])
            .stdout(std::process::Stdio::null())
            .stderr(log)
            .spawn();
        self.running.push((what, child.expect("started")));
        eventually("it is ready", || async {
            let log = std::fs::read_to_string(&path).ok()?;
            assert!(!log.contains("error["), "{log}");
            log.contains(r#""message":"ready""#).then_some(())
        })
        .await;
    }

    fn stop(&mut self) {
        let (_, mut child) = self.running.pop().expect("runs");
        let pid = i32::try_from(child.id()).expect("a process id");
        let pid = rustix::process::Pid::from_raw(pid).expect("not zero");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("sent");
        assert!(child.wait().expect("ended").success());
    }

    /// No file has any of these, but those that the test itself asked for.
    fn nowhere(&self, needles: &[String]) {
        for needle in needles {
            let found = files_with(self.dir.path(), needle);
            assert!(found.is_empty(), "{needle} is in {found:?}");
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        for (_, child) in &mut self.running {
            // Ended already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
        end_brokers_below(self.dir.path());
    }
}

fn exported(site: &Kept, subject: &str) -> String {
    site.good(&["privacy", "export", "--subject", subject])
}

/// What reports say of the time up to `until`, as it is printed.
fn reports(site: &Kept, until: &str) -> Vec<String> {
    let export = site.dir.path().join("facts.csv");
    let path = export.display().to_string();
    site.good(&["report", "export", "--format", "csv", "--out", &path]);
    vec![
        site.good(&["report", "kpis", "--until", until, "--json"]),
        site.good(&["report", "incidents", "--json"]),
        std::fs::read_to_string(export).expect("read"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_whole_demo_nothing_personal_is_in_any_file_and_who_is_erased_is_unreadable_everywhere()
 {
    let mut site = Kept::of_demo(3);
    site.start("broker").await;
    site.start("all").await;
    let incidents = site.call("incident.list", &json!({ "status": "closed" }));
    let incidents = incidents["items"].as_array().expect("a page").clone();
    assert_eq!(incidents.len(), 3, "{incidents:?}");
    let mut needles = vec![
        "shoulder of the highway".to_owned(),
        "15550009999".to_owned(),
    ];
    for n in 1..=3 {
        needles.extend([format!("1555000000{n}"), format!("1556000000{n}")]);
    }
    for incident in &incidents {
        let place = &incident["location"];
        assert!(place["lat"].is_f64(), "who may see it sees it: {incident}");
        needles.push(place["lat"].to_string());
    }
    let driver = incidents[0]["driverId"].as_str().expect("an id").to_owned();
    let incident = incidents[0]["incidentId"].clone();
    let his_place = incidents[0]["location"]["lat"].to_string();
    // The erasure is an event, too.
    let until = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%SZ").to_string();
    for role in roadcall::role::RoleName::BUILT {
        site.good(&["snapshot", "create", "--role", role.as_str()]);
    }
    let archive = site.dir.path().join("archive.ndjson").display().to_string();
    site.good(&["archive", "export", "--from-seq", "1", "--out", &archive]);
    std::fs::write(
        site.dir.path().join("letters"),
        site.good(&["dlq", "list", "--json"]),
    )
    .expect("written");
    std::fs::write(
        site.dir.path().join("facts"),
        reports(&site, &until).concat(),
    )
    .expect("written");
    site.nowhere(&needles);

    // What is shown to those who may see it: afterwards it must be gone for him, and nobody else.
    let mine = exported(&site, &driver);
    assert!(mine.contains(&his_place), "{mine}");
    let before = reports(&site, &until);
    let erased = site.json(&["privacy", "erase", "--subject", &driver, "--yes", "--json"]);
    assert!(erased["keysDestroyed"].as_u64() >= Some(1), "{erased}");
    assert!(!exported(&site, &driver).contains(&his_place));
    settled(&site).await;
    assert_eq!(reports(&site, &until), before, "no report changes");
    site.good(&["archive", "verify"]);
    site.good(&["audit"]);
    site.good(&["ledger", "verify"]);
    let other = site.call(
        "incident.get",
        &json!({ "incidentId": incidents[1]["incidentId"] }),
    );
    assert_eq!(other["location"], incidents[1]["location"]);

    // A replay of everything, and databases from before.
    site.good(&[
        "replay",
        "start",
        "--queue",
        "incident-queue",
        "--from-seq",
        "1",
        "--mode",
        "force",
        "--wait",
    ]);
    let seen = site.call("incident.get", &json!({ "incidentId": incident }));
    assert!(!seen.to_string().contains(&his_place), "{seen}");
    site.stop();
    for role in [
        "incident",
        "match",
        "tracking",
        "telephony",
        "notifications",
        "auth",
    ] {
        site.good(&["snapshot", "restore", "--role", role, "--yes"]);
    }
    site.start("all").await;
    settled(&site).await;
    let seen = site.call("incident.get", &json!({ "incidentId": incident }));
    assert!(!seen.to_string().contains(&his_place), "{seen}");
    assert!(!exported(&site, &driver).contains(&his_place));
    let letters = site.json(&["dlq", "list", "--json"]);
    assert_eq!(letters.as_array().map(Vec::len), Some(0), "{letters}");
    let other = site.call(
        "incident.get",
        &json!({ "incidentId": incidents[1]["incidentId"] }),
    );
    assert_eq!(other["location"], incidents[1]["location"]);
    site.nowhere(&needles);
}

/// Waits until every queue is empty.
async fn settled(site: &Kept) {
    eventually("the queues drain", || async {
        let queues = site.json(&["queue", "list", "--json"]);
        let queues = queues.as_array().cloned().unwrap_or_default();
        let empty = queues.iter().all(|queue| queue["depth"] == 0);
        (!queues.is_empty() && empty).then_some(())
    })
    .await;
}
