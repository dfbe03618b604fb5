//! `roadcall rule enable|disable`: in force within seconds in a running process, over restarts, and over what the file says.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::counting::{Counting, Fate, QUEUE, put, roadcall, tally};
use crate::support::{connect, eventually, site};
use roadcall::bus::Bus;
use roadcall::config::Config;
use roadcall::node::registry;
use roadcall::node::run::{Node, routes};
use roadcall::role::{Role, RoleName};

const RULES: &str = "
    [[rule]]
    name = 'rated'
    pattern = { source = ['roadcall.incident'], detail-type = ['IncidentRated'] }
    targets = [{ queue = 'vendor-queue' }]
    [[rule]]
    name = 'again'
    enabled = false
    pattern = { source = ['roadcall.incident'], detail-type = ['IncidentRated'] }
    targets = [{ queue = 'vendor-queue' }]";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_is_in_force_at_once_everywhere_and_stays() {
    let site = site().await;
    let state = site.dir.path().join("state");
    let file = site.dir.path().join("rules.toml");
    std::fs::write(&file, RULES).expect("written");
    let file = file.to_str().expect("UTF-8").to_owned();
    let mut config = Config::default();
    config.site.state_dir.clone_from(&state);
    config.rules.file.clone_from(&file);
    let bus = connect(&site).await;
    let start = || async {
        let build = |config: &Config, name: RoleName| match name {
            RoleName::Vendor => Some(Box::<Counting>::default() as Box<dyn Role>),
            other => registry::build(config, other),
        };
        let roles = [RoleName::Vendor, RoleName::Audit];
        let node = Node::start_with(connect(&site).await, &config, &roles, true, &build).await;
        node.expect("started")
    };
    let run = |arguments: &[&str]| {
        let output = roadcall(&site, &state, &file, arguments);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        let value: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output.status.code(), value, words)
    };
    let enabled = || {
        let (code, rows, words) = run(&["rule", "list", "--json"]);
        assert_eq!(code, Some(0), "{words}");
        [rows[0]["enabled"].clone(), rows[1]["enabled"].clone()]
    };
    let node = start().await;
    let filters = bus.filters(QUEUE).await.expect("asked");
    let (database, mut n) = (state.join("vendor.db"), 0);
    put(&bus, n, n, Fate::Fine).await;
    eventually("the first", || async {
        (tally(&database) == 1).then_some(())
    })
    .await;

    // Off: what comes from then on is filtered; how many came before it took hold is not to be known.
    let (code, told, words) = run(&["rule", "disable", "rated", "--json"]);
    assert_eq!(
        (code, told),
        (Some(0), json!({ "rule": "rated", "enabled": false })),
        "{words}"
    );
    let filtered = || {
        node.counts()
            .iter()
            .map(|(_, counts)| counts.filtered)
            .sum::<u64>()
    };
    while filtered() == 0 {
        n += 1;
        let (seen, all) = (n, || node.counts()[0].1.received);
        put(&bus, n, n, Fate::Fine).await;
        eventually("it to be seen", || async {
            (all() == seen + 1).then_some(())
        })
        .await;
        assert!(n < 10_000, "the switch does not take hold");
    }
    let handled = tally(&database);
    assert_eq!(enabled(), [json!(false), json!(false)]);
    let text = json!({ "source": "roadcall.incident", "detail-type": "IncidentRated" }).to_string();
    let (_, rows, words) = run(&["rule", "test", "--event", &text, "--json"]);
    assert_eq!(rows[0]["enabled"], json!(false), "{rows} {words}");
    // The server was asked for nothing.
    assert_eq!(bus.filters(QUEUE).await.expect("asked"), filters);

    // A reload takes the file and keeps the switch; a restart too.
    assert!(node.take_rules(&routes(&config).expect("valid")).is_empty());
    n += 1;
    put(&bus, n, n, Fate::Fine).await;
    eventually("it to be filtered", || async {
        (filtered() == 2).then_some(())
    })
    .await;
    node.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");
    let node = start().await;
    n += 1;
    put(&bus, n, n, Fate::Fine).await;
    eventually("it to be filtered", || async {
        let counts = node.counts();
        (counts[0].1.filtered == 1).then_some(())
    })
    .await;

    // Nonsense is refused with a sentence, and so is what would route twice.
    let (code, _, words) = run(&["rule", "enable", "nobody"]);
    assert_eq!(code, Some(64), "{words}");
    assert!(words.contains("no rule is named 'nobody'"), "{words}");
    assert_eq!(run(&["rule", "enable", "again"]).0, Some(0));
    let (code, _, words) = run(&["rule", "enable", "rated"]);
    assert_eq!(code, Some(64), "{words}");
    assert!(words.contains("both bring"), "{words}");
    assert_eq!(run(&["rule", "disable", "again"]).0, Some(0));
    eventually("the switch in the bucket", || async {
        (enabled() == [json!(false), json!(false)]).then_some(())
    })
    .await;

    // On again: what comes is handled, and what was filtered stays so.
    let (code, ..) = run(&["rule", "enable", "rated"]);
    assert_eq!(code, Some(0));
    eventually("one to be handled", || {
        n += 1;
        let (bus, database) = (bus.clone(), database.clone());
        async move {
            put(&bus, n, n, Fate::Fine).await;
            (tally(&database) > handled).then_some(())
        }
    })
    .await;
    let count = |outcome: &str| {
        let (_, rows, words) = run(&["audit", "--queue", QUEUE, "--json"]);
        rows[0][outcome]
            .as_u64()
            .unwrap_or_else(|| panic!("{rows} {words}"))
    };
    assert!(count("filtered") >= 3);
    assert_eq!(count("unaccounted"), 0);
    node.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");
    site.broker.shutdown().await;
}
