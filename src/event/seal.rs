//! Sealing of class P fields (DOMAIN 3.2): one data key per data subject; who destroys the key has erased the person.
//!
//! XChaCha20-Poly1305. The nonce is a keyed hash of what is sealed, so the same value sealed for the same person gives the
//! same text: a handler that is run again writes what it wrote, and a lookup can compare. What that gives away is that two
//! texts of one person are equal, to those who have both.

use std::fmt;
use std::sync::Arc;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use hmac::{Hmac, Mac};
use serde_json::Value;
use sha2::Sha256;

use super::personal::{MASK, Sealed};

/// Bytes of a data key.
pub const SECRET_LEN: usize = 32;
/// Bytes of XChaCha20's nonce.
const NONCE_LEN: usize = 24;
/// Bytes of a blind index: enough that no two phone numbers share one.
const BLIND_LEN: usize = 16;

/// A key that seals for one data subject. Its debug form shows its name only.
#[derive(Clone)]
pub struct DataKey {
    id: Arc<str>,
    cipher: XChaCha20Poly1305,
    /// What nonces and blind indexes are derived with.
    hashing: [u8; SECRET_LEN],
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataKey({})", self.id)
    }
}

impl DataKey {
    /// The key `id` made of 32 random bytes.
    #[must_use]
    pub fn new(id: &str, secret: &[u8; SECRET_LEN]) -> Self {
        let sealing = hash(secret, &[b"roadcall seal 1"]);
        Self {
            id: id.into(),
            cipher: XChaCha20Poly1305::new(&sealing.into()),
            hashing: hash(secret, &[b"roadcall hash 1"]),
        }
    }

    /// Its name, which stands in what it sealed.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Seals bytes as the text that stands on the wire.
    #[must_use]
    pub fn seal(&self, plain: &[u8]) -> Sealed {
        let nonce = &hash(&self.hashing, &[b"nonce", self.id.as_bytes(), plain])[..NONCE_LEN];
        let payload = Payload {
            msg: plain,
            aad: self.id.as_bytes(),
        };
        let sealed = self
            .cipher
            .encrypt(XNonce::from_slice(nonce), payload)
            .expect("fails only for more bytes than memory holds");
        Sealed::of(
            &self.id,
            &BASE64URL_NOPAD.encode(&[nonce, &sealed].concat()),
        )
    }

    /// Opens what this key sealed; `None` for what another did, or somebody changed.
    #[must_use]
    pub fn open(&self, sealed: &Sealed) -> Option<Vec<u8>> {
        if sealed.key_id() != &*self.id {
            return None;
        }
        let bytes = BASE64URL_NOPAD.decode(sealed.data().as_bytes()).ok()?;
        let (nonce, msg) = bytes.split_at_checked(NONCE_LEN)?;
        let aad = self.id.as_bytes();
        self.cipher
            .decrypt(XNonce::from_slice(nonce), Payload { msg, aad })
            .ok()
    }

    /// What stands for `text` in a column that is searched: equal texts have equal ones, and nobody without the key can tell or
    /// try which text it is.
    #[must_use]
    pub fn blind(&self, text: &str) -> String {
        HEXLOWER.encode(&hash(&self.hashing, &[b"blind", text.as_bytes()])[..BLIND_LEN])
    }
}

/// A keyed hash of parts, told apart by their lengths.
fn hash(key: &[u8; SECRET_LEN], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac =
        <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Why there is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The person is erased, the key destroyed: what it sealed stays unreadable.
    #[error("the key is destroyed: the person was erased")]
    Erased,
    /// Not now; it may come.
    #[error("the key can't be had: {0}")]
    Unavailable(String),
    /// Nobody who can be asked has a key of this name.
    #[error("there is no key {0}")]
    Unknown(String),
}

/// Where a role gets keys from. It may wait for an answer, and remembers what it got.
pub trait Keyring: Send + Sync + fmt::Debug {
    /// The key to seal with for a data subject (a user's, vendor's or call's id), made if there is none.
    ///
    /// # Errors
    /// See [`KeyError`].
    fn of(&self, subject: &str) -> Result<DataKey, KeyError>;

    /// The key of this name.
    ///
    /// # Errors
    /// See [`KeyError`].
    fn named(&self, key_id: &str) -> Result<DataKey, KeyError>;

    /// The key of the site's blind indexes.
    ///
    /// # Errors
    /// See [`KeyError`].
    fn blind(&self) -> Result<DataKey, KeyError>;

    /// Forgets what is remembered for a subject, whose keys are being destroyed.
    fn forget(&self, subject: &str);
}

/// Name of the keys that nobody keeps: what is sealed for an erased person.
pub const NOBODY: &str = "nobody";

/// Opens every sealed text in a JSON value, so that people see what they may: in replies, and in the requests of outside calls.
/// What can't be opened any more is masked; false when there is such.
///
/// # Errors
/// The first key that can't be had now.
pub fn reveal(value: &mut Value, keys: &dyn Keyring) -> Result<bool, KeyError> {
    let parts: &mut dyn Iterator<Item = &mut Value> = match value {
        Value::String(text) => {
            let Some(sealed) = Sealed::parse(text) else {
                return Ok(true);
            };
            let opened = match open(&sealed, keys) {
                Err(KeyError::Unknown(_)) => None,
                opened => opened?,
            };
            let opened = opened.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let known = opened.is_some();
            *value = opened.unwrap_or_else(|| MASK.into());
            return Ok(known);
        }
        Value::Array(items) => &mut items.iter_mut(),
        Value::Object(map) => &mut map.values_mut(),
        _ => return Ok(true),
    };
    let mut known = true;
    for part in parts {
        known &= reveal(part, keys)?;
    }
    Ok(known)
}

/// What is in a sealed text; `None` where its key is destroyed or does not fit.
///
/// # Errors
/// [`KeyError::Unavailable`], [`KeyError::Unknown`]: another site may have made the key and not have told of it yet.
pub fn open(sealed: &Sealed, keys: &dyn Keyring) -> Result<Option<Vec<u8>>, KeyError> {
    if sealed.key_id() == NOBODY {
        return Ok(None);
    }
    match keys.named(sealed.key_id()) {
        Ok(key) => Ok(key.open(sealed)),
        Err(KeyError::Erased) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::super::catalogue::{catalogue, data_subject};
    use super::super::schema::schema;
    use super::*;

    fn key(id: &str, byte: u8) -> DataKey {
        DataKey::new(id, &[byte; SECRET_LEN])
    }

    #[test]
    fn only_its_own_key_opens_what_nobody_changed() {
        let (ours, other) = (key("k1", 1), key("k1", 2));
        let sealed = ours.seal(b"\"+15551234567\"");
        assert_eq!(sealed.key_id(), "k1");
        assert!(!sealed.as_str().contains("555"));
        assert_eq!(
            ours.open(&sealed).as_deref(),
            Some(&b"\"+15551234567\""[..])
        );
        assert_eq!(other.open(&sealed), None);
        assert_eq!(key("k2", 1).open(&sealed), None);
        let renamed = sealed.as_str().replace(":k1:", ":k2:");
        let renamed = Sealed::parse(&renamed).expect("of the form");
        assert_eq!(key("k2", 1).open(&renamed), None);
        let mut changed = sealed.as_str().to_owned();
        let last = if changed.ends_with('A') { 'B' } else { 'A' };
        let at = changed.len() - 8;
        changed.replace_range(at..=at, &last.to_string());
        let changed = Sealed::parse(&changed).expect("of the form");
        assert_eq!(ours.open(&changed), None);
    }

    /// Whether a schema, or a part of it, is of a personal field.
    fn personal(schema: &Value) -> bool {
        match schema {
            Value::String(text) => text.starts_with("#/$defs/Personal"),
            Value::Array(parts) => parts.iter().any(personal),
            Value::Object(parts) => parts.values().any(personal),
            _ => false,
        }
    }

    #[test]
    fn every_event_with_a_personal_field_always_names_its_data_subject_and_has_it_at_the_top() {
        let mut with_some = Vec::new();
        for row in catalogue() {
            for version in row.versions {
                let name = format!("{} {}", row.detail_type, version.name);
                let schema = schema(row, version);
                let defs = schema["$defs"].as_object().into_iter().flatten();
                for (def, within) in defs {
                    // Event::seal looks at the fields of the detail themselves.
                    assert!(
                        !personal(within),
                        "{name}: {def} has a personal field within"
                    );
                }
                let detail = &schema["properties"]["detail"]["allOf"][1];
                let fields = detail["properties"].as_object().expect("fields");
                let named = |field: &Value| {
                    let direct = field.get("$ref").is_some_and(personal);
                    let parts = field.get("anyOf").and_then(Value::as_array);
                    direct
                        || parts
                            .is_some_and(|parts| parts.iter().any(|part| personal(&part["$ref"])))
                };
                for (field, within) in fields {
                    assert_eq!(
                        personal(within),
                        named(within),
                        "{name}: {field} has one within"
                    );
                }
                if !fields.values().any(personal) {
                    continue;
                }
                let required = detail["required"].as_array().expect("required fields");
                let always: Map<String, Value> = required
                    .iter()
                    .map(|field| (field.as_str().expect("a name").to_owned(), "x".into()))
                    .collect();
                assert!(data_subject(&always).is_some(), "{name} may name nobody");
                with_some.push(row.detail_type);
            }
        }
        // Fewer would mean that this test no longer knows a personal field when it sees one.
        assert!(with_some.len() >= 19, "{with_some:?}");
    }

    #[test]
    fn sealed_twice_it_is_the_same_text_and_for_another_person_another() {
        let ours = key("k1", 1);
        assert_eq!(ours.seal(b"x"), ours.seal(b"x"));
        assert_ne!(ours.seal(b"x"), ours.seal(b"y"));
        assert_ne!(ours.seal(b"x").data(), key("k2", 2).seal(b"x").data());
        assert_eq!(ours.blind("+1555"), ours.blind("+1555"));
        assert_ne!(ours.blind("+1555"), key("k1", 2).blind("+1555"));
    }
}
