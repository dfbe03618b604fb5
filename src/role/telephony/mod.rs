//! The role `telephony`: calls, transcripts, summaries (DOMAIN 5.8).
//!
//! `webhook` is the phone provider speaking, `intake` what a call must bring before it is an incident, `transcribe` what
//! becomes of the words; [`redact`] and [`summary`] are the pure rules. Numbers and words rest sealed: under the driver's data
//! key, or under the call's own while nobody knows who calls.

mod commands;
pub mod entity;
mod intake;
mod reactions;
pub mod redact;
pub mod summary;
#[cfg(test)]
mod tests;
mod transcribe;
mod webhook;

use std::time::Duration;

use schemars::JsonSchema;

use super::listing::Page;
use super::permission::{Permission as P, Scope};
use super::{Command, CommandSpec, HandlerError, Input, Role, RoleName, Taken};
use crate::store::{Secret, Tx};
use entity::Call;

/// Kind of the call to an outside summariser.
pub const SUMMARISE: &str = "summarise";

/// What the role is made with.
#[derive(Debug, Clone)]
pub struct TelephonyOptions {
    /// What the provider signs its webhooks with; without it none is believed.
    pub webhook_secret: Option<Secret>,
    /// Whether there is an outside summariser.
    pub summariser: bool,
    /// From the end of a call to people being called when its intake is incomplete.
    pub intake_wait: Duration,
}

impl Default for TelephonyOptions {
    fn default() -> Self {
        Self {
            webhook_secret: None,
            summariser: false,
            intake_wait: Duration::from_secs(60),
        }
    }
}

/// The role.
#[derive(Debug, Default)]
pub struct TelephonyRole {
    options: TelephonyOptions,
}

impl TelephonyRole {
    /// The role with these options.
    #[must_use]
    pub fn new(options: TelephonyOptions) -> Self {
        Self { options }
    }
}

const fn spec<B: JsonSchema>(name: &'static str, permission: P, mutates: bool) -> CommandSpec {
    CommandSpec::new::<B>(name, permission, mutates)
}

const COMMANDS: &[CommandSpec] = &[
    spec::<webhook::Webhook>("call.webhook", P::Webhook, true).answers::<Taken>(),
    spec::<intake::Body>("call.intake", P::CallIntake, true).answers::<Call>(),
    spec::<intake::Drop>("call.drop_intake", P::CallIntake, true).answers::<Call>(),
    spec::<commands::One>("call.get", P::CallView, false).answers::<commands::WithTranscript>(),
    spec::<commands::ListBody>("call.list", P::CallView, false).answers::<Page<Call>>(),
    // Its replies must not be kept, for they are what is sealed; each look is written down anew.
    spec::<commands::Reveal>("call.reveal_pii", P::CallRevealPii, false)
        .answers::<commands::Revealed>(),
];

impl Role for TelephonyRole {
    fn name(&self) -> RoleName {
        RoleName::Telephony
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
            Input::Event(received) => reactions::on_event(tx, &self.options, received),
            Input::Command(command) => commands::run(tx, &self.options, command),
            Input::Timer(timer) => reactions::on_timer(tx, timer),
            Input::Effect(result) => reactions::on_effect(tx, result),
        }
    }
}
