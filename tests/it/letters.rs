//! Dead letters on a real broker: what one says of its event, and every way in which `roadcall dlq` chooses among them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::counting::{Fate, Log, QUEUE, accounted, event, event_id, roadcall, start};
use crate::support::{Site, connect, eventually, site};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, Outgoing, REPLAYS_STREAM};
use roadcall::config::Config;
use roadcall::config::units::Span;
use roadcall::event::{Codec, Ts, decode, encode};
use roadcall::node::clock::Clock;
use roadcall::node::letter::{Letter, of_queue};
use roadcall::node::run::Node;
use roadcall::role::RoleName;

fn config(site: &Site) -> Config {
    let mut config = Config::default();
    config.site.state_dir = site.dir.path().join("state");
    config.engine.retry_delay = Span(Duration::from_millis(20));
    config
}

async fn stop(node: Node) {
    let stopped = node.shutdown(Duration::from_secs(10)).await;
    stopped.expect("stopped");
}

async fn publish(bus: &JetStream, messages: Vec<Outgoing>) {
    let published = bus.publish(messages).await;
    assert!(published.stopped.is_none(), "{:?}", published.stopped);
}

async fn letters(bus: &JetStream, count: usize) -> Vec<Letter> {
    eventually("the letters", || async {
        let letters = of_queue(bus, QUEUE).await.expect("read");
        (letters.len() == count).then_some(letters)
    })
    .await
}

/// Runs `roadcall dlq`; its exit code, what it printed, what it said.
fn dlq(site: &Site, arguments: &[&str]) -> (Option<i32>, Value, String) {
    let state = site.dir.path().join("state");
    let arguments: Vec<&str> = ["dlq"].iter().chain(arguments).copied().collect();
    let output = roadcall(site, &state, "", &arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let printed = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code(), printed, said)
}

fn shown(site: &Site, seq: &str) -> Value {
    let (code, letter, said) = dlq(site, &["show", "--queue", QUEUE, "--seq", seq]);
    assert_eq!(code, Some(0), "{said}");
    letter
}

fn time(value: &Value) -> Ts {
    value.as_str().expect("a text").parse().expect("a time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_has_all_of_its_event_and_each_try() {
    let site = site().await;
    let node = start(&site, &config(&site), &Log::default()).await;
    let bus = connect(&site).await;
    let began = Clock.now();
    let mut failing = event(1, 7, Fate::Fails, began);
    failing.headers.push("X-Producer", "depot-7");
    let mut unread = event(2, 8, Fate::Fine, began);
    unread.headers.0.retain(|(name, _)| name != "Content-Type");
    unread.headers.push("Content-Type", "application/cbor");
    unread.body = vec![0xff, 0x00, 0x10].into();
    let panicking = event(3, 9, Fate::Panics, began);
    publish(&bus, vec![failing.clone(), unread, panicking]).await;
    letters(&bus, 3).await;

    let letter = shown(&site, "1");
    let body = String::from_utf8(failing.body.to_vec()).expect("text");
    let expected = json!({
        "queue": QUEUE, "seq": 1, "deliveries": 3, "eventId": event_id(1), "source": "roadcall.incident",
        "detailType": "IncidentRated", "subject": failing.subject, "payload": body, "reason": "handler_failed",
        "handlerVersion": env!("CARGO_PKG_VERSION"),
    });
    for (name, value) in expected.as_object().expect("an object") {
        assert_eq!(&letter[name], value, "{name}");
    }
    assert_eq!(
        letter["entity"].as_str(),
        failing.subject.rsplit('.').next()
    );
    let came = (
        &letter["headers"]["X-Producer"],
        &letter["headers"]["Content-Type"],
    );
    assert_eq!(came, (&json!("depot-7"), &json!("application/json")));
    assert_eq!(letter["headers"]["Nats-Msg-Id"], json!(event_id(1)));
    let tries = letter["attempts"].as_array().expect("a list");
    let errors: Vec<&Value> = tries.iter().map(|one| &one["error"]).collect();
    assert_eq!(errors, ["never"; 3]);
    let times: Vec<Ts> = tries.iter().map(|one| time(&one["at"])).collect();
    assert!(times.is_sorted() && times[0] >= began, "{times:?}");
    assert_eq!(times[2], time(&letter["deadAt"]));
    assert!(time(&letter["firstSeenAt"]) <= times[0], "{letter}");
    let stream = bus.stream("EVENTS").await.expect("asked").identity.0;
    assert_eq!(letter["stream"], stream);

    let letter = shown(&site, "2");
    assert_eq!(
        (&letter["payload"], &letter["payloadHex"]),
        (&Value::Null, &json!("ff0010"))
    );
    assert_eq!(
        (&letter["reason"], &letter["deliveries"]),
        (&json!("invalid_event"), &json!(1))
    );
    let error = letter["attempts"][0]["error"].as_str().expect("a text");
    assert!(error.starts_with("body: is not CBOR"), "{error}");

    let letter = shown(&site, "3");
    let error = letter["attempts"][2]["error"].as_str().expect("a text");
    assert!(error.contains("a defect of the handler"), "{error}");
    let row = accounted(&site, &site.dir.path().join("state"));
    assert_eq!(row["dead"], 3, "{row}");
    stop(node).await;
    site.broker.shutdown().await;
}

/// The same event as CBOR.
fn as_cbor(mut message: Outgoing) -> Outgoing {
    let event = decode(&message.subject, Some("application/json"), &message.body).expect("valid");
    message.body = encode(&event, Codec::Cbor).expect("small").into();
    message.headers.0.retain(|(name, _)| name != "Content-Type");
    message.headers.push("Content-Type", "application/cbor");
    message
}

/// Sequences of the letters that would be meant.
fn meant(site: &Site, verb: &str, choice: &[&str]) -> Vec<u64> {
    let mut arguments = vec![verb, "--queue", QUEUE, "--dry-run", "--json"];
    if verb == "purge" {
        arguments.extend(["--because", "looking"]);
    }
    arguments.extend(choice);
    let (code, rows, said) = dlq(site, &arguments);
    assert_eq!(code, Some(0), "{choice:?}: {said}");
    let rows = rows.as_array().expect("a list");
    // They come in the order in which they died.
    let mut seqs: Vec<u64> = rows.iter().filter_map(|row| row["seq"].as_u64()).collect();
    seqs.sort_unstable();
    seqs
}

fn does(site: &Site, verb: &str, choice: &[&str]) {
    let mut arguments = vec![verb, "--queue", QUEUE, "--yes"];
    match verb {
        "purge" => arguments.extend(["--because", "test data"]),
        _ => arguments.push("--wait"),
    }
    arguments.extend(choice);
    let (code, _, said) = dlq(site, &arguments);
    assert_eq!(code, Some(0), "{choice:?}: {said}");
}

async fn tried_again(bus: &JetStream, seqs: &[u64]) {
    eventually(
        "those letters to have another try, and no others",
        || async {
            let letters = of_queue(bus, QUEUE).await.expect("read");
            let again = letters.iter().filter(|letter| {
                let first = if letter.reason.to_string() == "handler_failed" {
                    3
                } else {
                    1
                };
                letter.deliveries > first
            });
            let again: Vec<u64> = again.map(|letter| letter.seq).collect();
            let mut sorted = again.clone();
            sorted.sort_unstable();
            (sorted == seqs).then_some(())
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_are_chosen_by_sequence_reason_type_time_pattern_or_all() {
    let site = site().await;
    let node = start(&site, &config(&site), &Log::default()).await;
    let audit = Node::start(
        connect(&site).await,
        &config(&site),
        &[RoleName::Audit],
        true,
    )
    .await;
    let audit = audit.expect("started");
    let bus = connect(&site).await;
    let now = Clock.now().ms();
    let hours_ago = |hours: i64| Ts::from_ms(now - hours * 3_600_000);
    // 1 to 4 contradict, 5 and 6 fail, 7 contradicts in CBOR, 8 is no event.
    let mut messages: Vec<Outgoing> = (1..=4)
        .map(|n| event(n, n, Fate::Contradicts, hours_ago(9 - n.cast_signed())))
        .collect();
    messages.extend((5..=6).map(|n| event(n, n, Fate::Fails, hours_ago(2))));
    messages.push(as_cbor(event(7, 7, Fate::Contradicts, hours_ago(1))));
    let mut no_event = event(8, 8, Fate::Fine, hours_ago(1));
    no_event.subject = no_event.subject.replace("IncidentRated", "WorkCompleted");
    no_event.body = json!({ "id": "x", "detail-type": "WorkCompleted" })
        .to_string()
        .into();
    messages.push(no_event);
    publish(&bus, messages).await;
    letters(&bus, 8).await;
    let (code, rows, _) = dlq(&site, &["list", "--queue", QUEUE, "--check", "--json"]);
    assert_eq!(
        (code, rows.as_array().map(Vec::len)),
        (Some(2), Some(8)),
        "{rows}"
    );

    let (six, two) = (hours_ago(6).to_string(), hours_ago(2).to_string());
    let fives = r#"{"detail":{"stars":[3]}}"#;
    let choices: [(&[&str], &[u64]); 9] = [
        (&["--seq", "1,3"], &[1, 3]),
        (&["--reason", "conflict"], &[1, 2, 3, 4, 7]),
        (&["--reason", "handler_failed"], &[5, 6]),
        (&["--type", "WorkCompleted"], &[8]),
        (&["--since", &six], &[3, 4, 5, 6, 7]),
        (&["--since", &six, "--until", &two], &[3, 4]),
        (&["--pattern", fives], &[1, 2, 3, 4, 7]),
        (&["--pattern", fives, "--since", &two], &[7]),
        (&["--all"], &[1, 2, 3, 4, 5, 6, 7, 8]),
    ];
    for verb in ["redrive", "purge"] {
        for (choice, seqs) in choices {
            assert_eq!(meant(&site, verb, choice), seqs, "{verb} {choice:?}");
        }
    }
    refused(&site);
    tried_again(&bus, &[]).await;
    let jobs = bus.read(REPLAYS_STREAM, "$KV.REPLAYS.job.>", 1, 10, false);
    assert_eq!(jobs.await.expect("read").len(), 0, "a dry run does nothing");

    does(&site, "redrive", &["--seq", "1", "--rate", "5"]);
    let jobs = bus.read(REPLAYS_STREAM, "$KV.REPLAYS.job.>", 1, 10, false);
    let job: Value = serde_json::from_slice(&jobs.await.expect("read")[0].body).expect("JSON");
    assert_eq!((&job["rate"], &job["seqs"]), (&json!(5), &json!([1])));
    tried_again(&bus, &[1]).await;
    does(&site, "redrive", &["--type", "WorkCompleted"]);
    tried_again(&bus, &[1, 8]).await;
    does(&site, "redrive", &["--pattern", fives, "--since", &two]);
    tried_again(&bus, &[1, 7, 8]).await;
    does(&site, "redrive", &["--reason", "handler_failed"]);
    tried_again(&bus, &[1, 5, 6, 7, 8]).await;
    does(&site, "redrive", &["--all"]);
    tried_again(&bus, &[1, 2, 3, 4, 5, 6, 7, 8]).await;
    let twice = shown(&site, "7");
    assert_eq!(twice["deliveries"], 3, "by pattern and with all");

    let gone: [(&[&str], usize); 4] = [
        (&["--seq", "3"], 7),
        (&["--pattern", fives, "--since", &two], 6),
        (&["--type", "WorkCompleted", "--reason", "invalid_event"], 5),
        (&["--all"], 0),
    ];
    for (choice, left) in gone {
        does(&site, "purge", choice);
        letters(&bus, left).await;
    }
    let (code, ..) = dlq(&site, &["list", "--queue", QUEUE, "--check", "--json"]);
    assert_eq!(code, Some(0));
    let row = accounted(&site, &site.dir.path().join("state"));
    assert_eq!(row["dead"], 8, "{row}");
    stop(node).await;
    stop(audit).await;
    site.broker.shutdown().await;
}

/// What is not said clearly is not done.
fn refused(site: &Site) {
    let cases: [(&[&str], i32, &str); 5] = [
        (&["redrive", "--queue", QUEUE, "--yes"], 64, "which letters"),
        (&["redrive", "--queue", QUEUE, "--all"], 64, "--yes"),
        (
            &["purge", "--queue", QUEUE, "--all", "--because", "x"],
            64,
            "--yes",
        ),
        (
            &["redrive", "--queue", QUEUE, "--seq", "99", "--yes"],
            1,
            "99",
        ),
        (
            &["redrive", "--queue", QUEUE, "--all", "--seq", "1"],
            64,
            "--all",
        ),
    ];
    for (arguments, exit, says) in cases {
        let (code, _, said) = dlq(site, arguments);
        assert_eq!(code, Some(exit), "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
}
