//! The values of the five keys: their form, their ranges, and what they are while nobody has set them (DOMAIN 5.11).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::polygon::{self, Corner};
use crate::event::{ConfigKey, Currency, Id, Priority, Text};
use crate::role::Rejection;
use crate::role::matching::settings::Settings as MatchSettings;

/// Key `matching`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Matching {
    weights: Weights,
    distance_scale_miles: f64,
    default_radius_miles: f64,
    max_radius_miles: f64,
    expansion_factor: f64,
    rounds: u64,
    max_cycles: u64,
    offer_timeout_seconds: f64,
    offers_per_round: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Weights {
    distance: f64,
    capability: f64,
    availability: f64,
    acceptance_rate: f64,
    rating: f64,
}

/// Key `sla-tiers`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tiers {
    tiers: Vec<Tier>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Tier {
    name: Text<64>,
    response_minutes: u64,
    arrival_minutes: u64,
    multiplier: f64,
    rank: u64,
    priorities: Vec<Priority>,
}

/// Key `pricing`, cents.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Pricing {
    base_price_cents: BasePrices,
    per_mile_cents: u64,
    #[serde(default)]
    currency: Currency,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BasePrices {
    tire: u64,
    engine: u64,
    tow: u64,
}

/// Key `geofences`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Geofences {
    pub geofences: Vec<Geofence>,
}

/// One fence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs)] // the fields are DOMAIN 5.11's own
pub struct Geofence {
    pub geofence_id: Id,
    pub name: Text<120>,
    /// A closed ring of `[lon, lat]`, degrees.
    pub polygon: Vec<Corner>,
    pub region: Text<64>,
    pub active: bool,
}

/// Key `fraud`: what each rule weighs, and where the bands of the score begin (DOMAIN 5.5).
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fraud {
    weights: FraudWeights,
    bands: FraudBands,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FraudWeights {
    high_amount: f64,
    new_vendor: f64,
    high_velocity: f64,
    unusual_amount: f64,
    short_work: f64,
}

/// A score from here on is medium_risk, high_risk, flagged.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FraudBands {
    medium: f64,
    high: f64,
    flagged: f64,
}

/// A price or distance of more than this is a slip of the keys (DOMAIN 3.2, cents).
const CENTS_MAX: u64 = 100_000_000_000;

/// Judges a whole new value; gives it back as it is stored, with what may be left out filled in.
///
/// # Errors
/// VALIDATION_ERROR naming the field, as `value.weights.rating`.
pub fn check(key: ConfigKey, value: &Map<String, Value>) -> Result<Map<String, Value>, Rejection> {
    match key {
        ConfigKey::Matching => taken(value, matching),
        ConfigKey::SlaTiers => taken(value, tiers),
        ConfigKey::Pricing => taken(value, pricing),
        ConfigKey::Geofences => taken(value, geofences),
        ConfigKey::Fraud => taken(value, fraud),
    }
}

fn taken<T: DeserializeOwned + Serialize>(
    value: &Map<String, Value>,
    judge: fn(&T) -> Result<(), Rejection>,
) -> Result<Map<String, Value>, Rejection> {
    let read: T = read(value)?;
    judge(&read)?;
    Ok(written(&read))
}

/// Reads a value as its type.
pub(super) fn read<T: DeserializeOwned>(value: &Map<String, Value>) -> Result<T, Rejection> {
    let value = Value::Object(value.clone());
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." {
            "value".to_owned()
        } else {
            format!("value.{path}")
        };
        Rejection::field(field, error.inner().to_string())
    })
}

/// The stored form of a value.
pub(super) fn written<T: Serialize>(value: &T) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => map,
        // These types have neither maps with odd keys nor numbers that are none.
        _ => Map::new(),
    }
}

fn within<T: PartialOrd + Display>(
    field: &str,
    value: T,
    range: &RangeInclusive<T>,
) -> Result<(), Rejection> {
    if range.contains(&value) {
        return Ok(());
    }
    let (from, to) = (range.start(), range.end());
    Err(wrong(field, format!("{value} is not from {from} to {to}")))
}

fn wrong(field: &str, message: impl Into<String>) -> Rejection {
    Rejection::field(format!("value.{field}"), message)
}

fn above_zero(field: &str, value: f64) -> Result<(), Rejection> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(wrong(field, format!("{value} is not above 0")))
}

fn matching(value: &Matching) -> Result<(), Rejection> {
    let weights = [
        ("distance", value.weights.distance),
        ("capability", value.weights.capability),
        ("availability", value.weights.availability),
        ("acceptanceRate", value.weights.acceptance_rate),
        ("rating", value.weights.rating),
    ];
    for (name, weight) in weights {
        within(&format!("weights.{name}"), weight, &(0.0..=1.0))?;
    }
    let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
    // The last term forgives how tenths are written in binary.
    if (sum - 1.0).abs() > 0.001 + 1e-9 {
        return Err(wrong("weights", format!("sum to {sum:.4}, not to 1")));
    }
    above_zero("distanceScaleMiles", value.distance_scale_miles)?;
    above_zero("defaultRadiusMiles", value.default_radius_miles)?;
    let (default, max) = (value.default_radius_miles, value.max_radius_miles);
    if !(max.is_finite() && max > default) {
        let message = format!("{max} is not above defaultRadiusMiles");
        return Err(wrong("maxRadiusMiles", message));
    }
    let factor = value.expansion_factor;
    if !(factor > 1.0 && factor <= 2.0) {
        let message = format!("{factor} is not above 1 and at most 2");
        return Err(wrong("expansionFactor", message));
    }
    within("rounds", value.rounds, &(1..=10))?;
    within("maxCycles", value.max_cycles, &(1..=10))?;
    within("offersPerRound", value.offers_per_round, &(1..=10))?;
    let timeout = value.offer_timeout_seconds;
    within("offerTimeoutSeconds", timeout, &(30.0..=600.0))
}

fn tiers(value: &Tiers) -> Result<(), Rejection> {
    let tiers = &value.tiers;
    if tiers.is_empty() {
        return Err(wrong("tiers", "there is no tier"));
    }
    for (at, tier) in tiers.iter().enumerate() {
        let field = |name: &str| format!("tiers[{at}].{name}");
        if tier.name.as_str().trim().is_empty() {
            return Err(wrong(&field("name"), "is empty"));
        }
        within(&field("responseMinutes"), tier.response_minutes, &(1..=120))?;
        within(&field("arrivalMinutes"), tier.arrival_minutes, &(1..=240))?;
        if tier.arrival_minutes <= tier.response_minutes {
            return Err(wrong(
                &field("arrivalMinutes"),
                "is not above responseMinutes",
            ));
        }
        if !(tier.multiplier > 0.0 && tier.multiplier <= 5.0) {
            let message = format!("{} is not above 0 and at most 5", tier.multiplier);
            return Err(wrong(&field("multiplier"), message));
        }
        within(&field("rank"), tier.rank, &(1..=10))?;
        let earlier = &tiers[..at];
        if earlier.iter().any(|other| other.name == tier.name) {
            return Err(wrong(&field("name"), "another tier has it"));
        }
        if earlier.iter().any(|other| other.rank == tier.rank) {
            return Err(wrong(&field("rank"), "another tier has it"));
        }
    }
    for priority in Priority::ALL {
        let holders = tiers.iter().flat_map(|tier| &tier.priorities);
        let holders = holders.filter(|held| *held == priority).count();
        if holders != 1 {
            let message =
                format!("priority {priority} is in {holders} of them, not in exactly one");
            return Err(wrong("tiers", message));
        }
    }
    Ok(())
}

fn pricing(value: &Pricing) -> Result<(), Rejection> {
    let base = &value.base_price_cents;
    for (field, cents) in [
        ("basePriceCents.tire", base.tire),
        ("basePriceCents.engine", base.engine),
        ("basePriceCents.tow", base.tow),
        ("perMileCents", value.per_mile_cents),
    ] {
        within(field, cents, &(1..=CENTS_MAX))?;
    }
    Ok(())
}

/// The rules of one fence; `field` is what its own fields stand under.
pub(super) fn geofence(field: &str, fence: &Geofence) -> Result<(), Rejection> {
    for (name, text) in [
        ("name", fence.name.as_str()),
        ("region", fence.region.as_str()),
    ] {
        if text.trim().is_empty() {
            return Err(Rejection::field(format!("{field}{name}"), "is empty"));
        }
    }
    polygon::check(&fence.polygon)
        .map_err(|message| Rejection::field(format!("{field}polygon"), message))
}

fn geofences(value: &Geofences) -> Result<(), Rejection> {
    let (mut ids, mut names) = (BTreeSet::new(), BTreeSet::new());
    for (at, fence) in value.geofences.iter().enumerate() {
        geofence(&format!("value.geofences[{at}]."), fence)?;
        if !ids.insert(fence.geofence_id) {
            let field = format!("geofences[{at}].geofenceId");
            return Err(wrong(&field, "another fence has it"));
        }
        if !names.insert(fence.name.as_str()) {
            return Err(wrong(
                &format!("geofences[{at}].name"),
                "another fence has it",
            ));
        }
    }
    Ok(())
}

fn fraud(value: &Fraud) -> Result<(), Rejection> {
    let weights = &value.weights;
    for (name, weight) in [
        ("high_amount", weights.high_amount),
        ("new_vendor", weights.new_vendor),
        ("high_velocity", weights.high_velocity),
        ("unusual_amount", weights.unusual_amount),
        ("short_work", weights.short_work),
    ] {
        within(&format!("weights.{name}"), weight, &(0.0..=1.0))?;
    }
    let bands = &value.bands;
    let rising = 0.0 < bands.medium
        && bands.medium < bands.high
        && bands.high < bands.flagged
        && bands.flagged < 1.0;
    if !rising {
        return Err(wrong("bands", "do not rise between 0 and 1"));
    }
    Ok(())
}

/// What a key is while nobody has set it.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults(BTreeMap<ConfigKey, Map<String, Value>>);

impl Defaults {
    /// With these numbers for matching, tiers and prices, as the program's own configuration has them for the role match.
    #[must_use]
    pub fn new(matching: &MatchSettings) -> Self {
        let mut pricing = written(&matching.pricing);
        pricing.insert("currency".to_owned(), Currency::default().as_str().into());
        let fraud = Fraud {
            weights: FraudWeights {
                high_amount: 0.50,
                new_vendor: 0.45,
                high_velocity: 0.40,
                unusual_amount: 0.40,
                short_work: 0.30,
            },
            bands: FraudBands {
                medium: 0.3,
                high: 0.5,
                flagged: 0.7,
            },
        };
        Self(BTreeMap::from([
            (ConfigKey::Matching, written(&matching.matching)),
            (ConfigKey::SlaTiers, written(&matching.tiers)),
            (ConfigKey::Pricing, pricing),
            (ConfigKey::Geofences, written(&Geofences::default())),
            (ConfigKey::Fraud, written(&fraud)),
        ]))
    }

    /// The value of `key`.
    #[must_use]
    pub fn of(&self, key: ConfigKey) -> Map<String, Value> {
        self.0.get(&key).cloned().unwrap_or_default()
    }
}

impl Default for Defaults {
    fn default() -> Self {
        Self::new(&MatchSettings::default())
    }
}
