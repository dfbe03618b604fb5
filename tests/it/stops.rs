//! Stops as a service manager does them, by SIGTERM, one after the other under load: they lose and repeat nothing.
//!
//! `ROADCALL_FULL=1 cargo test stops::` runs the long form: 200 of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::crash::{archive, call, id};
use crate::support::processes::Processes;
use crate::support::{eventually, sized};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, DLQ};

/// Reports breakdowns where no vendor is, one after the other, until told to stop; gives the incidents that were accepted.
async fn load(bus: JetStream, worker: u64, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut accepted = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let n = worker * 1_000_000 + accepted.len() as u64;
        let driver = format!("driver:{}", id("driver", n));
        let body =
            json!({ "type": "tire", "lat": 20.0, "lon": 20.0, "clientRequestId": format!("r{n}") });
        let reply = call(&bus, &driver, "incident.create", &body).await;
        let incident = reply["ok"]["incidentId"].as_str();
        accepted.push(incident.unwrap_or_else(|| panic!("{reply}")).to_owned());
    }
    accepted
}

/// Each accepted incident had each of its steps once, and there is none that nobody asked for.
fn judge(events: &BTreeMap<String, String>, accepted: &[String]) {
    for step in ["IncidentCreated", "MatchExhausted", "IncidentEscalated"] {
        let mut of: Vec<&str> = events
            .values()
            .filter(|subject| subject.split('.').nth(3) == Some(step))
            .filter_map(|subject| subject.rsplit('.').next())
            .collect();
        of.sort_unstable();
        let mut wanted: Vec<&str> = accepted.iter().map(String::as_str).collect();
        wanted.sort_unstable();
        assert_eq!(of, wanted, "{step}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stops_under_load_lose_and_repeat_nothing() {
    let stops = sized(10, 200);
    let mut site = Processes::all();
    site.ready().await;
    let bus = site.connect().await;
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..3)
        .map(|worker| tokio::spawn(load(bus.clone(), worker, Arc::clone(&stop))))
        .collect();
    let loaded = ["incident", "match", "reporting", "notifications", "audit"];
    for (n, name) in (1..=stops).zip(loaded.iter().cycle()) {
        site.restart(name).await;
        if n % 20 == 0 {
            eprintln!("stop {n} of {stops}");
        }
    }
    stop.store(true, Ordering::SeqCst);
    let mut accepted = Vec::new();
    for worker in workers {
        accepted.extend(worker.await.expect("every command is answered"));
    }
    eventually("every incident to end", || async {
        let events = archive(&bus).await;
        let ended = events
            .values()
            .filter(|subject| subject.contains(".IncidentEscalated."));
        (ended.count() >= accepted.len()).then_some(())
    })
    .await;
    site.drained(&bus).await;
    judge(&archive(&bus).await, &accepted);
    let letters = bus.stream(DLQ).await.expect("asked").messages;
    assert_eq!(letters, 0, "no letters");
    for name in loaded {
        let log = site.dir.path().join(format!("{name}.log"));
        let words = std::fs::read_to_string(log).expect("a log");
        assert!(!words.contains("could not be emptied"), "{name}: {words}");
    }
    let per_stop = accepted.len() as u64 / stops;
    eprintln!(
        "{stops} stops, {} incidents, about {per_stop} between two stops",
        accepted.len()
    );
}
