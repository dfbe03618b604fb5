//! `roadcall config …`: the program's own configuration.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Connection;
use super::failure::Failure;
use super::fleet::{FleetVerb, fleet};
use super::output::{print_json, say};
use super::roles::{role_files, settle, topology_roles};
use crate::config::{Loaded, Problem};
use crate::node::run::routes;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigVerb {
    /// Print the merged configuration, secrets masked.
    Show {
        /// With the file that each value came from.
        #[arg(long)]
        origin: bool,
        #[command(flatten)]
        of: OfRoles,
    },
    /// Report every problem at once, those of the rules too; exit 64 if there is one.
    Check(OfRoles),
    /// Print the JSON Schema of the configuration.
    Schema,
    #[command(flatten)]
    Fleet(FleetVerb),
}

/// Whose files in `role.d` count.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct OfRoles {
    /// As a process of these roles would see it, with their files in role.d.
    #[arg(long, value_delimiter = ',', value_name = "ROLE")]
    pub role: Vec<String>,
}

impl OfRoles {
    /// The connection with those files.
    pub(super) fn apply(&self, connection: &Connection) -> Result<Connection, Failure> {
        Ok(Connection {
            roles: role_files(&self.role)?,
            ..connection.clone()
        })
    }
}

/// What only the rest of the program can judge: names of roles, the rules.
pub(super) fn check_further(loaded: &Loaded) -> Result<(), Failure> {
    let mut problems = Vec::new();
    let mut refuse = |key: &str, failure: &Failure| {
        let origin = loaded.origins.iter().find(|row| row.0 == key);
        for line in failure.lines() {
            problems.push(Problem {
                key: key.to_owned(),
                origin: origin.map_or_else(String::new, |row| row.2.clone()),
                message: line.message,
                help: line.help,
            });
        }
    };
    if let Err(failure) = topology_roles(&loaded.config) {
        refuse("site.roles", &failure);
    }
    if let Err(error) = routes(&loaded.config) {
        refuse("rules.file", &error.into());
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Failure::Config(problems))
    }
}

pub(super) async fn config(
    connection: &Connection,
    verb: &ConfigVerb,
) -> Result<ExitCode, Failure> {
    match verb {
        ConfigVerb::Fleet(verb) => return fleet(connection, verb).await,
        ConfigVerb::Schema => {
            print_json(&schemars::schema_for!(crate::config::Config).to_value())?;
        }
        ConfigVerb::Check(of) => {
            check_further(&settle(connection, &of.role)?.2)?;
            say("the configuration is valid")?;
        }
        ConfigVerb::Show { origin, of } => {
            let loaded = of.apply(connection)?.load()?;
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
