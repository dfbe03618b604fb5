//! A look at a role's database without changing it, also while its role runs: `roadcall check` uses it.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::{Error, schema};

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Migrations that the next start would run.
    pub migrations_due: usize,
    /// Deliveries that wait for a retry or a predecessor.
    pub waiting: u64,
}

/// Opens the database at `path` for reading and looks whether this build can use it.
///
/// # Errors
/// What a start would meet: [`super::Class::NewerSchema`], `Corrupt`, `ReadOnly` and the rest.
pub fn inspect(path: &Path, role_migrations: &[&str]) -> Result<Inspection, Error> {
    let fail = |error: rusqlite::Error| Error::sqlite("looking at the database", path, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(fail)?;
    connection
        .busy_timeout(Duration::from_secs(5))
        .map_err(fail)?;
    let (engine, role) = schema::done(&connection, path, role_migrations)?;
    let waiting = if engine == 0 {
        0
    } else {
        connection
            .query_row("SELECT count(*) FROM waiting", (), |row| {
                row.get::<_, i64>(0)
            })
            .map_err(fail)?
    };
    Ok(Inspection {
        migrations_due: schema::ENGINE.len() - engine + role_migrations.len() - role,
        waiting: waiting.unsigned_abs(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Class;

    #[test]
    fn a_look_changes_nothing_and_meets_what_a_start_would() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("role.db");
        let missing = inspect(&path, &[]).expect_err("not there");
        assert_eq!(missing.class, Class::ReadOnly);
        let connection = Connection::open(&path).expect("made");
        connection
            .execute_batch("PRAGMA journal_mode = WAL")
            .expect("set");
        let found = inspect(&path, &["CREATE TABLE a (b)"]).expect("sound");
        let due = schema::ENGINE.len() + 1;
        assert_eq!((found.migrations_due, found.waiting), (due, 0));
        connection
            .pragma_update(None, "user_version", 9_000)
            .expect("set");
        let newer = inspect(&path, &[]).expect_err("newer");
        assert_eq!(newer.class, Class::NewerSchema);
        std::fs::write(
            &path,
            "this is no database, but long enough to be looked at",
        )
        .expect("written");
        drop(connection);
        assert!(inspect(&path, &[]).is_err());
    }
}
