//! The role `reporting`: facts and what follows from them, made of events alone (DOMAIN 5.7).
//!
//! `project` writes down what each event says, `fact` reads it back, `tally` counts it; `commands`, `kpi`, `vendor` and
//! `export` answer; `watch` raises the alarms. The facts are a projection:
//! emptied and fed from the archive again they are the same (DOMAIN 7, invariant 19).

mod commands;
mod export;
mod fact;
mod kpi;
mod project;
mod region;
mod schema;
mod tally;
#[cfg(test)]
mod tests;
mod vendor;
mod watch;

use schemars::JsonSchema;

use super::permission::{Permission, Scope};
use super::{Command, CommandSpec, HandlerError, Input, Mode, Role, RoleName};
use crate::event::Ts;
use crate::store::{Tx, params};

/// The role.
#[derive(Debug, Default)]
pub struct ReportingRole;

const COMMANDS: &[CommandSpec] = &[
    spec::<commands::Asked>("report.incidents").answers::<commands::IncidentsReport>(),
    spec::<kpi::Asked>("report.kpis").answers::<kpi::Figures>(),
    spec::<vendor::Asked>("report.vendor").answers::<vendor::VendorReport>(),
    spec::<export::Asked>("report.export").answers::<export::ExportPage>(),
];

const fn spec<B: JsonSchema>(name: &'static str) -> CommandSpec {
    CommandSpec::new::<B>(name, Permission::AnalyticsView, false)
}

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
            Input::Event(received) => {
                project::project(tx, &received.event)?;
                match received.event.known() {
                    Some(known) if received.mode != Mode::Replay => watch::note(tx, known),
                    _ => Ok(()),
                }
            }
            Input::Command(command) => commands::run(tx, command),
            Input::Timer(timer) if timer.kind == watch::TIMER => {
                watch::look(tx, &timer.key, timer.due_at)
            }
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
