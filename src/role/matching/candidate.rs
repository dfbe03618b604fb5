//! What matching knows of a vendor: a copy kept up by his events, replaced only by a newer version or time (DOMAIN 5.3).

use serde::{Deserialize, Serialize};

use crate::event::{
    BackgroundCheckStatus, Capability, CoverageMiles, Date, Fix, Id, Known, List, OperatingHours,
    Point, Pricing, Ts, Tz, VendorStatus,
};
use crate::store::{Error, Tx, params};

/// A vendor as matching sees him.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the fields are DOMAIN 5.3's own
pub struct Candidate {
    pub vendor_id: Id,
    /// Absent while only other events of him have arrived.
    pub profile: Option<CandidateProfile>,
    pub status: VendorStatus,
    pub status_at: Option<Ts>,
    pub acceptance_rate: f64,
    pub rating_average: f64,
    pub metrics_version: u64,
    pub live: Option<Fix>,
}

/// The part of the profile that matching needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the fields are DOMAIN 3.3's own
pub struct CandidateProfile {
    pub capabilities: List<Capability, 1, 6>,
    pub location: Point,
    pub coverage_radius_miles: CoverageMiles,
    pub timezone: Tz,
    pub operating_hours: OperatingHours,
    pub pricing: Pricing,
    pub insurance_expiry: Date,
    pub background_check_status: BackgroundCheckStatus,
    pub profile_version: u64,
}

/// Copies the fields that VendorRegistered and VendorUpdated share.
macro_rules! profile_of {
    ($event:expr) => {
        CandidateProfile {
            capabilities: $event.capabilities.clone(),
            location: $event.location,
            coverage_radius_miles: $event.coverage_radius_miles,
            timezone: $event.timezone,
            operating_hours: $event.operating_hours.clone(),
            pricing: $event.pricing.clone(),
            insurance_expiry: $event.insurance_expiry,
            background_check_status: $event.background_check_status,
            profile_version: $event.profile_version.get(),
        }
    };
}

impl Candidate {
    fn new(vendor_id: Id) -> Self {
        Self {
            vendor_id,
            profile: None,
            status: VendorStatus::Available,
            status_at: None,
            acceptance_rate: 0.0,
            rating_average: 0.0,
            metrics_version: 0,
            live: None,
        }
    }

    pub(super) fn find(tx: &Tx<'_>, vendor_id: Id) -> Result<Option<Self>, Error> {
        tx.document(
            "SELECT doc FROM candidate WHERE vendor_id = ?1",
            params![vendor_id.to_string()],
        )
    }

    fn save(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let doc = tx.text(self)?;
        let centre = self.profile.as_ref().map(|profile| profile.location.lat);
        tx.execute(
            "INSERT INTO candidate (vendor_id, lat, live_lat, live_at_ms, doc) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (vendor_id) DO UPDATE SET lat = ?2, live_lat = ?3, live_at_ms = ?4, doc = ?5",
            params![
                self.vendor_id.to_string(),
                centre,
                self.live.as_ref().map(|fix| fix.lat),
                self.live.as_ref().map(|fix| fix.recorded_at.ms()),
                doc
            ],
        )?;
        Ok(())
    }

    /// Candidates whose centre or live position is within `radius_miles` of `place` by latitude; who passes is decided
    /// by the filters. Ordered by id.
    pub(super) fn near(tx: &Tx<'_>, place: Point, radius_miles: f64) -> Result<Vec<Self>, Error> {
        // One degree of latitude is 69.09 miles; a little wider than needed.
        let span = radius_miles / 69.0;
        tx.documents(
            "SELECT doc FROM candidate WHERE lat BETWEEN ?1 AND ?2 OR live_lat BETWEEN ?1 AND ?2 ORDER BY vendor_id",
            params![place.lat - span, place.lat + span],
        )
    }

    pub(super) fn remove(tx: &mut Tx<'_>, vendor_id: Id) -> Result<(), Error> {
        tx.execute(
            "DELETE FROM candidate WHERE vendor_id = ?1",
            params![vendor_id.to_string()],
        )?;
        Ok(())
    }
}

/// Takes over what a vendor event says, if it is newer. True when it was a vendor event.
pub(super) fn take_over(tx: &mut Tx<'_>, known: &Known) -> Result<bool, Error> {
    let vendor_id = match known {
        Known::VendorRegistered(event) => event.vendor_id,
        Known::VendorUpdated(event) => event.vendor_id,
        Known::VendorMetricsUpdated(event) => event.vendor_id,
        Known::VendorStatusChanged(event) => event.vendor_id,
        Known::VendorLocationUpdated(event) => event.vendor_id,
        _ => return Ok(false),
    };
    let mut candidate =
        Candidate::find(tx, vendor_id)?.unwrap_or_else(|| Candidate::new(vendor_id));
    let newer = |candidate: &Candidate, profile: &CandidateProfile| {
        candidate
            .profile
            .as_ref()
            .is_none_or(|old| old.profile_version < profile.profile_version)
    };
    match known {
        Known::VendorRegistered(event) => {
            let profile = profile_of!(event);
            if newer(&candidate, &profile) {
                candidate.profile = Some(profile);
            }
        }
        Known::VendorUpdated(event) => {
            let profile = profile_of!(event);
            if newer(&candidate, &profile) {
                candidate.profile = Some(profile);
            }
        }
        Known::VendorMetricsUpdated(event)
            if event.metrics_version.get() > candidate.metrics_version =>
        {
            candidate.acceptance_rate = event.acceptance_rate.get();
            candidate.rating_average = event.rating_average.get();
            candidate.metrics_version = event.metrics_version.get();
        }
        // Two changes within one millisecond come in the order of the stream, so an equal time is newer.
        Known::VendorStatusChanged(event)
            if candidate.status_at.is_none_or(|at| at <= event.changed_at) =>
        {
            candidate.status = event.new_status;
            candidate.status_at = Some(event.changed_at);
        }
        Known::VendorLocationUpdated(event)
            if candidate
                .live
                .as_ref()
                .is_none_or(|fix| fix.recorded_at < event.location.recorded_at) =>
        {
            candidate.live = Some(event.location.clone());
        }
        _ => return Ok(true),
    }
    candidate.save(tx)?;
    Ok(true)
}
