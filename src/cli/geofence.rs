//! `roadcall geofence …`: the areas of the platform's configuration, one by one (DOMAIN 5.11).

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Connection;
use super::call::{body, items, send, text};
use super::failure::Failure;
use super::output::{print_json, print_rows};
use super::setting::{in_force, value};

#[derive(Debug, Subcommand)]
pub(super) enum GeofenceVerb {
    /// List them by name.
    List,
    /// Add one (changes data).
    Add {
        /// Its name, unlike any other's.
        #[arg(long)]
        name: String,
        /// A closed ring, `[[lon, lat], …]`, @FILE, or - for standard input.
        #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
        polygon: String,
        /// What reports call the incidents in it.
        #[arg(long)]
        region: String,
        /// It does not count yet.
        #[arg(long)]
        inactive: bool,
        /// Why.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Change one; what is not given stays (changes data).
    Change(Change),
    /// Remove one (changes data).
    Remove {
        /// The fence.
        id: String,
        #[command(flatten)]
        from: From,
    },
}

/// What a change was made from, and why it is made.
#[derive(Debug, Args)]
pub(super) struct From {
    /// The version of geofences that the change was made from; refused if it is no longer in force. Without it, the one
    /// in force now.
    #[arg(long, value_name = "N")]
    expected_version: Option<u64>,
    /// Why.
    #[arg(long)]
    reason: Option<String>,
}

impl From {
    async fn version(&self, connection: &Connection) -> Result<Value, Failure> {
        Ok(json!(match self.expected_version {
            Some(version) => version,
            None => in_force(connection, "geofences").await?,
        }))
    }
}

#[derive(Debug, Args)]
pub(super) struct Change {
    /// The fence.
    id: String,
    /// Its name, unlike any other's.
    #[arg(long)]
    name: Option<String>,
    /// A closed ring, `[[lon, lat], …]`, @FILE, or - for standard input.
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    polygon: Option<String>,
    /// What reports call the incidents in it.
    #[arg(long)]
    region: Option<String>,
    /// Whether it counts: true or false.
    #[arg(long)]
    active: Option<bool>,
    #[command(flatten)]
    from: From,
}

pub(super) async fn geofence(
    connection: &Connection,
    verb: GeofenceVerb,
) -> Result<ExitCode, Failure> {
    match verb {
        GeofenceVerb::List => list(connection).await,
        GeofenceVerb::Add {
            name,
            polygon,
            region,
            inactive,
            reason,
        } => {
            let body = body(&[
                ("name", text(Some(name))),
                ("polygon", Some(value(&polygon)?)),
                ("region", text(Some(region))),
                ("active", inactive.then_some(json!(false))),
                ("reason", text(reason)),
            ]);
            send(connection, "geofence.add", body).await
        }
        GeofenceVerb::Change(change) => {
            let polygon = change.polygon.as_deref().map(value).transpose()?;
            let version = change.from.version(connection).await?;
            let body = body(&[
                ("geofenceId", text(Some(change.id))),
                ("name", text(change.name)),
                ("polygon", polygon),
                ("region", text(change.region)),
                ("active", change.active.map(|active| json!(active))),
                ("expectedVersion", Some(version)),
                ("reason", text(change.from.reason)),
            ]);
            send(connection, "geofence.change", body).await
        }
        GeofenceVerb::Remove { id, from } => {
            let version = from.version(connection).await?;
            let body = body(&[
                ("geofenceId", text(Some(id))),
                ("expectedVersion", Some(version)),
                ("reason", text(from.reason)),
            ]);
            send(connection, "geofence.remove", body).await
        }
    }
}

async fn list(connection: &Connection) -> Result<ExitCode, Failure> {
    let mut fences = items(connection, "geofence.list", json!({})).await?;
    if connection.json {
        print_json(&fences)?;
        return Ok(ExitCode::SUCCESS);
    }
    for fence in fences.as_array_mut().into_iter().flatten() {
        // The last point is the first again.
        let points = fence["polygon"].as_array().map_or(0, Vec::len);
        fence["points"] = json!(points.saturating_sub(1));
    }
    let columns = ["geofenceId", "name", "region", "active", "points"];
    print_rows(connection, &fences, &columns)?;
    Ok(ExitCode::SUCCESS)
}
