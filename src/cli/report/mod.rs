//! `roadcall report …` and `roadcall rebuild`: what happened, in numbers, and how the numbers are made anew.

mod export;
mod kpis;
mod parquet;
mod rebuild;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use self::export::Export;
use self::kpis::{GroupBy, kpis};
pub(super) use self::rebuild::Rebuild;
use super::Connection;
use super::call::{body, send, text};
use super::client::Client;
use super::failure::Failure;
use super::output::{print_json, print_rows, say};

#[derive(Debug, Subcommand)]
pub(super) enum ReportVerb {
    /// Incidents with their times and counts, newest first, and how many there are of each kind.
    Incidents(Bounds),
    /// Every key figure with the number of measurements behind it.
    Kpis {
        #[command(flatten)]
        bounds: Bounds,
        /// The figures of each group, too.
        #[arg(long)]
        group_by: Option<GroupBy>,
    },
    /// What one vendor did: jobs, completion, arrival, acceptance, stars, revenue.
    Vendor {
        /// The vendor.
        id: String,
        #[command(flatten)]
        bounds: Bounds,
    },
    /// Write facts to a file, for spreadsheets and data tools.
    Export(Export),
}

/// Which incidents count.
#[derive(Debug, Clone, Args)]
pub(super) struct Bounds {
    /// Created at this time or later.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Created at this time or before.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only this region's.
    #[arg(long)]
    region: Option<String>,
    /// Only these: tire, engine or tow.
    #[arg(long = "type", value_name = "TYPE")]
    incident_type: Option<String>,
    /// Only this company's.
    #[arg(long, value_name = "ID")]
    company: Option<String>,
}

impl Bounds {
    fn body(self) -> Value {
        body(&[
            ("since", text(self.since)),
            ("until", text(self.until)),
            ("region", text(self.region)),
            ("incidentType", text(self.incident_type)),
            ("companyId", text(self.company)),
        ])
    }
}

pub(super) async fn report(connection: &Connection, verb: ReportVerb) -> Result<ExitCode, Failure> {
    match verb {
        ReportVerb::Incidents(bounds) => incidents(connection, bounds).await,
        ReportVerb::Kpis { bounds, group_by } => kpis(connection, bounds, group_by).await,
        ReportVerb::Vendor { id, bounds } => {
            let mut asked = bounds.body();
            asked["vendorId"] = id.into();
            send(connection, "report.vendor", asked).await
        }
        ReportVerb::Export(export) => export.run(connection).await,
    }
}

/// All pages: with `--json` one document with the counts and every incident.
async fn incidents(connection: &Connection, bounds: Bounds) -> Result<ExitCode, Failure> {
    let client = Client::open(connection).await?;
    let mut asked = bounds.body();
    let mut items = Vec::new();
    let counts = loop {
        let reply = client.call("report.incidents", &asked).await?;
        items.extend(reply["items"].as_array().into_iter().flatten().cloned());
        match reply.get("cursor") {
            Some(cursor) => asked["cursor"] = cursor.clone(),
            None => break reply["counts"].clone(),
        }
    };
    if connection.json {
        print_json(&json!({ "counts": counts, "incidents": items }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let columns = [
        "incidentId",
        "type",
        "status",
        "region",
        "createdAt",
        "assignments",
        "escalated",
        "timeToAssignSeconds",
        "timeToArrivalSeconds",
        "paymentCents",
    ];
    print_rows(connection, &Value::Array(items), &columns)?;
    for (name, word) in [
        ("byType", "by type"),
        ("byStatus", "by status"),
        ("byRegion", "by region"),
    ] {
        let parts: Vec<String> = counts[name]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, count)| format!("{key} {count}"))
            .collect();
        say(format_args!("{word}: {}", parts.join(", ")))?;
    }
    Ok(ExitCode::SUCCESS)
}
