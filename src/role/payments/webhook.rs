//! The provider speaking by itself: signed events, each once, in any order (DOMAIN 5.5 payment.webhook).
//!
//! What is about none of our payments is taken and left alone: one account may serve more than Roadcall. Of Stripe's
//! events those count that say what became of money; the rest is acknowledged.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::PaymentOptions;
use super::entity::{By, Payment, PaymentStatus};
use super::outcome::{Confirmation, confirm, conflict, fail, raise_conflict};
use super::process::needs_card_holder;
use super::refund::{Reversal, reversed};
use crate::event::{Id, Text, Ts};
use crate::role::{Command, HandlerError, Rejection, Taken, signature};
use crate::store::{Tx, params};

/// The longest body that is read: Stripe's are a few KiB.
const PAYLOAD_MAX: usize = 256 * 1024;

/// `payment.webhook`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Webhook {
    /// The body, exactly as it came.
    payload: String,
    /// The header `Stripe-Signature`.
    signature: String,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// One event of Stripe, as far as it matters.
#[derive(Deserialize)]
struct ProviderEvent {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    /// Unix seconds.
    created: Option<i64>,
    account: Option<String>,
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    object: Value,
}

pub(super) fn receive(
    tx: &mut Tx<'_>,
    options: &PaymentOptions,
    command: &Command,
) -> Result<(), HandlerError> {
    let body: Webhook = command.parse()?;
    let Some(secret) = &options.webhook_secret else {
        let message = "can't be checked: no webhook secret is configured";
        return Err(Rejection::field("signature", message).into());
    };
    if body.payload.len() > PAYLOAD_MAX {
        return Err(Rejection::field("payload", "is longer than 256 KiB").into());
    }
    signature::stripe(secret.expose(), &body.signature, &body.payload, tx.now())
        .map_err(|error| Rejection::field("signature", error.to_string()))?;
    let event: ProviderEvent = serde_json::from_str(&body.payload).map_err(|_| {
        // The parser's own words may quote the payload.
        Rejection::field("payload", "is no event of the provider")
    })?;
    if event.id.is_empty() || event.id.chars().count() > 128 {
        return Err(Rejection::field("payload", "its id is not 1 to 128 characters").into());
    }
    let first = tx.execute(
        "INSERT INTO provider_event (event_id, at_ms) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        params![event.id, tx.now().ms()],
    )? > 0;
    if first {
        apply(tx, &event)?;
    }
    Ok(tx.reply(&Taken {
        received: true,
        duplicate: !first,
    })?)
}

fn apply(tx: &mut Tx<'_>, event: &ProviderEvent) -> Result<(), HandlerError> {
    if event.kind == "payout.failed" {
        return bounced(tx, event);
    }
    let object = &event.data.object;
    let Some(mut payment) = payment_of(tx, object)? else {
        return Ok(());
    };
    tx.correlate(payment.incident_id)?;
    let at = event
        .created
        .map_or(tx.now(), |secs| Ts::from_ms(secs.saturating_mul(1000)));
    let attempt = metadata(object, "attempt").and_then(|text| text.parse().ok());
    let attempt: u8 = attempt.unwrap_or(0);
    match event.kind.as_str() {
        "payment_intent.succeeded" | "transfer.created" => {
            if !same_money(&payment, object) {
                return conflict(tx, &payment, "paid_another_amount");
            }
            let confirmation = Confirmation {
                attempt,
                reference: name(object, "id"),
                at,
                by: By::stripe(),
            };
            confirm(tx, &mut payment, &confirmation)
        }
        "payment_intent.payment_failed" | "payment_intent.canceled" => {
            let error = &object["last_payment_error"];
            let reason = [
                &error["decline_code"],
                &error["code"],
                &object["cancellation_reason"],
            ];
            let reason = reason.iter().find_map(|value| value.as_str());
            let reason = reason.unwrap_or("refused");
            fail(tx, &mut payment, attempt, reason, at, &By::stripe())
        }
        "payment_intent.requires_action"
            if payment.status == PaymentStatus::Processing && payment.attempt == attempt =>
        {
            payment.provider_reference = Some(name(object, "id"));
            needs_card_holder(tx, &mut payment)?;
            Ok(payment.save(tx)?)
        }
        "charge.refunded" if object["refunded"] == true => {
            back(tx, &mut payment, object, attempt, at)
        }
        "transfer.reversed" if object["reversed"] == true => {
            back(tx, &mut payment, object, attempt, at)
        }
        "charge.dispute.funds_withdrawn" => back(tx, &mut payment, object, attempt, at),
        _ => Ok(()),
    }
}

/// The whole amount went back.
fn back(
    tx: &mut Tx<'_>,
    payment: &mut Payment,
    object: &Value,
    attempt: u8,
    at: Ts,
) -> Result<(), HandlerError> {
    let paid = match &object["payment_intent"] {
        Value::String(_) => name(object, "payment_intent"),
        _ => name(object, "id"),
    };
    let refund = &object["refunds"]["data"][0];
    let reversal = &object["reversals"]["data"][0];
    let reference = match (refund["id"].as_str(), reversal["id"].as_str()) {
        (Some(id), _) | (None, Some(id)) => Text::lossy(id),
        (None, None) => name(object, "id"),
    };
    let reversal = Reversal {
        attempt,
        payment: paid,
        reference,
        at,
    };
    reversed(tx, payment, &reversal)
}

/// A vendor's payout bounced: whoever pays him by hand must know.
fn bounced(tx: &mut Tx<'_>, event: &ProviderEvent) -> Result<(), HandlerError> {
    let vendor: Option<String> = tx.value(
        "SELECT vendor_id FROM vendor WHERE payout_account_ref = ?1 ORDER BY vendor_id",
        params![event.account],
    )?;
    match vendor {
        Some(vendor) => raise_conflict(tx, &format!("vendor/{vendor}")),
        None => Ok(()),
    }
}

/// The payment that an object is about: by our metadata, else by the provider's name for it.
fn payment_of(tx: &Tx<'_>, object: &Value) -> Result<Option<Payment>, HandlerError> {
    if let Some(id) = metadata(object, "payment_id").and_then(|text| Id::parse(text).ok()) {
        return Ok(Payment::find(tx, id)?);
    }
    for field in ["payment_intent", "id"] {
        if let Some(reference) = object[field].as_str()
            && let Some(payment) = Payment::of_reference(tx, reference)?
        {
            return Ok(Some(payment));
        }
    }
    Ok(None)
}

fn metadata<'o>(object: &'o Value, name: &str) -> Option<&'o str> {
    object["metadata"][name].as_str()
}

fn name(object: &Value, field: &str) -> Text<128> {
    Text::lossy(object[field].as_str().unwrap_or("none"))
}

/// Whether what the provider moved is what the payment is about; an object that does not say is believed.
fn same_money(payment: &Payment, object: &Value) -> bool {
    let amount = object["amount_received"]
        .as_u64()
        .or(object["amount"].as_u64());
    let currency = object["currency"].as_str();
    amount.is_none_or(|cents| cents == payment.amount_cents.get())
        && currency.is_none_or(|text| text.eq_ignore_ascii_case(payment.currency.as_str()))
}
