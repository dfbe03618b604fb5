//! The catalogue as an AsyncAPI 3.0 document (DESIGN 5): a channel per event type with its subject, a message per version,
//! what Roadcall sends, and what each queue receives.

use serde_json::{Map, Value, json};

use super::catalogue::{EventType, Version, catalogue};
use super::schema::schema;

/// Queues that take every event (DOMAIN 3.3).
const ALL_EVENTS: [&str; 2] = ["reporting", "audit"];

/// The document. Payloads are JSON Schemas as AsyncAPI has them: draft 07, their definitions among the components.
#[must_use]
pub fn asyncapi() -> Value {
    let mut parts = Parts::default();
    catalogue().for_each(|row| parts.add(row));
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Roadcall events",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Every event of Roadcall, as it is in the archive (stream EVENTS) of each site. Subjects are \
                roadcall.<site>.<service>.<DetailType>.<entity>; bodies are JSON or the same map in CBOR, as Content-Type says.",
            "license": { "name": "Apache-2.0" },
            "tags": [{ "name": "events" }],
        },
        "defaultContentType": "application/json",
        "servers": { "site": {
            "host": "127.0.0.1:4222", "protocol": "nats",
            "description": "The nats-server of a site; a depot's roles talk to their own only.",
        }},
        "channels": parts.channels,
        "operations": parts.operations,
        "components": {
            "messages": parts.messages,
            "schemas": parts.schemas,
            "parameters": { "site": {
                "description": "The site that published the event; hub is the centre.",
                "location": "$message.payload#/site",
                "examples": ["hub"],
            }},
            "messageTraits": { "event": {
                "headers": headers(),
                "correlationId": { "$ref": "#/components/correlationIds/incident" },
            }},
            "correlationIds": { "incident": {
                "description": "The incident that the event belongs to, where there is one.",
                "location": "$message.payload#/correlation",
            }},
        },
    })
}

#[derive(Default)]
struct Parts {
    channels: Map<String, Value>,
    operations: Map<String, Value>,
    messages: Map<String, Value>,
    schemas: Map<String, Value>,
}

impl Parts {
    fn add(&mut self, row: &EventType) {
        let name = row.detail_type;
        let mut messages = Map::new();
        for version in row.versions {
            let key = message_key(row, version);
            messages.insert(key.clone(), reference("messages", &key));
            let message = self.message(row, version);
            self.messages.insert(key, message);
        }
        let all: Vec<&str> = messages.keys().map(String::as_str).collect();
        for queue in row.queues.iter().chain(&ALL_EVENTS) {
            let mut receive = operation("receive", row, &all);
            receive["summary"] = json!(format!("{queue}-queue takes {name}"));
            receive["tags"] = json!([{ "name": format!("{queue}-queue") }]);
            self.operations
                .insert(format!("{queue}-queue.{name}"), receive);
        }
        let mut send = operation("send", row, &[&written_key(row)]);
        send["summary"] = json!(format!("{name}: {}", row.when));
        send["tags"] = json!([{ "name": row.source.as_str() }]);
        self.operations.insert(format!("send.{name}"), send);
        let channel = json!({
            "address": format!("roadcall.{{site}}.{}.{name}.{{{}}}", row.source.service(), row.entity_field),
            "title": name,
            "description": row.when,
            "messages": messages,
            "parameters": {
                "site": reference("parameters", "site"),
                row.entity_field: {
                    "description": "The entity key: order is kept per key.",
                    "location": format!("$message.payload#/detail/{}", row.entity_field),
                },
            },
        });
        self.channels.insert(name.to_owned(), channel);
    }

    fn message(&mut self, row: &EventType, version: &Version) -> Value {
        let mut payload = schema(row, version);
        if let Some(object) = payload.as_object_mut() {
            object.remove("$schema");
            if let Some(Value::Object(definitions)) = object.remove("$defs") {
                let definitions = definitions.into_iter();
                self.schemas
                    .extend(definitions.map(|(name, schema)| (name, draft_07(schema))));
            }
        }
        json!({
            "name": row.detail_type,
            "title": format!("{} {}", row.detail_type, version.name),
            "summary": row.when,
            "contentType": "application/json",
            "traits": [reference("messageTraits", "event")],
            "payload": draft_07(payload),
        })
    }
}

/// The key of a version's message: `DocumentIndexingFailed-2.0`.
fn message_key(row: &EventType, version: &Version) -> String {
    format!("{}-{}", row.detail_type, version.name)
}

fn written_key(row: &EventType) -> String {
    format!("{}-{}", row.detail_type, row.version)
}

fn reference(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

fn operation(action: &str, row: &EventType, messages: &[&str]) -> Value {
    let channel = format!("#/channels/{}", row.detail_type);
    let message = |key: &&str| json!({ "$ref": format!("{channel}/messages/{key}") });
    let messages: Vec<Value> = messages.iter().map(message).collect();
    json!({ "action": action, "channel": { "$ref": channel }, "messages": messages })
}

/// A schema of 2020-12, as far as the catalogue uses it, in draft 07: definitions are elsewhere, and what stands beside a
/// `$ref`, which draft 07 overlooks, is drawn around it.
fn draft_07(schema: Value) -> Value {
    match schema {
        Value::Object(map) => {
            let mut map: Map<String, Value> = map
                .into_iter()
                .map(|(name, value)| (name, draft_07(value)))
                .collect();
            let Some(Value::String(target)) = map.remove("$ref") else {
                return Value::Object(map);
            };
            let target = target.replace("#/$defs/", "#/components/schemas/");
            let target = json!({ "$ref": target });
            if map.is_empty() {
                return target;
            }
            map.insert("allOf".to_owned(), json!([target]));
            Value::Object(map)
        }
        Value::Array(items) => items.into_iter().map(draft_07).collect(),
        other => other,
    }
}

/// The headers of DESIGN 5.
fn headers() -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    let mut content_type =
        text("How the body is written; readers take both. Absent means application/json.");
    content_type["enum"] = json!(["application/json", "application/cbor"]);
    let mut delivery = text("On events emitted while one was handled that came so.");
    delivery["enum"] = json!(["replay", "redrive"]);
    json!({
        "type": "object",
        "required": ["Nats-Msg-Id"],
        "properties": {
            "Nats-Msg-Id": text("The event's id; the broker recognises a second copy by it."),
            "Roadcall-Seq": text("<role>:<store epoch>:<n>, without gaps for each role and site."),
            "Content-Type": content_type,
            "traceparent": text("W3C trace context."),
            "Roadcall-Delivery": delivery,
            "Roadcall-Imported": text("The event came out of an export and counts as replayed."),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_definition_says_the_same_in_every_type() {
        let mut seen: BTreeMap<String, Value> = BTreeMap::new();
        for row in catalogue() {
            for version in row.versions {
                let schema = schema(row, version);
                for (name, definition) in schema["$defs"].as_object().into_iter().flatten() {
                    let other = seen.entry(name.clone()).or_insert(definition.clone());
                    assert_eq!(other, definition, "{name} of {}", row.detail_type);
                }
            }
        }
        assert!(seen.len() > 20, "{seen:?}");
    }

    #[test]
    fn what_stands_beside_a_reference_is_kept() {
        let schema = json!({ "a": { "$ref": "#/$defs/Text8", "default": "en" }, "b": [{ "$ref": "#/$defs/Id" }] });
        let text = json!({ "$ref": "#/components/schemas/Text8" });
        let id = json!({ "$ref": "#/components/schemas/Id" });
        assert_eq!(
            draft_07(schema),
            json!({ "a": { "default": "en", "allOf": [text] }, "b": [id] })
        );
    }
}
