//! A whole site on a real broker with a clock that is set by hand, and what people do with it.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::{BOSS, MINUTE, START, at, phone, profile, text, vendor_id};
use crate::support::ends::web::Web;
use crate::support::ends::{hooks, sms};
use crate::support::{Site, connect, eventually, site};
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, EVENTS, Headers, Outgoing};
use roadcall::config::{Config, PushDriver, SmsDriver};
use roadcall::event::{Id, Ts, lookup};
use roadcall::node::clock::Clock;
use roadcall::node::registry::{self, Build};
use roadcall::node::run::Node;
use roadcall::role::RoleName;
use roadcall::store::Reader;

/// A site, the ends that it sends messages to, and the people who are told what nobody else is.
pub struct World {
    /// A dispatcher of no company, who looks after incidents of none.
    pub office: String,
    pub admin: String,
    pub bus: JetStream,
    pub hand: &'static AtomicI64,
    pub texts: Web,
    pub pushes: Web,
    pub config: Config,
    node: Node,
    pub site: Site,
}

impl World {
    pub async fn new() -> Self {
        Self::with(START, |_| {}).await
    }

    /// The same at another time, with other numbers.
    pub async fn with(start: &str, change: impl FnOnce(&mut Config)) -> Self {
        Self::of(start, change, &registry::build).await
    }

    /// The same with roles that the caller makes.
    pub async fn of(start: &str, change: impl FnOnce(&mut Config), build: Build<'_>) -> Self {
        let (site, texts, pushes) = (site().await, sms::start().await, hooks::start().await);
        let mut config = Config::default();
        config.site.state_dir = site.dir.path().join("state");
        config.bus.url.clone_from(&site.broker.url);
        let messages = &mut config.notifications;
        messages.sms = SmsDriver::Twilio;
        messages.sms_url.clone_from(&texts.url);
        sms::ACCOUNT.clone_into(&mut messages.sms_account);
        sms::TOKEN.clone_into(&mut messages.sms_token);
        sms::FROM.clone_into(&mut messages.sms_from);
        messages.push = PushDriver::Webhook;
        messages.push_url = format!("{}/send", pushes.url);
        hooks::SECRET.clone_into(&mut messages.push_secret);
        change(&mut config);
        let hand: &'static AtomicI64 = Box::leak(Box::new(AtomicI64::new(at(start).ms())));
        let node = Self::node(&site, &config, hand, build).await;
        let bus = connect(&site).await;
        let mut world = Self {
            office: String::new(),
            admin: String::new(),
            bus,
            hand,
            texts,
            pushes,
            config,
            node,
            site,
        };
        world.office = world.account("dispatcher", 9).await;
        world.admin = world.account("admin", 9).await;
        world
    }

    async fn node(
        site: &Site,
        config: &Config,
        hand: &'static AtomicI64,
        build: Build<'_>,
    ) -> Node {
        let (bus, clock) = (connect(site).await, Clock::by_hand(hand));
        let started = Node::start_at(bus, config, &RoleName::BUILT, true, build, clock).await;
        started.expect("started")
    }

    pub async fn end(self) {
        let stopped = self.node.shutdown(Duration::from_secs(10)).await;
        stopped.expect("stopped");
        self.bus.close().await;
        self.site.broker.shutdown().await;
    }

    pub fn now(&self) -> Ts {
        Ts::from_ms(self.hand.load(Ordering::SeqCst))
    }

    /// Sets the clock, which does not go back.
    pub fn set(&self, time: Ts) {
        assert!(time >= self.now(), "{time} is over");
        self.hand.store(time.ms(), Ordering::SeqCst);
    }

    pub fn pass(&self, ms: i64) {
        self.set(Ts::from_ms(self.now().ms() + ms));
    }

    /// What a command is answered. As patient as [`eventually`]: a machine with much to do may stand still for long.
    pub async fn call(&self, actor: &str, command: &str, body: Value) -> Value {
        let mut headers = Headers::default();
        headers.push("Roadcall-Actor", actor);
        let body = body.to_string().into_bytes();
        let wait = Duration::from_secs(30);
        let reply = self.bus.call("hub", command, &headers, body, wait).await;
        serde_json::from_slice(&reply.expect("a reply").body).expect("JSON")
    }

    /// What a command that succeeds gives.
    pub async fn ok(&self, actor: &str, command: &str, body: Value) -> Value {
        let reply = self.call(actor, command, body.clone()).await;
        assert!(reply.get("ok").is_some(), "{command} {body}: {reply}");
        reply["ok"].clone()
    }

    /// Events in the archive in its order: of a type, of an entity (`*` for any).
    pub async fn archived(&self, detail_type: &str, entity: impl std::fmt::Display) -> Vec<Value> {
        let filter = format!("roadcall.*.*.{detail_type}.{entity}");
        let (mut found, mut from) = (Vec::new(), 1);
        loop {
            let page = self.bus.read(EVENTS, &filter, from, 256, false).await;
            let page = page.expect("read");
            let Some(last) = page.last() else {
                return found;
            };
            from = last.seq + 1;
            let parse = |body: &[u8]| -> Value { serde_json::from_slice(body).expect("JSON") };
            found.extend(page.iter().map(|stored| parse(&stored.body)));
        }
    }

    /// Their details.
    pub async fn told(&self, detail_type: &str, entity: impl std::fmt::Display) -> Vec<Value> {
        let events = self.archived(detail_type, entity).await;
        events.iter().map(|event| event["detail"].clone()).collect()
    }

    /// Waits for so many; gives their details.
    pub async fn hears(
        &self,
        detail_type: &str,
        entity: impl std::fmt::Display,
        count: usize,
    ) -> Vec<Value> {
        let entity = entity.to_string();
        let told = eventually(&format!("{count} {detail_type}"), || async {
            let told = self.told(detail_type, &entity).await;
            (told.len() >= count).then_some(told)
        })
        .await;
        assert_eq!(told.len(), count, "{detail_type}: {told:?}");
        told
    }

    /// Waits until nothing is on its way: every event is handled, and whatever that led to is in the archive and handled.
    pub async fn quiet(&self) {
        eventually("everything is handled", || async {
            let before = self.bus.stream(EVENTS).await.ok()?.last_seq;
            for queue in RoleName::BUILT.iter().filter_map(|role| role.queue()) {
                let state = self.bus.queue(queue).await.ok()?;
                if state.pending + state.ack_pending > 0 {
                    return None;
                }
            }
            let directory = &self.config.site.state_dir;
            let mut roles = RoleName::BUILT.iter();
            let sent = roles.all(|role| all_is_sent(&directory.join(format!("{role}.db"))));
            let after = self.bus.stream(EVENTS).await.ok()?.last_seq;
            (sent && before == after).then_some(())
        })
        .await;
    }

    /// An event of the site, as somebody else's program would publish it; gives its id.
    pub async fn publish(&self, detail_type: &str, mut detail: Value) -> Id {
        let row = lookup(detail_type).expect("in the catalogue");
        let event_id = Id::from_uuid(uuid::Uuid::new_v4());
        detail["eventId"] = json!(event_id);
        detail["timestamp"] = json!(self.now());
        let given = detail.get("version").is_some();
        if !given {
            detail["version"] = json!("1.0");
        }
        let entity = text(&detail[row.entity_field]);
        self.publish_as(row.source.as_str(), detail_type, &entity, &detail)
            .await;
        event_id
    }

    /// The same, whatever the catalogue says of it.
    pub async fn publish_as(&self, source: &str, detail_type: &str, entity: &str, detail: &Value) {
        let service = source.strip_prefix("roadcall.").expect("one of ours");
        let body = json!({ "id": detail["eventId"], "source": source, "detail-type": detail_type,
            "time": detail["timestamp"], "site": "hub", "detail": detail });
        let mut headers = Headers::default();
        headers.push("Content-Type", "application/json");
        let message = Outgoing {
            subject: format!("roadcall.hub.{service}.{detail_type}.{entity}"),
            headers,
            body: body.to_string().into_bytes().into(),
            msg_id: text(&detail["eventId"]),
            expected_last_subject_seq: None,
        };
        let published = self.bus.publish(vec![message]).await;
        assert!(published.stopped.is_none(), "{:?}", published.stopped);
    }

    /// Registers vendor `n` as the scenarios have him: approved, insured, open around the clock, 50 miles, with an
    /// acceptance rate of 1 and this rating. Matching knows him when this returns.
    pub async fn vendor(&self, n: u64, place: (f64, f64), capabilities: &[&str], rating: f64) {
        let profile = profile(n, place, capabilities);
        self.vendor_as(vendor_id(n), n, profile, rating).await;
    }

    /// The same under another id and with another profile.
    pub async fn vendor_as(&self, id: Id, n: u64, profile: Value, rating: f64) {
        let actor = format!("vendor:{id}");
        self.ok(&actor, "vendor.register", profile).await;
        let verify = json!({ "vendorId": id, "backgroundCheckStatus": "approved" });
        self.ok(BOSS, "vendor.verify", verify).await;
        let metrics = json!({ "vendorId": id, "ratingAverage": rating, "ratingCount": 20, "acceptanceRate": 1.0,
            "avgResponseSeconds": 10.0, "completionRate": 1.0, "totalJobs": 20, "metricsVersion": 1_000_000 });
        self.publish("VendorMetricsUpdated", metrics).await;
        self.device(&actor, id, n).await;
        self.quiet().await;
    }

    pub async fn device(&self, actor: &str, user: Id, n: u64) {
        let device =
            json!({ "userId": user, "token": format!("device-of-{user}-{n}"), "platform": "ios" });
        self.ok(actor, "notification.register_device", device).await;
    }

    /// Makes an account with a device; gives the actor.
    pub async fn account(&self, role: &str, n: u64) -> String {
        let body = json!({ "role": role, "phone": phone(role, n), "name": "Ann", "email": format!("{role}{n}@fleet.example") });
        let made = self.ok(BOSS, "auth.create_user", body).await;
        let actor = format!("{role}:{}", text(&made["userId"]));
        let user = Id::parse(&text(&made["userId"])).expect("an id");
        self.device(&actor, user, n).await;
        self.quiet().await;
        actor
    }

    /// A driver reports a breakdown; gives the incident.
    pub async fn breakdown(&self, driver: &str, kind: &str, place: (f64, f64)) -> String {
        let body = json!({ "type": kind, "lat": place.0, "lon": place.1 });
        text(&self.ok(driver, "incident.create", body).await["incidentId"])
    }

    pub async fn incident(&self, incident: &str) -> Value {
        self.ok(BOSS, "incident.get", json!({ "incidentId": incident }))
            .await
    }

    /// Waits until the incident has this status.
    pub async fn stands(&self, incident: &str, status: &str) -> Value {
        eventually(&format!("the incident to be {status}"), || async {
            let now = self.incident(incident).await;
            (now["status"] == status).then_some(now)
        })
        .await
    }

    /// A vendor as he is.
    pub async fn vendor_status(&self, n: u64) -> String {
        let body = json!({ "vendorId": vendor_id(n) });
        text(&self.ok(BOSS, "vendor.get", body).await["status"])
    }

    pub async fn vendor_is(&self, n: u64, status: &str) {
        eventually(&format!("vendor {n} to be {status}"), || async {
            (self.vendor_status(n).await == status).then_some(())
        })
        .await;
    }

    /// Waits for offers of an incident, so many in all; the oldest first, and of one round as they were ranked.
    pub async fn offers(&self, incident: &str, count: usize) -> Vec<Value> {
        self.hears("OfferCreated", incident, count).await
    }

    /// How an offer stands.
    pub async fn offer(&self, offer: &Value) -> Value {
        let body = json!({ "offerId": offer["offerId"] });
        self.ok(BOSS, "offer.get", body).await
    }

    /// The vendor who got an offer takes it.
    pub async fn accept(&self, offer: &Value) -> Value {
        let actor = format!("vendor:{}", text(&offer["vendorId"]));
        self.call(
            &actor,
            "offer.accept",
            json!({ "offerId": offer["offerId"] }),
        )
        .await
    }

    pub async fn decline(&self, offer: &Value) -> Value {
        let actor = format!("vendor:{}", text(&offer["vendorId"]));
        let body = json!({ "offerId": offer["offerId"] });
        self.ok(&actor, "offer.decline", body).await
    }

    /// A command that changes an incident, in its present version.
    pub async fn change(&self, actor: &str, command: &str, incident: &str, more: Value) -> Value {
        let of = json!({ "incidentId": incident });
        self.at_version(actor, "incident.get", command, &of, &more)
            .await
    }

    /// A command at the version that `get` tells of. The site changes things by itself, too (a payment that is made takes
    /// its incident on), so this can come too late: then it is read again, as anybody would who is told so.
    pub async fn at_version(
        &self,
        actor: &str,
        get: &str,
        command: &str,
        of: &Value,
        more: &Value,
    ) -> Value {
        loop {
            let version = self.ok(BOSS, get, of.clone()).await["version"].clone();
            let mut body = of.clone();
            let fields = body.as_object_mut().expect("an object");
            fields.insert("expectedVersion".to_owned(), version.clone());
            fields.extend(more.as_object().expect("an object").clone());
            let reply = self.call(actor, command, body).await;
            let overtaken = reply["error"]["code"] == "VERSION_CONFLICT";
            if !overtaken || reply["error"]["details"]["version"] == version {
                return reply;
            }
        }
    }

    /// A breakdown whose first offer is accepted; gives the incident, which is assigned, and the offer.
    pub async fn assigned(&self, driver: &str, kind: &str, place: (f64, f64)) -> (String, Value) {
        let incident = self.breakdown(driver, kind, place).await;
        let offer = eventually("an offer", || async {
            self.told("OfferCreated", &incident).await.first().cloned()
        })
        .await;
        let reply = self.accept(&offer).await;
        assert_eq!(reply["ok"]["status"], "accepted", "{reply}");
        self.stands(&incident, "vendor_assigned").await;
        (incident, offer)
    }

    /// The same brought to completed work, which took `minutes` and is billed so.
    pub async fn worked(
        &self,
        driver: &str,
        place: (f64, f64),
        minutes: i64,
        bill: Value,
    ) -> String {
        let (incident, _) = self.assigned(driver, "tire", place).await;
        for (command, more) in [
            (
                "incident.update_status",
                json!({ "status": "vendor_en_route" }),
            ),
            (
                "incident.update_status",
                json!({ "status": "vendor_arrived" }),
            ),
            ("incident.start_work", json!({})),
        ] {
            let reply = self.change(BOSS, command, &incident, more).await;
            assert!(reply.get("ok").is_some(), "{command}: {reply}");
        }
        self.pass(minutes * MINUTE);
        let reply = self.change(BOSS, "incident.complete_work", &incident, bill);
        let reply = reply.await;
        assert!(reply.get("ok").is_some(), "{reply}");
        incident
    }

    /// What the delivery log has of a person, the oldest first: channel, type, status, reason.
    pub async fn log(&self, actor: &str) -> Vec<[String; 4]> {
        let user = actor.split_once(':').expect("an actor").1;
        let body = json!({ "userId": user, "limit": 100 });
        let page = self.ok(BOSS, "notification.history", body).await;
        let mut items = page["items"].as_array().expect("a list").clone();
        items.reverse();
        let word = |item: &Value, name: &str| item[name].as_str().unwrap_or_default().to_owned();
        let words = ["channel", "type", "status", "reason"];
        items
            .iter()
            .map(|item| words.map(|name| word(item, name)))
            .collect()
    }

    /// Waits until whatever was to be sent to a person has ended.
    pub async fn all_sent(&self, actor: &str) {
        eventually("every message to have ended", || async {
            let log = self.log(actor).await;
            log.iter().all(|entry| entry[2] != "pending").then_some(())
        })
        .await;
    }

    /// Waits until so many messages about one event have ended; gives the channels that were sent.
    pub async fn letters_about(&self, actor: &str, event_id: &Value, count: usize) -> Vec<String> {
        let user = actor.split_once(':').expect("an actor").1;
        let body = json!({ "userId": user, "limit": 100 });
        let mut channels = eventually("the messages", || async {
            let page = self.ok(BOSS, "notification.history", body.clone()).await;
            let items = page["items"].as_array()?.iter();
            let of_event =
                items.filter(|item| item["eventId"] == *event_id && item["status"] == "sent");
            let channels: Vec<String> = of_event.map(|item| text(&item["channel"])).collect();
            (channels.len() == count).then_some(channels)
        })
        .await;
        channels.sort();
        channels
    }

    /// Waits until the log has so many ended entries of a type; gives the channels that were sent.
    pub async fn letters(&self, actor: &str, kind: &str, count: usize) -> Vec<String> {
        let found = eventually(&format!("{count} {kind}"), || async {
            let log = self.log(actor).await;
            let of_kind = log.into_iter().filter(|entry| entry[1] == kind);
            let of_kind: Vec<[String; 4]> = of_kind.collect();
            let ended = of_kind.iter().all(|entry| entry[2] != "pending");
            (ended && of_kind.len() >= count).then_some(of_kind)
        })
        .await;
        assert_eq!(found.len(), count, "{kind}: {found:?}");
        let sent = found.iter().filter(|entry| entry[2] == "sent");
        let mut channels: Vec<String> = sent.map(|entry| entry[0].clone()).collect();
        channels.sort();
        channels
    }
}

/// Whether everything in a role's outbox is known to be in its stream.
fn all_is_sent(database: &Path) -> bool {
    let reader = Reader::open(database).expect("opened");
    let published = reader.published().expect("read");
    let covered = |n: i64| {
        published
            .iter()
            .any(|run| (run.first_n..=run.last_n).contains(&n))
    };
    let rows = reader.outbox_ids().expect("read");
    rows.iter().all(|(n, _, _)| covered(*n))
}
