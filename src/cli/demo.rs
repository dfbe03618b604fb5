//! `roadcall demo`: a whole site on a broker of its own, and incidents driven through it by the commands that apps use.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, connect};
use super::failure::Failure;
use super::run::{broker_options, logging};
use super::tracking::{parse_trace, read_trace};
use crate::bus::{Bus, DLQ, EVENTS};
use crate::config::Config;
use crate::event::{Event, Fix, Id, Known, Point, Ts, decode, ids};
use crate::node::clock::Clock;
use crate::node::run::Node;
use crate::role::RoleName;

/// A real drive, for those who name no other.
const TRACE: &str = include_str!("../../tests/data/traces/car-round-trip.csv");

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// How many incidents.
    #[arg(long, default_value_t = 1)]
    incidents: u32,
    /// A GPS trace that the vendors follow (time,lat,lon,speed_kmh).
    #[arg(long, value_name = "CSV")]
    trace: Option<PathBuf>,
    /// So many times faster than recorded.
    #[arg(long, default_value_t = 60.0)]
    pace: f64,
    /// Keep databases and broker store here.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// What one driver and one vendor do, and how it ended.
struct Story {
    incident: u32,
    arrived: bool,
}

impl Demo {
    pub(super) async fn run(self, json: bool) -> Result<ExitCode, Failure> {
        if !(self.pace.is_finite() && self.pace > 0.0) {
            return Err(Failure::usage(
                "--pace is not over 0",
                "60 plays an hour in a minute",
            ));
        }
        let trace = match &self.trace {
            Some(path) => read_trace(path)?,
            None => parse_trace(TRACE).map_err(|error| Failure::other(error, ""))?,
        };
        let temporary = tempfile::tempdir()
            .map_err(|error| Failure::other(format!("no temporary directory: {error}"), ""))?;
        let mut config = Config::default();
        config.site.state_dir = self
            .keep
            .clone()
            .unwrap_or_else(|| temporary.path().to_owned());
        config.broker.listen = "127.0.0.1:0".to_owned();
        config.log.level = "error".to_owned();
        logging(&config);
        let broker = crate::broker::start(broker_options(&config)).await?;
        config.bus.url.clone_from(&broker.url);
        let result = self.site(&config, &trace, json).await;
        broker.shutdown().await;
        result
    }

    async fn site(
        &self,
        config: &Config,
        trace: &[(i64, Point)],
        json: bool,
    ) -> Result<ExitCode, Failure> {
        let bus = connect(config, "roadcall-demo").await?;
        let node = Node::start(bus.clone(), config, &RoleName::BUILT, true).await?;
        let client = Client::new(
            connect(config, "roadcall-demo-apps").await?,
            &config.site.id,
            "operator:demo",
        );
        if !json {
            println!(
                "A whole site runs: {} on nats-server {}.",
                names(),
                bus.server_version()
            );
        }
        let mut stories = Vec::new();
        for incident in 0..self.incidents {
            let (client, trace, pace) = (client.clone(), trace.to_vec(), self.pace);
            stories.push(tokio::spawn(async move {
                story(client, incident, &trace, pace).await
            }));
        }
        let show = tokio::spawn(show(bus.clone(), json, self.incidents > 3));
        let mut ended = Vec::new();
        for story in stories {
            ended.push(
                story
                    .await
                    .map_err(|error| Failure::other(error.to_string(), ""))??,
            );
        }
        settle(&bus).await?;
        show.abort();
        let code = summary(&bus, &node, &ended, json).await?;
        node.shutdown(Duration::from_secs(10)).await?;
        Ok(code)
    }
}

fn names() -> String {
    RoleName::BUILT
        .iter()
        .map(|role| role.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

fn person(kind: &str, n: u32) -> Id {
    ids::derive_v7(1, &[b"demo", kind.as_bytes(), &n.to_be_bytes()])
}

/// One breakdown: register a vendor near it, report it, take the job, drive, arrive.
async fn story(
    client: Client,
    n: u32,
    trace: &[(i64, Point)],
    pace: f64,
) -> Result<Story, Failure> {
    // Each breakdown has its own district, so that every vendor gets his own job.
    let shift = f64::from(n % 40) * 2.0 - 40.0;
    let moved = |point: &Point| Point {
        lat: (point.lat - shift).clamp(-89.0, 89.0),
        lon: point.lon,
    };
    let path: Vec<(i64, Point)> = trace
        .iter()
        .map(|(ms, point)| (*ms, moved(point)))
        .collect();
    // The farthest point of a round trip is where the truck stands; the vendor drives there.
    let home = path[0].1;
    let goal_at = (0..path.len()).max_by(|a, b| {
        home.distance_miles(&path[*a].1)
            .total_cmp(&home.distance_miles(&path[*b].1))
    });
    let goal_at = goal_at.unwrap_or(0);
    let goal = path[goal_at].1;
    let (driver, vendor) = (person("driver", n), person("vendor", n));
    let as_vendor = client.acting(&format!("vendor:{vendor}"));
    as_vendor.call("vendor.register", &profile(n, home)).await?;
    let approve = json!({ "vendorId": vendor, "backgroundCheckStatus": "approved" });
    client.call("vendor.verify", &approve).await?;
    wait_for_candidate().await;
    let as_driver = client.acting(&format!("driver:{driver}"));
    let report = json!({ "type": "tire", "lat": goal.lat, "lon": goal.lon, "clientRequestId": format!("demo-{n}") });
    let incident = as_driver.call("incident.create", &report).await?["incidentId"].clone();
    let offer = until(|| async {
        let offers = as_vendor
            .call("offer.list", &json!({ "incidentId": incident }))
            .await?;
        Ok(offers["items"].get(0).map(|offer| offer["offerId"].clone()))
    })
    .await?;
    as_vendor
        .call("offer.accept", &json!({ "offerId": offer }))
        .await?;
    let session = until(|| async {
        match as_vendor
            .call("tracking.get", &json!({ "incidentId": incident }))
            .await
        {
            Ok(session) => Ok(Some(session["sessionId"].clone())),
            Err(Failure::Refused(error)) if error["code"] == "NOT_FOUND" => Ok(None),
            Err(other) => Err(other),
        }
    })
    .await?;
    let start = Clock.now();
    for (ms, point) in &path[..=goal_at] {
        let at = Ts::from_ms(start.ms() + (*ms as f64 / pace) as i64);
        tokio::time::sleep(Clock.until(at)).await;
        let body = json!({ "sessionId": session, "fix": Fix::at(*point, at) });
        let session = as_vendor.call("tracking.report_fix", &body).await?;
        if session["status"] == "arrived" {
            break;
        }
    }
    let arrived = until(|| async {
        let now = client
            .call("incident.get", &json!({ "incidentId": incident }))
            .await?;
        Ok((now["status"] == "vendor_arrived").then_some(now["status"].clone()))
    })
    .await;
    Ok(Story {
        incident: n,
        arrived: arrived.is_ok(),
    })
}

/// Matching learns of a vendor by his events; there is nothing to ask it by, so the demo gives it a moment.
async fn wait_for_candidate() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

fn profile(n: u32, place: Point) -> Value {
    let day = json!({ "open": "00:00", "close": "24:00" });
    let week: serde_json::Map<String, Value> = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
        .iter()
        .map(|name| ((*name).to_owned(), day.clone()))
        .collect();
    json!({
        "businessName": format!("Tire Service {}", n + 1), "contactName": "Demo", "phone": "+15550001111",
        "capabilities": ["tire_repair", "tire_replacement"], "location": place, "coverageRadiusMiles": 50,
        "timezone": "UTC", "insuranceExpiry": "2099-12-31", "operatingHours": week,
        "pricing": { "tire_repair": { "basePriceCents": 15000, "perMileCents": 350 } }
    })
}

/// Asks until there is something, for at most half a minute.
async fn until<T, F>(mut ask: impl FnMut() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<Option<T>, Failure>>,
{
    for _ in 0..600 {
        if let Some(found) = ask().await? {
            return Ok(found);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(Failure::other(
        "the demo waited 30 s for something that did not happen",
        "the log says more; try --keep DIR",
    ))
}

/// Waits until every queue is empty.
async fn settle(bus: &crate::bus::jetstream::JetStream) -> Result<(), Failure> {
    until(|| async {
        for queue in RoleName::BUILT.iter().filter_map(|role| role.queue()) {
            let state = bus.queue(queue).await?;
            if state.pending + state.ack_pending > 0 {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

/// Prints events as they reach the archive, in plain words. Position updates are left out when there are many stories.
async fn show(bus: crate::bus::jetstream::JetStream, json: bool, terse: bool) {
    let mut from = 1;
    loop {
        let stored = bus
            .read(EVENTS, "roadcall.>", from, 500, false)
            .await
            .unwrap_or_default();
        for message in &stored {
            from = message.seq + 1;
            let Ok(event) = decode(
                &message.subject,
                message.headers.get("Content-Type"),
                &message.body,
            ) else {
                continue;
            };
            if json {
                println!(
                    "{}",
                    json!({ "seq": message.seq, "event": crate::event::to_value(&event) })
                );
            } else if let Some(words) = words(&event, terse) {
                println!("{}  {words}", event.time.datetime().format("%H:%M:%S%.3f"));
            }
        }
        if stored.is_empty() {
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    }
}

fn words(event: &Event, terse: bool) -> Option<String> {
    Some(match event.known()? {
        Known::VendorRegistered(e) => format!("vendor {} registers", e.vendor_id.short()),
        Known::IncidentCreated(e) => format!(
            "incident {}: a truck stands still, {} needed",
            e.incident_id.short(),
            e.incident_type
        ),
        Known::OfferCreated(e) => format!(
            "incident {}: offered to vendor {}, {:.1} miles away, score {:.3}",
            e.incident_id.short(),
            e.vendor_id.short(),
            e.distance_miles.get(),
            e.match_score.get()
        ),
        Known::OfferAccepted(e) => format!(
            "incident {}: vendor {} takes it, about {} min",
            e.incident_id.short(),
            e.vendor_id.short(),
            e.eta_minutes
        ),
        Known::IncidentStatusChanged(e) => format!(
            "incident {}: {} -> {}",
            e.incident_id.short(),
            e.previous_status,
            e.new_status
        ),
        Known::TrackingUpdated(e) if !terse => format!(
            "incident {}: {} {:.2} miles to go, {} min",
            e.incident_id.short(),
            bar(e.eta.distance_miles.get()),
            e.eta.distance_miles.get(),
            e.eta.minutes
        ),
        Known::VendorArrived(e) => format!(
            "incident {}: the vendor is there, {:.0} m away",
            e.incident_id.short(),
            e.distance_meters.get()
        ),
        _ => return None,
    })
}

/// Ten places, one for each half mile to go.
fn bar(miles: f64) -> String {
    let left = (miles * 2.0).ceil().clamp(0.0, 10.0) as usize;
    format!("[{}{}]", "#".repeat(10 - left), ".".repeat(left))
}

async fn summary(
    bus: &crate::bus::jetstream::JetStream,
    node: &Node,
    stories: &[Story],
    json: bool,
) -> Result<ExitCode, Failure> {
    let events = bus.stream(EVENTS).await?;
    let letters = bus.stream(DLQ).await?.messages;
    let arrived = stories.iter().filter(|story| story.arrived).count();
    let mut arrivals = std::collections::BTreeMap::new();
    let mut from = 1;
    loop {
        let stored = bus
            .read(
                EVENTS,
                "roadcall.*.tracking.VendorArrived.*",
                from,
                1000,
                true,
            )
            .await?;
        let Some(last) = stored.last() else { break };
        from = last.seq + 1;
        for message in &stored {
            *arrivals.entry(message.subject.clone()).or_insert(0_u64) += 1;
        }
    }
    let repeated: u64 = arrivals.values().map(|count| count - 1).sum();
    let handled: u64 = node.counts().iter().map(|(_, counts)| counts.handled).sum();
    if json {
        println!(
            "{}",
            json!({
                "incidents": stories.len(), "arrived": arrived, "closed": 0, "events": events.messages,
                "deadLetters": letters, "duplicateEffects": repeated, "handled": handled,
            })
        );
    } else {
        println!(
            "\n{arrived} of {} incidents have a vendor on the spot. {} events, {handled} handled, {letters} dead letters, {repeated} duplicate effects.",
            stories.len(),
            events.messages
        );
        for story in stories.iter().filter(|story| !story.arrived) {
            println!("incident {} did not end as it should", story.incident + 1);
        }
    }
    Ok(ExitCode::from(u8::from(
        arrived != stories.len() || letters > 0 || repeated > 0,
    )))
}
