//! The payment's rules on the bench: creation and the back office's decisions. Money on its way and the provider's webhooks
//! have files of their own.

use serde_json::{Value, json};

use super::entity::{PaymentStatus, legal};
use super::{PaymentOptions, PaymentRole, Processor};
use crate::event::{
    Actor, BackgroundCheckStatus, Capability, Cents, ConfigChange, ConfigKey, ConfigurationChanged,
    Count1, CoverageMiles, Date, Event, Id, IncidentType, LineItem, List, Miles, NonNegative,
    Payer, Point, Text, Ts, VendorRegistered, WorkCompleted, ids,
};
use crate::role::permission::Caller;
use crate::role::testing::{Bench, code, types};
use crate::role::{Code, HandlerError};
use crate::store::{EffectOutcome, Secret};

pub(super) const DAY_MS: i64 = 86_400_000;
pub(super) const SECRET: &str = "whsec_test";

pub(super) fn id(n: u8) -> Id {
    ids::derive_v7(1, &[&[n]])
}

pub(super) fn boss() -> Actor {
    Actor::Admin(id(90))
}

pub(super) fn with_stripe() -> Bench<PaymentRole> {
    Bench::new(PaymentRole::new(PaymentOptions {
        processor: Processor::Stripe,
        webhook_secret: Some(Secret::new(SECRET)),
        ..PaymentOptions::default()
    }))
}

pub(super) fn by_hand() -> Bench<PaymentRole> {
    Bench::new(PaymentRole::default())
}

/// Work of 60 minutes by vendor 2 for driver 1 on incident `incident`, billed in these cents.
pub(super) fn work(incident: u8, payer_type: Payer, bill: &[u64]) -> WorkCompleted {
    let item = |cents: &u64| LineItem {
        description: Text::lossy("work"),
        quantity: Count1::new(1).expect("valid"),
        unit_price_cents: Cents::new(*cents).expect("valid"),
    };
    let items: Vec<LineItem> = bill.iter().map(item).collect();
    WorkCompleted {
        incident_id: id(incident),
        vendor_id: id(2),
        driver_id: id(1),
        company_id: Some(id(7)),
        incident_type: IncidentType::Tire,
        completed_at: Ts::from_ms(3),
        duration_minutes: NonNegative::new(60.0).expect("valid"),
        distance_miles: Some(Miles::new(3.3).expect("valid")),
        payer_type,
        line_items: List::new(items).ok(),
        notes: None,
        media_urls: None,
    }
}

/// Vendor 2, registered at `at`, paid to `account`.
pub(super) fn vendor(at: Ts, account: Option<&str>) -> VendorRegistered {
    VendorRegistered {
        vendor_id: id(2),
        business_name: Text::lossy("Tires"),
        contact_name: crate::event::Personal::plain(Text::lossy("T")),
        phone: crate::event::Personal::plain("+15550001111".parse().expect("valid")),
        email: None,
        capabilities: List::new(vec![Capability::TireRepair]).expect("one"),
        location: Point { lat: 1.0, lon: 1.0 },
        coverage_radius_miles: CoverageMiles::new(50.0).expect("valid"),
        timezone: "UTC".parse().expect("valid"),
        operating_hours: serde_json::from_value(json!({})).expect("closed all week"),
        pricing: serde_json::from_value(json!({})).expect("no prices"),
        insurance_expiry: "2030-01-01".parse::<Date>().expect("valid"),
        background_check_status: BackgroundCheckStatus::Approved,
        payout_account_ref: account.map(Text::lossy),
        profile_version: Count1::new(1).expect("valid"),
        registered_at: at,
    }
}

/// The payment of an incident as an admin sees it.
pub(super) fn payment(bench: &mut Bench<PaymentRole>, incident: u8) -> Value {
    let body = json!({ "incidentId": id(incident) });
    let (reply, _) = bench
        .command(&boss(), "payment.list", body)
        .expect("listed");
    reply["items"][0].clone()
}

pub(super) fn get(bench: &mut Bench<PaymentRole>, payment_id: &Value) -> Value {
    let body = json!({ "paymentId": payment_id });
    bench
        .command(&boss(), "payment.get", body)
        .expect("found")
        .0
}

/// The last word of each audit row.
pub(super) fn actions(bench: &mut Bench<PaymentRole>, payment_id: &Value) -> Vec<String> {
    let payment = get(bench, payment_id);
    let rows = payment["audit"].as_array().expect("rows");
    let action = |row: &Value| row["action"].as_str().expect("text").to_owned();
    rows.iter().map(action).collect()
}

/// A body that names a payment and its present version.
pub(super) fn at_version(payment: &Value, more: Value) -> Value {
    let mut body =
        json!({ "paymentId": payment["paymentId"], "expectedVersion": payment["version"] });
    let more = more.as_object().expect("an object").clone();
    body.as_object_mut().expect("an object").extend(more);
    body
}

pub(super) fn approve(bench: &mut Bench<PaymentRole>, incident: u8) -> Vec<Event> {
    let body = at_version(&payment(bench, incident), json!({}));
    bench
        .command(&boss(), "payment.approve", body)
        .expect("approved")
        .1
}

/// An approved payment of 20000 cents, submitted; back office: a transfer.
pub(super) fn processing(bench: &mut Bench<PaymentRole>, incident: u8) -> Value {
    bench
        .event(&vendor(Ts::from_ms(0), Some("acct_2")))
        .expect("known");
    bench
        .event(&work(incident, Payer::BackOffice, &[15_000, 5_000]))
        .expect("created");
    assert_eq!(types(&approve(bench, incident)), ["PaymentApproved"]);
    bench
        .fire_next_timer()
        .expect("a timer")
        .expect("submitted");
    let payment = payment(bench, incident);
    assert_eq!(
        (&payment["status"], &payment["attempt"]),
        (&json!("processing"), &json!(1))
    );
    payment
}

pub(super) fn answer(state: &str, reference: &str) -> EffectOutcome {
    EffectOutcome::Done(json!({ "state": state, "reference": reference }))
}

#[test]
fn s11_work_delivered_twice_and_replayed_is_one_payment() {
    let mut bench = by_hand();
    let work = work(10, Payer::BackOffice, &[15_000, 5_000]);
    let events = bench.event(&work).expect("created");
    assert_eq!(types(&events), ["PaymentCreated"]);
    let told = &events[0].detail;
    assert_eq!(
        (&told["amountCents"], &told["status"], &told["currency"]),
        (&json!(20_000), &json!("pending_approval"), &json!("USD"))
    );
    assert!(bench.event(&work).expect("nothing").is_empty());
    assert!(bench.replay(&work).expect("nothing").is_empty());
    let created = payment(&mut bench, 10);
    assert_eq!(created["lineItems"][1]["totalCents"], 5_000);
    // One payment ever per completed work: not even after a rejection does a repeat make another.
    let body = at_version(&created, json!({ "reason": "wrong_bill" }));
    bench
        .command(&boss(), "payment.reject", body)
        .expect("rejected");
    assert!(bench.event(&work).expect("nothing").is_empty());
    // By hand it can be billed anew, once.
    let mut body = json!({
        "incidentId": id(10), "vendorId": id(2), "payerType": "back_office", "amountCents": 100,
        "lineItems": [{ "description": "again", "quantity": 2, "unitPriceCents": 50 }],
    });
    let (_, events) = bench
        .command(&boss(), "payment.create", body.clone())
        .expect("created");
    assert_eq!(types(&events), ["PaymentCreated"]);
    assert_eq!(events[0].detail["driverId"], json!(id(1)));
    body["clientRequestId"] = json!("again");
    assert_eq!(
        code(bench.command(&boss(), "payment.create", body)),
        Code::Conflict
    );
}

#[test]
fn s12_a_flagged_payment_needs_a_review_first() {
    let mut bench = by_hand();
    let registered = Ts::from_ms(bench.now.ms() - 3 * DAY_MS);
    bench.event(&vendor(registered, None)).expect("known");
    let events = bench
        .event(&work(10, Payer::DriverIc, &[500_000]))
        .expect("created");
    assert_eq!(types(&events), ["PaymentCreated", "PaymentFlagged"]);
    assert_eq!(events[1].detail["fraudScore"], 0.725);
    assert_eq!(
        events[1].detail["reasons"],
        json!(["high_amount", "new_vendor"])
    );
    let flagged = payment(&mut bench, 10);
    assert_eq!(flagged["status"], "pending_approval");
    let body = at_version(&flagged, json!({}));
    assert_eq!(
        code(bench.command(&boss(), "payment.approve", body)),
        Code::FraudDetected
    );
    let short = at_version(
        &flagged,
        json!({ "decision": "clear", "note": "too short" }),
    );
    assert_eq!(
        code(bench.command(&boss(), "payment.review", short)),
        Code::ValidationError
    );
    let clear = at_version(
        &flagged,
        json!({ "decision": "clear", "note": "called the driver, all well" }),
    );
    let (reply, events) = bench
        .command(&boss(), "payment.review", clear)
        .expect("cleared");
    // An independent contractor's payment is approved by the review that clears it.
    assert_eq!(
        (types(&events), &reply["status"]),
        (vec!["PaymentApproved"], &json!("approved"))
    );
    assert_eq!(events[0].detail["reviewedBy"], json!(boss()));
    assert_eq!(
        actions(&mut bench, &reply["paymentId"]),
        ["created", "review_cleared", "approved"]
    );
}

#[test]
fn a_review_clears_for_approval_or_rejects() {
    let mut bench = by_hand();
    bench
        .event(&work(10, Payer::BackOffice, &[500_000]))
        .expect("created");
    bench
        .event(&work(11, Payer::BackOffice, &[500_000]))
        .expect("created");
    let (reply, _) = bench
        .command(&boss(), "payment.list_flagged", json!({ "limit": 1 }))
        .expect("listed");
    let next = json!({ "cursor": reply["cursor"] });
    let (rest, _) = bench
        .command(&boss(), "payment.list_flagged", next)
        .expect("listed");
    assert_eq!(rest["items"].as_array().map(Vec::len), Some(1));
    let note = "looked at the photos, the work is there";
    let clear = json!({ "decision": "clear", "note": note });
    let body = at_version(&payment(&mut bench, 10), clear.clone());
    let (reply, events) = bench
        .command(&boss(), "payment.review", body)
        .expect("cleared");
    assert!(events.is_empty());
    assert_eq!(reply["status"], "pending_approval");
    assert_eq!(types(&approve(&mut bench, 10)), ["PaymentApproved"]);
    let reject = json!({ "decision": "reject", "note": note });
    let body = at_version(&payment(&mut bench, 11), reject);
    let (_, events) = bench
        .command(&boss(), "payment.review", body)
        .expect("rejected");
    assert_eq!(types(&events), ["PaymentRejected"]);
    bench
        .event(&work(12, Payer::BackOffice, &[100]))
        .expect("created");
    let body = at_version(&payment(&mut bench, 12), clear);
    assert_eq!(
        code(bench.command(&boss(), "payment.review", body)),
        Code::InvalidTransition,
        "nothing to review"
    );
}

#[test]
fn s13_a_bill_that_does_not_add_up_is_refused_by_field() {
    let mut bench = by_hand();
    let item = json!({ "description": "work", "quantity": 2, "unitPriceCents": 50 });
    let body = |items: Value, amount: i64| {
        json!({
            "incidentId": id(10), "vendorId": id(2), "driverId": id(1), "payerType": "back_office",
            "lineItems": items, "amountCents": amount,
        })
    };
    let negative = json!({ "description": "work", "unitPriceCents": -1 });
    let much =
        json!({ "description": "work", "quantity": 3, "unitPriceCents": 50_000_000_000_u64 });
    for (body, field) in [
        (body(json!([item]), 99), "amountCents"),
        (body(json!([]), 0), "lineItems"),
        (body(json!([negative]), 1), "lineItems[0].unitPriceCents"),
        (body(json!([item, much]), 1), "lineItems[1]"),
    ] {
        match bench.command(&boss(), "payment.create", body) {
            Err(HandlerError::Rejected(rejection)) => {
                assert_eq!(rejection.code, Code::ValidationError);
                assert_eq!(rejection.field.as_deref(), Some(field));
            }
            other => panic!("{other:?}"),
        }
    }
    let mut missing = body(json!([item]), 100);
    missing
        .as_object_mut()
        .expect("an object")
        .remove("lineItems");
    assert_eq!(
        code(bench.command(&boss(), "payment.create", missing)),
        Code::ValidationError
    );
    bench
        .command(&boss(), "payment.create", body(json!([item]), 100))
        .expect("created");
}

#[test]
fn s14_one_approval_and_none_after_a_rejection() {
    let mut bench = by_hand();
    bench
        .event(&work(10, Payer::BackOffice, &[100]))
        .expect("created");
    let body = at_version(&payment(&mut bench, 10), json!({}));
    let (first, events) = bench
        .command(&boss(), "payment.approve", body.clone())
        .expect("approved");
    assert_eq!(types(&events), ["PaymentApproved"]);
    let (again, events) = bench
        .command(&boss(), "payment.approve", body.clone())
        .expect("his repeat");
    assert_eq!((&again["status"], events.len()), (&first["status"], 0));
    let other = Actor::Admin(id(91));
    assert_eq!(
        code(bench.command(&other, "payment.approve", body)),
        Code::VersionConflict
    );
    let body = at_version(&payment(&mut bench, 10), json!({}));
    assert_eq!(
        code(bench.command(&other, "payment.approve", body)),
        Code::InvalidTransition
    );
    bench
        .event(&work(11, Payer::BackOffice, &[100]))
        .expect("created");
    let body = at_version(&payment(&mut bench, 11), json!({ "reason": "not_done" }));
    let (rejected, events) = bench
        .command(&boss(), "payment.reject", body)
        .expect("rejected");
    assert_eq!(types(&events), ["PaymentRejected"]);
    let body = at_version(&rejected, json!({}));
    assert_eq!(
        code(bench.command(&boss(), "payment.approve", body)),
        Code::InvalidTransition
    );
}

#[test]
fn all_49_pairs_follow_the_table() {
    use PaymentStatus as S;
    let all = [
        S::PendingApproval,
        S::Approved,
        S::Processing,
        S::Completed,
        S::Failed,
        S::Rejected,
        S::Refunded,
    ];
    let wanted = [
        (S::PendingApproval, S::Approved),
        (S::PendingApproval, S::Rejected),
        (S::Approved, S::Processing),
        (S::Failed, S::Processing),
        (S::Processing, S::Completed),
        (S::Processing, S::Failed),
        (S::Completed, S::Refunded),
    ];
    for from in all {
        for to in all {
            let legal = legal(from, to);
            assert_eq!(legal, wanted.contains(&(from, to)), "{from:?} {to:?}");
        }
    }
}

#[test]
fn work_without_a_bill_costs_what_the_configuration_says() {
    let mut bench = by_hand();
    bench
        .event(&work(10, Payer::BackOffice, &[]))
        .expect("created");
    // 15000 + 3.3 × 350 = 16155.
    assert_eq!(payment(&mut bench, 10)["amountCents"], 16_155);
    let pricing = |version, tire| {
        ConfigurationChanged {
        config_key: ConfigKey::Pricing,
        config_version: Count1::new(version).expect("valid"),
        value: json!({ "basePriceCents": { "tire": tire, "engine": 1, "tow": 1 }, "perMileCents": 100, "currency": "CAD" })
            .as_object()
            .expect("an object")
            .clone(),
        change_type: ConfigChange::Updated,
        previous_version: None,
        reason: None,
        updated_by: boss(),
        updated_at: Ts::from_ms(1),
    }
    };
    bench.event(&pricing(3, 500)).expect("taken");
    bench.event(&pricing(2, 900)).expect("older: nothing");
    bench
        .event(&work(11, Payer::BackOffice, &[]))
        .expect("created");
    let now = payment(&mut bench, 11);
    assert_eq!(
        (&now["amountCents"], &now["currency"]),
        (&json!(830), &json!("CAD"))
    );
    let mut fraud = pricing(1, 0);
    fraud.config_key = ConfigKey::Fraud;
    fraud.value = json!({ "weights": { "new_vendor": 0.9 } })
        .as_object()
        .expect("an object")
        .clone();
    bench.event(&fraud).expect("taken");
    let events = bench
        .event(&work(12, Payer::BackOffice, &[100]))
        .expect("created");
    assert_eq!(events[0].detail["fraudScore"], 0.9);
    fraud.config_version = Count1::new(2).expect("valid");
    fraud.value = json!({ "weights": { "new_vendor": "much" } })
        .as_object()
        .expect("an object")
        .clone();
    assert!(matches!(
        bench.event(&fraud),
        Err(HandlerError::Permanent(..))
    ));
}

#[test]
fn rules_that_cannot_be_used_flag_the_payment() {
    let mut bench = by_hand();
    let broken = ConfigurationChanged {
        config_key: ConfigKey::Fraud,
        config_version: Count1::new(1).expect("valid"),
        value: json!({ "weights": { "new_vendor": 7 } })
            .as_object()
            .expect("an object")
            .clone(),
        change_type: ConfigChange::Updated,
        previous_version: None,
        reason: None,
        updated_by: boss(),
        updated_at: Ts::from_ms(1),
    };
    bench.event(&broken).expect("of the right form");
    let events = bench
        .event(&work(10, Payer::DriverIc, &[100]))
        .expect("created");
    assert_eq!(types(&events), ["PaymentCreated", "PaymentFlagged"]);
    assert_eq!(events[1].detail["fraudScore"], 1.0);
    assert_eq!(
        events[1].detail["reasons"],
        json!(["fraud_detection_error"])
    );
}

#[test]
fn everybody_sees_his_own() {
    let mut bench = by_hand();
    bench
        .event(&work(10, Payer::BackOffice, &[100]))
        .expect("created");
    let mut ic = work(11, Payer::DriverIc, &[100]);
    ic.company_id = None;
    bench.event(&ic).expect("created");
    let mut count = |caller: Caller, name: &str| {
        let (reply, _) = bench.command_as(caller, name, json!({})).expect("listed");
        reply["items"].as_array().expect("items").len()
    };
    let of_company = |company| Caller {
        company,
        ..Caller::of(Actor::Dispatcher(id(50)))
    };
    assert_eq!(
        count(Caller::of(Actor::Driver(id(1))), "payment.list"),
        1,
        "what he pays"
    );
    assert_eq!(count(Caller::of(Actor::Driver(id(3))), "payment.list"), 0);
    assert_eq!(count(Caller::of(Actor::Vendor(id(2))), "payment.list"), 2);
    assert_eq!(count(of_company(Some(id(7))), "payment.list_pending"), 1);
    assert_eq!(count(of_company(Some(id(8))), "payment.list_pending"), 0);
    assert_eq!(count(of_company(None), "payment.list"), 1);
    let company = payment(&mut bench, 10);
    let one = json!({ "paymentId": company["paymentId"] });
    for (actor, allowed) in [
        (Actor::Driver(id(1)), false),
        (Actor::Vendor(id(2)), true),
        (Actor::Vendor(id(3)), false),
        (boss(), true),
    ] {
        let got = bench.command(&actor, "payment.get", one.clone());
        assert_eq!(got.is_ok(), allowed, "{actor}");
        if let (Ok((shown, _)), Actor::Vendor(_)) = (got, &actor) {
            assert!(shown.get("fraudScore").is_none() && shown.get("audit").is_none());
        }
    }
    let others = json!({ "vendorId": id(3) });
    assert_eq!(
        code(bench.command(&Actor::Vendor(id(2)), "payment.list", others)),
        Code::AuthorizationError
    );
    let body = at_version(&company, json!({}));
    let caller = of_company(Some(id(7)));
    bench
        .command_as(caller.clone(), "payment.approve", body)
        .expect("his company's");
    let body = at_version(&payment(&mut bench, 10), json!({}));
    assert_eq!(
        code(bench.command_as(caller, "payment.process", body)),
        Code::AuthorizationError
    );
}

#[test]
fn a_long_line_for_ten_minutes_is_an_alarm() {
    let mut bench = by_hand();
    for n in 0..101_u8 {
        bench
            .event(&work(100 + n, Payer::BackOffice, &[100]))
            .expect("created");
    }
    let began = bench.now;
    let events = bench.fire_next_timer().expect("a timer").expect("raised");
    assert_eq!((bench.now - began).num_minutes(), 10);
    assert_eq!(events[0].detail["alarmName"], "approval-backlog");
    let body = at_version(&payment(&mut bench, 100), json!({ "reason": "no" }));
    let (_, events) = bench
        .command(&boss(), "payment.reject", body)
        .expect("rejected");
    assert_eq!(types(&events), ["PaymentRejected", "AlarmCleared"]);
}
