//! `roadcall auth …`: how the first admin comes to be (everybody else registers, or is made by him), and the key of the
//! broker's store.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::Connection;
use super::call::{body, send, text};
use super::failure::Failure;
use super::output::{print_json, say};
use super::run::broker_options;
use crate::broker::at_rest::StoreKey;
use crate::broker::at_rest::rotate::{Rotated, rotate};
use crate::config::is_given;
use crate::node::grants;
use crate::ops::ownership::Owner;
use crate::ops::{certificates, identities};

#[derive(Debug, Subcommand)]
pub(super) enum AuthVerb {
    /// Make identities for everybody who connects to the broker, or an authority and a certificate that it signs, for TLS on the
    /// links between sites (changes files, and only makes what is missing).
    Init(Init),
    /// Make an account of an admin; he logs in with his phone (changes data).
    CreateAdmin {
        /// His phone, like +15551234567.
        #[arg(long, value_name = "E164")]
        phone: String,
        /// His name.
        #[arg(long)]
        name: String,
        /// His e-mail address.
        #[arg(long)]
        email: Option<String>,
        /// Makes a retry give the first answer.
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
    /// Give the store of a broker that does not run another key, or encrypt a plain one (changes data).
    ///
    /// The key's file, broker.store_key_file or store.key in the state directory, holds the new key afterwards; the old one
    /// stays beside it as FILE.old. Cut off anywhere it leaves a store that one of FILE and FILE.new opens: a start uses that
    /// one, and the next run finishes.
    RotateStoreKey(Rotate),
}

/// See [`AuthVerb::Init`].
#[derive(Debug, Args)]
pub(super) struct Init {
    /// Where the authority and the certificate are written.
    #[arg(
        long,
        value_name = "DIR",
        requires = "names",
        required_unless_present = "identities"
    )]
    dir: Option<PathBuf>,
    /// A host name or an address that this box is reached by; several times for several.
    #[arg(long = "name", value_name = "NAME", requires = "dir")]
    names: Vec<String>,
    /// Make the certificate anew; the authority stays.
    #[arg(long, requires = "dir")]
    renew: bool,
    /// Where the identities are written: a seed for each role, for the gateway, for operators and for those who only read, and
    /// the list of their public keys that the broker goes by.
    #[arg(long, value_name = "DIR")]
    identities: Option<PathBuf>,
    /// Give this identity a new seed, or `all`; the old one counts until it is retired. Several times for several.
    #[arg(long, value_name = "IDENTITY", requires = "identities")]
    renew_identity: Vec<String>,
    /// Let the seeds that were renewed before count no more.
    #[arg(long, requires = "identities", conflicts_with = "renew_identity")]
    retire_old: bool,
}

/// See [`AuthVerb::RotateStoreKey`].
#[derive(Debug, Args)]
pub(super) struct Rotate {
    /// A file with the new key, mode 0600; without it a random one is made.
    #[arg(long, value_name = "FILE")]
    new_key_file: Option<PathBuf>,
    /// Really do it.
    #[arg(long)]
    yes: bool,
}

impl Rotate {
    async fn run(self, connection: &Connection) -> Result<ExitCode, Failure> {
        if !self.yes {
            return Err(Failure::usage(
                "the store's key is not changed without --yes",
                "stop the broker first; a plain store is copied, so that it needs as much disk again for a while",
            ));
        }
        let config = connection.config()?;
        let new = match &self.new_key_file {
            Some(path) => StoreKey::read(path, is_given(path))?
                .map(Some)
                .ok_or_else(|| {
                    let message = format!("{} is not there", path.display());
                    Failure::usage(&message, "--new-key-file names a file with the new key")
                })?,
            None => None,
        };
        let options = broker_options(&config);
        let (key_file, _) = config.store_key_file();
        let places = [options.store_dir.clone(), key_file.clone()];
        // Before anything is made: what root makes belongs to whoever has the directory.
        let owners = places.map(|place| (Owner::above(place.parent().unwrap_or(&place)), place));
        let done = rotate(options, new).await;
        for (owner, place) in owners {
            if let Some(owner) = owner {
                owner.take(&place);
            }
        }
        let file = key_file.display();
        let (what, detail) = match done? {
            Rotated::Rewrapped(files) => (
                "rotated",
                format!(
                    "{files} data keys are wrapped with the key in {file}; the old key is in {file}.old"
                ),
            ),
            Rotated::Encrypted => (
                "encrypted",
                format!("the store is encrypted with the key in {file}"),
            ),
            Rotated::Begun => (
                "empty",
                format!("the store is empty; its first start uses the key in {file}"),
            ),
            Rotated::Finished => (
                "finished",
                format!(
                    "a rotation was cut off after the store had taken its new key; that key is in {file} now, and there was no further rotation"
                ),
            ),
        };
        if connection.json {
            print_json(&json!({ "result": what, "keyFile": key_file, "detail": detail }))?;
        } else {
            say(format_args!("{detail}"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

pub(super) async fn auth(connection: &Connection, verb: AuthVerb) -> Result<ExitCode, Failure> {
    match verb {
        AuthVerb::Init(wanted) => init(connection, &wanted),
        AuthVerb::RotateStoreKey(rotate) => rotate.run(connection).await,
        AuthVerb::CreateAdmin {
            phone,
            name,
            email,
            idempotency_key,
        } => {
            let body = body(&[
                ("phone", Some(json!(phone))),
                ("name", Some(json!(name))),
                ("role", Some(json!("admin"))),
                ("email", text(email)),
                ("clientRequestId", text(idempotency_key)),
            ]);
            send(connection, "auth.create_user", body).await
        }
    }
}

fn init(connection: &Connection, wanted: &Init) -> Result<ExitCode, Failure> {
    let mut all = serde_json::Map::new();
    if let Some(dir) = &wanted.identities {
        let done = make_identities(dir, wanted)?;
        if connection.json {
            all.insert("identities".to_owned(), json!(dir));
            all.insert("changed".to_owned(), json!(done));
        }
    }
    if let Some(dir) = &wanted.dir {
        let files = certificates::settle(dir, &wanted.names, wanted.renew)
            .map_err(|error| Failure::other(error.to_string(), "see roadcall auth init --help"))?;
        if connection.json {
            let named = [
                ("ca", &files.ca),
                ("caKey", &files.ca_key),
                ("cert", &files.cert),
                ("key", &files.key),
            ];
            all.extend(named.map(|(name, path)| (name.to_owned(), json!(path))));
        } else {
            say_certificates(&files, wanted.renew)?;
        }
    }
    if connection.json {
        print_json(&serde_json::Value::Object(all))?;
    } else if let Some(dir) = &wanted.identities {
        say_identities(dir, wanted)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Gives the names of those that were changed.
fn make_identities(dir: &Path, wanted: &Init) -> Result<Vec<String>, Failure> {
    let owner = Owner::above(dir);
    let done = match wanted.retire_old {
        true => identities::retire(dir),
        false => identities::settle(dir, &grants::names(), &wanted.renew_identity),
    };
    if let Some(owner) = owner {
        owner.take(dir);
    }
    let done = done.map_err(|error| match error {
        identities::Error::Unknown { .. } => {
            Failure::usage(&error.to_string(), "see roadcall auth init --help")
        }
        error => Failure::other(error.to_string(), "see docs/identities.md"),
    })?;
    Ok(done.into_iter().map(|(name, _)| name).collect())
}

fn say_identities(dir: &Path, wanted: &Init) -> Result<(), Failure> {
    say(format_args!(
        "[bus]\nidentities_dir = \"{}\"",
        dir.display()
    ))?;
    let then = if wanted.retire_old {
        "# The broker cuts off within seconds who still proves an old seed; who has the new one is back at once."
    } else if wanted.renew_identity.is_empty() {
        "# Put these lines into the configuration and restart the broker and the roles: from then on nobody else comes in.\n\
         # Each .nk file is one identity; give a process no other one than its own."
    } else {
        "# The broker takes old and new seeds within seconds. Restart units that have theirs from systemd (LoadCredential), then run\n\
         # this again with --retire-old."
    };
    say(format_args!("{then}"))
}

fn say_certificates(files: &certificates::Files, renew: bool) -> Result<(), Failure> {
    let (ca, cert, key) = (
        files.ca.display(),
        files.cert.display(),
        files.key.display(),
    );
    if renew {
        return say(format_args!(
            "# {cert} is new. The broker and the HTTP door that have it show it within some seconds; nothing is to be restarted."
        ));
    }
    say(format_args!(
        "[tls]\nca_file = \"{ca}\"\ncert_file = \"{cert}\"\nkey_file = \"{key}\""
    ))?;
    say(format_args!(
        "# Put these lines into the hub's configuration, restart its broker, and give depots their site files again (site add).\n\
         # Take {} off this box and keep it: whoever has it is believed by every depot.",
        files.ca_key.display()
    ))
}
