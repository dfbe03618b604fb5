//! The role `payments`: payments, line items, fraud scores (DOMAIN 5.5).
//!
//! [`fraud`] and [`settings`] are the rules and their numbers, [`entity`] is the payment; `create` makes one, `decide` is
//! the back office's yes and no, `process` moves money through a provider and takes in what became of it, `webhook` is the
//! provider speaking by itself. Money is whole cents throughout.
//!
//! What the provider's runners answer is this room's own form, whoever the provider is: `{"state", "reference"?,
//! "reason"?}` with a state of `succeeded`, `failed`, `pending`, `requires_action` or `not_found`.

mod backlog;
mod commands;
mod conflict;
mod create;
mod decide;
pub mod entity;
pub mod fraud;
mod listings;
#[cfg(test)]
mod money_tests;
mod outcome;
mod process;
mod reactions;
mod refund;
pub mod settings;
#[cfg(test)]
mod tests;
mod webhook;
#[cfg(test)]
mod webhook_tests;

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::listing::Page;
use super::permission::{Permission as P, Scope};
use super::{Command, CommandSpec, HandlerError, Input, Role, RoleName, Taken};
use crate::event::Id;
use crate::store::{Secret, Tx};
use entity::Payment;
pub use entity::Processor;
use settings::Pricing;

/// Kind of the call that charges a card.
pub const CHARGE: &str = "payment_charge";
/// Kind of the call that transfers to a vendor.
pub const TRANSFER: &str = "payment_transfer";
/// Kind of the call that returns money.
pub const REFUND: &str = "payment_refund";
/// Kind of the call that asks what became of one of the others.
pub const LOOKUP: &str = "payment_lookup";
/// Kind of the call that fetches what a card holder confirms with.
pub const CONFIRMATION: &str = "payment_confirmation";

/// What its call gives, and `payment.action` answers as it is: what the paying driver confirms with.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PaymentConfirmation {
    /// The payment.
    pub payment_id: Id,
    /// Whose processor it is, `stripe`.
    pub provider: String,
    /// The processor's name for it.
    pub provider_reference: String,
    /// What its forms in the app need; nobody keeps it.
    pub client_secret: String,
}

/// What the role is made with.
#[derive(Debug, Clone)]
pub struct PaymentOptions {
    /// Who moves the money.
    pub processor: Processor,
    /// What the provider signs its webhooks with; without it none is believed.
    pub webhook_secret: Option<Secret>,
    /// From an unknown outcome to the first question, from there to the next, and so on; the last one repeats.
    pub reconcile: Vec<Duration>,
    /// After so long without an outcome a person is called.
    pub unknown_after: Duration,
    /// From a call that could not be made to the next try.
    pub resubmit_after: Duration,
    /// How long the provider remembers an idempotency key: a key is not used again after that.
    pub key_life: Duration,
    /// Prices until the platform's configuration says otherwise.
    pub pricing: Pricing,
}

impl Default for PaymentOptions {
    fn default() -> Self {
        Self {
            processor: Processor::Manual,
            webhook_secret: None,
            reconcile: [30, 60, 120, 300, 600, 1800, 3600]
                .map(Duration::from_secs)
                .to_vec(),
            unknown_after: Duration::from_secs(86_400),
            resubmit_after: Duration::from_secs(30),
            key_life: Duration::from_secs(23 * 3600),
            pricing: Pricing::default(),
        }
    }
}

/// The role.
#[derive(Debug, Default)]
pub struct PaymentRole {
    options: PaymentOptions,
}

impl PaymentRole {
    /// The role with these numbers.
    #[must_use]
    pub fn new(options: PaymentOptions) -> Self {
        Self { options }
    }
}

const fn spec<B: JsonSchema>(name: &'static str, permission: P, mutates: bool) -> CommandSpec {
    CommandSpec::new::<B>(name, permission, mutates)
}

const COMMANDS: &[CommandSpec] = &[
    spec::<create::Create>("payment.create", P::PaymentApprove, true).answers::<Payment>(),
    spec::<commands::One>("payment.get", P::PaymentView, false).answers::<commands::WithAudit>(),
    spec::<listings::ListBody>("payment.list", P::PaymentView, false).answers::<Page<Payment>>(),
    spec::<listings::PageBody>("payment.list_pending", P::PaymentApprove, false)
        .answers::<Page<Payment>>(),
    spec::<listings::PageBody>("payment.list_flagged", P::PaymentApprove, false)
        .answers::<Page<Payment>>(),
    spec::<decide::Review>("payment.review", P::PaymentApprove, true).answers::<Payment>(),
    spec::<decide::Approve>("payment.approve", P::PaymentApprove, true).answers::<Payment>(),
    spec::<decide::Reject>("payment.reject", P::PaymentApprove, true).answers::<Payment>(),
    spec::<commands::Move>("payment.process", P::PaymentProcess, true).answers::<Payment>(),
    spec::<commands::Move>("payment.retry", P::PaymentProcess, true).answers::<Payment>(),
    spec::<commands::Settle>("payment.settle", P::PaymentProcess, true).answers::<Payment>(),
    spec::<conflict::Resolve>("payment.resolve_conflict", P::PaymentProcess, true)
        .answers::<conflict::Resolved>(),
    spec::<refund::Ask>("payment.refund", P::PaymentProcess, true).answers::<Payment>(),
    spec::<commands::One>("payment.action", P::PaymentConfirm, false)
        .answers::<PaymentConfirmation>(),
    spec::<webhook::Webhook>("payment.webhook", P::Webhook, true).answers::<Taken>(),
];

impl Role for PaymentRole {
    fn name(&self) -> RoleName {
        RoleName::Payments
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
            Input::Timer(timer) => process::on_timer(tx, &self.options, timer),
            Input::Effect(result) => process::on_effect(tx, &self.options, result),
        }
    }
}
