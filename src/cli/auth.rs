//! `roadcall auth …`: how the first admin comes to be; everybody else registers, or is made by him.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::Connection;
use super::call::{body, send, text};
use super::failure::Failure;
use super::output::{print_json, say};
use crate::ops::certificates;

#[derive(Debug, Subcommand)]
pub(super) enum AuthVerb {
    /// Make an authority and a certificate that it signs, for TLS on the links between sites (changes files, and only makes what is
    /// missing).
    Init {
        /// Where they are written.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// A host name or an address that this box is reached by; several times for several.
        #[arg(long = "name", value_name = "NAME", required = true)]
        names: Vec<String>,
        /// Make the certificate anew; the authority stays.
        #[arg(long)]
        renew: bool,
    },
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
}

pub(super) async fn auth(connection: &Connection, verb: AuthVerb) -> Result<ExitCode, Failure> {
    match verb {
        AuthVerb::Init { dir, names, renew } => init(connection, &dir, &names, renew),
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

fn init(
    connection: &Connection,
    dir: &Path,
    names: &[String],
    renew: bool,
) -> Result<ExitCode, Failure> {
    let files = certificates::settle(dir, names, renew)
        .map_err(|error| Failure::other(error.to_string(), "see roadcall auth init --help"))?;
    let (ca, cert, key) = (
        files.ca.display(),
        files.cert.display(),
        files.key.display(),
    );
    if connection.json {
        print_json(
            &json!({ "ca": files.ca, "caKey": files.ca_key, "cert": files.cert, "key": files.key }),
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    say(format_args!(
        "[tls]\nca_file = \"{ca}\"\ncert_file = \"{cert}\"\nkey_file = \"{key}\""
    ))?;
    say(format_args!(
        "# Put these lines into the hub's configuration, restart its broker, and give depots their site files again (site add).\n\
         # Take {} off this box and keep it: whoever has it is believed by every depot.",
        files.ca_key.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}
