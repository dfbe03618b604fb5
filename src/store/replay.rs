//! Replay jobs that this role carries out: how far each is. A job's place moves in the commit that handles its events, so
//! a crash neither skips nor repeats one.

use rusqlite::{OptionalExtension, params};

use super::{Error, Reader, Store};

/// How a job ended, or that it did not yet (DOMAIN 4.3; STARTING and CANCELLING are the absence of a row, and a wish).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayState {
    /// Going on.
    Running,
    /// Every event of its bounds was looked at.
    Completed,
    /// It can't go on.
    Failed,
    /// Somebody stopped it.
    Cancelled,
}

impl ReplayState {
    fn code(self) -> i64 {
        match self {
            Self::Running => 0,
            Self::Completed => 1,
            Self::Failed => 2,
            Self::Cancelled => 3,
        }
    }

    fn from_code(code: i64) -> Self {
        match code {
            0 => Self::Running,
            1 => Self::Completed,
            2 => Self::Failed,
            _ => Self::Cancelled,
        }
    }

    /// As DOMAIN 4.3 writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }
}

/// A job's place and counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayRow {
    /// The job.
    pub name: String,
    /// Whether it goes on.
    pub state: ReplayState,
    /// First sequence of its bounds.
    pub from_seq: u64,
    /// Last sequence of its bounds, fixed at its start.
    pub to_seq: u64,
    /// Everything before it is done.
    pub next_seq: u64,
    /// Handled with success.
    pub handled: u64,
    /// Left alone: they had an outcome, or wait.
    pub duplicates: u64,
    /// Not for the queue by its rules, or too old.
    pub filtered: u64,
    /// Not handled now: in fill mode they wait or have a letter.
    pub failed: u64,
    /// When it began, Unix milliseconds.
    pub started_at_ms: i64,
    /// When it ended, Unix milliseconds.
    pub ended_at_ms: Option<i64>,
    /// Why it failed.
    pub error: Option<String>,
}

const COLUMNS: &str =
    "name, state, from_seq, to_seq, next_seq, handled, duplicates, filtered, failed, started_at_ms,
    ended_at_ms, error";

fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<ReplayRow> {
    let number = |index| row.get::<_, i64>(index).map(i64::unsigned_abs);
    Ok(ReplayRow {
        name: row.get(0)?,
        state: ReplayState::from_code(row.get(1)?),
        from_seq: number(2)?,
        to_seq: number(3)?,
        next_seq: number(4)?,
        handled: number(5)?,
        duplicates: number(6)?,
        filtered: number(7)?,
        failed: number(8)?,
        started_at_ms: row.get(9)?,
        ended_at_ms: row.get(10)?,
        error: row.get(11)?,
    })
}

impl Store {
    /// A job's place, where it has begun.
    ///
    /// # Errors
    /// A store error.
    pub fn replay(&self, name: &str) -> Result<Option<ReplayRow>, Error> {
        self.connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM replay WHERE name = ?1"))
            .and_then(|mut statement| statement.query_row(params![name], from_row).optional())
            .map_err(|error| Error::sqlite("reading a replay", &self.options.path, &error))
    }

    /// Writes a job's place; inside a step.
    ///
    /// # Errors
    /// A store error.
    pub fn put_replay(&self, row: &ReplayRow) -> Result<(), Error> {
        self.run(
            "writing a replay's place",
            &format!(
                "INSERT OR REPLACE INTO replay ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"
            ),
            params![
                row.name,
                row.state.code(),
                row.from_seq as i64,
                row.to_seq as i64,
                row.next_seq as i64,
                row.handled as i64,
                row.duplicates as i64,
                row.filtered as i64,
                row.failed as i64,
                row.started_at_ms,
                row.ended_at_ms,
                row.error,
            ],
        )?;
        Ok(())
    }
}

impl Reader {
    /// Every replay job that has begun, in the order of their start.
    ///
    /// # Errors
    /// A store error.
    pub fn replays(&self) -> Result<Vec<ReplayRow>, Error> {
        self.rows(
            "reading replays",
            &format!("SELECT {COLUMNS} FROM replay ORDER BY started_at_ms, name"),
            (),
            from_row,
        )
    }
}
