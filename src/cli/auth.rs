//! `roadcall auth …`: how the first admin comes to be; everybody else registers, or is made by him.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::Connection;
use super::call::{body, send, text};
use super::failure::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum AuthVerb {
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
