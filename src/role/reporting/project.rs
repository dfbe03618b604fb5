//! What each event says, written down as facts (DOMAIN 5.7). Nothing here depends on what came before.

use crate::event::{Actor, Event, Id, IncidentStatus, Known, Personal, Text, Ts, UserRole};
use crate::role::HandlerError;
use crate::store::{Tx, params};

/// Where among the events of its producer and entity this one stands, as a text that sorts so.
fn order_of(event: &Event) -> String {
    let sequence: u64 = event
        .detail
        .get("metadata")
        .and_then(|metadata| metadata.get("sequence"))
        .and_then(|sequence| sequence.as_str())
        .and_then(|sequence| sequence.parse().ok())
        // A foreign producer numbers nothing: its events are in the order of their times.
        .unwrap_or(0);
    format!("{sequence:020}.{:020}.{}", event.time.ms(), event.id)
}

/// A count as SQLite has integers; those of the catalogue are far below.
fn whole(n: impl TryInto<i64>) -> i64 {
    n.try_into().unwrap_or(i64::MAX)
}

/// Takes an event over.
pub(super) fn project(tx: &mut Tx<'_>, event: &Event) -> Result<(), HandlerError> {
    let kind = match event.known() {
        None => 1,
        Some(Known::DeadLetterCreated(_)) => 2,
        Some(_) => 0,
    };
    let id = event.id.uuid();
    tx.execute(
        "INSERT INTO seen (event_id, at_ms, kind) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        params![id.as_bytes().as_slice(), event.time.ms(), kind],
    )?;
    match event.known() {
        Some(known) => of_incident(tx, event, known)?,
        None => {
            tx.execute(
                "INSERT INTO unknown (event_id, detail_type) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                params![id.as_bytes().as_slice(), event.detail_type],
            )?;
        }
    }
    Ok(())
}

fn of_incident(tx: &mut Tx<'_>, event: &Event, known: &Known) -> Result<(), HandlerError> {
    match known {
        Known::IncidentCreated(created) => {
            let area = created.area_location;
            tx.execute(
                "INSERT INTO incident (incident_id, driver_id, company_id, type, priority, lat, lon, created_at_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                 ON CONFLICT (incident_id) DO UPDATE SET driver_id = ?2, company_id = ?3, type = ?4, priority = ?5,
                     lat = ?6, lon = ?7, created_at_ms = ?8",
                params![
                    created.incident_id.to_string(),
                    created.driver_id.to_string(),
                    created.company_id.map(|id| id.to_string()),
                    created.incident_type.to_string(),
                    created.priority.to_string(),
                    area.lat,
                    area.lon,
                    event.time.ms()
                ],
            )?;
            transition(
                tx,
                event,
                created.incident_id,
                IncidentStatus::Created,
                None,
            )
        }
        Known::IncidentStatusChanged(changed) => {
            let vendor = changed
                .vendor_id
                .filter(|_| changed.new_status != IncidentStatus::Created);
            transition(tx, event, changed.incident_id, changed.new_status, vendor)
        }
        Known::IncidentAssigned(assigned) => {
            mention(tx, assigned.incident_id)?;
            tx.execute(
                "INSERT INTO assignment (incident_id, cycle, vendor_id, at_ms) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
                params![
                    assigned.incident_id.to_string(),
                    whole(assigned.cycle.get()),
                    assigned.vendor_id.to_string(),
                    assigned.assigned_at.ms()
                ],
            )?;
            Ok(())
        }
        Known::VendorArrived(arrived) => {
            mention(tx, arrived.incident_id)?;
            tx.execute(
                "INSERT INTO arrival (incident_id, vendor_id, at_ms) VALUES (?1, ?2, ?3)
                 ON CONFLICT (incident_id, vendor_id) DO UPDATE SET at_ms = min(at_ms, ?3)",
                params![
                    arrived.incident_id.to_string(),
                    arrived.vendor_id.to_string(),
                    arrived.arrived_at.ms()
                ],
            )?;
            Ok(())
        }
        Known::IncidentEscalated(escalated) => {
            mention(tx, escalated.incident_id)?;
            tx.execute(
                "INSERT INTO escalation (incident_id, reason, cycle) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
                params![
                    escalated.incident_id.to_string(),
                    escalated.reason.to_string(),
                    whole(escalated.cycle.get())
                ],
            )?;
            Ok(())
        }
        Known::IncidentRated(rated) => {
            mention(tx, rated.incident_id)?;
            tx.execute(
                "INSERT INTO rating (incident_id, rated_by, vendor_id, stars) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
                params![
                    rated.incident_id.to_string(),
                    rated.rated_by.to_string(),
                    rated.vendor_id.to_string(),
                    whole(rated.stars.get())
                ],
            )?;
            Ok(())
        }
        other => of_offer(tx, event, other),
    }
}

/// An incident of which anything is known has a row, whether its creation has come yet or not.
fn mention(tx: &mut Tx<'_>, incident_id: Id) -> Result<(), HandlerError> {
    tx.execute(
        "INSERT INTO incident (incident_id) VALUES (?1) ON CONFLICT DO NOTHING",
        params![incident_id.to_string()],
    )?;
    Ok(())
}

fn transition(
    tx: &mut Tx<'_>,
    event: &Event,
    incident_id: Id,
    status: IncidentStatus,
    vendor_id: Option<Id>,
) -> Result<(), HandlerError> {
    mention(tx, incident_id)?;
    tx.execute(
        "INSERT INTO transition (incident_id, event_order, status, vendor_id, at_ms) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO NOTHING",
        params![
            incident_id.to_string(),
            order_of(event),
            status.to_string(),
            vendor_id.map(|id| id.to_string()),
            event.time.ms()
        ],
    )?;
    Ok(())
}

fn of_offer(tx: &mut Tx<'_>, event: &Event, known: &Known) -> Result<(), HandlerError> {
    let step = match known {
        Known::OfferCreated(made) => {
            offer(tx, made.offer_id, made.incident_id, made.vendor_id)?;
            tx.execute(
                "UPDATE offer SET created_at_ms = ?2 WHERE offer_id = ?1",
                params![made.offer_id.to_string(), event.time.ms()],
            )?;
            return Ok(());
        }
        Known::OfferAccepted(won) => {
            offer(tx, won.offer_id, won.incident_id, won.vendor_id)?;
            // A dispatcher's assignment is no answer of the vendor's.
            let word = match won.accepted_by {
                Actor::Vendor(_) => "accepted",
                _ => "assigned",
            };
            (won.offer_id, word, won.accepted_at)
        }
        Known::OfferDeclined(no) => {
            offer(tx, no.offer_id, no.incident_id, no.vendor_id)?;
            (no.offer_id, "declined", no.declined_at)
        }
        Known::OfferExpired(over) => {
            offer(tx, over.offer_id, over.incident_id, over.vendor_id)?;
            (over.offer_id, "expired", over.expired_at)
        }
        Known::OfferCancelled(gone) => {
            offer(tx, gone.offer_id, gone.incident_id, gone.vendor_id)?;
            (gone.offer_id, "cancelled", gone.cancelled_at)
        }
        other => return of_payment(tx, event, other),
    };
    let (offer_id, status, at) = step;
    tx.execute(
        "INSERT INTO offer_step (offer_id, event_order, status, at_ms) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        params![offer_id.to_string(), order_of(event), status, at.ms()],
    )?;
    Ok(())
}

fn offer(
    tx: &mut Tx<'_>,
    offer_id: Id,
    incident_id: Id,
    vendor_id: Id,
) -> Result<(), HandlerError> {
    tx.execute(
        "INSERT INTO offer (offer_id, incident_id, vendor_id) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        params![offer_id.to_string(), incident_id.to_string(), vendor_id.to_string()],
    )?;
    Ok(())
}

fn of_payment(tx: &mut Tx<'_>, event: &Event, known: &Known) -> Result<(), HandlerError> {
    let (payment_id, incident_id, vendor_id, cents, status, at) = match known {
        Known::PaymentCreated(one) => (
            one.payment_id,
            one.incident_id,
            one.vendor_id,
            one.amount_cents,
            one.status.as_str(),
            one.created_at,
        ),
        Known::PaymentFlagged(one) => (
            one.payment_id,
            one.incident_id,
            one.vendor_id,
            one.amount_cents,
            "flagged",
            one.flagged_at,
        ),
        Known::PaymentApproved(one) => (
            one.payment_id,
            one.incident_id,
            one.vendor_id,
            one.amount_cents,
            "approved",
            one.approved_at,
        ),
        Known::PaymentRejected(one) => (
            one.payment_id,
            one.incident_id,
            one.vendor_id,
            one.amount_cents,
            "rejected",
            one.rejected_at,
        ),
        Known::PaymentCompleted(one) => (
            one.payment_id,
            one.incident_id,
            one.vendor_id,
            one.amount_cents,
            "completed",
            one.completed_at,
        ),
        Known::PaymentFailed(one) => (
            one.payment_id,
            one.incident_id,
            one.vendor_id,
            one.amount_cents,
            "failed",
            one.failed_at,
        ),
        Known::PaymentRefunded(one) => (
            one.payment_id,
            one.incident_id,
            one.vendor_id,
            one.amount_cents,
            "refunded",
            one.refunded_at,
        ),
        other => return of_people(tx, other),
    };
    let id = payment_id.to_string();
    mention(tx, incident_id)?;
    tx.execute(
        "INSERT INTO payment (payment_id, incident_id, vendor_id, amount_cents) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        params![id, incident_id.to_string(), vendor_id.to_string(), whole(cents.get())],
    )?;
    if matches!(known, Known::PaymentCreated(_)) {
        tx.execute(
            "UPDATE payment SET created_at_ms = ?2 WHERE payment_id = ?1",
            params![id, at.ms()],
        )?;
    }
    tx.execute(
        "INSERT INTO payment_step (payment_id, event_order, status, at_ms) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        params![id, order_of(event), status, at.ms()],
    )?;
    Ok(())
}

fn of_people(tx: &mut Tx<'_>, known: &Known) -> Result<(), HandlerError> {
    match known {
        Known::VendorRegistered(one) => vendor(
            tx,
            one.vendor_id,
            one.profile_version.get(),
            &one.business_name,
            one.registered_at,
        ),
        Known::VendorUpdated(one) => vendor(
            tx,
            one.vendor_id,
            one.profile_version.get(),
            &one.business_name,
            one.registered_at,
        ),
        Known::UserRegistered(one) if one.role == UserRole::Driver => driver(
            tx,
            one.user_id,
            one.profile_version.get(),
            &one.name,
            one.registered_at,
        ),
        Known::UserUpdated(one) if one.role == UserRole::Driver => driver(
            tx,
            one.user_id,
            one.profile_version.get(),
            &one.name,
            one.registered_at,
        ),
        Known::UserDataDeleted(gone) => {
            let id = gone.user_id.to_string();
            tx.execute(
                "INSERT INTO erased (user_id) VALUES (?1) ON CONFLICT DO NOTHING",
                params![id],
            )?;
            tx.execute(
                "UPDATE person SET name = NULL WHERE person_id = ?1",
                params![id],
            )?;
            Ok(())
        }
        other => of_operations(tx, other),
    }
}

fn vendor(
    tx: &mut Tx<'_>,
    vendor_id: Id,
    version: u64,
    name: &Text<200>,
    registered_at: Ts,
) -> Result<(), HandlerError> {
    let name = tx.text(name)?;
    person(tx, "vendor", vendor_id, version, &name, registered_at)
}

fn driver(
    tx: &mut Tx<'_>,
    driver_id: Id,
    version: u64,
    name: &Personal<Text<120>>,
    registered_at: Ts,
) -> Result<(), HandlerError> {
    let name = tx.text(&tx.sealed(&driver_id, name.clone())?)?;
    person(tx, "driver", driver_id, version, &name, registered_at)
}

/// The newest version stays; the name of somebody who was erased does not come back, whatever comes late.
fn person(
    tx: &mut Tx<'_>,
    kind: &str,
    person_id: Id,
    version: u64,
    name: &str,
    registered_at: Ts,
) -> Result<(), HandlerError> {
    tx.execute(
        "INSERT INTO person (kind, person_id, version, name, registered_at_ms)
         VALUES (?1, ?2, ?3, iif(EXISTS (SELECT 1 FROM erased WHERE user_id = ?2), NULL, ?4), ?5)
         ON CONFLICT (kind, person_id) DO UPDATE SET version = excluded.version, name = excluded.name,
             registered_at_ms = excluded.registered_at_ms WHERE excluded.version > version",
        params![kind, person_id.to_string(), whole(version), name, registered_at.ms()],
    )?;
    Ok(())
}

fn of_operations(tx: &mut Tx<'_>, known: &Known) -> Result<(), HandlerError> {
    match known {
        Known::AlarmRaised(alarm) => {
            tx.execute(
                "INSERT INTO alarm_raised (name, subject, at_ms, severity) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
                params![
                    alarm.alarm_name.as_str(),
                    alarm.subject.as_str(),
                    alarm.since.ms(),
                    alarm.severity.to_string()
                ],
            )?;
        }
        Known::AlarmCleared(alarm) => {
            tx.execute(
                "INSERT INTO alarm_cleared (name, subject, at_ms) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
                params![
                    alarm.alarm_name.as_str(),
                    alarm.subject.as_str(),
                    alarm.cleared_at.ms()
                ],
            )?;
        }
        Known::ConfigurationChanged(changed) => {
            let value = tx.text(&changed.value)?;
            tx.execute(
                "INSERT INTO configuration (config_key, version, value) VALUES (?1, ?2, ?3)
                 ON CONFLICT (config_key) DO UPDATE SET version = ?2, value = ?3 WHERE ?2 > version",
                params![changed.config_key.to_string(), whole(changed.config_version.get()), value],
            )?;
        }
        // Everything else is counted, and no fact follows from it.
        _ => {}
    }
    Ok(())
}
