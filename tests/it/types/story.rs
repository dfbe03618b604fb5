//! What people do at the site, so that every event type has its cause. Each part waits for what it leads to, not for the
//! events themselves: those are looked for at the end, all together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::CALLS_SECRET;
use crate::domain::world::World;
use crate::domain::{
    BOSS, DOOR, MINUTE, NYC, SECOND, as_vendor, bill, code_sent, fix, phone, profile, text,
    vendor_id,
};
use crate::support::ends::stripe::StripeEnd;
use crate::support::eventually;
use roadcall::event::{Id, ids};
use roadcall::node::letter::Letter;
use roadcall::provider::signed::signature;
use roadcall::role::RoleName;

/// Far from every breakdown.
const ELSEWHERE: (f64, f64) = (30.0, -90.0);

/// A command that succeeds, whichever way its reply was got.
fn fine(reply: &Value) {
    assert!(reply.get("ok").is_some(), "{reply}");
}

/// A driver who stays, and one who signs in, changes his name and is forgotten; gives the first.
pub async fn accounts(world: &World) -> String {
    let driver = world.account("driver", 1).await;
    let leaver = world.account("driver", 2).await;
    let number = phone("driver", 2);
    world
        .ok(DOOR, "auth.request_otp", json!({ "phone": number }))
        .await;
    let code = code_sent(world, &number, 1).await;
    let right = json!({ "phone": number, "code": code });
    world.ok(DOOR, "auth.verify", right).await;
    let now = world.ok(&leaver, "user.get", json!({})).await;
    let renamed = json!({ "expectedVersion": now["version"], "name": "Bea" });
    world.ok(&leaver, "user.update", renamed).await;
    world.ok(&leaver, "user.request_erasure", json!({})).await;
    driver
}

/// Two vendors at the breakdowns' place, one of whom tells where he is and takes a break.
pub async fn vendors(world: &World) {
    for n in 1..=2 {
        world.vendor(n, NYC, &["tire_repair"], 5.0).await;
    }
    let (actor, id) = (as_vendor(1), vendor_id(1));
    let here = json!({ "vendorId": id, "fix": fix(NYC.0, world.now()) });
    world.ok(&actor, "vendor.report_location", here).await;
    for status in ["offline", "available"] {
        let wants = json!({ "vendorId": id, "status": status });
        world.ok(&actor, "vendor.set_availability", wants).await;
    }
    world.quiet().await;
}

/// A new price, and two documents: one with words, one without.
pub async fn settings_and_documents(world: &World) {
    let reply = world.save("pricing", |value| value["perMileCents"] = json!(400));
    fine(&reply.await);
    let mut documents = Vec::new();
    for (words, ends) in [("Chains for winter roads.", "indexed"), ("---", "failed")] {
        let body = json!({ "title": "Roads", "category": "policy", "contentType": "text/plain", "text": words });
        let made = world.ok(&world.admin, "kb.upload", body).await;
        let one = json!({ "documentId": made["documentId"] });
        eventually(&format!("a document to be {ends}"), || async {
            let now = world.ok(BOSS, "kb.get", one.clone()).await;
            (now["status"] == ends).then_some(())
        })
        .await;
        documents.push(one);
    }
    world
        .ok(&world.admin, "kb.delete", documents.remove(0))
        .await;
}

/// The phone provider tells something of a call.
async fn hook(world: &World, kind: &str, mut data: Value, call: &str) {
    data["providerCallId"] = json!(call);
    let payload = json!({ "type": kind, "data": data }).to_string();
    let (id, seconds) = (format!("{call}-{kind}"), world.now().ms() / 1_000);
    let signed = signature(CALLS_SECRET, &id, seconds, &payload).expect("a sound secret");
    let body = json!({ "payload": payload, "id": id, "timestamp": seconds.to_string(), "signature": signed });
    world.ok("provider:calls", "call.webhook", body).await;
}

/// The call as the role has it.
async fn call(world: &World, provider_call: &str) -> Value {
    let calls = world.ok(BOSS, "call.list", json!({})).await;
    let mut calls = calls["items"].as_array().expect("a list").iter();
    let ours = calls.find(|call| call["providerCallId"] == provider_call);
    let one = json!({ "callId": ours.expect("the call")["callId"] });
    world.ok(BOSS, "call.get", one).await
}

/// A driver's call that becomes an incident and is looked into, and a stranger's who hangs up before he has said enough.
pub async fn calls(world: &World) {
    for (id, number) in [
        ("c1", phone("driver", 1)),
        ("c2", "+15559990000".to_owned()),
    ] {
        let began = json!({ "phone": number, "startedAt": world.now(), "keypad": "1" });
        hook(world, "call.started", began, id).await;
    }
    let of_driver = call(world, "c1").await;
    let place = json!({ "callId": of_driver["callId"], "lat": ELSEWHERE.0, "lon": ELSEWHERE.1 });
    world.ok("provider:calls", "call.intake", place).await;
    for (id, number) in [
        ("c1", phone("driver", 1)),
        ("c2", "+15559990000".to_owned()),
    ] {
        let over = json!({ "phone": number, "endedAt": world.now(), "durationSeconds": 40, "disposition": "completed" });
        hook(world, "call.ended", over, id).await;
    }
    let words = json!({ "text": "I am at +15550104321 and have a flat tire.", "confidence": 0.9 });
    hook(world, "transcript.received", words, "c1").await;
    let transcript = eventually("the summary and the incident", || async {
        let now = call(world, "c1").await;
        let ready = now["transcript"]["summary"].is_object() && now["incidentId"].is_string();
        ready.then(|| now["transcript"]["transcriptId"].clone())
    })
    .await;
    let look = json!({ "transcriptId": transcript, "purpose": "the caller asks what he said" });
    world.ok(&world.office, "call.reveal_pii", look).await;
    world.pass(61 * SECOND);
    eventually("people to be called", || async {
        (call(world, "c2").await["intake"]["status"] == "waiting").then_some(())
    })
    .await;
    world.quiet().await;
}

/// A breakdown that nobody can help with and that is called off; offers that are declined or run out; a vendor who does
/// not come.
pub async fn offers_that_come_to_nothing(world: &World, driver: &str) {
    let solved = json!({ "reason": "solved" });
    let tow = world.breakdown(driver, "tow", NYC).await;
    world.quiet().await;
    let again = world.change(&world.office, "incident.rematch", &tow, json!({}));
    fine(&again.await);
    world.quiet().await;
    let off = world.change(driver, "incident.cancel", &tow, solved.clone());
    fine(&off.await);

    let tire = world.breakdown(driver, "tire", NYC).await;
    let offers = world.offers(&tire, 2).await;
    world.decline(&offers[0]).await;
    world.pass(121 * SECOND);
    eventually("the other offer to run out", || async {
        (world.offer(&offers[1]).await["status"] == "expired").then_some(())
    })
    .await;
    world.quiet().await;
    let off = world.change(driver, "incident.cancel", &tire, solved.clone());
    fine(&off.await);
    world.quiet().await;

    let (left, _) = world.assigned(driver, "tire", NYC).await;
    world.quiet().await;
    world.pass(31 * MINUTE);
    world.stands(&left, "created").await;
    world.quiet().await;
    let off = world.change(driver, "incident.cancel", &left, solved);
    fine(&off.await);
    world.quiet().await;
}

/// A job from the offer to the paid bill, which is paid back in the end; gives the incident.
pub async fn a_job(world: &World, driver: &str) -> String {
    let (incident, offer) = world.assigned(driver, "tire", NYC).await;
    let vendor = format!("vendor:{}", text(&offer["vendorId"]));
    let session = world.session(&incident).await;
    let near = [fix(NYC.0, world.now())];
    fine(&world.report(&vendor, &session, &near).await);
    world.stands(&incident, "vendor_arrived").await;
    let begin = world.change(&vendor, "incident.start_work", &incident, json!({}));
    fine(&begin.await);
    world.pass(45 * MINUTE);
    let done = bill(&[15_000, 5_000]);
    let done = world.change(&vendor, "incident.complete_work", &incident, done);
    fine(&done.await);
    world.stands(&incident, "payment_pending").await;
    let id = world.payment_of(&incident).await["paymentId"].clone();
    let office = &world.office;
    fine(
        &world
            .decide(office, "payment.approve", &id, json!({}))
            .await,
    );
    world.payment_has(&id, "status", json!("completed")).await;
    world.stands(&incident, "closed").await;
    let why = json!({ "reason": "complaint" });
    fine(&world.decide(BOSS, "payment.refund", &id, why).await);
    world.payment_has(&id, "status", json!("refunded")).await;
    incident
}

/// A bill that nobody believes, a card that its holder must confirm, and an account that the provider does not pay to.
pub async fn payments(world: &World, end: &StripeEnd, driver: &str) {
    let pay = async |payer: &str, vendor: u64, cents: u64| {
        let incident = ids::derive_v7(2, &[b"incident", &cents.to_be_bytes()]);
        let driver = driver.split_once(':').expect("an actor").1;
        let body = json!({
            "incidentId": incident, "vendorId": vendor_id(vendor), "driverId": driver, "payerType": payer,
            "amountCents": cents, "lineItems": bill(&[cents])["lineItems"],
        });
        world.ok(BOSS, "payment.create", body).await["paymentId"].clone()
    };
    let flagged = pay("back_office", 1, 500_000).await;
    let no = json!({ "decision": "reject", "note": "there was no such work" });
    let reply = world.decide(&world.office, "payment.review", &flagged, no);
    fine(&reply.await);

    let card = pay("driver_ic", 1, 10_000).await;
    let intent = eventually("the intent", || async {
        end.objects("payment_intent").first().cloned()
    })
    .await;
    world
        .payment_has(&card, "providerReference", intent["id"].clone())
        .await;
    end.confirm(&text(&intent["id"]));
    let intent = &end.objects("payment_intent")[0];
    world
        .hook("evt_1", "payment_intent.succeeded", intent)
        .await;
    world.payment_has(&card, "status", json!("completed")).await;

    let mut closed = profile(3, ELSEWHERE, &["tire_repair"]);
    closed["payoutAccountRef"] = json!("acct_closed");
    world.vendor_as(vendor_id(3), 3, closed, 5.0).await;
    let refused = pay("back_office", 3, 20_000).await;
    let reply = world.decide(BOSS, "payment.approve", &refused, json!({}));
    fine(&reply.await);
    world.payment_has(&refused, "status", json!("failed")).await;
}

/// While the vendor's role is broken a rating dies: its event's letter.
async fn dies(world: &World, who: &str, incident: &str) -> Letter {
    let stars = json!({ "incidentId": incident, "stars": 4 });
    world.ok(who, "incident.rate", stars).await;
    let side = who.split(':').next().expect("a role");
    let event = eventually("the rating", || async {
        let rated = world.archived("IncidentRated", incident).await;
        let his = rated
            .iter()
            .find(|event| event["detail"]["ratedBy"] == side);
        Id::parse(his?["id"].as_str()?).ok()
    })
    .await;
    for tries in 1..=2 {
        eventually("a failed try", || async {
            let outcome = world.outcome(RoleName::Vendor, event).await;
            let attempts = outcome["waiting"]["attempts"].as_array()?.len();
            (attempts == tries).then_some(())
        })
        .await;
        world.pass(300 * SECOND);
    }
    world.letter("vendor-queue", event).await
}

/// Waits until the alarm about letters is raised, or is not.
async fn alarmed(world: &World, wanted: bool) {
    eventually(&format!("the alarm: {wanted}"), || async {
        let alarms = world.ok(BOSS, "alarm.list", json!({})).await;
        let mut alarms = alarms["items"].as_array()?.iter();
        let raised = alarms.any(|alarm| alarm["alarmName"] == "dead-letters");
        (raised == wanted).then_some(())
    })
    .await;
}

/// Both sides rate the job while the role that counts is broken; one letter is redriven after the fix, the other discarded.
pub async fn letters(world: &World, broken: &Arc<AtomicBool>, driver: &str, incident: &str) {
    let vendor = text(&world.incident(incident).await["vendorId"]);
    broken.store(true, Ordering::SeqCst);
    let of_driver = dies(world, driver, incident).await;
    let of_vendor = dies(world, &format!("vendor:{vendor}"), incident).await;
    alarmed(world, true).await;
    broken.store(false, Ordering::SeqCst);
    world.redrive("vendor-queue", of_driver.seq).await;
    let body = json!({ "queue": "vendor-queue", "reason": "a vendor's own stars count for nothing", "letters": [{
        "deadLetterId": of_vendor.dead_letter_id, "eventId": of_vendor.event_id, "letterSubject": of_vendor.subject(),
    }] });
    world.ok(&world.admin, "dlq.purge", body).await;
    alarmed(world, false).await;
}

/// A replay that ends by itself, and one that is cancelled.
pub async fn replays(world: &World) {
    world.replay("tracking-queue", "fill").await;
    let slow = json!({ "queue": "reporting-queue", "fromSeq": 1, "mode": "force", "rate": 1, "name": "slow" });
    world.ok(&world.admin, "replay.start", slow).await;
    let named = json!({ "name": "slow" });
    world.ok(&world.admin, "replay.cancel", named.clone()).await;
    eventually("the replay to be cancelled", || async {
        let now = world.ok(BOSS, "replay.status", named.clone()).await;
        (now["state"] == "CANCELLED").then_some(())
    })
    .await;
}
