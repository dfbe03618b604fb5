//! The role `audit`, as far as it goes now: it takes every event off its queue, so that each has an outcome there, writes
//! replay and redrive jobs down, discards letters, and publishes for producers outside (DOMAIN 5.12, 4.3). The event log and the ledger come with later
//! issues.

mod dlq;
pub mod job;
mod publish;
mod replay;
pub mod rule;

use schemars::JsonSchema;

use super::permission::{Permission, Scope};
use super::{Code, Command, CommandSpec, HandlerError, Input, Rejection, Role, RoleName};
use crate::event::Known;
use crate::store::Tx;

/// The role.
#[derive(Debug, Default)]
pub struct AuditRole;

const MIGRATIONS: &[&str] = &["
CREATE TABLE job (name TEXT PRIMARY KEY, doc TEXT NOT NULL, state TEXT NOT NULL, at_ms INTEGER NOT NULL) WITHOUT ROWID;
",
"
-- What others published through this role, so that the same event sent again is not published again.
CREATE TABLE accepted (event_id TEXT PRIMARY KEY, digest TEXT NOT NULL, at_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX accepted_at ON accepted (at_ms);
"];

const fn command<B: JsonSchema>(name: &'static str, mutates: bool) -> CommandSpec {
    CommandSpec::new::<B>(name, Permission::AdminOps, mutates)
}

impl Role for AuditRole {
    fn name(&self) -> RoleName {
        RoleName::Audit
    }

    fn migrations(&self) -> &'static [&'static str] {
        MIGRATIONS
    }

    fn commands(&self) -> &'static [CommandSpec] {
        const COMMANDS: &[CommandSpec] = &[
            command::<replay::Start>("replay.start", true),
            command::<replay::Named>("replay.cancel", true),
            command::<replay::Rebuild>("replay.rebuild", true),
            command::<replay::Named>("replay.status", false),
            command::<replay::List>("replay.list", false),
            command::<dlq::Redrive>("dlq.redrive", true),
            command::<dlq::Purge>("dlq.purge", true),
            command::<rule::Named>("rule.enable", true),
            command::<rule::Named>("rule.disable", true),
            command::<publish::Publish>("event.publish", true),
        ];
        COMMANDS
    }

    fn scope(&self, _tx: &Tx<'_>, _command: &Command) -> Result<Scope, HandlerError> {
        Ok(Scope::Open)
    }

    fn handle(&mut self, tx: &mut Tx<'_>, input: &Input) -> Result<(), HandlerError> {
        match input {
            Input::Command(command) => match command.name.as_str() {
                "replay.start" => replay::start(tx, command),
                "replay.cancel" => replay::cancel(tx, command),
                "replay.rebuild" => replay::rebuild(tx, command),
                "replay.status" => replay::status(tx, command),
                "replay.list" => replay::list(tx, command),
                "dlq.redrive" => dlq::redrive(tx, command),
                "dlq.purge" => dlq::purge(tx, command),
                "rule.enable" => rule::switch(tx, command, true),
                "rule.disable" => rule::switch(tx, command, false),
                "event.publish" => publish::publish(tx, command),
                other => Err(Rejection::new(Code::NotFound, format!("no command {other}")).into()),
            },
            Input::Event(received) => match received.event.known() {
                Some(Known::ReplayCompleted(ended)) => {
                    replay::ended(tx, &ended.replay_name, &ended.state.to_string())
                }
                Some(Known::ReplayCancelled(ended)) => {
                    replay::ended(tx, &ended.replay_name, "CANCELLED")
                }
                _ => Ok(()),
            },
            Input::Timer(_) | Input::Effect(_) => Ok(()),
        }
    }
}

/// The queue of a role, by its name in a body.
fn queue(name: &str) -> Result<&'static str, Rejection> {
    let found = RoleName::ALL
        .into_iter()
        .filter_map(RoleName::queue)
        .find(|queue| *queue == name);
    found.ok_or_else(|| Rejection::field("queue", format!("no queue is named '{name}'")))
}
