//! Whose key is destroyed can't be read any more in the role's database, whatever his case does then; others can.

use serde_json::{Value, json};

use super::IncidentRole;
use super::tests::{accepted, bench, id};
use crate::event::{Actor, ErasureReason, Event, Id, UserDataDeleted};
use crate::role::testing::{Bench, types};

/// A driver's incident with everything personal that a driver can say; what he says names him.
fn report(bench: &mut Bench<IncidentRole>, driver: u8) -> Id {
    let body = json!({
        "type": "tire", "lat": 40.7128, "lon": -74.006, "address": format!("{driver} Main Street"),
        "phone": format!("+1555000000{driver}"), "description": format!("words of driver {driver}"),
    });
    let created = bench.command(&Actor::Driver(id(driver)), "incident.create", body);
    let (reply, _) = created.expect("created");
    assert_eq!(
        reply["location"]["address"],
        format!("{driver} Main Street")
    );
    Id::parse(reply["incidentId"].as_str().expect("text")).expect("an id")
}

fn by_operator(bench: &mut Bench<IncidentRole>, name: &str, body: Value) -> (Value, Vec<Event>) {
    bench
        .command(&Actor::Operator("op".to_owned()), name, body)
        .expect("done")
}

fn get(bench: &mut Bench<IncidentRole>, incident_id: Id) -> Value {
    by_operator(bench, "incident.get", json!({ "incidentId": incident_id })).0
}

/// The vendor withdraws with a note about the driver.
fn withdrawn(bench: &mut Bench<IncidentRole>, incident_id: Id, offer: u8, driver: u8) {
    let mut won = accepted(incident_id, offer, 1, 5);
    won.driver_id = id(driver);
    bench.event(&won).expect("assigned");
    let version = get(bench, incident_id)["version"].clone();
    let note = format!("driver {driver} never answers");
    let body = json!({ "incidentId": incident_id, "expectedVersion": version, "reason": "no_answer", "note": note });
    let (_, events) = bench
        .command(&Actor::Vendor(id(2)), "incident.withdraw", body)
        .expect("withdrawn");
    assert_eq!(types(&events), ["IncidentStatusChanged", "MatchRequested"]);
}

#[test]
fn nothing_of_an_erased_driver_can_be_read_and_all_of_another_one() {
    let mut bench = bench();
    let (his, others) = (report(&mut bench, 1), report(&mut bench, 8));
    withdrawn(&mut bench, his, 3, 1);
    withdrawn(&mut bench, others, 4, 8);
    let personal = |driver: u8| {
        [
            json!(format!("+1555000000{driver}")),
            json!(format!("words of driver {driver}")),
            json!(format!("driver {driver} never answers")),
            json!({ "lat": 40.7128, "lon": -74.006, "address": format!("{driver} Main Street") }),
        ]
    };
    let openable = bench.openable();
    for value in personal(1).iter().chain(&personal(8)) {
        assert!(openable.contains(value), "{value}");
        assert!(
            value.as_str().is_none_or(|text| !bench.rests(text)),
            "{value}"
        );
    }
    assert!(!bench.rests("Main Street") && !bench.rests("40.7128"));

    bench.keys.erase(&id(1).to_string());
    let openable = bench.openable();
    assert!(personal(1).iter().all(|value| !openable.contains(value)));
    assert!(personal(8).iter().all(|value| openable.contains(value)));
    let seen = get(&mut bench, his);
    for field in ["location", "phone", "description"] {
        assert_eq!(seen[field], "***", "{field}");
    }
    let note = |seen: &Value| {
        let lines = seen["timeline"].as_array().expect("a list").clone();
        lines.last().and_then(|line| line.get("note").cloned())
    };
    assert_eq!(note(&seen), Some(json!("***")));
    assert_eq!(
        note(&get(&mut bench, others)),
        Some(json!("driver 8 never answers"))
    );

    // Whoever works on his case may go on, and whoever hears of his erasure forgets the rest.
    let body = json!({ "incidentId": his, "reason": "erased", "note": "he left us" });
    let (cancelled, events) = by_operator(&mut bench, "incident.cancel", body);
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(
        types(&events),
        ["IncidentStatusChanged", "IncidentCancelled"]
    );
    assert!(!bench.rests("he left us") && !bench.openable().contains(&json!("he left us")));
    let gone = UserDataDeleted {
        user_id: id(1),
        reason: ErasureReason::Request,
        requested_by: Actor::Driver(id(1)),
        deleted_at: bench.now,
    };
    bench.event(&gone).expect("forgotten");
    let seen = get(&mut bench, his);
    assert_eq!(seen["location"], json!({ "lat": 40.7, "lon": -74.0 }));
    assert!(seen.get("phone").is_none() && seen.get("description").is_none());
    let lines = seen["timeline"].as_array().expect("a list");
    assert!(lines.iter().all(|line| line.get("note").is_none()));
    let other = get(&mut bench, others);
    assert_eq!(other["phone"], "+15550000008");
    assert_eq!(note(&other), Some(json!("driver 8 never answers")));
}

#[test]
fn a_call_of_somebody_who_is_erased_by_now_makes_an_incident_at_no_known_place() {
    let mut bench = bench();
    let received = bench.received(&super::tests::requested(), crate::role::Mode::Live, false);
    bench.keys.erase(&id(1).to_string());
    let events = bench.deliver(received).expect("handled");
    assert_eq!(types(&events), ["IncidentCreated"]);
    let area = &events[0].detail["areaLocation"];
    assert_eq!((&area["lat"], &area["lon"]), (&json!(0.0), &json!(0.0)));
    assert!(bench.openable().is_empty());
}

#[test]
fn what_comes_plain_is_kept_sealed() {
    let mut bench = bench();
    let received = bench.unsealed(&super::tests::requested());
    let events = bench.deliver(received).expect("handled");
    assert_eq!(types(&events), ["IncidentCreated"]);
    assert!(!bench.rests("+15551234567") && bench.openable().contains(&json!("+15551234567")));
    bench.keys.erase(&id(1).to_string());
    assert!(bench.openable().is_empty());
}
