//! Facts as they are read: one row per incident, with the times and counts that follow from its events (DOMAIN 5.7).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::region::Regions;
use crate::event::Ts;
use crate::role::HandlerError;
use crate::store::{Tx, params};

/// What `incident` selects: everything that is known of an incident, as one document.
const COLUMNS: &str = "json_object(
    'incidentId', i.incident_id, 'driverId', i.driver_id, 'companyId', i.company_id, 'type', i.type,
    'priority', i.priority, 'lat', i.lat, 'lon', i.lon, 'createdAtMs', i.created_at_ms,
    'status', (SELECT status FROM transition t WHERE t.incident_id = i.incident_id ORDER BY event_order DESC LIMIT 1),
    'vendorId', (SELECT vendor_id FROM transition t WHERE t.incident_id = i.incident_id ORDER BY event_order DESC LIMIT 1),
    'timesMs', json((SELECT json_group_object(status, at_ms) FROM (
        SELECT status, max(at_ms) AS at_ms FROM transition t WHERE t.incident_id = i.incident_id GROUP BY status))),
    'assignments', (SELECT count(*) FROM assignment a WHERE a.incident_id = i.incident_id),
    'firstAssignedAtMs', (SELECT min(at_ms) FROM assignment a WHERE a.incident_id = i.incident_id),
    'arrivedAtMs', (SELECT min(at_ms) FROM arrival v WHERE v.incident_id = i.incident_id),
    'arrivalMs', (SELECT v.at_ms - a.at_ms FROM arrival v JOIN assignment a USING (incident_id, vendor_id)
        WHERE v.incident_id = i.incident_id AND a.at_ms <= v.at_ms ORDER BY v.at_ms, a.at_ms DESC LIMIT 1),
    'escalations', (SELECT count(*) FROM escalation e WHERE e.incident_id = i.incident_id),
    'paidCents', (SELECT sum(amount_cents) FROM payment p WHERE p.incident_id = i.incident_id
        AND EXISTS (SELECT 1 FROM payment_step s WHERE s.payment_id = p.payment_id AND s.status = 'completed')
        AND NOT EXISTS (SELECT 1 FROM payment_step s WHERE s.payment_id = p.payment_id AND s.status = 'refunded')),
    'driverStars', (SELECT stars FROM rating r WHERE r.incident_id = i.incident_id AND rated_by = 'driver'),
    'vendorStars', (SELECT stars FROM rating r WHERE r.incident_id = i.incident_id AND rated_by = 'vendor'))";

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    incident_id: String,
    driver_id: Option<String>,
    company_id: Option<String>,
    #[serde(rename = "type")]
    incident_type: Option<String>,
    priority: Option<String>,
    lat: Option<f64>,
    lon: Option<f64>,
    created_at_ms: Option<i64>,
    status: Option<String>,
    vendor_id: Option<String>,
    times_ms: BTreeMap<String, i64>,
    assignments: u64,
    first_assigned_at_ms: Option<i64>,
    arrived_at_ms: Option<i64>,
    arrival_ms: Option<i64>,
    escalations: u64,
    paid_cents: Option<i64>,
    driver_stars: Option<u64>,
    vendor_stars: Option<u64>,
}

/// One incident. Field names are those of `roadcall report incidents --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Incident {
    pub(super) incident_id: String,
    pub(super) driver_id: Option<String>,
    pub(super) company_id: Option<String>,
    #[serde(rename = "type")]
    pub(super) incident_type: Option<String>,
    pub(super) priority: Option<String>,
    pub(super) status: Option<String>,
    /// The vendor who has it, or had it when it ended.
    pub(super) vendor_id: Option<String>,
    /// `None` while only later events of it have come.
    pub(super) created_at: Option<Ts>,
    /// The last time of each status.
    pub(super) times: BTreeMap<String, Ts>,
    pub(super) region: Option<String>,
    pub(super) assignments: u64,
    pub(super) escalated: bool,
    /// From creation to the first assignment, rounded down.
    pub(super) time_to_assign_seconds: Option<i64>,
    /// From an assignment to the arrival of the same vendor, rounded down.
    pub(super) time_to_arrival_seconds: Option<i64>,
    /// Paid and not refunded, cents.
    pub(super) payment_cents: Option<i64>,
    pub(super) driver_stars: Option<u64>,
    pub(super) vendor_stars: Option<u64>,
    /// From creation to arrival, for the tier's promise, ms.
    #[serde(skip)]
    pub(super) arrived_after_ms: Option<i64>,
    #[serde(skip)]
    pub(super) assigned_after_ms: Option<i64>,
}

impl Row {
    fn fact(self, regions: &Regions) -> Incident {
        let since_created = |at: Option<i64>| Some(at? - self.created_at_ms?);
        let assigned_after_ms = since_created(self.first_assigned_at_ms);
        Incident {
            region: self
                .lat
                .zip(self.lon)
                .map(|(lat, lon)| regions.of(lat, lon)),
            created_at: self.created_at_ms.map(Ts::from_ms),
            times: self
                .times_ms
                .iter()
                .map(|(status, ms)| (status.clone(), Ts::from_ms(*ms)))
                .collect(),
            escalated: self.escalations > 0,
            time_to_assign_seconds: assigned_after_ms.map(|ms| ms.max(0) / 1000),
            time_to_arrival_seconds: self.arrival_ms.map(|ms| ms / 1000),
            arrived_after_ms: since_created(self.arrived_at_ms),
            assigned_after_ms,
            incident_id: self.incident_id,
            driver_id: self.driver_id,
            company_id: self.company_id,
            incident_type: self.incident_type,
            priority: self.priority,
            status: self.status,
            vendor_id: self.vendor_id,
            assignments: self.assignments,
            payment_cents: self.paid_cents,
            driver_stars: self.driver_stars,
            vendor_stars: self.vendor_stars,
        }
    }
}

/// Whose incidents count, and when they were created: both ends inclusive (DOMAIN 5.7, KPI rules).
#[derive(Debug, Clone)]
pub(super) struct Window {
    pub(super) since_ms: i64,
    pub(super) until_ms: i64,
    /// `None`: everybody's; `Some(None)`: those without a company.
    pub(super) company: Option<Option<String>>,
    pub(super) incident_type: Option<String>,
    pub(super) region: Option<String>,
}

/// All incidents of the window, newest first.
pub(super) fn incidents(tx: &Tx<'_>, window: &Window) -> Result<Vec<Incident>, HandlerError> {
    let regions = Regions::load(tx)?;
    let sql = format!(
        "SELECT {COLUMNS} FROM incident i WHERE created_at_ms BETWEEN ?1 AND ?2
         AND (?3 = 0 OR company_id IS ?4) AND (?5 IS NULL OR type = ?5)
         ORDER BY created_at_ms DESC, incident_id DESC"
    );
    let (of_one, company) = match &window.company {
        None => (0, None),
        Some(company) => (1, company.clone()),
    };
    let rows: Vec<Row> = tx.documents(
        &sql,
        params![
            window.since_ms,
            window.until_ms,
            of_one,
            company,
            window.incident_type
        ],
    )?;
    let facts = rows.into_iter().map(|row| row.fact(&regions));
    Ok(facts
        .filter(|fact| window.region.is_none() || fact.region == window.region)
        .collect())
}
