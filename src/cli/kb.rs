//! `roadcall kb …`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::Connection;
use super::call::{body, list, send, text};
use super::client::Client;
use super::failure::Failure;
use super::output::print_rows;

#[derive(Debug, Subcommand)]
pub(super) enum KbVerb {
    /// Find documents, the most confident first.
    Search {
        /// Words to look for.
        query: String,
        /// sop, vendor_sla, troubleshooting or policy.
        #[arg(long)]
        category: Option<String>,
        /// Results at the most, up to 50.
        #[arg(long)]
        limit: Option<u64>,
    },
    /// Upload a document, or a new revision of one (changes data).
    Upload {
        /// A text or Markdown file of at most 512 KiB.
        file: PathBuf,
        /// Its title.
        #[arg(long)]
        title: String,
        /// sop, vendor_sla, troubleshooting or policy.
        #[arg(long)]
        category: String,
        /// The document that this is a new revision of.
        #[arg(long, requires = "revision")]
        id: Option<String>,
        /// The revision that it follows.
        #[arg(long)]
        revision: Option<u64>,
    },
    /// List documents, newest first.
    List {
        /// sop, vendor_sla, troubleshooting or policy.
        #[arg(long)]
        category: Option<String>,
    },
    /// Show a document with its text.
    Get {
        /// The document.
        id: String,
    },
    /// Remove a document and its index (changes data).
    Delete {
        /// The document.
        id: String,
    },
}

pub(super) async fn kb(connection: &Connection, verb: KbVerb) -> Result<ExitCode, Failure> {
    match verb {
        KbVerb::Search {
            query,
            category,
            limit,
        } => {
            let body = body(&[
                ("query", text(Some(query))),
                ("category", text(category)),
                ("limit", limit.map(Value::from)),
            ]);
            // One page: what is behind the best is no listing to be read to its end.
            let reply = Client::open(connection)
                .await?
                .call("kb.search", &body)
                .await?;
            let columns = ["documentId", "title", "category", "confidence", "snippet"];
            print_rows(connection, &reply["items"], &columns)?;
            Ok(ExitCode::SUCCESS)
        }
        KbVerb::Upload {
            file,
            title,
            category,
            id,
            revision,
        } => {
            let content = std::fs::read_to_string(&file).map_err(|error| {
                let message = format!("{} can't be read as text: {error}", file.display());
                Failure::usage(&message, "give a text or Markdown file in UTF-8")
            })?;
            let markdown = file.extension().is_some_and(|end| end == "md");
            let kind = if markdown {
                "text/markdown"
            } else {
                "text/plain"
            };
            let body = body(&[
                ("documentId", text(id)),
                ("expectedVersion", revision.map(Value::from)),
                ("title", text(Some(title))),
                ("category", text(Some(category))),
                ("contentType", text(Some(kind.to_owned()))),
                ("text", text(Some(content))),
            ]);
            send(connection, "kb.upload", body).await
        }
        KbVerb::List { category } => {
            let columns = [
                "documentId",
                "title",
                "category",
                "revision",
                "status",
                "chunks",
            ];
            list(
                connection,
                "kb.list",
                body(&[("category", text(category))]),
                &columns,
            )
            .await
        }
        KbVerb::Get { id } => send(connection, "kb.get", json!({ "documentId": id })).await,
        KbVerb::Delete { id } => send(connection, "kb.delete", json!({ "documentId": id })).await,
    }
}
