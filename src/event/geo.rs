//! Places on the earth, and the one distance function of all roles (DOMAIN 5: haversine, R = 3958.7613 miles).

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::types::{NonNegative, Text, Ts, TypeError};

/// Radius of the earth in miles.
pub const EARTH_MILES: f64 = 3958.7613;
/// Radius of the earth in meters: 6371.0088 km.
pub const EARTH_METERS: f64 = 6_371_008.8;

/// A point in degrees.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Latitude, -90 to 90.
    pub lat: f64,
    /// Longitude, -180 to 180.
    pub lon: f64,
}

impl Point {
    /// Checks and wraps.
    ///
    /// # Errors
    /// A coordinate out of range or not finite.
    pub fn new(lat: f64, lon: f64) -> Result<Self, TypeError> {
        if !(-90.0..=90.0).contains(&lat) {
            return Err(TypeError::new("lat is not a number from -90 to 90"));
        }
        if !(-180.0..=180.0).contains(&lon) {
            return Err(TypeError::new("lon is not a number from -180 to 180"));
        }
        Ok(Self { lat, lon })
    }

    fn angle(&self, other: &Self) -> f64 {
        let (lat_a, lat_b) = (self.lat.to_radians(), other.lat.to_radians());
        let half_lat = ((lat_b - lat_a) / 2.0).sin();
        let half_lon = ((other.lon - self.lon).to_radians() / 2.0).sin();
        let chord = half_lat * half_lat + lat_a.cos() * lat_b.cos() * half_lon * half_lon;
        2.0 * chord.sqrt().min(1.0).asin()
    }

    /// Great-circle distance in miles.
    #[must_use]
    pub fn distance_miles(&self, other: &Self) -> f64 {
        EARTH_MILES * self.angle(other)
    }

    /// Great-circle distance in meters.
    #[must_use]
    pub fn distance_meters(&self, other: &Self) -> f64 {
        EARTH_METERS * self.angle(other)
    }

    /// Rounded to a tenth of a degree: an area, no longer somebody's place.
    #[must_use]
    pub fn rounded_to_tenth(&self) -> Self {
        Self {
            lat: (self.lat * 10.0).round() / 10.0,
            lon: (self.lon * 10.0).round() / 10.0,
        }
    }
}

#[derive(Deserialize)]
struct RawPoint {
    lat: f64,
    lon: f64,
}

impl<'de> Deserialize<'de> for Point {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = RawPoint::deserialize(deserializer)?;
        Self::new(raw.lat, raw.lon).map_err(D::Error::custom)
    }
}

impl JsonSchema for Point {
    fn schema_name() -> Cow<'static, str> {
        "Point".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object", "required": ["lat", "lon"],
            "properties": {
                "lat": { "type": "number", "minimum": -90, "maximum": 90 },
                "lon": { "type": "number", "minimum": -180, "maximum": 180 }
            }
        })
    }
}

/// A point with an address, where there is one.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Place {
    /// Latitude, -90 to 90.
    #[schemars(range(min = -90, max = 90))]
    pub lat: f64,
    /// Longitude, -180 to 180.
    #[schemars(range(min = -180, max = 180))]
    pub lon: f64,
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Text<256>>,
}

impl Place {
    /// A place without an address.
    #[must_use]
    pub fn at(point: Point) -> Self {
        Self {
            lat: point.lat,
            lon: point.lon,
            address: None,
        }
    }

    /// Its point.
    #[must_use]
    pub fn point(&self) -> Point {
        Point {
            lat: self.lat,
            lon: self.lon,
        }
    }
}

#[derive(Deserialize)]
struct RawPlace {
    lat: f64,
    lon: f64,
    address: Option<Text<256>>,
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = RawPlace::deserialize(deserializer)?;
        let point = Point::new(raw.lat, raw.lon).map_err(D::Error::custom)?;
        Ok(Self {
            address: raw.address,
            ..Self::at(point)
        })
    }
}

/// A position as a device measured it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fix {
    /// Latitude, -90 to 90.
    #[schemars(range(min = -90, max = 90))]
    pub lat: f64,
    /// Longitude, -180 to 180.
    #[schemars(range(min = -180, max = 180))]
    pub lon: f64,
    /// When the device measured it.
    pub recorded_at: Ts,
    /// Radius of uncertainty, meters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_meters: Option<NonNegative>,
    /// Speed, miles per hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed_mph: Option<NonNegative>,
    /// Heading, degrees from 0 up to but not including 360.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 360))]
    pub heading_degrees: Option<f64>,
}

impl Fix {
    /// A fix with nothing but place and time.
    #[must_use]
    pub fn at(point: Point, recorded_at: Ts) -> Self {
        Self {
            lat: point.lat,
            lon: point.lon,
            recorded_at,
            accuracy_meters: None,
            speed_mph: None,
            heading_degrees: None,
        }
    }

    /// Its point.
    #[must_use]
    pub fn point(&self) -> Point {
        Point {
            lat: self.lat,
            lon: self.lon,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawFix {
    lat: f64,
    lon: f64,
    recorded_at: Ts,
    accuracy_meters: Option<NonNegative>,
    speed_mph: Option<NonNegative>,
    heading_degrees: Option<f64>,
}

impl<'de> Deserialize<'de> for Fix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = RawFix::deserialize(deserializer)?;
        Point::new(raw.lat, raw.lon).map_err(D::Error::custom)?;
        if raw
            .heading_degrees
            .is_some_and(|heading| !(0.0..360.0).contains(&heading))
        {
            return Err(D::Error::custom(
                "headingDegrees is not a number from 0 to below 360",
            ));
        }
        Ok(Self {
            lat: raw.lat,
            lon: raw.lon,
            recorded_at: raw.recorded_at,
            accuracy_meters: raw.accuracy_meters,
            speed_mph: raw.speed_mph,
            heading_degrees: raw.heading_degrees,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_domain() {
        let nyc = Point::new(40.7128, -74.0060).expect("valid");
        let chicago = Point::new(41.8781, -87.6298).expect("valid");
        let midtown = Point::new(40.7580, -73.9855).expect("valid");
        assert!((nyc.distance_miles(&chicago) - 711.03).abs() < 0.01);
        assert!((nyc.distance_miles(&midtown) - 3.302).abs() < 0.0005);
        let near = Point::new(40.713_690, -74.0060).expect("valid");
        let far = Point::new(40.713_708, -74.0060).expect("valid");
        assert!((nyc.distance_meters(&near) - 98.96).abs() < 0.01);
        assert!((nyc.distance_meters(&far) - 100.97).abs() < 0.01);
        let antipode = Point::new(-40.7128, 105.994).expect("valid");
        assert!((nyc.distance_miles(&antipode) - EARTH_MILES * std::f64::consts::PI).abs() < 0.01);
    }

    #[test]
    fn coordinates_out_of_range_are_refused() {
        assert!(Point::new(90.1, 0.0).is_err());
        assert!(Point::new(0.0, -180.1).is_err());
        assert!(Point::new(f64::NAN, 0.0).is_err());
        assert!(Point::new(0.0, 0.0).is_ok());
    }
}
