//! An identity is renewed and its old key retired while the role runs: no event is lost, and none is done twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use super::Guarded;
use crate::support::{eventually, eventually_within};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, EVENTS, Headers, Outgoing};
use roadcall::event::{Id, ids};

const QUEUE: &str = "tracking-queue";

fn id(n: u64) -> Id {
    ids::derive_v7(1, &[b"rotation", &n.to_be_bytes()])
}

/// An incident is assigned: the role begins to track it.
fn assigned(n: u64) -> Outgoing {
    let (event, incident, vendor) = (id(3 * n), id(3 * n + 1), id(3 * n + 2));
    let now = "2026-01-15T10:00:00.000Z";
    let body = json!({ "id": event, "source": "roadcall.incident", "detail-type": "IncidentAssigned", "time": now,
        "site": "hub", "detail": { "eventId": event, "timestamp": now, "version": "1.0", "incidentId": incident,
        "driverId": vendor, "vendorId": vendor, "offerId": vendor, "incidentType": "tire",
        "location": { "lat": 47, "lon": 11 }, "etaMinutes": 5, "arrivalDueAt": "2099-01-01T00:00:00.000Z", "cycle": 1,
        "assignedBy": format!("vendor:{vendor}"), "assignedAt": now } });
    let mut headers = Headers::default();
    headers.push("Content-Type", "application/json");
    Outgoing {
        subject: format!("roadcall.hub.incident.IncidentAssigned.{incident}"),
        headers,
        body: body.to_string().into(),
        msg_id: event.to_string(),
        expected_last_subject_seq: None,
    }
}

/// Publishes one event after the other until told to stop; gives their number.
async fn publish(bus: JetStream, stop: Arc<AtomicBool>, count: Arc<AtomicUsize>) {
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) {
        eventually("an event is published", || async {
            bus.publish(vec![assigned(n)])
                .await
                .stopped
                .is_none()
                .then_some(())
        })
        .await;
        n += 1;
        count.store(n as usize, Ordering::SeqCst);
    }
}

/// Waits until so many more have been published.
async fn more(count: &AtomicUsize, by: usize) {
    let from = count.load(Ordering::SeqCst);
    eventually("events are published", || async {
        (count.load(Ordering::SeqCst) >= from + by).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_goes_on_while_its_identity_is_renewed_and_the_old_one_retired() {
    let mut site = Guarded::new("").await;
    site.start_from_files("audit");
    site.start_from_files("tracking");
    site.ready("audit").await;
    site.ready("tracking").await;
    let bus = site.bus("operator").await;
    let (stop, count) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let publishing = tokio::spawn(publish(bus.clone(), Arc::clone(&stop), Arc::clone(&count)));
    more(&count, 10).await;

    let old = site.client("tracking").await;
    let old_seed = std::fs::read_to_string(site.identities().join("tracking.nk")).expect("a seed");
    site.init(&["--renew-identity", "tracking"]);
    // Both count: who is in stays in, who comes in may prove either.
    let may = async |seed: &str| {
        let options = async_nats::ConnectOptions::with_nkey(seed.trim().to_owned());
        options.connect(site.url()).await.is_ok()
    };
    let new_seed = std::fs::read_to_string(site.identities().join("tracking.nk")).expect("a seed");
    assert_ne!(old_seed, new_seed);
    eventually("the new seed counts", || async {
        may(&new_seed).await.then_some(())
    })
    .await;
    assert!(may(&old_seed).await);
    assert!(
        !site
            .log("tracking")
            .contains("disconnected from the broker")
    );
    more(&count, 10).await;

    site.init(&["--retire-old"]);
    eventually("the role came in again", || async {
        site.log("tracking")
            .contains("disconnected from the broker")
            .then_some(())?;
        (site
            .log("tracking")
            .matches("connected to the broker")
            .count()
            >= 2)
            .then_some(())
    })
    .await;
    assert!(!may(&old_seed).await && may(&new_seed).await);
    drop(old);
    more(&count, 10).await;
    stop.store(true, Ordering::SeqCst);
    publishing.await.expect("no panic");

    let published = count.load(Ordering::SeqCst);
    let started = "roadcall.hub.tracking.TrackingStarted.>";
    let found = eventually_within(60, "the role has handled everything", || async {
        let state = bus.queue(QUEUE).await.ok()?;
        let mut found = Vec::new();
        let mut from = 1;
        loop {
            let page = bus.read(EVENTS, started, from, 1000, true).await.ok()?;
            let Some(last) = page.last() else { break };
            from = last.seq + 1;
            found.extend(page.into_iter().map(|stored| stored.subject));
        }
        if found.len() < published {
            eprintln!("{} of {published} handled, {state:?}", found.len());
            return None;
        }
        Some(found)
    })
    .await;
    let distinct: std::collections::BTreeSet<&String> = found.iter().collect();
    assert_eq!((found.len(), distinct.len()), (published, published));
    let rows = site.json(&["audit", "--queue", QUEUE, "--json"]);
    assert_eq!(
        (&rows[0]["unaccounted"], &rows[0]["dead"]),
        (&json!(0), &json!(0)),
        "{rows}"
    );
}
