//! What the business does: roles as plain synchronous code.
//!
//! A role turns one input into state changes, events, timers and effects inside one transaction. It knows neither NATS
//! nor threads nor clocks: time comes from [`Tx::now`](crate::store::Tx::now), persistence and output go through
//! [`Tx`]. The engine (`node`) calls it and decides what an error means.

pub mod alarm;
pub mod audit;
pub mod auth;
pub mod incident;
pub mod kb;
pub mod listing;
pub mod matching;
pub mod notifications;
pub mod payments;
pub mod permission;
mod refusal;
pub mod reporting;
pub mod setting;
pub mod signature;
pub mod telephony;
#[cfg(test)]
mod testing;
pub mod tracking;
pub mod vendor;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::event::{Actor, Event, Id, Producer, Ts};
use crate::store::{self, Tx};
use permission::{Caller, Permission, Scope};
pub use refusal::{Code, HandlerError, Rejection, refuse};

/// The roles of DOMAIN 1.1. Which of them this build can run is [`RoleName::BUILT`]'s to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names are DOMAIN 1.1's own
pub enum RoleName {
    Incident,
    Vendor,
    Match,
    Tracking,
    Payments,
    Notifications,
    Reporting,
    Telephony,
    Auth,
    Kb,
    Config,
    Audit,
}

impl RoleName {
    /// All twelve, in DOMAIN's order.
    pub const ALL: [Self; 12] = [
        Self::Incident,
        Self::Vendor,
        Self::Match,
        Self::Tracking,
        Self::Payments,
        Self::Notifications,
        Self::Reporting,
        Self::Telephony,
        Self::Auth,
        Self::Kb,
        Self::Config,
        Self::Audit,
    ];

    /// The roles that this build can run.
    pub const BUILT: [Self; 12] = [
        Self::Incident,
        Self::Vendor,
        Self::Match,
        Self::Tracking,
        Self::Payments,
        Self::Notifications,
        Self::Reporting,
        Self::Telephony,
        Self::Auth,
        Self::Kb,
        Self::Config,
        Self::Audit,
    ];

    /// The name as typed after `--role`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Incident => "incident",
            Self::Vendor => "vendor",
            Self::Match => "match",
            Self::Tracking => "tracking",
            Self::Payments => "payments",
            Self::Notifications => "notifications",
            Self::Reporting => "reporting",
            Self::Telephony => "telephony",
            Self::Auth => "auth",
            Self::Kb => "kb",
            Self::Config => "config",
            Self::Audit => "audit",
        }
    }

    /// The queue this role reads (DOMAIN 1.1 and DESIGN 6), if it reads one.
    #[must_use]
    pub fn queue(self) -> Option<&'static str> {
        match self {
            Self::Incident => Some("incident-queue"),
            Self::Vendor => Some("vendor-queue"),
            Self::Match => Some("match-queue"),
            Self::Tracking => Some("tracking-queue"),
            Self::Payments => Some("payment-approval-queue"),
            Self::Notifications => Some("notifications-queue"),
            Self::Reporting => Some("reporting-queue"),
            Self::Telephony => Some("telephony-queue"),
            Self::Kb => Some("kb-queue"),
            Self::Audit => Some("audit-queue"),
            Self::Auth | Self::Config => None,
        }
    }

    /// Whether its tables are a projection of events alone, which `roadcall rebuild` may empty and feed again (DESIGN 7).
    #[must_use]
    pub fn rebuildable(self) -> bool {
        self == Self::Reporting
    }

    /// Whether the inputs of one entity key must run in stream order in this role's queue (DESIGN 4, Order).
    #[must_use]
    pub fn ordered(self) -> bool {
        !matches!(self, Self::Notifications | Self::Reporting | Self::Audit)
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RoleName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| format!("no role is named '{text}'"))
    }
}

/// Kind of the call that has the data key of a subject destroyed that is no user, such as a call whose number was nobody's; its
/// request is `{"subject": id}`. The keys of users and vendors are destroyed on `UserDataDeleted` without it.
pub const KEY_DESTROY: &str = "key.destroy";

/// A service role. One instance lives on the role's writer thread.
pub trait Role: Send {
    /// Which role this is.
    fn name(&self) -> RoleName;

    /// The role's own tables as numbered migrations, oldest first. Published ones never change.
    fn migrations(&self) -> &'static [&'static str];

    /// The commands it answers.
    fn commands(&self) -> &'static [CommandSpec];

    /// Whose entity a command is about, for the ownership check of DOMAIN 1.2 that runs before [`Role::handle`].
    /// A named entity that does not exist is `Rejected(NOT_FOUND)`.
    ///
    /// # Errors
    /// `Rejected` for a body that does not name its entity, or a store error.
    fn scope(&self, tx: &Tx<'_>, command: &Command) -> Result<Scope, HandlerError>;

    /// Handles one input inside the step's transaction. Deterministic in (state, input, `tx.now()`): the engine may run
    /// it again after a rollback and expects the same outcome with the same ids.
    ///
    /// # Errors
    /// See [`HandlerError`]; whatever was written before the error is rolled back.
    fn handle(&mut self, tx: &mut Tx<'_>, input: &Input) -> Result<(), HandlerError>;

    /// Empties a projection of everything that the events from `archive_from` on say again; only for roles that are
    /// [`RoleName::rebuildable`].
    ///
    /// # Errors
    /// See [`HandlerError`].
    fn empty(&mut self, _tx: &mut Tx<'_>, _archive_from: Ts) -> Result<(), HandlerError> {
        let message = format!("role {} is no projection of events alone", self.name());
        Err(Rejection::new(Code::InvalidTransition, message).into())
    }
}

/// What a role is given.
#[derive(Debug, Clone)]
pub enum Input {
    /// An event from the role's queue or from a replay.
    Event(Box<Received>),
    /// A request from a person or a service.
    Command(Box<Command>),
    /// A timer that the role set and that is due.
    Timer(Timer),
    /// An outside call that the role asked for has ended.
    Effect(EffectResult),
}

/// An event as a role sees it.
#[derive(Debug, Clone)]
pub struct Received {
    /// The decoded, validated event.
    pub event: Arc<Event>,
    /// How it got here.
    pub mode: Mode,
    /// Older than its rule's age where the rule says `escalate` (DOMAIN 4.1; 5.3 for match).
    pub too_old: bool,
    /// Who made it, as its number says; nothing for a foreign one.
    pub producer: Option<Producer>,
}

/// Why an event is handled now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As it comes from the queue.
    Live,
    /// A replay: what was applied is not applied again, past timers are not fired.
    Replay,
    /// A redrive or a restored role's catch-up: counts as live.
    Redrive,
}

/// A command: `{entity}.{verb}` with a JSON object (DOMAIN 1.3).
#[derive(Debug, Clone)]
pub struct Command {
    /// Id given on receipt; a retry gets a new one and is recognised by `client_request_id`.
    pub id: Id,
    /// `incident.create`.
    pub name: String,
    /// Who asks, as established by whoever authenticated him.
    pub caller: Caller,
    /// The request's body.
    pub body: Map<String, Value>,
    /// `clientRequestId` (DOMAIN 1.3, retry).
    pub client_request_id: Option<String>,
    /// `traceparent` as it came, for the events that follow.
    pub traceparent: Option<String>,
    /// Chance, for what must not be guessed: a handler has no other, so that it stays deterministic.
    pub entropy: Entropy,
}

/// 32 bytes of the system's generator, drawn when the command arrived.
#[derive(Clone, Copy)]
pub struct Entropy(pub [u8; 32]);

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy(…)")
    }
}

impl Command {
    /// The actor for events and timelines.
    #[must_use]
    pub fn actor(&self) -> &Actor {
        &self.caller.actor
    }

    /// Reads the body as `T`, naming the field where it does not fit.
    ///
    /// # Errors
    /// `Rejected(VALIDATION_ERROR)` with the path of the offending field.
    pub fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, HandlerError> {
        serde_path_to_error::deserialize(Value::Object(self.body.clone())).map_err(|error| {
            let text = error.inner().to_string();
            let path = error.path().to_string();
            // serde names a missing or unknown field only inside its sentence.
            let quoted = text
                .split('`')
                .nth(1)
                .filter(|_| path == ".")
                .map(str::to_owned);
            let field = quoted.or_else(|| (path != ".").then_some(path));
            HandlerError::Rejected(Rejection {
                field,
                ..Rejection::new(Code::ValidationError, text)
            })
        })
    }
}

/// One command that a role answers.
#[derive(Debug, Clone, Copy)]
pub struct CommandSpec {
    /// `incident.create`.
    pub name: &'static str,
    /// What the caller must be permitted (DOMAIN 1.2).
    pub permission: Permission,
    /// Whether it changes state (only such replies are kept for `clientRequestId`).
    pub mutates: bool,
    /// JSON Schema of its body, from the type that the handler parses it as.
    pub body: fn() -> Schema,
    /// JSON Schema of its result, from the type that the handler answers; `None` where nobody has said yet what it is.
    pub reply: Option<fn() -> Schema>,
}

impl CommandSpec {
    /// A command whose body is a `B`.
    #[must_use]
    pub const fn new<B: JsonSchema>(
        name: &'static str,
        permission: Permission,
        mutates: bool,
    ) -> Self {
        Self {
            name,
            permission,
            mutates,
            body: body_schema::<B>,
            reply: None,
        }
    }

    /// The same, answered with an `R`.
    #[must_use]
    pub const fn answers<R: JsonSchema>(self) -> Self {
        Self {
            reply: Some(reply_schema::<R>),
            ..self
        }
    }
}

/// JSON Schema of `B`, whole: the OpenAPI document has many and shares no definitions between them.
#[must_use]
pub fn body_schema<B: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<B>()
}

/// JSON Schema of `R` as it is written, whole, under its own name.
#[must_use]
pub fn reply_schema<R: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12()
        .for_serialize()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<R>()
}

/// Takes `names` from what a schema requires: fields that not everybody is shown.
pub fn not_for_all(schema: &mut Schema, names: &[&str]) {
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| !name.as_str().is_some_and(|name| names.contains(&name)));
    }
}

/// A body without fields of its own, and a result that says no more than that it was done.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoBody {}

/// What a provider's webhook is answered with.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Taken {
    /// Always: what could not be taken is refused.
    pub received: bool,
    /// Whether it had come before.
    pub duplicate: bool,
}

/// A due timer.
#[derive(Debug, Clone, PartialEq)]
pub struct Timer {
    /// What the timer is for; the role's own word, for example `arrival`.
    pub kind: String,
    /// Which one of its kind, usually an entity id.
    pub key: String,
    /// When it was due.
    pub due_at: Ts,
    /// What the role left with it.
    pub payload: Value,
}

/// How an outside call ended.
#[derive(Debug, Clone, PartialEq)]
pub struct EffectResult {
    /// The idempotency key that the role chose.
    pub key: String,
    /// The role's word for the kind of call.
    pub kind: String,
    /// What came back.
    pub outcome: store::EffectOutcome,
    /// The request as it was asked for.
    pub request: Value,
}
