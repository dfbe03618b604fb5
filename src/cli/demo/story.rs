//! One breakdown, from the phone call for help to a paid vendor and a closed file, told by the commands that the apps of a driver, a
//! vendor and the back office send.

use std::time::Duration;

use serde_json::{Value, json};

use super::phone::{Call, Line};
use crate::bus::{Bus, EVENTS};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::event::{Fix, Id, Point, Ts, ids};
use crate::node::clock::Clock;

/// How one ended.
pub(super) struct Story {
    /// Which of the run's it was, from 0.
    pub number: u32,
    /// Its incident's id.
    pub incident: String,
    /// When the driver called.
    pub called: Ts,
    pub arrived: bool,
    /// Worked on, paid for, closed.
    pub closed: bool,
    /// Those who were to be told: the driver and the vendor.
    pub people: Vec<String>,
}

fn person(kind: &str, n: u32) -> Id {
    ids::derive_v7(1, &[b"demo", kind.as_bytes(), &n.to_be_bytes()])
}

/// Rows and columns of places so far apart that no vendor is asked to another one's breakdown.
const ROWS: u32 = 40;
const COLUMNS: u32 = 25;

/// The drive of story `n`: where the truck stands and how the vendor gets there, in milliseconds from his start.
///
/// Each breakdown has its own district, so that every vendor gets his own job. The farthest point of a recorded round
/// trip is where the truck stands.
fn drive(n: u32, trace: &[(i64, Point)]) -> Vec<(i64, Point)> {
    let north = f64::from(n % ROWS) * 2.0 - 40.0;
    let east = f64::from(n / ROWS % COLUMNS) * 14.0;
    let moved = |(ms, point): &(i64, Point)| {
        let lat = (point.lat - north).clamp(-89.0, 89.0);
        let lon = (point.lon + east + 180.0).rem_euclid(360.0) - 180.0;
        (*ms, Point { lat, lon })
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

fn name(phone: &str) -> String {
    format!("Demo {}", phone.trim_start_matches('+'))
}

/// Where the truck stands: some twenty meters from where the vendor's drive ends.
fn beside(end: Point) -> Point {
    Point {
        lat: (end.lat + 0.000_183).min(90.0),
        ..end
    }
}

/// Makes an account; gives its id.
async fn account(client: &Client, role: &str, phone: &str) -> Result<String, Failure> {
    let body =
        json!({ "role": role, "phone": phone, "email": address(phone), "name": name(phone) });
    let made = client.call("auth.create_user", &body).await?;
    Ok(made["userId"].as_str().unwrap_or_default().to_owned())
}

/// What all stories of a run have in common.
pub(super) struct Script<'a> {
    pub client: Client,
    pub line: &'a Line,
    /// A recorded drive, milliseconds from its start.
    pub trace: &'a [(i64, Point)],
    /// So many times faster than it was recorded it is driven.
    pub pace: f64,
    /// How long anything that is waited for may take.
    pub patience: Duration,
}

/// A vendor and a driver who is about to break down near him.
pub(super) struct Cast {
    n: u32,
    vendor: Id,
    driver: String,
    phone: String,
    path: Vec<(i64, Point)>,
}

impl Script<'_> {
    /// Registers a vendor and a driver, and waits until they are known where they will be looked for.
    pub(super) async fn cast(&self, n: u32) -> Result<Cast, Failure> {
        let Self {
            client, patience, ..
        } = self;
        let path = drive(n, self.trace);
        let vendor = person("vendor", n);
        let as_vendor = client.acting(&format!("vendor:{vendor}"));
        let profile = profile(n, path[0].1);
        as_vendor.call("vendor.register", &profile).await?;
        let approve = json!({ "vendorId": vendor, "backgroundCheckStatus": "approved" });
        client.call("vendor.verify", &approve).await?;
        // Before that he is no candidate, and the next look for one is a round later.
        let him = Known {
            somebody: &vendor.to_string(),
            source: "vendor",
            kind: ".VendorUpdated.",
            queue: "match-queue",
        };
        him.wait(client, *patience).await?;
        let phone = format!("+1555{:07}", n + 1);
        let driver = account(client, "driver", &phone).await?;
        let caller = Known {
            somebody: &driver,
            source: "auth",
            kind: ".UserRegistered.",
            queue: "telephony-queue",
        };
        caller.wait(client, *patience).await?;
        Ok(Cast {
            n,
            vendor,
            driver,
            phone,
            path,
        })
    }

    /// The driver calls for help; the vendor takes the job, drives, arrives, works and is paid.
    pub(super) async fn play(&self, cast: Cast) -> Result<Story, Failure> {
        let Self {
            client, patience, ..
        } = self;
        let goal = beside(cast.path[cast.path.len() - 1].1);
        let as_vendor = client.acting(&format!("vendor:{}", cast.vendor));
        let called = Clock.now();
        let call = Call {
            n: cast.n,
            driver: &cast.driver,
            phone: &cast.phone,
            place: goal,
        };
        let incident = self.line.breakdown(client, &call, *patience).await?;
        let of_incident = json!({ "incidentId": incident });
        let offer = until(*patience, "an offer", || async {
            let offers = as_vendor.call("offer.list", &of_incident).await?;
            Ok(offers["items"].get(0).map(|offer| offer["offerId"].clone()))
        })
        .await?;
        as_vendor
            .call("offer.accept", &json!({ "offerId": offer }))
            .await?;
        let session = until(*patience, "a tracking session", || async {
            found(as_vendor.call("tracking.get", &of_incident).await)
        })
        .await?["sessionId"]
            .clone();
        self.set_out(&as_vendor, &incident).await?;
        self.report_drive(&as_vendor, &session, &cast.path).await?;
        let arrived = until(*patience, "the arrival", || async {
            let now = client.call("incident.get", &of_incident).await?;
            Ok((now["status"] == "vendor_arrived").then_some(()))
        })
        .await;
        let closed = match arrived {
            Ok(()) => self.work_and_pay(&as_vendor, &incident).await,
            Err(_) => Ok(()),
        };
        Ok(Story {
            number: cast.n,
            incident: incident.as_str().unwrap_or_default().to_owned(),
            called,
            arrived: arrived.is_ok(),
            closed: arrived.is_ok() && closed.is_ok(),
            people: vec![cast.driver, cast.vendor.to_string()],
        })
    }

    /// The vendor does the work; the back office approves his payment and says that it has paid, which closes the file.
    async fn work_and_pay(&self, as_vendor: &Client, incident: &Value) -> Result<(), Failure> {
        let client = &self.client;
        let of_incident = json!({ "incidentId": incident });
        for verb in ["incident.start_work", "incident.complete_work"] {
            let now = client.call("incident.get", &of_incident).await?;
            let body = json!({ "incidentId": incident, "expectedVersion": now["version"] });
            as_vendor.call(verb, &body).await?;
        }
        let payment = self.payment_in(incident, "pending_approval").await?;
        let body = |payment: &Value| json!({ "paymentId": payment["paymentId"], "expectedVersion": payment["version"] });
        client.call("payment.approve", &body(&payment)).await?;
        let payment = self.payment_in(incident, "processing").await?;
        let mut settled = body(&payment);
        settled["outcome"] = "completed".into();
        settled["reference"] = "demo".into();
        client.call("payment.settle", &settled).await?;
        until(self.patience, "the file to be closed", || async {
            let now = client.call("incident.get", &of_incident).await?;
            Ok((now["status"] == "closed").then_some(()))
        })
        .await
    }

    /// The incident's payment, once it has this status.
    async fn payment_in(&self, incident: &Value, status: &str) -> Result<Value, Failure> {
        until(
            self.patience,
            &format!("the payment to be {status}"),
            || async {
                let asked = json!({ "incidentId": incident, "status": status });
                let listed = self.client.call("payment.list", &asked).await?;
                Ok(listed["items"].get(0).cloned())
            },
        )
        .await
    }

    /// The vendor says that he is on his way.
    async fn set_out(&self, as_vendor: &Client, incident: &Value) -> Result<(), Failure> {
        let of_incident = json!({ "incidentId": incident });
        let version = until(self.patience, "the assignment", || async {
            let now = self.client.call("incident.get", &of_incident).await?;
            Ok((now["status"] == "vendor_assigned").then(|| now["version"].clone()))
        })
        .await?;
        let update = json!({ "incidentId": incident, "status": "vendor_en_route", "expectedVersion": version });
        as_vendor.call("incident.update_status", &update).await?;
        Ok(())
    }

    async fn report_drive(
        &self,
        as_vendor: &Client,
        session: &Value,
        path: &[(i64, Point)],
    ) -> Result<(), Failure> {
        let start = Clock.now();
        for (ms, point) in path {
            let at = Ts::from_ms(start.ms() + (*ms as f64 / self.pace) as i64);
            tokio::time::sleep(Clock.until(at)).await;
            let body = json!({ "sessionId": session, "fix": Fix::at(*point, at) });
            let session = as_vendor.call("tracking.report_fix", &body).await?;
            if session["status"] == "arrived" {
                break;
            }
        }
        Ok(())
    }
}

/// An event about somebody that a queue is to have handled.
struct Known<'a> {
    somebody: &'a str,
    source: &'a str,
    /// What is in its subject.
    kind: &'a str,
    queue: &'a str,
}

impl Known<'_> {
    /// Waits until the queue has handled the newest such event that is in the archive.
    async fn wait(&self, client: &Client, patience: Duration) -> Result<(), Failure> {
        let about = format!("roadcall.*.{}.*.{}", self.source, self.somebody);
        let what = format!("{} to learn of somebody", self.queue);
        until(patience, &what, || async {
            let events = client.bus.read(EVENTS, &about, 1, 100, true).await?;
            let newest = events
                .iter()
                .rev()
                .find(|event| event.subject.contains(self.kind));
            let Some(newest) = newest else {
                return Ok(None);
            };
            let queue = client.bus.queue(self.queue).await?;
            Ok(
                (queue.ack_floor_seq >= newest.seq || queue.pending + queue.ack_pending == 0)
                    .then_some(()),
            )
        })
        .await
    }
}

fn profile(n: u32, place: Point) -> Value {
    let phone = format!("+1556{:07}", n + 1);
    let day = json!({ "open": "00:00", "close": "24:00" });
    let week: serde_json::Map<String, Value> = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
        .iter()
        .map(|name| ((*name).to_owned(), day.clone()))
        .collect();
    json!({
        "businessName": format!("Tire Service {}", n + 1), "contactName": name(&phone), "phone": phone, "email": address(&phone),
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

/// Asks until there is something, for so long at most: often at first, at last once a second, as an app does whose user
/// watches.
pub(super) async fn until<T, F>(
    patience: Duration,
    what: &str,
    mut ask: impl FnMut() -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<Option<T>, Failure>>,
{
    let since = Clock.now();
    let mut pause = Duration::from_millis(50);
    loop {
        if let Some(found) = ask().await? {
            return Ok(found);
        }
        if Clock.since(since) > patience {
            return Err(Failure::other(
                format!("{what} did not come in {} s", patience.as_secs()),
                "the log says more; try --keep DIR",
            ));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 5 / 4).min(Duration::from_secs(1));
    }
}
