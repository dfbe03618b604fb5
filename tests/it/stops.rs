//! Stops as a service manager does them, by SIGTERM, one after the other under load: they lose and repeat nothing. Roles are stopped
//! twice in a row: the second time while they work off what came meanwhile, with their hands full.
//!
//! `ROADCALL_FULL=1 cargo test stops::` runs the long form: 200 of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::crash::{archive, call, id};
use crate::support::processes::Processes;
use crate::support::{grows_to, sized};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, DLQ, EVENTS};

/// Who is stopped: the roles that each of these incidents passes through.
const LOADED: [&str; 5] = ["match", "reporting", "incident", "notifications", "audit"];
/// How many report breakdowns at once.
const WORKERS: u64 = 12;

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

/// Counts the incidents that have ended; each look reads on where the last one stopped.
struct Counting<'b> {
    bus: &'b JetStream,
    /// From which sequence, and how many so far.
    so_far: Mutex<(u64, u64)>,
}

impl<'b> Counting<'b> {
    fn new(bus: &'b JetStream) -> Self {
        Self {
            bus,
            so_far: Mutex::new((1, 0)),
        }
    }

    async fn more(&self) -> u64 {
        let ends = "roadcall.hub.incident.IncidentEscalated.*";
        loop {
            let (from, count) = *self.so_far.lock().expect("nobody panics with it");
            let page = self.bus.read(EVENTS, ends, from, 1000, true).await;
            let page = page.expect("read");
            let Some(last) = page.last() else {
                return count;
            };
            let further = (last.seq + 1, count + page.len() as u64);
            *self.so_far.lock().expect("nobody panics with it") = further;
        }
    }
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
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| tokio::spawn(load(bus.clone(), worker, Arc::clone(&stop))))
        .collect();
    let twice = LOADED.iter().flat_map(|name| [name, name]);
    for (n, name) in (1..=stops).zip(twice.cycle()) {
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
    let ended = Counting::new(&bus);
    let ended = async || ended.more().await;
    grows_to("incidents that ended", accepted.len() as u64, ended).await;
    site.drained(&bus).await;
    judge(&archive(&bus).await, &accepted);
    let letters = bus.stream(DLQ).await.expect("asked").messages;
    assert_eq!(letters, 0, "no letters");
    for name in LOADED {
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
