//! `roadcall.incident`: key incidentId, producer incident.

use super::events;
use crate::event::geo::{Place, Point};
use crate::event::lists::*;
use crate::event::personal::Personal;
use crate::event::types::*;

/// A position of work or material on a bill.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LineItem {
    /// What it is.
    pub description: Text<255>,
    /// How many.
    #[serde(default = "one")]
    pub quantity: Count1,
    /// Price of one, cents.
    pub unit_price_cents: Cents,
}

fn one() -> Count1 {
    Count1::new(1).expect("1 is in range")
}

events! {
    Source::Incident, incident_id = "incidentId";

    #[doc = "new incident committed"]
    IncidentCreated ["match" "telephony"] {
        incident_id: Id,
        driver_id: Id,
        #[serde(skip_serializing_if = "Option::is_none")] company_id: Option<Id>,
        #[serde(rename = "type")] incident_type: IncidentType,
        priority: Priority,
        location: Personal<Place>,
        area_location: Point,
        #[serde(skip_serializing_if = "Option::is_none")] phone: Option<Personal<E164>>,
        payer_type: Payer,
        origin: IncidentOrigin,
        #[serde(skip_serializing_if = "Option::is_none")] call_id: Option<Id>,
    }

    #[doc = "each transition"]
    IncidentStatusChanged ["notifications"] {
        incident_id: Id,
        driver_id: Id,
        #[serde(skip_serializing_if = "Option::is_none")] vendor_id: Option<Id>,
        #[serde(skip_serializing_if = "Option::is_none")] company_id: Option<Id>,
        previous_status: IncidentStatus,
        new_status: IncidentStatus,
        changed_by: Actor,
        #[serde(skip_serializing_if = "Option::is_none")] reason: Option<Code>,
        #[serde(skip_serializing_if = "Option::is_none")] note: Option<Personal<Text<500>>>,
    }

    #[doc = "vendor attached"]
    IncidentAssigned ["notifications" "tracking"] {
        incident_id: Id,
        driver_id: Id,
        vendor_id: Id,
        offer_id: Id,
        #[serde(skip_serializing_if = "Option::is_none")] company_id: Option<Id>,
        incident_type: IncidentType,
        location: Personal<Place>,
        eta_minutes: u64,
        arrival_due_at: Ts,
        cycle: Count1,
        assigned_by: Actor,
        assigned_at: Ts,
    }

    #[doc = "→ cancelled"]
    IncidentCancelled ["notifications" "match" "tracking"] {
        incident_id: Id,
        driver_id: Id,
        #[serde(skip_serializing_if = "Option::is_none")] vendor_id: Option<Id>,
        #[serde(skip_serializing_if = "Option::is_none")] company_id: Option<Id>,
        previous_status: IncidentStatus,
        reason: Code,
        #[serde(skip_serializing_if = "Option::is_none")] note: Option<Personal<Text<500>>>,
        cancelled_by: Actor,
        cancelled_at: Ts,
    }

    #[doc = "no vendor, or overdue"]
    IncidentEscalated ["notifications"] {
        incident_id: Id,
        driver_id: Id,
        #[serde(skip_serializing_if = "Option::is_none")] company_id: Option<Id>,
        reason: EscalationReason,
        attempts: u64,
        #[serde(skip_serializing_if = "Option::is_none")] final_radius_miles: Option<Miles>,
        cycle: Count1,
        escalated_to: Text<64>,
        escalated_at: Ts,
    }

    #[doc = "→ work_in_progress"]
    WorkStarted ["notifications"] {
        incident_id: Id,
        vendor_id: Id,
        driver_id: Id,
        incident_type: IncidentType,
        started_at: Ts,
    }

    #[doc = "→ work_completed"]
    WorkCompleted ["notifications" "payment-approval" "match" "vendor" "tracking"] {
        incident_id: Id,
        vendor_id: Id,
        driver_id: Id,
        #[serde(skip_serializing_if = "Option::is_none")] company_id: Option<Id>,
        incident_type: IncidentType,
        completed_at: Ts,
        duration_minutes: NonNegative,
        #[serde(skip_serializing_if = "Option::is_none")] distance_miles: Option<Miles>,
        payer_type: Payer,
        #[serde(skip_serializing_if = "Option::is_none")] line_items: Option<List<LineItem, 1, 50>>,
        #[serde(skip_serializing_if = "Option::is_none")] notes: Option<Personal<Text<2000>>>,
        #[serde(skip_serializing_if = "Option::is_none")] media_urls: Option<List<Text<512>, 0, 50>>,
    }

    #[doc = "vendor released, or matching restarted"]
    MatchRequested ["match" "tracking"] {
        incident_id: Id,
        driver_id: Id,
        #[serde(skip_serializing_if = "Option::is_none")] company_id: Option<Id>,
        #[serde(rename = "type")] incident_type: IncidentType,
        priority: Priority,
        location: Personal<Place>,
        cycle: Cycle2,
        reason: MatchRequestReason,
        #[serde(skip_serializing_if = "Option::is_none")] released_vendor_id: Option<Id>,
        #[serde(skip_serializing_if = "Option::is_none")] released_offer_id: Option<Id>,
        requested_at: Ts,
    }

    #[doc = "arrival timer fired"]
    VendorTimeout ["notifications"] {
        incident_id: Id,
        driver_id: Id,
        vendor_id: Id,
        timeout_type: TimeoutType,
        elapsed_minutes: NonNegative,
        due_at: Ts,
    }

    #[doc = "rating given"]
    IncidentRated ["vendor"] {
        incident_id: Id,
        driver_id: Id,
        vendor_id: Id,
        rated_by: RatedBy,
        stars: Stars,
        rated_at: Ts,
    }
}
