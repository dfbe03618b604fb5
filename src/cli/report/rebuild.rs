//! `roadcall rebuild`: a projection emptied and fed from the archive again.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::cli::Connection;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::print_json;
use crate::cli::replay::follow;

#[derive(Debug, Args)]
pub(in crate::cli) struct Rebuild {
    /// The role whose projection it is.
    #[arg(long)]
    role: String,
    /// Wait for its end; exit 0 only if it completed.
    #[arg(long)]
    wait: bool,
    /// Really do it.
    #[arg(long)]
    yes: bool,
}

impl Rebuild {
    pub(in crate::cli) async fn run(self, connection: &Connection) -> Result<ExitCode, Failure> {
        if !self.yes {
            return Err(Failure::usage(
                &format!(
                    "this empties the projection of {} before it is fed from the archive",
                    self.role
                ),
                "reports are incomplete meanwhile; give --yes",
            ));
        }
        let client = Client::open(connection).await?;
        let job = client
            .call("replay.rebuild", &json!({ "role": self.role }))
            .await?;
        if self.wait {
            return follow(&client.bus, job["name"].as_str().unwrap_or_default(), true).await;
        }
        print_json(&job)?;
        Ok(ExitCode::SUCCESS)
    }
}
