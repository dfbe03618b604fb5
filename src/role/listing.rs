//! What all roles' listings and look-ups share (DOMAIN 1.3, listing): limits, cursors, pages, and ids in bodies.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Command, HandlerError, Rejection};
use crate::event::Id;

/// A listing's limit: 1 to 100, 50 where none is given.
///
/// # Errors
/// VALIDATION_ERROR outside that range.
pub fn limit(asked: Option<u64>) -> Result<u64, Rejection> {
    match asked.unwrap_or(50) {
        limit @ 1..=100 => Ok(limit),
        _ => Err(Rejection::field(
            "limit",
            "not a whole number from 1 to 100",
        )),
    }
}

/// Where a listing goes on: before this time and id. Without a cursor, at the newest.
///
/// # Errors
/// VALIDATION_ERROR for a text that no listing gave.
pub fn cursor(text: Option<&str>) -> Result<(i64, String), Rejection> {
    let Some(text) = text else {
        return Ok((i64::MAX, String::new()));
    };
    text.split_once('_')
        .and_then(|(ms, id)| Some((i64::from_str_radix(ms, 36).ok()?, id.to_owned())))
        .ok_or_else(|| Rejection::field("cursor", "not a cursor of this listing"))
}

/// The cursor behind an entry.
#[must_use]
pub fn next(ms: i64, id: &str) -> String {
    let mut digits = Vec::new();
    let mut left = ms.unsigned_abs();
    loop {
        digits.push(char::from_digit((left % 36) as u32, 36).unwrap_or('0'));
        left /= 36;
        if left == 0 {
            break;
        }
    }
    format!("{}_{id}", digits.into_iter().rev().collect::<String>())
}

/// What listings answer.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "PageOf{T}")]
pub struct Page<T> {
    /// The entries, in the listing's order.
    pub items: Vec<T>,
    /// Where it goes on; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A page of a listing.
#[must_use]
pub fn page<T: Serialize>(items: &[T], cursor: Option<String>) -> Value {
    let items = items.iter().collect();
    json!(Page { items, cursor })
}

/// The id under `name` in a command's body.
///
/// # Errors
/// VALIDATION_ERROR naming the field.
pub fn id_of(command: &Command, name: &str) -> Result<Id, HandlerError> {
    optional_id_of(command, name)?.ok_or_else(|| Rejection::field(name, "is missing").into())
}

/// The same where it may be absent.
///
/// # Errors
/// VALIDATION_ERROR naming the field, for what is no id.
pub fn optional_id_of(command: &Command, name: &str) -> Result<Option<Id>, HandlerError> {
    match command.body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Id::parse(text)
            .map(Some)
            .map_err(|error| Rejection::field(name, error.to_string()).into()),
        Some(_) => Err(Rejection::field(name, "not a lower-case UUID").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_nonsense_is_refused() {
        assert_eq!(
            cursor(Some(&next(1_768_471_200_000, "abc"))),
            Ok((1_768_471_200_000, "abc".to_owned()))
        );
        assert!(cursor(Some("nonsense")).is_err());
        assert!(limit(Some(0)).is_err() && limit(Some(101)).is_err() && limit(None) == Ok(50));
    }
}
