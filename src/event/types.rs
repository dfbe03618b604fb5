//! Scalar types of DOMAIN 3.2. Each validates when it is made or read, so a value of the type is a valid value.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, SecondsFormat, TimeDelta, Utc};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// Why a value is none of its type, as the end of a sentence that starts with the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TypeError(pub(super) Cow<'static, str>);

impl TypeError {
    pub(super) fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self(message.into())
    }
}

/// Implements what every textual type has: reading, writing, showing, and a schema. The schema says all that the parser
/// does, or a foreign producer would find out only from a dead letter.
macro_rules! textual {
    ($name:ident, $parse:expr, { $($schema:tt)+ }) => {
        impl FromStr for $name {
            type Err = TypeError;
            fn from_str(text: &str) -> Result<Self, TypeError> {
                let parse: fn(&str) -> Result<Self, TypeError> = $parse;
                parse(text)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", $($schema)+ })
            }
        }
    };
}

/// A UUID of any version, written in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(Uuid);

impl Id {
    /// Reads a lower-case UUID.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Self, TypeError> {
        let lower_case = text.len() == 36 && !text.bytes().any(|byte| byte.is_ascii_uppercase());
        match Uuid::try_parse(text) {
            Ok(uuid) if lower_case => Ok(Self(uuid)),
            _ => Err(TypeError::new("not a lower-case UUID")),
        }
    }

    /// Wraps a UUID.
    #[must_use]
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The UUID.
    #[must_use]
    pub fn uuid(&self) -> &Uuid {
        &self.0
    }

    /// The last eight digits, for people: the first ones are the time, which neighbours share.
    #[must_use]
    pub fn short(&self) -> String {
        self.0.simple().to_string()[24..].to_owned()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

textual!(Id, Id::parse, { "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$" });

/// Makes a String newtype with a check.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $schema:tt, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Checks and wraps.
            ///
            /// # Errors
            /// A text that is none.
            pub fn new(text: impl Into<String>) -> Result<Self, TypeError> {
                let text = text.into();
                let check: fn(&str) -> Result<(), TypeError> = $check;
                check(&text).map(|()| Self(text))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        textual!($name, |text| $name::new(text), $schema);
    };
}

fn all(text: &str, lengths: std::ops::RangeInclusive<usize>, allowed: fn(u8) -> bool) -> bool {
    lengths.contains(&text.len()) && text.bytes().all(allowed)
}

checked_text!(
    /// An entity key: the last token of a subject.
    Key, { "pattern": "^[A-Za-z0-9_-]{1,64}$" },
    |text| if all(text, 1..=64, |b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') { Ok(()) }
        else { Err(TypeError::new("not 1 to 64 of A-Z a-z 0-9 _ -")) }
);
checked_text!(
    /// A machine-readable word.
    Code, { "pattern": "^[a-z0-9_]{1,64}$" },
    |text| if all(text, 1..=64, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') { Ok(()) }
        else { Err(TypeError::new("not 1 to 64 of a-z 0-9 _")) }
);
checked_text!(
    /// A phone number in the form of E.164.
    E164, { "pattern": "^\\+[1-9][0-9]{1,14}$" },
    |text| match text.strip_prefix('+') {
        Some(digits) if all(digits, 2..=15, |b| b.is_ascii_digit()) && !digits.starts_with('0') => Ok(()),
        _ => Err(TypeError::new("not a phone number like +15551234567")),
    }
);
checked_text!(
    /// An e-mail address (addr-spec, at most 254 characters).
    Email, {
        "maxLength": 254,
        "pattern": "^[^\\s\\u0000-\\u001f\\u007f-\\u009f]+@[^@.\\s\\u0000-\\u001f\\u007f-\\u009f]+(\\.+[^@.\\s\\u0000-\\u001f\\u007f-\\u009f]+)*$"
    },
    |text| match text.rsplit_once('@') {
        Some((local, domain)) if text.chars().count() <= 254 && !local.is_empty() && !domain.is_empty()
            && !domain.starts_with('.') && !domain.ends_with('.')
            // The last of them is a space to the expressions of JSON Schema.
            && !text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\u{feff}') => Ok(()),
        _ => Err(TypeError::new("not an e-mail address")),
    }
);
checked_text!(
    /// Three capitals of ISO 4217.
    Currency, { "pattern": "^[A-Z]{3}$" },
    |text| if all(text, 3..=3, |b| b.is_ascii_uppercase()) { Ok(()) } else { Err(TypeError::new("not three capitals like USD")) }
);
checked_text!(
    /// The name of a site, one token of a subject.
    Site, { "pattern": "^[a-z0-9-]{1,32}$" },
    |text| if all(text, 1..=32, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') { Ok(()) }
        else { Err(TypeError::new("not 1 to 32 of a-z 0-9 -")) }
);

impl Default for Currency {
    fn default() -> Self {
        Self("USD".to_owned())
    }
}

/// Text of at most `N` characters without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text<const N: usize>(String);

impl<const N: usize> Text<N> {
    /// Checks and wraps.
    ///
    /// # Errors
    /// Too long, or a control character in it.
    pub fn new(text: impl Into<String>) -> Result<Self, TypeError> {
        let text = text.into();
        if text.chars().count() > N {
            return Err(TypeError::new(format!("longer than {N} characters")));
        }
        if text.chars().any(char::is_control) {
            return Err(TypeError::new("has a control character"));
        }
        Ok(Self(text))
    }

    /// Makes any text fit: control characters become spaces, what is too long is cut. For error texts.
    #[must_use]
    pub fn lossy(text: &str) -> Self {
        Self(
            text.chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .take(N)
                .collect(),
        )
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<const N: usize> Serialize for Text<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Text<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl<const N: usize> JsonSchema for Text<N> {
    fn schema_name() -> Cow<'static, str> {
        format!("Text{N}").into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": N, "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]*$" })
    }
}

/// A point in time, UTC, with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ts(DateTime<Utc>);

impl Ts {
    /// From Unix milliseconds; what chrono can't hold becomes the epoch.
    #[must_use]
    pub fn from_ms(ms: i64) -> Self {
        Self(DateTime::from_timestamp_millis(ms).unwrap_or_default())
    }

    /// Unix milliseconds.
    #[must_use]
    pub fn ms(self) -> i64 {
        self.0.timestamp_millis()
    }

    /// As chrono has it.
    #[must_use]
    pub fn datetime(self) -> DateTime<Utc> {
        self.0
    }
}

impl fmt::Display for Ts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl Add<Duration> for Ts {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self::from_ms(
            self.ms()
                .saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)),
        )
    }
}

impl Sub for Ts {
    type Output = TimeDelta;
    fn sub(self, other: Self) -> TimeDelta {
        self.0 - other.0
    }
}

fn parse_time(text: &str) -> Result<Ts, TypeError> {
    let time = DateTime::parse_from_rfc3339(text)
        .ok()
        // chrono would also take a space or small letters, other zones of no offset, and a 61st second in any minute.
        .filter(|_| {
            text.as_bytes()[10] == b'T' && (text.ends_with('Z') || text.ends_with("+00:00"))
        })
        .filter(|_| &text[17..19] != "60" || &text[11..16] == "23:59");
    let Some(time) = time else {
        let message = "not an RFC 3339 time in UTC like 2026-01-15T10:00:00.000Z";
        return Err(TypeError::new(message));
    };
    // A leap second becomes the end of the one before it: so it stays in its day, and in the last year that can be written.
    let ms = i64::from(time.timestamp_subsec_millis().min(999));
    Ok(Ts::from_ms(time.timestamp() * 1000 + ms))
}

textual!(Ts, parse_time, {
    "format": "date-time",
    "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T(([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]|23:59:60)(\\.[0-9]+)?(Z|\\+00:00)$"
});

/// A calendar day, `YYYY-MM-DD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date(pub NaiveDate);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.format("%Y-%m-%d").fmt(f)
    }
}

textual!(
    Date,
    |text| NaiveDate::parse_from_str(text, "%Y-%m-%d")
        .ok()
        .map(Date)
        // chrono would also take fewer digits, more of them, and spaces.
        .filter(|date| text.len() == 10 && date.to_string() == text)
        .ok_or_else(|| TypeError::new("not a day like 2026-01-15")),
    { "format": "date", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$" }
);

/// A time zone by its IANA name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tz(pub chrono_tz::Tz);

impl fmt::Display for Tz {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

textual!(
    Tz,
    |text| text
        .parse()
        .map(Tz)
        .map_err(|_| TypeError::new("not an IANA time zone like America/New_York")),
    // No validator knows this format; it tells a reader what the pattern can't.
    { "format": "iana-time-zone", "pattern": "^[A-Za-z0-9_+/-]+$" }
);

/// Makes a number newtype with a range.
macro_rules! checked_number {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $kind:literal, $min:expr, $max:expr, $says:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
        pub struct $name($inner);

        impl $name {
            /// Checks and wraps.
            ///
            /// # Errors
            /// A number outside the range.
            pub fn new(value: $inner) -> Result<Self, TypeError> {
                let allowed: std::ops::RangeInclusive<$inner> = $min..=$max;
                if allowed.contains(&value) { Ok(Self(value)) } else { Err(TypeError::new($says)) }
            }

            /// The number.
            #[must_use]
            pub fn get(self) -> $inner {
                self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.0.serialize(serializer)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(<$inner>::deserialize(deserializer)?).map_err(D::Error::custom)
            }
        }
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let (min, max): ($inner, $inner) = ($min, $max);
                json_schema!({ "type": $kind, "minimum": min, "maximum": max })
            }
        }
    };
}

checked_number!(
    /// Money in cents.
    Cents, u64, "integer", 0, 100_000_000_000, "not a whole number of cents from 0 to 100000000000"
);
checked_number!(
    /// A distance in miles.
    Miles, f64, "number", 0.0, f64::MAX, "not a finite number of miles from 0 up"
);
checked_number!(
    /// A share from 0 to 1.
    Rate, f64, "number", 0.0, 1.0, "not a number from 0 to 1"
);
checked_number!(
    /// A number from 0 up: minutes, seconds, meters, as the field's name says.
    NonNegative, f64, "number", 0.0, f64::MAX, "not a finite number from 0 up"
);
checked_number!(
    /// A whole number from 1 up.
    Count1, u64, "integer", 1, u64::MAX, "not a whole number from 1 up"
);
checked_number!(
    /// Stars from 1 to 5.
    Stars, u8, "integer", 1, 5, "not a whole number from 1 to 5"
);
checked_number!(
    /// A mean of stars, 0 (without data) to 5.
    RatingAverage, f64, "number", 0.0, 5.0, "not a number from 0 to 5"
);
checked_number!(
    /// Payment attempt, 1 to 4.
    PaymentAttempt, u8, "integer", 1, 4, "not a whole number from 1 to 4"
);
checked_number!(
    /// Distance of an arrival, meters from 0 to 100.
    ArrivalMeters, f64, "number", 0.0, 100.0, "not a number of meters from 0 to 100"
);
checked_number!(
    /// Coverage radius: over 0 to 500 miles.
    CoverageMiles, f64, "number", f64::MIN_POSITIVE, 500.0, "not a number of miles over 0 and up to 500"
);

/// A list of at least `MIN` and at most `MAX` items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T, const MIN: usize, const MAX: usize>(Vec<T>);

impl<T, const MIN: usize, const MAX: usize> List<T, MIN, MAX> {
    /// Checks and wraps.
    ///
    /// # Errors
    /// Too few or too many items.
    pub fn new(items: Vec<T>) -> Result<Self, TypeError> {
        match items.len() {
            n if n < MIN => Err(TypeError::new(format!("fewer than {MIN} items"))),
            n if n > MAX => Err(TypeError::new(format!("more than {MAX} items"))),
            _ => Ok(Self(items)),
        }
    }

    /// The items.
    #[must_use]
    pub fn get(&self) -> &[T] {
        &self.0
    }
}

impl<T: Serialize, const MIN: usize, const MAX: usize> Serialize for List<T, MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>, const MIN: usize, const MAX: usize> Deserialize<'de>
    for List<T, MIN, MAX>
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Vec::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl<T: JsonSchema, const MIN: usize, const MAX: usize> JsonSchema for List<T, MIN, MAX> {
    fn schema_name() -> Cow<'static, str> {
        format!("List{MIN}To{MAX}Of{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": generator.subschema_for::<T>(), "minItems": MIN, "maxItems": MAX })
    }
}

checked_number!(
    /// A matching cycle after the first.
    Cycle2, u64, "integer", 2, u64::MAX, "not a whole number from 2 up"
);
checked_text!(
    /// A time of day, `HH:mm`, up to `24:00`.
    TimeOfDay, { "pattern": "^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$" },
    |text| {
        let bytes = text.as_bytes();
        let digits = bytes.len() == 5 && bytes[2] == b':' && [0, 1, 3, 4].iter().all(|i| bytes[*i].is_ascii_digit());
        let fits = digits && (text == "24:00" || (&text[..2] < "24" && &text[3..] < "60"));
        if fits { Ok(()) } else { Err(TypeError::new("not a time of day like 08:30")) }
    }
);
checked_text!(
    /// A one-time password: six digits.
    OtpCode, { "pattern": "^[0-9]{6}$" },
    |text| if all(text, 6..=6, |b| b.is_ascii_digit()) { Ok(()) } else { Err(TypeError::new("not six digits")) }
);
checked_text!(
    /// A token that only its holder and its maker understand: 43 characters of base64url, 32 bytes.
    OpaqueToken, { "pattern": "^[A-Za-z0-9_-]{43}$" },
    |text| if all(text, 43..=43, |b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') { Ok(()) }
        else { Err(TypeError::new("not a token of this service")) }
);
checked_text!(
    /// Why somebody looked at masked data: 10 to 500 characters.
    Purpose, { "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]{10,500}$" },
    |text| if (10..=500).contains(&text.chars().count()) && !text.chars().any(char::is_control) { Ok(()) }
        else { Err(TypeError::new("not 10 to 500 characters")) }
);

impl TimeOfDay {
    /// Minutes since midnight, 0 to 1440.
    #[must_use]
    pub fn minutes(&self) -> u32 {
        let number = |text: &str| text.parse::<u32>().unwrap_or_default();
        number(&self.0[..2]) * 60 + number(&self.0[3..])
    }
}
