//! A whole site of separate processes, each as itself, does its work.

use serde_json::{Value, json};

use super::{Guarded, ROLES};
use crate::sites::place;
use crate::sites::story::Teller;
use crate::support::{eventually, eventually_within};
use roadcall::bus::{Bus, Headers, Outgoing};
use roadcall::node::letter;

/// An event that nobody can read, for a queue that takes every one.
fn broken() -> Outgoing {
    let mut headers = Headers::default();
    headers.push("Content-Type", "application/json");
    Outgoing {
        subject: "roadcall.hub.incident.IncidentCreated.broken".to_owned(),
        headers,
        body: "{".into(),
        msg_id: "broken".to_owned(),
        expected_last_subject_seq: None,
    }
}

/// An event whose body says of itself what its subject does not.
fn claiming(site: &str, source: &str) -> Outgoing {
    let id = roadcall::event::Id::from_uuid(uuid::Uuid::new_v4());
    let now = "2026-01-15T10:00:00.000Z";
    let body = json!({ "id": id, "source": source, "detail-type": "UserVerified", "time": now, "site": site,
        "detail": { "eventId": id, "timestamp": now, "version": "1.0", "userId": id, "verifiedAt": now } });
    Outgoing {
        subject: format!("roadcall.hub.auth.UserVerified.{id}"),
        body: body.to_string().into(),
        msg_id: id.to_string(),
        ..broken()
    }
}

/// No process was refused anything.
fn nobody_was_refused(site: &Guarded) {
    for (role, ..) in ROLES
        .iter()
        .chain([&("broker", "", "", ""), &("gateway", "", "", "")])
    {
        let log = site.log(role);
        let refused = |line: &&str| {
            line.contains("Violation")
                || line.contains("no responders")
                || line.contains("No responders")
        };
        let found: Vec<&str> = log.lines().filter(refused).collect();
        assert!(found.is_empty(), "{role}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_of_identities_does_its_work() {
    let mut site = Guarded::new("[privacy]\nseal = true").await;
    site.start_roles().await;
    site.start("gateway");
    site.ready("gateway").await;
    let teller = Teller {
        bus: site.bus("operator").await,
        site: "hub".to_owned(),
        base: 0,
        elsewhere: None,
    };
    let incident = teller.clone().tell(1).await;
    let bus = teller.bus.clone();
    eventually_within(120, "the queues drain", || async {
        place::drained(&bus).await?.then_some(())
    })
    .await;

    // A letter from each queue that takes it, by the roles that own them.
    // Where an event comes from its subject says, and who contradicts it is not believed.
    let wrong = vec![
        broken(),
        claiming("depot-a", "roadcall.auth"),
        claiming("hub", "roadcall.vendor"),
    ];
    assert!(bus.publish(wrong).await.stopped.is_none());
    assert!(
        bus.publish(vec![claiming("hub", "roadcall.auth")])
            .await
            .stopped
            .is_none()
    );
    eventually("the letters", || async {
        let audit = letter::of_queue(&bus, "audit-queue").await.ok()?;
        let reporting = letter::of_queue(&bus, "reporting-queue").await.ok()?;
        (audit.len() == 3 && reporting.len() == 3).then_some(())
    })
    .await;

    // What became of every event is known, a replay goes through, a snapshot is taken; somebody who only reads sees it.
    eventually_within(60, "the audit to find everything", || async {
        let (code, rows, words) = site.run(&["audit", "--json"]);
        let rows = rows.as_array()?.clone();
        let lost = rows
            .iter()
            .filter(|row| row["unaccounted"] != json!(0))
            .count();
        assert!(words.is_empty() || code != Some(0), "{words}");
        (code == Some(0) && lost == 0).then_some(())
    })
    .await;
    let replay = [
        "replay",
        "start",
        "--queue",
        "tracking-queue",
        "--from-seq",
        "1",
        "--wait",
        "--json",
    ];
    assert_eq!(site.json(&replay)["state"], "COMPLETED");
    site.json(&["snapshot", "create", "--role", "incident", "--json"]);
    let letters = site.json(&["--identity", "reader", "dlq", "list", "--json"]);
    assert!(
        letters.as_array().is_some_and(|all| all.len() >= 2),
        "{letters}"
    );
    let queues = site.json(&["--identity", "reader", "queue", "list", "--json"]);
    assert_eq!(queues.as_array().map(Vec::len), Some(10), "{queues}");
    let alarms = site.json(&["--identity", "reader", "alarm", "list", "--json"]);
    assert!(alarms.is_array() || alarms.is_object(), "{alarms}");
    let one = [
        "--identity",
        "reader",
        "incident",
        "get",
        &incident,
        "--json",
    ];
    let (code, _, words) = site.run(&one);
    assert_ne!(code, Some(0), "{words}");
    let purge = [
        "--identity",
        "reader",
        "dlq",
        "purge",
        "--queue",
        "audit-queue",
        "--all",
        "--because",
        "x",
        "--yes",
    ];
    let (code, _, words) = site.run(&purge);
    assert_ne!(code, Some(0), "{words}");
    let seen = site.json(&["incident", "get", &incident, "--json"]);
    assert_eq!(seen["status"], "closed", "{seen}");
    let doctor = site.run(&["doctor", "--json"]);
    assert_ne!(doctor.1, Value::Null, "{}", doctor.2);

    // The door asks the roles as itself.
    let door = site.log("gateway");
    let address = door
        .split("\"address\":\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    // Another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let answer = reqwest::get(format!("http://{}/readyz", address.expect("an address"))).await;
    let answer = answer.expect("answered");
    assert!(answer.status().is_success(), "{}", answer.status());
    nobody_was_refused(&site);
}
