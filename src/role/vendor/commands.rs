//! The vendor's commands (DOMAIN 5.2). Permission and ownership were checked before.

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::entity::{Metrics, PRIVATE, Profile, Vendor};
use super::reactions::set_status;
use crate::event::{
    Actor, BackgroundCheckStatus, Capability, Count1, Fix, Id, List, Point, Text,
    VendorLocationUpdated, VendorRegistered, VendorStatus, VendorStatusReason, VendorUpdated,
};
use crate::role::listing::{cursor, id_of, limit, next, page};
use crate::role::permission::Scope;
use crate::role::{Code, Command, HandlerError, Rejection, body_schema};
use crate::store::{Tx, params};

/// A vendor's positions between jobs are kept at most so often (DOMAIN 5.2).
const LOCATION_EVERY_MS: i64 = 60_000;
/// Fields that a vendor may change himself.
const OWN_FIELDS: [&str; 10] = [
    "contactName",
    "phone",
    "email",
    "capabilities",
    "location",
    "coverageRadiusMiles",
    "operatingHours",
    "timezone",
    "pricing",
    "payoutAccountRef",
];
/// Fields that only an admin may change.
const ADMIN_FIELDS: [&str; 2] = ["businessName", "insuranceExpiry"];

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct One {
    vendor_id: Id,
}

/// JSON Schema of `vendor.register`: a profile, and for an admin whose it is.
pub(super) fn register_body() -> Schema {
    let mut schema = body_schema::<Profile>();
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert(
            "vendorId".to_owned(),
            json!({"type": "string", "format": "uuid"}),
        );
        let request = json!({"type": ["string", "null"], "maxLength": 64});
        properties.insert("clientRequestId".to_owned(), request);
    }
    schema.insert("additionalProperties".to_owned(), false.into());
    schema
}

/// JSON Schema of `vendor.update`: any fields of a profile, and the version that they change.
pub(super) fn update_body() -> Schema {
    let mut schema = register_body();
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        let version = json!({"type": "integer", "minimum": 1});
        properties.insert("expectedVersion".to_owned(), version);
    }
    schema.insert(
        "required".to_owned(),
        json!(["vendorId", "expectedVersion"]),
    );
    schema
}

pub(super) fn run(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    match command.name.as_str() {
        "vendor.register" => register(tx, command),
        "vendor.update" => update(tx, command),
        "vendor.verify" => verify(tx, command),
        "vendor.set_availability" => set_availability(tx, command),
        "vendor.report_location" => report_location(tx, command),
        "vendor.get" => {
            let body: One = command.parse()?;
            let vendor = find(tx, body.vendor_id)?;
            Ok(tx.reply(&shown(&vendor, command))?)
        }
        "vendor.search" => search(tx, command),
        "vendor.list" => list(tx, command),
        other => Err(Rejection::new(Code::NotFound, format!("no command {other}")).into()),
    }
}

/// Whose profile a command is about.
pub(super) fn scope(tx: &Tx<'_>, command: &Command) -> Result<Scope, HandlerError> {
    match command.name.as_str() {
        "vendor.search" | "vendor.list" | "vendor.get" => Ok(Scope::Open),
        "vendor.register" => {
            let own = match command.actor() {
                Actor::Vendor(id) => Some(*id),
                _ => None,
            };
            let named = crate::role::listing::optional_id_of(command, "vendorId")?.or(own);
            Ok(Scope::Owned {
                driver: None,
                vendor: named,
                company: None,
            })
        }
        _ => {
            let vendor = find(tx, id_of(command, "vendorId")?)?;
            Ok(Scope::Owned {
                driver: None,
                vendor: Some(vendor.vendor_id),
                company: None,
            })
        }
    }
}

fn find(tx: &Tx<'_>, vendor_id: Id) -> Result<Vendor, HandlerError> {
    Vendor::find(tx, vendor_id)?.ok_or_else(|| {
        Rejection::new(Code::NotFound, format!("there is no vendor {vendor_id}")).into()
    })
}

/// Contact data and the payout account are for the vendor himself and for admins.
fn shown(vendor: &Vendor, command: &Command) -> Value {
    let mut value = vendor.entity();
    let own = matches!(command.actor(), Actor::Vendor(id) if *id == vendor.vendor_id);
    if let Some(map) = value
        .as_object_mut()
        .filter(|_| !own && !command.caller.is_admin())
    {
        for field in PRIVATE {
            map.remove(field);
        }
    }
    value
}

/// Reads a profile from a body that may have other fields beside it, naming the field where it does not fit.
fn profile_of(body: &Map<String, Value>) -> Result<Profile, HandlerError> {
    serde_path_to_error::deserialize(Value::Object(body.clone())).map_err(|error| {
        let text = error.inner().to_string();
        let path = error.path().to_string();
        let field = if path == "." {
            text.split('`').nth(1).unwrap_or("body").to_owned()
        } else {
            path
        };
        Rejection::field(field, text).into()
    })
}

fn refuse_unknown(body: &Map<String, Value>, known: &[&str]) -> Result<(), HandlerError> {
    let also = ["vendorId", "clientRequestId", "expectedVersion"];
    match body
        .keys()
        .find(|key| !known.contains(&key.as_str()) && !also.contains(&key.as_str()))
    {
        Some(key) => Err(Rejection::field(key.clone(), "is not a field of this command").into()),
        None => Ok(()),
    }
}

fn register(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let mut known: Vec<&str> = OWN_FIELDS.to_vec();
    known.extend(ADMIN_FIELDS);
    refuse_unknown(&command.body, &known)?;
    let vendor_id = match (
        command.actor(),
        crate::role::listing::optional_id_of(command, "vendorId")?,
    ) {
        (Actor::Vendor(id), _) => *id,
        (_, Some(named)) => named,
        // An admin may leave it to us; a vendor's account comes with the role auth.
        (_, None) => tx.new_id(),
    };
    let profile = profile_of(&command.body)?.sealed(tx, vendor_id)?;
    if Vendor::find(tx, vendor_id)?.is_some() {
        return Err(Rejection::new(
            Code::Conflict,
            format!("vendor {vendor_id} is registered already"),
        )
        .into());
    }
    let vendor = Vendor {
        vendor_id,
        profile,
        background_check_status: BackgroundCheckStatus::Pending,
        verified_at: None,
        registered_at: tx.now(),
        profile_version: 1,
        status: VendorStatus::Available,
        current_incident_id: None,
        wants_offline: false,
        last_location: None,
        metrics: Metrics::default(),
        metrics_version: 0,
    };
    vendor.save(tx)?;
    tx.emit(&registered(&vendor))?;
    Ok(tx.reply(&vendor.entity())?)
}

fn version(value: u64) -> Count1 {
    Count1::new(value.max(1)).expect("at least 1")
}

fn registered(vendor: &Vendor) -> VendorRegistered {
    let profile = vendor.profile.clone();
    VendorRegistered {
        vendor_id: vendor.vendor_id,
        business_name: profile.business_name,
        contact_name: profile.contact_name,
        phone: profile.phone,
        email: profile.email,
        capabilities: profile.capabilities,
        location: profile.location,
        coverage_radius_miles: profile.coverage_radius_miles,
        timezone: profile.timezone,
        operating_hours: profile.operating_hours,
        pricing: profile.pricing,
        insurance_expiry: profile.insurance_expiry,
        background_check_status: vendor.background_check_status,
        payout_account_ref: profile.payout_account_ref,
        profile_version: version(vendor.profile_version),
        registered_at: vendor.registered_at,
    }
}

/// Saves a changed profile and tells of it.
pub(super) fn tell_update(
    tx: &mut Tx<'_>,
    vendor: &mut Vendor,
    changed: Vec<Text<64>>,
) -> Result<(), HandlerError> {
    let Ok(changed_fields) = List::new(changed) else {
        return Ok(());
    };
    vendor.profile_version += 1;
    vendor.save(tx)?;
    let now = registered(vendor);
    tx.emit(&VendorUpdated {
        vendor_id: now.vendor_id,
        business_name: now.business_name,
        contact_name: now.contact_name,
        phone: now.phone,
        email: now.email,
        capabilities: now.capabilities,
        location: now.location,
        coverage_radius_miles: now.coverage_radius_miles,
        timezone: now.timezone,
        operating_hours: now.operating_hours,
        pricing: now.pricing,
        insurance_expiry: now.insurance_expiry,
        background_check_status: now.background_check_status,
        payout_account_ref: now.payout_account_ref,
        profile_version: now.profile_version,
        registered_at: now.registered_at,
        changed_fields,
    })?;
    Ok(())
}

fn expect_version(command: &Command, vendor: &Vendor) -> Result<(), HandlerError> {
    let expected = command
        .body
        .get("expectedVersion")
        .ok_or_else(|| Rejection::field("expectedVersion", "is missing"))?;
    if expected.as_u64() == Some(vendor.profile_version) {
        return Ok(());
    }
    let message = format!(
        "the profile has version {}, not {expected}",
        vendor.profile_version
    );
    Err(Rejection::new(Code::VersionConflict, message)
        .with_details(json!({ "version": vendor.profile_version }))
        .into())
}

fn update(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let mut known: Vec<&str> = OWN_FIELDS.to_vec();
    known.extend(ADMIN_FIELDS);
    refuse_unknown(&command.body, &known)?;
    if let Some(field) = ADMIN_FIELDS
        .iter()
        .find(|field| command.body.contains_key(**field) && !command.caller.is_admin())
    {
        let message = format!("only an admin may change {field}");
        return Err(Rejection {
            field: Some((*field).to_owned()),
            ..Rejection::new(Code::AuthorizationError, message)
        }
        .into());
    }
    let mut vendor = find(tx, id_of(command, "vendorId")?)?;
    expect_version(command, &vendor)?;
    let before = serde_json::to_value(&vendor.profile).unwrap_or(Value::Null);
    let mut merged = before.as_object().cloned().unwrap_or_default();
    for field in known {
        match command.body.get(field) {
            Some(Value::Null) => {
                merged.remove(field);
            }
            Some(value) => {
                merged.insert(field.to_owned(), value.clone());
            }
            None => {}
        }
    }
    vendor.profile = profile_of(&merged)?.sealed(tx, vendor.vendor_id)?;
    let after = serde_json::to_value(&vendor.profile).unwrap_or(Value::Null);
    let names = known_fields(&before, &after);
    tell_update(tx, &mut vendor, names)?;
    Ok(tx.reply(&vendor.entity())?)
}

/// Names of the fields that differ.
fn known_fields(before: &Value, after: &Value) -> Vec<Text<64>> {
    let mut names: Vec<&String> = [before, after]
        .iter()
        .filter_map(|value| value.as_object())
        .flat_map(Map::keys)
        .collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .filter(|name| before.get(name) != after.get(name))
        .map(|name| Text::lossy(name))
        .collect()
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Verify {
    vendor_id: Id,
    background_check_status: BackgroundCheckStatus,
    #[serde(rename = "note")]
    _note: Option<Text<500>>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

fn verify(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: Verify = command.parse()?;
    let mut vendor = find(tx, body.vendor_id)?;
    if vendor.background_check_status != body.background_check_status {
        vendor.background_check_status = body.background_check_status;
        vendor.verified_at =
            (body.background_check_status == BackgroundCheckStatus::Approved).then(|| tx.now());
        tell_update(tx, &mut vendor, vec![Text::lossy("backgroundCheckStatus")])?;
    }
    Ok(tx.reply(&vendor.entity())?)
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SetAvailability {
    vendor_id: Id,
    status: VendorStatus,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

fn set_availability(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: SetAvailability = command.parse()?;
    let mut vendor = find(tx, body.vendor_id)?;
    match (vendor.status, body.status) {
        (_, VendorStatus::Busy) => {
            return Err(Rejection::field(
                "status",
                "busy is never set by hand; use available or offline",
            )
            .into());
        }
        (VendorStatus::Busy, wanted) => {
            vendor.wants_offline = wanted == VendorStatus::Offline;
            vendor.save(tx)?;
        }
        (now, wanted) if now == wanted => {}
        (_, wanted) => set_status(tx, &mut vendor, wanted, None, VendorStatusReason::Manual)?,
    }
    Ok(tx.reply(&vendor.entity())?)
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ReportLocation {
    vendor_id: Id,
    fix: Fix,
}

fn report_location(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: ReportLocation = command.parse()?;
    let mut vendor = find(tx, body.vendor_id)?;
    if body.fix.recorded_at.ms() > tx.now().ms() + LOCATION_EVERY_MS {
        return Err(
            Rejection::field("fix.recordedAt", "is more than 60 s ahead of the clock").into(),
        );
    }
    let kept = vendor
        .last_location
        .as_ref()
        .is_none_or(|last| body.fix.recorded_at.ms() - last.recorded_at.ms() >= LOCATION_EVERY_MS);
    if kept {
        vendor.last_location = Some(body.fix.clone());
        vendor.save(tx)?;
        let incident_id = vendor.current_incident_id;
        tx.emit(&VendorLocationUpdated {
            vendor_id: vendor.vendor_id,
            location: body.fix,
            incident_id,
        })?;
    }
    let vendor_id = vendor.vendor_id;
    Ok(tx.reply(&Reported { vendor_id, kept })?)
}

/// What became of a reported position.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "LocationReported")]
pub(super) struct Reported {
    vendor_id: Id,
    /// Positions are kept a minute apart.
    kept: bool,
}

/// A vendor and how far away he is.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "VendorNearby")]
pub(super) struct Nearby {
    #[serde(flatten)]
    _vendor: Vendor,
    #[serde(rename = "distanceMiles")]
    _distance_miles: f64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Search {
    lat: f64,
    lon: f64,
    radius_miles: Option<f64>,
    capability: Option<Capability>,
    available_only: Option<bool>,
    limit: Option<usize>,
}

fn search(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: Search = command.parse()?;
    let centre = Point::new(body.lat, body.lon).map_err(|error| {
        let field = if error.to_string().starts_with("lat") {
            "lat"
        } else {
            "lon"
        };
        Rejection::field(field, error.to_string())
    })?;
    let radius = body.radius_miles.unwrap_or(50.0);
    if !(radius > 0.0 && radius <= 500.0) {
        return Err(Rejection::field("radiusMiles", "not a number over 0 and up to 500").into());
    }
    let most = body.limit.unwrap_or(10);
    if !(1..=100).contains(&most) {
        return Err(Rejection::field("limit", "not a whole number from 1 to 100").into());
    }
    // One degree of latitude is 69.09 miles; a little more than needed, and the distance decides.
    let span = radius / 69.0;
    let near: Vec<Vendor> = tx.documents(
        "SELECT doc FROM vendor WHERE lat BETWEEN ?1 AND ?2 AND (NOT ?3 OR status = 'available') ORDER BY vendor_id",
        params![centre.lat - span, centre.lat + span, body.available_only.unwrap_or(false)],
    )?;
    let mut found: Vec<(f64, Vendor)> = near
        .into_iter()
        .filter(|vendor| {
            body.capability
                .is_none_or(|wanted| vendor.profile.capabilities.get().contains(&wanted))
        })
        .map(|vendor| (centre.distance_miles(&vendor.profile.location), vendor))
        .filter(|(miles, _)| *miles <= radius)
        .collect();
    found.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let items: Vec<Value> = found
        .iter()
        .take(most)
        .map(|(miles, vendor)| {
            let mut item = shown(vendor, command);
            item["distanceMiles"] = json!(miles);
            item
        })
        .collect();
    Ok(tx.reply(&page(&items, None))?)
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ListBody {
    status: Option<VendorStatus>,
    limit: Option<u64>,
    cursor: Option<String>,
}

fn list(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: ListBody = command.parse()?;
    let most = limit(body.limit)?;
    let (before_ms, before_id) = cursor(body.cursor.as_deref())?;
    let vendors: Vec<Vendor> = tx.documents(
        "SELECT doc FROM vendor WHERE (?1 IS NULL OR status = ?1) AND (registered_at_ms, vendor_id) < (?2, ?3)
         ORDER BY registered_at_ms DESC, vendor_id DESC LIMIT ?4",
        params![body.status.map(VendorStatus::as_str), before_ms, before_id, most as i64],
    )?;
    let more = vendors.last().filter(|_| vendors.len() as u64 == most);
    let more = more.map(|last| next(last.registered_at.ms(), &last.vendor_id.to_string()));
    let items: Vec<Value> = vendors
        .iter()
        .map(|vendor| shown(vendor, command))
        .collect();
    Ok(tx.reply(&page(&items, more))?)
}
