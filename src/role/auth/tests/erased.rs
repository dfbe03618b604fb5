//! A person whose data key is destroyed, in a database that was restored from before his erasure: it has his rows as they were.

use serde_json::{Value, json};

use super::{AuthRole, DAY_MS, Desk, PHONE, options, reason, refused, user_id};
use crate::event::Actor;
use crate::role::Code;
use crate::role::testing::code;

const OTHER: &str = "+15550002222";

/// A driver with all that an account can have of him, another person, and the driver's key destroyed. Gives his tokens and the
/// id of the other.
fn restored() -> (Desk, Value, Value) {
    let mut desk = Desk::new();
    let tokens = desk.logged_in("driver");
    let own = Actor::Driver(user_id(&tokens));
    let body = json!({ "expectedVersion": 1, "name": "Annabel Smith", "email": "ann@example.com",
        "licenseNumber": "L-7777777", "truckNumber": "T-1234567", "clientRequestId": "r1" });
    desk.ask(&own, "user.update", body).expect("changed");
    desk.request_otp().expect("asked");
    let other = desk.made(OTHER, "vendor");
    desk.bench.keys.erase(&user_id(&tokens).to_string());
    (desk, tokens, other)
}

/// All that is in the answers of an admin's look around.
fn seen(desk: &mut Desk, who: &Value) -> String {
    let who = json!({ "userId": who["userId"] });
    let mut all = String::new();
    for (command, body) in [
        ("user.list", json!({})),
        ("user.list", json!({ "phone": PHONE })),
        ("user.get", who.clone()),
        ("user.export", who.clone()),
        ("consent.get", who),
    ] {
        all += &desk.admin(command, body).expect(command).0.to_string();
    }
    all
}

#[test]
fn nothing_of_him_can_be_read_and_others_are_as_they_were() {
    let (mut desk, tokens, other) = restored();
    let call = desk.bench.calls.pop().expect("a code was asked for");
    let kept = desk.bench.effects();
    let kept = kept.iter().find(|kept| kept.key == call.key);
    let request = kept.expect("kept").request.to_string();
    let answers = seen(&mut desk, &tokens);
    for gone in [PHONE, "Annabel", "ann@example.com", "L-777", "T-123"] {
        assert!(!answers.contains(gone), "{gone} in {answers}");
        assert!(!request.contains(gone), "{gone} in {request}");
    }
    let get = json!({ "userId": tokens["userId"] });
    let him = desk.admin("user.get", get).expect("shown").0;
    assert_eq!(him["status"], "erased");
    let listed = desk.admin("user.list", json!({})).expect("listed").0;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(2));
    let active = desk
        .admin("user.list", json!({ "status": "active" }))
        .expect("listed")
        .0;
    assert_eq!(active["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        (&active["items"][0]["userId"], &active["items"][0]["phone"]),
        (&other["userId"], &json!(OTHER))
    );
    let found = desk
        .admin("user.list", json!({ "phone": OTHER }))
        .expect("listed")
        .0;
    assert_eq!(found["items"][0]["name"], "Bob");
}

#[test]
fn he_comes_in_by_nothing_and_his_number_is_free() {
    let (mut desk, tokens, _) = restored();
    let own = Actor::Driver(user_id(&tokens));
    let right = desk.bench.calls.last().expect("a call").secret.clone();
    let right = right.expect("a code").expose().to_owned();
    assert_eq!(reason(desk.refresh(&tokens["refreshToken"])), "revoked");
    assert_eq!(code(desk.verify(&right)), Code::AuthenticationError);
    for (command, body) in [
        (
            "user.update",
            json!({ "expectedVersion": 2, "name": "Back" }),
        ),
        ("user.request_erasure", json!({})),
        (
            "consent.set",
            json!({ "consent": "marketing", "given": true }),
        ),
    ] {
        assert_eq!(
            refused(desk.ask(&own, command, body)).code,
            Code::InvalidTransition,
            "{command}"
        );
    }
    let asked = desk.bench.calls.len();
    desk.request_otp().expect("the answer to anybody");
    assert_eq!(desk.bench.calls.len(), asked, "nobody is sent a code");
    let again = desk.logged_in("vendor");
    assert_ne!(again["userId"], tokens["userId"]);
    let listed = desk
        .admin("user.list", json!({ "phone": PHONE }))
        .expect("listed")
        .0;
    assert_eq!(listed["items"][0]["userId"], again["userId"]);
    assert!(desk.made("+15550003333", "driver")["userId"].is_string());
}

#[test]
fn the_daily_run_forgets_him_in_the_tables_too_and_tells_it_nobody_again() {
    let (mut desk, tokens, other) = restored();
    let body = json!({ "userId": other["userId"], "expectedVersion": 1, "name": "Bobby" });
    desk.admin("user.update", body).expect("changed");
    desk.pass(4 * 365 * DAY_MS);
    let mut told = Vec::new();
    for _ in 0..3 {
        let events = desk.bench.fire_next_timer().expect("set").expect("handled");
        told.extend(events.into_iter().map(|event| event.entity().to_string()));
    }
    assert_eq!(told, [other["userId"].as_str().expect("a text")]);
    let left = desk.bench.alter("DELETE FROM user WHERE phone IS NOT NULL");
    assert_eq!(left, 0, "no number is kept, not even blind");
    let him = tokens["userId"].as_str().expect("a text");
    let tokens = format!("DELETE FROM refresh_token WHERE user_id = '{him}'");
    assert_eq!(desk.bench.alter(&tokens), 0);
}

#[test]
fn an_account_from_before_anything_was_sealed_is_found_read_and_sealed_at_its_next_change() {
    let mut desk = Desk::new();
    desk.bench.has_clear = true;
    let made = desk.made(PHONE, "driver");
    let id = made["userId"].as_str().expect("a text").to_owned();
    let (doc, phone) = (made.to_string(), PHONE);
    let sql = format!("UPDATE user SET phone = '{phone}', doc = '{doc}' WHERE user_id = '{id}'");
    assert_eq!(desk.bench.alter(&sql), 1);
    let body = json!({ "phone": PHONE, "role": "driver", "name": "Eve" });
    assert_eq!(code(desk.admin("auth.create_user", body)), Code::Conflict);
    let listed = desk
        .admin("user.list", json!({ "phone": PHONE }))
        .expect("listed")
        .0;
    assert_eq!(listed["items"][0], made);
    // The same name again is no change, sealed or not.
    let body = json!({ "userId": id, "expectedVersion": 1, "name": "Bob", "language": "en" });
    let (_, events) = desk.admin("user.update", body).expect("nothing to change");
    assert!(events.is_empty());
    let body = json!({ "userId": id, "expectedVersion": 1, "language": "de" });
    desk.admin("user.update", body).expect("changed");
    let plain = format!("DELETE FROM user WHERE phone = '{PHONE}' OR doc LIKE '%{PHONE}%'");
    assert_eq!(desk.bench.alter(&plain), 0);
}

#[test]
fn where_nothing_is_sealed_people_come_in_all_the_same() {
    let mut desk = Desk::new();
    desk.bench = crate::role::testing::Bench::without_keys(AuthRole::new(options()));
    let tokens = desk.logged_in("driver");
    let found = desk
        .admin("user.list", json!({ "phone": PHONE }))
        .expect("listed")
        .0;
    assert_eq!(
        (&found["items"][0]["userId"], &found["items"][0]["name"]),
        (&tokens["userId"], &json!("Ann"))
    );
    let own = Actor::Driver(user_id(&tokens));
    desk.ask(&own, "user.request_erasure", json!({}))
        .expect("erased");
    assert_ne!(desk.logged_in("driver")["userId"], tokens["userId"]);
}
