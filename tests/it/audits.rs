//! `roadcall audit`: each archived event has one outcome in its queue, and one that has none is found.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::counting::{Fate, event_id, node, put, roadcall};
use crate::support::{connect, eventually, site};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_has_an_outcome_and_one_without_is_named() {
    let site = site().await;
    let state = site.dir.path().join("state");
    let role = node(&site, &state, "").await;
    let bus = connect(&site).await;
    for n in 0..40 {
        let fate = match n % 10 {
            3 => Fate::Contradicts,
            6 => Fate::Fails,
            _ => Fate::Fine,
        };
        put(&bus, n, n, fate).await;
    }
    eventually("all to be seen", || async {
        (role.counts()[0].1.received == 40).then_some(())
    })
    .await;
    let audit = || {
        let output = roadcall(&site, &state, "", &["audit", "--json"]);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        let rows: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{words}"));
        (output.status.code(), rows[0].clone())
    };
    let counts =
        |row: &Value| ["done", "dead", "pending", "unaccounted"].map(|name| row[name].clone());
    let (code, row) = audit();
    assert_eq!(
        counts(&row),
        [json!(32), json!(4), json!(4), json!(0)],
        "{row}"
    );
    assert_eq!(code, Some(0));

    // The role down, its file says the same; with a row gone it is not whole any more.
    role.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");
    let (code, row) = audit();
    assert_eq!(
        (code, counts(&row)),
        (Some(0), [json!(32), json!(4), json!(4), json!(0)])
    );
    let database = rusqlite::Connection::open(state.join("vendor.db")).expect("opened");
    let gone = database.execute(
        "DELETE FROM inbox WHERE event_id = ?1",
        [event_id(5).uuid().as_bytes().as_slice()],
    );
    assert_eq!(gone.expect("deleted"), 1);
    drop(database);
    let (code, row) = audit();
    assert_eq!(
        counts(&row),
        [json!(31), json!(4), json!(4), json!(1)],
        "{row}"
    );
    assert_eq!(
        (code, row["unaccountedSeqs"].as_array().map(Vec::len)),
        (Some(2), Some(1))
    );

    // Neither the role nor its file: nobody knows, and it says so.
    let elsewhere = site.dir.path().join("elsewhere");
    let output = roadcall(&site, &elsewhere, "", &["audit", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let rows: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(
        rows[0]["unknown"]
            .as_str()
            .is_some_and(|why| why.contains("does not run")),
        "{rows}"
    );
    site.broker.shutdown().await;
}
