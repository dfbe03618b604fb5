//! Keys of personal data between a hub and a depot, both with identities: the hub reads what the depot sealed, an erasure at
//! one is one at the other, and `doctor` names what is wrong with keys.

use serde_json::{Value, json};

use super::Sites;
use super::place::{PATIENCE, Place};
use super::wire::Weather;
use crate::support::eventually_within;

const PHONE: &str = "+12125550147";

/// Puts the lines of sealing into a configuration, and identities of its own into `[bus]`.
fn guarded(place: &Place) {
    let (file, identities) = (
        place.dir.join("roadcall.toml"),
        place.dir.join("identities"),
    );
    let text = std::fs::read_to_string(&file).expect("read");
    let named = format!("[bus]\nidentities_dir = '{}'\n", identities.display());
    let text = text.replace("[bus]\n", &named);
    let text = format!("{text}[audit]\nalarm_period = '1s'\n[privacy]\nseal = true\n");
    std::fs::write(&file, text).expect("written");
    let made = place
        .roadcall()
        .args(["auth", "init", "--identities"])
        .arg(&identities)
        .output();
    assert!(made.expect("runs").status.success());
}

async fn two() -> Sites {
    let mut sites = Sites::hub().await;
    sites.hub.kill();
    guarded(&sites.hub);
    sites.hub.start();
    sites.hub.ready().await;
    let mut depot = sites.depot("depot-a");
    guarded(&depot);
    sites.hub.json(&super::add("depot-a", &depot));
    depot.start();
    depot.ready().await;
    sites.depots.push(depot);
    sites
}

fn driver(place: &Place, phone: &str) -> String {
    let body = json!({ "role": "driver", "phone": phone, "name": "Wilhelmina" });
    let made = place.json(&["call", "auth.create_user", &body.to_string(), "--json"]);
    made["userId"].as_str().expect("an id").to_owned()
}

fn breakdown(place: &Place, driver: &str) {
    place.json(&[
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
    ]);
}

/// Who asks by name what there is of somebody.
fn export(place: &Place, subject: &str) -> String {
    let asked = place
        .roadcall()
        .args(["privacy", "export", "--subject", subject])
        .output()
        .expect("runs");
    String::from_utf8(asked.stdout).expect("UTF-8")
}

async fn shows(place: &Place, subject: &str, wanted: bool) {
    let what = format!("{} shows the number: {wanted}", place.site);
    eventually_within(PATIENCE, &what, || async {
        (export(place, subject).contains("12125550147") == wanted).then_some(())
    })
    .await;
}

fn finding(place: &Place, check: &str) -> Option<Value> {
    let (_, found, _) = place.run(&["doctor", "--json"]);
    let found = found.as_array().cloned().unwrap_or_default();
    found.into_iter().find(|one| one["check"] == check)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hub_reads_what_a_depot_sealed_and_who_is_erased_at_one_is_erased_at_both() {
    let mut sites = two().await;
    let (hub, depot) = (&sites.hub, &sites.depots[0]);
    // Made at the depot, so that its keys seal them; one more whose data both sites sealed.
    let (ann, bob) = (driver(depot, PHONE), driver(depot, "+12125550999"));
    breakdown(depot, &ann);
    breakdown(depot, &bob);
    breakdown(hub, &ann);
    for place in [hub, depot] {
        shows(place, &ann, true).await;
        shows(place, &bob, true).await;
    }

    // At the depot, and the hub hears of it.
    depot.json(&["privacy", "erase", "--subject", &ann, "--yes", "--json"]);
    for place in [hub, depot] {
        shows(place, &ann, false).await;
        shows(place, &bob, true).await;
    }
    // A copy of the depot's keys from before, put back: its archive says who was erased.
    let depot = &mut sites.depots[0];
    depot.kill();
    let before = key_files(depot);
    depot.start();
    depot.ready().await;
    depot.json(&["privacy", "erase", "--subject", &bob, "--yes", "--json"]);
    shows(depot, &bob, false).await;
    depot.kill();
    put_back(depot, &before);
    depot.start();
    depot.ready().await;
    shows(depot, &bob, false).await;
    shows(&sites.hub, &bob, false).await;
}

const KEY_FILES: [&str; 3] = ["keys.db", "keys.db-wal", "keys.db-shm"];

fn key_files(place: &Place) -> Vec<Option<Vec<u8>>> {
    let read = |name: &&str| std::fs::read(place.dir.join("state").join(name)).ok();
    KEY_FILES.iter().map(read).collect()
}

fn put_back(place: &Place, files: &[Option<Vec<u8>>]) {
    for (name, bytes) in KEY_FILES.iter().zip(files) {
        let path = place.dir.join("state").join(name);
        // It need not be there.
        let _ = std::fs::remove_file(&path);
        if let Some(bytes) = bytes {
            std::fs::write(&path, bytes).expect("written");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_keys_has_a_name() {
    let mut sites = two().await;
    let ann = driver(&sites.depots[0], PHONE);
    breakdown(&sites.depots[0], &ann);
    shows(&sites.hub, &ann, true).await;
    for check in ["site-key", "keys-not-at-hub", "keys-unkept"] {
        assert_eq!(finding(&sites.depots[0], check), None, "{check}");
    }

    // The uplink is cut, and a key from some time ago is here alone.
    sites.wire.set(Weather::Cut);
    let bob = driver(&sites.depots[0], "+12125550999");
    breakdown(&sites.depots[0], &bob);
    let keys = sites.depots[0].dir.join("state/keys.db");
    let connection = rusqlite::Connection::open(&keys).expect("opened");
    let earlier = "UPDATE key SET made_at_ms = made_at_ms - 3600000 WHERE escrowed = 0";
    assert!(connection.execute(earlier, ()).expect("written") > 0);
    let found = finding(&sites.depots[0], "keys-not-at-hub").expect("named");
    assert_eq!(found["severity"], "warning", "{found}");
    sites.wire.set(Weather::Clear);
    shows(&sites.hub, &bob, true).await;
    assert_eq!(finding(&sites.depots[0], "keys-not-at-hub"), None);

    // Without the site key nothing starts, and nothing is made over what is there.
    let depot = &mut sites.depots[0];
    let (file, aside) = (depot.dir.join("state/site.key"), depot.dir.join("aside"));
    std::fs::rename(&file, &aside).expect("moved");
    let found = finding(depot, "site-key").expect("named");
    assert_eq!(found["severity"], "critical", "{found}");
    let (_, checked, _) = depot.run(&["check", "--json"]);
    assert!(checked.to_string().contains("is missing"), "{checked}");
    depot.kill();
    let before = std::fs::read(&keys).expect("read");
    let (code, _, words) = depot.run(&["--role", "all"]);
    assert_ne!(code, Some(0));
    assert!(
        words.contains("site.key (the site key) is missing"),
        "{words}"
    );
    assert!(!file.exists());
    assert_eq!(std::fs::read(&keys).expect("read"), before);
    std::fs::rename(&aside, &file).expect("moved back");

    // Another key around the same keys; who has them open must be down.
    let (code, _, words) = depot.run(&["privacy", "rotate-key"]);
    assert_eq!(code, Some(64), "{words}");
    let old = std::fs::read(&file).expect("read");
    let done = depot.json(&["privacy", "rotate-key", "--yes", "--json"]);
    assert!(done["keys"].as_u64() > Some(1), "{done}");
    assert_ne!(std::fs::read(&file).expect("read"), old);
    depot.start();
    depot.ready().await;
    shows(depot, &ann, true).await;
    let (code, _, words) = depot.run(&["privacy", "rotate-key", "--yes"]);
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("audit"), "{words}");
}
