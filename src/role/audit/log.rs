//! The event log's lines (DOMAIN 5.12, 4.3): one per event and one per command that changed something, written down in the
//! transaction that handles it. A role touches no files: `node::eventlog` carries the lines to them, in the order of their
//! numbers.
//!
//! No personal value and nothing sensitive gets into a line. What is personal the types say; a detail-type that this build
//! does not know is logged without its fields.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::event::{Event, MASK, Ts};
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
    let mut line = json!({
        "kind": "event", "eventId": event.id, "time": event.time, "loggedAt": tx.now(), "site": event.site,
        "source": event.source, "type": event.detail_type, "entity": event.entity().as_str(), "detail": detail,
    });
    if let Some(correlation) = event.correlation {
        line["correlationId"] = json!(correlation);
    }
    if let Some(cause) = event.cause {
        line["cause"] = json!(cause);
    }
    write(
        tx,
        &Line {
            id: event.id.to_string(),
            time: event.time,
            source: event.source.as_str(),
            kind: &event.detail_type,
            entity: event.entity().as_str(),
            correlation: event.correlation.map(|id| id.to_string()),
            line: line.to_string(),
        },
        keep,
    )
}

/// Logs a command of this role that changed something: who, what about, and who sat at the machine.
pub(super) fn command(
    tx: &mut Tx<'_>,
    command: &Command,
    subject: &str,
    keep: Duration,
) -> Result<(), Error> {
    let now = tx.now();
    let line = json!({
        "kind": "command", "eventId": command.id, "time": now, "loggedAt": now, "site": tx.site(),
        "source": "roadcall.ops", "type": command.name, "entity": subject, "actor": command.actor(),
        "operator": command.caller.operator,
    });
    write(
        tx,
        &Line {
            id: command.id.to_string(),
            time: now,
            source: "roadcall.ops",
            kind: &command.name,
            entity: subject,
            correlation: None,
            line: line.to_string(),
        },
        keep,
    )
}

struct Line<'a> {
    id: String,
    time: Ts,
    source: &'a str,
    kind: &'a str,
    entity: &'a str,
    correlation: Option<String>,
    line: String,
}

fn write(tx: &mut Tx<'_>, line: &Line<'_>, keep: Duration) -> Result<(), Error> {
    let now_ms = tx.now().ms();
    let new = tx.execute(
        "INSERT INTO log_line (id, at_ms, time_ms, source, type, entity, correlation, line)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (id) DO NOTHING",
        params![
            line.id,
            now_ms,
            line.time.ms(),
            line.source,
            line.kind,
            line.entity,
            line.correlation,
            line.line
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
    let lines: Vec<Value> = tx.documents(
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
    let cursor = last.and_then(|line| {
        let time: Ts = serde_json::from_value(line["time"].clone()).ok()?;
        Some(listing::next(time.ms(), line["eventId"].as_str()?))
    });
    tx.reply(&listing::page(&lines, cursor)).map_err(Into::into)
}
