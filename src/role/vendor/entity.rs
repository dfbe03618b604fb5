//! The vendor's profile, availability and metrics, and how they are stored (DOMAIN 5.2).

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::event::{
    BackgroundCheckStatus, Capability, CoverageMiles, Date, E164, Email, Fix, Id, List,
    OperatingHours, Personal, Point, Pricing, Text, Ts, Tz, VendorStatus,
};
use crate::role::not_for_all;
use crate::store::{Error, Tx, params};

pub(super) const MIGRATIONS: &[&str] = &["
CREATE TABLE vendor (
    vendor_id TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    lat REAL NOT NULL,
    lon REAL NOT NULL,
    registered_at_ms INTEGER NOT NULL,
    doc TEXT NOT NULL
);
CREATE INDEX vendor_place ON vendor (lat, lon);
CREATE INDEX vendor_newest ON vendor (registered_at_ms DESC, vendor_id DESC);
-- How far each offer's job has come: one job per offer, whatever order its events arrive in.
CREATE TABLE job (
    offer_id TEXT PRIMARY KEY,
    vendor_id TEXT NOT NULL,
    incident_id TEXT NOT NULL,
    accepted INTEGER NOT NULL,
    ended TEXT
) WITHOUT ROWID;
CREATE INDEX job_incident ON job (incident_id, vendor_id);
-- Completed work whose acceptance has not arrived yet.
CREATE TABLE completed (incident_id TEXT NOT NULL, vendor_id TEXT NOT NULL, PRIMARY KEY (incident_id, vendor_id)) WITHOUT ROWID;
", "
-- Whatever a counter has counted that no other table remembers, so that a replay by force counts nothing twice.
CREATE TABLE counted (fact TEXT PRIMARY KEY) WITHOUT ROWID;
"];

/// A vendor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = as_shown)]
#[allow(missing_docs)] // the fields are DOMAIN 5.2's own
pub struct Vendor {
    pub vendor_id: Id,
    #[serde(flatten)]
    pub profile: Profile,
    pub background_check_status: BackgroundCheckStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Ts>,
    pub registered_at: Ts,
    pub profile_version: u64,
    pub status: VendorStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_incident_id: Option<Id>,
    pub wants_offline: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_location: Option<Fix>,
    pub metrics: Metrics,
    pub metrics_version: u64,
}

/// What the vendor or an admin writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the fields are DOMAIN 3.3's own
pub struct Profile {
    pub business_name: Text<200>,
    pub contact_name: Personal<Text<120>>,
    pub phone: Personal<E164>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<Personal<Email>>,
    pub capabilities: List<Capability, 1, 6>,
    pub location: Point,
    pub coverage_radius_miles: CoverageMiles,
    pub timezone: Tz,
    pub operating_hours: OperatingHours,
    pub pricing: Pricing,
    pub insurance_expiry: Date,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payout_account_ref: Option<Text<128>>,
}

/// Counters behind the published rates.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = with_rates)]
#[allow(missing_docs)] // the names say it
pub struct Metrics {
    pub offers: u64,
    pub accepted: u64,
    pub declined: u64,
    pub expired: u64,
    pub response_seconds_total: f64,
    pub responses: u64,
    pub completed: u64,
    pub released: u64,
    pub stars_total: u64,
    pub ratings: u64,
}

/// Only the vendor himself and an admin see how to reach him.
pub(super) const PRIVATE: [&str; 5] = [
    "contactName",
    "phone",
    "email",
    "payoutAccountRef",
    "lastLocation",
];

fn as_shown(schema: &mut Schema) {
    not_for_all(schema, &PRIVATE);
}

/// The rates that [`Vendor::entity`] adds.
fn with_rates(schema: &mut Schema) {
    let names = [
        "acceptanceRate",
        "completionRate",
        "avgResponseSeconds",
        "ratingAverage",
    ];
    for name in names {
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            properties.insert(name.to_owned(), json!({ "type": "number", "minimum": 0 }));
        }
        if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
            required.push(name.into());
        }
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

impl Profile {
    /// It with its personal fields sealed for the vendor.
    pub(super) fn sealed(mut self, tx: &Tx<'_>, vendor_id: Id) -> Result<Self, Error> {
        self.contact_name = tx.sealed(&vendor_id, self.contact_name.clone())?;
        self.phone = tx.sealed(&vendor_id, self.phone.clone())?;
        let email = self.email.as_ref();
        self.email = email
            .map(|email| tx.sealed(&vendor_id, email.clone()))
            .transpose()?;
        Ok(self)
    }
}

impl Metrics {
    /// accepted / (accepted + declined + expired); 0 without data.
    #[must_use]
    pub fn acceptance_rate(&self) -> f64 {
        ratio(self.accepted, self.accepted + self.declined + self.expired)
    }

    /// completed / (completed + released); 0 without data.
    #[must_use]
    pub fn completion_rate(&self) -> f64 {
        ratio(self.completed, self.completed + self.released)
    }

    /// Mean over answers, seconds; 0 without data.
    #[must_use]
    pub fn avg_response_seconds(&self) -> f64 {
        if self.responses == 0 {
            0.0
        } else {
            self.response_seconds_total / self.responses as f64
        }
    }

    /// Mean of the drivers' stars; 0 without data.
    #[must_use]
    pub fn rating_average(&self) -> f64 {
        ratio(self.stars_total, self.ratings)
    }
}

impl Vendor {
    /// The entity as commands answer it: with the rates that its counters come to.
    #[must_use]
    pub fn entity(&self) -> Value {
        let mut entity = serde_json::to_value(self).unwrap_or(Value::Null);
        let metrics = &self.metrics;
        let rates = [
            ("acceptanceRate", metrics.acceptance_rate()),
            ("completionRate", metrics.completion_rate()),
            ("avgResponseSeconds", metrics.avg_response_seconds()),
            ("ratingAverage", metrics.rating_average()),
        ];
        for (name, rate) in rates {
            entity["metrics"][name] = rate.into();
        }
        entity
    }
}

/// The state table of availability (DOMAIN 5.2).
#[must_use]
pub fn legal(from: VendorStatus, to: VendorStatus) -> bool {
    from != to
}

impl Vendor {
    pub(super) fn find(tx: &Tx<'_>, vendor_id: Id) -> Result<Option<Self>, Error> {
        tx.document(
            "SELECT doc FROM vendor WHERE vendor_id = ?1",
            params![vendor_id.to_string()],
        )
    }

    pub(super) fn save(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let doc = tx.text(self)?;
        let place = self.profile.location;
        tx.execute(
            "INSERT INTO vendor (vendor_id, status, lat, lon, registered_at_ms, doc) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (vendor_id) DO UPDATE SET status = ?2, lat = ?3, lon = ?4, doc = ?6",
            params![
                self.vendor_id.to_string(),
                self.status.as_str(),
                place.lat,
                place.lon,
                self.registered_at.ms(),
                doc
            ],
        )?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_domain_and_zero_without_data() {
        let none = Metrics::default();
        assert_eq!(
            (
                none.acceptance_rate(),
                none.completion_rate(),
                none.avg_response_seconds()
            ),
            (0.0, 0.0, 0.0)
        );
        let some = Metrics {
            accepted: 3,
            declined: 1,
            expired: 1,
            completed: 2,
            released: 2,
            stars_total: 9,
            ratings: 2,
            ..none
        };
        assert_eq!(
            (
                some.acceptance_rate(),
                some.completion_rate(),
                some.rating_average()
            ),
            (0.6, 0.5, 4.5)
        );
    }

    #[test]
    fn all_nine_pairs_of_availability_follow_the_table() {
        use VendorStatus as V;
        let wanted = [
            (V::Available, V::Busy),
            (V::Offline, V::Busy),
            (V::Busy, V::Available),
            (V::Busy, V::Offline),
            (V::Available, V::Offline),
            (V::Offline, V::Available),
        ];
        for from in V::ALL {
            for to in V::ALL {
                assert_eq!(
                    legal(*from, *to),
                    wanted.contains(&(*from, *to)),
                    "{from} {to}"
                );
            }
        }
    }
}
