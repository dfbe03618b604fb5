//! The OpenAPI 3.1 document of the door, made from the commands' own tables and body types.

use serde_json::{Map, Value, json};

use super::hooks::{HOOKS, Hook};
use super::problem::MEDIA_TYPE;
use super::specs::{Spec, Specs};
use crate::config::Config;
use crate::role::permission::Permission;

/// Refusals that any command may give, by status (DOMAIN 1.3).
const REFUSALS: [(&str, &str); 11] = [
    (
        "400",
        "VALIDATION_ERROR: names the field where one is wrong",
    ),
    ("402", "PAYMENT_FAILED"),
    ("403", "AUTHORIZATION_ERROR, FRAUD_DETECTED"),
    ("404", "NOT_FOUND"),
    (
        "409",
        "CONFLICT, VERSION_CONFLICT, INVALID_TRANSITION, OFFER_NOT_PENDING, OFFER_EXPIRED, \
         INCIDENT_ALREADY_ASSIGNED, VENDOR_NOT_AVAILABLE",
    ),
    ("401", "AUTHENTICATION_ERROR"),
    ("413", "The body is too large"),
    ("415", "The body is not JSON"),
    ("429", "RATE_LIMIT_EXCEEDED, with Retry-After"),
    (
        "503",
        "SERVICE_UNAVAILABLE: the role or the broker does not answer; try again",
    ),
    (
        "504",
        "TIMEOUT: the outcome is unknown; repeat with the same Idempotency-Key",
    ),
];

/// The document.
#[must_use]
pub fn document() -> Value {
    let specs = Specs::new(&Config::default());
    let mut paths = Map::new();
    let mut schemas = Map::from_iter([("Problem".to_owned(), problem())]);
    for spec in specs.0.values() {
        schemas.extend(spec.reply.clone());
        let (entity, verb) = spec.name();
        let mut path = json!({ "post": posted(spec) });
        if spec.readable() {
            path["get"] = asked(spec, None);
        }
        paths.insert(format!("/v1/{entity}/{verb}"), path);
        if verb == "list" {
            paths.insert(
                format!("/v1/{entity}"),
                json!({ "get": asked(spec, Some("all")) }),
            );
        }
        if verb == "get" {
            let one = json!({ "get": asked(spec, Some("one")) });
            paths.insert(format!("/v1/{entity}/{{id}}"), one);
        }
    }
    for hook in HOOKS {
        if let Some(spec) = specs.0.get(hook.command) {
            let path = format!("/v1/hooks/{}", hook.provider);
            paths.insert(path, json!({ "post": hooked(hook, spec) }));
        }
    }
    paths.insert("/v1/events".to_owned(), json!({ "get": events() }));
    for (path, what) in [
        ("/healthz", "Whether it can serve"),
        ("/readyz", "Whether requests should be sent here"),
    ] {
        let healthy = json!({ "description": "It can", "content": { "application/json": { "schema": { "type": "object" } } } });
        let not = json!({ "description": "It can't", "content": { "application/json": { "schema": { "type": "object" } } } });
        let get =
            json!({ "summary": what, "security": [], "responses": { "200": healthy, "503": not } });
        paths.insert(path.to_owned(), json!({ "get": get }));
    }
    name_entries(&mut schemas);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Roadcall", "version": env!("CARGO_PKG_VERSION"),
            "description": "Every command of Roadcall over HTTP. A create may carry Idempotency-Key: a retry gets the first answer.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "bearer": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } },
            "schemas": schemas,
        },
    })
}

/// Lets pages name their entries, which are entities of their own here: who makes a client out of the document wants one type
/// of each.
fn name_entries(schemas: &mut Map<String, Value>) {
    let entities = schemas.clone();
    for (name, page) in schemas.iter_mut() {
        let Some(entry) = name.strip_prefix("PageOf") else {
            continue;
        };
        let items = page.pointer_mut("/properties/items/items");
        if let Some(items) = items.filter(|items| entities.get(entry) == Some(&**items)) {
            *items = json!({ "$ref": format!("#/components/schemas/{entry}") });
        }
    }
}

fn problem() -> Value {
    json!({
        "type": "object", "description": "RFC 9457 problem details",
        "required": ["type", "title", "status", "detail", "code", "requestId", "timestamp"],
        "properties": {
            "type": { "type": "string" }, "title": { "type": "string" }, "status": { "type": "integer" },
            "detail": { "type": "string" }, "code": { "type": "string" }, "field": { "type": "string" },
            "details": {}, "requestId": { "type": "string" }, "timestamp": { "type": "string", "format": "date-time" },
        },
    })
}

/// The result, and every refusal; `spec` is missing where there is no command behind a path.
fn responses(spec: Option<&Spec>) -> Value {
    let mut responses = Map::new();
    let reply = spec.and_then(|spec| spec.reply.as_ref());
    let schema = reply.map_or_else(
        || json!({}),
        |(name, _)| json!({ "$ref": format!("#/components/schemas/{name}") }),
    );
    let result = json!({ "description": "The result", "content": { "application/json": { "schema": schema } } });
    responses.insert("200".to_owned(), result);
    let public = spec.is_some_and(|spec| spec.command.permission == Permission::Public);
    for (status, what) in REFUSALS {
        // Who asks for a password with a wrong one is refused by 401 too, token or not.
        let what = if public && status == "401" {
            "AUTHENTICATION_ERROR: wrong, expired or used up"
        } else {
            what
        };
        let content =
            json!({ MEDIA_TYPE: { "schema": { "$ref": "#/components/schemas/Problem" } } });
        let mut response = json!({ "description": what, "content": content });
        if status == "429" {
            response["headers"] = json!({ "Retry-After": { "description": "Seconds", "schema": { "type": "integer" } } });
        }
        responses.insert(status.to_owned(), response);
    }
    Value::Object(responses)
}

/// What all forms of a command say.
fn operation(spec: &Spec, form: &str) -> Value {
    let (entity, _) = spec.name();
    let mut operation = json!({
        "operationId": format!("{form}.{}", spec.command.name), "tags": [entity],
        "summary": format!("{}{}", spec.command.name, if spec.command.mutates { " (changes data)" } else { "" }),
        "responses": responses(Some(spec)),
    });
    if spec.command.permission == Permission::Public {
        operation["security"] = json!([]);
    }
    operation
}

fn posted(spec: &Spec) -> Value {
    let mut operation = operation(spec, "post");
    let required = spec.body.get("required").is_some();
    operation["requestBody"] =
        json!({ "required": required, "content": { "application/json": { "schema": spec.body } } });
    if spec.command.mutates && spec.fields().any(|(name, _)| name == "clientRequestId") {
        operation["parameters"] = json!([{
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "Names a retry; the same as clientRequestId in the body",
            "schema": { "type": "string", "minLength": 1, "maxLength": 64 },
        }]);
    }
    operation
}

fn asked(spec: &Spec, form: Option<&str>) -> Value {
    let mut operation = operation(spec, form.unwrap_or("get"));
    let required = |name: &str| {
        let list = spec.body.get("required").and_then(Value::as_array);
        list.is_some_and(|list| list.iter().any(|required| required == name))
    };
    let in_path = spec.id_field().filter(|_| form == Some("one"));
    let mut parameters = Vec::new();
    for (name, schema) in spec.fields() {
        parameters.push(if in_path == Some(name.as_str()) {
            json!({ "name": "id", "in": "path", "required": true, "schema": present(schema) })
        } else {
            json!({ "name": name, "in": "query", "required": required(name), "schema": schema })
        });
    }
    operation["parameters"] = Value::Array(parameters);
    operation
}

/// A field's schema without `null`: what stands in a path is there.
fn present(schema: &Value) -> Value {
    let mut schema = schema.clone();
    let not_null = |part: &Value| *part != json!("null") && part["type"] != "null";
    for key in ["type", "anyOf", "oneOf"] {
        let Some(parts) = schema.get_mut(key).and_then(Value::as_array_mut) else {
            continue;
        };
        parts.retain(not_null);
        if let [one] = parts.as_slice() {
            let one = one.clone();
            match one {
                Value::Object(one) if key != "type" => {
                    if let Some(map) = schema.as_object_mut() {
                        map.remove(key);
                        map.extend(one);
                    }
                }
                one => schema[key] = one,
            }
        }
    }
    schema
}

fn hooked(hook: &Hook, spec: &Spec) -> Value {
    let parameters: Vec<Value> = hook
        .headers
        .iter()
        .map(|(header, _)| json!({ "name": header, "in": "header", "required": true, "schema": { "type": "string" } }))
        .collect();
    json!({
        "operationId": format!("hook.{}", hook.provider), "tags": ["hooks"], "security": [], "parameters": parameters,
        "summary": format!("A webhook for {}: signed over the raw body", hook.command),
        "requestBody": { "required": true, "content": { hook.media: { "schema": { "type": "object" } } } },
        "responses": responses(Some(spec)),
    })
}

fn events() -> Value {
    let query = |name: &str, what: &str, schema: Value| json!({ "name": name, "in": "query", "required": false, "description": what, "schema": schema });
    let mut operation = json!({
        "operationId": "events", "tags": ["events"], "summary": "Events as they are archived, as server-sent events",
        "description": "The id of each is its sequence in the archive; Last-Event-ID goes on behind it. An event 'gone' names sequences that the archive no longer has.",
        "parameters": [
            query("incidentId", "Only this incident's", json!({ "type": "string", "format": "uuid" })),
            query("types", "Only these detail-types, with commas between", json!({ "type": "string" })),
            { "name": "Last-Event-ID", "in": "header", "required": false, "schema": { "type": "string", "pattern": "^[0-9]{1,19}$" } },
        ],
        "responses": responses(None),
    });
    operation["responses"]["200"] = json!({ "description": "A stream without end", "content": { "text/event-stream": { "schema": { "type": "string" } } } });
    operation
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Results that no schema of ours describes, and why.
    const WITHOUT: [(&str, &str); 1] = [(
        "/v1/events",
        "a stream of server-sent events; the AsyncAPI document describes them",
    )];

    #[test]
    fn every_result_has_a_schema_that_says_something() {
        let document = document();
        let paths = document["paths"].as_object().expect("paths");
        let mut looked = 0;
        for (path, operations) in paths {
            if WITHOUT.iter().any(|(without, _)| without == path) {
                continue;
            }
            for (method, operation) in operations.as_object().expect("operations") {
                let content = &operation["responses"]["200"]["content"];
                let mut schema = &content["application/json"]["schema"];
                if let Some(name) = schema["$ref"].as_str() {
                    let at = name.strip_prefix('#').expect("in this document");
                    schema = document.pointer(at).expect("a schema");
                }
                let says = schema.as_object().is_some_and(|schema| !schema.is_empty());
                assert!(says, "{method} {path}: {content}");
                looked += 1;
            }
        }
        assert!(looked > 100, "{looked}");
    }
}
