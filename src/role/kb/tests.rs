//! The documents' rules, row by row (DOMAIN 5.10).

use serde_json::{Value, json};

use super::*;
use crate::event::{Actor, Event, Id, ids};
use crate::role::Code;
use crate::role::testing::{Bench, code, types};

fn admin() -> Actor {
    Actor::Admin(ids::derive_v7(1, &[b"admin"]))
}

fn driver() -> Actor {
    Actor::Driver(ids::derive_v7(1, &[b"driver"]))
}

fn body(text: &str) -> Value {
    json!({ "title": "Brakes", "category": "sop", "contentType": "text/markdown", "text": text })
}

/// Uploads, and indexes what was uploaded.
fn upload(bench: &mut Bench<KbRole>, body: Value) -> (Value, Vec<Event>) {
    let (reply, events) = bench.command(&admin(), "kb.upload", body).expect("taken");
    assert_eq!(types(&events), ["DocumentUploaded"]);
    let Known::DocumentUploaded(uploaded) = events[0].known().expect("known").clone() else {
        panic!("not the upload")
    };
    let indexed = bench.event::<DocumentUploaded>(&uploaded).expect("taken");
    assert!(
        bench
            .event::<DocumentUploaded>(&uploaded)
            .expect("taken")
            .is_empty(),
        "once"
    );
    (reply["documentId"].clone(), indexed)
}

fn found(bench: &mut Bench<KbRole>, query: &str) -> Vec<Value> {
    let body = json!({ "query": query });
    let (reply, _) = bench
        .command(&driver(), "kb.search", body)
        .expect("searched");
    reply["items"].as_array().expect("a list").clone()
}

#[test]
fn what_is_uploaded_is_found_and_what_is_deleted_is_not() {
    let mut bench = Bench::new(KbRole);
    let (brakes, events) = upload(
        &mut bench,
        body("Check the air brakes.\n\nBleed the lines."),
    );
    assert_eq!(types(&events), ["DocumentIndexed"]);
    upload(&mut bench, body("Tires and wheels"));
    let hits = found(&mut bench, "AIR brakes");
    assert_eq!((hits.len(), &hits[0]["documentId"]), (1, &brakes));
    assert!((hits[0]["confidence"].as_f64().expect("a number") - 0.95).abs() < 1e-9);
    assert!(found(&mut bench, "submarine").is_empty());
    let (answer, _) = bench
        .command(&driver(), "kb.ask", json!({ "question": "air brakes?" }))
        .expect("asked");
    assert_eq!(
        (&answer["answered"], &answer["sources"][0]["documentId"]),
        (&json!(true), &brakes)
    );
    let question = json!({ "question": "how deep is the ocean brakes" });
    let (answer, _) = bench.command(&driver(), "kb.ask", question).expect("asked");
    assert_eq!(answer["answer"], "no answer found");

    let one = json!({ "documentId": brakes });
    assert_eq!(
        code(bench.command(&driver(), "kb.delete", one.clone())),
        Code::AuthorizationError
    );
    let (_, events) = bench
        .command(&admin(), "kb.delete", one.clone())
        .expect("deleted");
    assert_eq!(types(&events), ["DocumentDeleted"]);
    assert!(found(&mut bench, "brakes").is_empty());
    assert_eq!(code(bench.command(&admin(), "kb.get", one)), Code::NotFound);
}

#[test]
fn a_new_revision_replaces_the_old_chunks_and_an_older_event_does_nothing() {
    let mut bench = Bench::new(KbRole);
    let (reply, first) = bench
        .command(&admin(), "kb.upload", body("old words"))
        .expect("taken");
    let Known::DocumentUploaded(older) = first[0].known().expect("known").clone() else {
        panic!("not the upload")
    };
    let mut next = body("new sentences");
    next["documentId"] = reply["documentId"].clone();
    assert_eq!(
        code(bench.command(&admin(), "kb.upload", next.clone())),
        Code::ValidationError
    );
    next["expectedVersion"] = json!(7);
    assert_eq!(
        code(bench.command(&admin(), "kb.upload", next.clone())),
        Code::VersionConflict
    );
    next["expectedVersion"] = json!(1);
    upload(&mut bench, next);
    assert!(
        bench
            .event::<DocumentUploaded>(&older)
            .expect("taken")
            .is_empty()
    );
    assert!(found(&mut bench, "old").is_empty());
    assert_eq!(found(&mut bench, "new").len(), 1);
    let one = json!({ "documentId": reply["documentId"] });
    let (_, events) = bench.command(&admin(), "kb.reindex", one).expect("taken");
    assert_eq!(types(&events), ["DocumentUploaded"]);
}

#[test]
fn a_text_without_words_fails_for_good() {
    let mut bench = Bench::new(KbRole);
    let (id, events) = upload(&mut bench, body(" --- \n\n …"));
    assert_eq!(types(&events), ["DocumentIndexingFailed"]);
    let (reply, _) = bench
        .command(&admin(), "kb.get", json!({ "documentId": id }))
        .expect("there");
    assert_eq!(reply["status"], "failed");
}

#[test]
fn only_what_is_in_force_is_shown() {
    let mut bench = Bench::new(KbRole);
    // The bench's day is 2026-01-15.
    for (from, to, shown) in [
        ("2026-01-15", "2026-01-15", 1),
        ("2026-01-16", "2026-02-01", 0),
        ("2025-01-01", "2026-01-14", 0),
    ] {
        let mut document = body("calendar");
        document["effectiveDate"] = json!(from);
        document["expiryDate"] = json!(to);
        let (id, _) = upload(&mut bench, document);
        assert_eq!(found(&mut bench, "calendar").len(), shown, "{from} {to}");
        let (listed, _) = bench
            .command(&driver(), "kb.list", json!({}))
            .expect("listed");
        assert_eq!(listed["items"].as_array().map(Vec::len), Some(shown));
        bench
            .command(&admin(), "kb.delete", json!({ "documentId": id }))
            .expect("deleted");
    }
}

#[test]
fn what_can_not_be_read_is_refused_in_words() {
    let mut bench = Bench::new(KbRole);
    for (field, value) in [
        ("contentType", json!("application/pdf")),
        ("contentType", json!("image/png")),
        ("text", json!("x".repeat(512 * 1024 + 1))),
        ("category", json!("novel")),
    ] {
        let mut wrong = body("words");
        wrong[field] = value;
        let Err(HandlerError::Rejected(refusal)) = bench.command(&admin(), "kb.upload", wrong)
        else {
            panic!("taken")
        };
        assert_eq!(refusal.field.as_deref(), Some(field));
    }
    let nobody =
        json!({ "documentId": Id::parse("0192f3c1-0000-7000-8000-000000000000").expect("an id") });
    assert_eq!(
        code(bench.command(&admin(), "kb.get", nobody)),
        Code::NotFound
    );
}
