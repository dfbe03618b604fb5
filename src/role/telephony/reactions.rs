//! What telephony does on other roles' events and on its timers (DOMAIN 5.8).

use std::time::Duration;

use serde_json::json;

use super::entity::{Call, IntakeStatus, Profile, Transcript};
use super::intake::{complete, overdue};
use super::webhook::{INTAKE, RECORDING};
use super::{TelephonyOptions, commands, transcribe};
use crate::event::{Actor, E164, Id, IncidentCreated, Known, Personal, Text, UserRole, UserStatus};
use crate::role::{EffectResult, HandlerError, KEY_DESTROY, Received, Timer};
use crate::store::{EffectCall, EffectClass, EffectOutcome, Tx, params};

/// The timer after which the end of a call's key is asked for again.
const KEY: &str = "key";
/// How long that waits.
const KEY_RETRY: Duration = Duration::from_secs(300);

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
    let Some(phone) = tx.reveal(&seen.phone)? else {
        return Ok(()); // His erasure is on its way.
    };
    let mut profile = seen.profile;
    if let Some(name) = profile.name.take() {
        profile.name = Some(tx.sealed(&profile.user_id, name)?);
    }
    let (doc, blind) = (tx.text(&profile)?, tx.blind(phone.as_str())?);
    let newer = tx.execute(
        "INSERT INTO directory (user_id, phone, active, version, doc) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (user_id) DO UPDATE SET phone = ?2, active = ?3, version = ?4, doc = ?5 WHERE version < ?4",
        params![id, blind, seen.active, seen.version, doc],
    )? > 0;
    if !(newer && seen.active) {
        return Ok(());
    }
    if Profile::of_phone(tx, &phone)?.is_none() {
        return Ok(()); // Two have the number: nobody knows which of them calls.
    }
    let open: Vec<Call> = tx.documents(
        "SELECT doc FROM call WHERE phone IN (?1, ?2) AND driver_id IS NULL AND intake IN ('collecting', 'waiting')
         ORDER BY call_id",
        params![blind, phone.as_str()],
    )?;
    for mut call in open {
        call.belongs_to(tx, &profile)?;
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

/// Forgets a person: phone, names, texts, recordings; and has the keys of his calls destroyed, by which all was sealed that
/// came before anybody knew that it was he who called.
fn forget(tx: &mut Tx<'_>, user_id: Id) -> Result<(), HandlerError> {
    let id = user_id.to_string();
    tx.execute(
        "INSERT INTO erased (user_id) VALUES (?1) ON CONFLICT DO NOTHING",
        params![id],
    )?;
    let phone: Option<Option<String>> = tx.value(
        "SELECT phone FROM directory WHERE user_id = ?1",
        params![id],
    )?;
    let phone = phone.flatten();
    // A number that an older version wrote in clear.
    let blind = phone.as_deref().map(|phone| tx.blind(phone)).transpose()?;
    let calls: Vec<Call> = tx.documents(
        "SELECT doc FROM call WHERE driver_id = ?1 OR (driver_id IS NULL AND phone IN (?2, ?3)) ORDER BY call_id",
        params![id, phone, blind],
    )?;
    tx.execute("DELETE FROM directory WHERE user_id = ?1", params![id])?;
    for mut call in calls {
        call.phone = None;
        call.recording_ref = None;
        call.intake.description = None;
        call.intake.location = None;
        call.intake.drop_reason = None;
        if call.intake.status.open() {
            call.intake.status = IntakeStatus::Dropped;
            let reason = Personal::plain(Text::lossy("the caller was erased"));
            call.intake.drop_reason = Some(reason);
        }
        tx.cancel_timer(INTAKE, &call.call_id.to_string())?;
        if let Some(mut transcript) = Transcript::of_call(tx, call.call_id)? {
            transcript.redacted_text = Personal::plain(String::new());
            if let Some(summary) = &mut transcript.summary {
                summary.summary = Personal::plain(String::new());
                summary.action_items.clear();
                summary.key_phrases = Personal::plain(Vec::new());
            }
            transcript.save(tx)?;
        }
        tx.execute(
            "UPDATE transcript SET sealed = NULL WHERE provider = ?1 AND provider_call_id = ?2",
            params![call.provider, call.provider_call_id.as_str()],
        )?;
        call.save(tx)?;
        destroy_key(tx, call.call_id)?;
    }
    Ok(())
}

/// Asks for the end of a call's own key.
fn destroy_key(tx: &mut Tx<'_>, call_id: Id) -> Result<(), HandlerError> {
    if !tx.seals() {
        return Ok(());
    }
    tx.forget_keys(&call_id);
    tx.effect(EffectCall {
        key: format!("{KEY_DESTROY}-{call_id}"),
        kind: KEY_DESTROY.to_owned(),
        class: EffectClass::Local,
        request: json!({ "subject": call_id }),
        secret: None,
    })?;
    Ok(())
}

/// What an outside call came to. A key must not outlive its call's erasure because nobody answered.
pub(super) fn on_effect(tx: &mut Tx<'_>, result: &EffectResult) -> Result<(), HandlerError> {
    if result.kind != KEY_DESTROY {
        return transcribe::on_effect(tx, result);
    }
    if !matches!(result.outcome, EffectOutcome::Done(_)) {
        let call_id = result.request["subject"].as_str().unwrap_or_default();
        tx.schedule(tx.now() + KEY_RETRY, KEY, call_id, &json!({}))?;
    }
    Ok(())
}

pub(super) fn on_timer(tx: &mut Tx<'_>, timer: &Timer) -> Result<(), HandlerError> {
    match timer.kind.as_str() {
        KEY => match Id::parse(&timer.key) {
            Ok(call_id) => destroy_key(tx, call_id),
            Err(_) => Ok(()),
        },
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
