//! Access tokens: JSON Web Tokens signed with Ed25519 (DOMAIN 5.9). Pure: whoever lets people in (the door over HTTP)
//! verifies here with the keys that `auth.keys` answers and a time of his own.

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use ring::signature::{ED25519, UnparsedPublicKey};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::keys::{Keys, SigningKey};
use crate::event::{Actor, Id, PaymentType, Ts, UserRole};
use crate::role::permission::Caller;

/// The one algorithm that is made and taken: a token never chooses how it is judged.
const ALGORITHM: &str = "EdDSA";
/// How far the clock of whoever verifies may be behind that of whoever signed, seconds.
const CLOCK_SKEW_SECONDS: i64 = 60;
/// A longer text is none of ours, and not looked at.
const TOKEN_BYTES_MAX: usize = 4_096;

/// Whom a token names, and for how long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    /// The userId.
    pub sub: Id,
    /// What he may do (DOMAIN 1.2).
    pub role: UserRole,
    /// His company.
    #[serde(rename = "companyId", skip_serializing_if = "Option::is_none")]
    pub company_id: Option<Id>,
    /// Who pays for a driver.
    #[serde(rename = "paymentType", skip_serializing_if = "Option::is_none")]
    pub payment_type: Option<PaymentType>,
    /// When it was signed, Unix seconds.
    pub iat: i64,
    /// From when on it counts no more, Unix seconds.
    pub exp: i64,
    /// The token's own name.
    pub jti: String,
    /// The site that signed it.
    pub iss: String,
}

impl Claims {
    /// The person as commands know him.
    #[must_use]
    pub fn caller(&self) -> Caller {
        let actor = match self.role {
            UserRole::Driver => Actor::Driver(self.sub),
            UserRole::Vendor => Actor::Vendor(self.sub),
            UserRole::Dispatcher => Actor::Dispatcher(self.sub),
            UserRole::Admin => Actor::Admin(self.sub),
        };
        Caller {
            company: self.company_id,
            independent_contractor: self.payment_type == Some(PaymentType::IndependentContractor),
            ..Caller::of(actor)
        }
    }
}

/// Why a token does not count. No part of the token is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three parts, no base64url, no JSON, or a claim is missing.
    #[error("this is no access token")]
    Malformed,
    /// Another algorithm, or none.
    #[error("the token is not signed with EdDSA")]
    Algorithm,
    /// No key of that name is known (any more).
    #[error("the token is signed with an unknown key")]
    UnknownKey,
    /// Changed, or signed by somebody else.
    #[error("the token's signature is wrong")]
    Signature,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// From the future.
    #[error("the token is not valid yet")]
    NotYet,
    /// Signed for another site.
    #[error("the token is from another site")]
    Issuer,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    typ: Option<String>,
    kid: String,
    /// Extensions that must be understood; none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    crit: Option<Value>,
}

/// Public keys by name, and whose they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySet {
    issuer: String,
    keys: BTreeMap<String, Vec<u8>>,
}

impl KeySet {
    /// The public halves of `keys`.
    #[must_use]
    pub fn of(keys: &Keys, issuer: &str) -> Self {
        let public = |key: &SigningKey| (key.kid().to_owned(), key.public().to_vec());
        Self {
            issuer: issuer.to_owned(),
            keys: keys.signing().iter().map(public).collect(),
        }
    }

    /// As a JSON Web Key Set (RFC 7517, 8037), with the issuer beside the keys.
    #[must_use]
    pub fn to_jwks(&self) -> JwkSet {
        let key = |(kid, x): (&String, &Vec<u8>)| Jwk {
            kty: "OKP".to_owned(),
            crv: "Ed25519".to_owned(),
            use_for: "sig".to_owned(),
            alg: ALGORITHM.to_owned(),
            kid: kid.clone(),
            x: BASE64URL_NOPAD.encode(x),
        };
        JwkSet {
            issuer: self.issuer.clone(),
            keys: self.keys.iter().map(key).collect(),
        }
    }

    /// The same as a document.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!(self.to_jwks())
    }

    /// Reads what [`KeySet::to_json`] wrote. Keys of other kinds are passed over.
    ///
    /// # Errors
    /// One sentence for a document that is none.
    pub fn from_json(document: &Value) -> Result<Self, String> {
        let issuer = document["issuer"].as_str();
        let issuer = issuer.ok_or("the key set names no issuer")?.to_owned();
        let listed = document["keys"].as_array();
        let listed = listed.ok_or("the key set has no list of keys")?;
        let ours = |key: &Value| {
            let fits = key["kty"] == "OKP" && key["crv"] == "Ed25519";
            let x = BASE64URL_NOPAD.decode(key["x"].as_str()?.as_bytes());
            let x = x.ok().filter(|x| fits && x.len() == 32)?;
            Some((key["kid"].as_str()?.to_owned(), x))
        };
        let keys = listed.iter().filter_map(ours).collect();
        Ok(Self { issuer, keys })
    }
}

/// The public keys as others read them (RFC 7517, 8037).
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct JwkSet {
    /// Who signs with them.
    pub issuer: String,
    /// By name.
    pub keys: Vec<Jwk>,
}

/// A public key (RFC 7517, 8037).
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Jwk {
    /// Its type, `OKP`.
    pub kty: String,
    /// Its curve, `Ed25519`.
    pub crv: String,
    /// What it is for, `sig`.
    #[serde(rename = "use")]
    pub use_for: String,
    /// How it is used, `EdDSA`.
    pub alg: String,
    /// Its name.
    pub kid: String,
    /// The key itself, base64url.
    pub x: String,
}

/// Signs claims.
#[must_use]
pub fn sign(claims: &Claims, key: &SigningKey) -> String {
    let header = Header {
        alg: ALGORITHM.to_owned(),
        typ: Some("JWT".to_owned()),
        kid: key.kid().to_owned(),
        crit: None,
    };
    let signed = format!("{}.{}", part(&header), part(claims));
    let signature = BASE64URL_NOPAD.encode(&key.sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

fn part(value: &impl Serialize) -> String {
    // Texts and whole numbers always have a JSON form.
    BASE64URL_NOPAD.encode(&serde_json::to_vec(value).unwrap_or_default())
}

/// Judges a token at `now`; gives whom it names.
///
/// # Errors
/// See [`TokenError`].
pub fn verify(token: &str, keys: &KeySet, now: Ts) -> Result<Claims, TokenError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::Malformed);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
    let header: Header = read(header)?;
    if header.alg != ALGORITHM || header.crit.is_some() {
        return Err(TokenError::Algorithm);
    }
    let key = keys.keys.get(&header.kid).ok_or(TokenError::UnknownKey)?;
    let signature = decode(signature)?;
    // Before the claims are looked at: what nobody signed is not read.
    UnparsedPublicKey::new(&ED25519, key)
        .verify(signed.as_bytes(), &signature)
        .map_err(|_| TokenError::Signature)?;
    let claims: Claims = read(claims)?;
    let now_seconds = now.ms().div_euclid(1_000);
    if claims.iss != keys.issuer {
        return Err(TokenError::Issuer);
    }
    if now_seconds >= claims.exp {
        return Err(TokenError::Expired);
    }
    if claims.iat > now_seconds + CLOCK_SKEW_SECONDS {
        return Err(TokenError::NotYet);
    }
    Ok(claims)
}

fn decode(text: &str) -> Result<Vec<u8>, TokenError> {
    BASE64URL_NOPAD
        .decode(text.as_bytes())
        .map_err(|_| TokenError::Malformed)
}

fn read<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, TokenError> {
    serde_json::from_slice(&decode(text)?).map_err(|_| TokenError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ids;

    fn keys(seed: u8) -> Keys {
        Keys::new(&[[seed; 32]], [0; 32]).expect("a key")
    }

    fn claims() -> Claims {
        Claims {
            sub: ids::derive_v7(1, &[b"driver"]),
            role: UserRole::Driver,
            company_id: Some(ids::derive_v7(1, &[b"company"])),
            payment_type: Some(PaymentType::IndependentContractor),
            iat: 1_000,
            exp: 1_900,
            jti: "one".to_owned(),
            iss: "hub".to_owned(),
        }
    }

    fn at(seconds: i64) -> Ts {
        Ts::from_ms(seconds * 1_000)
    }

    fn signed() -> (String, KeySet) {
        let keys = keys(1);
        let token = sign(&claims(), &keys.signing()[0]);
        (token, KeySet::of(&keys, "hub"))
    }

    #[test]
    fn a_token_names_its_person_until_it_expires() {
        let (token, set) = signed();
        assert_eq!(verify(&token, &set, at(1_000)), Ok(claims()));
        assert_eq!(verify(&token, &set, at(1_899)), Ok(claims()));
        assert_eq!(verify(&token, &set, at(1_900)), Err(TokenError::Expired));
        assert_eq!(verify(&token, &set, at(940)), Ok(claims()));
        assert_eq!(verify(&token, &set, at(939)), Err(TokenError::NotYet));
        let caller = claims().caller();
        assert_eq!(caller.actor, Actor::Driver(claims().sub));
        assert!(caller.independent_contractor && caller.company == claims().company_id);
    }

    #[test]
    fn a_key_set_reads_back_and_an_older_key_still_counts() {
        let both = Keys::new(&[[2; 32], [1; 32]], [0; 32]).expect("keys");
        let set = KeySet::of(&both, "hub");
        let read = KeySet::from_json(&set.to_json()).expect("read back");
        assert_eq!(read, set);
        let (token, _) = signed();
        assert!(verify(&token, &read, at(1_000)).is_ok());
        assert!(KeySet::from_json(&json!({ "keys": [] })).is_err());
        assert!(KeySet::from_json(&json!({ "issuer": "hub" })).is_err());
        let other = json!({ "issuer": "hub", "keys": [{ "kty": "RSA", "kid": "r", "n": "AQ" }] });
        assert_eq!(KeySet::from_json(&other).expect("read").keys.len(), 0);
    }

    #[test]
    fn another_key_or_another_site_is_refused() {
        let (token, _) = signed();
        let others = KeySet::of(&keys(2), "hub");
        assert_eq!(
            verify(&token, &others, at(1_000)),
            Err(TokenError::UnknownKey)
        );
        // Somebody else's key under our key's name.
        let mut disguised = others.to_json();
        disguised["keys"][0]["kid"] = keys(1).signing()[0].kid().into();
        let disguised = KeySet::from_json(&disguised).expect("read");
        assert_eq!(
            verify(&token, &disguised, at(1_000)),
            Err(TokenError::Signature)
        );
        let elsewhere = KeySet::of(&keys(1), "depot-a");
        assert_eq!(
            verify(&token, &elsewhere, at(1_000)),
            Err(TokenError::Issuer)
        );
    }

    /// A token with this header over our claims, signed by our key all the same.
    fn with_header(header: &Value) -> String {
        let keys = keys(1);
        let signed = format!("{}.{}", part(header), part(&claims()));
        let signature = keys.signing()[0].sign(signed.as_bytes());
        format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
    }

    #[test]
    fn a_token_does_not_choose_its_algorithm() {
        let (_, set) = signed();
        let kid = keys(1).signing()[0].kid().to_owned();
        for algorithm in ["none", "None", "HS256", "eddsa", ""] {
            let token = with_header(&json!({ "alg": algorithm, "kid": kid }));
            assert_eq!(
                verify(&token, &set, at(1_000)),
                Err(TokenError::Algorithm),
                "{algorithm}"
            );
        }
        let unsigned = with_header(&json!({ "alg": "none", "kid": kid }));
        let (unsigned, _) = unsigned.rsplit_once('.').expect("parts");
        assert_eq!(
            verify(&format!("{unsigned}."), &set, at(1_000)),
            Err(TokenError::Algorithm)
        );
        let critical = with_header(&json!({ "alg": "EdDSA", "kid": kid, "crit": ["exp"] }));
        assert_eq!(
            verify(&critical, &set, at(1_000)),
            Err(TokenError::Algorithm)
        );
        let nameless = with_header(&json!({ "alg": "EdDSA" }));
        assert_eq!(
            verify(&nameless, &set, at(1_000)),
            Err(TokenError::Malformed)
        );
        let sound = with_header(&json!({ "alg": "EdDSA", "kid": kid }));
        assert!(verify(&sound, &set, at(1_000)).is_ok());
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let (token, set) = signed();
        for at_byte in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at_byte] = if changed[at_byte] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            assert!(verify(&changed, &set, at(1_000)).is_err(), "byte {at_byte}");
        }
        // The claims of an admin under the signature of a driver's.
        let raised = Claims {
            role: UserRole::Admin,
            ..claims()
        };
        let parts: Vec<&str> = token.split('.').collect();
        let raised = format!("{}.{}.{}", parts[0], part(&raised), parts[2]);
        assert_eq!(verify(&raised, &set, at(1_000)), Err(TokenError::Signature));
        for nonsense in ["", ".", "..", "a.b", "a.b.c.d", "é.é.é"] {
            assert_eq!(
                verify(nonsense, &set, at(1_000)),
                Err(TokenError::Malformed),
                "{nonsense}"
            );
        }
        let long = format!("{token}{}", "A".repeat(TOKEN_BYTES_MAX));
        assert_eq!(verify(&long, &set, at(1_000)), Err(TokenError::Malformed));
    }
}
