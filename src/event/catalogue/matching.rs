//! `roadcall.match`: key incidentId, producer match.

use super::events;
use crate::event::lists::*;
use crate::event::personal::Personal;
use crate::event::types::*;

events! {
    Source::Match, incident_id = "incidentId";

    #[doc = "offer stored"]
    OfferCreated ["notifications" "vendor"] {
        offer_id: Id,
        incident_id: Id,
        vendor_id: Id,
        #[serde(skip_serializing_if = "Option::is_none")] company_id: Option<Id>,
        incident_type: IncidentType,
        priority: Priority,
        match_score: Rate,
        estimated_payout_cents: Cents,
        distance_miles: Miles,
        radius_miles: Miles,
        attempt: Count1,
        cycle: Count1,
        round: Count1,
        expires_at: Ts,
    }

    #[doc = "vendor won, or dispatcher assigned"]
    OfferAccepted ["notifications" "vendor" "incident"] {
        offer_id: Id,
        incident_id: Id,
        vendor_id: Id,
        driver_id: Id,
        accepted_by: Actor,
        distance_miles: Miles,
        eta_minutes: u64,
        cycle: Count1,
        #[serde(skip_serializing_if = "Option::is_none")] response_seconds: Option<NonNegative>,
        accepted_at: Ts,
    }

    #[doc = "vendor said no"]
    OfferDeclined ["notifications" "vendor"] {
        offer_id: Id,
        incident_id: Id,
        vendor_id: Id,
        #[serde(skip_serializing_if = "Option::is_none")] reason: Option<Code>,
        #[serde(skip_serializing_if = "Option::is_none")] note: Option<Personal<Text<500>>>,
        response_seconds: NonNegative,
        declined_at: Ts,
    }

    #[doc = "offer's time passed"]
    OfferExpired ["notifications" "vendor"] {
        offer_id: Id,
        incident_id: Id,
        vendor_id: Id,
        expired_at: Ts,
    }

    #[doc = "offer withdrawn"]
    OfferCancelled ["notifications" "vendor"] {
        offer_id: Id,
        incident_id: Id,
        vendor_id: Id,
        previous_status: OfferPreviousStatus,
        reason: OfferCancelReason,
        cancelled_at: Ts,
    }

    #[doc = "no round left"]
    MatchExhausted ["incident"] {
        incident_id: Id,
        rounds: u64,
        final_radius_miles: Miles,
        cycle: Count1,
        reason: ExhaustReason,
    }
}
