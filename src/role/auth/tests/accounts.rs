//! Accounts: who may make, change, restrict and erase them, consents, and the daily run.

use serde_json::{Value, json};

use super::{DAY_MS, Desk, PHONE, admin, refused, user_id};
use crate::event::{Actor, ErasureReason, Id, Known, Ts, ids};
use crate::role::Code;
use crate::role::testing::{code, types};

fn me(tokens: &Value) -> Actor {
    Actor::Driver(user_id(tokens))
}

#[test]
fn an_admin_makes_accounts_that_are_active_at_once() {
    let mut desk = Desk::new();
    let company = ids::derive_v7(1, &[b"company"]);
    let body = json!({
        "phone": PHONE, "role": "dispatcher", "name": "Bob", "companyId": company, "timezone": "America/New_York",
    });
    let (user, events) = desk.admin("auth.create_user", body.clone()).expect("made");
    assert_eq!(types(&events), ["UserRegistered"]);
    assert_eq!(
        (&user["status"], &user["version"]),
        (&json!("active"), &json!(1))
    );
    assert_eq!(user["timezone"], "America/New_York");
    let again = refused(desk.admin("auth.create_user", body.clone()));
    assert_eq!(
        (again.code, again.field.as_deref()),
        (Code::Conflict, Some("phone"))
    );
    let paid =
        json!({ "phone": "+15550002222", "role": "vendor", "name": "V", "paymentType": "company" });
    let paid = refused(desk.admin("auth.create_user", paid));
    assert_eq!(paid.field.as_deref(), Some("paymentType"));
    let nameless = json!({ "phone": "+15550002222", "role": "vendor", "name": " " });
    assert_eq!(
        code(desk.admin("auth.create_user", nameless)),
        Code::ValidationError
    );

    let id = user_id(&user);
    for actor in [
        Actor::Driver(id),
        Actor::Vendor(id),
        Actor::Dispatcher(id),
        Actor::System("gateway".to_owned()),
    ] {
        assert_eq!(
            code(desk.ask(&actor, "auth.create_user", body.clone())),
            Code::AuthorizationError
        );
    }
    let operator = Actor::Operator("ann".to_owned());
    let first = json!({ "phone": "+15550003333", "role": "admin", "name": "Root" });
    assert!(
        desk.ask(&operator, "auth.create_user", first).is_ok(),
        "how the first admin comes to be"
    );
}

#[test]
fn an_account_made_for_a_phone_that_waits_for_its_code_takes_its_place() {
    let mut desk = Desk::new();
    desk.register("driver").expect("registered");
    let code_sent = desk.code();
    let made = desk.made(PHONE, "admin");
    assert_eq!(made["role"], "admin");
    assert!(
        desk.verify(&code_sent).is_err(),
        "the old code lets nobody into the new account"
    );
    let listed = desk.admin("user.list", json!({})).expect("listed").0;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_person_changes_his_own_fields_and_no_others() {
    let mut desk = Desk::new();
    let tokens = desk.logged_in("driver");
    let own = me(&tokens);
    let body = json!({ "expectedVersion": 1, "name": "Ann B", "email": "ann@example.com", "truckNumber": "T-1" });
    let (user, events) = desk.ask(&own, "user.update", body).expect("changed");
    assert_eq!(
        (&user["version"], &user["truckNumber"]),
        (&json!(2), &json!("T-1"))
    );
    let Some(Known::UserUpdated(updated)) = events[0].known() else {
        panic!("{events:?}")
    };
    let names: Vec<&str> = updated
        .changed_fields
        .get()
        .iter()
        .map(|name| name.as_str())
        .collect();
    assert_eq!(names, ["email", "name", "truckNumber"]);
    assert_eq!(updated.profile_version.get(), 2);

    let stale = refused(desk.ask(
        &own,
        "user.update",
        json!({ "expectedVersion": 1, "name": "X" }),
    ));
    assert_eq!(
        (stale.code, stale.details),
        (Code::VersionConflict, Some(json!({ "version": 2 })))
    );
    let (user, events) = desk
        .ask(
            &own,
            "user.update",
            json!({ "expectedVersion": 2, "email": null, "language": "en" }),
        )
        .expect("changed");
    assert!(user.get("email").is_none() && events.len() == 1);
    let (user, events) = desk
        .ask(
            &own,
            "user.update",
            json!({ "expectedVersion": 3, "language": "en" }),
        )
        .expect("nothing to change");
    assert_eq!((&user["version"], events.len()), (&json!(3), 0));
    for (field, value) in [
        ("role", json!("admin")),
        ("companyId", json!(ids::derive_v7(1, &[b"company"]))),
        ("paymentType", json!("company")),
    ] {
        let mut body = json!({ "expectedVersion": 3 });
        body[field] = value;
        let refusal = refused(desk.ask(&own, "user.update", body));
        assert_eq!(
            (refusal.code, refusal.field.as_deref()),
            (Code::AuthorizationError, Some(field))
        );
    }
    for (field, value) in [
        ("phone", json!("+15550009999")),
        ("status", json!("active")),
    ] {
        let mut body = json!({ "expectedVersion": 3 });
        body[field] = value;
        assert_eq!(
            code(desk.ask(&own, "user.update", body)),
            Code::ValidationError
        );
    }
    let stranger = Actor::Driver(ids::derive_v7(1, &[b"stranger"]));
    let body = json!({ "userId": tokens["userId"], "expectedVersion": 3, "name": "X" });
    assert_eq!(
        code(desk.ask(&stranger, "user.update", body.clone())),
        Code::AuthorizationError
    );
    assert!(desk.admin("user.update", body).is_ok());
}

#[test]
fn nobody_changes_his_own_role() {
    let mut desk = Desk::new();
    let root = desk.made(PHONE, "admin");
    let himself = Actor::Admin(user_id(&root));
    let refusal = refused(desk.ask(
        &himself,
        "user.update",
        json!({ "expectedVersion": 1, "role": "driver" }),
    ));
    assert_eq!(refusal.code, Code::AuthorizationError);
    let body = json!({ "userId": root["userId"], "expectedVersion": 1, "role": "driver" });
    let (lowered, _) = desk.admin("user.update", body).expect("another admin may");
    assert_eq!(lowered["role"], "driver");
    let driver = desk.made("+15550002222", "driver");
    let body = json!({
        "userId": driver["userId"], "expectedVersion": 1, "role": "driver", "paymentType": "independent_contractor",
    });
    assert!(desk.admin("user.update", body).is_ok());
    let body = json!({ "userId": driver["userId"], "expectedVersion": 2, "role": "vendor" });
    let refusal = refused(desk.admin("user.update", body));
    assert_eq!(refusal.field.as_deref(), Some("paymentType"));
}

#[test]
fn suspended_and_restored_by_admins_along_the_table() {
    let mut desk = Desk::new();
    let tokens = desk.logged_in("driver");
    let who = json!({ "userId": tokens["userId"] });
    assert_eq!(
        code(desk.ask(&me(&tokens), "user.suspend", who.clone())),
        Code::AuthorizationError
    );
    assert_eq!(
        code(desk.admin("user.restore", who.clone())),
        Code::InvalidTransition
    );
    let stale = json!({ "userId": tokens["userId"], "expectedVersion": 7 });
    assert_eq!(
        code(desk.admin("user.suspend", stale)),
        Code::VersionConflict
    );
    let (user, events) = desk.admin("user.suspend", who.clone()).expect("suspended");
    assert_eq!(
        (&user["status"], types(&events)),
        (&json!("suspended"), vec!["UserUpdated"])
    );
    assert_eq!(
        code(desk.admin("user.suspend", who.clone())),
        Code::InvalidTransition
    );
    let (user, _) = desk.admin("user.restore", who).expect("restored");
    assert_eq!(
        (&user["status"], &user["version"]),
        (&json!("active"), &json!(3))
    );
    let nobody = json!({ "userId": ids::derive_v7(1, &[b"nobody"]) });
    assert_eq!(code(desk.admin("user.suspend", nobody)), Code::NotFound);

    let body = json!({ "phone": "+15550002222", "role": "driver", "name": "P" });
    desk.public("auth.register", body).expect("registered");
    let listed = desk
        .admin("user.list", json!({ "status": "pending" }))
        .expect("listed")
        .0;
    let pending = json!({ "userId": listed["items"][0]["userId"] });
    for command in ["user.suspend", "user.restore"] {
        assert_eq!(
            code(desk.admin(command, pending.clone())),
            Code::InvalidTransition,
            "{command}"
        );
    }
}

#[test]
fn accounts_are_shown_to_their_owners_and_listed_for_admins() {
    let mut desk = Desk::new();
    let tokens = desk.logged_in("driver");
    let own = me(&tokens);
    let mine = desk.ask(&own, "auth.me", json!({})).expect("shown").0;
    assert_eq!(
        (&mine["phone"], &mine["status"]),
        (&json!(PHONE), &json!("active"))
    );
    assert!(mine["lastLoginAt"].is_string());
    assert_eq!(
        desk.ask(&own, "user.get", json!({})).expect("shown").0,
        mine
    );
    let other = json!({ "userId": ids::derive_v7(1, &[b"other"]) });
    assert_eq!(
        code(desk.ask(&own, "user.get", other.clone())),
        Code::AuthorizationError
    );
    assert_eq!(code(desk.admin("user.get", other)), Code::NotFound);
    assert_eq!(
        code(desk.ask(&own, "user.list", json!({}))),
        Code::AuthorizationError
    );
    let operator = Actor::Operator("ann".to_owned());
    assert_eq!(
        code(desk.ask(&operator, "auth.me", json!({}))),
        Code::ValidationError
    );

    for n in 0..3 {
        desk.pass(1);
        desk.made(&format!("+1555000222{n}"), "vendor");
    }
    let mut cursor = Value::Null;
    let mut seen: Vec<Id> = Vec::new();
    loop {
        let body = json!({ "role": "vendor", "limit": 2, "cursor": cursor });
        let page = desk.admin("user.list", body).expect("listed").0;
        seen.extend(page["items"].as_array().into_iter().flatten().map(user_id));
        match page.get("cursor") {
            Some(next) => cursor = next.clone(),
            None => break,
        }
    }
    assert_eq!(seen.len(), 3);
    let by_phone = desk
        .admin("user.list", json!({ "phone": PHONE }))
        .expect("listed")
        .0;
    assert_eq!(by_phone["items"][0]["userId"], tokens["userId"]);
}

#[test]
fn an_erased_person_leaves_nothing_and_his_phone_is_free() {
    let mut desk = Desk::new();
    let tokens = desk.logged_in("driver");
    let own = me(&tokens);
    let body = json!({ "expectedVersion": 1, "email": "ann@example.com", "licenseNumber": "L-77" });
    desk.ask(&own, "user.update", body).expect("changed");
    let exported = desk
        .ask(&own, "user.export", json!({}))
        .expect("exported")
        .0;
    assert_eq!(exported["user"]["licenseNumber"], "L-77");
    assert_eq!(exported["logins"].as_array().map(Vec::len), Some(1));
    assert!(
        !exported
            .to_string()
            .contains(tokens["refreshToken"].as_str().expect("a text"))
    );

    let stranger = Actor::Vendor(ids::derive_v7(1, &[b"stranger"]));
    let who = json!({ "userId": tokens["userId"] });
    assert_eq!(
        code(desk.ask(&stranger, "user.request_erasure", who.clone())),
        Code::AuthorizationError
    );
    desk.request_otp().expect("asked");
    let code_sent = desk.code();
    let (answer, events) = desk
        .ask(&own, "user.request_erasure", json!({}))
        .expect("erased");
    assert_eq!(answer["status"], "erased");
    let Some(Known::UserDataDeleted(deleted)) = events[0].known() else {
        panic!("{events:?}")
    };
    assert_eq!(
        (deleted.reason, &deleted.requested_by),
        (ErasureReason::Request, &own)
    );
    assert!(desk.refresh(&tokens["refreshToken"]).is_err() && desk.verify(&code_sent).is_err());
    let left = desk
        .admin("user.get", who.clone())
        .expect("shown")
        .0
        .to_string();
    for gone in [PHONE, "Ann", "ann@example.com", "L-77"] {
        assert!(!left.contains(gone), "{left}");
    }
    assert_eq!(
        code(desk.admin("user.request_erasure", who)),
        Code::InvalidTransition
    );
    let again = desk.logged_in("vendor");
    assert_ne!(
        again["userId"], tokens["userId"],
        "the phone may be somebody else's now"
    );
}

#[test]
fn who_has_not_logged_in_for_three_years_is_erased_at_two_in_the_morning() {
    let mut desk = Desk::new();
    let start = desk.bench.now;
    let away = desk.made("+15550002222", "driver");
    let here = desk.logged_in("driver");
    // The code's own timer is gone with the code, so the daily one is next: 02:00 of the day after.
    let fired = desk.bench.fire_next_timer().expect("set").expect("handled");
    assert!(fired.is_empty());
    assert_eq!(desk.bench.now.ms() % DAY_MS, 2 * 3_600_000);
    assert_eq!(desk.bench.now.ms() / DAY_MS, start.ms() / DAY_MS + 1);

    // Who comes back only by refresh tokens is here, too. Three years later, with a leap day in them.
    let mut tokens = here;
    for _ in 0..40 {
        desk.pass(27 * DAY_MS);
        tokens = desk.refresh(&tokens["refreshToken"]).expect("refreshed").0;
    }
    let due = start
        .datetime()
        .checked_add_months(chrono::Months::new(36))
        .expect("a time");
    let mut erased: Vec<(Id, Ts)> = Vec::new();
    while desk.bench.now.datetime() < due + chrono::TimeDelta::days(2) {
        desk.bench.now = Ts::from_ms(desk.bench.now.ms().max(due.timestamp_millis() - 3 * DAY_MS));
        let events = desk.bench.fire_next_timer().expect("set").expect("handled");
        for event in &events {
            let Some(Known::UserDataDeleted(deleted)) = event.known() else {
                panic!("{event:?}")
            };
            assert_eq!(deleted.reason, ErasureReason::Inactivity);
            assert_eq!(deleted.requested_by, Actor::System("auth".to_owned()));
            erased.push((deleted.user_id, desk.bench.now));
        }
        desk.pass(1);
    }
    assert_eq!(
        erased.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
        [user_id(&away)]
    );
    let passed_ms = erased[0].1.ms() - due.timestamp_millis();
    assert!(
        (0..DAY_MS).contains(&passed_ms),
        "in the first night after: {passed_ms}"
    );
    let who = json!({ "userId": tokens["userId"] });
    let here = desk.admin("user.get", who).expect("shown").0;
    assert_eq!(here["status"], "active");
}

#[test]
fn consents_are_answered_one_by_one_and_remembered() {
    let mut desk = Desk::new();
    let tokens = desk.logged_in("driver");
    let own = me(&tokens);
    let set = |desk: &mut Desk, consent: &str, given: bool| {
        desk.ask(
            &own,
            "consent.set",
            json!({ "consent": consent, "given": given }),
        )
    };
    let all = desk.ask(&own, "consent.get", json!({})).expect("shown").0;
    assert_eq!(all["items"].as_array().map(Vec::len), Some(5));
    assert_eq!(
        all["items"][0],
        json!({ "consent": "data_processing", "given": false })
    );
    set(&mut desk, "data_processing", true).expect("set");
    set(&mut desk, "marketing", true).expect("set");
    desk.pass(1_000);
    set(&mut desk, "marketing", true).expect("the same again");
    let (all, events) = set(&mut desk, "marketing", false).expect("set");
    assert!(events.is_empty());
    let at = desk.bench.now.to_string();
    assert_eq!(
        all["items"][1],
        json!({ "consent": "marketing", "given": false, "at": at })
    );
    assert_eq!(
        refused(set(&mut desk, "data_processing", false))
            .field
            .as_deref(),
        Some("given")
    );
    assert_eq!(code(set(&mut desk, "cookies", true)), Code::ValidationError);
    let exported = desk
        .ask(&own, "user.export", json!({}))
        .expect("exported")
        .0;
    assert_eq!(
        exported["consents"].as_array().map(Vec::len),
        Some(3),
        "what changed, each once"
    );

    let other = json!({ "userId": tokens["userId"], "consent": "marketing", "given": true });
    let stranger = Actor::Driver(ids::derive_v7(1, &[b"stranger"]));
    assert_eq!(
        code(desk.ask(&stranger, "consent.set", other.clone())),
        Code::AuthorizationError
    );
    assert!(desk.ask(&admin(), "consent.set", other).is_ok());
}
