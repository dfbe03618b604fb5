//! Data on stdout. A reader that went away (`roadcall event tail | head`) ends the command, quietly.

use std::fmt::Display;
use std::io::{ErrorKind, Write};

use serde_json::Value;

use super::Connection;
use super::failure::Failure;

/// Prints one line.
///
/// # Errors
/// [`Failure::Closed`] when nobody reads any more; another failure when the line can't be written (a full disk).
pub(super) fn say(line: impl Display) -> Result<(), Failure> {
    match writeln!(std::io::stdout().lock(), "{line}") {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::Closed),
        Err(error) => Err(Failure::other(format!("standard output: {error}"), "")),
    }
}

/// Prints a value over several lines.
///
/// # Errors
/// See [`say`].
pub(super) fn print_json(value: &Value) -> Result<(), Failure> {
    say(format_args!("{value:#}"))
}

/// A table for people, or the whole as JSON.
///
/// # Errors
/// See [`say`].
pub(super) fn print_rows(
    connection: &Connection,
    rows: &Value,
    columns: &[&str],
) -> Result<(), Failure> {
    if connection.json {
        return print_json(rows);
    }
    let mut table = comfy_table::Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_header(columns);
    for row in rows.as_array().into_iter().flatten() {
        let cell = |name: &&str| match &row[*name] {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        table.add_row(columns.iter().map(cell));
    }
    say(table)
}

/// A span for people, in its two largest units: `4m 10s`.
pub(super) fn age(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let at = units.iter().position(|(size, _)| seconds >= *size);
    let at = at.unwrap_or(units.len() - 1);
    let (size, unit) = units[at];
    let large = format!("{}{unit}", seconds / size);
    match units.get(at + 1) {
        Some((small, unit)) => format!("{large} {}{unit}", seconds % size / small),
        None => large,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_its_two_largest_units() {
        let spans = [0, 59, 60, 250, 3_600, 90_061].map(age);
        assert_eq!(spans, ["0s", "59s", "1m 0s", "4m 10s", "1h 0m", "1d 1h"]);
    }
}
