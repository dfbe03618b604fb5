//! Depots come, go and come again.

use serde_json::json;

use super::place::{Place, ids_of, same_everywhere};
use super::wire::Weather;
use super::{Sites, add, publish};
use crate::support::eventually;
use roadcall::bus::jetstream::JetStream;

pub(super) async fn arrives(bus: &JetStream, origin: &str, id: &str) {
    eventually(&format!("event {id} of {origin} arrives"), || async {
        let ids = ids_of(bus, origin).await?;
        ids.iter().any(|found| found == id).then_some(())
    })
    .await;
}

fn in_sync_with_its_files(place: &Place) {
    assert_eq!(place.json(&["topology", "plan", "--json"]), json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_depot_is_let_in_cut_off_and_let_in_again_where_it_was() {
    let mut sites = Sites::with(&["depot-a"]).await;
    let (hub, depots) = sites.connect().await;
    let depot = &depots[0];
    in_sync_with_its_files(&sites.hub);
    in_sync_with_its_files(&sites.depots[0]);
    // More than a consumer may have on its way, so that one that begins anew is seen.
    for _ in 0..2200 {
        publish(&hub, "hub").await;
    }
    let (down, up) = (publish(&hub, "hub").await, publish(depot, "depot-a").await);
    arrives(depot, "hub", &down).await;
    arrives(&hub, "depot-a", &up).await;

    let file = sites.hub.dir.join("state/sites/depot-a.toml");
    let kept = std::fs::read(&file).expect("read");
    let before = sites.wire.so_far();
    sites
        .hub
        .json(&["site", "remove", "depot-a", "--yes", "--json"]);
    // It is put out, knocks again and is refused.
    sites.wire.again(before).await;
    eventually("the depot is refused", || async {
        let log = sites.hub.log();
        log.contains("authentication error").then_some(())
    })
    .await;
    let (down, up) = (publish(&hub, "hub").await, publish(depot, "depot-a").await);
    in_sync_with_its_files(&sites.hub);
    let refused_again = sites.wire.so_far();
    sites.wire.again(refused_again).await;
    assert!(!ids_of(&hub, "depot-a").await.expect("read").contains(&up));
    assert!(!ids_of(depot, "hub").await.expect("read").contains(&down));

    // The hub's file is put back, as on another box of a hub of several: the depot itself has noticed nothing.
    std::fs::write(&file, kept).expect("written");
    arrives(depot, "hub", &down).await;
    arrives(&hub, "depot-a", &up).await;
    same_everywhere(&hub, &[("depot-a", depot)]).await;

    // Removed once more, and let in with a new seed.
    sites
        .hub
        .json(&["site", "remove", "depot-a", "--yes", "--json"]);
    let (down, up) = (publish(&hub, "hub").await, publish(depot, "depot-a").await);
    sites.hub.json(&add("depot-a", &sites.depots[0]));
    sites.depots[0].kill();
    sites.depots[0].start();
    sites.depots[0].ready().await;
    let depot = sites.depots[0].connect().await;
    arrives(&depot, "hub", &down).await;
    arrives(&hub, "depot-a", &up).await;
    same_everywhere(&hub, &[("depot-a", &depot)]).await;
    in_sync_with_its_files(&sites.hub);
    in_sync_with_its_files(&sites.depots[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_seed_is_refused_and_the_depot_works_alone() {
    let sites = Sites::hub().await;
    let mut depot = sites.depot("depot-a");
    sites.hub.json(&add("depot-a", &depot));
    let file = depot.dir.join("site.toml");
    let text = std::fs::read_to_string(&file).expect("read");
    let line = text
        .lines()
        .find(|line| line.starts_with("seed"))
        .expect("a seed");
    let guessed = nkeys::KeyPair::new_user().seed().expect("a seed");
    std::fs::write(&file, text.replace(line, &format!("seed = '{guessed}'"))).expect("written");
    depot.start();
    depot.ready().await;
    eventually("the hub refuses it", || async {
        sites
            .hub
            .log()
            .contains("authentication error")
            .then_some(())
    })
    .await;
    let bus = depot.connect().await;
    let id = publish(&bus, "depot-a").await;
    assert!(ids_of(&bus, "depot-a").await.expect("read").contains(&id));
    let hub = sites.hub.connect().await;
    assert_eq!(
        ids_of(&hub, "depot-a").await.expect("read"),
        Vec::<String>::new()
    );
    // The right one lets it in, with what it has made so far.
    depot.kill();
    std::fs::write(&file, text).expect("written");
    depot.start();
    depot.ready().await;
    arrives(&hub, "depot-a", &id).await;
}

/// A depot from before there were seeds gets one, its site file is changed, and only then its password counts no more; the same
/// again with its seed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_depot_proves_itself_with_is_changed_without_a_cut() {
    let sites = Sites::hub().await;
    let mut depot = sites.depot("depot-a");
    sites.hub.json(&add("depot-a", &depot));
    let (known, given) = (
        sites.hub.dir.join("state/sites/depot-a.toml"),
        depot.dir.join("site.toml"),
    );
    for file in [&known, &given] {
        let text = std::fs::read_to_string(file).expect("read");
        let seed = text.lines().find(|line| line.starts_with("seed"));
        let text = text.replace(seed.expect("a seed"), "password = \"abc123\"");
        std::fs::write(file, text).expect("written");
    }
    depot.start();
    depot.ready().await;
    let hub = sites.hub.connect().await;
    let id = publish(&depot.connect().await, "depot-a").await;
    arrives(&hub, "depot-a", &id).await;
    for round in 0..2 {
        let file_before = std::fs::read_to_string(&given).expect("read");
        let renewed: Vec<&str> = add("depot-a", &depot)
            .into_iter()
            .chain(["--renew"])
            .collect();
        sites.hub.json(&renewed);
        // What it had still counts: it comes in again with it.
        let before = sites.wire.so_far();
        let mut cut = false;
        // Cut and clear by turns: its connection need not notice the first one.
        eventually("a depot comes in again", || {
            let came = sites.wire.so_far() > before;
            cut = !cut && !came;
            sites
                .wire
                .set(if cut { Weather::Cut } else { Weather::Clear });
            async move { came.then_some(()) }
        })
        .await;
        let id = publish(&depot.connect().await, "depot-a").await;
        arrives(&hub, "depot-a", &id).await;
        assert_ne!(
            std::fs::read_to_string(&given).expect("read"),
            file_before,
            "{round}"
        );
        depot.kill();
        depot.start();
        depot.ready().await;
        let retired: Vec<&str> = add("depot-a", &depot)
            .into_iter()
            .chain(["--retire-old"])
            .collect();
        sites.hub.json(&retired);
        let id = publish(&depot.connect().await, "depot-a").await;
        arrives(&hub, "depot-a", &id).await;
    }
    let left = std::fs::read_to_string(&known).expect("read");
    assert!(
        !left.contains("password") && !left.contains("older"),
        "{left}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_leaves_the_other_depots_alone() {
    let sites = Sites::with(&["depot-a", "depot-b"]).await;
    let (hub, depots) = sites.connect().await;
    sites
        .hub
        .json(&["site", "remove", "depot-a", "--yes", "--json"]);
    eventually("depot-a is refused", || async {
        sites
            .hub
            .log()
            .contains("authentication error")
            .then_some(())
    })
    .await;
    let (down, up) = (
        publish(&hub, "hub").await,
        publish(&depots[1], "depot-b").await,
    );
    arrives(&depots[1], "hub", &down).await;
    arrives(&hub, "depot-b", &up).await;
}
