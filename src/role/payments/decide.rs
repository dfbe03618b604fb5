//! The back office's yes and no (DOMAIN 5.5): review of what is flagged, approval, rejection.

use schemars::JsonSchema;
use serde::Deserialize;

use super::backlog;
use super::commands::{by, expect_version, find};
use super::entity::{By, Payment, PaymentStatus, audit};
use super::outcome::step;
use super::process::submit_soon;
use crate::event::{Code, Id, Payer, PaymentApproved, PaymentRejected, Personal, Purpose, Text};
use crate::role::{Code as ErrorCode, Command, HandlerError, Rejection};
use crate::store::Tx;

/// What a review comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Decision {
    Clear,
    Reject,
}

/// `payment.review`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Review {
    payment_id: Id,
    expected_version: u64,
    decision: Decision,
    note: Purpose,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// `payment.approve`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Approve {
    payment_id: Id,
    expected_version: u64,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// `payment.reject`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Reject {
    payment_id: Id,
    expected_version: u64,
    reason: Code,
    note: Option<Text<500>>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

pub(super) fn review(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: Review = command.parse()?;
    let mut payment = find(tx, body.payment_id)?;
    tx.correlate(payment.incident_id)?;
    expect_version(&payment, body.expected_version)?;
    if payment.status != PaymentStatus::PendingApproval || !payment.flagged {
        let message = "only a flagged payment that is pending approval is reviewed";
        return Err(Rejection::new(ErrorCode::InvalidTransition, message).into());
    }
    let who = by(command);
    let note = tx.seal(&payment.vendor_id, Text::lossy(body.note.as_str()))?;
    payment.reviewed_by = Some(who.actor.clone());
    payment.reviewed_at = Some(tx.now());
    match body.decision {
        Decision::Clear if payment.payer_type == Payer::DriverIc => {
            // The review is the approval: nobody else approves what an independent contractor pays.
            audit(tx, &payment, "review_cleared", &who, None, Some(&note))?;
            yes(tx, &mut payment, &who)?;
        }
        Decision::Clear => {
            payment.save(tx)?;
            audit(tx, &payment, "review_cleared", &who, None, Some(&note))?;
        }
        Decision::Reject => {
            let reason = Code::new("review_rejected").expect("the word is a code");
            no(tx, &mut payment, &who, reason, Some(note))?;
        }
    }
    Ok(tx.reply(&payment)?)
}

pub(super) fn approve(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: Approve = command.parse()?;
    let mut payment = find(tx, body.payment_id)?;
    tx.correlate(payment.incident_id)?;
    let approved = !matches!(
        payment.status,
        PaymentStatus::PendingApproval | PaymentStatus::Rejected
    );
    if approved && payment.approved_by.as_ref() == Some(command.actor()) {
        // His repeat, after a lost reply (DOMAIN 1.3).
        return Ok(tx.reply(&payment)?);
    }
    expect_version(&payment, body.expected_version)?;
    if payment.status == PaymentStatus::PendingApproval
        && payment.flagged
        && payment.reviewed_by.is_none()
    {
        let message = "the payment is flagged; somebody must review it first (payment.review)";
        let reasons =
            serde_json::json!({ "reasons": payment.reasons, "fraudScore": payment.fraud_score });
        return Err(Rejection::new(ErrorCode::FraudDetected, message)
            .with_details(reasons)
            .into());
    }
    yes(tx, &mut payment, &by(command))?;
    Ok(tx.reply(&payment)?)
}

pub(super) fn reject(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: Reject = command.parse()?;
    let mut payment = find(tx, body.payment_id)?;
    tx.correlate(payment.incident_id)?;
    expect_version(&payment, body.expected_version)?;
    let note = body.note.map(|note| tx.seal(&payment.vendor_id, note));
    let note = note.transpose()?;
    no(tx, &mut payment, &by(command), body.reason, note)?;
    Ok(tx.reply(&payment)?)
}

fn yes(tx: &mut Tx<'_>, payment: &mut Payment, who: &By) -> Result<(), HandlerError> {
    let before = step(payment, PaymentStatus::Approved)?;
    let now = tx.now();
    payment.approved_by = Some(who.actor.clone());
    payment.approved_at = Some(now);
    payment.save(tx)?;
    audit(tx, payment, "approved", who, Some(before), None)?;
    tx.emit(&PaymentApproved {
        payment_id: payment.payment_id,
        incident_id: payment.incident_id,
        vendor_id: payment.vendor_id,
        amount_cents: payment.amount_cents,
        currency: payment.currency.clone(),
        approved_by: who.actor.clone(),
        reviewed_by: payment.reviewed_by.clone(),
        approved_at: now,
    })?;
    submit_soon(tx, payment)?;
    Ok(backlog::watch(tx, false)?)
}

fn no(
    tx: &mut Tx<'_>,
    payment: &mut Payment,
    who: &By,
    reason: Code,
    note: Option<Personal<Text<500>>>,
) -> Result<(), HandlerError> {
    let before = step(payment, PaymentStatus::Rejected)?;
    payment.rejected_by = Some(who.actor.clone());
    payment.rejected_reason = Some(reason.clone());
    payment.save(tx)?;
    audit(tx, payment, "rejected", who, Some(before), note.as_ref())?;
    let rejected_at = tx.now();
    tx.emit(&PaymentRejected {
        payment_id: payment.payment_id,
        incident_id: payment.incident_id,
        vendor_id: payment.vendor_id,
        amount_cents: payment.amount_cents,
        currency: payment.currency.clone(),
        rejected_by: who.actor.clone(),
        reason,
        note,
        rejected_at,
    })?;
    Ok(backlog::watch(tx, false)?)
}
