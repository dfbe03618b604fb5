//! A depot's events that came on a stick and not over its link (DESIGN 8): the link must not bring them a second time.
//!
//! While they are imported the archive does not read the depot. When the depot answers again, its consumer is set behind what
//! was carried and the archive reads on from there, by a source that has another identity than the one before: the server
//! remembers by it how far it had read, and would begin there (BROKER 2). What the stick left out is missed by the ledger and
//! asked for (`node::resend`).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::transfer::Record;
use crate::bus::jetstream::JetStream;
use crate::bus::links::{HUB, Link, peer_of};
use crate::bus::{self, Bus, EVENTS, TOPOLOGY_BUCKET};
use crate::event::Ts;

/// An import that was not heard of for so long broke off.
const BROKE_OFF_MS: i64 = 600_000;
/// Messages in one read.
const PAGE: usize = 1000;
/// How long a depot may take to set its consumer.
const SET_MAX: Duration = Duration::from_secs(5);

/// What is known of the events of a depot that were carried; in KV `TOPOLOGY`, key `carried.<site>`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Carried {
    /// The highest sequence in the depot's archive.
    seq: u64,
    /// Whether the source had a transform, which makes it another one.
    transformed: bool,
    /// When the import was last heard of; none when it is over.
    importing_at: Option<Ts>,
}

fn key(site: &str) -> String {
    format!("carried.{site}")
}

/// What was carried of a depot that the archive does not read since.
pub(super) async fn of(bus: &JetStream, site: &str) -> Result<Option<Carried>, bus::Error> {
    let value = bus.kv_get(TOPOLOGY_BUCKET, &key(site)).await?;
    Ok(value.and_then(|value| serde_json::from_slice(&value).ok()))
}

async fn note(bus: &JetStream, site: &str, carried: &Carried) -> Result<(), bus::Error> {
    // Numbers always have a JSON form.
    let value = serde_json::to_vec(&carried).unwrap_or_default();
    bus.kv_put(TOPOLOGY_BUCKET, &key(site), value).await
}

impl Carried {
    /// Whether an import goes on right now.
    pub(super) fn under_way(&self, now: Ts) -> bool {
        self.importing_at
            .is_some_and(|at| now.ms() - at.ms() < BROKE_OFF_MS)
    }
}

/// The depots whose events an import brings.
pub(super) struct Stick<'a> {
    bus: &'a JetStream,
    carried: BTreeMap<String, Option<Carried>>,
}

impl<'a> Stick<'a> {
    pub(super) fn new(bus: &'a JetStream) -> Self {
        Self {
            bus,
            carried: BTreeMap::new(),
        }
    }

    /// Before a record is published: whether it is of a depot of this hub, whose link is left alone from then on.
    pub(super) async fn sees(&mut self, record: &Record, now: Ts) -> Result<bool, bus::Error> {
        let origin = record.subject.split('.').nth(1).unwrap_or_default();
        if !self.carried.contains_key(origin) {
            let detached = detach(self.bus, origin, now).await?;
            self.carried.insert(origin.to_owned(), detached);
        }
        let Some(Some(carried)) = self.carried.get_mut(origin) else {
            return Ok(false);
        };
        // Sequences are the depot's where the export is: what another archive exports came to that by a source.
        if !record.headers.contains_key("Nats-Stream-Source") {
            carried.seq = carried.seq.max(record.seq);
        }
        Ok(true)
    }

    /// After a part was published.
    pub(super) async fn note(&mut self, now: Option<Ts>) -> Result<(), bus::Error> {
        for (site, carried) in &mut self.carried {
            if let Some(carried) = carried {
                carried.importing_at = now;
                note(self.bus, site, carried).await?;
            }
        }
        Ok(())
    }
}

/// Lets the archive read a depot no more, if it does.
async fn detach(bus: &JetStream, site: &str, now: Ts) -> Result<Option<Carried>, bus::Error> {
    let info = bus
        .api(&format!("STREAM.INFO.{EVENTS}"), &Value::Null)
        .await?;
    let mut config = info["config"].clone();
    let known = of(bus, site).await?;
    let Some(sources) = config["sources"].as_array_mut() else {
        return Ok(None);
    };
    let at = sources
        .iter()
        .position(|source| site != HUB && peer_of(source) == Some(site));
    let carried = match (at, known) {
        // Carried before, and the depot has not answered since.
        (None, known) => match known {
            Some(known) => Carried {
                importing_at: Some(now),
                ..known
            },
            None => return Ok(None),
        },
        (Some(at), _) => {
            let source = sources.remove(at);
            // How far the link had brought it: a stick from before then must not set that back.
            let mut read = info["sources"].as_array().into_iter().flatten();
            let read = read.find(|source| peer_of(source) == Some(site));
            Carried {
                seq: read.and_then(|read| read["seq"].as_u64()).unwrap_or(0),
                transformed: source["subject_transforms"].is_array(),
                importing_at: Some(now),
            }
        }
    };
    // First the word, then the deed: whoever sees the depot unread must see why.
    note(bus, site, &carried).await?;
    if at.is_none() {
        return Ok(Some(carried));
    }
    bus.api(&format!("STREAM.UPDATE.{EVENTS}"), &config).await?;
    // What came in between.
    let since = info["state"]["last_seq"].as_u64().unwrap_or(0) + 1;
    let brought = brought(bus, site, since).await?;
    Ok(Some(Carried {
        seq: carried.seq.max(brought),
        ..carried
    }))
}

/// The highest sequence in the depot's archive of what the link brought from sequence `from` of this one on.
async fn brought(bus: &JetStream, site: &str, from: u64) -> Result<u64, bus::Error> {
    let (filter, mut next, mut highest) = (format!("roadcall.{site}.>"), from, 0);
    loop {
        let page = bus.read(EVENTS, &filter, next, PAGE, true).await?;
        let Some(last) = page.last() else {
            return Ok(highest);
        };
        next = last.seq + 1;
        // `EVENTS:<hash>:<consumer> <sequence> …`, see `origin`.
        let seqs = page.iter().filter_map(|stored| {
            let from = stored.headers.get("Nats-Stream-Source")?;
            let mut words = from.split(' ');
            let of_link = words.next()?.starts_with("EVENTS:");
            words.next().filter(|_| of_link)?.parse::<u64>().ok()
        });
        highest = seqs.fold(highest, u64::max);
    }
}

/// The source by which the hub reads a depot on, and sets the depot's consumer to where that begins.
pub(super) async fn attach(
    bus: &JetStream,
    site: &str,
    carried: &Carried,
) -> Result<Value, bus::Error> {
    let mut source = Link::down(site, Vec::new()).source(HUB);
    if carried.seq > 0 {
        bus.reset_at(site, &Link::up(site).consumer(), carried.seq + 1, SET_MAX)
            .await?;
    }
    // Another identity than before where something was carried, else the same one.
    if carried.transformed != (carried.seq > 0) {
        let all = format!("roadcall.{site}.>");
        source["subject_transforms"] = json!([{ "src": all, "dest": all }]);
    }
    Ok(source)
}

/// The depot is read again, by this source: one that is made later must have the same identity, see `attach`.
pub(super) async fn attached(
    bus: &JetStream,
    site: &str,
    source: &Value,
) -> Result<(), bus::Error> {
    let read = Carried {
        seq: 0,
        transformed: source["subject_transforms"].is_array(),
        importing_at: None,
    };
    note(bus, site, &read).await
}
