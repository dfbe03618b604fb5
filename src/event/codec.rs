//! Bytes to events and back: JSON and CBOR, the size limit, and every rule that a foreign event must keep (DESIGN 5,
//! DOMAIN 3.4). Any bytes give an event or a [`DecodeError`] that names the field.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::catalogue::{EventType, Known, Version, lookup};
use super::envelope::Event;
use super::lists::{DeadReason, Source};
use super::subject::Subject;
use super::types::{Id, Key, Site, Ts};

/// An event's encoded size at the most, bytes (DOMAIN 3.1).
pub const EVENT_BYTES_MAX: usize = 256 * 1024;

/// Lists and objects inside each other at the most: serde_json's own limit, for CBOR too, so that an event that was read
/// in one encoding can be passed on in the other. No real event comes near; a hostile body could exhaust the stack.
const NESTING_MAX: usize = 127;

/// How events are written; readers take both.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// RFC 8259.
    #[default]
    Json,
    /// RFC 8949, the same map.
    Cbor,
}

impl Codec {
    /// `Content-Type` of a message so encoded.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Cbor => "application/cbor",
        }
    }
}

/// Why an event can't be written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EncodeError {
    /// Over [`EVENT_BYTES_MAX`].
    #[error("the event has {0} bytes, {EVENT_BYTES_MAX} are allowed")]
    TooLarge(usize),
    /// The encoder gave up.
    #[error("the event can't be encoded: {0}")]
    Encoder(String),
}

/// Why bytes are no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A field is missing, malformed or contradicts another.
    #[error("{field}: {message}")]
    Invalid {
        /// Path of the field, `detail.incidentId`; `body` and `subject` for the whole.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// A major version that this build does not read.
    #[error("detail.version: {detail_type} {found} can't be read, the newest known is {known}")]
    UnsupportedVersion {
        /// The detail-type.
        detail_type: String,
        /// The event's version.
        found: String,
        /// Our newest.
        known: &'static str,
    },
}

impl DecodeError {
    /// The reason for a dead letter.
    #[must_use]
    pub fn reason(&self) -> DeadReason {
        match self {
            Self::Invalid { .. } => DeadReason::InvalidEvent,
            Self::UnsupportedVersion { .. } => DeadReason::UnsupportedVersion,
        }
    }

    /// The offending field.
    #[must_use]
    pub fn field(&self) -> &str {
        match self {
            Self::Invalid { field, .. } => field,
            Self::UnsupportedVersion { .. } => "detail.version",
        }
    }

    fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            message: message.into(),
        }
    }
}

/// The envelope as it is written.
#[derive(Serialize)]
struct Wire<'a> {
    id: &'a Id,
    source: Source,
    #[serde(rename = "detail-type")]
    detail_type: &'a str,
    time: Ts,
    site: &'a Site,
    #[serde(skip_serializing_if = "Option::is_none")]
    home: Option<&'a Site>,
    resources: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation: Option<&'a Id>,
    detail: &'a Map<String, Value>,
    #[serde(flatten)]
    extra: &'a Map<String, Value>,
}

impl<'a> Wire<'a> {
    fn of(event: &'a Event) -> Self {
        Self {
            id: &event.id,
            source: event.source,
            detail_type: &event.detail_type,
            time: event.time,
            site: &event.site,
            home: event.home.as_ref(),
            resources: &event.resources,
            cause: event.cause.as_ref(),
            correlation: event.correlation.as_ref(),
            detail: &event.detail,
            extra: &event.extra,
        }
    }
}

/// Writes an event.
///
/// # Errors
/// [`EncodeError::TooLarge`] over the limit.
pub fn encode(event: &Event, codec: Codec) -> Result<Vec<u8>, EncodeError> {
    let wire = Wire::of(event);
    let bytes = match codec {
        Codec::Json => {
            serde_json::to_vec(&wire).map_err(|error| EncodeError::Encoder(error.to_string()))?
        }
        Codec::Cbor => {
            let mut bytes = Vec::with_capacity(512);
            ciborium::into_writer(&wire, &mut bytes)
                .map_err(|error| EncodeError::Encoder(error.to_string()))?;
            bytes
        }
    };
    if bytes.len() > EVENT_BYTES_MAX {
        return Err(EncodeError::TooLarge(bytes.len()));
    }
    Ok(bytes)
}

/// The event as a JSON value, for people and tools.
#[must_use]
pub fn to_value(event: &Event) -> Value {
    serde_json::to_value(Wire::of(event)).unwrap_or(Value::Null)
}

/// Reads an event that arrived under `subject`. Without a content type it is taken for JSON.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode(
    subject: &str,
    content_type: Option<&str>,
    body: &[u8],
) -> Result<Event, DecodeError> {
    if body.len() > EVENT_BYTES_MAX {
        let message = format!("has {} bytes, {EVENT_BYTES_MAX} are allowed", body.len());
        return Err(DecodeError::invalid("body", message));
    }
    let subject: Subject = subject
        .parse()
        .map_err(|error| DecodeError::invalid("subject", format!("{error}")))?;
    let mut envelope = parse(content_type, body)?;
    let event = read_envelope(&mut envelope, &subject)?;
    check_against_subject(&event, &subject)?;
    Ok(event)
}

/// Reads an event that came as a JSON value, under the rules that hold for bytes.
///
/// # Errors
/// See [`DecodeError`].
pub fn from_value(subject: &str, value: &Value) -> Result<Event, DecodeError> {
    let subject: Subject = subject
        .parse()
        .map_err(|error| DecodeError::invalid("subject", format!("{error}")))?;
    let Value::Object(mut envelope) = value.clone() else {
        return Err(DecodeError::invalid("body", "is not an object"));
    };
    let event = read_envelope(&mut envelope, &subject)?;
    check_against_subject(&event, &subject)?;
    Ok(event)
}

/// The map that bytes hold, whether or not it is an event. Without a content type it is taken for JSON.
///
/// # Errors
/// [`DecodeError`] for `body` or `Content-Type`.
pub fn parse(content_type: Option<&str>, body: &[u8]) -> Result<Map<String, Value>, DecodeError> {
    let invalid = |message: String| DecodeError::invalid("body", message);
    let value: Value = match content_type.map(|text| text.split(';').next().unwrap_or(text).trim())
    {
        None | Some("application/json") => serde_json::from_slice(body)
            .map_err(|error| invalid(format!("is not JSON: {error}")))?,
        Some("application/cbor") => {
            read_cbor(body).map_err(|error| invalid(format!("is not CBOR: {error}")))?
        }
        Some(other) => {
            let shown: String = other.chars().take(64).collect();
            return Err(DecodeError::invalid(
                "Content-Type",
                format!("'{shown}' is neither application/json nor application/cbor"),
            ));
        }
    };
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(invalid("is not an object".to_owned())),
    }
}

/// One CBOR item and nothing behind it. NaN and the infinities, which JSON does not have, become null: an optional number
/// is then absent, any other is refused.
fn read_cbor(body: &[u8]) -> Result<Value, String> {
    let mut rest = body;
    let value = ciborium::de::from_reader_with_recursion_limit(&mut rest, NESTING_MAX)
        .map_err(|error| error.to_string())?;
    match rest.len() {
        0 => Ok(value),
        more => Err(format!("{more} bytes stand behind the end")),
    }
}

fn read_envelope(map: &mut Map<String, Value>, subject: &Subject) -> Result<Event, DecodeError> {
    let id: Id = take(map, "id")?;
    let source: Source = take(map, "source")?;
    let detail_type: String = take(map, "detail-type")?;
    let time: Ts = take(map, "time")?;
    let site: Option<Site> = take_optional(map, "site")?;
    let home: Option<Site> = take_optional(map, "home")?;
    let resources: Option<Vec<String>> = take_optional(map, "resources")?;
    let cause: Option<Id> = take_optional(map, "cause")?;
    let correlation: Option<Id> = take_optional(map, "correlation")?;
    let detail = match map.remove("detail") {
        Some(Value::Object(detail)) => Value::Object(detail),
        Some(_) => return Err(DecodeError::invalid("detail", "is not an object")),
        None => return Err(DecodeError::invalid("detail", "is missing")),
    };
    check_base(&detail, id, time)?;
    let row = lookup(&detail_type);
    let known = row.map(|row| read_known(row, &detail)).transpose()?;
    let entity = match &known {
        Some(known) => known.entity(),
        None => subject.entity.clone(),
    };
    if let Some(row) = row
        && entity != subject.entity
    {
        let message = format!("is '{entity}', but the subject says '{}'", subject.entity);
        return Err(DecodeError::invalid(
            format!("detail.{}", row.entity_field),
            message,
        ));
    }
    let Value::Object(detail) = detail else {
        return Err(DecodeError::invalid("detail", "is not an object"));
    };
    Ok(Event {
        id,
        source,
        detail_type,
        time,
        site: site.unwrap_or_else(|| subject.site.clone()),
        home,
        resources: resources.unwrap_or_default(),
        cause,
        correlation,
        detail,
        extra: std::mem::take(map),
        entity,
        known,
    })
}

fn check_base(detail: &Value, id: Id, time: Ts) -> Result<(), DecodeError> {
    let event_id: Id = field_of(detail, "eventId")?;
    if event_id != id {
        return Err(DecodeError::invalid("detail.eventId", "differs from id"));
    }
    let timestamp: Ts = field_of(detail, "timestamp")?;
    if timestamp != time {
        return Err(DecodeError::invalid(
            "detail.timestamp",
            "differs from time",
        ));
    }
    match detail.get("metadata") {
        None => Ok(()),
        Some(Value::Object(map)) => map.iter().try_for_each(|(name, value)| match value {
            Value::String(_) => Ok(()),
            _ => Err(DecodeError::invalid(
                format!("detail.metadata.{name}"),
                "is not a text",
            )),
        }),
        Some(_) => Err(DecodeError::invalid("detail.metadata", "is not an object")),
    }
}

fn field_of<T: for<'de> Deserialize<'de>>(detail: &Value, name: &str) -> Result<T, DecodeError> {
    let path = format!("detail.{name}");
    let value = detail
        .get(name)
        .ok_or_else(|| DecodeError::invalid(&path, "is missing"))?;
    T::deserialize(value).map_err(|error| DecodeError::invalid(path, error.to_string()))
}

fn read_known(row: &'static EventType, detail: &Value) -> Result<Known, DecodeError> {
    let version: String = field_of(detail, "version")?;
    (readable(row, &version)?.parse)(detail).map_err(|error| {
        let path = error.path().to_string();
        let text = error.inner().to_string();
        // serde names a missing field only in its sentence: "missing field `x`".
        match text
            .strip_prefix("missing field `")
            .and_then(|rest| rest.split('`').next())
        {
            Some(field) if path == "." => {
                DecodeError::invalid(format!("detail.{field}"), "is missing")
            }
            Some(field) => DecodeError::invalid(format!("detail.{path}.{field}"), "is missing"),
            None if path == "." => DecodeError::invalid("detail", text),
            None => DecodeError::invalid(format!("detail.{path}"), text),
        }
    })
}

/// How an event of this version is read: as the version of the catalogue that has its major number (DOMAIN 3.4).
fn readable(row: &'static EventType, version: &str) -> Result<&'static Version, DecodeError> {
    let number = |text: &str| {
        let digits = (1..=9).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        let plain = digits && (text == "0" || !text.starts_with('0'));
        plain.then(|| text.parse::<u32>().ok()).flatten()
    };
    let parts = version
        .split_once('.')
        .and_then(|(major, minor)| Some((number(major)?, number(minor)?)));
    let Some((major, _)) = parts else {
        return Err(DecodeError::invalid(
            "detail.version",
            "is not of the form major.minor",
        ));
    };
    row.of_major(major)
        .ok_or_else(|| DecodeError::UnsupportedVersion {
            detail_type: row.detail_type.to_owned(),
            found: version.to_owned(),
            known: row.newest(),
        })
}

fn check_against_subject(event: &Event, subject: &Subject) -> Result<(), DecodeError> {
    if event.source != subject.source {
        let message = format!(
            "is {}, but the subject says {}",
            event.source, subject.source
        );
        return Err(DecodeError::invalid("source", message));
    }
    if event.detail_type != subject.detail_type {
        let message = format!("differs from the subject's {}", subject.detail_type);
        return Err(DecodeError::invalid("detail-type", message));
    }
    if event.site != subject.site {
        return Err(DecodeError::invalid(
            "site",
            format!("is {}, but the subject says {}", event.site, subject.site),
        ));
    }
    if let Some(row) = lookup(&event.detail_type)
        && row.source != event.source
    {
        return Err(DecodeError::invalid(
            "source",
            format!("{} comes from {}", event.detail_type, row.source),
        ));
    }
    Ok(())
}

fn take<T: for<'de> Deserialize<'de>>(
    map: &mut Map<String, Value>,
    name: &str,
) -> Result<T, DecodeError> {
    take_optional(map, name)?.ok_or_else(|| DecodeError::invalid(name, "is missing"))
}

fn take_optional<T: for<'de> Deserialize<'de>>(
    map: &mut Map<String, Value>,
    name: &str,
) -> Result<Option<T>, DecodeError> {
    let Some(value) = map.remove(name) else {
        return Ok(None);
    };
    T::deserialize(value)
        .map(Some)
        .map_err(|error| DecodeError::invalid(name, error.to_string()))
}

/// Checks a detail against its type, as raw publishing does. The base fields must be there.
///
/// # Errors
/// See [`DecodeError`]; an unknown detail-type is an error here.
pub fn validate(
    detail_type: &str,
    detail: &Map<String, Value>,
) -> Result<(Source, Key), DecodeError> {
    let row = lookup(detail_type).ok_or_else(|| {
        DecodeError::invalid("detail-type", format!("no event is named '{detail_type}'"))
    })?;
    let known = read_known(row, &Value::Object(detail.clone()))?;
    Ok((row.source, known.entity()))
}

/// Id, source and detail-type as far as they can be read from a body that is no event; each at most 64 characters.
#[must_use]
pub fn best_effort_id(body: &[u8]) -> (String, String, String) {
    let value: Value = serde_json::from_slice(body)
        .or_else(|_| read_cbor(body))
        .unwrap_or(Value::Null);
    let read = |name: &str| {
        let text = value.get(name).and_then(Value::as_str).unwrap_or("unknown");
        text.chars()
            .filter(|c| !c.is_control())
            .take(64)
            .collect::<String>()
    };
    (read("id"), read("source"), read("detail-type"))
}
