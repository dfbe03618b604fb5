//! Two depots are without their uplink for ten days, by the clocks of all three sites: nothing is lost, nothing happens twice,
//! and nobody is told anything that has lost its sense (DESIGN promise 6, DOMAIN 6 "offline").
//!
//! `depot-a` runs every role. `depot-b` leaves matching, payments and messages to the hub (DESIGN 8, Home), so its events of
//! ten days are what the hub could tell people much too late. What may still be told when (DOMAIN 4.1 rules 3 to 7, 9, 23, 24,
//! 29; 7, invariant 16): an event of an hour ago nobody, an offer that has expired nobody, an alarm of a day ago nobody, and
//! what calls a dispatcher whenever it comes.
//!
//! The clocks of the roles are set by hand; those of the three nats-servers are the machine's (see `by_hand`). So the archives
//! live through ten days of events without being ten days old: that their age limit takes nothing is shown by what it is, and by
//! what they hold.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::by_hand::{DAY_MS, Hand, Here};
use super::place::{PATIENCE, Place, nothing_lost, same_everywhere};
use super::story::{BOSS, Teller};
use super::wire::{Weather, Wire};
use crate::support::ends::web::{Play, Request};
use crate::support::ends::{hooks, sms};
use crate::support::{eventually_within, free_port};
use roadcall::bus::{Bus, EVENTS};
use roadcall::event::Ts;

const DAYS: u64 = 10;
/// The gateway, before anybody is known.
const DOOR: &str = "system:gateway";
/// Told whenever it comes (DOMAIN 4.1, rule 24), and told for a day (rule 29).
const EVER: [&str; 2] = ["incident_escalated", "call_attention"];
const FOR_A_DAY: &str = "system_alert";

/// What had come to the ends that carry messages when the clock was moved, and what it showed then.
struct Mark {
    at: Ts,
    /// At the hub and at `depot-a`: SMS and push.
    came: [[usize; 2]; 2],
}

struct Tale {
    hand: Hand,
    wire: Wire,
    hub: Here,
    a: Here,
    b: Here,
    marks: Vec<Mark>,
    _root: tempfile::TempDir,
}

/// A box whose roles run here, in profile prod.
fn place(root: &std::path::Path, site: &str, more: &str) -> Place {
    let mut place = Place::new(root, site, site, free_port(), more);
    place.roles = "broker";
    let file = place.dir.join("roadcall.toml");
    let text = std::fs::read_to_string(&file).expect("read");
    let text = text.replacen("[site]\n", "[site]\nprofile = 'prod'\n", 1);
    std::fs::write(&file, text).expect("written");
    place
}

impl Tale {
    async fn begin() -> Self {
        let root = tempfile::TempDir::new().expect("a directory");
        let leaf_port = free_port();
        let wire = Wire::to(leaf_port, 7).await;
        let more = format!(
            "leaf_listen = '127.0.0.1:{leaf_port}'\nleaf_url = ['nats-leaf://127.0.0.1:{}']",
            wire.port
        );
        let mut hub = place(root.path(), "hub", &more);
        hub.start();
        hub.ready().await;
        let mut depots = Vec::new();
        for (site, roles) in [
            ("depot-a", "all"),
            ("depot-b", "incident,vendor,tracking,auth,audit"),
        ] {
            let mut depot = place(root.path(), site, "");
            let file = depot.dir.join("site.toml").display().to_string();
            hub.json(&["site", "add", site, "--roles", roles, "--out", &file]);
            depot.start();
            depot.ready().await;
            depots.push(depot);
        }
        let (b, a) = (depots.pop().expect("two"), depots.pop().expect("one"));
        let days = i64::try_from(DAYS).expect("small");
        let hand = Hand::days_ago(days);
        Self {
            hub: Here::start(hub, &hand).await,
            a: Here::start(a, &hand).await,
            b: Here::start(b, &hand).await,
            marks: vec![Mark {
                at: hand.now(),
                came: [[0; 2]; 2],
            }],
            hand,
            wire,
            _root: root,
        }
    }

    fn teller(&self, at: &Here, as_site: &str) -> Teller {
        let base = match as_site {
            "depot-a" => 300,
            "depot-b" => 600,
            _ => 0,
        };
        Teller {
            bus: at.bus.clone(),
            site: as_site.to_owned(),
            base,
            elsewhere: None,
        }
    }

    fn at_hub(&self) -> Teller {
        self.teller(&self.hub, "hub")
    }

    fn at_a(&self) -> Teller {
        self.teller(&self.a, "depot-a")
    }

    fn at_b(&self) -> Teller {
        self.teller(&self.b, "depot-b")
    }

    async fn same_everywhere(&self) {
        let depots = [("depot-a", &self.a.bus), ("depot-b", &self.b.bus)];
        same_everywhere(&self.hub.bus, &depots).await;
    }

    fn came(&self) -> [[usize; 2]; 2] {
        [&self.hub, &self.a].map(|here| [here.texts.seen().len(), here.pushes.seen().len()])
    }

    /// The next day begins; what came by then was of the day before.
    fn dawn(&mut self) {
        let came = self.came();
        let at = self.hand.pass(DAY_MS);
        self.marks.push(Mark { at, came });
    }

    async fn quiet(&self) {
        for here in [&self.hub, &self.a, &self.b] {
            here.quiet().await;
        }
    }
}

/// A driver of a site, and a vendor who is the only one in his district.
struct People {
    n: u64,
    driver: String,
    vendor: String,
}

impl People {
    /// Known to matching and messages of `at`; with devices.
    async fn at(at: &Teller, messages: &Teller, n: u64) -> Self {
        let driver = at.account("driver", 10_000 * at.base + n + 1).await;
        let people = Self {
            n,
            driver: format!("driver:{driver}"),
            vendor: at.vendor(n).await,
        };
        for actor in [&people.driver, &people.vendor] {
            let user = actor.split_once(':').expect("an actor").1;
            let device =
                json!({ "userId": user, "token": format!("device-of-{user}"), "platform": "ios" });
            messages
                .ok(actor, "notification.register_device", device)
                .await;
        }
        people
    }

    async fn breakdown(&self, at: &Teller) -> Value {
        let (lat, lon) = at.place(self.n);
        let report = json!({ "type": "tire", "lat": lat, "lon": lon, "clientRequestId": format!("report-{}", self.n) });
        let made = at.ok(&self.driver, "incident.create", report).await;
        made["incidentId"].clone()
    }

    /// Waits for the vendor's offer.
    async fn offered(&self, matching: &Teller, incident: &Value) -> Value {
        eventually_within(PATIENCE, "an offer", || async {
            let of = json!({ "incidentId": incident });
            let offers = matching.ok(&self.vendor, "offer.list", of).await;
            offers["items"].get(0).map(|offer| offer["offerId"].clone())
        })
        .await
    }

    /// An incident that the vendor has taken.
    async fn assigned(&self, at: &Teller, matching: &Teller) -> Value {
        let incident = self.breakdown(at).await;
        let offer = self.offered(matching, &incident).await;
        let take = json!({ "offerId": offer });
        matching.ok(&self.vendor, "offer.accept", take).await;
        at.reaches(&incident, "vendor_assigned").await;
        incident
    }
}

/// What stays open at `depot-a` while time passes.
struct LeftOpen {
    /// Whose offers nobody answers.
    unanswered: Value,
    /// Whose vendor does not come.
    no_show: Value,
    /// Whose payment nobody approves.
    unpaid: Value,
    /// A driver's phone, and the code that he got.
    code: (String, String),
}

impl Tale {
    async fn leave_open(&self) -> LeftOpen {
        let a = self.at_a();
        let people = async |n| People::at(&a, &a, n).await;
        let (silent, absent, paid) = (people(101).await, people(102).await, people(103).await);
        let unanswered = silent.breakdown(&a).await;
        silent.offered(&a, &unanswered).await;
        let no_show = absent.assigned(&a, &a).await;
        let unpaid = paid.assigned(&a, &a).await;
        a.work(&unpaid).await;
        a.reaches(&unpaid, "payment_pending").await;
        let phone = format!("+1777{:07}", 10_000 * a.base + 101 + 1);
        a.ok(DOOR, "auth.request_otp", json!({ "phone": phone }))
            .await;
        let code = eventually_within(PATIENCE, "the code", || async {
            let orders = self.a.texts.seen();
            let texts = orders.iter().map(sms::order);
            let mut his = texts.filter(|order| order.to == phone);
            his.find_map(|order| {
                let mut words = order.text.split(|c: char| !c.is_ascii_digit());
                words.find(|word| word.len() == 6).map(str::to_owned)
            })
        })
        .await;
        LeftOpen {
            unanswered,
            no_show,
            unpaid,
            code: (phone, code),
        }
    }

    /// What becomes of that by its times: each once, however far the clock was moved.
    async fn ended_by_its_times(&self, open: &LeftOpen) {
        let count = async |what: &str, incident: &Value| {
            let entity = incident.as_str().expect("an id");
            let filter = format!("roadcall.depot-a.*.{what}.{entity}");
            self.a.archived(&filter).await.len()
        };
        let offers = (
            count("OfferCreated", &open.unanswered).await,
            count("OfferExpired", &open.unanswered).await,
        );
        assert_eq!(offers, (3, 3), "three rounds, each offer expired once");
        assert_eq!(count("MatchExhausted", &open.unanswered).await, 1);
        assert_eq!(count("IncidentEscalated", &open.unanswered).await, 1);
        assert_eq!(count("VendorTimeout", &open.no_show).await, 1);
        assert_eq!(count("IncidentEscalated", &open.no_show).await, 1);
        assert_eq!(
            count("IncidentEscalated", &open.unpaid).await,
            1,
            "payment overdue"
        );
        let (phone, code) = &open.code;
        let turned_in = json!({ "phone": phone, "code": code });
        let refused = self.at_a().call(DOOR, "auth.verify", &turned_in).await;
        assert_eq!(refused["error"]["code"], "AUTHENTICATION_ERROR");
    }

    /// Ten days at the depot that runs everything: every day an incident from its report to its payment, here and at the
    /// hub. On the eighth its SMS service is down, on the ninth it takes messages and says nothing, and the box is off for
    /// the night.
    async fn live(&mut self, cut_off: &CutOff) -> LeftOpen {
        let open = self.leave_open().await;
        for day in 1..=DAYS {
            match day {
                8 => self.a.texts.always(Some(Play::Status(503))),
                9 => self.a.texts.always(Some(Play::Stall)),
                _ => {}
            }
            let (hub, a) = (self.at_hub(), self.at_a());
            tokio::join!(hub.tell(day), a.clone().tell(day));
            if day == 1 {
                self.at_b().work(&cut_off.done).await;
            }
            if day == 8 {
                let phone = json!({ "phone": open.code.0 });
                a.ok(DOOR, "auth.request_otp", phone).await;
            }
            if day == 9 {
                self.hub.quiet().await;
                self.b.quiet().await;
                self.a.off().await;
            } else {
                self.quiet().await;
            }
            if day < DAYS {
                self.dawn();
            }
            self.a.texts.always(None);
            if day == 9 {
                self.a.on().await;
            }
            self.quiet().await;
        }
        open
    }
}

/// What is under way at `depot-b`, whose matching, payments and messages are the hub's.
struct CutOff {
    /// Assigned before the cut, worked on in it.
    done: Value,
    /// Assigned before the cut; the vendor does not come.
    no_show: Value,
    /// Reported in the cut.
    unheard: Value,
}

impl CutOff {
    async fn begin(tale: &Tale) -> Self {
        // Commands of the hub for the depot go down the link.
        let (at, hub) = (tale.teller(&tale.hub, "depot-b"), tale.at_hub());
        let people = async |n| People::at(&at, &hub, n).await;
        let (good, absent, last) = (people(1).await, people(2).await, people(3).await);
        let done = good.assigned(&at, &hub).await;
        let no_show = absent.assigned(&at, &hub).await;
        tale.quiet().await;
        tale.wire.set(Weather::Cut);
        let unheard = last.breakdown(&tale.at_b()).await;
        Self {
            done,
            no_show,
            unheard,
        }
    }

    /// What the hub made of ten days of events that came at once.
    async fn caught_up(&self, tale: &Tale) {
        let count = async |what: &str, incident: &Value| {
            let entity = incident.as_str().expect("an id");
            let filter = format!("roadcall.*.*.{what}.{entity}");
            tale.hub.archived(&filter).await
        };
        // The work is paid, once, and its driver is not told of work that ended ten days ago.
        let payments = tale
            .at_hub()
            .ok(BOSS, "payment.list", json!({ "incidentId": self.done }))
            .await;
        assert_eq!(payments["items"].as_array().map(Vec::len), Some(1));
        let work = &count("WorkCompleted", &self.done).await[0];
        let of = json!({ "eventId": work["id"] });
        let kept = tale.at_hub().ok(BOSS, "notifications.outcome", of).await;
        assert_eq!(kept["ended"]["outcome"], "expired", "{kept}");
        // Nobody is sent to a breakdown of ten days ago: a dispatcher is told of it.
        assert_eq!(count("OfferCreated", &self.unheard).await.len(), 0);
        assert_eq!(count("VendorTimeout", &self.no_show).await.len(), 1);
        assert_eq!(count("OfferCreated", &self.no_show).await.len(), 1);
        for incident in [&self.unheard, &self.no_show] {
            let exhausted = count("MatchExhausted", incident).await;
            let reasons: Vec<&Value> = exhausted
                .iter()
                .map(|event| &event["detail"]["reason"])
                .collect();
            assert_eq!(reasons, ["too_old"]);
            assert_eq!(count("IncidentEscalated", incident).await.len(), 1);
        }
    }
}

/// The key of a message that came to an end, by which its sender knows it.
fn key(request: &Request, channel: &str) -> String {
    match channel {
        "sms" => sms::order(request).key,
        _ => hooks::order(request).0,
    }
}

impl Tale {
    /// Each message that was sent came to its end once, on the day of what it tells, and to nobody twice.
    fn nothing_stale_and_nothing_twice(&self) {
        let mut told = BTreeSet::new();
        for (at, here) in [&self.hub, &self.a].into_iter().enumerate() {
            let site = &here.place.site;
            let log = here.deliveries();
            let mut sent = BTreeSet::new();
            for (kind, (channel, end)) in [("sms", &here.texts), ("push", &here.pushes)]
                .into_iter()
                .enumerate()
            {
                for (n, request) in end.seen().iter().enumerate() {
                    let key = key(request, channel);
                    if request.play != Play::Answer {
                        continue;
                    }
                    assert!(sent.insert(key.clone()), "{site}: {channel} {key} twice");
                    let mut found = log.iter().filter(|entry| entry["notificationId"] == *key);
                    let entry = found.next().expect("what is sent is in the log");
                    let day = self.marks.iter().rfind(|mark| mark.came[at][kind] <= n);
                    let begun = day.expect("the first has none before it").at;
                    assert!(in_time(entry, begun), "{site}, after {begun}: {entry}");
                }
            }
            for entry in log.iter().filter(|entry| entry["status"] == "sent") {
                let occasion = [
                    &entry["inner"]["onceFor"],
                    &entry["recipientId"],
                    &entry["channel"],
                ];
                assert!(
                    told.insert(occasion.map(ToString::to_string)),
                    "told twice: {entry}"
                );
                let carried = entry["channel"] != "email";
                let key = entry["notificationId"].as_str().expect("an id");
                assert!(!carried || sent.contains(key), "not sent: {entry}");
            }
            let open = log.iter().find(|entry| entry["status"] == "pending");
            assert_eq!(open, None, "{site}");
            eprintln!(
                "{site}: {} messages, {} of them sent, {} expired",
                log.len(),
                log.iter().filter(|entry| entry["status"] == "sent").count(),
                expired(&log).len(),
            );
        }
        // Those of the eighth and ninth day at the depot whose service was down and silent.
        let log = self.a.deliveries();
        let late = expired(&log);
        let days: BTreeSet<String> = late
            .iter()
            .map(|entry| entry["inner"]["eventAt"].to_string()[..11].to_owned())
            .collect();
        assert_eq!(days.len(), 2, "{late:?}");
    }

    /// The archives' first events are there, and their limit is what it was.
    async fn archives_are_whole(&self) {
        for here in [&self.hub, &self.a, &self.b] {
            let state = here.bus.stream(EVENTS).await.expect("asked");
            assert_eq!((state.first_seq, state.messages), (1, state.last_seq));
            let asked = format!("STREAM.INFO.{EVENTS}");
            let info = here.bus.api(&asked, &Value::Null).await.expect("asked");
            assert_eq!(info["config"]["max_age"], json!(90 * DAY_MS * 1_000_000));
            let first = here.archived("roadcall.>").await;
            let time: Ts = first[0]["time"]
                .as_str()
                .and_then(|text| text.parse().ok())
                .expect("a time");
            let age_ms = self.hand.now().ms() - time.ms();
            assert!(age_ms > 9 * DAY_MS, "{}", here.place.site);
        }
    }

    async fn nothing_lost(&self) {
        nothing_lost(&[&self.hub.place, &self.a.place, &self.b.place]).await;
        for site in ["depot-a", "depot-b"] {
            // What a depot has just said of itself may be ahead of its events.
            eventually_within(PATIENCE, "nothing to be missing", || async {
                let asked = ["site", "status", site, "--json"];
                let (code, rows, _) = self.hub.place.run(&asked);
                (code == Some(0) && rows[0]["missing"] == json!([])).then_some(())
            })
            .await;
        }
    }
}

fn expired(log: &[Value]) -> Vec<&Value> {
    let dropped = |entry: &&Value| entry["status"] == "dropped" && entry["reason"] == "expired";
    log.iter().filter(dropped).collect()
}

/// Whether a message that was sent after the dawn of a day still made sense.
fn in_time(entry: &Value, begun: Ts) -> bool {
    let kind = entry["type"].as_str().expect("a type");
    let event_at: Ts = entry["inner"]["eventAt"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .expect("a time");
    let may_be_ms = if kind == FOR_A_DAY { DAY_MS } else { 0 };
    EVER.contains(&kind) || begun.ms() - event_at.ms() <= may_be_ms
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn depots_ten_days_without_an_uplink_lose_nothing_and_tell_nobody_anything_stale() {
    let mut tale = Tale::begin().await;
    let (hub, a) = (tale.at_hub(), tale.at_a());
    tokio::join!(hub.tell(0), a.tell(0));
    tale.same_everywhere().await;
    let cut_off = CutOff::begin(&tale).await;
    let open = tale.live(&cut_off).await;
    tale.ended_by_its_times(&open).await;

    let came = tale.came();
    let at = tale.hand.now();
    tale.marks.push(Mark { at, came });
    tale.wire.set(Weather::Clear);
    tale.same_everywhere().await;
    tale.quiet().await;
    tale.same_everywhere().await;
    cut_off.caught_up(&tale).await;
    // And it goes on.
    tale.at_hub()
        .pay(&json!({ "incidentId": cut_off.done }))
        .await;
    tale.at_b().reaches(&cut_off.done, "closed").await;
    let (hub, a) = (tale.at_hub(), tale.at_a());
    tokio::join!(hub.tell(DAYS + 1), a.tell(DAYS + 1));
    tale.quiet().await;
    tale.same_everywhere().await;
    tale.nothing_lost().await;
    tale.archives_are_whole().await;
    tale.quiet().await;
    tale.nothing_stale_and_nothing_twice();
    for here in [tale.hub, tale.a, tale.b] {
        here.end().await;
    }
}
