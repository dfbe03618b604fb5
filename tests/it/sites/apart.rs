//! A hub and a depot where everybody who connects is told apart: what crosses the link crosses accounts as well.

use std::time::Duration;

use serde_json::{Value, json};

use super::place::{PATIENCE, Place, same_everywhere};
use super::story::Teller;
use super::{add, publish};
use crate::support::{eventually_within, free_port};
use roadcall::bus::{Bus, Headers};

/// Both look at each other every second.
const OFTEN: &str = "[audit]\nalarm_period = '1s'\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_depot_and_its_hub_work_together_with_identities_on_both() {
    let root = tempfile::TempDir::new().expect("a directory");
    let door = free_port();
    let doors = format!(
        "leaf_listen = '127.0.0.1:{door}'\nleaf_url = ['nats-leaf://127.0.0.1:{door}']\n{OFTEN}"
    );
    let mut hub = Place::new(root.path(), "hub", "hub", free_port(), &doors).with_identities();
    hub.start();
    hub.ready().await;
    let depot = Place::new(root.path(), "depot-a", "depot-a", free_port(), OFTEN);
    let mut depot = depot.with_identities();
    hub.json(&add("depot-a", &depot));
    depot.start();
    depot.ready().await;

    // The depot's incident is told to the hub, and the hub's events come down.
    let (at_hub, at_depot) = (hub.connect().await, depot.connect().await);
    let teller = Teller {
        bus: at_depot.clone(),
        site: "depot-a".to_owned(),
        base: 300,
        elsewhere: None,
    };
    teller.tell(1).await;
    publish(&at_hub, "hub").await;
    same_everywhere(&at_hub, &[("depot-a", &at_depot)]).await;

    // The hub's audit role asks the depot's over the link: for the snapshots, which come in pieces.
    depot.json(&["snapshot", "create", "--role", "incident", "--json"]);
    eventually_within(PATIENCE, "the hub has the depot's snapshot", || async {
        let copies = at_hub.objects("SNAPSHOTS_depot-a").await.ok()?;
        (!copies.is_empty()).then_some(())
    })
    .await;
    // The depot's asks the hub's, which gives an answer to whoever it is about.
    let (asker, mut headers) = (depot.connect_by("audit").await, Headers::default());
    headers.push("Roadcall-Actor", "system:node");
    eventually_within(PATIENCE, "the hub answers the depot", || async {
        let (headers, wait) = (headers.clone(), Duration::from_secs(5));
        let asked = asker.call_hub("depot-a", "resend", &headers, b"{}".to_vec(), wait);
        let answer: Value = serde_json::from_slice(&asked.await.ok()?.body).ok()?;
        (answer["error"]["code"] == "VALIDATION_ERROR").then_some(())
    })
    .await;
    eventually_within(PATIENCE, "both have heard of each other", || async {
        for (place, other) in [(&hub, "depot-a"), (&depot, "hub")] {
            let (_, rows, _) = place.run(&["site", "list", "--json"]);
            let row = rows
                .as_array()?
                .iter()
                .find(|row| row["site"] == other)?
                .clone();
            let well =
                row["linked"] == true && row["missing"] == json!([]) && !row["lastSeen"].is_null();
            well.then_some(())?;
        }
        Some(())
    })
    .await;
    for place in [&hub, &depot] {
        let log = place.log();
        let refused: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("Violation"))
            .collect();
        assert!(refused.is_empty(), "{refused:?}");
    }
    assert!(at_depot.stream("EVENTS").await.expect("asked").messages > 0);
}
