//! `roadcall snapshot …`: a role's database to and from the broker's object store.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use super::Connection;
use super::client::{Client, connect};
use super::failure::Failure;
use super::output::{print_json, print_rows, say};
use crate::bus::jetstream::service::CallError;
use crate::config::Config;
use crate::node::clock::Clock;
use crate::node::snapshot::{self, Snapshot, Subject, keeper, restore};
use crate::node::started;
use crate::role::RoleName;

/// A large database takes its time.
const PATIENCE: Duration = Duration::from_secs(900);

#[derive(Debug, Subcommand)]
pub(super) enum SnapshotVerb {
    /// Take a snapshot of a role's database now, whether or not the role runs; the oldest ones beyond snapshot.keep go.
    Create {
        /// The role.
        #[arg(long)]
        role: String,
    },
    /// What the object store has.
    List {
        /// Of this role only.
        #[arg(long)]
        role: Option<String>,
    },
    /// Put a snapshot in the place of a role's database in this state directory (changes data). The role must not run; at its
    /// next start it catches up with the archive by itself.
    Restore {
        /// The role.
        #[arg(long)]
        role: String,
        /// The snapshot's number, else the newest.
        #[arg(long, value_name = "N")]
        id: Option<u64>,
        /// Also where there is a database, which is moved aside.
        #[arg(long)]
        yes: bool,
    },
}

pub(super) async fn snapshot(
    connection: &Connection,
    verb: SnapshotVerb,
) -> Result<ExitCode, Failure> {
    let config = connection.config()?;
    match verb {
        SnapshotVerb::Create { role } => create(connection, &config, named(&role)?).await,
        SnapshotVerb::List { role } => {
            let role = role.as_deref().map(named).transpose()?;
            list(connection, &config, role).await
        }
        SnapshotVerb::Restore { role, id, yes } => {
            let role = named(&role)?;
            let inquiry = Client::open(connection).await?.inquiry(&config);
            let done = restore::restore(&inquiry, role, id, yes).await?;
            if connection.json {
                print_json(&serde_json::to_value(&done).unwrap_or(Value::Null))?;
                return Ok(ExitCode::SUCCESS);
            }
            if let Some(moved_to) = &done.moved_to {
                say(format_args!("the old database is {}", moved_to.display()))?;
            }
            say(format_args!(
                "{role} is snapshot {} of {}; started, it goes on from sequence {} of the archive",
                done.id, done.taken_at, done.from_seq
            ))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn named(role: &str) -> Result<RoleName, Failure> {
    let names: Vec<&str> = RoleName::BUILT.iter().map(|role| role.as_str()).collect();
    let found = RoleName::BUILT.into_iter().find(|one| one.as_str() == role);
    found.ok_or_else(|| {
        Failure::usage(
            &format!("no role is named '{role}'"),
            &format!("the roles are {}", names.join(", ")),
        )
    })
}

async fn create(
    connection: &Connection,
    config: &Config,
    role: RoleName,
) -> Result<ExitCode, Failure> {
    let client = Client::open(connection).await?.waiting(PATIENCE);
    let taken = match client.call(&keeper::wish_of(role), &json!({})).await {
        Err(Failure::Call(CallError::NoResponder(_))) => {
            let taken = of_file(config, role).await?;
            serde_json::to_value(taken).unwrap_or(Value::Null)
        }
        answer => answer?,
    };
    print(connection, &taken)
}

/// Of a role that does not run: nobody may start it meanwhile.
async fn of_file(config: &Config, role: RoleName) -> Result<Snapshot, Failure> {
    let subject = Subject::new(config, role);
    if !subject.path.is_file() {
        return Err(Failure::other(
            format!(
                "role {role} does not run and has no database {}",
                subject.path.display()
            ),
            "start it, or name the state directory that it runs with",
        ));
    }
    let _lock = started::lock(&config.site.state_dir, role)?;
    let bus = connect(config, "roadcall-cli").await?;
    Ok(snapshot::take(&bus, &subject, Clock.now(), true).await?)
}

fn print(connection: &Connection, taken: &Value) -> Result<ExitCode, Failure> {
    if connection.json {
        print_json(taken)?;
    } else {
        say(format_args!(
            "snapshot {} {} at {}, {} bytes, {} in the broker",
            taken["role"].as_str().unwrap_or_default(),
            taken["id"],
            taken["takenAt"].as_str().unwrap_or_default(),
            taken["bytes"],
            taken["storedBytes"]
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(
    connection: &Connection,
    config: &Config,
    role: Option<RoleName>,
) -> Result<ExitCode, Failure> {
    let bus = connect(config, "roadcall-cli").await?;
    let mut found = snapshot::list(&bus).await?;
    found.retain(|snapshot| role.is_none_or(|role| snapshot.role == role));
    let rows = serde_json::to_value(&found).unwrap_or(Value::Null);
    let columns = [
        "role",
        "id",
        "takenAt",
        "bytes",
        "storedBytes",
        "position",
        "schema",
        "version",
    ];
    print_rows(connection, &rows, &columns)?;
    Ok(ExitCode::SUCCESS)
}
