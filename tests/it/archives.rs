//! `roadcall archive` and `roadcall rule` on real brokers: out of one, into another, and what is said of both.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::counting::{Fate, event, node, roadcall};
use crate::support::{Site, connect, eventually, site};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, EVENTS, Headers, Outgoing};
use roadcall::node::clock::Clock;

const COUNT: u64 = 3_000;

async fn publish(bus: &JetStream, messages: Vec<Outgoing>) {
    let published = bus.publish(messages).await;
    assert!(published.stopped.is_none(), "{:?}", published.stopped);
}

/// Something at a right subject that is no event.
fn junk() -> Outgoing {
    let mut headers = Headers::default();
    headers.push("Content-Type", "application/json");
    Outgoing {
        subject: "roadcall.hub.incident.IncidentRated.junk".to_owned(),
        headers,
        body: "{ not JSON".into(),
        msg_id: "junk".to_owned(),
        expected_last_subject_seq: None,
    }
}

fn run(site: &Site, arguments: &[&str]) -> Output {
    roadcall(site, &site.dir.path().join("state"), "", arguments)
}

fn said(output: &Output) -> Value {
    let words = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {words}"))
}

/// Message ids in the archive's order, by subject.
async fn ids(bus: &JetStream) -> BTreeMap<String, Vec<String>> {
    let (mut ids, mut from) = (BTreeMap::new(), 1);
    loop {
        let page = bus
            .read(EVENTS, "roadcall.*.incident.>", from, 1000, true)
            .await
            .expect("read");
        let Some(last) = page.last() else { return ids };
        from = last.seq + 1;
        for stored in page {
            let id = stored.headers.get("Nats-Msg-Id").expect("an id").to_owned();
            ids.entry(stored.subject).or_insert_with(Vec::new).push(id);
        }
    }
}

async fn goes_into_another(from: &Site, file: &Path, wanted: &BTreeMap<String, Vec<String>>) {
    let _ = from;
    let other = site().await;
    let state = other.dir.path().join("state");
    // Its role is there before, so that the stream is, and sees what comes.
    let role = node(&other, &state, "").await;
    let bus = connect(&other).await;
    let name = file.to_str().expect("UTF-8");
    let imported = said(&run(&other, &["archive", "import", name]));
    assert_eq!(imported, json!({ "imported": COUNT + 1, "skipped": 0 }));
    assert_eq!(&ids(&bus).await, wanted, "same ids, same order per entity");
    let again = said(&run(&other, &["archive", "import", name]));
    assert_eq!(again, json!({ "imported": 0, "skipped": COUNT + 1 }));
    eventually("all to be handled", || async {
        let counts = role.counts()[0].1;
        (counts.handled == COUNT && counts.dead == 1).then_some(())
    })
    .await;
    role.shutdown(std::time::Duration::from_secs(10))
        .await
        .expect("stopped");
    other.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_exported_is_imported_under_its_ids_once_and_in_order() {
    let site = site().await;
    let role = node(&site, &site.dir.path().join("state"), "").await;
    role.shutdown(std::time::Duration::from_secs(10))
        .await
        .expect("stopped");
    let bus = connect(&site).await;
    let now = Clock.now();
    let mut messages: Vec<Outgoing> = (0..COUNT)
        .map(|n| event(n, n % 50, Fate::Fine, now))
        .collect();
    messages.push(junk());
    publish(&bus, messages).await;
    let wanted = ids(&bus).await;
    let info = said(&run(&site, &["archive", "info"]));
    assert_eq!(
        (&info["messages"], &info["lastSeq"]),
        (&json!(COUNT + 1), &json!(COUNT + 1))
    );

    for format in ["ndjson", "cbor"] {
        let file = site.dir.path().join(format!("events.{format}"));
        let out = file.to_str().expect("UTF-8");
        let export = ["archive", "export", "--format", format, "--out", out];
        let exported = said(&run(&site, &export));
        assert_eq!(exported["events"], COUNT + 1);
        let refused = run(&site, &export);
        assert_eq!(refused.status.code(), Some(1), "nothing is written over");
        goes_into_another(&site, &file, &wanted).await;
    }

    let part = site.dir.path().join("part.ndjson");
    let part = part.to_str().expect("UTF-8");
    let pattern = r#"{"detail":{"driverId":[{"suffix":"7"}]}}"#;
    let export = [
        "archive",
        "export",
        "--from-seq",
        "1",
        "--to-seq",
        "160",
        "--pattern",
        pattern,
        "--out",
        part,
    ];
    assert_eq!(
        said(&run(&site, &export))["events"],
        10,
        "those whose number ends so in hexadecimal"
    );
    site.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_names_what_is_no_event_and_what_is_there_twice() {
    let site = site().await;
    let role = node(&site, &site.dir.path().join("state"), "").await;
    role.shutdown(std::time::Duration::from_secs(10))
        .await
        .expect("stopped");
    let bus = connect(&site).await;
    let now = Clock.now();
    publish(
        &bus,
        (0..20).map(|n| event(n, n, Fate::Fine, now)).collect(),
    )
    .await;
    let whole = run(&site, &["archive", "verify"]);
    assert_eq!(whole.status.code(), Some(0));
    assert_eq!(said(&whole)["messages"], 20);
    // A copy under another message id: the server takes it, and it is wrong in both ways.
    let copy = Outgoing {
        msg_id: "another".to_owned(),
        ..event(3, 3, Fate::Fine, now)
    };
    publish(&bus, vec![copy, junk()]).await;
    let broken = run(&site, &["archive", "verify"]);
    assert_eq!(broken.status.code(), Some(2));
    let found = said(&broken);
    assert_eq!(
        (&found["invalid"], &found["duplicateIds"]),
        (&json!(2), &json!(1)),
        "{found}"
    );
    let findings = found["findings"].to_string();
    assert!(
        findings.contains("seq 21: its message id") && findings.contains("seq 22: body"),
        "{findings}"
    );
    site.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_are_listed_tried_and_looked_over() {
    let site = site().await;
    let role = node(&site, &site.dir.path().join("state"), "").await;
    role.shutdown(std::time::Duration::from_secs(10))
        .await
        .expect("stopped");
    let bus = connect(&site).await;
    let now = Clock.now();
    publish(&bus, (0..5).map(|n| event(n, n, Fate::Fine, now)).collect()).await;

    let rows = said(&run(&site, &["rule", "list", "--json"]));
    let jobs = rows
        .as_array()
        .expect("a list")
        .iter()
        .find(|row| row["rule"] == "roadcall-vendor-jobs");
    let subjects = &jobs.expect("listed")["subjects"];
    assert_eq!(
        subjects,
        &json!([
            "roadcall.*.incident.IncidentRated.*",
            "roadcall.*.incident.WorkCompleted.*"
        ])
    );

    let counted = said(&run(&site, &["rule", "test", "--last", "3", "--json"]));
    let count = |name: &str| {
        let rows = counted.as_array().expect("a list");
        rows.iter().find(|row| row["rule"] == name).expect("listed")["events"].clone()
    };
    assert_eq!(
        (
            count("roadcall-vendor-jobs"),
            count("roadcall-offer-events")
        ),
        (json!(3), json!(0))
    );

    let event = r#"{"source":"roadcall.match","detail-type":"OfferCreated"}"#;
    let matched = said(&run(&site, &["rule", "test", "--event", event, "--json"]));
    let names: Vec<&Value> = matched
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| &row["rule"])
        .collect();
    assert!(
        names.contains(&&json!("roadcall-vendor-offers")),
        "{matched}"
    );

    let rules = site.dir.path().join("rules.toml");
    let text = "[[rule]]\nname = 'all'\npattern = { source = [{ prefix = 'roadcall.' }] }\ntargets = [{ queue = 'vendor-queue' }]\n\
                [[rule]]\nname = 'typo'\npattern = { detial = { x = [1] } }\ntargets = [{ queue = 'vendor-queue' }]\n";
    std::fs::write(&rules, text).expect("written");
    let state = site.dir.path().join("state");
    let linted = roadcall(
        &site,
        &state,
        rules.to_str().expect("UTF-8"),
        &["rule", "lint", "--json"],
    );
    assert_eq!(linted.status.code(), Some(2));
    assert_eq!(said(&linted)[0]["subject"], "typo");
    site.broker.shutdown().await;
}
