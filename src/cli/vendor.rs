//! `roadcall vendor …`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::Connection;
use super::call::{body, items, send, text};
use super::failure::Failure;
use super::output::{print_json, print_rows};

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
    /// List all of them, newest first.
    List {
        /// Only those that are available, busy or offline.
        #[arg(long)]
        status: Option<String>,
    },
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
    /// Find those near a place, the nearest first.
    Search {
        /// Latitude, degrees.
        #[arg(long, allow_negative_numbers = true)]
        lat: f64,
        /// Longitude, degrees.
        #[arg(long, allow_negative_numbers = true)]
        lon: f64,
        /// At most so far, miles, up to 500; 50 without it.
        #[arg(long)]
        radius_miles: Option<f64>,
        /// Only who can do this: tire_repair, tire_replacement, engine_repair, towing, jumpstart or fuel_delivery.
        #[arg(long)]
        capability: Option<String>,
        /// Only who is available now.
        #[arg(long)]
        available_only: bool,
        /// So many at the most, up to 100; 10 without it.
        #[arg(long)]
        limit: Option<usize>,
    },
}

/// What vendor.search answers at the most without a limit (DOMAIN 5.2).
const SEARCH_LIMIT: usize = 10;

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
        VendorVerb::List { status } => {
            let found = items(connection, "vendor.list", body(&[("status", text(status))]));
            return table(connection, &found.await?, "coverage miles");
        }
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
            available_only,
            limit,
        } => {
            let fields = [
                ("lat", Some(json!(lat))),
                ("lon", Some(json!(lon))),
                ("radiusMiles", radius_miles.map(|miles| json!(miles))),
                ("capability", text(capability)),
                ("availableOnly", available_only.then_some(json!(true))),
                ("limit", limit.map(|limit| json!(limit))),
            ];
            let found = items(connection, "vendor.search", body(&fields)).await?;
            let most = limit.unwrap_or(SEARCH_LIMIT);
            if !connection.json && found.as_array().is_some_and(|found| found.len() == most) {
                eprintln!("note: these are the nearest {most}; --limit shows more");
            }
            return table(connection, &found, "miles away");
        }
    };
    send(connection, command, body).await
}

/// Prints vendors: for people what one chooses by, with `miles` as the column of the distance that matters.
fn table(connection: &Connection, vendors: &Value, miles: &str) -> Result<ExitCode, Failure> {
    if connection.json {
        print_json(vendors)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = vendors.as_array().into_iter().flatten().map(row).collect();
    let columns = [
        "vendorId",
        "businessName",
        "status",
        "background check",
        "capabilities",
        miles,
        "rating",
        "accepts",
    ];
    print_rows(connection, &Value::Array(rows), &columns)?;
    Ok(ExitCode::SUCCESS)
}

fn row(vendor: &Value) -> Value {
    let can = vendor["capabilities"].as_array().into_iter().flatten();
    let can: Vec<&str> = can.filter_map(Value::as_str).collect();
    let miles = |name: &str| vendor[name].as_f64().map(|miles| format!("{miles:.1}"));
    let metrics = &vendor["metrics"];
    let count = |name: &str| metrics[name].as_u64().unwrap_or(0);
    let rate = |name: &str| metrics[name].as_f64().unwrap_or(0.0);
    let rating = (count("ratings") > 0)
        .then(|| format!("{:.1} of {}", rate("ratingAverage"), count("ratings")));
    // Without an answered offer the rate is 0, which would look like a bad one.
    let answered = count("accepted") + count("declined") + count("expired");
    let accepts = (answered > 0).then(|| format!("{:.0} %", rate("acceptanceRate") * 100.0));
    json!({
        "vendorId": vendor["vendorId"], "businessName": vendor["businessName"], "status": vendor["status"],
        "background check": vendor["backgroundCheckStatus"], "capabilities": can.join(", "),
        "coverage miles": miles("coverageRadiusMiles"), "miles away": miles("distanceMiles"),
        "rating": rating, "accepts": accepts,
    })
}
