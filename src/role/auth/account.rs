//! What is done with accounts: looked at, changed, suspended, restored (DOMAIN 5.9).

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use super::create::check_payment_type;
use super::session;
use super::sign_in::check_name;
use super::subject;
use super::user::{User, changes};
use crate::event::{AccountStatus, E164, Email, Id, PaymentType, Personal, Text, Tz, UserRole};
use crate::role::listing::{cursor, limit, next, page};
use crate::role::permission::person_of;
use crate::role::{Code, Command, HandlerError, Rejection};
use crate::store::{Tx, params};

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct One {
    /// The caller's own without it.
    #[serde(rename = "userId")]
    _user_id: Option<Id>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ListBody {
    role: Option<UserRole>,
    status: Option<AccountStatus>,
    phone: Option<E164>,
    limit: Option<u64>,
    cursor: Option<String>,
}

/// A field that is absent stays as it is; null removes it.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Update {
    /// The caller's own without it.
    #[serde(rename = "userId")]
    _user_id: Option<Id>,
    expected_version: u64,
    name: Option<Text<120>>,
    #[serde(default, deserialize_with = "given")]
    email: Option<Option<Email>>,
    language: Option<Text<8>>,
    timezone: Option<Tz>,
    #[serde(default, deserialize_with = "given")]
    truck_number: Option<Option<Text<32>>>,
    #[serde(default, deserialize_with = "given")]
    license_number: Option<Option<Text<32>>>,
    /// Only an admin may, and not his own.
    role: Option<UserRole>,
    /// Only an admin may.
    #[serde(default, deserialize_with = "given")]
    company_id: Option<Option<Id>>,
    /// Only an admin may.
    #[serde(default, deserialize_with = "given")]
    payment_type: Option<Option<PaymentType>>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Restrict {
    user_id: Id,
    /// Refused unless the account has this version; without it, whatever it has.
    expected_version: Option<u64>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// Tells null from absent.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

pub(super) fn show(tx: &mut Tx<'_>, user_id: Id) -> Result<(), HandlerError> {
    let user = User::find(tx, user_id)?;
    Ok(tx.reply(&user)?)
}

pub(super) fn list(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: ListBody = command.parse()?;
    let most = limit(body.limit)?;
    let (before_ms, before_id) = cursor(body.cursor.as_deref())?;
    let phone = body.phone.as_ref().map(E164::as_str);
    let blind = phone.map(|phone| tx.blind(phone)).transpose()?;
    let found: Vec<User> = tx.documents(
        "SELECT doc FROM user WHERE (?1 IS NULL OR role = ?1) AND (?2 IS NULL OR status = ?2)
         AND (?3 IS NULL OR phone IN (?3, ?4)) AND (created_at_ms, user_id) < (?5, ?6)
         ORDER BY created_at_ms DESC, user_id DESC LIMIT ?7",
        params![
            body.role.map(UserRole::as_str),
            body.status.map(AccountStatus::as_str),
            phone,
            blind,
            before_ms,
            before_id,
            most as i64
        ],
    )?;
    let more = found.last().filter(|_| found.len() as u64 == most);
    let more = more.map(|last| next(last.created_at.ms(), &last.user_id.to_string()));
    let mut users = Vec::with_capacity(found.len());
    for user in found {
        let user = user.judged(tx)?;
        // It may count as erased where the table does not say so.
        if body.status.is_none_or(|status| status == user.status) {
            users.push(user);
        }
    }
    Ok(tx.reply(&page(&users, more))?)
}

/// An account that is there to be changed.
fn changeable(tx: &Tx<'_>, user_id: Id) -> Result<User, HandlerError> {
    let user = User::find(tx, user_id)?;
    match user.status {
        AccountStatus::Active | AccountStatus::Suspended => Ok(user),
        status => {
            let message = format!("an account that is {status} can't be changed");
            Err(Rejection::new(Code::InvalidTransition, message).into())
        }
    }
}

pub(super) fn update(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: Update = command.parse()?;
    let user_id = subject(command)?;
    may_set(command, user_id, &body)?;
    let before = changeable(tx, user_id)?;
    before.expect_version(body.expected_version)?;
    let mut user = before.clone();
    if let Some(name) = body.name {
        check_name(&name)?;
        user.name = Some(Personal::plain(name));
    }
    let email = body.email.map(|email| email.map(Personal::plain));
    user.email = email.unwrap_or(user.email);
    user.language = body.language.unwrap_or(user.language);
    user.timezone = body.timezone.unwrap_or(user.timezone);
    let truck = body.truck_number.map(|text| text.map(Personal::plain));
    user.truck_number = truck.unwrap_or(user.truck_number);
    let license = body.license_number.map(|text| text.map(Personal::plain));
    user.license_number = license.unwrap_or(user.license_number);
    user.role = body.role.unwrap_or(user.role);
    user.company_id = body.company_id.unwrap_or(user.company_id);
    user.payment_type = body.payment_type.unwrap_or(user.payment_type);
    check_payment_type(user.role, user.payment_type)?;
    user.seal(tx)?;
    let changed = changes(&before, &user);
    user.updated(tx, changed)?;
    Ok(tx.reply(&user)?)
}

/// The fields that only an admin may set, and the one that nobody sets for himself (DOMAIN 7.17).
fn may_set(command: &Command, user_id: Id, body: &Update) -> Result<(), HandlerError> {
    let refused = |field: &str, message: String| {
        HandlerError::from(Rejection {
            field: Some(field.to_owned()),
            ..Rejection::new(Code::AuthorizationError, message)
        })
    };
    let set = [
        ("role", body.role.is_some()),
        ("companyId", body.company_id.is_some()),
        ("paymentType", body.payment_type.is_some()),
    ];
    let first = set.into_iter().find(|(_, set)| *set);
    if let Some((field, _)) = first.filter(|_| !command.caller.is_admin()) {
        return Err(refused(field, format!("only an admin may change {field}")));
    }
    if body.role.is_some() && person_of(command.actor()) == Some(user_id) {
        return Err(refused("role", "nobody changes his own role".to_owned()));
    }
    Ok(())
}

pub(super) fn suspend(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let user = restrict(tx, command, AccountStatus::Suspended)?;
    session::revoke_all(tx, user.user_id)?;
    Ok(tx.reply(&user)?)
}

pub(super) fn restore(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    // A pending account becomes active by its owner's code alone.
    let body: Restrict = command.parse()?;
    changeable(tx, body.user_id)?;
    let user = restrict(tx, command, AccountStatus::Active)?;
    Ok(tx.reply(&user)?)
}

fn restrict(tx: &mut Tx<'_>, command: &Command, to: AccountStatus) -> Result<User, HandlerError> {
    let body: Restrict = command.parse()?;
    let mut user = User::find(tx, body.user_id)?;
    if let Some(expected) = body.expected_version {
        user.expect_version(expected)?;
    }
    user.become_status(to)?;
    user.updated(tx, vec![Text::lossy("status")])?;
    Ok(user)
}
