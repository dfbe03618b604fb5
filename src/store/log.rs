//! The lines of the event log that the audit role wrote down, for whoever carries them to files: read beside the writer.

use rusqlite::params;

use super::{Error, Reader};

/// A line (role::audit::log).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Its number; grows, and is never given out again.
    pub n: i64,
    /// Id of the event or command.
    pub id: String,
    /// When it was written down, Unix milliseconds.
    pub at_ms: i64,
    /// A JSON object.
    pub line: String,
}

impl Reader {
    /// Up to `max` lines behind number `after`, in order.
    ///
    /// # Errors
    /// A store error.
    pub fn log_lines(&self, after: i64, max: usize) -> Result<Vec<LogLine>, Error> {
        self.rows(
            "reading the event log",
            "SELECT n, id, at_ms, line FROM log_line WHERE n > ?1 ORDER BY n LIMIT ?2",
            params![after, max as i64],
            |row| {
                Ok(LogLine {
                    n: row.get(0)?,
                    id: row.get(1)?,
                    at_ms: row.get(2)?,
                    line: row.get(3)?,
                })
            },
        )
    }

    /// The highest number that was ever given out.
    ///
    /// # Errors
    /// A store error.
    pub fn last_log_number(&self) -> Result<i64, Error> {
        let found = self.rows(
            "reading the event log",
            "SELECT seq FROM sqlite_sequence WHERE name = 'log_line'",
            (),
            |row| row.get(0),
        )?;
        // Before the first line there is no row.
        Ok(found.first().copied().unwrap_or_default())
    }
}
