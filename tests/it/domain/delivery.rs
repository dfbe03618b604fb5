//! S18 to S21 and S29: what becomes of events whose handler fails, whose process dies, that come again, or that nobody
//! understands.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};

use super::money::bill;
use super::*;
use crate::support::processes::Processes;
use crate::support::unfixed;
use roadcall::bus::DLQ;
use roadcall::config::units::Span;
use roadcall::event::DeadReason;
use roadcall::node::letter::{Letter, of_queue};

/// What is compared of reporting.
const REPORTS: [&str; 1] = ["report.incidents"];

fn rating(stars: Option<u8>) -> Value {
    let mut detail = json!({ "incidentId": ids::derive_v7(2, &[b"rated"]), "driverId": ids::derive_v7(2, &[b"driver"]),
        "vendorId": vendor_id(1), "ratedBy": "driver", "ratedAt": START });
    if let Some(stars) = stars {
        detail["stars"] = json!(stars);
    }
    detail
}

impl World {
    /// What a role has about an event.
    pub async fn outcome(&self, role: RoleName, event: Id) -> Value {
        let command = format!("{role}.outcome");
        self.ok(BOSS, &command, json!({ "eventId": event })).await
    }

    /// What the vendor's record has counted.
    async fn metrics(&self) -> Value {
        let body = json!({ "vendorId": vendor_id(1) });
        self.ok(BOSS, "vendor.get", body).await["metrics"].clone()
    }

    /// The vendor's ratings so far.
    async fn ratings(&self) -> Value {
        self.metrics().await["ratings"].clone()
    }

    pub async fn letter(&self, queue: &str, event: Id) -> Letter {
        eventually("the letter", || async {
            let letters = of_queue(&self.bus, queue).await.expect("read");
            letters
                .into_iter()
                .find(|letter| letter.event_id == event.to_string())
        })
        .await
    }

    /// Redrives a letter, by its event's sequence, and waits for the end of that.
    pub async fn redrive(&self, queue: &str, seq: u64) {
        let body = json!({ "queue": queue, "seqs": [seq] });
        let job = self.ok(BOSS, "dlq.redrive", body).await;
        let ended = self.hears("ReplayCompleted", text(&job["name"]), 1).await;
        assert_eq!(ended[0]["state"], "COMPLETED", "{ended:?}");
        self.quiet().await;
    }

    /// How many events of each type there are, but for those about the platform itself.
    async fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for event in self.archived("*", "*").await {
            if event["source"] != "roadcall.ops" {
                *counts.entry(text(&event["detail-type"])).or_default() += 1;
            }
        }
        counts
    }

    async fn reports(&self) -> Vec<Value> {
        let mut reports = Vec::new();
        for command in REPORTS {
            reports.push(self.ok(BOSS, command, json!({})).await);
        }
        reports
    }

    /// What people see of the day: incidents, their matching, payments, the vendor, and what was written to whom.
    async fn state(&self) -> Vec<Value> {
        let incidents = self.ok(BOSS, "incident.list", json!({})).await;
        let mut state = vec![
            self.ok(BOSS, "payment.list", json!({})).await,
            self.metrics().await,
        ];
        for incident in incidents["items"].as_array().expect("a list") {
            let body = json!({ "incidentId": incident["incidentId"] });
            state.push(self.ok(BOSS, "match.get", body).await);
        }
        state.push(incidents);
        for actor in [&self.office, &self.admin, &as_vendor(1)] {
            state.push(json!(self.log(actor).await));
        }
        state
    }

    /// Three breakdowns: one worked on, paid, closed and rated, one called off, one that nobody comes to.
    async fn a_day(&self) {
        let driver = self.account("driver", 1).await;
        self.vendor(1, NYC, &["tire_repair"], 5.0).await;
        let incident = self.worked(&driver, NYC, 45, bill(&[15_000, 5_000])).await;
        self.stands(&incident, "payment_pending").await;
        let id = self.payment_of(&incident).await["paymentId"].clone();
        let yes = self.decide(BOSS, "payment.approve", &id, json!({})).await;
        assert!(yes.get("ok").is_some(), "{yes}");
        eventually("the payment to be submitted", || async {
            let settled = json!({ "outcome": "completed", "reference": "wire 1" });
            let reply = self.decide(BOSS, "payment.settle", &id, settled).await;
            reply.get("ok").map(|_| ())
        })
        .await;
        self.stands(&incident, "closed").await;
        let stars = json!({ "incidentId": incident, "stars": 4 });
        self.ok(&driver, "incident.rate", stars).await;
        self.pass(MINUTE);
        let off = self.breakdown(&driver, "tire", NYC).await;
        self.offers(&off, 1).await;
        let solved = json!({ "incidentId": off, "reason": "solved" });
        self.ok(&driver, "incident.cancel", solved).await;
        self.pass(MINUTE);
        let lost = self.breakdown(&driver, "tow", NYC).await;
        self.hears("IncidentEscalated", &lost, 1).await;
        self.letters(&self.office, "incident_escalated", 3).await;
        self.letters(&driver, "work_completed", 3).await;
        self.letters(&as_vendor(1), "payment_completed", 3).await;
        self.quiet().await;
        for actor in [&self.office, &self.admin, &driver, &as_vendor(1)] {
            self.all_sent(actor).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s18_three_failures_at_0_300_600_s_make_a_letter_an_alarm_and_after_the_fix_one_effect() {
    let broken = Arc::new(AtomicBool::new(true));
    let build = unfixed::build(&broken);
    let often = |config: &mut Config| config.audit.alarm_period = Span::secs(1);
    let world = World::of(START, often, &build).await;
    world.vendor(1, NYC, &["tire_repair"], 5.0).await;
    let (start, queue) = (world.now(), "vendor-queue");
    let event = world.publish("IncidentRated", rating(Some(5))).await;
    let due = |n: i64| json!(Ts::from_ms(start.ms() + n * 300 * SECOND));
    for failures in 1..=2 {
        let waiting = eventually("a failed delivery", || async {
            let waiting = world.outcome(RoleName::Vendor, event).await["waiting"].clone();
            (waiting["attempts"].as_array()?.len() == failures).then_some(waiting)
        })
        .await;
        let next = i64::try_from(failures).expect("small");
        assert_eq!(
            (&waiting["why"], &waiting["dueAt"]),
            (&json!("retry"), &due(next))
        );
        assert!(of_queue(&world.bus, queue).await.expect("read").is_empty());
        // A millisecond early it is left alone: the next attempt's own time says so.
        world.set(Ts::from_ms(start.ms() + next * 300 * SECOND - 1));
        world.ratings().await;
        world.pass(1);
    }
    let letter = world.letter(queue, event).await;
    assert_eq!(
        (letter.reason, letter.deliveries),
        (DeadReason::HandlerFailed, 3)
    );
    let times: Vec<Value> = letter
        .attempts
        .iter()
        .map(|attempt| json!(attempt.at))
        .collect();
    assert_eq!(times, [due(0), due(1), due(2)]);
    assert!(
        letter.attempts[2]
            .error
            .contains("the stars can't be added")
    );
    assert!(
        letter
            .payload
            .expect("the body")
            .contains(&event.to_string())
    );
    assert!(at(&letter.dead_at).ms() <= start.ms() + 900 * SECOND);
    let created = &world.hears("DeadLetterCreated", queue, 1).await[0];
    assert_eq!(
        (&created["originalEventId"], &created["deliveries"]),
        (&json!(event), &json!(3))
    );
    let alarm = &world.hears("AlarmRaised", "dead-letters", 1).await[0];
    assert_eq!(alarm["subject"], queue);
    let told = world
        .letters_about(&world.admin, &alarm["eventId"], 3)
        .await;
    assert_eq!(told, ["email", "push", "sms"], "a person is told");
    assert_eq!(world.ratings().await, 0);

    broken.store(false, Ordering::SeqCst);
    for _ in 0..2 {
        world.redrive(queue, letter.seq).await;
        assert_eq!(world.ratings().await, 1, "one effect");
    }
    world.hears("DeadLetterRedriven", queue, 1).await;
    assert!(of_queue(&world.bus, queue).await.expect("read").is_empty());
    world.hears("AlarmCleared", "dead-letters", 1).await;
    world.end().await;
}

/// Processes of their own, killed as a power cut does it. The exact points in between are those of
/// `scenarios::s19_killed_between_commit_and_publish_and_between_effect_and_ack`, where the test is the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s19_what_was_accepted_appears_and_has_one_effect_whoever_is_killed_in_between() {
    let mut site = Processes::new();
    site.apply_topology();
    for role in ["incident", "match"] {
        site.start(role);
    }
    let bus = site.connect().await;
    let mut incidents = Vec::new();
    for n in 0..6u64 {
        let driver = format!(
            "driver:{}",
            ids::derive_v7(2, &[b"driver", &n.to_be_bytes()])
        );
        let body = json!({ "type": "tire", "lat": NYC.0, "lon": NYC.1, "clientRequestId": format!("r{n}") });
        let made = crate::crash::call(&bus, &driver, "incident.create", &body).await;
        // The reply follows the commit; whether the event is out already is the kernel's secret.
        site.kill("incident");
        incidents.push(text(&made["ok"]["incidentId"]));
        let filter = format!(
            "roadcall.hub.incident.IncidentCreated.{}",
            incidents[incidents.len() - 1]
        );
        eventually("the event", || async {
            let page = bus.read(EVENTS, &filter, 1, 10, true).await.ok()?;
            (!page.is_empty()).then_some(())
        })
        .await;
        // And here, whether matching has handled or acknowledged it.
        site.kill("match");
    }
    for incident in &incidents {
        for (service, once) in [
            ("incident", "IncidentCreated"),
            ("match", "MatchExhausted"),
            ("incident", "IncidentEscalated"),
        ] {
            let filter = format!("roadcall.hub.{service}.{once}.{incident}");
            let count = eventually(once, || async {
                let page = bus.read(EVENTS, &filter, 1, 10, true).await.ok()?;
                (!page.is_empty()).then_some(page.len())
            })
            .await;
            assert_eq!(count, 1, "{once}");
        }
    }
    assert_eq!(
        bus.stream(DLQ).await.expect("asked").messages,
        0,
        "no letters"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s20_a_day_replayed_into_the_live_site_changes_nothing_and_tells_nobody() {
    let world = World::new().await;
    world.a_day().await;
    let sent = |world: &World| (world.texts.seen().len(), world.pushes.seen().len());
    let (counts, reports, messages) = (world.counts().await, world.reports().await, sent(&world));
    let metrics = world.metrics().await;
    assert_eq!(
        (&metrics["ratings"], &metrics["offers"]),
        (&json!(1), &json!(2))
    );
    let state = world.state().await;
    for mode in ["fill", "force"] {
        let mut jobs = Vec::new();
        for queue in RoleName::BUILT.iter().filter_map(|role| role.queue()) {
            let body = json!({ "queue": queue, "fromSeq": 1, "mode": mode });
            jobs.push(text(&world.ok(BOSS, "replay.start", body).await["name"]));
        }
        for job in jobs {
            let ended = world.hears("ReplayCompleted", job, 1).await;
            assert_eq!(ended[0]["state"], "COMPLETED", "{ended:?}");
        }
        world.quiet().await;
        assert_eq!(world.reports().await, reports, "{mode}");
        assert_eq!(
            world.counts().await,
            counts,
            "{mode}: no new offer, payment, rating"
        );
        assert_eq!(sent(&world), messages, "{mode}: no message");
        assert_eq!(world.state().await, state, "{mode}");
    }
    assert_eq!(
        world.bus.stream(DLQ).await.expect("asked").messages,
        0,
        "no letters"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s21_reports_emptied_and_fed_from_the_archive_are_as_before() {
    let world = World::new().await;
    world.a_day().await;
    let before = world.reports().await;
    assert_eq!(before[0]["counts"]["total"], 3, "{before:?}");
    // As if a fault in the projection had written it.
    let database = rusqlite::Connection::open(world.config.site.state_dir.join("reporting.db"));
    let database = database.expect("opened");
    database.busy_timeout(Duration::from_secs(10)).expect("set");
    database
        .execute("UPDATE incident SET type = 'tow'", ())
        .expect("written");
    drop(database);
    assert_ne!(world.reports().await, before);
    let job = world
        .ok(BOSS, "replay.rebuild", json!({ "role": "reporting" }))
        .await;
    let ended = world.hears("ReplayCompleted", text(&job["name"]), 1).await;
    assert_eq!(ended[0]["state"], "COMPLETED", "{ended:?}");
    world.quiet().await;
    assert_eq!(world.reports().await, before);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s29_what_is_unknown_new_or_broken_goes_where_it_can_be_found() {
    let world = World::new().await;
    world.vendor(1, NYC, &["tire_repair"], 5.0).await;
    // A type that nobody knows: for reporting, log and archive alone.
    let (event, incident) = (
        Id::from_uuid(uuid::Uuid::new_v4()),
        ids::derive_v7(2, &[b"foo"]),
    );
    let foo = json!({ "eventId": event, "timestamp": world.now(), "version": "1.0", "incidentId": incident, "bar": 1 });
    world
        .publish_as("roadcall.incident", "Foo", &incident.to_string(), &foo)
        .await;
    world.quiet().await;
    assert_eq!(world.archived("Foo", incident).await.len(), 1);
    for role in RoleName::BUILT
        .into_iter()
        .filter(|role| role.queue().is_some())
    {
        let ended = world.outcome(role, event).await["ended"]["outcome"].clone();
        let takes = matches!(role, RoleName::Reporting | RoleName::Audit);
        assert_eq!(
            ended,
            if takes { json!("done") } else { Value::Null },
            "{role}"
        );
    }
    let log = roadcall::node::eventlog::directory(&world.config);
    eventually("the log to have it", || async {
        let files = std::fs::read_dir(&log).ok()?.filter_map(Result::ok);
        let mut texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
        texts
            .any(|text| text.contains(&event.to_string()))
            .then_some(())
    })
    .await;
    assert_eq!(
        world.bus.stream(DLQ).await.expect("asked").messages,
        0,
        "no letter"
    );

    // A version that comes with a newer build is parked, and whatever is done with it here, it is not lost.
    let queue = "vendor-queue";
    let mut newer = rating(Some(5));
    newer["version"] = json!("9.0");
    let newer = world.publish("IncidentRated", newer).await;
    let parked = world.letter(queue, newer).await;
    assert_eq!(
        (parked.reason, parked.deliveries),
        (DeadReason::UnsupportedVersion, 1)
    );
    world.redrive(queue, parked.seq).await;
    let still = world.letter(queue, newer).await;
    assert_eq!(
        (still.dead_letter_id, still.reason),
        (parked.dead_letter_id, parked.reason)
    );

    let broken = world.publish("IncidentRated", rating(None)).await;
    let dead = world.letter(queue, broken).await;
    assert_eq!(
        (dead.reason, dead.deliveries),
        (DeadReason::InvalidEvent, 1)
    );
    assert!(
        dead.attempts[0].error.contains("detail.stars"),
        "{:?}",
        dead.attempts
    );

    assert_eq!(world.ratings().await, 0);
    let mut more = rating(Some(4));
    more["mood"] = json!("good");
    let more = world.publish("IncidentRated", more).await;
    world.quiet().await;
    assert_eq!(world.ratings().await, 1);
    let ended = world.outcome(RoleName::Vendor, more).await;
    assert_eq!(ended["ended"]["outcome"], "done", "{ended}");
    world.end().await;
}
