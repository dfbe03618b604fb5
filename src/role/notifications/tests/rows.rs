//! Every row of DOMAIN 5.6, and that there is no event of the queue without a row or a reason.

use serde_json::{Value, json};

use super::*;
use crate::event::{Event, Known, NotificationPriority, decode};
use crate::role::notifications::table::{DIRECTORY, ROWS, SILENT, To};
use crate::role::{Input, Mode, Received};

/// An event as another role would have it on the wire.
fn event(bench: &Bench<NotificationsRole>, detail_type: &str, fields: Value, n: u8) -> Event {
    let row = crate::event::lookup(detail_type).expect("in the catalogue");
    let mut detail = fields;
    let base = json!({
        "eventId": id(n), "timestamp": bench.now, "version": "1.0",
    });
    for (name, value) in base.as_object().expect("an object") {
        detail[name] = value.clone();
    }
    let entity = detail[row.entity_field].as_str().expect("a key").to_owned();
    let subject = format!(
        "roadcall.hub.{}.{detail_type}.{entity}",
        row.source.service()
    );
    let body = json!({
        "id": id(n), "source": row.source.as_str(), "detail-type": detail_type, "time": bench.now,
        "site": "hub", "detail": detail,
    });
    decode(
        &subject,
        Some("application/json"),
        body.to_string().as_bytes(),
    )
    .unwrap_or_else(|error| panic!("{detail_type}: {error}"))
}

fn deliver(bench: &mut Bench<NotificationsRole>, event: Event) {
    let detail_type = event.detail_type.clone();
    let id = event.id;
    let received = Received {
        event: event.into(),
        mode: Mode::Live,
        too_old: false,
        producer: None,
    };
    bench
        .run(&Input::Event(Box::new(received)), id)
        .unwrap_or_else(|error| panic!("{detail_type}: {error}"));
}

/// The event's fields in the case that a row is for.
fn fields(bench: &Bench<NotificationsRole>, detail_type: &str, more: Value) -> Value {
    let at = bench.now.to_string();
    let later = (bench.now + Duration::from_secs(120)).to_string();
    let mut all = json!({
        "incidentId": id(INCIDENT), "driverId": id(DRIVER), "vendorId": id(VENDOR), "companyId": id(COMPANY),
        "offerId": id(30), "paymentId": id(20), "callId": id(40), "sessionId": id(41), "transcriptId": id(42),
        "summaryId": id(43), "incidentType": "tire", "priority": "normal", "matchScore": 0.9,
        "estimatedPayoutCents": 16156, "distanceMiles": 3.302, "radiusMiles": 50, "attempt": 1, "cycle": 1, "round": 1,
        "expiresAt": later, "acceptedBy": format!("vendor:{}", id(VENDOR)), "etaMinutes": 5, "acceptedAt": at,
        "location": { "lat": 40.0, "lon": -74.0 }, "arrivalDueAt": "2026-01-15T10:30:00.000Z", "assignedBy": "system:match",
        "assignedAt": at, "changedBy": format!("vendor:{}", id(VENDOR)), "arrivedAt": at, "distanceMeters": 12.0,
        "timeoutType": "arrival", "elapsedMinutes": 30, "dueAt": at, "reason": "no_vendor", "cancelledAt": at,
        "cancelledBy": "operator:x", "attempts": 3, "escalatedTo": "dispatchers:platform", "escalatedAt": at, "startedAt": at,
    });
    let rest = json!({
        "completedAt": at, "durationMinutes": 60, "payerType": "back_office", "amountCents": 20000, "currency": "USD",
        "status": "pending_approval", "fraudScore": 0.725, "fraudStatus": "flagged", "createdAt": at,
        "reasons": ["high_amount", "new_vendor"], "flaggedAt": at, "approvedBy": "operator:x", "approvedAt": at,
        "rejectedBy": "operator:x", "rejectedAt": at, "action": "confirm_card", "requestedAt": at, "providerReference": "r",
        "final": true, "failedAt": at, "refundedBy": "operator:x", "refundedAt": at, "urgency": "critical", "actionItems": [],
        "generatedAt": at, "phone": "+15550000001", "missing": ["location"], "since": at, "alarmName": "queue-age",
        "severity": "critical", "subject": "match-queue", "value": 301, "threshold": 300, "clearedAt": at,
        "previousStatus": "created",
    });
    let rest = rest.as_object().expect("an object").clone();
    all.as_object_mut().expect("an object").extend(rest);
    // One name, two lists of values.
    if detail_type == "OfferCancelled" {
        all["previousStatus"] = json!("pending");
    }
    for (name, value) in more.as_object().expect("an object") {
        if value.is_null() {
            all.as_object_mut().expect("an object").remove(name);
        } else {
            all[name] = value.clone();
        }
    }
    all
}

struct Case {
    detail_type: &'static str,
    more: Value,
    /// Type, whom, on which channels, how urgent, and the SMS or push text.
    told: Vec<(
        &'static str,
        u8,
        &'static [&'static str],
        &'static str,
        String,
    )>,
}

const PUSH: &[&str] = &["push"];
const PUSH_SMS: &[&str] = &["push", "sms"];
const EMAIL_PUSH: &[&str] = &["email", "push"];
const ALL: &[&str] = &["email", "push", "sms"];
const WHO: &str = "Joe's Tires & Co";

#[rustfmt::skip] // one row a line, as DOMAIN has it
fn cases() -> Vec<Case> {
    let case = |detail_type, more, told| Case { detail_type, more, told };
    let (incident, track) = (id(INCIDENT), format!("https://fleet.example/track/{}", id(INCIDENT)));
    let gone = format!("You are no longer assigned to incident {incident}. Please do not drive there.");
    let rematching = format!("Your vendor can't come. We are finding another one for incident {incident}.");
    let cancelled = format!("Incident {incident} is cancelled.");
    let status = |new: &str, by: String, reason: Option<&str>| json!({ "newStatus": new, "changedBy": by, "reason": reason });
    let (by_vendor, by_dispatcher) = (format!("vendor:{}", id(VENDOR)), format!("dispatcher:{}", id(DISPATCHER)));
    vec![
        case("OfferCreated", json!({}), vec![("offer_received", VENDOR, PUSH_SMS, "urgent",
            format!("New tire job 3.3 miles away, estimated payout USD 161.56. Answer: https://fleet.example/offers/{}", id(30)))]),
        case("OfferCreated", json!({ "expiresAt": "2026-01-15T10:00:00.000Z" }), vec![]),
        case("OfferAccepted", json!({}), vec![("offer_accepted", DRIVER, ALL, "high",
            format!("{WHO} takes your breakdown, about 5 minutes away. Follow: {track}"))]),
        case("OfferCancelled", json!({ "reason": "other_accepted" }), vec![("offer_withdrawn", VENDOR, PUSH, "normal",
            format!("The offer for incident {incident} is no longer open."))]),
        case("OfferCancelled", json!({ "reason": "vendor_taken" }), vec![]),
        case("OfferCancelled", json!({ "reason": "dispatcher_release", "previousStatus": "accepted" }),
            vec![("job_withdrawn", VENDOR, PUSH_SMS, "high", gone.clone())]),
        case("OfferCancelled", json!({ "reason": "vendor_timeout", "previousStatus": "accepted" }), vec![]),
        case("IncidentAssigned", json!({}), vec![("job_assigned", VENDOR, PUSH_SMS, "high",
            format!("The tire job is yours. Please arrive by 05:30 EST. Details: https://fleet.example/jobs/{incident}"))]),
        case("IncidentStatusChanged", status("vendor_en_route", by_vendor.clone(), None),
            vec![("vendor_en_route", DRIVER, PUSH_SMS, "high", format!("{WHO} is on the way to you. Follow: {track}"))]),
        case("IncidentStatusChanged", status("vendor_en_route", by_vendor.clone(), Some("implied_by_arrival")), vec![]),
        case("VendorArrived", json!({}), vec![("vendor_arrived", DRIVER, PUSH_SMS, "high", format!("{WHO} has arrived."))]),
        case("IncidentStatusChanged", status("vendor_arrived", by_dispatcher.clone(), None),
            vec![("vendor_arrived", DRIVER, PUSH_SMS, "high", format!("{WHO} has arrived."))]),
        case("IncidentStatusChanged", status("vendor_arrived", "system:tracking".to_owned(), None), vec![]),
        case("IncidentStatusChanged", status("created", by_vendor.clone(), Some("vendor_withdrew")),
            vec![("rematching", DRIVER, PUSH_SMS, "high", rematching.clone())]),
        case("IncidentStatusChanged", status("created", by_dispatcher, Some("dispatcher_release")),
            vec![("rematching", DRIVER, PUSH_SMS, "high", rematching.clone())]),
        case("IncidentStatusChanged", status("created", "system:incident".to_owned(), Some("vendor_timeout")), vec![]),
        case("IncidentStatusChanged", status("work_in_progress", by_vendor, None), vec![]),
        case("VendorTimeout", json!({}), vec![("rematching", DRIVER, PUSH_SMS, "high", rematching),
            ("job_withdrawn", VENDOR, PUSH_SMS, "high", gone)]),
        case("IncidentCancelled", json!({}), vec![("incident_cancelled", VENDOR, PUSH_SMS, "high", cancelled.clone()),
            ("incident_cancelled", DRIVER, PUSH_SMS, "high", cancelled.clone())]),
        case("IncidentCancelled", json!({ "cancelledBy": format!("driver:{}", id(DRIVER)) }),
            vec![("incident_cancelled", VENDOR, PUSH_SMS, "high", cancelled.clone())]),
        case("IncidentCancelled", json!({ "vendorId": null }),
            vec![("incident_cancelled", DRIVER, PUSH_SMS, "high", cancelled)]),
        case("IncidentEscalated", json!({}), vec![("incident_escalated", DISPATCHER, ALL, "urgent",
            format!("Incident {incident} needs you: no_vendor, 3 rounds tried."))]),
        case("WorkStarted", json!({}), vec![("work_started", DRIVER, PUSH, "normal", format!("{WHO} has started the tire work."))]),
        case("WorkCompleted", json!({}), vec![("work_completed", DRIVER, ALL, "normal",
            format!("{WHO} has finished the tire work. How was it? https://fleet.example/rate/{incident}"))]),
        case("PaymentCreated", json!({}), vec![("payment_created", DISPATCHER, EMAIL_PUSH, "normal",
            format!("A payment of USD 200.00 to {WHO} was created: https://fleet.example/payments/{}", id(20)))]),
        case("PaymentFlagged", json!({}), vec![("payment_flagged", DISPATCHER, EMAIL_PUSH, "high",
            format!("The payment of USD 200.00 to {WHO} is flagged, fraud score 0.725: high_amount, new_vendor."))]),
        case("PaymentApproved", json!({}), vec![("payment_approved", VENDOR, ALL, "normal",
            format!("Your payment of USD 200.00 was approved on 2026-01-15. Reference: {}", id(20)))]),
        case("PaymentCompleted", json!({}), vec![("payment_completed", VENDOR, ALL, "normal",
            format!("Your payment of USD 200.00 was sent on 2026-01-15. Reference: {}", id(20)))]),
        case("PaymentRejected", json!({ "reason": "duplicate" }), vec![("payment_rejected", VENDOR, EMAIL_PUSH, "normal",
            "Your payment of USD 200.00 was rejected: duplicate.".to_owned())]),
        case("PaymentRefunded", json!({ "reason": "duplicate" }), vec![("payment_refunded", VENDOR, EMAIL_PUSH, "normal",
            "The payment of USD 200.00 was refunded: duplicate.".to_owned())]),
        case("PaymentFailed", json!({ "reason": "card_declined" }), vec![("payment_failed", DISPATCHER, EMAIL_PUSH, "high",
            format!("The payment of USD 200.00 to {WHO} failed: card_declined."))]),
        case("PaymentRequiresAction", json!({}), vec![("payment_action", DRIVER, PUSH_SMS, "high",
            format!("Your bank asks you to confirm the payment: https://fleet.example/payments/{}", id(20)))]),
        case("CallSummaryGenerated", json!({}), vec![("call_summary", DISPATCHER, PUSH, "normal",
            format!("Call {} was summarised, urgency critical.", id(40)))]),
        case("CallSummaryGenerated", json!({ "urgency": "high" }), vec![("call_summary", DISPATCHER, PUSH, "normal",
            format!("Call {} was summarised, urgency high.", id(40)))]),
        case("CallSummaryGenerated", json!({ "urgency": "medium" }), vec![]),
        case("CallAttentionNeeded", json!({}), vec![("call_attention", DISPATCHER, PUSH_SMS, "urgent",
            format!("Call {} ended with open questions: location.", id(40))),
            ("location_request", DRIVER, &["sms"], "high",
            format!("Please tell us where you are, so that we can send help: https://fleet.example/locate/{}", id(40)))]),
        case("CallAttentionNeeded", json!({ "missing": ["driver", "location"] }), vec![("call_attention", DISPATCHER, PUSH_SMS, "urgent",
            format!("Call {} ended with open questions: driver, location.", id(40)))]),
        case("AlarmRaised", json!({}), vec![("system_alert", ADMIN, ALL, "urgent", "Alarm queue-age on match-queue: 301.".to_owned())]),
        case("AlarmCleared", json!({}), vec![("system_alert", ADMIN, PUSH, "normal", "Alarm queue-age on match-queue is over: 301.".to_owned())]),
        case("OfferDeclined", json!({ "responseSeconds": 1, "declinedAt": "2026-01-15T10:00:00.000Z" }), vec![]),
        case("OfferExpired", json!({ "expiredAt": "2026-01-15T10:00:00.000Z" }), vec![]),
        case("VendorStatusChanged", json!({ "previousStatus": "available", "newStatus": "busy", "reason": "manual",
            "changedAt": "2026-01-15T10:00:00.000Z" }), vec![]),
        case("TranscriptReady", json!({ "confidence": 0.9, "hasPII": true }), vec![]),
    ]
}

#[test]
fn every_row_tells_whom_it_should_on_its_channels_in_its_words() {
    let mut rows_seen = std::collections::BTreeSet::new();
    for case in cases() {
        let mut bench = peopled();
        let detail = fields(&bench, case.detail_type, case.more.clone());
        let event = event(&bench, case.detail_type, detail, 99);
        let known: Known = event.known().expect("known").clone();
        for (n, row) in ROWS.iter().enumerate() {
            if row.detail_type == case.detail_type && (row.when)(&known, bench.now) {
                rows_seen.insert(n);
            }
        }
        deliver(&mut bench, event);
        let calls = all_sent(&mut bench);
        let expected: usize = case.told.iter().map(|told| told.2.len()).sum();
        assert_eq!(calls.len(), expected, "{} {}", case.detail_type, case.more);
        for (kind, who, on, priority, words) in &case.told {
            let told = log(&mut bench, *who);
            let mut of_kind: Vec<&str> = told
                .iter()
                .filter(|entry| entry.0 == *kind && entry.2 == "sent")
                .map(|entry| entry.1.as_str())
                .collect();
            of_kind.sort_unstable();
            assert_eq!(of_kind, *on, "{} {kind} {told:?}", case.detail_type);
            let said: Vec<&EffectCall> = calls
                .iter()
                .filter(|call| call.request["type"] == *kind && text(call) == *words)
                .collect();
            assert!(
                said.len() >= on.len(),
                "{kind}: {:?}",
                calls.iter().map(text).collect::<Vec<_>>()
            );
            assert!(
                said.iter()
                    .all(|call| call.request["priority"] == *priority),
                "{kind}"
            );
        }
    }
    assert_eq!(
        rows_seen.len(),
        ROWS.len(),
        "every row has a case: {rows_seen:?}"
    );
}

#[test]
fn every_event_of_the_queue_has_a_row_or_a_reason_to_be_silent() {
    for row in crate::event::catalogue().filter(|row| row.queues.contains(&"notifications")) {
        let told = ROWS.iter().any(|told| told.detail_type == row.detail_type);
        let silent = SILENT.contains(&row.detail_type) || DIRECTORY.contains(&row.detail_type);
        assert!(
            told != silent,
            "{} is told: {told}, silent: {silent}",
            row.detail_type
        );
    }
    // A row's recipient and variables are where its event says.
    for row in ROWS {
        let entry = crate::event::lookup(row.detail_type).expect("in the catalogue");
        assert!(
            entry.queues.contains(&"notifications"),
            "{}",
            row.detail_type
        );
        let urgent_groups = matches!(row.to, To::Dispatchers | To::Admins);
        assert!(row.priority != NotificationPriority::Low || urgent_groups);
    }
}

#[test]
fn an_email_escapes_what_it_puts_in_and_an_sms_does_not() {
    let mut bench = peopled();
    let detail = fields(&bench, "WorkCompleted", json!({}));
    let event = event(&bench, "WorkCompleted", detail, 99);
    deliver(&mut bench, event);
    let calls = all_sent(&mut bench);
    let html = |channel: &str| {
        let call = calls
            .iter()
            .find(|call| call.kind == channel)
            .expect("a call");
        call.request["message"]["html"].as_str().map(str::to_owned)
    };
    assert!(
        html("email")
            .expect("HTML")
            .contains("Joe&#39;s Tires &amp; Co has finished")
    );
    assert_eq!(html("sms"), None);
}

#[test]
fn dispatchers_of_the_company_else_the_platforms_else_the_admins() {
    let escalate = |bench: &mut Bench<NotificationsRole>| {
        let detail = fields(bench, "IncidentEscalated", json!({}));
        let event = event(bench, "IncidentEscalated", detail, 99);
        deliver(bench, event);
        let calls = all_sent(bench);
        let mut to: Vec<String> = calls
            .iter()
            .filter(|call| call.kind == "sms")
            .map(|call| call.request["to"].as_str().expect("a number").to_owned())
            .collect();
        to.sort();
        to
    };
    let other = user(6, UserRole::Dispatcher, None);
    let foreign = user(7, UserRole::Dispatcher, Some(8));
    let mut own = bench();
    for person in [
        &other,
        &foreign,
        &user(DISPATCHER, UserRole::Dispatcher, Some(COMPANY)),
        &user(ADMIN, UserRole::Admin, None),
    ] {
        own.event(person).expect("taken");
    }
    assert_eq!(escalate(&mut own), ["+15550000003"]);
    let mut platform = bench();
    for person in [&other, &foreign, &user(ADMIN, UserRole::Admin, None)] {
        platform.event(person).expect("taken");
    }
    assert_eq!(escalate(&mut platform), ["+15550000006"]);
    let mut admins = bench();
    for person in [
        &foreign,
        &user(ADMIN, UserRole::Admin, None),
        &user(9, UserRole::Admin, None),
    ] {
        admins.event(person).expect("taken");
    }
    assert_eq!(escalate(&mut admins), ["+15550000004", "+15550000009"]);
}
