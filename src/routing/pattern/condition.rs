//! One condition on a value: what stands in a pattern's list (EventBridge, "Comparison operators for use in event
//! patterns").

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Number, Value};

use super::wildcard::Wildcard;

/// The operators of the language.
pub(super) const OPERATORS: [&str; 8] = [
    "prefix",
    "suffix",
    "equals-ignore-case",
    "wildcard",
    "anything-but",
    "numeric",
    "cidr",
    "exists",
];

/// What a value has to be. In a list one of them is enough.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Condition {
    /// This text.
    Text(String),
    /// This number, written so: 300 and 300.0 are two values, as EventBridge documents it.
    Number(Number),
    /// `true`, `false` or `null`.
    Word(Value),
    /// A text that starts so.
    Prefix(String),
    /// A text that starts so, in whatever case.
    PrefixIgnoreCase(String),
    /// A text that ends so.
    Suffix(String),
    /// A text that ends so, in whatever case.
    SuffixIgnoreCase(String),
    /// This text in whatever case.
    EqualsIgnoreCase(String),
    /// A text of this form.
    Wildcard(Wildcard),
    /// A value that is there and is none of these.
    AnythingBut(Vec<Condition>),
    /// A number for which all of this holds.
    Numeric(Vec<(Comparison, f64)>),
    /// An address in this network.
    Cidr(IpNet),
    /// A value that is there, or none that is.
    Exists(bool),
}

/// How a number stands to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "=" => Self::Equal,
            "<" => Self::Less,
            "<=" => Self::LessOrEqual,
            ">" => Self::Greater,
            ">=" => Self::GreaterOrEqual,
            _ => return None,
        })
    }

    fn holds(self, left: f64, right: f64) -> bool {
        match self {
            Self::Equal => left == right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }

    fn bounds_below(self) -> bool {
        matches!(self, Self::Greater | Self::GreaterOrEqual)
    }

    fn bounds_above(self) -> bool {
        matches!(self, Self::Less | Self::LessOrEqual)
    }
}

impl Condition {
    /// Reads one entry of a field's list; the error is the end of a sentence that starts with the field.
    pub(super) fn parse(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Ok(Self::Text(text.clone())),
            Value::Number(number) => Ok(Self::Number(number.clone())),
            Value::Bool(_) | Value::Null => Ok(Self::Word(value.clone())),
            Value::Array(_) => Err("has a list in its list; list the values themselves".to_owned()),
            Value::Object(map) => {
                let mut entries = map.iter();
                match (entries.next(), entries.next()) {
                    (Some((operator, argument)), None) => Self::operator(operator, argument),
                    _ => Err(
                        "has an operator object that does not hold exactly one operator".to_owned(),
                    ),
                }
            }
        }
    }

    fn operator(name: &str, argument: &Value) -> Result<Self, String> {
        match name {
            "prefix" => match ignoring_case(name, argument)? {
                (text, false) => Ok(Self::Prefix(text)),
                (text, true) => Ok(Self::PrefixIgnoreCase(text)),
            },
            "suffix" => match ignoring_case(name, argument)? {
                (text, false) => Ok(Self::Suffix(text)),
                (text, true) => Ok(Self::SuffixIgnoreCase(text)),
            },
            "equals-ignore-case" => Ok(Self::EqualsIgnoreCase(text(name, argument)?)),
            "wildcard" => Ok(Self::Wildcard(Wildcard::parse(&text(name, argument)?)?)),
            "anything-but" => Ok(Self::AnythingBut(excluded(argument)?)),
            "numeric" => Ok(Self::Numeric(comparisons(argument)?)),
            "cidr" => Ok(Self::Cidr(network(&text(name, argument)?)?)),
            "exists" => match argument {
                Value::Bool(wanted) => Ok(Self::Exists(*wanted)),
                _ => Err("exists takes true or false".to_owned()),
            },
            other => {
                let nearest = OPERATORS
                    .iter()
                    .max_by(|one, two| {
                        strsim::jaro(one, other).total_cmp(&strsim::jaro(two, other))
                    })
                    .copied()
                    .unwrap_or_default();
                Err(format!(
                    "has the unknown operator '{other}'; the nearest is '{nearest}'"
                ))
            }
        }
    }

    /// Whether a value that is there satisfies the condition. Lists and objects are no values.
    pub(super) fn holds(&self, value: &Value) -> bool {
        match self {
            Self::Text(wanted) => value.as_str() == Some(wanted),
            Self::Number(wanted) => matches!(value, Value::Number(number) if number == wanted),
            Self::Word(wanted) => value == wanted,
            Self::AnythingBut(excluded) => !excluded.iter().any(|condition| condition.holds(value)),
            Self::Numeric(comparisons) => value.as_f64().is_some_and(|number| {
                comparisons
                    .iter()
                    .all(|(comparison, bound)| comparison.holds(number, *bound))
            }),
            Self::Exists(wanted) => *wanted,
            _ => value.as_str().is_some_and(|text| self.holds_for_text(text)),
        }
    }

    fn holds_for_text(&self, text: &str) -> bool {
        match self {
            Self::Prefix(wanted) => text.starts_with(wanted.as_str()),
            Self::PrefixIgnoreCase(wanted) => same_start(text.chars(), wanted.chars()),
            Self::Suffix(wanted) => text.ends_with(wanted.as_str()),
            Self::SuffixIgnoreCase(wanted) => same_start(text.chars().rev(), wanted.chars().rev()),
            Self::EqualsIgnoreCase(wanted) => {
                text.chars().count() == wanted.chars().count()
                    && same_start(text.chars(), wanted.chars())
            }
            Self::Wildcard(form) => form.matches(text),
            Self::Cidr(network) => text
                .parse::<IpAddr>()
                .is_ok_and(|address| network.contains(&address)),
            _ => false,
        }
    }
}

fn text(operator: &str, argument: &Value) -> Result<String, String> {
    match argument {
        Value::String(text) => Ok(text.clone()),
        _ => Err(format!("{operator} takes a text")),
    }
}

/// `"x"`, or `{ "equals-ignore-case": "x" }`.
fn ignoring_case(operator: &str, argument: &Value) -> Result<(String, bool), String> {
    match argument {
        Value::String(text) => Ok((text.clone(), false)),
        Value::Object(map) => match (map.len(), map.get("equals-ignore-case")) {
            (1, Some(Value::String(text))) => Ok((text.clone(), true)),
            _ => Err(format!(
                "{operator} takes a text or {{ \"equals-ignore-case\": text }}"
            )),
        },
        _ => Err(format!(
            "{operator} takes a text or {{ \"equals-ignore-case\": text }}"
        )),
    }
}

/// What `anything-but` leaves out: a value, a list of them, or texts by prefix, suffix, wildcard or case.
fn excluded(argument: &Value) -> Result<Vec<Condition>, String> {
    let plain = |value: &Value| match value {
        Value::String(text) => Ok(Condition::Text(text.clone())),
        Value::Number(number) => Ok(Condition::Number(number.clone())),
        _ => Err("anything-but takes texts and numbers".to_owned()),
    };
    match argument {
        Value::Array(values) if values.is_empty() => {
            Err("anything-but has an empty list".to_owned())
        }
        Value::Array(values) => values.iter().map(plain).collect(),
        Value::Object(map) => {
            let mut entries = map.iter();
            let (Some((operator, values)), None) = (entries.next(), entries.next()) else {
                return Err("anything-but takes one operator".to_owned());
            };
            if !["prefix", "suffix", "wildcard", "equals-ignore-case"].contains(&operator.as_str())
            {
                return Err(format!(
                    "anything-but can't be said over '{operator}'; it takes prefix, suffix, wildcard, equals-ignore-case"
                ));
            }
            let values = match values {
                Value::Array(values) if !values.is_empty() => values.as_slice(),
                one => std::slice::from_ref(one),
            };
            values
                .iter()
                .map(|value| Condition::operator(operator, &Value::String(text(operator, value)?)))
                .collect()
        }
        value => plain(value).map(|condition| vec![condition]),
    }
}

fn comparisons(argument: &Value) -> Result<Vec<(Comparison, f64)>, String> {
    let wrong = || "numeric takes a list like [\">\", 0, \"<=\", 5] or [\"=\", 3]".to_owned();
    let list = argument.as_array().ok_or_else(wrong)?;
    let (pairs, rest) = list.as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() {
        return Err(wrong());
    }
    let parsed: Vec<(Comparison, f64)> = pairs
        .iter()
        .map(|[comparison, bound]| {
            let comparison = comparison.as_str().and_then(Comparison::parse);
            comparison.zip(bound.as_f64()).ok_or_else(wrong)
        })
        .collect::<Result<_, _>>()?;
    match parsed.as_slice() {
        [_] => Ok(parsed),
        [(lower, low), (upper, high)] if lower.bounds_below() && upper.bounds_above() => {
            if low < high {
                Ok(parsed)
            } else {
                Err(format!(
                    "numeric says above {low} and below {high}: no number is"
                ))
            }
        }
        _ => Err(wrong()),
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    text.parse()
        .map_err(|_| format!("cidr '{text}' is no network like 10.0.0.0/24 or 2001:db8::/32"))
}

/// Whether `text` starts as `wanted` does when case does not count, character by character: ß is not SS.
fn same_start(mut text: impl Iterator<Item = char>, wanted: impl Iterator<Item = char>) -> bool {
    for wanted in wanted {
        match text.next() {
            Some(found) if same_letter(found, wanted) => {}
            _ => return false,
        }
    }
    true
}

fn same_letter(one: char, other: char) -> bool {
    one == other
        || one.to_lowercase().eq(other.to_lowercase())
        || one.to_uppercase().eq(other.to_uppercase())
}
