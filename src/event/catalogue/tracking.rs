//! `roadcall.tracking`: key incidentId, producer tracking.

use super::events;
use crate::event::geo::{Fix, Point};
use crate::event::lists::*;
use crate::event::personal::Personal;
use crate::event::types::*;

/// When a vendor is expected.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Eta {
    /// Minutes to go, rounded up.
    pub minutes: u64,
    /// Miles to go.
    pub distance_miles: Miles,
    /// How far it can be trusted.
    pub confidence: Rate,
    /// When it was worked out.
    pub calculated_at: Ts,
}

events! {
    Source::Tracking, incident_id = "incidentId";

    #[doc = "session opened"]
    TrackingStarted [] {
        session_id: Id,
        incident_id: Id,
        driver_id: Id,
        vendor_id: Id,
        driver_location: Personal<Point>,
        #[serde(skip_serializing_if = "Option::is_none")] vendor_location: Option<Point>,
        started_at: Ts,
    }

    #[doc = "fix accepted"]
    TrackingUpdated [] {
        session_id: Id,
        incident_id: Id,
        vendor_id: Id,
        location: Fix,
        eta: Eta,
    }

    #[doc = "session ended"]
    TrackingStopped [] {
        session_id: Id,
        incident_id: Id,
        vendor_id: Id,
        reason: TrackingStopReason,
        stopped_at: Ts,
    }

    #[doc = "first fix within 100 m"]
    VendorArrived ["notifications" "incident"] {
        vendor_id: Id,
        incident_id: Id,
        driver_id: Id,
        session_id: Id,
        arrived_at: Ts,
        location: Personal<Point>,
        distance_meters: ArrivalMeters,
    }
}
