//! Money back: the whole amount, by the back office or by the provider itself (DOMAIN 5.5).
//!
//! A refund that was asked for stands beside the payment, which stays completed until the provider confirms it.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::commands::{by, expect_version, find};
use super::entity::{By, Payment, PaymentStatus, Processor, Refund, audit};
use super::outcome::{Confirmation, confirm, conflict, step};
use super::process::{Answer, State, call, wait};
use super::{LOOKUP, PaymentOptions, REFUND};
use crate::event::{Actor, Code, Id, Payer, PaymentRefunded, Text, Ts};
use crate::role::{Code as ErrorCode, Command, EffectResult, HandlerError, Rejection};
use crate::store::{EffectClass, EffectOutcome, Tx};

/// Timer: ask about a refund, or ask for it again.
pub(super) const TIMER: &str = "refund";

/// `payment.refund`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Ask {
    payment_id: Id,
    expected_version: u64,
    reason: Code,
    /// How the money went back, where it was moved by hand.
    reference: Option<Text<128>>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

pub(super) fn ask(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: Ask = command.parse()?;
    let mut payment = find(tx, body.payment_id)?;
    expect_version(&payment, body.expected_version)?;
    tx.correlate(payment.incident_id)?;
    if payment.status != PaymentStatus::Completed {
        step(&mut payment, PaymentStatus::Refunded)?;
    }
    if payment.refund.is_some() {
        let message = "a refund of this payment is on its way already";
        return Err(Rejection::new(ErrorCode::InvalidTransition, message).into());
    }
    let who = by(command);
    if payment.processor != Some(Processor::Stripe) {
        let reference = body.reference.ok_or_else(|| {
            let message = "is missing: this payment is moved by hand, say how the money went back";
            Rejection::field("reference", message)
        })?;
        refunded(tx, &mut payment, body.reason, &who, reference)?;
        return Ok(tx.reply(&payment)?);
    }
    if body.reference.is_some() {
        let message = "is the provider's to give for this payment";
        return Err(Rejection::field("reference", message).into());
    }
    payment.refunds += 1;
    payment.refund = Some(Refund {
        reason: body.reason,
        requested_by: who.actor.clone(),
        requested_at: tx.now(),
        n: payment.refunds,
        asks: 0,
        reference: None,
    });
    payment.save(tx)?;
    audit(tx, &payment, "refund_requested", &who, None, None)?;
    send(tx, &payment)?;
    Ok(tx.reply(&payment)?)
}

fn key(payment: &Payment, n: u32) -> String {
    format!("refund_{}_{n}", payment.payment_id)
}

fn request(payment: &Payment, refund: &Refund) -> Value {
    let of = match payment.payer_type {
        Payer::DriverIc => "charge",
        Payer::BackOffice => "transfer",
    };
    json!({
        "what": REFUND, "of": of, "paymentId": payment.payment_id, "refund": refund.n, "key": key(payment, refund.n),
        "payment": payment.provider_reference, "reference": refund.reference, "amountCents": payment.amount_cents,
    })
}

fn send(tx: &mut Tx<'_>, payment: &Payment) -> Result<(), HandlerError> {
    let Some(refund) = &payment.refund else {
        return Ok(());
    };
    let request = request(payment, refund);
    call(
        tx,
        key(payment, refund.n),
        REFUND,
        EffectClass::External,
        request,
    )
}

/// The timer: asks what became of it.
pub(super) fn again(
    tx: &mut Tx<'_>,
    options: &PaymentOptions,
    payment: &mut Payment,
) -> Result<(), HandlerError> {
    let now = tx.now();
    let Some(refund) = payment.refund.as_mut() else {
        return Ok(());
    };
    refund.asks += 1;
    let (asks, n) = (refund.asks, refund.n);
    // Never sent for all we know, or its outcome unknown: the same key does it once. Later it can only be looked for.
    let repeat = refund.reference.is_none() && refund.requested_at + options.key_life > now;
    payment.save(tx)?;
    if repeat {
        return send(tx, payment);
    }
    let Some(refund) = payment.refund.as_ref() else {
        return Ok(());
    };
    let lookup = format!("lookup_{}_{asks}", key(payment, n));
    let request = request(payment, refund);
    call(tx, lookup, LOOKUP, EffectClass::Pure, request)
}

pub(super) fn on_result(
    tx: &mut Tx<'_>,
    options: &PaymentOptions,
    payment: &mut Payment,
    result: &EffectResult,
) -> Result<(), HandlerError> {
    let n = result.request["refund"].as_u64();
    let Some(refund) = payment.refund.clone() else {
        return Ok(());
    };
    if n != Some(u64::from(refund.n)) {
        return Ok(());
    }
    let answer = match &result.outcome {
        EffectOutcome::Done(value) => serde_json::from_value::<Answer>(value.clone()).ok(),
        EffectOutcome::Failed(_) | EffectOutcome::NotSent(_) | EffectOutcome::Unknown(_) => None,
    };
    match answer {
        Some(answer) if answer.state == State::Succeeded => {
            let by = By {
                actor: refund.requested_by.clone(),
                operator: None,
            };
            let reference = answer.reference.unwrap_or_else(|| Text::lossy("none"));
            refunded(tx, payment, refund.reason, &by, reference)
        }
        Some(answer) if answer.state == State::Failed => {
            payment.refund = None;
            payment.save(tx)?;
            Ok(audit(
                tx,
                payment,
                "refund_failed",
                &By::stripe(),
                None,
                None,
            )?)
        }
        other => {
            if let (
                Some(kept),
                Some(Answer {
                    reference: Some(reference),
                    ..
                }),
            ) = (payment.refund.as_mut(), other)
            {
                kept.reference = Some(reference);
            }
            payment.save(tx)?;
            let at = tx.now() + wait(options, refund.asks);
            let key = payment.payment_id.to_string();
            Ok(tx.schedule(at, TIMER, &key, &Value::Null)?)
        }
    }
}

/// The money is back.
fn refunded(
    tx: &mut Tx<'_>,
    payment: &mut Payment,
    reason: Code,
    by: &By,
    reference: Text<128>,
) -> Result<(), HandlerError> {
    let before = step(payment, PaymentStatus::Refunded)?;
    tx.cancel_timer(TIMER, &payment.payment_id.to_string())?;
    let now = tx.now();
    payment.refund = None;
    payment.refunded_at = Some(now);
    payment.save(tx)?;
    audit(tx, payment, "refunded", by, Some(before), None)?;
    tx.emit(&PaymentRefunded {
        payment_id: payment.payment_id,
        incident_id: payment.incident_id,
        vendor_id: payment.vendor_id,
        amount_cents: payment.amount_cents,
        currency: payment.currency.clone(),
        reason,
        refunded_by: by.actor.clone(),
        provider_reference: reference,
        refunded_at: now,
    })?;
    Ok(())
}

/// What the provider says of a refund by itself.
#[derive(Debug, Clone)]
pub(super) struct Reversal {
    /// The attempt whose money went back; 0 where it does not say.
    pub attempt: u8,
    /// The provider's name of what was paid.
    pub payment: Text<128>,
    /// And of what went back.
    pub reference: Text<128>,
    /// When.
    pub at: Ts,
}

/// The provider returned the money: because we asked, or by itself. What went back had been paid, whatever we knew.
pub(super) fn reversed(
    tx: &mut Tx<'_>,
    payment: &mut Payment,
    reversal: &Reversal,
) -> Result<(), HandlerError> {
    use PaymentStatus as S;
    if matches!(payment.status, S::Approved | S::Processing | S::Failed) {
        let paid = Confirmation {
            attempt: reversal.attempt,
            reference: reversal.payment.clone(),
            at: reversal.at,
            by: By::stripe(),
        };
        confirm(tx, payment, &paid)?;
    }
    match payment.status {
        S::Completed => {
            let (reason, actor) = match payment.refund.clone() {
                Some(refund) => (refund.reason, refund.requested_by),
                None => {
                    let word = "provider_reversal";
                    let reason = Code::new(word).expect("the word is a code");
                    (reason, Actor::Provider("stripe".to_owned()))
                }
            };
            let by = By {
                actor,
                operator: None,
            };
            refunded(tx, payment, reason, &by, reversal.reference.clone())
        }
        S::Refunded => Ok(()),
        _ => conflict(tx, payment, "refunded_unpaid"),
    }
}
