//! Real processes killed with SIGKILL, a real broker killed and rolled back, under load from a seed: every accepted
//! command has its effect once, every event is in the archive once, queues drain, no letters.
//!
//! `ROADCALL_KILLS=50 cargo test crash` runs the long form; `ROADCALL_KILL_SEED` repeats one.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::processes::{Processes, ROLES, copy_dir};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, DLQ, EVENTS, Headers};
use roadcall::event::{Id, ids};

/// Sends a command until it is answered: the same request id makes a repeat harmless.
pub async fn call(bus: &JetStream, actor: &str, command: &str, body: &Value) -> Value {
    eventually(command, || async {
        let mut headers = Headers::default();
        headers.push("Roadcall-Actor", actor);
        let reply = bus
            .call(
                "hub",
                command,
                &headers,
                body.to_string().into_bytes(),
                Duration::from_secs(2),
            )
            .await;
        let value: Value = serde_json::from_slice(&reply.ok()?.body).ok()?;
        let passing = ["SERVICE_UNAVAILABLE", "NOT_FOUND"]
            .iter()
            .any(|code| value["error"]["code"] == *code);
        (!passing).then_some(value)
    })
    .await
}

pub fn id(kind: &str, n: u64) -> Id {
    ids::derive_v7(1, &[kind.as_bytes(), &n.to_be_bytes()])
}

/// A breakdown: with a vendor near it, who takes the job and arrives, or with nobody for 78 miles.
#[derive(Debug, Clone, Copy)]
pub struct Story {
    pub n: u64,
    pub vendor: bool,
}

impl Story {
    fn place(self) -> (f64, f64) {
        let lat = if self.vendor { -60.0 } else { 20.0 };
        (
            lat + (self.n % 20) as f64 * 2.0,
            20.0 + (self.n / 20) as f64 * 3.0,
        )
    }

    fn vendor_actor(self) -> String {
        format!("vendor:{}", id("vendor", self.n))
    }

    /// Registers the vendor, if there is one.
    pub async fn prepare(self, bus: &JetStream) {
        if !self.vendor {
            return;
        }
        let (lat, lon) = self.place();
        let day = json!({ "open": "00:00", "close": "24:00" });
        let week: BTreeMap<&str, &Value> = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
            .into_iter()
            .map(|name| (name, &day))
            .collect();
        let profile = json!({
            "businessName": "Tires", "contactName": "T", "phone": "+15550001111", "timezone": "UTC",
            "capabilities": ["tire_repair"], "location": { "lat": lat, "lon": lon }, "coverageRadiusMiles": 50,
            "insuranceExpiry": "2099-12-31", "operatingHours": week, "clientRequestId": "register",
            "pricing": { "tire_repair": { "basePriceCents": 100, "perMileCents": 1 } },
        });
        let reply = call(bus, &self.vendor_actor(), "vendor.register", &profile).await;
        assert!(reply.get("ok").is_some(), "{reply}");
        let verify =
            json!({ "vendorId": id("vendor", self.n), "backgroundCheckStatus": "approved" });
        let reply = call(bus, "operator:test", "vendor.verify", &verify).await;
        assert!(reply.get("ok").is_some(), "{reply}");
    }

    /// Waits until matching has handled the vendor's approval: nobody asks him before.
    async fn known_to_matching(self, bus: &JetStream) {
        if !self.vendor {
            return;
        }
        let about_him = format!("roadcall.hub.vendor.VendorUpdated.{}", id("vendor", self.n));
        eventually("matching to learn of the vendor", || async {
            let updated = bus.read(EVENTS, &about_him, 1, 1, true).await.ok()?;
            let queue = bus.queue("match-queue").await.ok()?;
            (queue.ack_floor_seq >= updated.first()?.seq).then_some(())
        })
        .await;
    }

    /// The whole story.
    pub async fn tell(self, bus: JetStream) -> Reported {
        self.prepare(&bus).await;
        let reported = self.report(&bus).await;
        reported.finish(&bus).await;
        reported
    }

    async fn report(self, bus: &JetStream) -> Reported {
        self.known_to_matching(bus).await;
        let driver = format!("driver:{}", id("driver", self.n));
        let (lat, lon) = self.place();
        let body = json!({ "type": "tire", "lat": lat, "lon": lon, "clientRequestId": format!("r{}", self.n) });
        let reply = call(bus, &driver, "incident.create", &body).await;
        assert!(reply["ok"]["incidentId"].is_string(), "{reply}");
        let incident = reply["ok"]["incidentId"].clone();
        Reported {
            story: self,
            incident,
        }
    }
}

/// A story whose incident is accepted by the site.
pub struct Reported {
    story: Story,
    pub incident: Value,
}

impl Reported {
    /// The vendor takes the job and sends one fix from where the truck stands.
    async fn finish(&self, bus: &JetStream) {
        if !self.story.vendor {
            return;
        }
        let actor = self.story.vendor_actor();
        let of_incident = json!({ "incidentId": self.incident });
        let offer = eventually("an offer", || async {
            let offers = call(bus, &actor, "offer.list", &of_incident).await;
            offers["ok"]["items"]
                .get(0)
                .map(|offer| offer["offerId"].clone())
        })
        .await;
        let reply = call(bus, &actor, "offer.accept", &json!({ "offerId": offer })).await;
        assert_eq!(reply["ok"]["status"], "accepted", "{reply}");
        let session = call(bus, &actor, "tracking.get", &of_incident).await;
        let session = session["ok"]["sessionId"].clone();
        let (lat, lon) = self.story.place();
        let now = chrono::Utc::now()
            .format("%Y-%m-%dT%H:%M:%S%.3fZ")
            .to_string();
        let fix = json!({ "lat": lat, "lon": lon, "recordedAt": now });
        let body = json!({ "sessionId": session, "fix": fix });
        let reply = call(bus, &actor, "tracking.report_fix", &body).await;
        assert_eq!(reply["ok"]["status"], "arrived", "{reply}");
    }
}

/// Reads the whole archive; fails if an event is there twice.
pub async fn archive(bus: &JetStream) -> BTreeMap<String, String> {
    let mut events = BTreeMap::new();
    let mut from = 1;
    loop {
        let stored = bus.read(EVENTS, "roadcall.>", from, 1000, true).await;
        let stored = stored.expect("read");
        let Some(last) = stored.last() else {
            return events;
        };
        from = last.seq + 1;
        for message in stored {
            let event_id = message.headers.get("Nats-Msg-Id").expect("an id");
            let before = events.insert(event_id.to_owned(), message.subject.clone());
            assert_eq!(before, None, "event {event_id} is in the archive twice");
        }
    }
}

/// Every story ends as it should, and each of its steps happened once.
async fn check(site: &Processes, bus: &JetStream, stories: &[Reported]) {
    let (served, alone): (Vec<&Reported>, Vec<&Reported>) =
        stories.iter().partition(|reported| reported.story.vendor);
    let of = |kind: &str, reported: &Reported| {
        format!("{kind}.{}", reported.incident.as_str().expect("an id"))
    };
    let ends = served
        .iter()
        .map(|reported| of(".VendorArrived", reported))
        .chain(
            alone
                .iter()
                .map(|reported| of(".IncidentEscalated", reported)),
        );
    let ends: Vec<String> = ends.collect();
    eventually("every story ends", || async {
        let stored = bus.stream(EVENTS).await.ok()?;
        let events = archive(bus).await;
        let ended = |end: &String| events.values().any(|subject| subject.ends_with(end));
        (stored.messages as usize == events.len() && ends.iter().all(ended)).then_some(())
    })
    .await;
    site.drained(bus).await;
    eventually("the incidents hear of the arrivals", || async {
        for reported in &served {
            let body = json!({ "incidentId": reported.incident });
            let incident = call(bus, "operator:test", "incident.get", &body).await;
            if incident["ok"]["status"] != "vendor_arrived" {
                return None;
            }
        }
        Some(())
    })
    .await;
    site.drained(bus).await;
    let mut times: BTreeMap<String, u64> = BTreeMap::new();
    for subject in archive(bus).await.into_values() {
        *times.entry(subject).or_default() += 1;
    }
    let once = |kind: &str, reported: &Reported| {
        let end = of(kind, reported);
        let found = times.iter().filter(|(subject, _)| subject.ends_with(&end));
        assert_eq!(found.map(|(_, times)| times).sum::<u64>(), 1, "{end}");
    };
    for reported in &alone {
        [".IncidentCreated", ".MatchExhausted", ".IncidentEscalated"]
            .iter()
            .for_each(|kind| once(kind, reported));
    }
    for reported in &served {
        [
            ".IncidentCreated",
            ".OfferCreated",
            ".OfferAccepted",
            ".IncidentAssigned",
            ".TrackingStarted",
            ".VendorArrived",
        ]
        .iter()
        .for_each(|kind| once(kind, reported));
    }
    let letters = bus.stream(DLQ).await.expect("asked").messages;
    assert_eq!(letters, 0, "no letters");
}

pub fn number(variable: &str, default: u64) -> u64 {
    let set = std::env::var(variable).ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_roles_and_broker_lose_nothing_and_double_nothing() {
    let (kills, seed) = (
        number("ROADCALL_KILLS", 20),
        number("ROADCALL_KILL_SEED", 7),
    );
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut site = Processes::all();
    let bus = site.connect().await;
    let mut stories = tokio::task::JoinSet::new();
    let mut n = 0;
    for kill in 1..=kills {
        for _ in 0..random.random_range(1..5) {
            let vendor = random.random_bool(0.6);
            stories.spawn(Story { n, vendor }.tell(bus.clone()));
            n += 1;
        }
        // Not a wait for something: the moment of the kill is the fault that the seed chooses.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..700))).await;
        let victim = random.random_range(0..=ROLES.len());
        let victim = ROLES.get(victim).copied().unwrap_or("broker");
        match victim {
            "broker" => site.kill_broker(),
            role => site.kill(role),
        }
        eprintln!("seed {seed}: kill {kill} of {kills}: {victim}, {n} stories so far");
    }
    let told = stories.join_all().await;
    check(&site, &bus, &told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolled_back_broker_gets_back_what_it_lost() {
    let mut site = Processes::all();
    let bus = site.connect().await;
    let mut told = Vec::new();
    let tell = async |range: std::ops::Range<u64>, told: &mut Vec<Reported>, bus: &JetStream| {
        for n in range {
            let vendor = n % 2 == 0;
            told.push(Story { n, vendor }.tell(bus.clone()).await);
        }
    };
    tell(0..4, &mut told, &bus).await;
    check(&site, &bus, &told).await;
    let older = site.dir.path().join("older");
    copy_dir(&site.dir.path().join("nats"), &older);
    tell(4..12, &mut told, &bus).await;
    check(&site, &bus, &told).await;
    let before = archive(&bus).await;
    site.roll_back(&older);
    let bus = site.connect().await;
    eventually("the archive holds every event again", || async {
        let stored = bus.stream(EVENTS).await.ok()?;
        (stored.messages == before.len() as u64).then_some(())
    })
    .await;
    let again = archive(&bus).await;
    assert_eq!(
        again.keys().collect::<Vec<_>>(),
        before.keys().collect::<Vec<_>>()
    );
    tell(12..16, &mut told, &bus).await;
    check(&site, &bus, &told).await;
}
