//! The vendor's rules on the bench.

use serde_json::{Value, json};

use super::VendorRole;
use crate::event::{
    Actor, Count1, ErasureReason, Id, IncidentRated, IncidentType, Miles, NonNegative,
    OfferAccepted, OfferCancelReason, OfferCancelled, OfferPreviousStatus, Payer, RatedBy, Stars,
    Ts, UserDataDeleted, WorkCompleted, ids,
};
use crate::role::testing::{Bench, code, types};
use crate::role::{Code, HandlerError};

fn id(n: u8) -> Id {
    ids::derive_v7(1, &[&[n]])
}

fn profile() -> Value {
    let hours = json!({ "open": "00:00", "close": "24:00" });
    json!({
        "businessName": "Joe's Tires", "contactName": "Joe", "phone": "+15550001111",
        "capabilities": ["tire_repair"], "location": { "lat": 40.7128, "lon": -74.006 }, "coverageRadiusMiles": 50,
        "timezone": "America/New_York", "insuranceExpiry": "2030-01-01",
        "operatingHours": { "mon": hours, "tue": hours, "wed": hours, "thu": hours, "fri": hours, "sat": hours, "sun": hours },
        "pricing": { "tire_repair": { "basePriceCents": 15000, "perMileCents": 350 } }
    })
}

fn registered() -> Bench<VendorRole> {
    let mut bench = Bench::new(VendorRole);
    let (reply, events) = bench
        .command(&me(), "vendor.register", profile())
        .expect("registered");
    assert_eq!(types(&events), ["VendorRegistered"]);
    assert_eq!(
        (&reply["status"], &reply["backgroundCheckStatus"]),
        (&json!("available"), &json!("pending"))
    );
    bench
}

fn me() -> Actor {
    Actor::Vendor(id(2))
}

fn accepted(offer: u8, incident: u8) -> OfferAccepted {
    OfferAccepted {
        offer_id: id(offer),
        incident_id: id(incident),
        vendor_id: id(2),
        driver_id: id(1),
        accepted_by: me(),
        distance_miles: Miles::new(1.0).expect("valid"),
        eta_minutes: 2,
        cycle: Count1::new(1).expect("valid"),
        response_seconds: Some(NonNegative::new(4.0).expect("valid")),
        accepted_at: Ts::from_ms(1),
    }
}

fn released(offer: u8, incident: u8) -> OfferCancelled {
    OfferCancelled {
        offer_id: id(offer),
        incident_id: id(incident),
        vendor_id: id(2),
        previous_status: OfferPreviousStatus::Accepted,
        reason: OfferCancelReason::VendorWithdrew,
        cancelled_at: Ts::from_ms(2),
    }
}

fn completed(incident: u8) -> WorkCompleted {
    WorkCompleted {
        incident_id: id(incident),
        vendor_id: id(2),
        driver_id: id(1),
        company_id: None,
        incident_type: IncidentType::Tire,
        completed_at: Ts::from_ms(3),
        duration_minutes: NonNegative::new(10.0).expect("valid"),
        distance_miles: None,
        payer_type: Payer::BackOffice,
        line_items: None,
        notes: None,
        media_urls: None,
    }
}

fn get(bench: &mut Bench<VendorRole>) -> Value {
    bench
        .command(&me(), "vendor.get", json!({ "vendorId": id(2) }))
        .expect("found")
        .0
}

#[test]
fn a_job_makes_busy_and_its_end_makes_available_or_offline() {
    let mut bench = registered();
    let events = bench.event(&accepted(3, 10)).expect("busy");
    assert_eq!(
        types(&events),
        ["VendorStatusChanged", "VendorMetricsUpdated"]
    );
    assert_eq!(get(&mut bench)["status"], "busy");
    bench
        .command(
            &me(),
            "vendor.set_availability",
            json!({ "vendorId": id(2), "status": "offline" }),
        )
        .expect("noted");
    assert_eq!(get(&mut bench)["status"], "busy");
    let events = bench.event(&completed(10)).expect("done");
    assert_eq!(
        types(&events),
        ["VendorStatusChanged", "VendorMetricsUpdated"]
    );
    assert_eq!(events[0].detail["newStatus"], "offline");
    assert!(bench.event(&completed(10)).expect("nothing").is_empty());
    let vendor = get(&mut bench);
    assert_eq!(
        (
            &vendor["metrics"]["completed"],
            &vendor["metrics"]["accepted"]
        ),
        (&json!(1), &json!(1))
    );
}

#[test]
fn a_release_before_its_acceptance_leaves_the_vendor_free() {
    let mut bench = registered();
    bench.event(&released(3, 10)).expect("remembered");
    bench.event(&accepted(3, 10)).expect("counted");
    let vendor = get(&mut bench);
    assert_eq!(vendor["status"], "available");
    assert_eq!(
        (
            &vendor["metrics"]["released"],
            &vendor["metrics"]["accepted"]
        ),
        (&json!(1), &json!(1))
    );
    bench.event(&completed(11)).expect("remembered");
    bench.event(&accepted(4, 11)).expect("counted");
    assert_eq!(
        get(&mut bench)["status"],
        "available",
        "completed work came first"
    );
}

#[test]
fn a_late_end_of_an_old_job_does_not_free_from_the_current_one() {
    let mut bench = registered();
    bench.event(&accepted(3, 10)).expect("busy");
    bench.event(&accepted(4, 11)).expect("busy with another");
    bench.event(&released(3, 10)).expect("counted");
    let vendor = get(&mut bench);
    assert_eq!(
        (&vendor["status"], &vendor["currentIncidentId"]),
        (&json!("busy"), &json!(id(11)))
    );
}

#[test]
fn only_drivers_stars_count() {
    let mut bench = registered();
    let rated = |rated_by, stars| IncidentRated {
        incident_id: id(10),
        driver_id: id(1),
        vendor_id: id(2),
        rated_by,
        stars: Stars::new(stars).expect("valid"),
        rated_at: Ts::from_ms(1),
    };
    assert!(
        bench
            .event(&rated(RatedBy::Vendor, 1))
            .expect("nothing")
            .is_empty()
    );
    let events = bench.event(&rated(RatedBy::Driver, 4)).expect("counted");
    assert_eq!(events[0].detail["ratingAverage"], 4.0);
    let again = bench.event(&rated(RatedBy::Driver, 4)).expect("nothing");
    assert!(again.is_empty(), "once for an incident: {again:?}");
    assert_eq!(get(&mut bench)["metrics"]["ratings"], 1);
}

#[test]
fn updates_keep_versions_and_say_who_may_change_what() {
    let mut bench = registered();
    let body = json!({ "vendorId": id(2), "expectedVersion": 1, "coverageRadiusMiles": 80 });
    let (reply, events) = bench
        .command(&me(), "vendor.update", body.clone())
        .expect("updated");
    assert_eq!(
        (types(&events), &reply["profileVersion"]),
        (vec!["VendorUpdated"], &json!(2))
    );
    assert_eq!(
        events[0].detail["changedFields"],
        json!(["coverageRadiusMiles"])
    );
    assert_eq!(
        code(bench.command(&me(), "vendor.update", body)),
        Code::VersionConflict
    );
    let name = json!({ "vendorId": id(2), "expectedVersion": 2, "businessName": "Other" });
    assert_eq!(
        code(bench.command(&me(), "vendor.update", name.clone())),
        Code::AuthorizationError
    );
    bench
        .command(&Actor::Admin(id(5)), "vendor.update", name)
        .expect("an admin may");
    let other = json!({ "vendorId": id(2), "expectedVersion": 3, "coverageRadiusMiles": 10 });
    assert_eq!(
        code(bench.command(&Actor::Vendor(id(3)), "vendor.update", other)),
        Code::AuthorizationError
    );
    assert_eq!(
        code(bench.command(&me(), "vendor.register", profile())),
        Code::Conflict
    );
    let wrong = bench.command(&Actor::Vendor(id(4)), "vendor.register", {
        let mut body = profile();
        body["timezone"] = json!("Mars/Base");
        body
    });
    match wrong {
        Err(HandlerError::Rejected(rejection)) => {
            assert_eq!(rejection.field.as_deref(), Some("timezone"))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_search_is_nearest_first_and_complete_within_its_radius() {
    let mut bench = Bench::new(VendorRole);
    for n in 0..30_u8 {
        let mut body = profile();
        body["location"] = json!({ "lat": 40.0 + f64::from(n) * 0.1, "lon": -74.0 });
        bench
            .command(&Actor::Vendor(id(100 + n)), "vendor.register", body)
            .expect("registered");
    }
    let body = json!({ "lat": 40.0, "lon": -74.0, "radiusMiles": 70, "limit": 100 });
    let (reply, _) = bench
        .command(&Actor::Driver(id(1)), "vendor.search", body)
        .expect("found");
    let items = reply["items"].as_array().expect("a list");
    let miles: Vec<f64> = items
        .iter()
        .map(|item| item["distanceMiles"].as_f64().expect("a number"))
        .collect();
    assert_eq!(items.len(), 11, "0 to 1.0 degrees");
    assert!(miles.is_sorted());
    assert!(
        items[0].get("phone").is_none(),
        "contact data is not for everybody"
    );
    let far = json!({ "lat": 40.0, "lon": -74.0, "radiusMiles": 501 });
    assert_eq!(
        code(bench.command(&Actor::Driver(id(1)), "vendor.search", far)),
        Code::ValidationError
    );
}

/// A second vendor, with his own words.
fn register_another(bench: &mut Bench<VendorRole>) {
    let mut body = profile();
    body["contactName"] = json!("Jacqueline");
    body["phone"] = json!("+15550009999");
    body["email"] = json!("jacqueline@example.org");
    bench
        .command(&Actor::Vendor(id(7)), "vendor.register", body)
        .expect("registered");
}

fn by_admin(bench: &mut Bench<VendorRole>, vendor: u8) -> Value {
    let body = json!({ "vendorId": id(vendor) });
    let admin = Actor::Admin(id(5));
    bench.command(&admin, "vendor.get", body).expect("found").0
}

#[test]
fn nothing_of_an_erased_vendor_can_be_read_and_all_of_another_one() {
    let mut bench = registered();
    register_another(&mut bench);
    let (his, others) = (
        [json!("Joe"), json!("+15550001111")],
        [
            json!("Jacqueline"),
            json!("+15550009999"),
            json!("jacqueline@example.org"),
        ],
    );
    let openable = bench.openable();
    assert!(his.iter().chain(&others).all(|one| openable.contains(one)));
    assert!(!bench.rests("+15550001111") && !bench.rests("jacqueline@example.org"));

    bench.keys.erase(&id(2).to_string());
    let openable = bench.openable();
    assert!(his.iter().all(|one| !openable.contains(one)));
    assert!(others.iter().all(|one| openable.contains(one)));
    let seen = by_admin(&mut bench, 2);
    assert_eq!(
        (&seen["contactName"], &seen["phone"]),
        (&json!("***"), &json!("***"))
    );
    // What is no person's stays, and what counts goes on.
    assert_eq!(seen["businessName"], "Joe's Tires");
    let events = bench.event(&accepted(3, 10)).expect("busy");
    assert_eq!(
        types(&events),
        ["VendorStatusChanged", "VendorMetricsUpdated"]
    );
    let gone = UserDataDeleted {
        user_id: id(2),
        reason: ErasureReason::Request,
        requested_by: me(),
        deleted_at: bench.now,
    };
    let events = bench.event(&gone).expect("forgotten");
    assert_eq!(types(&events), ["VendorStatusChanged", "VendorUpdated"]);
    assert_eq!(by_admin(&mut bench, 2)["contactName"], "erased");
    let other = by_admin(&mut bench, 7);
    let shown = ["contactName", "phone", "email"].map(|field| other[field].clone());
    assert_eq!(shown, others);
}

#[test]
fn only_what_changed_of_a_profile_is_told() {
    let mut bench = registered();
    let same = json!({ "vendorId": id(2), "expectedVersion": 1, "phone": "+15550001111", "contactName": "Joseph" });
    let (reply, events) = bench
        .command(&me(), "vendor.update", same)
        .expect("updated");
    assert_eq!(reply["contactName"], "Joseph");
    assert_eq!(events[0].detail["changedFields"], json!(["contactName"]));
}
