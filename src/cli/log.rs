//! `roadcall log …`: the event log, as one JSON document per line.

use std::process::ExitCode;

use clap::Subcommand;

use super::Connection;
use super::call::{body, items, text};
use super::failure::Failure;
use super::output::say;
use crate::event::Ts;
use crate::node::eventlog::{directory, search};

#[derive(Debug, Subcommand)]
pub(super) enum LogVerb {
    /// Events and operators' commands that were logged, oldest first: from the files in the state directory, or, where there
    /// are none, as the audit role has them.
    Search {
        /// Only this entity's, by its key: an incident's or a vendor's id, a queue.
        #[arg(long, value_name = "KEY")]
        entity: Option<String>,
        /// Only of this detail-type, or this command.
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<String>,
        /// At this time or later.
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Before this time.
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
    },
}

pub(super) async fn log(connection: &Connection, verb: LogVerb) -> Result<ExitCode, Failure> {
    let LogVerb::Search {
        entity,
        kind,
        since,
        until,
    } = verb;
    let directory = directory(&connection.config()?);
    if !directory.is_dir() {
        let body = body(&[
            ("entity", text(entity)),
            ("type", text(kind)),
            ("since", text(since)),
            ("until", text(until)),
            ("limit", Some(100.into())),
        ]);
        let found = items(connection, "audit.search", body).await?;
        for line in found.as_array().into_iter().flatten().rev() {
            say(line)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = search::Wanted {
        entity,
        kind,
        since: time("--since", since)?,
        until: time("--until", until)?,
    };
    let mut said = Ok(());
    let found = search::find(&directory, &wanted, |line| {
        said = say(line);
        said.is_ok()
    });
    said?;
    found.map_err(|error| {
        Failure::other(
            format!("the event log in {}: {error}", directory.display()),
            "",
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

fn time(flag: &str, value: Option<String>) -> Result<Option<Ts>, Failure> {
    let read = |value: String| {
        serde_json::from_value(value.clone().into()).map_err(|error| {
            Failure::usage(
                &format!("{flag} '{value}': {error}"),
                "write it like 2026-01-15T10:30:00.000Z",
            )
        })
    };
    value.map(read).transpose()
}
