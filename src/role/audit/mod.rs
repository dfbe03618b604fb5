//! The role `audit` (DOMAIN 5.12, 4.3, 4.4): it logs every event, keeps the ledger, raises the technical alarms and knows all that
//! are raised, writes replay and redrive jobs down, discards letters, and publishes for producers outside.

mod dlq;
mod erasure;
pub mod job;
pub mod ledger;
mod log;
pub mod measures;
mod publish;
pub mod recount;
mod replay;
pub mod rule;
pub mod sites;
mod standing;
pub mod sync;
#[cfg(test)]
mod tests;
pub mod webhook;

use std::time::Duration;

use schemars::JsonSchema;

use super::listing::Page;
use super::permission::{Permission, Scope};
use super::{
    Code, Command, CommandSpec, HandlerError, Input, KEY_DESTROY, NoBody, Received, Rejection,
    Role, RoleName, alarm,
};
use crate::event::Known;
use crate::store::Tx;

/// The role.
#[derive(Debug)]
pub struct AuditRole {
    /// How long a logged line is kept here, where it can be searched and the same event is recognised: as long as the archive
    /// may bring it again. The files keep it longer.
    pub keep: Duration,
    /// Whether alarms are told to a webhook.
    pub webhook: bool,
}

impl Default for AuditRole {
    /// With the numbers of profile prod: 90 days of archive, a week offline.
    fn default() -> Self {
        Self {
            keep: Duration::from_secs(97 * 24 * 3600),
            webhook: false,
        }
    }
}

const MIGRATIONS: &[&str] = &["
CREATE TABLE job (name TEXT PRIMARY KEY, doc TEXT NOT NULL, state TEXT NOT NULL, at_ms INTEGER NOT NULL) WITHOUT ROWID;
",
"
-- What others published through this role, so that the same event sent again is not published again.
CREATE TABLE accepted (event_id TEXT PRIMARY KEY, digest TEXT NOT NULL, at_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX accepted_at ON accepted (at_ms);
",
log::MIGRATION,
ledger::MIGRATION,
alarm::MIGRATION,
standing::MIGRATION,
measures::MIGRATION,
sync::MIGRATION,
recount::MIGRATION,
measures::LAST_MIGRATION,
webhook::MIGRATION,
];

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
            command::<replay::Start>("replay.start", true).answers::<replay::Told>(),
            command::<replay::Named>("replay.cancel", true).answers::<replay::Told>(),
            command::<replay::Rebuild>("replay.rebuild", true).answers::<replay::Told>(),
            command::<replay::Named>("replay.status", false).answers::<replay::Told>(),
            command::<replay::List>("replay.list", false).answers::<Vec<replay::Told>>(),
            command::<dlq::Redrive>("dlq.redrive", true).answers::<replay::Told>(),
            command::<dlq::Purge>("dlq.purge", true).answers::<dlq::Purged>(),
            command::<rule::Named>("rule.enable", true).answers::<rule::Switched>(),
            command::<rule::Named>("rule.disable", true).answers::<rule::Switched>(),
            command::<publish::Publish>("event.publish", true).answers::<publish::Published>(),
            command::<log::Search>("audit.search", false).answers::<Page<log::LogLine>>(),
            command::<ledger::Export>("audit.export", false).answers::<ledger::LedgerPage>(),
            command::<ledger::Verify>("audit.verify", false).answers::<ledger::Verdict>(),
            command::<NoBody>("alarm.list", false).answers::<standing::Listed>(),
            command::<standing::Acknowledge>("alarm.acknowledge", true)
                .answers::<standing::Acknowledged>(),
            command::<NoBody>("site.list", false).answers::<Page<sync::Standing>>(),
            CommandSpec::new::<NoBody>(sync::LEDGER, Permission::OpsMeasure, false)
                .answers::<Page<sync::Standing>>(),
            CommandSpec::new::<ledger::Notes>(ledger::NOTE, Permission::OpsMeasure, true)
                .answers::<NoBody>(),
            CommandSpec::new::<recount::Recount>(recount::RECOUNT, Permission::OpsMeasure, true)
                .answers::<NoBody>(),
            CommandSpec::new::<sites::Report>(sites::REPORT, Permission::OpsMeasure, true)
                .answers::<NoBody>(),
            CommandSpec::new::<measures::Measured>(
                measures::MEASURED,
                Permission::OpsMeasure,
                true,
            )
            .answers::<NoBody>(),
        ];
        COMMANDS
    }

    fn scope(&self, _tx: &Tx<'_>, _command: &Command) -> Result<Scope, HandlerError> {
        Ok(Scope::Open)
    }

    fn handle(&mut self, tx: &mut Tx<'_>, input: &Input) -> Result<(), HandlerError> {
        match input {
            Input::Command(command) => match changed(tx, command)? {
                // What an operator changed is in the log and in the ledger, in the commit that changes it.
                Some(subject) => {
                    log::command(tx, command, &subject, self.keep)?;
                    ledger::command(tx, command, &subject)?;
                    Ok(())
                }
                None => asked(tx, command),
            },
            Input::Event(received) => self.event(tx, received),
            Input::Timer(timer) if timer.kind == webhook::TIMER => Ok(webhook::pump(tx)?),
            Input::Timer(timer) if timer.kind == erasure::TIMER => erasure::due(tx, timer),
            Input::Timer(timer) => measures::due(tx, timer),
            Input::Effect(result) if result.kind == KEY_DESTROY => erasure::on_result(tx, result),
            Input::Effect(result) => webhook::on_result(tx, result),
        }
    }
}

impl AuditRole {
    /// Logged, in the ledger if it belongs there, and looked at for what this role follows.
    fn event(&self, tx: &mut Tx<'_>, received: &Received) -> Result<(), HandlerError> {
        let event = received.event.as_ref();
        log::event(tx, event, self.keep)?;
        ledger::event(tx, event)?;
        if let Some(producer) = &received.producer {
            sync::heard(tx, event, producer)?;
        }
        if self.webhook {
            webhook::heard(tx, event)?;
        }
        match event.known() {
            Some(Known::ReplayCompleted(ended)) => {
                replay::ended(tx, &ended.replay_name, &ended.state.to_string())
            }
            Some(Known::ReplayCancelled(ended)) => {
                replay::ended(tx, &ended.replay_name, "CANCELLED")
            }
            Some(Known::SiteReported(report)) => {
                sync::reported(tx, event, report).map_err(Into::into)
            }
            Some(Known::UserDataDeleted(erased)) => erasure::heard(tx, erased).map_err(Into::into),
            Some(Known::AlarmRaised(alarm)) => {
                standing::told_raised(tx, event, alarm).map_err(Into::into)
            }
            Some(Known::AlarmCleared(alarm)) => {
                standing::told_cleared(tx, event, alarm).map_err(Into::into)
            }
            _ => Ok(()),
        }
    }
}

/// A command by which a person changes something, with what it was about; `None` for any other.
fn changed(tx: &mut Tx<'_>, command: &Command) -> Result<Option<String>, HandlerError> {
    let (field, kind) = match command.name.as_str() {
        "replay.start" => replay::start(tx, command).map(|()| ("queue", "queue"))?,
        "replay.cancel" => replay::cancel(tx, command).map(|()| ("name", "replayName"))?,
        "replay.rebuild" => replay::rebuild(tx, command).map(|()| ("role", "role"))?,
        "dlq.redrive" => dlq::redrive(tx, command).map(|()| ("queue", "queue"))?,
        "dlq.purge" => dlq::purge(tx, command).map(|()| ("queue", "queue"))?,
        "rule.enable" => rule::switch(tx, command, true).map(|()| ("rule", "rule"))?,
        "rule.disable" => rule::switch(tx, command, false).map(|()| ("rule", "rule"))?,
        "alarm.acknowledge" => return standing::acknowledge(tx, command).map(Some),
        // Each of its events is in the log by itself, and belongs to the ledger or not.
        _ => return Ok(None),
    };
    let named = command.body.get(field).and_then(serde_json::Value::as_str);
    Ok(Some(format!("{kind}/{}", named.unwrap_or_default())))
}

/// Every other command.
fn asked(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    match command.name.as_str() {
        "replay.status" => replay::status(tx, command),
        "replay.list" => replay::list(tx, command),
        "event.publish" => publish::publish(tx, command),
        "audit.search" => log::search(tx, command),
        "audit.export" => ledger::export(tx, command),
        "audit.verify" => ledger::verify(tx, command),
        "alarm.list" => standing::list(tx, command),
        measures::MEASURED => measures::measured(tx, command),
        sites::REPORT => sites::report(tx, command),
        "site.list" | sync::LEDGER => sync::list(tx, command),
        recount::RECOUNT => recount::recount(tx, command),
        ledger::NOTE => ledger::note(tx, command),
        other => Err(Rejection::new(Code::NotFound, format!("no command {other}")).into()),
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
