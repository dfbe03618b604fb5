//! A new payment: from completed work or by the back office's hand, with its line items and its score (DOMAIN 5.5).

use schemars::JsonSchema;
use serde::Deserialize;

use super::PaymentOptions;
use super::backlog;
use super::entity::{By, Line, Payment, PaymentStatus, audit, bill};
use super::fraud::{Facts, Score, score};
use super::process::submit_soon;
use super::settings::{FraudRules, Pricing};
use crate::event::{
    Actor, Cents, Count1, Currency, DeadReason, Id, LineItem, List, NewPaymentStatus, Payer,
    PaymentCreated, PaymentFlagged, Text, Ts, WorkCompleted,
};
use crate::role::{Code, Command, HandlerError, Rejection};
use crate::store::{Error, Tx, params};

/// A day, for the velocity of a vendor's payments.
const DAY_MS: i64 = 86_400_000;

/// What a payment is made of.
pub(super) struct New {
    pub incident_id: Id,
    pub vendor_id: Id,
    pub driver_id: Id,
    pub company_id: Option<Id>,
    pub payer_type: Payer,
    pub lines: Vec<Line>,
    pub amount: Cents,
    pub currency: Currency,
    pub work_minutes: Option<f64>,
    /// Whether the job of this payment is among the vendor's completed ones already.
    pub job_known: bool,
}

/// What is known of an incident's completed work.
pub(super) struct Job {
    pub vendor_id: Id,
    pub driver_id: Id,
    pub company_id: Option<Id>,
    pub minutes: f64,
}

impl Job {
    /// `None` where no completed work of the incident came.
    pub(super) fn of(tx: &Tx<'_>, incident_id: Id) -> Result<Option<Self>, HandlerError> {
        let key = incident_id.to_string();
        let text = |column: &str| -> Result<Option<Id>, HandlerError> {
            let sql = format!("SELECT {column} FROM job WHERE incident_id = ?1");
            let value: Option<Option<String>> = tx.value(&sql, params![key])?;
            Ok(value.flatten().and_then(|text| Id::parse(&text).ok()))
        };
        let (Some(vendor_id), Some(driver_id)) = (text("vendor_id")?, text("driver_id")?) else {
            return Ok(None);
        };
        let minutes: Option<f64> = tx.value(
            "SELECT minutes FROM job WHERE incident_id = ?1",
            params![key],
        )?;
        Ok(Some(Self {
            vendor_id,
            driver_id,
            company_id: text("company_id")?,
            minutes: minutes.unwrap_or_default(),
        }))
    }
}

/// Completed work: one payment per incident, ever. A repeat changes nothing, and neither does work for which the back
/// office made a payment before.
pub(super) fn on_work(
    tx: &mut Tx<'_>,
    options: &PaymentOptions,
    work: &WorkCompleted,
) -> Result<(), HandlerError> {
    // The home site makes the payment, or who does it for that one (DESIGN 8); other work has one there.
    if !tx.creates()? {
        return Ok(());
    }
    let first = tx.execute(
        "INSERT INTO job (incident_id, vendor_id, driver_id, company_id, minutes, completed_at_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
        params![
            work.incident_id.to_string(),
            work.vendor_id.to_string(),
            work.driver_id.to_string(),
            work.company_id.map(|id| id.to_string()),
            work.duration_minutes.get(),
            work.completed_at.ms()
        ],
    )?;
    if first == 0 || Payment::of_incident(tx, work.incident_id)?.is_some() {
        return Ok(());
    }
    let pricing = Pricing::load(tx, &options.pricing)?;
    let items = match &work.line_items {
        Some(items) => items.get().to_vec(),
        None => priced(work, &pricing),
    };
    let (lines, amount) = bill(&items).map_err(|at| {
        let text = format!("detail.lineItems[{at}]: the bill is more than there is money");
        HandlerError::Permanent(DeadReason::InvalidEvent, text)
    })?;
    let new = New {
        incident_id: work.incident_id,
        vendor_id: work.vendor_id,
        driver_id: work.driver_id,
        company_id: work.company_id,
        payer_type: work.payer_type,
        lines,
        amount,
        currency: pricing.currency,
        work_minutes: Some(work.duration_minutes.get()),
        job_known: true,
    };
    make(tx, new, &By::us())?;
    Ok(())
}

/// The bill of work that came without one: the type's base price, and the miles where they are known.
fn priced(work: &WorkCompleted, pricing: &Pricing) -> Vec<LineItem> {
    let prices = &pricing.prices;
    let item = |description: String, cents: u64| LineItem {
        description: Text::lossy(&description),
        quantity: Count1::new(1).expect("1 is in range"),
        unit_price_cents: Cents::new(cents.min(100_000_000_000)).expect("within the range"),
    };
    let kind = work.incident_type;
    let base = prices.base_price_cents.get(&kind).copied().unwrap_or(0);
    let mut items = vec![item(format!("{kind}, base price"), base)];
    if let Some(miles) = work.distance_miles {
        // Miles are no whole number; the cents that they come to are, rounded half up.
        let cents = (miles.get() * prices.per_mile_cents as f64 + 0.5).floor() as u64;
        items.push(item(format!("{:.1} miles", miles.get()), cents));
    }
    items
}

/// Records, scores and tells, in one transaction.
pub(super) fn make(tx: &mut Tx<'_>, new: New, by: &By) -> Result<Payment, HandlerError> {
    tx.correlate(new.incident_id)?;
    let now = tx.now();
    let scored = scored(tx, &new)?;
    let flagged = scored.flagged();
    let at_once = new.payer_type == Payer::DriverIc && !flagged;
    let mut payment = Payment {
        payment_id: tx.new_id(),
        incident_id: new.incident_id,
        vendor_id: new.vendor_id,
        driver_id: new.driver_id,
        company_id: new.company_id,
        payer_type: new.payer_type,
        amount_cents: new.amount,
        currency: new.currency,
        status: PaymentStatus::PendingApproval,
        flagged,
        fraud_score: scored.score,
        fraud_status: scored.status,
        reasons: scored.reasons,
        reviewed_by: None,
        reviewed_at: None,
        approved_by: None,
        approved_at: None,
        attempt: 0,
        outcome_unknown: false,
        provider_reference: None,
        failed_reason: None,
        completed_at: None,
        line_items: new.lines,
        created_at: now,
        processor: None,
        submitted_at: None,
        awaiting_provider: false,
        unknown_since: None,
        asks: 0,
        action_asked: 0,
        refund: None,
        refunds: 0,
        refunded_at: None,
        rejected_by: None,
        rejected_reason: None,
        version: 0,
    };
    if at_once {
        payment.status = PaymentStatus::Approved;
        payment.approved_by = Some(By::us().actor);
        payment.approved_at = Some(now);
    }
    payment.save(tx)?;
    audit(tx, &payment, "created", by, None, None)?;
    tell(tx, &payment, at_once)?;
    if at_once {
        submit_soon(tx, &payment)?;
    } else {
        backlog::watch(tx, true)?;
    }
    Ok(payment)
}

fn tell(tx: &mut Tx<'_>, payment: &Payment, approved: bool) -> Result<(), Error> {
    tx.emit(&PaymentCreated {
        payment_id: payment.payment_id,
        incident_id: payment.incident_id,
        vendor_id: payment.vendor_id,
        driver_id: payment.driver_id,
        company_id: payment.company_id,
        amount_cents: payment.amount_cents,
        currency: payment.currency.clone(),
        payer_type: payment.payer_type,
        status: if approved {
            NewPaymentStatus::Approved
        } else {
            NewPaymentStatus::PendingApproval
        },
        fraud_score: payment.fraud_score,
        fraud_status: payment.fraud_status,
        created_at: payment.created_at,
    })?;
    if let Ok(reasons) = List::new(payment.reasons.clone())
        && payment.flagged
    {
        tx.emit(&PaymentFlagged {
            payment_id: payment.payment_id,
            incident_id: payment.incident_id,
            vendor_id: payment.vendor_id,
            company_id: payment.company_id,
            amount_cents: payment.amount_cents,
            currency: payment.currency.clone(),
            fraud_score: payment.fraud_score,
            reasons,
            flagged_at: payment.created_at,
        })?;
    }
    Ok(())
}

/// The score of a new payment; one that can't be scored is flagged.
fn scored(tx: &Tx<'_>, new: &New) -> Result<Score, HandlerError> {
    let (vendor_id, now) = (new.vendor_id.to_string(), tx.now());
    let number = |sql: &str| -> Result<u64, Error> {
        let found: Option<i64> = tx.value(sql, params![vendor_id, now.ms() - DAY_MS])?;
        Ok(found.unwrap_or(0).unsigned_abs())
    };
    // Each names both parameters, so that one call serves all.
    let jobs = number("SELECT count(*) FROM job WHERE vendor_id = ?1 AND ?2 IS NOT NULL")?;
    let recent =
        number("SELECT count(*) FROM payment WHERE vendor_id = ?1 AND created_at_ms > ?2")?;
    let earlier = number("SELECT count(*) FROM payment WHERE vendor_id = ?1 AND ?2 IS NOT NULL")?;
    let cents = number(
        "SELECT coalesce(sum(amount_cents), 0) FROM payment WHERE vendor_id = ?1 AND ?2 IS NOT NULL",
    )?;
    let registered: Option<i64> = tx.value(
        "SELECT registered_at_ms FROM vendor WHERE vendor_id = ?1",
        params![vendor_id],
    )?;
    let facts = Facts {
        amount_cents: new.amount.get(),
        registered_at: registered.map(Ts::from_ms),
        now,
        earlier_jobs: jobs.saturating_sub(u64::from(new.job_known)),
        payments_in_a_day: recent + 1,
        earlier_payments: earlier,
        earlier_cents: cents,
        work_minutes: new.work_minutes,
    };
    let rules = FraudRules::load(tx)?;
    Ok(rules
        .and_then(|rules| score(&facts, &rules))
        .unwrap_or_else(|_| Score::failed()))
}

/// `payment.create`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Create {
    incident_id: Id,
    vendor_id: Id,
    payer_type: Payer,
    line_items: List<LineItem, 1, 50>,
    amount_cents: Cents,
    currency: Option<Currency>,
    /// Needed only where the incident's completed work never came here.
    driver_id: Option<Id>,
    /// The same; a dispatcher's is his own.
    company_id: Option<Id>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

pub(super) fn create(
    tx: &mut Tx<'_>,
    options: &PaymentOptions,
    command: &Command,
) -> Result<(), HandlerError> {
    let body: Create = command.parse()?;
    let (lines, amount) = bill(body.line_items.get()).map_err(|at| {
        Rejection::field(
            format!("lineItems[{at}]"),
            "the bill is more than there is money",
        )
    })?;
    if amount != body.amount_cents {
        let message = format!("the line items come to {} cents", amount.get());
        return Err(Rejection::field("amountCents", message).into());
    }
    let job = Job::of(tx, body.incident_id)?;
    let (driver_id, company_id) = match &job {
        Some(job) if job.vendor_id != body.vendor_id => {
            let message = "another vendor completed the work of this incident";
            return Err(Rejection::field("vendorId", message).into());
        }
        Some(job) => (job.driver_id, job.company_id),
        None => {
            let message = "is missing, and no completed work of this incident says it";
            let driver_id = body
                .driver_id
                .ok_or_else(|| Rejection::field("driverId", message))?;
            let company_id = match command.actor() {
                Actor::Dispatcher(_) => command.caller.company,
                _ => body.company_id,
            };
            (driver_id, company_id)
        }
    };
    if let Some(other) = Payment::of_incident(tx, body.incident_id)? {
        let message = format!("the incident has payment {} already", other.payment_id);
        return Err(Rejection::new(Code::Conflict, message).into());
    }
    let currency = match body.currency {
        Some(currency) => currency,
        None => Pricing::load(tx, &options.pricing)?.currency,
    };
    let new = New {
        incident_id: body.incident_id,
        vendor_id: body.vendor_id,
        driver_id,
        company_id,
        payer_type: body.payer_type,
        lines,
        amount,
        currency,
        work_minutes: job.as_ref().map(|job| job.minutes),
        job_known: job.is_some(),
    };
    let payment = make(tx, new, &super::commands::by(command))?;
    Ok(tx.reply(&payment)?)
}
