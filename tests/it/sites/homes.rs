//! What a depot has no role for the hub makes, once; and nothing beyond that (DESIGN 8, Home).

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::Arc;

use serde_json::{Value, json};

use super::joining::arrives;
use super::place::{self, PATIENCE, Place};
use super::story::{BOSS, Teller};
use super::{Sites, publish};
use crate::support::eventually_within;
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, EVENTS};

/// Lets a depot in with these roles; its site file lies in its place.
fn add(sites: &Sites, depot: &Place, roles: &str) {
    let file = depot.dir.join("site.toml").display().to_string();
    sites.hub.json(&[
        "site",
        "add",
        &depot.site,
        "--out",
        &file,
        "--roles",
        roles,
        "--json",
    ]);
}

/// The sites whose roles made events of a type about an incident, one entry an event, and the home that each names.
async fn made(hub: &JetStream, detail_type: &str, incident: &str) -> Vec<(String, Value)> {
    let (filter, mut from) = (format!("roadcall.*.*.{detail_type}.*"), 1);
    let mut found = Vec::new();
    loop {
        let page = hub.read(EVENTS, &filter, from, 1000, false).await;
        let page = page.expect("read");
        let Some(last) = page.last() else {
            return found;
        };
        from = last.seq + 1;
        for stored in &page {
            let event: Value = serde_json::from_slice(&stored.body).expect("JSON");
            if event["detail"]["incidentId"] == incident {
                let site = event["site"].as_str().expect("a site").to_owned();
                found.push((site, event["home"].clone()));
            }
        }
    }
}

/// Where each thing of an incident was made, which is done once; its home is the depot, wherever it was made.
async fn made_once(hub: &JetStream, depot: &str, incident: &str, expected: [(&str, &str); 6]) {
    for (detail_type, site) in expected {
        let home = match site {
            "hub" => json!(depot),
            _ => Value::Null,
        };
        let found = made(hub, detail_type, incident).await;
        assert_eq!(
            found,
            [(site.to_owned(), home)],
            "{depot}: {detail_type} of {incident}"
        );
    }
}

/// The messages that a site made for the people of an incident: to whom, of what, by which channel, about which event.
async fn messages(at: &Teller, people: [&Value; 2]) -> Vec<[String; 4]> {
    let mut found = Vec::new();
    for person in people {
        let body = json!({ "userId": person, "limit": 100 });
        let page = at.ok(BOSS, "notification.history", body).await;
        for item in page["items"].as_array().expect("a list") {
            let words = ["type", "channel", "eventId"].map(|name| item[name].to_string());
            let [kind, channel, event] = words;
            found.push([person.to_string(), kind, channel, event]);
        }
    }
    found
}

/// Messages of an incident are at one of the two, and each is there once.
async fn told_by(teller: &Teller, other: &Teller, depot: &Teller, incident: &str) {
    let of = json!({ "incidentId": incident });
    let now = depot.ok(BOSS, "incident.get", of).await;
    let people = [&now["driverId"], &now["vendorId"]];
    eventually_within(PATIENCE, "somebody is told", || async {
        let found = messages(teller, people).await;
        let kinds: BTreeSet<&str> = found.iter().map(|message| message[1].as_str()).collect();
        let all = ["\"job_assigned\"", "\"payment_completed\""];
        all.iter().all(|kind| kinds.contains(kind)).then_some(())
    })
    .await;
    let found = messages(teller, people).await;
    let distinct: BTreeSet<&[String; 4]> = found.iter().collect();
    assert_eq!(distinct.len(), found.len(), "{found:?}");
    if teller.site != other.site && other.runs("notifications") {
        assert_eq!(messages(other, people).await, Vec::<[String; 4]>::new());
    }
}

/// The same teller with what the hub does for its site.
fn helped(mut teller: Teller, roles: &'static [&'static str], hub: &Arc<Teller>) -> Teller {
    teller.elsewhere = Some((roles, Arc::clone(hub)));
    teller
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_depot_lacks_the_hub_makes_once_and_nothing_else() {
    let mut sites = Sites::hub().await;
    let roles = [
        ("depot-a", "incident,vendor,tracking,auth,config,audit"),
        ("depot-b", "incident,vendor,match,notifications,auth,audit"),
        ("depot-c", "all"),
    ];
    for (site, roles) in roles {
        let mut depot = sites.depot(site);
        add(&sites, &depot, roles);
        depot.start();
        sites.depots.push(depot);
    }
    for depot in &sites.depots {
        depot.ready().await;
    }
    let state = |depot: &Place, role: &str| depot.dir.join(format!("state/{role}.db"));
    assert!(state(&sites.depots[0], "tracking").exists());
    assert!(
        !state(&sites.depots[0], "payments").exists(),
        "--role all is what the site file lists"
    );

    let tellers = sites.tellers().await;
    let hub = Arc::new(tellers[0].clone());
    let a = helped(
        tellers[1].clone(),
        &["match", "payments", "notifications"],
        &hub,
    );
    let b = helped(tellers[2].clone(), &["payments", "tracking"], &hub);
    let c = tellers[3].clone();
    let (of_a, of_b, of_c) = tokio::join!(a.clone().tell(0), b.clone().tell(0), c.clone().tell(0));
    sites.settle().await;
    let places = |matched, tracked, paid, depot| {
        [
            ("OfferCreated", matched),
            ("OfferAccepted", matched),
            ("IncidentAssigned", depot),
            ("TrackingStarted", tracked),
            ("PaymentCreated", paid),
            ("PaymentCompleted", paid),
        ]
    };
    let archive = &hub.bus;
    let at = places("hub", "depot-a", "hub", "depot-a");
    made_once(archive, "depot-a", &of_a, at).await;
    let at = places("depot-b", "hub", "hub", "depot-b");
    made_once(archive, "depot-b", &of_b, at).await;
    let at = places("depot-c", "depot-c", "depot-c", "depot-c");
    made_once(archive, "depot-c", &of_c, at).await;
    told_by(&hub, &a, &a, &of_a).await;
    told_by(&b, &hub, &b, &of_b).await;
    told_by(&c, &hub, &c, &of_c).await;

    // A depot that gives a role away: the hub takes it over while it runs.
    add(
        &sites,
        &sites.depots[2],
        "incident,vendor,match,tracking,notifications,auth,audit",
    );
    sites.depots[2].kill();
    sites.depots[2].start();
    sites.depots[2].ready().await;
    let bus = sites.depots[2].connect().await;
    let c = helped(Teller { bus, ..c }, &["payments"], &hub);
    let next_of_c = c.clone().tell(1).await;
    // Its queue of payments is still there, and nobody reads it: the archives are compared by what comes last.
    let last = publish(&c.bus, "depot-c").await;
    arrives(&hub.bus, "depot-c", &last).await;
    place::nothing_lost(&sites.all()).await;
    let at = places("depot-c", "depot-c", "hub", "depot-c");
    made_once(archive, "depot-c", &next_of_c, at).await;
    told_by(&c, &hub, &c, &next_of_c).await;
}

/// What a command of a depot's says, which must end as a usage error.
fn refused(place: &Place, arguments: &[&str]) -> String {
    let (code, _, words) = place.run(arguments);
    assert_eq!(code, Some(64), "{arguments:?}: {words}");
    words
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_depot_that_runs_what_the_hub_does_for_it_is_refused_and_so_is_one_without_audit() {
    let sites = Sites::hub().await;
    let depot = sites.depot("depot-a");
    for (roles, wrong) in [("match", "lacks audit"), ("audit,mtach", "mtach")] {
        let out = depot.dir.join("none.toml").display().to_string();
        let add = ["site", "add", "depot-a", "--out", &out, "--roles", roles];
        assert!(refused(&sites.hub, &add).contains(wrong), "{roles}");
    }
    add(&sites, &depot, "incident,match,audit");
    // What it lacked it does not get back: its queue would make again what the hub made.
    let out = depot.dir.join("site.toml").display().to_string();
    let more = ["site", "add", "depot-a", "--out", &out, "--roles", "all"];
    assert!(refused(&sites.hub, &more).contains("would make again"));

    let overlap = "lacks payments: the hub does it for depot-a";
    for arguments in [
        &["check", "--role", "incident,payments"][..],
        &["config", "check", "--role", "payments"],
        &["--role", "payments"],
        &["--role", "all,payments"],
    ] {
        let words = refused(&depot, arguments);
        let lines = words.lines().filter(|line| line.contains(overlap));
        assert_eq!(lines.count(), 1, "{arguments:?}: {words}");
    }
    // Another file, or a variable, that lists more than the site file.
    let output = depot
        .roadcall()
        .env("ROADCALL__SITE__ROLES", "[incident, payments, audit]")
        .args(["check", "--role", "all"])
        .stdout(Stdio::null())
        .output();
    let output = output.expect("runs");
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{words}");
    assert!(words.contains(overlap), "{words}");
    assert!(words.contains("ROADCALL__SITE__ROLES"), "{words}");
    // What it lists it may run, one by one as well.
    depot.json(&["config", "check", "--role", "match,audit"]);

    // A site file and a depot's file at the hub that somebody wrote without the audit role.
    let without_audit = |file: &std::path::Path| {
        let text = std::fs::read_to_string(file).expect("read");
        let changed = text.replace(r#","audit""#, "").replace(r#", "audit""#, "");
        assert_ne!(text, changed, "{}", file.display());
        std::fs::write(file, changed).expect("written");
    };
    without_audit(&depot.dir.join("site.toml"));
    for arguments in [&["check", "--role", "all"][..], &["--role", "all"]] {
        let words = refused(&depot, arguments);
        assert!(words.contains("lack audit"), "{words}");
    }
    without_audit(&sites.hub.dir.join("state/sites/depot-a.toml"));
    let words = refused(&sites.hub, &["check", "--role", "all"]);
    assert!(words.contains("lack audit"), "{words}");
    assert!(words.contains("depot-a.toml"), "{words}");
    // The hub that runs goes on with what it knew.
    eventually_within(PATIENCE, "the hub says so", || async {
        let log = sites.hub.log();
        log.contains("the roles do for depots what they did")
            .then_some(())
    })
    .await;
}
