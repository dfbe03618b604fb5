//! What telephony does on other roles' events and on its timers (DOMAIN 5.8).

use super::entity::{Call, IntakeStatus, Profile, Transcript};
use super::intake::{complete, overdue};
use super::webhook::{INTAKE, RECORDING};
use super::{TelephonyOptions, commands, transcribe};
use crate::event::{Actor, E164, Id, IncidentCreated, Known, Personal, Text, UserRole, UserStatus};
use crate::role::{HandlerError, Received, Timer};
use crate::store::{Tx, params};

pub(super) fn on_event(
    tx: &mut Tx<'_>,
    options: &TelephonyOptions,
    received: &Received,
) -> Result<(), HandlerError> {
    // One body for the two events that have the same fields.
    macro_rules! profile {
        ($event:expr) => {
            Seen {
                profile: Profile {
                    user_id: $event.user_id,
                    name: Some($event.name.clone()),
                    company_id: $event.company_id,
                    payment_type: $event.payment_type,
                },
                phone: $event.phone.clone(),
                active: $event.role == UserRole::Driver && $event.status == UserStatus::Active,
                version: $event.profile_version.get() as i64,
            }
        };
    }
    match received.event.known() {
        Some(Known::UserRegistered(event)) => remember(tx, profile!(event)),
        Some(Known::UserUpdated(event)) => remember(tx, profile!(event)),
        Some(Known::TranscriptReady(ready)) => {
            transcribe::summarise(tx, options, ready, received.mode)
        }
        Some(Known::IncidentCreated(created)) => link(tx, created),
        Some(Known::UserDataDeleted(deleted)) => forget(tx, deleted.user_id),
        _ => Ok(()),
    }
}

/// A profile as an event tells it.
struct Seen {
    profile: Profile,
    phone: Personal<E164>,
    active: bool,
    version: i64,
}

/// Puts a driver into the directory, and names him as the caller of calls that came before.
fn remember(tx: &mut Tx<'_>, seen: Seen) -> Result<(), HandlerError> {
    let id = seen.profile.user_id.to_string();
    let erased: Option<i64> = tx.value("SELECT 1 FROM erased WHERE user_id = ?1", params![id])?;
    if erased.is_some() {
        return Ok(());
    }
    let phone = seen.phone.as_plain();
    let doc = tx.text(&seen.profile)?;
    let newer = tx.execute(
        "INSERT INTO directory (user_id, phone, active, version, doc) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (user_id) DO UPDATE SET phone = ?2, active = ?3, version = ?4, doc = ?5 WHERE version < ?4",
        params![id, phone.map(E164::as_str), seen.active, seen.version, doc],
    )? > 0;
    let Some(phone) = phone.filter(|_| newer && seen.active) else {
        return Ok(());
    };
    if Profile::of_phone(tx, phone)?.is_none() {
        return Ok(()); // Two have the number: nobody knows which of them calls.
    }
    let open: Vec<Call> = tx.documents(
        "SELECT doc FROM call WHERE phone = ?1 AND driver_id IS NULL AND intake IN ('collecting', 'waiting')
         ORDER BY call_id",
        params![phone.as_str()],
    )?;
    for mut call in open {
        call.driver_id = Some(seen.profile.user_id);
        call.company_id = seen.profile.company_id;
        call.payment_type = seen.profile.payment_type;
        complete(tx, &mut call, &Actor::System("telephony".to_owned()))?;
    }
    Ok(())
}

fn link(tx: &mut Tx<'_>, created: &IncidentCreated) -> Result<(), HandlerError> {
    let Some(call_id) = created.call_id else {
        return Ok(());
    };
    let Some(mut call) = Call::find(tx, call_id)? else {
        return Ok(()); // Another site's call.
    };
    if call.incident_id.is_some() {
        return Ok(());
    }
    tx.correlate(created.incident_id)?;
    call.incident_id = Some(created.incident_id);
    Ok(call.save(tx)?)
}

/// Forgets a person: phone, names, texts, recordings.
fn forget(tx: &mut Tx<'_>, user_id: Id) -> Result<(), HandlerError> {
    let id = user_id.to_string();
    tx.execute(
        "INSERT INTO erased (user_id) VALUES (?1) ON CONFLICT DO NOTHING",
        params![id],
    )?;
    let calls: Vec<Call> = tx.documents(
        "SELECT doc FROM call WHERE driver_id = ?1
            OR (driver_id IS NULL AND phone = (SELECT phone FROM directory WHERE user_id = ?1))
         ORDER BY call_id",
        params![id],
    )?;
    tx.execute("DELETE FROM directory WHERE user_id = ?1", params![id])?;
    for mut call in calls {
        call.phone = None;
        call.recording_ref = None;
        call.intake.description = None;
        call.intake.location = None;
        if call.intake.status.open() {
            call.intake.status = IntakeStatus::Dropped;
            call.intake.drop_reason = Some(Text::lossy("the caller was erased"));
        }
        tx.cancel_timer(INTAKE, &call.call_id.to_string())?;
        if let Some(mut transcript) = Transcript::of_call(tx, call.call_id)? {
            transcript.redacted_text.clear();
            if let Some(summary) = &mut transcript.summary {
                summary.summary.clear();
                summary.action_items.clear();
                summary.key_phrases.clear();
            }
            transcript.save(tx)?;
        }
        tx.execute(
            "UPDATE transcript SET sealed = NULL WHERE provider = ?1 AND provider_call_id = ?2",
            params![call.provider, call.provider_call_id.as_str()],
        )?;
        call.save(tx)?;
    }
    Ok(())
}

pub(super) fn on_timer(tx: &mut Tx<'_>, timer: &Timer) -> Result<(), HandlerError> {
    match timer.kind.as_str() {
        INTAKE | RECORDING => {
            let Some(id) = Id::parse(&timer.key).ok() else {
                return Ok(());
            };
            let Some(mut call) = Call::find(tx, id)? else {
                return Ok(());
            };
            if timer.kind == INTAKE {
                return overdue(tx, &mut call);
            }
            call.recording_ref = None;
            Ok(call.save(tx)?)
        }
        transcribe::RAW => {
            tx.execute(
                "UPDATE transcript SET sealed = NULL WHERE transcript_id = ?1",
                params![timer.key],
            )?;
            Ok(())
        }
        commands::ACCESS => {
            tx.execute(
                "DELETE FROM access_log WHERE access_log_id = ?1",
                params![timer.key],
            )?;
            Ok(())
        }
        _ => Ok(()),
    }
}
