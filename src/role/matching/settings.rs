//! The numbers of matching (DOMAIN 5.11: matching, sla-tiers, pricing): defaults, and what ConfigurationChanged brought.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::{ConfigKey, ConfigurationChanged, IncidentType, Priority};
use crate::store::{Error, Tx, params};

/// Weights of the score's factors; they sum to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the factors are DOMAIN 5.3's own
pub struct Weights {
    pub distance: f64,
    pub capability: f64,
    pub availability: f64,
    pub acceptance_rate: f64,
    pub rating: f64,
}

impl Default for Weights {
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

/// Key `matching`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the names are DOMAIN 5.11's own
pub struct Matching {
    pub weights: Weights,
    pub distance_scale_miles: f64,
    pub default_radius_miles: f64,
    pub max_radius_miles: f64,
    pub expansion_factor: f64,
    pub rounds: u64,
    pub max_cycles: u64,
    pub offer_timeout_seconds: f64,
    pub offers_per_round: usize,
}

impl Default for Matching {
    fn default() -> Self {
        Self {
            weights: Weights::default(),
            distance_scale_miles: 150.0,
            default_radius_miles: 50.0,
            max_radius_miles: 150.0,
            expansion_factor: 1.25,
            rounds: 3,
            max_cycles: 3,
            offer_timeout_seconds: 120.0,
            offers_per_round: 3,
        }
    }
}

impl Matching {
    /// Radius of round `n` (1 is the first), miles.
    #[must_use]
    pub fn radius_miles(&self, n: u64) -> f64 {
        let steps = i32::try_from(n.saturating_sub(1)).unwrap_or(i32::MAX);
        (self.default_radius_miles * self.expansion_factor.powi(steps)).min(self.max_radius_miles)
    }
}

/// One tier of key `sla-tiers`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the names are DOMAIN 5.11's own
pub struct Tier {
    pub name: String,
    pub response_minutes: u64,
    pub arrival_minutes: u64,
    pub multiplier: f64,
    pub rank: u64,
    pub priorities: Vec<Priority>,
}

/// Key `sla-tiers`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tiers {
    /// The tiers; each priority is in exactly one.
    pub tiers: Vec<Tier>,
}

impl Default for Tiers {
    fn default() -> Self {
        let tier = |name: &str,
                    response_minutes,
                    arrival_minutes,
                    multiplier,
                    rank,
                    priorities: &[Priority]| Tier {
            name: name.to_owned(),
            response_minutes,
            arrival_minutes,
            multiplier,
            rank,
            priorities: priorities.to_vec(),
        };
        Self {
            tiers: vec![
                tier(
                    "Standard",
                    15,
                    60,
                    1.0,
                    1,
                    &[Priority::Low, Priority::Normal],
                ),
                tier("Priority", 10, 45, 1.25, 2, &[Priority::High]),
                tier("Emergency", 5, 30, 1.5, 3, &[Priority::Critical]),
            ],
        }
    }
}

impl Tiers {
    /// The price multiplier of a priority; 1 where no tier has it.
    #[must_use]
    pub fn multiplier(&self, priority: Priority) -> f64 {
        self.tiers
            .iter()
            .find(|tier| tier.priorities.contains(&priority))
            .map_or(1.0, |tier| tier.multiplier)
    }
}

/// Key `pricing`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the names are DOMAIN 5.11's own
pub struct BasePricing {
    pub base_price_cents: BTreeMap<IncidentType, u64>,
    pub per_mile_cents: u64,
}

impl Default for BasePricing {
    fn default() -> Self {
        use IncidentType as T;
        Self {
            base_price_cents: BTreeMap::from([
                (T::Tire, 15_000),
                (T::Engine, 20_000),
                (T::Tow, 25_000),
            ]),
            per_mile_cents: 350,
        }
    }
}

/// All three.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)] // see the types
pub struct Settings {
    pub matching: Matching,
    pub tiers: Tiers,
    pub pricing: BasePricing,
}

impl Settings {
    /// What is in force: the platform's configuration where it came, else `defaults`.
    pub(super) fn load(tx: &Tx<'_>, defaults: &Self) -> Result<Self, Error> {
        let sql = "SELECT doc FROM setting WHERE config_key = ?1";
        Ok(Self {
            matching: tx
                .document(sql, params!["matching"])?
                .unwrap_or_else(|| defaults.matching.clone()),
            tiers: tx
                .document(sql, params!["sla-tiers"])?
                .unwrap_or_else(|| defaults.tiers.clone()),
            pricing: tx
                .document(sql, params!["pricing"])?
                .unwrap_or_else(|| defaults.pricing.clone()),
        })
    }

    /// Takes a newer version over; what does not fit its type is refused by name.
    pub(super) fn take(
        tx: &mut Tx<'_>,
        changed: &ConfigurationChanged,
    ) -> Result<Result<(), String>, Error> {
        let value = serde_json::Value::Object(changed.value.clone());
        let fits = match changed.config_key {
            ConfigKey::Matching => serde_json::from_value::<Matching>(value).map(|_| ()),
            ConfigKey::SlaTiers => serde_json::from_value::<Tiers>(value).map(|_| ()),
            ConfigKey::Pricing => serde_json::from_value::<BasePricing>(value).map(|_| ()),
            ConfigKey::Geofences | ConfigKey::Fraud => return Ok(Ok(())),
        };
        if let Err(error) = fits {
            return Ok(Err(format!("value of {}: {error}", changed.config_key)));
        }
        let doc = tx.text(&changed.value)?;
        tx.execute(
            "INSERT INTO setting (config_key, version, doc) VALUES (?1, ?2, ?3)
             ON CONFLICT (config_key) DO UPDATE SET version = ?2, doc = ?3 WHERE version < ?2",
            params![
                changed.config_key.as_str(),
                changed.config_version.get() as i64,
                doc
            ],
        )?;
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn radius_grows_to_its_maximum() {
        // S4.
        let matching = Matching {
            rounds: 7,
            ..Matching::default()
        };
        let radii: Vec<f64> = (1..=7).map(|n| matching.radius_miles(n)).collect();
        assert_eq!(
            radii,
            [50.0, 62.5, 78.125, 97.656_25, 122.070_312_5, 150.0, 150.0]
        );
    }
}
