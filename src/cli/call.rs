//! `roadcall call`: any command, raw; and what every noun's verbs send theirs with.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value};

use super::Connection;
use super::client::Client;
use super::failure::Failure;
use super::output::{print_json, print_rows};

#[derive(Debug, Args)]
pub(super) struct Call {
    /// `entity.verb`, for example `offer.accept`.
    command: String,
    /// The body, a JSON object.
    #[arg(default_value = "{}")]
    body: String,
}

pub(super) async fn call(connection: &Connection, call: Call) -> Result<ExitCode, Failure> {
    let body: Value = serde_json::from_str(&call.body).map_err(|error| {
        Failure::usage(
            &format!("the body is not JSON: {error}"),
            "quote it: '{\"offerId\":\"…\"}'",
        )
    })?;
    send(connection, &call.command, body).await
}

/// Sends a command and prints its result.
pub(super) async fn send(
    connection: &Connection,
    command: &str,
    body: Value,
) -> Result<ExitCode, Failure> {
    let reply = Client::open(connection).await?.call(command, &body).await?;
    print_json(&reply)?;
    Ok(ExitCode::SUCCESS)
}

/// Sends a listing command and prints all of its items: a table with these columns for people, one array with `--json`.
pub(super) async fn list(
    connection: &Connection,
    command: &str,
    body: Value,
    columns: &[&str],
) -> Result<ExitCode, Failure> {
    print_rows(
        connection,
        &items(connection, command, body).await?,
        columns,
    )?;
    Ok(ExitCode::SUCCESS)
}

/// All items of a listing: a role answers them in pages.
pub(super) async fn items(
    connection: &Connection,
    command: &str,
    mut body: Value,
) -> Result<Value, Failure> {
    let client = Client::open(connection).await?;
    let mut items = Vec::new();
    loop {
        let reply = client.call(command, &body).await?;
        items.extend(reply["items"].as_array().into_iter().flatten().cloned());
        match reply.get("cursor") {
            Some(cursor) => body["cursor"] = cursor.clone(),
            None => return Ok(Value::Array(items)),
        }
    }
}

/// A body from what was given on the command line; what was not given is left out.
pub(super) fn body(fields: &[(&str, Option<Value>)]) -> Value {
    let given = fields
        .iter()
        .filter_map(|(name, value)| value.clone().map(|value| ((*name).to_owned(), value)));
    Value::Object(given.collect::<Map<_, _>>())
}

/// A text, if one was given.
pub(super) fn text(value: Option<String>) -> Option<Value> {
    value.map(Value::String)
}
