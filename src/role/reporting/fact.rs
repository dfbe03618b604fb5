//! Facts as they are read: one row per incident, with the times and counts that follow from its events (DOMAIN 5.7).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

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
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "IncidentFact")]
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
    /// From an assignment to the arrival of the same vendor, ms.
    #[serde(skip)]
    pub(super) arrival_ms: Option<i64>,
}

impl Listed for Incident {
    fn place(&self) -> (i64, &str) {
        (self.created_at.map_or(0, Ts::ms), &self.incident_id)
    }

    fn region(&self) -> Option<&String> {
        self.region.as_ref()
    }
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
            arrival_ms: self.arrival_ms,
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

/// Which facts count: when they were created, both ends inclusive, and of what incidents (DOMAIN 5.7, KPI rules).
#[derive(Debug, Clone)]
pub(super) struct Window {
    pub(super) since_ms: i64,
    pub(super) until_ms: i64,
    /// `None`: everybody's; `Some(None)`: those without a company.
    pub(super) company: Option<Option<String>>,
    pub(super) incident_type: Option<String>,
    pub(super) region: Option<String>,
}

/// The condition of a window on facts `f` of incidents `i`; `?1` to `?5` are [`Window::bounds`].
const IN_WINDOW: &str = "f.created_at_ms BETWEEN ?1 AND ?2 AND (?3 = 0 OR i.company_id IS ?4) AND (?5 IS NULL OR i.type = ?5)";

impl Window {
    fn bounds(&self) -> (i64, i64, i64, Option<&str>, Option<&str>) {
        let (of_one, company) = match &self.company {
            None => (0, None),
            Some(company) => (1, company.as_deref()),
        };
        let incident_type = self.incident_type.as_deref();
        (self.since_ms, self.until_ms, of_one, company, incident_type)
    }

    fn has_region(&self, region: Option<&String>) -> bool {
        self.region.is_none() || region == self.region.as_ref()
    }
}

/// A fact that listings have.
pub(super) trait Listed {
    /// Where it stands there.
    fn place(&self) -> (i64, &str);
    /// Where it happened.
    fn region(&self) -> Option<&String>;
}

/// A part of a listing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    /// Behind this time, Unix milliseconds, and id.
    pub(super) behind: (i64, &'a str),
    /// So many at the most.
    pub(super) most: usize,
}

/// Rows that are read at once for a part of one region, which is known only when they are read.
const AT_ONCE: usize = 200;

/// What is known of a window. The geofences are read once for all of it.
pub(super) struct Facts<'a> {
    tx: &'a Tx<'a>,
    window: &'a Window,
    regions: Regions,
}

impl<'a> Facts<'a> {
    pub(super) fn of(tx: &'a Tx<'a>, window: &'a Window) -> Result<Self, HandlerError> {
        let regions = Regions::load(tx)?;
        Ok(Self {
            tx,
            window,
            regions,
        })
    }

    /// All incidents of the window, newest first.
    pub(super) fn incidents(&self) -> Result<Vec<Incident>, HandlerError> {
        Ok(self.here(self.read_incidents(None)?))
    }

    /// A part of them; nothing before it is read.
    pub(super) fn some_incidents(&self, part: Part<'_>) -> Result<Vec<Incident>, HandlerError> {
        self.some(part, |part| self.read_incidents(Some(part)))
    }

    /// All payments created in the window, newest first.
    pub(super) fn payments(&self) -> Result<Vec<Payment>, HandlerError> {
        Ok(self.here(self.read_payments(None)?))
    }

    /// A part of them; nothing before it is read.
    pub(super) fn some_payments(&self, part: Part<'_>) -> Result<Vec<Payment>, HandlerError> {
        self.some(part, |part| self.read_payments(Some(part)))
    }

    /// All offers made in the window.
    pub(super) fn offers(&self) -> Result<Vec<Offer>, HandlerError> {
        let sql = format!(
            "SELECT json_object('vendorId', f.vendor_id, 'type', i.type, 'lat', i.lat, 'lon', i.lon, 'status',
                (SELECT status FROM offer_step s WHERE s.offer_id = f.offer_id ORDER BY event_order DESC LIMIT 1))
             FROM offer f LEFT JOIN incident i USING (incident_id) WHERE {IN_WINDOW}"
        );
        let mut facts: Vec<Offer> = self.tx.documents(&sql, self.window.bounds())?;
        for fact in &mut facts {
            fact.about.placed(&self.regions);
        }
        facts.retain(|fact| self.window.has_region(fact.about.region.as_ref()));
        Ok(facts)
    }

    fn read_incidents(&self, part: Option<Part<'_>>) -> Result<Vec<Incident>, HandlerError> {
        // The order is fixed so that the window's index is what is walked along.
        let tables = "incident f CROSS JOIN incident i USING (incident_id)";
        let rows: Vec<Row> = self.read(COLUMNS, tables, "f.incident_id", part)?;
        let facts = rows.into_iter().map(|row| row.fact(&self.regions));
        Ok(facts.collect())
    }

    fn read_payments(&self, part: Option<Part<'_>>) -> Result<Vec<Payment>, HandlerError> {
        let tables = "payment f LEFT JOIN incident i USING (incident_id)";
        let mut facts: Vec<Payment> = self.read(PAYMENT, tables, "f.payment_id", part)?;
        for fact in &mut facts {
            fact.about.placed(&self.regions);
            fact.flagged = fact.was("flagged");
        }
        Ok(facts)
    }

    /// Facts `f` of incidents `i`, newest first.
    fn read<T: DeserializeOwned>(
        &self,
        columns: &str,
        tables: &str,
        id: &str,
        part: Option<Part<'_>>,
    ) -> Result<Vec<T>, HandlerError> {
        let (since_ms, until_ms, of_one, company, incident_type) = self.window.bounds();
        let behind = part.map_or((i64::MAX, ""), |part| part.behind);
        let sql = format!(
            "SELECT {columns} FROM {tables} WHERE {IN_WINDOW} AND (f.created_at_ms, {id}) < (?6, ?7)
             ORDER BY f.created_at_ms DESC, {id} DESC LIMIT ?8"
        );
        let params = params![
            since_ms,
            // The index is entered where the part begins.
            until_ms.min(behind.0),
            of_one,
            company,
            incident_type,
            behind.0,
            behind.1,
            // No limit in SQLite.
            part.map_or(-1, |part| i64::try_from(part.most).unwrap_or(-1))
        ];
        Ok(self.tx.documents(&sql, params)?)
    }

    fn here<T: Listed>(&self, mut facts: Vec<T>) -> Vec<T> {
        facts.retain(|fact| self.window.has_region(fact.region()));
        facts
    }

    /// Reads on until a part of the window's region is full, or nothing is left.
    fn some<T: Listed>(
        &self,
        part: Part<'_>,
        read: impl Fn(Part<'_>) -> Result<Vec<T>, HandlerError>,
    ) -> Result<Vec<T>, HandlerError> {
        let at_once = match self.window.region {
            None => part.most,
            Some(_) => part.most.max(AT_ONCE),
        };
        let (mut behind_ms, mut behind_id) = (part.behind.0, part.behind.1.to_owned());
        let mut found = Vec::new();
        loop {
            let facts = read(Part {
                behind: (behind_ms, &behind_id),
                most: at_once,
            })?;
            let more = facts.len() == at_once;
            if let Some((ms, id)) = facts.last().map(Listed::place) {
                (behind_ms, behind_id) = (ms, id.to_owned());
            }
            found.extend(self.here(facts));
            if found.len() >= part.most || !more {
                found.truncate(part.most);
                return Ok(found);
            }
        }
    }
}

/// One offer.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Offer {
    pub(super) vendor_id: String,
    /// accepted (by the vendor), assigned (by a dispatcher), declined, expired, cancelled; `None` while it is open.
    pub(super) status: Option<String>,
    #[serde(flatten)]
    pub(super) about: About,
}

/// The incident that an offer or a payment is about.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct About {
    #[serde(rename = "type")]
    pub(super) incident_type: Option<String>,
    lat: Option<f64>,
    lon: Option<f64>,
    #[serde(skip)]
    pub(super) region: Option<String>,
}

impl About {
    fn placed(&mut self, regions: &Regions) {
        let place = self.lat.zip(self.lon);
        self.region = place.map(|(lat, lon)| regions.of(lat, lon));
    }
}

/// One payment. Field names are those of the export.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Payment {
    pub(super) payment_id: String,
    pub(super) incident_id: String,
    pub(super) vendor_id: String,
    pub(super) amount_cents: i64,
    pub(super) status: Option<String>,
    /// Whether a person had to look at it.
    #[serde(skip_deserializing)]
    pub(super) flagged: bool,
    #[serde(deserialize_with = "from_ms")]
    pub(super) created_at: Option<Ts>,
    /// By somebody; `None` where it was created approved.
    #[serde(deserialize_with = "from_ms")]
    pub(super) approved_at: Option<Ts>,
    #[serde(deserialize_with = "from_ms")]
    pub(super) completed_at: Option<Ts>,
    /// All that it ever was.
    #[serde(skip_serializing)]
    steps: Vec<String>,
    #[serde(flatten, skip_serializing)]
    pub(super) about: About,
}

impl Payment {
    /// How long it waited for its approval, ms.
    pub(super) fn approved_after_ms(&self) -> Option<i64> {
        Some((self.approved_at?.ms() - self.created_at?.ms()).max(0))
    }

    /// Whether it was ever in this state.
    pub(super) fn was(&self, status: &str) -> bool {
        self.steps.iter().any(|step| step == status)
    }
}

impl Listed for Payment {
    fn place(&self) -> (i64, &str) {
        (self.created_at.map_or(0, Ts::ms), &self.payment_id)
    }

    fn region(&self) -> Option<&String> {
        self.about.region.as_ref()
    }
}

/// A time that SQL gives in milliseconds.
fn from_ms<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Ts>, D::Error> {
    Ok(Option::<i64>::deserialize(source)?.map(Ts::from_ms))
}

// A payment that begins as approved has that step at the moment of its creation: nobody approved it.
const PAYMENT: &str = "json_object(
    'paymentId', f.payment_id, 'incidentId', f.incident_id, 'vendorId', f.vendor_id,
    'amountCents', f.amount_cents, 'type', i.type, 'lat', i.lat, 'lon', i.lon, 'createdAt', f.created_at_ms,
    'status', (SELECT status FROM payment_step s WHERE s.payment_id = f.payment_id ORDER BY event_order DESC LIMIT 1),
    'steps', json((SELECT json_group_array(DISTINCT status) FROM payment_step s WHERE s.payment_id = f.payment_id)),
    'completedAt', (SELECT min(at_ms) FROM payment_step s WHERE s.payment_id = f.payment_id AND status = 'completed'),
    'approvedAt', (SELECT min(at_ms) FROM payment_step s WHERE s.payment_id = f.payment_id AND status = 'approved'
        AND at_ms > f.created_at_ms))";
