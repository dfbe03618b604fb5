//! What a person who is known gets: an access token for a quarter of an hour, and a refresh token that is good for the
//! next pair, once (DOMAIN 5.9). Refresh tokens are kept as hashes: whoever reads the database can use none.

use data_encoding::BASE64URL_NOPAD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::otp::draw;
use super::token::{Claims, sign};
use super::user::User;
use super::{AuthOptions, subject};
use crate::event::{AccountStatus, Id, OpaqueToken, Ts, UserRole};
use crate::role::{Code, Command, HandlerError, Rejection, refuse};
use crate::store::{Error, Tx, params};

/// No `clientRequestId`: an answer with tokens in it is not kept for a retry.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Refresh {
    refresh_token: OpaqueToken,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Logout {
    /// Whose tokens; the caller's own without it.
    #[serde(rename = "userId")]
    _user_id: Option<Id>,
    /// Only the login that this token belongs to; without it, all of the person's.
    refresh_token: Option<OpaqueToken>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// A refresh token as it is kept.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    family_id: Id,
    user_id: Id,
    expires_at_ms: i64,
    used_at_ms: Option<i64>,
    revoked_at_ms: Option<i64>,
}

fn hash(token: &str) -> String {
    // 256 bits of chance: nothing to guess, so nothing to slow down.
    data_encoding::HEXLOWER.encode(&Sha256::digest(token))
}

/// Makes a new pair of tokens, of a family that is there or (`None`) of a new one; gives the reply.
pub(super) fn issue(
    tx: &mut Tx<'_>,
    options: &AuthOptions,
    command: &Command,
    user: &User,
    family: Option<Id>,
) -> Result<Tokens, HandlerError> {
    let key =
        options.keys.signing().first().ok_or_else(|| {
            HandlerError::Transient("there is no key to sign tokens with".to_owned())
        })?;
    let now = tx.now();
    let jti = draw(&command.entropy, "jti");
    let iat = now.ms().div_euclid(1_000);
    let lasts_seconds = options.access_token.as_secs();
    let claims = Claims {
        sub: user.user_id,
        role: user.role,
        company_id: user.company_id,
        payment_type: user.payment_type,
        iat,
        exp: iat + i64::try_from(lasts_seconds).unwrap_or(0),
        jti: data_encoding::HEXLOWER.encode(&jti[..16]),
        iss: tx.site().as_str().to_owned(),
    };
    let refresh_token = BASE64URL_NOPAD.encode(&draw(&command.entropy, "refresh"));
    let expires_at = now + options.refresh_token;
    let family = family.unwrap_or_else(|| tx.new_id());
    tx.execute(
        "INSERT INTO refresh_token (token_hash, family_id, user_id, issued_at_ms, expires_at_ms)
         VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            hash(&refresh_token),
            family.to_string(),
            user.user_id.to_string(),
            now.ms(),
            expires_at.ms()
        ],
    )?;
    Ok(Tokens {
        user_id: user.user_id,
        role: user.role,
        token_type: "Bearer",
        access_token: sign(&claims, key),
        expires_in_seconds: lasts_seconds,
        refresh_token,
        refresh_expires_at: expires_at,
    })
}

/// What a person signs in with. It has no debug form: both tokens are secrets.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tokens {
    user_id: Id,
    role: UserRole,
    token_type: &'static str,
    access_token: String,
    expires_in_seconds: u64,
    refresh_token: String,
    refresh_expires_at: Ts,
}

pub(super) fn refresh(
    tx: &mut Tx<'_>,
    options: &AuthOptions,
    command: &Command,
) -> Result<(), HandlerError> {
    let body: Refresh = command.parse()?;
    let token = body.refresh_token.as_str();
    let now_ms = tx.now().ms();
    let Some(kept) = find(tx, token)? else {
        return Err(no("invalid").into());
    };
    if kept.used_at_ms.is_some() {
        // Somebody has a copy: of the two who hold this family nobody knows which is the thief.
        revoke_family(tx, kept.family_id)?;
        return refuse(tx, &no("reused"));
    }
    if kept.revoked_at_ms.is_some() {
        return Err(no("revoked").into());
    }
    if kept.expires_at_ms <= now_ms {
        return Err(no("expired").into());
    }
    let mut user = User::find(tx, kept.user_id)?;
    if user.status != AccountStatus::Active {
        return Err(no("revoked").into());
    }
    tx.execute(
        "UPDATE refresh_token SET used_at_ms = ?2 WHERE token_hash = ?1",
        params![hash(token), now_ms],
    )?;
    // Who comes back in this way is not inactive, though he types no code for years.
    user.last_login_at = Some(tx.now());
    user.save(tx)?;
    let reply = issue(tx, options, command, &user, Some(kept.family_id))?;
    Ok(tx.reply(&reply)?)
}

fn no(reason: &str) -> Rejection {
    let message = match reason {
        "expired" => "the refresh token has expired; log in again",
        "reused" => "the refresh token was used before, so the login has ended; log in again",
        "revoked" => "the login has ended; log in again",
        _ => "this refresh token is not known; log in again",
    };
    Rejection::new(Code::AuthenticationError, message).with_details(json!({ "reason": reason }))
}

pub(super) fn logout(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: Logout = command.parse()?;
    let user_id = subject(command)?;
    match body.refresh_token {
        None => revoke_all(tx, user_id)?,
        Some(token) => {
            // Somebody else's token, or one that is gone, is answered like the caller's own.
            let kept = find(tx, token.as_str())?.filter(|kept| kept.user_id == user_id);
            if let Some(kept) = kept {
                revoke_family(tx, kept.family_id)?;
            }
        }
    }
    Ok(tx.reply(&json!({}))?)
}

fn find(tx: &Tx<'_>, token: &str) -> Result<Option<Kept>, Error> {
    tx.document(
        "SELECT json_object('familyId', family_id, 'userId', user_id, 'expiresAtMs', expires_at_ms,
                            'usedAtMs', used_at_ms, 'revokedAtMs', revoked_at_ms)
         FROM refresh_token WHERE token_hash = ?1",
        params![hash(token)],
    )
}

fn revoke_family(tx: &mut Tx<'_>, family: Id) -> Result<(), Error> {
    let now_ms = tx.now().ms();
    tx.execute(
        "UPDATE refresh_token SET revoked_at_ms = ?2 WHERE family_id = ?1 AND revoked_at_ms IS NULL",
        params![family.to_string(), now_ms],
    )?;
    Ok(())
}

/// Ends all logins of a person.
pub(super) fn revoke_all(tx: &mut Tx<'_>, user_id: Id) -> Result<(), Error> {
    let now_ms = tx.now().ms();
    tx.execute(
        "UPDATE refresh_token SET revoked_at_ms = ?2 WHERE user_id = ?1 AND revoked_at_ms IS NULL",
        params![user_id.to_string(), now_ms],
    )?;
    Ok(())
}

/// A login that could still be continued, Unix milliseconds.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct OpenLogin {
    issued_at_ms: i64,
    expires_at_ms: i64,
}

/// Those of a person, for his export.
pub(super) fn open_logins(tx: &Tx<'_>, user_id: Id) -> Result<Vec<OpenLogin>, Error> {
    let now_ms = tx.now().ms();
    tx.documents(
        "SELECT json_object('issuedAtMs', issued_at_ms, 'expiresAtMs', expires_at_ms) FROM refresh_token
         WHERE user_id = ?1 AND used_at_ms IS NULL AND revoked_at_ms IS NULL AND expires_at_ms > ?2
         ORDER BY issued_at_ms",
        params![user_id.to_string(), now_ms],
    )
}

/// Removes a person's tokens.
pub(super) fn forget(tx: &mut Tx<'_>, user_id: Id) -> Result<(), Error> {
    let his = params![user_id.to_string()];
    tx.execute("DELETE FROM refresh_token WHERE user_id = ?1", his)?;
    Ok(())
}

/// Removes tokens whose time is over. Used and revoked ones stay until then, so that a copy is recognised.
pub(super) fn tidy(tx: &mut Tx<'_>) -> Result<(), Error> {
    let now_ms = tx.now().ms();
    let over = params![now_ms];
    tx.execute("DELETE FROM refresh_token WHERE expires_at_ms <= ?1", over)?;
    Ok(())
}
