//! The tracking session, what a fix does to it, and how it is stored (DOMAIN 5.4).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::{Eta, Fix, Id, Miles, Personal, Point, Rate, Ts};
use crate::store::{Error, Tx, params};

pub(super) const MIGRATIONS: &[&str] = &["
CREATE TABLE session (
    session_id TEXT PRIMARY KEY,
    incident_id TEXT NOT NULL,
    offer_id TEXT NOT NULL UNIQUE,
    open INTEGER NOT NULL,
    started_at_ms INTEGER NOT NULL,
    doc TEXT NOT NULL
);
CREATE UNIQUE INDEX session_open ON session (incident_id) WHERE open = 1;
CREATE INDEX session_incident ON session (incident_id, started_at_ms);
-- Ends that were seen before their assignment: of one offer, or of the whole incident (offer_id empty).
CREATE TABLE ended (incident_id TEXT NOT NULL, offer_id TEXT NOT NULL, PRIMARY KEY (incident_id, offer_id)) WITHOUT ROWID;
"];

/// Fixes kept in the path.
pub const PATH_MAX: usize = 50;
/// A vendor within so many meters has arrived.
pub const ARRIVAL_METERS: f64 = 100.0;
/// An estimate is made anew after so many miles.
const RECALCULATE_MILES: f64 = 0.1;
/// Or after so long.
const RECALCULATE_MS: i64 = 30_000;
/// Speed of the great-circle estimate, miles per hour.
const SPEED_MPH: f64 = 45.0;

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the names are DOMAIN 5.4's own
pub enum SessionStatus {
    Active,
    Arrived,
    Completed,
    Cancelled,
}

impl SessionStatus {
    /// Whether fixes are still taken.
    #[must_use]
    pub fn open(self) -> bool {
        matches!(self, Self::Active | Self::Arrived)
    }
}

/// The state table of a session.
#[must_use]
pub fn legal(from: SessionStatus, to: SessionStatus) -> bool {
    use SessionStatus as S;
    matches!(
        (from, to),
        (
            S::Active,
            S::Active | S::Arrived | S::Completed | S::Cancelled
        ) | (S::Arrived, S::Arrived | S::Completed | S::Cancelled)
    )
}

/// A vendor on his way to an incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the fields are DOMAIN 5.4's own
pub struct TrackingSession {
    pub session_id: Id,
    pub incident_id: Id,
    pub driver_id: Id,
    pub vendor_id: Id,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub company_id: Option<Id>,
    pub offer_id: Id,
    pub status: SessionStatus,
    /// Absent once it is forgotten. Without it, or when the driver is erased, nothing can be told of distances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_location: Option<Personal<Point>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor_location: Option<Fix>,
    /// The last [`PATH_MAX`] fixes by `recordedAt`, oldest first.
    pub path: Vec<Fix>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<Eta>,
    /// Where the vendor was when `eta` was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_from: Option<Point>,
    pub started_at: Ts,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arrived_at: Option<Ts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<Ts>,
    pub version: u64,
}

/// What a fix was to a session.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Taken {
    /// Newer than all before: the new position.
    Accepted,
    /// The first accepted one within the fence, this many meters from the driver.
    Arrived(f64),
    /// Older, repeated, or too old for the path: no event, no arrival.
    Filed,
}

impl TrackingSession {
    /// Where the driver is, as far as that is known.
    pub(super) fn driver(&self, tx: &Tx<'_>) -> Result<Option<Point>, Error> {
        let place = self.driver_location.as_ref().map(|place| tx.reveal(place));
        Ok(place.transpose()?.flatten())
    }

    /// Takes a fix, at the step's time `now`; `driver` is where the driver is.
    pub fn take(&mut self, fix: &Fix, driver: Option<Point>, now: Ts) -> Taken {
        let newest = self.vendor_location.as_ref().map(|last| last.recorded_at);
        let newer = newest.is_none_or(|newest| fix.recorded_at > newest);
        let changed = self.file(fix);
        if !newer {
            if changed && newest == Some(fix.recorded_at) {
                self.vendor_location = Some(fix.clone());
            }
            return Taken::Filed;
        }
        self.vendor_location = Some(fix.clone());
        let meters = driver.map(|driver| driver.distance_meters(&fix.point()));
        let arrives = self.status == SessionStatus::Active
            && meters.is_some_and(|meters| meters <= ARRIVAL_METERS);
        if arrives {
            self.status = SessionStatus::Arrived;
            self.arrived_at = Some(fix.recorded_at);
        }
        self.estimate(fix.point(), driver, now);
        match meters {
            Some(meters) if arrives => Taken::Arrived(meters),
            _ => Taken::Accepted,
        }
    }

    /// Puts a fix where it belongs in the path. Of two with one `recordedAt` the one with the smaller (lat, lon) stays,
    /// whichever came first. True when the path holds it now and did not before.
    fn file(&mut self, fix: &Fix) -> bool {
        match self
            .path
            .binary_search_by_key(&fix.recorded_at, |other| other.recorded_at)
        {
            Ok(at) => {
                let smaller = fix
                    .lat
                    .total_cmp(&self.path[at].lat)
                    .then(fix.lon.total_cmp(&self.path[at].lon))
                    .is_lt();
                if smaller {
                    self.path[at] = fix.clone();
                }
                smaller
            }
            Err(0) if self.path.len() == PATH_MAX => false,
            Err(at) => {
                self.path.insert(at, fix.clone());
                if self.path.len() > PATH_MAX {
                    self.path.remove(0);
                }
                true
            }
        }
    }

    /// Makes the estimate anew where it is due: great circle at 45 mph (no road router is built in).
    fn estimate(&mut self, from: Point, driver: Option<Point>, now: Ts) {
        let moved = self
            .eta_from
            .is_none_or(|before| before.distance_miles(&from) > RECALCULATE_MILES);
        let old = self
            .eta
            .as_ref()
            .is_none_or(|eta| now.ms() - eta.calculated_at.ms() > RECALCULATE_MS);
        let arrived = self.status == SessionStatus::Arrived;
        let told_arrival = self
            .eta
            .as_ref()
            .is_some_and(|eta| eta.confidence.get() >= 1.0);
        if !(moved || old || (arrived && !told_arrival)) {
            return;
        }
        let miles = driver.map(|driver| driver.distance_miles(&from));
        let (minutes, miles, confidence) = match miles {
            _ if arrived => (0, 0.0, 1.0),
            Some(miles) => (minutes_for(miles), miles, 0.5),
            // Nobody knows how far, and the estimate says that it is none.
            None => (0, 0.0, 0.0),
        };
        self.eta_from = Some(from);
        self.eta = Some(Eta {
            minutes,
            distance_miles: Miles::new(miles)
                .expect("a distance on the earth is finite and not negative"),
            confidence: Rate::new(confidence).expect("0, 0.5 and 1 are in range"),
            calculated_at: now,
        });
    }

    pub(super) fn find(tx: &Tx<'_>, session_id: Id) -> Result<Option<Self>, Error> {
        tx.document(
            "SELECT doc FROM session WHERE session_id = ?1",
            params![session_id.to_string()],
        )
    }

    /// The open session of an incident, else its newest.
    pub(super) fn of_incident(tx: &Tx<'_>, incident_id: Id) -> Result<Option<Self>, Error> {
        tx.document(
            "SELECT doc FROM session WHERE incident_id = ?1 ORDER BY open DESC, started_at_ms DESC LIMIT 1",
            params![incident_id.to_string()],
        )
    }

    pub(super) fn of_offer(tx: &Tx<'_>, offer_id: Id) -> Result<Option<Self>, Error> {
        tx.document(
            "SELECT doc FROM session WHERE offer_id = ?1",
            params![offer_id.to_string()],
        )
    }

    pub(super) fn save(&mut self, tx: &mut Tx<'_>) -> Result<(), Error> {
        self.version += 1;
        let doc = tx.text(self)?;
        tx.execute(
            "INSERT INTO session (session_id, incident_id, offer_id, open, started_at_ms, doc)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (session_id) DO UPDATE SET open = ?4, doc = ?6",
            params![
                self.session_id.to_string(),
                self.incident_id.to_string(),
                self.offer_id.to_string(),
                self.status.open(),
                self.started_at.ms(),
                doc
            ],
        )?;
        Ok(())
    }
}

/// Minutes for `miles` at 45 mph, rounded up.
fn minutes_for(miles: f64) -> u64 {
    (miles / SPEED_MPH * 60.0).ceil().clamp(0.0, 1e9) as u64
}

/// Remembers an end, of one offer or (without one) of the whole incident.
pub(super) fn remember_end(
    tx: &mut Tx<'_>,
    incident_id: Id,
    offer_id: Option<Id>,
) -> Result<(), Error> {
    let offer = offer_id.map(|id| id.to_string()).unwrap_or_default();
    tx.execute(
        "INSERT INTO ended (incident_id, offer_id) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        params![incident_id.to_string(), offer],
    )?;
    Ok(())
}

/// Whether an offer's end was seen.
pub(super) fn end_seen(tx: &Tx<'_>, incident_id: Id, offer_id: Id) -> Result<bool, Error> {
    let found: Option<i64> = tx.value(
        "SELECT 1 FROM ended WHERE incident_id = ?1 AND offer_id IN ('', ?2) LIMIT 1",
        params![incident_id.to_string(), offer_id.to_string()],
    )?;
    Ok(found.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sixteen_pairs_follow_the_table() {
        use SessionStatus as S;
        let all = [S::Active, S::Arrived, S::Completed, S::Cancelled];
        let pairs: Vec<_> = all
            .iter()
            .flat_map(|from| all.iter().map(move |to| (*from, *to)))
            .collect();
        assert_eq!(
            pairs.iter().filter(|(from, to)| legal(*from, *to)).count(),
            7
        );
        assert!(!legal(S::Arrived, S::Active) && !legal(S::Completed, S::Active));
    }

    #[test]
    fn s24_fallback_estimates() {
        assert_eq!((minutes_for(45.0), minutes_for(0.1)), (60, 1));
    }
}
