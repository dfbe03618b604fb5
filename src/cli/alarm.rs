//! `roadcall alarm …`: which alarms are raised.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::Connection;
use super::call::{body, items, send, text};
use super::failure::Failure;
use super::output::print_rows;

#[derive(Debug, Subcommand)]
pub(super) enum AlarmVerb {
    /// List the alarms that are raised, the worst first.
    List {
        /// Exit 2 when any is raised.
        #[arg(long)]
        check: bool,
    },
    /// Note that somebody has seen it (changes data); retention-loss ends with that.
    Acknowledge {
        /// The alarm, like dead-letters.
        name: String,
        /// What it is about, like a queue; else every raised one of this name.
        #[arg(long)]
        subject: Option<String>,
    },
}

pub(super) async fn alarm(connection: &Connection, verb: AlarmVerb) -> Result<ExitCode, Failure> {
    match verb {
        AlarmVerb::List { check } => {
            let raised = items(connection, "alarm.list", json!({})).await?;
            let columns = [
                "alarmName",
                "subject",
                "severity",
                "since",
                "value",
                "threshold",
                "site",
                "acknowledgedBy",
            ];
            print_rows(connection, &raised, &columns)?;
            let any = raised.as_array().is_some_and(|raised| !raised.is_empty());
            Ok(ExitCode::from(if check && any { 2 } else { 0 }))
        }
        AlarmVerb::Acknowledge { name, subject } => {
            let body = body(&[("alarmName", text(Some(name))), ("subject", text(subject))]);
            send(connection, "alarm.acknowledge", body).await
        }
    }
}
