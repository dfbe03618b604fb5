//! The tables that every role has, as numbered migrations, and how a database is brought up to date.

use std::path::Path;

use rusqlite::Connection;

use super::error::{Class, Error};

/// The engine's own tables. A published migration never changes; a new one is appended.
pub(super) const ENGINE: &[&str] = &["
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- One row per event that reached an outcome. Ids grow with time, so new rows land on the same few pages.
CREATE TABLE inbox (
    event_id BLOB PRIMARY KEY,
    outcome INTEGER NOT NULL,
    stream_id INTEGER NOT NULL,
    stream_seq INTEGER NOT NULL,
    at_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX inbox_dead ON inbox (stream_seq) WHERE outcome = 2;

CREATE TABLE outbox (
    n INTEGER PRIMARY KEY,
    msg_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    headers TEXT NOT NULL,
    body BLOB NOT NULL,
    expected_last_subject_seq INTEGER,
    created_at_ms INTEGER NOT NULL
);

-- Which outbox rows are in a stream, as runs in which n and stream_seq grow together: one row per atomic batch instead
-- of an update per message.
CREATE TABLE published (
    first_n INTEGER PRIMARY KEY,
    last_n INTEGER NOT NULL,
    stream TEXT NOT NULL,
    stream_id INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    server_id TEXT NOT NULL,
    at_ms INTEGER NOT NULL
);

CREATE TABLE waiting (
    id INTEGER PRIMARY KEY,
    event_id BLOB NOT NULL UNIQUE,
    stream_id INTEGER NOT NULL,
    stream_seq INTEGER NOT NULL,
    entity TEXT NOT NULL,
    state INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    starts INTEGER NOT NULL,
    deaths INTEGER NOT NULL,
    running INTEGER NOT NULL,
    due_at_ms INTEGER,
    not_yet_until_ms INTEGER,
    first_seen_at_ms INTEGER NOT NULL,
    received_at_ms INTEGER NOT NULL,
    subject TEXT NOT NULL,
    headers TEXT NOT NULL,
    body BLOB NOT NULL,
    errors TEXT NOT NULL
);
CREATE INDEX waiting_entity ON waiting (entity, stream_seq);
CREATE INDEX waiting_due ON waiting (due_at_ms) WHERE due_at_ms IS NOT NULL;

CREATE TABLE timer (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    due_at_ms INTEGER NOT NULL,
    retry_at_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    payload TEXT NOT NULL,
    origin TEXT NOT NULL,
    PRIMARY KEY (kind, key)
) WITHOUT ROWID;
CREATE INDEX timer_due ON timer (retry_at_ms);

CREATE TABLE effect (
    key TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    class INTEGER NOT NULL,
    request TEXT NOT NULL,
    origin TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    -- A result that the role could not handle yet, and when it is tried again.
    outcome TEXT,
    due_at_ms INTEGER
) WITHOUT ROWID;
CREATE INDEX effect_due ON effect (due_at_ms) WHERE due_at_ms IS NOT NULL;

-- Replies of state-changing commands, so that a retry under the same clientRequestId gets the first answer.
CREATE TABLE reply (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    at_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX reply_at ON reply (at_ms);

CREATE TABLE replay (
    name TEXT PRIMARY KEY,
    state INTEGER NOT NULL,
    from_seq INTEGER NOT NULL,
    to_seq INTEGER NOT NULL,
    next_seq INTEGER NOT NULL,
    handled INTEGER NOT NULL,
    duplicates INTEGER NOT NULL,
    filtered INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    started_at_ms INTEGER NOT NULL,
    ended_at_ms INTEGER,
    error TEXT
) WITHOUT ROWID;

CREATE TABLE entity_sequence (entity TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
",
    "
-- Of a restored database: events of its own that the archive has from the life before (see `catch_up`).
CREATE TABLE archived (
    event_id BLOB PRIMARY KEY,
    stream_seq INTEGER NOT NULL,
    entity TEXT NOT NULL,
    n INTEGER NOT NULL,
    again INTEGER NOT NULL
) WITHOUT ROWID;
",
    "
-- Incidents of other sites for which this role made something (see `home`).
CREATE TABLE home (incident_id TEXT PRIMARY KEY, site TEXT NOT NULL) WITHOUT ROWID;
"];

/// The engine's own migrations, oldest first, for whoever checks that published ones stay as they are.
#[must_use]
pub fn engine_migrations() -> &'static [&'static str] {
    ENGINE
}

/// `user_version` = engine migrations applied x 1000 + role migrations applied.
const ENGINE_UNIT: usize = 1000;

/// Brings the database up to date, one transaction per migration.
///
/// # Errors
/// [`Class::NewerSchema`] when a newer Roadcall wrote the file; a failure to read the version is an error, never taken
/// for an empty database.
pub(super) fn migrate(connection: &Connection, path: &Path, role: &[&str]) -> Result<(), Error> {
    let (engine_done, role_done) = done(connection, path, role)?;
    let steps = (engine_done..ENGINE.len())
        .map(|done| (ENGINE[done], (done + 1) * ENGINE_UNIT + role_done))
        .chain(
            (role_done..role.len()).map(|done| (role[done], ENGINE.len() * ENGINE_UNIT + done + 1)),
        );
    for (sql, version_after) in steps {
        connection
            .execute_batch(&format!(
                "BEGIN IMMEDIATE; {sql}; PRAGMA user_version = {version_after}; COMMIT;"
            ))
            .map_err(|error| {
                // Leaves the connection usable for the message that follows; the error that counts is the first.
                let _ = connection.execute_batch("ROLLBACK");
                Error::sqlite("migrating the schema", path, &error)
            })?;
    }
    Ok(())
}

/// How many migrations of the engine and of the role the database has.
///
/// # Errors
/// [`Class::NewerSchema`] when that is more than this build knows.
pub(super) fn done(
    connection: &Connection,
    path: &Path,
    role: &[&str],
) -> Result<(usize, usize), Error> {
    let (engine_done, role_done) = version(connection, path)?;
    if engine_done > ENGINE.len() || role_done > role.len() {
        return Err(Error::new(
            Class::NewerSchema,
            "opening the database",
            path,
            format!(
                "its schema {engine_done}.{role_done} is newer than {}.{}, the newest this build knows",
                ENGINE.len(),
                role.len()
            ),
        ));
    }
    Ok((engine_done, role_done))
}

/// How many migrations of the engine and of the role the database says that it has.
///
/// # Errors
/// It does not say.
pub(super) fn version(connection: &Connection, path: &Path) -> Result<(usize, usize), Error> {
    let fail = |op| move |error: rusqlite::Error| Error::sqlite(op, path, &error);
    let version: usize = connection
        .pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))
        .map_err(fail("reading the schema version"))?
        .try_into()
        .map_err(|_| {
            Error::new(
                Class::Corrupt,
                "reading the schema version",
                path,
                "it is negative",
            )
        })?;
    Ok((version / ENGINE_UNIT, version % ENGINE_UNIT))
}
