//! One breakdown, from the phone call for help to a paid vendor and a closed file, told by the commands that the apps of a driver, a
//! vendor and the back office send.

use std::time::Duration;

use serde_json::{Value, json};

use super::phone::Line;
use crate::bus::{Bus, EVENTS};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::event::{Fix, Id, Point, Ts, ids};
use crate::node::clock::Clock;

/// How one ended.
pub(super) struct Story {
    pub incident: u32,
    pub arrived: bool,
    /// Worked on, paid for, closed.
    pub closed: bool,
    /// Those who were to be told: the driver and the vendor.
    pub people: Vec<String>,
}

fn person(kind: &str, n: u32) -> Id {
    ids::derive_v7(1, &[b"demo", kind.as_bytes(), &n.to_be_bytes()])
}

/// Places so far apart that no vendor is asked to another one's breakdown.
pub(super) const DISTRICTS: u32 = 40;

/// The drive of story `n`: where the truck stands and how the vendor gets there, in milliseconds from his start.
///
/// Each breakdown has its own district, so that every vendor gets his own job. The farthest point of a recorded round
/// trip is where the truck stands.
fn drive(n: u32, trace: &[(i64, Point)]) -> Vec<(i64, Point)> {
    let shift = f64::from(n % DISTRICTS) * 2.0 - 40.0;
    let moved = |(ms, point): &(i64, Point)| {
        let lat = (point.lat - shift).clamp(-89.0, 89.0);
        (
            *ms,
            Point {
                lat,
                lon: point.lon,
            },
        )
    };
    let mut path: Vec<(i64, Point)> = trace.iter().map(moved).collect();
    let home = path[0].1;
    let miles = |at: &usize| home.distance_miles(&path[*at].1);
    let farthest = (0..path.len()).max_by(|a, b| miles(a).total_cmp(&miles(b)));
    path.truncate(farthest.unwrap_or(0) + 1);
    path
}

/// Somebody who is told of payments: without an account nobody could be. Gives the account.
pub(super) async fn back_office(client: &Client) -> Result<String, Failure> {
    account(client, "admin", "+15550009999").await
}

/// An address that nobody has, for whoever has this number.
fn address(phone: &str) -> String {
    format!("demo-{}@roadcall.example", phone.trim_start_matches('+'))
}

/// Makes an account; gives its id.
async fn account(client: &Client, role: &str, phone: &str) -> Result<String, Failure> {
    let body = json!({ "role": role, "phone": phone, "email": address(phone), "name": "Demo" });
    let made = client.call("auth.create_user", &body).await?;
    Ok(made["userId"].as_str().unwrap_or_default().to_owned())
}

/// Registers a vendor and a driver, reports a breakdown near the one, lets him take the job, drive, arrive, work and be paid.
pub(super) async fn story(
    client: Client,
    line: &Line,
    n: u32,
    trace: &[(i64, Point)],
    pace: f64,
) -> Result<Story, Failure> {
    let path = drive(n, trace);
    let (home, goal) = (path[0].1, path[path.len() - 1].1);
    let vendor = person("vendor", n);
    let as_vendor = client.acting(&format!("vendor:{vendor}"));
    as_vendor.call("vendor.register", &profile(n, home)).await?;
    let approve = json!({ "vendorId": vendor, "backgroundCheckStatus": "approved" });
    client.call("vendor.verify", &approve).await?;
    // Before that he is no candidate, and the next look for one is a round later.
    let him = vendor.to_string();
    known_to(&client, &him, "vendor", ".VendorUpdated.", "match-queue").await?;
    let phone = format!("+1555{:07}", n + 1);
    let driver = account(&client, "driver", &phone).await?;
    known_to(
        &client,
        &driver,
        "auth",
        ".UserRegistered.",
        "telephony-queue",
    )
    .await?;
    let incident = line.breakdown(&client, n, &driver, &phone, goal).await?;
    let of_incident = json!({ "incidentId": incident });
    let offer = until("an offer", || async {
        let offers = as_vendor.call("offer.list", &of_incident).await?;
        Ok(offers["items"].get(0).map(|offer| offer["offerId"].clone()))
    })
    .await?;
    as_vendor
        .call("offer.accept", &json!({ "offerId": offer }))
        .await?;
    let session = until("a tracking session", || async {
        found(as_vendor.call("tracking.get", &of_incident).await)
    })
    .await?["sessionId"]
        .clone();
    set_out(&client, &as_vendor, &incident).await?;
    report_drive(&as_vendor, &session, &path, pace).await?;
    let arrived = until("the arrival", || async {
        let now = client.call("incident.get", &of_incident).await?;
        Ok((now["status"] == "vendor_arrived").then_some(()))
    })
    .await;
    let closed = match arrived {
        Ok(()) => work_and_pay(&client, &as_vendor, &incident).await,
        Err(_) => Ok(()),
    };
    Ok(Story {
        incident: n,
        arrived: arrived.is_ok(),
        closed: arrived.is_ok() && closed.is_ok(),
        people: vec![driver, vendor.to_string()],
    })
}

/// The vendor does the work; the back office approves his payment and says that it has paid, which closes the file.
async fn work_and_pay(
    client: &Client,
    as_vendor: &Client,
    incident: &Value,
) -> Result<(), Failure> {
    let of_incident = json!({ "incidentId": incident });
    for verb in ["incident.start_work", "incident.complete_work"] {
        let now = client.call("incident.get", &of_incident).await?;
        let body = json!({ "incidentId": incident, "expectedVersion": now["version"] });
        as_vendor.call(verb, &body).await?;
    }
    let payment = payment_in(client, incident, "pending_approval").await?;
    let body = |payment: &Value| json!({ "paymentId": payment["paymentId"], "expectedVersion": payment["version"] });
    client.call("payment.approve", &body(&payment)).await?;
    let payment = payment_in(client, incident, "processing").await?;
    let mut settled = body(&payment);
    settled["outcome"] = "completed".into();
    settled["reference"] = "demo".into();
    client.call("payment.settle", &settled).await?;
    until("the file to be closed", || async {
        let now = client.call("incident.get", &of_incident).await?;
        Ok((now["status"] == "closed").then_some(()))
    })
    .await
}

/// The incident's payment, once it has this status.
async fn payment_in(client: &Client, incident: &Value, status: &str) -> Result<Value, Failure> {
    until(&format!("the payment to be {status}"), || async {
        let asked = json!({ "incidentId": incident, "status": status });
        let listed = client.call("payment.list", &asked).await?;
        Ok(listed["items"].get(0).cloned())
    })
    .await
}

/// The vendor says that he is on his way.
async fn set_out(client: &Client, as_vendor: &Client, incident: &Value) -> Result<(), Failure> {
    let of_incident = json!({ "incidentId": incident });
    let version = until("the assignment", || async {
        let now = client.call("incident.get", &of_incident).await?;
        Ok((now["status"] == "vendor_assigned").then(|| now["version"].clone()))
    })
    .await?;
    let update =
        json!({ "incidentId": incident, "status": "vendor_en_route", "expectedVersion": version });
    as_vendor.call("incident.update_status", &update).await?;
    Ok(())
}

async fn report_drive(
    as_vendor: &Client,
    session: &Value,
    path: &[(i64, Point)],
    pace: f64,
) -> Result<(), Failure> {
    let start = Clock.now();
    for (ms, point) in path {
        let at = Ts::from_ms(start.ms() + (*ms as f64 / pace) as i64);
        tokio::time::sleep(Clock.until(at)).await;
        let body = json!({ "sessionId": session, "fix": Fix::at(*point, at) });
        let session = as_vendor.call("tracking.report_fix", &body).await?;
        if session["status"] == "arrived" {
            break;
        }
    }
    Ok(())
}

/// Waits until a queue has handled the newest event with `kind` in its subject that is in the archive about somebody.
async fn known_to(
    client: &Client,
    somebody: &str,
    source: &str,
    kind: &str,
    queue: &str,
) -> Result<(), Failure> {
    let about = format!("roadcall.*.{source}.*.{somebody}");
    until(&format!("{queue} to learn of somebody"), || async {
        let events = client.bus.read(EVENTS, &about, 1, 100, true).await?;
        let newest = events
            .iter()
            .rev()
            .find(|event| event.subject.contains(kind));
        let Some(newest) = newest else {
            return Ok(None);
        };
        let queue = client.bus.queue(queue).await?;
        Ok(
            (queue.ack_floor_seq >= newest.seq || queue.pending + queue.ack_pending == 0)
                .then_some(()),
        )
    })
    .await
}

fn profile(n: u32, place: Point) -> Value {
    let phone = format!("+1556{:07}", n + 1);
    let day = json!({ "open": "00:00", "close": "24:00" });
    let week: serde_json::Map<String, Value> = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
        .iter()
        .map(|name| ((*name).to_owned(), day.clone()))
        .collect();
    json!({
        "businessName": format!("Tire Service {}", n + 1), "contactName": "Demo", "phone": phone, "email": address(&phone),
        "capabilities": ["tire_repair", "tire_replacement"], "location": place, "coverageRadiusMiles": 50,
        "timezone": "UTC", "insuranceExpiry": "2099-12-31", "operatingHours": week,
        "pricing": { "tire_repair": { "basePriceCents": 15000, "perMileCents": 350 } }
    })
}

fn found(reply: Result<Value, Failure>) -> Result<Option<Value>, Failure> {
    match reply {
        Ok(value) => Ok(Some(value)),
        Err(Failure::Refused(error)) if error["code"] == "NOT_FOUND" => Ok(None),
        Err(other) => Err(other),
    }
}

/// Asks until there is something, for at most half a minute.
pub(super) async fn until<T, F>(what: &str, mut ask: impl FnMut() -> F) -> Result<T, Failure>
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
        format!("the demo waited 30 s for {what}"),
        "the log says more; try --keep DIR",
    ))
}
