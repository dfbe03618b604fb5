//! The incident's commands (DOMAIN 5.1). Permission and ownership were checked before.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::IncidentRole;
use super::entity::{Incident, TimelineEntry, add_to_timeline, timeline};
use super::media::{self, Media};
use super::transition::{By, hundredths, release, request_match, transition};
use crate::event::{
    Actor, Code, Id, IncidentCancelled, IncidentRated, IncidentStatus, LineItem, List,
    MatchRequestReason, Miles, NonNegative, RatedBy, Stars, Text, WorkCompleted, WorkStarted,
};
use crate::role::permission::Scope;
use crate::role::{self, Command, HandlerError, Rejection};
use crate::store::{Tx, params};

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct One {
    incident_id: Id,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ListBody {
    driver_id: Option<Id>,
    vendor_id: Option<Id>,
    company_id: Option<Id>,
    status: Option<IncidentStatus>,
    limit: Option<u64>,
    cursor: Option<String>,
}

/// The body of every command that changes an incident; each takes the fields that its row of DOMAIN 5.1 lists.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Change {
    incident_id: Id,
    expected_version: Option<u64>,
    status: Option<IncidentStatus>,
    reason: Option<Code>,
    note: Option<Text<500>>,
    line_items: Option<List<LineItem, 1, 50>>,
    notes: Option<Text<2000>>,
    media_ids: Option<List<Id, 0, 50>>,
    stars: Option<Stars>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

impl IncidentRole {
    pub(super) fn run_command(
        &mut self,
        tx: &mut Tx<'_>,
        command: &Command,
    ) -> Result<(), HandlerError> {
        match command.name.as_str() {
            "incident.create" => self.create(tx, command),
            "incident.get" => {
                let body: One = command.parse()?;
                let incident = find(tx, body.incident_id)?;
                reply_with_timeline(tx, &incident)
            }
            "incident.list" => list(tx, command),
            "incident.add_media" => media::add(tx, command),
            _ => self.change(tx, command),
        }
    }

    fn change(&mut self, tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
        let body: Change = command.parse()?;
        let mut incident = find(tx, body.incident_id)?;
        tx.correlate(incident.incident_id)?;
        if command.name == "incident.rate" {
            return rate(tx, command, &incident, &body);
        }
        if command.name == "incident.cancel"
            && incident.status == IncidentStatus::Cancelled
            && incident.cancelled_by.as_ref() == Some(command.actor())
        {
            return Ok(tx.reply(&incident)?);
        }
        check_version(command, &incident, &body)?;
        let note = body.note.clone();
        let note = note.map(|note| tx.seal(&incident.driver_id, note));
        let by = By {
            actor: command.actor().clone(),
            via: via(command),
            reason: body.reason.clone(),
            given_reason: None,
            note: note.transpose()?,
        };
        match command.name.as_str() {
            "incident.update_status" => self.update_status(tx, &mut incident, &body, by)?,
            "incident.start_work" => self.start_work(tx, &mut incident, by)?,
            "incident.complete_work" => self.complete_work(tx, &mut incident, &body, by)?,
            "incident.cancel" => self.cancel(tx, &mut incident, by)?,
            "incident.withdraw" => {
                reason_of(&by)?;
                release(
                    tx,
                    &self.options,
                    &mut incident,
                    MatchRequestReason::VendorWithdrew,
                    by,
                )?;
            }
            "incident.release" => {
                reason_of(&by)?;
                release(
                    tx,
                    &self.options,
                    &mut incident,
                    MatchRequestReason::DispatcherRelease,
                    by,
                )?;
            }
            "incident.close" => self.close(tx, &mut incident, by)?,
            "incident.rematch" => self.rematch(tx, &mut incident, &by)?,
            other => {
                return Err(
                    Rejection::new(role::Code::NotFound, format!("no command {other}")).into(),
                );
            }
        }
        Ok(tx.reply(&incident)?)
    }

    fn update_status(
        &mut self,
        tx: &mut Tx<'_>,
        incident: &mut Incident,
        body: &Change,
        by: By,
    ) -> Result<(), HandlerError> {
        let to = body
            .status
            .ok_or_else(|| Rejection::field("status", "is missing"))?;
        match to {
            IncidentStatus::VendorEnRoute => transition(tx, &self.options, incident, to, by),
            IncidentStatus::VendorArrived => {
                if matches!(by.actor, Actor::Vendor(_)) {
                    let message = "an arrival comes from positions, or from a dispatcher, never from the vendor by hand";
                    return Err(Rejection::new(role::Code::AuthorizationError, message).into());
                }
                incident.arrived_at = Some(tx.now());
                transition(tx, &self.options, incident, to, by)
            }
            IncidentStatus::WorkInProgress => self.start_work(tx, incident, by),
            IncidentStatus::WorkCompleted => self.complete_work(tx, incident, body, by),
            IncidentStatus::Closed => self.close(tx, incident, by),
            IncidentStatus::Created
            | IncidentStatus::VendorAssigned
            | IncidentStatus::PaymentPending
            | IncidentStatus::Cancelled => {
                let message =
                    format!("{to} is never set by hand; there is a command or an event for it");
                Err(Rejection::new(role::Code::InvalidTransition, message).into())
            }
        }
    }

    fn start_work(
        &mut self,
        tx: &mut Tx<'_>,
        incident: &mut Incident,
        by: By,
    ) -> Result<(), HandlerError> {
        let started_at = tx.now();
        incident.work_started_at = Some(started_at);
        transition(
            tx,
            &self.options,
            incident,
            IncidentStatus::WorkInProgress,
            by,
        )?;
        tx.emit(&WorkStarted {
            incident_id: incident.incident_id,
            vendor_id: assigned(incident)?,
            driver_id: incident.driver_id,
            incident_type: incident.incident_type,
            started_at,
        })?;
        Ok(())
    }

    fn complete_work(
        &mut self,
        tx: &mut Tx<'_>,
        incident: &mut Incident,
        body: &Change,
        by: By,
    ) -> Result<(), HandlerError> {
        let completed_at = tx.now();
        incident.completed_at = Some(completed_at);
        transition(
            tx,
            &self.options,
            incident,
            IncidentStatus::WorkCompleted,
            by,
        )?;
        let started_at = incident.work_started_at.unwrap_or(completed_at);
        let minutes = (completed_at - started_at).num_milliseconds().max(0) as f64 / 60_000.0;
        let media = body
            .media_ids
            .as_ref()
            .map(|ids| media::references(tx, incident.incident_id, ids))
            .transpose()?;
        let notes = body.notes.clone();
        let notes = notes.map(|notes| tx.seal(&incident.driver_id, notes));
        tx.emit(&WorkCompleted {
            incident_id: incident.incident_id,
            vendor_id: assigned(incident)?,
            driver_id: incident.driver_id,
            company_id: incident.company_id,
            incident_type: incident.incident_type,
            completed_at,
            duration_minutes: NonNegative::new(hundredths(minutes)).expect("not negative"),
            distance_miles: incident
                .assignment
                .as_ref()
                .and_then(|a| Miles::new(a.distance_miles).ok()),
            payer_type: incident.payer_type,
            line_items: body.line_items.clone(),
            notes: notes.transpose()?,
            media_urls: media,
        })?;
        Ok(())
    }

    fn cancel(
        &mut self,
        tx: &mut Tx<'_>,
        incident: &mut Incident,
        by: By,
    ) -> Result<(), HandlerError> {
        let reason = reason_of(&by)?;
        let previous_status = incident.status;
        incident.cancelled_by = Some(by.actor.clone());
        transition(
            tx,
            &self.options,
            incident,
            IncidentStatus::Cancelled,
            by.clone(),
        )?;
        tx.emit(&IncidentCancelled {
            incident_id: incident.incident_id,
            driver_id: incident.driver_id,
            vendor_id: incident.vendor_id(),
            company_id: incident.company_id,
            previous_status,
            reason,
            note: by.note,
            cancelled_by: by.actor,
            cancelled_at: tx.now(),
        })?;
        Ok(())
    }

    fn close(
        &mut self,
        tx: &mut Tx<'_>,
        incident: &mut Incident,
        by: By,
    ) -> Result<(), HandlerError> {
        if matches!(by.actor, Actor::Vendor(_)) {
            return Err(Rejection::new(
                role::Code::AuthorizationError,
                "a vendor may not close an incident",
            )
            .into());
        }
        reason_of(&by)?;
        transition(tx, &self.options, incident, IncidentStatus::Closed, by)
    }

    fn rematch(
        &mut self,
        tx: &mut Tx<'_>,
        incident: &mut Incident,
        by: &By,
    ) -> Result<(), HandlerError> {
        let escalated: Option<i64> = tx.value(
            "SELECT count(*) FROM escalation WHERE incident_id = ?1 AND cycle = ?2",
            params![incident.incident_id.to_string(), incident.cycle as i64],
        )?;
        if incident.status != IncidentStatus::Created || escalated.unwrap_or(0) == 0 {
            let message =
                "matching starts again only for an incident that is created and escalated";
            return Err(Rejection::new(role::Code::InvalidTransition, message).into());
        }
        incident.cycle += 1;
        incident.version += 1;
        incident.save(tx)?;
        let entry = TimelineEntry {
            seq: 0,
            from: Some(incident.status),
            to: incident.status,
            at: tx.now(),
            actor: by.actor.clone(),
            via: by.via.clone(),
            reason: Code::new("dispatcher_restart").ok(),
            given_reason: by.reason.clone(),
            note: by.note.clone(),
        };
        add_to_timeline(tx, incident.incident_id, entry)?;
        request_match(tx, incident, MatchRequestReason::DispatcherRestart, None)
    }
}

/// The reason, which these commands need (DOMAIN 5.1).
fn reason_of(by: &By) -> Result<Code, Rejection> {
    by.reason
        .clone()
        .ok_or_else(|| Rejection::field("reason", "is missing"))
}

fn rate(
    tx: &mut Tx<'_>,
    command: &Command,
    incident: &Incident,
    body: &Change,
) -> Result<(), HandlerError> {
    let stars = body
        .stars
        .ok_or_else(|| Rejection::field("stars", "is missing"))?;
    use IncidentStatus as S;
    if !matches!(
        incident.status,
        S::WorkCompleted | S::PaymentPending | S::Closed
    ) {
        let message = format!("an incident that is {} can't be rated yet", incident.status);
        return Err(Rejection::new(role::Code::InvalidTransition, message).into());
    }
    let rated_by = if matches!(command.actor(), Actor::Vendor(_)) {
        RatedBy::Vendor
    } else {
        RatedBy::Driver
    };
    let first = tx.execute(
        "INSERT INTO rating (incident_id, rated_by) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        params![incident.incident_id.to_string(), rated_by.as_str()],
    )?;
    if first == 0 {
        return Err(Rejection::new(role::Code::Conflict, "this side has rated already").into());
    }
    tx.emit(&IncidentRated {
        incident_id: incident.incident_id,
        driver_id: incident.driver_id,
        vendor_id: assigned(incident)?,
        rated_by,
        stars,
        rated_at: tx.now(),
    })?;
    Ok(tx.reply(incident)?)
}

fn check_version(
    command: &Command,
    incident: &Incident,
    body: &Change,
) -> Result<(), HandlerError> {
    match body.expected_version {
        None if command.name == "incident.cancel" => Ok(()),
        None => Err(Rejection::field("expectedVersion", "is missing").into()),
        Some(version) if version == incident.version => Ok(()),
        Some(version) => {
            let message = format!(
                "the incident has version {}, not {version}",
                incident.version
            );
            Err(Rejection::new(role::Code::VersionConflict, message)
                .with_details(json!({ "version": incident.version, "status": incident.status }))
                .into())
        }
    }
}

fn assigned(incident: &Incident) -> Result<Id, HandlerError> {
    incident
        .vendor_id()
        .ok_or_else(|| HandlerError::Transient("an incident at work has no vendor".to_owned()))
}

pub(super) fn via(command: &Command) -> Option<Actor> {
    command.caller.operator.clone().map(Actor::Operator)
}

pub(super) fn find(tx: &Tx<'_>, incident_id: Id) -> Result<Incident, HandlerError> {
    Incident::find(tx, incident_id)?.ok_or_else(|| {
        Rejection::new(
            role::Code::NotFound,
            format!("there is no incident {incident_id}"),
        )
        .into()
    })
}

/// An incident with its history and its media, each oldest first.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "IncidentWithTimeline")]
pub(super) struct WithTimeline {
    #[serde(flatten)]
    incident: Incident,
    timeline: Vec<TimelineEntry>,
    media: Vec<Media>,
}

fn reply_with_timeline(tx: &mut Tx<'_>, incident: &Incident) -> Result<(), HandlerError> {
    let timeline = timeline(tx, incident.incident_id)?;
    let media = media::of(tx, incident.incident_id)?;
    Ok(tx.reply(&WithTimeline {
        incident: incident.clone(),
        timeline,
        media,
    })?)
}

fn list(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let mut body: ListBody = command.parse()?;
    let limit = role::listing::limit(body.limit)?;
    let others = || {
        Rejection::new(
            role::Code::AuthorizationError,
            "this is somebody else's listing",
        )
    };
    // Ownership comes before the limit: everybody sees his own, whatever he asked for.
    match command.actor() {
        Actor::Driver(id) => {
            if body.driver_id.is_some_and(|asked| asked != *id) {
                return Err(others().into());
            }
            body.driver_id = Some(*id);
        }
        Actor::Vendor(id) => {
            if body.vendor_id.is_some_and(|asked| asked != *id) {
                return Err(others().into());
            }
            body.vendor_id = Some(*id);
        }
        Actor::Dispatcher(_) => {
            if body.company_id.is_some() && body.company_id != command.caller.company {
                return Err(others().into());
            }
            body.company_id = command.caller.company;
        }
        _ => {}
    }
    let platform =
        matches!(command.actor(), Actor::Dispatcher(_)) && command.caller.company.is_none();
    let (before_ms, before_id) = role::listing::cursor(body.cursor.as_deref())?;
    let incidents: Vec<Incident> = tx.documents(
        "SELECT doc FROM incident WHERE (?1 IS NULL OR driver_id = ?1) AND (?2 IS NULL OR vendor_id = ?2)
            AND (?3 IS NULL OR company_id = ?3) AND (?4 IS NULL OR status = ?4) AND (NOT ?5 OR company_id IS NULL)
            AND (created_at_ms, incident_id) < (?6, ?7)
         ORDER BY created_at_ms DESC, incident_id DESC LIMIT ?8",
        params![
            body.driver_id.map(|id| id.to_string()),
            body.vendor_id.map(|id| id.to_string()),
            body.company_id.map(|id| id.to_string()),
            body.status.map(IncidentStatus::as_str),
            platform,
            before_ms,
            before_id,
            limit as i64
        ],
    )?;
    let next = incidents.last().filter(|_| incidents.len() as u64 == limit);
    let next =
        next.map(|last| role::listing::next(last.created_at.ms(), &last.incident_id.to_string()));
    Ok(tx.reply(&role::listing::page(&incidents, next))?)
}

/// Whose incident a command is about.
pub(super) fn scope(tx: &Tx<'_>, command: &Command) -> Result<Scope, HandlerError> {
    if matches!(command.name.as_str(), "incident.create" | "incident.list") {
        return Ok(Scope::Open);
    }
    let incident_id = role::listing::id_of(command, "incidentId")?;
    let incident = find(tx, incident_id)?;
    Ok(Scope::Owned {
        driver: Some(incident.driver_id),
        vendor: incident.vendor_id(),
        company: incident.company_id,
    })
}
