//! `roadcall setting …`: the platform's own configuration (DOMAIN 5.11); `roadcall config` is the program's.

use std::io::Read;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Connection;
use super::call::{body, items, send, text};
use super::client::Client;
use super::failure::Failure;
use super::output::{print_json, print_rows};

#[derive(Debug, Subcommand)]
pub(super) enum SettingVerb {
    /// Show a key's value in force, or one that was.
    Get {
        /// matching, sla-tiers, pricing, geofences or fraud.
        key: String,
        /// The version; the one in force without it.
        #[arg(long, value_name = "N")]
        version: Option<u64>,
    },
    /// List a key's versions, newest first.
    History {
        /// matching, sla-tiers, pricing, geofences or fraud.
        key: String,
    },
    /// Put a whole new value in force (changes data).
    Update(Update),
    /// Put an old version's value in force again, as a new version (changes data).
    Rollback {
        /// matching, sla-tiers, pricing, geofences or fraud.
        key: String,
        /// The version whose value it is.
        #[arg(long, value_name = "N")]
        to: u64,
        /// Why.
        #[arg(long)]
        reason: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(super) struct Update {
    /// matching, sla-tiers, pricing, geofences or fraud.
    key: String,
    /// The whole value as a JSON object, @FILE, or - for standard input.
    #[arg(long, value_name = "JSON")]
    value: String,
    /// The version that the change was made from, 0 for a key that nobody has set; refused if it is no longer in force.
    /// Without it, what is in force now is replaced.
    #[arg(long, value_name = "N")]
    expected_version: Option<u64>,
    /// Why.
    #[arg(long)]
    reason: Option<String>,
}

pub(super) async fn setting(
    connection: &Connection,
    verb: SettingVerb,
) -> Result<ExitCode, Failure> {
    match verb {
        SettingVerb::Get { key, version } => {
            let version = version.map(|version| json!(version));
            let fields = [("configKey", text(Some(key))), ("configVersion", version)];
            send(connection, "config.get", body(&fields)).await
        }
        SettingVerb::History { key } => history(connection, &key).await,
        SettingVerb::Update(update) => update.run(connection).await,
        SettingVerb::Rollback { key, to, reason } => {
            let body = body(&[
                ("configKey", text(Some(key))),
                ("targetVersion", Some(json!(to))),
                ("reason", text(reason)),
            ]);
            send(connection, "config.rollback", body).await
        }
    }
}

impl Update {
    async fn run(self, connection: &Connection) -> Result<ExitCode, Failure> {
        let value = value(&self.value)?;
        let expected = match self.expected_version {
            Some(expected) => expected,
            None => in_force(connection, &self.key).await?,
        };
        let body = body(&[
            ("configKey", text(Some(self.key))),
            ("value", Some(value)),
            ("expectedVersion", Some(json!(expected))),
            ("reason", text(self.reason)),
        ]);
        send(connection, "config.update", body).await
    }
}

/// The version of a key that is in force now; 0 for one that nobody has set.
pub(super) async fn in_force(connection: &Connection, key: &str) -> Result<u64, Failure> {
    let client = Client::open(connection).await?;
    let latest = client
        .call("config.get", &json!({ "configKey": key }))
        .await?;
    Ok(latest["configVersion"].as_u64().unwrap_or(0))
}

/// JSON as it was given, from a file (`@FILE`), or from standard input (`-`).
pub(super) fn value(given: &str) -> Result<Value, Failure> {
    let wrong =
        |message: String| Failure::usage(&message, "give JSON, @FILE, or - for standard input");
    let text = match given.strip_prefix('@') {
        Some(file) => {
            std::fs::read_to_string(file).map_err(|error| wrong(format!("{file}: {error}")))?
        }
        None if given == "-" => {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map_err(|error| wrong(format!("standard input: {error}")))?;
            text
        }
        None => given.to_owned(),
    };
    serde_json::from_str(&text).map_err(|error| wrong(format!("the value is not JSON: {error}")))
}

async fn history(connection: &Connection, key: &str) -> Result<ExitCode, Failure> {
    let versions = items(connection, "config.history", json!({ "configKey": key })).await?;
    if connection.json {
        print_json(&versions)?;
        return Ok(ExitCode::SUCCESS);
    }
    let columns = [
        "configVersion",
        "changeType",
        "updatedBy",
        "updatedAt",
        "reason",
    ];
    print_rows(connection, &versions, &columns)?;
    Ok(ExitCode::SUCCESS)
}
