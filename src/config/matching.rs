//! The numbers of matching, service levels and prices (DOMAIN 5.11). They hold until the platform's own configuration
//! says otherwise, and can be changed live (SIGHUP).

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Config;
use super::check::Check;
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

impl Check<'_> {
    pub(super) fn matching(&mut self, config: &Config) {
        let matching = &config.matching;
        let weights = matching.weights.all();
        for (name, weight) in weights {
            self.within(&format!("matching.weights.{name}"), &weight, &(0.0..=1.0));
        }
        let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
        if (sum - 1.0).abs() > 0.001 {
            self.refuse(
                "matching.weights",
                format!("the weights sum to {sum:.3}, not to 1"),
                "",
            );
        }
        self.above_zero(
            "matching.distance_scale_miles",
            matching.distance_scale_miles,
        );
        self.above_zero(
            "matching.default_radius_miles",
            matching.default_radius_miles,
        );
        if matching
            .max_radius_miles
            .partial_cmp(&matching.default_radius_miles)
            != Some(std::cmp::Ordering::Greater)
        {
            self.refuse(
                "matching.max_radius_miles",
                format!(
                    "{} is not above matching.default_radius_miles",
                    matching.max_radius_miles
                ),
                "",
            );
        }
        let factor = matching.expansion_factor;
        if !(factor > 1.0 && factor <= 2.0) {
            self.refuse(
                "matching.expansion_factor",
                format!("{factor} is not above 1 and at most 2"),
                "",
            );
        }
        self.within("matching.rounds", &matching.rounds, &(1..=10));
        self.within("matching.max_cycles", &matching.max_cycles, &(1..=10));
        self.within(
            "matching.offers_per_round",
            &matching.offers_per_round,
            &(1..=10),
        );
        // DOMAIN 5.11 says 30 to 600 s of what a person sets in the platform; shorter is for demonstrations.
        let timeout = matching.offer_timeout;
        self.within(
            "matching.offer_timeout",
            &timeout,
            &(Span::secs(1)..=Span::secs(600)),
        );
    }

    pub(super) fn sla(&mut self, config: &Config) {
        let tiers = &config.sla.tiers;
        let names: BTreeSet<&str> = tiers.iter().map(|tier| tier.name.as_str()).collect();
        let ranks: BTreeSet<u64> = tiers.iter().map(|tier| tier.rank).collect();
        if names.len() < tiers.len() || ranks.len() < tiers.len() {
            self.refuse("sla.tiers", "two tiers have one name or one rank", "");
        }
        for tier in tiers {
            let name = &tier.name;
            let mut wrong =
                |what: &str| self.refuse("sla.tiers", format!("tier {name}: {what}"), "");
            let minutes = |span: Span| span.0.as_secs() / 60;
            let whole = |span: Span| span.0.as_millis().is_multiple_of(60_000);
            if !(whole(tier.response) && (1..=120).contains(&minutes(tier.response))) {
                wrong("response is not from 1m to 120m in whole minutes");
            }
            if !(whole(tier.arrival) && (1..=240).contains(&minutes(tier.arrival))) {
                wrong("arrival is not from 1m to 240m in whole minutes");
            }
            if tier.arrival <= tier.response {
                wrong("arrival is not later than response");
            }
            if !(tier.multiplier > 0.0 && tier.multiplier <= 5.0) {
                wrong("multiplier is not above 0 and at most 5");
            }
            if !(1..=10).contains(&tier.rank) {
                wrong("rank is not from 1 to 10");
            }
        }
        for priority in Priority::ALL {
            let holders = tiers
                .iter()
                .flat_map(|tier| &tier.priorities)
                .filter(|held| *held == priority)
                .count();
            if holders != 1 {
                self.refuse(
                    "sla.tiers",
                    format!("priority {priority} is in {holders} tiers, it belongs to exactly one"),
                    "",
                );
            }
        }
    }

    pub(super) fn pricing(&mut self, config: &Config) {
        let pricing = &config.pricing;
        for (name, cents) in [
            ("tire_cents", pricing.tire_cents),
            ("engine_cents", pricing.engine_cents),
            ("tow_cents", pricing.tow_cents),
            ("per_mile_cents", pricing.per_mile_cents),
        ] {
            if cents == 0 {
                self.refuse(&format!("pricing.{name}"), "0 is not above 0", "");
            }
        }
    }
}
