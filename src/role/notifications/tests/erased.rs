//! A person whose data key is destroyed: nothing of him can be read, nothing is sent to him, and nothing fails for it. His erasure
//! may not have come here yet, or the database was restored from before it.

use serde_json::json;

use super::*;
use crate::event::{CallAttentionNeeded, WorkStarted};

/// What is kept of the calls that stand, as it goes out.
fn kept(bench: &Bench<NotificationsRole>) -> String {
    let calls = bench.effects().into_iter();
    calls.map(|call| call.request.to_string()).collect()
}

#[test]
fn what_waits_for_him_is_unreadable_is_dropped_and_nothing_new_is_sent() {
    let mut bench = peopled();
    bench.event(&payment_approved()).expect("taken");
    bench.event(&payment_approved()).expect("taken");
    let before = kept(&bench);
    for his in [
        "+15551112222",
        "joe@tires.example",
        "device-2",
        "was approved",
    ] {
        assert!(before.contains(his), "{his}");
    }
    bench.keys.erase(&id(VENDOR).to_string());
    let left = kept(&bench);
    for his in ["+1555", "joe@", "device-2", "was approved"] {
        assert!(!left.contains(his), "{his} in {left}");
    }
    for call in std::mem::take(&mut bench.calls) {
        let ended = EffectOutcome::Failed("the person was erased".to_owned());
        bench.answer(&call, ended).expect("taken");
    }
    bench.event(&payment_approved()).expect("taken");
    while let Some(fired) = bench.fire_next_timer() {
        fired.expect("taken");
        let log = log(&mut bench, VENDOR);
        if log.iter().all(|entry| entry.2 != "pending") {
            assert_eq!(log.len(), 9);
            assert!(log.iter().all(|entry| entry.3 == "erased"), "{log:?}");
            break;
        }
    }
    assert!(bench.calls.is_empty());
    bench.event(&erased(VENDOR)).expect("taken");
}

#[test]
fn a_password_for_him_goes_nowhere() {
    let mut bench = peopled();
    bench.keys.erase(&id(DRIVER).to_string());
    let body = json!({ "recipientId": id(DRIVER), "phone": "+15550000001", "code": "123456", "minutes": 5 });
    let auth = Actor::System("auth".to_owned());
    bench
        .command(&auth, "notification.send_otp", body)
        .expect("taken");
    assert_eq!(bench.calls.len(), 1);
    assert_eq!(
        bench.calls[0].request["to"], "***",
        "the runner refuses such"
    );
}

#[test]
fn others_are_told_as_before_and_by_no_name_of_his() {
    let mut bench = bench();
    for (n, role, company) in [
        (DRIVER, UserRole::Driver, None),
        (VENDOR, UserRole::Vendor, None),
        (DISPATCHER, UserRole::Dispatcher, Some(COMPANY)),
        (6, UserRole::Dispatcher, None),
    ] {
        bench.event(&user(n, role, company)).expect("taken");
    }
    bench.keys.erase(&id(VENDOR).to_string());
    bench.keys.erase(&id(DISPATCHER).to_string());
    let body = json!({ "userId": id(DRIVER), "token": "device-1", "platform": "ios" });
    bench
        .command(&operator(), "notification.register_device", body)
        .expect("registered");
    let started = WorkStarted {
        incident_id: id(INCIDENT),
        vendor_id: id(VENDOR),
        driver_id: id(DRIVER),
        incident_type: IncidentType::Tire,
        started_at: bench.now,
    };
    bench.event(&started).expect("taken");
    let calls = all_sent(&mut bench);
    assert_eq!(text(&calls[0]), "The vendor has started the tire work.");
    assert_eq!(calls[0].request["to"][0]["token"], "device-1");
    // The company's only dispatcher is gone, so the platform's is called.
    let attention: CallAttentionNeeded = serde_json::from_value(json!({
        "callId": id(40), "companyId": id(COMPANY), "phone": "+15550000001", "missing": ["driver"],
        "since": bench.now,
    }))
    .expect("an event");
    bench.event(&attention).expect("taken");
    let calls = all_sent(&mut bench);
    assert_eq!(channels(&calls), ["sms"]);
    assert_eq!(calls[0].request["to"], "+15550000006");
}

#[test]
fn his_device_and_his_profile_come_late_and_a_stop_of_his_number_changes_nothing() {
    let mut bench = peopled();
    bench.keys.erase(&id(DRIVER).to_string());
    let body = json!({ "userId": id(DRIVER), "token": "device-9", "platform": "ios" });
    let refused = bench.command(&operator(), "notification.register_device", body);
    assert_eq!(
        crate::role::testing::code(refused),
        crate::role::Code::NotFound
    );
    super::commands::webhook(&mut bench, &[("Body", "STOP"), ("From", "+15550000001")]);
    let mut newer = user(DRIVER, UserRole::Driver, Some(COMPANY));
    newer.profile_version = count(2);
    bench.event(&newer).expect("taken");
    let (shown, _) = bench
        .command(
            &operator(),
            "notification.get_preferences",
            json!({ "userId": id(DRIVER) }),
        )
        .expect("shown");
    assert_eq!(shown["smsOptOut"], false);
}

#[test]
fn a_contact_from_before_anything_was_sealed_is_told_and_says_stop() {
    let mut bench = peopled();
    bench.has_clear = true;
    let doc = json!({ "userId": id(DRIVER), "devices": [{ "token": "device-old", "platform": "ios" }],
        "account": { "version": 1, "role": "driver", "name": "Old", "phone": "+15559990000",
            "language": "en", "timezone": "UTC", "status": "active" } });
    let sql = format!(
        "UPDATE contact SET phone = '+15559990000', doc = '{doc}' WHERE user_id = '{}'",
        id(DRIVER)
    );
    assert_eq!(bench.alter(&sql), 1);
    let body = json!({ "type": "vendor_arrived", "recipientId": id(DRIVER), "channels": ["sms", "push"],
        "variables": { "vendorName": "Joe" } });
    bench
        .command(&operator(), "notification.send", body)
        .expect("sent");
    let calls = all_sent(&mut bench);
    assert_eq!(channels(&calls), ["push", "sms"]);
    let push = calls.iter().find(|call| call.kind == "push");
    let to = &push.expect("a push message").request["to"];
    assert_eq!(to[0]["token"], "device-old");
    super::commands::webhook(&mut bench, &[("Body", "STOP"), ("From", "+15559990000")]);
    let (shown, _) = bench
        .command(
            &operator(),
            "notification.get_preferences",
            json!({ "userId": id(DRIVER) }),
        )
        .expect("shown");
    assert_eq!(shown["smsOptOut"], true);
}

#[test]
fn where_nothing_is_sealed_people_are_told_all_the_same() {
    let role = super::bench().role.options.clone();
    let mut bench = Bench::without_keys(NotificationsRole::new(role));
    bench.event(&vendor()).expect("taken");
    let body = json!({ "userId": id(VENDOR), "token": "device-2", "platform": "ios" });
    bench
        .command(&operator(), "notification.register_device", body)
        .expect("registered");
    bench.event(&payment_approved()).expect("taken");
    assert_eq!(channels(&all_sent(&mut bench)), ["email", "push", "sms"]);
    super::commands::webhook(&mut bench, &[("Body", "STOP"), ("From", "+15551112222")]);
    bench.event(&payment_approved()).expect("taken");
    assert_eq!(channels(&all_sent(&mut bench)), ["email", "push"]);
}
