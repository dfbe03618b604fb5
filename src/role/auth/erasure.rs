//! How a person is forgotten: on request at once, or after three years without a login; and what he gets of his data
//! before (DOMAIN 5.9, 5 timers).

use chrono::Months;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::user::User;
use super::{consent, otp, session, subject};
use crate::event::{AccountStatus, Actor, ErasureReason, Id, Ts, UserDataDeleted};
use crate::role::{Command, HandlerError};
use crate::store::{Error, Tx, params};

/// The kind of the daily timer.
pub(super) const TIMER: &str = "inactivity";
/// Its key: there is one.
const DAILY: &str = "daily";
/// When it fires, milliseconds after midnight UTC.
const AT_MS: i64 = 2 * 3_600_000;
const DAY_MS: i64 = 86_400_000;
/// Without a login for so long a person is erased: three years.
const INACTIVE: Months = Months::new(36);
/// Persons in one commit at the most; the rest follows after a moment.
const AT_ONCE: usize = 200;
const MOMENT_MS: i64 = 1_000;

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Request {
    /// The caller's own account without it.
    #[serde(rename = "userId")]
    _user_id: Option<Id>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Export {
    /// The caller's own account without it.
    #[serde(rename = "userId")]
    _user_id: Option<Id>,
}

pub(super) fn request(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let _: Request = command.parse()?;
    let mut user = User::find(tx, subject(command)?)?;
    let by = command.actor().clone();
    erase(tx, &mut user, ErasureReason::Request, by)?;
    Ok(tx.reply(&Erased {
        user_id: user.user_id,
        status: user.status,
    })?)
}

/// Whose account was erased.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Erased {
    user_id: Id,
    status: AccountStatus,
}

/// What auth has of a person. The answer is the whole document, so it needs no link that could outlive it.
pub(super) fn export(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let _: Export = command.parse()?;
    let user = User::find(tx, subject(command)?)?;
    Ok(tx.reply(&UserExport {
        exported_at: tx.now(),
        consents: consent::history(tx, user.user_id)?,
        logins: session::open_logins(tx, user.user_id)?,
        user,
    })?)
}

/// All that auth has of a person.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UserExport {
    exported_at: Ts,
    user: User,
    /// Every answer that he gave, oldest first.
    consents: Vec<consent::Consent>,
    /// Logins that can still be continued.
    logins: Vec<session::OpenLogin>,
}

/// Leaves of an account only that it was there, and tells every role that knows the person.
fn erase(
    tx: &mut Tx<'_>,
    user: &mut User,
    reason: ErasureReason,
    requested_by: Actor,
) -> Result<(), HandlerError> {
    user.become_status(AccountStatus::Erased)?;
    let phone = user.phone.as_ref().map(|phone| tx.reveal(phone));
    if let Some(phone) = phone.transpose()?.flatten() {
        otp::forget(tx, &phone)?;
    }
    user.forget();
    user.version += 1;
    user.save(tx)?;
    session::forget(tx, user.user_id)?;
    // The key is destroyed once the event is out, and this role reads no queue that would say so.
    tx.forget_keys(&user.user_id);
    let deleted_at = tx.now();
    tx.emit(&UserDataDeleted {
        user_id: user.user_id,
        reason,
        requested_by,
        deleted_at,
    })?;
    Ok(())
}

/// Sets the daily timer, once in the life of the database: while there is no account there is nobody to forget.
pub(super) fn keep_watch(tx: &mut Tx<'_>) -> Result<(), Error> {
    let first = tx.execute(
        "INSERT INTO upkeep (one) VALUES (1) ON CONFLICT DO NOTHING",
        (),
    )?;
    if first > 0 {
        let at = next_run(tx.now());
        tx.schedule(at, TIMER, DAILY, &json!({}))?;
    }
    Ok(())
}

/// The next 02:00 UTC after `now`.
fn next_run(now: Ts) -> Ts {
    let today_ms = now.ms().div_euclid(DAY_MS) * DAY_MS + AT_MS;
    let wait_ms = if today_ms > now.ms() { 0 } else { DAY_MS };
    Ts::from_ms(today_ms + wait_ms)
}

/// Erases who has been away too long, and removes what is out of date.
pub(super) fn daily(tx: &mut Tx<'_>) -> Result<(), HandlerError> {
    otp::tidy(tx)?;
    session::tidy(tx)?;
    let now = tx.now();
    let since = now.datetime().checked_sub_months(INACTIVE);
    let since_ms = since.map_or(i64::MIN, |since| since.timestamp_millis());
    let away: Vec<User> = tx.documents(
        "SELECT doc FROM user WHERE status <> 'erased' AND seen_at_ms <= ?1 ORDER BY seen_at_ms, user_id LIMIT ?2",
        params![since_ms, AT_ONCE as i64],
    )?;
    let more = away.len() == AT_ONCE;
    for user in away {
        let mut user = user.judged(tx)?;
        if user.status == AccountStatus::Erased {
            user.bury(tx)?;
            continue;
        }
        let by = Actor::System("auth".to_owned());
        erase(tx, &mut user, ErasureReason::Inactivity, by)?;
    }
    let at = if more {
        Ts::from_ms(now.ms() + MOMENT_MS)
    } else {
        next_run(now)
    };
    tx.schedule(at, TIMER, DAILY, &json!({}))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daily_run_is_at_two() {
        let at = |hour: i64, minute: i64| Ts::from_ms((hour * 60 + minute) * 60_000);
        assert_eq!(next_run(at(0, 0)), at(2, 0));
        assert_eq!(next_run(at(1, 59)), at(2, 0));
        assert_eq!(next_run(at(2, 0)), at(26, 0));
        assert_eq!(next_run(at(23, 0)), at(26, 0));
    }
}
