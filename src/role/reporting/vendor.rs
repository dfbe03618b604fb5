//! `report.vendor` (DOMAIN 5.7): what a vendor did, in numbers.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::commands::bounded;
use super::fact::{Facts, Window};
use super::kpi::tiers;
use super::tally::{Figure, Tally};
use crate::event::{Id, Ts};
use crate::role::{Code, Command, HandlerError, Rejection};
use crate::store::{Tx, params};

bounded! {
    /// Whose report, and of which time.
    Asked {
        vendor_id: Id,
    }
}

/// A vendor and his figures. Field names are those of `roadcall report vendor --json`.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VendorReport {
    pub(super) vendor_id: String,
    pub(super) name: Option<String>,
    pub(super) registered_at: Ts,
    /// Incidents that were ever assigned to him.
    pub(super) jobs: usize,
    /// Closed by him ÷ jobs.
    pub(super) completion_rate: Figure,
    pub(super) time_to_arrival_seconds: Figure,
    pub(super) acceptance_rate: Figure,
    /// Mean stars that drivers gave him.
    pub(super) rating: Figure,
    /// Completed payments, less refunded ones.
    pub(super) revenue_cents: i64,
}

impl VendorReport {
    /// Where he stands in a listing.
    pub(super) fn place(&self) -> (i64, &str) {
        (self.registered_at.ms(), &self.vendor_id)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Person {
    vendor_id: String,
    name: Option<String>,
    registered_at_ms: i64,
}

/// Answers `report.vendor`.
pub(super) fn report(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let asked: Asked = command.parse()?;
    let window = asked.window(command)?;
    let id = asked.vendor_id.to_string();
    let found = vendors(tx, &window, Some(&id))?.pop();
    let missing = || Rejection::new(Code::NotFound, format!("no vendor {id}"));
    tx.reply(&found.ok_or_else(missing)?).map_err(Into::into)
}

/// The vendors, newest first, with what they did of the window; one of them where `only` names him.
pub(super) fn vendors(
    tx: &Tx<'_>,
    window: &Window,
    only: Option<&str>,
) -> Result<Vec<VendorReport>, HandlerError> {
    let people: Vec<Person> = tx.documents(
        "SELECT json_object('vendorId', person_id, 'name', name, 'registeredAtMs', registered_at_ms) FROM person
         WHERE kind = 'vendor' AND (?1 IS NULL OR person_id = ?1) ORDER BY registered_at_ms DESC, person_id DESC",
        params![only],
    )?;
    let mut work = work(tx, window, only)?;
    let of = |person: Person| {
        let Work {
            jobs,
            closed,
            tally,
        } = work.remove(&person.vendor_id).unwrap_or_default();
        let revenue_cents = tally.revenue_cents();
        let mut kpis = tally.figures();
        let mut figure = |name| kpis.remove(name).unwrap_or_else(|| Figure::share(0, 0));
        VendorReport {
            jobs: jobs.len(),
            completion_rate: Figure::share(closed, jobs.len()),
            time_to_arrival_seconds: figure("timeToArrivalSeconds"),
            acceptance_rate: figure("vendorAcceptanceRate"),
            rating: figure("driverSatisfaction"),
            revenue_cents,
            // It is stored as JSON has it.
            name: person
                .name
                .and_then(|text| serde_json::from_str(&text).ok()),
            registered_at: Ts::from_ms(person.registered_at_ms),
            vendor_id: person.vendor_id,
        }
    };
    Ok(people.into_iter().map(of).collect())
}

#[derive(Default)]
struct Work {
    jobs: BTreeSet<String>,
    closed: usize,
    tally: Tally,
}

fn work(
    tx: &Tx<'_>,
    window: &Window,
    only: Option<&str>,
) -> Result<BTreeMap<String, Work>, HandlerError> {
    let wanted = |vendor: &str| only.is_none_or(|only| only == vendor);
    let (tiers, now_ms) = (tiers(tx)?, tx.now().ms());
    let mut work: BTreeMap<String, Work> = BTreeMap::new();
    let assigned: Vec<(String, String)> = tx.documents(
        "SELECT json_array(incident_id, vendor_id) FROM assignment WHERE ?1 IS NULL OR vendor_id = ?1",
        params![only],
    )?;
    let mut assigned_to: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (incident, vendor) in assigned {
        assigned_to.entry(incident).or_default().push(vendor);
    }
    let facts = Facts::of(tx, window)?;
    for fact in &facts.incidents()? {
        for vendor in assigned_to.remove(&fact.incident_id).unwrap_or_default() {
            let of_vendor = work.entry(vendor).or_default();
            of_vendor.jobs.insert(fact.incident_id.clone());
        }
        if let Some(vendor) = fact.vendor_id.as_deref().filter(|vendor| wanted(vendor)) {
            let of_vendor = work.entry(vendor.to_owned()).or_default();
            of_vendor.closed += usize::from(fact.status.as_deref() == Some("closed"));
            of_vendor.tally.incident(fact, &tiers, now_ms);
        }
    }
    for fact in facts
        .offers()?
        .iter()
        .filter(|fact| wanted(&fact.vendor_id))
    {
        let of_vendor = work.entry(fact.vendor_id.clone()).or_default();
        of_vendor.tally.offer(fact);
    }
    for fact in facts
        .payments()?
        .iter()
        .filter(|fact| wanted(&fact.vendor_id))
    {
        let of_vendor = work.entry(fact.vendor_id.clone()).or_default();
        of_vendor.tally.payment(fact);
    }
    Ok(work)
}
