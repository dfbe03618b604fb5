//! The role `config`: the platform's own configuration in versions that are only ever added (DOMAIN 5.11). The folder is
//! named after what it keeps, for `config` is the room that reads the program's configuration.
//!
//! [`values`] has the form and the ranges of each key's value, [`polygon`] what a fence may look like, `entity` the
//! versions, `commands` what admins do with them, `fences` the same for one fence among the others.

mod commands;
pub mod entity;
mod fences;
pub mod polygon;
#[cfg(test)]
mod tests;
pub mod values;

use schemars::JsonSchema;

use super::listing::Page;
use super::permission::{Permission as P, Scope};
use super::{Code, Command, CommandSpec, HandlerError, Input, Rejection, Role, RoleName};
use crate::store::Tx;
use entity::Version;
use values::Defaults;

/// The role.
#[derive(Debug, Default)]
pub struct ConfigRole {
    defaults: Defaults,
}

impl ConfigRole {
    /// The role with these values for keys that nobody has set.
    #[must_use]
    pub fn new(defaults: Defaults) -> Self {
        Self { defaults }
    }
}

const fn spec<B: JsonSchema>(name: &'static str, mutates: bool) -> CommandSpec {
    CommandSpec::new::<B>(name, P::AdminConfig, mutates)
}

const COMMANDS: &[CommandSpec] = &[
    spec::<commands::Get>("config.get", false).answers::<commands::InForce>(),
    spec::<commands::History>("config.history", false).answers::<Page<Version>>(),
    spec::<commands::Update>("config.update", true).answers::<Version>(),
    spec::<commands::Rollback>("config.rollback", true).answers::<Version>(),
    spec::<fences::Add>("geofence.add", true).answers::<fences::Shown>(),
    spec::<fences::Change>("geofence.change", true).answers::<fences::Shown>(),
    spec::<fences::Remove>("geofence.remove", true).answers::<fences::Removed>(),
    spec::<fences::ListBody>("geofence.list", false).answers::<fences::Listed>(),
];

impl Role for ConfigRole {
    fn name(&self) -> RoleName {
        RoleName::Config
    }

    fn migrations(&self) -> &'static [&'static str] {
        entity::MIGRATIONS
    }

    fn commands(&self) -> &'static [CommandSpec] {
        COMMANDS
    }

    fn scope(&self, _: &Tx<'_>, _: &Command) -> Result<Scope, HandlerError> {
        Ok(Scope::Open)
    }

    fn handle(&mut self, tx: &mut Tx<'_>, input: &Input) -> Result<(), HandlerError> {
        // It reads no queue, sets no timer and calls nobody.
        let Input::Command(command) = input else {
            return Ok(());
        };
        match command.name.as_str() {
            "config.get" => self.get(tx, command),
            "config.history" => commands::history(tx, command),
            "config.update" => self.update(tx, command),
            "config.rollback" => self.rollback(tx, command),
            "geofence.add" => self.add_fence(tx, command),
            "geofence.change" => self.change_fence(tx, command),
            "geofence.remove" => self.remove_fence(tx, command),
            "geofence.list" => self.list_fences(tx, command),
            other => Err(Rejection::new(Code::NotFound, format!("no command {other}")).into()),
        }
    }
}
