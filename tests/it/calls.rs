//! Phone calls through the door of a running site, as a phone provider sends them, and what an outside summariser may do to
//! their summaries.

use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use crate::support::ends::web::{Play, Request, Web};
use crate::support::{Site, connect, eventually, patiently, site};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, EVENTS, Headers};
use roadcall::config::Config;
use roadcall::config::units::Span;
use roadcall::gateway::Gateway;
use roadcall::node::clock::Clock;
use roadcall::node::run::Node;
use roadcall::provider::signed::signature;
use roadcall::role::RoleName;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const PHONE: &str = "+15550104321";
const MAIL: &str = "hank.muller@trucks.example";
const CARD: &str = "4111 1111 1111 1111";

/// A whole site that phone calls come in at.
struct Line {
    site: Site,
    node: Node,
    gateway: Gateway,
    bus: JetStream,
    client: Client,
}

async fn open(adjust: impl FnOnce(&mut Config)) -> Line {
    let site = site().await;
    let secret = site.dir.path().join("calls.secret");
    std::fs::write(&secret, format!("{SECRET}\n")).expect("written");
    let mut config = Config::default();
    config.site.state_dir = site.dir.path().join("state");
    config.bus.url.clone_from(&site.broker.url);
    config.gateway.listen = "127.0.0.1:0".to_owned();
    config.gateway.drain = Span::secs(1);
    config.telephony.webhook_secret_file = secret.display().to_string();
    config.privacy.seal = true;
    adjust(&mut config);
    let bus = connect(&site).await;
    let node = Node::start(bus.clone(), &config, &RoleName::BUILT, true).await;
    let gateway = Gateway::start(bus.clone(), &config).await.expect("open");
    // Another part of the process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Line {
        site,
        node: node.expect("started"),
        gateway,
        bus,
        client: Client::new(),
    }
}

impl Line {
    /// A webhook that is signed under `secret`.
    async fn post(&self, secret: &str, kind: &str, data: &Value) -> (StatusCode, Value) {
        let payload = json!({ "type": kind, "data": data }).to_string();
        let id = format!("{}-{kind}", data["providerCallId"]);
        let seconds = Clock.now().ms() / 1000;
        let signed = signature(secret, &id, seconds, &payload).expect("a sound secret");
        let response = self
            .client
            .post(format!("http://{}/v1/hooks/calls", self.gateway.address))
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds.to_string())
            .header("webhook-signature", signed)
            .header("content-type", "application/json")
            .body(payload)
            .send()
            .await
            .expect("an answer");
        let status = response.status();
        (status, response.json().await.expect("JSON"))
    }

    /// The same under the right one, for the first time or not.
    async fn hook(&self, kind: &str, data: &Value, duplicate: bool) {
        let (status, reply) = self.post(SECRET, kind, data).await;
        assert_eq!(status, StatusCode::OK, "{kind}: {reply}");
        assert_eq!(reply["duplicate"], duplicate, "{kind}: {reply}");
    }

    /// The whole reply to a command.
    async fn ask(&self, actor: &str, command: &str, body: &Value) -> Value {
        let mut headers = Headers::default();
        headers.push("Roadcall-Actor", actor);
        let (body, wait) = (body.to_string().into_bytes(), Duration::from_secs(5));
        let reply = self.bus.call("hub", command, &headers, body, wait).await;
        serde_json::from_slice(&reply.expect("a reply").body).expect("JSON")
    }

    /// What a command gives.
    async fn call(&self, actor: &str, command: &str, body: Value) -> Value {
        let reply = self.ask(actor, command, &body).await;
        assert!(reply["error"].is_null(), "{command}: {reply}");
        reply["ok"].clone()
    }

    /// A driver whose number the role telephony knows.
    async fn driver(&self) -> Value {
        let body = json!({ "role": "driver", "phone": PHONE, "name": "Hank Muller" });
        let driver = self.call("operator:test", "auth.create_user", body).await["userId"].clone();
        eventually("telephony to know the driver", || async {
            let registered = self.events("auth.UserRegistered").await;
            let queue = self.bus.queue("telephony-queue").await.ok()?;
            (!registered.is_empty() && queue.pending + queue.ack_pending == 0).then_some(())
        })
        .await;
        driver
    }

    /// The bodies of the archive's events of one source and type.
    async fn events(&self, what: &str) -> Vec<Value> {
        let subject = format!("roadcall.*.{what}.*");
        let stored = self.bus.read(EVENTS, &subject, 1, 1000, false).await;
        let bodies = stored.expect("read").into_iter().map(|message| {
            let event: Value = serde_json::from_slice(&message.body).expect("JSON");
            event["detail"].clone()
        });
        bodies.collect()
    }

    /// A call of nobody known that has ended, with these words; gives what the role has of it, once it is summarised.
    async fn told(&self, id: &str, words: &str) -> Value {
        self.hook("call.ended", &ended(id, None), false).await;
        self.hook("transcript.received", &transcript(id, words), false)
            .await;
        patiently("the summary", || async {
            let calls = self
                .call("operator:test", "call.list", json!({ "limit": 100 }))
                .await;
            let ours = calls["items"]
                .as_array()
                .expect("a list")
                .iter()
                .find(|call| call["providerCallId"] == id)?;
            let of_call = json!({ "callId": ours["callId"] });
            let call = self.call("operator:test", "call.get", of_call).await;
            call["transcript"]["summary"].is_object().then_some(call)
        })
        .await
    }

    async fn close(self) {
        self.gateway.shutdown().await;
        let stopped = self.node.shutdown(Duration::from_secs(10)).await;
        stopped.expect("stopped");
        self.site.broker.shutdown().await;
    }
}

fn started(id: &str, keypad: &str) -> Value {
    json!({ "providerCallId": id, "phone": PHONE, "startedAt": Clock.now(), "keypad": keypad })
}

fn ended(id: &str, keypad: Option<&str>) -> Value {
    let mut data = json!({ "providerCallId": id, "phone": PHONE, "endedAt": Clock.now(), "durationSeconds": 40,
        "disposition": "completed" });
    if let Some(keypad) = keypad {
        data["keypad"] = keypad.into();
    }
    data
}

fn transcript(id: &str, words: &str) -> Value {
    json!({ "providerCallId": id, "text": words, "confidence": 0.9 })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_in_any_order_and_twice_make_one_incident_and_nothing_personal_is_kept_in_clear() {
    let line = open(|_| {}).await;
    let driver = line.driver().await;
    let words = format!(
        "I am Hank Muller, my number is {PHONE}, mail {MAIL}, my card is {CARD}. The truck needs a tow."
    );
    // The words first, then the end, then the beginning; each two times.
    let hooks = [
        ("transcript.received", transcript("c1", &words)),
        ("call.ended", ended("c1", None)),
        ("call.started", started("c1", "3")),
    ];
    for (kind, data) in &hooks {
        line.hook(kind, data, false).await;
        line.hook(kind, data, true).await;
    }
    let wrong = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let (status, refused) = line.post(wrong, "call.started", &started("c2", "1")).await;
    assert!(status.is_client_error(), "{status}");
    assert_eq!(
        (&refused["code"], &refused["field"]),
        (&json!("VALIDATION_ERROR"), &json!("signature"))
    );
    let listed = line.call("operator:test", "call.list", json!({})).await;
    let calls = listed["items"].as_array().expect("a list");
    assert_eq!(calls.len(), 1, "{listed}");
    let call = calls[0]["callId"].clone();
    let place = json!({ "callId": call, "lat": 40.7128, "lon": -74.006 });
    for _ in 0..2 {
        line.call("provider:calls", "call.intake", place.clone())
            .await;
    }
    let whole = eventually("the incident and the summary", || async {
        let of_call = json!({ "callId": call });
        let call = line.call("operator:test", "call.get", of_call).await;
        let ready = call["incidentId"].is_string() && call["transcript"]["summary"].is_object();
        ready.then_some(call)
    })
    .await;
    let created = line.events("incident.IncidentCreated").await;
    assert_eq!(created.len(), 1, "{created:?}");
    assert_eq!(
        [
            &created[0]["incidentId"],
            &created[0]["callId"],
            &created[0]["driverId"]
        ],
        [&whole["incidentId"], &call, &driver]
    );
    let of_incident = json!({ "incidentId": whole["incidentId"] });
    let incident = line
        .call("operator:test", "incident.get", of_incident)
        .await;
    assert_eq!(incident["type"], "tow", "{incident}");

    let redacted = whole["transcript"]["redactedText"].as_str();
    let redacted = redacted.expect("a text");
    for mask in ["[NAME]", "[PHONE]", "[EMAIL]", "[CARD]"] {
        assert!(redacted.contains(mask), "{mask}: {redacted}");
    }
    revealed(&line, &whole["transcript"]["transcriptId"]).await;
    let stored = line.bus.read(EVENTS, "roadcall.>", 1, 1000, false).await;
    for message in stored.expect("read") {
        clean(&message.subject, &message.body);
        if message.subject.contains("Transcript") || message.subject.contains("Summary") {
            assert!(!has(&message.body, PHONE), "{}", message.subject);
        }
    }
    let state = line.site.dir.path().join("state");
    for file in std::fs::read_dir(state).expect("listed") {
        let path = file.expect("an entry").path();
        if path.is_file() {
            let bytes = std::fs::read(&path).expect("read");
            clean(&path.display().to_string(), &bytes);
        }
    }
    line.close().await;
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|part| part == text.as_bytes())
}

/// Holds nothing of what the caller only said.
fn clean(what: &str, bytes: &[u8]) {
    for said in [MAIL, CARD] {
        assert!(!has(bytes, said), "{what} has {said}");
    }
}

/// What was masked is shown to those who may see it and say why, and each look is told of.
async fn revealed(line: &Line, transcript: &Value) {
    let body = json!({ "transcriptId": transcript, "purpose": "the caller asks what he said" });
    let brief = json!({ "transcriptId": transcript, "purpose": "so" });
    let refused = line.ask("operator:test", "call.reveal_pii", &brief).await;
    assert_eq!(refused["error"]["code"], "VALIDATION_ERROR", "{refused}");
    let driver = format!("driver:{}", transcript.as_str().expect("an id"));
    let refused = line.ask(&driver, "call.reveal_pii", &body).await;
    assert_eq!(refused["error"]["code"], "AUTHORIZATION_ERROR", "{refused}");
    let shown = line.call("operator:test", "call.reveal_pii", body).await;
    let entities = shown["entities"].as_array().expect("a list");
    for said in [PHONE, MAIL, CARD] {
        assert!(
            entities.iter().any(|entity| entity["value"] == said),
            "{said}: {shown}"
        );
    }
    let looks = eventually("the look is told of", || async {
        let looks = line.events("telephony.PiiAccessed").await;
        (!looks.is_empty()).then_some(looks)
    })
    .await;
    assert_eq!(looks.len(), 1, "{looks:?}");
    assert_eq!(looks[0]["accessLogId"], shown["accessLogId"]);
    assert_eq!(looks[0]["purpose"], "the caller asks what he said");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_lacks_something_is_told_to_people_once_its_time_is_over() {
    let line = open(|config| config.telephony.intake_wait = Span::secs(1)).await;
    line.hook("call.started", &started("c1", "1"), false).await;
    line.hook("call.ended", &ended("c1", None), false).await;
    let told = eventually("people are called", || async {
        let told = line.events("telephony.CallAttentionNeeded").await;
        (!told.is_empty()).then_some(told)
    })
    .await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["missing"], json!(["driver", "location"]));
    assert!(line.events("incident.IncidentCreated").await.is_empty());
    line.close().await;
}

/// A summariser that can be asked for nonsense by the words that it is given.
fn answer(request: &Request) -> String {
    let answer = json!({ "summary": "A summary from outside", "urgency": "critical" }).to_string();
    match () {
        () if request.body.contains("half a sentence") => answer[..9].to_owned(),
        () if request.body.contains("another shape") => {
            json!({ "summary": 5, "urgency": "dire" }).to_string()
        }
        () => answer,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_summariser_is_used_where_it_answers_and_the_rules_where_it_does_not() {
    let end = Web::start(200, answer).await;
    let url = end.url.clone();
    let line = open(|config| config.telephony.summariser_url = url).await;
    let words = format!("My mail is {MAIL}. I have a flat tire.");
    let call = line.told("good", &words).await;
    let summary = &call["transcript"]["summary"];
    assert_eq!(summary["summary"], "A summary from outside");
    assert_eq!(summary["urgency"], "critical");
    for (id, words) in [
        ("torn", "I have a flat tire, said in half a sentence."),
        ("shape", "I have a flat tire of another shape."),
    ] {
        let call = line.told(id, words).await;
        assert_eq!(call["transcript"]["summary"]["summary"], words, "{id}");
    }
    // It stalls, and refuses the second try.
    end.script(&[Play::Stall, Play::Status(400)]);
    let words = "I have a flat tire and wait.";
    let call = line.told("stalls", words).await;
    assert_eq!(call["transcript"]["summary"]["summary"], words);
    for request in end.seen() {
        clean("a request to the summariser", request.body.as_bytes());
    }

    // It is down: its breaker opens, and then it is not asked any more.
    end.script(&[Play::Status(503); 200]);
    let down = (0..10).map(|n| {
        let line = &line;
        async move { line.told(&format!("down-{n}"), "The engine is dead.").await }
    });
    for call in futures::future::join_all(down).await {
        let summary = &call["transcript"]["summary"]["summary"];
        assert_eq!(summary, "The engine is dead.");
    }
    let asked = end.seen().len();
    let call = line.told("open", "The engine is dead.").await;
    assert_eq!(
        call["transcript"]["summary"]["summary"],
        "The engine is dead."
    );
    assert_eq!(end.seen().len(), asked);
    line.close().await;
}
