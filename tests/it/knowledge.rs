//! The knowledge base of a running site, by the command line and through the door.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{connect, eventually, site};
use roadcall::config::Config;
use roadcall::config::units::Span;
use roadcall::event::{Id, UserRole};
use roadcall::gateway::Gateway;
use roadcall::node::clock::Clock;
use roadcall::node::keys;
use roadcall::node::run::Node;
use roadcall::role::RoleName;
use roadcall::role::auth::token::{Claims, sign};

/// `roadcall kb …` at this broker; gives its JSON.
async fn kb(url: &str, arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_roadcall"))
        .env_clear()
        .args(["--nats", url, "--json", "kb"])
        .args(arguments)
        .output()
        .await
        .expect("runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn token(config: &Config, role: UserRole) -> String {
    let now = Clock.now().ms() / 1000;
    let claims = Claims {
        sub: Id::parse("0192f3c1-0000-7000-8000-000000000001").expect("an id"),
        role,
        company_id: None,
        payment_type: None,
        iat: now,
        exp: now + 600,
        jti: "t1".to_owned(),
        iss: "hub".to_owned(),
    };
    sign(&claims, &keys::load(config).signing()[0])
}

/// A command through the door.
async fn post(gateway: &Gateway, command: &str, token: &str, body: &Value) -> (u16, Value) {
    let url = format!("http://{}/v1/{command}", gateway.address);
    let request = reqwest::Client::new().post(url).bearer_auth(token);
    let response = request.json(body).send().await.expect("an answer");
    let status = response.status().as_u16();
    (status, response.json().await.expect("JSON"))
}

async fn upload(url: &str, path: &Path) -> Value {
    let file = path.display().to_string();
    let arguments = [
        "upload",
        &file,
        "--title",
        "Blown tires",
        "--category",
        "sop",
    ];
    kb(url, &arguments).await["documentId"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_are_found_by_any_words_until_they_expire_or_are_deleted() {
    let site = site().await;
    let mut config = Config::default();
    config.site.state_dir = site.dir.path().join("state");
    config.bus.url.clone_from(&site.broker.url);
    config.gateway.listen = "127.0.0.1:0".to_owned();
    config.gateway.drain = Span::secs(1);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let bus = connect(&site).await;
    let node = Node::start(bus.clone(), &config, &[RoleName::Kb, RoleName::Auth], true).await;
    let node = node.expect("started");
    let gateway = Gateway::start(bus, &config).await.expect("open");
    let url = site.broker.url.clone();

    let file = site.dir.path().join("tires.md");
    std::fs::write(
        &file,
        "# Tires\n\nA \"blown\" retread NEAR the axle is replaced.\n",
    )
    .expect("written");
    let document = upload(&url, &file).await;
    eventually("the document to be found", || async {
        let found = kb(&url, &["search", "retread axle"]).await;
        (found[0]["documentId"] == document).then_some(())
    })
    .await;
    let listed = kb(&url, &["list"]).await;
    assert_eq!(listed[0]["documentId"], document, "{listed}");
    // What is syntax to the index is text to people.
    for odd in [
        "\"retread",
        "retread NEAR axle",
        "NEAR(retread axle, 2)",
        "retread*",
        "-- retread",
        "title:retread",
        "retread AND (",
        "^retread OR NOT",
    ] {
        let found = kb(&url, &["search", "--", odd]).await;
        assert_eq!(found[0]["documentId"], document, "{odd}: {found}");
    }

    // An expired one, beside one of today that shows when the index is done.
    let (admin, driver) = (
        token(&config, UserRole::Admin),
        token(&config, UserRole::Driver),
    );
    let body = |title: &str, until: &str| {
        json!({ "title": title, "category": "policy", "contentType": "text/plain", "text": "Chains for winter roads.",
            "expiryDate": until })
    };
    let (status, refused) = post(&gateway, "kb/upload", &driver, &body("x", "2099-01-01")).await;
    assert_eq!(
        (status, &refused["code"]),
        (403, &json!("AUTHORIZATION_ERROR")),
        "{refused}"
    );
    for (title, until) in [("Old chains", "2020-01-01"), ("New chains", "2099-01-01")] {
        let (status, reply) = post(&gateway, "kb/upload", &admin, &body(title, until)).await;
        assert_eq!(status, 200, "{reply}");
    }
    eventually("both to be indexed", || async {
        let listed = kb(&url, &["list", "--category", "policy"]).await;
        let done = listed
            .as_array()?
            .iter()
            .filter(|one| one["status"] == "indexed");
        (done.count() == 2).then_some(())
    })
    .await;
    let (status, found) = post(
        &gateway,
        "kb/search",
        &admin,
        &json!({ "query": "winter chains" }),
    )
    .await;
    let titles: Vec<&Value> = found["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| &one["title"])
        .collect();
    assert_eq!(
        (status, titles),
        (200, vec![&json!("New chains")]),
        "{found}"
    );

    kb(&url, &["delete", document.as_str().expect("an id")]).await;
    assert_eq!(kb(&url, &["search", "retread"]).await, json!([]));
    gateway.shutdown().await;
    node.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");
    site.broker.shutdown().await;
}
