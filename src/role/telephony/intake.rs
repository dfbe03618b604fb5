//! What a call must bring before it is an incident (DOMAIN 2.1 T2 to T4, 5.8).

use schemars::JsonSchema;
use serde::Deserialize;

use super::entity::{Call, IntakeStatus, Profile};
use super::webhook::INTAKE;
use crate::event::{
    Actor, CallAttentionNeeded, Id, IncidentRequested, IncidentType, List, Payer, PaymentType,
    Place, Point, Priority, Text,
};
use crate::role::{Code, Command, HandlerError, Rejection};
use crate::store::Tx;

/// `call.intake`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Body {
    call_id: Id,
    driver_id: Option<Id>,
    #[serde(rename = "type")]
    incident_type: Option<IncidentType>,
    /// 1 tire, 2 engine, 3 tow, 0 operator.
    keypad: Option<Text<1>>,
    #[schemars(range(min = -90, max = 90))]
    lat: Option<f64>,
    #[schemars(range(min = -180, max = 180))]
    lon: Option<f64>,
    address: Option<Text<256>>,
    description: Option<Text<1000>>,
    priority: Option<Priority>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// `call.drop_intake`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Drop {
    call_id: Id,
    reason: Text<200>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// Takes what the caller pressed.
pub(super) fn press(call: &mut Call, keypad: Option<&str>) -> Result<(), Rejection> {
    match keypad {
        None => {}
        Some("0") => call.intake.operator_wanted = true,
        Some("1") => call.intake.incident_type = Some(IncidentType::Tire),
        Some("2") => call.intake.incident_type = Some(IncidentType::Engine),
        Some("3") => call.intake.incident_type = Some(IncidentType::Tow),
        Some(_) => return Err(Rejection::field("keypad", "is none of 0, 1, 2, 3")),
    }
    Ok(())
}

/// Saves the call, and asks for its incident once all is known.
pub(super) fn complete(
    tx: &mut Tx<'_>,
    call: &mut Call,
    actor: &Actor,
) -> Result<(), HandlerError> {
    let ready = (
        call.driver_id,
        call.intake.incident_type,
        call.intake.location.clone(),
        call.phone.clone(),
    );
    let (Some(driver_id), Some(incident_type), Some(location), Some(phone)) = ready else {
        return Ok(call.save(tx)?);
    };
    if !call.intake.status.open() {
        return Ok(call.save(tx)?);
    }
    call.intake.status = IntakeStatus::Requested;
    call.save(tx)?;
    tx.cancel_timer(INTAKE, &call.call_id.to_string())?;
    let payer_type = match call.payment_type {
        Some(PaymentType::IndependentContractor) => Payer::DriverIc,
        Some(PaymentType::Company) | None => Payer::BackOffice,
    };
    let requested_at = tx.now();
    tx.emit(&IncidentRequested {
        call_id: call.call_id,
        driver_id,
        company_id: call.company_id,
        incident_type,
        priority: call.intake.priority.unwrap_or(Priority::Normal),
        location,
        phone,
        description: call.intake.description.clone(),
        payer_type,
        requested_by: actor.clone(),
        requested_at,
    })?;
    Ok(())
}

/// The 60 s are over: people are called, once.
pub(super) fn overdue(tx: &mut Tx<'_>, call: &mut Call) -> Result<(), HandlerError> {
    let Some(phone) = call.phone.clone() else {
        return Ok(());
    };
    if call.intake.status != IntakeStatus::Collecting {
        return Ok(());
    }
    let Ok(missing) = List::new(call.missing()) else {
        return Ok(()); // Nothing is missing.
    };
    call.intake.status = IntakeStatus::Waiting;
    call.save(tx)?;
    tx.emit(&CallAttentionNeeded {
        call_id: call.call_id,
        driver_id: call.driver_id,
        company_id: call.company_id,
        phone,
        missing,
        since: call.ended_at.unwrap_or(tx.now()),
    })?;
    Ok(())
}

pub(super) fn intake(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: Body = command.parse()?;
    let mut call = super::commands::find(tx, body.call_id)?;
    // So that equal things are equal.
    call.seal(tx)?;
    let before = call.clone();
    if let Some(driver_id) = body.driver_id {
        set_driver(tx, command, &mut call, driver_id)?;
    }
    if body.incident_type.is_some() {
        call.intake.incident_type = body.incident_type;
    }
    press(&mut call, body.keypad.as_ref().map(Text::as_str))?;
    match (body.lat, body.lon) {
        (Some(lat), Some(lon)) => {
            let point = Point::new(lat, lon).map_err(|error| {
                let text = error.to_string();
                let field = if text.starts_with("lat") {
                    "lat"
                } else {
                    "lon"
                };
                Rejection::field(field, text)
            })?;
            let place = Place::at(point);
            let address = body.address;
            let place = Place { address, ..place };
            call.intake.location = Some(tx.seal(&call.subject(), place)?);
        }
        (None, None) if body.address.is_none() => {}
        (None, _) => return Err(Rejection::field("lat", "is missing").into()),
        (_, None) => return Err(Rejection::field("lon", "is missing").into()),
    }
    if let Some(description) = body.description {
        call.intake.description = Some(tx.seal(&call.subject(), description)?);
    }
    if body.priority.is_some() {
        call.intake.priority = body.priority;
    }
    match before.intake.status {
        IntakeStatus::Dropped => {
            let message = "the call's intake was dropped";
            return Err(Rejection::new(Code::InvalidTransition, message).into());
        }
        // The same again is the same success; anything else would change what was asked for.
        IntakeStatus::Requested if call != before => {
            let message = "the call's incident was asked for already";
            return Err(Rejection::new(Code::Conflict, message).into());
        }
        IntakeStatus::Requested => {}
        IntakeStatus::Collecting | IntakeStatus::Waiting => {
            complete(tx, &mut call, command.actor())?;
        }
    }
    Ok(tx.reply(&call)?)
}

/// A dispatcher says who is calling.
fn set_driver(
    tx: &Tx<'_>,
    command: &Command,
    call: &mut Call,
    driver_id: Id,
) -> Result<(), HandlerError> {
    let caller = &command.caller;
    let dispatcher = matches!(caller.actor, Actor::Dispatcher(_)) || caller.is_admin();
    if !dispatcher {
        return Err(Rejection::field("driverId", "only a dispatcher may set it").into());
    }
    let Some(driver) = Profile::active(tx, driver_id)? else {
        return Err(Rejection::field("driverId", "no active driver has this id").into());
    };
    if !caller.is_admin() && driver.company_id != caller.company {
        let message = "this driver belongs to another company";
        return Err(Rejection::new(Code::AuthorizationError, message).into());
    }
    Ok(call.belongs_to(tx, &driver)?)
}

pub(super) fn drop_intake(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: Drop = command.parse()?;
    if matches!(command.actor(), Actor::Call(_) | Actor::Provider(_)) {
        let message = "only a dispatcher may drop an intake";
        return Err(Rejection::new(Code::AuthorizationError, message).into());
    }
    let mut call = super::commands::find(tx, body.call_id)?;
    match call.intake.status {
        IntakeStatus::Dropped => {}
        IntakeStatus::Requested => {
            let message = "the call's incident was asked for already";
            return Err(Rejection::new(Code::InvalidTransition, message).into());
        }
        IntakeStatus::Collecting | IntakeStatus::Waiting => {
            call.intake.status = IntakeStatus::Dropped;
            call.intake.drop_reason = Some(tx.seal(&call.subject(), body.reason)?);
            tx.cancel_timer(INTAKE, &call.call_id.to_string())?;
            call.save(tx)?;
        }
    }
    Ok(tx.reply(&call)?)
}
