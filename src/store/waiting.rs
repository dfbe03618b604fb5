//! Deliveries that must wait: for a retry, for a predecessor, behind a waiting one of their key, or because the process
//! died with them in hand. They are acked on the broker, so attempts and order survive here and nowhere else.

use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::outbox::{join_headers, split_headers};
use super::{Class, Error, Store};
use crate::event::Id;

/// Why a row waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitingState {
    /// Failed; tried again when due.
    Retry,
    /// Behind a waiting row of its key; becomes due when that one leaves.
    Behind,
    /// Says that a predecessor is missing; tried after each later commit of its key. Holds nobody up.
    NotYet,
    /// Was in hand when the process stopped without order; handled alone after the restart.
    InHand,
}

impl WaitingState {
    fn code(self) -> i64 {
        match self {
            Self::Retry => 0,
            Self::Behind => 1,
            Self::NotYet => 2,
            Self::InHand => 3,
        }
    }

    fn from_code(code: i64) -> Self {
        match code {
            0 => Self::Retry,
            1 => Self::Behind,
            2 => Self::NotYet,
            _ => Self::InHand,
        }
    }
}

/// One failed try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When, RFC 3339.
    pub at: String,
    /// What went wrong, in words.
    pub error: String,
}

/// A waiting delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingRow {
    /// Row number; 0 before it is stored.
    pub id: i64,
    /// The event, or an id derived from stream and sequence where it has none that can be read.
    pub event_id: Id,
    /// Identity of the stream it came from.
    pub stream_id: i64,
    /// Its sequence there.
    pub stream_seq: u64,
    /// Its entity key.
    pub entity: String,
    /// Why it waits.
    pub state: WaitingState,
    /// Failed tries so far.
    pub attempts: u32,
    /// How often the process was started anew while it was in hand.
    pub starts: u32,
    /// How often the process died while this row alone was running.
    pub deaths: u32,
    /// Whether it is running alone now.
    pub running: bool,
    /// When it is tried next, Unix milliseconds; `None` behind another row.
    pub due_at_ms: Option<i64>,
    /// Until when `NotYet` spends no attempt, Unix milliseconds.
    pub not_yet_until_ms: Option<i64>,
    /// When this role first had it, Unix milliseconds.
    pub first_seen_at_ms: i64,
    /// When the stream took it, Unix milliseconds.
    pub received_at_ms: i64,
    /// Subject as delivered.
    pub subject: String,
    /// Headers as delivered.
    pub headers: Vec<(String, String)>,
    /// Body as delivered.
    pub body: Vec<u8>,
    /// The failed tries.
    pub errors: Vec<Attempt>,
}

pub(super) const COLUMNS: &str = "id, event_id, stream_id, stream_seq, entity, state, attempts, starts, deaths, running, due_at_ms,
    not_yet_until_ms, first_seen_at_ms, received_at_ms, subject, headers, body, errors";

pub(super) fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<WaitingRow> {
    let event_id: Vec<u8> = row.get(1)?;
    let errors: String = row.get(17)?;
    Ok(WaitingRow {
        id: row.get(0)?,
        event_id: Id::from_uuid(uuid::Uuid::from_slice(&event_id).unwrap_or_default()),
        stream_id: row.get(2)?,
        stream_seq: row.get::<_, i64>(3)?.unsigned_abs(),
        entity: row.get(4)?,
        state: WaitingState::from_code(row.get(5)?),
        attempts: row.get(6)?,
        starts: row.get(7)?,
        deaths: row.get(8)?,
        running: row.get(9)?,
        due_at_ms: row.get(10)?,
        not_yet_until_ms: row.get(11)?,
        first_seen_at_ms: row.get(12)?,
        received_at_ms: row.get(13)?,
        subject: row.get(14)?,
        headers: split_headers(row.get_ref(15)?.as_str()?),
        body: row.get(16)?,
        // The engine wrote it; an unreadable history must not keep the event from being handled.
        errors: serde_json::from_str(&errors).unwrap_or_default(),
    })
}

impl Store {
    /// Whether anything waits at all. Cheap; lets the common step skip every other look-up here.
    ///
    /// # Errors
    /// A store error.
    pub fn anything_waits(&self) -> Result<bool, Error> {
        let found: Option<i64> = self.value(
            "looking for waiting rows",
            "SELECT 1 FROM waiting LIMIT 1",
            (),
        )?;
        Ok(found.is_some())
    }

    /// How many rows wait.
    ///
    /// # Errors
    /// A store error.
    pub fn waiting_count(&self) -> Result<u64, Error> {
        let count: Option<i64> =
            self.value("counting waiting rows", "SELECT count(*) FROM waiting", ())?;
        Ok(count.unwrap_or_default().unsigned_abs())
    }

    /// Whether `event_id` waits.
    ///
    /// # Errors
    /// A store error.
    pub fn waits(&self, event_id: Id) -> Result<bool, Error> {
        let found: Option<i64> = self.value(
            "looking for a waiting event",
            "SELECT 1 FROM waiting WHERE event_id = ?1",
            params![event_id.uuid().as_bytes().as_slice()],
        )?;
        Ok(found.is_some())
    }

    /// Whether a row of `entity` holds its successors up. `before` asks only about rows before that sequence.
    ///
    /// # Errors
    /// A store error.
    pub fn key_blocked(&self, entity: &str, before: Option<u64>) -> Result<bool, Error> {
        let found: Option<i64> = self.value(
            "looking whether a key waits",
            "SELECT 1 FROM waiting WHERE entity = ?1 AND state <> 2 AND stream_seq < ?2 LIMIT 1",
            params![entity, before.map_or(i64::MAX, |seq| seq as i64)],
        )?;
        Ok(found.is_some())
    }

    /// Adds a row; inside a step.
    ///
    /// # Errors
    /// A store error.
    pub fn add_waiting(&self, row: &WaitingRow) -> Result<(), Error> {
        self.run(
            "adding a waiting row",
            "INSERT INTO waiting (event_id, stream_id, stream_seq, entity, state, attempts, starts, deaths, running,
                due_at_ms, not_yet_until_ms, first_seen_at_ms, received_at_ms, subject, headers, body, errors)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
            params![
                row.event_id.uuid().as_bytes().as_slice(),
                row.stream_id,
                row.stream_seq as i64,
                row.entity,
                row.state.code(),
                row.attempts,
                row.starts,
                row.deaths,
                row.running,
                row.due_at_ms,
                row.not_yet_until_ms,
                row.first_seen_at_ms,
                row.received_at_ms,
                row.subject,
                join_headers(&row.headers),
                row.body,
                self.errors_text(&row.errors)?,
            ],
        )?;
        Ok(())
    }

    /// Writes back what changes about a row: state, counts, times and errors; inside a step.
    ///
    /// # Errors
    /// A store error.
    pub fn update_waiting(&self, row: &WaitingRow) -> Result<(), Error> {
        self.run(
            "updating a waiting row",
            "UPDATE waiting SET state = ?2, attempts = ?3, starts = ?4, deaths = ?5, running = ?6, due_at_ms = ?7,
                not_yet_until_ms = ?8, errors = ?9 WHERE id = ?1",
            params![
                row.id,
                row.state.code(),
                row.attempts,
                row.starts,
                row.deaths,
                row.running,
                row.due_at_ms,
                row.not_yet_until_ms,
                self.errors_text(&row.errors)?
            ],
        )?;
        Ok(())
    }

    fn errors_text(&self, errors: &[Attempt]) -> Result<String, Error> {
        serde_json::to_string(errors)
            .map_err(|error| self.error(Class::Defect, "writing attempts", error.to_string()))
    }

    /// Removes a row whose event reached an outcome; inside a step.
    ///
    /// # Errors
    /// A store error.
    pub fn remove_waiting(&self, id: i64) -> Result<(), Error> {
        self.run(
            "removing a waiting row",
            "DELETE FROM waiting WHERE id = ?1",
            params![id],
        )?;
        Ok(())
    }

    /// Up to `max` rows that are due at `now_ms`, in stream order.
    ///
    /// # Errors
    /// A store error.
    pub fn due_waiting(&self, now_ms: i64, max: usize) -> Result<Vec<WaitingRow>, Error> {
        self.rows(
            "reading due rows",
            &format!(
                "SELECT {COLUMNS} FROM waiting WHERE due_at_ms <= ?1 ORDER BY stream_seq LIMIT ?2"
            ),
            params![now_ms, max as i64],
            from_row,
        )
    }

    /// The first row of `entity` that is behind nobody any more, if its turn has come: the oldest `Behind` row with no
    /// blocking row before it.
    ///
    /// # Errors
    /// A store error.
    pub fn next_behind(&self, entity: &str) -> Result<Option<WaitingRow>, Error> {
        let first = self
            .connection
            .prepare_cached(&format!(
                "SELECT {COLUMNS} FROM waiting WHERE entity = ?1 AND state <> 2 ORDER BY stream_seq LIMIT 1"
            ))
            .and_then(|mut statement| statement.query_row(params![entity], from_row).optional())
            .map_err(|error| Error::sqlite("reading a successor", &self.options.path, &error))?;
        Ok(first.filter(|row| row.state == WaitingState::Behind))
    }

    /// Makes the `NotYet` rows of `entity` due at `now_ms`; inside a step. Returns how many.
    ///
    /// # Errors
    /// A store error.
    pub fn poke_not_yet(&self, entity: &str, now_ms: i64) -> Result<usize, Error> {
        self.run(
            "waking rows that wait for a predecessor",
            "UPDATE waiting SET due_at_ms = ?2 WHERE entity = ?1 AND state = 2",
            params![entity, now_ms],
        )
    }

    /// When the next row is due, Unix milliseconds.
    ///
    /// # Errors
    /// A store error.
    pub fn next_waiting_due(&self) -> Result<Option<i64>, Error> {
        let due: Option<Option<i64>> = self.value(
            "looking for the next due row",
            "SELECT min(due_at_ms) FROM waiting WHERE due_at_ms IS NOT NULL",
            (),
        )?;
        Ok(due.flatten())
    }

    /// After an unclean stop: counts a death for every row that was running alone; inside a step.
    ///
    /// # Errors
    /// A store error.
    pub fn count_deaths(&self) -> Result<usize, Error> {
        self.run(
            "counting deaths",
            "UPDATE waiting SET deaths = deaths + 1, running = 0 WHERE running = 1",
            (),
        )
    }

    /// After an unclean stop: notes another start for a row that was in hand; inside a step. False when it does not wait.
    ///
    /// # Errors
    /// A store error.
    pub fn count_start(&self, event_id: Id) -> Result<bool, Error> {
        let changed = self.run(
            "counting a start",
            "UPDATE waiting SET starts = starts + 1 WHERE event_id = ?1",
            params![event_id.uuid().as_bytes().as_slice()],
        )?;
        Ok(changed > 0)
    }

    /// Rows that must be handled alone: in hand at an unclean stop, in stream order, those that never died first.
    ///
    /// # Errors
    /// A store error.
    pub fn in_hand(&self) -> Result<Vec<WaitingRow>, Error> {
        self.rows(
            "reading what was in hand",
            &format!(
                "SELECT {COLUMNS} FROM waiting WHERE state = 3 ORDER BY deaths > 0, stream_seq"
            ),
            (),
            from_row,
        )
    }
}
