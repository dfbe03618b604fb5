//! What the provider says for certain: paid, refused; and what to do where that contradicts what we hold (DOMAIN 5.5, early,
//! late, contradicting confirmation). All of it may come twice and in any order.

use super::entity::{By, Payment, PaymentStatus, audit, legal};
use super::process::{stop_timers, subject};
use crate::event::{
    AlarmSeverity, Code, PaymentAttempt, PaymentCompleted, PaymentFailed, Text, Ts,
};
use crate::role::alarm::{self, Alarm};
use crate::role::{Code as ErrorCode, HandlerError, Rejection};
use crate::store::Tx;

/// Attempts at the most: the first and three retries.
pub(super) const ATTEMPTS: u8 = 4;
/// Alarm of a provider that contradicts a final state, or of a payout that bounced.
pub(super) const CONFLICT_ALARM: &str = "payment-conflict";

/// The provider says that the money moved.
#[derive(Debug, Clone)]
pub(super) struct Confirmation {
    /// The attempt that it is about; 0 where it does not say.
    pub attempt: u8,
    /// The provider's name for it.
    pub reference: Text<128>,
    /// When it happened, by the provider's clock where it says so.
    pub at: Ts,
    pub by: By,
}

/// Moves a payment, as its table allows.
pub(super) fn step(
    payment: &mut Payment,
    to: PaymentStatus,
) -> Result<PaymentStatus, HandlerError> {
    let from = payment.status;
    if !legal(from, to) {
        let message = format!(
            "a payment does not go from {} to {}",
            from.as_str(),
            to.as_str()
        );
        return Err(Rejection::new(ErrorCode::InvalidTransition, message).into());
    }
    payment.status = to;
    Ok(from)
}

/// Takes a confirmation in: once, whenever it comes.
pub(super) fn confirm(
    tx: &mut Tx<'_>,
    payment: &mut Payment,
    confirmation: &Confirmation,
) -> Result<(), HandlerError> {
    use PaymentStatus as S;
    let same = payment.provider_reference.as_ref() == Some(&confirmation.reference);
    match payment.status {
        S::PendingApproval => conflict(tx, payment, "paid_without_approval"),
        S::Rejected => conflict(tx, payment, "paid_after_rejection"),
        S::Completed if same => Ok(()),
        S::Completed => conflict(tx, payment, "paid_twice"),
        // What was refunded had been paid: the confirmation only comes late.
        S::Refunded if same && payment.refunded_at.is_some_and(|at| confirmation.at <= at) => {
            Ok(())
        }
        S::Refunded => conflict(tx, payment, "paid_after_refund"),
        S::Approved | S::Failed => {
            let before = step(payment, S::Processing)?;
            payment.attempt = confirmed_attempt(payment, confirmation);
            audit(
                tx,
                payment,
                "confirmed_unasked",
                &confirmation.by,
                Some(before),
                None,
            )?;
            complete(tx, payment, confirmation)
        }
        S::Processing => {
            let other = confirmed_attempt(payment, confirmation);
            if other != payment.attempt {
                // The money moved for an attempt that we had given up, and another one is on its way.
                payment.attempt = other;
                conflict(tx, payment, "older_attempt_paid")?;
            }
            complete(tx, payment, confirmation)
        }
    }
}

fn confirmed_attempt(payment: &Payment, confirmation: &Confirmation) -> u8 {
    match confirmation.attempt {
        1..=ATTEMPTS => confirmation.attempt,
        _ => payment.attempt.max(1),
    }
}

fn complete(
    tx: &mut Tx<'_>,
    payment: &mut Payment,
    confirmation: &Confirmation,
) -> Result<(), HandlerError> {
    let before = step(payment, PaymentStatus::Completed)?;
    stop_timers(tx, payment)?;
    let now = tx.now();
    payment.provider_reference = Some(confirmation.reference.clone());
    payment.failed_reason = None;
    payment.completed_at = Some(now);
    payment.save(tx)?;
    audit(
        tx,
        payment,
        "completed",
        &confirmation.by,
        Some(before),
        None,
    )?;
    tx.emit(&PaymentCompleted {
        payment_id: payment.payment_id,
        incident_id: payment.incident_id,
        vendor_id: payment.vendor_id,
        driver_id: payment.driver_id,
        amount_cents: payment.amount_cents,
        currency: payment.currency.clone(),
        attempt: attempt(payment),
        provider_reference: confirmation.reference.clone(),
        completed_at: now,
    })?;
    Ok(())
}

fn attempt(payment: &Payment) -> PaymentAttempt {
    PaymentAttempt::new(payment.attempt.clamp(1, ATTEMPTS)).expect("clamped to its range")
}

/// The provider refused `attempt` for certain, at `at`.
pub(super) fn fail(
    tx: &mut Tx<'_>,
    payment: &mut Payment,
    of_attempt: u8,
    reason: &str,
    at: Ts,
    by: &By,
) -> Result<(), HandlerError> {
    use PaymentStatus as S;
    match payment.status {
        S::Processing if payment.attempt == of_attempt => {}
        S::Completed
            if payment.attempt == of_attempt
                && payment.completed_at.is_some_and(|completed| at > completed) =>
        {
            return conflict(tx, payment, "failed_after_completion");
        }
        // An older attempt, or one that is settled: nothing new.
        _ => return Ok(()),
    }
    let before = step(payment, S::Failed)?;
    stop_timers(tx, payment)?;
    let reason =
        Code::new(reason).unwrap_or_else(|_| Code::new("refused").expect("the word is a code"));
    payment.failed_reason = Some(reason.clone());
    payment.save(tx)?;
    audit(tx, payment, "failed", by, Some(before), None)?;
    let failed_at = tx.now();
    tx.emit(&PaymentFailed {
        payment_id: payment.payment_id,
        incident_id: payment.incident_id,
        vendor_id: payment.vendor_id,
        company_id: payment.company_id,
        amount_cents: payment.amount_cents,
        currency: payment.currency.clone(),
        reason,
        attempt: attempt(payment),
        r#final: payment.attempt >= ATTEMPTS,
        failed_at,
    })?;
    Ok(())
}

/// The provider contradicts what we hold: nothing changes, and a person is called.
pub(super) fn conflict(
    tx: &mut Tx<'_>,
    payment: &Payment,
    what: &'static str,
) -> Result<(), HandlerError> {
    raise_conflict(tx, &subject(payment))?;
    Ok(audit(tx, payment, what, &By::stripe(), None, None)?)
}

/// The alarm alone, for what is about no payment of ours.
pub(super) fn raise_conflict(tx: &mut Tx<'_>, subject: &str) -> Result<(), HandlerError> {
    alarm::raise(
        tx,
        &Alarm {
            name: CONFLICT_ALARM,
            severity: AlarmSeverity::Critical,
            subject: subject.to_owned(),
            value: 1.0,
            threshold: 0.0,
        },
    )?;
    Ok(())
}
