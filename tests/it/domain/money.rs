//! S11 to S15 and S30: one payment for a job, nothing paid without a yes, and a provider that is early, late, or silent.

use serde_json::{Value, json};

use super::*;
use crate::support::ends::stripe::{Faults, KEY, StripeEnd, WEBHOOK_SECRET, webhook};
use roadcall::bus::Stored;
use roadcall::config::ProcessorName;
use roadcall::config::units::Span;

const PROVIDER: &str = "provider:stripe";

pub fn bill(cents: &[u64]) -> Value {
    let line = |cents: &u64| json!({ "description": "work", "unitPriceCents": cents });
    let lines: Vec<Value> = cents.iter().map(line).collect();
    json!({ "lineItems": lines })
}

/// Payments go to Stripe at `end`; the waits between tries are short ones.
pub fn pays_by_stripe(config: &mut Config, end: &StripeEnd) {
    let payments = &mut config.payments;
    payments.processor = ProcessorName::Stripe;
    payments.resubmit_after = Span(Duration::from_secs(600));
    let stripe = &mut payments.stripe;
    stripe.base_url.clone_from(&end.url);
    KEY.clone_into(&mut stripe.secret_key);
    WEBHOOK_SECRET.clone_into(&mut stripe.webhook_secret);
    stripe.retry_base = Span(Duration::from_millis(5));
    stripe.retry_cap = Span(Duration::from_millis(20));
}

/// Ids of things that only a payment names.
fn some_id(kind: &str, n: u64) -> Id {
    ids::derive_v7(2, &[kind.as_bytes(), &n.to_be_bytes()])
}

/// A payment made by hand, numbered, to vendor 1.
fn by_hand(n: u64) -> Value {
    to_vendor(vendor_id(1), n)
}

fn to_vendor(vendor: Id, n: u64) -> Value {
    json!({
        "incidentId": some_id("incident", n), "vendorId": vendor, "driverId": some_id("driver", n),
        "payerType": "back_office", "amountCents": 1_000 + n,
        "lineItems": [{ "description": "work", "unitPriceCents": 1_000 + n }],
    })
}

impl World {
    /// A site that pays by Stripe at `end`, whose tries may take so long, and asks after so many seconds what became of one.
    async fn with_stripe(end: &StripeEnd, call_timeout: Duration, asks_after: u64) -> Self {
        Self::with(START, |config| {
            pays_by_stripe(config, end);
            let payments = &mut config.payments;
            payments.reconcile = vec![Span(Duration::from_secs(asks_after))];
            payments.stripe.call_timeout = Span(call_timeout);
        })
        .await
    }

    async fn payment(&self, payment_id: &Value) -> Value {
        let body = json!({ "paymentId": payment_id });
        self.ok(BOSS, "payment.get", body).await
    }

    /// The payment of an incident, once there is one.
    pub async fn payment_of(&self, incident: &str) -> Value {
        let payment = eventually("the payment", || async {
            let body = json!({ "incidentId": incident });
            let list = self.ok(BOSS, "payment.list", body).await;
            list["items"].get(0).cloned()
        })
        .await;
        self.payment(&payment["paymentId"]).await
    }

    /// Waits until a field of a payment is so.
    pub async fn payment_has(&self, payment_id: &Value, field: &str, wanted: Value) -> Value {
        eventually(&format!("{field} to be {wanted}"), || async {
            let payment = self.payment(payment_id).await;
            (payment[field] == wanted).then_some(payment)
        })
        .await
    }

    /// A decision about a payment in its present version.
    pub async fn decide(
        &self,
        actor: &str,
        command: &str,
        payment_id: &Value,
        more: Value,
    ) -> Value {
        let of = json!({ "paymentId": payment_id });
        self.at_version(actor, "payment.get", command, &of, &more)
            .await
    }

    /// Makes and approves payment `n`; gives its id.
    async fn approved(&self, n: u64) -> Value {
        self.approved_for(vendor_id(1), n).await
    }

    /// The same to another vendor.
    pub async fn approved_for(&self, vendor: Id, n: u64) -> Value {
        let made = self.ok(BOSS, "payment.create", to_vendor(vendor, n)).await;
        let id = made["paymentId"].clone();
        let reply = self.decide(BOSS, "payment.approve", &id, json!({})).await;
        assert!(reply.get("ok").is_some(), "{reply}");
        id
    }

    /// The provider tells something, signed now.
    pub async fn hook(&self, event_id: &str, kind: &str, object: &Value) -> Value {
        let hook = webhook(event_id, kind, object, self.now().ms() / 1_000);
        self.ok(PROVIDER, "payment.webhook", hook).await
    }

    /// What stands in the archive under a type of an entity.
    async fn stored(&self, detail_type: &str, entity: &str) -> Stored {
        let filter = format!("roadcall.hub.*.{detail_type}.{entity}");
        let page = self.bus.read(EVENTS, &filter, 1, 1, false).await;
        page.expect("read").first().expect("one").clone()
    }

    /// Puts the same event, under its own id, into the archive once more.
    async fn again(&self, stored: &Stored) {
        let mut headers = Headers::default();
        headers.push("Content-Type", "application/json");
        let message = Outgoing {
            subject: stored.subject.clone(),
            headers,
            body: stored.body.clone(),
            msg_id: format!("again-{}", stored.seq),
            expected_last_subject_seq: None,
        };
        let published = self.bus.publish(vec![message]).await;
        assert!(published.stopped.is_none(), "{:?}", published.stopped);
    }

    /// Replays a queue from the first event on and waits for the end.
    pub async fn replay(&self, queue: &str, mode: &str) -> Value {
        let body = json!({ "queue": queue, "fromSeq": 1, "mode": mode });
        let job = self.ok(BOSS, "replay.start", body).await;
        let ended = self.hears("ReplayCompleted", text(&job["name"]), 1).await;
        assert_eq!(ended[0]["state"], "COMPLETED", "{ended:?}");
        self.quiet().await;
        ended[0].clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s11_work_told_twice_and_replayed_is_one_payment() {
    let world = World::new().await;
    let driver = world.account("driver", 1).await;
    world.vendor(1, NYC, &["tire_repair"], 5.0).await;
    let incident = world.worked(&driver, NYC, 60, bill(&[15_000, 5_000])).await;
    world.stands(&incident, "payment_pending").await;
    world
        .again(&world.stored("WorkCompleted", &incident).await)
        .await;
    world.quiet().await;
    let replayed = world.replay("payment-approval-queue", "force").await;
    assert!(replayed["eventsReplayed"].as_u64() > Some(1), "{replayed}");
    let created = &world.hears("PaymentCreated", &incident, 1).await[0];
    assert_eq!(
        (&created["amountCents"], &created["status"]),
        (&json!(20_000), &json!("pending_approval"))
    );
    let list = world
        .ok(BOSS, "payment.list", json!({ "incidentId": incident }))
        .await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{list}");
    assert_eq!(world.incident(&incident).await["status"], "payment_pending");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s12_a_high_bill_of_a_new_vendor_needs_a_review_and_the_scores_are_the_tables() {
    let world = World::new().await;
    let driver = world.account("driver", 1).await;
    let elsewhere = (30.0, -90.0);
    world.vendor(1, NYC, &["tire_repair"], 5.0).await;
    world.vendor(2, elsewhere, &["tire_repair"], 5.0).await;
    world.pass(3 * DAY);
    let incident = world.worked(&driver, NYC, 60, bill(&[500_000])).await;
    let flagged = &world.hears("PaymentFlagged", &incident, 1).await[0];
    assert_eq!(flagged["fraudScore"], 0.725);
    assert_eq!(flagged["reasons"], json!(["high_amount", "new_vendor"]));
    let told = world.letters(&world.office, "payment_flagged", 2).await;
    assert_eq!(told, ["email", "push"]);
    let payment = world.payment_of(&incident).await;
    let id = &payment["paymentId"];
    let early = world.decide(BOSS, "payment.approve", id, json!({})).await;
    assert_eq!(code(&early), "FRAUD_DETECTED");
    let clear = json!({ "decision": "clear", "note": "the photos show the work" });
    let cleared = world
        .decide(&world.office, "payment.review", id, clear)
        .await;
    assert_eq!(cleared["ok"]["status"], "pending_approval", "{cleared}");
    world.hears("PaymentApproved", &incident, 0).await;
    let yes = world.decide(BOSS, "payment.approve", id, json!({})).await;
    assert_eq!(yes["ok"]["status"], "approved", "{yes}");
    let approved = &world.hears("PaymentApproved", &incident, 1).await[0];
    assert_eq!(approved["reviewedBy"], json!(world.office));

    // An old vendor's first jobs: the fifth payment of a day is one too many while he has done fewer than five before.
    world.pass(31 * DAY);
    for n in 1..=6 {
        let amount = if n == 6 { 100_000 } else { 40_000 };
        let incident = world.worked(&driver, elsewhere, 60, bill(&[amount])).await;
        let created = &world.hears("PaymentCreated", &incident, 1).await[0];
        let (score, status) = match n {
            1..=4 => (0.45, "medium_risk"),
            5 => (0.67, "high_risk"),
            _ => (0.7, "flagged"),
        };
        assert_eq!(
            (&created["fraudScore"], &created["fraudStatus"]),
            (&json!(score), &json!(status)),
            "payment {n}"
        );
        let flagged = world.payment_of(&incident).await["flagged"].clone();
        assert_eq!(flagged, json!(n == 6), "payment {n}");
        world.quiet().await;
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s13_a_bill_that_does_not_add_up_is_refused_by_its_field() {
    let world = World::new().await;
    for (field, value, named) in [
        ("amountCents", json!(999), "amountCents"),
        ("lineItems", json!([]), "lineItems"),
        (
            "lineItems",
            json!([{ "description": "work", "unitPriceCents": -1 }]),
            "lineItems[0].unitPriceCents",
        ),
    ] {
        let mut body = by_hand(0);
        body[field] = value;
        let reply = world.call(BOSS, "payment.create", body).await;
        assert_eq!(code(&reply), "VALIDATION_ERROR", "{reply}");
        assert_eq!(reply["error"]["field"], named, "{reply}");
    }
    world.quiet().await;
    world.hears("PaymentCreated", "*", 0).await;
    world.ok(BOSS, "payment.create", by_hand(0)).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s14_of_two_approvals_one_counts_and_a_rejected_payment_is_never_approved() {
    let world = World::new().await;
    let (one, two) = (&world.office, &world.account("dispatcher", 2).await);
    world.vendor(1, NYC, &["tire_repair"], 5.0).await;
    let made = world.ok(BOSS, "payment.create", by_hand(1)).await;
    let body = json!({ "paymentId": made["paymentId"], "expectedVersion": made["version"] });
    let (first, second) = tokio::join!(
        world.call(one, "payment.approve", body.clone()),
        world.call(two, "payment.approve", body.clone()),
    );
    let refusal = match (first.get("ok").is_some(), second.get("ok").is_some()) {
        (true, false) => second,
        (false, true) => first,
        _ => panic!("{first} {second}"),
    };
    let codes = ["VERSION_CONFLICT", "INVALID_TRANSITION"];
    assert!(codes.contains(&code(&refusal).as_str()), "{refusal}");
    world.quiet().await;
    world
        .hears("PaymentApproved", some_id("incident", 1), 1)
        .await;

    let made = world.ok(BOSS, "payment.create", by_hand(2)).await;
    let id = &made["paymentId"];
    let no = json!({ "reason": "wrong_bill" });
    let rejected = world.decide(one, "payment.reject", id, no).await;
    assert_eq!(rejected["ok"]["status"], "rejected", "{rejected}");
    let late = world.decide(two, "payment.approve", id, json!({})).await;
    assert_eq!(code(&late), "INVALID_TRANSITION");
    world.quiet().await;
    world
        .hears("PaymentApproved", some_id("incident", 2), 0)
        .await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s15_a_confirmation_counts_once_however_early_and_never_after_a_rejection() {
    let end = StripeEnd::start(1, Faults::default()).await;
    let world = World::with_stripe(&end, Duration::from_secs(10), 600).await;
    world.vendor(1, NYC, &["tire_repair"], 5.0).await;
    // Work that came from another site's archive is billed, and submitted by nobody: its payment is approved and waits.
    let incident = some_id("incident", 1);
    let event_id = Id::from_uuid(uuid::Uuid::new_v4());
    let detail = json!({
        "eventId": event_id, "timestamp": world.now(), "version": "1.0", "incidentId": incident,
        "vendorId": vendor_id(1), "driverId": some_id("driver", 1), "incidentType": "tire", "completedAt": world.now(),
        "durationMinutes": 60.0, "payerType": "driver_ic", "lineItems": bill(&[20_000])["lineItems"],
    });
    let body = json!({ "id": event_id, "source": "roadcall.incident", "detail-type": "WorkCompleted",
        "time": world.now(), "site": "hub", "detail": detail });
    let mut headers = Headers::default();
    headers.push("Content-Type", "application/json");
    headers.push("Roadcall-Imported", "1");
    let message = Outgoing {
        subject: format!("roadcall.hub.incident.WorkCompleted.{incident}"),
        headers,
        body: body.to_string().into_bytes().into(),
        msg_id: event_id.to_string(),
        expected_last_subject_seq: None,
    };
    assert!(world.bus.publish(vec![message]).await.stopped.is_none());
    let created = &world.hears("PaymentCreated", incident, 1).await[0];
    assert_eq!(created["status"], "approved");
    world.quiet().await;
    let id = &created["paymentId"];
    assert_eq!(
        (world.payment(id).await["status"].clone(), end.creations()),
        (json!("approved"), 0)
    );

    let intent = json!({ "id": "pi_1", "object": "payment_intent", "amount": 20_000, "currency": "usd",
        "metadata": { "payment_id": id, "attempt": "1" } });
    let first = world
        .hook("evt_1", "payment_intent.succeeded", &intent)
        .await;
    assert_eq!(first["duplicate"], false);
    world.payment_has(id, "status", json!("completed")).await;
    let again = world
        .hook("evt_1", "payment_intent.succeeded", &intent)
        .await;
    assert_eq!(again["duplicate"], true);
    world
        .hook("evt_2", "payment_intent.succeeded", &intent)
        .await;
    world.quiet().await;
    let completed = &world.hears("PaymentCompleted", incident, 1).await[0];
    assert_eq!(completed["providerReference"], "pi_1");
    let actions = world.payment(id).await["audit"].clone();
    let actions: Vec<&Value> = actions
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| &row["action"])
        .collect();
    assert_eq!(actions, ["created", "confirmed_unasked", "completed"]);
    world.hears("AlarmRaised", "payment-conflict", 0).await;

    let made = world.ok(BOSS, "payment.create", by_hand(2)).await;
    let id = &made["paymentId"];
    let no = json!({ "reason": "wrong_bill" });
    world.decide(BOSS, "payment.reject", id, no).await;
    let transfer = json!({ "id": "tr_1", "object": "transfer", "amount": 1_002, "currency": "usd",
        "metadata": { "payment_id": id, "attempt": "1" } });
    world.hook("evt_3", "transfer.created", &transfer).await;
    let alarm = &world.hears("AlarmRaised", "payment-conflict", 1).await[0];
    assert_eq!(alarm["subject"], json!(format!("payment/{}", text(id))));
    assert_eq!(world.payment(id).await["status"], "rejected");
    let told = world.letters(&world.admin, "system_alert", 3).await;
    assert_eq!(told, ["email", "push", "sms"], "a person is called");
    world
        .hears("PaymentCompleted", some_id("incident", 2), 0)
        .await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s30_a_breaker_opens_lets_one_probe_through_and_what_waited_is_paid_once() {
    let failing = Faults {
        fail: 1.0,
        after: 5,
        ..Faults::default()
    };
    let end = StripeEnd::start(3, failing).await;
    let world = World::with_stripe(&end, Duration::from_secs(20), 600).await;
    world.vendor(1, NYC, &["tire_repair"], 5.0).await;
    let mut payments = Vec::new();
    for n in 1..=5 {
        let id = world.approved(n).await;
        world.payment_has(&id, "status", json!("completed")).await;
        payments.push(id);
    }
    // Four tries of the sixth fail, and the first of the seventh: five of ten.
    for n in 6..=7 {
        let id = world.approved(n).await;
        world.waits_for_the_provider(&id).await;
        payments.push(id);
    }
    assert_eq!(end.creations(), 10, "the breaker is open: no further try");
    end.misbehave(Faults::default());
    world.pass(29 * SECOND);
    let refused = world.approved(8).await;
    let waiting = world
        .payment_has(&refused, "awaitingProvider", json!(true))
        .await;
    assert_eq!(waiting["status"], "processing");
    assert_eq!(end.creations(), 10, "nothing is sent at 29 s");
    payments.push(refused);

    world.pass(SECOND);
    let held = end.gate.write().await;
    let probe = world.approved(9).await;
    eventually("the probe", || async {
        (end.creations() == 11).then_some(())
    })
    .await;
    let other = world.approved(10).await;
    world
        .payment_has(&other, "awaitingProvider", json!(true))
        .await;
    assert_eq!(
        end.creations(),
        11,
        "one probe, while nobody knows how it ends"
    );
    drop(held);
    world
        .payment_has(&probe, "status", json!("completed"))
        .await;
    payments.extend([probe, other]);
    let next = world.approved(11).await;
    world.payment_has(&next, "status", json!("completed")).await;
    payments.push(next);

    // Whatever waited is sent again under its own key, or asked for, and is paid once.
    world.pass(10 * MINUTE);
    for id in &payments {
        let id_text = text(id);
        world.payment_has(id, "status", json!("completed")).await;
        let done = end.done();
        let times: Vec<u64> = done
            .iter()
            .filter(|(key, _)| key.contains(&id_text))
            .map(|(_, n)| *n)
            .collect();
        assert_eq!(times, [1], "{id_text}");
    }
    world.quiet().await;
    world.hears("PaymentCompleted", "*", payments.len()).await;
    assert_eq!(end.complaints(), [""; 0]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s30_a_charge_that_timed_out_and_succeeded_is_completed_once_it_is_asked_for() {
    let lost = Faults {
        lose: 1.0,
        ..Faults::default()
    };
    let end = StripeEnd::start(4, lost).await;
    let world = World::with_stripe(&end, Duration::from_millis(300), 30).await;
    world.vendor(1, NYC, &["tire_repair"], 5.0).await;
    let id = world.approved(1).await;
    let unknown = world.payment_has(&id, "outcomeUnknown", json!(true)).await;
    assert_eq!(unknown["status"], "processing");
    assert_eq!(end.done().values().sum::<u64>(), 1, "the money moved");
    world.hears("PaymentCompleted", "*", 0).await;
    let retry = world.decide(BOSS, "payment.retry", &id, json!({})).await;
    assert_eq!(
        code(&retry),
        "INVALID_TRANSITION",
        "never under another key"
    );
    end.misbehave(Faults::default());
    // A millisecond early nothing is asked: the completion's own time says so.
    let begun = world.now();
    world.pass(30 * SECOND - 1);
    assert_eq!(world.payment(&id).await["status"], "processing");
    world.pass(1);
    world.payment_has(&id, "status", json!("completed")).await;
    world.quiet().await;
    let completed = &world.hears("PaymentCompleted", "*", 1).await[0];
    assert_eq!(
        completed["completedAt"],
        json!(Ts::from_ms(begun.ms() + 30 * SECOND))
    );
    assert_eq!(end.done().values().sum::<u64>(), 1);
    world.end().await;
}

impl World {
    /// Waits until a payment could not be sent, or nobody knows what became of it.
    async fn waits_for_the_provider(&self, payment_id: &Value) {
        eventually("tries that nobody answers", || async {
            let payment = self.payment(payment_id).await;
            let waits = [&payment["outcomeUnknown"], &payment["awaitingProvider"]];
            waits.contains(&&json!(true)).then_some(())
        })
        .await;
    }
}
