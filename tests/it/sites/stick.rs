//! Events that are carried on a stick because the link is down for long: before it is back or after, all of it or a part, once or
//! twice (DESIGN 8).

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::ledger::{account, two};
use super::place::{PATIENCE, Place, ids_of, nothing_lost};
use super::publish;
use super::wire::Weather;
use crate::support::eventually_within;
use roadcall::bus::jetstream::JetStream;

fn export(from: &Place, name: &str, more: &[&str]) -> String {
    let stick = from.dir.join(name).display().to_string();
    let words = ["archive", "export", "--out", &stick, "--json"];
    from.json(&words.iter().chain(more).copied().collect::<Vec<_>>());
    stick
}

/// The same events of the depot on both sides, none twice, whatever their order.
async fn same(hub: &JetStream, depot: &JetStream) {
    eventually_within(PATIENCE, "the hub has what the depot has", || async {
        let here: BTreeSet<String> = ids_of(hub, "depot-a").await?.into_iter().collect();
        let there: BTreeSet<String> = ids_of(depot, "depot-a").await?.into_iter().collect();
        (here == there).then_some(())
    })
    .await;
}

/// The server itself passes over what it had moments before; a stick takes days. So it forgets within half a second here.
async fn forgetful(hub: &JetStream) {
    let asked = hub.api("STREAM.INFO.EVENTS", &Value::Null).await;
    let mut config = asked.expect("asked")["config"].clone();
    config["duplicate_window"] = json!(500_000_000);
    let done = hub.api("STREAM.UPDATE.EVENTS", &config).await;
    done.expect("updated");
}

/// Longer than it remembers.
async fn forgotten() {
    tokio::time::sleep(Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_carried_before_the_link_is_back_does_not_come_again() {
    let sites = two().await;
    let depot = &sites.depots[0];
    account(depot, 1);
    sites.settle().await;
    let (hub, depots) = sites.connect().await;
    forgetful(&hub).await;
    sites.wire.set(Weather::Cut);
    for n in 2..6 {
        account(depot, n);
        publish(&depots[0], "depot-a").await;
    }
    let stick = export(depot, "first.ndjson", &[]);
    let carried = ids_of(&depots[0], "depot-a").await.expect("read");
    let done: Value = sites.hub.json(&["archive", "import", &stick, "--json"]);
    assert!(done["imported"].as_u64() >= Some(8), "{done}");
    let here = ids_of(&hub, "depot-a").await.expect("read");
    assert!(
        carried.iter().all(|id| here.contains(id)),
        "it is there while the link is cut"
    );
    for n in 6..9 {
        account(depot, n);
        publish(&depots[0], "depot-a").await;
    }
    forgotten().await;
    sites.wire.set(Weather::Clear);
    same(&hub, &depots[0]).await;

    // The same stick once more, now that all of it is there; a part of another one, with a hole before it; and the link goes on.
    let again: Value = sites.hub.json(&["archive", "import", &stick, "--json"]);
    assert_eq!(again["imported"], json!(0), "{again}");
    account(depot, 9);
    same(&hub, &depots[0]).await;
    forgotten().await;
    same(&hub, &depots[0]).await;
    sites.wire.set(Weather::Cut);
    for n in 10..14 {
        account(depot, n);
        publish(&depots[0], "depot-a").await;
    }
    use roadcall::bus::Bus as _;
    let last = depots[0].stream("EVENTS").await.expect("asked").last_seq;
    let part = export(
        depot,
        "part.ndjson",
        &["--from-seq", &(last - 2).to_string()],
    );
    sites.hub.json(&["archive", "import", &part, "--json"]);
    account(depot, 14);
    forgotten().await;
    sites.wire.set(Weather::Clear);
    same(&hub, &depots[0]).await;
    for n in 15..18 {
        account(depot, n);
        publish(&depots[0], "depot-a").await;
    }
    same(&hub, &depots[0]).await;
    nothing_lost(&sites.all()).await;
    eventually_within(PATIENCE, "nothing is missing", || async {
        let (_, rows, _) = sites.hub.run(&["site", "status", "depot-a", "--json"]);
        (rows[0]["missing"] == json!([]) && rows[0]["linked"] == json!(true)).then_some(())
    })
    .await;
}
