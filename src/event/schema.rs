//! JSON Schemas out of the catalogue (DESIGN 5): for producers that are not Roadcall, for raw publishing, for the tests.

use std::collections::BTreeSet;

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

use super::catalogue::{EventType, Version};
use super::types::{Id, Site, Ts};

/// JSON Schema (2020-12) of the whole envelope of an event type in one of its versions.
#[must_use]
pub fn schema(row: &EventType, version: &Version) -> Value {
    let mut detail = (version.schema)().to_value();
    let definitions = detail
        .as_object_mut()
        .and_then(|object| object.remove("$defs"))
        .unwrap_or_else(|| Value::Object(Map::new()));
    if let Some(object) = detail.as_object_mut() {
        object.remove("$schema");
    }
    let (id, time, site) = (scalar::<Id>(), scalar::<Ts>(), scalar::<Site>());
    let version = format!("^{}\\.(0|[1-9][0-9]{{0,8}})$", version.major());
    let base = serde_json::json!({
        "type": "object", "required": ["eventId", "timestamp", "version"],
        "properties": {
            "eventId": id, "timestamp": time, "version": { "type": "string", "pattern": version },
            "metadata": { "type": "object", "additionalProperties": { "type": "string" } }
        }
    });
    serde_json::json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": row.detail_type, "description": row.when, "type": "object",
        "required": ["id", "source", "detail-type", "time", "detail"],
        "properties": {
            "id": id,
            "source": { "const": row.source.as_str() },
            "detail-type": { "const": row.detail_type },
            "time": time, "site": site, "home": site,
            "resources": { "type": "array", "items": { "type": "string" } },
            "cause": id, "correlation": id,
            "detail": { "allOf": [base, detail] }
        },
        "$defs": definitions
    })
}

fn scalar<T: JsonSchema>() -> Value {
    T::json_schema(&mut SchemaGenerator::default()).to_value()
}

/// Names of the fields that a type's detail may have, in any version that is read.
#[must_use]
pub fn fields(row: &EventType) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for version in row.versions {
        let schema = schema(row, version);
        let parts = schema["properties"]["detail"]["allOf"].as_array();
        for part in parts.into_iter().flatten() {
            let properties = part["properties"].as_object();
            names.extend(properties.into_iter().flat_map(Map::keys).cloned());
        }
    }
    names
}
