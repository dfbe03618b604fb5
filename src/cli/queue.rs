//! `roadcall queue …`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use super::Connection;
use super::client::{Client, connect};
use super::failure::Failure;
use super::output::{age, print_json, print_rows, say};
use super::roles::topology_roles;
use crate::config::Config;
use crate::event::Ts;
use crate::node::clock::Clock;
use crate::node::owner;
use crate::node::queues::{self, QueueStanding};
use crate::role::RoleName;
use crate::routing::parse_duration;

#[derive(Debug, Subcommand)]
pub(super) enum QueueVerb {
    /// How much every queue of this site has left to do: with the broker, in hand, and waiting in its role (in its
    /// database, where the role does not run and the file is here); how old the oldest of it is; letters.
    List,
    /// The same for one queue.
    Show {
        /// The queue.
        queue: String,
    },
    /// Hand nothing of a queue out, also after restarts; what comes meanwhile waits for it (changes data).
    Pause {
        /// The queue.
        queue: String,
        /// For so long, like 15m or 2h; until `queue resume`, if absent.
        #[arg(long = "for", value_name = "DURATION")]
        duration: Option<String>,
    },
    /// Hand a paused queue out again (changes data).
    Resume {
        /// The queue.
        queue: String,
    },
    /// Give a queue to the role's database in this state directory (changes who may read it). For when the database
    /// that had it is gone for good: what that one did is not known here.
    Adopt {
        /// The queue; the role where it reads none.
        queue: String,
        /// Really do it. No process may still run with the other database.
        #[arg(long)]
        yes: bool,
    },
}

pub(super) async fn queue(connection: &Connection, verb: &QueueVerb) -> Result<ExitCode, Failure> {
    let config = connection.config()?;
    match verb {
        QueueVerb::List => list(connection, &config).await,
        QueueVerb::Show { queue } => {
            let standing = look(connection, &config, queue).await?;
            print_json(&serde_json::to_value(&standing).unwrap_or(Value::Null))?;
            Ok(ExitCode::SUCCESS)
        }
        QueueVerb::Pause { queue, duration } => {
            let until = pause_until(duration.as_deref())?;
            pause(connection, &config, queue, Some(until)).await
        }
        QueueVerb::Resume { queue } => pause(connection, &config, queue, None).await,
        QueueVerb::Adopt { queue, yes } => adopt(connection, &config, queue, *yes).await,
    }
}

async fn list(connection: &Connection, config: &Config) -> Result<ExitCode, Failure> {
    let inquiry = Client::open(connection).await?.inquiry(config);
    let now = Clock.now();
    // At once: a role that hangs is waited for, and several of them together no longer.
    let looks = topology_roles(config)?
        .into_iter()
        .map(|role| queues::look(&inquiry, role, now));
    let found = futures::future::try_join_all(looks).await?;
    let found: Vec<QueueStanding> = found.into_iter().flatten().collect();
    if connection.json {
        print_json(&serde_json::to_value(&found).unwrap_or(Value::Null))?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = found.iter().map(row).collect();
    print_rows(connection, &Value::Array(rows), &COLUMNS)?;
    for standing in &found {
        if let Some(note) = &standing.note {
            let queue = &standing.queue;
            eprintln!("note: {queue}: what waits in the role is not in its depth; {note}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The role that reads a queue of this site.
fn role_of(config: &Config, queue: &str) -> Result<RoleName, Failure> {
    let roles = topology_roles(config)?;
    let found = roles.iter().find(|role| role.queue() == Some(queue));
    found.copied().ok_or_else(|| {
        let names: Vec<&str> = roles.iter().filter_map(|role| role.queue()).collect();
        Failure::usage(
            &format!("no queue of this site is named '{queue}'"),
            &format!("the queues are {}", names.join(", ")),
        )
    })
}

async fn look(
    connection: &Connection,
    config: &Config,
    queue: &str,
) -> Result<Option<QueueStanding>, Failure> {
    let role = role_of(config, queue)?;
    let inquiry = Client::open(connection).await?.inquiry(config);
    Ok(queues::look(&inquiry, role, Clock.now()).await?)
}

/// When a pause ends: in a hundred years, if nobody says.
fn pause_until(duration: Option<&str>) -> Result<Ts, Failure> {
    const WITHOUT_END: Duration = Duration::from_secs(100 * 365 * 86_400);
    let span = match duration {
        None => WITHOUT_END,
        Some(text) => parse_duration(text)
            .filter(|span| !span.is_zero())
            .ok_or_else(|| {
                Failure::usage(
                    &format!("--for: '{text}' is no duration"),
                    "write it like 15m, 2h or 4d",
                )
            })?,
    };
    let span_ms = i64::try_from(span.min(WITHOUT_END).as_millis()).unwrap_or(i64::MAX);
    Ok(Ts::from_ms(Clock.now().ms().saturating_add(span_ms)))
}

async fn pause(
    connection: &Connection,
    config: &Config,
    queue: &str,
    until: Option<Ts>,
) -> Result<ExitCode, Failure> {
    role_of(config, queue)?;
    let bus = connect(config, "roadcall-cli").await?;
    let text = until.map(|until| until.to_string());
    bus.pause(queue, text.as_deref()).await?;
    if connection.json {
        print_json(&json!({ "queue": queue, "pausedUntil": until }))?;
        return Ok(ExitCode::SUCCESS);
    }
    match text {
        Some(until) => say(format_args!("{queue} is paused until {until}"))?,
        None => say(format_args!("{queue} is handed out again"))?,
    }
    Ok(ExitCode::SUCCESS)
}

const COLUMNS: [&str; 9] = [
    "queue",
    "role",
    "depth",
    "in flight",
    "waiting",
    "oldest",
    "letters",
    "delivered",
    "paused until",
];

/// A queue as people read it.
fn row(standing: &QueueStanding) -> Value {
    let unknown = standing.waiting.is_none();
    let at_least = if unknown { "+" } else { "" };
    json!({
        "queue": standing.queue, "role": standing.role, "depth": format!("{}{at_least}", standing.depth),
        "in flight": standing.in_flight,
        "waiting": standing.waiting.map_or_else(|| "?".to_owned(), |rows| rows.to_string()),
        "oldest": standing.oldest_age_seconds.map(age), "letters": standing.dead_letters,
        "delivered": standing.delivered_seq, "paused until": standing.paused_until,
    })
}

async fn adopt(
    connection: &Connection,
    config: &Config,
    queue: &str,
    yes: bool,
) -> Result<ExitCode, Failure> {
    let read_by = |role: &RoleName| owner::adopted_as(*role) == queue;
    let Some(role) = RoleName::ALL.into_iter().find(read_by) else {
        let names: Vec<&str> = RoleName::BUILT.into_iter().map(owner::adopted_as).collect();
        return Err(Failure::usage(
            &format!("no queue is named '{queue}'"),
            &format!("the queues are {}", names.join(", ")),
        ));
    };
    let path = config.site.state_dir.join(format!("{role}.db"));
    if !yes {
        return Err(Failure::usage(
            &format!("queue adopt gives {queue} to {}", path.display()),
            "make sure that no process runs with the other database, then give --yes",
        ));
    }
    let bus = connect(config, "roadcall-cli").await?;
    let (ours, before) = owner::adopt(&bus, role, &path).await?;
    if connection.json {
        let before = before.map(|id| id.to_string());
        print_json(&json!({ "queue": queue, "owner": ours, "before": before }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let before = before.map_or_else(|| "nobody".to_owned(), |id| id.to_string());
    say(format_args!(
        "{queue} belongs to {ours} ({}); before: {before}",
        path.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}
