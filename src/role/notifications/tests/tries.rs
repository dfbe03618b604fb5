//! Once, whose turn it is, three tries for each channel by itself, and what has lost its sense.

use serde_json::json;

use super::*;
use crate::event::{IncidentStatus, IncidentStatusChanged, VendorArrived};
use crate::role::Mode;

fn failed() -> EffectOutcome {
    EffectOutcome::Failed("sms: HTTP 503".to_owned())
}

#[test]
fn an_event_delivered_again_sends_nothing_again() {
    let mut bench = peopled();
    let event = bench.received(&payment_approved(), Mode::Live, false);
    for _ in 0..3 {
        bench.deliver(event.clone()).expect("taken");
    }
    assert_eq!(all_sent(&mut bench).len(), 3);
    bench.deliver(event).expect("taken");
    assert!(bench.calls.is_empty());
}

#[test]
fn two_events_tell_one_arrival_once_and_another_vendors_arrival_is_another() {
    let mut bench = peopled();
    let arrived = VendorArrived {
        vendor_id: id(VENDOR),
        incident_id: id(INCIDENT),
        driver_id: id(DRIVER),
        session_id: id(50),
        arrived_at: bench.now,
        location: Personal::Plain(Point {
            lat: 40.0,
            lon: -74.0,
        }),
        distance_meters: crate::event::ArrivalMeters::new(5.0).expect("in range"),
    };
    let by_hand = IncidentStatusChanged {
        incident_id: id(INCIDENT),
        driver_id: id(DRIVER),
        vendor_id: Some(id(VENDOR)),
        company_id: None,
        previous_status: IncidentStatus::VendorEnRoute,
        new_status: IncidentStatus::VendorArrived,
        changed_by: Actor::Dispatcher(id(DISPATCHER)),
        reason: None,
        note: None,
    };
    bench.event(&arrived).expect("taken");
    bench.event(&by_hand).expect("taken");
    bench.event(&arrived).expect("taken");
    assert_eq!(channels(&all_sent(&mut bench)), ["push", "sms"]);
    let mut other = vendor();
    other.vendor_id = id(60);
    bench.event(&other).expect("taken");
    let again = VendorArrived {
        vendor_id: id(60),
        ..arrived
    };
    bench.event(&again).expect("taken");
    assert_eq!(channels(&all_sent(&mut bench)), ["push", "sms"]);
}

#[test]
fn each_channel_is_tried_three_times_under_one_key_and_by_itself() {
    let mut bench = peopled();
    bench.event(&payment_approved()).expect("taken");
    let first = std::mem::take(&mut bench.calls);
    assert_eq!(first.len(), 3);
    let mut keys = Vec::new();
    for call in &first {
        let outcome = if call.kind == "sms" { failed() } else { sent() };
        bench.answer(call, outcome).expect("taken");
    }
    for n in 2..=3 {
        assert!(bench.calls.is_empty(), "not before its time");
        bench.fire_next_timer().expect("a timer").expect("taken");
        let again = std::mem::take(&mut bench.calls);
        assert_eq!(channels(&again), ["sms"], "try {n}");
        keys.push(again[0].key.clone());
        // Silence is a try as well.
        bench
            .answer(
                &again[0],
                EffectOutcome::Unknown("sms: no answer".to_owned()),
            )
            .expect("taken");
    }
    let sms = first
        .iter()
        .find(|call| call.kind == "sms")
        .expect("an SMS");
    assert!(keys.iter().all(|key| *key == sms.key));
    let log = log(&mut bench, VENDOR);
    let of = |channel: &str| {
        log.iter()
            .find(|entry| entry.1 == channel)
            .expect("logged")
            .clone()
    };
    assert_eq!(
        (of("sms").2.as_str(), of("sms").3.as_str()),
        ("failed", "sms: no answer")
    );
    assert_eq!(
        (of("push").2.as_str(), of("email").2.as_str()),
        ("sent", "sent")
    );
    assert!(bench.calls.is_empty());
}

#[test]
fn behind_an_open_breaker_nothing_is_a_try_and_it_ends_when_it_has_lost_its_sense() {
    let mut bench = peopled();
    bench.event(&payment_approved()).expect("taken");
    let calls = std::mem::take(&mut bench.calls);
    let mut sms = calls
        .into_iter()
        .find(|call| call.kind == "sms")
        .expect("an SMS");
    let mut rounds = 0;
    loop {
        let not_sent = EffectOutcome::NotSent("sms is failing, its breaker is open".to_owned());
        bench.answer(&sms, not_sent).expect("taken");
        match bench.fire_next_timer() {
            Some(result) => result.expect("taken"),
            None => break,
        };
        rounds += 1;
        match bench.calls.iter().position(|call| call.kind == "sms") {
            Some(at) => sms = bench.calls.swap_remove(at),
            None => break,
        }
    }
    assert_eq!(rounds, 60, "once a minute for its hour");
    let log = log(&mut bench, VENDOR);
    let sms = log.iter().find(|entry| entry.1 == "sms").expect("logged");
    assert_eq!((sms.2.as_str(), sms.3.as_str()), ("dropped", "expired"));
}

#[test]
fn an_offer_is_not_sent_at_or_behind_its_end() {
    let mut bench = peopled();
    let open = offer(&bench);
    bench.now = open.expires_at;
    bench.event(&open).expect("taken");
    assert!(bench.calls.is_empty());
    let next = offer(&bench);
    bench.event(&next).expect("taken");
    let calls = std::mem::take(&mut bench.calls);
    assert_eq!(calls[0].request["notAfter"], json!(next.expires_at));
    for call in &calls {
        bench.answer(call, failed()).expect("taken");
    }
    // One more try after a minute; the third would come at the end.
    bench.fire_next_timer().expect("a timer").expect("taken");
    assert!(bench.fire_next_timer().expect("a timer").is_ok());
    for call in std::mem::take(&mut bench.calls) {
        bench.answer(&call, failed()).expect("taken");
    }
    bench.fire_next_timer().expect("a timer").expect("taken");
    assert!(bench.calls.is_empty());
    let log = log(&mut bench, VENDOR);
    assert!(log.iter().all(|entry| entry.3 == "expired"), "{log:?}");
}

#[test]
fn one_person_gets_one_message_at_a_time_on_a_channel_the_urgent_ones_first_and_then_by_time() {
    let mut bench = peopled();
    bench.event(&payment_approved()).expect("taken");
    let first = std::mem::take(&mut bench.calls);
    bench.now = bench.now + Duration::from_secs(1);
    let late = bench.received(&payment_approved(), Mode::Live, false);
    bench.now = Ts::from_ms(bench.now.ms() - 500);
    let early = bench.received(&payment_approved(), Mode::Live, false);
    bench.now = bench.now + Duration::from_secs(1);
    bench.deliver(late.clone()).expect("taken");
    bench.deliver(early.clone()).expect("taken");
    let urgent = bench.received(&offer(&bench), Mode::Live, false);
    bench.deliver(urgent.clone()).expect("taken");
    assert!(bench.calls.is_empty(), "one is on its way on each channel");
    let sms = |call: &EffectCall| call.kind == "sms";
    let mut order = Vec::new();
    let mut flying = first.into_iter().find(sms);
    while let Some(call) = flying {
        bench.answer(&call, sent()).expect("taken");
        let next = std::mem::take(&mut bench.calls);
        flying = next.into_iter().find(sms);
        order.extend(flying.as_ref().map(|call| call.key.clone()));
    }
    let expected = [urgent.event.id, early.event.id, late.event.id].map(|event| {
        let body = json!({ "userId": id(VENDOR), "limit": 100 });
        let (page, _) = bench
            .command(&operator(), "notification.history", body)
            .expect("listed");
        let items = page["items"].as_array().expect("a list").clone();
        let found = items
            .iter()
            .find(|item| item["eventId"] == json!(event) && item["channel"] == "sms");
        found.expect("logged")["notificationId"]
            .as_str()
            .expect("an id")
            .to_owned()
    });
    assert_eq!(order, expected);
}

#[test]
fn the_log_is_kept_for_90_days() {
    let mut bench = peopled();
    let start = bench.now;
    bench.event(&payment_approved()).expect("taken");
    all_sent(&mut bench);
    let mut days = 0;
    while let Some(fired) = bench.fire_next_timer() {
        fired.expect("taken");
        days += 1;
        let kept = log(&mut bench, VENDOR).len();
        let young = bench.now.ms() - start.ms() <= 90 * 86_400_000;
        assert_eq!(kept, if young { 3 } else { 0 }, "day {days}");
    }
    assert_eq!(days, 91, "and then there is nothing to clear");
}
