//! The incident's rules on the bench.

use serde_json::{Value, json};

use super::IncidentRole;
use crate::event::{
    Actor, ArrivalMeters, Count1, E164, ErasureReason, Event, ExhaustReason, Id, IncidentRequested,
    IncidentType, MatchExhausted, Miles, NonNegative, OfferAccepted, Payer, Personal, Place, Point,
    Priority, UserDataDeleted, VendorArrived, ids,
};
use crate::role::permission::Caller;
use crate::role::testing::{Bench, code, types};
use crate::role::{Code, HandlerError};

pub(super) fn id(n: u8) -> Id {
    ids::derive_v7(1, &[&[n]])
}

pub(super) fn bench() -> Bench<IncidentRole> {
    Bench::new(IncidentRole::default())
}

fn create(bench: &mut Bench<IncidentRole>) -> (Id, Value) {
    let body = json!({ "type": "tire", "lat": 40.7128, "lon": -74.006, "phone": "+15551234567" });
    let (reply, events) = bench
        .command(&Actor::Driver(id(1)), "incident.create", body)
        .expect("created");
    assert_eq!(types(&events), ["IncidentCreated"]);
    (
        Id::parse(reply["incidentId"].as_str().expect("text")).expect("an id"),
        reply,
    )
}

pub(super) fn accepted(incident_id: Id, offer: u8, cycle: u64, eta_minutes: u64) -> OfferAccepted {
    OfferAccepted {
        offer_id: id(offer),
        incident_id,
        vendor_id: id(2),
        driver_id: id(1),
        accepted_by: Actor::Vendor(id(2)),
        distance_miles: Miles::new(3.3).expect("valid"),
        eta_minutes,
        cycle: Count1::new(cycle).expect("valid"),
        response_seconds: Some(NonNegative::new(5.0).expect("valid")),
        accepted_at: crate::event::Ts::from_ms(1),
    }
}

fn arrived(incident_id: Id, vendor: u8) -> VendorArrived {
    VendorArrived {
        vendor_id: id(vendor),
        incident_id,
        driver_id: id(1),
        session_id: id(9),
        arrived_at: crate::event::Ts::from_ms(5),
        location: Personal::plain(Point {
            lat: 40.7,
            lon: -74.0,
        }),
        distance_meters: ArrivalMeters::new(50.0).expect("valid"),
    }
}

fn status(bench: &mut Bench<IncidentRole>, incident_id: Id) -> (String, u64) {
    let body = json!({ "incidentId": incident_id });
    let (reply, _) = bench
        .command(&Actor::Operator("op".to_owned()), "incident.get", body)
        .expect("found");
    (
        reply["status"].as_str().expect("text").to_owned(),
        reply["version"].as_u64().expect("a number"),
    )
}

#[test]
fn an_incident_runs_from_creation_to_completed_work() {
    let mut bench = bench();
    let (incident_id, _) = create(&mut bench);
    let events = bench
        .event(&accepted(incident_id, 3, 1, 5))
        .expect("assigned");
    assert_eq!(
        types(&events),
        ["IncidentStatusChanged", "IncidentAssigned"]
    );
    let vendor = Actor::Vendor(id(2));
    let events = bench.event(&arrived(incident_id, 2)).expect("arrived");
    assert_eq!(
        types(&events),
        ["IncidentStatusChanged", "IncidentStatusChanged"]
    );
    assert_eq!(events[0].detail["reason"], "implied_by_arrival");
    let (_, version) = status(&mut bench, incident_id);
    let body = json!({ "incidentId": incident_id, "expectedVersion": version });
    let (_, events) = bench
        .command(&vendor, "incident.start_work", body)
        .expect("started");
    assert_eq!(types(&events), ["IncidentStatusChanged", "WorkStarted"]);
    bench.now = bench.now + std::time::Duration::from_secs(90);
    let items = json!([{ "description": "tire", "unitPriceCents": 15000 }]);
    let body =
        json!({ "incidentId": incident_id, "expectedVersion": version + 1, "lineItems": items });
    let (reply, events) = bench
        .command(&vendor, "incident.complete_work", body)
        .expect("completed");
    assert_eq!(types(&events), ["IncidentStatusChanged", "WorkCompleted"]);
    assert_eq!(events[1].detail["durationMinutes"], 1.5);
    assert_eq!(reply["status"], "work_completed");
    let (_, events) = bench
        .command(
            &Actor::Driver(id(1)),
            "incident.rate",
            json!({ "incidentId": incident_id, "stars": 5 }),
        )
        .expect("rated");
    assert_eq!(types(&events), ["IncidentRated"]);
    let again = bench.command(
        &Actor::Driver(id(1)),
        "incident.rate",
        json!({ "incidentId": incident_id, "stars": 4 }),
    );
    assert_eq!(code(again), Code::Conflict);
    // S25: too late to cancel.
    let body = json!({ "incidentId": incident_id, "reason": "changed_mind" });
    assert_eq!(
        code(bench.command(&Actor::Driver(id(1)), "incident.cancel", body)),
        Code::InvalidTransition
    );
}

#[test]
fn a_repeated_or_late_acceptance_changes_nothing_and_another_one_is_a_conflict() {
    let mut bench = bench();
    let (incident_id, _) = create(&mut bench);
    bench
        .event(&accepted(incident_id, 3, 1, 5))
        .expect("assigned");
    assert!(
        bench
            .event(&accepted(incident_id, 3, 1, 5))
            .expect("nothing")
            .is_empty()
    );
    let conflict = bench.event(&accepted(incident_id, 4, 1, 5));
    assert!(
        matches!(
            conflict,
            Err(HandlerError::Permanent(
                crate::event::DeadReason::Conflict,
                _
            ))
        ),
        "{conflict:?}"
    );
    let body = json!({ "incidentId": incident_id, "reason": "solved" });
    let (_, events) = bench
        .command(&Actor::Driver(id(1)), "incident.cancel", body.clone())
        .expect("cancelled");
    assert_eq!(
        types(&events),
        ["IncidentStatusChanged", "IncidentCancelled"]
    );
    let (_, events) = bench
        .command(&Actor::Driver(id(1)), "incident.cancel", body)
        .expect("the same success");
    assert!(events.is_empty());
    assert!(
        bench
            .event(&accepted(incident_id, 4, 1, 5))
            .expect("nothing")
            .is_empty()
    );
    assert!(
        bench.fire_next_timer().is_none(),
        "a cancelled incident has no timers"
    );
}

#[test]
fn a_vendor_who_does_not_come_is_released_at_the_longer_of_the_two_limits() {
    // S10: 30 min for an estimate of 10, 90 min for one of 60.
    for (eta_minutes, minutes) in [(10, 30), (60, 90), (21, 32)] {
        let mut bench = bench();
        let (incident_id, _) = create(&mut bench);
        let start = bench.now;
        bench
            .event(&accepted(incident_id, 3, 1, eta_minutes))
            .expect("assigned");
        let events = bench.fire_next_timer().expect("set").expect("fired");
        assert_eq!(
            (bench.now - start).num_minutes(),
            minutes,
            "estimate {eta_minutes}"
        );
        assert_eq!(
            types(&events),
            ["VendorTimeout", "IncidentStatusChanged", "MatchRequested"]
        );
        assert_eq!(events[1].detail["reason"], "vendor_timeout");
        assert_eq!(events[2].detail["cycle"], 2);
        assert_eq!(status(&mut bench, incident_id).0, "created");
        let late = bench
            .event(&accepted(incident_id, 3, 1, eta_minutes))
            .expect("nothing");
        assert!(late.is_empty(), "an older cycle");
    }
}

#[test]
fn an_exhausted_match_escalates_once_per_cycle_and_a_dispatcher_may_start_over() {
    let mut bench = bench();
    let (incident_id, _) = create(&mut bench);
    let exhausted = |cycle| MatchExhausted {
        incident_id,
        rounds: 3,
        final_radius_miles: Miles::new(78.125).expect("valid"),
        cycle: Count1::new(cycle).expect("valid"),
        reason: ExhaustReason::NoVendor,
    };
    let dispatcher = Actor::Dispatcher(id(7));
    let (_, version) = status(&mut bench, incident_id);
    let body = json!({ "incidentId": incident_id, "expectedVersion": version });
    assert_eq!(
        code(bench.command(&dispatcher, "incident.rematch", body)),
        Code::InvalidTransition
    );
    let events = bench.event(&exhausted(1)).expect("escalated");
    assert_eq!(types(&events), ["IncidentEscalated"]);
    assert_eq!(events[0].detail["attempts"], 3);
    assert_eq!(events[0].detail["escalatedTo"], "dispatchers:platform");
    assert!(bench.event(&exhausted(1)).expect("nothing").is_empty());
    let (_, version) = status(&mut bench, incident_id);
    let body = json!({ "incidentId": incident_id, "expectedVersion": version });
    let (_, events) = bench
        .command(&dispatcher, "incident.rematch", body)
        .expect("starts over");
    assert_eq!(types(&events), ["MatchRequested"]);
    assert_eq!(events[0].detail["reason"], "dispatcher_restart");
}

#[test]
fn refusals_name_what_is_wrong() {
    let mut bench = bench();
    let (incident_id, _) = create(&mut bench);
    let driver = Actor::Driver(id(1));
    let field = |result: Result<_, HandlerError>| match result {
        Err(HandlerError::Rejected(rejection)) => {
            (rejection.code, rejection.field.unwrap_or_default())
        }
        Err(other) => panic!("{other:?}"),
        Ok::<(Value, Vec<_>), _>(_) => panic!("not refused"),
    };
    for (body, named) in [
        (json!({ "type": "boat", "lat": 1, "lon": 1 }), "type"),
        (json!({ "type": "tire", "lat": 91, "lon": 1 }), "lat"),
        (json!({ "type": "tire", "lat": 1 }), "lon"),
        (
            json!({ "type": "tire", "lat": 1, "lon": 1, "phone": "555" }),
            "phone",
        ),
        (
            json!({ "type": "tire", "lat": 1, "lon": 1, "colour": "red" }),
            "colour",
        ),
        (
            json!({ "type": "tire", "lat": 1, "lon": 1, "payerType": "driver_ic" }),
            "payerType",
        ),
    ] {
        let result = bench.command(&driver, "incident.create", body.clone());
        assert_eq!(
            field(result),
            (Code::ValidationError, named.to_owned()),
            "{body}"
        );
    }
    let vendor = Actor::Vendor(id(2));
    let body = json!({ "incidentId": incident_id, "reason": "x" });
    assert_eq!(
        code(bench.command(&vendor, "incident.cancel", body.clone())),
        Code::AuthorizationError
    );
    assert_eq!(
        code(bench.command(&Actor::Driver(id(8)), "incident.cancel", body)),
        Code::AuthorizationError
    );
    let stale =
        json!({ "incidentId": incident_id, "expectedVersion": 9, "status": "vendor_en_route" });
    assert_eq!(
        code(bench.command(
            &Actor::Operator("op".to_owned()),
            "incident.update_status",
            stale
        )),
        Code::VersionConflict
    );
    let unknown = json!({ "incidentId": id(99) });
    assert_eq!(
        code(bench.command(&driver, "incident.get", unknown)),
        Code::NotFound
    );
    let company = Caller {
        company: Some(id(50)),
        ..Caller::of(Actor::Dispatcher(id(7)))
    };
    let get = json!({ "incidentId": incident_id });
    assert_eq!(
        code(bench.command_as(company, "incident.get", get)),
        Code::AuthorizationError
    );
    let listing = json!({ "driverId": id(8) });
    assert_eq!(
        code(bench.command(&driver, "incident.list", listing)),
        Code::AuthorizationError
    );
}

#[test]
fn a_listing_pages_newest_first_through_what_the_caller_owns() {
    let mut bench = bench();
    let mut made = Vec::new();
    for n in 0..5 {
        bench.now = bench.now + std::time::Duration::from_secs(n);
        made.push(create(&mut bench).0.to_string());
    }
    made.reverse();
    let driver = Actor::Driver(id(1));
    let (page, _) = bench
        .command(&driver, "incident.list", json!({ "limit": 3 }))
        .expect("listed");
    let ids_of = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().expect("a list").iter();
        items
            .map(|item| item["incidentId"].as_str().expect("text").to_owned())
            .collect()
    };
    assert_eq!(ids_of(&page), made[..3]);
    let (rest, _) = bench
        .command(
            &driver,
            "incident.list",
            json!({ "limit": 3, "cursor": page["cursor"] }),
        )
        .expect("listed");
    assert_eq!(ids_of(&rest), made[3..]);
    let (none, _) = bench
        .command(&Actor::Driver(id(8)), "incident.list", json!({}))
        .expect("listed");
    assert!(ids_of(&none).is_empty());
}

#[test]
fn media_go_with_the_person_who_brought_them_or_after_90_days() {
    let mut bench = bench();
    let (incident_id, _) = create(&mut bench);
    bench
        .event(&accepted(incident_id, 3, 1, 5))
        .expect("assigned");
    let body =
        json!({ "incidentId": incident_id, "contentType": "video/quicktime", "sizeBytes": 9 });
    for actor in [Actor::Driver(id(1)), Actor::Vendor(id(2))] {
        let (medium, events) = bench
            .command(&actor, "incident.add_media", body.clone())
            .expect("added");
        assert_eq!((&medium["kind"], events.len()), (&json!("video"), 0));
    }
    let brought_by = |bench: &mut Bench<IncidentRole>| -> Vec<String> {
        let (seen, _) = bench
            .command(
                &Actor::Operator("op".to_owned()),
                "incident.get",
                json!({ "incidentId": incident_id }),
            )
            .expect("found");
        let media = seen["media"].as_array().expect("a list").iter();
        media
            .map(|medium| medium["uploadedBy"].as_str().expect("text").to_owned())
            .collect()
    };
    let both = [Actor::Driver(id(1)), Actor::Vendor(id(2))].map(|actor| actor.to_string());
    let mut seen = brought_by(&mut bench);
    seen.sort();
    assert_eq!(seen, both);
    let gone = UserDataDeleted {
        user_id: id(1),
        reason: ErasureReason::Request,
        requested_by: Actor::Driver(id(1)),
        deleted_at: bench.now,
    };
    bench.event(&gone).expect("forgotten");
    assert_eq!(brought_by(&mut bench), both[1..]);
    let begun = bench.now;
    while !brought_by(&mut bench).is_empty() {
        bench.fire_next_timer().expect("a timer").expect("fired");
    }
    let days = (bench.now.ms() - begun.ms()) / 86_400_000;
    assert_eq!(days, 90);
}

pub(super) fn requested() -> IncidentRequested {
    IncidentRequested {
        call_id: id(20),
        driver_id: id(1),
        company_id: None,
        incident_type: IncidentType::Tire,
        priority: Priority::Normal,
        location: Personal::plain(Place::at(Point {
            lat: 40.7,
            lon: -74.0,
        })),
        phone: Personal::plain(E164::new("+15551234567").expect("valid")),
        description: None,
        payer_type: Payer::DriverIc,
        requested_by: Actor::System("telephony".to_owned()),
        requested_at: crate::event::Ts::from_ms(1),
    }
}

#[test]
fn a_call_at_another_site_makes_an_incident_here_only_for_a_site_that_lacks_the_role() {
    let mut bench = bench();
    let requested = requested();
    let elsewhere = |bench: &mut Bench<IncidentRole>| {
        let received = bench.foreign("depot-a", &requested);
        bench.deliver(received).expect("handled")
    };
    assert!(elsewhere(&mut bench).is_empty(), "the depot's role made it");
    bench.stand_in_for(&["depot-b"]);
    assert!(elsewhere(&mut bench).is_empty());
    bench.stand_in_for(&["depot-a"]);
    let events = elsewhere(&mut bench);
    assert_eq!(types(&events), ["IncidentCreated"]);
    let home = |event: &Event| event.home.as_ref().map(|home| home.as_str().to_owned());
    assert_eq!(home(&events[0]), Some("depot-a".to_owned()));
}
