//! Streams and consumers of a site: what they should be, what they are, and the difference (DESIGN 6).

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::jetstream::JetStream;
use super::links::{HUB, Link, peer_of};
use super::{
    ADVISORIES, ADVISORY_QUEUE, API_CALLS, API_QUEUE, CARRY, DEDUP_WINDOW, DLQ, EVENTS, Error,
    SNAPSHOTS_BUCKET,
};

/// What a site should have.
#[derive(Debug, Clone)]
pub struct Desired {
    /// The site.
    pub site: String,
    /// How long the archive keeps events.
    pub archive_max_age: Duration,
    /// How large the archive may grow, bytes; `None` leaves it to the server's limit.
    pub archive_max_bytes: Option<u64>,
    /// How long letters and advisories are kept.
    pub letter_max_age: Duration,
    /// How long the hub keeps copies of its depots' snapshots.
    pub copies_max_age: Duration,
    /// Copies of each stream: 1, or 3 on a clustered hub.
    pub replicas: u32,
    /// The queues of the site's roles.
    pub queues: Vec<QueueSpec>,
    /// The links to other sites.
    pub links: Vec<Link>,
}

/// How long what was carried in is kept where it came in: the archive takes it at once, and an import that broke off looks
/// there for what is on its way.
const CARRY_MAX_AGE: Duration = Duration::from_secs(86_400);

/// How long and how much of what the server tells of API calls waits for the audit role.
const API_CALLS_MAX_AGE: Duration = Duration::from_secs(86_400);
const API_CALLS_MAX_BYTES: u64 = 32 << 20;

/// A queue: a durable pull consumer on `EVENTS`.
#[derive(Debug, Clone)]
pub struct QueueSpec {
    /// Its name.
    pub name: String,
    /// Subject filters from the rules; none overlaps another.
    pub filters: Vec<String>,
    /// Digest of the rules that the filters come from; for the queue's log, nothing of it is on the server.
    pub rules: String,
    /// When the server gives a delivery to somebody else.
    pub ack_wait: Duration,
    /// Deliveries at the most.
    pub max_deliver: u32,
    /// Deliveries in hand at the most.
    pub max_ack_pending: u64,
}

/// What is said of an object that is not there.
const MISSING: &str = "is missing and will be made";

/// How a difference can be mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Nothing can be lost.
    Safe,
    /// A queue's filters grow: what it was never offered is not offered by itself.
    Backfill,
    /// Only by deleting and making anew.
    Recreate,
    /// Not at all.
    Refuse,
}

/// One difference.
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    /// The stream or consumer.
    pub object: String,
    /// `stream`, `consumer` or `bucket`.
    pub kind: &'static str,
    /// How it can be mended.
    pub change: Class,
    /// What differs, in words.
    pub detail: String,
    /// What to send; nothing for what is not the server's to do.
    #[serde(skip)]
    action: Option<Action>,
}

impl Change {
    /// Whether the object is not there at all.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.detail == MISSING
    }

    /// Whether a consumer's filters are others, so that it takes too much or too little.
    #[must_use]
    pub fn filters_differ(&self) -> bool {
        self.kind == "fill"
            || (self.kind == "consumer" && self.detail.contains("filter_subjects: "))
    }

    /// A widened queue whose fill replay has not begun: its filters changed, and whoever changed them died then.
    #[must_use]
    pub fn not_filled(queue: &str) -> Self {
        Self {
            object: queue.to_owned(),
            kind: "fill",
            change: Class::Backfill,
            detail: "takes more since its filters changed; the replay of what it was never offered has not begun".to_owned(),
            action: None,
        }
    }
}

#[derive(Debug, Clone)]
struct Action {
    subject: String,
    request: Value,
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Desired {
    fn streams(&self) -> Vec<(String, &'static str, Value)> {
        let week2 = nanos(self.letter_max_age);
        let base = |name: &str, subjects: Value, max_age: u64| {
            json!({
                "name": name, "subjects": subjects, "storage": "file", "retention": "limits", "max_age": max_age,
                "num_replicas": self.replicas, "duplicate_window": nanos(DEDUP_WINDOW), "allow_direct": true,
            })
        };
        let mut events = base(
            EVENTS,
            json!([format!("roadcall.{}.>", self.site)]),
            nanos(self.archive_max_age),
        );
        let carried = json!({ "name": CARRY, "subject_transforms": [{ "src": "carry.>", "dest": "roadcall.>" }] });
        let takes = self.links.iter().filter(|link| link.takes);
        let linked = takes.map(|link| link.source(&self.site));
        let sources: Vec<Value> = std::iter::once(carried).chain(linked).collect();
        merge(
            &mut events,
            &json!({
                "discard": "new", "deny_delete": true, "deny_purge": true, "allow_atomic": true, "compression": "s2",
                "sources": sources,
                "max_bytes": self.archive_max_bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            }),
        );
        // Never older than the archive keeps: what has left the archive again must not be taken for being on its way.
        let carry_age = self.archive_max_age.min(CARRY_MAX_AGE);
        let mut carry = base(CARRY, json!(["carry.>"]), nanos(carry_age));
        merge(
            &mut carry,
            &json!({ "discard": "new", "allow_atomic": true, "compression": "s2" }),
        );
        let advisory = |kind: &str| format!("$JS.EVENT.ADVISORY.CONSUMER.{kind}.{EVENTS}.>");
        let advisories = base(
            ADVISORIES,
            json!([advisory("MAX_DELIVERIES"), advisory("MSG_TERMINATED")]),
            week2,
        );
        let mut letters = base(DLQ, json!(["dlq.>"]), week2);
        merge(&mut letters, &json!({ "max_msgs_per_subject": 1 }));
        let bucket = |name: &str| {
            let mut bucket = base(&format!("KV_{name}"), json!([format!("$KV.{name}.>")]), 0);
            merge(
                &mut bucket,
                &json!({
                    "max_msgs_per_subject": 10, "discard": "new", "allow_rollup_hdrs": true, "deny_delete": true,
                }),
            );
            bucket
        };
        let own = vec![
            // Before the archive, which reads it.
            (CARRY, "stream", carry),
            (EVENTS, "stream", events),
            (ADVISORIES, "stream", advisories),
            (DLQ, "stream", letters),
            ("KV_REPLAYS", "bucket", bucket("REPLAYS")),
            ("KV_TOPOLOGY", "bucket", bucket("TOPOLOGY")),
            (API_CALLS, "stream", self.api_calls()),
            (
                "OBJ_SNAPSHOTS",
                "bucket",
                self.snapshots(SNAPSHOTS_BUCKET, 0),
            ),
        ];
        let own = own
            .into_iter()
            .map(|(name, kind, config)| (name.to_owned(), kind, config));
        own.chain(self.depots_snapshots()).collect()
    }

    /// The hub's copies of its depots' snapshots.
    fn depots_snapshots(&self) -> impl Iterator<Item = (String, &'static str, Value)> {
        let depots = self.links.iter().filter(|link| link.peer != HUB);
        depots.map(|link| {
            let bucket = format!("{SNAPSHOTS_BUCKET}_{}", link.peer);
            let config = self.snapshots(&bucket, nanos(self.copies_max_age));
            (format!("OBJ_{bucket}"), "bucket", config)
        })
    }

    /// What the server tells of calls to its API, mostly of such as change nothing: in memory, and only until it was looked at.
    fn api_calls(&self) -> Value {
        json!({
            "name": API_CALLS, "subjects": ["$JS.EVENT.ADVISORY.API"], "storage": "memory", "retention": "workqueue",
            "max_age": nanos(API_CALLS_MAX_AGE), "max_bytes": API_CALLS_MAX_BYTES, "num_replicas": self.replicas,
            "duplicate_window": nanos(DEDUP_WINDOW), "discard": "old", "allow_direct": true,
        })
    }

    /// An object store of roles' databases; what is too old among a site's own the roles remove themselves.
    fn snapshots(&self, bucket: &str, max_age: u64) -> Value {
        let of = |kind: &str| format!("$O.{bucket}.{kind}.>");
        json!({
            "name": format!("OBJ_{bucket}"), "subjects": [of("C"), of("M")], "storage": "file",
            "retention": "limits", "max_age": max_age, "num_replicas": self.replicas, "allow_direct": true,
            "duplicate_window": nanos(DEDUP_WINDOW), "discard": "new", "allow_rollup_hdrs": true,
        })
    }

    fn consumers(&self) -> Vec<(String, &'static str, Value)> {
        let queues = self.queues.iter().map(|queue| {
            let config = json!({
                "durable_name": queue.name, "name": queue.name, "deliver_policy": "all", "ack_policy": "explicit",
                "ack_wait": nanos(queue.ack_wait), "max_deliver": queue.max_deliver, "replay_policy": "instant",
                "max_ack_pending": queue.max_ack_pending, "filter_subjects": queue.filters,
            });
            (queue.name.clone(), EVENTS, config)
        });
        let advisories = json!({
            "durable_name": ADVISORY_QUEUE, "name": ADVISORY_QUEUE, "deliver_policy": "all",
            "ack_policy": "explicit", "ack_wait": nanos(Duration::from_secs(30)), "max_deliver": -1,
            "replay_policy": "instant", "max_ack_pending": 1000,
        });
        let gives = self.links.iter().filter(|link| !link.gives.is_empty());
        let api_calls = json!({
            "durable_name": API_QUEUE, "name": API_QUEUE, "deliver_policy": "all", "ack_policy": "explicit",
            "ack_wait": nanos(Duration::from_secs(30)), "max_deliver": -1, "replay_policy": "instant",
            "max_ack_pending": 1000,
        });
        let links = gives.map(|link| {
            let config = link.given(&self.site, self.replicas);
            (link.consumer(), EVENTS, config)
        });
        // First, and before the peer knows of the link: what a clustered hub's consumer delivers while its peer's source is
        // still being set up is lost to that peer (docs/sites.md).
        links
            .chain(queues)
            .chain([
                (ADVISORY_QUEUE.to_owned(), ADVISORIES, advisories),
                (API_QUEUE.to_owned(), API_CALLS, api_calls),
            ])
            .collect()
    }
}

fn merge(target: &mut Value, more: &Value) {
    if let (Some(target), Some(more)) = (target.as_object_mut(), more.as_object()) {
        target.extend(more.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
}

/// Compares what should be with what is. Objects that nobody asked for are left alone.
///
/// # Errors
/// The broker can't be asked.
pub async fn plan(bus: &JetStream, desired: &Desired) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::new();
    for (name, kind, wanted) in desired.streams() {
        let change = match bus.api(&format!("STREAM.INFO.{name}"), &Value::Null).await {
            Err(Error::Missing(_)) => Some(missing(
                &name,
                kind,
                format!("STREAM.CREATE.{name}"),
                wanted,
            )),
            Err(error) => return Err(error),
            Ok(info) => stream_change(&name, kind, &wanted, &info["config"]),
        };
        changes.extend(change);
    }
    for (name, stream, wanted) in desired.consumers() {
        let change = match bus
            .api(&format!("CONSUMER.INFO.{stream}.{name}"), &Value::Null)
            .await
        {
            Err(Error::Missing(_)) => {
                let request =
                    json!({ "stream_name": stream, "config": wanted, "action": "create" });
                Some(missing(
                    &name,
                    "consumer",
                    format!("CONSUMER.CREATE.{stream}.{name}"),
                    request,
                ))
            }
            Err(error) => return Err(error),
            Ok(info) => consumer_change(&name, stream, &wanted, &info["config"]),
        };
        changes.extend(change);
    }
    Ok(changes)
}

fn missing(object: &str, kind: &'static str, subject: String, request: Value) -> Change {
    Change {
        object: object.to_owned(),
        kind,
        change: Class::Safe,
        detail: MISSING.to_owned(),
        action: Some(Action { subject, request }),
    }
}

/// Names what differs, `name: is -> should be`.
fn differences(wanted: &Value, found: &Value) -> Vec<String> {
    let zero = |value: &Value| {
        value.is_null() || *value == json!(0) || *value == json!(false) || *value == json!("")
    };
    wanted
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, value)| {
            let found = &found[name.as_str()];
            found != *value && !(zero(found) && (zero(value) || **value == json!(-1)))
        })
        .map(|(name, value)| format!("{name}: {} -> {value}", found[name.as_str()]))
        .collect()
}

/// Sources that nobody asked for are left alone, as streams are: `wanted` with those that `found` has besides, in the
/// order of `found`.
fn with_other_sources(wanted: &Value, found: &Value) -> Value {
    let mut wanted = wanted.clone();
    let Some(ours) = wanted["sources"].as_array().cloned() else {
        return wanted;
    };
    let there = found["sources"].as_array().cloned().unwrap_or_default();
    // Links read streams of the same name at different sites.
    let same = |a: &Value, b: &Value| a["name"] == b["name"] && peer_of(a) == peer_of(b);
    let find = |list: &[Value], one: &Value| list.iter().find(|other| same(other, one)).cloned();
    let mut sources: Vec<Value> = there
        .iter()
        .map(|source| find(&ours, source).unwrap_or_else(|| source.clone()))
        .collect();
    let more = ours.iter().filter(|ours| find(&there, ours).is_none());
    sources.extend(more.cloned());
    wanted["sources"] = Value::Array(sources);
    wanted
}

fn stream_change(name: &str, kind: &'static str, wanted: &Value, found: &Value) -> Option<Change> {
    let wanted = &with_other_sources(wanted, found);
    let differ = differences(wanted, found);
    if differ.is_empty() {
        return None;
    }
    let one_way = |field: &str| wanted[field] != true && found[field] == true;
    let (change, why) = if one_way("deny_delete") || one_way("deny_purge") {
        (
            Class::Refuse,
            "; a denied delete or purge can't be allowed again",
        )
    } else if wanted["storage"] != found["storage"] || wanted["retention"] != found["retention"] {
        (
            Class::Recreate,
            "; storage and retention are fixed when a stream is made",
        )
    } else {
        (Class::Safe, "")
    };
    // What we do not know of keeps its value: an update with a partial config resets the rest.
    let mut full = found.clone();
    merge(&mut full, wanted);
    Some(Change {
        object: name.to_owned(),
        kind,
        change,
        detail: format!("{}{why}", differ.join(", ")),
        action: Some(Action {
            subject: format!("STREAM.UPDATE.{name}"),
            request: full,
        }),
    })
}

fn consumer_change(name: &str, stream: &str, wanted: &Value, found: &Value) -> Option<Change> {
    let mut found = found.clone();
    // A single filter is stored in a field of its own.
    if let Some(single) = found["filter_subject"]
        .as_str()
        .filter(|filter| !filter.is_empty())
    {
        found["filter_subjects"] = json!([single]);
    }
    // A queue that was reset on an old server starts at its own floor; that is no drift.
    let mut wanted = wanted.clone();
    wanted["deliver_policy"] = found["deliver_policy"].clone();
    let differ = differences(&wanted, &found);
    if differ.is_empty() {
        return None;
    }
    let covered = |filter: &Value| {
        let filter = filter.as_str().unwrap_or_default();
        let old = found["filter_subjects"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        old.into_iter()
            .any(|old| crate::bus::topology::covers(old, filter))
    };
    let widened = wanted["filter_subjects"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|filter| !covered(filter));
    let (change, why) = if wanted["ack_policy"] != found["ack_policy"] {
        (
            Class::Recreate,
            "; the ack policy is fixed when a consumer is made",
        )
    } else if widened && wanted["ack_policy"] == "flow_control" {
        (
            Class::Safe,
            "; the peer gets what only the new filters let through from now on",
        )
    } else if widened {
        (
            Class::Backfill,
            "; what only the new filters take is replayed from the archive to this queue",
        )
    } else {
        (Class::Safe, "")
    };
    let mut full = found.clone();
    merge(&mut full, &wanted);
    if let Some(full) = full.as_object_mut() {
        full.remove("filter_subject");
    }
    let request = json!({ "stream_name": stream, "config": full, "action": "update" });
    Some(Change {
        object: name.to_owned(),
        kind: "consumer",
        change,
        detail: format!("{}{why}", differ.join(", ")),
        action: Some(Action {
            subject: format!("CONSUMER.CREATE.{stream}.{name}"),
            request,
        }),
    })
}

/// Whether filter `wide` lets everything through that `narrow` does.
fn covers(wide: &str, narrow: &str) -> bool {
    let (mut wide, mut narrow) = (wide.split('.'), narrow.split('.'));
    loop {
        match (wide.next(), narrow.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(wide), Some(narrow)) if wide == narrow => {}
            _ => return false,
        }
    }
}

/// Carries a change out.
///
/// # Errors
/// The server's refusal; classes recreate and refuse are never carried out.
pub async fn apply(bus: &JetStream, change: &Change) -> Result<(), Error> {
    if matches!(change.change, Class::Recreate | Class::Refuse) {
        return Err(Error::Unsuitable(format!(
            "{} {}: {}",
            change.kind, change.object, change.detail
        )));
    }
    let Some(action) = &change.action else {
        return Ok(());
    };
    bus.api(&action.subject, &action.request).await.map(|_| ())
}
