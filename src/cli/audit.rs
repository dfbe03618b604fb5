//! `roadcall audit`: what became of every archived event, queue by queue.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::Connection;
use super::client::Client;
use super::failure::Failure;
use super::output::print_rows;
use super::roles::topology_roles;
use crate::node::advisories::{FORGOTTEN, Forgotten};
use crate::node::audit::{Account, account};

/// Sequences in one command.
const AT_ONCE: usize = 5000;

#[derive(Debug, Args)]
pub(super) struct Audit {
    /// Only this queue.
    #[arg(long)]
    queue: Option<String>,
    /// First sequence.
    #[arg(long)]
    from_seq: Option<u64>,
    /// Last sequence, inclusive.
    #[arg(long)]
    to_seq: Option<u64>,
}

impl Audit {
    pub(super) async fn run(&self, connection: &Connection) -> Result<ExitCode, Failure> {
        let config = connection.config()?;
        let client = Client::open(connection).await?;
        let inquiry = client.inquiry(&config);
        let mut roles = topology_roles(&config)?;
        if let Some(queue) = &self.queue {
            let all: Vec<&str> = roles.iter().filter_map(|role| role.queue()).collect();
            if !all.contains(&queue.as_str()) {
                return Err(Failure::usage(
                    &format!("--queue: no queue of this site is named '{queue}'"),
                    &format!("the queues are {}", all.join(", ")),
                ));
            }
            roles.retain(|role| role.queue() == Some(queue));
        }
        let (mut rows, mut unknown, mut unaccounted) = (Vec::new(), false, false);
        for role in roles {
            match account(&inquiry, role, (self.from_seq, self.to_seq)).await? {
                None => {}
                Some(Ok(account)) => {
                    unaccounted |= account.unaccounted > 0;
                    make_letters(&client, &account).await?;
                    rows.push(serde_json::to_value(account).unwrap_or(Value::Null));
                }
                Some(Err(why)) => {
                    unknown = true;
                    rows.push(json!({ "queue": role.queue(), "unknown": why }));
                }
            }
        }
        let columns = [
            "queue",
            "fromSeq",
            "toSeq",
            "done",
            "expired",
            "dead",
            "filtered",
            "pending",
            "unaccounted",
            "unknown",
        ];
        let shown = if unknown {
            columns.len()
        } else {
            columns.len() - 1
        };
        print_rows(connection, &Value::Array(rows), &columns[..shown])?;
        Ok(ExitCode::from(match (unaccounted, unknown) {
            (true, _) => 2,
            (false, true) => 1,
            (false, false) => 0,
        }))
    }
}

/// Has the audit role write letters for what nobody knows about: their redrive settles it. Where that role does not run it
/// is only told, and the next audit finds them again.
async fn make_letters(client: &Client, account: &Account) -> Result<(), Failure> {
    for part in account.forgotten.chunks(AT_ONCE) {
        let forgotten = Forgotten {
            queue: account.queue.clone(),
            seqs: part.to_vec(),
        };
        let body = serde_json::to_value(forgotten).unwrap_or(Value::Null);
        match client.call(FORGOTTEN, &body).await {
            Ok(_) => eprintln!(
                "note: {} letters of {} are written",
                part.len(),
                account.queue
            ),
            Err(Failure::Call(_)) => {
                eprintln!("note: the audit role does not run, so that no letter is written");
                return Ok(());
            }
            Err(other) => return Err(other),
        }
    }
    Ok(())
}
