//! What ties the archives of two sites together: durable sourcing, in the form of BROKER 1. Each side makes its own half.
//!
//! A site reads from another one by a source of its `EVENTS` that names a consumer over there; what that consumer lets
//! through is decided over there, too. The origin is in an event's subject, and a depot gives away only what originated
//! there, so nothing goes round in a circle.

use serde_json::{Value, json};

use super::EVENTS;

/// The site that others hang on.
pub const HUB: &str = "hub";

/// A link to another site, as this one sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The site at the other end.
    pub peer: String,
    /// Subjects that it gets from here; none overlaps another. Nothing: the consumer that it reads by is not made yet.
    pub gives: Vec<String>,
    /// Whether this site's archive reads the peer's from the start. The hub begins to read a depot when the depot answers: what a
    /// depot's consumer delivers to a source that waits for it, the server takes for read and drops (docs/sites.md).
    pub takes: bool,
}

impl Link {
    /// The depot's end of its link to the hub: it gives what originated there.
    #[must_use]
    pub fn up(site: &str) -> Self {
        Self {
            peer: HUB.to_owned(),
            gives: vec![format!("roadcall.{site}.>")],
            takes: true,
        }
    }

    /// The hub's end of its link to a depot.
    #[must_use]
    pub fn down(depot: &str, gives: Vec<String>) -> Self {
        Self {
            peer: depot.to_owned(),
            gives,
            takes: false,
        }
    }

    /// The name of the consumer here that the peer reads by.
    #[must_use]
    pub fn consumer(&self) -> String {
        format!("src-{}", self.peer)
    }

    /// The source of our `EVENTS`: the consumer at the peer that is for `site`, this one.
    #[must_use]
    pub fn source(&self, site: &str) -> Value {
        json!({
            "name": EVENTS,
            "external": { "api": format!("$JS.{}.API", self.peer), "deliver": "" },
            "consumer": { "name": format!("src-{site}"), "deliver_subject": delivered(&self.peer, site) },
        })
    }

    /// The consumer on our `EVENTS` that the peer reads by.
    #[must_use]
    pub fn given(&self, site: &str, replicas: u32) -> Value {
        json!({
            "durable_name": self.consumer(), "name": self.consumer(), "deliver_policy": "all",
            "deliver_subject": delivered(site, &self.peer), "ack_policy": "flow_control", "flow_control": true,
            "idle_heartbeat": 1_000_000_000, "max_ack_pending": 1000, "replay_policy": "instant",
            "filter_subjects": self.gives, "num_replicas": replicas,
        })
    }
}

/// Where what `from` gives to `to` is delivered: a subject that names the depot, since that is what the depot's list allows.
fn delivered(from: &str, to: &str) -> String {
    match from {
        HUB => format!("rc.src.{to}"),
        depot => format!("rc.src.{HUB}.{depot}"),
    }
}

/// Which site a source of `EVENTS` reads from; `None` for one that is no link.
#[must_use]
pub fn peer_of(source: &Value) -> Option<&str> {
    source["external"]["api"]
        .as_str()?
        .strip_prefix("$JS.")?
        .strip_suffix(".API")
}
