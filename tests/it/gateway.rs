//! The door over HTTP, in front of a whole site on a real broker: who may what, problems in words, retries, webhooks, events
//! pushed out, metrics.

use std::time::Duration;

use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::support::{Site, connect, eventually, site};
use roadcall::config::Config;
use roadcall::config::units::Span;
use roadcall::event::{Id, UserRole};
use roadcall::gateway::{Gateway, document};
use roadcall::node::clock::Clock;
use roadcall::node::keys;
use roadcall::node::run::Node;
use roadcall::role::RoleName;
use roadcall::role::auth::token::{Claims, sign};

const PHONE: &str = "+15550107788";

pub struct Door {
    site: Site,
    config: Config,
    node: Node,
    pub gateway: Gateway,
    client: Client,
}

/// A whole site with an open door; `adjust` has the last word on the configuration.
pub async fn open(adjust: impl FnOnce(&mut Config)) -> Door {
    let site = site().await;
    let mut config = Config::default();
    config.site.state_dir = site.dir.path().join("state");
    config.bus.url.clone_from(&site.broker.url);
    config.gateway.listen = "127.0.0.1:0".to_owned();
    config.gateway.drain = Span::secs(1);
    let many = 100_000.try_into().expect("not 0");
    config.gateway.commands_per_minute = many;
    config.gateway.sensitive_per_minute = many;
    config.gateway.address_per_5_minutes = many;
    adjust(&mut config);
    let bus = connect(&site).await;
    let node = Node::start(bus.clone(), &config, &RoleName::BUILT, true).await;
    let gateway = Gateway::start(bus, &config).await.expect("open");
    // Another part of the process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Door {
        site,
        config,
        node: node.expect("started"),
        gateway,
        client: Client::new(),
    }
}

fn person(n: u8) -> Id {
    Id::parse(&format!("0192f3c1-0000-7000-8000-0000000000{n:02x}")).expect("an id")
}

impl Door {
    /// A token as the role auth signs it.
    pub fn token(&self, role: UserRole, n: u8) -> String {
        let now = Clock.now().ms() / 1000;
        let claims = Claims {
            sub: person(n),
            role,
            company_id: None,
            payment_type: None,
            iat: now,
            exp: now + 3600,
            jti: format!("t{n}"),
            iss: "hub".to_owned(),
        };
        let keys = keys::load(&self.config);
        sign(&claims, &keys.signing()[0])
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> Response {
        let url = format!("http://{}{path}", self.gateway.address);
        let mut request = self.client.request(method, url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.expect("an answer")
    }

    pub async fn post(&self, path: &str, token: &str, body: Value) -> (StatusCode, Value) {
        answer(self.send(Method::POST, path, Some(token), Some(body)).await).await
    }

    pub async fn get(&self, path: &str, token: &str) -> (StatusCode, Value) {
        answer(self.send(Method::GET, path, Some(token), None).await).await
    }

    pub async fn incident(&self, token: &str) -> Id {
        let body = json!({ "type": "tire", "lat": 40.7128, "lon": -74.006, "phone": PHONE });
        let (status, incident) = self.post("/v1/incident/create", token, body).await;
        assert_eq!(status, StatusCode::OK, "{incident}");
        Id::parse(incident["incidentId"].as_str().expect("an id")).expect("an id")
    }

    pub async fn close(self) {
        self.gateway.shutdown().await;
        self.node
            .shutdown(Duration::from_secs(10))
            .await
            .expect("stopped");
        self.site.broker.shutdown().await;
    }
}

async fn answer(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let problem = status.is_client_error() || status.is_server_error();
    if problem {
        let media = response.headers()["content-type"].to_str().expect("a text");
        assert_eq!(media, "application/problem+json");
    }
    let body: Value = response.json().await.expect("JSON");
    if problem {
        for name in [
            "type",
            "title",
            "status",
            "detail",
            "code",
            "requestId",
            "timestamp",
        ] {
            assert!(!body[name].is_null(), "{name}: {body}");
        }
        assert_eq!(body["status"], status.as_u16());
    }
    (status, body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_gets_what_is_his_and_refusals_say_why() {
    let door = open(|_| {}).await;
    let (driver, other) = (
        door.token(UserRole::Driver, 1),
        door.token(UserRole::Driver, 2),
    );
    let incident = door.incident(&driver).await;

    let (status, seen) = door.get(&format!("/v1/incident/{incident}"), &driver).await;
    assert_eq!(
        (status, &seen["driverId"]),
        (StatusCode::OK, &json!(person(1)))
    );
    let (status, listed) = door
        .get(
            &format!("/v1/incident?driverId={}&limit=5", person(1)),
            &driver,
        )
        .await;
    assert_eq!(
        (status, listed["items"].as_array().map(Vec::len)),
        (StatusCode::OK, Some(1))
    );
    let (status, refused) = door.get(&format!("/v1/incident/{incident}"), &other).await;
    assert_eq!(
        (status, &refused["code"]),
        (StatusCode::FORBIDDEN, &json!("AUTHORIZATION_ERROR"))
    );

    let nobody = answer(
        door.send(Method::POST, "/v1/incident/create", None, Some(json!({})))
            .await,
    )
    .await;
    assert_eq!(nobody.0, StatusCode::UNAUTHORIZED);
    let forged = format!("{}x", driver);
    assert_eq!(
        door.get("/v1/incident", &forged).await.0,
        StatusCode::UNAUTHORIZED
    );

    let (status, refused) = door
        .post(
            "/v1/incident/create",
            &driver,
            json!({ "type": "boat", "lat": 1.0, "lon": 2.0 }),
        )
        .await;
    assert_eq!(
        (status, &refused["field"]),
        (StatusCode::BAD_REQUEST, &json!("type")),
        "{refused}"
    );
    let (status, refused) = door.get("/v1/incident?colour=red", &driver).await;
    assert_eq!(
        (status, &refused["field"]),
        (StatusCode::BAD_REQUEST, &json!("colour"))
    );
    assert_eq!(
        door.get("/v1/incident?limit=many", &driver).await.0,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        door.get("/v1/nothing/here", &driver).await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        door.get("/v1/incident/cancel", &driver).await.0,
        StatusCode::METHOD_NOT_ALLOWED
    );
    let large = json!({ "description": "x".repeat(300 << 10) });
    assert_eq!(
        door.post("/v1/incident/create", &driver, large).await.0,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    let url = format!("http://{}/v1/incident/create", door.gateway.address);
    let plain = door
        .client
        .post(url)
        .bearer_auth(&driver)
        .body("hello")
        .send()
        .await;
    assert_eq!(
        answer(plain.expect("an answer")).await.0,
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    );
    let hook = door
        .send(Method::POST, "/v1/hooks/stripe", None, Some(json!({})))
        .await;
    let (status, refused) = answer(hook).await;
    assert_eq!(
        (status, &refused["field"]),
        (StatusCode::BAD_REQUEST, &json!("stripe-signature"))
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_under_the_same_key_gets_the_first_answer() {
    let door = open(|_| {}).await;
    let driver = door.token(UserRole::Driver, 1);
    let url = format!("http://{}/v1/incident/create", door.gateway.address);
    let mut ids = Vec::new();
    for key in ["one", "one", "two"] {
        let request = door
            .client
            .post(&url)
            .bearer_auth(&driver)
            .header("Idempotency-Key", key);
        let sent = request
            .json(&json!({ "type": "tow", "lat": 40.0, "lon": -74.0 }))
            .send()
            .await;
        ids.push(answer(sent.expect("an answer")).await.1["incidentId"].clone());
    }
    assert!(ids[0] == ids[1] && ids[0] != ids[2], "{ids:?}");
    door.close().await;
}

/// What a driver and a vendor may ask for at all (DOMAIN 1.2), by hand; whose it is comes behind that.
const DRIVER: &[&str] = &[
    "incident.create",
    "incident.get",
    "incident.list",
    "incident.cancel",
    "incident.rate",
    "incident.add_media",
    "tracking.get",
    "vendor.get",
    "vendor.list",
    "vendor.search",
    "payment.get",
    "payment.list",
    "payment.action",
    "kb.get",
    "kb.list",
    "kb.search",
    "kb.ask",
];
const VENDOR: &[&str] = &[
    "offer.get",
    "offer.list",
    "offer.accept",
    "offer.decline",
    "incident.get",
    "incident.list",
    "incident.update_status",
    "incident.start_work",
    "incident.complete_work",
    "incident.withdraw",
    "incident.rate",
    "incident.add_media",
    "tracking.get",
    "tracking.report_fix",
    "vendor.register",
    "vendor.update",
    "vendor.set_availability",
    "vendor.report_location",
    "vendor.get",
    "vendor.list",
    "vendor.search",
    "payment.get",
    "payment.list",
    "kb.get",
    "kb.list",
    "kb.search",
    "kb.ask",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_is_refused_to_whom_it_is_not_for() {
    let door = open(|_| {}).await;
    let driver = door.token(UserRole::Driver, 1);
    let vendor = door.token(UserRole::Vendor, 2);
    let dispatcher = door.token(UserRole::Dispatcher, 3);
    let paths = document()["paths"].as_object().expect("paths").clone();
    let own = ["auth.", "user.", "consent.", "notification.", "preference."];
    let mut asked = 0;
    for path in paths.keys() {
        let parts: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
        let [entity, verb] = parts[..] else { continue };
        if !path.starts_with("/v1/") || verb == "{id}" || entity == "hooks" {
            continue;
        }
        let command = format!("{entity}.{verb}");
        asked += 1;
        for (token, allowed) in [(&driver, DRIVER), (&vendor, VENDOR)] {
            let (status, body) = door.post(path, token, json!({})).await;
            if allowed.contains(&command.as_str()) {
                // He may ask; an empty body or somebody else's entity is another matter.
                assert_ne!(
                    body["detail"],
                    json!("a driver has no permission for this command"),
                    "{command}"
                );
            } else if !own.iter().any(|one| command.starts_with(one)) {
                assert_eq!(status, StatusCode::FORBIDDEN, "{command}: {body}");
            }
        }
        if [
            "replay.start",
            "dlq.purge",
            "payment.process",
            "payment.refund",
            "auth.create_user",
            "config.update",
            "user.suspend",
            "event.publish",
            "rule.disable",
            "vendor.verify",
        ]
        .contains(&command.as_str())
        {
            let (status, body) = door.post(path, &dispatcher, json!({})).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{command}: {body}");
        }
    }
    assert!(asked > 60, "{asked}");

    // Nobody becomes an admin by himself, and nobody accepts or approves for another.
    let me = json!({ "userId": person(1), "role": "admin", "expectedVersion": 1 });
    let (status, body) = door.post("/v1/user/update", &driver, me).await;
    assert!(status.is_client_error(), "{body}");
    let other = door.token(UserRole::Driver, 9);
    let incident = door.incident(&driver).await;
    let cancel = json!({ "incidentId": incident, "reason": "mine" });
    let (status, body) = door.post("/v1/incident/cancel", &other, cancel).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{body}");
    door.close().await;
}

/// Reads a stream of events until `wanted` is in it; gives what was read.
async fn read_until(mut response: Response, wanted: &str) -> String {
    assert_eq!(response.status(), StatusCode::OK);
    let mut text = String::new();
    let read = async {
        while !text.contains(wanted) {
            let chunk = response.chunk().await.expect("read").expect("not ended");
            text.push_str(&String::from_utf8_lossy(&chunk));
        }
    };
    tokio::time::timeout(Duration::from_secs(30), read)
        .await
        .expect("the event comes");
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_pushed_to_whom_they_concern_and_go_on_where_they_were() {
    let door = open(|_| {}).await;
    let (driver, other) = (
        door.token(UserRole::Driver, 1),
        door.token(UserRole::Driver, 2),
    );
    let incident = door.incident(&driver).await;
    let path =
        format!("/v1/events?incidentId={incident}&types=IncidentStatusChanged,IncidentCancelled");
    assert_eq!(door.get(&path, &other).await.0, StatusCode::FORBIDDEN);
    let stream = door.send(Method::GET, &path, Some(&driver), None).await;
    let cancel = json!({ "incidentId": incident, "reason": "fixed_it" });
    let (status, body) = door.post("/v1/incident/cancel", &driver, cancel).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let text = read_until(stream, "event: IncidentCancelled").await;
    let changed = text
        .find("event: IncidentStatusChanged")
        .expect("told of the change");
    assert!(changed < text.find("event: IncidentCancelled").expect("found"));

    let first = text
        .lines()
        .find_map(|line| line.strip_prefix("id: "))
        .expect("an id");
    let url = format!("http://{}{path}", door.gateway.address);
    let again = door
        .client
        .get(url)
        .bearer_auth(&driver)
        .header("Last-Event-ID", first)
        .send()
        .await;
    let text = read_until(again.expect("an answer"), "event: IncidentCancelled").await;
    assert!(!text.contains("event: IncidentStatusChanged"), "{text}");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_wait_and_metrics_name_nobody() {
    let door =
        open(|config| config.gateway.commands_per_minute = 3.try_into().expect("not 0")).await;
    let driver = door.token(UserRole::Driver, 1);
    let incident = door.incident(&driver).await;
    for _ in 0..2 {
        assert_eq!(
            door.get(&format!("/v1/incident/{incident}"), &driver)
                .await
                .0,
            StatusCode::OK
        );
    }
    let path = format!("/v1/incident/{incident}");
    let refused = door.send(Method::GET, &path, Some(&driver), None).await;
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(answer(refused).await.0, StatusCode::TOO_MANY_REQUESTS);
    // Another person is not held up.
    let other = door.token(UserRole::Driver, 2);
    assert_eq!(
        door.get("/v1/vendor/search?lat=40.7&lon=-74.0", &other)
            .await
            .0,
        StatusCode::OK
    );

    let healthy = eventually("the site to be healthy", || async {
        let response = door.send(Method::GET, "/healthz", None, None).await;
        let status = response.status();
        let body: Value = response.json().await.ok()?;
        (status == StatusCode::OK && body["status"] == "healthy").then_some(body)
    })
    .await;
    assert_eq!(healthy["roles"]["incident"], "healthy");
    let text = door
        .send(Method::GET, "/metrics", None, None)
        .await
        .text()
        .await
        .expect("a text");
    for wanted in [
        "roadcall_http_requests_total{route=\"/v1/incident/create\",method=\"POST\",status=\"200\"} 1",
        "roadcall_queue_depth{queue=\"match-queue\"}",
        "roadcall_role_up{role=\"match\"} 1",
        "roadcall_queue_received_total{queue=\"match-queue\"}",
        "roadcall_queue_expired_total{queue=\"notifications-queue\"} 0",
        "roadcall_role_commands_total{role=\"incident\"}",
        "roadcall_role_outbox_depth{role=\"incident\"}",
        "roadcall_broker_up 1",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    for secret in [PHONE, &incident.to_string(), &driver] {
        assert!(!text.contains(secret), "{secret}");
    }
    door.close().await;
}
