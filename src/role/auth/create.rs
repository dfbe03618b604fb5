//! Accounts that an admin makes: the only way to become a dispatcher or an admin (DOMAIN 5.9).

use schemars::JsonSchema;
use serde::Deserialize;

use super::erasure;
use super::sign_in::check_name;
use super::user::User;
use crate::event::{AccountStatus, E164, Email, Id, PaymentType, Personal, Text, Tz, UserRole};
use crate::role::{Code, Command, HandlerError, Rejection};
use crate::store::Tx;

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CreateUser {
    phone: E164,
    role: UserRole,
    name: Text<120>,
    email: Option<Email>,
    company_id: Option<Id>,
    payment_type: Option<PaymentType>,
    truck_number: Option<Text<32>>,
    license_number: Option<Text<32>>,
    language: Option<Text<8>>,
    timezone: Option<Tz>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// What only a driver has: who pays for him.
pub(super) fn check_payment_type(
    role: UserRole,
    payment_type: Option<PaymentType>,
) -> Result<(), Rejection> {
    if payment_type.is_some() && role != UserRole::Driver {
        return Err(Rejection::field("paymentType", "is only for drivers"));
    }
    Ok(())
}

pub(super) fn create_user(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: CreateUser = command.parse()?;
    check_name(&body.name)?;
    check_payment_type(body.role, body.payment_type)?;
    let known = User::of_phone(tx, &body.phone)?;
    let user_id = match known {
        None => tx.new_id(),
        // Somebody began to register with it and never proved that it is his.
        Some(known) if known.status == AccountStatus::Pending => known.user_id,
        Some(known) => {
            let message = format!("user {} has this phone", known.user_id);
            return Err(Rejection {
                field: Some("phone".to_owned()),
                ..Rejection::new(Code::Conflict, message)
            }
            .into());
        }
    };
    let now = tx.now();
    // A code that is on its way to the phone would let in whoever began to register.
    super::otp::close(tx, &body.phone)?;
    let mut user = User::new(user_id, body.phone, body.role, body.name, now);
    user.email = body.email.map(Personal::plain);
    user.company_id = body.company_id;
    user.payment_type = body.payment_type;
    user.truck_number = body.truck_number.map(Personal::plain);
    user.license_number = body.license_number.map(Personal::plain);
    user.language = body.language.unwrap_or(user.language);
    user.timezone = body.timezone.unwrap_or(user.timezone);
    user.become_status(AccountStatus::Active)?;
    user.registered_at = Some(now);
    user.registered(tx)?;
    erasure::keep_watch(tx)?;
    Ok(tx.reply(&user)?)
}
