//! `roadcall offer …`.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::Connection;
use super::call::{body, list, send, text};
use super::failure::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum OfferVerb {
    /// List them, newest first.
    List {
        /// Only this incident's.
        #[arg(long)]
        incident: Option<String>,
        /// Only this vendor's.
        #[arg(long)]
        vendor: Option<String>,
    },
    /// Take the job (changes data).
    Accept {
        /// The offer.
        id: String,
        /// The vendor who answers; short for --as vendor:ID.
        #[arg(long)]
        vendor: String,
    },
    /// Say no (changes data).
    Decline {
        /// The offer.
        id: String,
        /// The vendor who answers; short for --as vendor:ID.
        #[arg(long)]
        vendor: String,
        /// Why, as a word like too_far.
        #[arg(long)]
        reason: Option<String>,
    },
}

pub(super) async fn offer(connection: &Connection, verb: OfferVerb) -> Result<ExitCode, Failure> {
    let acting = |vendor: &str| Connection {
        acting: Some(format!("vendor:{vendor}")),
        ..connection.clone()
    };
    match verb {
        OfferVerb::List { incident, vendor } => {
            let body = body(&[("incidentId", text(incident)), ("vendorId", text(vendor))]);
            let columns = [
                "offerId",
                "incidentId",
                "vendorId",
                "status",
                "matchScore",
                "estimatedPayoutCents",
                "round",
                "expiresAt",
            ];
            list(connection, "offer.list", body, &columns).await
        }
        OfferVerb::Accept { id, vendor } => {
            send(&acting(&vendor), "offer.accept", json!({ "offerId": id })).await
        }
        OfferVerb::Decline { id, vendor, reason } => {
            let body = body(&[("offerId", text(Some(id))), ("reason", text(reason))]);
            send(&acting(&vendor), "offer.decline", body).await
        }
    }
}
