//! A new incident: from a driver's report, from an admin, or from a call (DOMAIN 2.1, 5.1).

use schemars::JsonSchema;
use serde::Deserialize;

use super::IncidentRole;
use super::commands::via;
use super::entity::{Incident, TimelineEntry, UNKNOWN_AREA, add_to_timeline};
use crate::event::{
    Actor, E164, Id, IncidentCreated, IncidentOrigin, IncidentStatus, IncidentType, Payer,
    Personal, Place, Point, Priority, Text,
};
use crate::role::{Command, HandlerError, Rejection};
use crate::store::{Tx, params};

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Create {
    driver_id: Option<Id>,
    company_id: Option<Id>,
    payer_type: Option<Payer>,
    #[serde(rename = "type")]
    incident_type: IncidentType,
    lat: f64,
    lon: f64,
    address: Option<Text<256>>,
    phone: Option<E164>,
    #[serde(default = "normal")]
    priority: Priority,
    description: Option<Text<1000>>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

fn normal() -> Priority {
    Priority::Normal
}

impl IncidentRole {
    pub(super) fn create(
        &mut self,
        tx: &mut Tx<'_>,
        command: &Command,
    ) -> Result<(), HandlerError> {
        let body: Create = command.parse()?;
        let admin = command.caller.is_admin();
        let driver_id = match (command.actor(), body.driver_id) {
            (Actor::Driver(id), named) if named.is_none_or(|named| named == *id) => *id,
            (Actor::Driver(_), _) => {
                return Err(Rejection::field("driverId", "only an admin may name a driver").into());
            }
            (_, Some(named)) if admin => named,
            _ => return Err(Rejection::field("driverId", "is missing").into()),
        };
        if !admin && (body.company_id.is_some() || body.payer_type.is_some()) {
            let field = if body.company_id.is_some() {
                "companyId"
            } else {
                "payerType"
            };
            return Err(Rejection::field(
                field,
                "only an admin may set it; yours comes from your token",
            )
            .into());
        }
        if let Some(request) = &command.client_request_id {
            let existing: Option<Incident> = tx.document(
                "SELECT doc FROM incident WHERE driver_id = ?1 AND client_request_id = ?2",
                params![driver_id.to_string(), request],
            )?;
            if let Some(existing) = existing {
                return Ok(tx.reply(&existing)?);
            }
        }
        let point = Point::new(body.lat, body.lon).map_err(|error| {
            let field = if error.to_string().starts_with("lat") {
                "lat"
            } else {
                "lon"
            };
            Rejection::field(field, error.to_string())
        })?;
        let by_token = if command.caller.independent_contractor {
            Payer::DriverIc
        } else {
            Payer::BackOffice
        };
        let new = NewIncident {
            driver_id,
            company_id: body
                .company_id
                .or(command.caller.company.filter(|_| !admin)),
            payer_type: body.payer_type.unwrap_or(by_token),
            incident_type: body.incident_type,
            priority: body.priority,
            location: Personal::plain(Place {
                address: body.address,
                ..Place::at(point)
            }),
            phone: body.phone.map(Personal::plain),
            description: body.description.map(Personal::plain),
            call_id: None,
            actor: command.actor().clone(),
            via: via(command),
        };
        let incident = new.store(tx, command.client_request_id.as_deref())?;
        Ok(tx.reply(&incident)?)
    }
}

/// What a new incident is made of, from a command or from a call.
pub(super) struct NewIncident {
    pub driver_id: Id,
    pub company_id: Option<Id>,
    pub payer_type: Payer,
    pub incident_type: IncidentType,
    pub priority: Priority,
    pub location: Personal<Place>,
    pub phone: Option<Personal<E164>>,
    pub description: Option<Personal<Text<1000>>>,
    pub call_id: Option<Id>,
    pub actor: Actor,
    pub via: Option<Actor>,
}

impl NewIncident {
    pub(super) fn store(
        self,
        tx: &mut Tx<'_>,
        client_request_id: Option<&str>,
    ) -> Result<Incident, HandlerError> {
        let incident_id = tx.new_id();
        tx.correlate(incident_id)?;
        let place = tx.reveal(&self.location)?;
        let area = place.map(|place| place.point().rounded_to_tenth());
        // Whatever stands about an incident is its driver's, whoever said it.
        let driver = self.driver_id;
        let location = tx.sealed(&driver, self.location)?;
        let phone = self.phone.map(|phone| tx.sealed(&driver, phone));
        let description = self.description.map(|text| tx.sealed(&driver, text));
        let origin = if self.call_id.is_some() {
            IncidentOrigin::Call
        } else {
            IncidentOrigin::App
        };
        let incident = Incident {
            incident_id,
            driver_id: self.driver_id,
            company_id: self.company_id,
            payer_type: self.payer_type,
            incident_type: self.incident_type,
            priority: self.priority,
            location,
            area_location: area,
            phone: phone.transpose()?,
            description: description.transpose()?,
            origin,
            call_id: self.call_id,
            status: IncidentStatus::Created,
            version: 1,
            cycle: 1,
            escalations: 0,
            created_at: tx.now(),
            assignment: None,
            arrived_at: None,
            work_started_at: None,
            completed_at: None,
            cancelled_by: None,
            call: super::reactions::call_record(tx, self.call_id)?,
        };
        incident.insert(tx, client_request_id)?;
        let entry = TimelineEntry {
            seq: 0,
            from: None,
            to: IncidentStatus::Created,
            at: tx.now(),
            actor: self.actor,
            via: self.via,
            reason: None,
            given_reason: None,
            note: None,
        };
        add_to_timeline(tx, incident_id, entry)?;
        tx.emit(&IncidentCreated {
            incident_id,
            driver_id: incident.driver_id,
            company_id: incident.company_id,
            incident_type: incident.incident_type,
            priority: incident.priority,
            location: incident.location.clone(),
            area_location: area.unwrap_or(UNKNOWN_AREA),
            phone: incident.phone.clone(),
            payer_type: incident.payer_type,
            origin,
            call_id: incident.call_id,
        })?;
        Ok(incident)
    }
}
