//! The least that a service written by hand would do in SQLite for each event: for `roadcall bench` to compare itself
//! with. The same rows as the engine's (inbox, state, outbox), the same group commit, and nothing else.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use super::Error;

/// A database of a hand-written loop.
#[derive(Debug)]
pub struct RawStore {
    connection: Connection,
    path: PathBuf,
}

/// What a hand-written loop writes for one event.
#[derive(Debug)]
pub struct RawRow<'a> {
    /// The event's id.
    pub msg_id: &'a str,
    /// Its sequence.
    pub seq: u64,
    /// Whose state changes.
    pub entity: &'a str,
    /// Subject, id and body of the follow-up.
    pub follow_up: (&'a str, &'a str, &'a [u8]),
}

impl RawStore {
    /// Opens a new database at `path`, as durable as the engine's.
    ///
    /// # Errors
    /// A store error.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let fail = |error: rusqlite::Error| Error::sqlite("opening", path, &error);
        let connection = Connection::open(path).map_err(fail)?;
        super::configure(&connection, super::Synchronous::Full).map_err(fail)?;
        connection
            .execute_batch(
                "CREATE TABLE inbox (event_id TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
                 CREATE TABLE state (entity TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
                 CREATE TABLE outbox (n INTEGER PRIMARY KEY, msg_id TEXT NOT NULL, subject TEXT NOT NULL, body BLOB NOT NULL);",
            )
            .map_err(fail)?;
        Ok(Self {
            connection,
            path: path.to_owned(),
        })
    }

    /// Commits a batch, and forgets the first `published` rows of the outbox. Events that were seen before are skipped.
    ///
    /// # Errors
    /// A store error.
    pub fn commit(&mut self, rows: &[RawRow<'_>], published: u64) -> Result<(), Error> {
        let write = |connection: &Connection| -> rusqlite::Result<()> {
            connection.execute_batch("BEGIN IMMEDIATE")?;
            connection
                .prepare_cached("DELETE FROM outbox WHERE n <= ?1")?
                .execute(params![published as i64])?;
            for row in rows {
                let new = connection
                    .prepare_cached(
                        "INSERT INTO inbox (event_id, seq) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                    )?
                    .execute(params![row.msg_id, row.seq as i64])?;
                if new == 0 {
                    continue;
                }
                connection
                    .prepare_cached("INSERT INTO state (entity, n) VALUES (?1, 1) ON CONFLICT DO UPDATE SET n = n + 1")?
                    .execute(params![row.entity])?;
                let (subject, msg_id, body) = row.follow_up;
                connection
                    .prepare_cached(
                        "INSERT INTO outbox (msg_id, subject, body) VALUES (?1, ?2, ?3)",
                    )?
                    .execute(params![msg_id, subject, body])?;
            }
            connection.execute_batch("COMMIT")
        };
        write(&self.connection).map_err(|error| Error::sqlite("committing", &self.path, &error))
    }
}

/// Puts `rows` outcomes of events long past into the inbox of the database at `path`, with ids that grow with time as
/// real ones do.
///
/// # Errors
/// A store error.
pub fn fill_inbox(path: &Path, rows: u64) -> Result<(), Error> {
    let fail = |error: rusqlite::Error| Error::sqlite("filling the inbox", path, &error);
    let connection = Connection::open(path).map_err(fail)?;
    connection
        .execute(
            "INSERT INTO inbox (event_id, outcome, stream_id, stream_seq, at_ms)
             SELECT unhex(format('%012x', 1600000000000 + value)) || randomblob(10), 0, 0, value, 1600000000000 + value
             FROM (WITH RECURSIVE series(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM series WHERE value < ?1)
                   SELECT value FROM series)
             WHERE ?1 > 0",
            params![rows as i64],
        )
        .map_err(fail)?;
    Ok(())
}
