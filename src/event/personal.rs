//! Fields of class P (DOMAIN 3.2): plain, or sealed for their data subject. Sealing itself comes with a later issue; the
//! wire form is read and passed on from the start.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::strict::Strict;

/// The text `sealed:1:<keyId>:<base64url>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(String);

impl Sealed {
    fn parse(text: &str) -> Option<Self> {
        let (key_id, data) = text.strip_prefix("sealed:1:")?.split_once(':')?;
        let word = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        (word(key_id) && word(data)).then(|| Self(text.to_owned()))
    }

    /// The text as it stands on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sealed")
    }
}

/// A personal value. Its debug form never shows it, so it can't slip into a log.
#[derive(Clone, PartialEq)]
pub enum Personal<T> {
    /// As it is.
    Plain(T),
    /// Encrypted for its data subject.
    Sealed(Sealed),
}

impl<T> Personal<T> {
    /// Wraps a plain value.
    #[must_use]
    pub fn plain(value: T) -> Self {
        Self::Plain(value)
    }

    /// The value, where it is not sealed.
    #[must_use]
    pub fn as_plain(&self) -> Option<&T> {
        match self {
            Self::Plain(value) => Some(value),
            Self::Sealed(_) => None,
        }
    }
}

impl<T> fmt::Debug for Personal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Personal(plain)",
            Self::Sealed(_) => "Personal(sealed)",
        })
    }
}

/// What stands in the place of a personal value where nobody may read it.
pub const MASK: &str = "***";

thread_local! {
    /// Whether personal values are being written as [`MASK`] on this thread.
    static MASKING: Cell<bool> = const { Cell::new(false) };
}

/// A value with every [`Personal`] in it written as [`MASK`], plain and sealed ones alike. It goes by the type, so a field that
/// is personal can't be forgotten.
pub(super) fn masked(value: &impl Serialize) -> Value {
    /// Ends the masking also where a `Serialize` panics.
    struct Until;
    impl Drop for Until {
        fn drop(&mut self) {
            MASKING.set(false);
        }
    }
    MASKING.set(true);
    let _until = Until;
    // Types of the catalogue always serialise: their fields are named and their maps have text keys.
    serde_json::to_value(value).unwrap_or(Value::Null)
}

impl<T: Serialize> Serialize for Personal<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if MASKING.get() {
            return serializer.serialize_str(MASK);
        }
        match self {
            Self::Plain(value) => value.serialize(serializer),
            Self::Sealed(sealed) => serializer.serialize_str(sealed.as_str()),
        }
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Personal<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if let Value::String(text) = &value
            && text.starts_with("sealed:")
        {
            return Sealed::parse(text)
                .map(Self::Sealed)
                .ok_or_else(|| D::Error::custom("not of the form sealed:1:<keyId>:<base64url>"));
        }
        T::deserialize(Strict(&value))
            .map(Self::Plain)
            .map_err(|error| D::Error::custom(without_value(&error.to_string())))
    }
}

/// serde's errors show the value that they refuse; this one goes into logs and letters, where it must not stand.
fn without_value(error: &str) -> String {
    match error.rsplit_once(", expected ") {
        Some((_, expected)) => format!("not {expected}, and not sealed"),
        None => error.to_owned(),
    }
}

impl<T: JsonSchema> JsonSchema for Personal<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Personal{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let sealed = "^sealed:1:[A-Za-z0-9_-]+:[A-Za-z0-9_-]+$";
        json_schema!({
            "anyOf": [generator.subschema_for::<T>(), { "type": "string", "pattern": sealed }],
            // What begins like a sealed value is one: a broken one must not pass for a plain text.
            "if": { "type": "string", "pattern": "^sealed:" }, "then": { "pattern": sealed }
        })
    }
}
