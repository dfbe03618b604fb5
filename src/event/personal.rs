//! Fields of class P (DOMAIN 3.2): plain, or sealed for their data subject (see `seal`).

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::seal::DataKey;
use super::strict::Strict;

/// What a sealed text begins with: the form, and its version.
const BEGINS: &str = "sealed:1:";

/// The text `sealed:1:<keyId>:<base64url>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(String);

impl Sealed {
    pub(super) fn of(key_id: &str, data: &str) -> Self {
        Self(format!("{BEGINS}{key_id}:{data}"))
    }

    /// The name of the key that sealed it.
    #[must_use]
    pub fn key_id(&self) -> &str {
        self.parts().0
    }

    pub(super) fn data(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        // Both makers of a value see to the form.
        let rest = self.0.strip_prefix(BEGINS).unwrap_or_default();
        rest.split_once(':').unwrap_or_default()
    }

    /// Reads the text; `None` for any other.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (key_id, data) = text.strip_prefix(BEGINS)?.split_once(':')?;
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

    /// Sealed with `key`, unless it is already.
    #[must_use]
    pub fn sealed(self, key: &DataKey) -> Self
    where
        T: Serialize,
    {
        match self {
            // Values of the catalogue always have a JSON form.
            Self::Plain(value) => Self::Sealed(key.seal(&written(&value))),
            sealed @ Self::Sealed(_) => sealed,
        }
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

/// How personal values are written on a thread.
#[derive(Clone, Copy)]
enum Writing {
    /// As they are.
    AsTheyAre,
    /// All as [`MASK`], plain and sealed ones alike.
    Masked,
}

thread_local! {
    static WRITING: Cell<Writing> = const { Cell::new(Writing::AsTheyAre) };
    /// Whether a plain one has been written as it is.
    static PLAIN: Cell<bool> = const { Cell::new(false) };
}

/// A value as JSON with every [`Personal`] in it written in this way. It goes by the type, so a field that is personal can't
/// be forgotten.
fn write_as(value: &impl Serialize, writing: Writing) -> Value {
    /// Ends it also where a `Serialize` panics.
    struct Until;
    impl Drop for Until {
        fn drop(&mut self) {
            WRITING.set(Writing::AsTheyAre);
        }
    }
    WRITING.set(writing);
    let _until = Until;
    // Types of the catalogue always serialise: their fields are named and their maps have text keys.
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// Every personal value in it masked.
pub(super) fn masked(value: &impl Serialize) -> Value {
    write_as(value, Writing::Masked)
}

/// Whether there is a plain personal value in it.
pub(super) fn has_plain(value: &impl Serialize) -> bool {
    PLAIN.set(false);
    write_as(value, Writing::AsTheyAre);
    PLAIN.get()
}

fn written(value: &impl Serialize) -> Vec<u8> {
    // Values of the catalogue always have a JSON form.
    serde_json::to_vec(value).unwrap_or_default()
}

impl<T: Serialize> Serialize for Personal<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (WRITING.get(), self) {
            (Writing::Masked, _) => serializer.serialize_str(MASK),
            (_, Self::Sealed(sealed)) => serializer.serialize_str(sealed.as_str()),
            (Writing::AsTheyAre, Self::Plain(value)) => {
                PLAIN.set(true);
                value.serialize(serializer)
            }
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
