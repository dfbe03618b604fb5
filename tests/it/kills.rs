//! Payments and notifications killed at random while incidents go from the report to a closed file, and every end outside
//! fails a fifth of its calls and never answers a twentieth: each payment is made once, each message comes, and what comes
//! twice comes under one key.
//!
//! `ROADCALL_FULL=1 cargo test kills::` runs the long form: 100 kills, 200 incidents; `ROADCALL_KILL_SEED` repeats one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::crash::{call, id, number};
use crate::support::ends::smtp::Server;
use crate::support::ends::stripe::{Faults, KEY, StripeEnd, WEBHOOK_SECRET};
use crate::support::ends::web::Web;
use crate::support::ends::{hooks, sms};
use crate::support::processes::{Processes, ROLES};
use crate::support::stage::notifications;
use crate::support::{eventually_within, sized};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, DLQ, EVENTS};

const BOSS: &str = "operator:test";
/// The shares of calls that fail, and that are never answered.
const FAIL: f64 = 0.2;
const STALL: f64 = 0.05;
/// Seconds that a step may take while roles die and ends stall.
const PATIENCE: u32 = 600;

/// The site and its ends.
struct Place {
    site: Processes,
    stripe: StripeEnd,
    sms: Web,
    push: Web,
    mail: Server,
}

impl Place {
    async fn set(seed: u64) -> Self {
        let faults = Faults {
            fail: FAIL,
            stall: STALL,
            ..Faults::default()
        };
        let stripe = StripeEnd::start(seed, faults).await;
        stripe.confirm_at_once();
        let (sms, push, mut mail) = (sms::start().await, hooks::start().await, Server::start());
        sms.misbehave(seed + 1, FAIL, STALL);
        push.misbehave(seed + 2, FAIL, STALL);
        let mut random = ChaCha8Rng::seed_from_u64(seed + 3);
        let fates = (0..10_000).map(|_| match random.random::<f64>() {
            chance if chance < FAIL => "once 451",
            chance if chance < FAIL + STALL => "once stall",
            _ => "ok",
        });
        mail.script(&fates.collect::<Vec<_>>());
        let mut site = Processes::new();
        let file = site.dir.path().join("roadcall.toml");
        let secret = hooks::SECRET;
        let more = format!("retry_delay = '200ms'\nsms_per_hour = 1000\npush_secret = '{secret}'");
        let messages = notifications(&sms, &mail, &push, &more);
        let text = format!(
            "[payments]\nprocessor = 'stripe'\nreconcile = ['100ms', '200ms']\nresubmit_after = '100ms'\n\
             [payments.stripe]\nbase_url = '{}'\nsecret_key = '{KEY}'\nwebhook_secret = '{WEBHOOK_SECRET}'\n\
             call_timeout = '300ms'\nretry_base = '10ms'\nretry_cap = '50ms'\n\
             {messages}",
            stripe.url,
        );
        std::fs::write(&file, text).expect("written");
        site.arguments = vec!["--config".to_owned(), file.display().to_string()];
        site.apply_topology();
        ROLES.iter().for_each(|role| site.start(role));
        site.ready().await;
        Self {
            site,
            stripe,
            sms,
            push,
            mail,
        }
    }

    /// What the ends of the messages got: for each channel the keys, and to whom and what each was for.
    fn got(&self) -> BTreeMap<(&'static str, String), BTreeSet<String>> {
        let mut got: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        let mut note = |channel, key: String, what: String| {
            got.entry((channel, key)).or_default().insert(what);
        };
        for order in self.sms.seen().iter().map(sms::order) {
            note("sms", order.key, format!("{} {}", order.to, order.text));
        }
        for (key, body) in self.push.seen().iter().map(hooks::order) {
            note("push", key, format!("{} {}", body["devices"], body["text"]));
        }
        for mail in self.mail.seen() {
            let key = mail.header("Message-ID");
            let key = key.trim_start_matches('<').split('@').next();
            note("email", key.unwrap_or_default().to_owned(), mail.to);
        }
        got
    }
}

fn ok(reply: &Value) -> Value {
    assert!(reply.get("ok").is_some(), "{reply}");
    reply["ok"].clone()
}

/// One breakdown, with the only vendor near it.
#[derive(Clone, Copy)]
struct Story(u64);

/// What it came to.
struct Closed {
    driver: String,
    vendor: String,
    payment: String,
}

impl Story {
    fn vendor(self) -> String {
        format!("vendor:{}", id("vendor", self.0))
    }

    fn place(self) -> (f64, f64) {
        (
            -40.0 + (self.0 % 20) as f64 * 2.0,
            20.0 + (self.0 / 20) as f64 * 3.0,
        )
    }

    /// Registers vendor and driver, each with a device; gives the driver's id once matching knows the vendor.
    async fn prepare(self, bus: &JetStream) -> String {
        let (n, (lat, lon)) = (self.0, self.place());
        let day = json!({ "open": "00:00", "close": "24:00" });
        let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
        let week: BTreeMap<&str, &Value> = days.into_iter().map(|name| (name, &day)).collect();
        let profile = json!({
            "businessName": "Tires", "contactName": "T", "phone": format!("+1555770{n:04}"), "timezone": "UTC",
            "email": format!("vendor-{n}@fleet.example"), "capabilities": ["tire_repair"],
            "location": { "lat": lat, "lon": lon }, "coverageRadiusMiles": 50, "insuranceExpiry": "2099-12-31",
            "operatingHours": week, "pricing": { "tire_repair": { "basePriceCents": 100, "perMileCents": 1 } },
            "payoutAccountRef": "acct_1", "clientRequestId": "register",
        });
        ok(&call(bus, &self.vendor(), "vendor.register", &profile).await);
        let verify = json!({ "vendorId": id("vendor", n), "backgroundCheckStatus": "approved" });
        ok(&call(bus, BOSS, "vendor.verify", &verify).await);
        let account = json!({ "role": "driver", "phone": format!("+1555880{n:04}"), "name": "D",
            "email": format!("driver-{n}@fleet.example"), "clientRequestId": format!("account-{n}") });
        let account = ok(&call(bus, BOSS, "auth.create_user", &account).await);
        let driver = account["userId"].as_str().expect("an id").to_owned();
        for person in [driver.clone(), id("vendor", n).to_string()] {
            let device = json!({ "userId": person, "token": format!("device-of-{person}"), "platform": "ios",
                "clientRequestId": format!("device-{person}") });
            ok(&call(bus, BOSS, "notification.register_device", &device).await);
        }
        let about_him = format!("roadcall.hub.vendor.VendorUpdated.{}", id("vendor", n));
        eventually_within(
            PATIENCE,
            "the vendor and the driver to be known",
            || async {
                let updated = bus.read(EVENTS, &about_him, 1, 1, true).await.ok()?;
                let registered = format!("roadcall.hub.auth.UserRegistered.{driver}");
                let registered = bus.read(EVENTS, &registered, 1, 1, true).await.ok()?;
                let seq = updated.first()?.seq.max(registered.first()?.seq);
                for queue in [
                    "match-queue",
                    "payment-approval-queue",
                    "notifications-queue",
                ] {
                    // A queue's floor does not pass what is none of its messages.
                    let state = bus.queue(queue).await.ok()?;
                    if state.ack_floor_seq < seq && state.pending + state.ack_pending > 0 {
                        return None;
                    }
                }
                Some(())
            },
        )
        .await;
        driver
    }

    /// From the report to the closed file.
    async fn tell(self, bus: JetStream) -> Closed {
        let driver = self.prepare(&bus).await;
        let charged = self.0.is_multiple_of(3);
        let pays = if charged {
            ";payment=independent_contractor"
        } else {
            ""
        };
        let (lat, lon) = self.place();
        let body = json!({ "type": "tire", "lat": lat, "lon": lon, "clientRequestId": format!("r{}", self.0) });
        let reporter = format!("driver:{driver}{pays}");
        let made = ok(&call(&bus, &reporter, "incident.create", &body).await);
        let incident = made["incidentId"].clone();
        let of = json!({ "incidentId": incident });
        let offer = eventually_within(PATIENCE, "an offer", || async {
            let offers = ok(&call(&bus, &self.vendor(), "offer.list", &of).await);
            offers["items"].get(0).map(|offer| offer["offerId"].clone())
        })
        .await;
        ok(&call(
            &bus,
            &self.vendor(),
            "offer.accept",
            &json!({ "offerId": offer }),
        )
        .await);
        work(&bus, &incident).await;
        let payment = eventually_within(PATIENCE, "the payment", || async {
            let list = ok(&call(&bus, BOSS, "payment.list", &of).await);
            list["items"].get(0).cloned()
        })
        .await;
        let payment_id = payment["paymentId"].as_str().expect("an id").to_owned();
        if payment["status"] == "pending_approval" {
            let body = json!({ "paymentId": payment_id, "expectedVersion": payment["version"],
                "clientRequestId": format!("approve-{payment_id}") });
            ok(&call(&bus, BOSS, "payment.approve", &body).await);
        }
        eventually_within(PATIENCE, "the file to be closed", || async {
            let now = ok(&call(&bus, BOSS, "incident.get", &of).await);
            (now["status"] == "closed").then_some(())
        })
        .await;
        Closed {
            driver,
            vendor: id("vendor", self.0).to_string(),
            payment: payment_id,
        }
    }
}

/// The states of a file, in order.
const WAY: [&str; 7] = [
    "vendor_assigned",
    "vendor_en_route",
    "vendor_arrived",
    "work_in_progress",
    "work_completed",
    "payment_pending",
    "closed",
];

/// On the way, there, at work, done. A command whose reply came too late was carried out all the same: the state tells.
async fn work(bus: &JetStream, incident: &Value) {
    let of = json!({ "incidentId": incident });
    let bill = json!([{ "description": "tire", "unitPriceCents": 15_000 }]);
    for (command, target, more) in [
        (
            "incident.update_status",
            "vendor_en_route",
            json!({ "status": "vendor_en_route" }),
        ),
        (
            "incident.update_status",
            "vendor_arrived",
            json!({ "status": "vendor_arrived" }),
        ),
        ("incident.start_work", "work_in_progress", json!({})),
        (
            "incident.complete_work",
            "work_completed",
            json!({ "lineItems": bill }),
        ),
    ] {
        let place = |status: &Value| WAY.iter().position(|one| status == one);
        eventually_within(PATIENCE, target, || async {
            let now = ok(&call(bus, BOSS, "incident.get", &of).await);
            if place(&now["status"]) >= place(&json!(target)) {
                return Some(());
            }
            let mut body = more.clone();
            body["incidentId"] = incident.clone();
            body["expectedVersion"] = now["version"].clone();
            call(bus, BOSS, command, &body).await.get("ok").map(|_| ())
        })
        .await;
    }
}

/// Everything that one of the two was told, once nothing of it is under way.
async fn told(bus: &JetStream, person: &str, wanted: &[(&str, &[&str])]) -> Vec<Value> {
    eventually_within(PATIENCE, "every message to end", || async {
        let body = json!({ "userId": person, "limit": 100 });
        let items = ok(&call(bus, BOSS, "notification.history", &body).await);
        let items = items["items"].as_array().cloned().unwrap_or_default();
        let there = |kind: &str, channel: &str| {
            let found = |item: &&Value| item["type"] == kind && item["channel"] == channel;
            items.iter().filter(found).count() == 1
        };
        let all = wanted.iter().all(|(kind, channels)| {
            let mut channels = channels.iter();
            channels.all(|channel| there(kind, channel))
        });
        let over = items.iter().all(|item| item["status"] != "pending");
        (all && over).then_some(items)
    })
    .await
}

const EVERY: &[&str] = &["push", "sms", "email"];
const QUICK: &[&str] = &["push", "sms"];

/// Each message was sent, under one key, which stands for nothing else.
async fn messages(place: &Place, bus: &JetStream, stories: &[Closed]) {
    let of_driver = [
        ("offer_accepted", EVERY),
        ("vendor_en_route", QUICK),
        ("work_started", &["push"] as &[&str]),
        ("work_completed", EVERY),
    ];
    let of_vendor = [
        ("offer_received", QUICK),
        ("job_assigned", QUICK),
        ("payment_completed", EVERY),
    ];
    let mut sent = BTreeMap::new();
    for story in stories {
        let mut items = told(bus, &story.driver, &of_driver).await;
        items.extend(told(bus, &story.vendor, &of_vendor).await);
        for item in items {
            // An offer is not told to somebody for whom it is too late already.
            let late = item["type"] == "offer_received" && item["status"] == "dropped";
            assert!(item["status"] == "sent" || late, "{item}");
            let text = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
            if !late {
                let which = (text("eventId"), text("recipientId"), text("channel"));
                let before = sent.insert((text("channel"), text("notificationId")), which);
                assert_eq!(before, None, "{item}");
            }
        }
    }
    let whats: BTreeSet<_> = sent.values().collect();
    assert_eq!(whats.len(), sent.len(), "one delivery each");
    let got = place.got();
    for (channel, key) in sent.keys() {
        let one = got
            .iter()
            .filter(|((other, id), _)| other == channel && id == key);
        assert_eq!(one.count(), 1, "{channel} {key} came");
    }
    for ((channel, key), what) in &got {
        assert_eq!(what.len(), 1, "{channel} {key} is for one thing: {what:?}");
    }
    let requests = place.sms.seen().len() + place.push.seen().len() + place.mail.seen().len();
    eprintln!(
        "{} messages to drivers and vendors; {} keys at the ends, in {requests} requests",
        sent.len(),
        got.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_while_incidents_finish_and_ends_fail_lose_no_message_and_charge_once() {
    let (kills, incidents) = (sized(10, 100), sized(15, 200));
    let seed = number("ROADCALL_KILL_SEED", 7);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut place = Place::set(seed).await;
    let bus = place.site.connect().await;
    // Without an account of the back office nobody could be told of payments.
    let account = json!({ "role": "admin", "phone": "+15550009999", "name": "A", "email": "boss@fleet.example",
        "clientRequestId": "boss" });
    ok(&call(&bus, BOSS, "auth.create_user", &account).await);
    place.site.drained(&bus).await;
    let mut stories = tokio::task::JoinSet::new();
    let mut begun = 0;
    for kill in 1..=kills {
        while begun < incidents * kill / kills {
            stories.spawn(Story(begun).tell(bus.clone()));
            begun += 1;
        }
        // Not a wait for something: the moment of the kill is the fault that the seed chooses.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..2_000))).await;
        let victim = ["payments", "notifications"][random.random_range(0..2)];
        place.site.kill(victim);
        eprintln!("seed {seed}: kill {kill} of {kills}: {victim}, {begun} incidents so far");
    }
    let closed = stories.join_all().await;
    let done = place.stripe.done();
    for story in &closed {
        let keys = done.iter().filter(|(key, _)| key.contains(&story.payment));
        let times: Vec<u64> = keys.map(|(_, times)| *times).collect();
        assert_eq!(times, [1], "{} was paid once", story.payment);
    }
    assert_eq!(done.len() as u64, incidents, "and nothing else was");
    assert_eq!(place.stripe.complaints(), [""; 0]);
    messages(&place, &bus, &closed).await;
    place.site.drained(&bus).await;
    let letters = bus.stream(DLQ).await.expect("asked").messages;
    assert_eq!(letters, 0, "no letters");
    let rows = place.site.json(&["audit", "--json"]);
    for row in rows.as_array().expect("rows") {
        assert_eq!(row["unaccounted"], 0, "{row}");
    }
    bus.close().await;
}
