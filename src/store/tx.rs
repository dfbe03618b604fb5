//! What a role sees of the store: one input's savepoint, in which it reads and writes its tables, emits events, sets
//! timers, asks for effects and replies. All of it commits with the step or not at all.

mod personal;
mod traced;

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, Params, params, types::FromSql};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::traced::{Made, Traced, Tracing};
use super::{Class, EffectCall, EffectClass, Error, Store};
use crate::event::{Base, Detail, EncodeError, Event, Id, Site, Ts, encode, ids};

/// The chain of causes that an input belongs to; timers and effects carry it to the events they lead to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// Event or command that led here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Id>,
    /// Incident it is about, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation: Option<Id>,
    /// Home site of the chain, where it differs from this one (DESIGN 8).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home: Option<Site>,
    /// W3C trace context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Of a call: the input that asked for it, and that input's own time. Its result is another input each time but makes
    /// the same ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked_by: Option<(Id, i64)>,
}

impl Origin {
    pub(super) fn write(&self) -> String {
        // Optional texts and numbers always serialise; an empty origin is the honest fallback.
        serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned())
    }

    pub(super) fn read(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }
}

/// What the engine knows about the input that a [`Tx`] is for.
#[derive(Debug, Clone)]
pub struct Context {
    /// The step's time.
    pub now: Ts,
    /// Id of the event, command, timer or effect; part of every id emitted.
    pub input_id: Id,
    /// The input's own time (a timer: when it was due); the time part of every id emitted.
    pub input_time: Ts,
    /// Whether what is emitted are first events (UUIDv7) or follow from one (UUIDv8).
    pub first: bool,
    /// Where the chain of causes came from, this input included.
    pub origin: Origin,
    /// `Roadcall-Delivery` for events emitted while handling a `replay` or `redrive`.
    pub delivery: Option<&'static str>,
    /// How far what it does reaches.
    pub reach: Reach,
    /// Where in its trace it is; `None` where nothing is traced.
    pub trace: Option<Tracing>,
}

/// How far what an input does reaches beyond the role's own tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// Everything, as a first handling has it.
    #[default]
    Full,
    /// Events are emitted, but nobody outside is called: a replay that fills gaps.
    NoExternal,
    /// Only the role's own tables: a replay that runs handlers anew.
    StateOnly,
}

/// What a finished input left for the engine.
#[derive(Debug, Default)]
pub struct TxOutput {
    /// The reply of a command.
    pub reply: Option<Value>,
    /// Whether the reply is a refusal that keeps what was written.
    pub refused: bool,
    /// How many messages went into the outbox.
    pub emitted: u32,
    /// Calls to start after the commit.
    pub effects: Vec<EffectCall>,
    /// The call whose outcome is the reply.
    pub reply_with: Option<EffectCall>,
    /// For its trace.
    pub traced: Traced,
}

/// One input's transaction (a savepoint in the step).
#[derive(Debug)]
pub struct Tx<'a> {
    pub(super) store: &'a mut Store,
    pub(super) context: Context,
    before: super::Counters,
    ordinal: u32,
    output: TxOutput,
}

impl<'a> Tx<'a> {
    /// Opens a savepoint inside the store's current step.
    ///
    /// # Errors
    /// A store error.
    pub fn open(store: &'a mut Store, context: Context) -> Result<Self, Error> {
        store.run("opening an input", "SAVEPOINT input", ())?;
        let before = store.counters;
        Ok(Self {
            store,
            context,
            before,
            ordinal: 0,
            output: TxOutput::default(),
        })
    }

    /// Keeps what was written, for the step's commit.
    ///
    /// # Errors
    /// A store error.
    pub fn keep(mut self) -> Result<TxOutput, Error> {
        self.store.run("keeping an input", "RELEASE input", ())?;
        let (here, incident) = self.place();
        self.output.traced.here = here;
        self.output.traced.incident = incident;
        Ok(self.output)
    }

    /// Undoes what was written.
    ///
    /// # Errors
    /// A store error.
    pub fn abandon(self) -> Result<(), Error> {
        self.store.counters = self.before;
        self.store
            .run("undoing an input", "ROLLBACK TO input", ())?;
        self.store.run("undoing an input", "RELEASE input", ())?;
        Ok(())
    }

    /// The step's time: the only clock that a role has.
    #[must_use]
    pub fn now(&self) -> Ts {
        self.context.now
    }

    /// The site whose role this is.
    #[must_use]
    pub fn site(&self) -> &Site {
        &self.store.options.site
    }

    /// Whether calls to others are made now. A replay makes none unless it is told to.
    #[must_use]
    pub fn reaches_outside(&self) -> bool {
        self.context.reach == Reach::Full
    }

    /// A new id for an entity: the same each time this input is run.
    pub fn new_id(&mut self) -> Id {
        self.derive("entity")
    }

    fn derive(&mut self, purpose: &str) -> Id {
        let ordinal = self.ordinal.to_be_bytes();
        self.ordinal += 1;
        let options = &self.store.options;
        let parts: [&[u8]; 6] = [
            options.site.as_str().as_bytes(),
            options.role.as_bytes(),
            options.queue.as_bytes(),
            self.context.input_id.uuid().as_bytes(),
            purpose.as_bytes(),
            &ordinal,
        ];
        let time_ms = self.context.input_time.ms();
        if self.context.first {
            ids::derive_v7(time_ms, &parts)
        } else {
            ids::derive_v8(time_ms, &parts)
        }
    }

    /// Emits an event: it is published after the commit, at least once, in order per entity key. Returns its id.
    ///
    /// # Errors
    /// A store error, or [`Class::Defect`] for an event over the size limit.
    pub fn emit<D: Detail>(&mut self, detail: &D) -> Result<Id, Error> {
        let id = self.derive(D::DETAIL_TYPE);
        if self.context.reach == Reach::StateOnly {
            return Ok(id);
        }
        let entity = detail.entity();
        let (_, traceparent) = self.traceparent(id, self.context.origin.correlation);
        let metadata = self.metadata(entity.as_str(), traceparent)?;
        let options = &self.store.options;
        let origin = &self.context.origin;
        let mut event = Event::build(
            detail,
            Base {
                id,
                time: self.context.now,
                site: options.site.clone(),
                home: origin.home.clone().filter(|home| *home != options.site),
                cause: origin.cause,
                correlation: origin.correlation,
                metadata,
            },
        );
        self.seal_event(&mut event)?;
        let body = encode(&event, self.store.options.codec).map_err(|error| {
            self.store
                .error(Class::Defect, "encoding an event", error.to_string())
        })?;
        self.append(&event, &body)?;
        Ok(id)
    }

    /// Publishes an event that somebody else made, under the source and the id that it has. Nothing of it is changed but that
    /// its personal fields are sealed: its numbers of DOMAIN 3.1 are its producer's. The inner error says that it is too large
    /// as this site writes events.
    ///
    /// # Errors
    /// A store error.
    pub fn publish(&mut self, event: &Event) -> Result<Result<(), EncodeError>, Error> {
        let mut event = event.clone();
        self.seal_event(&mut event)?;
        let body = match encode(&event, self.store.options.codec) {
            Ok(body) => body,
            Err(error) => return Ok(Err(error)),
        };
        self.append(&event, &body).map(Ok)
    }

    /// Puts an encoded event into the outbox.
    fn append(&mut self, event: &Event, body: &[u8]) -> Result<(), Error> {
        if self.store.is_archived(event.id)? {
            return Ok(());
        }
        let incident = event.correlation.or(self.context.origin.correlation);
        let (place, traceparent) = self.traceparent(event.id, incident);
        if let Some(place) = place {
            self.note(event, place);
        }
        let options = &self.store.options;
        let mut headers = vec![(
            "Content-Type".to_owned(),
            options.codec.content_type().to_owned(),
        )];
        self.store.counters.roadcall_seq += 1;
        let (epoch, n) = (&self.store.identity.epoch, self.store.counters.roadcall_seq);
        headers.push((
            "Roadcall-Seq".to_owned(),
            format!("{}:{epoch}:{n}", options.role),
        ));
        if let Some(traceparent) = traceparent {
            headers.push(("traceparent".to_owned(), traceparent));
        }
        if let Some(delivery) = self.context.delivery {
            headers.push(("Roadcall-Delivery".to_owned(), delivery.to_owned()));
        }
        let now_ms = self.context.now.ms();
        self.store.append_outbox(
            &event.id.to_string(),
            &event.subject().to_string(),
            &headers,
            body,
            None,
            now_ms,
        )?;
        self.output.emitted += 1;
        Ok(())
    }

    /// Puts a document into a bucket of the broker's after the commit, in order with what is emitted.
    ///
    /// # Errors
    /// A store error; [`Class::Defect`] for a value that is not JSON.
    pub fn put_document(
        &mut self,
        bucket: &str,
        key: &str,
        document: &impl Serialize,
    ) -> Result<(), Error> {
        let id = self.derive(&format!("{bucket}/{key}"));
        if self.context.reach == Reach::StateOnly {
            return Ok(());
        }
        let (subject, body) = (format!("$KV.{bucket}.{key}"), self.text(document)?);
        let now_ms = self.context.now.ms();
        self.store.append_outbox(
            &id.to_string(),
            &subject,
            &[],
            body.as_bytes(),
            None,
            now_ms,
        )?;
        self.output.emitted += 1;
        Ok(())
    }

    /// Takes a letter back after the commit: `word` says why, `redriven` or `purged` (DESIGN 6, DLQ).
    ///
    /// # Errors
    /// A store error.
    pub fn retire_letter(&mut self, subject: &str, word: &str) -> Result<(), Error> {
        let id = self.derive(subject).to_string();
        let now_ms = self.context.now.ms();
        self.store.retire_letter(&id, subject, word, now_ms)?;
        self.output.emitted += 1;
        Ok(())
    }

    /// `detail.metadata` as DOMAIN 3.1 wants it, the per-entity sequence included.
    fn metadata(
        &mut self,
        entity: &str,
        traceparent: Option<String>,
    ) -> Result<BTreeMap<String, String>, Error> {
        let sequence: Option<i64> = self.store.value(
            "numbering an entity's events",
            "INSERT INTO entity_sequence (entity, n) VALUES (?1, 1)
             ON CONFLICT (entity) DO UPDATE SET n = n + 1 RETURNING n",
            params![entity],
        )?;
        let origin = &self.context.origin;
        let mut metadata = BTreeMap::new();
        metadata.insert(
            "site".to_owned(),
            self.store.options.site.as_str().to_owned(),
        );
        metadata.insert("sequence".to_owned(), sequence.unwrap_or(1).to_string());
        if let Some(correlation) = origin.correlation {
            metadata.insert("correlationId".to_owned(), correlation.to_string());
        }
        if let Some(cause) = origin.cause {
            metadata.insert("causationId".to_owned(), cause.to_string());
        }
        if let Some(traceparent) = traceparent {
            metadata.insert("traceparent".to_owned(), traceparent);
        }
        Ok(metadata)
    }

    /// Sets the timer (`kind`, `key`) to `at`, moving it if it is set. In a replay one whose time is past is not set
    /// (DOMAIN 4.3): it fired when it was.
    ///
    /// # Errors
    /// A store error.
    pub fn schedule(
        &mut self,
        at: Ts,
        kind: &str,
        key: &str,
        payload: &Value,
    ) -> Result<(), Error> {
        if self.context.delivery == Some("replay") && at <= self.context.now {
            return self.store.remove_timer(kind, key).map(|_| ());
        }
        self.store
            .set_timer(kind, key, at, payload, &self.context.origin)
    }

    /// Stops the timer (`kind`, `key`). False when it was not set.
    ///
    /// # Errors
    /// A store error.
    pub fn cancel_timer(&mut self, kind: &str, key: &str) -> Result<bool, Error> {
        self.store.remove_timer(kind, key)
    }

    /// Asks for a call to the outside, made after the commit. The same key again asks for nothing new; a replay asks for
    /// none that reaches others unless it is told to.
    ///
    /// # Errors
    /// A store error.
    pub fn effect(&mut self, call: EffectCall) -> Result<(), Error> {
        if self.context.reach != Reach::Full && call.class == EffectClass::External {
            return Ok(());
        }
        let mut origin = self.context.origin.clone();
        origin.asked_by = Some((self.context.input_id, self.context.input_time.ms()));
        let now_ms = self.context.now.ms();
        if self.store.add_effect(&call, &origin, now_ms)? {
            self.output.effects.push(call);
        }
        Ok(())
    }

    /// Sets a command's reply. The last one counts.
    ///
    /// # Errors
    /// [`Class::Defect`] for a value that is not JSON.
    pub fn reply(&mut self, value: &impl Serialize) -> Result<(), Error> {
        let value = serde_json::to_value(value).map_err(|error| {
            self.store
                .error(Class::Defect, "writing a reply", error.to_string())
        })?;
        self.output.reply = Some(value);
        Ok(())
    }

    /// Lets a command be answered with what `call` brings, straight from the service to the caller: neither the call nor
    /// its outcome is ever written, and it is not made again. For what no file may hold.
    pub fn reply_with(&mut self, call: EffectCall) {
        self.output.reply_with = Some(call);
    }

    /// Sets a command's reply to a refusal and keeps what was written.
    ///
    /// # Errors
    /// [`Class::Defect`] for a value that is not JSON.
    pub fn refuse(&mut self, refusal: &impl Serialize) -> Result<(), Error> {
        self.output.refused = true;
        self.reply(refusal)
    }

    /// The one JSON document that `sql` selects in its first column.
    ///
    /// # Errors
    /// A store error; [`Class::Defect`] for a document that does not fit `T`.
    pub fn document<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: impl Params,
    ) -> Result<Option<T>, Error> {
        let text: Option<String> = self.store.value("reading an entity", sql, params)?;
        text.map(|text| self.parse(&text)).transpose()
    }

    /// The JSON documents that `sql` selects in its first column, in its order.
    ///
    /// # Errors
    /// As [`Tx::document`].
    pub fn documents<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: impl Params,
    ) -> Result<Vec<T>, Error> {
        let texts: Vec<String> = self
            .store
            .rows("reading entities", sql, params, |row| row.get(0))?;
        texts.iter().map(|text| self.parse(text)).collect()
    }

    fn parse<T: DeserializeOwned>(&self, text: &str) -> Result<T, Error> {
        serde_json::from_str(text).map_err(|error| {
            self.store
                .error(Class::Defect, "reading an entity", error.to_string())
        })
    }

    /// A document's text for a `doc` column.
    ///
    /// # Errors
    /// [`Class::Defect`] for a value that is not JSON.
    pub fn text(&self, document: &impl Serialize) -> Result<String, Error> {
        serde_json::to_string(document).map_err(|error| {
            self.store
                .error(Class::Defect, "writing an entity", error.to_string())
        })
    }

    /// The one value that `sql` selects.
    ///
    /// # Errors
    /// A store error.
    pub fn value<T: FromSql>(&self, sql: &str, params: impl Params) -> Result<Option<T>, Error> {
        self.store
            .connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row(params, |row| row.get(0)).optional())
            .map_err(|error| Error::sqlite("reading a value", &self.store.options.path, &error))
    }

    /// Runs a statement that changes rows; returns how many.
    ///
    /// # Errors
    /// A store error.
    pub fn execute(&mut self, sql: &str, params: impl Params) -> Result<usize, Error> {
        self.store.run("writing an entity", sql, params)
    }
}
