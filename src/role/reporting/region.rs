//! Where an incident was, for reports: the first active geofence by name that has it in it, else a quarter of the map
//! (DOMAIN 5.7). Asked when a report is made, so a changed geofence holds for what was before it too.

use serde::Deserialize;

use crate::role::HandlerError;
use crate::store::{Tx, params};

/// North of this is North, degrees.
const NORTH_OF_LAT: f64 = 40.0;
/// West of this is West, degrees.
const WEST_OF_LON: f64 = -95.0;

/// The geofences in force, by name.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Regions {
    #[serde(default)]
    geofences: Vec<Geofence>,
}

#[derive(Debug, Deserialize)]
struct Geofence {
    name: String,
    /// A closed ring of `[lon, lat]`.
    polygon: Vec<[f64; 2]>,
    region: String,
    active: bool,
}

impl Regions {
    pub(super) fn load(tx: &Tx<'_>) -> Result<Self, HandlerError> {
        let found: Option<Self> = tx.document(
            "SELECT value FROM configuration WHERE config_key = 'geofences'",
            params![],
        )?;
        let mut regions = found.unwrap_or_default();
        regions.geofences.retain(|fence| fence.active);
        regions.geofences.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(regions)
    }

    /// The region of a place, degrees.
    pub(super) fn of(&self, lat: f64, lon: f64) -> String {
        let fence = self
            .geofences
            .iter()
            .find(|fence| inside(&fence.polygon, lat, lon));
        fence.map_or_else(
            || {
                let vertical = if lat > NORTH_OF_LAT { "North" } else { "South" };
                let horizontal = if lon < WEST_OF_LON { "West" } else { "East" };
                format!("{vertical} {horizontal}")
            },
            |fence| fence.region.clone(),
        )
    }
}

/// Whether the place is inside the ring: a line to the east crosses its sides an odd number of times.
fn inside(ring: &[[f64; 2]], lat: f64, lon: f64) -> bool {
    let sides = ring.iter().zip(ring.iter().cycle().skip(1));
    sides.fold(false, |inside, ([lon_a, lat_a], [lon_b, lat_b])| {
        let crosses = (*lat_a > lat) != (*lat_b > lat)
            && lon < (lon_b - lon_a) * (lat - lat_a) / (lat_b - lat_a) + lon_a;
        inside != crosses
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarters_of_the_map_and_a_geofence_before_them() {
        let mut regions = Regions::default();
        assert_eq!(regions.of(40.7, -74.0), "North East");
        assert_eq!(regions.of(34.0, -118.2), "South West");
        // Not over the line is the other side.
        assert_eq!(regions.of(40.0, -95.0), "South East");
        regions.geofences.push(Geofence {
            name: "city".to_owned(),
            polygon: vec![
                [-75.0, 40.0],
                [-73.0, 40.0],
                [-73.0, 41.0],
                [-75.0, 41.0],
                [-75.0, 40.0],
            ],
            region: "New York".to_owned(),
            active: true,
        });
        assert_eq!(regions.of(40.7, -74.0), "New York");
        assert_eq!(regions.of(41.1, -74.0), "North East");
    }
}
