//! Spans as OTLP/JSON: ids in hexadecimal, 64-bit numbers as texts, enumerations as numbers (OTLP 1.x).

use std::collections::BTreeMap;

use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};

use super::Batch;
use super::span::{Attribute, Span, Value};
use crate::config::Config;
use crate::event::trace::TraceContext;

/// What all spans of a process have in common.
#[derive(Debug)]
pub(super) struct Resource {
    site: String,
    profile: &'static str,
}

impl Resource {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            site: config.site.id.clone(),
            profile: config.site.profile.as_str(),
        }
    }

    /// Each role is a service of its own: that is how a trace shows who did what.
    fn attributes(&self, role: &str) -> Vec<Attribute> {
        vec![
            ("service.name", format!("roadcall-{role}").into()),
            ("service.namespace", "roadcall".into()),
            ("service.version", env!("CARGO_PKG_VERSION").into()),
            ("deployment.environment.name", self.profile.into()),
            ("roadcall.site", self.site.clone().into()),
            ("roadcall.role", role.to_owned().into()),
        ]
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    resource_spans: Vec<OfResource<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OfResource<'a> {
    resource: Attributes,
    scope_spans: [OfScope<'a>; 1],
}

#[derive(Serialize)]
struct Attributes {
    #[serde(serialize_with = "pairs")]
    attributes: Vec<Attribute>,
}

#[derive(Serialize)]
struct OfScope<'a> {
    scope: Scope,
    spans: Vec<Written<'a>>,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    trace_id: String,
    span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<String>,
    flags: u32,
    name: &'a str,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    #[serde(serialize_with = "pairs")]
    attributes: &'a [Attribute],
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<[Link; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Link {
    trace_id: String,
    span_id: String,
    flags: u32,
}

#[derive(Serialize)]
struct Status {
    code: u8,
}

fn pairs<S: Serializer>(
    attributes: &impl AsRef<[Attribute]>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    enum Tagged<'a> {
        StringValue(&'a str),
        IntValue(String),
    }
    #[derive(Serialize)]
    struct Pair<'a> {
        key: &'a str,
        value: Tagged<'a>,
    }
    let attributes = attributes.as_ref();
    let mut list = serializer.serialize_seq(Some(attributes.len()))?;
    for (key, value) in attributes {
        let value = match value {
            Value::Text(text) => Tagged::StringValue(text),
            Value::Number(number) => Tagged::IntValue(number.to_string()),
        };
        list.serialize_element(&Pair { key, value })?;
    }
    list.end()
}

fn written(span: &Span) -> Written<'_> {
    let (trace_id, span_id, flags) = place(span.at);
    Written {
        trace_id,
        span_id,
        parent_span_id: span.parent.map(|parent| format!("{parent:016x}")),
        flags,
        name: &span.name,
        kind: span.kind as u8,
        start_time_unix_nano: span.start_ns.to_string(),
        end_time_unix_nano: span.end_ns.max(span.start_ns).to_string(),
        attributes: &span.attributes,
        links: span.link.map(|link| {
            let (trace_id, span_id, flags) = place(link);
            [Link {
                trace_id,
                span_id,
                flags,
            }]
        }),
        status: span.error.is_some().then_some(Status { code: 2 }),
    }
}

fn place(at: TraceContext) -> (String, String, u32) {
    let (trace, span) = (at.trace, at.span);
    let flags = u32::from(at.sampled);
    (format!("{trace:032x}"), format!("{span:016x}"), flags)
}

/// The body of a request.
pub(super) fn encode(resource: &Resource, batches: &[Batch]) -> Vec<u8> {
    let mut by_role: BTreeMap<&str, Vec<Written<'_>>> = BTreeMap::new();
    for batch in batches {
        let spans = by_role.entry(batch.role.as_str()).or_default();
        spans.extend(batch.spans.iter().map(written));
    }
    let of_role = |(role, spans)| OfResource {
        resource: Attributes {
            attributes: resource.attributes(role),
        },
        scope_spans: [OfScope {
            scope: Scope {
                name: "roadcall",
                version: env!("CARGO_PKG_VERSION"),
            },
            spans,
        }],
    };
    let request = Request {
        resource_spans: by_role.into_iter().map(of_role).collect(),
    };
    // Texts and numbers always serialise; an empty request is the honest fallback.
    serde_json::to_vec(&request).unwrap_or_else(|_| b"{}".to_vec())
}
