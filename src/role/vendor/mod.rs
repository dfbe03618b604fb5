//! The role `vendor`: profiles, availability, rating, metrics (DOMAIN 5.2).

mod commands;
pub mod entity;
mod reactions;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;

use super::listing::Page;
use super::permission::{Permission as P, Scope};
use super::{Command, CommandSpec, HandlerError, Input, NoBody, Role, RoleName};
use crate::store::Tx;
use entity::Vendor;

/// The role.
#[derive(Debug, Default)]
pub struct VendorRole;

const fn spec<B: JsonSchema>(name: &'static str, permission: P, mutates: bool) -> CommandSpec {
    CommandSpec::new::<B>(name, permission, mutates)
}

const COMMANDS: &[CommandSpec] = &[
    CommandSpec {
        body: commands::register_body,
        ..spec::<NoBody>("vendor.register", P::VendorRegister, true).answers::<Vendor>()
    },
    CommandSpec {
        body: commands::update_body,
        ..spec::<NoBody>("vendor.update", P::VendorEdit, true).answers::<Vendor>()
    },
    spec::<commands::Verify>("vendor.verify", P::VendorVerify, true).answers::<Vendor>(),
    spec::<commands::SetAvailability>("vendor.set_availability", P::VendorEdit, true)
        .answers::<Vendor>(),
    spec::<commands::ReportLocation>("vendor.report_location", P::VendorEdit, true)
        .answers::<commands::Reported>(),
    spec::<commands::One>("vendor.get", P::VendorView, false).answers::<Vendor>(),
    spec::<commands::Search>("vendor.search", P::VendorView, false)
        .answers::<Page<commands::Nearby>>(),
    spec::<commands::ListBody>("vendor.list", P::VendorView, false).answers::<Page<Vendor>>(),
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
