//! The roles auth and config in a running site: a code on its way to a phone, tokens that verify, and numbers of the
//! platform that count at once.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::support::{Site, connect, eventually, site};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::jetstream::service::{Request, Service};
use roadcall::bus::{Bus, EVENTS, Headers};
use roadcall::config::Config;
use roadcall::event::{Actor, Id, Ts, ids};
use roadcall::node::clock::Clock;
use roadcall::node::run::Node;
use roadcall::role::RoleName;
use roadcall::role::auth::token::{KeySet, TokenError, verify};

const PHONE: &str = "+15550001111";
const DOOR: &str = "system:gateway";
const OPERATOR: &str = "operator:test";

fn config(site: &Site) -> Config {
    let mut config = Config::default();
    config.site.state_dir = site.dir.path().join("state");
    config.bus.url.clone_from(&site.broker.url);
    config
}

async fn start(site: &Site, roles: &[RoleName]) -> Node {
    let node = Node::start(connect(site).await, &config(site), roles, true).await;
    node.expect("started")
}

async fn stop(node: Node) {
    let stopped = node.shutdown(Duration::from_secs(10)).await;
    stopped.expect("stopped");
}

async fn call(bus: &JetStream, actor: &str, command: &str, body: Value) -> Value {
    let mut headers = Headers::default();
    headers.push("Roadcall-Actor", actor);
    let body = body.to_string().into_bytes();
    let reply = bus
        .call("hub", command, &headers, body, Duration::from_secs(5))
        .await;
    serde_json::from_slice(&reply.expect("a reply").body).expect("JSON")
}

async fn ok(bus: &JetStream, actor: &str, command: &str, body: Value) -> Value {
    let answer = call(bus, actor, command, body).await;
    assert!(answer.get("error").is_none(), "{command}: {answer}");
    answer["ok"].clone()
}

/// Plays the role notifications: takes codes and says that they were sent.
struct Phones {
    _service: Service,
    requests: mpsc::Receiver<Request>,
}

impl Phones {
    async fn new(bus: &JetStream) -> Self {
        let service = bus.announce("phones", "1.0.0").await.expect("announced");
        let commands = ["notification.send_otp"];
        let requests = bus.listen(&service, "hub", &commands).await;
        Self {
            _service: service,
            requests: requests.expect("listening"),
        }
    }

    /// The next request, refused with `status` or taken.
    async fn next(&mut self, status: Option<u16>) -> Value {
        let request = tokio::time::timeout(Duration::from_secs(30), self.requests.recv()).await;
        let request = request.expect("a code comes").expect("listening");
        assert_eq!(request.headers.get("Roadcall-Actor"), Some("system:auth"));
        match status {
            Some(status) => {
                request
                    .respond_error(status, "not now", b"{}".to_vec())
                    .await
            }
            None => request.respond(br#"{"ok":{}}"#.to_vec()).await,
        }
        serde_json::from_slice(&request.body).expect("JSON")
    }
}

async fn detail_types(bus: &JetStream, subject: &str) -> Vec<String> {
    let stored = bus.read(EVENTS, subject, 1, 100, true).await.expect("read");
    let word = |subject: &str| subject.split('.').nth(3).unwrap_or_default().to_owned();
    stored.iter().map(|stored| word(&stored.subject)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_registers_gets_a_code_and_tokens_that_verify_and_are_revoked() {
    let site = site().await;
    let bus = connect(&site).await;
    let mut phones = Phones::new(&bus).await;
    let node = start(&site, &[RoleName::Auth]).await;
    let register = json!({ "phone": PHONE, "role": "driver", "name": "Ann" });
    ok(&bus, DOOR, "auth.register", register).await;
    // A notifications role that can't at first: the same request comes again, under the same key.
    let first = phones.next(Some(503)).await;
    let sent = phones.next(None).await;
    assert_eq!(first, sent);
    assert_eq!(
        (&sent["phone"], &sent["minutes"]),
        (&json!(PHONE), &json!(5))
    );
    let key = sent["clientRequestId"].as_str().expect("a key");
    assert!(key.starts_with("otp_") && key.len() <= 64, "{key}");
    let turn_in = json!({ "phone": PHONE, "code": sent["code"] });
    let tokens = ok(&bus, DOOR, "auth.verify", turn_in.clone()).await;
    assert_eq!(sent["recipientId"], tokens["userId"]);
    let again = call(&bus, DOOR, "auth.verify", turn_in).await;
    assert_eq!(again["error"]["code"], "AUTHENTICATION_ERROR");

    let keys = ok(&bus, DOOR, "auth.keys", json!({})).await;
    let set = KeySet::from_json(&keys).expect("a key set");
    let token = tokens["accessToken"].as_str().expect("a text").to_owned();
    let claims = verify(&token, &set, Clock.now()).expect("valid");
    let user = Id::parse(tokens["userId"].as_str().expect("a text")).expect("an id");
    assert_eq!(claims.caller().actor, Actor::Driver(user));
    let later = Ts::from_ms((claims.exp) * 1_000);
    assert_eq!(verify(&token, &set, later), Err(TokenError::Expired));
    let me = ok(&bus, &claims.caller().header(), "auth.me", json!({})).await;
    assert_eq!(me["phone"], PHONE);

    let old = json!({ "refreshToken": tokens["refreshToken"] });
    let fresh = ok(&bus, DOOR, "auth.refresh", old.clone()).await;
    let reused = call(&bus, DOOR, "auth.refresh", old).await;
    assert_eq!(reused["error"]["details"]["reason"], "reused");
    let fresh = json!({ "refreshToken": fresh["refreshToken"] });
    let revoked = call(&bus, DOOR, "auth.refresh", fresh.clone()).await;
    assert_eq!(revoked["error"]["details"]["reason"], "revoked");

    let about_him = format!("roadcall.hub.auth.*.{user}");
    eventually("both events", || async {
        let types = detail_types(&bus, &about_him).await;
        (types == ["UserRegistered", "UserVerified"]).then_some(())
    })
    .await;
    stop(node).await;

    // The keys and the revocation outlive the process.
    let node = start(&site, &[RoleName::Auth]).await;
    let keys = ok(&bus, DOOR, "auth.keys", json!({})).await;
    assert_eq!(KeySet::from_json(&keys), Ok(set));
    let revoked = call(&bus, DOOR, "auth.refresh", fresh).await;
    assert_eq!(revoked["error"]["details"]["reason"], "revoked");
    stop(node).await;
    site.broker.shutdown().await;
}

/// Registers and approves a vendor at the place where trucks break down.
async fn vendor(bus: &JetStream, n: u8) {
    let day = json!({ "open": "00:00", "close": "24:00" });
    let week = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let week: Map<String, Value> = week
        .map(|name| (name.to_owned(), day.clone()))
        .into_iter()
        .collect();
    let vendor_id = ids::derive_v7(1, &[b"vendor", &[n]]);
    let profile = json!({
        "vendorId": vendor_id, "businessName": "Tires", "contactName": "H", "phone": "+15550002222",
        "capabilities": ["tire_repair"], "location": { "lat": 40.7, "lon": -74.0 }, "coverageRadiusMiles": 50,
        "timezone": "UTC", "insuranceExpiry": "2099-12-31", "operatingHours": week,
        "pricing": { "tire_repair": { "basePriceCents": 15_000, "perMileCents": 350 } },
    });
    ok(bus, OPERATOR, "vendor.register", profile).await;
    let verify = json!({ "vendorId": vendor_id, "backgroundCheckStatus": "approved" });
    ok(bus, OPERATOR, "vendor.verify", verify).await;
}

/// Waits until matching has handled the last event of `subject`, of which there are `count`.
async fn matching_knows(bus: &JetStream, subject: &str, count: usize) {
    eventually("matching to know", || async {
        let stored = bus.read(EVENTS, subject, 1, 100, true).await.ok()?;
        let queue = bus.queue("match-queue").await.ok()?;
        let last = stored.last().filter(|_| stored.len() == count)?;
        (queue.ack_floor_seq >= last.seq).then_some(())
    })
    .await;
}

/// How many offers the first round of a new incident makes.
async fn offers(bus: &JetStream, n: u8) -> usize {
    let driver = Actor::Driver(ids::derive_v7(1, &[b"driver", &[n]])).to_string();
    let report = json!({ "type": "tire", "lat": 40.7, "lon": -74.0 });
    let incident = ok(bus, &driver, "incident.create", report).await["incidentId"].clone();
    eventually("offers", || async {
        let body = json!({ "incidentId": incident });
        let page = call(bus, OPERATOR, "offer.list", body).await;
        let count = page["ok"]["items"].as_array()?.len();
        (count > 0).then_some(count)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setting_counts_in_the_next_round_without_a_restart() {
    let site = site().await;
    let bus = connect(&site).await;
    let node = start(&site, &RoleName::BUILT).await;
    for n in 0..2 {
        vendor(&bus, n).await;
    }
    matching_knows(&bus, "roadcall.hub.vendor.VendorUpdated.*", 2).await;
    assert_eq!(offers(&bus, 1).await, 2);

    let roadcall = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_roadcall"))
            .env_clear()
            .args(["--nats", &site.broker.url, "--json"])
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .output()
            .expect("runs");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output.status.code(), value, words)
    };
    let told = |arguments: &[&str]| {
        let (code, value, words) = roadcall(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {words}");
        value
    };
    let before = told(&["setting", "get", "matching"]);
    assert_eq!(before["configVersion"], 0);
    let mut value = before["value"].clone();
    value["offersPerRound"] = json!(1);
    let text = value.to_string();
    let update = ["setting", "update", "matching", "--value", &text];
    assert_eq!(told(&update)["configVersion"], 1);
    let stale = [&update[..], &["--expected-version", "0"]].concat();
    let (code, _, words) = roadcall(&stale);
    assert_eq!(code, Some(1));
    assert!(words.contains("VERSION_CONFLICT"), "{words}");
    let changed = "roadcall.hub.config.ConfigurationChanged.matching";
    matching_knows(&bus, changed, 1).await;
    assert_eq!(offers(&bus, 2).await, 1);

    value["offersPerRound"] = json!(3);
    let text = value.to_string();
    told(&["setting", "update", "matching", "--value", &text]);
    let back = told(&[
        "setting", "rollback", "matching", "--to", "1", "--reason", "calmer",
    ]);
    assert_eq!(
        (&back["configVersion"], &back["changeType"]),
        (&json!(3), &json!("rolled_back"))
    );
    matching_knows(&bus, changed, 3).await;
    assert_eq!(offers(&bus, 3).await, 1);
    let versions = told(&["setting", "history", "matching"]);
    let versions: Vec<&Value> = versions
        .as_array()
        .into_iter()
        .flatten()
        .map(|version| &version["configVersion"])
        .collect();
    assert_eq!(versions, [&json!(3), &json!(2), &json!(1)]);

    let ring = "[[-75,40],[-73,40],[-73,41],[-75,41],[-75,40]]";
    let add = [
        "geofence",
        "add",
        "--name",
        "Metro",
        "--region",
        "East",
        "--polygon",
        ring,
    ];
    let fence = told(&add)["geofenceId"].as_str().expect("an id").to_owned();
    assert_eq!(roadcall(&add).0, Some(1), "the name is taken");
    let change = told(&["geofence", "change", &fence, "--active", "false"]);
    assert_eq!(
        (&change["active"], &change["name"]),
        (&json!(false), &json!("Metro"))
    );
    assert_eq!(told(&["geofence", "list"])[0]["configVersion"], Value::Null);
    assert_eq!(told(&["geofence", "list"])[0]["region"], "East");
    told(&["geofence", "remove", &fence]);
    assert_eq!(told(&["geofence", "list"]), json!([]));

    let admin = told(&[
        "auth",
        "create-admin",
        "--phone",
        "+15550003333",
        "--name",
        "Root",
    ]);
    assert_eq!(
        (&admin["role"], &admin["status"]),
        (&json!("admin"), &json!("active"))
    );
    stop(node).await;
    site.broker.shutdown().await;
}
