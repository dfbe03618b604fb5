//! No event type of the catalogue is only written down: a whole site, driven as people, devices and providers drive it,
//! publishes each of them through the role that it belongs to. And the rules that ship bring every one somewhere.

mod story;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::domain::world::World;
use crate::domain::{START, pays_by_stripe, text};
use crate::support::ends::stripe::{Faults, StripeEnd};
use crate::support::unfixed;
use roadcall::config::Config;
use roadcall::config::units::Span;
use roadcall::event::{Source, catalogue, lookup};
use roadcall::role::RoleName;
use roadcall::store::Reader;

/// Types that no role publishes here, each with the reason. One that is published after all no longer belongs here.
const EXCEPTED: [(&str, &str); 0] = [];
/// What the phone provider signs with.
const CALLS_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A site that can do all that the story asks for.
async fn site(end: &StripeEnd, broken: &Arc<AtomicBool>) -> World {
    let change = |config: &mut Config| {
        pays_by_stripe(config, end);
        config.audit.alarm_period = Span::secs(1);
        // Hours pass at a time; what a role has published is to stay in its outbox all the same.
        "1000h".clone_into(&mut config.broker.sync_interval);
        let beside = config.site.state_dir.parent().expect("a directory");
        let secret = beside.join("calls.secret");
        std::fs::write(&secret, CALLS_SECRET).expect("written");
        config.telephony.webhook_secret_file = secret.display().to_string();
    };
    World::of(START, change, &unfixed::build(broken)).await
}

/// Which roles published which types, under which source. An event is a role's if its id is in the role's outbox; so what a
/// test or anybody else puts into the archive counts for nothing.
async fn published(world: &World) -> BTreeSet<(String, String, RoleName)> {
    let mut producers = BTreeMap::new();
    for role in RoleName::BUILT {
        let database = world.config.site.state_dir.join(format!("{role}.db"));
        let reader = Reader::open(&database).expect("opened");
        let rows = reader.outbox_ids().expect("read");
        assert!(
            rows.first().is_none_or(|(n, _, _)| *n == 1),
            "{role}: the beginning of the outbox is gone"
        );
        producers.extend(rows.into_iter().map(|(_, id, _)| (id, role)));
    }
    let archived = world.archived("*", "*").await;
    let found = archived.iter().filter_map(|event| {
        let role = producers.get(event["id"].as_str()?)?;
        Some((text(&event["detail-type"]), text(&event["source"]), *role))
    });
    found.collect()
}

/// Whether a role may publish this (DOMAIN 1.1, 3.3): its own service's events, and of the platform's own what it measures,
/// gives up or carries out; beginning a replay and discarding a letter are the audit role's alone.
fn may_publish(role: RoleName, detail_type: &str, source: Source) -> bool {
    match (role, source) {
        (RoleName::Audit, Source::Ops) => true,
        (_, Source::Ops) => !["ReplayStarted", "DeadLetterPurged"].contains(&detail_type),
        (RoleName::Payments, Source::Payment) => true,
        _ => source.service() == role.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_of_the_catalogue_is_published_by_the_role_that_it_belongs_to() {
    let broken = Arc::new(AtomicBool::new(false));
    let end = StripeEnd::start(1, Faults::default()).await;
    let world = site(&end, &broken).await;
    let driver = story::accounts(&world).await;
    story::vendors(&world).await;
    story::settings_and_documents(&world).await;
    story::calls(&world).await;
    story::offers_that_come_to_nothing(&world, &driver).await;
    let incident = story::a_job(&world, &driver).await;
    story::payments(&world, &end, &driver).await;
    story::letters(&world, &broken, &driver, &incident).await;
    story::replays(&world).await;
    world.quiet().await;

    let mut problems = Vec::new();
    let mut found = BTreeSet::new();
    for (detail_type, source, role) in published(&world).await {
        let row = lookup(&detail_type).expect("roles publish what is in the catalogue");
        if source != row.source.as_str() || !may_publish(role, &detail_type, row.source) {
            problems.push(format!("{role} publishes {detail_type} as {source}"));
        } else {
            found.insert(row.detail_type);
        }
    }
    let types: BTreeSet<&str> = catalogue().map(|row| row.detail_type).collect();
    let excepted: BTreeSet<&str> = EXCEPTED.iter().map(|(name, _)| *name).collect();
    let missing: Vec<&str> = types.difference(&found).copied().collect();
    let missing = missing.iter().filter(|name| !excepted.contains(**name));
    problems.extend(missing.map(|name| format!("no role published {name}")));
    let stale = excepted
        .iter()
        .filter(|name| found.contains(**name) || !types.contains(**name));
    problems.extend(stale.map(|name| format!("{name} is excepted for no reason")));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rules_that_ship_have_no_findings_at_a_running_site() {
    let world = World::new().await;
    let linted = Command::new(env!("CARGO_BIN_EXE_roadcall"))
        .env_clear()
        .args(["--nats", &world.site.broker.url, "--state-dir"])
        .arg(&world.config.site.state_dir)
        .args(["rule", "lint", "--json"])
        .output();
    let linted = tokio::time::timeout(Duration::from_secs(60), linted).await;
    let linted = linted.expect("ends").expect("runs");
    let findings: Value = serde_json::from_slice(&linted.stdout).expect("JSON");
    let words = String::from_utf8_lossy(&linted.stderr);
    assert_eq!(findings, json!([]), "{words}");
    assert_eq!(linted.status.code(), Some(0), "{words}");
    world.end().await;
}
