//! `roadcall config …`: the program's own configuration.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::Connection;
use super::failure::Failure;
use super::output::{print_json, say};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigVerb {
    /// Print the merged configuration, secrets masked.
    Show {
        /// With the file that each value came from.
        #[arg(long)]
        origin: bool,
    },
    /// Report every problem at once; exit 64 if there is one.
    Check,
    /// Print the JSON Schema of the configuration.
    Schema,
}

pub(super) fn config(connection: &Connection, verb: &ConfigVerb) -> Result<ExitCode, Failure> {
    let loaded = connection.load();
    match verb {
        ConfigVerb::Schema => {
            print_json(&schemars::schema_for!(crate::config::Config).to_value())?;
        }
        ConfigVerb::Check => {
            loaded?;
            say("the configuration is valid")?;
        }
        ConfigVerb::Show { origin } => {
            let loaded = loaded?;
            if connection.json {
                let rows: Vec<Value> = loaded
                    .origins
                    .iter()
                    .map(|(key, value, origin)| json!({ "key": key, "value": value, "origin": origin }))
                    .collect();
                print_json(&Value::Array(rows))?;
            } else {
                for (key, value, from) in &loaded.origins {
                    if *origin {
                        say(format!("{key} = {value}  # {from}"))?;
                    } else {
                        say(format!("{key} = {value}"))?;
                    }
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
