//! The alarms of DOMAIN 4.4: each is raised once by its cause and cleared when that ends, seen in the list and told to a webhook;
//! and what is seen when the audit role itself is silent.

mod certificates;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::domain::world::World;
use crate::domain::{BOSS, MINUTE, NYC, SECOND, START, pays_by_stripe, vendor_id};
use crate::support::ends::hooks;
use crate::support::ends::stripe::{Faults, StripeEnd};
use crate::support::ends::web::{Play, Web};
use crate::support::processes::Processes;
use crate::support::{eventually, unfixed};
use roadcall::bus::{Bus, EVENTS};
use roadcall::config::Config;
use roadcall::config::units::Span;
use roadcall::event::{Id, Ts, ids};
use roadcall::node::clock::Clock;

const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Where alarms are told, and the file with its secret.
struct End {
    web: Web,
    dir: tempfile::TempDir,
}

impl End {
    async fn start() -> Self {
        let dir = tempfile::TempDir::new().expect("a directory");
        std::fs::write(dir.path().join("secret"), format!("{}\n", hooks::SECRET)).expect("written");
        let web = hooks::start().await;
        Self { web, dir }
    }

    fn secret(&self) -> PathBuf {
        self.dir.path().join("secret")
    }

    fn configure(&self, config: &mut Config) {
        config.audit.alarm_webhook_url = format!("{}/alarms", self.web.url);
        config.audit.alarm_webhook_secret_file = self.secret().display().to_string();
    }

    /// What it took, in that order: the event's id, and the body.
    fn took(&self) -> Vec<(String, Value)> {
        let seen = self.web.seen();
        let taken = seen.iter().filter(|request| request.play == Play::Answer);
        taken.map(hooks::order).collect()
    }
}

impl World {
    /// Events of an alarm about something, in the archive's order.
    async fn alarms(&self, kind: &str, alarm: &str, subject: &str) -> Vec<Value> {
        let told = self.archived(kind, alarm).await.into_iter();
        told.filter(|event| event["detail"]["subject"] == subject)
            .collect()
    }

    async fn listed(&self) -> Value {
        self.ok(BOSS, "alarm.list", json!({})).await
    }

    async fn is_listed(&self, alarm: &str, subject: &str) -> bool {
        let listed = self.listed().await;
        let mut items = listed["items"].as_array().expect("a list").iter();
        items.any(|item| item["alarmName"] == alarm && item["subject"] == subject)
    }

    /// Waits until it is raised; it must be for the `count`th time.
    async fn raised(&self, alarm: &str, subject: &str, count: usize) {
        eventually(&format!("{alarm} of {subject} to be raised"), || async {
            self.is_listed(alarm, subject).await.then_some(())
        })
        .await;
        self.told_times("AlarmRaised", alarm, subject, count).await;
    }

    /// The same of its end.
    async fn cleared(&self, alarm: &str, subject: &str, count: usize) {
        self.told_times("AlarmCleared", alarm, subject, count).await;
        eventually(&format!("{alarm} of {subject} to be over"), || async {
            (!self.is_listed(alarm, subject).await).then_some(())
        })
        .await;
        self.told_times("AlarmRaised", alarm, subject, count).await;
    }

    async fn told_times(&self, kind: &str, alarm: &str, subject: &str, count: usize) {
        let told = eventually(&format!("{kind} {alarm} of {subject}"), || async {
            let told = self.alarms(kind, alarm, subject).await;
            (told.len() >= count).then_some(told)
        })
        .await;
        assert_eq!(told.len(), count, "{kind}: {told:?}");
    }

    /// Waits for a whole look at all queues, from its begin to its end.
    async fn looked(&self) {
        // The first one to end may have begun before this.
        for _ in 0..2 {
            self.pass(1);
            let now = json!(self.now());
            eventually("a measurement", || async {
                (self.listed().await["measuredAt"] == now).then_some(())
            })
            .await;
        }
    }

    /// Nobody gets what is in the queue from now on.
    async fn holds(&self, queue: &str) {
        let for_ever = Some("2099-01-01T00:00:00Z");
        self.bus.pause(queue, for_ever).await.expect("paused");
    }

    async fn lets_go(&self, queue: &str) {
        self.bus.pause(queue, None).await.expect("goes on");
    }

    /// Publishes rating `n` of now.
    async fn rates(&self, n: u64, stars: Option<u8>) -> Id {
        let now = self.now();
        self.publish("IncidentRated", rating(n, stars, now)).await
    }

    /// Sets the archive's age limit, as an operator would; gives the one before.
    async fn archive_keeps(&self, max_age_ns: u64) -> u64 {
        let info = self.bus.api("STREAM.INFO.EVENTS", &Value::Null).await;
        let mut config = info.expect("told")["config"].clone();
        let before = config["max_age"].as_u64().expect("a number");
        config["max_age"] = json!(max_age_ns);
        if max_age_ns < 120_000_000_000 {
            config["duplicate_window"] = json!(max_age_ns);
        }
        let updated = self.bus.api("STREAM.UPDATE.EVENTS", &config).await;
        updated.expect("updated");
        before
    }
}

fn rating(n: u64, stars: Option<u8>, at: Ts) -> Value {
    let mut detail = json!({ "incidentId": ids::derive_v7(2, &[b"rated", &n.to_be_bytes()]),
        "driverId": ids::derive_v7(2, &[b"driver"]), "vendorId": vendor_id(1), "ratedBy": "driver", "ratedAt": at });
    if let Some(stars) = stars {
        detail["stars"] = json!(stars);
    }
    detail
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_with_queues_is_raised_once_and_ends_with_its_cause() {
    let (broken, end) = (Arc::new(AtomicBool::new(false)), End::start().await);
    let build = unfixed::build(&broken);
    // The broker's own clock says how old events are: the site's begins with it.
    let start = Clock.now().to_string();
    let world = World::of(
        &start,
        |config| {
            config.audit.alarm_period = Span::secs(1);
            end.configure(config);
        },
        &build,
    )
    .await;
    world.vendor(1, NYC, &["tire_repair"], 5.0).await;
    let queue = "vendor-queue";
    world.looked().await;
    let listed = world.listed().await;
    assert_eq!(
        (&listed["stale"], &listed["items"]),
        (&json!(false), &json!([])),
        "{listed}"
    );

    // A day late: reporting handles it, and says so.
    let mut late = rating(0, Some(5), Ts::from_ms(world.now().ms() - 25 * HOUR));
    late["eventId"] = json!(Id::from_uuid(uuid::Uuid::new_v4()));
    late["timestamp"] = late["ratedAt"].clone();
    late["version"] = json!("1.0");
    let entity = late["incidentId"].as_str().expect("an id").to_owned();
    world
        .publish_as("roadcall.incident", "IncidentRated", &entity, &late)
        .await;
    world
        .told_times("AlarmRaised", "late-events", "reporting-queue", 1)
        .await;
    world.cleared("late-events", "reporting-queue", 1).await;

    // More failed runs than ten within a minute; a minute later they are of the past.
    broken.store(true, Ordering::SeqCst);
    for n in 1..=12 {
        world.rates(n, Some(4)).await;
    }
    world.raised("failed-deliveries", queue, 1).await;
    world.looked().await;
    broken.store(false, Ordering::SeqCst);
    world.pass(MINUTE);
    world.cleared("failed-deliveries", queue, 1).await;
    world.pass(4 * MINUTE);
    world.quiet().await;

    world.holds(queue).await;
    world.rates(20, Some(4)).await;
    world.looked().await;
    assert!(!world.is_listed("queue-age", queue).await);
    // Behind the site's clock, which is ahead of the broker's by as much as was passed.
    world.pass(301 * SECOND);
    world.raised("queue-age", queue, 1).await;
    world.looked().await;
    world.lets_go(queue).await;
    world.cleared("queue-age", queue, 1).await;

    // A letter, until it is discarded.
    let broken_event = world.rates(21, None).await;
    world.raised("dead-letters", queue, 1).await;
    world.looked().await;
    let letter = world.letter(queue, broken_event).await;
    let purge = json!({ "queue": queue, "reason": "nobody needs it",
        "letters": [{
        "deadLetterId": letter.dead_letter_id, "eventId": letter.event_id, "letterSubject": letter.subject() }] });
    world.ok(BOSS, "dlq.purge", purge).await;
    world.cleared("dead-letters", queue, 1).await;

    loses_an_event(&world, queue).await;

    // A clock that is set ahead looks like nobody measuring, until somebody does.
    world.pass(HOUR);
    eventually("the silence to be noticed and to end", || async {
        let raised = world.alarms("AlarmRaised", "no-data", "measuring").await;
        let cleared = world.alarms("AlarmCleared", "no-data", "measuring").await;
        (!raised.is_empty() && raised.len() == cleared.len()).then_some(())
    })
    .await;
    world.end().await;
}

/// The archive's own age limit takes an event that the queue did not get.
async fn loses_an_event(world: &World, queue: &str) {
    world.holds(queue).await;
    world.rates(22, Some(1)).await;
    let seq = world.bus.stream(EVENTS).await.expect("asked").last_seq;
    world.looked().await;
    assert_eq!(world.bus.queue(queue).await.expect("asked").pending, 1);
    let before = world.archive_keeps(1_000_000_000).await;
    eventually("the archive to let go", || async {
        let state = world.bus.stream(EVENTS).await.ok()?;
        (state.first_seq > seq).then_some(())
    })
    .await;
    world.archive_keeps(before).await;
    world.raised("retention-loss", queue, 1).await;
    world.lets_go(queue).await;
    world.looked().await;
    // What is lost is lost, however well the queue does now.
    assert!(world.is_listed("retention-loss", queue).await);
    let seen = json!({ "alarmName": "retention-loss", "subject": queue });
    world.ok(BOSS, "alarm.acknowledge", seen).await;
    world.cleared("retention-loss", queue, 1).await;
}

/// A place of its own for each vendor, so that each breakdown has one who may come.
fn place(n: u64) -> (f64, f64) {
    (NYC.0, NYC.1 - 6.0 * n as f64)
}

impl World {
    /// A breakdown where only vendor `n` is; gives the driver, the incident and the offer.
    async fn offered(&self, n: u64) -> (String, String, Value) {
        let driver = self.account("driver", n).await;
        let incident = self.breakdown(&driver, "tire", place(n)).await;
        let offer = self.offers(&incident, 1).await[0].clone();
        (driver, incident, offer)
    }

    /// It is accepted now, and called off.
    async fn accepts(&self, (driver, incident, offer): (String, String, Value)) {
        let reply = self.accept(&offer).await;
        assert_eq!(reply["ok"]["status"], "accepted", "{reply}");
        self.stands(&incident, "vendor_assigned").await;
        self.calls_off(&driver, &incident).await;
    }

    async fn calls_off(&self, driver: &str, incident: &str) {
        let solved = json!({ "incidentId": incident, "reason": "solved" });
        self.ok(driver, "incident.cancel", solved).await;
        self.quiet().await;
    }

    async fn declines(&self, n: u64) {
        let (driver, incident, offer) = self.offered(n).await;
        self.decline(&offer).await;
        self.quiet().await;
        self.calls_off(&driver, &incident).await;
    }

    /// The first moment so many minutes after the start.
    fn at_minute(&self, minutes: i64) {
        let start: Ts = START.parse().expect("a time");
        self.set(Ts::from_ms(start.ms() + minutes * MINUTE));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_with_the_business_is_raised_once_ends_with_its_cause_and_is_told_outside()
{
    let lost = Faults {
        lose: 1.0,
        mute: true,
        ..Faults::default()
    };
    let (stripe, end) = (StripeEnd::start(1, lost).await, End::start().await);
    let world = World::with(START, |config| {
        pays_by_stripe(config, &stripe);
        config.payments.reconcile = vec![Span::secs(3600)];
        config.payments.stripe.call_timeout = Span(Duration::from_millis(300));
        end.configure(config);
    })
    .await;
    for n in 1..=6 {
        world.vendor(n, place(n), &["tire_repair"], 5.0).await;
    }
    // Nobody is there to be told at first; nothing of it is lost.
    end.web.always(Some(Play::Status(503)));
    assigning_takes_long(&world).await;
    // Four tries make one failed call; then the other alarm has its turn.
    eventually("a call to have failed", || async {
        (end.web.seen().len() > 4).then_some(())
    })
    .await;
    let waiting = world.listed().await["webhookWaiting"].clone();
    assert_eq!((waiting, end.took().len()), (json!(2), 0));
    end.web.always(None);
    offers_are_declined(&world).await;
    let payments = approvals_pile_up(&world).await;
    a_final_state_is_contradicted(&world, &payments[0]).await;
    nobody_knows_what_became_of_money(&world, &stripe, &payments[1]).await;

    let mut wanted = BTreeSet::new();
    for kind in ["AlarmRaised", "AlarmCleared"] {
        let events = world.archived(kind, "*").await;
        let id = |event: &Value| event["id"].as_str().expect("an id").to_owned();
        wanted.extend(events.iter().map(id));
    }
    assert_eq!(wanted.len(), 10, "five alarms, raised and cleared");
    eventually("every alarm to be told", || async {
        world.pass(SECOND);
        (world.listed().await["webhookWaiting"] == 0).then_some(())
    })
    .await;
    let took = end.took();
    let keys: BTreeSet<String> = took.iter().map(|(key, _)| key.clone()).collect();
    assert_eq!(
        (keys, took.len()),
        (wanted, 10),
        "each once, under its event's id"
    );
    let (_, first) = took
        .iter()
        .find(|(_, body)| body["type"] == "alarm.raised")
        .expect("one");
    assert_eq!(first["data"]["alarmName"], "time-to-assign");
    assert_eq!(
        (&first["site"], &first["data"]["severity"]),
        (&json!("hub"), &json!("warning"))
    );
    world.end().await;
}

/// A minute and a half in two windows of five minutes, then no time at all.
async fn assigning_takes_long(world: &World) {
    let (alarm, site) = ("time-to-assign", "site");
    for (n, minute) in [(1, 0), (2, 5)] {
        world.at_minute(minute);
        assert!(!world.is_listed(alarm, site).await, "one window is not two");
        let offered = world.offered(n).await;
        world.pass(90 * SECOND);
        world.accepts(offered).await;
    }
    world.at_minute(10);
    world.raised(alarm, site, 1).await;
    let offered = world.offered(3).await;
    world.accepts(offered).await;
    world.at_minute(15);
    world.cleared(alarm, site, 1).await;
}

/// In two windows of fifteen minutes nobody who answers says yes.
async fn offers_are_declined(world: &World) {
    let (alarm, site) = ("acceptance-rate", "site");
    for (n, minute) in [(4, 15), (5, 30)] {
        world.at_minute(minute);
        assert!(!world.is_listed(alarm, site).await, "one window is not two");
        world.declines(n).await;
    }
    world.at_minute(45);
    world.raised(alarm, site, 1).await;
    let offered = world.offered(6).await;
    world.accepts(offered).await;
    world.at_minute(60);
    world.cleared(alarm, site, 1).await;
}

/// 101 payments wait for ten minutes, then 100; gives the one that was rejected and one that waits.
async fn approvals_pile_up(world: &World) -> [Value; 2] {
    let mut payments = Vec::new();
    for n in 0..101u64 {
        let some = |kind: &str| ids::derive_v7(2, &[kind.as_bytes(), &n.to_be_bytes()]);
        let body = json!({ "incidentId": some("incident"), "vendorId": vendor_id(1), "driverId": some("driver"),
            "payerType": "back_office", "amountCents": 1_000 + n,
            "lineItems": [{ "description": "work", "unitPriceCents": 1_000 + n }] });
        let made = world.ok(BOSS, "payment.create", body).await;
        assert_eq!(made["status"], "pending_approval", "{made}");
        payments.push(made["paymentId"].clone());
    }
    let (alarm, subject) = ("approval-backlog", "payments");
    world.pass(10 * MINUTE);
    world.raised(alarm, subject, 1).await;
    let no = json!({ "reason": "wrong_bill" });
    let reply = world.decide(BOSS, "payment.reject", &payments[0], no).await;
    assert_eq!(reply["ok"]["status"], "rejected", "{reply}");
    world.cleared(alarm, subject, 1).await;
    [payments[0].clone(), payments[1].clone()]
}

/// The provider paid what was rejected; a person finds out and says so.
async fn a_final_state_is_contradicted(world: &World, rejected: &Value) {
    let transfer = json!({ "id": "tr_1", "object": "transfer", "amount": 1_000, "currency": "usd",
        "metadata": { "payment_id": rejected, "attempt": "1" } });
    let (alarm, id) = ("payment-conflict", rejected.as_str().expect("an id"));
    let subject = format!("payment/{id}");
    for event in ["evt_1", "evt_2"] {
        world.hook(event, "transfer.created", &transfer).await;
    }
    world.raised(alarm, &subject, 1).await;
    let resolve = json!({ "subject": subject, "note": "The vendor sent it back by wire." });
    world
        .ok(BOSS, "payment.resolve_conflict", resolve.clone())
        .await;
    world.cleared(alarm, &subject, 1).await;
    let again = world.call(BOSS, "payment.resolve_conflict", resolve).await;
    assert_eq!(again["error"]["code"], "NOT_FOUND", "{again}");
    let of = json!({ "paymentId": rejected });
    let history = world.ok(BOSS, "payment.get", of).await["audit"].clone();
    let last = history
        .as_array()
        .and_then(|rows| rows.last())
        .expect("a row")
        .clone();
    assert_eq!(last["action"], "conflict_resolved", "{history}");
}

/// Money that moves and whose provider is silent for a day, and then answers.
async fn nobody_knows_what_became_of_money(world: &World, stripe: &StripeEnd, payment: &Value) {
    let subject = format!("payment/{}", payment.as_str().expect("an id"));
    let reply = world
        .decide(BOSS, "payment.approve", payment, json!({}))
        .await;
    assert!(reply.get("ok").is_some(), "{reply}");
    world
        .payment_has(payment, "outcomeUnknown", json!(true))
        .await;
    world.pass(DAY);
    world.raised("payment-unknown", &subject, 1).await;
    stripe.misbehave(Faults::default());
    eventually("the provider to be asked", || async {
        world.pass(HOUR);
        let of = json!({ "paymentId": payment });
        let now = world.ok(BOSS, "payment.get", of).await;
        (now["status"] == "completed").then_some(())
    })
    .await;
    world.cleared("payment-unknown", &subject, 1).await;
}

/// `alarm list --check`: its exit code and its one line.
fn check(site: &Processes) -> (Option<i32>, String) {
    let mut command = site.roadcall();
    let output = command.args(["alarm", "list", "--check"]).output();
    let output = output.expect("runs");
    let line = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(line.lines().count(), 1, "{line}");
    (output.status.code(), line)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_audit_role_is_seen_from_outside_and_says_so_itself_when_it_is_back() {
    let mut site = Processes::new();
    let file = site.dir.path().join("site.toml");
    std::fs::write(
        &file,
        "[site]\nroles = ['vendor', 'audit']\n[audit]\nalarm_period = '1s'\n",
    )
    .expect("written");
    site.arguments = vec!["--config".to_owned(), file.display().to_string()];
    site.apply_topology();
    let (code, line) = check(&site);
    assert_eq!(code, Some(3), "{line}");
    assert!(line.starts_with("ROADCALL UNKNOWN - "), "{line}");
    for role in ["vendor", "audit"] {
        site.start(role);
        site.role_ready(role).await;
    }
    let (_, line) = eventually("the first measurement", || async {
        Some(check(&site)).filter(|(code, _)| *code == Some(0))
    })
    .await;
    assert_eq!(
        line,
        "ROADCALL OK - no alarm is raised | critical=0;;0;0 warning=0;0;;0\n"
    );

    // A role that is down has no numbers; the other one says so.
    site.end("vendor");
    let (_, line) = eventually("the alarm", || async {
        Some(check(&site)).filter(|(code, _)| *code == Some(2))
    })
    .await;
    assert!(line.contains("no-data vendor-queue at hub"), "{line}");
    site.start("vendor");
    eventually("its end", || async {
        (check(&site).0 == Some(0)).then_some(())
    })
    .await;

    let listed = || site.run(&["call", "alarm.list"]).1;
    let measured_at: Ts = listed()["measuredAt"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .expect("a time");
    site.end("audit");
    let (code, line) = check(&site);
    assert_eq!(code, Some(3), "{line}");
    assert!(line.starts_with("ROADCALL UNKNOWN - "), "{line}");
    let (code, told, _) = site.run(&["--json", "alarm", "list", "--check"]);
    assert_eq!(
        (code, &told["status"]),
        (Some(3), &json!("UNKNOWN")),
        "{told}"
    );
    eventually("three periods to pass", || async {
        (Clock.since(measured_at) > Duration::from_secs(5)).then_some(())
    })
    .await;
    site.start("audit");
    let bus = site.connect().await;
    let told = |kind: &'static str| {
        let bus = bus.clone();
        async move {
            let filter = format!("roadcall.hub.ops.{kind}.no-data");
            let stored = bus
                .read(EVENTS, &filter, 1, 100, false)
                .await
                .expect("read");
            let about = |body: &[u8]| {
                let event: Value = serde_json::from_slice(body).expect("JSON");
                event["detail"]["subject"] == "measuring"
            };
            stored.iter().filter(|stored| about(&stored.body)).count()
        }
    };
    for kind in ["AlarmRaised", "AlarmCleared"] {
        eventually("the silence to be told of", || async {
            (told(kind).await == 1).then_some(())
        })
        .await;
    }
    eventually("health", || async {
        (check(&site).0 == Some(0)).then_some(())
    })
    .await;
    assert_eq!(told("AlarmRaised").await, 1);
}
