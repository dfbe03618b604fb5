//! `roadcall report kpis`.

use std::process::ExitCode;

use clap::ValueEnum;
use serde_json::{Value, json};

use super::Bounds;
use crate::cli::Connection;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::{print_json, print_rows, say};

/// What figures are told apart by.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(in crate::cli) enum GroupBy {
    Region,
    Type,
    Vendor,
}

const COLUMNS: [&str; 5] = ["name", "value", "p95", "samples", "open"];

pub(super) async fn kpis(
    connection: &Connection,
    bounds: Bounds,
    group_by: Option<GroupBy>,
) -> Result<ExitCode, Failure> {
    let mut asked = bounds.body();
    if let Some(by) = group_by {
        asked["groupBy"] = json!(match by {
            GroupBy::Region => "region",
            GroupBy::Type => "type",
            GroupBy::Vendor => "vendor",
        });
    }
    let client = Client::open(connection).await?;
    let reply = client.call("report.kpis", &asked).await?;
    if connection.json {
        print_json(&reply)?;
        return Ok(ExitCode::SUCCESS);
    }
    print_rows(connection, &figures(&reply["kpis"]), &COLUMNS)?;
    for group in reply["groups"].as_array().into_iter().flatten() {
        say(format_args!(
            "\n{}",
            group["group"].as_str().unwrap_or_default()
        ))?;
        print_rows(connection, &figures(&group["kpis"]), &COLUMNS)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Figures as rows with their names, for a table.
fn figures(kpis: &Value) -> Value {
    let rows = kpis
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, figure)| {
            let mut row = figure.clone();
            row["name"] = json!(name);
            row
        });
    rows.collect()
}
