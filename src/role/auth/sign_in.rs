//! How a person becomes known: he registers or asks for a code, and turns it in (DOMAIN 5.9, 2).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::otp::{self, Tried};
use super::user::User;
use super::{AuthOptions, erasure, session};
use crate::event::{
    AccountStatus, E164, Email, OtpCode, Personal, Text, Tz, UserRole, UserVerified,
};
use crate::role::{Code, Command, HandlerError, Rejection, refuse};
use crate::store::Tx;

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Register {
    phone: E164,
    /// driver or vendor; an admin makes the others.
    role: UserRole,
    name: Text<120>,
    email: Option<Email>,
    language: Option<Text<8>>,
    timezone: Option<Tz>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RequestOtp {
    phone: E164,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// No `clientRequestId`: an answer with tokens in it is not kept for a retry.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Verify {
    phone: E164,
    code: OtpCode,
}

/// A name has something in it.
pub(super) fn check_name(name: &Text<120>) -> Result<(), Rejection> {
    if name.as_str().trim().is_empty() {
        return Err(Rejection::field("name", "is empty"));
    }
    Ok(())
}

pub(super) fn register(
    tx: &mut Tx<'_>,
    options: &AuthOptions,
    command: &Command,
) -> Result<(), HandlerError> {
    let body: Register = command.parse()?;
    if !matches!(body.role, UserRole::Driver | UserRole::Vendor) {
        let message = format!("a {} is registered by an admin", body.role);
        return Err(Rejection {
            field: Some("role".to_owned()),
            ..Rejection::new(Code::AuthorizationError, message)
        }
        .into());
    }
    check_name(&body.name)?;
    let known = User::of_phone(tx, &body.phone)?;
    let mut user = match known {
        // Whose phone it is, is his account: nothing of it changes, and the answer is that to anybody.
        Some(known) if known.status != AccountStatus::Pending => known,
        // Nobody has confirmed what was said before; the code that is sent now belongs to what is said now.
        before => {
            let user_id = before.map_or_else(|| tx.new_id(), |before| before.user_id);
            let mut user = User::new(user_id, body.phone.clone(), body.role, body.name, tx.now());
            user.email = body.email.map(Personal::plain);
            user.language = body.language.unwrap_or(user.language);
            user.timezone = body.timezone.unwrap_or(user.timezone);
            user.seal(tx)?;
            user
        }
    };
    otp::open(tx, options, command, &body.phone, Some(&user))?;
    if user.status == AccountStatus::Pending {
        user.save(tx)?;
        erasure::keep_watch(tx)?;
    }
    Ok(tx.reply(&sent())?)
}

pub(super) fn request_otp(
    tx: &mut Tx<'_>,
    options: &AuthOptions,
    command: &Command,
) -> Result<(), HandlerError> {
    let body: RequestOtp = command.parse()?;
    let user = User::of_phone(tx, &body.phone)?;
    otp::open(tx, options, command, &body.phone, user.as_ref())?;
    Ok(tx.reply(&sent())?)
}

/// The one answer, whether the phone is known or not.
fn sent() -> CodeSent {
    CodeSent {
        code_expires_in_seconds: otp::MINUTES * 60,
    }
}

/// A code is on its way, if the phone is somebody's.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CodeSent {
    code_expires_in_seconds: u64,
}

pub(super) fn verify(
    tx: &mut Tx<'_>,
    options: &AuthOptions,
    command: &Command,
) -> Result<(), HandlerError> {
    let body: Verify = command.parse()?;
    let user_id = match otp::try_code(tx, options, &body.phone, &body.code)? {
        Tried::Wrong(rejection) => return refuse(tx, &rejection),
        Tried::Right(user_id) => user_id,
    };
    let mut user = User::find(tx, user_id)?;
    let first = user.status == AccountStatus::Pending;
    if !first && user.status != AccountStatus::Active {
        // Suspended since the code was sent; the code is spent all the same.
        let message = "this account can't be used";
        return refuse(tx, &Rejection::new(Code::AuthenticationError, message));
    }
    user.last_login_at = Some(tx.now());
    if first {
        user.become_status(AccountStatus::Active)?;
        user.registered_at = Some(tx.now());
        user.registered(tx)?;
    } else {
        user.save(tx)?;
    }
    let verified_at = tx.now();
    tx.emit(&UserVerified {
        user_id,
        phone: Some(Personal::plain(body.phone)),
        verified_at,
    })?;
    let reply = session::issue(tx, options, command, &user, None)?;
    Ok(tx.reply(&reply)?)
}
