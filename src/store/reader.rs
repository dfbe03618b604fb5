//! Read-only access to a role's database beside its writer: the relay, `snapshot`, and offline tools use it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, params};

use super::outbox::split_headers;
use super::{Class, Error, OutboxRow, PublishedRun};
use crate::event::Id;

/// A read-only connection. It sees every committed step and never blocks the writer (WAL).
#[derive(Debug)]
pub struct Reader {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
}

impl Reader {
    /// Opens an existing database for reading.
    ///
    /// # Errors
    /// A store error, also when the file does not exist.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let fail = |error: rusqlite::Error| {
            Error::sqlite("opening the database for reading", path, &error)
        };
        let connection = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )
        .map_err(fail)?;
        connection
            .busy_timeout(Duration::from_secs(5))
            .map_err(fail)?;
        // As the writer has it: a statement is planned once.
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
            .map_err(fail)?;
        Ok(Self {
            connection,
            path: path.to_owned(),
        })
    }

    /// Up to `max` outbox rows with numbers from `from_n` to `to_n`, both inclusive, in order.
    ///
    /// # Errors
    /// A store error.
    pub fn outbox(&self, from_n: i64, to_n: i64, max: usize) -> Result<Vec<OutboxRow>, Error> {
        self.rows(
            "reading the outbox",
            "SELECT n, msg_id, subject, headers, body, expected_last_subject_seq, created_at_ms FROM outbox
             WHERE n BETWEEN ?1 AND ?2 ORDER BY n LIMIT ?3",
            params![from_n, to_n, max as i64],
            |row| {
                Ok(OutboxRow {
                    n: row.get(0)?,
                    msg_id: row.get(1)?,
                    subject: row.get(2)?,
                    headers: split_headers(row.get_ref(3)?.as_str()?),
                    body: row.get(4)?,
                    expected_last_subject_seq: row.get::<_, Option<i64>>(5)?.map(i64::unsigned_abs),
                    created_at_ms: row.get(6)?,
                })
            },
        )
    }

    /// Number, message id and subject of every row that is still here, in order.
    ///
    /// # Errors
    /// A store error.
    pub fn outbox_ids(&self) -> Result<Vec<(i64, String, String)>, Error> {
        self.rows(
            "reading the outbox",
            "SELECT n, msg_id, subject FROM outbox ORDER BY n",
            (),
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
    }

    /// How many rows are not known to be in a stream yet.
    ///
    /// # Errors
    /// A store error.
    pub fn outbox_depth(&self) -> Result<u64, Error> {
        let found = self.rows(
            "counting the outbox",
            "SELECT count(*) FROM outbox WHERE n > coalesce((SELECT max(last_n) FROM published), 0)",
            (),
            |row| row.get::<_, i64>(0),
        )?;
        Ok(found.first().map_or(0, |count| count.unsigned_abs()))
    }

    /// When the oldest of those rows was written, Unix milliseconds.
    ///
    /// # Errors
    /// A store error.
    pub fn outbox_since_ms(&self) -> Result<Option<i64>, Error> {
        let found = self.rows(
            "looking for the oldest in the outbox",
            "SELECT created_at_ms FROM outbox WHERE n > coalesce((SELECT max(last_n) FROM published), 0) ORDER BY n LIMIT 1",
            (),
            |row| row.get(0),
        )?;
        Ok(found.first().copied())
    }

    /// What is known of publication, oldest first.
    ///
    /// # Errors
    /// A store error.
    pub fn published(&self) -> Result<Vec<PublishedRun>, Error> {
        self.rows(
            "reading what is published",
            "SELECT first_n, last_n, stream, stream_id, first_seq, server_id, at_ms FROM published ORDER BY first_n",
            (),
            |row| {
                Ok(PublishedRun {
                    first_n: row.get(0)?,
                    last_n: row.get(1)?,
                    stream: row.get(2)?,
                    stream_id: row.get(3)?,
                    first_seq: row.get::<_, i64>(4)?.unsigned_abs(),
                    server_id: row.get(5)?,
                    at_ms: row.get(6)?,
                })
            },
        )
    }

    /// Who the database is, where it has been used at all.
    ///
    /// # Errors
    /// A store error; [`Class::Corrupt`] for an id that is none.
    pub fn store_id(&self) -> Result<Option<Id>, Error> {
        let op = "reading the store id";
        let sql = "SELECT value FROM meta WHERE name = 'store_id'";
        let found: Vec<String> = self.rows(op, sql, (), |row| row.get(0))?;
        let parse = |text: &String| {
            Id::parse(text)
                .map_err(|error| Error::new(Class::Corrupt, op, &self.path, error.to_string()))
        };
        found.first().map(parse).transpose()
    }

    /// Which life of the store this is and the highest `Roadcall-Seq` that it gave out in it.
    ///
    /// # Errors
    /// A store error.
    pub fn made(&self) -> Result<Option<(String, u64)>, Error> {
        let op = "reading the store's numbers";
        let sql = "SELECT value, (SELECT value FROM meta WHERE name = 'roadcall_seq') FROM meta WHERE name = 'epoch'";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, Option<String>>(1)?));
        let found: Vec<(String, Option<String>)> = self.rows(op, sql, (), read)?;
        let made = |(epoch, last): (String, Option<String>)| {
            (epoch, last.and_then(|last| last.parse().ok()).unwrap_or(0))
        };
        Ok(found.into_iter().next().map(made))
    }

    pub(super) fn rows<T>(
        &self,
        op: &'static str,
        sql: &str,
        params: impl rusqlite::Params,
        map: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, Error> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_map(params, map)?.collect())
            .map_err(|error| Error::sqlite(op, &self.path, &error))
    }
}
