//! `roadcall privacy …`: what there is of a person, and how he is forgotten.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Connection;
use super::client::Client;
use super::failure::Failure;
use super::output::{print_json, say};
use crate::bus;
use crate::node::clock::Clock;
use crate::node::started;
use crate::node::vault::export::Person;
use crate::node::vault::site_key;
use crate::role::RoleName;

/// How long the roles may take to destroy a person's keys.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often they are asked.
const ASK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(super) enum PrivacyVerb {
    /// Everything that the archive and his account have of a person, one JSON document a line, with his own data readable. The use
    /// of his keys goes into the ledger.
    Export(Export),
    /// Erase a person: his account is closed, every role forgets him, and the keys that his data was sealed with are destroyed, so
    /// that nobody can read it any more, in the archive, letters, logs, exports and snapshots. There is no way back (changes data).
    Erase(Erase),
    /// Give the keys of persons another site key around them, with the audit role stopped (changes data).
    RotateKey {
        /// Really do it.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Export {
    /// A user's, driver's or vendor's id, or a call's.
    #[arg(long, value_name = "ID")]
    subject: String,
    /// A file, which only its owner can read; standard output without it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Erase {
    /// A user's, driver's or vendor's id; or the id of a call by somebody whom nobody knows.
    #[arg(long, value_name = "ID")]
    subject: String,
    /// Really do it.
    #[arg(long)]
    yes: bool,
}

pub(super) async fn privacy(
    connection: &Connection,
    verb: PrivacyVerb,
) -> Result<ExitCode, Failure> {
    match verb {
        PrivacyVerb::Export(export) => export.run(connection).await,
        PrivacyVerb::Erase(erase) => erase.run(connection).await,
        PrivacyVerb::RotateKey { yes } => rotate(connection, yes),
    }
}

/// The keys of a person; none where nothing is sealed at this site.
async fn person(client: &Client, subject: &str) -> Result<Person, Failure> {
    let body = json!({ "subject": subject });
    let answer = match client.call("key.list.operator", &body).await {
        Err(Failure::Call(bus::jetstream::service::CallError::NoResponder(_))) => {
            json!({ "keys": [] })
        }
        answer => answer?,
    };
    Person::of(subject, answer)
        .ok_or_else(|| Failure::other("the answer of the keeper of keys can't be read", ""))
}

/// An account, where the role auth has one of this id.
async fn account(client: &Client, subject: &str) -> Result<Option<Value>, Failure> {
    match client
        .call("user.export", &json!({ "userId": subject }))
        .await
    {
        Ok(account) => Ok(Some(account)),
        Err(Failure::Refused(error))
            if matches!(
                error["code"].as_str(),
                Some("NOT_FOUND" | "VALIDATION_ERROR")
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl Export {
    async fn run(self, connection: &Connection) -> Result<ExitCode, Failure> {
        let client = Client::open(connection).await?;
        let person = person(&client, &self.subject).await?;
        let mut out: Box<dyn Write> = match &self.out {
            Some(path) => Box::new(BufWriter::new(own_file(path)?)),
            None => Box::new(std::io::stdout().lock()),
        };
        let mut write = |value: Value| match writeln!(out, "{value}") {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::Closed),
            Err(error) => Err(Failure::other(format!("the export: {error}"), "")),
        };
        let account = match account(&client, &self.subject).await {
            // A depot without the role still has events.
            Err(Failure::Call(_)) => None,
            account => account?,
        };
        if let Some(account) = account {
            write(json!({ "account": account }))?;
        }
        let count = person.events(&client.bus, &mut write).await?;
        out.flush()
            .map_err(|error| Failure::other(format!("the export: {error}"), ""))?;
        eprintln!(
            "{count} events about {}, {} keys",
            self.subject,
            person.keys()
        );
        Ok(ExitCode::SUCCESS)
    }
}

/// A new file for its owner alone.
fn own_file(path: &Path) -> Result<std::fs::File, Failure> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| {
            let message = format!("--out {}: {error}", path.display());
            Failure::other(message, "name a file that is not there yet")
        })
}

impl Erase {
    async fn run(self, connection: &Connection) -> Result<ExitCode, Failure> {
        if !self.yes {
            return Err(Failure::usage(
                "nobody is erased without --yes",
                "there is no way back: what was sealed for the person can never be read again",
            ));
        }
        let client = Client::open(connection).await?;
        let before = person(&client, &self.subject).await?.keys();
        let subject = &self.subject;
        match client
            .call("user.request_erasure", &json!({ "userId": subject }))
            .await
        {
            Ok(_) => {}
            Err(Failure::Refused(error)) if error["code"] == "NOT_FOUND" && before > 0 => {
                // Nobody's account: a caller whom nobody knows.
                let body = json!({ "subject": subject });
                client.call("key.destroy.operator", &body).await?;
            }
            Err(error) => return Err(error),
        }
        let clock = Clock;
        let began = clock.steady();
        loop {
            let left = person(&client, subject).await?.keys();
            if left == 0 {
                break;
            }
            if clock.steady().saturating_sub(began) > PATIENCE {
                return Err(Failure::other(
                    format!("{subject} is erased, but {left} of his keys are there still"),
                    "the audit role destroys them when it gets to the event; look at roadcall queue list",
                ));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        if connection.json {
            print_json(&json!({ "subject": subject, "keysDestroyed": before }))?;
        } else {
            say(format_args!(
                "{subject} is erased; {before} keys are destroyed"
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn rotate(connection: &Connection, yes: bool) -> Result<ExitCode, Failure> {
    let config = connection.config()?;
    let file = site_key::path(&config);
    if !yes {
        return Err(Failure::usage(
            "the site key is not changed without --yes",
            "stop the audit role of this site first: it has the keys open",
        ));
    }
    let _lock = started::lock(&config.site.state_dir, RoleName::Audit)?;
    let count = site_key::rotate(&config)
        .map_err(|error| Failure::other(error.to_string(), "nothing was changed"))?;
    if connection.json {
        print_json(&json!({ "keys": count, "keyFile": file }))?;
    } else {
        say(format_args!(
            "{count} keys are wrapped with the new key in {}",
            file.display()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
