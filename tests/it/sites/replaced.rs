//! A depot's box is lost with everything on it; another one is put in its place by one command and its site file (DESIGN 8).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::ledger::{account, two_with};
use super::place::{PATIENCE, ids_of};
use super::publish;
use crate::restores::{WRITTEN, business, outcomes};
use crate::support::eventually_within;
use roadcall::role::RoleName;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_box_has_its_events_back_and_comes_to_the_state_of_a_twin_that_was_never_lost() {
    // Sealed as well: the keys of the dead box are at the hub, and with them every row comes out as the twin has it.
    let mut sites = two_with("[privacy]\nseal = true").await;
    // Whole stories on both sides, whose commands are over when the snapshots are taken.
    for teller in sites.tellers().await {
        teller.clone().tell(1).await;
        teller.tell(2).await;
    }
    account(&sites.depots[0], 1);
    sites.settle().await;
    for role in RoleName::BUILT {
        sites.depots[0].json(&["snapshot", "create", "--role", role.as_str(), "--json"]);
    }
    let (hub, depots) = sites.connect().await;
    eventually_within(PATIENCE, "copies at the hub", || async {
        let copies = hub.objects("SNAPSHOTS_depot-a").await.ok()?;
        let own = depots[0].objects("SNAPSHOTS").await.ok()?;
        let name = |info: &roadcall::bus::jetstream::objects::ObjectInfo| info.digest.clone();
        let here: BTreeSet<String> = copies.iter().map(name).collect();
        (copies.len() >= 12 && own.iter().all(|info| here.contains(&info.digest))).then_some(())
    })
    .await;
    // What comes after the snapshots, from here and from the hub.
    for n in 100..103 {
        account(&sites.hub, n);
        publish(&depots[0], "depot-a").await;
    }
    sites.settle().await;
    let (at_hub, own) = (
        ids_of(&hub, "depot-a").await.expect("read"),
        ids_of(&depots[0], "depot-a").await.expect("read"),
    );
    assert_eq!(at_hub, own);
    let down = ids_of(&depots[0], "hub").await.expect("read");
    drop(depots);

    let depot = &mut sites.depots[0];
    depot.kill();
    let state = depot.dir.join("state");
    let twin = depot.dir.join("twin");
    std::fs::rename(&state, &twin).expect("the box is gone");
    let (code, _, words) = depot.run(&["site", "restore"]);
    assert_eq!(code, Some(64), "without --yes nothing is done: {words}");
    let done = depot.json(&["site", "restore", "--yes", "--json"]);
    assert_eq!(done["events"], json!(own.len()), "{done}");
    assert!(done["keys"].as_u64() > Some(1), "{done}");
    let restored = done["restored"].as_array().map(Vec::len);
    assert_eq!((restored, &done["without"]), (Some(12), &json!([])));
    // It can be run again.
    let again = depot.json(&["site", "restore", "--yes", "--json"]);
    assert_eq!(
        (&again["events"], &again["restored"]),
        (&json!(0), &json!([]))
    );
    depot.start();
    depot.ready().await;
    sites.settle().await;
    let (_, depots) = sites.connect().await;
    assert_eq!(
        ids_of(&depots[0], "depot-a").await.expect("read")[..own.len()],
        own[..],
        "its own events, in their order"
    );
    assert_eq!(
        ids_of(&hub, "depot-a").await.expect("read")[..own.len()],
        own[..],
        "and the hub has none of them again"
    );
    // What was made since, on either side, leads to more.
    let mut new: BTreeSet<String> = BTreeSet::new();
    for origin in ["hub", "depot-a"] {
        new.extend(ids_of(&depots[0], origin).await.expect("read"));
    }
    new.retain(|id| !own.contains(id) && !down.contains(id));
    // A row names them as text or as bytes.
    let bytes = |id: &String| format!("{:?}", uuid::Uuid::parse_str(id).expect("an id").as_bytes());
    new.extend(new.iter().map(bytes).collect::<Vec<_>>());
    let path = |dir: &std::path::Path, role: RoleName| dir.join(format!("{role}.db"));
    for role in RoleName::BUILT {
        if role == RoleName::Audit {
            // It counts what this site is and how often it was looked at, and that goes on.
            continue;
        }
        let (ours, theirs) = (path(&state, role), path(&twin, role));
        let (now, then) = (business(&ours, &WRITTEN), business(&theirs, &WRITTEN));
        for (table, rows) in &then {
            if table.starts_with("alarm") {
                // Nobody measured while the box was gone: that raises one, and these rows name no event.
                continue;
            }
            let rows_now = now.get(table).cloned().unwrap_or_default();
            let more: Vec<&String> = rows_now
                .iter()
                .filter(|row| !rows.contains(row) && !new.iter().any(|id| row.contains(id)))
                .collect();
            let less: Vec<&String> = rows.iter().filter(|row| !rows_now.contains(row)).collect();
            assert!(
                more.is_empty() && less.is_empty(),
                "{role}.{table}\nmore: {more:#?}\nless: {less:#?}"
            );
        }
        let (now, then) = (outcomes(&ours), outcomes(&theirs));
        for (event, outcome) in &then {
            assert_eq!(now.get(event), Some(outcome), "{role}");
        }
    }

    // And it goes on: on both sides, with nothing missing.
    for teller in sites.tellers().await {
        teller.tell(3).await;
    }
    account(&sites.depots[0], 2);
    sites.settle().await;
    let row: Value = sites.hub.run(&["site", "status", "depot-a", "--json"]).1;
    assert_eq!(row[0]["missing"], json!([]), "{row}");
    assert_ne!(row[0]["reinstalledAt"], Value::Null, "{row}");
}
