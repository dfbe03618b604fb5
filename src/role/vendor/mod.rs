//! The role `vendor`: profiles, availability, rating, metrics (DOMAIN 5.2).

mod commands;
pub mod entity;
mod reactions;
#[cfg(test)]
mod tests;

use super::permission::{Permission as P, Scope};
use super::{Command, CommandSpec, HandlerError, Input, Role, RoleName};
use crate::store::Tx;

/// The role.
#[derive(Debug, Default)]
pub struct VendorRole;

const fn spec(name: &'static str, permission: P, mutates: bool) -> CommandSpec {
    CommandSpec {
        name,
        permission,
        mutates,
    }
}

const COMMANDS: &[CommandSpec] = &[
    spec("vendor.register", P::VendorRegister, true),
    spec("vendor.update", P::VendorEdit, true),
    spec("vendor.verify", P::VendorVerify, true),
    spec("vendor.set_availability", P::VendorEdit, true),
    spec("vendor.report_location", P::VendorEdit, true),
    spec("vendor.get", P::VendorView, false),
    spec("vendor.search", P::VendorView, false),
    spec("vendor.list", P::VendorView, false),
];

impl Role for VendorRole {
    fn name(&self) -> RoleName {
        RoleName::Vendor
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
