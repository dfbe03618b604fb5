//! `roadcall vendor …`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::Connection;
use super::call::{body, list, send, text};
use super::failure::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum VendorVerb {
    /// Register one from a JSON file with the fields of vendor.register (changes data).
    Register {
        /// The file.
        #[arg(long)]
        file: PathBuf,
    },
    /// Show one.
    Get {
        /// The vendor.
        id: String,
    },
    /// List them, newest first.
    List,
    /// Approve or reject a background check (changes data).
    Verify {
        /// The vendor.
        id: String,
        /// pending, approved or rejected.
        status: String,
    },
    /// Set available or offline (changes data).
    Availability {
        /// The vendor.
        id: String,
        /// available or offline.
        status: String,
    },
    /// Find some near a place.
    Search {
        /// Latitude, degrees.
        #[arg(long, allow_negative_numbers = true)]
        lat: f64,
        /// Longitude, degrees.
        #[arg(long, allow_negative_numbers = true)]
        lon: f64,
        /// At most so far, miles.
        #[arg(long)]
        radius_miles: Option<f64>,
        /// Who can do this.
        #[arg(long)]
        capability: Option<String>,
    },
}

const COLUMNS: [&str; 5] = [
    "vendorId",
    "businessName",
    "status",
    "backgroundCheckStatus",
    "distanceMiles",
];

pub(super) async fn vendor(connection: &Connection, verb: VendorVerb) -> Result<ExitCode, Failure> {
    let (command, body) = match verb {
        VendorVerb::Register { file } => {
            let wrong = |message: String| {
                Failure::usage(
                    &format!("{}: {message}", file.display()),
                    "give a JSON object",
                )
            };
            let text = std::fs::read_to_string(&file).map_err(|error| wrong(error.to_string()))?;
            (
                "vendor.register",
                serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?,
            )
        }
        VendorVerb::Get { id } => ("vendor.get", json!({ "vendorId": id })),
        VendorVerb::List => return list(connection, "vendor.list", json!({}), &COLUMNS).await,
        VendorVerb::Verify { id, status } => (
            "vendor.verify",
            json!({ "vendorId": id, "backgroundCheckStatus": status }),
        ),
        VendorVerb::Availability { id, status } => (
            "vendor.set_availability",
            json!({ "vendorId": id, "status": status }),
        ),
        VendorVerb::Search {
            lat,
            lon,
            radius_miles,
            capability,
        } => {
            let fields = [
                ("lat", Some(json!(lat))),
                ("lon", Some(json!(lon))),
                ("radiusMiles", radius_miles.map(|miles| json!(miles))),
                ("capability", text(capability)),
            ];
            return list(connection, "vendor.search", body(&fields), &COLUMNS).await;
        }
    };
    send(connection, command, body).await
}
