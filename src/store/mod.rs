//! A role's own SQLite database: inbox, outbox, waiting deliveries, timers, effects, replies, and the role's tables.
//!
//! One [`Store`] is the only writer of its file and lives on the role's writer thread. The engine opens a step
//! ([`Store::begin`]), runs each input in a [`Tx`] (a savepoint), and ends with [`Store::commit`]: one fsync for all of
//! them (`synchronous=FULL`). The relay reads through a [`Reader`], a second, read-only connection. Only this room knows
//! `rusqlite`; nothing here knows a broker.

mod catch_up;
mod effect;
mod error;
mod home;
mod inbox;
mod inspect;
pub mod keys;
mod log;
mod lookup;
mod outbox;
pub mod raw;
mod reader;
mod replay;
mod schema;
pub mod snapshot;
mod timer;
mod tx;
mod waiting;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
pub use rusqlite::params;
use rusqlite::{Connection, OptionalExtension};

pub use catch_up::{Archived, CatchUp, NotMadeAgain};
pub use effect::{EffectCall, EffectClass, EffectOutcome, PendingEffect, Secret};
pub use error::{Class, Error};
pub use inbox::{InboxRow, Outcome};
pub use inspect::{Inspection, inspect};
pub use log::LogLine;
pub use lookup::{Backlog, Record, Requested, Sought};
pub use outbox::{OutboxRow, PublishedRun};
pub use reader::Reader;
pub use replay::{ReplayRow, ReplayState};
pub use schema::engine_migrations;
pub use timer::DueTimer;
pub use tx::{Context, Made, Origin, Reach, Traced, Tracing, Tx, TxOutput};
pub use waiting::{Attempt, WaitingRow, WaitingState};

use crate::event::{Codec, Id, Keyring, Site};

/// How hard a commit is pushed to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synchronous {
    /// Every commit is on the disk before it returns: what Roadcall promises.
    Full,
    /// The operating system decides: for simulation, where a crash is a dropped connection and power never fails.
    Off,
}

/// What a store needs to know to open and to build events.
#[derive(Debug, Clone)]
pub struct Options {
    /// The database file; its directory must exist.
    pub path: PathBuf,
    /// How hard commits are pushed to the disk.
    pub synchronous: Synchronous,
    /// Site whose role this is.
    pub site: Site,
    /// The role's name, part of the ids it emits.
    pub role: String,
    /// The role's queue, part of the ids it emits; empty for a role without one.
    pub queue: String,
    /// Encoding of what it emits.
    pub codec: Codec,
}

/// The writer's side of a role's database.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    options: Options,
    identity: Identity,
    counters: Counters,
    committed: Counters,
    catch_up: Option<CatchUp>,
    /// Whether `archived` has rows: only a restored database is asked for them.
    knows_archived: bool,
    /// What seals personal data; `None` where nothing is sealed.
    keys: Option<Arc<dyn Keyring>>,
    /// Sites that lack this role, so that it makes for them what they do not (see `home`).
    stands_in_for: BTreeSet<Site>,
}

/// Who this database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Made when the file was made; `owner.<role>` in KV `TOPOLOGY` names it.
    pub store_id: Id,
    /// Which life of the store `Roadcall-Seq` counts in; a restored store starts a new one.
    pub epoch: String,
}

/// Numbers that grow with each row and are written once per step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counters {
    /// Highest outbox row number given out.
    outbox_n: i64,
    /// Highest `Roadcall-Seq` given out.
    roadcall_seq: i64,
}

impl Store {
    /// Opens the database, creating and migrating it as needed. `fresh` names a database that does not exist yet.
    ///
    /// # Errors
    /// Any [`Class`]; [`Class::NewerSchema`] when a newer build wrote the file.
    pub fn open(
        options: Options,
        role_migrations: &[&str],
        fresh: &Identity,
    ) -> Result<Self, Error> {
        let path = options.path.clone();
        let fail = |op| {
            let path = path.clone();
            move |error: rusqlite::Error| Error::sqlite(op, &path, &error)
        };
        let connection = Connection::open(&options.path).map_err(fail("opening the database"))?;
        connection
            .busy_timeout(Duration::from_secs(5))
            .map_err(fail("setting the busy timeout"))?;
        configure(&connection, options.synchronous).map_err(fail("configuring the database"))?;
        schema::migrate(&connection, &options.path, role_migrations)?;
        connection.set_prepared_statement_cache_capacity(128);
        let mut store = Self {
            connection,
            identity: fresh.clone(),
            options,
            counters: Counters::default(),
            committed: Counters::default(),
            catch_up: None,
            knows_archived: false,
            keys: None,
            stands_in_for: BTreeSet::new(),
        };
        store.load_identity(fresh)?;
        store.load_catch_up()?;
        store.counters = Counters {
            outbox_n: store.meta_number("outbox_n")?,
            roadcall_seq: store.meta_number("roadcall_seq")?,
        };
        store.committed = store.counters;
        Ok(store)
    }

    fn load_identity(&mut self, fresh: &Identity) -> Result<(), Error> {
        if let Some(store_id) = self.meta("store_id")? {
            let store_id = Id::parse(&store_id).map_err(|error| {
                self.error(Class::Corrupt, "reading the store id", error.to_string())
            })?;
            let epoch = self.meta("epoch")?.unwrap_or_default();
            self.identity = Identity { store_id, epoch };
            return Ok(());
        }
        self.begin()?;
        self.set_meta("store_id", &fresh.store_id.to_string())?;
        self.set_meta("epoch", &fresh.epoch)?;
        self.commit()
    }

    /// From now on personal data is sealed with these keys.
    pub fn seal_with(&mut self, keys: Arc<dyn Keyring>) {
        self.keys = Some(keys);
    }

    /// What personal data is sealed with here.
    #[must_use]
    pub fn keys(&self) -> Option<&Arc<dyn Keyring>> {
        self.keys.as_ref()
    }

    /// Who this database is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.options.path
    }

    /// What the store was opened with.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Opens a step. Takes the write lock at once, so that a busy database shows here and not in the middle.
    ///
    /// # Errors
    /// [`Class::Busy`] when another process holds the file.
    pub fn begin(&mut self) -> Result<(), Error> {
        self.run("beginning a step", "BEGIN IMMEDIATE", ())?;
        Ok(())
    }

    /// Makes everything since [`Store::begin`] durable.
    ///
    /// # Errors
    /// A failure leaves the step rolled back.
    pub fn commit(&mut self) -> Result<(), Error> {
        let result = self
            .write_counters()
            .and_then(|()| self.run("committing a step", "COMMIT", ()));
        match result {
            Ok(_) => {
                self.committed = self.counters;
                Ok(())
            }
            Err(error) => {
                self.rollback();
                Err(error)
            }
        }
    }

    /// Undoes everything since [`Store::begin`]. Never fails visibly: SQLite has already rolled back where it could not
    /// go on, and then refuses a second time.
    pub fn rollback(&mut self) {
        let _ = self.connection.execute_batch("ROLLBACK");
        self.counters = self.committed;
    }

    fn write_counters(&mut self) -> Result<(), Error> {
        if self.counters.outbox_n != self.committed.outbox_n {
            self.set_meta("outbox_n", &self.counters.outbox_n.to_string())?;
        }
        if self.counters.roadcall_seq != self.committed.roadcall_seq {
            self.set_meta("roadcall_seq", &self.counters.roadcall_seq.to_string())?;
        }
        Ok(())
    }

    /// Whether the last process that had this database stopped in order; `true` for a new one. Marks it as running.
    ///
    /// # Errors
    /// A store error.
    pub fn take_clean_mark(&mut self) -> Result<bool, Error> {
        let clean = self.meta("running")?.is_none_or(|value| value == "0");
        self.write_running("1")?;
        Ok(clean)
    }

    /// Notes that the process stopped in order.
    ///
    /// # Errors
    /// A store error.
    pub fn set_clean_mark(&mut self) -> Result<(), Error> {
        self.write_running("0")
    }

    fn write_running(&mut self, value: &str) -> Result<(), Error> {
        self.begin()?;
        if let Err(error) = self.set_meta("running", value) {
            self.rollback();
            return Err(error);
        }
        self.commit()
    }

    /// A named value of the engine's own.
    ///
    /// # Errors
    /// A store error.
    pub fn meta(&self, name: &str) -> Result<Option<String>, Error> {
        self.value(
            "reading meta",
            "SELECT value FROM meta WHERE name = ?1",
            params![name],
        )
    }

    /// Sets a named value of the engine's own; inside a step.
    ///
    /// # Errors
    /// A store error.
    pub fn set_meta(&self, name: &str, value: &str) -> Result<(), Error> {
        self.run(
            "writing meta",
            "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2",
            params![name, value],
        )?;
        Ok(())
    }

    fn meta_number(&self, name: &str) -> Result<i64, Error> {
        let Some(text) = self.meta(name)? else {
            return Ok(0);
        };
        text.parse().map_err(|_| {
            self.error(
                Class::Corrupt,
                "reading meta",
                format!("{name} is not a number: {text}"),
            )
        })
    }

    /// The first reply to this (actor, command, clientRequestId), if it is still kept (30 days, DESIGN 4).
    ///
    /// # Errors
    /// A store error.
    pub fn kept_reply(&self, key: &str) -> Result<Option<String>, Error> {
        self.value(
            "reading a kept reply",
            "SELECT value FROM reply WHERE key = ?1",
            params![key],
        )
    }

    /// Keeps a reply; inside a step.
    ///
    /// # Errors
    /// A store error.
    pub fn keep_reply(&self, key: &str, value: &str, at_ms: i64) -> Result<(), Error> {
        self.run(
            "keeping a reply",
            "INSERT INTO reply (key, value, at_ms) VALUES (?1, ?2, ?3)",
            params![key, value, at_ms],
        )?;
        Ok(())
    }

    /// Drops up to `max` replies from before `before_ms`; inside a step. Returns how many.
    ///
    /// # Errors
    /// A store error.
    pub fn prune_replies(&self, before_ms: i64, max: usize) -> Result<usize, Error> {
        self.run(
            "pruning replies",
            "DELETE FROM reply WHERE key IN (SELECT key FROM reply WHERE at_ms < ?1 LIMIT ?2)",
            params![before_ms, max as i64],
        )
    }

    fn error(&self, class: Class, op: &'static str, message: impl Into<String>) -> Error {
        Error::new(class, op, &self.options.path, message)
    }

    fn run(
        &self,
        op: &'static str,
        sql: &str,
        params: impl rusqlite::Params,
    ) -> Result<usize, Error> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(params))
            .map_err(|error| Error::sqlite(op, &self.options.path, &error))
    }

    fn value<T: rusqlite::types::FromSql>(
        &self,
        op: &'static str,
        sql: &str,
        params: impl rusqlite::Params,
    ) -> Result<Option<T>, Error> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row(params, |row| row.get(0)).optional())
            .map_err(|error| Error::sqlite(op, &self.options.path, &error))
    }

    fn rows<T>(
        &self,
        op: &'static str,
        sql: &str,
        params: impl rusqlite::Params,
        map: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, Error> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_map(params, map)?.collect())
            .map_err(|error| Error::sqlite(op, &self.options.path, &error))
    }
}

fn configure(connection: &Connection, synchronous: Synchronous) -> rusqlite::Result<()> {
    // Else SQLite, built with STAT4, plans a statement anew for each value that it is given for a range.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // WAL: the relay reads while the writer writes. FULL: a commit survives a power cut (DESIGN promise 1).
    let mode = match synchronous {
        Synchronous::Full => "FULL",
        Synchronous::Off => "OFF",
    };
    connection.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = {mode}; PRAGMA foreign_keys = ON;
         PRAGMA wal_autocheckpoint = 2000; PRAGMA journal_size_limit = 67108864; PRAGMA temp_store = MEMORY;"
    ))
}
