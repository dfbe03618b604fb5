//! What tracking does on other roles' events (DOMAIN 5.4). Ends that come before their beginning are remembered.

use super::entity::{SessionStatus, TrackingSession, end_seen, legal, remember_end};
use crate::event::{
    Id, IncidentAssigned, Known, Personal, Point, TrackingStarted, TrackingStopReason,
    TrackingStopped,
};
use crate::role::{HandlerError, Received};
use crate::store::{Error, Tx, params};

pub(super) fn on_event(tx: &mut Tx<'_>, received: &Received) -> Result<(), HandlerError> {
    match received.event.known() {
        Some(Known::IncidentAssigned(assigned)) => on_assigned(tx, assigned),
        Some(Known::IncidentCancelled(event)) => end(
            tx,
            event.incident_id,
            None,
            SessionStatus::Cancelled,
            TrackingStopReason::IncidentCancelled,
        ),
        Some(Known::WorkCompleted(event)) => end(
            tx,
            event.incident_id,
            None,
            SessionStatus::Completed,
            TrackingStopReason::WorkCompleted,
        ),
        Some(Known::MatchRequested(event)) => match event.released_offer_id {
            Some(offer_id) => {
                let stopped = (SessionStatus::Cancelled, TrackingStopReason::VendorReleased);
                end(tx, event.incident_id, Some(offer_id), stopped.0, stopped.1)
            }
            // Matching starts over without anybody released: there is no session to end.
            None => Ok(()),
        },
        Some(Known::UserDataDeleted(event)) => forget(tx, event.user_id),
        _ => Ok(()),
    }
}

fn on_assigned(tx: &mut Tx<'_>, assigned: &IncidentAssigned) -> Result<(), HandlerError> {
    // The home site opens the session, or who does it for that one (DESIGN 8).
    if !tx.creates()?
        || end_seen(tx, assigned.incident_id, assigned.offer_id)?
        || TrackingSession::of_offer(tx, assigned.offer_id)?.is_some()
    {
        return Ok(());
    }
    if let Some(mut other) =
        TrackingSession::of_incident(tx, assigned.incident_id)?.filter(|other| other.status.open())
    {
        stop(
            tx,
            &mut other,
            SessionStatus::Cancelled,
            TrackingStopReason::VendorReleased,
        )?;
    }
    let location = point_of(tx, assigned)?;
    let mut session = TrackingSession {
        session_id: tx.new_id(),
        incident_id: assigned.incident_id,
        driver_id: assigned.driver_id,
        vendor_id: assigned.vendor_id,
        company_id: assigned.company_id,
        offer_id: assigned.offer_id,
        status: SessionStatus::Active,
        driver_location: Some(location.clone()),
        vendor_location: None,
        path: Vec::new(),
        eta: None,
        eta_from: None,
        started_at: tx.now(),
        arrived_at: None,
        stopped_at: None,
        version: 0,
    };
    session.save(tx)?;
    tx.emit(&TrackingStarted {
        session_id: session.session_id,
        incident_id: session.incident_id,
        driver_id: session.driver_id,
        vendor_id: session.vendor_id,
        driver_location: location,
        vendor_location: None,
        started_at: session.started_at,
    })?;
    Ok(())
}

/// The point of the assignment's place, sealed for the driver again. What can't be opened is passed on as it came.
fn point_of(tx: &Tx<'_>, assigned: &IncidentAssigned) -> Result<Personal<Point>, Error> {
    match (tx.reveal(&assigned.location)?, &assigned.location) {
        (Some(place), _) => tx.seal(&assigned.driver_id, place.point()),
        (None, Personal::Sealed(sealed)) => Ok(Personal::Sealed(sealed.clone())),
        // What is plain can always be read.
        (None, Personal::Plain(place)) => tx.seal(&assigned.driver_id, place.point()),
    }
}

/// Ends the open session of an incident, or of one offer, and remembers it for an assignment that comes later.
fn end(
    tx: &mut Tx<'_>,
    incident_id: Id,
    offer_id: Option<Id>,
    to: SessionStatus,
    reason: TrackingStopReason,
) -> Result<(), HandlerError> {
    remember_end(tx, incident_id, offer_id)?;
    let open =
        TrackingSession::of_incident(tx, incident_id)?.filter(|session| session.status.open());
    let Some(mut session) =
        open.filter(|session| offer_id.is_none_or(|offer| offer == session.offer_id))
    else {
        return Ok(());
    };
    stop(tx, &mut session, to, reason)
}

/// Ends a session and tells of it.
pub(super) fn stop(
    tx: &mut Tx<'_>,
    session: &mut TrackingSession,
    to: SessionStatus,
    reason: TrackingStopReason,
) -> Result<(), HandlerError> {
    if !legal(session.status, to) {
        return Err(HandlerError::Transient(format!(
            "a session that is {:?} can't become {to:?}",
            session.status
        )));
    }
    session.status = to;
    session.stopped_at = Some(tx.now());
    session.save(tx)?;
    tx.emit(&TrackingStopped {
        session_id: session.session_id,
        incident_id: session.incident_id,
        vendor_id: session.vendor_id,
        reason,
        stopped_at: tx.now(),
    })?;
    Ok(())
}

/// Forgets a person's positions and paths.
fn forget(tx: &mut Tx<'_>, user_id: Id) -> Result<(), HandlerError> {
    let sessions: Vec<TrackingSession> = tx.documents(
        "SELECT doc FROM session WHERE json_extract(doc, '$.driverId') = ?1 OR json_extract(doc, '$.vendorId') = ?1
         ORDER BY session_id",
        params![user_id.to_string()],
    )?;
    for mut session in sessions {
        if session.vendor_id == user_id {
            session.vendor_location = None;
            session.path.clear();
            session.eta_from = None;
        }
        if session.driver_id == user_id && !session.status.open() {
            session.driver_location = None;
        }
        session.save(tx)?;
    }
    Ok(())
}
