//! One-time passwords: six digits for five minutes and three tries, one open session per phone (DOMAIN 5.9).
//!
//! A phone without an account gets a session like any other, with a code that nobody is sent: so no answer, and no later
//! one, tells who has an account. The code is kept as a keyed hash with a salt. A slow hash would buy nothing: with the
//! pepper a code can be tried a million times in no time whatever the hash, and without it not at all; five minutes and
//! three tries are what protects it.

use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::AuthOptions;
use super::user::User;
use crate::event::{AccountStatus, E164, Id, OtpCode, Ts};
use crate::role::{Code, Command, Entropy, HandlerError, Rejection};
use crate::store::{EffectCall, EffectClass, Error, Secret, Tx, params};

/// How long a code counts, minutes.
pub(super) const MINUTES: u64 = 5;
const LIFE_MS: i64 = MINUTES as i64 * 60_000;
/// Wrong tries after which a session takes no code any more.
const TRIES_MAX: u32 = 3;
/// Requests that a phone has in any rolling hour.
const REQUESTS_MAX: i64 = 5;
const HOUR_MS: i64 = 3_600_000;
/// The kind of the timer at which a session ends, by its id.
pub(super) const TIMER: &str = "otp";
/// The kind of the call that brings a code to its phone.
pub(super) const CALL: &str = "otp";

/// An open question to a phone.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Session {
    session_id: Id,
    /// Whose account it opens; nobody's for a phone without one.
    user_id: Option<Id>,
    salt: String,
    code_hash: String,
    expires_at: Ts,
    wrong_tries: u32,
}

/// What became of a code.
pub(super) enum Tried {
    /// Right, for this account.
    Right(Id),
    /// It counts not; what was written about it is to be kept.
    Wrong(Rejection),
}

/// 32 bytes of the command's chance for one purpose, unlike those for any other.
pub(super) fn draw(entropy: &Entropy, purpose: &str) -> [u8; 32] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &entropy.0);
    let mut drawn = [0; 32];
    drawn.copy_from_slice(hmac::sign(&key, purpose.as_bytes()).as_ref());
    drawn
}

/// Six digits, each number as likely as any other: what lies above the last whole million of 32 bits is drawn again.
fn code(entropy: &Entropy) -> String {
    const MILLION: u32 = 1_000_000;
    let fair = u32::MAX - u32::MAX % MILLION;
    let words = (0_u32..).flat_map(|round| {
        let drawn = draw(entropy, &format!("code {round}"));
        (0..8).map(move |at| {
            let word = [0, 1, 2, 3].map(|byte| drawn[4 * at + byte]);
            u32::from_be_bytes(word)
        })
    });
    let number = words.into_iter().find(|word| *word < fair);
    format!("{:06}", number.unwrap_or(0) % MILLION)
}

/// Opens a session for `phone`, in the place of the one that it may have, and has the code sent if an account that may
/// come in belongs to it.
pub(super) fn open(
    tx: &mut Tx<'_>,
    options: &AuthOptions,
    command: &Command,
    phone: &E164,
    user: Option<&User>,
) -> Result<(), HandlerError> {
    count_request(tx, phone)?;
    if let Some(before) = find(tx, phone)? {
        tx.cancel_timer(TIMER, &before.session_id.to_string())?;
    }
    let may_come_in =
        |user: &&User| matches!(user.status, AccountStatus::Pending | AccountStatus::Active);
    let user = user.filter(may_come_in);
    let code = code(&command.entropy);
    let salt = data_encoding::HEXLOWER.encode(&draw(&command.entropy, "salt")[..16]);
    let session = Session {
        session_id: tx.new_id(),
        user_id: user.map(|user| user.user_id),
        code_hash: hash(options, &salt, phone, &code),
        salt,
        expires_at: Ts::from_ms(tx.now().ms() + LIFE_MS),
        wrong_tries: 0,
    };
    save(tx, phone, &session)?;
    let name = session.session_id.to_string();
    tx.schedule(session.expires_at, TIMER, &name, &json!({}))?;
    if let Some(user) = user {
        // An address that the owner of the phone has not confirmed could be anybody's, and would get him in.
        let email = user.email.as_ref();
        let email = email.filter(|_| user.status == AccountStatus::Active);
        let phone = tx.seal(&user.user_id, phone)?;
        let mut request =
            json!({ "recipientId": user.user_id, "phone": phone, "minutes": MINUTES });
        if let Some(email) = email {
            request["email"] = json!(email);
        }
        tx.effect(EffectCall {
            key: format!("otp_{name}"),
            kind: CALL.to_owned(),
            class: EffectClass::External,
            request,
            secret: Some(Secret::new(code)),
        })?;
    }
    Ok(())
}

/// RATE_LIMIT_EXCEEDED, with the seconds to wait, at the sixth request within an hour.
fn count_request(tx: &mut Tx<'_>, phone: &E164) -> Result<(), HandlerError> {
    let now_ms = tx.now().ms();
    let phone = tx.blind(phone.as_str())?;
    tx.execute(
        "DELETE FROM otp_request WHERE phone = ?1 AND at_ms <= ?2",
        params![phone, now_ms - HOUR_MS],
    )?;
    let mine = params![phone];
    let made: Option<i64> = tx.value("SELECT count(*) FROM otp_request WHERE phone = ?1", mine)?;
    if made.unwrap_or(0) >= REQUESTS_MAX {
        let mine = params![phone];
        let first: Option<i64> =
            tx.value("SELECT min(at_ms) FROM otp_request WHERE phone = ?1", mine)?;
        let wait_ms = first.unwrap_or(now_ms) + HOUR_MS - now_ms;
        let seconds = (wait_ms + 999).div_euclid(1_000).max(1);
        let message = format!("too many codes were asked for; the next one is sent in {seconds} s");
        return Err(Rejection::new(Code::RateLimitExceeded, message)
            .with_details(json!({ "retryAfterSeconds": seconds }))
            .into());
    }
    tx.execute(
        "INSERT INTO otp_request (phone, at_ms) VALUES (?1, ?2)",
        params![phone, now_ms],
    )?;
    Ok(())
}

/// Judges a code, and counts it.
pub(super) fn try_code(
    tx: &mut Tx<'_>,
    options: &AuthOptions,
    phone: &E164,
    code: &OtpCode,
) -> Result<Tried, HandlerError> {
    let session = find(tx, phone)?.filter(|session| tx.now() < session.expires_at);
    let Some(mut session) = session else {
        return Ok(wrong(
            "expired",
            "there is no code that still counts; ask for a new one",
        ));
    };
    if session.wrong_tries >= TRIES_MAX {
        let message = "the code was wrong too often; ask for a new one";
        return Ok(wrong("too_many_attempts", message));
    }
    // Both are keyed hashes: how long the comparison takes says nothing about the code.
    let right = hash(options, &session.salt, phone, code.as_str()) == session.code_hash;
    match session.user_id.filter(|_| right) {
        Some(user_id) => {
            close(tx, phone)?;
            Ok(Tried::Right(user_id))
        }
        None => {
            session.wrong_tries += 1;
            save(tx, phone, &session)?;
            Ok(wrong("invalid", "this is not the code"))
        }
    }
}

fn wrong(reason: &str, message: &str) -> Tried {
    let rejection = Rejection::new(Code::AuthenticationError, message);
    Tried::Wrong(rejection.with_details(json!({ "reason": reason })))
}

fn hash(options: &AuthOptions, salt: &str, phone: &E164, code: &str) -> String {
    let parts = [salt, phone.as_str(), code].map(str::as_bytes);
    options.keys.hash(&parts)
}

fn find(tx: &Tx<'_>, phone: &E164) -> Result<Option<Session>, Error> {
    tx.document(
        "SELECT doc FROM otp_session WHERE phone = ?1",
        params![tx.blind(phone.as_str())?],
    )
}

fn save(tx: &mut Tx<'_>, phone: &E164, session: &Session) -> Result<(), Error> {
    let (doc, phone) = (tx.text(session)?, tx.blind(phone.as_str())?);
    tx.execute(
        "INSERT INTO otp_session (phone, session_id, doc) VALUES (?1, ?2, ?3)
         ON CONFLICT (phone) DO UPDATE SET session_id = ?2, doc = ?3",
        params![phone, session.session_id.to_string(), doc],
    )?;
    Ok(())
}

/// Ends the session of a phone, if it has one.
pub(super) fn close(tx: &mut Tx<'_>, phone: &E164) -> Result<(), Error> {
    if let Some(session) = find(tx, phone)? {
        tx.cancel_timer(TIMER, &session.session_id.to_string())?;
        tx.execute(
            "DELETE FROM otp_session WHERE session_id = ?1",
            params![session.session_id.to_string()],
        )?;
    }
    Ok(())
}

/// Forgets a phone altogether.
pub(super) fn forget(tx: &mut Tx<'_>, phone: &E164) -> Result<(), Error> {
    close(tx, phone)?;
    let mine = params![tx.blind(phone.as_str())?];
    tx.execute("DELETE FROM otp_request WHERE phone = ?1", mine)?;
    Ok(())
}

/// A session's five minutes are over.
pub(super) fn expire(tx: &mut Tx<'_>, session_id: &str) -> Result<(), HandlerError> {
    let mine = params![session_id];
    tx.execute("DELETE FROM otp_session WHERE session_id = ?1", mine)?;
    Ok(())
}

/// Removes requests that count for no limit any more.
pub(super) fn tidy(tx: &mut Tx<'_>) -> Result<(), Error> {
    let before_ms = tx.now().ms() - HOUR_MS;
    let old = params![before_ms];
    tx.execute("DELETE FROM otp_request WHERE at_ms <= ?1", old)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_six_digits_and_no_favourite() {
        let codes: Vec<String> = (0..20_000_u32)
            .map(|n| {
                let mut bytes = [0; 32];
                bytes[..4].copy_from_slice(&n.to_be_bytes());
                code(&Entropy(bytes))
            })
            .collect();
        assert!(codes.iter().all(|code| OtpCode::new(code.as_str()).is_ok()));
        // Ten bins of 2000 expected; six standard deviations are 255.
        for place in 0..6 {
            for digit in '0'..='9' {
                let has = |code: &&String| code.chars().nth(place) == Some(digit);
                let count = codes.iter().filter(has).count();
                assert!(
                    (1_745..=2_255).contains(&count),
                    "{digit} at {place}: {count}"
                );
            }
        }
    }

    #[test]
    fn what_is_drawn_for_one_purpose_says_nothing_about_another() {
        let entropy = Entropy([3; 32]);
        assert_ne!(draw(&entropy, "salt"), draw(&entropy, "refresh"));
        assert_eq!(draw(&entropy, "salt"), draw(&entropy, "salt"));
        assert_ne!(draw(&entropy, "salt"), draw(&Entropy([4; 32]), "salt"));
    }
}
