//! The role `notifications`: who is told what, on which channel, once (DOMAIN 5.6).
//!
//! In reading order: `table` (which event tells whom what), `contact` and `preferences` (whom it reaches, and whether),
//! `render` and `values` (the words), `sending` (checks, whose turn it is, tries), `delivery` (the log), `webhook` (what
//! the SMS service tells back). Messages are effects of kinds `push`, `sms` and `email` under the delivery's id; who makes
//! the calls is configured, and stands in `provider`.

mod commands;
pub mod contact;
pub mod delivery;
pub mod preferences;
mod reactions;
pub mod render;
mod sending;
pub mod table;
#[cfg(test)]
mod tests;
mod values;
mod webhook;

use std::time::Duration;

use schemars::JsonSchema;

use super::listing::Page;
use super::permission::{Permission as P, Scope};
use super::{Command, CommandSpec, HandlerError, Input, NoBody, Role, RoleName};
use crate::store::{Secret, Tx};
use delivery::Delivery;
use preferences::Preferences;

/// Timer that takes up a delivery again.
const RETRY: &str = "retry";
/// Timer that clears the log.
const RETENTION: &str = "retention";

/// The role's numbers, from the configuration.
#[derive(Debug, Clone)]
pub struct Options {
    /// SMS to one person in any rolling hour, exempt types not counted.
    pub sms_per_hour: i64,
    /// From one try of a channel to the next.
    pub retry_delay: Duration,
    /// What links in messages begin with, without a slash at the end.
    pub link_base: String,
    /// What the SMS service's webhooks are checked with; without it there are none.
    pub inbound: Option<Inbound>,
}

/// See [`Options::inbound`].
#[derive(Debug, Clone)]
pub struct Inbound {
    /// The URL that the service calls, exactly as it was given to it: it is part of what is signed.
    pub url: String,
    /// The account's token, which signs.
    pub token: Secret,
}

/// The role.
#[derive(Debug)]
pub struct NotificationsRole {
    options: Options,
}

impl NotificationsRole {
    /// With these numbers.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options }
    }
}

const fn spec<B: JsonSchema>(name: &'static str, permission: P, mutates: bool) -> CommandSpec {
    CommandSpec::new::<B>(name, permission, mutates)
}

const COMMANDS: &[CommandSpec] = &[
    spec::<commands::Send>("notification.send", P::NotificationSend, true)
        .answers::<commands::Made>(),
    spec::<commands::SendOtp>("notification.send_otp", P::NotificationOtp, true)
        .answers::<commands::Made>(),
    spec::<commands::Own>("notification.get_preferences", P::Own, false).answers::<Preferences>(),
    spec::<commands::SetPreferences>("notification.set_preferences", P::Own, true)
        .answers::<Preferences>(),
    spec::<commands::RegisterDevice>("notification.register_device", P::Own, true)
        .answers::<commands::Registered>(),
    spec::<commands::Own>("notification.opt_out", P::Own, true).answers::<Preferences>(),
    spec::<commands::History>("notification.history", P::Own, false).answers::<Page<Delivery>>(),
    spec::<webhook::Webhook>("notification.webhook", P::Webhook, true).answers::<NoBody>(),
];

impl Role for NotificationsRole {
    fn name(&self) -> RoleName {
        RoleName::Notifications
    }

    fn migrations(&self) -> &'static [&'static str] {
        const MIGRATIONS: &[&str] = &[
            contact::MIGRATION,
            preferences::MIGRATION,
            delivery::MIGRATION,
        ];
        MIGRATIONS
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
            Input::Timer(timer) if timer.kind == RETENTION => {
                delivery::Delivery::clear(tx)?;
                if delivery::Delivery::any(tx)? {
                    sending::keep_clearing(tx)?;
                }
                Ok(())
            }
            Input::Timer(_) => sending::pump(tx, &self.options),
            Input::Effect(result) => sending::on_result(tx, &self.options, result),
        }
    }
}
