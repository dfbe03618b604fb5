//! No word of a person and no secret in any log line or metric: a whole site, logging at debug, is driven through
//! everything that handles them (sign-in, a vendor's profile, a breakdown to its payment, a call with a card number in its
//! transcript, messages, webhooks, refusals, broken events); then what was said is looked for in what was logged.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::{Client, Method, StatusCode};
use ring::hmac;
use serde_json::{Value, json};

use crate::privacy::files_with;
use crate::support::ends::smtp::Server;
use crate::support::ends::stripe::{Faults, KEY, StripeEnd, WEBHOOK_SECRET, webhook};
use crate::support::ends::web::Web;
use crate::support::ends::{hooks, sms};
use crate::support::processes::Processes;
use crate::support::stage::notifications;
use crate::support::{eventually, free_port, patiently};
use roadcall::bus::{Bus, Headers, Outgoing};

const CALL_SECRET: &str = "whsec_QmVsbHNBbmRXaGlzdGxlc09mVGhlUGhvbmU=";
const CARD: &str = "4242 4242 4242 4242";
const DEVICE: &str = "device-token-of-wilhelmina";
const PLACE: (f64, f64) = (40.71284, -74.00601);

/// A person as the test says it.
struct Person {
    phone: &'static str,
    name: &'static str,
    email: &'static str,
}

const DRIVER: Person = Person {
    phone: "+12125550147",
    name: "Wilhelmina Quackenbush",
    email: "wilhelmina@quackenbush.example",
};
const VENDOR: Person = Person {
    phone: "+12125550258",
    name: "Archibald Featherstone",
    email: "archie@featherstone.example",
};
const ADMIN: Person = Person {
    phone: "+12125550369",
    name: "Hildegard Zimmerman",
    email: "hilde@zimmerman.example",
};

/// What only people said, besides their names and numbers.
const WORDS: [&str; 5] = [
    "17 Lorikeet Crescent",
    "smells of burnt marzipan",
    "bring the turquoise jack",
    "caller asked for his aubergine truck",
    "nobody@halfway gone.example",
];

/// The site, its ends, and what must not be found.
struct World {
    site: Processes,
    base: String,
    client: Client,
    sms: Web,
    push: Web,
    mail: Server,
    stripe: StripeEnd,
    needles: Vec<String>,
}

impl World {
    async fn start() -> Self {
        let (sms, push, mail) = (sms::start().await, hooks::start().await, Server::start());
        let stripe = StripeEnd::start(1, Faults::default()).await;
        let mut site = Processes::new();
        let secret = |name: &str, text: &str| {
            let path = site.dir.path().join(name);
            std::fs::write(&path, format!("{text}\n")).expect("written");
            path.display().to_string()
        };
        let listen = format!("127.0.0.1:{}", free_port());
        let more = format!(
            "retry_delay = '100ms'\nsms_webhook_url = 'https://fleet.example/v1/hooks/twilio'\n\
             push_secret_file = '{}'",
            secret("push", hooks::SECRET)
        );
        let messages = notifications(&sms, &mail, &push, &more);
        let text = format!(
            "[log]\nlevel = 'debug'\n[privacy]\nseal = true\n[broker]\nmode = 'external'\n[gateway]\nlisten = '{listen}'\nsensitive_per_minute = 1000\n\
             commands_per_minute = 10000\naddress_per_5_minutes = 10000\n\
             {messages}\
             [payments]\nprocessor = 'stripe'\nreconcile = ['100ms', '200ms']\nresubmit_after = '100ms'\n\
             [payments.stripe]\nbase_url = '{}'\nsecret_key_file = '{}'\nwebhook_secret_file = '{}'\n\
             [telephony]\nwebhook_secret_file = '{}'\n",
            stripe.url,
            secret("stripe-key", KEY),
            secret("stripe-hook", WEBHOOK_SECRET),
            secret("calls", CALL_SECRET),
        );
        let config = site.dir.path().join("roadcall.toml");
        std::fs::write(&config, text).expect("written");
        site.arguments = vec!["--config".to_owned(), config.display().to_string()];
        site.apply_topology();
        for role in ["all", "gateway"] {
            site.start(role);
            site.role_ready(role).await;
        }
        // Another part of the process may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut needles: Vec<String> = WORDS.map(str::to_owned).to_vec();
        let plain = format!("{}:{}", sms::ACCOUNT, sms::TOKEN);
        needles.extend([KEY, WEBHOOK_SECRET, CALL_SECRET, hooks::SECRET].map(str::to_owned));
        needles.extend([sms::TOKEN.to_owned(), BASE64.encode(plain)]);
        needles.extend([CARD, DEVICE].map(str::to_owned));
        for person in [DRIVER, VENDOR, ADMIN] {
            needles.extend([person.name, person.email].map(str::to_owned));
            needles.push(person.phone.trim_start_matches('+').to_owned());
        }
        Self {
            site,
            base: format!("http://{listen}"),
            client: Client::new(),
            sms,
            push,
            mail,
            stripe,
            needles,
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: &Value,
    ) -> (StatusCode, Value) {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if !body.is_null() {
            request = request.json(body);
        }
        let response = request.send().await.expect("an answer");
        let status = response.status();
        (status, response.json().await.unwrap_or(Value::Null))
    }

    /// A command that must succeed.
    async fn post(&self, command: &str, token: &str, body: Value) -> Value {
        let path = format!("/v1/{}", command.replace('.', "/"));
        let (status, answer) = self.send(Method::POST, &path, token, &body).await;
        assert_eq!(status, StatusCode::OK, "{command}: {answer}");
        answer
    }

    /// Asks until `wanted` finds what it wants in the answer.
    async fn until(&self, path: &str, token: &str, wanted: impl Fn(&Value) -> Value) -> Value {
        patiently(path, || async {
            let (_, answer) = self.send(Method::GET, path, token, &Value::Null).await;
            Some(wanted(&answer)).filter(|found| !found.is_null())
        })
        .await
    }

    /// Turns in the code that came to a phone behind `before` other texts; gives what the person then has.
    async fn sign_in(&mut self, phone: &str, before: usize) -> Value {
        let code = eventually("a code", || async {
            let texts: Vec<_> = self.sms.seen().iter().map(sms::order).collect();
            let found = texts.iter().skip(before).find(|text| text.to == phone)?;
            let word = |word: &&str| word.len() == 6 && word.bytes().all(|b| b.is_ascii_digit());
            let mut words = found.text.split(|c: char| !c.is_ascii_alphanumeric());
            words.find(word).map(str::to_owned)
        })
        .await;
        let wrong =
            json!({ "phone": phone, "code": if code == "000000" { "000001" } else { "000000" } });
        let (status, _) = self.send(Method::POST, "/v1/auth/verify", "", &wrong).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let right = json!({ "phone": phone, "code": code });
        let first = self.post("auth.verify", "", right).await;
        let again = json!({ "refreshToken": first["refreshToken"] });
        let tokens = self.post("auth.refresh", "", again.clone()).await;
        for one in [&first, &tokens] {
            for name in ["accessToken", "refreshToken"] {
                let token = one[name].as_str().expect("a token");
                self.needles.push(token.to_owned());
            }
        }
        self.needles.push(code);
        tokens
    }

    async fn register(&mut self, person: &Person, role: &str) -> Value {
        let before = self.sms.seen().len();
        let body = json!({ "phone": person.phone, "role": role, "name": person.name, "email": person.email });
        self.post("auth.register", "", body).await;
        self.sign_in(person.phone, before).await
    }

    /// A webhook of the phone provider, signed as the Standard Webhooks specification says.
    async fn call_hook(&self, n: u8, kind: &str, data: Value) {
        let payload = json!({ "type": kind, "data": data }).to_string();
        let (id, now) = (format!("msg_{n}"), chrono::Utc::now().timestamp());
        let key = BASE64.decode(&CALL_SECRET[6..]).expect("base64");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let tag = hmac::sign(&key, format!("{id}.{now}.{payload}").as_bytes());
        let sent = self
            .client
            .post(format!("{}/v1/hooks/calls", self.base))
            .header("webhook-id", id)
            .header("webhook-timestamp", now.to_string())
            .header("webhook-signature", format!("v1,{}", BASE64.encode(tag)))
            .body(payload)
            .send()
            .await
            .expect("an answer");
        assert_eq!(sent.status(), StatusCode::OK, "{kind}");
    }

    /// Publishes as no process of ours would: whatever stands in `event` comes to the queues as it is.
    async fn publish(&self, kind: &str, hours_ago: i64, detail: Value) -> String {
        let bus = self.site.connect().await;
        let event_id = uuid::Uuid::new_v4().to_string();
        let at = chrono::Utc::now() - chrono::Duration::hours(hours_ago);
        let at = at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
        let row = roadcall::event::lookup(kind).expect("in the catalogue");
        let mut detail = detail;
        detail["eventId"] = json!(event_id);
        detail["timestamp"] = json!(at);
        detail["version"] = json!("1.0");
        let entity = detail[row.entity_field].as_str().expect("a key").to_owned();
        let event = json!({ "id": event_id, "source": row.source.as_str(), "detail-type": kind, "time": at,
            "site": "hub", "detail": detail });
        let message = Outgoing {
            subject: format!("roadcall.hub.{}.{kind}.{entity}", row.source.service()),
            headers: Headers::default(),
            body: event.to_string().into(),
            msg_id: event_id.clone(),
            expected_last_subject_seq: None,
        };
        let published = bus.publish(vec![message]).await;
        assert!(published.stopped.is_none(), "{:?}", published.stopped);
        event_id
    }

    fn log(&self, role: &str) -> String {
        let path = self.site.dir.path().join(format!("{role}.log"));
        std::fs::read_to_string(path).expect("a log")
    }
}

fn profile(vendor: &Person) -> Value {
    let day = json!({ "open": "00:00", "close": "24:00" });
    let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let week: serde_json::Map<String, Value> = days
        .map(|name| (name.to_owned(), day.clone()))
        .into_iter()
        .collect();
    json!({
        "businessName": "Tires", "contactName": vendor.name, "phone": vendor.phone, "email": vendor.email,
        "capabilities": ["tire_repair", "tire_replacement"], "location": { "lat": PLACE.0, "lon": PLACE.1 },
        "coverageRadiusMiles": 50, "timezone": "UTC", "insuranceExpiry": "2099-12-31", "operatingHours": week,
        "pricing": { "tire_repair": { "basePriceCents": 15_000, "perMileCents": 350 } }, "payoutAccountRef": "acct_1",
    })
}

/// From the breakdown to the paid bill; gives the incident.
async fn breakdown(world: &World, driver: &str, vendor: &Value, admin: &str) -> String {
    let token = vendor["accessToken"].as_str().expect("a token");
    let report = json!({ "type": "tire", "lat": PLACE.0, "lon": PLACE.1, "address": WORDS[0], "phone": DRIVER.phone,
        "description": WORDS[1] });
    let incident = world.post("incident.create", driver, report).await["incidentId"]
        .as_str()
        .expect("an id")
        .to_owned();
    let path = format!("/v1/offer?incidentId={incident}");
    let offer = world
        .until(&path, token, |page| page["items"][0]["offerId"].clone())
        .await;
    world
        .post("offer.accept", token, json!({ "offerId": offer }))
        .await;
    let session = format!("/v1/tracking/get?incidentId={incident}");
    let session = world
        .until(&session, token, |session| session["sessionId"].clone())
        .await;
    let one = format!("/v1/incident/{incident}");
    let version = |status: &'static str| {
        world.until(&one, admin, move |now| {
            if now["status"] == status {
                now["version"].clone()
            } else {
                Value::Null
            }
        })
    };
    let at = version("vendor_assigned").await;
    let body = json!({ "incidentId": incident, "status": "vendor_en_route", "expectedVersion": at, "note": WORDS[2] });
    world.post("incident.update_status", token, body).await;
    let now = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S%.3fZ");
    let fix = json!({ "lat": PLACE.0, "lon": PLACE.1, "recordedAt": now.to_string() });
    let body = json!({ "sessionId": session, "fix": fix });
    world.post("tracking.report_fix", token, body).await;
    let at = version("vendor_arrived").await;
    let body = json!({ "incidentId": incident, "expectedVersion": at });
    world.post("incident.start_work", token, body).await;
    let at = version("work_in_progress").await;
    let body = json!({ "incidentId": incident, "expectedVersion": at });
    world.post("incident.complete_work", token, body).await;
    pay(world, &incident, admin).await;
    incident
}

async fn pay(world: &World, incident: &str, admin: &str) {
    let path = format!("/v1/payment?incidentId={incident}");
    let payment = world
        .until(&path, admin, |page| page["items"][0].clone())
        .await;
    let body = json!({ "paymentId": payment["paymentId"], "expectedVersion": payment["version"] });
    world.post("payment.approve", admin, body).await;
    world
        .until(&path, admin, |page| {
            let paid = page["items"][0]["status"] == "completed";
            if paid { json!(true) } else { Value::Null }
        })
        .await;
    let made = world.stripe.objects("transfer");
    let now = chrono::Utc::now().timestamp();
    let hook = webhook("evt_1", "transfer.created", &made[0], now);
    let sent = world
        .client
        .post(format!("{}/v1/hooks/stripe", world.base))
        .header(
            "stripe-signature",
            hook["signature"].as_str().expect("text"),
        )
        .body(hook["payload"].as_str().expect("text").to_owned())
        .send()
        .await
        .expect("an answer");
    assert_eq!(sent.status(), StatusCode::OK);
}

/// A call with a card number in it, shown to the admin.
async fn phone_call(world: &World, admin: &str) {
    let now = chrono::Utc::now()
        .format("%Y-%m-%dT%H:%M:%S%.3fZ")
        .to_string();
    let started = json!({ "providerCallId": "CA1", "phone": DRIVER.phone, "startedAt": now });
    world.call_hook(1, "call.started", started).await;
    let ended = json!({ "providerCallId": "CA1", "phone": DRIVER.phone, "endedAt": now, "durationSeconds": 60,
        "disposition": "completed" });
    world.call_hook(2, "call.ended", ended).await;
    let text = format!(
        "My name is {}, my card is {CARD}, write to {} or call {}; {}",
        DRIVER.name, DRIVER.email, DRIVER.phone, WORDS[3]
    );
    let said = json!({ "providerCallId": "CA1", "text": text, "confidence": 0.9 });
    world.call_hook(3, "transcript.received", said).await;
    let call = world
        .until("/v1/call", admin, |page| page["items"][0]["callId"].clone())
        .await;
    let path = format!("/v1/call/{}", call.as_str().expect("an id"));
    let transcript = world
        .until(&path, admin, |call| {
            let ready = !call["transcript"]["summary"].is_null();
            if ready {
                call["transcript"]["transcriptId"].clone()
            } else {
                Value::Null
            }
        })
        .await;
    let why = json!({ "transcriptId": transcript, "purpose": "to see whether the masks hold" });
    let shown = world.post("call.reveal_pii", admin, why).await;
    assert!(shown.to_string().contains("4242"), "{shown}");
}

/// What is refused, with people's words in the body, the query and the path.
async fn refusals(world: &World, driver: &str) {
    let boat = json!({ "type": "boat", "lat": 1, "lon": 2, "phone": DRIVER.phone, "description": WORDS[1] });
    let number =
        json!({ "type": "tire", "lat": 1, "lon": 2, "phone": format!("call {}", DRIVER.phone) });
    for body in [boat, number] {
        let (status, _) = world
            .send(Method::POST, "/v1/incident/create", driver, &body)
            .await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
    }
    let phone = DRIVER.phone.trim_start_matches('+');
    for path in [
        format!("/v1/incident?phone=%2B{phone}"),
        format!("/v1/incident/{phone}"),
        format!("/v1/incident/create/{phone}"),
    ] {
        let (status, _) = world.send(Method::GET, &path, driver, &Value::Null).await;
        assert!(status.is_client_error(), "{path}: {status}");
    }
    let hook = format!("{}/v1/hooks/twilio", world.base);
    let form = format!("From=%2B{phone}&Body=STOP");
    let sent = world
        .client
        .post(hook)
        .header("x-twilio-signature", "AAAA")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form)
        .send()
        .await;
    assert!(sent.expect("an answer").status().is_client_error());
}

/// Whether `needle` is in `text` as a word of its own: six digits may be part of an id or of a time.
fn says(text: &str, needle: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '.';
    text.match_indices(needle).any(|(at, found)| {
        let before = text[..at].chars().next_back().is_some_and(part);
        let after = text[at + found.len()..].chars().next();
        !before && !after.is_some_and(char::is_alphanumeric)
    })
}

fn check(what: &str, text: &str, needles: &[String]) {
    for needle in needles {
        let found = text.lines().find(|line| says(line, needle));
        assert!(found.is_none(), "{what} says {needle}: {found:?}");
    }
}

/// Everything that the role audit has written down of events.
fn event_log(state: &Path) -> String {
    let directory = std::fs::read_dir(state.join("log")).expect("listed");
    let paths = directory.map(|entry| entry.expect("an entry").path());
    let plain = paths.filter(|path| path.extension().is_none_or(|ending| ending != "gz"));
    let texts = plain.map(|path| std::fs::read_to_string(path).expect("UTF-8"));
    texts.collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_say_and_what_is_secret_is_in_no_log_line_and_no_metric() {
    let mut world = World::start().await;
    let driver = world.register(&DRIVER, "driver").await;
    let vendor = world.register(&VENDOR, "vendor").await;
    let admin =
        json!({ "role": "admin", "phone": ADMIN.phone, "name": ADMIN.name, "email": ADMIN.email });
    let body = admin.to_string();
    world.site.json(&["call", "auth.create_user", &body]);
    let before = world.sms.seen().len();
    let asked = json!({ "phone": ADMIN.phone });
    world.post("auth.request_otp", "", asked).await;
    let admin = world.sign_in(ADMIN.phone, before).await["accessToken"].clone();
    let admin = admin.as_str().expect("a token").to_owned();
    let token = |tokens: &Value| tokens["accessToken"].as_str().expect("a token").to_owned();
    let (driver, vendors) = (token(&driver), token(&vendor));

    let device = json!({ "token": DEVICE, "platform": "ios" });
    world
        .post("notification.register_device", &driver, device)
        .await;
    world
        .post("vendor.register", &vendors, profile(&VENDOR))
        .await;
    let approve = json!({ "vendorId": vendor["userId"], "backgroundCheckStatus": "approved" });
    world.post("vendor.verify", &admin, approve).await;
    let bus = world.site.connect().await;
    world.site.drained(&bus).await;
    let incident = breakdown(&world, &driver, &vendor, &admin).await;
    phone_call(&world, &admin).await;
    refusals(&world, &driver).await;

    // Nor does it rest anywhere in clear: not in a database, the archive, an export.
    world.site.drained(&bus).await;
    let archive = world.site.dir.path().join("archive.ndjson");
    let out = archive.display().to_string();
    world.site.json(&[
        "archive",
        "export",
        "--from-seq",
        "1",
        "--out",
        &out,
        "--json",
    ]);
    for person in [&DRIVER, &VENDOR, &ADMIN] {
        for said in [person.name, person.email, &person.phone[1..]] {
            let found = files_with(world.site.dir.path(), said);
            assert!(found.is_empty(), "{said} is in {found:?}");
        }
    }
    for said in WORDS {
        let found = files_with(world.site.dir.path(), said);
        assert!(found.is_empty(), "{said} is in {found:?}");
    }

    // Too old to be told of, and not what the catalogue says: both are logged, by id and by field.
    let id = uuid::Uuid::new_v4();
    let old = json!({ "incidentId": incident, "driverId": id, "previousStatus": "created", "newStatus": "cancelled",
        "changedBy": "system:incident", "note": WORDS[2] });
    let control = world.publish("IncidentStatusChanged", 2, old).await;
    let broken = json!({ "userId": id, "phone": DRIVER.phone, "role": "driver", "name": DRIVER.name, "email": WORDS[4],
        "timezone": "UTC", "status": "active", "profileVersion": 1, "registeredAt": "2026-01-15T10:00:00.000Z" });
    world.publish("UserRegistered", 0, broken).await;
    patiently("the control is logged", || async {
        says(&world.log("all"), &control).then_some(())
    })
    .await;
    patiently("an e-mail and a push message", || async {
        let (mails, pushes) = (world.mail.seen(), world.push.seen());
        (!mails.is_empty() && !pushes.is_empty()).then_some(())
    })
    .await;
    world.site.drained(&bus).await;

    for role in ["all", "gateway"] {
        let log = world.log(role);
        assert!(log.lines().count() > 2, "{role} logs");
        check(&format!("the log of {role}"), &log, &world.needles);
    }
    let scraped = world.client.get(format!("{}/metrics", world.base)).send();
    let metrics = scraped
        .await
        .expect("an answer")
        .text()
        .await
        .expect("text");
    assert!(metrics.contains("/v1/incident/{id}"), "{metrics}");
    check("a metric", &metrics, &world.needles);
    let events = event_log(&world.site.dir.path().join("all"));
    assert!(says(&events, &incident), "the incident is in the event log");
    check("the event log", &events, &world.needles);
}

#[test]
fn a_needle_is_found_where_it_stands_alone_and_not_inside_a_number() {
    assert!(says(r#"{"code":"123456"}"#, "123456") && says("code 123456.", "123456"));
    assert!(!says("10:00:00.123456Z", "123456") && !says("a1234567", "123456"));
}
