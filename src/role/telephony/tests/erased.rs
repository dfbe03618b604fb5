//! Whose data key is destroyed, of him nothing can be read any more; and a call whose number was nobody's has a key of its own.

use super::*;
use crate::role::KEY_DESTROY;
use crate::store::{EffectCall, EffectClass};

const OTHER: &str = "+15557654321";
const SAID: [&str; 6] = [
    PHONE,
    "555-123-4567",
    "maria@mail",
    "flat tire",
    "Oak Street 5",
    "It is dark here",
];

fn erasure() -> UserDataDeleted {
    serde_json::from_value(json!({ "userId": id(1), "reason": "request",
        "requestedBy": format!("driver:{}", id(1)), "deletedAt": "2026-01-15T10:00:00.000Z" }))
    .expect("an event")
}

/// A call with a place, a description and a transcript that is summarised. Gives its id and the transcript's.
fn whole_call(bench: &mut Bench<TelephonyRole>, name: &str, phone: &str) -> (Id, Value) {
    let mut payloads = [started("1"), ended(), spoken()];
    for payload in &mut payloads {
        payload["data"]["providerCallId"] = json!(name);
        if payload["data"].get("phone").is_some() {
            payload["data"]["phone"] = json!(phone);
        }
    }
    let call = call_id(&hook(bench, &payloads[0]));
    let body = json!({ "callId": call, "lat": 40.7, "lon": -74.0, "address": "Oak Street 5",
        "description": "It is dark here", "clientRequestId": name });
    bench
        .command(&Actor::Call(call), "call.intake", body)
        .expect("taken");
    hook(bench, &payloads[1]);
    let events = hook(bench, &payloads[2]);
    let transcript = detail(&events, "TranscriptReady")["transcriptId"].clone();
    let Some(Known::TranscriptReady(ready)) = events[0].known().cloned() else {
        panic!("not the transcript")
    };
    bench.event::<TranscriptReady>(&ready).expect("taken");
    (call, transcript)
}

/// All that an admin is shown of a call.
fn seen(bench: &mut Bench<TelephonyRole>, call: Id, transcript: &Value) -> String {
    let (one, _) = bench
        .command(&admin(), "call.get", json!({ "callId": call }))
        .expect("there");
    let body = json!({ "transcriptId": transcript, "purpose": "the caller asked for it" });
    let looked = bench.command(&admin(), "call.reveal_pii", body);
    format!(
        "{one} {}",
        looked.map(|(shown, _)| shown).unwrap_or_default()
    )
}

#[test]
fn without_his_key_nothing_of_a_driver_can_be_read_and_nothing_fails() {
    let mut bench = bench();
    let (call, transcript) = whole_call(&mut bench, "c1", PHONE);
    let (other, others) = whole_call(&mut bench, "c2", OTHER);
    for said in SAID {
        assert!(seen(&mut bench, call, &transcript).contains(said), "{said}");
    }
    let before = seen(&mut bench, other, &others);
    bench.keys.erase(&id(1).to_string());
    let left = seen(&mut bench, call, &transcript);
    for said in SAID {
        assert!(!left.contains(said), "{said} in {left}");
    }
    assert!(before.contains(OTHER) && before.contains("Oak Street 5"));
    assert_eq!(seen(&mut bench, other, &others).len(), before.len());
    let (listed, _) = bench
        .command(&admin(), "call.list", json!({}))
        .expect("listed");
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(2));

    // What comes late is taken: his profile, the end of another call, what he said in it.
    bench.event(&driver(1, "Maria Lopez")).expect("taken");
    let mut late = [started("0"), ended(), spoken()];
    for payload in &mut late {
        payload["data"]["providerCallId"] = json!("c3");
    }
    let events: Vec<Event> = late.iter().flat_map(|one| hook(&mut bench, one)).collect();
    assert_eq!(
        types(&events),
        ["CallStarted", "CallEnded", "TranscriptReady"]
    );
    assert_eq!(
        detail(&events, "CallStarted").get("driverId"),
        None,
        "he is nobody's driver any more"
    );
    while let Some(fired) = bench.fire_next_timer() {
        fired.expect("handled");
    }
}

/// What was asked for outside.
fn destroyed(bench: &mut Bench<TelephonyRole>) -> Vec<EffectCall> {
    let calls = std::mem::take(&mut bench.calls).into_iter();
    calls.filter(|call| call.kind == KEY_DESTROY).collect()
}

#[test]
fn what_a_call_said_before_its_driver_was_known_goes_with_the_calls_own_key() {
    let mut bench = bench_with(false);
    let (call, transcript) = whole_call(&mut bench, "c1", PHONE);
    let (other, others) = whole_call(&mut bench, "c2", OTHER);
    let events = bench.event(&driver(1, "Maria Lopez")).expect("taken");
    assert_eq!(types(&events), ["IncidentRequested"]);
    let Some(Known::IncidentRequested(request)) = events[0].known().cloned() else {
        panic!("{events:?}")
    };
    bench.keys.erase(&call.to_string());
    assert!(
        bench.revealed(&request.phone).is_some() && bench.revealed(&request.location).is_some(),
        "the request is sealed for the driver"
    );
    let left = seen(&mut bench, call, &transcript);
    assert!(left.contains(PHONE) && left.contains("Oak Street 5"));
    assert!(!left.contains("flat tire"), "{left}");

    let restored = seen(&mut bench, other, &others);
    bench.event(&erasure()).expect("taken");
    let asked = destroyed(&mut bench);
    assert_eq!(asked.len(), 1);
    assert_eq!(
        (asked[0].class, &asked[0].request),
        (EffectClass::Local, &json!({ "subject": call }))
    );
    assert_eq!(seen(&mut bench, other, &others).len(), restored.len());
    // It is asked for until it is done.
    let silent = EffectOutcome::Unknown("no answer".to_owned());
    bench.answer(&asked[0], silent).expect("handled");
    loop {
        bench.fire_next_timer().expect("a timer").expect("handled");
        if let Some(again) = destroyed(&mut bench).pop() {
            assert_eq!(
                (&again.key, &again.request),
                (&asked[0].key, &asked[0].request)
            );
            bench
                .answer(&again, EffectOutcome::Done(json!({})))
                .expect("handled");
            break;
        }
    }
    while let Some(fired) = bench.fire_next_timer() {
        fired.expect("handled");
    }
    assert!(destroyed(&mut bench).is_empty());
}

#[test]
fn words_that_come_before_their_call_are_sealed_for_it_and_the_driver_has_them_then() {
    let mut bench = bench();
    assert!(hook(&mut bench, &spoken()).is_empty());
    let events = hook(&mut bench, &ended());
    let call = call_id(&events);
    let sealed_for = format!(
        "DELETE FROM transcript WHERE call_id = '{call}' AND sealed LIKE '%:{}:%'",
        id(1)
    );
    assert_eq!(bench.alter(&sealed_for), 1, "the driver's key");
}

#[test]
fn a_summary_is_not_asked_for_nor_taken_once_the_caller_is_erased() {
    let mut bench = bench_with(true);
    bench.event(&driver(1, "Maria Lopez")).expect("taken");
    let (call, transcript) = whole_call(&mut bench, "c1", PHONE);
    let asked = bench.effects().pop().expect("the summariser is asked");
    bench.keys.erase(&id(1).to_string());
    let masked = bench.effects().pop().expect("kept").request;
    assert_eq!(masked["text"], "***");
    bench.event(&erasure()).expect("taken");
    let answer = json!({ "summary": "Maria has a flat tire", "urgency": "low" });
    let events = bench
        .answer(&asked, EffectOutcome::Done(answer))
        .expect("handled");
    assert!(events.is_empty());
    assert!(!seen(&mut bench, call, &transcript).contains("Maria"));
}

#[test]
fn where_nothing_is_sealed_all_is_shown_as_it_came_and_no_key_is_destroyed() {
    let mut bench = Bench::without_keys(TelephonyRole::new(TelephonyOptions {
        webhook_secret: Some(Secret::new(SECRET)),
        ..TelephonyOptions::default()
    }));
    bench.event(&driver(1, "Maria Lopez")).expect("taken");
    let (call, transcript) = whole_call(&mut bench, "c1", PHONE);
    let shown = seen(&mut bench, call, &transcript);
    for said in SAID {
        assert!(shown.contains(said), "{said} in {shown}");
    }
    bench.event(&erasure()).expect("taken");
    assert!(destroyed(&mut bench).is_empty());
    let left = seen(&mut bench, call, &transcript);
    for said in SAID {
        assert!(!left.contains(said), "{said} in {left}");
    }
}
