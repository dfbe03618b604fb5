//! `roadcall.vendor`: key vendorId, producer vendor.

use std::collections::BTreeMap;

use super::events;
use crate::event::geo::{Fix, Point};
use crate::event::lists::*;
use crate::event::personal::Personal;
use crate::event::types::*;

/// Opening hours of one day: `open` inclusive, `close` exclusive, in the vendor's zone; `close` up to `24:00`, and
/// `close` at or before `open` spans midnight (DOMAIN 5.2).
#[derive(
    Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields)]
pub struct Hours {
    /// From, `HH:mm`.
    pub open: TimeOfDay,
    /// Until, `HH:mm`.
    pub close: TimeOfDay,
}

/// What a vendor asks for one kind of work.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Price {
    /// For coming, cents.
    pub base_price_cents: Cents,
    /// For each mile, cents.
    pub per_mile_cents: Cents,
}

/// Hours by day; a missing day is closed.
pub type OperatingHours = BTreeMap<Day, Hours>;
/// Prices by kind of work.
pub type Pricing = BTreeMap<Capability, Price>;

events! {
    Source::Vendor, vendor_id = "vendorId";

    #[doc = "profile created"]
    VendorRegistered ["match" "notifications" "payment-approval"] {
        vendor_id: Id,
        business_name: Text<200>,
        contact_name: Personal<Text<120>>,
        phone: Personal<E164>,
        #[serde(skip_serializing_if = "Option::is_none")] email: Option<Personal<Email>>,
        capabilities: List<Capability, 1, 6>,
        location: Point,
        coverage_radius_miles: CoverageMiles,
        timezone: Tz,
        operating_hours: OperatingHours,
        pricing: Pricing,
        insurance_expiry: Date,
        background_check_status: BackgroundCheckStatus,
        #[serde(skip_serializing_if = "Option::is_none")] payout_account_ref: Option<Text<128>>,
        profile_version: Count1,
        registered_at: Ts,
    }

    #[doc = "profile or verification changed"]
    VendorUpdated ["match" "notifications" "payment-approval"] {
        vendor_id: Id,
        business_name: Text<200>,
        contact_name: Personal<Text<120>>,
        phone: Personal<E164>,
        #[serde(skip_serializing_if = "Option::is_none")] email: Option<Personal<Email>>,
        capabilities: List<Capability, 1, 6>,
        location: Point,
        coverage_radius_miles: CoverageMiles,
        timezone: Tz,
        operating_hours: OperatingHours,
        pricing: Pricing,
        insurance_expiry: Date,
        background_check_status: BackgroundCheckStatus,
        #[serde(skip_serializing_if = "Option::is_none")] payout_account_ref: Option<Text<128>>,
        profile_version: Count1,
        registered_at: Ts,
        changed_fields: List<Text<64>, 1, 64>,
    }

    #[doc = "rating or metrics changed"]
    VendorMetricsUpdated ["match"] {
        vendor_id: Id,
        rating_average: RatingAverage,
        rating_count: u64,
        acceptance_rate: Rate,
        avg_response_seconds: NonNegative,
        completion_rate: Rate,
        total_jobs: u64,
        metrics_version: Count1,
    }

    #[doc = "availability changed"]
    VendorStatusChanged ["match" "notifications"] {
        vendor_id: Id,
        previous_status: VendorStatus,
        new_status: VendorStatus,
        #[serde(skip_serializing_if = "Option::is_none")] incident_id: Option<Id>,
        reason: VendorStatusReason,
        changed_at: Ts,
    }

    #[doc = "position reported between jobs"]
    VendorLocationUpdated ["match"] {
        vendor_id: Id,
        location: Fix,
        #[serde(skip_serializing_if = "Option::is_none")] incident_id: Option<Id>,
    }
}
