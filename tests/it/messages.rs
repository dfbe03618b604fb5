//! Messages to people, on a real broker with real ends: an SMS service, a mail server and a push gateway that fail, hang
//! up, stall, answer twice and late; and a role that is killed meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine as _;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use ring::hmac;
use serde_json::json;

use crate::support::ends::web::Play;
use crate::support::ends::{hooks, sms};
use crate::support::eventually;
use crate::support::stage::{Stage, WEBHOOK, address, id, phone};

const DRIVER: u64 = 1;
const VENDOR: u64 = 2;
const CODE: &str = "918273";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_channel_goes_through_the_faults_of_its_end_under_one_key_and_nothing_personal_is_logged()
 {
    let mut stage = Stage::set("200ms", &[DRIVER, VENDOR]).await;
    stage
        .sms
        .script(&[Play::Status(503), Play::HangUp, Play::Twice]);
    stage.push.script(&[Play::Status(429), Play::Late]);
    stage.mail.script(&["451", "drop"]);
    let event = stage.accept(DRIVER, VENDOR).await;
    let ended = stage.ended(DRIVER, event, 3).await;
    for (channel, item) in &ended {
        assert_eq!(item["status"], "sent", "{channel}: {item}");
        assert_eq!(item["type"], "offer_accepted");
    }
    let link = format!("https://fleet.example/track/{}", id(91));
    let words = format!("Tires 2 takes your breakdown, about 5 minutes away. Follow: {link}");
    let texts: Vec<_> = stage.sms.seen().iter().map(sms::order).collect();
    let key = ended["sms"]["notificationId"].as_str().expect("an id");
    let expected = sms::Sms {
        key: key.to_owned(),
        to: phone(DRIVER),
        text: words.clone(),
    };
    assert_eq!(texts, vec![expected; 3]);
    assert_eq!(
        ended["sms"]["providerMessageId"],
        json!(format!("SM-{key}"))
    );
    let pushed: Vec<_> = stage.push.seen().iter().map(hooks::order).collect();
    assert_eq!(pushed.len(), 2);
    for (key, body) in &pushed {
        assert_eq!(json!(key), ended["push"]["notificationId"]);
        assert_eq!(
            (&body["text"], &body["silent"]),
            (&json!(words), &json!(false))
        );
        assert_eq!(body["devices"][0]["token"], "device-of-1");
    }
    // The mail server took the second and cut the line: nobody knows, so it goes out again, and can be told by its id.
    let mails = stage.mail.seen();
    let fates: Vec<&str> = mails.iter().map(|mail| mail.fate.as_str()).collect();
    assert_eq!(fates, ["451", "drop", "ok"]);
    let message_id = format!(
        "<{}@fleet.example>",
        ended["email"]["notificationId"].as_str().expect("an id")
    );
    for mail in &mails {
        assert_eq!(
            (mail.to.as_str(), mail.header("Message-ID")),
            (address(DRIVER).as_str(), message_id.as_str())
        );
        assert_eq!(mail.header("Subject"), "Help is assigned");
    }
    assert_eq!(ended["email"]["attempts"], 3);

    // Refused for good: three tries, and the others go on.
    stage.mail.script(&["550", "550", "550"]);
    stage.sms.script(&[Play::Status(400), Play::Status(400)]);
    let event = stage.approve(VENDOR).await;
    let ended = stage.ended(VENDOR, event, 3).await;
    let came_to = |channel: &str| {
        (
            ended[channel]["status"].clone(),
            ended[channel]["attempts"].clone(),
        )
    };
    assert_eq!(came_to("email"), (json!("failed"), json!(3)));
    assert_eq!(ended["email"]["reason"], "email: SMTP 550");
    assert_eq!(came_to("sms"), (json!("sent"), json!(3)));
    assert_eq!(came_to("push"), (json!("sent"), json!(1)));

    let otp = json!({ "recipientId": id(DRIVER), "phone": phone(7), "email": address(7), "code": CODE, "minutes": 5,
        "clientRequestId": "otp-1" });
    stage.sms.script(&[Play::Status(503)]);
    let reply = stage
        .call("system:auth", "notification.send_otp", &otp)
        .await;
    assert!(reply["ok"]["deliveries"].is_array(), "{reply}");
    eventually("the code arrives", || async {
        let texts = stage.sms.seen();
        let last = sms::order(texts.last()?);
        let mailed = stage
            .mail
            .seen()
            .iter()
            .any(|mail| mail.text.contains(CODE));
        (last.text.contains(CODE) && texts.len() > 6 && mailed).then_some(())
    })
    .await;
    stop_and_report(&stage).await;
    nothing_personal(&stage);
    stage.bus.close().await;
}

/// The SMS service tells of STOP and of a message that did not arrive, signed.
async fn stop_and_report(stage: &Stage) {
    let told = |parameters: &[(&str, &str)]| {
        let text: String = parameters
            .iter()
            .map(|(name, value)| format!("{name}{value}"))
            .collect();
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, sms::TOKEN.as_bytes());
        let tag = hmac::sign(&key, format!("{WEBHOOK}{text}").as_bytes());
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(parameters);
        json!({ "payload": form.finish(), "signature": base64::engine::general_purpose::STANDARD.encode(tag) })
    };
    let items = stage.history(VENDOR).await;
    let sent = items
        .iter()
        .find(|item| item["channel"] == "sms")
        .expect("an SMS");
    let message_id = sent["providerMessageId"].as_str().expect("an id");
    let report = told(&[
        ("ErrorCode", "30005"),
        ("MessageSid", message_id),
        ("MessageStatus", "undelivered"),
    ]);
    let reply = stage
        .call("provider:twilio", "notification.webhook", &report)
        .await;
    assert_eq!(reply, json!({ "ok": {} }));
    let stop = told(&[("Body", "STOP"), ("From", &phone(VENDOR))]);
    let mut forged = stop.clone();
    forged["signature"] = json!("AAAA");
    let reply = stage
        .call("provider:twilio", "notification.webhook", &forged)
        .await;
    assert_eq!(reply["error"]["code"], "VALIDATION_ERROR");
    stage
        .call("provider:twilio", "notification.webhook", &stop)
        .await;
    let event = stage.approve(VENDOR).await;
    let ended = stage.ended(VENDOR, event, 3).await;
    assert_eq!(
        (&ended["sms"]["status"], &ended["sms"]["reason"]),
        (&json!("dropped"), &json!("opted_out"))
    );
    let items = stage.history(VENDOR).await;
    let undelivered = items
        .iter()
        .find(|item| item["providerMessageId"] == message_id)
        .expect("in the log");
    assert_eq!(
        (&undelivered["status"], &undelivered["reason"]),
        (&json!("failed"), &json!("undelivered, code 30005"))
    );
    let vendor = id(VENDOR).to_string();
    let shown = stage
        .site
        .json(&["notification", "history", "--user", &vendor, "--json"]);
    assert_eq!(shown, json!(items));
}

/// No number, address, name, code, device or secret in the role's whole log at level debug; no code in its database.
fn nothing_personal(stage: &Stage) {
    let log = stage.log();
    assert!(
        log.contains("a call did not succeed"),
        "the faults are told"
    );
    let mut personal: Vec<String> = vec![
        CODE.to_owned(),
        "Hank".to_owned(),
        "Tires 2".to_owned(),
        "device-of".to_owned(),
        sms::TOKEN.to_owned(),
        hooks::SECRET.to_owned(),
        "takes your breakdown".to_owned(),
    ];
    for n in [DRIVER, VENDOR, 7] {
        personal.extend([phone(n), phone(n)[1..].to_owned(), address(n)]);
    }
    for text in &personal {
        let line = log.lines().find(|line| line.contains(text.as_str()));
        assert_eq!(line, None, "{text} is in the log");
    }
    let state = stage.site.dir.path().join("notifications");
    for entry in std::fs::read_dir(state).expect("listed") {
        let path = entry.expect("an entry").path();
        if let Ok(bytes) = std::fs::read(&path) {
            let found = bytes
                .windows(CODE.len())
                .any(|window| window == CODE.as_bytes());
            assert!(!found, "the code is in {}", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_call_is_made_again_under_its_key_and_holds_up_no_other_channel() {
    let stage = Stage::set("200ms", &[DRIVER, VENDOR]).await;
    stage.sms.script(&[Play::Stall]);
    let event = stage.accept(DRIVER, VENDOR).await;
    eventually("the other channels are through", || async {
        let items = stage.history(DRIVER).await;
        let sent = items.iter().filter(|item| item["status"] == "sent").count();
        (sent == 2).then_some(())
    })
    .await;
    let ended = stage.ended(DRIVER, event, 3).await;
    assert_eq!(ended["sms"]["status"], "sent");
    let keys: BTreeSet<String> = stage
        .sms
        .seen()
        .iter()
        .map(|request| sms::order(request).key)
        .collect();
    assert_eq!((keys.len(), stage.sms.seen().len()), (1, 2));
    stage.bus.close().await;
}

fn number(variable: &str, default: u64) -> u64 {
    let set = std::env::var(variable).ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What the ends got: for each channel and person the keys, and how often.
fn got(stage: &Stage) -> BTreeMap<(&'static str, String), BTreeMap<String, usize>> {
    let mut got: BTreeMap<_, BTreeMap<String, usize>> = BTreeMap::new();
    let mut note = |channel, to: String, key: String| {
        *got.entry((channel, to))
            .or_default()
            .entry(key)
            .or_default() += 1;
    };
    for request in stage.sms.seen() {
        let order = sms::order(&request);
        note("sms", order.to, order.key);
    }
    for request in stage.push.seen() {
        let (key, body) = hooks::order(&request);
        note("push", body["devices"][0]["token"].to_string(), key);
    }
    for mail in stage.mail.seen() {
        note(
            "email",
            mail.to.clone(),
            mail.header("Message-ID").to_owned(),
        );
    }
    got
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_no_message_and_what_comes_twice_comes_under_one_key() {
    let (kills, seed) = (number("ROADCALL_KILLS", 6), number("ROADCALL_KILL_SEED", 7));
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut stage = Stage::set("200ms", &[DRIVER, VENDOR]).await;
    let mut told = Vec::new();
    for kill in 0..kills {
        for n in 0..4 {
            let person = 100 + 4 * kill + n;
            stage.register(person).await;
            let plays = [
                Play::Answer,
                Play::Late,
                Play::HangUp,
                Play::Status(503),
                Play::Twice,
            ];
            let mut play = || plays[random.random_range(0..plays.len())];
            stage.sms.script(&[play()]);
            stage.push.script(&[play()]);
            stage
                .mail
                .script(&[["ok", "once 451", "once drop", "late"][random.random_range(0..4)]]);
            told.push((person, stage.approve(person).await));
        }
        // Whatever is on its way then: the moment is what the ends have seen, and the seed.
        let (seen, more) = (stage.sms.seen().len(), random.random_range(0..4));
        let _ = tokio::time::timeout(Duration::from_secs(2), async {
            while stage.sms.seen().len() < seen + more {
                tokio::task::yield_now().await;
            }
        })
        .await;
        stage.site.kill("notifications");
        eprintln!("seed {seed}: kill {} of {kills}", kill + 1);
    }
    for (person, event) in &told {
        let ended = stage.ended(*person, *event, 3).await;
        for (channel, item) in &ended {
            assert_eq!(item["status"], "sent", "{channel} of {person}: {item}");
        }
    }
    let got = got(&stage);
    for (person, _) in &told {
        let whom = [
            ("sms", phone(*person)),
            ("push", json!(format!("device-of-{person}")).to_string()),
            ("email", address(*person)),
        ];
        for (channel, to) in whom {
            let keys = got.get(&(channel, to)).map_or(0, BTreeMap::len);
            assert_eq!(keys, 1, "{channel} of {person}");
        }
    }
    let copies: usize = got.values().flat_map(BTreeMap::values).sum();
    eprintln!("{} messages, {copies} requests for them", 3 * told.len());
    nothing_personal_of(&stage, told.iter().map(|(person, _)| *person));
    stage.bus.close().await;
}

fn nothing_personal_of(stage: &Stage, people: impl Iterator<Item = u64>) {
    let log = stage.log();
    for n in people {
        for text in [phone(n)[1..].to_owned(), address(n)] {
            let line = log.lines().find(|line| line.contains(&text));
            assert_eq!(line, None, "{text} is in the log");
        }
    }
}
