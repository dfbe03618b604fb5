//! `roadcall.telephony`: key callId, producer telephony.

use super::events;
use crate::event::geo::Place;
use crate::event::lists::*;
use crate::event::personal::Personal;
use crate::event::types::*;

events! {
    Source::Telephony, call_id = "callId";

    #[doc = "call began"]
    CallStarted [] {
        call_id: Id,
        phone: Personal<E164>,
        #[serde(skip_serializing_if = "Option::is_none")] driver_id: Option<Id>,
        direction: CallDirection,
        started_at: Ts,
    }

    #[doc = "call over"]
    CallEnded ["incident"] {
        call_id: Id,
        phone: Personal<E164>,
        #[serde(skip_serializing_if = "Option::is_none")] driver_id: Option<Id>,
        #[serde(skip_serializing_if = "Option::is_none")] incident_id: Option<Id>,
        duration_seconds: u64,
        #[serde(skip_serializing_if = "Option::is_none")] recording_ref: Option<Text<256>>,
        disposition: Disposition,
        ended_at: Ts,
    }

    #[doc = "redacted transcript stored"]
    TranscriptReady ["notifications" "telephony"] {
        call_id: Id,
        #[serde(skip_serializing_if = "Option::is_none")] incident_id: Option<Id>,
        transcript_id: Id,
        confidence: Rate,
        #[serde(rename = "hasPII")] has_pii: bool,
    }

    #[doc = "summary stored"]
    CallSummaryGenerated ["notifications" "incident"] {
        call_id: Id,
        #[serde(skip_serializing_if = "Option::is_none")] incident_id: Option<Id>,
        #[serde(skip_serializing_if = "Option::is_none")] company_id: Option<Id>,
        transcript_id: Id,
        summary_id: Id,
        urgency: Urgency,
        #[serde(skip_serializing_if = "Option::is_none")] incident_type: Option<IncidentType>,
        action_items: List<Text<200>, 0, 10>,
        generated_at: Ts,
    }

    #[doc = "intake complete"]
    IncidentRequested ["incident"] {
        call_id: Id,
        driver_id: Id,
        #[serde(skip_serializing_if = "Option::is_none")] company_id: Option<Id>,
        #[serde(rename = "type")] incident_type: IncidentType,
        priority: Priority,
        location: Personal<Place>,
        phone: Personal<E164>,
        #[serde(skip_serializing_if = "Option::is_none")] description: Option<Personal<Text<1000>>>,
        payer_type: Payer,
        requested_by: Actor,
        requested_at: Ts,
    }

    #[doc = "call over, intake incomplete"]
    CallAttentionNeeded ["notifications"] {
        call_id: Id,
        #[serde(skip_serializing_if = "Option::is_none")] driver_id: Option<Id>,
        #[serde(skip_serializing_if = "Option::is_none")] company_id: Option<Id>,
        phone: Personal<E164>,
        missing: List<IntakeField, 1, 3>,
        since: Ts,
    }

    #[doc = "masked data was shown to a person"]
    PiiAccessed [] {
        call_id: Id,
        transcript_id: Id,
        access_log_id: Id,
        accessed_by: Actor,
        role: RevealRole,
        purpose: Purpose,
        entity_types: List<Code, 0, 64>,
        accessed_at: Ts,
    }
}
