//! The numbers of payments: prices and fraud rules of the platform's configuration (DOMAIN 5.11), defaults until it came.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::{ConfigKey, ConfigurationChanged, Currency};
use crate::role::matching::settings::BasePricing;
use crate::store::{Error, Tx, params};

/// What each fraud rule weighs, 0 to 1 (DOMAIN 5.5).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the rules are DOMAIN 5.5's own
pub struct FraudWeights {
    pub high_amount: f64,
    pub new_vendor: f64,
    pub high_velocity: f64,
    pub unusual_amount: f64,
    pub short_work: f64,
}

impl Default for FraudWeights {
    fn default() -> Self {
        Self {
            high_amount: 0.50,
            new_vendor: 0.45,
            high_velocity: 0.40,
            unusual_amount: 0.40,
            short_work: 0.30,
        }
    }
}

/// A score from here on is medium_risk, high_risk, flagged; below the first it is low_risk.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the bands are DOMAIN 5.5's own
pub struct FraudBands {
    pub medium: f64,
    pub high: f64,
    pub flagged: f64,
}

impl Default for FraudBands {
    fn default() -> Self {
        Self {
            medium: 0.3,
            high: 0.5,
            flagged: 0.7,
        }
    }
}

/// Key `fraud`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // see the types
pub struct FraudRules {
    pub weights: FraudWeights,
    pub bands: FraudBands,
}

/// Key `pricing`, as far as a bill needs it.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)] // see the types
pub struct Pricing {
    pub prices: BasePricing,
    pub currency: Currency,
}

impl Pricing {
    fn read(value: &Value) -> Result<Self, String> {
        let prices = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
        let currency = match value.get("currency") {
            None | Some(Value::Null) => Currency::default(),
            Some(text) => serde_json::from_value(text.clone())
                .map_err(|error| format!("currency: {error}"))?,
        };
        Ok(Self { prices, currency })
    }

    /// What is in force: the platform's configuration where it came, else `defaults`.
    pub(super) fn load(tx: &Tx<'_>, defaults: &Self) -> Result<Self, Error> {
        let kept = kept(tx, ConfigKey::Pricing)?;
        // What was kept had been read before; a later build that reads it otherwise falls back on the defaults.
        Ok(kept
            .and_then(|value| Self::read(&value.ok()?).ok())
            .unwrap_or_else(|| defaults.clone()))
    }
}

impl FraudRules {
    /// What is in force. The inner error is one of scoring, which DOMAIN 5.5 answers with a flag.
    pub(super) fn load(tx: &Tx<'_>) -> Result<Result<Self, String>, Error> {
        Ok(match kept(tx, ConfigKey::Fraud)? {
            None => Ok(Self::default()),
            Some(value) => value
                .and_then(|value| serde_json::from_value(value).map_err(|error| error.to_string())),
        })
    }
}

fn kept(tx: &Tx<'_>, key: ConfigKey) -> Result<Option<Result<Value, String>>, Error> {
    let text: Option<String> = tx.value(
        "SELECT doc FROM setting WHERE config_key = ?1",
        params![key.as_str()],
    )?;
    Ok(text.map(|text| serde_json::from_str(&text).map_err(|error| error.to_string())))
}

/// Takes a newer version over; what does not fit its type is refused by name.
pub(super) fn take(
    tx: &mut Tx<'_>,
    changed: &ConfigurationChanged,
) -> Result<Result<(), String>, Error> {
    let value = Value::Object(changed.value.clone());
    let fits = match changed.config_key {
        ConfigKey::Pricing => Pricing::read(&value).map(|_| ()),
        ConfigKey::Fraud => serde_json::from_value::<FraudRules>(value)
            .map(|_| ())
            .map_err(|error| error.to_string()),
        // Matching, tiers and fences say nothing of payments.
        ConfigKey::Matching | ConfigKey::SlaTiers | ConfigKey::Geofences => return Ok(Ok(())),
    };
    if let Err(why) = fits {
        return Ok(Err(format!("value of {}: {why}", changed.config_key)));
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
