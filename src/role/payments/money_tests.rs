//! Money on its way, on the bench: submission, answers, questions, retries, refunds; S30 as far as a role sees it.

use serde_json::{Value, json};

use super::tests::{
    DAY_MS, actions, answer, approve, at_version, boss, by_hand, get, id, payment, processing,
    vendor, with_stripe, work,
};
use crate::event::{Actor, Payer, Ts, UserDataDeleted};
use crate::role::Code;
use crate::role::testing::{code, types};
use crate::store::EffectOutcome;

#[test]
fn an_independent_contractor_pays_at_once_and_confirms_his_card() {
    let mut bench = with_stripe();
    let events = bench
        .event(&work(10, Payer::DriverIc, &[100]))
        .expect("created");
    assert_eq!(events[0].detail["status"], "approved");
    bench
        .fire_next_timer()
        .expect("a timer")
        .expect("submitted");
    let created = payment(&mut bench, 10);
    let key = format!("payment_{}_1", created["paymentId"].as_str().expect("text"));
    let calls = bench.effects();
    assert_eq!((calls.len(), &calls[0].key), (1, &key));
    let driver = Actor::Driver(id(1));
    let one = json!({ "paymentId": created["paymentId"] });
    assert_eq!(
        code(bench.command(&driver, "payment.action", one.clone())),
        Code::NotFound
    );
    let events = bench
        .effect_result(&key, answer("requires_action", "pi_1"))
        .expect("noted");
    assert_eq!(types(&events), ["PaymentRequiresAction"]);
    // He alone gets what he confirms with, past everything that is written.
    bench
        .command(&driver, "payment.action", one.clone())
        .expect("asked");
    let call = bench.answering.take().expect("a call answers");
    assert_eq!(
        (call.kind.as_str(), &call.request["reference"]),
        ("payment_confirmation", &json!("pi_1"))
    );
    assert!(bench.effects().is_empty(), "nothing is kept of it");
    for other in [Actor::Driver(id(3)), boss()] {
        assert_eq!(
            code(bench.command(&other, "payment.action", one.clone())),
            Code::AuthorizationError
        );
    }
    // The webhook got lost; the question brings the end.
    bench.fire_next_timer().expect("a timer").expect("asked");
    let lookup = bench.effects();
    assert_eq!(lookup[0].kind, "payment_lookup");
    let events = bench
        .effect_result(&lookup[0].key, answer("succeeded", "pi_1"))
        .expect("completed");
    assert_eq!(types(&events), ["PaymentCompleted"]);
    assert!(bench.fire_next_timer().is_none(), "nothing is waited for");
}

#[test]
fn s30_what_could_not_be_sent_stays_processing_and_is_paid_once_later() {
    let mut bench = with_stripe();
    let paying = processing(&mut bench, 10);
    let key = format!("transfer_{}_1", paying["paymentId"].as_str().expect("text"));
    let refused = || EffectOutcome::NotSent("the breaker is open".to_owned());
    for _ in 0..3 {
        let events = bench.effect_result(&key, refused()).expect("noted");
        assert!(events.is_empty(), "nothing is told as paid");
        let now = payment(&mut bench, 10);
        assert_eq!(
            (&now["status"], &now["awaitingProvider"]),
            (&json!("processing"), &json!(true))
        );
        assert_eq!(now["outcomeUnknown"], false);
        bench
            .fire_next_timer()
            .expect("a timer")
            .expect("sent again");
        assert_eq!(bench.effects()[0].key, key, "under the same key");
    }
    let events = bench
        .effect_result(&key, answer("succeeded", "tr_1"))
        .expect("completed");
    assert_eq!(types(&events), ["PaymentCompleted"]);
    assert!(bench.fire_next_timer().is_none());
}

#[test]
fn s30_a_charge_that_timed_out_is_asked_for_and_completed_once() {
    let mut bench = with_stripe();
    let paying = processing(&mut bench, 10);
    let key = format!("transfer_{}_1", paying["paymentId"].as_str().expect("text"));
    let silent = || EffectOutcome::Unknown("no answer".to_owned());
    assert!(
        bench
            .effect_result(&key, silent())
            .expect("noted")
            .is_empty()
    );
    let mut last = bench.now;
    for seconds in [30, 60, 120, 300, 600, 1800, 3600, 3600] {
        assert_eq!(payment(&mut bench, 10)["outcomeUnknown"], true);
        let body = at_version(&payment(&mut bench, 10), json!({}));
        assert_eq!(
            code(bench.command(&boss(), "payment.retry", body)),
            Code::InvalidTransition,
            "never under a new key"
        );
        bench.fire_next_timer().expect("a timer").expect("asked");
        assert_eq!((bench.now - last).num_seconds(), seconds);
        last = bench.now;
        let lookup = bench.effects()[0].key.clone();
        assert!(
            bench
                .effect_result(&lookup, silent())
                .expect("noted")
                .is_empty()
        );
    }
    bench.fire_next_timer().expect("a timer").expect("asked");
    let lookup = bench.effects()[0].key.clone();
    let events = bench
        .effect_result(&lookup, answer("succeeded", "tr_1"))
        .expect("completed");
    assert_eq!(types(&events), ["PaymentCompleted"]);
    assert_eq!(payment(&mut bench, 10)["outcomeUnknown"], false);
    assert!(bench.fire_next_timer().is_none());
}

#[test]
fn what_the_provider_never_got_is_sent_again_under_its_key_while_that_is_remembered() {
    let mut bench = with_stripe();
    let paying = processing(&mut bench, 10);
    let key = format!("transfer_{}_1", paying["paymentId"].as_str().expect("text"));
    let silent = || EffectOutcome::Unknown("no answer".to_owned());
    bench.effect_result(&key, silent()).expect("noted");
    bench.fire_next_timer().expect("a timer").expect("asked");
    let lookup = bench.effects()[0].key.clone();
    bench
        .effect_result(
            &lookup,
            EffectOutcome::Done(json!({ "state": "not_found" })),
        )
        .expect("noted");
    assert_eq!(bench.effects()[0].key, key, "the same call");
    bench.effect_result(&key, silent()).expect("noted");
    // A day later somebody is called, and the key is not used any more.
    bench.now = Ts::from_ms(bench.now.ms() + DAY_MS);
    let mut raised = Vec::new();
    for _ in 0..2 {
        raised.extend(bench.fire_next_timer().expect("a timer").expect("done"));
    }
    assert_eq!(types(&raised), ["AlarmRaised"]);
    assert_eq!(raised[0].detail["alarmName"], "payment-unknown");
    let lookup = bench.effects()[0].key.clone();
    bench
        .effect_result(
            &lookup,
            EffectOutcome::Done(json!({ "state": "not_found" })),
        )
        .expect("noted");
    assert!(bench.effects().is_empty());
    bench.fire_next_timer().expect("a timer").expect("asked");
    let lookup = bench.effects()[0].key.clone();
    let events = bench
        .effect_result(&lookup, answer("succeeded", "tr_1"))
        .expect("completed");
    assert_eq!(types(&events), ["AlarmCleared", "PaymentCompleted"]);
}

#[test]
fn a_definite_failure_can_be_retried_three_times_under_new_keys() {
    let mut bench = with_stripe();
    let mut paying = processing(&mut bench, 10);
    let payment_id = paying["paymentId"].clone();
    for attempt in 1..=4 {
        let key = format!("transfer_{}_{attempt}", payment_id.as_str().expect("text"));
        let outcome = json!({ "state": "failed", "reason": "account_closed" });
        let events = bench
            .effect_result(&key, EffectOutcome::Done(outcome))
            .expect("failed");
        assert_eq!(types(&events), ["PaymentFailed"]);
        let told = &events[0].detail;
        assert_eq!(
            (&told["attempt"], &told["final"], &told["reason"]),
            (
                &json!(attempt),
                &json!(attempt == 4),
                &json!("account_closed")
            )
        );
        paying = payment(&mut bench, 10);
        let body = at_version(&paying, json!({}));
        let retried = bench.command(&boss(), "payment.retry", body);
        if attempt == 4 {
            assert_eq!(code(retried), Code::PaymentFailed);
        } else {
            assert_eq!(retried.expect("retried").0["attempt"], attempt + 1);
        }
    }
    assert!(bench.effects().is_empty());
}

#[test]
fn a_vendor_without_an_account_is_a_failure_that_is_told() {
    let mut bench = with_stripe();
    bench
        .event(&work(10, Payer::BackOffice, &[100]))
        .expect("created");
    approve(&mut bench, 10);
    let events = bench
        .fire_next_timer()
        .expect("a timer")
        .expect("submitted");
    assert_eq!(types(&events), ["PaymentFailed"]);
    assert_eq!(events[0].detail["reason"], "no_payout_account");
    bench
        .event(&vendor(Ts::from_ms(0), Some("acct_2")))
        .expect("known");
    let body = at_version(&payment(&mut bench, 10), json!({}));
    bench
        .command(&boss(), "payment.retry", body)
        .expect("retried");
    assert_eq!(bench.effects()[0].request["destination"], "acct_2");
}

#[test]
fn by_hand_the_back_office_says_what_became_of_it() {
    let mut bench = by_hand();
    processing(&mut bench, 10);
    assert!(bench.effects().is_empty(), "nobody is called");
    let settle = |payment: &Value, more| at_version(payment, more);
    let now = payment(&mut bench, 10);
    let silent = settle(&now, json!({ "outcome": "completed" }));
    assert_eq!(
        code(bench.command(&boss(), "payment.settle", silent)),
        Code::ValidationError
    );
    let failed = settle(&now, json!({ "outcome": "failed", "reason": "bounced" }));
    let (now, events) = bench
        .command(&boss(), "payment.settle", failed)
        .expect("settled");
    assert_eq!(types(&events), ["PaymentFailed"]);
    let (now, _) = bench
        .command(&boss(), "payment.retry", at_version(&now, json!({})))
        .expect("retried");
    let paid = settle(
        &now,
        json!({ "outcome": "completed", "reference": "wire 17" }),
    );
    let (now, events) = bench
        .command(&boss(), "payment.settle", paid)
        .expect("settled");
    assert_eq!(types(&events), ["PaymentCompleted"]);
    assert_eq!(
        (
            &events[0].detail["attempt"],
            &events[0].detail["providerReference"]
        ),
        (&json!(2), &json!("wire 17"))
    );
    let back = at_version(&now, json!({ "reason": "complaint" }));
    assert_eq!(
        code(bench.command(&boss(), "payment.refund", back)),
        Code::ValidationError
    );
    let back = at_version(
        &now,
        json!({ "reason": "complaint", "reference": "wire 18" }),
    );
    let (now, events) = bench
        .command(&boss(), "payment.refund", back)
        .expect("refunded");
    assert_eq!(
        (types(&events), &now["status"]),
        (vec!["PaymentRefunded"], &json!("refunded"))
    );
    assert_eq!(
        actions(&mut bench, &now["paymentId"]),
        [
            "created",
            "approved",
            "submitted",
            "failed",
            "submitted",
            "completed",
            "refunded"
        ]
    );
}

#[test]
fn a_refund_is_told_when_the_provider_confirms_it() {
    let mut bench = with_stripe();
    let paying = processing(&mut bench, 10);
    let payment_id = paying["paymentId"].as_str().expect("text").to_owned();
    let early = at_version(&paying, json!({ "reason": "complaint" }));
    assert_eq!(
        code(bench.command(&boss(), "payment.refund", early)),
        Code::InvalidTransition
    );
    let key = format!("transfer_{payment_id}_1");
    bench
        .effect_result(&key, answer("succeeded", "tr_1"))
        .expect("completed");
    let ask = at_version(&payment(&mut bench, 10), json!({ "reason": "complaint" }));
    let (now, events) = bench
        .command(&boss(), "payment.refund", ask)
        .expect("asked");
    assert_eq!((events.len(), &now["status"]), (0, &json!("completed")));
    let key = format!("refund_{payment_id}_1");
    let silent = EffectOutcome::Unknown("no answer".to_owned());
    assert!(bench.effect_result(&key, silent).expect("noted").is_empty());
    bench
        .fire_next_timer()
        .expect("a timer")
        .expect("asked again");
    assert_eq!(bench.effects()[0].key, key, "the same key does it once");
    let events = bench
        .effect_result(&key, answer("pending", "re_1"))
        .expect("noted");
    assert!(events.is_empty());
    bench.fire_next_timer().expect("a timer").expect("asked");
    let lookup = bench.effects()[0].clone();
    assert_eq!(
        (lookup.kind.as_str(), &lookup.request["reference"]),
        ("payment_lookup", &json!("re_1"))
    );
    let events = bench
        .effect_result(&lookup.key, answer("succeeded", "re_1"))
        .expect("refunded");
    assert_eq!(types(&events), ["PaymentRefunded"]);
    assert_eq!(events[0].detail["refundedBy"], json!(boss()));
}

#[test]
fn a_replay_pays_nobody_and_an_erasure_forgets_words_only() {
    let mut bench = with_stripe();
    bench
        .replay(&work(10, Payer::DriverIc, &[100]))
        .expect("created");
    assert!(bench.fire_next_timer().is_none() && bench.effects().is_empty());
    assert_eq!(payment(&mut bench, 10)["status"], "approved");
    let body = at_version(&payment(&mut bench, 10), json!({}));
    bench
        .command(&boss(), "payment.process", body)
        .expect("submitted");
    assert_eq!(bench.effects().len(), 1);

    bench
        .event(&work(11, Payer::BackOffice, &[100]))
        .expect("created");
    let body = at_version(
        &payment(&mut bench, 11),
        json!({ "reason": "no", "note": "Joe said so" }),
    );
    let (rejected, _) = bench
        .command(&boss(), "payment.reject", body)
        .expect("rejected");
    assert_eq!(
        get(&mut bench, &rejected["paymentId"])["audit"][1]["note"],
        "Joe said so"
    );
    assert!(!bench.rests("Joe said so"), "sealed for the vendor");
    let erased = UserDataDeleted {
        user_id: id(1),
        reason: crate::event::ErasureReason::Request,
        requested_by: boss(),
        deleted_at: Ts::from_ms(1),
    };
    bench.event(&erased).expect("forgotten");
    let after = get(&mut bench, &rejected["paymentId"]);
    assert!(after["audit"][1].get("note").is_none());
    assert_eq!(
        (&after["amountCents"], &after["audit"][1]["action"]),
        (&json!(100), &json!("rejected"))
    );
}
