//! A payment, its state table, its audit rows, and how they are stored (DOMAIN 5.5).

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use crate::event::{
    Actor, Cents, Code, Currency, FraudStatus, Id, LineItem, Payer, Personal, Rate, Text, Ts,
};
use crate::role::{alarm, not_for_all};
use crate::store::{Error, Tx, params};

pub(super) const MIGRATIONS: &[&str] = &[
    "
CREATE TABLE payment (
    payment_id TEXT PRIMARY KEY,
    incident_id TEXT NOT NULL,
    vendor_id TEXT NOT NULL,
    driver_id TEXT NOT NULL,
    company_id TEXT,
    status TEXT NOT NULL,
    flagged INTEGER NOT NULL,
    -- The fraud score in ten-thousandths.
    score INTEGER NOT NULL,
    amount_cents INTEGER NOT NULL,
    provider_reference TEXT,
    created_at_ms INTEGER NOT NULL,
    doc TEXT NOT NULL
);
-- One payment that is not rejected per incident, whatever happens.
CREATE UNIQUE INDEX payment_incident ON payment (incident_id) WHERE status <> 'rejected';
CREATE INDEX payment_status ON payment (status, created_at_ms, payment_id);
CREATE INDEX payment_newest ON payment (created_at_ms DESC, payment_id DESC);
CREATE INDEX payment_vendor ON payment (vendor_id, created_at_ms);
CREATE INDEX payment_driver ON payment (driver_id);
CREATE INDEX payment_reference ON payment (provider_reference) WHERE provider_reference IS NOT NULL;
CREATE TABLE payment_audit (
    payment_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    doc TEXT NOT NULL,
    PRIMARY KEY (payment_id, seq)
) WITHOUT ROWID;
-- Completed work: one row per incident, the first that came; it makes at most one payment.
CREATE TABLE job (
    incident_id TEXT PRIMARY KEY,
    vendor_id TEXT NOT NULL,
    driver_id TEXT NOT NULL,
    company_id TEXT,
    minutes REAL NOT NULL,
    completed_at_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX job_vendor ON job (vendor_id);
CREATE TABLE vendor (
    vendor_id TEXT PRIMARY KEY,
    profile_version INTEGER NOT NULL,
    registered_at_ms INTEGER NOT NULL,
    payout_account_ref TEXT
) WITHOUT ROWID;
CREATE TABLE setting (config_key TEXT PRIMARY KEY, version INTEGER NOT NULL, doc TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE provider_event (event_id TEXT PRIMARY KEY, at_ms INTEGER NOT NULL) WITHOUT ROWID;
",
    alarm::MIGRATION,
];

/// Where a payment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the names are DOMAIN 5.5's own
pub enum PaymentStatus {
    PendingApproval,
    Approved,
    Processing,
    Completed,
    Failed,
    Rejected,
    Refunded,
}

impl PaymentStatus {
    /// The name as it is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PendingApproval => "pending_approval",
            Self::Approved => "approved",
            Self::Processing => "processing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Refunded => "refunded",
        }
    }
}

/// The state table of a payment (DOMAIN 5.5); rejected and refunded are final.
#[must_use]
pub fn legal(from: PaymentStatus, to: PaymentStatus) -> bool {
    use PaymentStatus as S;
    matches!(
        (from, to),
        (S::PendingApproval, S::Approved | S::Rejected)
            | (S::Approved | S::Failed, S::Processing)
            | (S::Processing, S::Completed | S::Failed)
            | (S::Completed, S::Refunded)
    )
}

/// Who moves the money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Processor {
    /// The back office, by hand; it says so with payment.settle.
    Manual,
    /// Stripe, over HTTP.
    Stripe,
}

/// A position of a bill, with its total.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the fields are DOMAIN 5.5's own
pub struct Line {
    pub description: Text<255>,
    pub quantity: u64,
    pub unit_price_cents: Cents,
    pub total_cents: Cents,
}

/// A refund that was asked for and is not confirmed yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Refund {
    /// Why, as it will stand in the event.
    pub reason: Code,
    /// Who asked for it.
    pub requested_by: Actor,
    /// When.
    pub requested_at: Ts,
    /// Which one of this payment's refunds: part of the idempotency key.
    pub n: u32,
    /// How often the provider was asked about it.
    pub asks: usize,
    /// The provider's name for it, where it gave one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<Text<128>>,
}

/// A payment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = as_shown)]
#[allow(missing_docs)] // the fields are DOMAIN 5.5's own
pub struct Payment {
    pub payment_id: Id,
    pub incident_id: Id,
    pub vendor_id: Id,
    pub driver_id: Id,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub company_id: Option<Id>,
    pub payer_type: Payer,
    pub amount_cents: Cents,
    pub currency: Currency,
    pub status: PaymentStatus,
    pub flagged: bool,
    pub fraud_score: Rate,
    pub fraud_status: FraudStatus,
    pub reasons: Vec<Code>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reviewed_by: Option<Actor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reviewed_at: Option<Ts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<Actor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approved_at: Option<Ts>,
    /// 0 before the first submission.
    pub attempt: u8,
    pub outcome_unknown: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_reference: Option<Text<128>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_reason: Option<Code>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Ts>,
    pub line_items: Vec<Line>,
    pub created_at: Ts,
    /// Who moves the money of this attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processor: Option<Processor>,
    /// When this attempt began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub submitted_at: Option<Ts>,
    /// Whether the provider could not be reached yet: nothing was sent, it will be.
    pub awaiting_provider: bool,
    /// Since when the outcome is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_since: Option<Ts>,
    /// How often the provider was asked about this attempt.
    pub asks: usize,
    /// The attempt for which the card holder was asked to confirm.
    pub action_asked: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refund: Option<Refund>,
    /// How many refunds were tried.
    pub refunds: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refunded_at: Option<Ts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected_by: Option<Actor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected_reason: Option<Code>,
    pub version: u64,
}

/// How a payment is judged is not for the vendor and the driver whom it is about.
pub(super) const JUDGEMENT: [&str; 6] = [
    "flagged",
    "fraudScore",
    "fraudStatus",
    "reasons",
    "reviewedBy",
    "reviewedAt",
];

fn as_shown(schema: &mut Schema) {
    not_for_all(schema, &JUDGEMENT);
}

impl Payment {
    /// The key under which the provider takes this attempt once (DOMAIN 5.5).
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        let what = match self.payer_type {
            Payer::BackOffice => "transfer",
            Payer::DriverIc => "payment",
        };
        format!("{what}_{}_{}", self.payment_id, self.attempt)
    }

    pub(super) fn find(tx: &Tx<'_>, payment_id: Id) -> Result<Option<Self>, Error> {
        tx.document(
            "SELECT doc FROM payment WHERE payment_id = ?1",
            params![payment_id.to_string()],
        )
    }

    /// The payment of an incident that is not rejected.
    pub(super) fn of_incident(tx: &Tx<'_>, incident_id: Id) -> Result<Option<Self>, Error> {
        tx.document(
            "SELECT doc FROM payment WHERE incident_id = ?1 AND status <> 'rejected'",
            params![incident_id.to_string()],
        )
    }

    pub(super) fn of_reference(tx: &Tx<'_>, reference: &str) -> Result<Option<Self>, Error> {
        tx.document(
            "SELECT doc FROM payment WHERE provider_reference = ?1",
            params![reference],
        )
    }

    pub(super) fn save(&mut self, tx: &mut Tx<'_>) -> Result<(), Error> {
        self.version += 1;
        let doc = tx.text(self)?;
        let score = (self.fraud_score.get() * 10_000.0).round() as i64;
        tx.execute(
            "INSERT INTO payment (payment_id, incident_id, vendor_id, driver_id, company_id, status, flagged, score,
                 amount_cents, provider_reference, created_at_ms, doc)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
             ON CONFLICT (payment_id) DO UPDATE SET status = ?6, flagged = ?7, provider_reference = ?10, doc = ?12",
            params![
                self.payment_id.to_string(),
                self.incident_id.to_string(),
                self.vendor_id.to_string(),
                self.driver_id.to_string(),
                self.company_id.map(|id| id.to_string()),
                self.status.as_str(),
                self.flagged,
                score,
                self.amount_cents.get() as i64,
                self.provider_reference.as_ref().map(Text::as_str),
                self.created_at.ms(),
                doc
            ],
        )?;
        Ok(())
    }
}

/// One row of a payment's history; never changed, except that a person's words are forgotten with him.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditRow {
    /// 1, 2, 3 … per payment.
    pub seq: u64,
    /// What was done.
    pub action: Code,
    /// By whom.
    pub actor: Actor,
    /// The person at the machine who acted as him.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// Status before, where it changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_status: Option<PaymentStatus>,
    /// Status after, where it changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_status: Option<PaymentStatus>,
    /// In a person's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<Personal<Text<500>>>,
    /// When.
    pub at: Ts,
}

/// Who does something to a payment.
#[derive(Debug, Clone)]
pub(super) struct By {
    pub actor: Actor,
    pub operator: Option<String>,
}

impl By {
    /// The role itself.
    pub(super) fn us() -> Self {
        Self {
            actor: Actor::System("payments".to_owned()),
            operator: None,
        }
    }

    /// The processor.
    pub(super) fn stripe() -> Self {
        Self {
            actor: Actor::Provider("stripe".to_owned()),
            operator: None,
        }
    }
}

/// Appends to a payment's history.
pub(super) fn audit(
    tx: &mut Tx<'_>,
    payment: &Payment,
    action: &'static str,
    by: &By,
    previous: Option<PaymentStatus>,
    note: Option<&Personal<Text<500>>>,
) -> Result<(), Error> {
    let payment_id = payment.payment_id.to_string();
    let last: Option<Option<i64>> = tx.value(
        "SELECT max(seq) FROM payment_audit WHERE payment_id = ?1",
        params![payment_id],
    )?;
    let seq = last.flatten().unwrap_or(0) + 1;
    let row = AuditRow {
        seq: seq.unsigned_abs(),
        action: Code::new(action).expect("the role's own words are codes"),
        actor: by.actor.clone(),
        operator: by.operator.clone(),
        previous_status: previous,
        new_status: previous.map(|_| payment.status),
        note: note.cloned(),
        at: tx.now(),
    };
    let doc = tx.text(&row)?;
    tx.execute(
        "INSERT INTO payment_audit (payment_id, seq, doc) VALUES (?1, ?2, ?3)",
        params![payment_id, seq, doc],
    )?;
    Ok(())
}

/// A payment's history, oldest first.
pub(super) fn history(tx: &Tx<'_>, payment_id: Id) -> Result<Vec<AuditRow>, Error> {
    tx.documents(
        "SELECT doc FROM payment_audit WHERE payment_id = ?1 ORDER BY seq",
        params![payment_id.to_string()],
    )
}

/// A bill with its totals, and their sum.
///
/// # Errors
/// The index of the first position whose total, or whose addition, is more money than there is (DOMAIN 3.2, cents).
pub(super) fn bill(items: &[LineItem]) -> Result<(Vec<Line>, Cents), usize> {
    let mut sum = 0_u64;
    let mut lines = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        let total = item
            .quantity
            .get()
            .checked_mul(item.unit_price_cents.get())
            .and_then(|total| Cents::new(total).ok())
            .ok_or(at)?;
        sum = sum
            .checked_add(total.get())
            .filter(|sum| Cents::new(*sum).is_ok())
            .ok_or(at)?;
        lines.push(Line {
            description: item.description.clone(),
            quantity: item.quantity.get(),
            unit_price_cents: item.unit_price_cents,
            total_cents: total,
        });
    }
    let sum = Cents::new(sum).expect("every addition was checked");
    Ok((lines, sum))
}
