//! The inbox: which events reached an outcome in this role, by event id. It is what makes a second delivery harmless.

use rusqlite::params;

use super::{Error, Store};
use crate::event::Id;

/// How an event ended in a queue (DESIGN promise 3; `pending` is the absence of a row).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Handled; its effects are committed.
    Done,
    /// Too old by its rule; not handled.
    Expired,
    /// Given up; a letter says why.
    Dead,
    /// The rule's residual predicate said no.
    Filtered,
}

impl Outcome {
    fn code(self) -> i64 {
        match self {
            Self::Done => 0,
            Self::Expired => 1,
            Self::Dead => 2,
            Self::Filtered => 3,
        }
    }

    pub(super) fn from_code(code: i64) -> Self {
        match code {
            0 => Self::Done,
            1 => Self::Expired,
            2 => Self::Dead,
            _ => Self::Filtered,
        }
    }
}

/// One event's outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxRow {
    /// The event.
    pub event_id: Id,
    /// How it ended.
    pub outcome: Outcome,
    /// Identity of the stream it came from.
    pub stream_id: i64,
    /// Its sequence there.
    pub stream_seq: u64,
    /// When it ended, Unix milliseconds.
    pub at_ms: i64,
}

impl Store {
    /// The outcome of `event_id`, if it has one.
    ///
    /// # Errors
    /// A store error.
    pub fn inbox_outcome(&self, event_id: Id) -> Result<Option<Outcome>, Error> {
        let code: Option<i64> = self.value(
            "looking an event up in the inbox",
            "SELECT outcome FROM inbox WHERE event_id = ?1",
            params![event_id.uuid().as_bytes().as_slice()],
        )?;
        Ok(code.map(Outcome::from_code))
    }

    /// Whether another event died at this place of the stream: a rolled-back broker gives sequences out again.
    ///
    /// # Errors
    /// A store error.
    pub fn another_died_at(
        &self,
        stream_id: i64,
        stream_seq: u64,
        event_id: Id,
    ) -> Result<bool, Error> {
        let found: Option<i64> = self.value(
            "looking for another letter of a sequence",
            "SELECT 1 FROM inbox WHERE outcome = 2 AND stream_seq = ?2 AND stream_id = ?1 AND event_id <> ?3 LIMIT 1",
            params![stream_id, stream_seq as i64, event_id.uuid().as_bytes().as_slice()],
        )?;
        Ok(found.is_some())
    }

    /// Records an outcome; inside a step.
    ///
    /// # Errors
    /// A store error.
    pub fn record(&self, row: &InboxRow) -> Result<(), Error> {
        self.run(
            "recording an outcome",
            "INSERT INTO inbox (event_id, outcome, stream_id, stream_seq, at_ms) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (event_id) DO UPDATE SET outcome = ?2, at_ms = ?5",
            params![
                row.event_id.uuid().as_bytes().as_slice(),
                row.outcome.code(),
                row.stream_id,
                row.stream_seq as i64,
                row.at_ms
            ],
        )?;
        Ok(())
    }

    /// How many events ended in each way, in the order done, expired, dead, filtered.
    ///
    /// # Errors
    /// A store error.
    pub fn outcome_counts(&self) -> Result<[u64; 4], Error> {
        let mut counts = [0; 4];
        let rows = self.rows(
            "counting outcomes",
            "SELECT outcome, count(*) FROM inbox GROUP BY outcome",
            (),
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
        )?;
        for (code, count) in rows {
            counts[Outcome::from_code(code).code() as usize] = count.unsigned_abs();
        }
        Ok(counts)
    }

    /// Drops rows that ended before `before_ms`, looking at no more than `max` rows after `cursor`; inside a step.
    /// Returns where to go on, or `None` at the end of the table.
    ///
    /// The table is ordered by id, and ids grow with time, so a walk in small pieces needs no index on the time.
    ///
    /// # Errors
    /// A store error.
    pub fn prune_inbox(
        &self,
        before_ms: i64,
        cursor: Option<Id>,
        max: usize,
    ) -> Result<Option<Id>, Error> {
        let from = cursor.map_or_else(Vec::new, |id| id.uuid().as_bytes().to_vec());
        let seen: Vec<(Vec<u8>, i64)> = self.rows(
            "pruning the inbox",
            "SELECT event_id, at_ms FROM inbox WHERE event_id > ?1 ORDER BY event_id LIMIT ?2",
            params![from, max as i64],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        for (event_id, at_ms) in &seen {
            if *at_ms < before_ms {
                self.run(
                    "pruning the inbox",
                    "DELETE FROM inbox WHERE event_id = ?1",
                    params![event_id],
                )?;
            }
        }
        if seen.len() < max {
            return Ok(None);
        }
        Ok(seen
            .last()
            .and_then(|(id, _)| uuid::Uuid::from_slice(id).ok())
            .map(Id::from_uuid))
    }
}
