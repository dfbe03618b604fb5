//! Listings of payments: all, those pending approval, those flagged (DOMAIN 5.5). Ownership comes before the limit.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::commands::shown;
use super::entity::{Payment, PaymentStatus};
use crate::event::{Actor, Id};
use crate::role::listing::{cursor, limit, next, page};
use crate::role::{Code, Command, HandlerError, Rejection};
use crate::store::{Tx, params};

/// `payment.list`: newest first.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ListBody {
    status: Option<PaymentStatus>,
    incident_id: Option<Id>,
    vendor_id: Option<Id>,
    driver_id: Option<Id>,
    company_id: Option<Id>,
    limit: Option<u64>,
    cursor: Option<String>,
}

/// `payment.list_pending`, the oldest first; `payment.list_flagged`, the highest score first.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PageBody {
    limit: Option<u64>,
    cursor: Option<String>,
}

/// Whose payments the caller sees: of a driver those that he pays, of a vendor his, of a dispatcher his company's.
struct Reach {
    driver: Option<String>,
    vendor: Option<String>,
    /// Outer: whether it matters. Inner: which, or none.
    company: Option<Option<String>>,
}

fn reach(command: &Command) -> Reach {
    let nothing = Reach {
        driver: None,
        vendor: None,
        company: None,
    };
    match command.actor() {
        Actor::Driver(id) => Reach {
            driver: Some(id.to_string()),
            ..nothing
        },
        Actor::Vendor(id) => Reach {
            vendor: Some(id.to_string()),
            ..nothing
        },
        Actor::Dispatcher(_) => Reach {
            company: Some(command.caller.company.map(|id| id.to_string())),
            ..nothing
        },
        _ => nothing,
    }
}

/// Asking for another's listing is refused, not answered with nothing.
fn refuse_others(command: &Command, body: &ListBody) -> Result<(), HandlerError> {
    let other = match command.actor() {
        Actor::Driver(id) => body.driver_id.is_some_and(|asked| asked != *id),
        Actor::Vendor(id) => body.vendor_id.is_some_and(|asked| asked != *id),
        Actor::Dispatcher(_) => {
            body.company_id.is_some() && body.company_id != command.caller.company
        }
        _ => false,
    };
    if other {
        let message = "these are another's payments";
        return Err(Rejection::new(Code::AuthorizationError, message).into());
    }
    Ok(())
}

/// The part of a statement that keeps to what the caller may see; it takes parameters 1 to 4.
const OWN: &str = "(?1 IS NULL OR (driver_id = ?1 AND doc ->> 'payerType' = 'driver_ic'))
    AND (?2 IS NULL OR vendor_id = ?2) AND (NOT ?3 OR company_id IS ?4)";

pub(super) fn list(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: ListBody = command.parse()?;
    refuse_others(command, &body)?;
    let most = limit(body.limit)?;
    let (before_ms, before_id) = cursor(body.cursor.as_deref())?;
    let own = reach(command);
    let text = |id: Option<Id>| id.map(|id| id.to_string());
    let sql = format!(
        "SELECT doc FROM payment WHERE {OWN} AND (?5 IS NULL OR status = ?5) AND (?6 IS NULL OR incident_id = ?6)
             AND (?7 IS NULL OR vendor_id = ?7) AND (?8 IS NULL OR driver_id = ?8)
             AND (?9 IS NULL OR company_id = ?9) AND (created_at_ms, payment_id) < (?10, ?11)
         ORDER BY created_at_ms DESC, payment_id DESC LIMIT ?12"
    );
    let payments: Vec<Payment> = tx.documents(
        &sql,
        params![
            own.driver,
            own.vendor,
            own.company.is_some(),
            own.company.flatten(),
            body.status.map(PaymentStatus::as_str),
            text(body.incident_id),
            text(body.vendor_id),
            text(body.driver_id),
            text(body.company_id),
            before_ms,
            before_id,
            most as i64
        ],
    )?;
    let more = payments.last().filter(|_| payments.len() as u64 == most);
    let more = more.map(|last| next(last.created_at.ms(), &last.payment_id.to_string()));
    answer(tx, command, &payments, more)
}

pub(super) fn pending(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: PageBody = command.parse()?;
    let most = limit(body.limit)?;
    let (after_ms, after_id) = match body.cursor.as_deref() {
        None => (-1, String::new()),
        text => cursor(text)?,
    };
    let own = reach(command);
    let sql = format!(
        "SELECT doc FROM payment WHERE {OWN} AND status = 'pending_approval'
             AND (created_at_ms, payment_id) > (?5, ?6)
         ORDER BY created_at_ms, payment_id LIMIT ?7"
    );
    let payments: Vec<Payment> = tx.documents(
        &sql,
        params![
            own.driver,
            own.vendor,
            own.company.is_some(),
            own.company.flatten(),
            after_ms,
            after_id,
            most as i64
        ],
    )?;
    let more = payments.last().filter(|_| payments.len() as u64 == most);
    let more = more.map(|last| next(last.created_at.ms(), &last.payment_id.to_string()));
    answer(tx, command, &payments, more)
}

pub(super) fn flagged(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: PageBody = command.parse()?;
    let most = limit(body.limit)?;
    // The cursor's number is a score here; of one score the ids go up, as in the order below.
    let (below, after_id) = cursor(body.cursor.as_deref())?;
    let own = reach(command);
    let sql = format!(
        "SELECT doc FROM payment WHERE {OWN} AND status = 'pending_approval' AND flagged
             AND (score < ?5 OR (score = ?5 AND payment_id > ?6))
         ORDER BY score DESC, payment_id LIMIT ?7"
    );
    let payments: Vec<Payment> = tx.documents(
        &sql,
        params![
            own.driver,
            own.vendor,
            own.company.is_some(),
            own.company.flatten(),
            below,
            after_id,
            most as i64
        ],
    )?;
    let more = payments.last().filter(|_| payments.len() as u64 == most);
    let more = more.map(|last| {
        let score = (last.fraud_score.get() * 10_000.0).round() as i64;
        next(score, &last.payment_id.to_string())
    });
    answer(tx, command, &payments, more)
}

fn answer(
    tx: &mut Tx<'_>,
    command: &Command,
    payments: &[Payment],
    more: Option<String>,
) -> Result<(), HandlerError> {
    let items: Vec<Value> = payments
        .iter()
        .map(|payment| shown(payment, command))
        .collect();
    Ok(tx.reply(&page(&items, more))?)
}
