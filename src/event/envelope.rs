//! The envelope (DOMAIN 3.1, DESIGN 5): what every event has around its detail.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::catalogue::{Detail, Known, data_subject, resources};
use super::lists::Source;
use super::personal::{MASK, Sealed};
use super::seal::{self, DataKey, KeyError, Keyring};
use super::subject::Subject;
use super::types::{Id, Key, Site, Ts};

/// An event. Made by [`Event::build`] from a typed detail, or by the decoder from bytes; never by hand.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `id` = `detail.eventId`.
    pub id: Id,
    /// `source`.
    pub source: Source,
    /// `detail-type`.
    pub detail_type: String,
    /// `time` = `detail.timestamp`: when the fact happened.
    pub time: Ts,
    /// Where it was published.
    pub site: Site,
    /// Home of the incident, vendor or user at the start of the chain of causes, where it differs from `site`.
    pub home: Option<Site>,
    /// `kind/id` of what it is about.
    pub resources: Vec<String>,
    /// Event or command that led to it.
    pub cause: Option<Id>,
    /// Incident it belongs to.
    pub correlation: Option<Id>,
    /// The detail as it is on the wire, unknown fields and base fields included.
    pub detail: Map<String, Value>,
    /// Unknown fields of the envelope, kept and passed on.
    pub extra: Map<String, Value>,
    pub(super) entity: Key,
    pub(super) known: Option<Known>,
}

/// What the engine knows about an event that a role emits.
#[derive(Debug, Clone)]
pub struct Base {
    /// `eventId`.
    pub id: Id,
    /// `timestamp`.
    pub time: Ts,
    /// Publishing site.
    pub site: Site,
    /// Home site, where it differs.
    pub home: Option<Site>,
    /// What led to it.
    pub cause: Option<Id>,
    /// Incident it belongs to; taken from the detail's `incidentId` where there is one.
    pub correlation: Option<Id>,
    /// `detail.metadata`.
    pub metadata: BTreeMap<String, String>,
}

impl Event {
    /// Builds an event from its typed detail.
    #[must_use]
    pub fn build<D: Detail>(detail: &D, base: Base) -> Self {
        // A struct of the catalogue always serialises to an object: its fields are named and its maps have text keys.
        let mut map = match serde_json::to_value(detail) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        };
        let correlation = map
            .get("incidentId")
            .and_then(Value::as_str)
            .and_then(|id| Id::parse(id).ok())
            .or(base.correlation);
        let mut metadata = base.metadata;
        if let Some(correlation) = correlation {
            metadata.insert("correlationId".to_owned(), correlation.to_string());
        }
        let resources = resources(&map);
        map.insert("eventId".to_owned(), base.id.to_string().into());
        map.insert("timestamp".to_owned(), base.time.to_string().into());
        map.insert("version".to_owned(), D::VERSION.into());
        let metadata = metadata
            .into_iter()
            .map(|(name, value)| (name, Value::String(value)))
            .collect();
        map.insert("metadata".to_owned(), Value::Object(metadata));
        Self {
            id: base.id,
            source: D::SOURCE,
            detail_type: D::DETAIL_TYPE.to_owned(),
            time: base.time,
            home: base.home.filter(|home| *home != base.site),
            site: base.site,
            resources,
            cause: base.cause,
            correlation,
            detail: map,
            extra: Map::new(),
            entity: detail.entity(),
            known: Some(detail.clone().into_known()),
        }
    }

    /// The typed detail; `None` for a detail-type that this build does not know.
    #[must_use]
    pub fn known(&self) -> Option<&Known> {
        self.known.as_ref()
    }

    /// Whose its personal fields are, where one of them is not sealed yet.
    #[must_use]
    pub fn to_seal(&self) -> Option<&str> {
        let plain = self.known.as_ref().is_some_and(Known::has_plain);
        data_subject(&self.detail).filter(|_| plain)
    }

    /// Seals the personal fields that are plain, as they came: with whatever a later version has in them. The typed detail stays
    /// as it is.
    pub fn seal(&mut self, key: &DataKey) {
        let masked = self.known.as_ref().map(Known::masked).unwrap_or_default();
        for (name, value) in &mut self.detail {
            let personal = masked.get(name).and_then(Value::as_str) == Some(MASK);
            // What reads as the mask is another field's text that looks like it, or gives nothing away.
            let text = value.as_str();
            if personal && text != Some(MASK) && text.and_then(Sealed::parse).is_none() {
                *value = key.seal(value.to_string().as_bytes()).as_str().into();
            }
        }
    }

    /// Opens the personal fields, for somebody who may see the event; what can't be opened is masked. The typed detail stays as
    /// it is.
    ///
    /// # Errors
    /// The first key that can't be had now: its field is masked, and those behind it.
    pub fn open(&mut self, keys: Option<&dyn Keyring>) -> Result<(), KeyError> {
        let masked = self.known.as_ref().map(Known::masked).unwrap_or_default();
        let (mut keys, mut result) = (keys, Ok(()));
        for (name, value) in &mut self.detail {
            // By the type: a text that only looks sealed, somewhere else, is nobody's to open.
            let personal = masked.get(name).and_then(Value::as_str) == Some(MASK);
            let sealed = value.as_str().filter(|_| personal).and_then(Sealed::parse);
            let Some(sealed) = sealed else {
                continue;
            };
            let opened = match keys.map(|keys| seal::open(&sealed, keys)) {
                Some(Ok(opened)) => opened,
                Some(Err(error)) => {
                    (keys, result) = (None, Err(error));
                    None
                }
                None => None,
            };
            let opened = opened.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            *value = opened.unwrap_or_else(|| MASK.into());
        }
        result
    }

    /// The entity key.
    #[must_use]
    pub fn entity(&self) -> &Key {
        &self.entity
    }

    /// Where it is published.
    #[must_use]
    pub fn subject(&self) -> Subject {
        Subject {
            site: self.site.clone(),
            source: self.source,
            detail_type: self.detail_type.clone(),
            entity: self.entity.clone(),
        }
    }
}
