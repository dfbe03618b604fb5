//! A role inside an account of its own (BROKER 9): everything that a role does works there, and what it may not do does not.

use bytes::Bytes;
use serde_json::Value;

use crate::support::account::Accounts;
use crate::support::eventually;
use roadcall::bus::jetstream::{Config, Form, JetStream};
use roadcall::bus::{Bus, EVENTS, Headers, Outgoing};
use roadcall::event::{
    Actor, Base, Codec, Count1, Event, Id, IncidentAssigned, IncidentType, Personal, Place, Point,
    Site, encode, ids,
};
use roadcall::node::clock::Clock;
use roadcall::node::letter;

const ROLE: &str = "tracking";
const QUEUE: &str = "tracking-queue";

fn id(n: u8) -> Id {
    ids::derive_v7(1, &[&[n]])
}

fn message(event: &Event, body: Vec<u8>, msg_id: &str) -> Outgoing {
    let mut headers = Headers::default();
    headers.push("Content-Type", Codec::Json.content_type());
    Outgoing {
        subject: event.subject().to_string(),
        headers,
        body: Bytes::from(body),
        msg_id: msg_id.to_owned(),
        expected_last_subject_seq: None,
    }
}

fn assigned() -> Event {
    let now = Clock.now();
    let detail = IncidentAssigned {
        incident_id: id(10),
        driver_id: id(1),
        vendor_id: id(2),
        offer_id: id(3),
        company_id: None,
        incident_type: IncidentType::Tire,
        location: Personal::plain(Place::at(Point::new(47.0, 11.0).expect("on the earth"))),
        eta_minutes: 5,
        arrival_due_at: now,
        cycle: Count1::new(1).expect("in range"),
        assigned_by: Actor::Vendor(id(2)),
        assigned_at: now,
    };
    let base = Base {
        id: id(20),
        time: now,
        site: Site::new("hub").expect("valid"),
        home: None,
        cause: None,
        correlation: None,
        metadata: Default::default(),
    };
    Event::build(&detail, base)
}

async fn connect(url: String) -> JetStream {
    eventually("a connection", || async {
        let config = Config {
            url: url.clone(),
            credentials: None,
            identity: None,
            ca_file: None,
            name: "test".to_owned(),
            connect_timeout: std::time::Duration::from_secs(2),
            request_timeout: std::time::Duration::from_secs(2),
            publish: Form::default(),
        };
        JetStream::connect(config).await.ok()
    })
    .await
}

async fn ready(site: &Accounts, role: &str) {
    let log = site.log(role);
    eventually(&format!("{role} to be ready"), || async {
        let text = std::fs::read_to_string(&log).ok()?;
        text.contains(r#""message":"ready""#).then_some(())
    })
    .await;
}

/// The reply-subject attack (BROKER 0 F): the server's own 404 is taken as the request.
async fn attack(url: &str, user: &str) {
    let options = async_nats::ConnectOptions::with_user_and_password(user.into(), user.into());
    let client = options.connect(url).await.expect("connected");
    let pull = format!("$JS.API.CONSUMER.MSG.NEXT.EVENTS.{QUEUE}");
    for target in ["$JS.API.STREAM.DELETE.EVENTS", "$JS.API.STREAM.PURGE.DLQ"] {
        let request = Bytes::from_static(br#"{"batch":1,"no_wait":true}"#);
        let sent = client.publish_with_reply(pull.clone(), target, request);
        sent.await.expect("sent");
        // And straight.
        let sent = client.publish(target, Bytes::new());
        sent.await.expect("sent");
    }
    client.flush().await.expect("flushed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_in_an_account_of_its_own_does_its_work_and_no_harm() {
    let mut site = Accounts::new(ROLE);
    let bus = connect(site.url("app")).await;
    let run = |arguments: &[&str]| {
        let output = site.roadcall("app").args(arguments).output().expect("runs");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {words}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or(Value::Null)
    };
    run(&["topology", "apply", "--yes"]);
    site.start("app", "audit");
    site.start(ROLE, ROLE);
    ready(&site, "audit").await;
    ready(&site, ROLE).await;

    // An event, and a broken one.
    let event = assigned();
    let body = encode(&event, Codec::Json).expect("small");
    let broken = message(&event, b"{".to_vec(), "broken");
    let published = bus
        .publish(vec![message(&event, body, "whole"), broken])
        .await;
    assert!(published.stopped.is_none(), "{published:?}");
    eventually("the role's own event", || async {
        let filter = "roadcall.hub.tracking.TrackingStarted.>";
        let found = bus.read(EVENTS, filter, 1, 10, true).await.ok()?;
        (found.len() == 1).then_some(())
    })
    .await;
    let letter = eventually("the letter", || async {
        letter::of_queue(&bus, QUEUE).await.ok()?.pop()
    })
    .await;
    assert_eq!(letter.seq, 2);
    eventually("the acks", || async {
        let state = bus.queue(QUEUE).await.ok()?;
        (state.ack_pending == 0 && state.ack_floor_seq >= 2).then_some(())
    })
    .await;

    // A command from the other account, and a question that every role answers.
    let run = |arguments: &[&str]| {
        let output = site.roadcall("app").args(arguments).output().expect("runs");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {words}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or(Value::Null)
    };
    let incident = id(10).to_string();
    let session = run(&["tracking", "get", "--incident", &incident, "--json"]);
    assert_eq!(session["incidentId"], incident.as_str(), "{session}");
    let accounts = run(&["audit", "--queue", QUEUE, "--json"]);
    assert_eq!(
        (&accounts[0]["done"], &accounts[0]["dead"]),
        (&Value::from(1), &Value::from(1)),
        "{accounts}"
    );

    // A replay of its queue: the one is done already, the other dies again.
    let replay = [
        "replay",
        "start",
        "--queue",
        QUEUE,
        "--from-seq",
        "1",
        "--to-seq",
        "2",
        "--wait",
        "--json",
    ];
    let replay = run(&replay);
    assert_eq!(
        (&replay["state"], &replay["duplicates"], &replay["failed"]),
        (&Value::from("COMPLETED"), &Value::from(1), &Value::from(1)),
        "{replay}"
    );

    // The attack does nothing from there; the same by a user of RC shows that it is one.
    attack(&site.url(ROLE), ROLE).await;
    let before = bus.stream(EVENTS).await.expect("still there");
    assert!(before.messages >= 3, "{before:?}");
    eventually("its standing pull to be back", || async {
        bus.queue(QUEUE).await.ok()
    })
    .await;
    assert_eq!(letter::of_queue(&bus, QUEUE).await.expect("read").len(), 1);
    attack(&site.url("app"), "app").await;
    eventually("the stream to be gone", || async {
        bus.stream(EVENTS).await.err()
    })
    .await;
}
