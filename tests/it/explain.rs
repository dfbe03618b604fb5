//! `roadcall explain EVENT_ID` on a real broker: what is done, given up, waiting, too old or not wanted; by the role, by its
//! file, and where neither is there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::counting::{Fate, event, event_id, node, put, roadcall};
use crate::support::{Site, connect, eventually, site};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, Headers, Outgoing};
use roadcall::event::{Id, Ts, ids};
use roadcall::node::clock::Clock;

/// Where the command is run, and with which rules.
struct At<'s> {
    site: &'s Site,
    state: PathBuf,
    rules: String,
}

impl At<'_> {
    fn explain(&self, id: &str, json: bool) -> (Option<i32>, String, String) {
        let arguments: &[&str] = if json {
            &["explain", id, "--json"]
        } else {
            &["explain", id]
        };
        let output = roadcall(self.site, &self.state, &self.rules, arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    }

    /// The story, and what it says of the one queue.
    fn story(&self, id: Id) -> (Value, Value) {
        let (code, text, words) = self.explain(&id.to_string(), true);
        assert_eq!(code, Some(0), "{words}");
        let story: Value = serde_json::from_str(&text).expect("JSON");
        let queue = story["queues"][0].clone();
        (story, queue)
    }

    /// The same as soon as the queue has this outcome.
    async fn ends_as(&self, id: Id, outcome: &str) -> (Value, Value) {
        eventually(outcome, || async {
            let (story, queue) = self.story(id);
            (queue["outcome"] == outcome).then_some((story, queue))
        })
        .await
    }

    fn says(&self, id: Id) -> String {
        let (code, text, words) = self.explain(&id.to_string(), false);
        assert_eq!(code, Some(0), "{words}");
        text
    }
}

fn at<'s>(site: &'s Site, state: &Path) -> At<'s> {
    At {
        site,
        state: state.to_owned(),
        rules: String::new(),
    }
}

fn detail_types(links: &Value) -> Vec<&str> {
    let links = links.as_array().expect("a list").iter();
    links
        .filter_map(|link| link["detailType"].as_str())
        .collect()
}

async fn publish(bus: &JetStream, message: Outgoing) {
    let published = bus.publish(vec![message]).await;
    assert!(published.stopped.is_none(), "{:?}", published.stopped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_names_its_rule_what_it_led_to_and_its_cause() {
    let site = site().await;
    // Another directory than the role's: whatever is known, the role said.
    let at = at(&site, &site.dir.path().join("cli"));
    let node = node(&site, &site.dir.path().join("state"), "").await;
    let bus = connect(&site).await;
    put(&bus, 1, 1, Fate::Fine).await;
    let (_, queue) = at.ends_as(event_id(1), "done").await;
    for (field, value) in [
        ("queue", json!("vendor-queue")),
        ("role", json!("vendor")),
        ("rule", json!("roadcall-vendor-jobs")),
        ("residual", json!(true)),
        ("decision", json!("handle")),
        ("maxEventAgeSeconds", Value::Null),
        ("attempts", json!([])),
        ("effects", json!([])),
        ("from", json!("role")),
        ("note", Value::Null),
    ] {
        assert_eq!(queue[field], value, "{field}");
    }
    let story = eventually("what it led to", || async {
        let (story, _) = at.story(event_id(1));
        (story["ledTo"] != json!([])).then_some(story)
    })
    .await;
    assert_eq!((&story["seq"], &story["cause"]), (&json!(1), &Value::Null));
    assert_eq!(story["event"]["detail"]["stars"], 5);
    assert_eq!(
        (&story["producer"], &story["letters"]),
        (&Value::Null, &json!([]))
    );
    assert_eq!(detail_types(&story["ledTo"]), ["VendorMetricsUpdated"]);

    let effect: Id = story["ledTo"][0]["eventId"]
        .as_str()
        .and_then(|id| id.parse().ok())
        .expect("an id");
    let (story, _) = at.story(effect);
    assert_eq!(story["cause"]["id"], json!(event_id(1)));
    let cause = &story["cause"]["event"];
    assert_eq!(
        (&cause["seq"], &cause["detailType"]),
        (&json!(1), &json!("IncidentRated"))
    );
    assert!(
        story["producer"]
            .as_str()
            .is_some_and(|producer| producer.starts_with("vendor:"))
    );
    assert_eq!(story["queues"], json!([]), "no queue of this site takes it");
    let text = at.says(effect);
    assert!(
        text.contains(&format!("caused by   IncidentRated {}", event_id(1))),
        "{text}"
    );
    node.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");
    site.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_up_has_its_letter_and_what_waits_its_tries() {
    let site = site().await;
    let at = at(&site, &site.dir.path().join("cli"));
    let node = node(&site, &site.dir.path().join("state"), "").await;
    let bus = connect(&site).await;
    put(&bus, 1, 1, Fate::Contradicts).await;
    put(&bus, 2, 2, Fate::Fails).await;
    put(&bus, 3, 2, Fate::Fine).await;
    let mut broken = event(4, 4, Fate::Fine, Clock.now());
    broken.body = "{\"id\":\"no event\"}".into();
    publish(&bus, broken).await;

    let letter = |story: &Value| {
        let letter = &story["letters"][0];
        ["queue", "state", "reason", "deliveries"].map(|name| letter[name].clone())
    };
    at.ends_as(event_id(1), "dead").await;
    let (story, queue) = eventually("the letter", || async {
        let (story, queue) = at.story(event_id(1));
        (story["letters"] != json!([])).then_some((story, queue))
    })
    .await;
    let of_queue = |reason| {
        [
            json!("vendor-queue"),
            json!("open"),
            json!(reason),
            json!(1),
        ]
    };
    assert_eq!(letter(&story), of_queue("conflict"));
    assert_eq!(queue["attempts"][0]["error"], "contradicts");
    let text = at.says(event_id(1));
    assert!(
        text.contains("roadcall dlq show --queue vendor-queue --seq 1"),
        "{text}"
    );

    let (_, queue) = at.ends_as(event_id(2), "waiting").await;
    assert_eq!(queue["waiting"]["why"], "retry");
    assert!(queue["waiting"]["dueAt"].is_string());
    assert_eq!(queue["attempts"][0]["error"], "never");
    assert_eq!(queue["attempts"].as_array().map(Vec::len), Some(1));
    let (_, queue) = at.ends_as(event_id(3), "waiting").await;
    assert_eq!(
        [
            &queue["waiting"]["why"],
            &queue["waiting"]["dueAt"],
            &queue["attempts"]
        ],
        [&json!("behind"), &Value::Null, &json!([])]
    );
    let text = at.says(event_id(3));
    assert!(
        text.contains("waiting behind an earlier one of its entity"),
        "{text}"
    );

    // No id can be read from its body: the role is asked by its place.
    let (_, queue) = at.ends_as(event_id(4), "dead").await;
    assert_eq!(queue["decision"], "giveUp");
    let story = eventually("the letter of the broken one", || async {
        let (story, _) = at.story(event_id(4));
        (story["letters"] != json!([])).then_some(story)
    })
    .await;
    assert_eq!(letter(&story), of_queue("invalid_event"));
    assert!(
        story["invalid"].is_string() && story["event"].is_null(),
        "{story}"
    );
    node.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");
    site.broker.shutdown().await;
}

/// A rule whose filter lets more through than it wants, and that drops what is older than an hour.
const RULES: &str = "[[rule]]\nname = 'ratings'\n\
    pattern = { source = ['roadcall.incident'], detail-type = [{ prefix = 'IncidentR' }],\
    detail = { ratedBy = ['driver'] } }\n\
    targets = [{ queue = 'vendor-queue', max_event_age = '1h', when_older = 'drop' }]\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rules_decide_by_age_and_by_what_a_filter_can_not_say() {
    let site = site().await;
    let rules = site.dir.path().join("rules.toml");
    std::fs::write(&rules, RULES).expect("written");
    let state = site.dir.path().join("state");
    let at = At {
        rules: rules.display().to_string(),
        ..at(&site, &state)
    };
    let node = node(&site, &state, &at.rules).await;
    let bus = connect(&site).await;
    let two_hours_ago = Ts::from_ms(Clock.now().ms() - 7_200_000);
    publish(&bus, event(1, 1, Fate::Fine, two_hours_ago)).await;
    let id = ids::derive_v7(2, &[b"started"]);
    let time = Clock.now();
    let incident = ids::derive_v7(2, &[b"incident"]);
    let detail = json!({
        "eventId": id, "timestamp": time, "version": "1.0", "incidentId": incident, "vendorId": incident,
        "driverId": incident, "incidentType": "tire", "startedAt": time,
    });
    let body = json!({
        "id": id, "source": "roadcall.incident", "detail-type": "WorkStarted", "time": time, "site": "hub",
        "detail": detail,
    });
    let started = Outgoing {
        subject: format!("roadcall.hub.incident.WorkStarted.{incident}"),
        headers: Headers::default(),
        body: body.to_string().into(),
        msg_id: id.to_string(),
        expected_last_subject_seq: None,
    };
    publish(&bus, started).await;

    let decided = |queue: &Value| {
        ["rule", "residual", "decision", "maxEventAgeSeconds"].map(|name| queue[name].clone())
    };
    let (story, old) = at.ends_as(event_id(1), "expired").await;
    assert_eq!(
        decided(&old),
        [json!("ratings"), json!(true), json!("expire"), json!(3600)]
    );
    assert!(story["ageSeconds"].as_u64() >= Some(7200));
    let (_, other) = at.ends_as(id, "filtered").await;
    assert_eq!(
        decided(&other),
        [Value::Null, json!(false), json!("filter"), Value::Null]
    );
    assert_eq!(other["filter"], "roadcall.*.incident.*.*");
    // Rated by the vendor: of the rule's source and type, but not what its pattern wants.
    put(&bus, 2, 2, Fate::FailsAtFirst).await;
    let (_, unwanted) = at.ends_as(event_id(2), "filtered").await;
    assert_eq!(
        decided(&unwanted),
        [json!("ratings"), json!(false), json!("filter"), Value::Null]
    );
    let text = at.says(event_id(2));
    assert!(
        text.contains("ratings takes its type, but its pattern says no"),
        "{text}"
    );
    node.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");
    site.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_role_its_file_is_read_and_without_the_file_it_is_unknown() {
    let site = site().await;
    let state = site.dir.path().join("state");
    let with_file = at(&site, &state);
    let without = at(&site, &site.dir.path().join("cli"));
    let node = node(&site, &state, "").await;
    let bus = connect(&site).await;
    put(&bus, 1, 1, Fate::Fine).await;
    put(&bus, 2, 2, Fate::Contradicts).await;
    put(&bus, 3, 3, Fate::Fails).await;
    for (n, outcome) in [(1, "done"), (2, "dead"), (3, "waiting")] {
        without.ends_as(event_id(n), outcome).await;
    }
    node.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");
    put(&bus, 4, 4, Fate::Fine).await;
    // What the broker and the letters tell is known in any case.
    for (n, by_file, by_nobody) in [
        (1, "done", "unknown"),
        (2, "dead", "dead"),
        (3, "waiting", "unknown"),
        (4, "pending", "pending"),
    ] {
        let (_, queue) = with_file.story(event_id(n));
        assert_eq!(
            (&queue["outcome"], &queue["from"]),
            (&json!(by_file), &json!("file"))
        );
        let (_, queue) = without.story(event_id(n));
        assert_eq!(
            (&queue["outcome"], &queue["from"]),
            (&json!(by_nobody), &Value::Null)
        );
        assert!(
            queue["note"].is_string() && queue["effects"].is_null(),
            "{queue}"
        );
    }
    let text = without.says(event_id(1));
    assert!(
        text.contains("not known   role vendor: it does not run"),
        "{text}"
    );

    let (code, text, words) = without.explain(&event_id(99).to_string(), false);
    assert_eq!((code, text.as_str()), (Some(1), ""));
    let says = format!(
        "error[RC0002]: the archive has no event {}\n  help: ",
        event_id(99)
    );
    assert!(
        words.starts_with(&says) && words.lines().count() == 2,
        "{words}"
    );
    let (code, _, words) = without.explain("RC99x", false);
    assert_eq!(code, Some(64), "{words}");
    site.broker.shutdown().await;
}
