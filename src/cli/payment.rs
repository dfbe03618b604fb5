//! `roadcall payment …`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Connection;
use super::call::{body, items, send, text};
use super::client::Client;
use super::failure::Failure;
use super::output::{print_json, print_rows};

#[derive(Debug, Subcommand)]
pub(super) enum PaymentVerb {
    /// List them, newest first.
    List {
        /// Only those with this status: pending_approval, approved, processing, completed, failed, rejected or refunded.
        #[arg(long)]
        status: Option<String>,
        /// Only this incident's.
        #[arg(long)]
        incident: Option<String>,
        /// Only this vendor's.
        #[arg(long)]
        vendor: Option<String>,
    },
    /// Show one, with its line items and its history.
    Get {
        /// The payment.
        id: String,
    },
    /// Say what a flagged payment is (changes data).
    Review {
        /// The payment.
        id: String,
        /// clear or reject.
        decision: String,
        /// What was found out, in 10 to 500 characters.
        #[arg(long)]
        note: String,
        #[command(flatten)]
        how: How,
    },
    /// Approve one: it is paid (changes data).
    Approve {
        /// The payment.
        id: String,
        #[command(flatten)]
        how: How,
    },
    /// Reject one for good (changes data).
    Reject {
        /// The payment.
        id: String,
        /// Why, as a word like wrong_bill.
        #[arg(long)]
        reason: String,
        /// Why, in words.
        #[arg(long)]
        note: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Submit an approved one now, which it else is by itself (changes data).
    Process {
        /// The payment.
        id: String,
        #[command(flatten)]
        how: How,
    },
    /// Try a failed one again, three times at the most (changes data).
    Retry {
        /// The payment.
        id: String,
        #[command(flatten)]
        how: How,
    },
    /// Say what became of one that is moved by hand (changes data).
    Settle {
        /// The payment.
        id: String,
        /// completed or failed.
        outcome: String,
        /// The bank's name for the transfer; needed where it is completed.
        #[arg(long)]
        reference: Option<String>,
        /// Why it failed, as a word like account_closed.
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Return the whole amount (changes data).
    Refund {
        /// The payment.
        id: String,
        /// Why, as a word like complaint.
        #[arg(long)]
        reason: String,
        /// How the money went back, where it is moved by hand.
        #[arg(long)]
        reference: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Say that a conflict is settled: the alarm payment-conflict ends (changes data).
    Resolve {
        /// What the alarm is about: payment/<id> or vendor/<id>.
        subject: String,
        /// What was found out and done, in 10 to 500 characters.
        #[arg(long)]
        note: String,
    },
}

/// Who changes it, and on what ground.
#[derive(Debug, Args)]
pub(super) struct How {
    /// Who says so, like dispatcher:<id>; short for --as.
    #[arg(long)]
    by: Option<String>,
    /// The version that the change is based on; without it, the one it has now.
    #[arg(long)]
    expected_version: Option<u64>,
    /// Makes a retry give the first answer.
    #[arg(long)]
    idempotency_key: Option<String>,
}

pub(super) async fn payment(
    connection: &Connection,
    verb: PaymentVerb,
) -> Result<ExitCode, Failure> {
    match verb {
        PaymentVerb::List {
            status,
            incident,
            vendor,
        } => {
            let fields = [
                ("status", text(status)),
                ("incidentId", text(incident)),
                ("vendorId", text(vendor)),
            ];
            table(connection, &body(&fields)).await
        }
        PaymentVerb::Get { id } => {
            send(connection, "payment.get", json!({ "paymentId": id })).await
        }
        PaymentVerb::Review {
            id,
            decision,
            note,
            how,
        } => {
            let more = [
                ("decision", text(Some(decision))),
                ("note", text(Some(note))),
            ];
            change(connection, "payment.review", id, how, &more).await
        }
        PaymentVerb::Approve { id, how } => {
            change(connection, "payment.approve", id, how, &[]).await
        }
        PaymentVerb::Reject {
            id,
            reason,
            note,
            how,
        } => {
            let more = [("reason", text(Some(reason))), ("note", text(note))];
            change(connection, "payment.reject", id, how, &more).await
        }
        PaymentVerb::Process { id, how } => {
            change(connection, "payment.process", id, how, &[]).await
        }
        PaymentVerb::Retry { id, how } => change(connection, "payment.retry", id, how, &[]).await,
        PaymentVerb::Settle {
            id,
            outcome,
            reference,
            reason,
            how,
        } => {
            let more = [
                ("outcome", text(Some(outcome))),
                ("reference", text(reference)),
                ("reason", text(reason)),
            ];
            change(connection, "payment.settle", id, how, &more).await
        }
        PaymentVerb::Refund {
            id,
            reason,
            reference,
            how,
        } => {
            let more = [
                ("reason", text(Some(reason))),
                ("reference", text(reference)),
            ];
            change(connection, "payment.refund", id, how, &more).await
        }
        PaymentVerb::Resolve { subject, note } => {
            let body = json!({ "subject": subject, "note": note });
            send(connection, "payment.resolve_conflict", body).await
        }
    }
}

/// Sends a change of one payment and prints what it is then.
async fn change(
    connection: &Connection,
    command: &str,
    id: String,
    how: How,
    more: &[(&str, Option<Value>)],
) -> Result<ExitCode, Failure> {
    let mut connection = connection.clone();
    if how.by.is_some() {
        connection.acting = how.by;
    }
    let client = Client::open(&connection).await?;
    let version = match how.expected_version {
        Some(version) => json!(version),
        None => client
            .call("payment.get", &json!({ "paymentId": id }))
            .await?["version"]
            .clone(),
    };
    let mut fields = vec![
        ("paymentId", text(Some(id))),
        ("expectedVersion", Some(version)),
        ("clientRequestId", text(how.idempotency_key)),
    ];
    fields.extend_from_slice(more);
    print_json(&client.call(command, &body(&fields)).await?)?;
    Ok(ExitCode::SUCCESS)
}

async fn table(connection: &Connection, asked: &Value) -> Result<ExitCode, Failure> {
    let found = items(connection, "payment.list", asked.clone()).await?;
    if connection.json {
        print_json(&found)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Value> = found.as_array().into_iter().flatten().map(row).collect();
    let columns = [
        "paymentId",
        "incidentId",
        "amount",
        "payer",
        "status",
        "fraud",
        "attempt",
        "createdAt",
    ];
    print_rows(connection, &Value::Array(rows), &columns)?;
    Ok(ExitCode::SUCCESS)
}

/// What a person decides by: the amount in units, and what is odd about a status beside it.
fn row(payment: &Value) -> Value {
    let cents = payment["amountCents"].as_u64().unwrap_or(0);
    let currency = payment["currency"].as_str().unwrap_or_default();
    let status = payment["status"].as_str().unwrap_or_default();
    let status = match (&payment["outcomeUnknown"], &payment["awaitingProvider"]) {
        (Value::Bool(true), _) => format!("{status}, outcome unknown"),
        (_, Value::Bool(true)) => format!("{status}, provider not reached"),
        _ => status.to_owned(),
    };
    let fraud = payment["fraudScore"].as_f64().map(|score| {
        let band = payment["fraudStatus"].as_str().unwrap_or_default();
        format!("{score} {band}")
    });
    json!({
        "paymentId": payment["paymentId"], "incidentId": payment["incidentId"],
        "amount": format!("{}.{:02} {currency}", cents / 100, cents % 100),
        "payer": payment["payerType"], "status": status, "fraud": fraud, "attempt": payment["attempt"],
        "createdAt": payment["createdAt"],
    })
}
