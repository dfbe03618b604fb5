//! What a queue takes, and its log: a widened queue is filled with what it was never offered, alone, whatever comes meanwhile
//! and wherever the change was broken off; `audit` judges each sequence by the filters of its time.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::counting::{Fate, QUEUE, effects, event, node, put, roadcall, tally};
use crate::support::{Site, connect, eventually, site};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::topology;
use roadcall::bus::{Bus, EVENTS, REPLAYS_STREAM, TOPOLOGY_BUCKET};
use roadcall::config::Config;
use roadcall::node::clock::Clock;
use roadcall::node::run::{Node, desired, routes};
use roadcall::role::RoleName;

/// Only offers, of which there are none; with `rated` also what the counting role counts.
fn rules(dir: &Path, rated: bool) -> String {
    let rule = |name: &str, source: &str, detail_type: &str| {
        format!(
            "[[rule]]\nname = '{name}'\npattern = {{ source = ['roadcall.{source}'], detail-type = ['{detail_type}'] }}\n\
             targets = [{{ queue = '{QUEUE}' }}]\n"
        )
    };
    let mut text = rule("offers", "match", "OfferAccepted");
    if rated {
        text.push_str(&rule("rated", "incident", "IncidentRated"));
    }
    let file = dir.join("rules.toml");
    std::fs::write(&file, text).expect("written");
    file.to_str().expect("UTF-8").to_owned()
}

struct Rig {
    site: Site,
    state: PathBuf,
    rules: String,
    bus: JetStream,
}

impl Rig {
    async fn new() -> Self {
        let site = site().await;
        let rules = rules(site.dir.path(), false);
        Self {
            state: site.dir.path().join("state"),
            bus: connect(&site).await,
            rules,
            site,
        }
    }

    async fn node(&self) -> Node {
        node(&self.site, &self.state, &self.rules).await
    }

    fn widen(&self) {
        rules(self.site.dir.path(), true);
    }

    fn config(&self) -> Config {
        let mut config = Config::default();
        config.rules.file.clone_from(&self.rules);
        config
    }

    /// What the command line does on SIGHUP or when it is told that the topology changed.
    async fn take_rules(&self, node: &Node) {
        let new = routes(&self.config()).expect("valid");
        node.rules_outdated.notified().await;
        eventually("the rules to fit", || async {
            let fits = node.rules_fit(&self.config(), &new).await.ok()?;
            fits.then_some(())
        })
        .await;
        node.replace_rules(new);
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let output = roadcall(&self.site, &self.state, &self.rules, arguments);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        let value = serde_json::from_slice(&output.stdout);
        (
            output.status.code(),
            value.unwrap_or_else(|_| panic!("{words}")),
        )
    }

    fn apply(&self) {
        let (code, told) = self.run(&["topology", "apply", "--yes", "--json"]);
        assert_eq!(code, Some(0), "{told}");
    }

    /// Done, filtered, pending, unaccounted.
    fn audit(&self) -> [u64; 4] {
        let (_, rows) = self.run(&["audit", "--json"]);
        ["done", "filtered", "pending", "unaccounted"]
            .map(|name| rows[0][name].as_u64().unwrap_or_else(|| panic!("{rows}")))
    }

    async fn log(&self) -> Value {
        let key = format!("filters.{QUEUE}");
        let log = self.bus.kv_get(TOPOLOGY_BUCKET, &key).await.expect("read");
        serde_json::from_slice(&log.expect("a log")).expect("JSON")
    }

    async fn jobs(&self) -> Vec<Value> {
        let read = self
            .bus
            .read(REPLAYS_STREAM, "$KV.REPLAYS.job.>", 1, 100, false);
        let jobs = read.await.expect("read");
        let job = |stored: &roadcall::bus::Stored| serde_json::from_slice(&stored.body);
        jobs.iter()
            .map(|stored| job(stored).expect("JSON"))
            .collect()
    }

    async fn counted(&self, count: u64) {
        let database = self.state.join("vendor.db");
        eventually("all to be counted", || async {
            (tally(&database) >= count).then_some(())
        })
        .await;
        assert_eq!(tally(&database), count);
    }

    async fn audited(&self, wanted: [u64; 4]) {
        eventually(&format!("the audit to say {wanted:?}"), || async {
            (self.audit() == wanted).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_widened_queue_gets_what_it_was_never_offered_once_whatever_comes_meanwhile() {
    let rig = Rig::new().await;
    let role = rig.node().await;
    for n in 0..20 {
        put(&rig.bus, n, n % 5, Fate::Fine).await;
    }
    // By the filters in force nothing was to be offered.
    assert_eq!(rig.audit(), [0, 0, 0, 0]);
    rig.widen();
    let (code, plan) = rig.run(&["topology", "plan", "--json"]);
    assert_eq!(
        (code, &plan[0]["change"]),
        (Some(2), &json!("backfill")),
        "{plan}"
    );
    assert_eq!(plan[0]["object"], QUEUE);

    let bus = rig.bus.clone();
    let meanwhile = tokio::spawn(async move {
        for n in 20..220 {
            put(&bus, n, n % 5, Fate::Fine).await;
        }
    });
    tokio::task::block_in_place(|| rig.apply());
    rig.take_rules(&role).await;
    meanwhile.await.expect("published");
    rig.counted(220).await;
    assert_eq!(effects(&rig.state.join("vendor.db")).len(), 220);
    rig.audited([220, 0, 0, 0]).await;
    let jobs = rig.jobs().await;
    let queues: Vec<&Value> = jobs.iter().map(|job| &job["queue"]).collect();
    assert_eq!(queues, [QUEUE], "{jobs:?}");
    assert_eq!(
        rig.run(&["topology", "plan", "--json"]),
        (Some(0), json!([]))
    );

    // Narrowed again: what was offered stays accounted for, what comes is not the queue's.
    rules(rig.site.dir.path(), false);
    rig.apply();
    rig.take_rules(&role).await;
    for n in 220..230 {
        put(&rig.bus, n, n, Fate::Fine).await;
    }
    rig.audited([220, 0, 0, 0]).await;
    let log = rig.log().await;
    assert_eq!(log["entries"].as_array().map(Vec::len), Some(3), "{log}");
    assert_eq!(rig.jobs().await.len(), 1);

    // Widened once more: only those ten were never offered.
    rig.widen();
    rig.apply();
    rig.take_rules(&role).await;
    rig.counted(230).await;
    rig.audited([230, 0, 0, 0]).await;
    let (_, replays) = rig.run(&["replay", "list", "--json"]);
    let newest = replays
        .as_array()
        .into_iter()
        .flatten()
        .max_by_key(|row| row["startedAt"].as_str())
        .expect("a job");
    let looked_at = newest["handled"].as_u64().expect("a number")
        + newest["duplicates"].as_u64().expect("a number");
    // Whatever the queue offered by itself at the change is a duplicate to a job (a consumer that never delivered anything
    // offers all that its new filters take), never what an earlier era offered.
    assert_eq!(looked_at, 10, "{replays}");
    role.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");
    rig.site.broker.shutdown().await;
}

/// Puts what an `apply` writes first: the log's new entry, without the job's end.
async fn announce(rig: &Rig) {
    let mut log = rig.log().await;
    let wanted = desired(
        &rig.config(),
        &routes(&rig.config()).expect("valid"),
        &[RoleName::Vendor],
    );
    let entries = log["entries"].as_array_mut().expect("entries");
    entries.push(json!({
        "fromSeq": 1, "filters": wanted.queues[0].filters, "rules": wanted.queues[0].rules,
        "since": Clock.now(), "fill": { "job": "fill-broken-off", "toSeq": null },
    }));
    let key = format!("filters.{QUEUE}");
    let put = rig
        .bus
        .kv_put(TOPOLOGY_BUCKET, &key, log.to_string().into_bytes());
    put.await.expect("put");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_broke_off_is_mended_by_applying_again() {
    for updated in [false, true] {
        let rig = Rig::new().await;
        let role = rig.node().await;
        for n in 0..10 {
            put(&rig.bus, n, n, Fate::Fine).await;
        }
        rig.widen();
        announce(&rig).await;
        if updated {
            // The consumer alone, as it is when the process died behind its change.
            let wanted = desired(
                &rig.config(),
                &routes(&rig.config()).expect("valid"),
                &[RoleName::Vendor],
            );
            for change in topology::plan(&rig.bus, &wanted).await.expect("planned") {
                topology::apply(&rig.bus, &change).await.expect("applied");
            }
        }
        let (code, plan) = rig.run(&["topology", "plan", "--json"]);
        let kind = if updated { "fill" } else { "consumer" };
        assert_eq!((code, &plan[0]["kind"]), (Some(2), &json!(kind)), "{plan}");
        assert_eq!(plan[0]["change"], "backfill");
        rig.apply();
        assert_eq!(
            rig.run(&["topology", "plan", "--json"]),
            (Some(0), json!([]))
        );
        rig.take_rules(&role).await;
        rig.counted(10).await;
        rig.audited([10, 0, 0, 0]).await;
        let log = rig.log().await;
        assert_eq!(log["entries"].as_array().map(Vec::len), Some(2), "{log}");
        assert!(log["entries"][1]["fill"]["toSeq"].is_u64(), "{log}");
        assert_eq!(rig.jobs().await.len(), 1);
        role.shutdown(Duration::from_secs(10))
            .await
            .expect("stopped");
        rig.site.broker.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lay_before_a_queue_was_made_is_handled_as_a_fill_replay_and_in_order() {
    let rig = Rig::new().await;
    // An archive without the queue.
    let mut wanted = desired(&rig.config(), &routes(&rig.config()).expect("valid"), &[]);
    wanted.queues.clear();
    for change in topology::plan(&rig.bus, &wanted).await.expect("planned") {
        topology::apply(&rig.bus, &change).await.expect("applied");
    }
    let now = Clock.now();
    let old = (0..10).map(|n| event(n, 1, Fate::Fine, now)).collect();
    assert!(rig.bus.publish(old).await.stopped.is_none());
    rig.widen();
    let role = rig.node().await;
    rig.counted(10).await;
    put(&rig.bus, 10, 1, Fate::Fine).await;
    rig.counted(11).await;
    let order: Vec<u64> = effects(&rig.state.join("vendor.db"))
        .iter()
        .map(|one| one.n)
        .collect();
    assert_eq!(order, (0..11).collect::<Vec<_>>());
    let deliveries = eventually("the role's events", || async {
        let told = rig
            .bus
            .read(EVENTS, "roadcall.hub.vendor.>", 1, 100, true)
            .await
            .ok()?;
        let header = |one: &roadcall::bus::Stored| one.headers.get("Roadcall-Delivery").is_some();
        (told.len() == 11).then(|| told.iter().map(header).collect::<Vec<bool>>())
    })
    .await;
    assert_eq!(deliveries, [vec![true; 10], vec![false]].concat());
    rig.audited([11, 0, 0, 0]).await;
    role.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");
    rig.site.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_takes_the_rules_that_were_applied_by_itself() {
    let rig = Rig::new().await;
    rig.apply();
    let log = rig.site.dir.path().join("vendor.log");
    let mut process = Command::new(env!("CARGO_BIN_EXE_roadcall"))
        .env_clear()
        .arg("--config")
        .arg(rig.site.dir.path().join("roadcall.toml"))
        .args([
            "--nats",
            &rig.site.broker.url,
            "--role",
            "vendor",
            "--state-dir",
        ])
        .arg(&rig.state)
        .stderr(std::fs::File::create(&log).expect("a log"))
        .spawn()
        .expect("started");
    let says = |what: &'static str| {
        let log = log.clone();
        eventually(what, move || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            async move { text.contains(what).then_some(()) }
        })
    };
    says("\"message\":\"ready\"").await;
    put(&rig.bus, 1, 1, Fate::Fine).await;
    rig.widen();
    rig.apply();
    says("the topology fits the new rules, they are in force").await;
    put(&rig.bus, 2, 2, Fate::Fine).await;
    // The shipped role keeps what is rated before it knows the vendor, or leaves it: either way it is not filtered.
    eventually("both to have an outcome", || async {
        let [done, filtered, pending, unaccounted] = rig.audit();
        let left = rig.jobs().await.len();
        (done + pending == 2 && filtered + unaccounted == 0 && left == 1).then_some(())
    })
    .await;
    process.kill().expect("killed");
    process.wait().expect("ended");
    rig.site.broker.shutdown().await;
}
