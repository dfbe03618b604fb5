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
