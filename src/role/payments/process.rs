//! Money on its way: submission to the provider, its answers, and the questions after an unknown outcome (DOMAIN 5.5).
//!
//! Every call goes out under the key of its attempt. A call that could not be made is made again under the same key; an
//! outcome that nobody knows is asked for until somebody does. A new attempt begins only after a definite failure.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::entity::{By, Payment, PaymentStatus, Processor, audit};
use super::outcome::{Confirmation, confirm, fail};
use super::{CHARGE, LOOKUP, PaymentOptions, REFUND, TRANSFER, backlog, refund};
use crate::event::{AlarmSeverity, Code, Id, Payer, PaymentAction, PaymentRequiresAction, Text};
use crate::role::alarm::{self, Alarm};
use crate::role::{EffectResult, HandlerError, Timer};
use crate::store::{EffectCall, EffectClass, EffectOutcome, Error, Tx, params};

/// Timer: submit, or submit again what could not be sent.
const SUBMIT: &str = "submit";
/// Timer: ask the provider what became of an attempt.
const RECONCILE: &str = "reconcile";
/// Timer: the outcome has been unknown for too long.
const UNKNOWN: &str = "unknown";
/// Alarm of an outcome unknown for a day.
pub(super) const UNKNOWN_ALARM: &str = "payment-unknown";

/// What a runner answers; see the module `payments`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Answer {
    pub state: State,
    pub reference: Option<Text<128>>,
    pub reason: Option<Code>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Succeeded,
    Failed,
    Pending,
    RequiresAction,
    NotFound,
}

/// What an alarm about a payment is about.
pub(super) fn subject(payment: &Payment) -> String {
    format!("payment/{}", payment.payment_id)
}

/// Submits an approved payment right after this commit. Not in a replay: there a due timer is not set, the payment stays
/// approved, and payment.process submits it.
pub(super) fn submit_soon(tx: &mut Tx<'_>, payment: &Payment) -> Result<(), Error> {
    let at = tx.now();
    let key = payment.payment_id.to_string();
    tx.schedule(at, SUBMIT, &key, &Value::Null)
}

/// Begins an attempt: of an approved payment the first, of a failed one the next.
pub(super) fn submit(
    tx: &mut Tx<'_>,
    options: &PaymentOptions,
    payment: &mut Payment,
    by: &By,
) -> Result<(), HandlerError> {
    tx.cancel_timer(SUBMIT, &payment.payment_id.to_string())?;
    let previous = payment.status;
    payment.status = PaymentStatus::Processing;
    payment.attempt += 1;
    payment.processor = Some(options.processor);
    payment.submitted_at = Some(tx.now());
    payment.provider_reference = None;
    payment.failed_reason = None;
    payment.asks = 0;
    payment.save(tx)?;
    audit(tx, payment, "submitted", by, Some(previous), None)?;
    send(tx, payment)
}

/// Asks for the call of the present attempt.
pub(super) fn send(tx: &mut Tx<'_>, payment: &mut Payment) -> Result<(), HandlerError> {
    if payment.processor != Some(Processor::Stripe) {
        // Moved by hand: payment.settle says what became of it.
        return Ok(());
    }
    let mut request = json!({
        "paymentId": payment.payment_id, "incidentId": payment.incident_id, "attempt": payment.attempt,
        "amountCents": payment.amount_cents, "currency": payment.currency,
    });
    let kind = match payment.payer_type {
        Payer::DriverIc => CHARGE,
        Payer::BackOffice => {
            let account: Option<Option<String>> = tx.value(
                "SELECT payout_account_ref FROM vendor WHERE vendor_id = ?1",
                params![payment.vendor_id.to_string()],
            )?;
            let Some(account) = account.flatten() else {
                let (attempt, now) = (payment.attempt, tx.now());
                return fail(tx, payment, attempt, "no_payout_account", now, &By::us());
            };
            request["destination"] = account.into();
            TRANSFER
        }
    };
    let key = payment.idempotency_key();
    call(tx, key, kind, EffectClass::External, request)
}

pub(super) fn call(
    tx: &mut Tx<'_>,
    key: String,
    kind: &str,
    class: EffectClass,
    request: Value,
) -> Result<(), HandlerError> {
    Ok(tx.effect(EffectCall {
        key,
        kind: kind.to_owned(),
        class,
        request,
        secret: None,
    })?)
}

pub(super) fn on_timer(
    tx: &mut Tx<'_>,
    options: &PaymentOptions,
    timer: &Timer,
) -> Result<(), HandlerError> {
    if timer.kind == backlog::TIMER {
        return backlog::lasts(tx);
    }
    let payment = Id::parse(&timer.key)
        .ok()
        .map(|id| Payment::find(tx, id))
        .transpose()?
        .flatten();
    let Some(mut payment) = payment else {
        return Ok(());
    };
    tx.correlate(payment.incident_id)?;
    match (timer.kind.as_str(), payment.status) {
        (SUBMIT, PaymentStatus::Approved) => submit(tx, options, &mut payment, &By::us()),
        (SUBMIT, PaymentStatus::Processing) => {
            payment.awaiting_provider = false;
            payment.save(tx)?;
            send(tx, &mut payment)
        }
        (RECONCILE, PaymentStatus::Processing) => ask(tx, &mut payment),
        (UNKNOWN, PaymentStatus::Processing) if payment.outcome_unknown => {
            let hours = payment
                .unknown_since
                .map_or(0.0, |since| (tx.now() - since).num_minutes() as f64 / 60.0);
            alarm::raise(
                tx,
                &Alarm {
                    name: UNKNOWN_ALARM,
                    severity: AlarmSeverity::Critical,
                    subject: subject(&payment),
                    value: hours,
                    threshold: options.unknown_after.as_secs_f64() / 3600.0,
                },
            )?;
            Ok(audit(
                tx,
                &payment,
                "unknown_too_long",
                &By::us(),
                None,
                None,
            )?)
        }
        (refund::TIMER, PaymentStatus::Completed) => refund::again(tx, options, &mut payment),
        _ => Ok(()),
    }
}

/// Asks the provider by the attempt's key what became of it.
fn ask(tx: &mut Tx<'_>, payment: &mut Payment) -> Result<(), HandlerError> {
    payment.asks += 1;
    payment.save(tx)?;
    let what = match payment.payer_type {
        Payer::DriverIc => CHARGE,
        Payer::BackOffice => TRANSFER,
    };
    let idempotency_key = payment.idempotency_key();
    let request = json!({
        "what": what, "paymentId": payment.payment_id, "attempt": payment.attempt, "key": idempotency_key,
        "reference": payment.provider_reference,
    });
    let key = format!("lookup_{idempotency_key}_{}", payment.asks);
    // A question changes nothing there.
    call(tx, key, LOOKUP, EffectClass::Pure, request)
}

/// When the provider is asked next.
fn ask_later(
    tx: &mut Tx<'_>,
    options: &PaymentOptions,
    payment: &Payment,
) -> Result<(), HandlerError> {
    let at = tx.now() + wait(options, payment.asks);
    let key = payment.payment_id.to_string();
    Ok(tx.schedule(at, RECONCILE, &key, &Value::Null)?)
}

/// How long to wait after `asks` questions.
pub(super) fn wait(options: &PaymentOptions, asks: usize) -> Duration {
    let waits = &options.reconcile;
    let hourly = Duration::from_secs(3600);
    waits.get(asks).or(waits.last()).copied().unwrap_or(hourly)
}

/// Nothing more is waited for of this attempt.
pub(super) fn stop_timers(tx: &mut Tx<'_>, payment: &mut Payment) -> Result<(), Error> {
    let key = payment.payment_id.to_string();
    for kind in [SUBMIT, RECONCILE, UNKNOWN] {
        tx.cancel_timer(kind, &key)?;
    }
    known(tx, payment)?;
    payment.awaiting_provider = false;
    Ok(())
}

/// The outcome is known, or known to be open.
fn known(tx: &mut Tx<'_>, payment: &mut Payment) -> Result<(), Error> {
    payment.outcome_unknown = false;
    payment.unknown_since = None;
    tx.cancel_timer(UNKNOWN, &payment.payment_id.to_string())?;
    alarm::clear(tx, UNKNOWN_ALARM, &subject(payment), 0.0)?;
    Ok(())
}

pub(super) fn on_effect(
    tx: &mut Tx<'_>,
    options: &PaymentOptions,
    result: &EffectResult,
) -> Result<(), HandlerError> {
    let id = result.request["paymentId"].as_str().map(Id::parse);
    let Some(Ok(id)) = id else { return Ok(()) };
    let Some(mut payment) = Payment::find(tx, id)? else {
        return Ok(());
    };
    tx.correlate(payment.incident_id)?;
    let about_refund = result.kind == REFUND || result.request["what"] == REFUND;
    if about_refund {
        return refund::on_result(tx, options, &mut payment, result);
    }
    let attempt = result.request["attempt"].as_u64();
    let attempt = attempt.and_then(|n| u8::try_from(n).ok()).unwrap_or(0);
    let present = payment.status == PaymentStatus::Processing && payment.attempt == attempt;
    let asked = result.kind == LOOKUP;
    match &result.outcome {
        EffectOutcome::Done(value) => match serde_json::from_value::<Answer>(value.clone()) {
            Ok(answer) => answered(tx, options, &mut payment, attempt, &answer),
            // An answer that nobody can read says nothing.
            Err(_) if present => unknown(tx, options, &mut payment),
            Err(_) => Ok(()),
        },
        _ if !present => Ok(()),
        _ if asked => ask_later(tx, options, &payment),
        EffectOutcome::NotSent(_) | EffectOutcome::Failed(_) => not_sent(tx, options, &mut payment),
        EffectOutcome::Unknown(_) => unknown(tx, options, &mut payment),
    }
}

fn answered(
    tx: &mut Tx<'_>,
    options: &PaymentOptions,
    payment: &mut Payment,
    attempt: u8,
    answer: &Answer,
) -> Result<(), HandlerError> {
    let now = tx.now();
    match answer.state {
        State::Succeeded => {
            let reference = answer.reference.clone();
            let confirmation = Confirmation {
                attempt,
                reference: reference.unwrap_or_else(|| Text::lossy("none")),
                at: now,
                by: By::stripe(),
            };
            confirm(tx, payment, &confirmation)
        }
        State::Failed => {
            let reason = answer.reason.as_ref().map_or("refused", Code::as_str);
            fail(tx, payment, attempt, reason, now, &By::stripe())
        }
        _ if payment.status != PaymentStatus::Processing || payment.attempt != attempt => Ok(()),
        State::NotFound => not_there(tx, options, payment),
        State::Pending | State::RequiresAction => {
            known(tx, payment)?;
            payment.awaiting_provider = false;
            if answer.reference.is_some() {
                payment.provider_reference.clone_from(&answer.reference);
            }
            if answer.state == State::RequiresAction {
                needs_card_holder(tx, payment)?;
            }
            payment.save(tx)?;
            // The webhook will tell; if it gets lost, the question does.
            ask_later(tx, options, payment)
        }
    }
}

/// Tells that the card holder must confirm: once per attempt. The caller saves.
pub(super) fn needs_card_holder(tx: &mut Tx<'_>, payment: &mut Payment) -> Result<(), Error> {
    if payment.action_asked == payment.attempt {
        return Ok(());
    }
    payment.action_asked = payment.attempt;
    let requested_at = tx.now();
    tx.emit(&PaymentRequiresAction {
        payment_id: payment.payment_id,
        incident_id: payment.incident_id,
        driver_id: payment.driver_id,
        action: PaymentAction::ConfirmCard,
        requested_at,
    })?;
    audit(tx, payment, "action_requested", &By::stripe(), None, None)
}

/// Nobody knows whether it went through: it stays processing and is asked for.
fn unknown(
    tx: &mut Tx<'_>,
    options: &PaymentOptions,
    payment: &mut Payment,
) -> Result<(), HandlerError> {
    payment.awaiting_provider = false;
    if !payment.outcome_unknown {
        let now = tx.now();
        payment.outcome_unknown = true;
        payment.unknown_since = Some(now);
        let key = payment.payment_id.to_string();
        tx.schedule(now + options.unknown_after, UNKNOWN, &key, &Value::Null)?;
        audit(tx, payment, "outcome_unknown", &By::us(), None, None)?;
    }
    payment.save(tx)?;
    ask_later(tx, options, payment)
}

/// The call was not made, or the provider did not take it: the same call again, later.
fn not_sent(
    tx: &mut Tx<'_>,
    options: &PaymentOptions,
    payment: &mut Payment,
) -> Result<(), HandlerError> {
    if !payment.awaiting_provider {
        payment.awaiting_provider = true;
        audit(tx, payment, "not_sent", &By::us(), None, None)?;
    }
    payment.save(tx)?;
    let at = tx.now() + options.resubmit_after;
    let key = payment.payment_id.to_string();
    Ok(tx.schedule(at, SUBMIT, &key, &Value::Null)?)
}

/// The provider has nothing under the key. While it remembers keys the same call again is safe whatever it overlooked;
/// later only a person can tell.
fn not_there(
    tx: &mut Tx<'_>,
    options: &PaymentOptions,
    payment: &mut Payment,
) -> Result<(), HandlerError> {
    let remembers = payment
        .submitted_at
        .is_some_and(|at| at + options.key_life > tx.now());
    if remembers {
        audit(tx, payment, "sent_again", &By::us(), None, None)?;
        return send(tx, payment);
    }
    ask_later(tx, options, payment)
}
