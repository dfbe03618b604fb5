//! The reporting role in a site of processes: its facts, a rebuild over kills, and a replay that changes nothing (S20, S21).

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::processes::Processes;

const INCIDENTS: usize = 12;

fn report(site: &Processes) -> Value {
    site.json(&["report", "incidents", "--json"])
}

/// All figures of what happened up to a time, when the site has come to rest about it.
async fn kpis(site: &Processes, until: &str) -> Value {
    let read = || site.json(&["report", "kpis", "--until", until, "--json"])["kpis"].take();
    let mut last = read();
    eventually("the figures to stand still", || {
        let now = read();
        let still = now == last;
        last.clone_from(&now);
        async move { still.then_some(now) }
    })
    .await
}

/// The three forms through the binary, each as its own readers see it.
fn exports(site: &Processes) {
    let out = |name: &str| site.dir.path().join(name).display().to_string();
    for form in ["csv", "json", "parquet"] {
        let file = out(form);
        let said = site.json(&[
            "report", "export", "--format", form, "--out", &file, "--json",
        ]);
        assert_eq!(said["file"], json!(file));
    }
    let lines = std::fs::read_to_string(out("csv")).expect("written");
    assert_eq!(lines.lines().count(), INCIDENTS + 1);
    let rows: Value =
        serde_json::from_slice(&std::fs::read(out("json")).expect("written")).expect("JSON");
    assert_eq!(rows.as_array().map(Vec::len), Some(INCIDENTS));
    let bytes = std::fs::read(out("parquet")).expect("written");
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
    let nowhere = out("no/such/directory/x.csv");
    let (code, _, words) = site.run(&["report", "export", "--format", "csv", "--out", &nowhere]);
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("no/such/directory"), "{words}");
    // A device is written to, never replaced; this one is always full.
    let (code, _, words) = site.run(&["report", "export", "--format", "csv", "--out", "/dev/full"]);
    assert_eq!(code, Some(1), "{words}");
    let device = std::fs::metadata("/dev/full").expect("there");
    assert!(!device.is_file());
    let (code, _, words) = site.run(&["report", "export", "--format", "xml"]);
    assert_eq!(code, Some(64), "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn facts_are_their_own_rebuild_and_a_replay_changes_nothing() {
    let mut site = Processes::all();
    site.ready().await;
    let kinds = ["tire", "engine", "tow"];
    for n in 0..INCIDENTS {
        let driver = format!("0192f3c1-0000-7000-8000-{n:012x}");
        let kind = kinds[n % kinds.len()];
        site.json(&[
            "incident", "create", "--driver", &driver, "--type", kind, "--lat", "40.7128", "--lon",
            "-74.0060", "--json",
        ]);
    }
    // Without vendors each is escalated at once.
    let before = eventually("all to be escalated", || async {
        let report = report(&site);
        let incidents = report["incidents"].as_array()?;
        let escalated = |fact: &&Value| fact["escalated"] == true;
        (incidents.iter().filter(escalated).count() == INCIDENTS).then_some(report)
    })
    .await;
    let third = INCIDENTS / 3;
    assert_eq!(
        before["counts"]["byType"],
        json!({ "tire": third, "engine": third, "tow": third })
    );
    assert_eq!(
        before["counts"]["byRegion"],
        json!({ "North East": INCIDENTS })
    );

    // What the rebuild itself causes is later, and no part of it.
    let until = chrono::Utc::now()
        .format("%Y-%m-%dT%H:%M:%S%.3fZ")
        .to_string();
    let figures = kpis(&site, &until).await;
    assert_eq!(
        figures["incidentResolutionRate"],
        json!({ "value": 0.0, "samples": INCIDENTS })
    );
    assert_eq!(figures["timeToAssignSeconds"]["open"], INCIDENTS);
    assert!(figures["errorRatePercent"]["samples"].as_u64() >= Some(INCIDENTS as u64 * 3));
    assert_eq!(figures["systemUptimePercent"]["value"], 100.0);
    exports(&site);

    // As if a fault in the projection had written it.
    let file = site.dir.path().join("reporting/reporting.db");
    let database = rusqlite::Connection::open(file).expect("opened");
    database
        .busy_timeout(std::time::Duration::from_secs(10))
        .expect("set");
    database
        .execute("UPDATE incident SET type = 'tow'", [])
        .expect("written");
    database
        .execute(
            "INSERT INTO incident (incident_id, created_at_ms) VALUES ('made up', 2000000000000)",
            [],
        )
        .expect("written");
    database
        .execute(
            "INSERT INTO assignment (incident_id, cycle, vendor_id, at_ms)
             SELECT incident_id, 9, 'made up', created_at_ms + 1000 FROM incident",
            [],
        )
        .expect("written");
    drop(database);
    assert_ne!(report(&site), before);
    assert_ne!(kpis(&site, &until).await, figures);

    let (code, _, words) = site.run(&["rebuild", "--role", "reporting"]);
    assert_eq!(code, Some(64), "{words}");
    let (code, _, words) = site.run(&["rebuild", "--role", "vendor", "--yes"]);
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("reporting is one"), "{words}");

    let job = site.json(&["rebuild", "--role", "reporting", "--yes"]);
    site.kill("reporting");
    site.kill("reporting");
    let name = job["name"].as_str().expect("a name");
    let ended = site.json(&["replay", "status", name, "--wait"]);
    assert_eq!(ended["state"], "COMPLETED", "{ended}");
    site.ready().await;
    assert_eq!(report(&site), before);
    assert_eq!(kpis(&site, &until).await, figures);

    let ended = site.json(&[
        "replay",
        "start",
        "--queue",
        "reporting-queue",
        "--from-seq",
        "1",
        "--mode",
        "force",
        "--wait",
    ]);
    assert_eq!(ended["failed"], 0, "{ended}");
    assert!(
        ended["handled"].as_u64() > Some(INCIDENTS as u64 * 3),
        "{ended}"
    );
    assert_eq!(report(&site), before);
    let (code, audit, words) = site.run(&["audit", "--queue", "reporting-queue", "--json"]);
    assert_eq!(
        (code, &audit[0]["unaccounted"]),
        (Some(0), &json!(0)),
        "{words}"
    );
}
