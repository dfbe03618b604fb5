//! What an incident does on other roles' events and on its timers (DOMAIN 5.1).

use super::IncidentRole;
use super::create::NewIncident;
use super::entity::{Assignment, CallRecord, Incident, TimelineEntry, UNKNOWN_AREA};
use super::media;
use super::transition::{
    ARRIVAL, By, PAYMENT_OVERDUE, WORK_OVERDUE, arrival_due, count, escalate, transition,
    vendor_timeout,
};
use crate::event::{
    Actor, DeadReason, EscalationReason, ExhaustReason, Id, IncidentAssigned, IncidentRequested,
    IncidentStatus, Known, MatchExhausted, OfferAccepted, Personal, Place, VendorArrived,
};
use crate::role::{HandlerError, Received, Timer};
use crate::store::{Error, Tx, params};

impl IncidentRole {
    pub(super) fn on_event(
        &mut self,
        tx: &mut Tx<'_>,
        received: &Received,
    ) -> Result<(), HandlerError> {
        match received.event.known() {
            Some(Known::OfferAccepted(accepted)) => self.on_accepted(tx, accepted),
            Some(Known::MatchExhausted(exhausted)) => on_exhausted(tx, exhausted),
            Some(Known::VendorArrived(arrived)) => self.on_arrived(tx, arrived),
            Some(Known::PaymentCreated(payment)) => {
                self.on_payment(tx, payment.incident_id, IncidentStatus::PaymentPending)
            }
            Some(Known::PaymentCompleted(payment)) => {
                self.on_payment(tx, payment.incident_id, IncidentStatus::Closed)
            }
            Some(Known::IncidentRequested(requested)) => on_requested(tx, requested),
            Some(Known::CallEnded(ended)) => {
                let record = CallRecord {
                    recording_ref: ended.recording_ref.clone(),
                    ..CallRecord::default()
                };
                on_call(tx, ended.call_id, record)
            }
            Some(Known::CallSummaryGenerated(summary)) => {
                let record = CallRecord {
                    transcript_id: Some(summary.transcript_id),
                    summary_id: Some(summary.summary_id),
                    ..CallRecord::default()
                };
                on_call(tx, summary.call_id, record)
            }
            Some(Known::UserDataDeleted(deleted)) => forget(tx, deleted.user_id),
            _ => Ok(()),
        }
    }

    fn on_accepted(
        &mut self,
        tx: &mut Tx<'_>,
        accepted: &OfferAccepted,
    ) -> Result<(), HandlerError> {
        // An incident that this site does not own is another site's to assign (DESIGN 8, home).
        let Some(mut incident) = Incident::find(tx, accepted.incident_id)? else {
            return Ok(());
        };
        let cycle = accepted.cycle.get();
        let same = incident
            .assignment
            .as_ref()
            .is_some_and(|assignment| assignment.offer_id == accepted.offer_id);
        if same || cycle < incident.cycle || incident.status == IncidentStatus::Cancelled {
            return Ok(());
        }
        if cycle > incident.cycle {
            return Err(HandlerError::NotYet(format!(
                "cycle {cycle} of the incident has not begun here"
            )));
        }
        if incident.status != IncidentStatus::Created {
            let message = format!(
                "offer {} was accepted while another one is assigned",
                accepted.offer_id
            );
            return Err(HandlerError::Permanent(DeadReason::Conflict, message));
        }
        let now = tx.now();
        let assignment = Assignment {
            vendor_id: accepted.vendor_id,
            offer_id: accepted.offer_id,
            assigned_at: now,
            arrival_due_at: arrival_due(&self.options, now, accepted.eta_minutes),
            distance_miles: accepted.distance_miles.get(),
        };
        incident.assignment = Some(assignment.clone());
        let by = By {
            actor: accepted.accepted_by.clone(),
            via: None,
            reason: None,
            given_reason: None,
            note: None,
        };
        transition(
            tx,
            &self.options,
            &mut incident,
            IncidentStatus::VendorAssigned,
            by,
        )?;
        tx.emit(&IncidentAssigned {
            incident_id: incident.incident_id,
            driver_id: incident.driver_id,
            vendor_id: assignment.vendor_id,
            offer_id: assignment.offer_id,
            company_id: incident.company_id,
            incident_type: incident.incident_type,
            location: incident.location.clone(),
            eta_minutes: accepted.eta_minutes,
            arrival_due_at: assignment.arrival_due_at,
            cycle: count(incident.cycle),
            assigned_by: accepted.accepted_by.clone(),
            assigned_at: now,
        })?;
        Ok(())
    }

    fn on_arrived(&mut self, tx: &mut Tx<'_>, arrived: &VendorArrived) -> Result<(), HandlerError> {
        let Some(mut incident) = Incident::find(tx, arrived.incident_id)? else {
            return Ok(());
        };
        if incident.vendor_id() != Some(arrived.vendor_id) {
            return Ok(());
        }
        if incident.status == IncidentStatus::VendorAssigned {
            let by = By::system("tracking", Some("implied_by_arrival"));
            transition(
                tx,
                &self.options,
                &mut incident,
                IncidentStatus::VendorEnRoute,
                by,
            )?;
        }
        if incident.status == IncidentStatus::VendorEnRoute {
            incident.arrived_at = Some(arrived.arrived_at);
            let by = By::system("tracking", None);
            transition(
                tx,
                &self.options,
                &mut incident,
                IncidentStatus::VendorArrived,
                by,
            )?;
        }
        Ok(())
    }

    fn on_payment(
        &mut self,
        tx: &mut Tx<'_>,
        incident_id: Id,
        to: IncidentStatus,
    ) -> Result<(), HandlerError> {
        let Some(mut incident) = Incident::find(tx, incident_id)? else {
            return Ok(());
        };
        if incident.status == IncidentStatus::WorkCompleted {
            let by = By::system("payments", None);
            transition(
                tx,
                &self.options,
                &mut incident,
                IncidentStatus::PaymentPending,
                by,
            )?;
        }
        if to == IncidentStatus::Closed && incident.status == IncidentStatus::PaymentPending {
            let by = By::system("payments", None);
            transition(tx, &self.options, &mut incident, IncidentStatus::Closed, by)?;
        }
        Ok(())
    }

    pub(super) fn on_timer(&mut self, tx: &mut Tx<'_>, timer: &Timer) -> Result<(), HandlerError> {
        if timer.kind == media::MEDIA_OVER {
            return media::drop_one(tx, &timer.key);
        }
        let incident = Id::parse(&timer.key)
            .ok()
            .map(|id| Incident::find(tx, id))
            .transpose()?
            .flatten();
        let Some(mut incident) = incident else {
            return Ok(());
        };
        tx.correlate(incident.incident_id)?;
        use IncidentStatus as S;
        match (timer.kind.as_str(), incident.status) {
            (ARRIVAL, S::VendorAssigned | S::VendorEnRoute) => {
                vendor_timeout(tx, &self.options, &mut incident)
            }
            (WORK_OVERDUE, S::VendorArrived | S::WorkInProgress) => {
                escalate(tx, &mut incident, EscalationReason::WorkOverdue, 0, None)
            }
            (PAYMENT_OVERDUE, S::PaymentPending) => {
                escalate(tx, &mut incident, EscalationReason::PaymentOverdue, 0, None)
            }
            _ => Ok(()),
        }
    }
}

fn on_exhausted(tx: &mut Tx<'_>, exhausted: &MatchExhausted) -> Result<(), HandlerError> {
    let Some(mut incident) = Incident::find(tx, exhausted.incident_id)? else {
        return Ok(());
    };
    if incident.status != IncidentStatus::Created || exhausted.cycle.get() != incident.cycle {
        return Ok(());
    }
    let reason = match exhausted.reason {
        ExhaustReason::NoVendor => EscalationReason::NoVendor,
        ExhaustReason::TooOld => EscalationReason::MatchingTooLate,
        ExhaustReason::CycleLimit => EscalationReason::CycleLimit,
    };
    escalate(
        tx,
        &mut incident,
        reason,
        exhausted.rounds,
        Some(exhausted.final_radius_miles),
    )
}

fn on_requested(tx: &mut Tx<'_>, requested: &IncidentRequested) -> Result<(), HandlerError> {
    // A call's incident is made where the call was taken, or by who does it for that site (DESIGN 8).
    if !tx.creates()? {
        return Ok(());
    }
    let existing: Option<i64> = tx.value(
        "SELECT 1 FROM incident WHERE call_id = ?1",
        params![requested.call_id.to_string()],
    )?;
    if existing.is_some() {
        return Ok(());
    }
    NewIncident {
        driver_id: requested.driver_id,
        company_id: requested.company_id,
        payer_type: requested.payer_type,
        incident_type: requested.incident_type,
        priority: requested.priority,
        location: requested.location.clone(),
        phone: Some(requested.phone.clone()),
        description: requested.description.clone(),
        call_id: Some(requested.call_id),
        actor: requested.requested_by.clone(),
        via: None,
    }
    .store(tx, None)?;
    Ok(())
}

/// What is kept of a call whose incident comes later.
pub(super) fn call_record(tx: &Tx<'_>, call_id: Option<Id>) -> Result<CallRecord, Error> {
    let Some(call_id) = call_id else {
        return Ok(CallRecord::default());
    };
    Ok(tx
        .document(
            "SELECT doc FROM call_record WHERE call_id = ?1",
            params![call_id.to_string()],
        )?
        .unwrap_or_default())
}

fn on_call(tx: &mut Tx<'_>, call_id: Id, record: CallRecord) -> Result<(), HandlerError> {
    let merge = |old: CallRecord| CallRecord {
        recording_ref: record.recording_ref.clone().or(old.recording_ref),
        transcript_id: record.transcript_id.or(old.transcript_id),
        summary_id: record.summary_id.or(old.summary_id),
    };
    let merged = merge(call_record(tx, Some(call_id))?);
    let doc = tx.text(&merged)?;
    tx.execute(
        "INSERT INTO call_record (call_id, doc) VALUES (?1, ?2) ON CONFLICT (call_id) DO UPDATE SET doc = ?2",
        params![call_id.to_string(), doc],
    )?;
    let incident: Option<Incident> = tx.document(
        "SELECT doc FROM incident WHERE call_id = ?1",
        params![call_id.to_string()],
    )?;
    if let Some(mut incident) = incident {
        incident.call = merge(incident.call.clone());
        incident.save(tx)?;
    }
    Ok(())
}

/// Forgets a person: phone, address, description, notes, media; the location keeps a tenth of a degree.
fn forget(tx: &mut Tx<'_>, user_id: Id) -> Result<(), HandlerError> {
    media::forget(tx, user_id)?;
    let id = user_id.to_string();
    let incidents: Vec<Incident> = tx.documents(
        "SELECT doc FROM incident WHERE driver_id = ?1 OR vendor_id = ?1 ORDER BY incident_id",
        params![id],
    )?;
    for mut incident in incidents {
        if incident.driver_id == user_id {
            incident.phone = None;
            incident.description = None;
            let area = match incident.area_location {
                Some(area) => Some(area),
                None => tx.reveal(&incident.location)?.map(|place| place.point()),
            };
            let area = area.map_or(UNKNOWN_AREA, |area| area.rounded_to_tenth());
            // Nobody's place any more, so nothing to seal.
            incident.location = Personal::plain(Place::at(area));
            incident.call.recording_ref = None;
            incident.save(tx)?;
        }
        let entries: Vec<TimelineEntry> = super::entity::timeline(tx, incident.incident_id)?;
        for mut entry in entries {
            // Of the driver's own incidents all: what others wrote there is about him, and sealed for him.
            let his = incident.driver_id == user_id
                || matches!(&entry.actor, Actor::Vendor(id) if *id == user_id);
            if his && entry.note.take().is_some() {
                let doc = tx.text(&entry)?;
                tx.execute(
                    "UPDATE timeline SET doc = ?3 WHERE incident_id = ?1 AND seq = ?2",
                    params![incident.incident_id.to_string(), entry.seq as i64, doc],
                )?;
            }
        }
    }
    Ok(())
}
