//! The order of checks, the limits and the directory: S16, S17, S20.

use serde_json::json;

use super::*;
use crate::event::{UserUpdated, VendorUpdated};
use crate::role::testing::Reach;
use crate::role::{HandlerError, Mode};

fn prefer(bench: &mut Bench<NotificationsRole>, n: u8, version: u64, more: Value) {
    let mut body = json!({ "userId": id(n), "expectedVersion": version });
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    bench
        .command(&operator(), "notification.set_preferences", body)
        .expect("set");
}

#[test]
fn s16_the_eleventh_sms_of_an_hour_is_dropped_while_push_email_otp_and_offer_go_on() {
    let mut bench = peopled();
    let start = bench.now;
    for n in 1..=11u8 {
        bench.now = start + Duration::from_secs(u64::from(n - 1) * 60);
        bench.event(&payment_approved()).expect("taken");
        let calls = all_sent(&mut bench);
        let expected: &[&str] = if n <= 10 {
            &["email", "push", "sms"]
        } else {
            &["email", "push"]
        };
        assert_eq!(channels(&calls), expected, "message {n}");
    }
    let eleventh = log(&mut bench, VENDOR);
    let dropped: Vec<_> = eleventh
        .iter()
        .filter(|entry| entry.2 == "dropped")
        .collect();
    assert_eq!(dropped.len(), 1, "{dropped:?}");
    assert_eq!(
        (dropped[0].1.as_str(), dropped[0].3.as_str()),
        ("sms", "sms_limit")
    );

    let otp = json!({ "recipientId": id(VENDOR), "phone": "+15551112222", "code": "123456", "minutes": 5 });
    bench
        .command(
            &Actor::System("auth".to_owned()),
            "notification.send_otp",
            otp,
        )
        .expect("sent");
    assert_eq!(channels(&all_sent(&mut bench)), ["sms"]);
    let offer = offer(&bench);
    bench.event(&offer).expect("taken");
    assert_eq!(channels(&all_sent(&mut bench)), ["push", "sms"]);

    bench.now = start + Duration::from_secs(61 * 60);
    bench.event(&payment_approved()).expect("taken");
    assert_eq!(channels(&all_sent(&mut bench)), ["email", "push", "sms"]);
}

#[test]
fn the_limit_is_one_of_a_rolling_hour_to_the_millisecond_and_failures_do_not_count() {
    let mut bench = peopled();
    let start = bench.now;
    for n in 0..10u64 {
        bench.now = start + Duration::from_secs(n);
        bench.event(&payment_approved()).expect("taken");
        if n == 9 {
            // A refusal is no SMS: its place is free again after the third.
            for _ in 0..3 {
                for call in std::mem::take(&mut bench.calls) {
                    let refused = EffectOutcome::Failed("sms: HTTP 400".to_owned());
                    let outcome = if call.kind == "sms" { refused } else { sent() };
                    bench.answer(&call, outcome).expect("taken");
                }
                let _ = bench.fire_next_timer();
            }
            all_sent(&mut bench);
        } else {
            all_sent(&mut bench);
        }
    }
    let failed = log(&mut bench, VENDOR);
    assert_eq!(failed.iter().filter(|entry| entry.2 == "failed").count(), 1);
    bench.event(&payment_approved()).expect("taken");
    assert!(
        channels(&all_sent(&mut bench)).contains(&"sms"),
        "nine and a failure: one is free"
    );
    bench.now = start + Duration::from_millis(3_599_999);
    bench.event(&payment_approved()).expect("taken");
    assert!(!channels(&all_sent(&mut bench)).contains(&"sms"));
    bench.now = start + Duration::from_millis(3_600_000);
    bench.event(&payment_approved()).expect("taken");
    assert!(channels(&all_sent(&mut bench)).contains(&"sms"));
}

#[test]
fn sms_that_are_still_on_their_way_count_to_the_limit() {
    let mut bench = peopled();
    for _ in 0..12 {
        bench.event(&payment_approved()).expect("taken");
    }
    let calls = all_sent(&mut bench);
    let sms = calls.iter().filter(|call| call.kind == "sms").count();
    assert_eq!((sms, calls.len()), (10, 34));
}

#[test]
fn s17_quiet_hours_leave_a_silent_push_but_not_for_what_is_urgent() {
    let mut bench = peopled();
    let quiet = json!({ "quietHours": { "start": "22:00", "end": "08:00", "timezone": "America/New_York" } });
    prefer(&mut bench, VENDOR, 0, quiet);
    let at = |text: &str| text.parse::<Ts>().expect("a time");
    bench.now = at("2024-07-02T03:00:00.000Z");
    bench.event(&payment_approved()).expect("taken");
    let calls = all_sent(&mut bench);
    assert_eq!(channels(&calls), ["push"]);
    assert_eq!(calls[0].request["silent"], true);
    let offer = offer(&bench);
    bench.event(&offer).expect("taken");
    let calls = all_sent(&mut bench);
    assert_eq!(channels(&calls), ["push", "sms"]);
    assert!(calls.iter().all(|call| call.request["silent"] == false));
    // Both ends belong to them, to the minute.
    for (time, expected) in [
        ("2024-07-02T01:59:59.999Z", 3),
        ("2024-07-02T02:00:00.000Z", 1),
        ("2024-07-02T12:00:59.999Z", 1),
        ("2024-07-02T12:01:00.000Z", 3),
    ] {
        bench.now = at(time);
        bench.event(&payment_approved()).expect("taken");
        assert_eq!(all_sent(&mut bench).len(), expected, "{time}");
    }
}

#[test]
fn quiet_hours_are_in_the_persons_zone_and_may_lie_within_a_day() {
    let quiet = |start: &str, end: &str| super::super::preferences::QuietHours {
        start: start.parse().expect("a time of day"),
        end: end.parse().expect("a time of day"),
        timezone: None,
    };
    let at = |text: &str| text.parse::<Ts>().expect("a time");
    let day = quiet("12:00", "13:00");
    assert!(day.hold(chrono_tz::UTC, at("2024-07-02T12:00:00.000Z")));
    assert!(day.hold(chrono_tz::UTC, at("2024-07-02T13:00:59.000Z")));
    assert!(!day.hold(chrono_tz::UTC, at("2024-07-02T13:01:00.000Z")));
    assert!(day.hold(chrono_tz::Asia::Tokyo, at("2024-07-02T03:30:00.000Z")));
    // The night of the change to winter time has one hour twice: both are night.
    let night = quiet("22:00", "08:00");
    let zone = chrono_tz::America::New_York;
    assert!(night.hold(zone, at("2024-11-03T05:30:00.000Z")));
    assert!(night.hold(zone, at("2024-11-03T06:30:00.000Z")));
    assert!(!night.hold(zone, at("2024-11-03T13:01:00.000Z")));
}

#[test]
fn muted_then_channel_then_opt_out_then_quiet_hours_is_the_order_of_reasons() {
    let mut bench = peopled();
    bench.now = "2024-07-02T03:00:00.000Z".parse().expect("a time");
    for (version, (more, sms, email)) in (0..).zip([
        (
            json!({ "quietHours": { "start": "22:00", "end": "08:00" } }),
            "quiet_hours",
            "quiet_hours",
        ),
        (json!({ "smsOptOut": true }), "opted_out", "quiet_hours"),
        (
            json!({ "channels": { "push": true, "sms": false, "email": true } }),
            "channel_off",
            "quiet_hours",
        ),
        (
            json!({ "mutedTypes": ["payment_approved"] }),
            "muted",
            "muted",
        ),
    ]) {
        prefer(&mut bench, VENDOR, version, more);
        bench.now = bench.now + Duration::from_secs(1);
        bench.event(&payment_approved()).expect("taken");
        all_sent(&mut bench);
        let newest = log(&mut bench, VENDOR);
        let reason = |channel: &str| {
            let found = newest.iter().take(3).find(|entry| entry.1 == channel);
            found.map(|entry| entry.3.clone()).expect("in the log")
        };
        assert_eq!(
            (reason("sms").as_str(), reason("email").as_str()),
            (sms, email)
        );
    }
}

#[test]
fn a_contact_that_is_missing_is_an_error_and_an_address_that_he_lacks_is_not() {
    let mut bench = bench();
    let result = bench.event(&payment_approved());
    assert!(
        matches!(result, Err(HandlerError::Transient(_))),
        "{result:?}"
    );
    assert!(bench.calls.is_empty() && log(&mut bench, VENDOR).is_empty());
    let mut known = vendor();
    known.email = None;
    bench.event(&known).expect("taken");
    bench.event(&payment_approved()).expect("taken");
    assert_eq!(channels(&all_sent(&mut bench)), ["sms"]);
    let log = log(&mut bench, VENDOR);
    assert_eq!(
        log.iter().filter(|entry| entry.3 == "no_address").count(),
        2
    );
}

#[test]
fn a_vendor_without_a_name_is_an_error_and_no_gap_in_a_sentence() {
    let mut bench = bench();
    bench
        .event(&user(DRIVER, UserRole::Driver, None))
        .expect("taken");
    let arrived = crate::event::VendorArrived {
        vendor_id: id(VENDOR),
        incident_id: id(INCIDENT),
        driver_id: id(DRIVER),
        session_id: id(50),
        arrived_at: bench.now,
        location: Personal::Plain(Point {
            lat: 40.0,
            lon: -74.0,
        }),
        distance_meters: crate::event::ArrivalMeters::new(5.0).expect("in range"),
    };
    match bench.event(&arrived) {
        Err(HandlerError::Transient(why)) => assert!(why.contains("vendorName"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(bench.calls.is_empty() && log(&mut bench, DRIVER).is_empty());
    bench.event(&vendor()).expect("taken");
    bench.event(&arrived).expect("taken");
    assert_eq!(channels(&all_sent(&mut bench)), ["sms"]);
}

#[test]
fn an_older_profile_never_replaces_a_newer_one_whichever_comes_first() {
    let mut bench = bench();
    let mut newer = vendor();
    newer.profile_version = count(3);
    newer.phone = Personal::Plain(E164::new("+15559999999").expect("valid"));
    let update = |from: &VendorRegistered| VendorUpdated {
        vendor_id: from.vendor_id,
        business_name: from.business_name.clone(),
        contact_name: from.contact_name.clone(),
        phone: from.phone.clone(),
        email: from.email.clone(),
        capabilities: from.capabilities.clone(),
        location: from.location,
        coverage_radius_miles: from.coverage_radius_miles,
        timezone: from.timezone,
        operating_hours: from.operating_hours.clone(),
        pricing: from.pricing.clone(),
        insurance_expiry: from.insurance_expiry,
        background_check_status: from.background_check_status,
        payout_account_ref: None,
        profile_version: from.profile_version,
        registered_at: from.registered_at,
        changed_fields: List::new(vec![Text::lossy("phone")]).expect("one"),
    };
    bench.event(&update(&newer)).expect("taken");
    bench.event(&vendor()).expect("taken");
    let account = user(VENDOR, UserRole::Vendor, None);
    bench.event(&account).expect("taken");
    bench.event(&payment_approved()).expect("taken");
    let calls = all_sent(&mut bench);
    let sms = calls
        .iter()
        .find(|call| call.kind == "sms")
        .expect("an SMS");
    // His business goes before his account, too.
    assert_eq!(sms.request["to"], "+15559999999");
}

#[test]
fn who_is_erased_gets_nothing_more_and_does_not_come_back() {
    let mut bench = peopled();
    bench.event(&payment_approved()).expect("taken");
    bench.event(&payment_approved()).expect("taken");
    let under_way = std::mem::take(&mut bench.calls);
    bench.event(&erased(VENDOR)).expect("taken");
    for call in under_way {
        bench.answer(&call, sent()).expect("taken");
    }
    assert!(bench.calls.is_empty(), "what waited behind is dropped");
    let log = log(&mut bench, VENDOR);
    assert!(log.iter().all(|entry| entry.3 == "erased"), "{log:?}");
    bench.event(&vendor()).expect("taken");
    let account = user(VENDOR, UserRole::Vendor, None);
    let update = UserUpdated {
        user_id: account.user_id,
        phone: account.phone,
        role: account.role,
        name: account.name,
        email: account.email,
        company_id: None,
        payment_type: None,
        language: account.language,
        timezone: account.timezone,
        status: account.status,
        profile_version: count(9),
        registered_at: account.registered_at,
        changed_fields: List::new(vec![Text::lossy("name")]).expect("one"),
    };
    bench.event(&update).expect("taken");
    bench
        .event(&payment_approved())
        .expect("an erased vendor is no error");
    assert!(bench.calls.is_empty());
    // Others still learn what his business is called.
    let detail = crate::event::WorkStarted {
        incident_id: id(INCIDENT),
        vendor_id: id(VENDOR),
        driver_id: id(DRIVER),
        incident_type: IncidentType::Tire,
        started_at: bench.now,
    };
    bench.event(&detail).expect("taken");
    assert_eq!(
        text(&all_sent(&mut bench)[0]),
        "Joe's Tires & Co has started the tire work."
    );
}

#[test]
fn s20_a_replay_sends_nothing_and_what_it_left_out_can_follow_when_it_is_told_to() {
    let mut bench = peopled();
    let live = bench.received(&payment_approved(), Mode::Live, false);
    bench.deliver(live.clone()).expect("taken");
    assert_eq!(all_sent(&mut bench).len(), 3);
    let left_out = bench.received(&payment_approved(), Mode::Replay, false);
    for reach in [Reach::NoExternal, Reach::StateOnly] {
        bench.reach = reach;
        let mut again = live.clone();
        again.mode = Mode::Replay;
        bench.deliver(again).expect("taken");
        bench.deliver(left_out.clone()).expect("taken");
    }
    assert!(bench.calls.is_empty());
    let dropped = log(&mut bench, VENDOR);
    assert_eq!(
        dropped.iter().filter(|entry| entry.3 == "replay").count(),
        3
    );
    bench.reach = Reach::Full;
    bench.deliver(live).expect("taken");
    assert!(bench.calls.is_empty(), "what was sent is not sent again");
    bench.deliver(left_out).expect("taken");
    assert_eq!(all_sent(&mut bench).len(), 3);
    assert!(
        log(&mut bench, VENDOR)
            .iter()
            .all(|entry| entry.2 == "sent")
    );
}
