//! The one place where an incident changes its status: events, timeline, timers and version go with it.

use std::time::Duration;

use serde_json::json;

use super::IncidentOptions;
use super::entity::{Incident, TimelineEntry, add_to_timeline, legal};
use crate::event::{
    Actor, Code, Count1, Cycle2, EscalationReason, Id, IncidentEscalated, IncidentStatus,
    IncidentStatusChanged, MatchRequestReason, MatchRequested, Miles, NonNegative, Personal, Text,
    TimeoutType, Ts, VendorTimeout,
};
use crate::role::{self, HandlerError, Rejection};
use crate::store::{Error, Tx, params};

/// Timer: the vendor should have arrived.
pub(super) const ARRIVAL: &str = "arrival";
/// Timer: the work should be done.
pub(super) const WORK_OVERDUE: &str = "work_overdue";
/// Timer: the bill should be paid.
pub(super) const PAYMENT_OVERDUE: &str = "payment_overdue";

/// Who changes a status, and why.
#[derive(Debug, Clone)]
pub(super) struct By {
    pub actor: Actor,
    pub via: Option<Actor>,
    pub reason: Option<Code>,
    /// The person's own word where `reason` is the domain's; for the timeline only.
    pub given_reason: Option<Code>,
    pub note: Option<Personal<Text<500>>>,
}

impl By {
    pub(super) fn system(role: &str, reason: Option<&'static str>) -> Self {
        Self {
            actor: Actor::System(role.to_owned()),
            via: None,
            // The reasons given here are words of the code below, all of which are codes.
            reason: reason.and_then(|reason| Code::new(reason).ok()),
            given_reason: None,
            note: None,
        }
    }
}

/// A count that starts at 1 and is never less.
pub(super) fn count(value: u64) -> Count1 {
    Count1::new(value.max(1)).expect("at least 1")
}

/// Moves an incident to `to`: version, timeline, timers, IncidentStatusChanged.
///
/// # Errors
/// `Rejected(INVALID_TRANSITION)` where the state table does not have the pair.
pub(super) fn transition(
    tx: &mut Tx<'_>,
    options: &IncidentOptions,
    incident: &mut Incident,
    to: IncidentStatus,
    by: By,
) -> Result<(), HandlerError> {
    let from = incident.status;
    if !legal(from, to) {
        let message = format!("an incident that is {from} can't become {to}");
        return Err(Rejection::new(role::Code::InvalidTransition, message)
            .with_details(json!({ "status": from, "version": incident.version }))
            .into());
    }
    incident.status = to;
    incident.version += 1;
    set_timers(tx, options, incident)?;
    incident.save(tx)?;
    let entry = TimelineEntry {
        seq: 0,
        from: Some(from),
        to,
        at: tx.now(),
        actor: by.actor.clone(),
        via: by.via,
        reason: by.reason.clone(),
        given_reason: by.given_reason,
        note: by.note.clone(),
    };
    add_to_timeline(tx, incident.incident_id, entry)?;
    tx.emit(&IncidentStatusChanged {
        incident_id: incident.incident_id,
        driver_id: incident.driver_id,
        vendor_id: incident.vendor_id(),
        company_id: incident.company_id,
        previous_status: from,
        new_status: to,
        changed_by: by.actor,
        reason: by.reason,
        note: by.note,
    })?;
    Ok(())
}

/// What runs in each status. Every other timer of the incident is stopped.
fn set_timers(
    tx: &mut Tx<'_>,
    options: &IncidentOptions,
    incident: &Incident,
) -> Result<(), Error> {
    use IncidentStatus as S;
    let key = incident.incident_id.to_string();
    match incident.status {
        S::VendorAssigned => {
            if let Some(assignment) = &incident.assignment {
                let payload = json!({ "offerId": assignment.offer_id });
                tx.schedule(assignment.arrival_due_at, ARRIVAL, &key, &payload)?;
            }
        }
        S::VendorEnRoute => {}
        S::VendorArrived => {
            tx.cancel_timer(ARRIVAL, &key)?;
            tx.schedule(
                tx.now() + options.work_overdue,
                WORK_OVERDUE,
                &key,
                &json!({}),
            )?;
        }
        S::WorkInProgress => {}
        S::PaymentPending => tx.schedule(
            tx.now() + options.payment_overdue,
            PAYMENT_OVERDUE,
            &key,
            &json!({}),
        )?,
        S::Created | S::WorkCompleted | S::Closed | S::Cancelled => {
            for kind in [ARRIVAL, WORK_OVERDUE, PAYMENT_OVERDUE] {
                tx.cancel_timer(kind, &key)?;
            }
        }
    }
    Ok(())
}

/// When a vendor assigned now should have arrived: 30 min, or 1.5 x etaMinutes rounded up if that is longer.
pub(super) fn arrival_due(options: &IncidentOptions, now: Ts, eta_minutes: u64) -> Ts {
    let stretched = (eta_minutes as f64 * options.arrival_factor).ceil() * 60.0;
    now + options
        .arrival_min
        .max(Duration::from_secs_f64(stretched.clamp(0.0, 1e9)))
}

/// Takes the vendor off an incident and asks for another one (DOMAIN 2.6).
pub(super) fn release(
    tx: &mut Tx<'_>,
    options: &IncidentOptions,
    incident: &mut Incident,
    reason: MatchRequestReason,
    mut by: By,
) -> Result<(), HandlerError> {
    let released = incident.assignment.clone();
    // What the event says is fixed (DOMAIN 2.6); what the person said stays in the timeline.
    by.given_reason = by.reason.take();
    by.reason = Code::new(reason.as_str()).ok();
    incident.cycle += 1;
    incident.arrived_at = None;
    // The event names the vendor just released, so he is detached only behind it.
    transition(tx, options, incident, IncidentStatus::Created, by)?;
    incident.assignment = None;
    incident.save(tx)?;
    request_match(
        tx,
        incident,
        reason,
        released.as_ref().map(|a| (a.vendor_id, a.offer_id)),
    )
}

/// Asks for another vendor.
pub(super) fn request_match(
    tx: &mut Tx<'_>,
    incident: &Incident,
    reason: MatchRequestReason,
    released: Option<(Id, Id)>,
) -> Result<(), HandlerError> {
    let cycle = Cycle2::new(incident.cycle).map_err(|error| {
        HandlerError::Transient(format!(
            "a match request in cycle {}: {error}",
            incident.cycle
        ))
    })?;
    tx.emit(&MatchRequested {
        incident_id: incident.incident_id,
        driver_id: incident.driver_id,
        company_id: incident.company_id,
        incident_type: incident.incident_type,
        priority: incident.priority,
        location: incident.location.clone(),
        cycle,
        reason,
        released_vendor_id: released.map(|(vendor_id, _)| vendor_id),
        released_offer_id: released.map(|(_, offer_id)| offer_id),
        requested_at: tx.now(),
    })?;
    Ok(())
}

/// The arrival timer fired: the vendor did not come.
pub(super) fn vendor_timeout(
    tx: &mut Tx<'_>,
    options: &IncidentOptions,
    incident: &mut Incident,
) -> Result<(), HandlerError> {
    let Some(assignment) = incident.assignment.clone() else {
        return Ok(());
    };
    let elapsed_ms = (tx.now() - assignment.assigned_at)
        .num_milliseconds()
        .max(0);
    let elapsed_minutes =
        NonNegative::new(hundredths(elapsed_ms as f64 / 60_000.0)).expect("not negative");
    tx.emit(&VendorTimeout {
        incident_id: incident.incident_id,
        driver_id: incident.driver_id,
        vendor_id: assignment.vendor_id,
        timeout_type: TimeoutType::Arrival,
        elapsed_minutes,
        due_at: assignment.arrival_due_at,
    })?;
    release(
        tx,
        options,
        incident,
        MatchRequestReason::VendorTimeout,
        By::system("incident", None),
    )
}

/// Rounds to two decimals.
pub(super) fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Calls the dispatchers, once per incident, reason and cycle.
pub(super) fn escalate(
    tx: &mut Tx<'_>,
    incident: &mut Incident,
    reason: EscalationReason,
    attempts: u64,
    final_radius_miles: Option<Miles>,
) -> Result<(), HandlerError> {
    let first = tx.execute(
        "INSERT INTO escalation (incident_id, reason, cycle) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        params![incident.incident_id.to_string(), reason.as_str(), incident.cycle as i64],
    )?;
    if first == 0 {
        return Ok(());
    }
    incident.escalations += 1;
    incident.version += 1;
    incident.save(tx)?;
    tx.emit(&IncidentEscalated {
        incident_id: incident.incident_id,
        driver_id: incident.driver_id,
        company_id: incident.company_id,
        reason,
        attempts,
        final_radius_miles,
        cycle: count(incident.cycle),
        escalated_to: incident.dispatchers(),
        escalated_at: tx.now(),
    })?;
    Ok(())
}
