//! A hub of three servers with three copies of every stream: any one of them may die under load.

use std::time::Duration;

use serde_json::{Value, json};

use super::add;
use super::place::{PATIENCE, Place, connect, nothing_lost, same_everywhere};
use super::story::Teller;
use crate::support::{eventually_within, free_port};
use roadcall::bus::EVENTS;
use roadcall::bus::jetstream::JetStream;

/// Three boxes that run brokers, and one with the roles.
struct Hub {
    root: tempfile::TempDir,
    brokers: Vec<Place>,
    roles: Place,
    url: String,
}

impl Hub {
    async fn start() -> Self {
        let root = tempfile::TempDir::new().expect("a directory");
        let ports: Vec<[u16; 3]> = (0..3)
            .map(|_| [free_port(), free_port(), free_port()])
            .collect();
        let list = |scheme: &str, which: usize| {
            let urls = ports
                .iter()
                .map(|ports| format!("'{scheme}://127.0.0.1:{}'", ports[which]));
            format!("[{}]", urls.collect::<Vec<_>>().join(", "))
        };
        let urls: Vec<String> = ports
            .iter()
            .map(|ports| format!("nats://127.0.0.1:{}", ports[0]))
            .collect();
        let mut brokers = Vec::new();
        for (at, [port, cluster, leaf]) in ports.iter().enumerate() {
            let more = format!(
                "server_name = 'hub-{at}'\ncluster_listen = '127.0.0.1:{cluster}'\ncluster_routes = {}\n\
                 leaf_listen = '127.0.0.1:{leaf}'\nleaf_url = {}\n[archive]\nreplicas = 3",
                list("nats", 1),
                list("nats-leaf", 2)
            );
            let mut broker = Place::new(root.path(), &format!("broker-{at}"), "hub", *port, &more);
            broker.roles = "broker";
            brokers.push(broker);
        }
        // One alone waits for the others.
        brokers.iter_mut().for_each(Place::start);
        for broker in &brokers {
            broker.ready().await;
        }
        let mut roles = Place::new(
            root.path(),
            "roles",
            "hub",
            ports[0][0],
            "mode = 'external'\n[archive]\nreplicas = 3",
        );
        let file = roles.dir.join("roadcall.toml");
        let text = std::fs::read_to_string(&file).expect("read");
        let one = format!("url = '{}'", urls[0]);
        std::fs::write(
            &file,
            text.replace(&one, &format!("url = '{}'", urls.join(","))),
        )
        .expect("written");
        roles.start();
        roles.ready().await;
        Self {
            root,
            brokers,
            roles,
            url: urls.join(","),
        }
    }

    /// Waits until every stream and consumer has its three copies and all of them are current.
    async fn in_sync(&self, bus: &JetStream) {
        eventually_within(PATIENCE, "three current copies of everything", || async {
            for stream in ["EVENTS", "DLQ", "KV_TOPOLOGY"] {
                let info = bus
                    .api(&format!("STREAM.INFO.{stream}"), &Value::Null)
                    .await
                    .ok()?;
                let copies = info["cluster"]["replicas"].as_array()?.clone();
                let current = copies
                    .iter()
                    .filter(|copy| copy["current"] == true && copy["offline"] != true);
                if current.count() != 2 {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_server_of_a_hub_of_three_dies_under_load_and_nothing_is_lost() {
    let mut hub = Hub::start().await;
    let bus = connect(&hub.url).await;
    let info = bus
        .api(&format!("STREAM.INFO.{EVENTS}"), &Value::Null)
        .await
        .expect("there");
    assert_eq!(info["config"]["num_replicas"], 3);
    assert_eq!(hub.roles.json(&["topology", "plan", "--json"]), json!([]));
    // A depot is let in on one box; its file goes to the others.
    let mut depot = Place::new(hub.root.path(), "depot-a", "depot-a", free_port(), "");
    hub.brokers[0].json(&add("depot-a", &depot));
    for to in ["broker-1", "broker-2", "roles"] {
        let dir = hub.root.path().join(to).join("state/sites");
        std::fs::create_dir_all(&dir).expect("made");
        let from = hub.brokers[0].dir.join("state/sites/depot-a.toml");
        std::fs::copy(from, dir.join("depot-a.toml")).expect("copied");
    }
    depot.start();
    depot.ready().await;
    let at_depot = depot.connect().await;
    let tellers = [
        Teller {
            bus: bus.clone(),
            site: "hub".to_owned(),
            base: 0,
            elsewhere: None,
        },
        Teller {
            bus: at_depot.clone(),
            site: "depot-a".to_owned(),
            base: 300,
            elsewhere: None,
        },
    ];
    // Before the link has carried anything both ways a death can cost a new depot its first events (docs/sites.md).
    for teller in &tellers {
        teller.clone().tell(0).await;
    }
    same_everywhere(&bus, &[("depot-a", &at_depot)]).await;
    let mut n = 1;
    for victim in 0..3 {
        let mut stories = tokio::task::JoinSet::new();
        for teller in &tellers {
            for number in n..n + 3 {
                stories.spawn(teller.clone().tell(number));
            }
        }
        n += 3;
        // Not a wait for something: the moment of the kill is the fault.
        tokio::time::sleep(Duration::from_millis(700)).await;
        hub.brokers[victim].kill();
        stories.join_all().await;
        hub.brokers[victim].start();
        hub.brokers[victim].ready().await;
        hub.in_sync(&bus).await;
        same_everywhere(&bus, &[("depot-a", &at_depot)]).await;
        eprintln!(
            "server {victim} of 3 killed and back: {n} incidents at each site are closed, the archives are the same"
        );
    }
    nothing_lost(&[&hub.roles, &depot]).await;
    assert_eq!(hub.roles.json(&["topology", "plan", "--json"]), json!([]));
}
