//! A bench for one role: a real store in a temporary directory, a clock that the test sets, and the events that came
//! out. It stands in for the engine only where a test is about the role's own rules.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value};
use tempfile::TempDir;

use super::permission::{self, Caller};
use super::{
    Code, Command, CommandSpec, EffectResult, Entropy, HandlerError, Input, Mode, Received,
    Rejection, Role, Timer,
};
use crate::event::seal::{self, NOBODY, SECRET_LEN};
use crate::event::{
    Actor, Base, Codec, DataKey, Detail, Event, Id, KeyError, Keyring, Personal, Sealed, Site, Ts,
    decode, encode, ids,
};
pub use crate::store::Reach;
use crate::store::{
    Context, EffectCall, EffectOutcome, Identity, Options, Origin, Reader, Store, Synchronous, Tx,
};

/// Keys that are made of the names of their subjects; those of whom is erased are gone.
#[derive(Debug, Default)]
pub struct TestKeys {
    erased: Mutex<BTreeSet<String>>,
}

impl TestKeys {
    fn key(&self, subject: &str) -> Result<DataKey, KeyError> {
        let erased = self.erased.lock().expect("no test panics with it");
        if erased.contains(subject) {
            return Err(KeyError::Erased);
        }
        let mut secret = [0; SECRET_LEN];
        let bytes = subject.as_bytes();
        secret[..bytes.len().min(SECRET_LEN)]
            .copy_from_slice(&bytes[..bytes.len().min(SECRET_LEN)]);
        Ok(DataKey::new(subject, &secret))
    }

    /// Destroys the keys of a subject.
    pub fn erase(&self, subject: &str) {
        let mut erased = self.erased.lock().expect("no test panics with it");
        erased.insert(subject.to_owned());
    }
}

impl Keyring for TestKeys {
    fn of(&self, subject: &str) -> Result<DataKey, KeyError> {
        // What is sealed for an erased person nobody reads.
        self.key(subject)
            .or_else(|_| Ok(DataKey::new(NOBODY, &[0; SECRET_LEN])))
    }
    fn named(&self, key_id: &str) -> Result<DataKey, KeyError> {
        self.key(key_id)
    }
    fn blind(&self) -> Result<DataKey, KeyError> {
        self.key("blind")
    }
    fn forget(&self, _subject: &str) {}
}

/// A role on the bench.
pub struct Bench<R: Role> {
    /// The role under test.
    pub role: R,
    /// The time that the next input sees.
    pub now: Ts,
    /// The chance that the next command brings.
    pub entropy: [u8; 32],
    /// What personal data is sealed with.
    pub keys: Arc<TestKeys>,
    /// Personal data was put into the database in clear, as older versions did: the look at the end is left out.
    pub has_clear: bool,
    /// Calls to the outside that were asked for, oldest first.
    pub calls: Vec<EffectCall>,
    /// How far the next input reaches.
    pub reach: Reach,
    store: Store,
    reader: Reader,
    inputs: u64,
    read_to: i64,
    /// The call whose outcome would have answered the last command.
    pub answering: Option<EffectCall>,
    _dir: TempDir,
}

impl<R: Role> Bench<R> {
    /// A fresh store where nothing is sealed.
    pub fn without_keys(role: R) -> Self {
        Self::open(role, false)
    }

    /// A fresh store, at 2026-01-15T10:00:00Z.
    pub fn new(role: R) -> Self {
        Self::open(role, true)
    }

    fn open(role: R, seals: bool) -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        let options = Options {
            path: dir.path().join("role.db"),
            synchronous: Synchronous::Off,
            site: Site::new("hub").expect("a valid site"),
            role: role.name().as_str().to_owned(),
            queue: role.name().queue().unwrap_or_default().to_owned(),
            codec: Codec::Json,
        };
        let fresh = Identity {
            store_id: ids::derive_v7(0, &[b"test"]),
            epoch: "e1".to_owned(),
        };
        let mut store = Store::open(options, role.migrations(), &fresh).expect("the store opens");
        let keys = Arc::new(TestKeys::default());
        if seals {
            store.seal_with(Arc::clone(&keys) as Arc<dyn Keyring>);
        }
        let reader = Reader::open(store.path()).expect("the store can be read");
        Self {
            role,
            now: Ts::from_ms(1_768_471_200_000),
            entropy: [7; 32],
            keys,
            has_clear: false,
            calls: Vec::new(),
            reach: Reach::Full,
            store,
            reader,
            inputs: 0,
            read_to: 0,
            answering: None,
            _dir: dir,
        }
    }

    /// What is in a personal value.
    pub fn revealed<T: serde::de::DeserializeOwned + Clone>(
        &self,
        value: &Personal<T>,
    ) -> Option<T> {
        let sealed = match value {
            Personal::Plain(value) => return Some(value.clone()),
            Personal::Sealed(sealed) => sealed,
        };
        let opened = seal::open(sealed, self.keys.as_ref()).expect("a key is there or erased");
        opened.map(|bytes| serde_json::from_slice(&bytes).expect("what was sealed"))
    }

    /// The role's database as whoever got the file has it.
    fn file(&self) -> String {
        let wal = self.store.path().with_extension("db-wal");
        let mut bytes = std::fs::read(self.store.path()).expect("the database can be read");
        bytes.extend(std::fs::read(wal).unwrap_or_default());
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether a text stands in the role's database in clear.
    pub fn rests(&self, text: &str) -> bool {
        self.file().contains(text)
    }

    /// What is sealed in the role's database and can be opened still, each once.
    pub fn openable(&self) -> Vec<Value> {
        let text = self.file();
        let mut found: Vec<Value> = Vec::new();
        for (at, _) in text.match_indices("sealed:1:") {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_');
            let end = text[at..]
                .find(|c| !fits(c))
                .map_or(text.len(), |end| at + end);
            let sealed = Sealed::parse(&text[at..end]);
            let opened = sealed.and_then(|sealed| seal::open(&sealed, self.keys.as_ref()).ok()?);
            // What can't be opened is broken by a page's end, or of an erased person.
            if let Some(value) = opened.and_then(|bytes| serde_json::from_slice(&bytes).ok())
                && !found.contains(&value)
            {
                found.push(value);
            }
        }
        found
    }

    fn next_id(&mut self) -> Id {
        self.inputs += 1;
        ids::derive_v7(self.now.ms(), &[b"input", &self.inputs.to_be_bytes()])
    }

    /// Runs one input in its own step. On success returns the reply and the events emitted.
    pub fn run(
        &mut self,
        input: &Input,
        input_id: Id,
    ) -> Result<(Option<Value>, Vec<Event>), HandlerError> {
        self.store.begin().expect("a step begins");
        let (first, input_time, correlation) = match input {
            Input::Event(received) => (false, received.event.time, received.event.correlation),
            Input::Timer(timer) => (false, timer.due_at, None),
            _ => (true, self.now, None),
        };
        let home = match input {
            Input::Event(received) => {
                let event = &received.event;
                Some(event.home.clone().unwrap_or_else(|| event.site.clone()))
            }
            _ => None,
        };
        let origin = Origin {
            cause: Some(input_id),
            correlation,
            home: home.filter(|home| *home != self.store.options().site),
            ..Origin::default()
        };
        let replayed = matches!(input, Input::Event(received) if received.mode == Mode::Replay);
        let context = Context {
            now: self.now,
            input_id,
            input_time,
            first,
            origin,
            delivery: replayed.then_some("replay"),
            reach: self.reach,
            trace: None,
        };
        let mut tx = Tx::open(&mut self.store, context).expect("a savepoint opens");
        let result = self.role.handle(&mut tx, input);
        let reply = match result {
            Ok(()) => {
                let kept = tx.keep().expect("kept");
                self.calls
                    .extend(kept.effects.into_iter().map(|call| shown(call, &self.keys)));
                self.answering.clone_from(&kept.reply_with);
                if kept.refused {
                    self.store.commit().expect("committed");
                    let reply = kept.reply.unwrap_or_default();
                    let refusal = serde_json::from_value(reply).expect("a refusal");
                    return Err(HandlerError::Rejected(refusal));
                }
                if let (Input::Command(command), Some(reply)) = (input, &kept.reply) {
                    self.keep_reply(command, reply);
                }
                kept.reply
            }
            Err(error) => {
                tx.abandon().expect("undone");
                self.store.rollback();
                return Err(error);
            }
        };
        self.store.commit().expect("committed");
        Ok((reply, self.emitted()))
    }

    /// Keeps the reply of a command that may come again, as the engine does.
    fn keep_reply(&mut self, command: &Command, reply: &Value) {
        let mutates = |spec: &CommandSpec| spec.name == command.name && spec.mutates;
        if command.client_request_id.is_some() && self.role.commands().iter().any(mutates) {
            let key = command.id.to_string();
            self.store
                .keep_reply(&key, &reply.to_string(), self.now.ms())
                .expect("kept");
        }
    }

    fn emitted(&mut self) -> Vec<Event> {
        let rows = self
            .reader
            .outbox(self.read_to + 1, i64::MAX, 10_000)
            .expect("the outbox can be read");
        self.read_to = rows.last().map_or(self.read_to, |row| row.n);
        // Letters and documents have subjects of their own.
        rows.iter()
            .filter(|row| row.subject.starts_with("roadcall."))
            .map(|row| decode(&row.subject, Some("application/json"), &row.body).expect("valid"))
            .collect()
    }

    /// Delivers an event from another role.
    pub fn event<D: Detail>(&mut self, detail: &D) -> Result<Vec<Event>, HandlerError> {
        let received = self.received(detail, Mode::Live, false);
        self.deliver(received)
    }

    /// Delivers an event that its rule calls too old.
    pub fn old_event<D: Detail>(&mut self, detail: &D) -> Result<Vec<Event>, HandlerError> {
        let received = self.received(detail, Mode::Live, true);
        self.deliver(received)
    }

    /// Delivers an event as a replay does that calls nobody outside.
    pub fn replay<D: Detail>(&mut self, detail: &D) -> Result<Vec<Event>, HandlerError> {
        let received = self.received(detail, Mode::Replay, false);
        let before = std::mem::replace(&mut self.reach, Reach::NoExternal);
        let result = self.deliver(received);
        self.reach = before;
        result
    }

    /// An event from another role, with an id of its own, to be delivered once or more.
    pub fn received<D: Detail>(&mut self, detail: &D, mode: Mode, too_old: bool) -> Received {
        let base = Base {
            id: self.next_id(),
            time: self.now,
            site: Site::new("hub").expect("a valid site"),
            home: None,
            cause: None,
            correlation: None,
            metadata: std::collections::BTreeMap::default(),
        };
        Received {
            event: self.arrived(Event::build(detail, base)),
            mode,
            too_old,
            producer: None,
        }
    }

    /// An event of a producer that seals nothing.
    pub fn unsealed<D: Detail>(&mut self, detail: &D) -> Received {
        let received = self.received(detail, Mode::Live, false);
        let base = Base {
            id: received.event.id,
            time: received.event.time,
            site: received.event.site.clone(),
            home: None,
            cause: None,
            correlation: None,
            metadata: std::collections::BTreeMap::default(),
        };
        Received {
            event: Arc::new(Event::build(detail, base)),
            ..received
        }
    }

    /// An event as it comes over the wire: its personal fields are sealed.
    fn arrived(&self, mut event: Event) -> Arc<Event> {
        let subject = event.to_seal().filter(|_| self.store.keys().is_some());
        if let Some(subject) = subject.map(str::to_owned) {
            event.seal(&self.keys.of(&subject).expect("there always is one"));
        }
        let body = encode(&event, Codec::Json).expect("small");
        let subject = event.subject().to_string();
        Arc::new(decode(&subject, None, &body).expect("what was written"))
    }

    /// An event that came from another site.
    pub fn foreign<D: Detail>(&mut self, site: &str, detail: &D) -> Received {
        let base = Base {
            id: self.next_id(),
            time: self.now,
            site: Site::new(site).expect("a valid site"),
            home: None,
            cause: None,
            correlation: None,
            metadata: std::collections::BTreeMap::default(),
        };
        let received = self.received(detail, Mode::Live, false);
        Received {
            event: self.arrived(Event::build(detail, base)),
            ..received
        }
    }

    /// Sites that lack the role.
    pub fn stand_in_for(&mut self, sites: &[&str]) {
        let site = |name: &&str| Site::new(*name).expect("a valid site");
        self.store.stand_in_for(sites.iter().map(site).collect());
    }

    /// Delivers it: the engine would know a second copy by its id, the role alone does not.
    pub fn deliver(&mut self, received: Received) -> Result<Vec<Event>, HandlerError> {
        let id = received.event.id;
        Ok(self.run(&Input::Event(Box::new(received)), id)?.1)
    }

    /// The calls that have no handled result yet, the oldest first.
    pub fn effects(&self) -> Vec<EffectCall> {
        let pending = self.store.pending_effects().expect("effects can be read");
        let calls = pending.into_iter().map(|pending| pending.call);
        calls.map(|call| shown(call, &self.keys)).collect()
    }

    /// Hands over how a call ended, as the engine does.
    pub fn effect_result(
        &mut self,
        key: &str,
        outcome: EffectOutcome,
    ) -> Result<Vec<Event>, HandlerError> {
        let pending = self.store.pending_effect(key).expect("effects can be read");
        let call = pending.expect("the call was asked for").call;
        self.answer(&call, outcome)
    }

    /// The same for a call that the test has in hand.
    pub fn answer(
        &mut self,
        call: &EffectCall,
        outcome: EffectOutcome,
    ) -> Result<Vec<Event>, HandlerError> {
        let id = self.next_id();
        let input = Input::Effect(EffectResult {
            key: call.key.clone(),
            kind: call.kind.clone(),
            outcome,
            request: self.asked_for(call),
        });
        let events = self.run(&input, id)?.1;
        self.store.begin().expect("a step begins");
        self.store.remove_effect(&call.key).expect("removed");
        self.store.commit().expect("committed");
        Ok(events)
    }

    /// The request as it is kept.
    fn asked_for(&self, call: &EffectCall) -> Value {
        let pending = self
            .store
            .pending_effect(&call.key)
            .expect("effects can be read");
        pending.map_or_else(|| call.request.clone(), |pending| pending.call.request)
    }

    /// Sends a command as `actor`, through the permission check as the engine does.
    pub fn command(
        &mut self,
        actor: &Actor,
        name: &str,
        body: Value,
    ) -> Result<(Value, Vec<Event>), HandlerError> {
        self.command_as(Caller::of(actor.clone()), name, body)
    }

    /// The same with company and payment type.
    pub fn command_as(
        &mut self,
        caller: Caller,
        name: &str,
        body: Value,
    ) -> Result<(Value, Vec<Event>), HandlerError> {
        let id = self.next_id();
        let Value::Object(body) = body else {
            panic!("a body is an object")
        };
        let client_request_id = body
            .get("clientRequestId")
            .and_then(Value::as_str)
            .map(str::to_owned);
        let command = Command {
            id,
            name: name.to_owned(),
            caller,
            body,
            client_request_id,
            traceparent: None,
            entropy: Entropy(self.entropy),
        };
        let spec = self.role.commands().iter().find(|spec| spec.name == name);
        let Some(spec) = spec else {
            return Err(Rejection::new(Code::NotFound, format!("no command {name}")).into());
        };
        self.store.begin().expect("a step begins");
        let context = Context {
            now: self.now,
            input_id: id,
            input_time: self.now,
            first: true,
            origin: Origin::default(),
            delivery: None,
            reach: Reach::Full,
            trace: None,
        };
        let tx = Tx::open(&mut self.store, context).expect("a savepoint opens");
        let scope = self.role.scope(&tx, &command);
        tx.abandon().expect("undone");
        self.store.rollback();
        permission::check(&command.caller, spec.permission, &scope?)?;
        let (reply, events) = self.run(&Input::Command(Box::new(command)), id)?;
        let mut reply = reply.unwrap_or(Value::Object(Map::new()));
        seal::reveal(&mut reply, self.keys.as_ref()).expect("a key is there or erased");
        Ok((reply, events))
    }

    /// The database as it is, for what no command shows.
    pub fn path(&self) -> &std::path::Path {
        self.store.path()
    }

    /// Changes rows by hand, as somebody with the file could.
    pub fn alter(&mut self, sql: &str) -> usize {
        let input_id = self.next_id();
        self.store.begin().expect("a step begins");
        let context = Context {
            now: self.now,
            input_id,
            input_time: self.now,
            first: true,
            origin: Origin::default(),
            delivery: None,
            reach: Reach::Full,
            trace: None,
        };
        let mut tx = Tx::open(&mut self.store, context).expect("a savepoint opens");
        let changed = tx.execute(sql, ()).expect("changed");
        tx.keep().expect("kept");
        self.store.commit().expect("committed");
        changed
    }

    /// Advances the clock to the earliest due timer and fires it. `None` when no timer is set.
    pub fn fire_next_timer(&mut self) -> Option<Result<Vec<Event>, HandlerError>> {
        let due_ms = self.store.next_timer_due().expect("timers can be read")?;
        self.now = self.now.max(Ts::from_ms(due_ms));
        let due = self
            .store
            .due_timers(self.now.ms(), 1)
            .expect("timers can be read")
            .pop()?;
        self.store.begin().expect("a step begins");
        self.store
            .remove_timer(&due.kind, &due.key)
            .expect("the timer is removed");
        self.store.commit().expect("committed");
        let id = self.next_id();
        let input = Input::Timer(Timer {
            kind: due.kind,
            key: due.key,
            due_at: due.due_at,
            payload: due.payload,
        });
        Some(self.run(&input, id).map(|(_, events)| events))
    }
}

/// The code of a refused command.
pub fn code<T: std::fmt::Debug>(result: Result<T, HandlerError>) -> Code {
    match result {
        Err(HandlerError::Rejected(rejection)) => rejection.code,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// The detail-types of events, in order.
pub fn types(events: &[Event]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event.detail_type.as_str())
        .collect()
}

/// A call as it goes out.
fn shown(mut call: EffectCall, keys: &TestKeys) -> EffectCall {
    seal::reveal(&mut call.request, keys).expect("a key is there or erased");
    call
}

/// Texts shorter than these may stand somewhere by chance.
const TELLING: usize = 7;

impl<R: Role> Drop for Bench<R> {
    /// Whatever a test was about: nothing that is sealed somewhere in the role's database stands there in clear as well.
    fn drop(&mut self) {
        if std::thread::panicking() || self.has_clear {
            return;
        }
        let text = self.file();
        let mut personal = BTreeSet::new();
        for value in self.openable() {
            texts(&value, &mut personal);
        }
        for one in personal {
            assert!(
                !text.contains(&one),
                "'{one}' is personal and stands in clear"
            );
        }
    }
}

fn texts(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::String(text) if text.len() >= TELLING => {
            into.insert(text.clone());
        }
        Value::Array(items) => items.iter().for_each(|item| texts(item, into)),
        Value::Object(map) => map.values().for_each(|item| texts(item, into)),
        _ => {}
    }
}
