//! `/metrics` of a whole site: what each rule did, what was sent to queues, how long commands took, how a breaker stands and
//! how far a replay is, each after it was caused.

use std::net::TcpListener;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::gateway::{Door, open};
use crate::support::ends::sms;
use crate::support::eventually;
use roadcall::config::SmsDriver;
use roadcall::event::{Id, UserRole};

/// The sample with this name and these labels, if there is one.
pub fn sample(text: &str, wanted: &str) -> Option<f64> {
    text.lines()
        .filter_map(|line| line.rsplit_once(' '))
        .find(|(name, _)| *name == wanted)
        .and_then(|(_, value)| value.parse().ok())
}

pub async fn scrape(door: &Door) -> String {
    let response = door.send(Method::GET, "/metrics", None, None).await;
    response.text().await.expect("a text")
}

/// Waits for a sample of at least this.
pub async fn reaches(door: &Door, wanted: &str, least: f64) -> String {
    eventually(&format!("{wanted} to reach {least}"), || async {
        let text = scrape(door).await;
        sample(&text, wanted)
            .is_some_and(|value| value >= least)
            .then_some(text)
    })
    .await
}

pub async fn ok(door: &Door, path: &str, token: &str, body: Value) -> Value {
    let (status, reply) = door.post(path, token, body).await;
    assert_eq!(status, StatusCode::OK, "{path}: {reply}");
    reply
}

/// An acceptance of an offer that nobody here made.
pub fn accepted(incident: Id, offer: u8) -> Value {
    let id = |n: u8| format!("0192f3c1-0000-7000-8000-00000000aa{n:02x}");
    json!({ "source": "roadcall.match", "detail-type": "OfferAccepted", "detail": {
        "version": "1.0", "offerId": id(offer), "incidentId": incident, "vendorId": id(99), "driverId": id(98),
        "acceptedBy": format!("vendor:{}", id(99)), "distanceMiles": 3.5, "etaMinutes": 10, "cycle": 1,
        "acceptedAt": "2026-01-15T10:00:00.000Z",
    } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_queues_commands_and_replays_are_told_in_numbers() {
    let door = open(|_| {}).await;
    let driver = door.token(UserRole::Driver, 1);
    let admin = door.token(UserRole::Admin, 9);
    let mut incident = door.incident(&driver).await;
    for _ in 1..15 {
        incident = door.incident(&driver).await;
    }

    let created = r#"{queue="match-queue",rule="roadcall-incident-created"}"#;
    let text = reaches(
        &door,
        &format!("roadcall_rule_matched_total{created}"),
        15.0,
    )
    .await;
    assert_eq!(
        sample(&text, &format!("roadcall_rule_matched_total{created}")),
        Some(15.0)
    );
    assert_eq!(
        sample(&text, &format!("roadcall_rule_failed_total{created}")),
        Some(0.0)
    );

    // What the broker delivered to match: these, and what else its rules bring.
    let sent = r#"roadcall_queue_sent_total{queue="match-queue"}"#;
    let received = r#"roadcall_queue_received_total{queue="match-queue"}"#;
    let sent = sample(&text, sent).expect("sent");
    assert!(
        sent >= 15.0 && sent <= 15.0 + sample(&text, received).expect("received"),
        "{text}"
    );

    let took = |part: &str, more: &str| {
        let name =
            format!(r#"roadcall_role_command_duration_seconds_{part}{{{more}role="incident"}}"#);
        sample(&text, &name)
    };
    let (count, sum) = (took("count", ""), took("sum", ""));
    assert!(count >= Some(15.0) && sum > Some(0.0), "{text}");
    let buckets = text.lines().filter(|line| {
        line.starts_with("roadcall_role_command_duration_seconds_bucket")
            && line.contains("\"incident\"")
    });
    let buckets: Vec<f64> = buckets
        .filter_map(|line| line.rsplit_once(' ')?.1.parse().ok())
        .collect();
    assert_eq!(buckets.len(), 10, "{text}");
    assert!(
        buckets.is_sorted() && buckets.last() == count.as_ref(),
        "cumulative: {buckets:?}"
    );

    // The second acceptance contradicts the first and can never be handled.
    let entries = json!({ "entries": [accepted(incident, 1), accepted(incident, 2)] });
    let published = ok(&door, "/v1/event/publish", &admin, entries).await;
    assert_eq!(published["failed"], 0, "{published}");
    let accepted = r#"{queue="incident-queue",rule="roadcall-incident-assignment"}"#;
    // They and, for each incident, that there is nobody to send.
    let matched = format!("roadcall_rule_matched_total{accepted}");
    reaches(&door, &matched, 17.0).await;
    let failed = format!("roadcall_rule_failed_total{accepted}");
    let text = reaches(&door, &failed, 1.0).await;
    assert_eq!(
        (sample(&text, &matched), sample(&text, &failed)),
        (Some(17.0), Some(1.0))
    );

    let of_match = |name: &str| format!(r#"roadcall_queue_{name}{{queue="match-queue"}}"#);
    assert_eq!(sample(&text, &of_match("replays_running")), Some(0.0));
    let start = json!({ "queue": "match-queue", "name": "slow", "rate": 1 });
    ok(&door, "/v1/replay/start", &admin, start).await;
    let text = reaches(&door, &of_match("replay_duplicates"), 1.0).await;
    assert_eq!(sample(&text, &of_match("replays_running")), Some(1.0));
    let (all, done) = (
        sample(&text, &of_match("replay_sequences")),
        sample(&text, &of_match("replay_sequences_done")),
    );
    assert!(done >= Some(1.0) && done < all, "{text}");
    ok(
        &door,
        "/v1/replay/cancel",
        &admin,
        json!({ "name": "slow" }),
    )
    .await;
    eventually("no replay to run", || async {
        let text = scrape(&door).await;
        (sample(&text, &of_match("replays_running")) == Some(0.0)).then_some(())
    })
    .await;
    door.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breaker_that_opens_is_seen() {
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address")
    };
    let door = open(|config| {
        let messages = &mut config.notifications;
        messages.sms = SmsDriver::Twilio;
        messages.sms_url = format!("http://{nobody}");
        sms::ACCOUNT.clone_into(&mut messages.sms_account);
        sms::TOKEN.clone_into(&mut messages.sms_token);
        sms::FROM.clone_into(&mut messages.sms_from);
    })
    .await;
    for n in 0..12 {
        let body = json!({ "phone": format!("+155500022{n:02}"), "role": "driver", "name": "Ann" });
        let path = "/v1/auth/register";
        let response = door.send(Method::POST, path, None, Some(body)).await;
        assert_eq!(response.status(), StatusCode::OK);
    }
    let state = |state: &str| {
        format!(
            r#"roadcall_effect_breaker_state{{role="notifications",service="sms",state="{state}"}}"#
        )
    };
    let text = reaches(&door, &state("open"), 1.0).await;
    assert_eq!(sample(&text, &state("closed")), Some(0.0));
    assert_eq!(sample(&text, &state("half_open")), Some(0.0));
    door.close().await;
}
