//! The scenarios of DOMAIN 8 that tracking decides, on the bench, with a real truck's trace.

use std::time::Duration;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use serde_json::{Value, json};

use super::TrackingRole;
use crate::event::*;
use crate::role::testing::{Bench, code, types};
use crate::role::{Code as Refusal, HandlerError};

fn id(n: u8) -> Id {
    ids::derive_v7(1, &[&[n]])
}

fn assigned(place: Point, offer: u8) -> IncidentAssigned {
    IncidentAssigned {
        incident_id: id(10),
        driver_id: id(1),
        vendor_id: id(2),
        offer_id: id(offer),
        company_id: None,
        incident_type: IncidentType::Tire,
        location: Personal::plain(Place::at(place)),
        eta_minutes: 5,
        arrival_due_at: Ts::from_ms(2),
        cycle: Count1::new(1).expect("valid"),
        assigned_by: Actor::Vendor(id(2)),
        assigned_at: Ts::from_ms(1),
    }
}

fn started(place: Point) -> (Bench<TrackingRole>, Id) {
    let mut bench = Bench::new(TrackingRole);
    let events = bench.event(&assigned(place, 3)).expect("started");
    assert_eq!(types(&events), ["TrackingStarted"]);
    let session = Id::parse(events[0].detail["sessionId"].as_str().expect("text")).expect("an id");
    (bench, session)
}

fn report(
    bench: &mut Bench<TrackingRole>,
    session: Id,
    fix: &Fix,
) -> Result<(Value, Vec<Event>), HandlerError> {
    bench.command(
        &Actor::Vendor(id(2)),
        "tracking.report_fix",
        json!({ "sessionId": session, "fix": fix }),
    )
}

/// The truck's drive, its times moved so that it ends at the bench's start.
fn trace(end: Ts) -> Vec<Fix> {
    let text = include_str!("../../../tests/data/traces/truck-hill-road.csv");
    let rows: Vec<(Ts, Point)> = text
        .lines()
        .skip(1)
        .map(|line| {
            let mut columns = line.split(',');
            let mut next = || columns.next().expect("a column");
            let time: Ts = next().parse().expect("a time");
            let (lat, lon) = (next().parse().expect("lat"), next().parse().expect("lon"));
            (time, Point::new(lat, lon).expect("valid"))
        })
        .collect();
    let last = rows.last().expect("rows").0;
    rows.into_iter()
        .map(|(time, point)| Fix::at(point, Ts::from_ms(end.ms() - (last.ms() - time.ms()))))
        .collect()
}

fn session(bench: &mut Bench<TrackingRole>) -> Value {
    bench
        .command(
            &Actor::Vendor(id(2)),
            "tracking.get",
            json!({ "incidentId": id(10) }),
        )
        .expect("found")
        .0
}

#[test]
fn a_real_drive_arrives_once_at_the_first_fix_within_the_fence_however_it_is_shuffled() {
    let fixes = trace(Ts::from_ms(1_768_471_200_000));
    let goal = fixes.last().expect("fixes").point();
    let first_near = fixes
        .iter()
        .find(|fix| goal.distance_meters(&fix.point()) <= 100.0)
        .expect("it gets there");
    let (mut bench, id_of) = started(goal);
    let mut arrivals = Vec::new();
    for fix in &fixes {
        let (_, events) = report(&mut bench, id_of, fix).expect("taken");
        for event in &events {
            match event.known() {
                Some(Known::VendorArrived(arrived)) => arrivals.push(arrived.arrived_at),
                Some(Known::TrackingUpdated(updated)) => {
                    assert!(updated.eta.distance_miles.get() >= 0.0)
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(arrivals, [first_near.recorded_at]);
    let ordered = session(&mut bench);
    assert_eq!(ordered["status"], "arrived");
    assert_eq!(ordered["path"].as_array().map(Vec::len), Some(50));

    // S22: shuffled and doubled, singly and in batches.
    for seed in 0..4 {
        let mut doubled: Vec<Fix> = fixes.iter().chain(&fixes).cloned().collect();
        doubled.shuffle(&mut rand_chacha::ChaCha8Rng::seed_from_u64(seed));
        let (mut bench, id_of) = started(goal);
        let mut arrived = 0;
        for chunk in doubled.chunks(if seed % 2 == 0 { 1 } else { 37 }) {
            let body = json!({ "sessionId": id_of, "fixes": chunk });
            let (_, events) = bench
                .command(&Actor::Vendor(id(2)), "tracking.report_fix", body)
                .expect("taken");
            arrived += events
                .iter()
                .filter(|event| event.detail_type == "VendorArrived")
                .count();
        }
        let shuffled = session(&mut bench);
        assert_eq!(arrived, 1, "seed {seed}");
        for field in ["status", "path", "vendorLocation"] {
            assert_eq!(shuffled[field], ordered[field], "seed {seed}: {field}");
        }
    }
}

#[test]
fn s23_the_fence_is_a_hundred_meters_and_only_the_vendors_fix_counts() {
    let nyc = Point::new(40.7128, -74.0060).expect("valid");
    for (lat, arrives) in [(40.713_690, true), (40.713_708, false)] {
        let (mut bench, session) = started(nyc);
        let fix = Fix::at(Point::new(lat, -74.0060).expect("valid"), bench.now);
        let other = json!({ "sessionId": session, "fix": fix });
        assert_eq!(
            code(bench.command(&Actor::Vendor(id(4)), "tracking.report_fix", other)),
            Refusal::AuthorizationError
        );
        let (_, events) = report(&mut bench, session, &fix).expect("taken");
        let wanted: &[&str] = if arrives {
            &["TrackingUpdated", "VendorArrived"]
        } else {
            &["TrackingUpdated"]
        };
        assert_eq!(types(&events), wanted, "{lat}");
    }
}

#[test]
fn estimates_are_made_anew_after_a_tenth_of_a_mile_or_half_a_minute() {
    let nyc = Point::new(40.7128, -74.0060).expect("valid");
    let (mut bench, session) = started(nyc);
    let minutes = |bench: &mut Bench<TrackingRole>, lat: f64| {
        let fix = Fix::at(Point::new(lat, -74.0060).expect("valid"), bench.now);
        report(bench, session, &fix).expect("taken").0["eta"]["calculatedAt"].clone()
    };
    let first = minutes(&mut bench, 41.0);
    bench.now = bench.now + Duration::from_secs(10);
    assert_eq!(minutes(&mut bench, 41.0001), first, "40 feet in 10 s");
    bench.now = bench.now + Duration::from_secs(10);
    assert_ne!(
        minutes(&mut bench, 41.002),
        first,
        "more than a tenth of a mile"
    );
    let second = minutes(&mut bench, 41.002);
    bench.now = bench.now + Duration::from_secs(31);
    assert_ne!(
        minutes(&mut bench, 41.0021),
        second,
        "more than half a minute"
    );
}

#[test]
fn a_session_ends_with_its_job_and_an_end_seen_first_is_remembered() {
    let nyc = Point::new(40.7128, -74.0060).expect("valid");
    let cancelled = IncidentCancelled {
        incident_id: id(10),
        driver_id: id(1),
        vendor_id: None,
        company_id: None,
        previous_status: IncidentStatus::VendorEnRoute,
        reason: Code::new("solved").expect("valid"),
        note: None,
        cancelled_by: Actor::Driver(id(1)),
        cancelled_at: Ts::from_ms(1),
    };
    let (mut bench, session_id) = started(nyc);
    let events = bench.event(&cancelled).expect("stopped");
    assert_eq!(types(&events), ["TrackingStopped"]);
    let now = bench.now;
    let late = report(&mut bench, session_id, &Fix::at(nyc, now));
    assert_eq!(code(late), Refusal::InvalidTransition);

    let mut first = Bench::new(TrackingRole);
    first.event(&cancelled).expect("remembered");
    assert!(first.event(&assigned(nyc, 3)).expect("nothing").is_empty());
}

#[test]
fn a_new_assignment_replaces_the_open_session_and_a_repeat_changes_nothing() {
    let nyc = Point::new(40.7128, -74.0060).expect("valid");
    let (mut bench, _) = started(nyc);
    assert!(bench.event(&assigned(nyc, 3)).expect("nothing").is_empty());
    assert_eq!(
        types(&bench.event(&assigned(nyc, 4)).expect("replaced")),
        ["TrackingStopped", "TrackingStarted"]
    );
}

#[test]
fn refusals_name_the_field() {
    let nyc = Point::new(40.7128, -74.0060).expect("valid");
    let (mut bench, session) = started(nyc);
    let ahead = Fix::at(nyc, bench.now + Duration::from_millis(60_001));
    let field = |result: Result<(Value, Vec<Event>), HandlerError>| match result {
        Err(HandlerError::Rejected(rejection)) => rejection.field.unwrap_or_default(),
        other => panic!("{other:?}"),
    };
    assert_eq!(field(report(&mut bench, session, &ahead)), "fix.recordedAt");
    let vendor = Actor::Vendor(id(2));
    for (body, named) in [
        (json!({ "sessionId": session }), "fix"),
        (json!({ "sessionId": session, "fixes": [] }), "fixes"),
        (json!({ "sessionId": "x" }), "sessionId"),
    ] {
        assert_eq!(
            field(bench.command(&vendor, "tracking.report_fix", body)),
            named
        );
    }
    let unknown = bench.command(&vendor, "tracking.get", json!({ "sessionId": id(99) }));
    assert_eq!(code(unknown), Refusal::NotFound);
}

#[test]
fn a_session_of_an_erased_driver_never_arrives_by_itself_and_anothers_does() {
    let goal = Point::new(40.7128, -74.0060).expect("valid");
    let (mut bench, his) = started(goal);
    let of_another = IncidentAssigned {
        incident_id: id(11),
        driver_id: id(9),
        ..assigned(goal, 4)
    };
    let events = bench.event(&of_another).expect("started");
    let others = events[0].detail["sessionId"].as_str().expect("text");
    let others = Id::parse(others).expect("an id");
    let place = json!({ "lat": 40.7128, "lon": -74.006 });
    assert_eq!(session(&mut bench)["driverLocation"], place);
    assert!(!bench.rests("40.7128"));

    bench.keys.erase(&id(1).to_string());
    assert_eq!(session(&mut bench)["driverLocation"], "***");
    let near = Fix::at(Point::new(40.7129, -74.0060).expect("valid"), bench.now);
    let (seen, events) = report(&mut bench, his, &near).expect("taken");
    assert_eq!(types(&events), ["TrackingUpdated"]);
    assert_eq!(
        (&seen["status"], &seen["eta"]["confidence"]),
        (&json!("active"), &json!(0.0))
    );
    let (seen, events) = report(&mut bench, others, &near).expect("taken");
    assert_eq!(types(&events), ["TrackingUpdated", "VendorArrived"]);
    assert_eq!(seen["driverLocation"], place);
    match events[1].known() {
        Some(Known::VendorArrived(arrived)) => {
            assert!(arrived.location.as_plain().is_none());
            assert_eq!(bench.revealed(&arrived.location), Some(goal));
        }
        other => panic!("{other:?}"),
    }

    // He may be erased before the assignment comes; the session is there all the same, and ends with the work.
    let late = bench.received(
        &IncidentAssigned {
            incident_id: id(12),
            ..assigned(goal, 5)
        },
        crate::role::Mode::Live,
        false,
    );
    let events = bench.deliver(late).expect("started");
    assert_eq!(types(&events), ["TrackingStarted"]);
    bench.keys.erase(&id(9).to_string());
    assert!(bench.openable().is_empty());
}

#[test]
fn a_place_that_comes_plain_is_kept_sealed() {
    let mut bench = Bench::new(TrackingRole);
    let goal = Point::new(40.7128, -74.0060).expect("valid");
    let received = bench.unsealed(&assigned(goal, 3));
    let events = bench.deliver(received).expect("started");
    assert_eq!(types(&events), ["TrackingStarted"]);
    let place = json!({ "lat": 40.7128, "lon": -74.006 });
    assert!(!bench.rests("40.7128") && bench.openable() == [place]);
}
