//! The end of the alarm `payment-conflict` (DOMAIN 4.4): only a person can find out what became of money that the provider and we
//! tell differently, so he says so.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::commands::by;
use super::entity::{Payment, audit};
use super::outcome::CONFLICT_ALARM;
use crate::event::{Id, Purpose, Text};
use crate::role::alarm;
use crate::role::{Code as ErrorCode, Command, HandlerError, Rejection};
use crate::store::Tx;

/// `payment.resolve_conflict`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Resolve {
    /// What the alarm is about: `payment/<id>`, or `vendor/<id>` for a payout that bounced.
    subject: Text<128>,
    /// What was found out and done.
    note: Purpose,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// A conflict that is over.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ConflictResolved")]
pub(super) struct Resolved {
    /// What it was about.
    subject: String,
}

/// Ends it. Of a payment the note is in its history.
pub(super) fn resolve(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: Resolve = command.parse()?;
    let subject = body.subject.as_str();
    if !alarm::clear(tx, CONFLICT_ALARM, subject, 0.0)? {
        let message = format!("no alarm {CONFLICT_ALARM} is raised about '{subject}'");
        return Err(Rejection::new(ErrorCode::NotFound, message).into());
    }
    let payment = subject.strip_prefix("payment/").map(Id::parse);
    if let Some(Ok(payment_id)) = payment
        && let Some(payment) = Payment::find(tx, payment_id)?
    {
        let note = tx.seal(&payment.vendor_id, Text::lossy(body.note.as_str()))?;
        audit(
            tx,
            &payment,
            "conflict_resolved",
            &by(command),
            None,
            Some(&note),
        )?;
    }
    Ok(tx.reply(&Resolved {
        subject: subject.to_owned(),
    })?)
}
