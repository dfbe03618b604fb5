//! Telephony's rules, row by row (DOMAIN 2.1 T1 to T4, 5.8).

mod erased;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::*;
use crate::event::{
    Actor, Event, Id, IncidentCreated, Known, TranscriptReady, UserDataDeleted, UserRegistered, ids,
};
use crate::role::Code;
use crate::role::permission::Caller;
use crate::role::testing::{Bench, code, types};
use crate::store::EffectOutcome;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const PHONE: &str = "+15551234567";
const SPOKEN: &str = "Hello, Maria here, 555-123-4567. I have a flat tire on the shoulder. Write to maria@mail.example. Thanks.";

fn id(n: u64) -> Id {
    ids::derive_v7(1, &[b"telephony", &n.to_be_bytes()])
}

fn bench_with(summariser: bool) -> Bench<TelephonyRole> {
    Bench::new(TelephonyRole::new(TelephonyOptions {
        webhook_secret: Some(Secret::new(SECRET)),
        summariser,
        ..TelephonyOptions::default()
    }))
}

fn bench() -> Bench<TelephonyRole> {
    let mut bench = bench_with(false);
    bench.event(&driver(1, "Maria Lopez")).expect("taken");
    bench
}

fn driver(n: u64, name: &str) -> UserRegistered {
    serde_json::from_value(json!({
        "userId": id(n), "phone": PHONE, "role": "driver", "name": name, "companyId": id(90),
        "paymentType": "independent_contractor", "language": "en", "timezone": "UTC", "status": "active",
        "profileVersion": 1, "registeredAt": "2026-01-01T00:00:00.000Z",
    }))
    .expect("a user")
}

fn signed(bench: &Bench<TelephonyRole>, payload: &Value) -> Value {
    let (text, secs) = (payload.to_string(), bench.now.ms() / 1000);
    let key = STANDARD.decode(&SECRET[6..]).expect("base64");
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key");
    mac.update(format!("m1.{secs}.{text}").as_bytes());
    let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    json!({ "payload": text, "id": "m1", "timestamp": secs.to_string(), "signature": signature })
}

fn hook(bench: &mut Bench<TelephonyRole>, payload: &Value) -> Vec<Event> {
    let body = signed(bench, payload);
    let provider = Actor::Provider("tel".to_owned());
    bench
        .command(&provider, "call.webhook", body)
        .expect("taken")
        .1
}

fn started(keypad: &str) -> Value {
    json!({ "type": "call.started", "data": { "providerCallId": "c1", "phone": "5551234567",
        "startedAt": "2026-01-15T09:58:00.000Z", "keypad": keypad } })
}

fn ended() -> Value {
    json!({ "type": "call.ended", "data": { "providerCallId": "c1", "phone": PHONE, "durationSeconds": 90,
        "endedAt": "2026-01-15T09:59:30.000Z", "recordingRef": "rec/1", "disposition": "completed" } })
}

fn spoken() -> Value {
    json!({ "type": "transcript.received", "data": { "providerCallId": "c1", "text": SPOKEN, "confidence": 0.9 } })
}

fn detail(events: &[Event], name: &str) -> Value {
    let event = events
        .iter()
        .find(|event| event.detail_type.as_str() == name);
    serde_json::to_value(crate::event::to_value(event.expect(name))).expect("JSON")["detail"]
        .clone()
}

fn call_id(events: &[Event]) -> Id {
    let text = detail(events, "CallStarted")["callId"].clone();
    Id::parse(text.as_str().expect("text")).expect("an id")
}

fn admin() -> Actor {
    Actor::Admin(id(50))
}

#[test]
fn t1_t2_a_keypad_and_a_place_make_one_request() {
    let mut bench = bench();
    let events = hook(&mut bench, &started("1"));
    assert_eq!(types(&events), ["CallStarted"]);
    assert_eq!(detail(&events, "CallStarted")["driverId"], json!(id(1)));
    let call = call_id(&events);
    let place = json!({ "callId": call, "lat": 40.7, "lon": -74.0 });
    let (_, events) = bench
        .command(&Actor::Call(call), "call.intake", place.clone())
        .expect("taken");
    assert_eq!(types(&events), ["IncidentRequested"]);
    let request = detail(&events, "IncidentRequested");
    assert_eq!(request["type"], "tire");
    assert_eq!(request["payerType"], "driver_ic");
    assert_eq!(request["companyId"], json!(id(90)));
    // The same again is the same success; another place is not.
    let (_, events) = bench
        .command(&Actor::Call(call), "call.intake", place)
        .expect("the same");
    assert!(events.is_empty());
    let other = json!({ "callId": call, "lat": 41.7, "lon": -74.0 });
    assert_eq!(
        code(bench.command(&Actor::Call(call), "call.intake", other)),
        Code::Conflict
    );
    // Complete: nobody is called after the end.
    assert_eq!(types(&hook(&mut bench, &ended())), ["CallEnded"]);
    assert!(hook(&mut bench, &ended()).is_empty(), "once per kind");
}

#[test]
fn t4_an_incomplete_intake_calls_people_once_and_never_makes_an_incident() {
    let mut bench = bench();
    let events = hook(&mut bench, &started("0"));
    let call = call_id(&events);
    hook(&mut bench, &ended());
    let events = bench.fire_next_timer().expect("a timer").expect("fired");
    assert_eq!(types(&events), ["CallAttentionNeeded"]);
    assert_eq!(
        detail(&events, "CallAttentionNeeded")["missing"],
        json!(["type", "location"])
    );
    let bad = json!({ "callId": call, "lat": 91.0, "lon": 0.0, "type": "tow" });
    assert_eq!(
        code(bench.command(&admin(), "call.intake", bad)),
        Code::ValidationError
    );
    let body = json!({ "callId": call, "lat": 40.0, "lon": 0.0, "keypad": "3" });
    let (reply, events) = bench.command(&admin(), "call.intake", body).expect("taken");
    assert_eq!(types(&events), ["IncidentRequested"]);
    assert_eq!(reply["intake"]["status"], "requested");
}

#[test]
fn the_end_may_come_first_and_the_transcript_before_it() {
    let mut bench = bench();
    assert!(hook(&mut bench, &spoken()).is_empty(), "waits for the end");
    let events = hook(&mut bench, &ended());
    assert_eq!(
        types(&events),
        ["CallStarted", "CallEnded", "TranscriptReady"]
    );
    assert!(hook(&mut bench, &started("1")).is_empty());
    let Known::TranscriptReady(ready) = events[2].known().expect("known").clone() else {
        panic!("not the transcript")
    };
    assert!(ready.has_pii);
    let events = bench.event::<TranscriptReady>(&ready).expect("taken");
    assert_eq!(types(&events), ["CallSummaryGenerated"]);
    let summary = detail(&events, "CallSummaryGenerated");
    assert_eq!(summary["urgency"], "high");
    assert_eq!(
        summary["actionItems"],
        json!(["dispatch tire", "confirm location"])
    );
    assert!(
        bench
            .event::<TranscriptReady>(&ready)
            .expect("taken")
            .is_empty(),
        "once"
    );
}

#[test]
fn nothing_raw_rests_in_clear_and_a_look_is_written_down() {
    let mut bench = bench();
    hook(&mut bench, &started("1"));
    hook(&mut bench, &ended());
    let events = hook(&mut bench, &spoken());
    let transcript = detail(&events, "TranscriptReady")["transcriptId"].clone();
    let wal = bench.path().with_extension("db-wal");
    for file in [bench.path().to_owned(), wal] {
        let bytes = std::fs::read(&file).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        for raw in ["555-123-4567", "maria@mail", "Maria here"] {
            assert!(!text.contains(raw), "{raw} in {}", file.display());
        }
    }
    let mut body = json!({ "transcriptId": transcript, "purpose": "too short" });
    let mut dispatcher = Caller::of(Actor::Dispatcher(id(7)));
    dispatcher.company = Some(id(90));
    let refused = bench.command_as(dispatcher.clone(), "call.reveal_pii", body.clone());
    assert_eq!(code(refused), Code::ValidationError);
    body["purpose"] = json!("the caller asked for it");
    let stranger = Caller::of(Actor::Dispatcher(id(8)));
    let refused = bench.command_as(stranger, "call.reveal_pii", body.clone());
    assert_eq!(code(refused), Code::AuthorizationError);
    let (reply, events) = bench
        .command_as(dispatcher, "call.reveal_pii", body.clone())
        .expect("shown");
    let values: Vec<&str> = reply["entities"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["value"].as_str().expect("text"))
        .collect();
    assert_eq!(values, ["Maria", "555-123-4567", "maria@mail.example"]);
    assert_eq!(types(&events), ["PiiAccessed"]);
    let accessed = detail(&events, "PiiAccessed");
    assert_eq!(accessed["entityTypes"], json!(["email", "name", "phone"]));
    assert_eq!(accessed["accessLogId"], reply["accessLogId"]);

    // Erased: nothing is left to be shown.
    let erased: UserDataDeleted =
        serde_json::from_value(json!({ "userId": id(1), "reason": "request",
        "requestedBy": format!("driver:{}", id(1)), "deletedAt": "2026-01-15T10:00:00.000Z" }))
        .expect("an event");
    bench.event(&erased).expect("taken");
    assert_eq!(
        code(bench.command(&admin(), "call.reveal_pii", body)),
        Code::NotFound
    );
    let call = detail(&hook_again(&mut bench), "CallStarted");
    assert_eq!(call.get("driverId"), None, "the directory forgot him");
}

/// A second call from the same number.
fn hook_again(bench: &mut Bench<TelephonyRole>) -> Vec<Event> {
    let mut payload = started("1");
    payload["data"]["providerCallId"] = json!("c2");
    hook(bench, &payload)
}

#[test]
fn a_webhook_needs_its_signature() {
    let mut bench = bench();
    let provider = Actor::Provider("tel".to_owned());
    let mut body = signed(&bench, &started("1"));
    body["id"] = json!("m2");
    assert_eq!(
        code(bench.command(&provider, "call.webhook", body)),
        Code::ValidationError
    );
    let body = signed(&bench, &started("1"));
    bench.now = bench.now + Duration::from_secs(301);
    assert_eq!(
        code(bench.command(&provider, "call.webhook", body)),
        Code::ValidationError
    );
    let body = signed(&bench, &started("1"));
    assert_eq!(
        code(bench.command(&admin(), "call.webhook", body)),
        Code::AuthorizationError
    );
}

#[test]
fn a_profile_that_comes_late_names_the_caller() {
    let mut bench = bench_with(false);
    let call = call_id(&hook(&mut bench, &started("2")));
    let place = json!({ "callId": call, "lat": 40.7, "lon": -74.0 });
    let (_, events) = bench
        .command(&Actor::Call(call), "call.intake", place)
        .expect("taken");
    assert!(events.is_empty(), "nobody knows who calls");
    let events = bench.event(&driver(1, "Maria Lopez")).expect("taken");
    assert_eq!(types(&events), ["IncidentRequested"]);
    assert!(
        bench
            .event(&driver(1, "Maria Lopez"))
            .expect("taken")
            .is_empty()
    );
}

#[test]
fn an_incident_is_linked_to_its_call() {
    let mut bench = bench();
    let call = call_id(&hook(&mut bench, &started("1")));
    let created: IncidentCreated = serde_json::from_value(json!({
        "incidentId": id(60), "driverId": id(1), "type": "tire", "priority": "normal",
        "location": { "lat": 40.7, "lon": -74.0 }, "areaLocation": { "lat": 40.7, "lon": -74.0 },
        "payerType": "back_office", "origin": "call", "callId": call,
    }))
    .expect("an event");
    bench.event(&created).expect("taken");
    assert_eq!(
        detail(&hook(&mut bench, &ended()), "CallEnded")["incidentId"],
        json!(id(60))
    );
    let (reply, _) = bench
        .command(&admin(), "call.get", json!({ "callId": call }))
        .expect("there");
    assert_eq!(reply["incidentId"], json!(id(60)));
    let (reply, _) = bench
        .command(&admin(), "call.list", json!({ "intake": "collecting" }))
        .expect("listed");
    assert_eq!(reply["items"].as_array().map(Vec::len), Some(1));
    let drop = json!({ "callId": call, "reason": "wrong number" });
    assert_eq!(
        code(bench.command(&Actor::Call(call), "call.drop_intake", drop.clone())),
        Code::AuthorizationError
    );
    let (reply, _) = bench
        .command(&admin(), "call.drop_intake", drop)
        .expect("dropped");
    assert_eq!(reply["intake"]["status"], "dropped");
    let late = json!({ "callId": call, "lat": 1.0, "lon": 1.0 });
    assert_eq!(
        code(bench.command(&admin(), "call.intake", late)),
        Code::InvalidTransition
    );
}

/// The summary of a call whose summariser ended so.
fn summarised(outcome: EffectOutcome) -> (Value, Value) {
    let mut bench = bench_with(true);
    hook(&mut bench, &ended());
    let events = hook(&mut bench, &spoken());
    let Known::TranscriptReady(ready) = events[0].known().expect("known").clone() else {
        panic!("not the transcript")
    };
    assert!(
        bench
            .event::<TranscriptReady>(&ready)
            .expect("taken")
            .is_empty()
    );
    let calls = bench.effects();
    assert!(
        !calls[0].request.to_string().contains("555-123"),
        "redacted text only"
    );
    let events = bench
        .effect_result(&calls[0].key, outcome)
        .expect("handled");
    let body = json!({ "callId": ready.call_id });
    let (call, _) = bench.command(&admin(), "call.get", body).expect("there");
    (
        detail(&events, "CallSummaryGenerated"),
        call["transcript"]["summary"].clone(),
    )
}

#[test]
fn a_summariser_is_believed_where_its_answer_can_be_used() {
    let answer = json!({ "summary": "Flat tire, call 555-123-4567", "urgency": "critical", "actionItems": ["hurry"] });
    let (event, kept) = summarised(EffectOutcome::Done(answer));
    assert_eq!(
        (&event["urgency"], &event["actionItems"]),
        (&json!("critical"), &json!(["hurry"]))
    );
    assert_eq!(kept["summary"], "Flat tire, call [PHONE]");
    for outcome in [
        EffectOutcome::Done(json!({ "summary": "", "urgency": "low" })),
        EffectOutcome::Done(json!({ "summary": "x", "urgency": "terrible" })),
        EffectOutcome::Failed("no".to_owned()),
        EffectOutcome::NotSent("no".to_owned()),
        EffectOutcome::Unknown("no".to_owned()),
    ] {
        assert_eq!(summarised(outcome).0["urgency"], "high");
    }
}
