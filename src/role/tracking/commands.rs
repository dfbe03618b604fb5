//! Commands on sessions (DOMAIN 5.4). Permission and ownership were checked before.

use schemars::JsonSchema;
use serde::Deserialize;

use super::entity::{SessionStatus, Taken, TrackingSession};
use super::reactions::stop;
use crate::event::{ArrivalMeters, Fix, Id, TrackingStopReason, TrackingUpdated, VendorArrived};
use crate::role::listing::optional_id_of;
use crate::role::permission::Scope;
use crate::role::{Code, Command, HandlerError, Rejection};
use crate::store::Tx;

/// Fixes in one report at the most.
const BATCH_MAX: usize = 500;
/// How far a device's clock may be ahead.
const AHEAD_MS: i64 = 60_000;

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Report {
    session_id: Id,
    fix: Option<Fix>,
    fixes: Option<Vec<Fix>>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// A session, by its own id or as the last one of an incident.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Named {
    session_id: Option<Id>,
    incident_id: Option<Id>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

pub(super) fn run(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    match command.name.as_str() {
        "tracking.report_fix" => report(tx, command),
        "tracking.get" => {
            let body: Named = command.parse()?;
            let session = find(tx, body.session_id, body.incident_id)?;
            Ok(tx.reply(&session)?)
        }
        "tracking.stop" => {
            let body: Named = command.parse()?;
            let mut session = find(tx, body.session_id, body.incident_id)?;
            tx.correlate(session.incident_id)?;
            refuse_unless_open(&session)?;
            stop(
                tx,
                &mut session,
                SessionStatus::Completed,
                TrackingStopReason::Manual,
            )?;
            Ok(tx.reply(&session)?)
        }
        other => Err(Rejection::new(Code::NotFound, format!("no command {other}")).into()),
    }
}

/// Whose session a command is about.
pub(super) fn scope(tx: &Tx<'_>, command: &Command) -> Result<Scope, HandlerError> {
    let (session_id, incident_id) = (
        optional_id_of(command, "sessionId")?,
        optional_id_of(command, "incidentId")?,
    );
    let session = find(tx, session_id, incident_id)?;
    Ok(Scope::Owned {
        driver: Some(session.driver_id),
        vendor: Some(session.vendor_id),
        company: session.company_id,
    })
}

/// The session that a body names by `sessionId` or `incidentId`.
fn find(
    tx: &Tx<'_>,
    session_id: Option<Id>,
    incident_id: Option<Id>,
) -> Result<TrackingSession, HandlerError> {
    let found = match (session_id, incident_id) {
        (Some(id), _) => TrackingSession::find(tx, id)?,
        (None, Some(id)) => TrackingSession::of_incident(tx, id)?,
        (None, None) => {
            return Err(Rejection::field("sessionId", "is missing, and so is incidentId").into());
        }
    };
    found.ok_or_else(|| Rejection::new(Code::NotFound, "there is no such tracking session").into())
}

fn refuse_unless_open(session: &TrackingSession) -> Result<(), HandlerError> {
    if session.status.open() {
        return Ok(());
    }
    Err(Rejection::new(Code::InvalidTransition, "the tracking session has ended").into())
}

fn report(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: Report = command.parse()?;
    let mut fixes = match (body.fix, body.fixes) {
        (Some(fix), None) => vec![fix],
        (None, Some(fixes)) if (1..=BATCH_MAX).contains(&fixes.len()) => fixes,
        (None, Some(_)) => return Err(Rejection::field("fixes", "not 1 to 500 fixes").into()),
        (Some(_), Some(_)) => {
            return Err(Rejection::field("fixes", "give either fix or fixes").into());
        }
        (None, None) => return Err(Rejection::field("fix", "is missing").into()),
    };
    let ahead = fixes
        .iter()
        .position(|fix| fix.recorded_at.ms() > tx.now().ms() + AHEAD_MS);
    if let Some(index) = ahead {
        let field = if fixes.len() == 1 {
            "fix.recordedAt".to_owned()
        } else {
            format!("fixes[{index}].recordedAt")
        };
        return Err(Rejection::field(field, "is more than 60 s ahead of the clock").into());
    }
    let mut session = TrackingSession::find(tx, body.session_id)?
        .ok_or_else(|| Rejection::new(Code::NotFound, "there is no such tracking session"))?;
    tx.correlate(session.incident_id)?;
    refuse_unless_open(&session)?;
    // In order of recording, so that a report after a gap is one drive and not a jump to its newest fix.
    fixes.sort_by(|a, b| {
        a.recorded_at
            .cmp(&b.recorded_at)
            .then(a.lat.total_cmp(&b.lat))
            .then(a.lon.total_cmp(&b.lon))
    });
    let driver = session.driver(tx)?;
    for fix in &fixes {
        let taken = session.take(fix, driver, tx.now());
        tell(tx, &session, fix, taken)?;
    }
    session.save(tx)?;
    Ok(tx.reply(&session)?)
}

fn tell(
    tx: &mut Tx<'_>,
    session: &TrackingSession,
    fix: &Fix,
    taken: Taken,
) -> Result<(), HandlerError> {
    if taken == Taken::Filed {
        return Ok(());
    }
    if let Some(eta) = session.eta.clone() {
        tx.emit(&TrackingUpdated {
            session_id: session.session_id,
            incident_id: session.incident_id,
            vendor_id: session.vendor_id,
            location: fix.clone(),
            eta,
        })?;
    }
    if let (Taken::Arrived(meters), Some(driver)) = (taken, &session.driver_location) {
        tx.emit(&VendorArrived {
            vendor_id: session.vendor_id,
            incident_id: session.incident_id,
            driver_id: session.driver_id,
            session_id: session.session_id,
            arrived_at: fix.recorded_at,
            location: tx.sealed(&session.driver_id, driver.clone())?,
            distance_meters: ArrivalMeters::new(meters.min(100.0)).expect("within the fence"),
        })?;
    }
    Ok(())
}
