//! What a restored database still owes: the events that came after its snapshot, and which events of its own the archive
//! has already.
//!
//! A restored role handles again what it handled before, under the same ids. So that none of what it emits then gets into
//! the archive twice, however late, the ids of its own events behind the snapshot are kept in `archived`: an event whose id
//! stands there is emitted by not being emitted. What is never emitted again came from commands, timers or calls that left
//! no trace in the snapshot; their number is what was lost.

use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::{Class, Error, Reader, Store};
use crate::event::Id;

/// Name of the value in `meta`.
pub(super) const META: &str = "restored";

/// Where a restored database's snapshot stood, and how far it has caught up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CatchUp {
    /// The snapshot's number.
    pub snapshot: u64,
    /// When it was taken, Unix milliseconds.
    pub taken_at_ms: i64,
    /// Identity of the archive then.
    pub stream_id: i64,
    /// Everything of the queue up to here is in the snapshot.
    pub stream_seq: u64,
    /// The same as a time, for another archive: everything that came before then is in the snapshot.
    pub since_ms: i64,
    /// The end of the archive when catching up began; nothing before that.
    pub to_seq: Option<u64>,
    /// When it was reached, Unix milliseconds.
    pub done_at_ms: Option<i64>,
}

impl CatchUp {
    pub(super) fn write(&self) -> String {
        // Numbers always have a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// An event of the role's own that the archive has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    /// Its id.
    pub id: Id,
    /// Where it is.
    pub seq: u64,
    /// What it is about.
    pub entity: String,
    /// Its number among the events of that entity, where it has one.
    pub n: i64,
}

/// Events of the role's own that were not made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NotMadeAgain {
    /// How many.
    pub count: u64,
    /// The first one's sequence.
    pub first_seq: u64,
    /// The last one's.
    pub last_seq: u64,
}

impl Store {
    /// What a restored database owes; nothing for one that was never restored.
    #[must_use]
    pub fn catch_up(&self) -> Option<&CatchUp> {
        self.catch_up.as_ref()
    }

    /// Whether the database still has to reach the end of the archive.
    #[must_use]
    pub fn catching_up(&self) -> bool {
        let open = |catch_up: &CatchUp| catch_up.done_at_ms.is_none();
        self.catch_up.as_ref().is_some_and(open)
    }

    pub(super) fn load_catch_up(&mut self) -> Result<(), Error> {
        self.catch_up = match self.meta(META)? {
            None => None,
            Some(text) => Some(serde_json::from_str(&text).map_err(|error| {
                self.error(
                    Class::Corrupt,
                    "reading what is to be caught up",
                    error.to_string(),
                )
            })?),
        };
        let any: Option<i64> = self.value(
            "reading what is archived already",
            "SELECT 1 FROM archived LIMIT 1",
            (),
        )?;
        self.knows_archived = any.is_some();
        Ok(())
    }

    fn put_catch_up(&mut self, catch_up: CatchUp) -> Result<(), Error> {
        self.set_meta(META, &catch_up.write())?;
        self.catch_up = Some(catch_up);
        Ok(())
    }

    /// Learns of own events in the archive; inside a step. What is in the outbox is known to be made already.
    ///
    /// # Errors
    /// A store error.
    pub fn learn_archived(&mut self, events: &[Archived]) -> Result<(), Error> {
        for event in events {
            self.run(
                "learning what is archived",
                "INSERT INTO archived (event_id, stream_seq, entity, n, again) VALUES (?1, ?2, ?3, ?4, 0)
                 ON CONFLICT (event_id) DO NOTHING",
                params![
                    event.id.uuid().as_bytes().as_slice(),
                    event.seq as i64,
                    event.entity,
                    event.n
                ],
            )?;
        }
        self.knows_archived |= !events.is_empty();
        Ok(())
    }

    /// Everything archived is learned, and catching up goes on to `to_seq`; inside a step.
    ///
    /// # Errors
    /// A store error.
    pub fn begin_catch_up(&mut self, to_seq: u64) -> Result<(), Error> {
        // What the snapshot had in its outbox is the relay's: it looks for it in the archive before it sends anything.
        let ids = self.rows(
            "reading the outbox",
            "SELECT msg_id FROM outbox",
            (),
            |row| row.get::<_, String>(0),
        )?;
        for id in ids.iter().filter_map(|id| Id::parse(id).ok()) {
            self.is_archived(id)?;
        }
        let catch_up = CatchUp {
            to_seq: Some(to_seq),
            ..self.catch_up.clone().unwrap_or_default()
        };
        self.put_catch_up(catch_up)
    }

    /// The end was reached; inside a step. Events of an entity are numbered on behind those that the archive has.
    ///
    /// # Errors
    /// A store error.
    pub fn end_catch_up(&mut self, now_ms: i64) -> Result<(), Error> {
        self.run(
            "numbering on behind the archive",
            "INSERT INTO entity_sequence (entity, n) SELECT entity, max(n) FROM archived WHERE n > 0 GROUP BY entity
             ON CONFLICT (entity) DO UPDATE SET n = max(n, excluded.n)",
            (),
        )?;
        let catch_up = CatchUp {
            done_at_ms: Some(now_ms),
            ..self.catch_up.clone().unwrap_or_default()
        };
        self.put_catch_up(catch_up)
    }

    /// Whether the archive has the event already, from the life before; notes that it was made again.
    pub(super) fn is_archived(&self, id: Id) -> Result<bool, Error> {
        if !self.knows_archived {
            return Ok(false);
        }
        let found = self.run(
            "looking for an event in the archive",
            "UPDATE archived SET again = 1 WHERE event_id = ?1",
            params![id.uuid().as_bytes().as_slice()],
        )?;
        Ok(found > 0)
    }

    /// Which of the archived events were not made again so far.
    ///
    /// # Errors
    /// A store error.
    pub fn not_made_again(&self) -> Result<NotMadeAgain, Error> {
        let found = self.rows("looking for what was lost", LOST, (), lost)?;
        Ok(found.first().copied().unwrap_or_default())
    }
}

const LOST: &str = "SELECT count(*), coalesce(min(stream_seq), 0), coalesce(max(stream_seq), 0) FROM archived WHERE again = 0";

fn lost(row: &rusqlite::Row<'_>) -> rusqlite::Result<NotMadeAgain> {
    let number = |index| row.get::<_, i64>(index).map(i64::unsigned_abs);
    Ok(NotMadeAgain {
        count: number(0)?,
        first_seq: number(1)?,
        last_seq: number(2)?,
    })
}

impl Reader {
    /// What a restored database owes; nothing for one that was never restored.
    ///
    /// # Errors
    /// A store error; [`Class::Corrupt`] for an entry that can't be read.
    pub fn catch_up(&self) -> Result<Option<CatchUp>, Error> {
        let op = "reading what is to be caught up";
        let sql = "SELECT value FROM meta WHERE name = 'restored'";
        let found: Vec<String> = self.rows(op, sql, (), |row| row.get(0))?;
        let read = |text: &String| {
            serde_json::from_str(text)
                .map_err(|error| Error::new(Class::Corrupt, op, &self.path, error.to_string()))
        };
        found.first().map(read).transpose()
    }

    /// Which of the archived events were not made again so far.
    ///
    /// # Errors
    /// A store error.
    pub fn not_made_again(&self) -> Result<NotMadeAgain, Error> {
        let found = self.rows("looking for what was lost", LOST, (), lost)?;
        Ok(found.first().copied().unwrap_or_default())
    }
}
