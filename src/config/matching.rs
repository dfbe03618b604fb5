//! The numbers of matching, service levels and prices (DOMAIN 5.11). They hold until the platform's own configuration
//! says otherwise, and can be changed live (SIGHUP).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::Span;
use crate::event::Priority;

/// The role match.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MatchingSection {
    /// How much each factor of a vendor's score counts; they sum to 1.
    pub weights: WeightsSection,
    /// Distance at which the factor distance is 0, miles.
    pub distance_scale_miles: f64,
    /// Radius of the first round, miles.
    pub default_radius_miles: f64,
    /// Radius that no round exceeds, miles.
    pub max_radius_miles: f64,
    /// How much wider each round looks than the one before.
    pub expansion_factor: f64,
    /// Rounds in one cycle.
    pub rounds: u64,
    /// Cycles without a dispatcher's request.
    pub max_cycles: u64,
    /// How long an offer stands.
    pub offer_timeout: Span,
    /// Offers in one round.
    pub offers_per_round: usize,
}

impl Default for MatchingSection {
    fn default() -> Self {
        Self {
            weights: WeightsSection::default(),
            distance_scale_miles: 150.0,
            default_radius_miles: 50.0,
            max_radius_miles: 150.0,
            expansion_factor: 1.25,
            rounds: 3,
            max_cycles: 3,
            offer_timeout: Span::secs(120),
            offers_per_round: 3,
        }
    }
}

/// See [`MatchingSection::weights`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[allow(missing_docs)] // the factors are DOMAIN 5.3's own
pub struct WeightsSection {
    pub distance: f64,
    pub capability: f64,
    pub availability: f64,
    pub acceptance_rate: f64,
    pub rating: f64,
}

impl WeightsSection {
    /// Each with its name.
    #[must_use]
    pub fn all(&self) -> [(&'static str, f64); 5] {
        [
            ("distance", self.distance),
            ("capability", self.capability),
            ("availability", self.availability),
            ("acceptance_rate", self.acceptance_rate),
            ("rating", self.rating),
        ]
    }
}

impl Default for WeightsSection {
    fn default() -> Self {
        Self {
            distance: 0.30,
            capability: 0.25,
            availability: 0.20,
            acceptance_rate: 0.15,
            rating: 0.10,
        }
    }
}

/// Service levels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Sla {
    /// The tiers; each priority is in exactly one.
    pub tiers: Vec<TierSection>,
}

/// One service level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TierSection {
    /// Its name.
    pub name: String,
    /// From the report to an accepted offer, in whole minutes.
    pub response: Span,
    /// From the report to the vendor's arrival, in whole minutes.
    pub arrival: Span,
    /// What the price is multiplied by.
    pub multiplier: f64,
    /// 1 is the lowest.
    pub rank: u64,
    /// The priorities that it serves.
    pub priorities: Vec<Priority>,
}

impl Default for Sla {
    fn default() -> Self {
        let tier =
            |name: &str, response: u64, arrival: u64, multiplier, rank, priorities: &[Priority]| {
                TierSection {
                    name: name.to_owned(),
                    response: Span::secs(response * 60),
                    arrival: Span::secs(arrival * 60),
                    multiplier,
                    rank,
                    priorities: priorities.to_vec(),
                }
            };
        use Priority as P;
        Self {
            tiers: vec![
                tier("Standard", 15, 60, 1.0, 1, &[P::Low, P::Normal]),
                tier("Priority", 10, 45, 1.25, 2, &[P::High]),
                tier("Emergency", 5, 30, 1.5, 3, &[P::Critical]),
            ],
        }
    }
}

/// Prices, US cents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Pricing {
    /// Base price of a tire job, cents.
    pub tire_cents: u64,
    /// Base price of an engine job, cents.
    pub engine_cents: u64,
    /// Base price of a tow, cents.
    pub tow_cents: u64,
    /// For each mile to the vendor, cents.
    pub per_mile_cents: u64,
}

impl Default for Pricing {
    fn default() -> Self {
        Self {
            tire_cents: 15_000,
            engine_cents: 20_000,
            tow_cents: 25_000,
            per_mile_cents: 350,
        }
    }
}
