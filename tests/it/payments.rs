//! Payments through a real site and a real HTTP end that plays Stripe, well behaved and badly: whatever it does, and however
//! often the process is killed, each payment is made once and told once.
//!
//! `ROADCALL_KILLS=100 cargo test payments` runs the long form; `ROADCALL_KILL_SEED` repeats one.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::crash::{archive, call, id, number};
use crate::support::ends::stripe::{Faults, KEY, StripeEnd, WEBHOOK_SECRET, webhook};
use crate::support::processes::Processes;
use crate::support::{Site, connect, eventually, patiently, site};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, DLQ};
use roadcall::config::{Config, ProcessorName, units::Span};
use roadcall::node::run::Node;
use roadcall::role::RoleName;
use roadcall::role::payments::PaymentConfirmation;

const BOSS: &str = "operator:test";
const PROVIDER: &str = "provider:stripe";

fn ms(ms: u64) -> Span {
    Span(Duration::from_millis(ms))
}

/// Stripe at `end`, with waits that a test can wait for.
fn config(site: &Site, end: &StripeEnd) -> Config {
    let mut config = Config::default();
    config.site.state_dir = site.dir.path().join("state");
    config.bus.url.clone_from(&site.broker.url);
    let payments = &mut config.payments;
    payments.processor = ProcessorName::Stripe;
    payments.reconcile = vec![ms(100), ms(200)];
    payments.resubmit_after = ms(100);
    let stripe = &mut payments.stripe;
    stripe.base_url.clone_from(&end.url);
    KEY.clone_into(&mut stripe.secret_key);
    WEBHOOK_SECRET.clone_into(&mut stripe.webhook_secret);
    stripe.call_timeout = ms(300);
    stripe.retry_base = ms(10);
    stripe.retry_cap = ms(50);
    config
}

async fn node(site: &Site, config: &Config, roles: &[RoleName]) -> Node {
    Node::start(connect(site).await, config, roles, true)
        .await
        .expect("started")
}

fn ok(reply: Value) -> Value {
    assert!(reply.get("ok").is_some(), "{reply}");
    reply["ok"].clone()
}

/// Registers vendor 1, paid to `account`, and waits until payments know him.
async fn vendor(bus: &JetStream, account: &str) {
    let day = json!({ "open": "00:00", "close": "24:00" });
    let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let week: BTreeMap<&str, &Value> = days.into_iter().map(|name| (name, &day)).collect();
    let profile = json!({
        "businessName": "Tires", "contactName": "T", "phone": "+15550001111", "timezone": "UTC",
        "capabilities": ["tire_repair"], "location": { "lat": 1.0, "lon": 1.0 }, "coverageRadiusMiles": 50,
        "insuranceExpiry": "2099-12-31", "operatingHours": week, "clientRequestId": "register",
        "pricing": { "tire_repair": { "basePriceCents": 100, "perMileCents": 1 } }, "payoutAccountRef": account,
    });
    let actor = format!("vendor:{}", id("vendor", 1));
    ok(call(bus, &actor, "vendor.register", &profile).await);
    let verify = json!({ "vendorId": id("vendor", 1), "backgroundCheckStatus": "approved" });
    ok(call(bus, BOSS, "vendor.verify", &verify).await);
    eventually("payments to learn of the vendor", || async {
        let updated = "roadcall.hub.vendor.VendorUpdated.*";
        let updated = bus.read("EVENTS", updated, 1, 1, true).await.ok()?;
        let queue = bus.queue("payment-approval-queue").await.ok()?;
        (queue.ack_floor_seq >= updated.first()?.seq).then_some(())
    })
    .await;
}

/// Makes and approves payment `n`: an independent contractor's charge where `charge`, else a transfer.
async fn pay(bus: &JetStream, n: u64, charge: bool) -> String {
    let payer = if charge { "driver_ic" } else { "back_office" };
    let body = json!({
        "incidentId": id("incident", n), "vendorId": id("vendor", 1), "driverId": id("driver", n),
        "payerType": payer, "amountCents": 1_000 + n, "clientRequestId": format!("p{n}"),
        "lineItems": [{ "description": "work", "unitPriceCents": 1_000 + n }],
    });
    let made = ok(call(bus, BOSS, "payment.create", &body).await);
    let payment_id = made["paymentId"].as_str().expect("an id").to_owned();
    if !charge {
        let body = json!({ "paymentId": payment_id, "expectedVersion": 1, "clientRequestId": format!("a{n}") });
        ok(call(bus, BOSS, "payment.approve", &body).await);
    }
    payment_id
}

async fn get(bus: &JetStream, payment_id: &str) -> Value {
    let body = json!({ "paymentId": payment_id });
    call(bus, BOSS, "payment.get", &body).await["ok"].clone()
}

async fn reaches(bus: &JetStream, payment_id: &str, status: &str) -> Value {
    patiently(&format!("payment to be {status}"), || async {
        let payment = get(bus, payment_id).await;
        (payment["status"] == status).then_some(payment)
    })
    .await
}

/// Tells the site what Stripe did, each event twice.
async fn tell(bus: &JetStream, kind: &str, object: &Value) {
    let event_id = format!("evt_{}_{}", kind, object["id"].as_str().expect("an id"));
    let hook = webhook(&event_id, kind, object, chrono::Utc::now().timestamp());
    for _ in 0..2 {
        ok(call(bus, PROVIDER, "payment.webhook", &hook).await);
    }
}

/// Every payment was done once at the end, and told once.
async fn check(bus: &JetStream, end: &StripeEnd, payments: &[String]) {
    for payment_id in payments {
        let payment = reaches(bus, payment_id, "completed").await;
        assert_eq!(payment["outcomeUnknown"], false, "{payment}");
    }
    let done = end.done();
    for payment_id in payments {
        let keys = done
            .iter()
            .filter(|(key, _)| key.contains(payment_id.as_str()));
        let times: Vec<u64> = keys.map(|(_, times)| *times).collect();
        assert_eq!(times, [1], "{payment_id} was paid once");
    }
    assert_eq!(end.complaints(), [""; 0]);
    eventually("each completion is told", || async {
        let events = archive(bus).await;
        let told = events
            .values()
            .filter(|subject| subject.contains(".PaymentCompleted."));
        let told = told.count();
        assert!(told <= payments.len(), "{told} completions were told");
        (told == payments.len()).then_some(())
    })
    .await;
    assert_eq!(
        bus.stream(DLQ).await.expect("asked").messages,
        0,
        "no letters"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_is_paid_confirmed_closed_and_paid_back() {
    let site = site().await;
    let end = StripeEnd::start(1, Faults::default()).await;
    let config = config(&site, &end);
    let node = node(&site, &config, &RoleName::BUILT).await;
    let bus = connect(&site).await;
    vendor(&bus, "acct_1").await;
    let driver = format!("driver:{};payment=independent_contractor", id("driver", 1));
    let vendor = format!("vendor:{}", id("vendor", 1));
    let incident = eventually("matching to know the vendor", || async {
        let body = json!({ "type": "tire", "lat": 1.0, "lon": 1.0 });
        let made = ok(call(&bus, &driver, "incident.create", &body).await);
        let of = json!({ "incidentId": made["incidentId"] });
        let offer = eventually("an offer or none", || async {
            let offers = ok(call(&bus, &vendor, "offer.list", &of).await);
            let case = ok(call(&bus, BOSS, "match.get", &of).await);
            let offer = offers["items"][0]["offerId"].clone();
            (offer.is_string() || case["status"] == "exhausted").then_some(offer)
        })
        .await;
        offer
            .is_string()
            .then_some((made["incidentId"].clone(), offer))
    });
    let (incident, offer) = incident.await;
    ok(call(&bus, &vendor, "offer.accept", &json!({ "offerId": offer })).await);
    let of = json!({ "incidentId": incident });
    for (command, more) in [
        (
            "incident.update_status",
            json!({ "status": "vendor_en_route" }),
        ),
        (
            "incident.update_status",
            json!({ "status": "vendor_arrived" }),
        ),
        ("incident.start_work", json!({})),
        (
            "incident.complete_work",
            json!({ "lineItems": [{ "description": "tire", "unitPriceCents": 15_000 }] }),
        ),
    ] {
        eventually(command, || async {
            let now = ok(call(&bus, BOSS, "incident.get", &of).await);
            let mut body = more.clone();
            body["incidentId"] = incident.clone();
            body["expectedVersion"] = now["version"].clone();
            let reply = call(&bus, BOSS, command, &body).await;
            reply.get("ok").map(|_| ())
        })
        .await;
    }
    let payment = eventually("the payment", || async {
        let list = ok(call(&bus, BOSS, "payment.list", &of).await);
        list["items"].get(0).cloned()
    });
    let payment_id = payment.await["paymentId"]
        .as_str()
        .expect("an id")
        .to_owned();
    // The card holder confirms with what he alone gets, straight from the end.
    let one = json!({ "paymentId": payment_id });
    let secret = eventually("the confirmation", || async {
        let reply = call(&bus, &driver, "payment.action", &one).await;
        reply["ok"].is_object().then(|| reply["ok"].clone())
    });
    // The OpenAPI document says this of it.
    let secret: PaymentConfirmation = serde_json::from_value(secret.await).expect("as promised");
    let reference = secret.provider_reference;
    assert_eq!(secret.payment_id.to_string(), payment_id);
    assert_eq!(secret.provider, "stripe");
    assert_eq!(secret.client_secret, format!("{reference}_secret_x"));
    let database = std::fs::read(config.site.state_dir.join("payments.db")).expect("read");
    let log = std::fs::read(config.site.state_dir.join("payments.db-wal")).unwrap_or_default();
    for bytes in [database, log] {
        assert!(
            !bytes.windows(9).any(|window| window == b"_secret_x"),
            "it is written nowhere"
        );
    }
    assert_eq!(get(&bus, &payment_id).await["status"], "processing");
    end.confirm(&reference);
    tell(
        &bus,
        "payment_intent.succeeded",
        &end.objects("payment_intent")[0],
    )
    .await;
    check(&bus, &end, std::slice::from_ref(&payment_id)).await;
    eventually("the incident to close", || async {
        let now = ok(call(&bus, BOSS, "incident.get", &of).await);
        (now["status"] == "closed").then_some(())
    })
    .await;
    let completed = get(&bus, &payment_id).await;
    let back = json!({ "paymentId": payment_id, "expectedVersion": completed["version"], "reason": "complaint" });
    ok(call(&bus, BOSS, "payment.refund", &back).await);
    reaches(&bus, &payment_id, "refunded").await;
    assert_eq!(end.objects("refund")[0]["payment_intent"], json!(reference));
    node.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");
    site.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_fails_stalls_and_forgets_to_answer_is_paid_through_once() {
    let site = site().await;
    let faults = Faults {
        fail: 0.2,
        stall: 0.05,
        lose: 0.05,
        twice: 0.1,
        // Or the breaker, which looks at ten calls at least, might open by the luck of a few.
        after: 20,
        ..Faults::default()
    };
    let end = StripeEnd::start(11, faults).await;
    end.confirm_at_once();
    let config = config(&site, &end);
    let roles = [RoleName::Vendor, RoleName::Payments, RoleName::Audit];
    let node = node(&site, &config, &roles).await;
    let bus = connect(&site).await;
    vendor(&bus, "acct_1").await;
    let mut payments = Vec::new();
    for n in 0..60 {
        payments.push(pay(&bus, n, n % 3 == 0).await);
        // Its webhooks race the answers to its calls.
        if let Some(transfer) = end.objects("transfer").last() {
            tell(&bus, "transfer.created", transfer).await;
        }
    }
    check(&bus, &end, &payments).await;
    node.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");
    site.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s30_behind_an_open_breaker_nothing_is_sent_or_lost() {
    let site = site().await;
    let down = Faults {
        fail: 1.0,
        ..Faults::default()
    };
    let end = StripeEnd::start(3, down).await;
    let mut config = config(&site, &end);
    // So that each of the first three makes its four tries and asks no questions meanwhile.
    config.payments.reconcile = vec![Span::secs(5)];
    let roles = [RoleName::Vendor, RoleName::Payments, RoleName::Audit];
    let node = node(&site, &config, &roles).await;
    let bus = connect(&site).await;
    vendor(&bus, "acct_1").await;
    let mut payments = Vec::new();
    for n in 0..3 {
        payments.push(pay(&bus, n, false).await);
    }
    for payment_id in &payments {
        eventually("tries that nobody answers", || async {
            let payment = get(&bus, payment_id).await;
            let waits = [&payment["outcomeUnknown"], &payment["awaitingProvider"]];
            (waits.contains(&&json!(true))).then_some(())
        })
        .await;
    }
    payments.push(pay(&bus, 9, false).await);
    let waiting = eventually("a call that is not made", || async {
        let payment = get(&bus, &payments[3]).await;
        (payment["awaitingProvider"] == true).then_some(payment)
    });
    assert_eq!(waiting.await["status"], "processing");
    assert!(end.done().is_empty(), "nothing moved");
    end.misbehave(Faults::default());
    check(&bus, &end, &payments).await;
    node.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");
    site.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payments_process_killed_at_random_pays_each_once() {
    let (kills, seed) = (
        number("ROADCALL_KILLS", 20),
        number("ROADCALL_KILL_SEED", 7),
    );
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let faults = Faults {
        fail: 0.1,
        stall: 0.05,
        lose: 0.1,
        ..Faults::default()
    };
    let end = StripeEnd::start(seed, faults).await;
    end.confirm_at_once();
    let mut site = Processes::new();
    let file = site.dir.path().join("roadcall.toml");
    let text = format!(
        "[payments]\nprocessor = \"stripe\"\nreconcile = [\"100ms\", \"200ms\"]\nresubmit_after = \"100ms\"\n\
         [payments.stripe]\nbase_url = \"{}\"\nsecret_key = \"{KEY}\"\nwebhook_secret = \"{WEBHOOK_SECRET}\"\n\
         call_timeout = \"300ms\"\nretry_base = \"10ms\"\nretry_cap = \"50ms\"\n",
        end.url
    );
    std::fs::write(&file, text).expect("written");
    site.arguments = vec!["--config".to_owned(), file.display().to_string()];
    site.apply_topology();
    ["vendor", "payments"]
        .iter()
        .for_each(|role| site.start(role));
    let bus = site.connect().await;
    vendor(&bus, "acct_1").await;
    let mut paying = tokio::task::JoinSet::new();
    let mut n = 0;
    for kill in 1..=kills {
        for _ in 0..random.random_range(1..5) {
            let (bus, charge) = (bus.clone(), random.random_bool(0.3));
            paying.spawn(async move { pay(&bus, n, charge).await });
            n += 1;
        }
        // Not a wait for something: the moment of the kill is the fault that the seed chooses.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..500))).await;
        site.kill("payments");
        eprintln!("seed {seed}: kill {kill} of {kills}, {n} payments so far");
    }
    let payments = paying.join_all().await;
    end.misbehave(Faults::default());
    check(&bus, &end, &payments).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_lists_decides_and_settles_by_hand() {
    let mut site = Processes::new();
    site.apply_topology();
    ["vendor", "payments"]
        .iter()
        .for_each(|role| site.start(role));
    let bus = site.connect().await;
    vendor(&bus, "acct_1").await;
    let payment_id = pay(&bus, 1, false).await;
    reaches(&bus, &payment_id, "processing").await;
    let settle = [
        "payment",
        "settle",
        &payment_id,
        "completed",
        "--reference",
        "wire 1",
        "--json",
    ];
    let settled = site.json(&settle);
    assert_eq!(settled["status"], "completed");
    let listed = site.json(&["payment", "list", "--status", "completed", "--json"]);
    assert_eq!(listed[0]["paymentId"], json!(payment_id));
    let output = site
        .roadcall()
        .args(["payment", "list"])
        .output()
        .expect("runs");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        table.contains("10.01 USD") && table.contains("medium_risk"),
        "{table}"
    );
    let (code, _, words) = site.run(&["payment", "approve", &payment_id, "--by", "admin:nobody"]);
    assert_eq!(code, Some(64), "{words}");
    let (code, _, words) = site.run(&["payment", "retry", &payment_id]);
    assert!(
        code == Some(1) && words.contains("INVALID_TRANSITION"),
        "{words}"
    );
    let refund = [
        "payment",
        "refund",
        &payment_id,
        "--reason",
        "complaint",
        "--reference",
        "wire 2",
    ];
    assert_eq!(site.json(&refund)["status"], "refunded");
    let shown = site.json(&["payment", "get", &payment_id, "--json"]);
    assert_eq!(shown["audit"].as_array().map(Vec::len), Some(5), "{shown}");
}
