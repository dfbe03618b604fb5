//! JSON Schema as far as the catalogue uses it: arbitrary values that a schema allows (`generate`), and whether it allows
//! one (`check`). A keyword that they do not know is a panic, so that none is overlooked.

mod check;
mod generate;

use std::fmt;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::BoxedStrategy;
use serde_json::{Map, Value};

use roadcall::event::{EventType, Version, catalogue, schema};

pub use check::problem;
pub use generate::anything;

/// The schema of one event type.
#[derive(Debug, Clone)]
pub struct Schema {
    /// The type and its version.
    pub name: String,
    pub row: &'static EventType,
    root: Arc<Value>,
}

/// A message that every reader must take.
#[derive(Clone)]
pub struct Sample {
    pub subject: String,
    pub body: Value,
}

/// As it could be published again.
impl fmt::Debug for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.subject, self.body)
    }
}

impl Sample {
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.body).expect("a value is JSON")
    }

    pub fn cbor(&self) -> Vec<u8> {
        cbor(&self.body)
    }
}

/// A value as CBOR, written by the test and not by the codec.
pub fn cbor(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("a value is CBOR");
    bytes
}

impl Schema {
    pub fn of(row: &'static EventType, version: &Version) -> Self {
        Self {
            row,
            name: format!("{} {}", row.detail_type, version.name),
            root: Arc::new(schema(row, version)),
        }
    }

    /// Of every version of every type that is read.
    pub fn all() -> impl Iterator<Item = Self> {
        catalogue().flat_map(|row| {
            row.versions
                .iter()
                .map(move |version| Self::of(row, version))
        })
    }

    /// Why the schema forbids a message's body, if it does.
    pub fn forbids(&self, body: &Value) -> Option<String> {
        check::problem(&self.root, &self.root, body)
    }

    /// Why the schema forbids `value` as the detail's `field`, if it does.
    pub fn forbids_field(&self, field: &str, value: &Value) -> Option<String> {
        let field = &self.detail()["properties"][field];
        check::problem(&self.root, field, value)
    }

    /// The detail as one schema: the base fields and the type's own. Of `version`, which SiteReported has as well, the
    /// base's counts: it says more.
    pub fn detail(&self) -> Value {
        let parts = self.root["properties"]["detail"]["allOf"].as_array();
        let parts = parts.expect("the base fields and the type's own");
        let (mut properties, mut required) = (Map::new(), Vec::new());
        for part in parts {
            let known: Vec<&str> =
                ["type", "properties", "required", "title", "description"].into();
            let keys = part.as_object().expect("an object").keys();
            keys.for_each(|key| assert!(known.contains(&key.as_str()), "{key} in a detail"));
            for (name, schema) in part["properties"].as_object().expect("fields") {
                properties.entry(name).or_insert_with(|| schema.clone());
            }
            required.extend(part["required"].as_array().into_iter().flatten().cloned());
        }
        serde_json::json!({ "type": "object", "properties": properties, "required": required })
    }

    /// Names of the detail's fields that must be there.
    pub fn required(&self) -> Vec<String> {
        let detail = self.detail();
        let names = detail["required"].as_array().expect("a list");
        let mut names: Vec<String> = names
            .iter()
            .map(|name| name.as_str().expect("a name").to_owned())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Arbitrary messages of this type.
    pub fn samples(&self) -> BoxedStrategy<Sample> {
        let mut envelope = (*self.root).clone();
        envelope["properties"]["detail"] = self.detail();
        let row = self.row;
        let bodies = generate::values(&self.root, &envelope);
        let sites = generate::text("[a-z0-9-]{1,32}");
        (bodies, sites, any::<bool>())
            .prop_map(move |(mut body, site, same_text)| {
                tie(&mut body, same_text);
                let site = body["site"].as_str().unwrap_or(&site);
                let entity = body["detail"][row.entity_field].as_str();
                let entity = entity.expect("the key is a text that must be there");
                let (service, name) = (row.source.service(), row.detail_type);
                let subject = format!("roadcall.{site}.{service}.{name}.{entity}");
                Sample { subject, body }
            })
            .boxed()
    }
}

/// What no schema can say: `id` is `detail.eventId`, and `time` is `detail.timestamp`, in the same words or in others.
fn tie(body: &mut Value, same_text: bool) {
    body["detail"]["eventId"] = body["id"].clone();
    let time = body["time"].as_str().expect("a text").to_owned();
    let other = match time.strip_suffix('Z') {
        Some(rest) if !same_text => format!("{rest}+00:00"),
        _ => time,
    };
    body["detail"]["timestamp"] = other.into();
}
