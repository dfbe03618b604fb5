//! A foreign reader that takes events and never answers, until the server gives them up, while the audit role is stopped:
//! each gets one letter, and is handled once when its own role comes. `ROADCALL_FULL=1` makes it ten thousand.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::counting::{
    Fate, Log, QUEUE, accounted, effects, event, roadcall, start, tally,
};
use crate::support::{Site, connect, eventually, eventually_within, site, sized};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, DLQ, EVENTS};
use roadcall::config::Config;
use roadcall::config::units::Span;
use roadcall::event::DeadReason;
use roadcall::node::clock::Clock;
use roadcall::node::letter::of_queue;
use roadcall::node::run::{Node, desired, routes, settle_topology};
use roadcall::role::RoleName;

fn config(site: &Site, count: u64) -> Config {
    let mut config = Config::default();
    config.site.state_dir = site.dir.path().join("state");
    config.engine.ack_wait = Span::secs(1);
    // So that the server lets a reader have them all in hand.
    config.engine.batch_max = usize::try_from(count / 4 + 1).expect("small");
    config
}

/// Takes everything from the queue as often as the server gives it, and answers nothing, until the server has given all of it
/// up: it does so only while somebody asks for more.
async fn read_without_answer(reader: &JetStream) {
    for _ in 0..3000 {
        let wait = Duration::from_secs(2);
        reader.fetch(QUEUE, 2000, wait).await.expect("fetched");
        let state = reader.queue(QUEUE).await.expect("asked");
        if state.pending + state.ack_pending == 0 {
            return;
        }
    }
    panic!("the server has not given them up");
}

/// How many events of a type the archive holds.
async fn archived(bus: &JetStream, detail_type: &str) -> u64 {
    let filter = format!("roadcall.*.*.{detail_type}.*");
    let (mut count, mut from) = (0, 1);
    loop {
        let page = bus.read(EVENTS, &filter, from, 1000, true).await;
        let page = page.expect("read");
        let Some(last) = page.last() else {
            return count;
        };
        count += page.len() as u64;
        from = last.seq + 1;
    }
}

async fn stop(node: Node) {
    let stopped = node.shutdown(Duration::from_secs(30)).await;
    stopped.expect("stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_foreign_reader_never_answered_has_one_letter_each_and_is_handled_once() {
    let (count, site) = (sized(400, 10_000), site().await);
    let config = config(&site, count);
    let state = config.site.state_dir.clone();
    let database = state.join("vendor.db");
    let bus = connect(&site).await;
    let roles = [RoleName::Vendor, RoleName::Audit];
    let wanted = desired(&config, &routes(&config).expect("valid"), &roles);
    settle_topology(&bus, &wanted, true).await.expect("made");
    // The queue has an owner, which is stopped.
    let log = Log::default();
    stop(start(&site, &config, &log).await).await;
    for first in (0..count).step_by(1000) {
        let now = Clock.now();
        let numbers = first..(first + 1000).min(count);
        let messages = numbers.map(|n| event(n, n % (count / 4), Fate::Fine, now));
        let published = bus.publish(messages.collect()).await;
        assert!(published.stopped.is_none(), "{:?}", published.stopped);
    }
    let reader = connect(&site).await;
    read_without_answer(&reader).await;
    reader.close().await;
    // Half of what the server said of it is lost: the audit finds those.
    let half = json!({ "keep": count / 2 });
    let purged = bus.api("STREAM.PURGE.ADVISORIES", &half).await;
    purged.expect("purged");

    let audit = Node::start(connect(&site).await, &config, &[RoleName::Audit], true).await;
    let audit = audit.expect("started");
    let output = roadcall(&site, &state, "", &["audit", "--json"]);
    assert_eq!(output.status.code(), Some(2), "those without an advisory");
    eventually_within(300, "a letter for each", || async {
        let letters = of_queue(&bus, QUEUE).await.ok()?;
        (letters.len() as u64 == count).then_some(())
    })
    .await;
    let letters = of_queue(&bus, QUEUE).await.expect("read");
    let seqs: BTreeSet<u64> = letters.iter().map(|letter| letter.seq).collect();
    assert_eq!(seqs, (1..=count).collect::<BTreeSet<u64>>(), "each once");
    let exhausted = |reason| reason == DeadReason::DeliveryExhausted;
    assert!(letters.iter().all(|letter| exhausted(letter.reason)));
    // Told once each, however often advisories and audits came upon them.
    eventually("what tells of them to be published", || async {
        (archived(&bus, "DeadLetterCreated").await >= count).then_some(())
    })
    .await;
    roadcall(&site, &state, "", &["audit", "--json"]);
    assert_eq!(archived(&bus, "DeadLetterCreated").await, count);
    assert_eq!(bus.stream(DLQ).await.expect("asked").messages, count);

    let vendor = start(&site, &config, &log).await;
    eventually_within(300, "all to be handled", || async {
        (tally(&database) == count).then_some(())
    })
    .await;
    eventually_within(120, "every letter to be taken back", || async {
        let letters = of_queue(&bus, QUEUE).await.ok()?;
        letters.is_empty().then_some(())
    })
    .await;
    let mut handled: Vec<u64> = effects(&database).iter().map(|effect| effect.n).collect();
    handled.sort_unstable();
    assert_eq!(handled, (0..count).collect::<Vec<u64>>());
    assert_eq!(log.tries().len() as u64, count, "each was tried once");
    log.assert_order();
    eventually("the queue to be empty", || async {
        let state = bus.queue(QUEUE).await.expect("asked");
        (state.pending + state.ack_pending == 0).then_some(())
    })
    .await;
    let row: Value = accounted(&site, &state);
    assert_eq!(row["done"], count, "{row}");
    assert_eq!(archived(&bus, "DeadLetterRedriven").await, count);
    stop(vendor).await;
    stop(audit).await;
    site.broker.shutdown().await;
}
