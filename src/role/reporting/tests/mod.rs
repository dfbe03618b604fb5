//! Facts from events: in any order, with any repetition, the same (DOMAIN 5.7).

mod figures;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use serde_json::{Value, json};

use super::ReportingRole;
use crate::event::{Actor, Codec, Event, Id, Ts, decode, encode};
use crate::role::permission::Caller;
use crate::role::testing::Bench;
use crate::role::{Input, Mode, Received};

fn id(n: u32) -> Id {
    Id::parse(&format!("0192f3c1-0000-7000-8000-{n:012x}")).expect("an id")
}

/// An event as its role would publish it: the `n`th of its entity, `seconds` after ten o'clock.
fn event(
    source: &str,
    detail_type: &str,
    entity: Id,
    n: u32,
    seconds: i64,
    detail: Value,
) -> Event {
    let event_id =
        id(entity.uuid().as_u128() as u32 % 1000 * 10_000 + n + detail_type.len() as u32 * 100);
    let subject = format!("roadcall.hub.{source}.{detail_type}.{entity}");
    event_of(&subject, event_id, n, seconds, detail)
}

/// The same with its subject and id given.
fn event_of(subject: &str, event_id: Id, n: u32, seconds: i64, mut detail: Value) -> Event {
    let at = Ts::from_ms(1_768_471_200_000 + seconds * 1000);
    detail["eventId"] = json!(event_id);
    detail["timestamp"] = json!(at);
    detail["version"] = json!("1.0");
    detail["metadata"] = json!({ "sequence": n.to_string() });
    let words: Vec<&str> = subject.split('.').collect();
    let body = json!({
        "id": event_id, "source": format!("roadcall.{}", words[2]), "detail-type": words[3], "time": at, "site": "hub",
        "resources": [], "detail": detail,
    });
    decode(subject, None, body.to_string().as_bytes()).expect("a valid event")
}

/// One incident: assigned, released, assigned to another, arrived, done, paid and rated.
fn story() -> Vec<Event> {
    let (incident, driver, company) = (id(1), id(2), id(3));
    let (first, second, offer, payment) = (id(4), id(5), id(6), id(7));
    let of_incident = |name: &str, n, seconds, mut detail: Value| {
        detail["incidentId"] = json!(incident);
        event("incident", name, incident, n, seconds, detail)
    };
    let changed = |n, seconds, from: &str, to: &str, vendor: Id| {
        of_incident(
            "IncidentStatusChanged",
            n,
            seconds,
            json!({
                "driverId": driver, "vendorId": vendor, "companyId": company, "previousStatus": from, "newStatus": to,
                "changedBy": format!("vendor:{vendor}"),
            }),
        )
    };
    let assigned = |n, seconds, vendor: Id, cycle: u32| {
        let at = Ts::from_ms(1_768_471_200_000 + seconds * 1000);
        of_incident(
            "IncidentAssigned",
            n,
            seconds,
            json!({
                "driverId": driver, "vendorId": vendor, "offerId": offer, "incidentType": "tire",
                "location": {"lat": 40.7128, "lon": -74.006}, "etaMinutes": 5, "arrivalDueAt": at, "cycle": cycle,
                "assignedBy": format!("vendor:{vendor}"), "assignedAt": at,
            }),
        )
    };
    let at = |seconds: i64| Ts::from_ms(1_768_471_200_000 + seconds * 1000);
    let paid = |name: &str, n, seconds, mut detail: Value| {
        for (field, value) in [
            ("paymentId", json!(payment)),
            ("incidentId", json!(incident)),
            ("vendorId", json!(second)),
            ("amountCents", json!(20_000)),
            ("currency", json!("USD")),
        ] {
            detail[field] = value;
        }
        event("payment", name, incident, n, seconds, detail)
    };
    vec![
        of_incident(
            "IncidentCreated",
            1,
            0,
            json!({
                "driverId": driver, "companyId": company, "type": "tire", "priority": "normal",
                "location": {"lat": 40.7128, "lon": -74.006}, "areaLocation": {"lat": 40.7, "lon": -74.0},
                "payerType": "back_office", "origin": "app",
            }),
        ),
        changed(2, 30, "created", "vendor_assigned", first),
        assigned(3, 30, first, 1),
        changed(4, 600, "vendor_assigned", "created", first),
        changed(5, 660, "created", "vendor_assigned", second),
        assigned(6, 660, second, 2),
        changed(7, 960, "vendor_en_route", "vendor_arrived", second),
        changed(8, 1000, "vendor_arrived", "work_in_progress", second),
        changed(9, 2000, "work_in_progress", "work_completed", second),
        changed(10, 2001, "work_completed", "payment_pending", second),
        changed(11, 2100, "payment_pending", "closed", second),
        of_incident(
            "IncidentEscalated",
            12,
            2100,
            json!({
                "driverId": driver, "reason": "work_overdue", "attempts": 1, "cycle": 2,
                "escalatedTo": "dispatchers:platform", "escalatedAt": at(2100),
            }),
        ),
        of_incident(
            "IncidentRated",
            13,
            2200,
            json!({"driverId": driver, "vendorId": second, "ratedBy": "driver", "stars": 4, "ratedAt": at(2200)}),
        ),
        event(
            "tracking",
            "VendorArrived",
            incident,
            1,
            950,
            json!({
                "incidentId": incident, "vendorId": second, "driverId": driver, "sessionId": id(8), "arrivedAt": at(950),
                "location": {"lat": 40.7128, "lon": -74.006}, "distanceMeters": 50.0,
            }),
        ),
        paid(
            "PaymentCreated",
            1,
            2001,
            json!({
                "driverId": driver, "payerType": "back_office", "status": "pending_approval", "fraudScore": 0.1,
                "fraudStatus": "low_risk", "createdAt": at(2001),
            }),
        ),
        paid(
            "PaymentCompleted",
            2,
            2100,
            json!({"driverId": driver, "attempt": 1, "providerReference": "x", "completedAt": at(2100)}),
        ),
        event(
            "incident",
            "Foo",
            incident,
            14,
            2300,
            json!({ "anything": 1 }),
        ),
    ]
}

fn take(bench: &mut Bench<ReportingRole>, event: &Event) {
    let input = Input::Event(Box::new(Received {
        event: event.clone().into(),
        mode: Mode::Live,
        too_old: false,
        producer: None,
    }));
    let (_, emitted) = bench.run(&input, event.id).expect("handled");
    assert!(emitted.is_empty());
}

fn report(bench: &mut Bench<ReportingRole>) -> Value {
    let admin = Actor::Admin(id(9));
    bench
        .command(&admin, "report.incidents", json!({}))
        .expect("a report")
        .0
}

#[test]
fn the_fact_of_an_incident() {
    let mut bench = Bench::new(ReportingRole);
    story().iter().for_each(|event| take(&mut bench, event));
    let report = report(&mut bench);
    let fact = &report["items"][0];
    let expected = json!({
        "incidentId": id(1), "driverId": id(2), "companyId": id(3), "type": "tire", "priority": "normal",
        "status": "closed", "vendorId": id(5), "createdAt": "2026-01-15T10:00:00.000Z", "region": "North East",
        "assignments": 2, "escalated": true, "timeToAssignSeconds": 30, "timeToArrivalSeconds": 290,
        "paymentCents": 20000, "driverStars": 4, "vendorStars": null,
        "times": fact["times"],
    });
    assert_eq!(*fact, expected);
    assert_eq!(fact["times"]["vendor_assigned"], "2026-01-15T10:11:00.000Z");
    let counts = json!({
        "total": 1, "byType": {"tire": 1}, "byStatus": {"closed": 1}, "byRegion": {"North East": 1},
        "byHour": {"2026-01-15T10": 1},
    });
    assert_eq!(report["counts"], counts);
}

#[test]
fn any_order_and_any_repetition_give_the_same_facts() {
    let mut bench = Bench::new(ReportingRole);
    story().iter().for_each(|event| take(&mut bench, event));
    let expected = report(&mut bench);
    for seed in 0..40 {
        let mut events = story();
        events.extend(story());
        events.shuffle(&mut rand_chacha::ChaCha8Rng::seed_from_u64(seed));
        let mut bench = Bench::new(ReportingRole);
        events.iter().for_each(|event| take(&mut bench, event));
        assert_eq!(report(&mut bench), expected, "seed {seed}");
    }
}

#[test]
fn a_dispatcher_gets_his_companys_incidents() {
    let mut bench = Bench::new(ReportingRole);
    story().iter().for_each(|event| take(&mut bench, event));
    let mut of = |company: Option<Id>, body: Value| {
        let mut caller = Caller::of(Actor::Dispatcher(id(10)));
        caller.company = company;
        bench.command_as(caller, "report.incidents", body)
    };
    let total = |reply: (Value, Vec<Event>)| reply.0["counts"]["total"].clone();
    assert_eq!(total(of(Some(id(3)), json!({})).expect("his")), 1);
    assert_eq!(total(of(Some(id(11)), json!({})).expect("none")), 0);
    assert_eq!(total(of(None, json!({})).expect("none")), 0);
    assert!(of(Some(id(11)), json!({ "companyId": id(3) })).is_err());
}

#[test]
fn a_driver_has_no_reports() {
    let mut bench = Bench::new(ReportingRole);
    let driver = Actor::Driver(id(2));
    assert!(
        bench
            .command(&driver, "report.incidents", json!({}))
            .is_err()
    );
}

#[test]
fn events_survive_their_codec() {
    // The story is made by hand: what is not valid would make the other tests empty.
    for event in story() {
        let body = encode(&event, Codec::Cbor).expect("encodes");
        let subject = event.subject().to_string();
        assert_eq!(
            decode(&subject, Some("application/cbor"), &body)
                .expect("decodes")
                .id,
            event.id
        );
    }
}

#[test]
fn a_drivers_name_rests_sealed_and_ends_with_his_key() {
    let mut bench = Bench::new(ReportingRole);
    for (driver, name) in [(1, "Jacqueline"), (2, "Frederick")] {
        let detail = json!({
            "userId": id(driver), "phone": "+15550001111", "role": "driver", "name": name, "language": "en",
            "timezone": "America/New_York", "status": "active", "profileVersion": 1, "registeredAt": Ts::from_ms(1),
        });
        let registered = event("auth", "UserRegistered", id(driver), 1, 0, detail);
        let received = Received {
            event: std::sync::Arc::new(registered),
            mode: Mode::Live,
            too_old: false,
            producer: None,
        };
        bench.deliver(received).expect("handled");
    }
    // Nothing else of what is personal there is kept at all.
    assert_eq!(bench.openable(), ["Jacqueline", "Frederick"]);
    assert!(!bench.rests("Jacqueline") && !bench.rests("+15550001111"));
    bench.keys.erase(&id(1).to_string());
    assert_eq!(bench.openable(), ["Frederick"]);
}
