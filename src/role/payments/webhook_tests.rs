//! What the provider says by itself, on the bench: S15 and every order.

use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::PaymentRole;
use super::tests::{
    SECRET, actions, answer, at_version, boss, get, id, payment, processing, vendor, with_stripe,
    work,
};
use crate::event::{Actor, Event, Payer, Ts};
use crate::role::testing::{Bench, code, types};
use crate::role::{Code, HandlerError};
use crate::store::EffectOutcome;

fn signed(bench: &Bench<PaymentRole>, payload: &str) -> Value {
    let t = bench.now.ms() / 1000;
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length");
    mac.update(format!("{t}.{payload}").as_bytes());
    let code = mac.finalize().into_bytes();
    let hex: String = code.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({ "payload": payload, "signature": format!("t={t},v1={hex}") })
}

fn hook(bench: &mut Bench<PaymentRole>, event: &Value) -> (Value, Vec<Event>) {
    let body = signed(bench, &event.to_string());
    let provider = Actor::Provider("stripe".to_owned());
    bench
        .command(&provider, "payment.webhook", body)
        .expect("taken")
}

/// A provider event `n` about a payment's attempt, made `after` seconds from now.
fn event(
    bench: &Bench<PaymentRole>,
    n: u32,
    kind: &str,
    payment: &Value,
    object: Value,
    after: i64,
) -> Value {
    let mut object = object;
    object["metadata"] = json!({ "payment_id": payment["paymentId"], "attempt": "1" });
    json!({
        "id": format!("evt_{n}"), "type": kind, "created": bench.now.ms() / 1000 + after,
        "data": { "object": object },
    })
}

fn transferred(bench: &Bench<PaymentRole>, n: u32, payment: &Value) -> Value {
    let object = json!({ "id": "tr_1", "object": "transfer", "amount": 20_000, "currency": "usd" });
    event(bench, n, "transfer.created", payment, object, 0)
}

#[test]
fn s15_a_confirmation_before_our_own_commit_completes_once() {
    let mut bench = with_stripe();
    bench
        .event(&vendor(Ts::from_ms(0), Some("acct_2")))
        .expect("known");
    bench
        .event(&work(10, Payer::BackOffice, &[20_000]))
        .expect("created");
    let body = at_version(&payment(&mut bench, 10), json!({}));
    let (approved, _) = bench
        .command(&boss(), "payment.approve", body)
        .expect("approved");
    let first = transferred(&bench, 1, &approved);
    let (reply, events) = hook(&mut bench, &first);
    assert_eq!(types(&events), ["PaymentCompleted"]);
    assert_eq!(reply, json!({ "received": true, "duplicate": false }));
    // The same event again, and another one that says the same.
    let (reply, events) = hook(&mut bench, &first);
    assert_eq!((events.len(), &reply["duplicate"]), (0, &json!(true)));
    let second = transferred(&bench, 2, &approved);
    assert!(hook(&mut bench, &second).1.is_empty());
    assert!(
        bench.fire_next_timer().is_none(),
        "it is not submitted any more"
    );
    assert!(bench.effects().is_empty());
    assert_eq!(
        actions(&mut bench, &approved["paymentId"]),
        ["created", "approved", "confirmed_unasked", "completed"]
    );
}

#[test]
fn s15_a_confirmation_after_a_rejection_calls_a_person() {
    let mut bench = with_stripe();
    bench
        .event(&work(10, Payer::BackOffice, &[20_000]))
        .expect("created");
    let body = at_version(&payment(&mut bench, 10), json!({ "reason": "not_done" }));
    let (rejected, _) = bench
        .command(&boss(), "payment.reject", body)
        .expect("rejected");
    let paid = transferred(&bench, 1, &rejected);
    let (_, events) = hook(&mut bench, &paid);
    assert_eq!(types(&events), ["AlarmRaised"]);
    assert_eq!(events[0].detail["alarmName"], "payment-conflict");
    assert_eq!(
        get(&mut bench, &rejected["paymentId"])["status"],
        "rejected"
    );
    let again = transferred(&bench, 2, &rejected);
    assert!(hook(&mut bench, &again).1.is_empty(), "raised once");
}

#[test]
fn a_confirmation_beats_an_answer_and_an_answer_after_it_changes_nothing() {
    let mut bench = with_stripe();
    let paying = processing(&mut bench, 10);
    let paid = transferred(&bench, 1, &paying);
    assert_eq!(types(&hook(&mut bench, &paid).1), ["PaymentCompleted"]);
    let key = bench.effects()[0].key.clone();
    assert!(
        bench
            .effect_result(&key, answer("succeeded", "tr_1"))
            .expect("nothing")
            .is_empty()
    );

    let mut bench = with_stripe();
    processing(&mut bench, 10);
    let key = bench.effects()[0].key.clone();
    bench
        .effect_result(&key, answer("succeeded", "tr_9"))
        .expect("completed");
    let paid = transferred(&bench, 1, &paying);
    let completed = payment(&mut bench, 10);
    let mut other = paid.clone();
    other["data"]["object"]["metadata"]["payment_id"] = completed["paymentId"].clone();
    assert_eq!(
        types(&hook(&mut bench, &other).1),
        ["AlarmRaised"],
        "paid twice"
    );
    assert_eq!(payment(&mut bench, 10)["status"], "completed");
}

#[test]
fn a_failure_is_definite_and_a_late_success_still_counts() {
    let mut bench = with_stripe();
    let paying = processing(&mut bench, 10);
    let key = bench.effects()[0].key.clone();
    let refused = json!({ "state": "failed", "reason": "account_closed" });
    bench
        .effect_result(&key, EffectOutcome::Done(refused))
        .expect("failed");
    let paid = transferred(&bench, 1, &paying);
    assert_eq!(types(&hook(&mut bench, &paid).1), ["PaymentCompleted"]);

    // Attempt 1 turns out paid while attempt 2 is on its way: the money moved, and a person looks.
    let mut bench = with_stripe();
    let paying = processing(&mut bench, 10);
    let key = bench.effects()[0].key.clone();
    let refused = json!({ "state": "failed" });
    bench
        .effect_result(&key, EffectOutcome::Done(refused))
        .expect("failed");
    let body = at_version(&payment(&mut bench, 10), json!({}));
    bench
        .command(&boss(), "payment.retry", body)
        .expect("retried");
    let paid = transferred(&bench, 1, &paying);
    let events = hook(&mut bench, &paid).1;
    assert_eq!(types(&events), ["AlarmRaised", "PaymentCompleted"]);
    assert_eq!(events[1].detail["attempt"], 1);
}

#[test]
fn a_declined_card_and_its_success_come_in_any_order() {
    let declined =
        json!({ "id": "pi_1", "last_payment_error": { "decline_code": "insufficient_funds" } });
    let kind = "payment_intent.payment_failed";
    let charge = |bench: &mut Bench<PaymentRole>| {
        bench
            .event(&work(10, Payer::DriverIc, &[20_000]))
            .expect("created");
        bench
            .fire_next_timer()
            .expect("a timer")
            .expect("submitted");
        let key = bench.effects()[0].key.clone();
        bench
            .effect_result(&key, answer("requires_action", "pi_1"))
            .expect("noted");
        payment(bench, 10)
    };
    let money =
        json!({ "id": "pi_1", "amount": 20_000, "amount_received": 20_000, "currency": "usd" });
    let mut bench = with_stripe();
    let paying = charge(&mut bench);
    let failed = event(&bench, 1, kind, &paying, declined.clone(), 0);
    let paid = event(
        &bench,
        2,
        "payment_intent.succeeded",
        &paying,
        money.clone(),
        5,
    );
    let events = hook(&mut bench, &failed).1;
    assert_eq!(types(&events), ["PaymentFailed"]);
    assert_eq!(events[0].detail["reason"], "insufficient_funds");
    assert_eq!(types(&hook(&mut bench, &paid).1), ["PaymentCompleted"]);

    let mut bench = with_stripe();
    let paying = charge(&mut bench);
    let failed = event(&bench, 1, kind, &paying, declined.clone(), -5);
    let paid = event(
        &bench,
        2,
        "payment_intent.succeeded",
        &paying,
        money.clone(),
        0,
    );
    assert_eq!(types(&hook(&mut bench, &paid).1), ["PaymentCompleted"]);
    assert!(hook(&mut bench, &failed).1.is_empty(), "an old decline");
    let later = event(&bench, 3, kind, &paying, declined, 5);
    assert_eq!(
        types(&hook(&mut bench, &later).1),
        ["AlarmRaised"],
        "a contradiction"
    );

    let mut bench = with_stripe();
    let paying = charge(&mut bench);
    let mut less = event(&bench, 1, "payment_intent.succeeded", &paying, money, 0);
    less["data"]["object"]["amount_received"] = json!(19_999);
    assert_eq!(types(&hook(&mut bench, &less).1), ["AlarmRaised"]);
    assert_eq!(payment(&mut bench, 10)["status"], "processing");
}

#[test]
fn a_reversal_is_a_refund_whenever_it_comes() {
    let object =
        || json!({ "id": "tr_1", "reversed": true, "reversals": { "data": [{ "id": "trr_1" }] } });
    let mut bench = with_stripe();
    let paying = processing(&mut bench, 10);
    let paid = transferred(&bench, 1, &paying);
    let back = event(&bench, 2, "transfer.reversed", &paying, object(), 5);
    let mut events = hook(&mut bench, &back).1;
    bench.now = Ts::from_ms(bench.now.ms() + 10_000);
    events.extend(hook(&mut bench, &paid).1);
    assert_eq!(types(&events), ["PaymentCompleted", "PaymentRefunded"]);
    assert_eq!(
        (&events[1].detail["reason"], &events[1].detail["refundedBy"]),
        (&json!("provider_reversal"), &json!("provider:stripe"))
    );
    let mut anew = event(
        &bench,
        3,
        "transfer.created",
        &paying,
        json!({ "id": "tr_2" }),
        0,
    );
    anew["data"]["object"]["amount"] = json!(20_000);
    assert_eq!(
        types(&hook(&mut bench, &anew).1),
        ["AlarmRaised"],
        "paid after the refund"
    );
    assert_eq!(payment(&mut bench, 10)["status"], "refunded");
}

#[test]
fn what_is_not_signed_is_refused_and_what_is_not_ours_is_left_alone() {
    let mut bench = with_stripe();
    let paying = processing(&mut bench, 10);
    let provider = Actor::Provider("stripe".to_owned());
    let paid = transferred(&bench, 1, &paying).to_string();
    let mut body = signed(&bench, &paid);
    body["payload"] = json!(paid.replace("20000", "20001"));
    let refused = bench.command(&provider, "payment.webhook", body);
    match refused {
        Err(HandlerError::Rejected(rejection)) => {
            assert_eq!(rejection.field.as_deref(), Some("signature"));
        }
        other => panic!("{other:?}"),
    }
    let good = signed(&bench, &paid);
    assert_eq!(
        code(bench.command(&boss(), "payment.webhook", good.clone())),
        Code::AuthorizationError
    );
    bench.now = Ts::from_ms(bench.now.ms() + 301_000);
    assert_eq!(
        code(bench.command(&provider, "payment.webhook", good)),
        Code::ValidationError
    );
    let mut foreign = transferred(&bench, 2, &paying);
    foreign["data"]["object"]["metadata"] = json!({});
    foreign["data"]["object"]["id"] = json!("tr_of_a_shop");
    assert!(hook(&mut bench, &foreign).1.is_empty());
    let odd = json!({ "id": "evt_3", "type": "customer.created", "data": { "object": {} } });
    assert!(hook(&mut bench, &odd).1.is_empty());
    let nonsense = signed(&bench, "not JSON");
    assert_eq!(
        code(bench.command(&provider, "payment.webhook", nonsense)),
        Code::ValidationError
    );
    let bounced = json!({ "id": "evt_4", "type": "payout.failed", "account": "acct_2", "data": { "object": {} } });
    let events = hook(&mut bench, &bounced).1;
    assert_eq!(events[0].detail["subject"], format!("vendor/{}", id(2)));
}
