//! What notifications does on other roles' events: keeps the directory, and tells people by the table (DOMAIN 5.6).

use super::Options;
use super::contact::{erase, group, take_account, take_business};
use super::preferences::Preferences;
use super::sending::{Note, drop_all, plan, pump};
use super::table::{DIRECTORY, ROWS, Row, SILENT, To, stale_at, wording};
use super::values;
use crate::event::{Event, Id, Known, NotificationType};
use crate::role::{HandlerError, Received};
use crate::store::Tx;

pub(super) fn on_event(
    tx: &mut Tx<'_>,
    options: &Options,
    received: &Received,
) -> Result<(), HandlerError> {
    let event = &received.event;
    let Some(known) = event.known() else {
        // A type that this build does not know tells nobody anything.
        return Ok(());
    };
    if DIRECTORY.contains(&known.detail_type()) {
        return keep_directory(tx, known);
    }
    // The home site tells, or who does it for that one (DESIGN 8); and of some things nobody is told.
    if SILENT.contains(&known.detail_type()) || !tx.creates()? {
        return Ok(());
    }
    let now = tx.now();
    for row in ROWS {
        if row.detail_type == known.detail_type() && (row.when)(known, now) {
            tell(tx, options, event, row)?;
        }
    }
    pump(tx, options)
}

fn keep_directory(tx: &mut Tx<'_>, known: &Known) -> Result<(), HandlerError> {
    match known {
        Known::UserRegistered(event) => {
            take_account(tx, event.user_id, event.as_ref().into())?;
        }
        Known::UserUpdated(event) => take_account(tx, event.user_id, event.as_ref().into())?,
        Known::VendorRegistered(event) => {
            take_business(tx, event.vendor_id, event.as_ref().into())?;
        }
        Known::VendorUpdated(event) => take_business(tx, event.vendor_id, event.as_ref().into())?,
        Known::UserDataDeleted(event) => {
            erase(tx, event.user_id)?;
            Preferences::erase(tx, event.user_id)?;
            drop_all(tx, event.user_id)?;
        }
        _ => {}
    }
    Ok(())
}

fn id_of(event: &Event, field: &str) -> Option<Id> {
    let text = event.detail.get(field)?.as_str()?;
    Id::parse(text).ok()
}

/// Everybody whom a row tells of an event.
fn recipients(tx: &Tx<'_>, event: &Event, row: &Row) -> Result<Vec<Id>, HandlerError> {
    let people = match row.to {
        To::Driver => id_of(event, "driverId").into_iter().collect(),
        To::Vendor => id_of(event, "vendorId").into_iter().collect(),
        To::Dispatchers | To::Admins => group(tx, row.to, id_of(event, "companyId"))?,
    };
    // A replay may find nobody: it tells nobody.
    if people.is_empty() && tx.reaches_outside() {
        let message = format!("message {}: nobody is known who could be told", row.kind);
        return Err(HandlerError::Transient(message));
    }
    Ok(people)
}

fn tell(tx: &mut Tx<'_>, options: &Options, event: &Event, row: &Row) -> Result<(), HandlerError> {
    for to in recipients(tx, event, row)? {
        let note = Note {
            event_id: Some(event.id),
            once_for: once_for(event, row.kind),
            to,
            kind: row.kind,
            wording: wording(row),
            priority: row.priority,
            channels: row.channels,
            event_at: event.time,
            stale_at: stale_at(event),
        };
        plan(tx, options, &note, &|tx, reader| {
            values::of_event(tx, event, row.kind, reader, &options.link_base)
        })?;
    }
    Ok(())
}

/// What a message is once for: its event; on his way and arrived, which more than one event may tell, once for each vendor
/// of an incident.
fn once_for(event: &Event, kind: NotificationType) -> String {
    let told_twice = matches!(
        kind,
        NotificationType::VendorEnRoute | NotificationType::VendorArrived
    );
    match (id_of(event, "incidentId"), id_of(event, "vendorId")) {
        (Some(incident), Some(vendor)) if told_twice => format!("{kind}/{incident}/{vendor}"),
        _ => event.id.to_string(),
    }
}
