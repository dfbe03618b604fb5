//! Match cases, offers and claims, their state tables, and how they are stored (DOMAIN 5.3).

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scoring::{Breakdown, Filter};
use crate::event::{Id, IncidentType, Personal, Place, Point, Priority, Ts};
use crate::store::{Error, Tx, params};

pub(super) const MIGRATIONS: &[&str] = &["
CREATE TABLE match_case (incident_id TEXT PRIMARY KEY, driver_id TEXT, doc TEXT NOT NULL);
CREATE TABLE offer (
    offer_id TEXT PRIMARY KEY,
    incident_id TEXT NOT NULL,
    vendor_id TEXT NOT NULL,
    status TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    doc TEXT NOT NULL,
    UNIQUE (incident_id, attempt, vendor_id)
);
CREATE INDEX offer_vendor ON offer (vendor_id, status);
CREATE INDEX offer_newest ON offer (created_at_ms DESC, offer_id DESC);
-- From acceptance until release or completed work: one per incident and one per vendor, whatever happens.
CREATE TABLE claim (incident_id TEXT PRIMARY KEY, vendor_id TEXT NOT NULL UNIQUE, offer_id TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE candidate (vendor_id TEXT PRIMARY KEY, lat REAL, live_lat REAL, live_at_ms INTEGER, doc TEXT NOT NULL);
CREATE INDEX candidate_lat ON candidate (lat);
CREATE INDEX candidate_live ON candidate (live_lat);
CREATE TABLE setting (config_key TEXT PRIMARY KEY, version INTEGER NOT NULL, doc TEXT NOT NULL) WITHOUT ROWID;
"];

/// Where a case stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the names are DOMAIN 5.3's own
pub enum CaseStatus {
    Matching,
    Assigned,
    Exhausted,
    Done,
    Cancelled,
}

/// The state table of a case; `None` is "no case yet".
#[must_use]
pub fn case_legal(from: Option<CaseStatus>, to: CaseStatus) -> bool {
    use CaseStatus as C;
    matches!(
        (from, to),
        (None, C::Matching | C::Exhausted | C::Cancelled)
            | (Some(C::Assigned | C::Exhausted | C::Matching), C::Matching)
            | (Some(C::Matching | C::Exhausted), C::Assigned)
            | (Some(C::Assigned), C::Done)
            | (
                Some(C::Matching | C::Assigned | C::Exhausted),
                C::Exhausted | C::Cancelled
            )
    )
}

/// Where an offer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the names are DOMAIN 5.3's own
pub enum OfferStatus {
    Pending,
    Accepted,
    Declined,
    Expired,
    Cancelled,
}

impl OfferStatus {
    /// The word in listings and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Accepted => "accepted",
            Self::Declined => "declined",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The state table of an offer.
#[must_use]
pub fn offer_legal(from: OfferStatus, to: OfferStatus) -> bool {
    use OfferStatus as O;
    matches!(
        (from, to),
        (
            O::Pending,
            O::Accepted | O::Declined | O::Expired | O::Cancelled
        ) | (O::Accepted, O::Cancelled)
    )
}

/// How many candidates each filter refused in one round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the names say it
pub struct Rejections {
    pub cycle: u64,
    pub round: u64,
    pub by_filter: BTreeMap<Filter, u64>,
}

/// The search for a vendor for one incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the fields are DOMAIN 5.3's own
pub struct MatchCase {
    pub incident_id: Id,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_id: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub company_id: Option<Id>,
    #[serde(rename = "type")]
    pub incident_type: IncidentType,
    pub priority: Priority,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Personal<Place>>,
    pub cycle: u64,
    pub round: u64,
    pub attempt: u64,
    pub status: CaseStatus,
    pub excluded_vendor_ids: BTreeSet<Id>,
    pub rejections: Vec<Rejections>,
    pub version: u64,
}

impl MatchCase {
    /// Where the incident is; `None` when that is forgotten, or the driver erased.
    pub(super) fn place(&self, tx: &Tx<'_>) -> Result<Option<Point>, Error> {
        let place = self.location.as_ref().map(|place| tx.reveal(place));
        Ok(place.transpose()?.flatten().map(|place| place.point()))
    }

    pub(super) fn find(tx: &Tx<'_>, incident_id: Id) -> Result<Option<Self>, Error> {
        tx.document(
            "SELECT doc FROM match_case WHERE incident_id = ?1",
            params![incident_id.to_string()],
        )
    }

    pub(super) fn save(&mut self, tx: &mut Tx<'_>) -> Result<(), Error> {
        self.version += 1;
        let doc = tx.text(self)?;
        tx.execute(
            "INSERT INTO match_case (incident_id, driver_id, doc) VALUES (?1, ?2, ?3)
             ON CONFLICT (incident_id) DO UPDATE SET doc = ?3",
            params![
                self.incident_id.to_string(),
                self.driver_id.map(|id| id.to_string()),
                doc
            ],
        )?;
        Ok(())
    }
}

/// A job offered to one vendor; kept after its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the fields are DOMAIN 5.3's own
pub struct Offer {
    pub offer_id: Id,
    pub incident_id: Id,
    pub vendor_id: Id,
    pub cycle: u64,
    pub round: u64,
    pub attempt: u64,
    pub status: OfferStatus,
    pub manual: bool,
    pub match_score: f64,
    pub score_breakdown: Breakdown,
    pub distance_miles: f64,
    pub estimated_payout_cents: u64,
    pub created_at: Ts,
    pub expires_at: Ts,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub responded_at: Option<Ts>,
}

impl Offer {
    pub(super) fn find(tx: &Tx<'_>, offer_id: Id) -> Result<Option<Self>, Error> {
        tx.document(
            "SELECT doc FROM offer WHERE offer_id = ?1",
            params![offer_id.to_string()],
        )
    }

    pub(super) fn save(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let doc = tx.text(self)?;
        tx.execute(
            "INSERT INTO offer (offer_id, incident_id, vendor_id, status, attempt, created_at_ms, doc)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (offer_id) DO UPDATE SET status = ?4, doc = ?7",
            params![
                self.offer_id.to_string(),
                self.incident_id.to_string(),
                self.vendor_id.to_string(),
                self.status.as_str(),
                self.attempt as i64,
                self.created_at.ms(),
                doc
            ],
        )?;
        Ok(())
    }

    /// Offers of an incident with this status, in order of making.
    pub(super) fn of_incident(
        tx: &Tx<'_>,
        incident_id: Id,
        status: OfferStatus,
    ) -> Result<Vec<Self>, Error> {
        tx.documents(
            "SELECT doc FROM offer WHERE incident_id = ?1 AND status = ?2 ORDER BY attempt, offer_id",
            params![incident_id.to_string(), status.as_str()],
        )
    }

    /// A vendor's pending offers, in order of making.
    pub(super) fn pending_of_vendor(tx: &Tx<'_>, vendor_id: Id) -> Result<Vec<Self>, Error> {
        tx.documents(
            "SELECT doc FROM offer WHERE vendor_id = ?1 AND status = 'pending' ORDER BY created_at_ms, offer_id",
            params![vendor_id.to_string()],
        )
    }
}

/// Vendors that were asked for an incident before.
pub(super) fn asked(tx: &Tx<'_>, incident_id: Id) -> Result<BTreeSet<Id>, Error> {
    let offers: Vec<Offer> = tx.documents(
        "SELECT doc FROM offer WHERE incident_id = ?1",
        params![incident_id.to_string()],
    )?;
    Ok(offers.into_iter().map(|offer| offer.vendor_id).collect())
}

/// Who holds a claim on an incident, and by which offer.
pub(super) fn claim_of_incident(tx: &Tx<'_>, incident_id: Id) -> Result<Option<Id>, Error> {
    let text: Option<String> = tx.value(
        "SELECT offer_id FROM claim WHERE incident_id = ?1",
        params![incident_id.to_string()],
    )?;
    Ok(text.and_then(|text| Id::parse(&text).ok()))
}

/// Whether a vendor holds a claim.
pub(super) fn is_claimed(tx: &Tx<'_>, vendor_id: Id) -> Result<bool, Error> {
    let found: Option<i64> = tx.value(
        "SELECT 1 FROM claim WHERE vendor_id = ?1",
        params![vendor_id.to_string()],
    )?;
    Ok(found.is_some())
}

/// Takes incident and vendor. The table's keys refuse a second claim on either.
pub(super) fn claim(tx: &mut Tx<'_>, offer: &Offer) -> Result<(), Error> {
    tx.execute(
        "INSERT INTO claim (incident_id, vendor_id, offer_id) VALUES (?1, ?2, ?3)",
        params![
            offer.incident_id.to_string(),
            offer.vendor_id.to_string(),
            offer.offer_id.to_string()
        ],
    )?;
    Ok(())
}

/// Lets incident and vendor go.
pub(super) fn release_claim(tx: &mut Tx<'_>, incident_id: Id) -> Result<(), Error> {
    tx.execute(
        "DELETE FROM claim WHERE incident_id = ?1",
        params![incident_id.to_string()],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_pairs_of_offers_follow_the_table() {
        use OfferStatus as O;
        let all = [
            O::Pending,
            O::Accepted,
            O::Declined,
            O::Expired,
            O::Cancelled,
        ];
        let pairs = all
            .iter()
            .flat_map(|from| all.iter().map(move |to| (*from, *to)));
        assert_eq!(
            pairs.filter(|(from, to)| offer_legal(*from, *to)).count(),
            5
        );
        assert!(!offer_legal(O::Expired, O::Accepted) && !offer_legal(O::Accepted, O::Declined));
    }

    #[test]
    fn cancelled_and_done_cases_are_final() {
        use CaseStatus as C;
        for to in [
            C::Matching,
            C::Assigned,
            C::Exhausted,
            C::Done,
            C::Cancelled,
        ] {
            assert!(!case_legal(Some(C::Cancelled), to) && !case_legal(Some(C::Done), to));
        }
        assert!(case_legal(Some(C::Matching), C::Matching) && !case_legal(None, C::Assigned));
    }
}
