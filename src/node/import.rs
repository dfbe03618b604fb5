//! Exported events into an archive (DESIGN 7, export and import): a site's own directly, another site's by the stream
//! [`CARRY`], which the archive sources, for a stream takes only its own site's subjects.
//!
//! Nothing is noted down between two runs: what the archive has is passed over, what is in `CARRY` is waited for. So a run that
//! broke off anywhere is made good by another one, and neither makes an event come twice.

use std::collections::HashSet;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::carried::Stick;
use super::clock::Clock;
use super::transfer::{IMPORTED, RESENT, Record, each_id};
use crate::bus::jetstream::JetStream;
use crate::bus::links::HUB;
use crate::bus::{self, Bus, CARRY, EVENTS, Outgoing};
use crate::event::Site;

/// Messages in one publish.
const PAGE: usize = 1000;
/// How often it is looked whether the archive has taken more.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Looks without anything new, about a minute, after which the archive is believed to take nothing any more.
const LOOKS_MAX: u32 = 600;

/// What an import came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Events that the archive has now and had not before.
    pub imported: u64,
    /// Events that it had.
    pub skipped: u64,
}

/// Why an import broke off. It can be run again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// A record, by its number from 1, and what is wrong with it.
    #[error("record {0}: {1}")]
    Record(usize, String),
    /// The topology is from before there was `CARRY`.
    #[error("EVENTS does not take up what comes by CARRY, the way for another site's events")]
    NoSource,
    /// So many were carried in and did not get into the archive.
    #[error(
        "EVENTS has not taken up {0} events that wait in CARRY; it is full, or cut off from it"
    )]
    NotTaken(usize),
}

/// Imports `records`, in order; own events of `site` and those of each other origin keep their order among themselves.
///
/// # Errors
/// The first record that is none, or the broker's failure.
pub async fn run(
    bus: &JetStream,
    site: &str,
    clock: Clock,
    records: impl Iterator<Item = Result<Record, String>>,
) -> Result<Imported, Error> {
    let mut import = Import::begin(bus, site).await?;
    let mut stick = Stick::new(bus);
    for (n, record) in records.enumerate() {
        let of_record = |error| Error::Record(n + 1, error);
        let record = record.map_err(of_record)?;
        // What a depot of this hub made is as new here as if its link had brought it.
        let mark = match site == HUB && stick.sees(&record, clock.now()).await? {
            true => RESENT,
            false => IMPORTED,
        };
        let message = record.outgoing(mark).map_err(of_record)?;
        if message.subject.starts_with(&import.own) {
            import.add_own(message).await?;
        } else {
            let subject = carried_subject(&message.subject).map_err(of_record)?;
            import.add_carried(message, subject).await?;
        }
        if n % PAGE == PAGE - 1 {
            stick.note(Some(clock.now())).await?;
        }
    }
    let result = import.end().await?;
    stick.note(None).await?;
    Ok(result)
}

/// What another site sends again, taken into the archive part by part.
pub(super) struct Resent<'a> {
    import: Import<'a>,
    origin: String,
}

impl<'a> Resent<'a> {
    /// Of `site`. Reads which events the archive here has.
    ///
    /// # Errors
    /// The broker.
    pub(super) async fn begin(bus: &'a JetStream, site: &str) -> Result<Self, Error> {
        Ok(Self {
            // Nothing is this site's own.
            import: Import::begin(bus, "").await?,
            origin: format!("roadcall.{site}."),
        })
    }

    /// Of this site itself, from where its events still are: they are published as they once were.
    ///
    /// # Errors
    /// The broker.
    pub(super) async fn own(bus: &'a JetStream, site: &str) -> Result<Self, Error> {
        Ok(Self {
            import: Import::begin(bus, site).await?,
            origin: format!("roadcall.{site}."),
        })
    }

    /// Takes a part.
    ///
    /// # Errors
    /// A record that is not of that site, or the broker.
    pub(super) async fn add(&mut self, records: &[Record]) -> Result<(), Error> {
        for (n, record) in records.iter().enumerate() {
            let of_record = |error| Error::Record(n + 1, error);
            if !record.subject.starts_with(&self.origin) {
                let error = format!("subject: does not start with {}", self.origin);
                return Err(of_record(error));
            }
            let message = record.outgoing(RESENT).map_err(of_record)?;
            if self.import.own == self.origin {
                self.import.add_own(message).await?;
                continue;
            }
            let subject = carried_subject(&message.subject).map_err(of_record)?;
            self.import.add_carried(message, subject).await?;
        }
        Ok(())
    }

    /// Waits until the archive has all; gives how many it had not.
    ///
    /// # Errors
    /// The broker.
    pub(super) async fn end(self) -> Result<u64, Error> {
        Ok(self.import.end().await?.imported)
    }
}

struct Import<'a> {
    bus: &'a JetStream,
    /// The subjects of the site's own events begin so.
    own: String,
    /// What the archive had, and what was published to it since.
    there: HashSet<String>,
    /// The archive was read up to here.
    next_seq: u64,
    /// What is in [`CARRY`], where it was looked into: only another site's events need it.
    carried: Option<HashSet<String>>,
    /// What the archive still has to take up from there.
    awaited: HashSet<String>,
    own_part: Vec<Outgoing>,
    carried_part: Vec<Outgoing>,
    result: Imported,
}

impl<'a> Import<'a> {
    async fn begin(bus: &'a JetStream, site: &str) -> Result<Self, Error> {
        let mut there = HashSet::new();
        let note = |id: &str| {
            there.insert(id.to_owned());
        };
        let next_seq = each_id(bus, EVENTS, 1, note).await?;
        Ok(Self {
            bus,
            own: format!("roadcall.{site}."),
            there,
            next_seq,
            carried: None,
            awaited: HashSet::new(),
            own_part: Vec::new(),
            carried_part: Vec::new(),
            result: Imported::default(),
        })
    }

    async fn add_own(&mut self, message: Outgoing) -> Result<(), Error> {
        if self.is_new(&message) {
            self.result.imported += 1;
            self.own_part.push(message);
        }
        self.send(PAGE).await
    }

    async fn add_carried(&mut self, message: Outgoing, subject: String) -> Result<(), Error> {
        if self.is_new(&message) {
            self.awaited.insert(message.msg_id.clone());
            if !self.in_carry().await?.contains(&message.msg_id) {
                self.carried_part.push(Outgoing { subject, ..message });
            }
        }
        self.send(PAGE).await
    }

    /// Whether the archive has it not, and no earlier record was it.
    fn is_new(&mut self, message: &Outgoing) -> bool {
        let new = self.there.insert(message.msg_id.clone());
        self.result.skipped += u64::from(!new);
        new
    }

    /// What an earlier import left on its way.
    async fn in_carry(&mut self) -> Result<&HashSet<String>, Error> {
        if self.carried.is_none() {
            let subject = format!("STREAM.INFO.{EVENTS}");
            let info = self.bus.api(&subject, &Value::Null).await?;
            let mut sources = info["config"]["sources"].as_array().into_iter().flatten();
            if !sources.any(|source| source["name"] == CARRY) {
                return Err(Error::NoSource);
            }
            let mut ids = HashSet::new();
            let note = |id: &str| {
                ids.insert(id.to_owned());
            };
            each_id(self.bus, CARRY, 1, note).await?;
            self.carried = Some(ids);
        }
        Ok(self.carried.get_or_insert_default())
    }

    /// Publishes what has come together, if it is so many.
    async fn send(&mut self, least: usize) -> Result<(), Error> {
        for part in [&mut self.own_part, &mut self.carried_part] {
            if part.len() >= least {
                let published = self.bus.publish(std::mem::take(part)).await;
                if let Some(error) = published.stopped {
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Sends the rest and waits until the archive has all.
    async fn end(mut self) -> Result<Imported, Error> {
        self.send(1).await?;
        self.result.imported += self.awaited.len() as u64;
        let mut looks = 0;
        while !self.awaited.is_empty() {
            let before = self.awaited.len();
            let awaited = &mut self.awaited;
            let note = |id: &str| {
                awaited.remove(id);
            };
            self.next_seq = each_id(self.bus, EVENTS, self.next_seq, note).await?;
            looks = if self.awaited.len() < before {
                0
            } else {
                looks + 1
            };
            if looks > LOOKS_MAX {
                return Err(Error::NotTaken(self.awaited.len()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(self.result)
    }
}

/// Where an event of another site is published so that the archive takes it up under its own subject. An unreadable event has
/// had no look at its subject yet.
fn carried_subject(subject: &str) -> Result<String, String> {
    let rest = subject.strip_prefix("roadcall.");
    let rest = rest.ok_or("subject: does not start with roadcall.")?;
    let origin = rest.split('.').next().unwrap_or_default();
    Site::new(origin).map_err(|error| format!("subject: site token: {error}"))?;
    let token = |token: &str| {
        !token.is_empty()
            && token
                .chars()
                .all(|c| c.is_ascii_graphic() && !"*>".contains(c))
    };
    if !rest.split('.').all(token) || !rest.contains('.') {
        return Err("subject: has an empty token, a blank or a wildcard".to_owned());
    }
    Ok(format!("carry.{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_sites_subject_is_carried_and_what_is_none_is_named() {
        let carried = carried_subject("roadcall.depot-a.incident.IncidentRated.k");
        assert_eq!(
            carried.as_deref(),
            Ok("carry.depot-a.incident.IncidentRated.k")
        );
        for wrong in [
            "other.depot-a.x",
            "roadcall.DEPOT.x",
            "roadcall.depot-a",
            "roadcall.depot-a..x",
            "roadcall.depot-a.*",
            "roadcall.depot-a.a b",
        ] {
            let error = carried_subject(wrong).expect_err(wrong);
            assert!(error.starts_with("subject: "), "{error}");
        }
    }
}
