//! Breakdowns at one of several sites, from the report to a closed file.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::place::PATIENCE;
use crate::support::eventually_within;
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, EVENTS, Headers};
use roadcall::event::{Id, ids};

pub const BOSS: &str = "operator:test";

/// Whoever drives breakdowns at a site.
#[derive(Clone)]
pub struct Teller {
    pub bus: JetStream,
    pub site: String,
    /// Where its districts begin: sites must not share vendors.
    pub base: u64,
    /// What the hub does for the site, and the hub.
    pub elsewhere: Option<(&'static [&'static str], Arc<Teller>)>,
}

/// The states of a file, in order.
const WAY: [&str; 7] = [
    "vendor_assigned",
    "vendor_en_route",
    "vendor_arrived",
    "work_in_progress",
    "work_completed",
    "payment_pending",
    "closed",
];

fn way(status: &Value) -> Option<usize> {
    WAY.iter().position(|one| status == one)
}

impl Teller {
    /// Where a role is that does the site's work.
    fn of_role(&self, role: &str) -> &Self {
        match &self.elsewhere {
            Some((roles, hub)) if roles.contains(&role) => hub,
            _ => self,
        }
    }

    /// Whether its site has a role.
    pub fn runs(&self, role: &str) -> bool {
        self.elsewhere
            .as_ref()
            .is_none_or(|(roles, _)| !roles.contains(&role))
    }

    /// Sends a command until it is answered: the same request id makes a repeat harmless.
    pub async fn call(&self, actor: &str, command: &str, body: &Value) -> Value {
        eventually_within(PATIENCE, command, || async {
            let mut headers = Headers::default();
            headers.push("Roadcall-Actor", actor);
            let body = body.to_string().into_bytes();
            let wait = Duration::from_secs(5);
            let reply = self
                .bus
                .call(&self.site, command, &headers, body, wait)
                .await;
            let value: Value = serde_json::from_slice(&reply.ok()?.body).ok()?;
            let passing = ["SERVICE_UNAVAILABLE", "NOT_FOUND"]
                .iter()
                .any(|code| value["error"]["code"] == *code);
            (!passing).then_some(value)
        })
        .await
    }

    pub async fn ok(&self, actor: &str, command: &str, body: Value) -> Value {
        let reply = self.call(actor, command, &body).await;
        assert!(
            reply.get("ok").is_some(),
            "{}: {command}: {reply}",
            self.site
        );
        reply["ok"].clone()
    }

    fn id(&self, kind: &str, n: u64) -> Id {
        ids::derive_v7(
            1,
            &[self.site.as_bytes(), kind.as_bytes(), &n.to_be_bytes()],
        )
    }

    pub fn place(&self, n: u64) -> (f64, f64) {
        let n = self.base + n;
        (
            -40.0 + (n % 20) as f64 * 2.0,
            -170.0 + (n / 20) as f64 * 3.0,
        )
    }

    /// A vendor in district `n`, known to matching.
    pub async fn vendor(&self, n: u64) -> String {
        let (lat, lon) = self.place(n);
        let day = json!({ "open": "00:00", "close": "24:00" });
        let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
        let week: BTreeMap<&str, &Value> = days.into_iter().map(|name| (name, &day)).collect();
        let number = 1000 * self.base + n;
        let profile = json!({
            "businessName": "Tires", "contactName": "T", "phone": format!("+1555{number:07}"), "timezone": "UTC",
            "capabilities": ["tire_repair"], "location": { "lat": lat, "lon": lon }, "coverageRadiusMiles": 50,
            "insuranceExpiry": "2099-12-31", "operatingHours": week, "clientRequestId": format!("register-{n}"),
            "pricing": { "tire_repair": { "basePriceCents": 100, "perMileCents": 1 } },
        });
        let id = self.id("vendor", n);
        let actor = format!("vendor:{id}");
        self.ok(&actor, "vendor.register", profile).await;
        self.known("vendor.VendorRegistered", &id.to_string(), "notifications")
            .await;
        let verify = json!({ "vendorId": id, "backgroundCheckStatus": "approved" });
        self.ok(BOSS, "vendor.verify", verify).await;
        self.known("vendor.VendorUpdated", &id.to_string(), "match")
            .await;
        actor
    }

    /// Somebody with an account, known to those who tell him things; gives his id.
    pub async fn account(&self, role: &str, number: u64) -> String {
        let body = json!({ "role": role, "phone": format!("+1777{number:07}"), "name": "P",
            "email": format!("p{number}@fleet.example"), "clientRequestId": format!("account-{role}-{number}") });
        let made = self.ok(BOSS, "auth.create_user", body).await;
        let id = made["userId"].as_str().expect("an id").to_owned();
        self.known("auth.UserRegistered", &id, "notifications")
            .await;
        id
    }

    /// Waits until a role has handled the first event of this type about somebody.
    async fn known(&self, what: &str, who: &str, role: &str) {
        let (bus, queue) = (&self.of_role(role).bus, format!("{role}-queue"));
        let about = format!("roadcall.{}.{what}.{who}", self.site);
        eventually_within(PATIENCE, &format!("{queue} learns of {who}"), || async {
            let events = bus.read(EVENTS, &about, 1, 1, true).await.ok()?;
            let seq = events.first()?.seq;
            let queue = bus.queue(&queue).await.ok()?;
            let through = queue.ack_floor_seq >= seq || queue.pending + queue.ack_pending == 0;
            through.then_some(())
        })
        .await;
    }

    /// The whole story; gives the incident's id.
    pub async fn tell(self, n: u64) -> String {
        // Somebody at the back office is to be told of payments.
        self.account("admin", 10_000 * self.base).await;
        let vendor = self.vendor(n).await;
        let (lat, lon) = self.place(n);
        let driver = self.account("driver", 10_000 * self.base + n + 1).await;
        let driver = format!("driver:{driver}");
        let report = json!({ "type": "tire", "lat": lat, "lon": lon, "clientRequestId": format!("report-{n}") });
        let made = self.ok(&driver, "incident.create", report).await;
        let incident = made["incidentId"].clone();
        let of = json!({ "incidentId": incident });
        let matching = self.of_role("match");
        let offer = eventually_within(PATIENCE, "an offer", || async {
            let offers = matching.ok(&vendor, "offer.list", of.clone()).await;
            offers["items"].get(0).map(|offer| offer["offerId"].clone())
        })
        .await;
        // Under kills the answer to the first one may be lost; what the file says counts.
        matching
            .call(&vendor, "offer.accept", &json!({ "offerId": offer }))
            .await;
        self.work(&incident).await;
        self.of_role("payments").pay(&of).await;
        self.reaches(&incident, "closed").await;
        incident.as_str().expect("an id").to_owned()
    }

    pub async fn reaches(&self, incident: &Value, status: &str) {
        let what = format!("{}: incident {incident} is {status}", self.site);
        eventually_within(PATIENCE, &what, || async {
            let now = self
                .ok(BOSS, "incident.get", json!({ "incidentId": incident }))
                .await;
            (way(&now["status"]) >= way(&json!(status))).then_some(())
        })
        .await;
    }

    pub async fn work(&self, incident: &Value) {
        let bill = json!([{ "description": "tire", "unitPriceCents": 15_000 }]);
        self.reaches(incident, "vendor_assigned").await;
        for (command, target, more) in [
            (
                "incident.update_status",
                "vendor_en_route",
                json!({ "status": "vendor_en_route" }),
            ),
            (
                "incident.update_status",
                "vendor_arrived",
                json!({ "status": "vendor_arrived" }),
            ),
            ("incident.start_work", "work_in_progress", json!({})),
            (
                "incident.complete_work",
                "work_completed",
                json!({ "lineItems": bill }),
            ),
        ] {
            eventually_within(PATIENCE, target, || async {
                let now = self
                    .ok(BOSS, "incident.get", json!({ "incidentId": incident }))
                    .await;
                if way(&now["status"]) >= way(&json!(target)) {
                    return Some(());
                }
                let mut body = more.clone();
                body["incidentId"] = incident.clone();
                body["expectedVersion"] = now["version"].clone();
                let reply = self.call(BOSS, command, &body).await;
                reply.get("ok").map(|_| ())
            })
            .await;
        }
    }

    /// The back office approves the payment and says that it has paid.
    pub async fn pay(&self, of: &Value) {
        let what = format!("{}: the payment of {of}", self.site);
        eventually_within(PATIENCE, &what, || async {
            let list = self.ok(BOSS, "payment.list", of.clone()).await;
            let payment = list["items"].get(0)?.clone();
            let mut body =
                json!({ "paymentId": payment["paymentId"], "expectedVersion": payment["version"] });
            let command = match payment["status"].as_str()? {
                "pending_approval" => "payment.approve",
                "processing" => {
                    body["outcome"] = json!("completed");
                    body["reference"] = json!("by hand");
                    "payment.settle"
                }
                "completed" => return Some(()),
                _ => return None,
            };
            self.call(BOSS, command, &body).await;
            None
        })
        .await;
    }
}
