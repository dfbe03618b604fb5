//! Traces as a collector gets them: one incident is one trace, whoever did what for it and wherever.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::{Value, json};

use crate::domain::world::World;
use crate::domain::{
    BOSS, MINUTE, NYC, START, as_vendor, bill, fix, pays_by_stripe, phone, text, vendor_id,
};
use crate::support::ends::collector::{self, Span};
use crate::support::ends::stripe::{Faults, StripeEnd};
use crate::support::ends::web::{Play, Web};
use crate::support::{eventually, free_port, unfixed};
use roadcall::bus::{Bus, EVENTS, Headers, Stored};
use roadcall::config::Config;
use roadcall::event::trace::TraceContext;
use roadcall::gateway::Gateway;

/// Kinds of spans by their numbers.
const SERVER: u64 = 2;
const CLIENT: u64 = 3;
const PRODUCER: u64 = 4;
const CONSUMER: u64 = 5;

/// Whoever the flows of DOMAIN 2.1 to 2.3 name, and who hears of every event.
const ROLES: [&str; 9] = [
    "audit",
    "incident",
    "match",
    "notifications",
    "payments",
    "reporting",
    "telephony",
    "tracking",
    "vendor",
];

fn traced(url: &str, ratio: f64) -> impl FnOnce(&mut Config) {
    let url = url.to_owned();
    move |config| {
        config.trace.otlp_url = url;
        config.trace.sample_ratio = ratio;
    }
}

/// The trace of an incident: its id without dashes.
fn trace_of(incident: &str) -> String {
    incident.replace('-', "")
}

impl World {
    /// What a command gives that comes with a trace of the caller's.
    async fn called(&self, actor: &str, command: &str, body: Value, trace: &str) -> Value {
        let mut headers = Headers::default();
        headers.push("Roadcall-Actor", actor);
        headers.push("traceparent", trace);
        let body = body.to_string().into_bytes();
        let wait = Duration::from_secs(30);
        let reply = self.bus.call("hub", command, &headers, body, wait).await;
        let reply: Value = serde_json::from_slice(&reply.expect("a reply").body).expect("JSON");
        assert!(reply.get("ok").is_some(), "{command}: {reply}");
        reply["ok"].clone()
    }

    /// An incident from its report to a closed and rated file, by those who do each step.
    async fn whole_story(&self, driver: &str, incident: &str) {
        let vendor = as_vendor(1);
        let offer = self.offers(incident, 1).await[0].clone();
        assert_eq!(self.accept(&offer).await["ok"]["status"], "accepted");
        self.stands(incident, "vendor_assigned").await;
        let way = json!({ "status": "vendor_en_route" });
        let reply = self.change(&vendor, "incident.update_status", incident, way);
        assert!(reply.await.get("ok").is_some());
        let session = self.session(incident).await;
        for lat in [NYC.0 + 0.05, NYC.0] {
            self.pass(MINUTE);
            let reply = self
                .report(&vendor, &session, &[fix(lat, self.now())])
                .await;
            assert!(reply.get("ok").is_some(), "{reply}");
        }
        self.stands(incident, "vendor_arrived").await;
        for (command, more) in [
            ("incident.start_work", json!({})),
            ("incident.complete_work", bill(&[15_000])),
        ] {
            self.pass(30 * MINUTE);
            let reply = self.change(&vendor, command, incident, more).await;
            assert!(reply.get("ok").is_some(), "{command}: {reply}");
        }
        self.stands(incident, "payment_pending").await;
        let payment = self.payment_of(incident).await;
        let id = &payment["paymentId"];
        let reply = self.decide(BOSS, "payment.approve", id, json!({})).await;
        assert!(reply.get("ok").is_some(), "{reply}");
        self.stands(incident, "closed").await;
        let stars = json!({ "incidentId": incident, "stars": 5 });
        self.ok(driver, "incident.rate", stars).await;
        self.quiet().await;
    }

    /// Everything in the archive that says it is about the incident.
    async fn about(&self, incident: &str) -> Vec<(Stored, Value)> {
        let (mut found, mut from) = (Vec::new(), 1);
        loop {
            let page = self.bus.read(EVENTS, "roadcall.>", from, 256, false).await;
            let page = page.expect("read");
            let Some(last) = page.last() else {
                return found;
            };
            from = last.seq + 1;
            for stored in page {
                let event: Value = serde_json::from_slice(&stored.body).expect("JSON");
                if event["correlation"] == incident {
                    found.push((stored, event));
                }
            }
        }
    }
}

/// Every span of a trace descends from the one span without a parent; gives that one.
fn root_of(spans: &[Span]) -> &Span {
    let by_id: BTreeMap<&str, &Span> = spans.iter().map(|span| (span.id.as_str(), span)).collect();
    assert_eq!(by_id.len(), spans.len(), "two spans have one id");
    let roots: Vec<&Span> = spans.iter().filter(|span| span.parent.is_empty()).collect();
    let [root] = roots[..] else {
        panic!("not one root but {roots:#?}");
    };
    for span in spans {
        let (mut at, mut steps) = (span, 0);
        while at.id != root.id {
            at = by_id.get(at.parent.as_str()).unwrap_or_else(|| {
                panic!("the parent of {at:#?} is not in the trace");
            });
            steps += 1;
            assert!(steps <= spans.len(), "{span:#?} is its own ancestor");
        }
    }
    root
}

/// Each event was made by one span, and handled by spans that are linked to it.
fn events_are_linked(events: &[(Stored, Value)], spans: &[Span]) {
    for (stored, event) in events {
        let header = stored.headers.get("traceparent").expect("a traceparent");
        let place = TraceContext::parse(header).expect("a sound one");
        assert_eq!(event["detail"]["metadata"]["traceparent"], header);
        assert!(place.sampled, "{header}");
        let id = text(&event["id"]);
        let of_event = |kind: u64| {
            let kind = move |span: &&Span| span.kind == kind;
            let id = id.clone();
            let same = move |span: &&Span| span.of("messaging.message.id") == id;
            spans.iter().filter(kind).filter(same)
        };
        let made: Vec<&Span> = of_event(PRODUCER).collect();
        let [made] = made[..] else {
            panic!("{} was made by {made:#?}", stored.subject);
        };
        assert_eq!(made.id, format!("{:016x}", place.span));
        let handled: Vec<&Span> = of_event(CONSUMER).collect();
        assert!(!handled.is_empty(), "nobody handled {}", stored.subject);
        for span in handled {
            assert_eq!(span.parent, made.id, "{span:#?}");
            let producer = (made.trace.clone(), made.id.clone());
            assert_eq!(span.links, [producer], "{span:#?}");
            assert!(span.name.starts_with("process roadcall."), "{}", span.name);
            assert_eq!(span.of("messaging.system"), "nats");
        }
    }
}

fn says_nothing_of_anybody(web: &Web) {
    let names = [
        phone("driver", 1),
        phone("vendor", 1),
        phone("dispatcher", 9),
    ];
    for request in web.seen() {
        let said = |word: &str| assert!(!request.body.contains(word), "{word} is in a span");
        names.iter().for_each(|name| said(name));
        for word in [
            "Ann",
            "Hank",
            "Tires",
            "fleet.example",
            "+1555",
            "40.7",
            "-74.0",
            "acct_",
        ] {
            said(word);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_incident_is_one_trace_with_every_role_in_it() {
    let web = collector::start().await;
    let stripe = StripeEnd::start(1, Faults::default()).await;
    let world = World::with(START, |config| {
        pays_by_stripe(config, &stripe);
        traced(&web.url, 1.0)(config);
    })
    .await;
    let driver = world.account("driver", 1).await;
    world.vendor(1, (40.80, NYC.1), &["tire_repair"], 5.0).await;
    // The app has a trace of its own.
    let app = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let body = json!({ "type": "tire", "lat": NYC.0, "lon": NYC.1, "description": "Ann waits" });
    let made = world.called(&driver, "incident.create", body, app).await;
    let incident = text(&made["incidentId"]);
    world.whole_story(&driver, &incident).await;
    let events = world.about(&incident).await;
    world.end().await;

    let all = collector::spans(&web);
    let trace = trace_of(&incident);
    let spans: Vec<Span> = all
        .iter()
        .filter(|span| span.trace == trace)
        .cloned()
        .collect();
    let root = root_of(&spans);
    assert_eq!(root.name, "incident");
    assert_eq!(root.of("roadcall.role"), "incident");
    let caller = TraceContext::parse(app).expect("one");
    let of_app = (
        format!("{:032x}", caller.trace),
        format!("{:016x}", caller.span),
    );
    assert_eq!(root.links.first(), Some(&of_app));
    assert!(
        all.iter().all(|span| span.trace != of_app.0),
        "the app's trace is the app's"
    );
    let roles: BTreeSet<&str> = spans.iter().map(|span| span.of("roadcall.role")).collect();
    let missing: Vec<&str> = ROLES
        .into_iter()
        .filter(|role| !roles.contains(role))
        .collect();
    assert!(
        missing.is_empty(),
        "{missing:?} are not in the trace, {roles:?} are"
    );
    assert!(events.len() > 20, "{}", events.len());
    events_are_linked(&events, &spans);
    let has = |kind: u64, name: &str| {
        let found = spans
            .iter()
            .find(|span| span.kind == kind && span.name == name);
        found.unwrap_or_else(|| panic!("no span {name} of kind {kind}"))
    };
    for command in [
        "incident.create",
        "offer.accept",
        "tracking.report_fix",
        "payment.approve",
        "incident.rate",
    ] {
        has(SERVER, command);
    }
    // The last effects: what was paid, and who was told.
    for call in ["call sms", "call push"] {
        assert!(!has(CLIENT, call).failed);
    }
    assert!(
        spans
            .iter()
            .any(|span| span.of("peer.service") == "stripe" && span.kind == CLIENT)
    );
    says_nothing_of_anybody(&web);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callers_trace_goes_on_where_no_incident_is_and_his_wish_to_record_counts_anywhere() {
    let web = collector::start().await;
    let world = World::with(START, traced(&web.url, 0.0)).await;
    let ask = async |n: u64, flags: &str| {
        let (trace, actor) = (format!("{n:032x}"), as_vendor(n));
        let profile = crate::domain::profile(n, NYC, &["tire_repair"]);
        let parent = format!("00-{trace}-00f067aa0ba902b7-{flags}");
        world
            .called(&actor, "vendor.register", profile, &parent)
            .await;
        trace
    };
    let (recorded, other) = (ask(1, "01").await, ask(2, "00").await);
    // An incident's trace is its own, but what the caller wants to see of it is recorded.
    let driver = world.account("driver", 1).await;
    let body = json!({ "type": "tire", "lat": NYC.0, "lon": NYC.1 });
    let app = format!("00-{:032x}-00f067aa0ba902b7-01", 3);
    let made = world.called(&driver, "incident.create", body, &app).await;
    world.quiet().await;
    world.end().await;
    let spans = collector::spans(&web);
    let trace = trace_of(&text(&made["incidentId"]));
    let asked_for = spans.iter().filter(|span| span.trace == trace);
    let root = root_of(&asked_for.cloned().collect::<Vec<_>>()).clone();
    assert_eq!(root.links[0].0, format!("{:032x}", 3));
    assert!(spans.iter().all(|span| span.trace != other), "not wanted");
    let of_trace = |span: &&Span| span.trace == recorded;
    let spans: Vec<&Span> = spans.iter().filter(of_trace).collect();
    let command = spans.iter().find(|span| span.kind == SERVER).expect("one");
    assert_eq!(
        (command.name.as_str(), command.parent.as_str()),
        ("vendor.register", "00f067aa0ba902b7")
    );
    let roles: BTreeSet<&str> = spans.iter().map(|span| span.of("roadcall.role")).collect();
    assert!(
        roles.is_superset(&BTreeSet::from(["vendor", "match", "audit"])),
        "{roles:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_trace_that_is_not_recorded_only_errors_are_told() {
    let web = collector::start().await;
    let broken = Arc::new(AtomicBool::new(true));
    let world = World::of(START, traced(&web.url, 0.0), &unfixed::build(&broken)).await;
    let driver = world.account("driver", 1).await;
    world.vendor(1, (40.80, NYC.1), &["tire_repair"], 5.0).await;
    world.texts.always(Some(Play::Status(400)));
    let (incident, _) = world.assigned(&driver, "tire", NYC).await;
    let id = roadcall::event::Id::from_uuid(uuid::Uuid::new_v4());
    let detail = json!({ "eventId": id, "timestamp": world.now(), "version": "1.0", "incidentId": incident });
    world
        .publish_as("roadcall.incident", "IncidentRated", &incident, &detail)
        .await;
    world.hears("DeadLetterCreated", "*", 3).await;
    // And one that is sound, which the vendor role fails at and will try again.
    let rated = json!({ "incidentId": incident, "driverId": id, "vendorId": vendor_id(1), "ratedBy": "driver",
        "ratedAt": START, "stars": 5 });
    world.publish("IncidentRated", rated).await;
    world.quiet().await;
    let headers: Vec<String> = world
        .about(&incident)
        .await
        .iter()
        .map(|(stored, _)| stored.headers.get("traceparent").expect("one").to_owned())
        .collect();
    world.end().await;
    // The context goes on all the same, for whoever records.
    assert!(
        headers
            .iter()
            .all(|header| header.ends_with("-00") && header.contains(&trace_of(&incident)))
    );
    let spans = collector::spans(&web);
    let wrong: Vec<&Span> = spans.iter().filter(|span| !span.failed).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let named = |name: &str| spans.iter().filter(|span| span.name == name).count();
    assert_eq!(named("create DLQ"), 3, "{spans:#?}");
    let retried = "process roadcall.hub.incident.IncidentRated.:entity";
    assert_eq!(named(retried), 1, "{spans:#?}");
    let failed: Vec<&Span> = spans
        .iter()
        .filter(|span| span.name == "call sms")
        .collect();
    assert!(
        failed.iter().any(|span| span.trace == trace_of(&incident)),
        "{spans:#?}"
    );
    assert!(
        failed.iter().all(|span| span.of("peer.service") == "sms"),
        "{failed:#?}"
    );
    says_nothing_of_anybody(&web);
}

async fn says_so_in_metrics(world: &World) {
    let mut config = world.config.clone();
    config.gateway.listen = "127.0.0.1:0".to_owned();
    let gateway = Gateway::start(world.bus.clone(), &config).await;
    let gateway = gateway.expect("open");
    // Another part of the process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = format!("http://{}/metrics", gateway.address);
    let page = reqwest::get(url).await.expect("an answer").text().await;
    let page = page.expect("a text");
    let lines = page.lines().filter(|line| {
        line.starts_with("roadcall_trace_spans_total{") && line.contains("outcome=\"dropped\"")
    });
    let dropped: Vec<&str> = lines.filter(|line| !line.ends_with(" 0")).collect();
    assert!(!dropped.is_empty(), "{page}");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_gone_or_refuses_costs_spans_and_nothing_else() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let refusing = collector::start().await;
    refusing.always(Some(Play::Status(400)));
    for (url, refuses) in [(&nobody, false), (&refusing.url, true)] {
        let world = World::with(START, traced(url, 1.0)).await;
        let driver = world.account("driver", 1).await;
        world.vendor(1, (40.80, NYC.1), &["tire_repair"], 5.0).await;
        world.assigned(&driver, "tire", NYC).await;
        if refuses {
            let counts = eventually("spans are given up", || async {
                let status = world.ok(BOSS, "incident.status", json!({})).await;
                let counts = status["figures"]["spans"].clone();
                (counts["dropped"].as_u64() > Some(0)).then_some(counts)
            });
            assert_eq!(counts.await["exported"], 0);
            says_so_in_metrics(&world).await;
        }
        world.quiet().await;
        world.end().await;
    }
    assert!(!refusing.seen().is_empty());
}
