//! Personal data sealed for each person (DOMAIN 3.2): real processes, each role with its own state directory, so that keys come
//! by command and from nowhere else.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::processes::Processes;
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
    for action in ["keys destroyed", "key open", "key of", "key list"] {
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
    let (code, answer, words) = ask("key.of.incident");
    assert_eq!(code, Some(0), "{words}");
    assert!(answer["key"]["key"].is_string(), "{answer}");
}
