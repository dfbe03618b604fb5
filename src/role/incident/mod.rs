//! The role `incident`: incidents and their timeline (DOMAIN 5.1).
//!
//! [`entity`] has the incident and its state table, `transition` the one place where the status changes, `commands` and
//! `reactions` what leads to it; [`media`] are beside it.

mod commands;
mod create;
pub mod entity;
#[cfg(test)]
mod erasure_tests;
pub mod media;
mod reactions;
#[cfg(test)]
mod tests;
mod transition;

use std::time::Duration;

use schemars::JsonSchema;

use super::listing::Page;
use super::permission::{Permission as P, Scope};
use super::{Command, CommandSpec, HandlerError, Input, Role, RoleName};
use crate::store::Tx;
use entity::Incident;

/// The role's numbers (DOMAIN 5, timers).
#[derive(Debug, Clone)]
pub struct IncidentOptions {
    /// A vendor has at least this long to arrive.
    pub arrival_min: Duration,
    /// Or this many times his estimate, if that is longer.
    pub arrival_factor: f64,
    /// From arrival to an escalation when the work is not done.
    pub work_overdue: Duration,
    /// From payment_pending to an escalation when it is not closed.
    pub payment_overdue: Duration,
}

impl Default for IncidentOptions {
    fn default() -> Self {
        let hour = Duration::from_secs(3600);
        Self {
            arrival_min: hour / 2,
            arrival_factor: 1.5,
            work_overdue: 24 * hour,
            payment_overdue: 7 * 24 * hour,
        }
    }
}

/// The role.
#[derive(Debug, Default)]
pub struct IncidentRole {
    options: IncidentOptions,
}

impl IncidentRole {
    /// The role with these numbers.
    #[must_use]
    pub fn new(options: IncidentOptions) -> Self {
        Self { options }
    }
}

const fn spec<B: JsonSchema>(name: &'static str, permission: P, mutates: bool) -> CommandSpec {
    CommandSpec::new::<B>(name, permission, mutates)
}

const COMMANDS: &[CommandSpec] = &[
    spec::<create::Create>("incident.create", P::IncidentCreate, true).answers::<Incident>(),
    spec::<commands::One>("incident.get", P::IncidentView, false)
        .answers::<commands::WithTimeline>(),
    spec::<commands::ListBody>("incident.list", P::IncidentView, false).answers::<Page<Incident>>(),
    spec::<commands::Change>("incident.update_status", P::IncidentUpdate, true)
        .answers::<Incident>(),
    spec::<commands::Change>("incident.start_work", P::IncidentUpdate, true).answers::<Incident>(),
    spec::<commands::Change>("incident.complete_work", P::IncidentUpdate, true)
        .answers::<Incident>(),
    spec::<commands::Change>("incident.cancel", P::IncidentCancel, true).answers::<Incident>(),
    spec::<commands::Change>("incident.withdraw", P::IncidentWithdraw, true).answers::<Incident>(),
    spec::<commands::Change>("incident.release", P::IncidentRelease, true).answers::<Incident>(),
    spec::<commands::Change>("incident.close", P::IncidentRelease, true).answers::<Incident>(),
    spec::<commands::Change>("incident.rematch", P::IncidentAssign, true).answers::<Incident>(),
    spec::<commands::Change>("incident.rate", P::IncidentRate, true).answers::<Incident>(),
    media::COMMAND,
];

impl Role for IncidentRole {
    fn name(&self) -> RoleName {
        RoleName::Incident
    }

    fn migrations(&self) -> &'static [&'static str] {
        entity::MIGRATIONS
    }

    fn commands(&self) -> &'static [CommandSpec] {
        COMMANDS
    }

    fn scope(&self, tx: &Tx<'_>, command: &Command) -> Result<Scope, HandlerError> {
        commands::scope(tx, command)
    }

    fn handle(&mut self, tx: &mut Tx<'_>, input: &Input) -> Result<(), HandlerError> {
        match input {
            Input::Event(received) => self.on_event(tx, received),
            Input::Command(command) => self.run_command(tx, command),
            Input::Timer(timer) => self.on_timer(tx, timer),
            Input::Effect(_) => Ok(()),
        }
    }
}
