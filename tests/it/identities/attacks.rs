//! The attacks of BROKER 9 from every identity: the answer to something that it may ask is sent where it does harm.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Guarded, everybody};
use crate::support::eventually;
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, EVENTS, Headers, Outgoing};
use roadcall::config::Config;
use roadcall::node::grants;
use roadcall::ops::identities::Public;

/// Where the answers are to go: what deletes, what purges, what forges.
const TARGETS: [&str; 12] = [
    "$JS.API.STREAM.DELETE.EVENTS",
    "$JS.API.STREAM.DELETE.DLQ",
    "$JS.API.STREAM.PURGE.DLQ",
    "$JS.hub.API.STREAM.PURGE.DLQ",
    "$JS.API.CONSUMER.DELETE.EVENTS.incident-queue",
    "$JS.API.CONSUMER.PAUSE.EVENTS.incident-queue",
    "$JS.API.CONSUMER.CREATE.EVENTS.spy",
    "roadcall.hub.other.Forged.k",
    "roadcall.depot-a.other.Forged.k",
    "$KV.TOPOLOGY.owner.nobody",
    "dlq.other-queue.1",
    "carry.hub.other.Forged.k",
];

/// Every service that an identity may ask, its wildcards filled.
fn levers(name: &str) -> Vec<String> {
    let all = grants::identities(&Config::default(), &Public::new());
    let account = all
        .accounts
        .iter()
        .find(|it| it.name == grants::account_of(name));
    let imports = account.into_iter().flat_map(|account| &account.imports);
    imports
        .map(|import| import.subject.replace(['*', '>'], "k"))
        .collect()
}

/// What attacks would change.
async fn state(bus: &JetStream) -> Value {
    let mut state = json!({});
    for stream in [
        "EVENTS",
        "DLQ",
        "ADVISORIES",
        "CARRY",
        "KV_TOPOLOGY",
        "KV_REPLAYS",
        "OBJ_SNAPSHOTS",
    ] {
        let info = bus
            .api(&format!("STREAM.INFO.{stream}"), &Value::Null)
            .await
            .expect("there");
        state[stream] = json!([
            info["created"],
            info["config"],
            info["state"]["consumer_count"]
        ]);
    }
    for queue in ["incident-queue", "tracking-queue", "audit-queue"] {
        let asked = format!("CONSUMER.INFO.{EVENTS}.{queue}");
        let info = bus.api(&asked, &Value::Null).await.expect("there");
        state[queue] = json!([info["created"], info["config"], info["paused"]]);
    }
    for (stream, subject) in [
        ("DLQ", "dlq.planted.1"),
        ("EVENTS", "roadcall.*.other.>"),
        ("KV_TOPOLOGY", "$KV.TOPOLOGY.owner.nobody"),
        ("DLQ", "dlq.other-queue.>"),
        ("CARRY", "carry.hub.other.>"),
    ] {
        let found = bus.read(stream, subject, 1, 10, false).await.expect("read");
        let found: Vec<(u64, Vec<u8>)> = found
            .into_iter()
            .map(|it| (it.seq, it.body.to_vec()))
            .collect();
        state[subject] = json!(found);
    }
    state
}

async fn plant(bus: &JetStream, subject: &str) {
    let planted = Outgoing {
        subject: subject.to_owned(),
        headers: Headers::default(),
        body: "planted".into(),
        msg_id: subject.to_owned(),
        expected_last_subject_seq: None,
    };
    assert!(bus.publish(vec![planted]).await.stopped.is_none());
}

/// Asks each lever, so that each target gets the answer; gives how often.
async fn attack(client: &async_nats::Client, levers: &[String]) -> usize {
    // An empty answer is what deletes: a pull of nothing gives one.
    let bodies = ["{\"batch\":1,\"no_wait\":true}", ""];
    let mut sent = 0;
    for lever in levers {
        for (target, body) in TARGETS
            .iter()
            .flat_map(|target| bodies.map(|body| (*target, body)))
        {
            let asked = client.publish_with_reply(lever.clone(), target, body.into());
            asked.await.expect("sent");
            sent += 1;
        }
        client.flush().await.expect("flushed");
    }
    for target in TARGETS {
        client.publish(target, "".into()).await.expect("sent");
    }
    client.flush().await.expect("flushed");
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_goes_to_whoever_asked_and_nowhere_else() {
    let mut site = Guarded::new("").await;
    // Those who answer: what roles say is a lever, too.
    site.start("audit");
    site.start("tracking");
    site.ready("audit").await;
    site.ready("tracking").await;
    let bus = site.bus("operator").await;
    plant(&bus, "dlq.planted.1").await;
    let before = state(&bus).await;
    let mut tried = BTreeMap::new();
    // The audit role may publish every event of its site and letters and what is carried in: for it these are no attacks.
    for name in everybody().filter(|name| !["operator", "audit"].contains(name)) {
        let client = site.client(name).await;
        tried.insert(name, attack(&client, &levers(name)).await);
        assert_eq!(state(&bus).await, before, "{name}");
    }
    assert!(tried.values().all(|count| *count > 24 * 15), "{tried:?}");
    // What the audit role may ask, it gets the answer of itself, too.
    let client = site.client("audit").await;
    let others = |lever: &String| {
        !["roadcall.", "dlq.", "carry.", "$KV."]
            .iter()
            .any(|own| lever.starts_with(own))
    };
    let levers: Vec<String> = levers("audit").into_iter().filter(others).collect();
    for lever in &levers {
        for target in TARGETS {
            let body = "{\"batch\":1,\"no_wait\":true}".into();
            client
                .publish_with_reply(lever.clone(), target, body)
                .await
                .expect("sent");
        }
    }
    client.flush().await.expect("flushed");
    assert_eq!(state(&bus).await, before, "audit");

    // The same by somebody of the site's own account shows that these are attacks.
    let operator = site.client("operator").await;
    let pull = "$JS.API.CONSUMER.MSG.NEXT.EVENTS.vendor-queue";
    let body = || "{\"batch\":1,\"no_wait\":true}".into();
    operator
        .publish_with_reply(pull, "roadcall.hub.other.Forged.k", body())
        .await
        .expect("sent");
    eventually("the forged event", || async {
        let found = bus
            .read(EVENTS, "roadcall.hub.other.>", 1, 10, true)
            .await
            .ok()?;
        (!found.is_empty()).then_some(())
    })
    .await;
    operator
        .publish_with_reply(pull, "$JS.API.STREAM.DELETE.DLQ", body())
        .await
        .expect("sent");
    eventually("the stream is gone", || async {
        bus.stream("DLQ").await.err()
    })
    .await;
}
