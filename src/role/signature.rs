//! Signatures of webhooks: who holds the secret sent exactly this body, and lately (DOMAIN 5.5 payment.webhook, 5.8).
//!
//! Two forms: that of Stripe (`Stripe-Signature: t=…,v1=…`, HMAC-SHA256 over `t.payload`, hex) and that of the Standard
//! Webhooks specification (`webhook-id`, `webhook-timestamp`, `webhook-signature: v1,…`, HMAC-SHA256 over
//! `id.timestamp.payload`, base64). Both are judged on the raw text: a body that was parsed and written again is another one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::event::Ts;

/// How far a signature's time may be from ours, either way: older ones may be recorded and sent again.
pub const TOLERANCE_SECS: i64 = 300;

/// Why a webhook is not believed. Says nothing of the secret or of what would have been right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The header is not of its form.
    #[error("the signature header is not of the expected form")]
    Malformed,
    /// Signed too long ago, or in the future.
    #[error("the signature is more than 5 minutes from now")]
    Stale,
    /// Another secret, or another body.
    #[error("no signature fits the payload")]
    Wrong,
    /// Our own secret can't be read.
    #[error("the webhook secret is not of the form whsec_<base64>")]
    Secret,
}

/// Judges a `Stripe-Signature` header over the raw body.
///
/// # Errors
/// See [`SignatureError`].
pub fn stripe(secret: &str, header: &str, payload: &str, now: Ts) -> Result<(), SignatureError> {
    let mut time = None;
    let mut given = Vec::new();
    for part in header.split(',') {
        match part.trim().split_once('=') {
            Some(("t", text)) => time = Some(text),
            Some(("v1", text)) => given.extend(unhex(text)),
            // Other schemes come and go; only v1 counts.
            Some(_) => {}
            None => return Err(SignatureError::Malformed),
        }
    }
    let time = time.ok_or(SignatureError::Malformed)?;
    fresh(time, now)?;
    one_fits(secret.as_bytes(), &[time, payload], &given)
}

/// Judges the three headers of the Standard Webhooks specification over the raw body. `secret` is `whsec_` and base64;
/// `signatures` may hold several, separated by spaces, as while a secret is changed.
///
/// # Errors
/// See [`SignatureError`].
pub fn standard(
    secret: &str,
    id: &str,
    timestamp: &str,
    signatures: &str,
    payload: &str,
    now: Ts,
) -> Result<(), SignatureError> {
    let key = secret
        .strip_prefix("whsec_")
        .and_then(|text| STANDARD.decode(text).ok())
        .filter(|key| !key.is_empty())
        .ok_or(SignatureError::Secret)?;
    if id.is_empty() || signatures.is_empty() {
        return Err(SignatureError::Malformed);
    }
    fresh(timestamp, now)?;
    let given: Vec<Vec<u8>> = signatures
        .split(' ')
        .filter_map(|one| one.strip_prefix("v1,"))
        .filter_map(|text| STANDARD.decode(text).ok())
        .collect();
    one_fits(&key, &[id, timestamp, payload], &given)
}

/// `timestamp` is Unix seconds.
fn fresh(timestamp: &str, now: Ts) -> Result<(), SignatureError> {
    let signed: i64 = timestamp.parse().map_err(|_| SignatureError::Malformed)?;
    let apart = (now.ms() / 1000).saturating_sub(signed).saturating_abs();
    if apart > TOLERANCE_SECS {
        return Err(SignatureError::Stale);
    }
    Ok(())
}

/// Whether one of `given` is the code over `parts` joined by dots. Compared in constant time.
fn one_fits(key: &[u8], parts: &[&str], given: &[Vec<u8>]) -> Result<(), SignatureError> {
    // A key of any length is taken, the empty one included.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| SignatureError::Secret)?;
    mac.update(parts.join(".").as_bytes());
    let fits = given
        .iter()
        .any(|code| mac.clone().verify_slice(code).is_ok());
    if fits {
        Ok(())
    } else {
        Err(SignatureError::Wrong)
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(
        digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with another implementation: printf '%s' '1768471200.{"a":1}' | openssl dgst -sha256 -hmac secret.
    const HEX: &str = "9d2c932b4bcbc79d62289b6fcc08d1bf89c5ceb9e8e918448e18445f40586cd5";
    const AT: i64 = 1_768_471_200;

    fn at(secs: i64) -> Ts {
        Ts::from_ms(secs * 1000)
    }

    #[test]
    fn a_stripe_signature_holds_for_its_body_secret_and_time() {
        let header = format!("t={AT},v0=ff,v1={HEX}");
        let body = r#"{"a":1}"#;
        assert_eq!(stripe("secret", &header, body, at(AT)), Ok(()));
        assert_eq!(stripe("secret", &header, body, at(AT + 300)), Ok(()));
        assert_eq!(
            stripe("secret", &header, body, at(AT + 301)),
            Err(SignatureError::Stale)
        );
        assert_eq!(
            stripe("secret", &header, body, at(AT - 301)),
            Err(SignatureError::Stale)
        );
        let wrong = Err(SignatureError::Wrong);
        assert_eq!(stripe("other", &header, body, at(AT)), wrong);
        assert_eq!(stripe("secret", &header, r#"{"a": 1}"#, at(AT)), wrong);
        let later = format!("t={},v1={HEX}", AT + 1);
        assert_eq!(stripe("secret", &later, body, at(AT)), wrong);
        let other_scheme = format!("t={AT},v0={HEX}");
        assert_eq!(stripe("secret", &other_scheme, body, at(AT)), wrong);
        for malformed in ["", "nonsense", "v1=ff", "t=soon,v1=ff"] {
            assert_eq!(
                stripe("secret", malformed, body, at(AT)),
                Err(SignatureError::Malformed),
                "{malformed}"
            );
        }
    }

    #[test]
    fn a_standard_signature_is_the_specifications_own_example() {
        // From the specification's reference libraries.
        let (secret, id) = (
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
        );
        let (time, body) = ("1614265330", r#"{"test": 2432232314}"#);
        let good = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let now = at(1_614_265_330);
        assert_eq!(standard(secret, id, time, good, body, now), Ok(()));
        let several = format!("v1,AAAA v2,BBBB {good}");
        assert_eq!(standard(secret, id, time, &several, body, now), Ok(()));
        let wrong = Err(SignatureError::Wrong);
        assert_eq!(standard(secret, "msg_x", time, good, body, now), wrong);
        assert_eq!(standard(secret, id, time, good, "{}", now), wrong);
        assert_eq!(
            standard(secret, id, time, good, body, at(1_614_265_631)),
            Err(SignatureError::Stale)
        );
        assert_eq!(
            standard("plain", id, time, good, body, now),
            Err(SignatureError::Secret)
        );
        assert_eq!(
            standard(secret, id, time, "", body, now),
            Err(SignatureError::Malformed)
        );
    }
}
