//! The event log's lines (DOMAIN 5.12, 4.3): one per event and one per command that changed something, written down in the
//! transaction that handles it. A role touches no files: `node::eventlog` carries the lines to them, in the order of their
//! numbers.
//!
//! No personal value and nothing sensitive gets into a line. What is personal the types say; a detail-type that this build
//! does not know is logged without its fields.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::event::{Actor, Event, Id, MASK, Site, Source, Ts};
use crate::role::{Command, HandlerError, Rejection, listing};
use crate::store::{Error, Tx, params};

/// The lines, numbered; a number is never given out again, for the files go by it.
pub(super) const MIGRATION: &str = "
CREATE TABLE log_line (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    at_ms INTEGER NOT NULL,
    time_ms INTEGER NOT NULL,
    source TEXT NOT NULL,
    type TEXT NOT NULL,
    entity TEXT NOT NULL,
    correlation TEXT,
    line TEXT NOT NULL
);
CREATE INDEX log_line_time ON log_line (time_ms, id);
CREATE INDEX log_line_entity ON log_line (entity, time_ms);
";

/// Fields of class S (DOMAIN 3.2): plain in the event, never in a log line. `location` is a vendor's position or masked as
/// personal anyway.
const SENSITIVE: [&str; 6] = [
    "location",
    "vendorLocation",
    "providerReference",
    "recordingRef",
    "actionItems",
    "error",
];
/// Rows past their time that one line clears away: more than one, so that they never pile up.
const CLEARED: i64 = 4;

/// Logs an event, once however often it is handled.
pub(super) fn event(tx: &mut Tx<'_>, event: &Event, keep: Duration) -> Result<(), Error> {
    let mut detail = match event.known().map(crate::event::Known::masked) {
        Some(Value::Object(detail)) => detail,
        _ => Map::new(),
    };
    for name in SENSITIVE {
        if let Some(value) = detail.get_mut(name) {
            *value = MASK.into();
        }
    }
    let line = LogLine {
        kind: LineKind::Event,
        event_id: event.id,
        time: event.time,
        logged_at: tx.now(),
        site: event.site.clone(),
        source: event.source.to_string(),
        detail_type: event.detail_type.clone(),
        entity: event.entity().to_string(),
        correlation_id: event.correlation,
        cause: event.cause,
        detail: Some(detail),
        actor: None,
        operator: None,
    };
    write(tx, &line, keep)
}

/// Logs a command of this role that changed something: who, what about, and who sat at the machine.
pub(super) fn command(
    tx: &mut Tx<'_>,
    command: &Command,
    subject: &str,
    keep: Duration,
) -> Result<(), Error> {
    let now = tx.now();
    let line = LogLine {
        kind: LineKind::Command,
        event_id: command.id,
        time: now,
        logged_at: now,
        site: tx.site().clone(),
        source: Source::Ops.to_string(),
        detail_type: command.name.clone(),
        entity: subject.to_owned(),
        correlation_id: None,
        cause: None,
        detail: None,
        actor: Some(command.actor().clone()),
        operator: command.caller.operator.clone(),
    };
    write(tx, &line, keep)
}

/// What a line is about.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum LineKind {
    Event,
    Command,
}

/// A line of the log.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct LogLine {
    kind: LineKind,
    /// The event's id, or the command's.
    event_id: Id,
    time: Ts,
    logged_at: Ts,
    site: Site,
    source: String,
    /// The event's detail-type, or the command's name.
    #[serde(rename = "type")]
    detail_type: String,
    entity: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<Id>,
    /// What the event says, masked; empty for a type that this build does not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Map<String, Value>>,
    /// Who gave the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<Actor>,
    /// The person at the machine who acted as him.
    #[serde(skip_serializing_if = "Option::is_none")]
    operator: Option<String>,
}

fn write(tx: &mut Tx<'_>, line: &LogLine, keep: Duration) -> Result<(), Error> {
    let (now_ms, text) = (tx.now().ms(), tx.text(line)?);
    let new = tx.execute(
        "INSERT INTO log_line (id, at_ms, time_ms, source, type, entity, correlation, line)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (id) DO NOTHING",
        params![
            line.event_id.to_string(),
            now_ms,
            line.time.ms(),
            line.source,
            line.detail_type,
            line.entity,
            line.correlation_id.map(|id| id.to_string()),
            text
        ],
    )?;
    if new > 0 {
        let before_ms = now_ms - i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
        tx.execute(
            "DELETE FROM log_line WHERE n IN (SELECT n FROM log_line ORDER BY n LIMIT ?1) AND at_ms < ?2",
            params![CLEARED, before_ms],
        )?;
    }
    Ok(())
}

/// `audit.search`: the log as far back as the archive can bring its events again; the files go further.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Search {
    entity: Option<String>,
    #[serde(rename = "type")]
    detail_type: Option<String>,
    source: Option<String>,
    correlation_id: Option<String>,
    since: Option<Ts>,
    until: Option<Ts>,
    limit: Option<u64>,
    cursor: Option<String>,
}

/// Answers a page, newest first. `since` belongs to the span, `until` does not.
pub(super) fn search(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let search: Search = command.parse()?;
    if let (Some(since), Some(until)) = (search.since, search.until)
        && since >= until
    {
        return Err(Rejection::field("until", "is not behind since").into());
    }
    let limit = listing::limit(search.limit)?;
    let (before_ms, before_id) = listing::cursor(search.cursor.as_deref())?;
    let lines: Vec<LogLine> = tx.documents(
        "SELECT line FROM log_line
         WHERE (?1 IS NULL OR entity = ?1) AND (?2 IS NULL OR type = ?2) AND (?3 IS NULL OR source = ?3)
           AND (?4 IS NULL OR correlation = ?4) AND (?5 IS NULL OR time_ms >= ?5) AND (?6 IS NULL OR time_ms < ?6)
           AND (time_ms < ?7 OR (time_ms = ?7 AND id < ?8))
         ORDER BY time_ms DESC, id DESC LIMIT ?9",
        params![
            search.entity,
            search.detail_type,
            search.source,
            search.correlation_id,
            search.since.map(Ts::ms),
            search.until.map(Ts::ms),
            before_ms,
            before_id,
            limit as i64
        ],
    )?;
    let full = lines.len() as u64 == limit;
    let last = lines.last().filter(|_| full);
    let cursor = last.map(|line| listing::next(line.time.ms(), &line.event_id.to_string()));
    tx.reply(&listing::page(&lines, cursor)).map_err(Into::into)
}
