//! The commands: preferences, devices, history, messages by hand, one-time passwords, and the SMS service's webhooks.

use base64::Engine as _;
use ring::hmac;
use serde_json::json;

use super::*;
use crate::role::permission::Caller;
use crate::role::testing::code;
use crate::role::{Code, HandlerError};

fn get(bench: &mut Bench<NotificationsRole>, n: u8) -> Value {
    let body = json!({ "userId": id(n) });
    bench
        .command(&operator(), "notification.get_preferences", body)
        .expect("read")
        .0
}

#[test]
fn preferences_are_ones_own_versioned_and_all_on_at_first() {
    let mut bench = bench();
    let me = Actor::Driver(id(DRIVER));
    let (fresh, _) = bench
        .command(&me, "notification.get_preferences", json!({}))
        .expect("read");
    assert_eq!(
        fresh,
        json!({ "userId": id(DRIVER), "channels": { "push": true, "sms": true, "email": true }, "mutedTypes": [],
            "smsOptOut": false, "version": 0 })
    );
    let quiet = json!({ "start": "22:00", "end": "08:00", "timezone": "America/New_York" });
    let body = json!({ "expectedVersion": 0, "quietHours": quiet, "mutedTypes": ["work_started"] });
    let (set, _) = bench
        .command(&me, "notification.set_preferences", body.clone())
        .expect("set");
    assert_eq!((&set["quietHours"], &set["version"]), (&quiet, &json!(1)));
    assert_eq!(
        code(bench.command(&me, "notification.set_preferences", body)),
        Code::VersionConflict
    );
    let keep = json!({ "expectedVersion": 1, "smsOptOut": true });
    let (kept, _) = bench
        .command(&me, "notification.set_preferences", keep)
        .expect("set");
    assert_eq!(
        (&kept["quietHours"], &kept["mutedTypes"]),
        (&quiet, &json!(["work_started"]))
    );
    let clear = json!({ "expectedVersion": 2, "quietHours": null });
    let (cleared, _) = bench
        .command(&me, "notification.set_preferences", clear)
        .expect("set");
    assert!(cleared.get("quietHours").is_none());
    for (field, value) in [
        ("mutedTypes", json!(["otp_code"])),
        ("mutedTypes[0]", json!(["nonsense"])),
        ("quietHours", json!({ "start": "22:00", "end": "24:00" })),
        (
            "quietHours.start",
            json!({ "start": "25:00", "end": "08:00" }),
        ),
        (
            "quietHours.timezone",
            json!({ "start": "22:00", "end": "08:00", "timezone": "Mars" }),
        ),
    ] {
        let name = field.split(['.', '[']).next().expect("a name");
        let mut body = json!({ "expectedVersion": 3 });
        body[name] = value;
        match bench.command(&me, "notification.set_preferences", body) {
            Err(HandlerError::Rejected(rejection)) => {
                assert_eq!(rejection.field.as_deref(), Some(field))
            }
            other => panic!("{field}: {other:?}"),
        }
    }
    // Somebody else's are not his to see; an operator must say whose.
    let other = json!({ "userId": id(VENDOR) });
    for command in [
        "notification.get_preferences",
        "notification.history",
        "notification.opt_out",
    ] {
        assert_eq!(
            code(bench.command(&me, command, other.clone())),
            Code::AuthorizationError
        );
        assert_eq!(
            code(bench.command(&operator(), command, json!({}))),
            Code::ValidationError
        );
    }
}

#[test]
fn devices_are_kept_once_and_ten_at_the_most() {
    let mut bench = bench();
    let me = Actor::Driver(id(DRIVER));
    for n in 0..12 {
        let body = json!({ "token": format!("t{n}"), "platform": "ios" });
        for _ in 0..2 {
            let (reply, _) = bench
                .command(&me, "notification.register_device", body.clone())
                .expect("kept");
            assert_eq!(reply["devices"], json!((n + 1).min(10)));
        }
    }
    bench
        .event(&user(DRIVER, UserRole::Driver, None))
        .expect("taken");
    let detail = crate::event::PaymentRequiresAction {
        payment_id: id(20),
        incident_id: id(INCIDENT),
        driver_id: id(DRIVER),
        action: crate::event::PaymentAction::ConfirmCard,
        requested_at: bench.now,
    };
    bench.event(&detail).expect("taken");
    let calls = all_sent(&mut bench);
    let push = calls
        .iter()
        .find(|call| call.kind == "push")
        .expect("a push message");
    let devices = push.request["to"].as_array().expect("a list");
    assert_eq!((devices.len(), &devices[0]["token"]), (10, &json!("t2")));
}

#[test]
fn a_message_by_hand_needs_a_known_type_its_variables_and_one_of_ones_own_people() {
    let mut bench = peopled();
    let body = json!({ "type": "vendor_arrived", "recipientId": id(DRIVER), "channels": ["sms", "email", "sms"],
        "variables": { "vendorName": "<Joe>" }, "clientRequestId": "r1" });
    let own = |company: u8| Caller {
        company: Some(id(company)),
        ..Caller::of(Actor::Dispatcher(id(DISPATCHER)))
    };
    let (reply, _) = bench
        .command_as(own(COMPANY), "notification.send", body.clone())
        .expect("sent");
    assert_eq!(reply["deliveries"].as_array().map(Vec::len), Some(2));
    assert_eq!(channels(&all_sent(&mut bench)), ["email", "sms"]);
    assert_eq!(
        code(bench.command_as(own(99), "notification.send", body.clone())),
        Code::AuthorizationError
    );
    let driver = Actor::Driver(id(DRIVER));
    assert_eq!(
        code(bench.command(&driver, "notification.send", body.clone())),
        Code::AuthorizationError
    );
    for (name, value, field) in [
        ("variables", json!({}), "variables.vendorName"),
        (
            "variables",
            json!({ "vendorName": " " }),
            "variables.vendorName",
        ),
        (
            "variables",
            json!({ "vendorName": "x", "y": "z" }),
            "variables.y",
        ),
        ("type", json!("otp_code"), "type"),
        ("type", json!("fax"), "type"),
        ("channels", json!([]), "channels"),
    ] {
        let mut wrong = body.clone();
        wrong[name] = value;
        match bench.command(&operator(), "notification.send", wrong) {
            Err(HandlerError::Rejected(rejection)) => {
                assert_eq!(rejection.field.as_deref(), Some(field))
            }
            other => panic!("{field}: {other:?}"),
        }
    }
    let mut nobody = body;
    nobody["recipientId"] = json!(id(77));
    assert_eq!(
        code(bench.command(&operator(), "notification.send", nobody)),
        Code::NotFound
    );
}

#[test]
fn a_one_time_password_is_in_nothing_but_the_secret_of_its_calls() {
    let mut bench = bench();
    let body = json!({ "phone": "+15557654321", "email": "new@fleet.example", "code": "918273", "minutes": 5,
        "clientRequestId": "k" });
    let auth = Actor::System("auth".to_owned());
    for other in [
        operator(),
        Actor::Admin(id(ADMIN)),
        Actor::System("vendor".to_owned()),
    ] {
        assert_eq!(
            code(bench.command(&other, "notification.send_otp", body.clone())),
            Code::AuthorizationError
        );
    }
    let (reply, events) = bench
        .command(&auth, "notification.send_otp", body.clone())
        .expect("sent");
    assert!(events.is_empty());
    let calls = std::mem::take(&mut bench.calls);
    assert_eq!(channels(&calls), ["email", "sms"]);
    for call in &calls {
        assert!(!call.request.to_string().contains("918273"));
        let secret = call.secret.as_ref().expect("a secret").expose();
        assert!(secret.contains("918273 is your Roadcall code. It works for 5 minutes."));
        assert!(!format!("{call:?}").contains("918273"));
    }
    assert!(!reply.to_string().contains("918273"));
    // It can't be tried again later: what it said is nowhere.
    bench
        .answer(&calls[0], EffectOutcome::Failed("sms: HTTP 503".to_owned()))
        .expect("taken");
    bench.answer(&calls[1], sent()).expect("taken");
    let recipient = reply["deliveries"][0]["recipientId"].clone();
    let history = json!({ "userId": recipient });
    let (page, _) = bench
        .command(&operator(), "notification.history", history)
        .expect("listed");
    let mut states: Vec<&str> = page["items"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|item| item["status"].as_str())
        .collect();
    states.sort_unstable();
    assert_eq!(states, ["failed", "sent"]);
    assert!(!page.to_string().contains("918273"));
    let mut wrong = body;
    wrong["code"] = json!(918_273);
    let refused = format!("{:?}", bench.command(&auth, "notification.send_otp", wrong));
    assert!(
        refused.contains("code") && !refused.contains("918273"),
        "{refused}"
    );
}

/// As Twilio signs.
fn sign(url: &str, parameters: &[(&str, &str)]) -> String {
    let mut sorted = parameters.to_vec();
    sorted.sort_unstable();
    let text: String = sorted
        .iter()
        .map(|(name, value)| format!("{name}{value}"))
        .collect();
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"12345");
    let tag = hmac::sign(&key, format!("{url}{text}").as_bytes());
    base64::engine::general_purpose::STANDARD.encode(tag)
}

pub(super) fn webhook(bench: &mut Bench<NotificationsRole>, parameters: &[(&str, &str)]) {
    let body = json!({ "payload": form(parameters), "signature": sign(WEBHOOK_URL, parameters) });
    bench
        .command(
            &Actor::Provider("twilio".to_owned()),
            "notification.webhook",
            body,
        )
        .expect("taken");
}

fn form(parameters: &[(&str, &str)]) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(parameters);
    form.finish()
}

#[test]
fn the_signature_is_twilios() {
    // The example of Twilio's documentation.
    let parameters = [
        ("CallSid", "CA1234567890ABCDE"),
        ("Caller", "+14158675309"),
        ("Digits", "1234"),
        ("From", "+14158675309"),
        ("To", "+18005551212"),
    ];
    let url = "https://mycompany.com/myapp.php?foo=1&bar=2";
    assert_eq!(sign(url, &parameters), "RSOYDt4T1cUTdK1PDd93/VVr8B8=");
}

#[test]
fn stop_by_sms_opts_out_whoever_has_the_number() {
    let mut bench = peopled();
    let stop = [
        ("Body", " stop\n"),
        ("From", "+15551112222"),
        ("MessageSid", "SM1"),
    ];
    let body = json!({ "payload": form(&stop), "signature": sign(WEBHOOK_URL, &stop) });
    let provider = Actor::Provider("twilio".to_owned());
    let mut forged = body.clone();
    forged["payload"] = json!(form(&[("Body", "stop"), ("From", "+15550000001")]));
    assert_eq!(
        code(bench.command(&provider, "notification.webhook", forged)),
        Code::ValidationError
    );
    assert_eq!(
        code(bench.command(&operator(), "notification.webhook", body)),
        Code::AuthorizationError
    );
    assert_eq!(get(&mut bench, VENDOR)["smsOptOut"], false);
    webhook(&mut bench, &stop);
    webhook(&mut bench, &stop);
    let now = get(&mut bench, VENDOR);
    assert_eq!(
        (&now["smsOptOut"], &now["version"]),
        (&json!(true), &json!(1))
    );
    assert_eq!(get(&mut bench, DRIVER)["smsOptOut"], false);
    bench.event(&payment_approved()).expect("taken");
    assert_eq!(channels(&all_sent(&mut bench)), ["email", "push"]);
    webhook(
        &mut bench,
        &[("Body", "stop sending help?"), ("From", "+15550000001")],
    );
    assert_eq!(get(&mut bench, DRIVER)["smsOptOut"], false);
    webhook(&mut bench, &[("Body", "STOP"), ("From", "+19995550000")]);
}

#[test]
fn a_report_that_an_sms_did_not_arrive_fails_it_even_if_it_overtakes_the_answer() {
    let mut bench = peopled();
    let report = |sid: &'static str| {
        [
            ("ErrorCode", "30003"),
            ("MessageSid", sid),
            ("MessageStatus", "undelivered"),
        ]
    };
    let send = |bench: &mut Bench<NotificationsRole>, sid: &str| {
        bench.event(&payment_approved()).expect("taken");
        for call in std::mem::take(&mut bench.calls) {
            let outcome = EffectOutcome::Done(json!({ "id": (call.kind == "sms").then_some(sid) }));
            bench.answer(&call, outcome).expect("taken");
        }
    };
    let newest = |bench: &mut Bench<NotificationsRole>| {
        let log = log(bench, VENDOR);
        log.into_iter()
            .take(3)
            .find(|entry| entry.1 == "sms")
            .expect("an SMS")
    };
    send(&mut bench, "SM1");
    webhook(
        &mut bench,
        &[("MessageSid", "SM1"), ("MessageStatus", "delivered")],
    );
    assert_eq!(newest(&mut bench).2, "sent");
    webhook(&mut bench, &report("SM1"));
    webhook(&mut bench, &report("SM1"));
    assert_eq!(
        (newest(&mut bench).2.as_str(), newest(&mut bench).3.as_str()),
        ("failed", "undelivered, code 30003")
    );
    bench.now = bench.now + Duration::from_secs(1);
    webhook(&mut bench, &report("SM2"));
    send(&mut bench, "SM2");
    assert_eq!(newest(&mut bench).3, "undelivered, code 30003");
}
