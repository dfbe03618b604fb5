//! The role `reporting`: facts and what follows from them, made of events alone (DOMAIN 5.7).
//!
//! `project` writes down what each event says, `fact` reads it back; `commands` answers. The facts are a projection:
//! emptied and fed from the archive again they are the same (DOMAIN 7, invariant 19).

mod commands;
mod fact;
mod project;
mod region;
mod schema;
#[cfg(test)]
mod tests;

use super::permission::{Permission, Scope};
use super::{Command, CommandSpec, HandlerError, Input, Role, RoleName};
use crate::event::Ts;
use crate::store::{Tx, params};

/// The role.
#[derive(Debug, Default)]
pub struct ReportingRole;

const COMMANDS: &[CommandSpec] = &[CommandSpec::new::<commands::Asked>(
    "report.incidents",
    Permission::AnalyticsView,
    false,
)];

impl Role for ReportingRole {
    fn name(&self) -> RoleName {
        RoleName::Reporting
    }

    fn migrations(&self) -> &'static [&'static str] {
        schema::MIGRATIONS
    }

    fn commands(&self) -> &'static [CommandSpec] {
        COMMANDS
    }

    fn scope(&self, _tx: &Tx<'_>, _command: &Command) -> Result<Scope, HandlerError> {
        // A report is about many entities: it leaves out what is not the caller's.
        Ok(Scope::Open)
    }

    fn handle(&mut self, tx: &mut Tx<'_>, input: &Input) -> Result<(), HandlerError> {
        match input {
            Input::Event(received) => project::project(tx, &received.event),
            Input::Command(command) => commands::run(tx, command),
            Input::Timer(_) | Input::Effect(_) => Ok(()),
        }
    }

    fn empty(&mut self, tx: &mut Tx<'_>, archive_from: Ts) -> Result<(), HandlerError> {
        for statement in schema::EMPTY {
            tx.execute(statement, params![archive_from.ms()])?;
        }
        Ok(())
    }
}
