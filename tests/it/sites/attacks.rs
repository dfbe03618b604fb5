//! What a hostile depot may try over its link has no effect (BROKER 1).
//!
//! The depot's nats-server is ours here, with a configuration of the attacker: no deny list, no manners. Its user at the
//! hub is the one that `site add` made.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};

use super::place::ids_of;
use super::{Sites, add, publish};
use crate::support::{eventually, free_port, nats_server};
use roadcall::bus::{Bus, EVENTS};

struct Attacker {
    broker: Child,
    url: String,
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = (self.broker.kill(), self.broker.wait());
    }
}

impl Attacker {
    /// A leaf with the right seed of `depot-a` that gives everything away and takes everything in.
    fn start(sites: &Sites, dir: &std::path::Path, seed: &str) -> Self {
        let port = free_port();
        let text = format!(
            "server_name: depot-a\nlisten: '127.0.0.1:{port}'\nping_interval: 1s\n\
             feature_flags {{ js_ack_fc_v2: true, js_api_reply_v2: true }}\n\
             jetstream {{ store_dir: '{}', domain: depot-a }}\n\
             accounts {{ RC {{ jetstream: enabled, users: [ {{ user: app, password: app }} ] }} }}\nno_auth_user: app\n\
             leafnodes {{ reconnect: 1s, remotes: [ {{ url: 'nats-leaf://127.0.0.1:{}', nkey: {seed}, account: RC }} ] }}\n",
            dir.join("attacker").display(),
            sites.wire.port,
        );
        let file = dir.join("attacker.conf");
        std::fs::write(&file, text).expect("written");
        let broker = Command::new(nats_server())
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        Self {
            broker,
            url: format!("nats://127.0.0.1:{port}"),
        }
    }
}

async fn client(url: &str) -> async_nats::Client {
    eventually("a connection", || async {
        let options =
            async_nats::ConnectOptions::new().request_timeout(Some(Duration::from_millis(700)));
        options.connect(url).await.ok()
    })
    .await
}

/// The subjects of all that is heard, from now on.
async fn hear_everything(bus: &async_nats::Client) -> Arc<Mutex<BTreeSet<String>>> {
    let heard: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    for subject in [
        "roadcall.>",
        "rc.>",
        "svc.>",
        "carry.>",
        "$JS.>",
        "$KV.>",
        "dlq.>",
        "_INBOX.>",
    ] {
        let mut messages = bus.subscribe(subject).await.expect("subscribed");
        let heard = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                heard
                    .lock()
                    .expect("whole")
                    .insert(message.subject.to_string());
            }
        });
    }
    bus.flush().await.expect("flushed");
    heard
}

/// Everything that changes at the hub when an attack has an effect.
async fn state(hub: &roadcall::bus::jetstream::JetStream) -> Value {
    let mut state = json!({});
    for name in ["EVENTS", "DLQ", "ADVISORIES", "KV_TOPOLOGY", "KV_REPLAYS"] {
        let info = hub.api(&format!("STREAM.INFO.{name}"), &Value::Null).await;
        let info = info.expect("there");
        state[name] = json!([info["config"], info["created"]]);
    }
    for name in ["DLQ", "ADVISORIES", "CARRY"] {
        let info = hub.stream(name).await.expect("there");
        state[format!("{name} holds")] = json!(info.messages);
    }
    let owner = hub.kv_get("TOPOLOGY", "owner.incident").await;
    state["owner"] = json!(owner.expect("read").map(|owner| owner.to_vec()));
    for name in [
        "src-depot-a",
        "src-depot-b",
        "incident-queue",
        "audit-queue",
    ] {
        let asked = format!("CONSUMER.INFO.{EVENTS}.{name}");
        let info = hub.api(&asked, &Value::Null).await.expect("there");
        state[name] = json!([info["config"], info["created"]]);
    }
    state
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_depot_has_its_own_events_and_nothing_else() {
    let sites = Sites::hub().await;
    let depot = sites.depot("depot-a");
    sites.hub.json(&add("depot-a", &depot));
    sites.hub.json(&add("depot-b", &sites.depot("depot-b")));
    let text = std::fs::read_to_string(depot.dir.join("site.toml")).expect("read");
    let seed = text
        .lines()
        .find_map(|line| line.strip_prefix("seed = \""))
        .expect("a seed")
        .trim_end_matches('"');
    let attacker = Attacker::start(&sites, &depot.dir, seed);
    let hub = sites.hub.connect().await;
    let bus = client(&attacker.url).await;
    sites.wire.again(0).await;
    let before = state(&hub).await;
    let events = ids_of(&hub, "*").await.expect("read").len();

    // Reading: everything that anybody says on its side of the link. One subject that it may hear tells that the link is up.
    let heard = hear_everything(&bus).await;
    let at_hub = client(&format!("nats://127.0.0.1:{}", sites.hub.port)).await;
    eventually("the link is up", || async {
        at_hub
            .publish("svc.roadcall.depot-a.site.probe", "probe".into())
            .await
            .expect("said");
        heard
            .lock()
            .expect("whole")
            .contains("svc.roadcall.depot-a.site.probe")
            .then_some(())
    })
    .await;
    let as_hub = sites.tellers().await.remove(0);

    // Writing: other sites' events, the hub's JetStream, commands to the hub's roles, answers to others' questions.
    let no_effect = [
        ("roadcall.hub.incident.IncidentCreated.x", json!({})),
        ("roadcall.depot-b.incident.IncidentCreated.x", json!({})),
        ("roadcall.depot-a.incident.IncidentCreated.x", json!({})),
        ("carry.hub.incident.IncidentCreated.x", json!({})),
        ("rc.src.hub.depot-b", json!({})),
        ("rc.src.depot-b", json!({})),
        ("dlq.incident-queue.1", json!({})),
        ("$KV.TOPOLOGY.owner.incident", json!({})),
        (
            "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.EVENTS.incident-queue",
            json!({}),
        ),
        (
            "svc.roadcall.hub.incident.create",
            json!({ "type": "tire", "lat": 1, "lon": 1 }),
        ),
    ];
    for (subject, body) in &no_effect {
        let subject = (*subject).to_owned();
        bus.publish(subject, body.to_string().into())
            .await
            .expect("said");
    }
    for api in [
        "STREAM.DELETE.EVENTS",
        "STREAM.PURGE.DLQ",
        "STREAM.INFO.EVENTS",
        "STREAM.MSG.GET.EVENTS",
        "DIRECT.GET.EVENTS",
        "CONSUMER.DELETE.EVENTS.incident-queue",
        "CONSUMER.RESET.EVENTS.incident-queue",
        "CONSUMER.RESET.EVENTS.src-depot-b",
        "CONSUMER.DELETE.EVENTS.src-depot-b",
        "CONSUMER.MSG.NEXT.EVENTS.incident-queue",
        "CONSUMER.CREATE.EVENTS.src-depot-a",
        "CONSUMER.PAUSE.EVENTS.src-depot-b",
        "INFO",
    ] {
        let asked = bus.request(format!("$JS.hub.API.{api}"), "{\"seq\":1}".into());
        let answered = asked.await;
        assert!(
            answered.is_err(),
            "$JS.hub.API.{api} is answered: {answered:?}"
        );
    }

    // The answer to what it may ask, put where it does harm (BROKER 0 F); what the hub's role says goes nowhere at all.
    let (reset, resend) = (
        "$JS.hub.API.CONSUMER.RESET.EVENTS.src-depot-a",
        "svc.roadcall.hub.depot.depot-a.resend",
    );
    for target in [
        "$JS.API.STREAM.DELETE.EVENTS",
        "$JS.hub.API.STREAM.DELETE.DLQ",
        "$JS.API.STREAM.PURGE.DLQ",
        "$JS.API.CONSUMER.DELETE.EVENTS.incident-queue",
    ] {
        for asked in [reset, resend] {
            let sent = bus.publish_with_reply(asked, target, "".into());
            sent.await.expect("said");
        }
    }
    for target in [
        "roadcall.hub.other.Forged.k",
        "$KV.TOPOLOGY.owner.incident",
        "dlq.incident-queue.1",
        "carry.depot-b.other.Forged.k",
    ] {
        let sent = bus.publish_with_reply(resend, target, "{}".into());
        sent.await.expect("said");
    }

    // Its own commands to itself work, behind all that: the link has carried what it carries.
    at_hub.flush().await.expect("flushed");
    eventually("the link carries on", || async {
        at_hub
            .publish("svc.roadcall.depot-a.site.last", "probe".into())
            .await
            .expect("said");
        heard
            .lock()
            .expect("whole")
            .contains("svc.roadcall.depot-a.site.last")
            .then_some(())
    })
    .await;
    let at_last = publish(&hub, "hub").await;
    let reply = as_hub
        .call("operator:test", "incident.list", &json!({}))
        .await;
    assert_eq!(reply["ok"]["items"], json!([]), "{reply}");
    assert_eq!(state(&hub).await, before);
    let now = ids_of(&hub, "*").await.expect("read");
    let own = ids_of(&hub, "hub").await.expect("read");
    assert_eq!(now, own, "nothing of other origins");
    assert!(now.len() > events && now.contains(&at_last));
    let mine = ["svc.roadcall.depot-a.", "$JS.depot-a.", "rc.src.depot-a"];
    for subject in heard.lock().expect("whole").iter() {
        let local = subject == resend
            || no_effect.iter().any(|(said, _)| said == subject)
            || ["$JS.", "_INBOX."]
                .iter()
                .any(|own| subject.starts_with(own));
        assert!(
            local || mine.iter().any(|own| subject.starts_with(own)),
            "heard {subject}"
        );
    }
}
