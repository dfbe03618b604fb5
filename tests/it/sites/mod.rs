//! A hub and its depots: whole sites as processes, with the test's hand on the wire between them (DESIGN 8, BROKER 1).

mod apart;
mod attacks;
mod by_hand;
mod chain;
mod cluster;
mod cuts;
mod homes;
mod joining;
mod keys;
mod ledger;
pub mod place;
mod replaced;
mod rough;
mod stick;
pub mod story;
mod ten_days;
mod tls;
mod traced;
mod wire;

use std::time::Duration;

use serde_json::json;

use crate::support::free_port;
use place::Place;
use roadcall::bus::jetstream::JetStream;
use story::Teller;
use wire::Wire;

/// A hub and depots whose uplinks go through one wire.
pub struct Sites {
    pub hub: Place,
    pub depots: Vec<Place>,
    pub wire: Wire,
    root: tempfile::TempDir,
}

impl Sites {
    /// The hub alone.
    pub async fn hub() -> Self {
        Self::hub_with("").await
    }

    /// The same with these lines in its configuration.
    pub async fn hub_with(lines: &str) -> Self {
        let root = tempfile::TempDir::new().expect("a directory");
        let (port, leaf_port) = (free_port(), free_port());
        let wire = Wire::to(leaf_port, 7).await;
        let more = format!(
            "leaf_listen = '127.0.0.1:{leaf_port}'\nleaf_url = ['nats-leaf://127.0.0.1:{}']\n{lines}",
            wire.port
        );
        let mut hub = Place::new(root.path(), "hub", "hub", port, &more);
        hub.start();
        hub.ready().await;
        Self {
            hub,
            depots: Vec::new(),
            wire,
            root,
        }
    }

    /// A hub with depots that run.
    pub async fn with(depots: &[&str]) -> Self {
        let mut sites = Self::hub().await;
        for site in depots {
            let mut depot = sites.depot(site);
            sites.hub.json(&add(site, &depot));
            depot.start();
            sites.depots.push(depot);
        }
        for depot in &sites.depots {
            depot.ready().await;
        }
        sites
    }

    /// A depot's box without its site file.
    pub fn depot(&self, site: &str) -> Place {
        self.depot_with(site, "")
    }

    /// The same with these lines in its configuration.
    pub fn depot_with(&self, site: &str, lines: &str) -> Place {
        Place::new(self.root.path(), site, site, free_port(), lines)
    }

    /// Connections to hub and depots, in this order.
    pub async fn connect(&self) -> (JetStream, Vec<JetStream>) {
        let hub = self.hub.connect().await;
        let mut depots = Vec::new();
        for depot in &self.depots {
            depots.push(depot.connect().await);
        }
        (hub, depots)
    }

    pub fn all(&self) -> Vec<&Place> {
        self.depots.iter().chain([&self.hub]).collect()
    }

    /// Waits until hub and depots have the same, and checks that nothing was lost on the way.
    pub async fn settle(&self) {
        let (hub, depots) = self.connect().await;
        let named: Vec<(&str, &JetStream)> = self
            .depots
            .iter()
            .map(|depot| depot.site.as_str())
            .zip(&depots)
            .collect();
        place::same_everywhere(&hub, &named).await;
        place::nothing_lost(&self.all()).await;
        // What that took may have made events.
        place::same_everywhere(&hub, &named).await;
    }

    /// One for each site, the hub first.
    pub async fn tellers(&self) -> Vec<Teller> {
        let (hub, depots) = self.connect().await;
        let sites = self.depots.iter().map(|depot| depot.site.clone());
        let all = [(hub, "hub".to_owned())]
            .into_iter()
            .chain(depots.into_iter().zip(sites));
        let teller = |(at, (bus, site)): (usize, (JetStream, String))| Teller {
            bus,
            site,
            base: 300 * at as u64,
            elsewhere: None,
        };
        all.enumerate().map(teller).collect()
    }
}

/// `site add` with the depot's site file in its place.
pub fn add(site: &str, depot: &Place) -> [&'static str; 5] {
    let file = depot.dir.join("site.toml").display().to_string();
    // A test's few words live as long as the test.
    let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    ["site", "add", leak(site.to_owned()), "--out", leak(file)]
}

/// An event of `site` in the archive behind `bus`, under a key of its own; gives its id.
pub async fn publish(bus: &JetStream, site: &str) -> String {
    use roadcall::bus::{Bus, Headers, Outgoing};
    let id = roadcall::event::Id::from_uuid(uuid::Uuid::new_v4());
    let now = chrono::Utc::now()
        .format("%Y-%m-%dT%H:%M:%S%.3fZ")
        .to_string();
    let body = json!({ "id": id, "source": "roadcall.auth", "detail-type": "UserVerified", "time": now, "site": site,
        "detail": { "eventId": id, "timestamp": now, "version": "1.0", "userId": id, "verifiedAt": now } });
    let mut headers = Headers::default();
    headers.push("Content-Type", "application/json");
    crate::support::eventually("the event is in the archive", || async {
        let message = Outgoing {
            subject: format!("roadcall.{site}.auth.UserVerified.{id}"),
            headers: headers.clone(),
            body: body.to_string().into_bytes().into(),
            msg_id: id.to_string(),
            expected_last_subject_seq: None,
        };
        let published = tokio::time::timeout(Duration::from_secs(5), bus.publish(vec![message]));
        published.await.ok()?.stopped.is_none().then_some(())
    })
    .await;
    id.to_string()
}
