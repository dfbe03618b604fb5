//! A whole database as one file: copied beside its writer, and made ready to live on in another place.
//!
//! The copy is SQLite's online backup inside one read transaction: it is the state after some commit, whatever is written
//! meanwhile, and the writer waits for nothing (WAL). Getting it to the broker and back is the node's part.

use std::path::Path;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, params};

use super::catch_up::{CatchUp, META};
use super::error::{Class, Error};
use super::{Identity, Reader, schema};
use crate::event::Id;

/// Pages copied between two looks at nothing: all of them, for the read transaction holds the state anyway.
const ALL_PAGES: i32 = -1;

/// What a copied database says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Who it is.
    pub identity: Identity,
    /// Migrations of the engine and of the role that it has.
    pub schema: (usize, usize),
}

/// Copies the database at `path` to the new file `to`, whether or not its role runs, and looks whether the copy is sound.
///
/// # Errors
/// A store error: [`Class::Corrupt`] for a damaged database, and for one that no role ever started with.
pub fn copy(path: &Path, to: &Path) -> Result<Copied, Error> {
    let reader = Reader::open(path)?;
    let source = &reader.connection;
    let fail = |op| move |error: rusqlite::Error| Error::sqlite(op, to, &error);
    let of_source = |error: rusqlite::Error| Error::sqlite("copying the database", path, &error);
    source
        .execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema;")
        .map_err(of_source)?;
    let mut target = Connection::open(to).map_err(fail("making the copy"))?;
    target
        .execute_batch("PRAGMA synchronous = OFF;")
        .map_err(fail("making the copy"))?;
    {
        let backup = Backup::new(source, &mut target).map_err(fail("copying the database"))?;
        while backup
            .step(ALL_PAGES)
            .map_err(fail("copying the database"))?
            != StepResult::Done
        {
            // The source is held by a read transaction of our own: only its locks can be in the way, for a moment.
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
    source.execute_batch("COMMIT").map_err(of_source)?;
    // One file: nothing of it may be in a log beside it.
    target
        .execute_batch("PRAGMA journal_mode = DELETE;")
        .map_err(fail("closing the copy"))?;
    check(&target, path)?;
    described(&target, path)
}

/// Looks whether a copy is a sound database that this build can use, and what it says about itself.
///
/// # Errors
/// A store error: [`Class::Corrupt`], or [`Class::NewerSchema`] for one that a newer build wrote.
pub fn look(copy: &Path, role_migrations: &[&str]) -> Result<Copied, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(copy, flags)
        .map_err(|error| Error::sqlite("opening the copy", copy, &error))?;
    check(&connection, copy)?;
    schema::done(&connection, copy, role_migrations)?;
    described(&connection, copy)
}

fn check(connection: &Connection, path: &Path) -> Result<(), Error> {
    let op = "checking the copy";
    let found: String = connection
        .query_row("PRAGMA quick_check(1)", (), |row| row.get(0))
        .map_err(|error| Error::sqlite(op, path, &error))?;
    if found == "ok" {
        return Ok(());
    }
    Err(Error::new(Class::Corrupt, op, path, found))
}

fn described(connection: &Connection, path: &Path) -> Result<Copied, Error> {
    let op = "reading the copy";
    let fail = |error: rusqlite::Error| Error::sqlite(op, path, &error);
    let version = schema::version(connection, path)?;
    let never = |_| {
        let message = "no role ever started with it";
        Error::new(Class::Corrupt, op, path, message)
    };
    if version.0 == 0 {
        return Err(never(()));
    }
    let meta = |name: &str| {
        connection.query_row(
            "SELECT value FROM meta WHERE name = ?1",
            params![name],
            |row| row.get::<_, String>(0),
        )
    };
    let store_id = match meta("store_id") {
        Err(rusqlite::Error::QueryReturnedNoRows) => return Err(never(())),
        found => found.map_err(fail)?,
    };
    let store_id = Id::parse(&store_id)
        .map_err(|error| Error::new(Class::Corrupt, op, path, error.to_string()))?;
    let epoch = meta("epoch").map_err(fail)?;
    Ok(Copied {
        identity: Identity { store_id, epoch },
        schema: version,
    })
}

/// Begins another life of the database in the file `copy`: it is somebody else from now on, counts its events from the
/// start, and owes what came after the copy was taken.
///
/// # Errors
/// A store error.
pub fn begin_life(copy: &Path, identity: &Identity, owed: &CatchUp) -> Result<(), Error> {
    let fail = |error: rusqlite::Error| Error::sqlite("preparing the copy", copy, &error);
    let mut connection = Connection::open(copy).map_err(fail)?;
    connection
        .execute_batch("PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL;")
        .map_err(fail)?;
    let step = connection.transaction().map_err(fail)?;
    let owed = owed.write();
    let id = identity.store_id.to_string();
    let values = [
        ("store_id", id.as_str()),
        ("epoch", identity.epoch.as_str()),
        ("roadcall_seq", "0"),
        // Whoever it was copied from ran, and did not die of what was in hand then.
        ("running", "0"),
        (META, owed.as_str()),
    ];
    for (name, value) in values {
        step.execute(
            "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2",
            params![name, value],
        )
        .map_err(fail)?;
    }
    step.execute("UPDATE waiting SET running = 0", ())
        .map_err(fail)?;
    step.commit().map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(path: &Path) -> Connection {
        let connection = Connection::open(path).expect("made");
        let migrations = schema::engine_migrations();
        let (schema, version) = (migrations.join(";"), 1_000 * migrations.len());
        connection
            .execute_batch(&format!(
                "PRAGMA journal_mode = WAL; {schema}; PRAGMA user_version = {version};
                 CREATE TABLE pair (a INTEGER NOT NULL, b INTEGER NOT NULL); INSERT INTO pair VALUES (0, 0);
                 CREATE TABLE bulk (n INTEGER PRIMARY KEY, text TEXT NOT NULL);
                 INSERT INTO meta VALUES ('store_id', '0192f3c1-0000-7000-8000-000000000001'), ('epoch', '1');"
            ))
            .expect("filled");
        connection
    }

    /// Both numbers are always changed in one transaction, and a row is added with them.
    #[test]
    fn a_copy_taken_while_somebody_writes_is_the_state_after_one_commit() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("role.db");
        let writer = made(&path);
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let told = std::sync::Arc::clone(&stop);
        let (began, begins) = std::sync::mpsc::channel();
        let writing = std::thread::spawn(move || {
            let mut n = 0_i64;
            while !told.load(std::sync::atomic::Ordering::SeqCst) {
                n += 1;
                let sql = format!(
                    "BEGIN IMMEDIATE; UPDATE pair SET a = {n};
                     INSERT INTO bulk VALUES ({n}, hex(randomblob(500))); UPDATE pair SET b = {n}; COMMIT;"
                );
                writer.execute_batch(&sql).expect("written");
                if n == 200 {
                    began.send(()).expect("somebody waits");
                }
            }
            n
        });
        begins.recv().expect("it writes");
        let mut seen = 0;
        for n in 0..5 {
            let to = dir.path().join(format!("copy-{n}"));
            let copied = copy(&path, &to).expect("copied");
            assert_eq!(copied.schema, (schema::engine_migrations().len(), 0));
            let copy = Connection::open(&to).expect("opened");
            let (a, b, rows): (i64, i64, i64) = copy
                .query_row(
                    "SELECT a, b, (SELECT count(*) FROM bulk) FROM pair",
                    (),
                    |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
                )
                .expect("read");
            assert!(a == b && a == rows, "{a} {b} {rows}");
            assert!(a >= seen, "a later copy is not older");
            seen = a;
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        // Where the machine has other things to do, the last copy may have the last row.
        assert!(writing.join().expect("wrote") >= seen);
    }

    #[test]
    fn another_life_has_another_name_and_owes_what_came_later() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("role.db");
        drop(made(&path));
        let to = dir.path().join("copy");
        let before = copy(&path, &to).expect("copied");
        let identity = Identity {
            store_id: Id::parse("0192f3c1-0000-7000-8000-000000000002").expect("an id"),
            epoch: "2".to_owned(),
        };
        let owed = CatchUp {
            snapshot: 3,
            stream_id: 7,
            stream_seq: 11,
            since_ms: 13,
            ..CatchUp::default()
        };
        begin_life(&to, &identity, &owed).expect("prepared");
        let after = look(&to, &[]).expect("sound");
        assert_ne!(before.identity, after.identity);
        assert_eq!(after.identity, identity);
        let reader = Reader::open(&to).expect("opened");
        assert_eq!(reader.catch_up().expect("read"), Some(owed));
        assert_eq!(
            look(&path, &[]).expect("as it was").identity,
            before.identity
        );
    }

    #[test]
    fn a_file_that_is_damaged_newer_or_never_used_is_no_snapshot() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("role.db");
        let connection = made(&path);
        connection
            .pragma_update(None, "user_version", 99_000)
            .expect("set");
        let class = |path: &Path| look(path, &[]).expect_err("refused").class;
        assert_eq!(class(&path), Class::NewerSchema);
        let empty = dir.path().join("empty.db");
        drop(Connection::open(&empty).and_then(|empty| empty.execute_batch("CREATE TABLE a (b)")));
        assert_eq!(class(&empty), Class::Corrupt);
        let text = dir.path().join("text.db");
        std::fs::write(
            &text,
            "no database at all, only some text that is long enough",
        )
        .expect("written");
        assert_eq!(class(&text), Class::Corrupt);
    }
}
