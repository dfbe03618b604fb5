//! S26 to S28: who gets in, and who may turn the platform's knobs. S26 goes through the gateway, as an app does.

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use super::*;
use crate::support::ends::sms;
use roadcall::gateway::Gateway;

/// The gateway of a world, and an app that talks to it.
struct App {
    gateway: Gateway,
    client: Client,
}

impl App {
    async fn open(world: &World) -> Self {
        let mut config = world.config.clone();
        config.gateway.listen = "127.0.0.1:0".to_owned();
        // Everything here comes from one address and, within a test, in one minute.
        let many = 100_000.try_into().expect("not 0");
        config.gateway.commands_per_minute = many;
        config.gateway.sensitive_per_minute = many;
        config.gateway.address_per_5_minutes = many;
        let clock = Clock::by_hand(world.hand);
        let gateway = Gateway::start_at(connect(&world.site).await, &config, clock).await;
        // Another part of the process may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            gateway: gateway.expect("open"),
            client: Client::new(),
        }
    }

    async fn post(&self, command: &str, token: Option<&str>, body: Value) -> (StatusCode, Value) {
        let url = format!(
            "http://{}/v1/{}",
            self.gateway.address,
            command.replace('.', "/")
        );
        let mut request = self.client.post(url).json(&body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.expect("an answer");
        (response.status(), response.json().await.expect("JSON"))
    }

    async fn ok(&self, command: &str, body: Value) -> Value {
        let (status, reply) = self.post(command, None, body).await;
        assert_eq!(status, StatusCode::OK, "{command}: {reply}");
        reply
    }

    /// The reason of a login that is refused.
    async fn denied(&self, command: &str, body: Value) -> String {
        let (status, reply) = self.post(command, None, body).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{command}: {reply}");
        assert_eq!(reply["code"], "AUTHENTICATION_ERROR", "{reply}");
        text(&reply["details"]["reason"])
    }
}

/// The code in the `n`th SMS to a phone.
pub async fn code_sent(world: &World, phone: &str, n: usize) -> String {
    eventually("the code", || async {
        let orders = world.texts.seen();
        let texts: Vec<String> = orders
            .iter()
            .map(sms::order)
            .filter(|order| order.to == phone)
            .map(|order| order.text)
            .collect();
        let words = texts.get(n - 1)?;
        let digits = words.split(|c: char| !c.is_ascii_digit());
        digits
            .into_iter()
            .find(|part| part.len() == 6)
            .map(str::to_owned)
    })
    .await
}

/// Another one.
fn wrong(code: &str) -> String {
    let number: u32 = code.parse().expect("digits");
    format!("{:06}", (number + 1) % 1_000_000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s26_codes_tokens_and_roles_let_in_whom_they_should() {
    let world = World::new().await;
    let app = App::open(&world).await;
    let phone = "+15550001111";
    let with = |code: &str| json!({ "phone": phone, "code": code });
    let himself = |role: &str| json!({ "phone": phone, "role": role, "name": "Ann" });
    let (status, reply) = app.post("auth.register", None, himself("admin")).await;
    assert_eq!(
        (status, &reply["code"]),
        (StatusCode::FORBIDDEN, &json!("AUTHORIZATION_ERROR"))
    );

    // Three wrong codes spend the right one.
    app.ok("auth.register", himself("driver")).await;
    let first = code_sent(&world, phone, 1).await;
    for _ in 0..3 {
        assert_eq!(
            app.denied("auth.verify", with(&wrong(&first))).await,
            "invalid"
        );
    }
    assert_eq!(
        app.denied("auth.verify", with(&first)).await,
        "too_many_attempts"
    );

    // A code lasts five minutes.
    app.ok("auth.request_otp", json!({ "phone": phone })).await;
    let second = code_sent(&world, phone, 2).await;
    world.pass(5 * MINUTE + SECOND);
    assert_eq!(app.denied("auth.verify", with(&second)).await, "expired");

    // Of an hour's requests, the registration's included, the sixth waits.
    for n in 3..=5 {
        app.ok("auth.request_otp", json!({ "phone": phone })).await;
        code_sent(&world, phone, n).await;
    }
    let (status, reply) = app
        .post("auth.request_otp", None, json!({ "phone": phone }))
        .await;
    assert_eq!(
        (status, &reply["code"]),
        (StatusCode::TOO_MANY_REQUESTS, &json!("RATE_LIMIT_EXCEEDED"))
    );
    let wait = (HOUR - 5 * MINUTE - SECOND) / SECOND;
    assert_eq!(
        reply["details"]["retryAfterSeconds"],
        json!(wait),
        "{reply}"
    );
    world.pass(HOUR);
    app.ok("auth.request_otp", json!({ "phone": phone })).await;
    let good = code_sent(&world, phone, 6).await;
    let tokens = app.ok("auth.verify", with(&good)).await;
    assert_eq!(tokens["role"], "driver");

    // An old refresh token is a stolen one: its whole family ends.
    let turn_in = |tokens: &Value| json!({ "refreshToken": tokens["refreshToken"] });
    let fresh = app.ok("auth.refresh", turn_in(&tokens)).await;
    assert_eq!(app.denied("auth.refresh", turn_in(&tokens)).await, "reused");
    assert_eq!(app.denied("auth.refresh", turn_in(&fresh)).await, "revoked");

    // What was signed meanwhile stays good for its quarter of an hour and no longer.
    let access = text(&fresh["accessToken"]);
    let (status, me) = app.post("auth.me", Some(&access), json!({})).await;
    assert_eq!((status, &me["phone"]), (StatusCode::OK, &json!(phone)));
    world.pass(15 * MINUTE);
    let (status, _) = app.post("auth.me", Some(&access), json!({})).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    app.gateway.shutdown().await;
    world.end().await;
}

impl World {
    /// The value of a key that is in force, and its version.
    async fn setting(&self, key: &str) -> (Value, Value) {
        let found = self
            .ok(BOSS, "config.get", json!({ "configKey": key }))
            .await;
        (found["value"].clone(), found["configVersion"].clone())
    }

    /// Saves a key from the version in force.
    pub async fn save(&self, key: &str, change: impl FnOnce(&mut Value)) -> Value {
        let (mut value, version) = self.setting(key).await;
        change(&mut value);
        let body = json!({ "configKey": key, "value": value, "expectedVersion": version });
        self.call(&self.admin, "config.update", body).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s27_weights_tiers_and_polygons_that_make_no_sense_are_refused() {
    let world = World::new().await;
    let refused = |reply: &Value, field: &str| {
        assert_eq!(code(reply), "VALIDATION_ERROR", "{reply}");
        assert_eq!(reply["error"]["field"], field, "{reply}");
    };
    let rating = |weight: f64| move |value: &mut Value| value["weights"]["rating"] = json!(weight);
    refused(
        &world.save("matching", rating(0.102)).await,
        "value.weights",
    );
    let taken = world.save("matching", rating(0.1005)).await;
    assert!(taken.get("ok").is_some(), "{taken}");
    let one_rank = |value: &mut Value| value["tiers"][1]["rank"] = json!(1);
    refused(
        &world.save("sla-tiers", one_rank).await,
        "value.tiers[1].rank",
    );
    let open = |value: &mut Value| {
        *value = json!({ "geofences": [{ "geofenceId": vendor_id(1), "name": "Open", "region": "East", "active": true,
            "polygon": [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]] }] });
    };
    refused(
        &world.save("geofences", open).await,
        "value.geofences[0].polygon",
    );
    world.quiet().await;
    world.hears("ConfigurationChanged", "*", 1).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s28_of_two_who_save_at_once_one_is_told_that_he_looked_at_an_old_version() {
    let world = World::new().await;
    let other = world.account("admin", 2).await;
    for n in 0..5 {
        let saved = world
            .save("pricing", |value| value["perMileCents"] = json!(351 + n))
            .await;
        assert!(saved.get("ok").is_some(), "{saved}");
    }
    let (value, version) = world.setting("pricing").await;
    assert_eq!(version, 5);
    let save = async |who: &str, cents: u64| {
        let mut value = value.clone();
        value["perMileCents"] = json!(cents);
        let body = json!({ "configKey": "pricing", "value": value, "expectedVersion": 5 });
        world.call(who, "config.update", body).await
    };
    let look = async || {
        let mut seen = Vec::new();
        while seen.last() != Some(&json!(6)) {
            seen.push(world.setting("pricing").await.1);
        }
        seen
    };
    let (one, two, seen) = tokio::join!(save(&world.admin, 400), save(&other, 500), look());
    assert!(
        seen.iter()
            .all(|version| [json!(5), json!(6)].contains(version)),
        "{seen:?}"
    );
    let (won, lost) = if one.get("ok").is_some() {
        (one, two)
    } else {
        (two, one)
    };
    assert_eq!(won["ok"]["configVersion"], 6, "{won}");
    assert_eq!(code(&lost), "VERSION_CONFLICT", "{lost}");
    world.quiet().await;
    let told = world.told("ConfigurationChanged", "pricing").await;
    let versions: Vec<&Value> = told.iter().map(|event| &event["configVersion"]).collect();
    assert_eq!(versions, [1, 2, 3, 4, 5, 6]);
    assert_eq!(
        told[5]["value"]["perMileCents"],
        won["ok"]["value"]["perMileCents"]
    );
    world.end().await;
}
