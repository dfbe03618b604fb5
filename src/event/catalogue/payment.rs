//! `roadcall.payment`: key incidentId, producer payments.

use super::events;
use crate::event::lists::*;
use crate::event::personal::Personal;
use crate::event::types::*;

events! {
    Source::Payment, incident_id = "incidentId";

    #[doc = "record stored and scored"]
    PaymentCreated ["notifications" "incident"] {
        payment_id: Id,
        incident_id: Id,
        vendor_id: Id,
        driver_id: Id,
        #[serde(skip_serializing_if = "Option::is_none")] company_id: Option<Id>,
        amount_cents: Cents,
        #[serde(default)] currency: Currency,
        payer_type: Payer,
        status: NewPaymentStatus,
        fraud_score: Rate,
        fraud_status: FraudStatus,
        created_at: Ts,
    }

    #[doc = "score at or over 0.7"]
    PaymentFlagged ["notifications"] {
        payment_id: Id,
        incident_id: Id,
        vendor_id: Id,
        #[serde(skip_serializing_if = "Option::is_none")] company_id: Option<Id>,
        amount_cents: Cents,
        #[serde(default)] currency: Currency,
        fraud_score: Rate,
        reasons: List<Code, 1, 64>,
        flagged_at: Ts,
    }

    #[doc = "back office said yes"]
    PaymentApproved ["notifications"] {
        payment_id: Id,
        incident_id: Id,
        vendor_id: Id,
        amount_cents: Cents,
        #[serde(default)] currency: Currency,
        approved_by: Actor,
        #[serde(skip_serializing_if = "Option::is_none")] reviewed_by: Option<Actor>,
        approved_at: Ts,
    }

    #[doc = "back office said no"]
    PaymentRejected ["notifications"] {
        payment_id: Id,
        incident_id: Id,
        vendor_id: Id,
        amount_cents: Cents,
        #[serde(default)] currency: Currency,
        rejected_by: Actor,
        reason: Code,
        #[serde(skip_serializing_if = "Option::is_none")] note: Option<Personal<Text<500>>>,
        rejected_at: Ts,
    }

    #[doc = "card holder must confirm"]
    PaymentRequiresAction ["notifications"] {
        payment_id: Id,
        incident_id: Id,
        driver_id: Id,
        action: PaymentAction,
        requested_at: Ts,
    }

    #[doc = "money moved"]
    PaymentCompleted ["notifications" "incident"] {
        payment_id: Id,
        incident_id: Id,
        vendor_id: Id,
        driver_id: Id,
        amount_cents: Cents,
        #[serde(default)] currency: Currency,
        attempt: PaymentAttempt,
        provider_reference: Text<128>,
        completed_at: Ts,
    }

    #[doc = "provider said no"]
    PaymentFailed ["notifications"] {
        payment_id: Id,
        incident_id: Id,
        vendor_id: Id,
        #[serde(skip_serializing_if = "Option::is_none")] company_id: Option<Id>,
        amount_cents: Cents,
        #[serde(default)] currency: Currency,
        reason: Code,
        attempt: PaymentAttempt,
        r#final: bool,
        failed_at: Ts,
    }

    #[doc = "money returned"]
    PaymentRefunded ["notifications"] {
        payment_id: Id,
        incident_id: Id,
        vendor_id: Id,
        amount_cents: Cents,
        #[serde(default)] currency: Currency,
        reason: Code,
        refunded_by: Actor,
        provider_reference: Text<128>,
        refunded_at: Ts,
    }
}
