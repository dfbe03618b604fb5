//! What a role's database says of one event, and of what waits in it: for people who ask, read beside the writer.

use rusqlite::params;

use super::waiting::{COLUMNS, from_row};
use super::{Error, InboxRow, Origin, Outcome, Reader, WaitingRow};
use crate::event::Id;

/// What waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Rows in `waiting`.
    pub rows: u64,
    /// When the stream took the oldest of them, Unix milliseconds.
    pub oldest_received_at_ms: Option<i64>,
}

/// Which event is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sought {
    /// The one with this id.
    Event(Id),
    /// The one at this place of a stream: for bodies that no id can be read from.
    Place {
        /// Identity of the stream.
        stream_id: i64,
        /// Sequence there.
        stream_seq: u64,
    },
}

/// A call to the outside that has no handled result yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requested {
    /// Its idempotency key.
    pub key: String,
    /// What kind of call.
    pub kind: String,
    /// When it was asked for, Unix milliseconds.
    pub created_at_ms: i64,
    /// Whether it has a result that the role could not handle yet.
    pub answered: bool,
}

/// What a role has about an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its outcome, once it has one.
    pub outcome: Option<InboxRow>,
    /// Its row in `waiting`, as long as it is there.
    pub waiting: Option<WaitingRow>,
    /// Calls that handling it led to and whose results are not handled yet.
    pub requested: Vec<Requested>,
}

impl Reader {
    /// How much waits, and since when.
    ///
    /// # Errors
    /// A store error.
    pub fn backlog(&self) -> Result<Backlog, Error> {
        let found = self.rows(
            "counting waiting rows",
            "SELECT count(*), min(received_at_ms) FROM waiting",
            (),
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?)),
        )?;
        // An aggregate always has its one row.
        let (rows, oldest_received_at_ms) = found.first().copied().unwrap_or_default();
        Ok(Backlog {
            rows: rows.unsigned_abs(),
            oldest_received_at_ms,
        })
    }

    /// Everything about one event, as of one moment: it never seems to be nowhere while it moves on.
    ///
    /// # Errors
    /// A store error.
    pub fn record(&self, sought: Sought) -> Result<Record, Error> {
        let _moment = self
            .connection
            .unchecked_transaction()
            .map_err(|error| Error::sqlite("reading about an event", &self.path, &error))?;
        let outcome = self.outcome_of(sought)?;
        let waiting = self.waiting_row_of(sought)?;
        let requested = match sought {
            Sought::Event(id) => self.requested_by(id)?,
            // What can't be read was never handled.
            Sought::Place { .. } => Vec::new(),
        };
        Ok(Record {
            outcome,
            waiting,
            requested,
        })
    }

    fn outcome_of(&self, sought: Sought) -> Result<Option<InboxRow>, Error> {
        let op = "looking an event up in the inbox";
        let columns = "SELECT event_id, outcome, stream_id, stream_seq, at_ms FROM inbox";
        let read = |row: &rusqlite::Row<'_>| {
            let event_id: Vec<u8> = row.get(0)?;
            Ok(InboxRow {
                event_id: Id::from_uuid(uuid::Uuid::from_slice(&event_id).unwrap_or_default()),
                outcome: Outcome::from_code(row.get(1)?),
                stream_id: row.get(2)?,
                stream_seq: row.get::<_, i64>(3)?.unsigned_abs(),
                at_ms: row.get(4)?,
            })
        };
        let mut found = match sought {
            Sought::Event(id) => self.rows(
                op,
                &format!("{columns} WHERE event_id = ?1"),
                params![id.uuid().as_bytes().as_slice()],
                read,
            )?,
            // A body that can't be read is always given up, and only the dead have an index by place.
            Sought::Place {
                stream_id,
                stream_seq,
            } => self.rows(
                op,
                &format!("{columns} WHERE outcome = 2 AND stream_seq = ?2 AND stream_id = ?1"),
                params![stream_id, stream_seq as i64],
                read,
            )?,
        };
        Ok(found.pop())
    }

    fn waiting_row_of(&self, sought: Sought) -> Result<Option<WaitingRow>, Error> {
        let op = "looking for a waiting event";
        let columns = format!("SELECT {COLUMNS} FROM waiting");
        let mut found = match sought {
            Sought::Event(id) => self.rows(
                op,
                &format!("{columns} WHERE event_id = ?1"),
                params![id.uuid().as_bytes().as_slice()],
                from_row,
            )?,
            Sought::Place {
                stream_id,
                stream_seq,
            } => self.rows(
                op,
                &format!("{columns} WHERE stream_id = ?1 AND stream_seq = ?2"),
                params![stream_id, stream_seq as i64],
                from_row,
            )?,
        };
        Ok(found.pop())
    }

    /// Calls have the event that led to them in their origin; there are never many without a result.
    fn requested_by(&self, event: Id) -> Result<Vec<Requested>, Error> {
        let rows = self.rows(
            "reading effects",
            "SELECT key, kind, created_at_ms, outcome IS NOT NULL, origin FROM effect ORDER BY created_at_ms, key",
            (),
            |row| {
                let requested = Requested {
                    key: row.get(0)?,
                    kind: row.get(1)?,
                    created_at_ms: row.get(2)?,
                    answered: row.get(3)?,
                };
                Ok((requested, Origin::read(&row.get::<_, String>(4)?)))
            },
        )?;
        let of_event = |(_, origin): &(Requested, Origin)| origin.cause == Some(event);
        let of_event = rows.into_iter().filter(of_event);
        Ok(of_event.map(|(requested, _)| requested).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::event::{Codec, Site, Ts, ids};
    use crate::store::{
        Context, EffectCall, EffectClass, EffectOutcome, Identity, Options, Reach, Store,
        Synchronous, Tx,
    };

    #[test]
    fn a_call_belongs_to_the_event_that_led_to_it_until_its_result_is_handled() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options {
            path: dir.path().join("role.db"),
            synchronous: Synchronous::Off,
            site: Site::new("hub").expect("valid"),
            role: "vendor".to_owned(),
            queue: String::new(),
            codec: Codec::Json,
        };
        let [event, other] = [b"event", b"other"].map(|name| ids::derive_v7(1, &[name]));
        let fresh = Identity {
            store_id: other,
            epoch: "1".to_owned(),
        };
        let mut store = Store::open(options, &[], &fresh).expect("opened");
        let context = Context {
            now: Ts::from_ms(5),
            input_id: event,
            input_time: Ts::from_ms(5),
            first: false,
            origin: Origin {
                cause: Some(event),
                ..Origin::default()
            },
            delivery: None,
            reach: Reach::Full,
            trace: None,
        };
        store.begin().expect("begun");
        let mut tx = Tx::open(&mut store, context).expect("opened");
        tx.effect(EffectCall {
            key: "sms-1".to_owned(),
            kind: "sms".to_owned(),
            class: EffectClass::External,
            request: json!({}),
            secret: None,
        })
        .expect("asked for");
        tx.keep().expect("kept");
        store.commit().expect("committed");

        let reader = Reader::open(store.path()).expect("opened");
        let requested = |id| reader.record(Sought::Event(id)).expect("read").requested;
        let mut call = Requested {
            key: "sms-1".to_owned(),
            kind: "sms".to_owned(),
            created_at_ms: 5,
            answered: false,
        };
        assert_eq!(requested(event), [call.clone()]);
        assert_eq!(requested(other), []);
        let outcome = EffectOutcome::Failed("no".to_owned());
        store.put_result_off("sms-1", &outcome, 9).expect("put off");
        call.answered = true;
        assert_eq!(requested(event), [call]);
        store.remove_effect("sms-1").expect("removed");
        assert_eq!(requested(event), []);
    }
}
