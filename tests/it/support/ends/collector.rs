//! An OpenTelemetry collector that takes OTLP over HTTP and keeps the spans.

use std::collections::BTreeMap;

use serde_json::Value;

use super::web::Web;

/// A span as it came.
#[derive(Debug, Clone)]
pub struct Span {
    pub trace: String,
    pub id: String,
    /// Empty for the first of a trace.
    pub parent: String,
    pub name: String,
    pub kind: u64,
    pub failed: bool,
    /// Trace and span of its links.
    pub links: Vec<(String, String)>,
    /// Its own attributes, and those of what it came from.
    pub attributes: BTreeMap<String, String>,
}

impl Span {
    /// An attribute; empty where there is none.
    pub fn of(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

/// Starts one.
pub async fn start() -> Web {
    Web::start(200, |_| "{}".to_owned()).await
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn pairs(of: &Value) -> impl Iterator<Item = (String, String)> {
    list(&of["attributes"]).iter().map(|pair| {
        let value = pair["value"].as_object().expect("a value");
        let value = value.values().next().map(text).expect("one value");
        (text(&pair["key"]), value)
    })
}

/// Every span of requests that were answered well.
pub fn spans(web: &Web) -> Vec<Span> {
    let mut spans = Vec::new();
    for request in web.seen() {
        assert_eq!(request.path, "/v1/traces");
        assert_eq!(request.header("content-type"), "application/json");
        let body: Value = serde_json::from_str(&request.body).expect("JSON");
        for of_resource in list(&body["resourceSpans"]) {
            let resource: BTreeMap<String, String> = pairs(&of_resource["resource"]).collect();
            let scopes = list(&of_resource["scopeSpans"]).iter();
            for span in scopes.flat_map(|scope| list(&scope["spans"])) {
                let mut attributes = resource.clone();
                attributes.extend(pairs(span));
                let link = |link: &Value| (text(&link["traceId"]), text(&link["spanId"]));
                spans.push(Span {
                    trace: text(&span["traceId"]),
                    id: text(&span["spanId"]),
                    parent: text(&span["parentSpanId"]),
                    name: text(&span["name"]),
                    kind: span["kind"].as_u64().expect("a number"),
                    failed: span["status"]["code"] == 2,
                    links: list(&span["links"]).iter().map(link).collect(),
                    attributes,
                });
            }
        }
    }
    spans
}
