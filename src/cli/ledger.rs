//! `roadcall ledger …`: the audit role's chain of hashes.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::Connection;
use super::client::Client;
use super::failure::Failure;
use super::output::{print_json, print_rows, say};

#[derive(Debug, Subcommand)]
pub(super) enum LedgerVerb {
    /// Check every row against the one before; exit 2 if any was altered, taken out or moved.
    Verify,
    /// Print the rows, one JSON document per line.
    Export {
        /// The first row.
        #[arg(long, value_name = "N", default_value_t = 1)]
        from_seq: u64,
    },
}

pub(super) async fn ledger(connection: &Connection, verb: LedgerVerb) -> Result<ExitCode, Failure> {
    let client = Client::open(connection).await?;
    match verb {
        LedgerVerb::Verify => {
            let found = client.call("audit.verify", &json!({})).await?;
            if connection.json {
                print_json(&found)?;
            } else {
                say(format_args!(
                    "{} rows, {} wrong",
                    found["rows"], found["wrong"]
                ))?;
                if found["ok"] != true {
                    print_rows(
                        connection,
                        &found["findings"],
                        &["seq", "finding", "detail"],
                    )?;
                }
            }
            Ok(ExitCode::from(if found["ok"] == true { 0 } else { 2 }))
        }
        LedgerVerb::Export { from_seq } => {
            let mut next = json!(from_seq);
            while !next.is_null() {
                let body = json!({ "fromSeq": next });
                let page = client.call("audit.export", &body).await?;
                for row in page["items"].as_array().into_iter().flatten() {
                    say(row)?;
                }
                next = page["nextSeq"].clone();
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}
