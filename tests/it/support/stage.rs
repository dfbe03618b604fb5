//! A site whose role notifications runs in a process of its own, with an SMS service, a mail server and a push gateway.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::ends::smtp::Server;
use super::ends::web::Web;
use super::ends::{hooks, sms};
use super::processes::Processes;
use super::{eventually, patiently};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, Headers, Outgoing};
use roadcall::event::{Id, ids, lookup};

/// Where the SMS service is told to call us.
pub const WEBHOOK: &str = "https://fleet.example/webhooks/sms";

pub fn id(n: u64) -> Id {
    ids::derive_v7(1, &[b"person", &n.to_be_bytes()])
}

pub fn phone(n: u64) -> String {
    format!("+1555770{n:04}")
}

pub fn address(n: u64) -> String {
    format!("person-{n}@fleet.example")
}

/// The configuration of messages that go to these ends; `more` are further lines of the same table.
pub fn notifications(sms: &Web, mail: &Server, push: &Web, more: &str) -> String {
    format!(
        "[notifications]\nlink_base = 'https://fleet.example/'\n\
         sms = 'twilio'\nsms_url = '{}'\nsms_account = '{}'\nsms_token = '{}'\nsms_from = '{}'\n\
         email = 'smtp'\nsmtp_host = '127.0.0.1'\nsmtp_port = {}\nsmtp_tls = 'none'\nemail_from = 'alerts@fleet.example'\n\
         push = 'webhook'\npush_url = '{}/send'\n{more}\n",
        sms.url,
        sms::ACCOUNT,
        sms::TOKEN,
        sms::FROM,
        mail.port,
        push.url,
    )
}

/// The ends, and a site whose role notifications uses them.
pub struct Stage {
    pub site: Processes,
    pub bus: JetStream,
    pub sms: Web,
    pub push: Web,
    pub mail: Server,
}

impl Stage {
    /// With these people, and this long between tries.
    pub async fn set(retry_delay: &str, people: &[u64]) -> Self {
        let (sms, push, mail) = (sms::start().await, hooks::start().await, Server::start());
        let mut site = Processes::new();
        let (config, secret) = (
            site.dir.path().join("roadcall.toml"),
            site.dir.path().join("push"),
        );
        std::fs::write(&secret, format!("{}\n", hooks::SECRET)).expect("written");
        let more = format!(
            "retry_delay = '{retry_delay}'\nsms_webhook_url = '{WEBHOOK}'\npush_secret_file = '{}'",
            secret.display()
        );
        let messages = notifications(&sms, &mail, &push, &more);
        let text = format!("[log]\nlevel = 'debug'\n{messages}");
        std::fs::write(&config, text).expect("written");
        site.arguments = vec!["--config".to_owned(), config.display().to_string()];
        site.apply_topology();
        site.start("notifications");
        let bus = site.connect().await;
        let stage = Self {
            site,
            bus,
            sms,
            push,
            mail,
        };
        for n in people {
            stage.register(*n).await;
        }
        stage
    }

    /// Sends a command until the role answers.
    pub async fn call(&self, actor: &str, command: &str, body: &Value) -> Value {
        eventually("the role answers", || async {
            let mut headers = Headers::default();
            headers.push("Roadcall-Actor", actor);
            let body = body.to_string().into_bytes();
            let wait = Duration::from_secs(5);
            let reply = self
                .bus
                .call("hub", command, &headers, body, wait)
                .await
                .ok()?;
            let reply: Value = serde_json::from_slice(&reply.body).ok()?;
            (reply["error"]["code"] != "SERVICE_UNAVAILABLE").then_some(reply)
        })
        .await
    }

    /// Publishes an event as another role would.
    pub async fn publish(&self, detail_type: &str, mut detail: Value) -> Id {
        let row = lookup(detail_type).expect("in the catalogue");
        let event_id = Id::from_uuid(uuid::Uuid::new_v4());
        let now = chrono::Utc::now()
            .format("%Y-%m-%dT%H:%M:%S%.3fZ")
            .to_string();
        detail["eventId"] = json!(event_id);
        detail["timestamp"] = json!(now);
        detail["version"] = json!("1.0");
        let entity = detail[row.entity_field].as_str().expect("a key").to_owned();
        let body = json!({ "id": event_id, "source": row.source.as_str(), "detail-type": detail_type, "time": now,
            "site": "hub", "detail": detail });
        let mut headers = Headers::default();
        headers.push("Content-Type", "application/json");
        eventually("the event is in the archive", || async {
            let message = Outgoing {
                subject: format!(
                    "roadcall.hub.{}.{detail_type}.{entity}",
                    row.source.service()
                ),
                headers: headers.clone(),
                body: body.to_string().into_bytes().into(),
                msg_id: event_id.to_string(),
                expected_last_subject_seq: None,
            };
            self.bus
                .publish(vec![message])
                .await
                .stopped
                .is_none()
                .then_some(())
        })
        .await;
        event_id
    }

    /// Makes person `n` known, as a vendor, with a device.
    pub async fn register(&self, n: u64) {
        let profile = json!({ "vendorId": id(n), "businessName": format!("Tires {n}"), "contactName": "Hank Muller",
            "phone": phone(n), "email": address(n), "capabilities": ["tire_repair"], "location": { "lat": 40, "lon": -74 },
            "coverageRadiusMiles": 50, "timezone": "UTC", "operatingHours": {}, "pricing": {}, "insuranceExpiry": "2099-01-01",
            "backgroundCheckStatus": "approved", "profileVersion": 1, "registeredAt": "2026-01-01T00:00:00.000Z" });
        self.publish("VendorRegistered", profile).await;
        let body = json!({ "userId": id(n), "token": format!("device-of-{n}"), "platform": "ios" });
        self.call("operator:test", "notification.register_device", &body)
            .await;
    }

    /// Vendor `vendor` takes the job of driver `driver`.
    pub async fn accept(&self, driver: u64, vendor: u64) -> Id {
        let detail = json!({ "offerId": id(90), "incidentId": id(91), "vendorId": id(vendor), "driverId": id(driver),
            "acceptedBy": format!("vendor:{}", id(vendor)), "distanceMiles": 3.3, "etaMinutes": 5, "cycle": 1,
            "acceptedAt": "2026-01-15T10:00:00.000Z" });
        self.publish("OfferAccepted", detail).await
    }

    /// A payment to vendor `n` is approved.
    pub async fn approve(&self, n: u64) -> Id {
        let detail = json!({ "paymentId": id(92), "incidentId": id(93), "vendorId": id(n), "amountCents": 20000,
            "currency": "USD", "approvedBy": "operator:test", "approvedAt": "2026-01-15T10:00:00.000Z" });
        self.publish("PaymentApproved", detail).await
    }

    /// A person's log.
    pub async fn history(&self, n: u64) -> Vec<Value> {
        let body = json!({ "userId": id(n), "limit": 100 });
        let reply = self
            .call("operator:test", "notification.history", &body)
            .await;
        reply["ok"]["items"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until everything about an event has ended; gives what it came to by channel.
    pub async fn ended(&self, n: u64, event: Id, channels: usize) -> BTreeMap<String, Value> {
        patiently("every channel has ended", || async {
            let items = self.history(n).await;
            let ended: BTreeMap<String, Value> = items
                .into_iter()
                .filter(|item| item["eventId"] == json!(event) && item["status"] != "pending")
                .map(|item| {
                    (
                        item["channel"].as_str().unwrap_or_default().to_owned(),
                        item,
                    )
                })
                .collect();
            (ended.len() == channels).then_some(ended)
        })
        .await
    }

    /// What the role has logged.
    pub fn log(&self) -> String {
        let path = self.site.dir.path().join("notifications.log");
        std::fs::read_to_string(path).expect("a log")
    }
}
