//! What the key figures are made of: one tally per group, fed fact by fact (DOMAIN 5.7).

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::fact::{Incident, Offer, Payment};
use crate::event::Priority;
use crate::role::matching::settings::Tiers;

const MINUTE_MS: i64 = 60_000;

/// One key figure: never a constant, `null` where nothing was measured.
#[derive(Debug, Clone, PartialEq, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Figure {
    pub(super) value: Value,
    /// 95th percentile, nearest rank; of spans only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) p95: Option<Value>,
    /// How many measurements it is made of.
    pub(super) samples: usize,
    /// Of `timeToAssignSeconds`: incidents that are neither assigned yet nor over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) open: Option<usize>,
}

impl Figure {
    fn new(value: Option<Value>, samples: usize) -> Self {
        Self {
            value: value.unwrap_or_default(),
            p95: None,
            samples,
            open: None,
        }
    }

    /// `part` of `whole`, to the sixth digit.
    pub(super) fn share(part: usize, whole: usize) -> Self {
        let share = (whole > 0).then(|| rounded(part as f64 / whole as f64));
        Self::new(share, whole)
    }

    pub(super) fn percent(part: f64, whole: f64, samples: usize) -> Self {
        let percent = (whole > 0.0).then(|| rounded(100.0 * part / whole));
        Self::new(percent, samples)
    }

    fn mean(values: &[f64]) -> Self {
        let mean =
            (!values.is_empty()).then(|| rounded(values.iter().sum::<f64>() / values.len() as f64));
        Self::new(mean, values.len())
    }

    /// Mean and 95th percentile of spans; seconds rounded down.
    fn spans(mut spans_ms: Vec<i64>) -> Self {
        spans_ms.sort_unstable();
        let samples = spans_ms.len();
        let p95 = (samples * 95).div_ceil(100).checked_sub(1);
        let p95 = p95.and_then(|rank| spans_ms.get(rank));
        Self {
            p95: Some(p95.map_or(Value::Null, |ms| (ms / 1000).into())),
            ..Self::new(whole_mean(&spans_ms).map(|ms| (ms / 1000).into()), samples)
        }
    }
}

fn rounded(value: f64) -> Value {
    ((value * 1e6).round() / 1e6).into()
}

/// The mean of whole numbers, rounded down.
fn whole_mean(values: &[i64]) -> Option<i64> {
    let count = i128::try_from(values.len())
        .ok()
        .filter(|count| *count > 0)?;
    let sum: i128 = values.iter().map(|value| i128::from(*value)).sum();
    i64::try_from(sum.div_euclid(count)).ok()
}

/// What was counted in one group.
#[derive(Debug, Default)]
pub(super) struct Tally {
    all: usize,
    open: usize,
    closed: usize,
    closed_at_first: usize,
    assigned_ms: Vec<i64>,
    arrived_ms: Vec<i64>,
    sla_met: usize,
    sla_judged: usize,
    driver_stars: Vec<f64>,
    stars_by_vendor: BTreeMap<String, Vec<f64>>,
    accepted: usize,
    answered: usize,
    approved_ms: Vec<i64>,
    completed_cents: Vec<i64>,
    revenue_cents: i64,
    paid_vendors: BTreeSet<String>,
}

impl Tally {
    /// Counts an incident; `tiers` and the time now say whether it kept what its priority was promised.
    pub(super) fn incident(&mut self, fact: &Incident, tiers: &Tiers, now_ms: i64) {
        self.all += 1;
        let status = fact.status.as_deref().unwrap_or_default();
        if status == "closed" {
            self.closed += 1;
            if fact.assignments == 1 && !fact.escalated {
                self.closed_at_first += 1;
            }
        }
        match fact.assigned_after_ms {
            Some(ms) => self.assigned_ms.push(ms.max(0)),
            None if fact.assignments == 0 && !matches!(status, "closed" | "cancelled") => {
                self.open += 1;
            }
            None => {}
        }
        self.arrived_ms.extend(fact.arrival_ms);
        if let Some(kept) = kept_promise(fact, tiers, now_ms) {
            self.sla_judged += 1;
            self.sla_met += usize::from(kept);
        }
        if let Some(stars) = fact.driver_stars {
            self.driver_stars.push(stars as f64);
            if let Some(vendor) = &fact.vendor_id {
                let stars_of = self.stars_by_vendor.entry(vendor.clone()).or_default();
                stars_of.push(stars as f64);
            }
        }
    }

    /// Counts an offer; a dispatcher's assignment is no answer of the vendor's.
    pub(super) fn offer(&mut self, fact: &Offer) {
        match fact.status.as_deref() {
            Some("accepted") => {
                self.accepted += 1;
                self.answered += 1;
            }
            Some("declined" | "expired") => self.answered += 1,
            _ => {}
        }
    }

    /// Counts a payment.
    pub(super) fn payment(&mut self, fact: &Payment) {
        self.approved_ms.extend(fact.approved_after_ms());
        if fact.completed_at.is_some() {
            self.completed_cents.push(fact.amount_cents);
            self.paid_vendors.insert(fact.vendor_id.clone());
            if !fact.was("refunded") {
                self.revenue_cents += fact.amount_cents;
            }
        }
    }

    /// Completed payments, less refunded ones.
    pub(super) fn revenue_cents(&self) -> i64 {
        self.revenue_cents
    }

    /// What it came to, by name.
    pub(super) fn figures(self) -> BTreeMap<&'static str, Figure> {
        let vendors = self.paid_vendors.len();
        let per_vendor = i64::try_from(vendors)
            .ok()
            .and_then(|vendors| self.revenue_cents.checked_div(vendors));
        let vendor_means: Vec<f64> = self
            .stars_by_vendor
            .values()
            .map(|stars| stars.iter().sum::<f64>() / stars.len() as f64)
            .collect();
        let cost = whole_mean(&self.completed_cents).map(Value::from);
        BTreeMap::from([
            (
                "timeToAssignSeconds",
                Figure {
                    open: Some(self.open),
                    ..Figure::spans(self.assigned_ms)
                },
            ),
            ("timeToArrivalSeconds", Figure::spans(self.arrived_ms)),
            (
                "firstAttemptResolutionRate",
                Figure::share(self.closed_at_first, self.closed),
            ),
            (
                "incidentResolutionRate",
                Figure::share(self.closed, self.all),
            ),
            (
                "vendorAcceptanceRate",
                Figure::share(self.accepted, self.answered),
            ),
            (
                "paymentApprovalTimeSeconds",
                Figure {
                    p95: None,
                    ..Figure::spans(self.approved_ms)
                },
            ),
            (
                "costPerIncidentCents",
                Figure::new(cost, self.completed_cents.len()),
            ),
            (
                "revenuePerVendorCents",
                Figure::new(per_vendor.map(Value::from), vendors),
            ),
            ("driverSatisfaction", Figure::mean(&self.driver_stars)),
            ("vendorRating", Figure::mean(&vendor_means)),
            (
                "slaAttainment",
                Figure::share(self.sla_met, self.sla_judged),
            ),
        ])
    }
}

/// Whether an incident was assigned and reached in the minutes of its priority's tier. `None` while that is still to be
/// seen, where the priority is unknown, and where it was called off in time.
fn kept_promise(fact: &Incident, tiers: &Tiers, now_ms: i64) -> Option<bool> {
    let priority: Priority = fact.priority.as_deref()?.parse().ok()?;
    let created_ms = fact.created_at?.ms();
    let tier = tiers
        .tiers
        .iter()
        .find(|tier| tier.priorities.contains(&priority))?;
    let minutes_ms = |minutes: u64| {
        i64::try_from(minutes)
            .unwrap_or(i64::MAX)
            .saturating_mul(MINUTE_MS)
    };
    // How long it has been, for what has not happened: until now, or until it ended.
    let ended = ["closed", "cancelled"]
        .iter()
        .find_map(|status| fact.times.get(*status));
    let so_far_ms = ended.map_or(now_ms, |at| at.ms()) - created_ms;
    let in_time = |after_ms: Option<i64>, minutes: u64| match after_ms {
        Some(ms) => Some(ms <= minutes_ms(minutes)),
        None => (so_far_ms > minutes_ms(minutes)).then_some(false),
    };
    let assigned = in_time(fact.assigned_after_ms, tier.response_minutes);
    let arrived = in_time(fact.arrived_after_ms, tier.arrival_minutes);
    match (assigned, arrived) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}
