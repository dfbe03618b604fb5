//! The role `match`: match cases, offers, claims on vendors (DOMAIN 5.3).
//!
//! [`settings`] has the numbers, [`scoring`] the pure rules of whom to ask, [`candidate`] what is known of vendors,
//! [`entity`] cases, offers and claims, `rounds` how they move; `commands` and `reactions` are what moves them.

pub mod candidate;
mod commands;
pub mod entity;
#[cfg(test)]
mod erasure_tests;
mod reactions;
mod rounds;
pub mod scoring;
pub mod settings;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;

use super::listing::Page;
use super::permission::{Permission as P, Scope};
use super::{Command, CommandSpec, HandlerError, Input, Role, RoleName};
use crate::store::Tx;
use entity::{MatchCase, Offer};
use settings::Settings;

/// The role.
#[derive(Debug, Default)]
pub struct MatchRole {
    options: Settings,
}

impl MatchRole {
    /// The role with these numbers until the platform's configuration says otherwise.
    #[must_use]
    pub fn new(options: Settings) -> Self {
        Self { options }
    }
}

const fn spec<B: JsonSchema>(name: &'static str, permission: P, mutates: bool) -> CommandSpec {
    CommandSpec::new::<B>(name, permission, mutates)
}

const COMMANDS: &[CommandSpec] = &[
    spec::<commands::OneOffer>("offer.get", P::OfferView, false).answers::<Offer>(),
    spec::<commands::ListBody>("offer.list", P::OfferView, false).answers::<Page<Offer>>(),
    spec::<commands::Answer>("offer.accept", P::OfferAccept, true).answers::<Offer>(),
    spec::<commands::Answer>("offer.decline", P::OfferDecline, true).answers::<Offer>(),
    spec::<commands::Assign>("match.assign", P::IncidentAssign, true).answers::<Offer>(),
    spec::<commands::OneCase>("match.get", P::IncidentAssign, false).answers::<MatchCase>(),
];

impl Role for MatchRole {
    fn name(&self) -> RoleName {
        RoleName::Match
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
