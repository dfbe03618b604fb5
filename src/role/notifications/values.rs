//! What the variables of a message about an event are (DOMAIN 5.6): from the event itself, and from the directory.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::contact::Contact;
use super::render::{Variables, variables_of};
use crate::event::{Event, Id, NotificationType};
use crate::role::HandlerError;
use crate::store::Tx;

/// The variables of a `kind` of message about `event` for `reader`.
///
/// # Errors
/// `Transient` naming a variable that the event or the directory does not give (yet).
pub(super) fn of_event(
    tx: &Tx<'_>,
    event: &Event,
    kind: NotificationType,
    reader: &Contact,
    link_base: &str,
) -> Result<Variables, HandlerError> {
    let mut variables = Variables::new();
    for name in variables_of(kind) {
        let value = match *name {
            "vendorName" => vendor_name(tx, event)?,
            name => of_detail(event, name, reader, link_base),
        };
        let value = value.ok_or_else(|| {
            HandlerError::Transient(format!("message {kind}: variable {name} has no value"))
        })?;
        variables.insert((*name).to_owned(), value);
    }
    Ok(variables)
}

fn text<'e>(event: &'e Event, field: &str) -> Option<&'e str> {
    event.detail.get(field).and_then(Value::as_str)
}

fn vendor_name(tx: &Tx<'_>, event: &Event) -> Result<Option<String>, HandlerError> {
    let Some(vendor_id) = text(event, "vendorId").and_then(|id| Id::parse(id).ok()) else {
        return Ok(None);
    };
    let contact = Contact::find(tx, vendor_id)?;
    match contact {
        Some(contact) => Ok(contact.vendor_name(tx)?),
        None => Ok(None),
    }
}

fn of_detail(event: &Event, name: &str, reader: &Contact, link_base: &str) -> Option<String> {
    let link =
        |what: &str, field: &str| Some(format!("{link_base}/{what}/{}", text(event, field)?));
    match name {
        "offerLink" => link("offers", "offerId"),
        "jobLink" => link("jobs", "incidentId"),
        "trackingLink" => link("track", "incidentId"),
        "ratingLink" => link("rate", "incidentId"),
        "paymentLink" => link("payments", "paymentId"),
        "locationLink" => link("locate", "callId"),
        "distanceMiles" => Some(format!("{:.1}", event.detail.get(name)?.as_f64()?)),
        // An estimate has no currency of its own; prices are in the platform's.
        "payout" => money(event, "estimatedPayoutCents"),
        "amount" => money(event, "amountCents"),
        "date" => {
            let field = ["approvedAt", "completedAt"]
                .iter()
                .find_map(|field| text(event, field))?;
            Some(local(field, reader)?.format("%Y-%m-%d").to_string())
        }
        "arrivalDueAt" => Some(
            local(text(event, name)?, reader)?
                .format("%H:%M %Z")
                .to_string(),
        ),
        plain => plainly(event.detail.get(plain)?),
    }
}

fn local(time: &str, reader: &Contact) -> Option<DateTime<chrono_tz::Tz>> {
    let time: DateTime<Utc> = time.parse().ok()?;
    Some(time.with_timezone(&reader.timezone()))
}

/// `USD 161.56`.
fn money(event: &Event, field: &str) -> Option<String> {
    let cents = event.detail.get(field)?.as_u64()?;
    let currency = text(event, "currency").unwrap_or("USD");
    Some(format!("{currency} {}.{:02}", cents / 100, cents % 100))
}

/// A text as it is, a number as it is written, a list with commas.
fn plainly(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        // 3 and not 3.0, since a count may come as either.
        Value::Number(number) => Some(match number.as_f64() {
            Some(n) if n.fract() == 0.0 && n.abs() < 1e15 => format!("{n:.0}"),
            _ => number.to_string(),
        }),
        Value::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(plainly).collect();
            items.map(|items| items.join(", "))
        }
        Value::Null | Value::Bool(_) | Value::Object(_) => None,
    }
}
