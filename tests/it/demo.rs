//! `roadcall demo` with messages that really go out: to an SMS service and a mail server on loopback.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use tokio::process::Command;

use crate::support::ends::sms;
use crate::support::ends::smtp::Server;
use crate::support::nats_server;

/// The configuration that names these ends.
fn configure(path: &Path, sms_url: &str, mail_port: u16) {
    let text = format!(
        "[notifications]\nsms = 'twilio'\nsms_url = '{sms_url}'\nsms_account = '{}'\nsms_token = '{}'\nsms_from = '{}'\n\
         email = 'smtp'\nsmtp_host = '127.0.0.1'\nsmtp_port = {mail_port}\nsmtp_tls = 'none'\nemail_from = 'alerts@fleet.example'\n",
        sms::ACCOUNT,
        sms::TOKEN,
        sms::FROM,
    );
    std::fs::write(path, text).expect("written");
}

/// Each once, or the test fails.
fn once(what: &str, keys: impl Iterator<Item = String>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for key in keys {
        assert!(seen.insert(key.clone()), "{what}: {key} came twice");
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_phone_calls_end_in_paid_vendors_and_everyone_is_told_exactly_once() {
    let (texts, mail) = (sms::start().await, Server::start());
    let dir = tempfile::TempDir::new().expect("a directory");
    let config = dir.path().join("roadcall.toml");
    configure(&config, &texts.url, mail.port);
    let output = Command::new(env!("CARGO_BIN_EXE_roadcall"))
        .env_clear()
        .env("PATH", nats_server().parent().expect("has a folder"))
        .arg("--config")
        .arg(&config)
        .args(["demo", "--incidents", "20", "--pace", "1000", "--json"])
        .output()
        .await
        .expect("runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let summary = lines.last().expect("a summary");
    assert!(output.status.success(), "{summary}\n{errors}");
    let found = [
        "incidents",
        "arrived",
        "closed",
        "paid",
        "deadLetters",
        "duplicateEffects",
    ]
    .map(|name| summary[name].as_u64());
    assert_eq!(found, [20, 20, 20, 20, 0, 0].map(Some), "{summary}");
    let calls = lines
        .iter()
        .filter(|line| line["event"]["detail-type"] == "CallStarted");
    assert_eq!(calls.count(), 20);

    // The log of deliveries and what the ends have seen are the same.
    let sent = |channel: &str| {
        let ours = lines.iter().map(|line| &line["delivery"]);
        let ours = ours.filter(|one| one["channel"] == channel && one["status"] == "sent");
        once(
            channel,
            ours.map(|one| one["notificationId"].as_str().expect("an id").to_owned()),
        )
    };
    let orders: Vec<sms::Sms> = texts.seen().iter().map(sms::order).collect();
    let keys = once("sms", orders.iter().map(|order| order.key.clone()));
    assert!(keys.len() >= 40, "{} texts", keys.len());
    assert_eq!(keys, sent("sms"));
    let ids = mail.seen().into_iter().map(|mail| {
        let id = mail.header("Message-ID").trim_start_matches('<');
        id.split('@').next().unwrap_or_default().to_owned()
    });
    assert_eq!(once("mail", ids), sent("email"));
    // Nor did anybody get a message of one kind about one event twice under different keys.
    let of_event = lines.iter().map(|line| &line["delivery"]);
    once(
        "delivery",
        of_event.filter(|one| one.is_object()).map(|one| {
            format!(
                "{} {} {} {}",
                one["recipientId"], one["eventId"], one["type"], one["channel"]
            )
        }),
    );
}
