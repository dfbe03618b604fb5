//! The role `auth`: accounts, one-time passwords, tokens, consents, erasure (DOMAIN 5.9).
//!
//! `user` is the account and how it is stored, `sign_in` and `otp` how a person becomes known, `session` what he gets
//! for it (`token` and `keys` behind it), `account` what is done with accounts, `consent` what he agreed to, `erasure`
//! how he is forgotten.

mod account;
mod consent;
mod create;
mod erasure;
pub mod keys;
mod otp;
mod session;
mod sign_in;
#[cfg(test)]
mod tests;
pub mod token;
mod user;

use std::time::Duration;

use schemars::JsonSchema;

use super::permission::{Permission as P, Scope, person_of};
use super::{Code, Command, CommandSpec, HandlerError, Input, NoBody, Rejection, Role, RoleName};
use crate::event::Id;
use crate::role::listing::{Page, optional_id_of};
use crate::store::Tx;
use keys::Keys;
use token::KeySet;
use user::User;

/// What the role is given at its start.
#[derive(Debug)]
pub struct AuthOptions {
    /// Signing keys and pepper.
    pub keys: Keys,
    /// How long an access token counts.
    pub access_token: Duration,
    /// How long a refresh token counts.
    pub refresh_token: Duration,
}

impl Default for AuthOptions {
    fn default() -> Self {
        Self {
            keys: Keys::default(),
            access_token: Duration::from_secs(15 * 60),
            refresh_token: Duration::from_secs(30 * 86_400),
        }
    }
}

/// The role.
#[derive(Debug, Default)]
pub struct AuthRole {
    options: AuthOptions,
}

impl AuthRole {
    /// The role with these keys.
    #[must_use]
    pub fn new(options: AuthOptions) -> Self {
        Self { options }
    }
}

const fn spec<B: JsonSchema>(name: &'static str, permission: P, mutates: bool) -> CommandSpec {
    CommandSpec::new::<B>(name, permission, mutates)
}

const COMMANDS: &[CommandSpec] = &[
    spec::<sign_in::Register>("auth.register", P::Public, true).answers::<sign_in::CodeSent>(),
    spec::<sign_in::RequestOtp>("auth.request_otp", P::Public, true).answers::<sign_in::CodeSent>(),
    spec::<sign_in::Verify>("auth.verify", P::Public, true).answers::<session::Tokens>(),
    spec::<session::Refresh>("auth.refresh", P::Public, true).answers::<session::Tokens>(),
    spec::<session::Logout>("auth.logout", P::Own, true).answers::<NoBody>(),
    spec::<NoBody>("auth.me", P::Own, false).answers::<User>(),
    spec::<NoBody>("auth.keys", P::Public, false).answers::<token::JwkSet>(),
    spec::<create::CreateUser>("auth.create_user", P::AdminUsers, true).answers::<User>(),
    spec::<account::One>("user.get", P::Own, false).answers::<User>(),
    spec::<account::ListBody>("user.list", P::AdminUsers, false).answers::<Page<User>>(),
    spec::<account::Update>("user.update", P::Own, true).answers::<User>(),
    spec::<account::Restrict>("user.suspend", P::AdminUsers, true).answers::<User>(),
    spec::<account::Restrict>("user.restore", P::AdminUsers, true).answers::<User>(),
    spec::<erasure::Request>("user.request_erasure", P::Own, true).answers::<erasure::Erased>(),
    spec::<erasure::Export>("user.export", P::Own, false).answers::<erasure::UserExport>(),
    spec::<consent::Set>("consent.set", P::Own, true).answers::<consent::Answers>(),
    spec::<consent::Get>("consent.get", P::Own, false).answers::<consent::Answers>(),
];

/// Whose account a command is about: the one that its body names, else the caller's own.
fn subject(command: &Command) -> Result<Id, HandlerError> {
    let own = person_of(command.actor());
    optional_id_of(command, "userId")?.or(own).ok_or_else(|| {
        Rejection::field(
            "userId",
            "is missing; only a person has an account of his own",
        )
        .into()
    })
}

impl AuthRole {
    fn run(&self, tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
        let options = &self.options;
        match command.name.as_str() {
            "auth.register" => sign_in::register(tx, options, command),
            "auth.request_otp" => sign_in::request_otp(tx, options, command),
            "auth.verify" => sign_in::verify(tx, options, command),
            "auth.refresh" => session::refresh(tx, options, command),
            "auth.logout" => session::logout(tx, command),
            "auth.me" => {
                let _: NoBody = command.parse()?;
                account::show(tx, subject(command)?)
            }
            "auth.keys" => {
                let _: NoBody = command.parse()?;
                let keys = KeySet::of(&options.keys, tx.site().as_str());
                Ok(tx.reply(&keys.to_json())?)
            }
            "auth.create_user" => create::create_user(tx, command),
            "user.get" => {
                let _: account::One = command.parse()?;
                account::show(tx, subject(command)?)
            }
            "user.list" => account::list(tx, command),
            "user.update" => account::update(tx, command),
            "user.suspend" => account::suspend(tx, command),
            "user.restore" => account::restore(tx, command),
            "user.request_erasure" => erasure::request(tx, command),
            "user.export" => erasure::export(tx, command),
            "consent.set" => consent::set(tx, command),
            "consent.get" => consent::get(tx, command),
            other => Err(Rejection::new(Code::NotFound, format!("no command {other}")).into()),
        }
    }
}

impl Role for AuthRole {
    fn name(&self) -> RoleName {
        RoleName::Auth
    }

    fn migrations(&self) -> &'static [&'static str] {
        user::MIGRATIONS
    }

    fn commands(&self) -> &'static [CommandSpec] {
        COMMANDS
    }

    fn scope(&self, _: &Tx<'_>, command: &Command) -> Result<Scope, HandlerError> {
        let own = COMMANDS
            .iter()
            .any(|spec| spec.name == command.name && spec.permission == P::Own);
        if own {
            // Nobody learns from the answer whether somebody else has an account.
            return Ok(Scope::Person(subject(command)?));
        }
        Ok(Scope::Open)
    }

    fn handle(&mut self, tx: &mut Tx<'_>, input: &Input) -> Result<(), HandlerError> {
        match input {
            Input::Command(command) => self.run(tx, command),
            Input::Timer(timer) if timer.kind == otp::TIMER => otp::expire(tx, &timer.key),
            Input::Timer(timer) if timer.kind == erasure::TIMER => erasure::daily(tx),
            // It reads no queue. A code that did not reach its phone expires like any other: whoever waits for it asks
            // again, and an answer that told of it would tell who has an account.
            Input::Event(_) | Input::Timer(_) | Input::Effect(_) => Ok(()),
        }
    }
}
