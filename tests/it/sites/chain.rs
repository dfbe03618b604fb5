//! The ledger of a whole site: calls to the broker's API, commands that were refused, and the archive as a witness of its end.

use serde_json::{Value, json};

use super::Sites;
use super::ledger::{account, each_second};
use super::place::PATIENCE;
use crate::support::eventually_within;

fn rows(sites: &Sites) -> Vec<Value> {
    let output = sites
        .hub
        .roadcall()
        .args(["ledger", "export"])
        .output()
        .expect("runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

async fn row(sites: &Sites, action: &str, subject: &str) -> Value {
    let what = format!("{action} of {subject} in the ledger");
    eventually_within(PATIENCE, &what, || async {
        let mut rows = rows(sites).into_iter();
        rows.find(|row| row["action"] == action && row["subject"] == subject)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_calls_and_refusals_are_in_the_ledger_and_one_that_is_written_anew_differs_from_the_archive()
 {
    let mut sites = Sites::hub().await;
    each_second(&sites.hub);
    sites.hub.kill();
    sites.hub.start();
    sites.hub.ready().await;
    let (hub, _) = sites.connect().await;

    // Somebody at the broker: what changes something is noted, also where the server refuses it; a look is not.
    let spare = json!({ "name": "SPARE", "subjects": ["spare.>"] });
    hub.api("STREAM.CREATE.SPARE", &spare).await.expect("made");
    hub.api("STREAM.INFO.SPARE", &Value::Null)
        .await
        .expect("there");
    hub.api("STREAM.DELETE.SPARE", &Value::Null)
        .await
        .expect("gone");
    let purge = hub.api("STREAM.PURGE.EVENTS", &Value::Null).await;
    purge.expect_err("the archive lets nobody purge it");
    for (action, subject) in [
        ("STREAM.CREATE", "jetstream/SPARE"),
        ("STREAM.DELETE", "jetstream/SPARE"),
        ("STREAM.PURGE (refused)", "jetstream/EVENTS"),
    ] {
        let row = row(&sites, action, subject).await;
        let actor = row["actor"].as_str().expect("a text");
        assert!(actor.starts_with("nats:RC/"), "{row}");
    }
    assert!(
        !rows(&sites)
            .iter()
            .any(|row| row["action"] == "STREAM.INFO")
    );

    // Somebody who may not.
    let actor = "driver:01a21cf5-06c0-80f9-90d7-81e4c891fd13";
    let body = json!({ "role": "admin", "phone": "+18880000099", "email": "x@fleet.example", "name": "X" });
    let refused = ["--as", actor, "call", "auth.create_user"];
    let text = body.to_string();
    let (code, _, words) = sites.hub.run(
        &refused
            .iter()
            .copied()
            .chain([text.as_str()])
            .collect::<Vec<_>>(),
    );
    assert_ne!(code, Some(0), "{words}");
    let denied = row(
        &sites,
        "auth.create_user (denied)",
        "command/auth.create_user",
    )
    .await;
    assert_eq!(denied["actor"], json!(actor), "{denied}");

    // The archive knows the ledger's end.
    account(&sites.hub, 1);
    let anchored = eventually_within(PATIENCE, "an anchor", || async {
        let (_, found, _) = sites.hub.run(&["ledger", "verify", "--json"]);
        (found["anchors"].as_u64() >= Some(1)).then_some(found)
    })
    .await;
    assert_eq!(anchored["ok"], json!(true), "{anchored}");

    // One byte.
    let path = sites.hub.dir.join("state/audit.db");
    let database = rusqlite::Connection::open(&path).expect("opened");
    let change = |sql: &str| database.execute(sql, ()).expect("changed");
    change("UPDATE ledger SET actor = 'x' || substr(actor, 2) WHERE seq = 2");
    let (code, found, _) = sites.hub.run(&["ledger", "verify", "--json"]);
    assert_eq!(
        (code, &found["findings"][0]["seq"]),
        (Some(2), &json!(2)),
        "{found}"
    );
    assert_eq!(found["findings"][0]["finding"], json!("altered or moved"));

    // All of it written anew, so that it holds by itself.
    let rows: Vec<(i64, i64, String, String, String, Option<String>)> = database
        .prepare("SELECT seq, at_ms, actor, action, subject, event_id FROM ledger ORDER BY seq")
        .and_then(|mut rows| {
            let read = |row: &rusqlite::Row<'_>| {
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                    row.get(5)?,
                ))
            };
            rows.query_map((), read)?.collect()
        })
        .expect("read");
    let mut hash = "roadcall-ledger-1".to_owned();
    for (seq, at_ms, actor, action, subject, event_id) in &rows {
        use sha2::Digest as _;
        let said = json!([hash, seq, at_ms, actor, action, subject, event_id]);
        let digest = sha2::Sha256::digest(said.to_string().as_bytes());
        hash = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let set = "UPDATE ledger SET hash = ?2 WHERE seq = ?1";
        database.execute(set, (seq, &hash)).expect("changed");
    }
    let set = "UPDATE ledger_head SET hash = ?1";
    database.execute(set, [&hash]).expect("changed");
    let (code, found, _) = sites.hub.run(&["ledger", "verify", "--json"]);
    assert_eq!(code, Some(2), "{found}");
    assert_eq!(
        found["findings"][0]["finding"],
        json!("written anew"),
        "{found}"
    );
}
