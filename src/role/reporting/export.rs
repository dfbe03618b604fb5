//! `report.export` (DOMAIN 5.7): facts as tables, page by page.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::commands::{bounded, part};
use super::fact::{Facts, Incident, Listed, Part, Window};
use super::kpi::figures;
use super::tally::Figure;
use super::vendor::{VendorReport, vendors};
use crate::event::IncidentStatus;
use crate::role::listing::{cursor, limit};
use crate::role::{Command, HandlerError, Rejection};
use crate::store::Tx;

/// Which facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Table {
    Incidents,
    Vendors,
    Payments,
    Kpis,
}

/// How they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Form {
    Csv,
    Json,
}

bounded! {
    /// What to export, and which page of it.
    Asked {
        table: Table,
        format: Form,
        limit: Option<u64>,
        cursor: Option<String>,
    }
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Text,
    Whole,
    Real,
    Bool,
    Time,
}

/// A column of the table.
#[derive(Debug, Serialize, JsonSchema)]
struct Column {
    name: String,
    kind: Kind,
}

/// A page of a table: as objects or as lines of CSV, whichever was asked for.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExportPage {
    /// What a file of it may be called.
    file_name: String,
    columns: Vec<Column>,
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Vec<Map<String, Value>>>,
    /// CSV; the first page has the header.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    /// Where it goes on; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

type Columns = Vec<Column>;

/// Answers `report.export`: a page as objects, or as lines of CSV of which the first page has the header.
pub(super) fn export(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let asked: Asked = command.parse()?;
    let window = asked.window(command)?;
    let most = usize::try_from(limit(asked.limit)?).unwrap_or(usize::MAX);
    let (before_ms, before_id) = cursor(asked.cursor.as_deref())?;
    let behind = (before_ms, before_id.as_str());
    // One more than is shown says whether there are more.
    let wanted = Part {
        behind,
        most: most + 1,
    };
    let (columns, rows, cursor) = match asked.table {
        Table::Incidents => {
            let found = Facts::of(tx, &window)?.some_incidents(wanted)?;
            let (shown, next) = part(&found, most, behind, Listed::place);
            let rows = shown.into_iter().map(incident_row).collect();
            (incident_columns(), rows, next)
        }
        Table::Payments => {
            let found = Facts::of(tx, &window)?.some_payments(wanted)?;
            let (shown, next) = part(&found, most, behind, Listed::place);
            let rows = shown.into_iter().map(row).collect();
            (payment_columns(), rows, next)
        }
        Table::Vendors => {
            // Their figures are made of all facts of the window, whichever of them are shown.
            let all = vendors(tx, &window, None)?;
            let (shown, next) = part(&all, most, behind, VendorReport::place);
            let rows = shown.into_iter().map(vendor_row).collect();
            (vendor_columns(), rows, next)
        }
        Table::Kpis => (kpi_columns(), kpi_rows(tx, &window)?, None),
    };
    let (items, content) = match asked.format {
        Form::Json => (Some(rows), None),
        Form::Csv => (None, Some(csv(&columns, &rows, asked.cursor.is_none())?)),
    };
    tx.reply(&ExportPage {
        file_name: file_name(tx, &asked),
        columns,
        items,
        content,
        cursor,
    })
    .map_err(Into::into)
}

/// `roadcall-incidents-20260115T100000Z.csv`: nothing of it is the caller's, so it can name no other place.
fn file_name(tx: &Tx<'_>, asked: &Asked) -> String {
    let table = match asked.table {
        Table::Incidents => "incidents",
        Table::Vendors => "vendors",
        Table::Payments => "payments",
        Table::Kpis => "kpis",
    };
    let form = match asked.format {
        Form::Csv => "csv",
        Form::Json => "json",
    };
    let now = tx.now().to_string();
    let at: String = now[..19].replace(['-', ':'], "");
    format!("roadcall-{table}-{at}Z.{form}")
}

fn named(columns: &[(&str, Kind)]) -> Columns {
    let owned = |(name, kind): &(&str, Kind)| Column {
        name: (*name).to_owned(),
        kind: *kind,
    };
    columns.iter().map(owned).collect()
}

/// An object of a fact as it serialises.
fn row(fact: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(fact) {
        Ok(Value::Object(map)) => map,
        // Facts are structs with names for fields: they are nothing else.
        _ => Map::new(),
    }
}

fn incident_columns() -> Columns {
    use Kind as K;
    let mut columns = named(&[
        ("incidentId", K::Text),
        ("driverId", K::Text),
        ("vendorId", K::Text),
        ("companyId", K::Text),
        ("type", K::Text),
        ("priority", K::Text),
        ("status", K::Text),
        ("region", K::Text),
        ("createdAt", K::Time),
    ]);
    columns.extend(statuses().map(|status| Column {
        name: time_column(&status),
        kind: K::Time,
    }));
    columns.extend(named(&[
        ("assignments", K::Whole),
        ("escalated", K::Bool),
        ("timeToAssignSeconds", K::Whole),
        ("timeToArrivalSeconds", K::Whole),
        ("paymentCents", K::Whole),
        ("driverStars", K::Whole),
        ("vendorStars", K::Whole),
    ]));
    columns
}

/// All but the first, which has `createdAt`.
fn statuses() -> impl Iterator<Item = String> {
    IncidentStatus::ALL
        .iter()
        .filter(|status| **status != IncidentStatus::Created)
        .map(ToString::to_string)
}

/// `vendor_assigned` is in `vendorAssignedAt`.
fn time_column(status: &str) -> String {
    let mut name = String::new();
    for (at, word) in status.split('_').enumerate() {
        let (first, rest) = word.split_at(usize::from(at > 0));
        name.push_str(&first.to_uppercase());
        name.push_str(rest);
    }
    name + "At"
}

fn incident_row(fact: &Incident) -> Map<String, Value> {
    let mut row = row(fact);
    row.remove("times");
    for status in statuses() {
        let at = fact.times.get(&status).map(ToString::to_string);
        row.insert(time_column(&status), at.into());
    }
    row
}

fn payment_columns() -> Columns {
    use Kind as K;
    named(&[
        ("paymentId", K::Text),
        ("incidentId", K::Text),
        ("vendorId", K::Text),
        ("amountCents", K::Whole),
        ("status", K::Text),
        ("flagged", K::Bool),
        ("createdAt", K::Time),
        ("approvedAt", K::Time),
        ("completedAt", K::Time),
    ])
}

fn vendor_columns() -> Columns {
    use Kind as K;
    named(&[
        ("vendorId", K::Text),
        ("name", K::Text),
        ("registeredAt", K::Time),
        ("jobs", K::Whole),
        ("completionRate", K::Real),
        ("timeToArrivalSeconds", K::Whole),
        ("acceptanceRate", K::Real),
        ("rating", K::Real),
        ("ratings", K::Whole),
        ("revenueCents", K::Whole),
    ])
}

fn vendor_row(vendor: &VendorReport) -> Map<String, Value> {
    let mut row = row(vendor);
    let figures: [(&str, &Figure); 4] = [
        ("completionRate", &vendor.completion_rate),
        ("timeToArrivalSeconds", &vendor.time_to_arrival_seconds),
        ("acceptanceRate", &vendor.acceptance_rate),
        ("rating", &vendor.rating),
    ];
    for (name, figure) in figures {
        row.insert(name.to_owned(), figure.value.clone());
    }
    row.insert("ratings".to_owned(), vendor.rating.samples.into());
    row
}

fn kpi_columns() -> Columns {
    use Kind as K;
    named(&[
        ("name", K::Text),
        ("value", K::Real),
        ("p95", K::Real),
        ("samples", K::Whole),
        ("open", K::Whole),
    ])
}

fn kpi_rows(tx: &Tx<'_>, window: &Window) -> Result<Vec<Map<String, Value>>, HandlerError> {
    let kpis = figures(tx, window, None)?.kpis;
    let named = kpis.iter().map(|(name, figure)| {
        let mut row = row(figure);
        row.insert("name".to_owned(), (*name).into());
        row
    });
    Ok(named.collect())
}

fn csv(
    columns: &[Column],
    rows: &[Map<String, Value>],
    header: bool,
) -> Result<String, HandlerError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let broken = |error: csv::Error| Rejection::field("format", format!("CSV: {error}"));
    if header {
        let names = columns.iter().map(|column| &column.name);
        writer.write_record(names).map_err(broken)?;
    }
    for row in rows {
        let cells = columns.iter().map(|column| cell(row.get(&column.name)));
        writer.write_record(cells).map_err(broken)?;
    }
    let bytes = writer.into_inner().unwrap_or_default();
    // Made of texts alone.
    Ok(String::from_utf8(bytes).unwrap_or_default())
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        // A spreadsheet would run what begins like a formula (OWASP, CSV injection).
        Some(Value::String(text)) if text.starts_with(['=', '+', '-', '@', '\t', '\r']) => {
            format!("'{text}")
        }
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_have_the_words_of_statuses_and_no_formulas() {
        assert_eq!(time_column("vendor_en_route"), "vendorEnRouteAt");
        assert_eq!(time_column("closed"), "closedAt");
        assert_eq!(cell(Some(&json!("=1+1"))), "'=1+1");
        assert_eq!(cell(Some(&json!(-5))), "-5");
        assert_eq!(cell(Some(&json!("a \"b\", c"))), "a \"b\", c");
    }
}
