//! Who sees which events, and what of them.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::event::seal::SECRET_LEN;
use crate::event::{
    ArrivalMeters, Base, DataKey, KeyError, Personal, Point, Site, Ts, VendorArrived,
};

fn id(n: u8) -> Id {
    Id::parse(&format!("0192f3c1-0000-7000-8000-0000000000{n:02x}")).expect("an id")
}

fn sees(caller: &Caller, source: &str, detail_type: &str, detail: Value, incident: bool) -> bool {
    let live = Live::new(5);
    let seen = Seen {
        source,
        detail_type,
        detail: &detail,
    };
    visible(caller, &seen, incident, &live.of_companies)
}

fn arrived(driver: u8, place: Point, keys: &dyn Keyring) -> Event {
    let detail = VendorArrived {
        vendor_id: id(2),
        incident_id: id(3),
        driver_id: id(driver),
        session_id: id(4),
        arrived_at: Ts::from_ms(5),
        location: Personal::plain(place),
        distance_meters: ArrivalMeters::new(50.0).expect("valid"),
    };
    let base = Base {
        id: id(5),
        time: Ts::from_ms(6),
        site: Site::new("hub").expect("valid"),
        home: None,
        cause: None,
        correlation: None,
        metadata: BTreeMap::new(),
    };
    let mut event = Event::build(&detail, base);
    let subject = event.to_seal().expect("plain").to_owned();
    event.seal(&keys.of(&subject).expect("a key"));
    event
}

fn locations(mut events: Vec<(u64, Event)>, keys: Option<&dyn Keyring>) -> Vec<Value> {
    open_all(&mut events, keys);
    let shown = events.iter().map(|(_, event)| to_value(event));
    shown
        .map(|event| event["detail"]["location"].clone())
        .collect()
}

/// Keys by the names of their subjects.
#[derive(Debug, Default)]
struct Keys {
    erased: Option<Id>,
    away: bool,
    asked: AtomicUsize,
}

impl Keyring for Keys {
    fn of(&self, subject: &str) -> Result<DataKey, KeyError> {
        Ok(DataKey::new(subject, &[7; SECRET_LEN]))
    }
    fn named(&self, key_id: &str) -> Result<DataKey, KeyError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match self.erased {
            _ if self.away => Err(KeyError::Unavailable("away".to_owned())),
            Some(erased) if erased.to_string() == key_id => Err(KeyError::Erased),
            _ => self.of(key_id),
        }
    }
    fn blind(&self) -> Result<DataKey, KeyError> {
        self.of("blind")
    }
    fn forget(&self, _: &str) {}
}

#[test]
fn what_is_personal_is_opened_or_masked_and_never_goes_out_sealed() {
    let place = Point::new(40.7128, -74.006).expect("valid");
    let keys = Keys::default();
    let events = || {
        let event = |driver: u8| (1, arrived(driver, place, &keys));
        vec![event(6), event(7)]
    };
    for (_, event) in &events() {
        assert!(to_value(event)["detail"]["location"].is_string(), "sealed");
    }
    let (plain, masked) = (json!({ "lat": 40.7128, "lon": -74.006 }), json!("***"));
    let both = |one: &Value, other: &Value| vec![one.clone(), other.clone()];
    assert_eq!(locations(events(), Some(&keys)), both(&plain, &plain));
    let erased = Keys {
        erased: Some(id(6)),
        ..Keys::default()
    };
    assert_eq!(locations(events(), Some(&erased)), both(&masked, &plain));
    assert_eq!(locations(events(), None), both(&masked, &masked));
    let away = Keys {
        away: true,
        ..Keys::default()
    };
    assert_eq!(locations(events(), Some(&away)), both(&masked, &masked));
    // A key may be waited for; nobody waits once for every event.
    assert_eq!(away.asked.load(Ordering::Relaxed), 1);
}

#[test]
fn everybody_sees_what_is_his() {
    let driver = Caller::of(Actor::Driver(id(1)));
    let vendor = Caller::of(Actor::Vendor(id(2)));
    let admin = Caller::of(Actor::Admin(id(3)));
    let mine = json!({"driverId": id(1), "vendorId": id(2)});
    let others = json!({"driverId": id(8), "vendorId": id(9)});
    for (detail, seen) in [(&mine, true), (&others, false)] {
        let event = |caller: &Caller| {
            sees(
                caller,
                "roadcall.incident",
                "IncidentAssigned",
                detail.clone(),
                false,
            )
        };
        assert_eq!(event(&driver), seen);
        assert_eq!(event(&vendor), seen);
        assert!(event(&admin));
    }
}

#[test]
fn a_fraud_score_and_a_rivals_offer_are_not_for_driver_or_vendor() {
    let driver = Caller::of(Actor::Driver(id(1)));
    let vendor = Caller::of(Actor::Vendor(id(2)));
    let detail = json!({"driverId": id(1), "vendorId": id(2)});
    for caller in [&driver, &vendor] {
        assert!(!sees(
            caller,
            "roadcall.payment",
            "PaymentCreated",
            detail.clone(),
            true
        ));
    }
    let rival = json!({"vendorId": id(7)});
    assert!(!sees(
        &vendor,
        "roadcall.match",
        "OfferCreated",
        rival.clone(),
        true
    ));
    assert!(!sees(
        &driver,
        "roadcall.match",
        "OfferCreated",
        rival,
        true
    ));
}

#[test]
fn a_dispatcher_sees_his_company_and_a_platform_dispatcher_what_has_none() {
    let mut of_company = Caller::of(Actor::Dispatcher(id(4)));
    of_company.company = Some(id(5));
    let of_platform = Caller::of(Actor::Dispatcher(id(6)));
    let companys = json!({"incidentId": id(1), "companyId": id(5)});
    let nobodys = json!({"incidentId": id(1)});
    let event = |caller: &Caller, detail: &Value| {
        sees(
            caller,
            "roadcall.incident",
            "IncidentCreated",
            detail.clone(),
            false,
        )
    };
    assert!(event(&of_company, &companys) && !event(&of_company, &nobodys));
    assert!(event(&of_platform, &nobodys) && !event(&of_platform, &companys));
    // It names no company, so nobody can say whose it is.
    assert!(!sees(
        &of_platform,
        "roadcall.match",
        "OfferDeclined",
        nobodys,
        false
    ));
}
