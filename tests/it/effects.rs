//! Calls to the outside as the engine sees them: asked for once, and a result is handled in the end without a second call.

use std::path::Path;
use std::sync::{Arc, RwLock};

use serde_json::{Value, json};

use roadcall::event::{Actor, Codec, Site, Ts, ids};
use roadcall::node::engine::{Engine, Settings, StepOutput, Work};
use roadcall::role::permission::{Caller, Permission, Scope};
use roadcall::role::{Command, CommandSpec, Entropy, HandlerError, Input, NoBody, Role, RoleName};
use roadcall::routing::Routes;
use roadcall::store::{
    EffectCall, EffectClass, EffectOutcome, Identity, Options, Store, Synchronous, Tx, params,
};

const START_MS: i64 = 1_768_471_200_000;
const KEY: &str = "sms-1";

/// Asks for a call by a command, and can't handle its result as often as it is told.
struct Calling {
    fails: u32,
}

impl Role for Calling {
    fn name(&self) -> RoleName {
        RoleName::Vendor
    }

    fn migrations(&self) -> &'static [&'static str] {
        &["CREATE TABLE result (text TEXT NOT NULL);"]
    }

    fn commands(&self) -> &'static [CommandSpec] {
        const COMMANDS: &[CommandSpec] = &[CommandSpec::new::<NoBody>(
            "vendor.call",
            Permission::AdminOps,
            true,
        )];
        COMMANDS
    }

    fn scope(&self, _: &Tx<'_>, _: &Command) -> Result<Scope, HandlerError> {
        Ok(Scope::Open)
    }

    fn handle(&mut self, tx: &mut Tx<'_>, input: &Input) -> Result<(), HandlerError> {
        match input {
            Input::Command(_) => {
                let call = EffectCall {
                    key: KEY.to_owned(),
                    kind: "sms".to_owned(),
                    class: EffectClass::External,
                    request: json!({ "text": "hello" }),
                    secret: None,
                };
                // Asked for twice under one key: one call.
                tx.effect(call.clone())?;
                tx.effect(call)?;
                tx.reply(&json!({}))?;
            }
            Input::Effect(result) => {
                tx.execute(
                    "INSERT INTO result (text) VALUES (?1)",
                    params![format!("{:?}", result.outcome)],
                )?;
                if self.fails > 0 {
                    self.fails -= 1;
                    return Err(HandlerError::Transient("not now".to_owned()));
                }
            }
            Input::Event(_) | Input::Timer(_) => {}
        }
        Ok(())
    }
}

fn engine(path: &Path, fails: u32) -> Engine {
    let role = Box::new(Calling { fails });
    let options = Options {
        path: path.to_owned(),
        synchronous: Synchronous::Off,
        site: Site::new("hub").expect("valid"),
        role: "vendor".to_owned(),
        queue: "vendor-queue".to_owned(),
        codec: Codec::Json,
    };
    let fresh = Identity {
        store_id: ids::derive_v8(2, &[b"store"]),
        epoch: "e1".to_owned(),
    };
    let store = Store::open(options, role.migrations(), &fresh).expect("the store opens");
    let routes = Arc::new(RwLock::new(Arc::new(Routes::shipped())));
    let mut engine = Engine::new(store, role, routes, Settings::default());
    engine.start(at(0)).expect("started");
    engine
}

fn at(ms: i64) -> Ts {
    Ts::from_ms(START_MS + ms)
}

fn ask(engine: &mut Engine) -> StepOutput {
    let command = Command {
        id: ids::derive_v7(START_MS, &[b"command"]),
        name: "vendor.call".to_owned(),
        caller: Caller::of(Actor::Operator("test".to_owned())),
        body: serde_json::Map::new(),
        client_request_id: None,
        traceparent: None,
        entropy: Entropy([7; 32]),
    };
    let work = [Work::Command(Box::new(command))];
    engine.step(at(0), &work).expect("stepped")
}

fn end(engine: &mut Engine, now: Ts) -> StepOutput {
    let work = [Work::Effect {
        key: KEY.to_owned(),
        outcome: EffectOutcome::Done(Value::from("sent")),
    }];
    engine.step(now, &work).expect("stepped")
}

fn results(path: &Path) -> Vec<String> {
    let connection = rusqlite::Connection::open(path).expect("opened");
    let mut statement = connection
        .prepare("SELECT text FROM result")
        .expect("prepared");
    let rows = statement.query_map((), |row| row.get(0)).expect("read");
    rows.map(|row| row.expect("a row")).collect()
}

#[test]
fn a_result_that_could_not_be_handled_is_tried_again_without_a_second_call() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("vendor.db");
    let mut before = engine(&path, 1);
    assert_eq!(ask(&mut before).effects.len(), 1, "one key, one call");
    assert_eq!(before.pending_effects().expect("read").len(), 1);
    assert!(end(&mut before, at(1_000)).effects.is_empty());
    assert_eq!(
        results(&path),
        Vec::<String>::new(),
        "the failure is undone"
    );
    drop(before);

    // The process that comes next knows how the call ended: it makes none.
    let mut after = engine(&path, 0);
    assert!(after.pending_effects().expect("read").is_empty());
    after.step(at(300_999), &[]).expect("stepped");
    assert!(results(&path).is_empty(), "not due yet");
    assert_eq!(after.next_due().expect("read"), Some(at(301_000)));
    after.step(at(301_000), &[]).expect("stepped");
    assert_eq!(results(&path), ["Done(String(\"sent\"))"]);

    // A second copy of the result finds nothing to do.
    end(&mut after, at(400_000));
    assert_eq!(results(&path).len(), 1);
}

#[test]
fn a_call_without_a_result_is_made_again_by_the_next_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("vendor.db");
    let mut before = engine(&path, 0);
    let asked = ask(&mut before).effects;
    drop(before);
    let mut after = engine(&path, 0);
    assert_eq!(after.pending_effects().expect("read"), asked);
    end(&mut after, at(1_000));
    assert!(after.pending_effects().expect("read").is_empty());
    assert_eq!(results(&path).len(), 1);
}
