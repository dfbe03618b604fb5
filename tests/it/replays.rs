//! Replays and redrives on a real nats-server: a whole node with the audit role, and in the place of the vendor role one that
//! notes each run of its handler, calls outside, and can be made ill.

use serde_json::{Value, json};

use crate::support::counting::{Fate, QUEUE, event};
use crate::support::noting::{self, Noting, Run};
use crate::support::{Site, connect, eventually, site};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, EVENTS, Headers, Outgoing, REPLAYS_STREAM};
use roadcall::config::Config;
use roadcall::node::clock::Clock;
use roadcall::node::letter::{self, Letter};
use roadcall::node::registry;
use roadcall::node::run::Node;
use roadcall::role::{Role, RoleName};

/// Runs `roles` on the site; the shipped ones but for the vendor role.
async fn node(site: &Site, roles: &[RoleName]) -> Node {
    let mut config = Config::default();
    config.site.state_dir = site.dir.path().join("state");
    config.bus.url.clone_from(&site.broker.url);
    let dir = site.dir.path().to_owned();
    let build = move |config: &Config, name: RoleName| match name {
        RoleName::Vendor => Some(Box::new(Noting::loud(&dir)) as Box<dyn Role>),
        other => registry::build(config, other),
    };
    let bus = connect(site).await;
    let node = Node::start_with(bus, &config, roles, true, &build).await;
    node.expect("started")
}

async fn stop(node: Node) {
    let grace = std::time::Duration::from_secs(10);
    node.shutdown(grace).await.expect("stopped in order");
}

async fn publish(bus: &JetStream, messages: Vec<Outgoing>) {
    let published = bus.publish(messages).await;
    assert!(published.stopped.is_none(), "{:?}", published.stopped);
}

fn rated(numbers: std::ops::Range<u64>, fate: Fate) -> Vec<Outgoing> {
    let now = Clock.now();
    numbers.map(|n| event(n, n % 7, fate, now)).collect()
}

fn runs(site: &Site) -> Vec<Run> {
    noting::runs(site.dir.path())
}

fn calls(site: &Site) -> usize {
    noting::calls(site.dir.path())
}

async fn ran(site: &Site, count: usize) {
    eventually("all to be handled", || async {
        (runs(site).len() == count && calls(site) == count).then_some(())
    })
    .await;
}

async fn call(bus: &JetStream, command: &str, body: Value) -> Value {
    let mut headers = Headers::default();
    headers.push("Roadcall-Actor", "operator:test");
    let timeout = std::time::Duration::from_secs(5);
    let body = body.to_string().into_bytes();
    let reply = bus.call("hub", command, &headers, body, timeout).await;
    serde_json::from_slice(&reply.expect("answered").body).expect("JSON")
}

/// The newest progress of a job, if its role took it up.
async fn progress(bus: &JetStream, name: &str) -> Option<Value> {
    let subject = format!("$KV.REPLAYS.progress.{name}");
    let stored = bus.read(REPLAYS_STREAM, &subject, 1, 100, false).await;
    let stored = stored.expect("read").pop()?;
    Some(serde_json::from_slice(&stored.body).expect("JSON"))
}

async fn ended(bus: &JetStream, name: &str, state: &str) -> Value {
    eventually("the job to end", || async {
        let progress = progress(bus, name).await?;
        (progress["state"] == state).then_some(progress)
    })
    .await
}

async fn letters(bus: &JetStream) -> Vec<Letter> {
    letter::of_queue(bus, QUEUE).await.expect("read")
}

/// How many events of a type the archive holds.
async fn archived(bus: &JetStream, detail_type: &str) -> usize {
    let (mut count, mut from) = (0, 1);
    loop {
        let filter = format!("roadcall.*.*.{detail_type}.*");
        let page = bus
            .read(EVENTS, &filter, from, 1000, true)
            .await
            .expect("read");
        let Some(last) = page.last() else {
            return count;
        };
        count += page.len();
        from = last.seq + 1;
    }
}

const EVENTS_COUNT: u64 = 1_200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn force_runs_the_handler_anew_in_order_and_nothing_else_and_fill_leaves_what_is_done() {
    let site = site().await;
    // Both queues are made first: what lies in the archive before a queue is made would be handled as a replay.
    stop(node(&site, &[RoleName::Audit, RoleName::Vendor]).await).await;
    // Published before there is a role that emits, so that they have the first sequences.
    let audit = node(&site, &[RoleName::Audit]).await;
    let bus = connect(&site).await;
    publish(&bus, rated(0..EVENTS_COUNT, Fate::Fine)).await;
    let node = node(&site, &[RoleName::Vendor]).await;
    ran(&site, EVENTS_COUNT as usize).await;
    let (from, to) = (EVENTS_COUNT / 2 + 1, EVENTS_COUNT);
    let half = EVENTS_COUNT / 2;

    let job =
        json!({ "queue": QUEUE, "fromSeq": from, "toSeq": to, "mode": "force", "name": "again" });
    let reply = call(&bus, "replay.start", job).await;
    assert_eq!(reply["ok"]["state"], "STARTING", "{reply}");
    let done = ended(&bus, "again", "COMPLETED").await;
    assert_eq!(done["handled"], half, "{done}");
    assert_eq!(
        (&done["total"], &done["done"]),
        (&json!(half), &json!(half))
    );
    let all = runs(&site);
    let again: Vec<Run> = (half..EVENTS_COUNT)
        .map(|n| Run { n, replay: true })
        .collect();
    assert_eq!(&all[EVENTS_COUNT as usize..], again, "in order");
    assert_eq!(
        calls(&site),
        EVENTS_COUNT as usize,
        "nobody outside was called again"
    );

    let job = json!({ "queue": QUEUE, "fromSeq": from, "toSeq": to, "name": "fill" });
    call(&bus, "replay.start", job).await;
    let done = ended(&bus, "fill", "COMPLETED").await;
    assert_eq!(
        (&done["duplicates"], &done["handled"]),
        (&json!(half), &json!(0))
    );
    assert_eq!(runs(&site).len(), all.len(), "nothing ran");

    // Told to, it calls and emits again, under ids of the job's own.
    let job = json!({ "queue": QUEUE, "fromSeq": 1, "toSeq": 10, "mode": "force", "name": "loud", "allowExternal": true });
    call(&bus, "replay.start", job).await;
    ended(&bus, "loud", "COMPLETED").await;
    eventually("the calls to be made", || async {
        (calls(&site) == EVENTS_COUNT as usize + 10).then_some(())
    })
    .await;
    eventually("the events to be there", || async {
        let count = archived(&bus, "VendorMetricsUpdated").await;
        (count == EVENTS_COUNT as usize + 10).then_some(())
    })
    .await;
    assert_eq!(archived(&bus, "ReplayStarted").await, 3);
    eventually("their ends to be told", || async {
        (archived(&bus, "ReplayCompleted").await == 3).then_some(())
    })
    .await;
    stop(node).await;
    stop(audit).await;
    site.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fill_calls_nobody_outside_unless_it_is_told_to_while_live_events_call() {
    let site = site().await;
    let node = node(&site, &[RoleName::Audit, RoleName::Vendor]).await;
    let bus = connect(&site).await;
    let ill = site.dir.path().join("ill");
    std::fs::write(&ill, "").expect("written");
    publish(&bus, rated(0..20, Fate::Contradicts)).await;
    eventually("all to be given up", || async {
        (letters(&bus).await.len() == 20).then_some(())
    })
    .await;
    let seqs: Vec<u64> = letters(&bus).await.iter().map(|one| one.seq).collect();
    let (first, last) = (seqs.iter().min().copied(), seqs.iter().max().copied());
    std::fs::remove_file(&ill).expect("removed");

    // The two jobs and the live events share the handler; only what is live, or told to, reaches outside.
    let middle = seqs.iter().copied().min().expect("some") + 9;
    let job = json!({ "queue": QUEUE, "fromSeq": first, "toSeq": middle, "mode": "fill", "name": "quiet" });
    call(&bus, "replay.start", job).await;
    publish(&bus, rated(100..130, Fate::Fine)).await;
    let done = ended(&bus, "quiet", "COMPLETED").await;
    assert_eq!(done["handled"], 10, "{done}");
    eventually("the live ones to be handled and to have called", || async {
        (runs(&site).len() == 40 && calls(&site) == 30).then_some(())
    })
    .await;

    let job = json!({
        "queue": QUEUE, "fromSeq": middle + 1, "toSeq": last, "mode": "fill", "name": "loud", "allowExternal": true,
    });
    call(&bus, "replay.start", job).await;
    let done = ended(&bus, "loud", "COMPLETED").await;
    assert_eq!(done["handled"], 10, "{done}");
    // One call for each of these, and still none for those before.
    ran_and_called(&site, 50, 40).await;
    stop(node).await;
    site.broker.shutdown().await;
}

/// Waits for so many runs and calls, and that no call is still on its way.
async fn ran_and_called(site: &Site, ran: usize, called: usize) {
    eventually("the calls to be made", || async {
        (runs(site).len() == ran && calls(site) >= called).then_some(())
    })
    .await;
    let database = rusqlite::Connection::open(site.dir.path().join("state/vendor.db"));
    let left = database
        .expect("opens")
        .query_row("SELECT count(*) FROM effect", (), |row| row.get(0));
    assert_eq!(left, Ok(0_i64), "nothing is on its way");
    assert_eq!(calls(site), called);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_waits_for_its_role_goes_on_after_a_stop_and_ends_when_it_is_cancelled() {
    let site = site().await;
    let audit = node(&site, &[RoleName::Audit]).await;
    let bus = connect(&site).await;
    let vendor = node(&site, &[RoleName::Vendor]).await;
    publish(&bus, rated(0..60, Fate::Fine)).await;
    ran(&site, 60).await;
    stop(vendor).await;

    let job = json!({ "queue": QUEUE, "fromSeq": 1, "toSeq": 60, "mode": "force", "name": "slow", "rate": 20 });
    let reply = call(&bus, "replay.start", job.clone()).await;
    assert_eq!(reply["ok"]["state"], "STARTING", "{reply}");
    let same = call(&bus, "replay.start", job).await;
    assert_eq!(same["error"]["code"], "CONFLICT", "{same}");
    assert_eq!(
        progress(&bus, "slow").await,
        None,
        "nobody is there to do it"
    );

    let vendor = node(&site, &[RoleName::Vendor]).await;
    eventually("some of it to be done", || async {
        (runs(&site).len() > 60).then_some(())
    })
    .await;
    stop(vendor).await;
    assert!(runs(&site).len() < 120, "stopped in the middle");
    let vendor = node(&site, &[RoleName::Vendor]).await;
    let done = ended(&bus, "slow", "COMPLETED").await;
    assert_eq!(done["handled"], 60, "{done}");
    let again: Vec<Run> = (0..60).map(|n| Run { n, replay: true }).collect();
    assert_eq!(&runs(&site)[60..], again, "none skipped, none twice");

    let job = json!({ "queue": QUEUE, "fromSeq": 1, "toSeq": 60, "mode": "force", "name": "stopped", "rate": 5 });
    call(&bus, "replay.start", job).await;
    eventually("it to begin", || async { progress(&bus, "stopped").await }).await;
    let reply = call(&bus, "replay.cancel", json!({ "name": "stopped" })).await;
    assert_eq!(reply["ok"]["state"], "CANCELLING", "{reply}");
    let done = ended(&bus, "stopped", "CANCELLED").await;
    assert!(done["handled"].as_u64().expect("a number") < 60, "{done}");
    eventually("the end to be known", || async {
        let status = call(&bus, "replay.status", json!({ "name": "stopped" })).await;
        (status["ok"]["state"] == "CANCELLED").then_some(())
    })
    .await;
    let late = call(&bus, "replay.cancel", json!({ "name": "stopped" })).await;
    assert_eq!(late["error"]["code"], "INVALID_TRANSITION", "{late}");
    stop(vendor).await;
    stop(audit).await;
    site.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_dies_again_is_the_same_and_after_the_fix_it_is_handled_once() {
    let site = site().await;
    let ill = site.dir.path().join("ill");
    std::fs::write(&ill, "").expect("written");
    let node = node(&site, &[RoleName::Vendor, RoleName::Audit]).await;
    let bus = connect(&site).await;
    publish(&bus, rated(0..5, Fate::Contradicts)).await;
    let first = eventually("the letters", || async {
        let letters = letters(&bus).await;
        (letters.len() == 5).then_some(letters)
    })
    .await;
    assert!(
        first.iter().all(|letter| letter.deliveries == 1),
        "{first:?}"
    );

    call(
        &bus,
        "dlq.redrive",
        json!({ "queue": QUEUE, "name": "too-early" }),
    )
    .await;
    let done = ended(&bus, "too-early", "COMPLETED").await;
    assert_eq!(done["failed"], 5, "{done}");
    let second = eventually("the letters again", || async {
        let letters = letters(&bus).await;
        let twice = letters
            .iter()
            .filter(|letter| letter.deliveries == 2)
            .count();
        (twice == 5).then_some(letters)
    })
    .await;
    let ids =
        |letters: &[Letter]| -> Vec<_> { letters.iter().map(|one| one.dead_letter_id).collect() };
    assert_eq!(ids(&second), ids(&first), "the same letters");
    assert!(
        second.iter().all(|letter| letter.attempts.len() == 2),
        "{second:?}"
    );
    let own = |name: &&String| name.starts_with("Roadcall-Waiting");
    assert_eq!(
        second[0].headers.keys().find(own),
        None,
        "no note of ours in the letter"
    );

    std::fs::remove_file(&ill).expect("removed");
    let seqs: Vec<u64> = second.iter().take(3).map(|letter| letter.seq).collect();
    call(
        &bus,
        "dlq.redrive",
        json!({ "queue": QUEUE, "seqs": seqs, "name": "after" }),
    )
    .await;
    let done = ended(&bus, "after", "COMPLETED").await;
    assert_eq!(done["handled"], 3, "{done}");
    let rest = eventually("the letters to be taken back", || async {
        let letters = letters(&bus).await;
        (letters.len() == 2).then_some(letters)
    })
    .await;
    // What has no letter any more is not sent back a second time.
    call(
        &bus,
        "dlq.redrive",
        json!({ "queue": QUEUE, "seqs": seqs, "name": "twice" }),
    )
    .await;
    let done = ended(&bus, "twice", "COMPLETED").await;
    assert_eq!(
        (&done["handled"], &done["failed"]),
        (&json!(0), &json!(0)),
        "{done}"
    );
    let handled: Vec<u64> = runs(&site).iter().map(|run| run.n).collect();
    assert_eq!(handled, [0, 1, 2], "once each");
    assert_eq!(archived(&bus, "DeadLetterRedriven").await, 8);

    let named: Vec<Value> = rest
        .iter()
        .map(|letter| json!({ "deadLetterId": letter.dead_letter_id, "eventId": letter.event_id, "letterSubject": letter.subject() }))
        .collect();
    let purge = json!({ "queue": QUEUE, "letters": named, "reason": "" });
    let refused = call(&bus, "dlq.purge", purge.clone()).await;
    assert_eq!(refused["error"]["field"], "reason", "{refused}");
    let purge = json!({ "queue": QUEUE, "letters": named, "reason": "test data" });
    call(&bus, "dlq.purge", purge).await;
    eventually("the rest to be gone", || async {
        letters(&bus).await.is_empty().then_some(())
    })
    .await;
    eventually("it to be told", || async {
        (archived(&bus, "DeadLetterPurged").await == 2).then_some(())
    })
    .await;
    stop(node).await;
    site.broker.shutdown().await;
}
