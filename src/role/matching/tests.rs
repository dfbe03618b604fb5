//! The scenarios of DOMAIN 8 that matching decides, on the bench.

use std::time::Duration;

use serde_json::{Value, json};

use super::MatchRole;
use crate::event::*;
use crate::role::testing::{Bench, code, types};
use crate::role::{Code as Refusal, HandlerError};

const NYC: Point = Point {
    lat: 40.7128,
    lon: -74.0060,
};

pub(super) fn id(n: u8) -> Id {
    ids::derive_v7(1, &[&[n]])
}

fn vendor(n: u8, place: Point, capabilities: &[Capability]) -> VendorRegistered {
    let time = |text: &str| TimeOfDay::new(text).expect("valid");
    let hours = Hours {
        open: time("00:00"),
        close: time("24:00"),
    };
    let price = Price {
        base_price_cents: Cents::new(15_000).expect("valid"),
        per_mile_cents: Cents::new(350).expect("valid"),
    };
    VendorRegistered {
        vendor_id: id(n),
        business_name: Text::lossy("A"),
        contact_name: Personal::plain(Text::lossy("B")),
        phone: Personal::plain(E164::new("+15550001111").expect("valid")),
        email: None,
        capabilities: List::new(capabilities.to_vec()).expect("valid"),
        location: place,
        coverage_radius_miles: CoverageMiles::new(50.0).expect("valid"),
        timezone: "America/New_York".parse().expect("valid"),
        operating_hours: Day::ALL.iter().map(|day| (*day, hours.clone())).collect(),
        pricing: capabilities
            .iter()
            .map(|capability| (*capability, price.clone()))
            .collect(),
        insurance_expiry: "2030-01-01".parse().expect("valid"),
        background_check_status: BackgroundCheckStatus::Approved,
        payout_account_ref: None,
        profile_version: Count1::new(1).expect("valid"),
        registered_at: Ts::from_ms(1),
    }
}

fn metrics(n: u8, rating: f64) -> VendorMetricsUpdated {
    VendorMetricsUpdated {
        vendor_id: id(n),
        rating_average: RatingAverage::new(rating).expect("valid"),
        rating_count: 1,
        acceptance_rate: Rate::new(1.0).expect("valid"),
        avg_response_seconds: NonNegative::new(1.0).expect("valid"),
        completion_rate: Rate::new(1.0).expect("valid"),
        total_jobs: 1,
        metrics_version: Count1::new(1).expect("valid"),
    }
}

pub(super) fn incident(n: u8) -> IncidentCreated {
    IncidentCreated {
        incident_id: id(n),
        driver_id: id(1),
        company_id: None,
        incident_type: IncidentType::Tire,
        priority: Priority::Normal,
        location: Personal::plain(Place::at(NYC)),
        area_location: NYC.rounded_to_tenth(),
        phone: None,
        payer_type: Payer::BackOffice,
        origin: IncidentOrigin::App,
        call_id: None,
    }
}

fn requested(n: u8, cycle: u64, reason: MatchRequestReason, released: u8) -> MatchRequested {
    MatchRequested {
        incident_id: id(n),
        driver_id: id(1),
        company_id: None,
        incident_type: IncidentType::Tire,
        priority: Priority::Normal,
        location: Personal::plain(Place::at(NYC)),
        cycle: Cycle2::new(cycle).expect("valid"),
        reason,
        released_vendor_id: Some(id(released)),
        released_offer_id: None,
        requested_at: Ts::from_ms(1),
    }
}

/// Vendors 21, 22, … at NYC, all able to repair tires.
pub(super) fn bench(vendors: u8) -> Bench<MatchRole> {
    let mut bench = Bench::new(MatchRole::default());
    for n in 0..vendors {
        bench
            .event(&vendor(21 + n, NYC, &[Capability::TireRepair]))
            .expect("known");
        bench.event(&metrics(21 + n, 5.0)).expect("known");
    }
    bench
}

pub(super) fn offers(events: &[Event]) -> Vec<(Id, Id)> {
    let made = events.iter().filter_map(|event| match event.known() {
        Some(Known::OfferCreated(offer)) => Some((offer.offer_id, offer.vendor_id)),
        _ => None,
    });
    made.collect()
}

fn accept(
    bench: &mut Bench<MatchRole>,
    offer: (Id, Id),
) -> Result<(Value, Vec<Event>), HandlerError> {
    bench.command(
        &Actor::Vendor(offer.1),
        "offer.accept",
        json!({ "offerId": offer.0 }),
    )
}

pub(super) fn decline(
    bench: &mut Bench<MatchRole>,
    offer: (Id, Id),
) -> Result<(Value, Vec<Event>), HandlerError> {
    bench.command(
        &Actor::Vendor(offer.1),
        "offer.decline",
        json!({ "offerId": offer.0 }),
    )
}

#[test]
fn s1_the_capable_are_asked_and_the_winner_takes_the_job() {
    let mut bench = Bench::new(MatchRole::default());
    let midtown = Point::new(40.7580, -73.9855).expect("valid");
    let both = [Capability::TireRepair, Capability::TireReplacement];
    for (n, place, capabilities, rating) in [
        (21, NYC, &both[..], 4.5),
        (22, midtown, &both[..1], 4.8),
        (23, NYC, &[Capability::EngineRepair][..], 5.0),
    ] {
        bench.event(&vendor(n, place, capabilities)).expect("known");
        bench.event(&metrics(n, rating)).expect("known");
    }
    let events = bench.event(&incident(10)).expect("matched");
    let made = offers(&events);
    assert_eq!(
        made.iter().map(|offer| offer.1).collect::<Vec<_>>(),
        [id(21), id(22)]
    );
    let number = |event: &Event, name: &str| event.detail[name].as_f64().expect("a number");
    assert!((number(&events[0], "matchScore") - 0.9900).abs() < 5e-5);
    assert!((number(&events[1], "matchScore") - 0.9894).abs() < 5e-5);
    assert!((number(&events[1], "distanceMiles") - 3.302).abs() < 5e-4);
    assert_eq!(events[1].detail["estimatedPayoutCents"], 16_156);
    let (_, events) = accept(&mut bench, made[0]).expect("accepted");
    assert_eq!(types(&events), ["OfferAccepted", "OfferCancelled"]);
    assert_eq!(events[1].detail["reason"], "other_accepted");
    // S6 and S7: the loser is refused, the winner's repeat is the same success.
    assert_eq!(
        code(accept(&mut bench, made[1])),
        Refusal::IncidentAlreadyAssigned
    );
    let (reply, events) = accept(&mut bench, made[0]).expect("the same");
    assert_eq!(
        (reply["status"].as_str(), events.len()),
        (Some("accepted"), 0)
    );
}

#[test]
fn s5_without_anyone_near_three_rounds_end_at_once() {
    let mut bench = Bench::new(MatchRole::default());
    let chicago = Point::new(41.8781, -87.6298).expect("valid");
    bench
        .event(&vendor(21, chicago, &[Capability::TireRepair]))
        .expect("known");
    let events = bench.event(&incident(10)).expect("matched");
    assert_eq!(types(&events), ["MatchExhausted"]);
    let detail = &events[0].detail;
    assert_eq!(
        (
            &detail["rounds"],
            &detail["finalRadiusMiles"],
            &detail["reason"]
        ),
        (&json!(3), &json!(78.125), &json!("no_vendor"))
    );
}

#[test]
fn s6_one_vendor_gets_one_of_two_jobs_and_the_other_round_goes_on() {
    let mut bench = bench(2);
    let first = offers(&bench.event(&incident(10)).expect("matched"));
    let second = offers(&bench.event(&incident(11)).expect("matched"));
    let (_, events) = accept(&mut bench, first[0]).expect("accepted");
    let reasons: Vec<&str> = events[1..]
        .iter()
        .filter_map(|event| event.detail["reason"].as_str())
        .collect();
    assert_eq!(reasons, ["other_accepted", "vendor_taken"]);
    let other = second
        .iter()
        .find(|offer| offer.1 == first[0].1)
        .expect("asked for both");
    assert_eq!(code(accept(&mut bench, *other)), Refusal::OfferNotPending);
    let rest = second
        .iter()
        .find(|offer| offer.1 != first[0].1)
        .expect("the other vendor");
    accept(&mut bench, *rest).expect("still open");
}

#[test]
fn s8_an_offer_is_open_until_the_millisecond_it_expires() {
    for (left_ms, wanted) in [
        (1, None),
        (0, Some(Refusal::OfferExpired)),
        (-1000, Some(Refusal::OfferExpired)),
    ] {
        let mut bench = bench(1);
        let made = offers(&bench.event(&incident(10)).expect("matched"));
        bench.now = Ts::from_ms(bench.now.ms() + 120_000 - left_ms);
        match wanted {
            None => drop(accept(&mut bench, made[0]).expect("accepted")),
            Some(refusal) => assert_eq!(code(accept(&mut bench, made[0])), refusal),
        }
        let expired = bench.fire_next_timer().map(|events| events.expect("fired"));
        let published = expired
            .iter()
            .flatten()
            .filter(|event| event.detail_type == "OfferExpired")
            .count();
        assert_eq!(published, usize::from(wanted.is_some()), "left {left_ms}");
    }
}

#[test]
fn s9_decliners_are_never_asked_again_the_silent_may_be() {
    let mut first = bench(7);
    let made = offers(&first.event(&incident(10)).expect("matched"));
    assert_eq!(made.len(), 3);
    let mut next = Vec::new();
    for offer in &made {
        next = offers(&decline(&mut first, *offer).expect("declined").1);
    }
    assert_eq!(next.len(), 3, "at once, not after 120 s");
    assert!(
        next.iter()
            .all(|offer| made.iter().all(|old| old.1 != offer.1))
    );

    let mut bench = bench(4);
    let made = offers(&bench.event(&incident(10)).expect("matched"));
    decline(&mut bench, made[0]).expect("declined");
    let (_, events) = decline(&mut bench, made[1]).expect("declined");
    assert!(offers(&events).is_empty(), "one has not answered");
    let events = bench.fire_next_timer().expect("set").expect("fired");
    let again: Vec<Id> = offers(&events).into_iter().map(|offer| offer.1).collect();
    assert_eq!(
        again,
        [id(24), made[2].1],
        "the one not asked first, then the silent one"
    );
}

#[test]
fn s10_a_released_vendor_is_freed_and_not_asked_again_until_the_cycles_end() {
    let mut bench = bench(5);
    let mut made = offers(&bench.event(&incident(10)).expect("matched"));
    let mut released = Vec::new();
    for cycle in 2..=4 {
        let winner = made[0];
        accept(&mut bench, winner).expect("accepted");
        released.push(winner.1);
        let request = MatchRequested {
            released_vendor_id: Some(winner.1),
            ..requested(10, cycle, MatchRequestReason::VendorTimeout, 0)
        };
        let events = bench.event(&request).expect("released");
        assert_eq!(events[0].detail_type, "OfferCancelled");
        assert_eq!(events[0].detail["previousStatus"], "accepted");
        assert!(
            bench.event(&request).expect("nothing").is_empty(),
            "the same cycle again"
        );
        made = offers(&events);
        if cycle == 4 {
            assert_eq!(events[1].detail["reason"], "cycle_limit");
            assert_eq!(events[1].detail["rounds"], 0);
        } else {
            assert!(!made.is_empty() && made.iter().all(|offer| !released.contains(&offer.1)));
        }
    }
    let by_hand = requested(10, 5, MatchRequestReason::DispatcherRestart, 0);
    let made = offers(&bench.event(&by_hand).expect("starts over"));
    assert!(!made.is_empty(), "a dispatcher may always start over");
}

#[test]
fn s25_a_cancellation_frees_everything_whatever_comes_first() {
    let cancelled = IncidentCancelled {
        incident_id: id(10),
        driver_id: id(1),
        vendor_id: None,
        company_id: None,
        previous_status: IncidentStatus::Created,
        reason: Code::new("solved").expect("valid"),
        note: None,
        cancelled_by: Actor::Driver(id(1)),
        cancelled_at: Ts::from_ms(1),
    };
    let mut pending = bench(3);
    pending.event(&incident(10)).expect("matched");
    assert_eq!(
        types(&pending.event(&cancelled).expect("cancelled")),
        ["OfferCancelled"; 3]
    );
    assert!(pending.fire_next_timer().is_none());

    let mut accepted = bench(1);
    let made = offers(&accepted.event(&incident(10)).expect("matched"));
    accept(&mut accepted, made[0]).expect("accepted");
    let events = accepted.event(&cancelled).expect("cancelled");
    assert_eq!(events[0].detail["previousStatus"], "accepted");
    assert_eq!(
        offers(&accepted.event(&incident(11)).expect("matched")).len(),
        1,
        "the vendor is free again"
    );

    let mut before = bench(1);
    before.event(&cancelled).expect("remembered");
    assert!(before.event(&incident(10)).expect("nothing").is_empty());
}

#[test]
fn only_those_who_pass_every_filter_are_asked() {
    let far = Point::new(41.45, -74.0060).expect("valid");
    type Change = fn(&mut VendorRegistered);
    let change: [(&str, Change); 6] = [
        ("capability", |v| {
            v.capabilities = List::new(vec![Capability::Towing]).expect("valid")
        }),
        ("background", |v| {
            v.background_check_status = BackgroundCheckStatus::Pending
        }),
        ("insurance", |v| {
            v.insurance_expiry = "2026-01-14".parse().expect("valid")
        }),
        ("hours", |v| v.operating_hours.clear()),
        ("coverage", |v| {
            v.coverage_radius_miles = CoverageMiles::new(40.0).expect("valid")
        }),
        ("none", |_| {}),
    ];
    for (name, change) in change {
        let mut bench = Bench::new(MatchRole::default());
        let place = if name == "coverage" { far } else { NYC };
        let mut profile = vendor(21, place, &[Capability::TireRepair]);
        change(&mut profile);
        bench.event(&profile).expect("known");
        let asked = !offers(&bench.event(&incident(10)).expect("matched")).is_empty();
        assert_eq!(asked, name == "none", "{name}");
    }
    let mut busy = bench(1);
    let changed = VendorStatusChanged {
        vendor_id: id(21),
        previous_status: VendorStatus::Available,
        new_status: VendorStatus::Offline,
        incident_id: None,
        reason: VendorStatusReason::Manual,
        changed_at: Ts::from_ms(5),
    };
    busy.event(&changed).expect("known");
    assert_eq!(
        types(&busy.event(&incident(10)).expect("matched")),
        ["MatchExhausted"]
    );
}

#[test]
fn an_event_too_old_starts_no_rounds() {
    let mut bench = bench(1);
    let events = bench.old_event(&incident(10)).expect("too late");
    assert_eq!(types(&events), ["MatchExhausted"]);
    assert_eq!(
        (&events[0].detail["reason"], &events[0].detail["rounds"]),
        (&json!("too_old"), &json!(0))
    );
    let body = json!({ "incidentId": id(10), "vendorId": id(21) });
    let (_, events) = bench
        .command(&Actor::Dispatcher(id(7)), "match.assign", body.clone())
        .expect("assigned by hand");
    assert_eq!(types(&events), ["OfferAccepted"]);
    assert!(events[0].detail.get("responseSeconds").is_none());
    assert_eq!(
        code(bench.command(&Actor::Dispatcher(id(7)), "match.assign", body)),
        Refusal::InvalidTransition
    );
}

#[test]
fn configuration_counts_from_the_next_round_and_never_goes_back() {
    let mut bench = bench(7);
    let changed = |version: u64, per_round: u64| ConfigurationChanged {
        config_key: ConfigKey::Matching,
        config_version: Count1::new(version).expect("valid"),
        value: json!({ "offersPerRound": per_round })
            .as_object()
            .cloned()
            .expect("an object"),
        change_type: ConfigChange::Updated,
        previous_version: None,
        reason: None,
        updated_by: Actor::Admin(id(5)),
        updated_at: Ts::from_ms(1),
    };
    bench.event(&changed(2, 5)).expect("taken over");
    bench.event(&changed(1, 1)).expect("ignored");
    assert_eq!(
        offers(&bench.event(&incident(10)).expect("matched")).len(),
        5
    );
}

#[test]
fn claims_stay_unique_in_any_order_of_answers() {
    use proptest::prelude::*;
    proptest!(ProptestConfig::with_cases(48), |(steps in proptest::collection::vec((0_u8..4, 0_u8..30), 1..40))| {
        let mut bench = bench(4);
        let mut open: Vec<(Id, Id)> = Vec::new();
        let mut holders: std::collections::BTreeMap<Id, Id> = std::collections::BTreeMap::new();
        for n in 10..13 {
            open.extend(offers(&bench.event(&incident(n)).expect("matched")));
        }
        for (kind, pick) in steps {
            let Some(offer) = open.get(usize::from(pick) % open.len().max(1)).copied() else { continue };
            let events = match kind {
                0 => accept(&mut bench, offer).map(|(_, events)| events),
                1 => decline(&mut bench, offer).map(|(_, events)| events),
                2 => bench.fire_next_timer().unwrap_or(Ok(Vec::new())),
                _ => { bench.now = bench.now + Duration::from_secs(7); Ok(Vec::new()) }
            };
            let events = events.unwrap_or_default();
            for event in &events {
                if let Some(Known::OfferAccepted(accepted)) = event.known() {
                    prop_assert!(holders.insert(accepted.incident_id, accepted.vendor_id).is_none(), "one winner");
                    let held = holders.values().filter(|vendor| **vendor == accepted.vendor_id).count();
                    prop_assert_eq!(held, 1, "one job per vendor");
                }
            }
            open.extend(offers(&events));
        }
    });
}
