//! Who may be asked, and in which order: the hard filters, the score, price and arrival of DOMAIN 5.3, all pure.

use chrono::{Datelike, Timelike};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::candidate::Candidate;
use super::settings::{Matching, Settings};
use crate::event::{
    BackgroundCheckStatus, Capability, Day, IncidentType, OperatingHours, Point, Priority, Ts,
    VendorStatus,
};

/// A live position counts for so long.
const LIVE_MS: i64 = 15 * 60 * 1000;
/// Speed for arrival estimates, miles per hour.
const SPEED_MPH: f64 = 45.0;

/// A hard filter, in the order they are asked.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the names are DOMAIN 5.3's own, 1 to 8
pub enum Filter {
    Capability,
    Availability,
    BackgroundCheck,
    Insurance,
    OperatingHours,
    Coverage,
    Radius,
    Excluded,
}

/// One number per factor of the score.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the factors are DOMAIN 5.3's own
pub struct Breakdown {
    pub distance: f64,
    pub capability: f64,
    pub availability: f64,
    pub acceptance_rate: f64,
    pub rating: f64,
}

impl Breakdown {
    /// The sum, from 0 to 1.
    #[must_use]
    pub fn score(&self) -> f64 {
        let sum = self.distance
            + self.capability
            + self.availability
            + self.acceptance_rate
            + self.rating;
        sum.clamp(0.0, 1.0)
    }
}

/// The score of a vendor `miles` away.
#[must_use]
pub fn score(
    matching: &Matching,
    miles: f64,
    capable: bool,
    available: bool,
    acceptance_rate: f64,
    rating: f64,
) -> Breakdown {
    let weights = matching.weights;
    let one = |yes: bool| if yes { 1.0 } else { 0.0 };
    Breakdown {
        distance: weights.distance * (1.0 - miles / matching.distance_scale_miles).max(0.0),
        capability: weights.capability * one(capable),
        availability: weights.availability * one(available),
        acceptance_rate: weights.acceptance_rate * acceptance_rate,
        rating: weights.rating * rating / 5.0,
    }
}

/// What can do a type of work, the better one first.
#[must_use]
pub fn capabilities(incident_type: IncidentType) -> &'static [Capability] {
    match incident_type {
        IncidentType::Tire => &[Capability::TireRepair, Capability::TireReplacement],
        IncidentType::Engine => &[Capability::EngineRepair],
        IncidentType::Tow => &[Capability::Towing],
    }
}

/// How far a candidate is from a place, miles: from his live position if it is fresh, else from his centre.
#[must_use]
pub fn distance_miles(candidate: &Candidate, place: Point, now: Ts) -> f64 {
    let live = candidate
        .live
        .as_ref()
        .filter(|fix| now.ms() - fix.recorded_at.ms() < LIVE_MS);
    let from = live
        .map(crate::event::Fix::point)
        .or(candidate.profile.as_ref().map(|profile| profile.location));
    from.map_or(f64::INFINITY, |from| from.distance_miles(&place))
}

/// Filters 2 to 4: available and unclaimed, approved, insured.
///
/// # Errors
/// The first filter that says no.
pub fn may_work(candidate: &Candidate, claimed: bool, now: Ts) -> Result<(), Filter> {
    let Some(profile) = &candidate.profile else {
        return Err(Filter::Capability);
    };
    if candidate.status != VendorStatus::Available || claimed {
        return Err(Filter::Availability);
    }
    if profile.background_check_status != BackgroundCheckStatus::Approved {
        return Err(Filter::BackgroundCheck);
    }
    let today = now
        .datetime()
        .with_timezone(&profile.timezone.0)
        .date_naive();
    if today > profile.insurance_expiry.0 {
        return Err(Filter::Insurance);
    }
    Ok(())
}

/// What a round asks of a candidate.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// What broke.
    pub incident_type: IncidentType,
    /// Where.
    pub place: Point,
    /// The round's radius, miles.
    pub radius_miles: f64,
    /// When.
    pub now: Ts,
}

/// All eight hard filters, in DOMAIN's order; gives the distance in miles of a candidate who passes.
///
/// # Errors
/// The first filter that says no.
pub fn passes(
    candidate: &Candidate,
    wanted: Wanted,
    claimed: bool,
    excluded: bool,
) -> Result<f64, Filter> {
    let Some(profile) = &candidate.profile else {
        return Err(Filter::Capability);
    };
    if !capabilities(wanted.incident_type)
        .iter()
        .any(|capability| profile.capabilities.get().contains(capability))
    {
        return Err(Filter::Capability);
    }
    may_work(candidate, claimed, wanted.now)?;
    if !is_open(&profile.operating_hours, profile.timezone.0, wanted.now) {
        return Err(Filter::OperatingHours);
    }
    if profile.location.distance_miles(&wanted.place) > profile.coverage_radius_miles.get() {
        return Err(Filter::Coverage);
    }
    let miles = distance_miles(candidate, wanted.place, wanted.now);
    if miles > wanted.radius_miles {
        return Err(Filter::Radius);
    }
    if excluded {
        Err(Filter::Excluded)
    } else {
        Ok(miles)
    }
}

/// Whether a business is open: `open` inclusive, `close` exclusive, in its own zone; hours that close at or before they
/// open go on past midnight (DOMAIN 5.2).
#[must_use]
pub fn is_open(hours: &OperatingHours, zone: chrono_tz::Tz, now: Ts) -> bool {
    let local = now.datetime().with_timezone(&zone);
    let minute = local.hour() * 60 + local.minute();
    let day =
        |back: u32| Day::ALL[((local.weekday().num_days_from_monday() + 7 - back) % 7) as usize];
    let today = hours.get(&day(0)).is_some_and(|hours| {
        let (open, close) = (hours.open.minutes(), hours.close.minutes());
        minute >= open && (minute < close || close <= open)
    });
    let since_yesterday = hours.get(&day(1)).is_some_and(|hours| {
        let (open, close) = (hours.open.minutes(), hours.close.minutes());
        close <= open && minute < close
    });
    today || since_yesterday
}

/// What a vendor would be paid, cents: round half up((base + miles x per mile) x multiplier). His own price for the
/// work, else the configured one.
#[must_use]
pub fn payout_cents(
    settings: &Settings,
    candidate: &Candidate,
    incident_type: IncidentType,
    priority: Priority,
    miles: f64,
) -> u64 {
    let own = candidate.profile.as_ref().and_then(|profile| {
        capabilities(incident_type)
            .iter()
            .find_map(|capability| profile.pricing.get(capability))
    });
    let (base, per_mile) = match own {
        Some(price) => (price.base_price_cents.get(), price.per_mile_cents.get()),
        None => {
            let pricing = &settings.pricing;
            (
                pricing
                    .base_price_cents
                    .get(&incident_type)
                    .copied()
                    .unwrap_or(0),
                pricing.per_mile_cents,
            )
        }
    };
    let amount = (base as f64 + miles * per_mile as f64) * settings.tiers.multiplier(priority);
    // Positive and far below 2^53, so that half up is floor(x + 0.5).
    (amount + 0.5).floor().clamp(0.0, 100_000_000_000.0) as u64
}

/// Minutes to come `miles` at 45 mph, rounded up.
#[must_use]
pub fn eta_minutes(miles: f64) -> u64 {
    (miles / SPEED_MPH * 60.0).ceil().clamp(0.0, 1e9) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Hours, TimeOfDay};

    fn points(miles: f64, capable: bool, acceptance: f64, rating: f64) -> f64 {
        score(
            &Matching::default(),
            miles,
            capable,
            true,
            acceptance,
            rating,
        )
        .score()
    }

    #[test]
    fn scores_are_those_of_the_scenarios() {
        let close = |a: f64, b: f64| (a - b).abs() < 1e-4;
        assert!(close(points(0.0, true, 1.0, 4.5), 0.9900), "S1 A");
        assert!(close(points(3.302, true, 1.0, 4.8), 0.9894), "S1 B");
        assert!(close(points(0.0, true, 1.0, 5.0), 1.0), "S2 best");
        assert!(close(points(150.0, true, 1.0, 5.0), 0.70), "S2 far");
        assert!(close(points(400.0, true, 1.0, 5.0), 0.70), "S2 farther");
        assert!(
            points(0.0, false, 1.0, 5.0) <= 0.75 + 1e-9,
            "S2 without the capability"
        );
        assert!(close(points(0.0, true, 0.85, 4.5), 0.9675), "S3");
    }

    #[test]
    fn arrival_is_rounded_up() {
        assert_eq!(
            (
                eta_minutes(3.302),
                eta_minutes(45.0),
                eta_minutes(0.1),
                eta_minutes(0.0)
            ),
            (5, 60, 1, 0)
        );
    }

    #[test]
    fn opening_hours_are_local_and_may_span_midnight() {
        let at = |text: &str| text.parse::<Ts>().expect("a time");
        let hours = |day, open: &str, close: &str| {
            let time = |text: &str| TimeOfDay::new(text).expect("a time");
            OperatingHours::from([(
                day,
                Hours {
                    open: time(open),
                    close: time(close),
                },
            )])
        };
        let zone = chrono_tz::America::New_York;
        // 2026-01-15 is a Thursday; New York is five hours behind.
        let day = hours(Day::Thu, "08:00", "17:00");
        assert!(is_open(&day, zone, at("2026-01-15T13:00:00.000Z")));
        assert!(!is_open(&day, zone, at("2026-01-15T12:59:59.000Z")));
        assert!(!is_open(&day, zone, at("2026-01-15T22:00:00.000Z")));
        let night = hours(Day::Thu, "22:00", "06:00");
        assert!(
            is_open(&night, zone, at("2026-01-16T03:00:00.000Z")),
            "Thursday 22:00"
        );
        assert!(
            is_open(&night, zone, at("2026-01-16T10:59:00.000Z")),
            "Friday 05:59"
        );
        assert!(
            !is_open(&night, zone, at("2026-01-16T11:00:00.000Z")),
            "Friday 06:00"
        );
        assert!(
            !is_open(&night, zone, at("2026-01-15T08:00:00.000Z")),
            "Thursday 03:00"
        );
        assert!(is_open(
            &hours(Day::Thu, "00:00", "24:00"),
            zone,
            at("2026-01-16T04:59:00.000Z")
        ));
    }
}
