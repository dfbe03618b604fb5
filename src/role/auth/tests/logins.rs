//! Registration, one-time passwords, tokens: S26 and what stands around it.

use serde_json::{Value, json};

use super::{DAY_MS, Desk, MINUTE_MS, PHONE, reason, refused, user_id};
use crate::event::{Actor, Known, UserRole};
use crate::role::auth::token::{KeySet, TokenError, verify};
use crate::role::testing::{code, types};
use crate::role::{Code, HandlerError};
use crate::store::{EffectClass, EffectOutcome};

#[test]
fn s26_three_wrong_codes_spend_the_session() {
    let mut desk = Desk::new();
    desk.register("driver").expect("registered");
    let (right, wrong) = (desk.code(), desk.wrong_code());
    for _ in 0..3 {
        assert_eq!(reason(desk.verify(&wrong)), "invalid");
    }
    assert_eq!(reason(desk.verify(&right)), "too_many_attempts");
    desk.request_otp().expect("asked");
    let right = desk.code();
    assert!(desk.verify(&right).is_ok(), "a new session has new tries");
}

#[test]
fn s26_a_code_lasts_five_minutes() {
    let mut desk = Desk::new();
    desk.register("driver").expect("registered");
    let right = desk.code();
    desk.pass(5 * MINUTE_MS - 1);
    assert!(desk.verify(&right).is_ok());
    desk.request_otp().expect("asked");
    let right = desk.code();
    desk.pass(5 * MINUTE_MS + 1_000);
    assert_eq!(reason(desk.verify(&right)), "expired");

    // The timer removes it, and the answer stays.
    desk.request_otp().expect("asked");
    let right = desk.code();
    let fired = desk.bench.fire_next_timer().expect("a timer");
    assert!(fired.expect("handled").is_empty());
    assert_eq!(reason(desk.verify(&right)), "expired");
}

#[test]
fn s26_the_sixth_request_within_an_hour_waits() {
    let mut desk = Desk::new();
    desk.register("driver").expect("registered");
    for _ in 0..4 {
        desk.pass(10 * MINUTE_MS);
        desk.request_otp().expect("asked");
    }
    let refusal = refused(desk.request_otp());
    assert_eq!(refusal.code, Code::RateLimitExceeded);
    assert_eq!(
        refusal.details,
        Some(json!({ "retryAfterSeconds": 20 * 60 }))
    );
    assert_eq!(desk.bench.calls.len(), 5, "nothing is sent");
    let other = json!({ "phone": "+15550002222" });
    assert!(
        desk.public("auth.request_otp", other).is_ok(),
        "it is the phone's limit"
    );
    desk.pass(20 * MINUTE_MS - 1);
    assert_eq!(code(desk.request_otp()), Code::RateLimitExceeded);
    desk.pass(1);
    assert!(desk.request_otp().is_ok(), "the hour rolls");
    assert_eq!(code(desk.request_otp()), Code::RateLimitExceeded);
}

#[test]
fn s26_an_old_refresh_token_ends_its_whole_family() {
    let mut desk = Desk::new();
    let first = desk.logged_in("driver");
    desk.pass(MINUTE_MS);
    let (second, _) = desk.refresh(&first["refreshToken"]).expect("refreshed");
    assert_ne!(second["refreshToken"], first["refreshToken"]);
    // Another login of the same person is another family.
    desk.request_otp().expect("asked");
    let right = desk.code();
    let (other, _) = desk.verify(&right).expect("verified");
    assert_eq!(reason(desk.refresh(&first["refreshToken"])), "reused");
    assert_eq!(reason(desk.refresh(&second["refreshToken"])), "revoked");
    assert!(desk.refresh(&other["refreshToken"]).is_ok());
}

#[test]
fn s26_nobody_registers_himself_as_admin_or_dispatcher() {
    for role in ["admin", "dispatcher"] {
        let mut desk = Desk::new();
        let refusal = refused(desk.register(role));
        assert_eq!(refusal.code, Code::AuthorizationError);
        assert_eq!(refusal.field.as_deref(), Some("role"));
        assert!(desk.bench.calls.is_empty());
        let listed = desk.admin("user.list", json!({})).expect("listed").0;
        assert_eq!(listed["items"], json!([]));
    }
}

#[test]
fn the_first_right_code_makes_an_account_and_tells_of_it() {
    let mut desk = Desk::new();
    let (answer, events) = desk.register("vendor").expect("registered");
    assert_eq!(answer, json!({ "codeExpiresInSeconds": 300 }));
    assert!(events.is_empty(), "a pending account is nobody's business");
    let call = desk.bench.calls.last().expect("a call").clone();
    assert_eq!(
        (call.kind.as_str(), call.class),
        ("otp", EffectClass::External)
    );
    assert_eq!(
        (&call.request["phone"], &call.request["minutes"]),
        (&json!(PHONE), &json!(5))
    );
    assert!(
        !format!("{call:?}").contains(&desk.code()),
        "the code is in the secret alone"
    );
    let right = desk.code();
    let (tokens, events) = desk.verify(&right).expect("verified");
    assert_eq!(types(&events), ["UserRegistered", "UserVerified"]);
    let Some(Known::UserRegistered(known)) = events[0].known() else {
        panic!("{events:?}")
    };
    assert_eq!(
        (known.role, known.profile_version.get()),
        (UserRole::Vendor, 1)
    );
    assert_eq!(
        desk.bench
            .revealed(&known.phone)
            .map(|phone| phone.to_string())
            .as_deref(),
        Some(PHONE)
    );
    assert_eq!(known.user_id, user_id(&tokens));
    assert_eq!(
        (&tokens["expiresInSeconds"], &tokens["role"]),
        (&json!(900), &json!("vendor"))
    );
    assert_eq!(
        reason(desk.verify(&right)),
        "expired",
        "a code is good once"
    );

    desk.request_otp().expect("asked");
    let right = desk.code();
    let (_, events) = desk.verify(&right).expect("verified");
    assert_eq!(types(&events), ["UserVerified"]);
    let done = desk
        .bench
        .answer(&call, EffectOutcome::Failed("no".to_owned()));
    assert!(done.expect("handled").is_empty());
}

#[test]
fn no_answer_tells_whether_a_phone_is_known() {
    let mut known = Desk::new();
    known.logged_in("driver");
    let mut unknown = Desk::new();
    let before = known.bench.calls.len();
    let answers = [known.request_otp(), unknown.request_otp()];
    let answers = answers.map(|answer| answer.expect("answered").0);
    assert_eq!(answers[0], answers[1]);
    assert_eq!(known.bench.calls.len(), before + 1);
    assert!(unknown.bench.calls.is_empty(), "nobody is sent a code");
    let registered = [known.register("vendor"), unknown.register("vendor")];
    let registered = registered.map(|answer| answer.expect("answered").0);
    assert_eq!(registered[0], registered[1]);
    assert_eq!(registered[0], answers[0]);

    // Nor do the answers to codes, whatever they are.
    let mut unknown = Desk::new();
    unknown.request_otp().expect("answered");
    let wrong = known.wrong_code();
    for wanted in ["invalid", "invalid", "invalid", "too_many_attempts"] {
        assert_eq!(reason(known.verify(&wrong)), wanted);
        assert_eq!(reason(unknown.verify(&wrong)), wanted);
    }
    for desk in [&mut known, &mut unknown] {
        desk.pass(5 * MINUTE_MS);
        assert_eq!(reason(desk.verify("000000")), "expired");
    }
    assert_eq!(reason(Desk::new().verify("000000")), "expired");
}

#[test]
fn an_account_that_is_there_is_not_changed_by_registering_again() {
    let mut desk = Desk::new();
    let tokens = desk.logged_in("driver");
    let body =
        json!({ "phone": PHONE, "role": "vendor", "name": "Eve", "email": "eve@example.com" });
    desk.public("auth.register", body).expect("answered");
    let get = json!({ "userId": tokens["userId"] });
    let user = desk.admin("user.get", get).expect("found").0;
    assert_eq!(
        (&user["role"], &user["name"]),
        (&json!("driver"), &json!("Ann"))
    );
    assert!(user.get("email").is_none());
    assert!(
        desk.bench
            .calls
            .last()
            .expect("a call")
            .request
            .get("email")
            .is_none()
    );
}

#[test]
fn what_was_said_last_before_the_code_counts_and_no_unconfirmed_address_gets_it() {
    let mut desk = Desk::new();
    desk.register("vendor").expect("registered");
    let first = desk.code();
    let body =
        json!({ "phone": PHONE, "role": "driver", "name": "Ann", "email": "ann@example.com" });
    desk.public("auth.register", body).expect("registered");
    assert!(
        desk.bench
            .calls
            .last()
            .expect("a call")
            .request
            .get("email")
            .is_none()
    );
    assert_ne!(desk.code(), first);
    assert_eq!(
        reason(desk.verify(&first)),
        "invalid",
        "one open session per phone"
    );
    let right = desk.code();
    let (tokens, _) = desk.verify(&right).expect("verified");
    assert_eq!(tokens["role"], "driver");
    desk.request_otp().expect("asked");
    let call = desk.bench.calls.last().expect("a call");
    assert_eq!(
        call.request["email"], "ann@example.com",
        "now he has confirmed it"
    );
}

#[test]
fn tokens_verify_with_the_published_keys() {
    let mut desk = Desk::new();
    let tokens = desk.logged_in("driver");
    let keys = desk.public("auth.keys", json!({})).expect("answered").0;
    let set = KeySet::from_json(&keys).expect("a key set");
    let token = tokens["accessToken"].as_str().expect("a text");
    let now = desk.bench.now;
    let claims = verify(token, &set, now).expect("valid");
    assert_eq!((claims.sub, claims.iss.as_str()), (user_id(&tokens), "hub"));
    assert_eq!(claims.caller().actor, Actor::Driver(user_id(&tokens)));
    assert_eq!(claims.exp - claims.iat, 900);
    desk.pass(15 * MINUTE_MS);
    assert_eq!(
        verify(token, &set, desk.bench.now),
        Err(TokenError::Expired)
    );
    let (again, _) = desk.refresh(&tokens["refreshToken"]).expect("refreshed");
    let second = verify(
        again["accessToken"].as_str().expect("a text"),
        &set,
        desk.bench.now,
    );
    assert_ne!(second.expect("valid").jti, claims.jti);
}

#[test]
fn role_and_status_are_read_afresh_at_a_refresh() {
    let mut desk = Desk::new();
    let tokens = desk.logged_in("driver");
    let body = json!({ "userId": tokens["userId"], "role": "dispatcher", "expectedVersion": 1 });
    desk.admin("user.update", body).expect("changed");
    let (tokens, _) = desk.refresh(&tokens["refreshToken"]).expect("refreshed");
    assert_eq!(tokens["role"], "dispatcher");
    let who = json!({ "userId": tokens["userId"] });
    desk.admin("user.suspend", who.clone()).expect("suspended");
    assert_eq!(reason(desk.refresh(&tokens["refreshToken"])), "revoked");
    let sent = desk.bench.calls.len();
    desk.request_otp().expect("the same answer");
    assert_eq!(desk.bench.calls.len(), sent, "and no code");
    desk.admin("user.restore", who).expect("restored");
    assert_eq!(reason(desk.refresh(&tokens["refreshToken"])), "revoked");
    desk.request_otp().expect("asked");
    let right = desk.code();
    assert!(desk.verify(&right).is_ok());
}

#[test]
fn a_code_sent_before_a_suspension_opens_nothing() {
    let mut desk = Desk::new();
    let tokens = desk.logged_in("driver");
    desk.request_otp().expect("asked");
    let who = json!({ "userId": tokens["userId"] });
    desk.admin("user.suspend", who.clone()).expect("suspended");
    let right = desk.code();
    assert_eq!(code(desk.verify(&right)), Code::AuthenticationError);
    desk.admin("user.restore", who).expect("restored");
    assert_eq!(reason(desk.verify(&right)), "expired", "it is spent");
}

#[test]
fn refresh_tokens_last_thirty_days_and_end_with_a_logout() {
    let mut desk = Desk::new();
    let first = desk.logged_in("driver");
    desk.pass(30 * DAY_MS - 1);
    let (second, _) = desk.refresh(&first["refreshToken"]).expect("refreshed");
    desk.pass(30 * DAY_MS);
    assert_eq!(reason(desk.refresh(&second["refreshToken"])), "expired");
    assert_eq!(reason(desk.refresh(&json!("A".repeat(43)))), "invalid");
    assert_eq!(code(desk.refresh(&json!("short"))), Code::ValidationError);

    desk.request_otp().expect("asked");
    let right = desk.code();
    let (one, _) = desk.verify(&right).expect("verified");
    desk.request_otp().expect("asked");
    let right = desk.code();
    let (two, _) = desk.verify(&right).expect("verified");
    let me = Actor::Driver(user_id(&one));
    let body = json!({ "refreshToken": one["refreshToken"] });
    let stranger = Actor::Driver(crate::event::ids::derive_v7(1, &[b"stranger"]));
    desk.ask(&stranger, "auth.logout", body.clone())
        .expect("the same answer");
    let (one, _) = desk
        .refresh(&one["refreshToken"])
        .expect("somebody else's logout ends nothing");
    let body = json!({ "refreshToken": one["refreshToken"] });
    desk.ask(&me, "auth.logout", body).expect("out");
    assert_eq!(reason(desk.refresh(&one["refreshToken"])), "revoked");
    let (two, _) = desk
        .refresh(&two["refreshToken"])
        .expect("the other login goes on");
    desk.ask(&me, "auth.logout", json!({}))
        .expect("out everywhere");
    assert_eq!(reason(desk.refresh(&two["refreshToken"])), "revoked");
}

#[test]
fn no_secret_rests_in_the_database() {
    let mut desk = Desk::new();
    let tokens = desk.logged_in("driver");
    desk.request_otp().expect("asked");
    let code = desk.code();
    let path = desk.bench.path().to_owned();
    let log = path.with_extension("db-wal");
    let bytes: Vec<u8> = [path, log]
        .iter()
        .filter_map(|file| std::fs::read(file).ok())
        .flatten()
        .collect();
    let has = |text: &str| {
        bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    };
    let user = tokens["userId"].as_str().expect("a text");
    assert!(has(user), "the test reads the right files");
    assert!(!has(PHONE) && !has("\"Ann\""), "personal data is sealed");
    for name in ["accessToken", "refreshToken"] {
        assert!(!has(tokens[name].as_str().expect("a text")), "{name}");
    }
    assert!(!has(&format!("\"{code}\"")));
}

#[test]
fn answers_with_tokens_are_not_kept_for_retries() {
    let mut desk = Desk::new();
    desk.register("driver").expect("registered");
    let code_sent = desk.code();
    let body = json!({ "phone": PHONE, "code": code_sent, "clientRequestId": "r1" });
    let refusal = refused(desk.public("auth.verify", body));
    assert_eq!(refusal.field.as_deref(), Some("clientRequestId"));
    let body = json!({ "refreshToken": "A".repeat(43), "clientRequestId": "r1" });
    assert_eq!(
        code(desk.public("auth.refresh", body)),
        Code::ValidationError
    );
}

#[test]
fn without_a_key_nobody_gets_a_token() {
    let mut bench = crate::role::testing::Bench::new(crate::role::auth::AuthRole::default());
    let door = Actor::System("gateway".to_owned());
    let body = json!({ "phone": PHONE, "role": "driver", "name": "Ann" });
    bench
        .command(&door, "auth.register", body)
        .expect("registered");
    let secret = bench.calls[0].secret.clone().expect("a secret");
    let body: Value = json!({ "phone": PHONE, "code": secret.expose() });
    let answer = bench.command(&door, "auth.verify", body);
    assert!(
        matches!(answer, Err(HandlerError::Transient(_))),
        "{answer:?}"
    );
}
