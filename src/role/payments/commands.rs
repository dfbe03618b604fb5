//! The payment's commands (DOMAIN 5.5). Permission and ownership were checked before.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::create::Job;
use super::entity::{AuditRow, By, JUDGEMENT, Payment, PaymentStatus, Processor, history};
use super::outcome::{ATTEMPTS, Confirmation, confirm, fail, step};
use super::process::{send, submit};
use super::{CONFIRMATION, PaymentOptions, conflict, create, decide, listings, refund, webhook};
use crate::event::{Actor, Code, Id, Payer, Text};
use crate::role::listing::id_of;
use crate::role::permission::Scope;
use crate::role::{Code as ErrorCode, Command, HandlerError, Rejection};
use crate::store::{EffectCall, EffectClass, Tx};

/// A payment by its id.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct One {
    payment_id: Id,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// A payment, and the version that a change of it is based on.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Move {
    payment_id: Id,
    expected_version: u64,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// How a payment by hand ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Settled {
    Completed,
    Failed,
}

/// `payment.settle`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Settle {
    payment_id: Id,
    expected_version: u64,
    outcome: Settled,
    /// The bank's or whoever's name for the transfer; needed where it is completed.
    reference: Option<Text<128>>,
    /// Why it failed; `refused` without it.
    reason: Option<Code>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// A payment, with its history for the back office.
#[derive(JsonSchema)]
#[schemars(rename = "PaymentWithAudit")]
pub(super) struct WithAudit {
    #[serde(flatten)]
    _payment: Payment,
    #[serde(rename = "audit", skip_serializing_if = "Option::is_none")]
    _audit: Option<Vec<AuditRow>>,
}

pub(super) fn run(
    tx: &mut Tx<'_>,
    options: &PaymentOptions,
    command: &Command,
) -> Result<(), HandlerError> {
    match command.name.as_str() {
        "payment.create" => create::create(tx, options, command),
        "payment.get" => {
            let body: One = command.parse()?;
            let payment = find(tx, body.payment_id)?;
            let mut value = shown(&payment, command);
            if back_office(command) {
                value["audit"] = json!(history(tx, payment.payment_id)?);
            }
            Ok(tx.reply(&value)?)
        }
        "payment.list" => listings::list(tx, command),
        "payment.list_pending" => listings::pending(tx, command),
        "payment.list_flagged" => listings::flagged(tx, command),
        "payment.review" => decide::review(tx, command),
        "payment.approve" => decide::approve(tx, command),
        "payment.reject" => decide::reject(tx, command),
        "payment.process" => process(tx, options, command),
        "payment.retry" => retry(tx, options, command),
        "payment.settle" => settle(tx, command),
        "payment.resolve_conflict" => conflict::resolve(tx, command),
        "payment.refund" => refund::ask(tx, command),
        "payment.action" => action(tx, command),
        "payment.webhook" => webhook::receive(tx, options, command),
        other => Err(Rejection::new(ErrorCode::NotFound, format!("no command {other}")).into()),
    }
}

/// Whose payment a command is about.
pub(super) fn scope(tx: &Tx<'_>, command: &Command) -> Result<Scope, HandlerError> {
    match command.name.as_str() {
        "payment.list"
        | "payment.list_pending"
        | "payment.list_flagged"
        | "payment.webhook"
        // Only for those who may decide about every payment.
        | "payment.resolve_conflict" => Ok(Scope::Open),
        "payment.create" => match Job::of(tx, id_of(command, "incidentId")?)? {
            Some(job) => Ok(Scope::Owned {
                driver: None,
                vendor: None,
                company: job.company_id,
            }),
            // Nothing is known of the incident: the payment becomes one of the dispatcher's own company.
            None => Ok(Scope::Open),
        },
        _ => {
            let payment = find(tx, id_of(command, "paymentId")?)?;
            let pays = payment.payer_type == Payer::DriverIc;
            Ok(Scope::Owned {
                driver: pays.then_some(payment.driver_id),
                vendor: Some(payment.vendor_id),
                company: payment.company_id,
            })
        }
    }
}

pub(super) fn find(tx: &Tx<'_>, payment_id: Id) -> Result<Payment, HandlerError> {
    Payment::find(tx, payment_id)?.ok_or_else(|| {
        let message = format!("there is no payment {payment_id}");
        Rejection::new(ErrorCode::NotFound, message).into()
    })
}

pub(super) fn expect_version(payment: &Payment, expected: u64) -> Result<(), HandlerError> {
    if payment.version == expected {
        return Ok(());
    }
    let message = format!(
        "the payment has version {}, not {expected}",
        payment.version
    );
    Err(Rejection::new(ErrorCode::VersionConflict, message)
        .with_details(json!({ "version": payment.version, "status": payment.status }))
        .into())
}

pub(super) fn by(command: &Command) -> By {
    By {
        actor: command.actor().clone(),
        operator: command.caller.operator.clone(),
    }
}

/// Whether the caller decides about payments, and so sees how they were judged.
fn back_office(command: &Command) -> bool {
    matches!(command.actor(), Actor::Dispatcher(_)) || command.caller.is_admin()
}

/// A payment as the caller may see it.
pub(super) fn shown(payment: &Payment, command: &Command) -> Value {
    let mut value = json!(payment);
    if let Some(map) = value.as_object_mut().filter(|_| !back_office(command)) {
        for field in JUDGEMENT {
            map.remove(field);
        }
    }
    value
}

fn process(
    tx: &mut Tx<'_>,
    options: &PaymentOptions,
    command: &Command,
) -> Result<(), HandlerError> {
    let body: Move = command.parse()?;
    let mut payment = find(tx, body.payment_id)?;
    tx.correlate(payment.incident_id)?;
    expect_version(&payment, body.expected_version)?;
    if payment.status == PaymentStatus::Processing && payment.awaiting_provider {
        payment.awaiting_provider = false;
        payment.save(tx)?;
        send(tx, &mut payment)?;
    } else if payment.status == PaymentStatus::Approved {
        submit(tx, options, &mut payment, &by(command))?;
    } else {
        let message = format!("a {} payment is not submitted", payment.status.as_str());
        return Err(Rejection::new(ErrorCode::InvalidTransition, message).into());
    }
    Ok(tx.reply(&payment)?)
}

fn retry(tx: &mut Tx<'_>, options: &PaymentOptions, command: &Command) -> Result<(), HandlerError> {
    let body: Move = command.parse()?;
    let mut payment = find(tx, body.payment_id)?;
    tx.correlate(payment.incident_id)?;
    expect_version(&payment, body.expected_version)?;
    if payment.status != PaymentStatus::Failed {
        let message = format!("a {} payment is not retried", payment.status.as_str());
        return Err(Rejection::new(ErrorCode::InvalidTransition, message).into());
    }
    if payment.attempt >= ATTEMPTS {
        let message = "the payment failed for good: no retry is left";
        return Err(Rejection::new(ErrorCode::PaymentFailed, message).into());
    }
    submit(tx, options, &mut payment, &by(command))?;
    Ok(tx.reply(&payment)?)
}

fn settle(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: Settle = command.parse()?;
    let mut payment = find(tx, body.payment_id)?;
    tx.correlate(payment.incident_id)?;
    expect_version(&payment, body.expected_version)?;
    if payment.status != PaymentStatus::Processing {
        step(&mut payment, PaymentStatus::Completed)?;
    }
    if payment.processor != Some(Processor::Manual) {
        let message = "this payment is with the provider, who says what becomes of it";
        return Err(Rejection::new(ErrorCode::InvalidTransition, message).into());
    }
    let (attempt, at) = (payment.attempt, tx.now());
    match body.outcome {
        Settled::Completed => {
            let reference = body
                .reference
                .filter(|reference| !reference.as_str().is_empty())
                .ok_or_else(|| Rejection::field("reference", "is missing: how the money moved"))?;
            let confirmation = Confirmation {
                attempt,
                reference,
                at,
                by: by(command),
            };
            confirm(tx, &mut payment, &confirmation)?;
        }
        Settled::Failed => {
            let reason = body.reason.as_ref().map_or("refused", Code::as_str);
            fail(tx, &mut payment, attempt, reason, at, &by(command))?;
        }
    }
    Ok(tx.reply(&payment)?)
}

/// What the card holder confirms with: from the provider to him, past everything that is written.
fn action(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: One = command.parse()?;
    let payment = find(tx, body.payment_id)?;
    let reference = payment
        .provider_reference
        .as_ref()
        .filter(|_| payment.status == PaymentStatus::Processing)
        .filter(|_| payment.action_asked == payment.attempt && payment.attempt > 0);
    let Some(reference) = reference else {
        let message = "the payment waits for no confirmation";
        return Err(Rejection::new(ErrorCode::NotFound, message).into());
    };
    tx.reply_with(EffectCall {
        key: format!("confirmation_{}", payment.idempotency_key()),
        kind: CONFIRMATION.to_owned(),
        class: EffectClass::Pure,
        request: json!({ "paymentId": payment.payment_id, "reference": reference }),
        secret: None,
    });
    Ok(())
}
