//! The role `tracking`: sessions, vehicle positions, arrival estimates (DOMAIN 5.4).
//!
//! Left for later issues: `tracking.watch`, and a road router for estimates.

mod commands;
pub mod entity;
mod reactions;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;

use super::permission::{Permission as P, Scope};
use super::{Command, CommandSpec, HandlerError, Input, Role, RoleName};
use crate::store::Tx;
use entity::TrackingSession;

/// The role.
#[derive(Debug, Default)]
pub struct TrackingRole;

const fn spec<B: JsonSchema>(name: &'static str, permission: P, mutates: bool) -> CommandSpec {
    CommandSpec::new::<B>(name, permission, mutates)
}

const COMMANDS: &[CommandSpec] = &[
    spec::<commands::Report>("tracking.report_fix", P::TrackingReport, true)
        .answers::<TrackingSession>(),
    spec::<commands::Named>("tracking.get", P::TrackingView, false).answers::<TrackingSession>(),
    spec::<commands::Named>("tracking.stop", P::TrackingStop, true).answers::<TrackingSession>(),
];

impl Role for TrackingRole {
    fn name(&self) -> RoleName {
        RoleName::Tracking
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
            Input::Event(received) => reactions::on_event(tx, received),
            Input::Command(command) => commands::run(tx, command),
            Input::Timer(_) | Input::Effect(_) => Ok(()),
        }
    }
}
