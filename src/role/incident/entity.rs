//! The incident, its timeline, its state table, and how they are stored (DOMAIN 5.1).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::{
    Actor, Code, E164, Id, IncidentOrigin, IncidentStatus, IncidentType, Payer, Personal, Place,
    Point, Priority, Text, Ts,
};
use crate::store::{Error, Tx, params};

pub(super) const MIGRATIONS: &[&str] = &["
CREATE TABLE incident (
    incident_id TEXT PRIMARY KEY,
    driver_id TEXT NOT NULL,
    vendor_id TEXT,
    company_id TEXT,
    status TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    call_id TEXT UNIQUE,
    client_request_id TEXT,
    doc TEXT NOT NULL
);
CREATE INDEX incident_newest ON incident (created_at_ms DESC, incident_id DESC);
CREATE INDEX incident_driver ON incident (driver_id, created_at_ms DESC, incident_id DESC);
CREATE INDEX incident_vendor ON incident (vendor_id, created_at_ms DESC, incident_id DESC);
CREATE INDEX incident_company ON incident (company_id, created_at_ms DESC, incident_id DESC);
CREATE INDEX incident_status ON incident (status, created_at_ms DESC, incident_id DESC);
CREATE UNIQUE INDEX incident_request ON incident (driver_id, client_request_id) WHERE client_request_id IS NOT NULL;
CREATE TABLE timeline (
    incident_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    actor TEXT NOT NULL,
    doc TEXT NOT NULL,
    PRIMARY KEY (incident_id, seq)
) WITHOUT ROWID;
-- An erasure looks for what a person wrote, wherever it is.
CREATE INDEX timeline_actor ON timeline (actor);
CREATE TABLE escalation (
    incident_id TEXT NOT NULL,
    reason TEXT NOT NULL,
    cycle INTEGER NOT NULL,
    PRIMARY KEY (incident_id, reason, cycle)
) WITHOUT ROWID;
CREATE TABLE rating (incident_id TEXT NOT NULL, rated_by TEXT NOT NULL, PRIMARY KEY (incident_id, rated_by)) WITHOUT ROWID;
-- What a call left for an incident, kept until the incident exists.
CREATE TABLE call_record (call_id TEXT PRIMARY KEY, doc TEXT NOT NULL) WITHOUT ROWID;
", super::media::MIGRATION];

/// Says that an area is not known: the driver is erased, or the site can't open what it was told.
pub(super) const UNKNOWN_AREA: Point = Point { lat: 0.0, lon: 0.0 };

/// An incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the fields are DOMAIN 5.1's own
pub struct Incident {
    pub incident_id: Id,
    pub driver_id: Id,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub company_id: Option<Id>,
    pub payer_type: Payer,
    #[serde(rename = "type")]
    pub incident_type: IncidentType,
    pub priority: Priority,
    pub location: Personal<Place>,
    /// The location rounded to a tenth of a degree, which names nobody's place: what is left of it when the driver is erased.
    /// Absent where it was never known, and in incidents from before it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area_location: Option<Point>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phone: Option<Personal<E164>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<Personal<Text<1000>>>,
    pub origin: IncidentOrigin,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_id: Option<Id>,
    pub status: IncidentStatus,
    pub version: u64,
    pub cycle: u64,
    pub escalations: u64,
    pub created_at: Ts,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub assignment: Option<Assignment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arrived_at: Option<Ts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work_started_at: Option<Ts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Ts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancelled_by: Option<Actor>,
    #[serde(flatten)]
    pub call: CallRecord,
}

/// Who has the job; absent again after a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the fields are DOMAIN 5.1's own
pub struct Assignment {
    pub vendor_id: Id,
    pub offer_id: Id,
    pub assigned_at: Ts,
    pub arrival_due_at: Ts,
    pub distance_miles: f64,
}

/// What a phone call added.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the fields are DOMAIN 5.1's own
pub struct CallRecord {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recording_ref: Option<Text<256>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transcript_id: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary_id: Option<Id>,
}

/// One line of an incident's history; lines are only added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the fields are DOMAIN 5.1's own
pub struct TimelineEntry {
    pub seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<IncidentStatus>,
    pub to: IncidentStatus,
    pub at: Ts,
    pub actor: Actor,
    /// The person at the machine who acted as `actor` (DESIGN 10).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<Actor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Code>,
    /// The word that the person gave, where `reason` is the domain's own (withdrawal, release).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub given_reason: Option<Code>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<Personal<Text<500>>>,
}

/// The state table of DOMAIN 5.1: 15 of the 81 ordered pairs.
#[must_use]
pub fn legal(from: IncidentStatus, to: IncidentStatus) -> bool {
    use IncidentStatus as S;
    matches!(
        (from, to),
        (S::Created, S::VendorAssigned | S::Cancelled)
            | (
                S::VendorAssigned,
                S::VendorEnRoute | S::Created | S::Cancelled
            )
            | (
                S::VendorEnRoute,
                S::VendorArrived | S::Created | S::Cancelled
            )
            | (
                S::VendorArrived,
                S::WorkInProgress | S::Created | S::Cancelled
            )
            | (S::WorkInProgress, S::WorkCompleted | S::Cancelled)
            | (S::WorkCompleted, S::PaymentPending)
            | (S::PaymentPending, S::Closed)
    )
}

impl Incident {
    /// The assigned vendor.
    #[must_use]
    pub fn vendor_id(&self) -> Option<Id> {
        self.assignment
            .as_ref()
            .map(|assignment| assignment.vendor_id)
    }

    /// Whom an escalation goes to.
    #[must_use]
    pub fn dispatchers(&self) -> Text<64> {
        Text::lossy(&match self.company_id {
            Some(company) => format!("dispatchers:{company}"),
            None => "dispatchers:platform".to_owned(),
        })
    }

    /// Reads one.
    pub(super) fn find(tx: &Tx<'_>, incident_id: Id) -> Result<Option<Self>, Error> {
        tx.document(
            "SELECT doc FROM incident WHERE incident_id = ?1",
            params![incident_id.to_string()],
        )
    }

    /// Writes a new one. That its call or its request has none yet was looked up before.
    pub(super) fn insert(
        &self,
        tx: &mut Tx<'_>,
        client_request_id: Option<&str>,
    ) -> Result<(), Error> {
        let doc = tx.text(self)?;
        tx.execute(
            "INSERT INTO incident (incident_id, driver_id, company_id, status, created_at_ms, call_id,
                client_request_id, doc) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                self.incident_id.to_string(),
                self.driver_id.to_string(),
                self.company_id.map(|id| id.to_string()),
                self.status.as_str(),
                self.created_at.ms(),
                self.call_id.map(|id| id.to_string()),
                client_request_id,
                doc
            ],
        )?;
        Ok(())
    }

    /// Writes it back.
    pub(super) fn save(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let doc = tx.text(self)?;
        tx.execute(
            "UPDATE incident SET vendor_id = ?2, status = ?3, doc = ?4 WHERE incident_id = ?1",
            params![
                self.incident_id.to_string(),
                self.vendor_id().map(|id| id.to_string()),
                self.status.as_str(),
                doc
            ],
        )?;
        Ok(())
    }
}

/// An incident's history, oldest first.
pub(super) fn timeline(tx: &Tx<'_>, incident_id: Id) -> Result<Vec<TimelineEntry>, Error> {
    tx.documents(
        "SELECT doc FROM timeline WHERE incident_id = ?1 ORDER BY seq",
        params![incident_id.to_string()],
    )
}

/// Adds a line; its `seq` is set here.
pub(super) fn add_to_timeline(
    tx: &mut Tx<'_>,
    incident_id: Id,
    mut entry: TimelineEntry,
) -> Result<(), Error> {
    let id = incident_id.to_string();
    let last: Option<Option<i64>> = tx.value(
        "SELECT max(seq) FROM timeline WHERE incident_id = ?1",
        params![id],
    )?;
    entry.seq = last.flatten().unwrap_or(0).unsigned_abs() + 1;
    let doc = tx.text(&entry)?;
    tx.execute(
        "INSERT INTO timeline (incident_id, seq, actor, doc) VALUES (?1, ?2, ?3, ?4)",
        params![id, entry.seq as i64, entry.actor.to_string(), doc],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DOMAIN 5.1's rows, written down once more and independently of `legal`.
    const TABLE: [(&str, &[&str]); 9] = [
        ("created", &["vendor_assigned", "cancelled"]),
        (
            "vendor_assigned",
            &["vendor_en_route", "created", "cancelled"],
        ),
        (
            "vendor_en_route",
            &["vendor_arrived", "created", "cancelled"],
        ),
        (
            "vendor_arrived",
            &["work_in_progress", "created", "cancelled"],
        ),
        ("work_in_progress", &["work_completed", "cancelled"]),
        ("work_completed", &["payment_pending"]),
        ("payment_pending", &["closed"]),
        ("closed", &[]),
        ("cancelled", &[]),
    ];

    #[test]
    fn all_81_pairs_follow_the_table() {
        let mut legal_pairs = 0;
        for (from, targets) in TABLE {
            let from: IncidentStatus = from.parse().expect("a status");
            for to in IncidentStatus::ALL {
                let wanted = targets.contains(&to.as_str());
                legal_pairs += usize::from(wanted);
                assert_eq!(legal(from, *to), wanted, "{from} to {to}");
            }
        }
        assert_eq!((TABLE.len(), legal_pairs), (IncidentStatus::ALL.len(), 15));
    }
}
