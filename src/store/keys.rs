//! `keys.db`: the data keys of personal data (DOMAIN 3.2), each wrapped by the site's key. It is no role's database: no
//! snapshot, no export and no event ever has anything of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Params, params};

use super::{Class, Error, Synchronous, configure};
use crate::event::seal::SECRET_LEN;
use crate::event::{DataKey, Sealed, Ts};

const MIGRATION: &str = "
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
-- wrapped is null once the person was erased.
CREATE TABLE IF NOT EXISTS key (
    key_id TEXT PRIMARY KEY,
    subject TEXT NOT NULL,
    site TEXT NOT NULL,
    wrapped TEXT,
    made_at_ms INTEGER NOT NULL,
    escrowed INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS key_subject ON key (subject, made_at_ms);
CREATE INDEX IF NOT EXISTS key_not_escrowed ON key (made_at_ms) WHERE escrowed = 0 AND wrapped IS NOT NULL;
CREATE TABLE IF NOT EXISTS erased (subject TEXT PRIMARY KEY, at_ms INTEGER NOT NULL, told INTEGER NOT NULL) WITHOUT ROWID;
";

/// Name of the entry that says which site key wraps the rows.
const WRAPPED_BY: &str = "wrapped_by";

/// A data key in clear, on its way to whoever may have it. Its debug form does not show the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// Its name.
    pub key_id: String,
    /// Whose data it seals.
    pub subject: String,
    /// The site that made it.
    pub site: String,
    /// The key itself.
    pub secret: [u8; SECRET_LEN],
    /// When it was made.
    pub made_at: Ts,
}

impl std::fmt::Debug for KeyRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRow")
            .field("key_id", &self.key_id)
            .field("site", &self.site)
            .finish_non_exhaustive()
    }
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// It is here.
    Key(Box<KeyRow>),
    /// It was destroyed, or is for a person who was erased.
    Erased,
    /// It never was here.
    Unknown,
}

/// The file, opened by the one process that keeps it.
#[derive(Debug)]
pub struct KeyStore {
    connection: Connection,
    path: PathBuf,
    wrapping: DataKey,
}

impl KeyStore {
    /// Opens the file, made if there is none, with the site's key.
    ///
    /// # Errors
    /// A store error; [`Class::NoKey`] when another key wraps what is in it.
    pub fn open(path: &Path, wrapping: DataKey) -> Result<Self, Error> {
        let fail = |error: rusqlite::Error| Error::sqlite("opening the keys", path, &error);
        let connection = Connection::open(path).map_err(fail)?;
        connection
            .busy_timeout(Duration::from_secs(5))
            .map_err(fail)?;
        configure(&connection, Synchronous::Full).map_err(fail)?;
        // What is destroyed is not to be found in free pages of the file.
        connection
            .pragma_update(None, "secure_delete", true)
            .map_err(fail)?;
        connection.execute_batch(MIGRATION).map_err(fail)?;
        let store = Self {
            connection,
            path: path.to_owned(),
            wrapping,
        };
        match store.meta(WRAPPED_BY)? {
            None => store.set_meta(WRAPPED_BY, store.wrapping.id().to_owned().as_str())?,
            Some(by) if by == store.wrapping.id() => {}
            Some(_) => {
                let message =
                    "is wrapped by another site key; without that key nothing in it can be read";
                return Err(store.error(Class::NoKey, "opening the keys", message));
            }
        }
        // A file that was put together from copies may have the one without the other.
        let again = "UPDATE key SET wrapped = NULL WHERE wrapped IS NOT NULL AND subject IN (SELECT subject FROM erased)";
        store.run("destroying keys", again, ())?;
        Ok(store)
    }

    /// The name of the site key that wraps what is in a file, without changing anything there; `None` where there is no file.
    ///
    /// # Errors
    /// A store error.
    pub fn wrapped_by(path: &Path) -> Result<Option<String>, Error> {
        if !path.exists() {
            return Ok(None);
        }
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let fail = |error: rusqlite::Error| Error::sqlite("reading the keys", path, &error);
        let connection = Connection::open_with_flags(path, flags).map_err(fail)?;
        let sql = "SELECT value FROM meta WHERE name = ?1";
        connection
            .query_row(sql, [WRAPPED_BY], |row| row.get(0))
            .optional()
            .map_err(fail)
    }

    fn error(&self, class: Class, op: &'static str, message: impl Into<String>) -> Error {
        Error::new(class, op, &self.path, message)
    }

    fn run(&self, op: &'static str, sql: &str, params: impl Params) -> Result<usize, Error> {
        let run = self.connection.prepare_cached(sql);
        run.and_then(|mut statement| statement.execute(params))
            .map_err(|error| Error::sqlite(op, &self.path, &error))
    }

    fn meta(&self, name: &str) -> Result<Option<String>, Error> {
        self.connection
            .query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| {
                row.get(0)
            })
            .optional()
            .map_err(|error| Error::sqlite("reading the keys", &self.path, &error))
    }

    fn set_meta(&self, name: &str, value: &str) -> Result<(), Error> {
        self.run(
            "writing the keys",
            "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2",
            [name, value],
        )
        .map(|_| ())
    }

    /// Whether something was done that is done once in the life of the file.
    ///
    /// # Errors
    /// A store error.
    pub fn did(&self, what: &str) -> Result<bool, Error> {
        Ok(self.meta(what)?.is_some())
    }

    /// Notes that it was.
    ///
    /// # Errors
    /// A store error.
    pub fn note_done(&self, what: &str) -> Result<(), Error> {
        self.set_meta(what, "1")
    }

    fn rows(&self, sql: &str, params: impl Params) -> Result<Vec<KeyRow>, Error> {
        let fail = |error: rusqlite::Error| Error::sqlite("reading the keys", &self.path, &error);
        let mut statement = self.connection.prepare_cached(sql).map_err(fail)?;
        let read = statement.query_map(params, |row| {
            let (key_id, subject, site): (String, String, String) =
                (row.get(0)?, row.get(1)?, row.get(2)?);
            let (wrapped, made_at_ms): (String, i64) = (row.get(3)?, row.get(4)?);
            Ok((key_id, subject, site, wrapped, made_at_ms))
        });
        let read: Vec<_> = read.and_then(Iterator::collect).map_err(fail)?;
        read.into_iter()
            .map(|(key_id, subject, site, wrapped, made_at_ms)| {
                let secret = self.unwrapped(&wrapped)?;
                Ok(KeyRow {
                    key_id,
                    subject,
                    site,
                    secret,
                    made_at: Ts::from_ms(made_at_ms),
                })
            })
            .collect()
    }

    fn unwrapped(&self, wrapped: &str) -> Result<[u8; SECRET_LEN], Error> {
        let opened = Sealed::parse(wrapped).and_then(|sealed| self.wrapping.open(&sealed));
        opened
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| {
                let message = "a key can't be unwrapped: the file was changed";
                self.error(Class::Corrupt, "reading the keys", message)
            })
    }

    /// The newest key that `site` made for a subject.
    ///
    /// # Errors
    /// A store error.
    pub fn newest(&self, subject: &str, site: &str) -> Result<Kept, Error> {
        if self.is_erased(subject)? {
            return Ok(Kept::Erased);
        }
        let mut rows = self.rows(
            "SELECT key_id, subject, site, wrapped, made_at_ms FROM key
             WHERE subject = ?1 AND site = ?2 AND wrapped IS NOT NULL ORDER BY made_at_ms DESC, key_id LIMIT 1",
            [subject, site],
        )?;
        Ok(rows
            .pop()
            .map_or(Kept::Unknown, |row| Kept::Key(Box::new(row))))
    }

    /// The key of this name.
    ///
    /// # Errors
    /// A store error.
    pub fn named(&self, key_id: &str) -> Result<Kept, Error> {
        let rows = self.rows(
            "SELECT key_id, subject, site, wrapped, made_at_ms FROM key WHERE key_id = ?1 AND wrapped IS NOT NULL",
            [key_id],
        );
        if let Some(row) = rows?.pop() {
            return Ok(Kept::Key(Box::new(row)));
        }
        let destroyed: Option<i64> = self
            .connection
            .query_row("SELECT 1 FROM key WHERE key_id = ?1", [key_id], |row| {
                row.get(0)
            })
            .optional()
            .map_err(|error| Error::sqlite("reading the keys", &self.path, &error))?;
        Ok(destroyed.map_or(Kept::Unknown, |_| Kept::Erased))
    }

    /// Every key of a subject, the oldest first.
    ///
    /// # Errors
    /// A store error.
    pub fn of_subject(&self, subject: &str) -> Result<Vec<KeyRow>, Error> {
        self.rows(
            "SELECT key_id, subject, site, wrapped, made_at_ms FROM key
             WHERE subject = ?1 AND wrapped IS NOT NULL ORDER BY made_at_ms, key_id",
            [subject],
        )
    }

    /// Keys that `site` made, by their names behind `after`.
    ///
    /// # Errors
    /// A store error.
    pub fn of_site(&self, site: &str, after: &str, limit: usize) -> Result<Vec<KeyRow>, Error> {
        self.rows(
            "SELECT key_id, subject, site, wrapped, made_at_ms FROM key
             WHERE site = ?1 AND key_id > ?2 AND wrapped IS NOT NULL ORDER BY key_id LIMIT ?3",
            params![site, after, limit as i64],
        )
    }

    /// Keys of `site` that the hub does not have yet, the oldest first.
    ///
    /// # Errors
    /// A store error.
    pub fn not_escrowed(&self, site: &str, limit: usize) -> Result<Vec<KeyRow>, Error> {
        self.rows(
            "SELECT key_id, subject, site, wrapped, made_at_ms FROM key
             WHERE escrowed = 0 AND wrapped IS NOT NULL AND site = ?1 ORDER BY made_at_ms LIMIT ?2",
            params![site, limit as i64],
        )
    }

    /// Keeps keys, all or none. Of a person who was erased none is kept; `escrowed` says that the hub has them.
    ///
    /// # Errors
    /// A store error.
    pub fn keep(&mut self, rows: &[KeyRow], escrowed: bool) -> Result<(), Error> {
        self.run("writing the keys", "BEGIN IMMEDIATE", ())?;
        let kept = rows.iter().try_for_each(|row| {
            let erased = self.is_erased(&row.subject)?;
            let wrapped = (!erased).then(|| self.wrapping.seal(&row.secret));
            self.run(
                "writing the keys",
                "INSERT INTO key (key_id, subject, site, wrapped, made_at_ms, escrowed) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (key_id) DO NOTHING",
                params![
                    row.key_id,
                    row.subject,
                    row.site,
                    wrapped.as_ref().map(Sealed::as_str),
                    row.made_at.ms(),
                    escrowed
                ],
            )
            .map(|_| ())
        });
        self.finish(kept)
    }

    /// Notes that the hub has them.
    ///
    /// # Errors
    /// A store error.
    pub fn note_escrowed(&mut self, rows: &[KeyRow]) -> Result<(), Error> {
        self.run("writing the keys", "BEGIN IMMEDIATE", ())?;
        let noted = rows.iter().try_for_each(|row| {
            let sql = "UPDATE key SET escrowed = 1 WHERE key_id = ?1";
            self.run("writing the keys", sql, [&row.key_id]).map(|_| ())
        });
        self.finish(noted)
    }

    fn finish(&self, result: Result<(), Error>) -> Result<(), Error> {
        match result {
            Ok(()) => self.run("writing the keys", "COMMIT", ()).map(|_| ()),
            Err(error) => {
                // The first error says more than a failing rollback.
                let _ = self.connection.execute_batch("ROLLBACK");
                Err(error)
            }
        }
    }

    /// Whether a subject's keys were destroyed.
    ///
    /// # Errors
    /// A store error.
    pub fn is_erased(&self, subject: &str) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM erased WHERE subject = ?1";
        let found: Option<i64> = self
            .connection
            .query_row(sql, [subject], |row| row.get(0))
            .optional()
            .map_err(|error| Error::sqlite("reading the keys", &self.path, &error))?;
        Ok(found.is_some())
    }

    /// Destroys every key of a subject, for good: none is made for it again. Gives how many there were.
    ///
    /// # Errors
    /// A store error.
    pub fn destroy(&mut self, subject: &str, at: Ts, told: bool) -> Result<usize, Error> {
        self.run("destroying keys", "BEGIN IMMEDIATE", ())?;
        let destroyed = self
            .run(
                "destroying keys",
                "INSERT INTO erased (subject, at_ms, told) VALUES (?1, ?2, ?3) ON CONFLICT (subject) DO NOTHING",
                params![subject, at.ms(), told],
            )
            .and_then(|_| {
                let sql = "UPDATE key SET wrapped = NULL WHERE subject = ?1 AND wrapped IS NOT NULL";
                self.run("destroying keys", sql, [subject])
            });
        match destroyed {
            Ok(count) => {
                self.finish(Ok(()))?;
                self.forget_log()?;
                Ok(count)
            }
            Err(error) => self.finish(Err(error)).map(|()| 0),
        }
    }

    /// The write-ahead log has the old rows until it is emptied.
    fn forget_log(&self) -> Result<(), Error> {
        self.connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))
            .map_err(|error| Error::sqlite("destroying keys", &self.path, &error))
    }

    /// Erased subjects behind `after`, with the time; only those that the hub was not told of where `untold`.
    ///
    /// # Errors
    /// A store error.
    pub fn erased(
        &self,
        after: &str,
        untold: bool,
        limit: usize,
    ) -> Result<BTreeMap<String, Ts>, Error> {
        let fail = |error: rusqlite::Error| Error::sqlite("reading the keys", &self.path, &error);
        let sql = "SELECT subject, at_ms FROM erased WHERE subject > ?1 AND (told = 0 OR NOT ?2) ORDER BY subject LIMIT ?3";
        let mut statement = self.connection.prepare_cached(sql).map_err(fail)?;
        let rows = statement.query_map(params![after, untold, limit as i64], |row| {
            Ok((row.get(0)?, Ts::from_ms(row.get(1)?)))
        });
        rows.and_then(Iterator::collect).map_err(fail)
    }

    /// Notes that the hub was told.
    ///
    /// # Errors
    /// A store error.
    pub fn note_told<'a>(&self, subjects: impl Iterator<Item = &'a String>) -> Result<(), Error> {
        for subject in subjects {
            let sql = "UPDATE erased SET told = 1 WHERE subject = ?1";
            self.run("writing the keys", sql, [subject])?;
        }
        Ok(())
    }

    /// How many keys there are, and how many subjects were erased.
    ///
    /// # Errors
    /// A store error.
    pub fn counts(&self) -> Result<(u64, u64), Error> {
        let sql = "SELECT (SELECT count(*) FROM key WHERE wrapped IS NOT NULL), (SELECT count(*) FROM erased)";
        self.connection
            .query_row(sql, (), |row| {
                let count = |at| row.get::<_, i64>(at).map(i64::unsigned_abs);
                Ok((count(0)?, count(1)?))
            })
            .map_err(|error| Error::sqlite("reading the keys", &self.path, &error))
    }

    /// Wraps every key anew, in one commit: before it the old site key opens the file, after it the new one. Gives how many.
    ///
    /// # Errors
    /// A store error; nothing has changed then.
    pub fn rewrap(&mut self, wrapping: DataKey) -> Result<usize, Error> {
        let rows = self.rows(
            "SELECT key_id, subject, site, wrapped, made_at_ms FROM key WHERE wrapped IS NOT NULL",
            (),
        )?;
        self.run("wrapping keys anew", "BEGIN IMMEDIATE", ())?;
        let sql = "UPDATE key SET wrapped = ?2 WHERE key_id = ?1";
        let written = rows.iter().try_for_each(|row| {
            let wrapped = wrapping.seal(&row.secret);
            let params = [row.key_id.as_str(), wrapped.as_str()];
            self.run("wrapping keys anew", sql, params).map(|_| ())
        });
        let written = written.and_then(|()| self.set_meta(WRAPPED_BY, wrapping.id()));
        self.finish(written)?;
        self.forget_log()?;
        self.wrapping = wrapping;
        Ok(rows.len())
    }
}

#[cfg(test)]
mod tests;
