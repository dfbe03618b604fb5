//! `roadcall notification …`.

use std::process::ExitCode;

use clap::Subcommand;

use super::Connection;
use super::call::{body, list, text};
use super::failure::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum NotificationVerb {
    /// List a person's messages of the last 90 days, newest first, one line for each channel.
    History {
        /// Whose; without it, those of whoever acts (--as).
        #[arg(long)]
        user: Option<String>,
    },
}

pub(super) async fn notification(
    connection: &Connection,
    verb: NotificationVerb,
) -> Result<ExitCode, Failure> {
    let NotificationVerb::History { user } = verb;
    let columns = [
        "at", "type", "channel", "status", "attempts", "reason", "eventId",
    ];
    let body = body(&[("userId", text(user))]);
    list(connection, "notification.history", body, &columns).await
}
