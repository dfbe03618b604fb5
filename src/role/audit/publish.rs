//! `event.publish`: events of producers outside, published with the promise that a role's own have: what was accepted is in the
//! outbox. A batch succeeds entry by entry, and all that it accepts is one commit.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::event::{
    Codec, DecodeError, Event, Id, Subject, Ts, decode, ids, lookup, resources, validate,
};
use crate::role::{Code, Command, HandlerError, Rejection};
use crate::store::{Tx, params};

/// Entries in one command at the most.
const ENTRIES_MAX: usize = 1000;
/// How long an accepted event is recognised when it comes again, ms: as long as an archive of profile prod holds it (DOMAIN 4.3).
const RECOGNISED_MS: i64 = 90 * 24 * 3_600_000;
/// Rows past that time that one command clears away.
const CLEARED_MAX: i64 = 2000;

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Publish {
    entries: Vec<Value>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// An entry, in our spelling or in that of EventBridge.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(alias = "Source")]
    source: String,
    #[serde(rename = "detail-type", alias = "DetailType")]
    detail_type: String,
    /// An object, or its JSON as a text.
    #[serde(alias = "Detail")]
    detail: Value,
    #[serde(default, alias = "Resources")]
    resources: Option<Vec<String>>,
    #[serde(default, alias = "Time")]
    time: Option<Ts>,
}

/// What became of a batch.
#[derive(Serialize, JsonSchema)]
pub(super) struct Published {
    /// In the order of the batch.
    entries: Vec<PublishedEntry>,
    /// How many were refused.
    failed: usize,
}

/// What became of an entry: it has an id, or it was refused.
#[derive(Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct PublishedEntry {
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Refused>,
}

/// In the form of DOMAIN 1.3; which request it was the whole answer says.
#[derive(Serialize, JsonSchema)]
struct Refused {
    code: Code,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

pub(super) fn publish(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let publish: Publish = command.parse()?;
    if publish.entries.is_empty() {
        return Err(Rejection::field("entries", "is empty").into());
    }
    if publish.entries.len() > ENTRIES_MAX {
        let message = format!("has more than {ENTRIES_MAX}; publish them in parts");
        return Err(Rejection::field("entries", message).into());
    }
    tx.execute(
        "DELETE FROM accepted WHERE event_id IN (SELECT event_id FROM accepted WHERE at_ms < ?1 LIMIT ?2)",
        params![tx.now().ms() - RECOGNISED_MS, CLEARED_MAX],
    )?;
    let (mut entries, mut failed) = (Vec::new(), 0);
    for entry in publish.entries {
        let mut told = PublishedEntry::default();
        match accept(tx, entry) {
            Ok(event_id) => told.event_id = Some(event_id),
            Err(HandlerError::Rejected(rejection)) => {
                failed += 1;
                told.error = Some(Refused {
                    code: rejection.code,
                    message: rejection.message,
                    field: rejection.field,
                });
            }
            Err(other) => return Err(other),
        }
        entries.push(told);
    }
    tx.reply(&Published { entries, failed }).map_err(Into::into)
}

/// Publishes one entry, unless it is there already; nothing is written where it is refused.
fn accept(tx: &mut Tx<'_>, entry: Value) -> Result<Id, HandlerError> {
    let entry = parse(entry)?;
    let detail = detail(&entry)?;
    let said = said(&detail);
    let plain = digest(&entry, &said).to_string();
    // Nobody who has the rest of the event can find out by trying what was personal in it.
    let digest = digest(&entry, &tx.blind(&said)?).to_string();
    let event = event(tx, entry, detail)?;
    let known: Option<String> = tx.value(
        "SELECT digest FROM accepted WHERE event_id = ?1",
        params![event.id.to_string()],
    )?;
    match known {
        // What was accepted before there were keys stands there as it was written then.
        Some(known) if known == digest || known == plain => return Ok(event.id),
        Some(_) => {
            let message = "names an event that was published with another content";
            return Err(Rejection {
                field: Some("detail.eventId".to_owned()),
                ..Rejection::new(Code::Conflict, message)
            }
            .into());
        }
        None => {}
    }
    if let Err(error) = tx.publish(&event)? {
        return Err(Rejection::field("detail", error.to_string()).into());
    }
    tx.execute(
        "INSERT INTO accepted (event_id, digest, at_ms) VALUES (?1, ?2, ?3)",
        params![event.id.to_string(), digest, tx.now().ms()],
    )?;
    Ok(event.id)
}

fn parse(entry: Value) -> Result<Entry, Rejection> {
    serde_path_to_error::deserialize(entry).map_err(|error| {
        let (path, text) = (error.path().to_string(), error.inner().to_string());
        match path.as_str() {
            "." => Rejection::new(Code::ValidationError, text),
            _ => Rejection::field(path, text),
        }
    })
}

fn detail(entry: &Entry) -> Result<Map<String, Value>, Rejection> {
    let no_object = || Rejection::field("detail", "is not an object");
    match &entry.detail {
        Value::Object(detail) => Ok(detail.clone()),
        Value::String(text) => serde_json::from_str::<Value>(text)
            .map_err(|error| Rejection::field("detail", format!("is not JSON: {error}")))?
            .as_object()
            .cloned()
            .ok_or_else(no_object),
        _ => Err(no_object()),
    }
}

/// What an entry says, but for the time: a producer that sends again may fill in a new one.
fn said(detail: &Map<String, Value>) -> String {
    let mut said = detail.clone();
    said.remove("timestamp");
    Value::Object(said).to_string()
}

/// Stands for what an entry says.
fn digest(entry: &Entry, said: &str) -> Id {
    ids::derive_v8(
        0,
        &[b"accepted", entry.detail_type.as_bytes(), said.as_bytes()],
    )
}

/// The event of an entry, checked as every reader checks it.
fn event(
    tx: &mut Tx<'_>,
    entry: Entry,
    mut detail: Map<String, Value>,
) -> Result<Event, HandlerError> {
    let row = lookup(&entry.detail_type);
    if let Some(row) = row
        && row.source.as_str() != entry.source
    {
        let message = format!("{} comes from {}", row.detail_type, row.source);
        return Err(Rejection::field("source", message).into());
    }
    if !detail.contains_key("eventId") {
        detail.insert("eventId".to_owned(), json!(tx.new_id()));
    }
    let at = entry.time.unwrap_or_else(|| tx.now());
    let timestamp = detail
        .entry("timestamp")
        .or_insert_with(|| json!(at))
        .clone();
    let (source, entity) =
        validate(&entry.detail_type, &detail).map_err(|error| invalid(&error))?;
    let subject = Subject {
        site: tx.site().clone(),
        source,
        detail_type: entry.detail_type.clone(),
        entity,
    };
    let mut envelope = json!({
        "id": detail["eventId"], "source": source, "detail-type": entry.detail_type, "site": tx.site(),
        "time": entry.time.map_or(timestamp, |time| json!(time)),
        "resources": entry.resources.unwrap_or_else(|| resources(&detail)),
    });
    let incident = detail.get("incidentId").and_then(Value::as_str);
    if let Some(incident) = incident.and_then(|id| Id::parse(id).ok()) {
        envelope["correlation"] = json!(incident);
    }
    envelope["detail"] = Value::Object(detail);
    decode(
        &subject.to_string(),
        Some(Codec::Json.content_type()),
        envelope.to_string().as_bytes(),
    )
    .map_err(|error| invalid(&error).into())
}

/// The same sentence that a letter would have.
fn invalid(error: &DecodeError) -> Rejection {
    let message = match error {
        DecodeError::Invalid { message, .. } => message.clone(),
        DecodeError::UnsupportedVersion { .. } => error.to_string(),
    };
    let field = match error.field() {
        // The envelope has them from the detail.
        "id" => "detail.eventId",
        "time" => "detail.timestamp",
        other => other,
    };
    Rejection::field(field, message)
}
