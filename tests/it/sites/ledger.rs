//! What did not come is named, with its reason: expired upstream, an archive made anew, a broker's store set back (DESIGN 8).

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::place::{PATIENCE, Place, ids_of};
use super::wire::Weather;
use super::{Sites, publish};
use crate::support::eventually_within;
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, EVENTS};
use roadcall::config::{Loaded, Sources};

/// A driver's account of its own: an event that a role made, and numbered.
pub fn account(place: &Place, n: u32) {
    let phone = format!("+1888{n:07}");
    let body = json!({ "role": "driver", "phone": phone, "email": format!("d{n}@fleet.example"), "name": "D" });
    place.json(&["call", "auth.create_user", &body.to_string()]);
}

/// What the hub's row about a site is, once `enough` of it.
async fn row(hub: &Place, site: &str, what: &str, enough: impl Fn(&Value) -> bool) -> Value {
    eventually_within(PATIENCE, what, || async {
        let (_, rows, _) = hub.run(&["site", "status", site, "--json"]);
        rows.as_array()?.first().filter(|row| enough(row)).cloned()
    })
    .await
}

/// Missing ranges of one role.
fn missing(row: &Value, role: &str) -> Vec<(u64, u64, String)> {
    let ranges = row["missingEvents"].as_array().expect("a list");
    ranges
        .iter()
        .filter(|range| range["role"] == role)
        .map(|range| {
            let edge = |name: &str| range[name].as_u64().expect("a number");
            let reason = range["reason"].as_str().expect("a text");
            (edge("from"), edge("to"), reason.to_owned())
        })
        .collect()
}

/// The numbers that the archive has of a role's events of a site.
async fn numbers(bus: &JetStream, site: &str, role: &str) -> BTreeSet<u64> {
    let (filter, mut from) = (format!("roadcall.{site}.>"), 1);
    let mut found = BTreeSet::new();
    loop {
        let stored = bus
            .read(EVENTS, &filter, from, 1000, true)
            .await
            .expect("read");
        let Some(last) = stored.last() else {
            return found;
        };
        from = last.seq + 1;
        for message in &stored {
            let made = message.headers.get("Roadcall-Seq").unwrap_or_default();
            if let Some((_, n)) = made
                .rsplit_once(':')
                .filter(|_| made.starts_with(&format!("{role}:")))
            {
                found.insert(n.parse().expect("a number"));
            }
        }
    }
}

/// Lets the archive's events expire at once, and keeps new ones again.
async fn expire(bus: &JetStream) {
    let info = bus
        .api(&format!("STREAM.INFO.{EVENTS}"), &Value::Null)
        .await
        .expect("asked");
    let kept = info["config"].clone();
    let last = bus.stream(EVENTS).await.expect("asked").last_seq;
    let mut brief = kept.clone();
    brief["max_age"] = json!(1_000_000_000);
    brief["duplicate_window"] = json!(500_000_000);
    bus.api(&format!("STREAM.UPDATE.{EVENTS}"), &brief)
        .await
        .expect("brief");
    eventually_within(PATIENCE, "the archive to let go of them", || async {
        (bus.stream(EVENTS).await.ok()?.first_seq > last).then_some(())
    })
    .await;
    bus.api(&format!("STREAM.UPDATE.{EVENTS}"), &kept)
        .await
        .expect("kept");
}

/// Sites whose alarms, and with them their reports, are looked at each second.
pub fn each_second(place: &Place) {
    let file = place.dir.join("roadcall.toml");
    let text = std::fs::read_to_string(&file).expect("read");
    std::fs::write(&file, format!("{text}[audit]\nalarm_period = '1s'\n")).expect("written");
}

pub async fn two() -> Sites {
    two_with("").await
}

/// The same with these sections in both configurations.
pub async fn two_with(sections: &str) -> Sites {
    let more = |place: &Place| {
        let file = place.dir.join("roadcall.toml");
        let text = std::fs::read_to_string(&file).expect("read");
        std::fs::write(&file, format!("{text}{sections}\n")).expect("written");
    };
    let mut sites = Sites::hub().await;
    each_second(&sites.hub);
    more(&sites.hub);
    sites.hub.kill();
    sites.hub.start();
    sites.hub.ready().await;
    let mut depot = sites.depot("depot-a");
    each_second(&depot);
    more(&depot);
    sites.hub.json(&super::add("depot-a", &depot));
    depot.start();
    depot.ready().await;
    sites.depots.push(depot);
    sites
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_everything_came_from_says_what_it_runs_and_has_no_gap() {
    let sites = two().await;
    account(&sites.depots[0], 1);
    let row = row(&sites.hub, "depot-a", "its report", |row| {
        row["reportedAt"] != json!(null) && row["lag"] == json!(0)
    })
    .await;
    assert_eq!(row["linked"], json!(true), "{row}");
    assert_eq!(row["missing"], json!([]), "{row}");
    assert_eq!(row["version"], json!(env!("CARGO_PKG_VERSION")), "{row}");
    assert_eq!(row["reinstalledAt"], json!(null), "{row}");
    assert!(
        row["roles"]
            .as_array()
            .is_some_and(|roles| roles.len() == 12),
        "{row}"
    );
    let above = sites.depots[0].json(&["site", "list", "--json"]);
    assert_eq!(above[0]["site"], json!("hub"), "{above}");
    assert_eq!(above[0]["linked"], json!(true), "{above}");
    let (code, _, words) = sites.hub.run(&["site", "status", "depot-z"]);
    assert_eq!(code, Some(1), "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_depot_tells_of_the_configuration_that_it_took_over_while_it_ran() {
    let sites = two().await;
    let depot = &sites.depots[0];
    let file = depot.dir.join("roadcall.toml");
    let digest = || {
        let files = vec![file.clone()];
        let loaded = Loaded::load(&Sources {
            files,
            ..Sources::default()
        });
        json!(loaded.expect("sound").config.digest())
    };
    let before = digest();
    row(&sites.hub, "depot-a", "its report", |row| {
        row["configDigest"] == before
    })
    .await;
    let text = std::fs::read_to_string(&file).expect("read");
    let changed = text.replace("retry_delay = '300ms'", "retry_delay = '400ms'");
    std::fs::write(&file, changed).expect("written");
    let after = digest();
    assert_ne!(before, after);
    depot.hang_up();
    row(&sites.hub, "depot-a", "its next report", |row| {
        row["configDigest"] == after
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expired_before_the_link_came_back_is_named_as_expired() {
    let sites = two().await;
    let depot = &sites.depots[0];
    account(depot, 1);
    row(&sites.hub, "depot-a", "the first", |row| {
        row["lastSeen"] != json!(null)
    })
    .await;
    sites.settle().await;
    sites.wire.set(Weather::Cut);
    for n in 2..6 {
        account(depot, n);
    }
    let (hub, depots) = sites.connect().await;
    let here = numbers(&hub, "depot-a", "auth").await;
    let lost: BTreeSet<u64> = numbers(&depots[0], "depot-a", "auth")
        .await
        .difference(&here)
        .copied()
        .collect();
    assert_eq!(lost.len(), 4);
    expire(&depots[0]).await;
    account(depot, 6);
    sites.wire.set(Weather::Clear);
    let row = row(&sites.hub, "depot-a", "the gap", |row| {
        !missing(row, "auth").is_empty() && missing(row, "auth")[0].2 != "unknown"
    })
    .await;
    let range = (
        *lost.first().expect("some"),
        *lost.last().expect("some"),
        "expired".to_owned(),
    );
    assert_eq!(missing(&row, "auth"), [range]);
    let (code, _, _) = sites.hub.run(&["site", "status"]);
    assert_eq!(code, Some(2), "gaps are differences");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reinstalled_depot_is_told_from_a_quiet_one_and_what_it_still_has_comes() {
    let mut sites = two().await;
    account(&sites.depots[0], 1);
    sites.settle().await;
    row(&sites.hub, "depot-a", "its report", |row| {
        row["reportedAt"] != json!(null)
    })
    .await;
    sites.wire.set(Weather::Cut);
    for n in 2..6 {
        account(&sites.depots[0], n);
    }
    let depot = &mut sites.depots[0];
    depot.kill();
    let broker = depot.dir.join("state/nats/jetstream");
    std::fs::remove_dir_all(&broker).expect("the disk with the archive is gone");
    depot.start();
    depot.ready().await;
    sites.wire.set(Weather::Clear);
    let row = row(&sites.hub, "depot-a", "the reinstalled box", |row| {
        row["reinstalledAt"] != json!(null)
    })
    .await;
    assert_eq!(row["linked"], json!(true), "{row}");
    // Its roles' outboxes still had what was published a moment ago, and brought it to the new archive. There it has sequences
    // that the hub takes for known (BROKER 0 D), so the link passes it by; the hub asks for it.
    let (hub, depots) = sites.connect().await;
    let all = BTreeSet::from([1, 2, 3, 4, 5]);
    assert_eq!(
        numbers(&depots[0], "depot-a", "auth").await,
        all,
        "its roles brought it again"
    );
    eventually_within(PATIENCE, "the hub has it", || async {
        (numbers(&hub, "depot-a", "auth").await == all).then_some(())
    })
    .await;
    let row = self::row(&sites.hub, "depot-a", "no gap", |row| {
        missing(row, "auth").is_empty()
    })
    .await;
    assert_eq!(missing(&row, "auth"), [], "{row}");
    assert!(ids_of(&hub, "depot-a").await.is_some(), "nothing twice");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("listed") {
        let entry = entry.expect("listed");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("known").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("copied")),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_whose_store_was_set_back_gets_the_rest_again() {
    let mut sites = two().await;
    account(&sites.depots[0], 1);
    account(&sites.hub, 101);
    sites.settle().await;
    sites.hub.kill();
    let store = sites.hub.dir.join("state/nats/jetstream");
    let older = sites.hub.dir.join("older");
    copy(&store, &older);
    sites.hub.start();
    sites.hub.ready().await;
    for n in 2..6 {
        account(&sites.depots[0], n);
    }
    sites.settle().await;
    let (hub, _) = sites.connect().await;
    let before = ids_of(&hub, "depot-a").await.expect("read");
    sites.hub.kill();
    std::fs::remove_dir_all(&store).expect("removed");
    copy(&older, &store);
    sites.hub.start();
    sites.hub.ready().await;
    let (hub, _) = sites.connect().await;
    // Its roles' ledger says that all of it came; the archive says otherwise.
    eventually_within(PATIENCE, "the archive has again what it had", || async {
        let now = ids_of(&hub, "depot-a").await?;
        let now: BTreeSet<String> = now.into_iter().collect();
        before.iter().all(|id| now.contains(id)).then_some(())
    })
    .await;
    publish(&hub, "hub").await;
    account(&sites.depots[0], 6);
    let row = row(&sites.hub, "depot-a", "no gap", |row| {
        row["lag"] == json!(0) && row["missing"] == json!([])
    })
    .await;
    assert_eq!(row["missing"], json!([]), "{row}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_depot_makes_after_its_store_was_set_back_comes_although_the_link_passes_it_by() {
    let mut sites = two().await;
    account(&sites.depots[0], 1);
    sites.settle().await;
    let depot = &mut sites.depots[0];
    depot.kill();
    let store = depot.dir.join("state/nats/jetstream");
    let older = depot.dir.join("older");
    copy(&store, &older);
    depot.start();
    depot.ready().await;
    let (_, depots) = sites.connect().await;
    for n in 2..12 {
        account(&sites.depots[0], n);
        publish(&depots[0], "depot-a").await;
    }
    sites.settle().await;
    let depot = &mut sites.depots[0];
    depot.kill();
    std::fs::remove_dir_all(&store).expect("removed");
    copy(&older, &store);
    depot.start();
    depot.ready().await;
    // They take sequences that the hub has had (BROKER 0 D), and none comes behind them that would show the gap.
    let (hub, depots) = sites.connect().await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(publish(&depots[0], "depot-a").await);
    }
    account(&sites.depots[0], 12);
    eventually_within(PATIENCE, "all of it at the hub", || async {
        let ids = ids_of(&hub, "depot-a").await?;
        let numbers = numbers(&hub, "depot-a", "auth").await;
        (made.iter().all(|id| ids.contains(id)) && numbers.contains(&12)).then_some(())
    })
    .await;
    let again = sites.hub.log().contains("sent again");
    assert!(again, "it came by the link; then this test shows nothing");
}
