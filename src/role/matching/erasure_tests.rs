//! Whose key is destroyed has no place any more: nobody is asked for him, and his case ends as one for whom nobody is near.

use serde_json::json;

use super::tests::{bench, decline, id, incident, offers};
use crate::event::{Actor, IncidentCreated};
use crate::role::testing::types;

#[test]
fn nobody_is_asked_for_an_erased_driver_while_anothers_search_goes_on() {
    let mut bench = bench(8);
    let his = offers(&bench.event(&incident(10)).expect("matched"));
    let of_another = IncidentCreated {
        driver_id: id(9),
        ..incident(11)
    };
    let others = offers(&bench.event(&of_another).expect("matched"));
    assert_eq!((his.len(), others.len()), (3, 3));
    let place = json!({ "lat": 40.7128, "lon": -74.006 });
    assert_eq!(
        bench.openable(),
        std::slice::from_ref(&place),
        "the two have one place"
    );

    bench.keys.erase(&id(1).to_string());
    assert_eq!(
        bench.openable(),
        std::slice::from_ref(&place),
        "the other one's"
    );
    let mut last = Vec::new();
    for offer in his {
        last = decline(&mut bench, offer).expect("declined").1;
    }
    assert_eq!(types(&last), ["OfferDeclined", "MatchExhausted"]);
    assert_eq!(last[1].detail["reason"], "no_vendor");
    for offer in others {
        last = decline(&mut bench, offer).expect("declined").1;
    }
    assert_eq!(offers(&last).len(), 3, "the next round");

    let operator = Actor::Operator("op".to_owned());
    let case = |bench: &mut crate::role::testing::Bench<super::MatchRole>, n: u8| {
        let body = json!({ "incidentId": id(n) });
        bench
            .command(&operator, "match.get", body)
            .expect("found")
            .0
    };
    assert_eq!(case(&mut bench, 10)["location"], "***");
    assert_eq!(case(&mut bench, 11)["location"], place);
    // A dispatcher may still send somebody.
    let body = json!({ "incidentId": id(10), "vendorId": id(28) });
    let (offer, events) = bench
        .command(&operator, "match.assign", body)
        .expect("assigned");
    assert_eq!(
        (&offer["status"], &events[0].detail_type),
        (&json!("accepted"), &"OfferAccepted".to_owned())
    );

    bench.keys.erase(&id(9).to_string());
    assert!(bench.openable().is_empty());
}

#[test]
fn a_place_that_comes_plain_is_kept_sealed_and_found_all_the_same() {
    let mut bench = bench(0);
    let received = bench.unsealed(&incident(10));
    let events = bench.deliver(received).expect("handled");
    assert_eq!(types(&events), ["MatchExhausted"]);
    let place = json!({ "lat": 40.7128, "lon": -74.006 });
    assert!(!bench.rests("40.7128") && bench.openable() == [place]);
}

#[test]
fn a_note_of_a_decline_is_the_vendors() {
    let mut bench = bench(1);
    let offer = offers(&bench.event(&incident(10)).expect("matched"))[0];
    let note = "my wife is in hospital";
    let body = json!({ "offerId": offer.0, "note": note });
    bench
        .command(&Actor::Vendor(offer.1), "offer.decline", body)
        .expect("declined");
    assert!(!bench.rests(note) && bench.openable().contains(&json!(note)));
    bench.keys.erase(&id(1).to_string());
    assert_eq!(bench.openable(), [json!(note)]);
    bench.keys.erase(&offer.1.to_string());
    assert!(bench.openable().is_empty());
}
