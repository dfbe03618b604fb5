//! Commands on offers and cases (DOMAIN 5.3). Permission and ownership were checked before.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::MatchRole;
use super::candidate::Candidate;
use super::entity::{CaseStatus, MatchCase, Offer, OfferStatus, claim_of_incident, is_claimed};
use super::rounds::{accept, continue_if_over, end_offer};
use super::scoring::{distance_miles, may_work, payout_cents, score};
use super::settings::Settings;
use crate::event::{Actor, Code as Word, Id, NonNegative, OfferDeclined, Text};
use crate::role::listing::{cursor, id_of, limit, next, page};
use crate::role::permission::Scope;
use crate::role::{Code, Command, HandlerError, Rejection};
use crate::store::{Tx, params};

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct OneOffer {
    offer_id: Id,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct OneCase {
    incident_id: Id,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Answer {
    offer_id: Id,
    reason: Option<Word>,
    note: Option<Text<500>>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Assign {
    incident_id: Id,
    vendor_id: Id,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ListBody {
    vendor_id: Option<Id>,
    incident_id: Option<Id>,
    status: Option<OfferStatus>,
    limit: Option<u64>,
    cursor: Option<String>,
}

impl MatchRole {
    pub(super) fn run_command(
        &mut self,
        tx: &mut Tx<'_>,
        command: &Command,
    ) -> Result<(), HandlerError> {
        match command.name.as_str() {
            "offer.get" => {
                let body: OneOffer = command.parse()?;
                Ok(tx.reply(&find_offer(tx, body.offer_id)?)?)
            }
            "offer.list" => list(tx, command),
            "offer.accept" => self.accept(tx, command),
            "offer.decline" => self.decline(tx, command),
            "match.assign" => self.assign(tx, command),
            "match.get" => {
                let body: OneCase = command.parse()?;
                Ok(tx.reply(&find_case(tx, body.incident_id)?)?)
            }
            other => Err(Rejection::new(Code::NotFound, format!("no command {other}")).into()),
        }
    }

    fn accept(&mut self, tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
        let body: Answer = command.parse()?;
        let mut offer = find_offer(tx, body.offer_id)?;
        tx.correlate(offer.incident_id)?;
        if offer.status == OfferStatus::Accepted {
            // The winner's repeat after a lost reply: ownership was checked, so it is he.
            return Ok(tx.reply(&offer)?);
        }
        if claim_of_incident(tx, offer.incident_id)?.is_some_and(|holder| holder != offer.offer_id)
        {
            return refuse(Code::IncidentAlreadyAssigned, "the job is somebody else's");
        }
        refuse_unless_open(tx, &offer)?;
        if is_claimed(tx, offer.vendor_id)? {
            return refuse(Code::VendorNotAvailable, "you have a job already");
        }
        let mut case = find_case(tx, offer.incident_id)?;
        if case.status != CaseStatus::Matching {
            return refuse(Code::OfferNotPending, "the search for a vendor is over");
        }
        let settings = Settings::load(tx, &self.options)?;
        accept(
            tx,
            &settings,
            &mut case,
            &mut offer,
            command.actor().clone(),
        )?;
        Ok(tx.reply(&offer)?)
    }

    fn decline(&mut self, tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
        let body: Answer = command.parse()?;
        let mut offer = find_offer(tx, body.offer_id)?;
        tx.correlate(offer.incident_id)?;
        refuse_unless_open(tx, &offer)?;
        offer.responded_at = Some(tx.now());
        end_offer(tx, &mut offer, OfferStatus::Declined)?;
        let mut case = find_case(tx, offer.incident_id)?;
        case.excluded_vendor_ids.insert(offer.vendor_id);
        case.save(tx)?;
        let seconds = (tx.now() - offer.created_at).num_milliseconds().max(0) as f64 / 1000.0;
        let note = body.note.map(|note| tx.seal(&offer.vendor_id, note));
        tx.emit(&OfferDeclined {
            offer_id: offer.offer_id,
            incident_id: offer.incident_id,
            vendor_id: offer.vendor_id,
            reason: body.reason,
            note: note.transpose()?,
            response_seconds: NonNegative::new(seconds).expect("not negative"),
            declined_at: tx.now(),
        })?;
        let settings = Settings::load(tx, &self.options)?;
        continue_if_over(tx, &settings, offer.incident_id)?;
        Ok(tx.reply(&offer)?)
    }

    fn assign(&mut self, tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
        let body: Assign = command.parse()?;
        let mut case = find_case(tx, body.incident_id)?;
        tx.correlate(case.incident_id)?;
        if !matches!(case.status, CaseStatus::Matching | CaseStatus::Exhausted) {
            return refuse(
                Code::InvalidTransition,
                "a vendor is assigned by hand only while one is searched",
            );
        }
        let not_available = |why: &str| refuse(Code::VendorNotAvailable, why);
        let Some(candidate) = Candidate::find(tx, body.vendor_id)? else {
            return not_available("matching does not know him");
        };
        if let Err(filter) = may_work(&candidate, is_claimed(tx, body.vendor_id)?, tx.now()) {
            return not_available(&format!("the vendor fails the filter {filter:?}"));
        }
        let settings = Settings::load(tx, &self.options)?;
        let place = case.place(tx)?;
        let distance = place.map_or(0.0, |place| distance_miles(&candidate, place, tx.now()));
        let (acceptance, rating) = (candidate.acceptance_rate, candidate.rating_average);
        let breakdown = score(&settings.matching, distance, true, true, acceptance, rating);
        // An attempt of its own keeps (incident, attempt, vendor) unique.
        case.attempt += 1;
        let mut offer = Offer {
            offer_id: tx.new_id(),
            incident_id: case.incident_id,
            vendor_id: body.vendor_id,
            cycle: case.cycle,
            round: case.round.max(1),
            attempt: case.attempt,
            status: OfferStatus::Accepted,
            manual: true,
            match_score: breakdown.score(),
            score_breakdown: breakdown,
            distance_miles: distance,
            estimated_payout_cents: payout_cents(
                &settings,
                &candidate,
                case.incident_type,
                case.priority,
                distance,
            ),
            created_at: tx.now(),
            expires_at: tx.now(),
            responded_at: None,
        };
        accept(
            tx,
            &settings,
            &mut case,
            &mut offer,
            command.actor().clone(),
        )?;
        Ok(tx.reply(&offer)?)
    }
}

fn refuse<T>(code: Code, message: &str) -> Result<T, HandlerError> {
    Err(Rejection::new(code, message).into())
}

fn refuse_unless_open(tx: &Tx<'_>, offer: &Offer) -> Result<(), HandlerError> {
    match offer.status {
        OfferStatus::Pending if tx.now() < offer.expires_at => Ok(()),
        OfferStatus::Pending | OfferStatus::Expired => {
            refuse(Code::OfferExpired, "the offer's time is over")
        }
        _ => Err(Rejection::new(
            Code::OfferNotPending,
            format!("the offer is {}", offer.status.as_str()),
        )
        .with_details(json!({ "status": offer.status }))
        .into()),
    }
}

fn find_offer(tx: &Tx<'_>, offer_id: Id) -> Result<Offer, HandlerError> {
    Offer::find(tx, offer_id)?.ok_or_else(|| {
        Rejection::new(Code::NotFound, format!("there is no offer {offer_id}")).into()
    })
}

fn find_case(tx: &Tx<'_>, incident_id: Id) -> Result<MatchCase, HandlerError> {
    MatchCase::find(tx, incident_id)?.ok_or_else(|| {
        Rejection::new(
            Code::NotFound,
            format!("matching knows no incident {incident_id} yet"),
        )
        .into()
    })
}

/// Whose offer or case a command is about.
pub(super) fn scope(tx: &Tx<'_>, command: &Command) -> Result<Scope, HandlerError> {
    match command.name.as_str() {
        "offer.list" => Ok(Scope::Open),
        "match.assign" | "match.get" => {
            let case = find_case(tx, id_of(command, "incidentId")?)?;
            Ok(Scope::Owned {
                driver: case.driver_id,
                vendor: None,
                company: case.company_id,
            })
        }
        _ => {
            let offer = find_offer(tx, id_of(command, "offerId")?)?;
            let case = MatchCase::find(tx, offer.incident_id)?;
            Ok(Scope::Owned {
                driver: None,
                vendor: Some(offer.vendor_id),
                company: case.and_then(|case| case.company_id),
            })
        }
    }
}

fn list(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let mut body: ListBody = command.parse()?;
    let most = limit(body.limit)?;
    let mut company: Option<Option<Id>> = None;
    match command.actor() {
        Actor::Vendor(id) => {
            if body.vendor_id.is_some_and(|asked| asked != *id) {
                return refuse(Code::AuthorizationError, "this is somebody else's listing");
            }
            body.vendor_id = Some(*id);
        }
        Actor::Dispatcher(_) => company = Some(command.caller.company),
        _ => {}
    }
    let (before_ms, before_id) = cursor(body.cursor.as_deref())?;
    let offers: Vec<Offer> = tx.documents(
        "SELECT offer.doc FROM offer JOIN match_case USING (incident_id)
         WHERE (?1 IS NULL OR vendor_id = ?1) AND (?2 IS NULL OR incident_id = ?2) AND (?3 IS NULL OR status = ?3)
           AND (NOT ?4 OR json_extract(match_case.doc, '$.companyId') IS ?5)
           AND (created_at_ms, offer_id) < (?6, ?7)
         ORDER BY created_at_ms DESC, offer_id DESC LIMIT ?8",
        params![
            body.vendor_id.map(|id| id.to_string()),
            body.incident_id.map(|id| id.to_string()),
            body.status.map(OfferStatus::as_str),
            company.is_some(),
            company.flatten().map(|id| id.to_string()),
            before_ms,
            before_id,
            most as i64
        ],
    )?;
    let more = offers.last().filter(|_| offers.len() as u64 == most);
    let more = more.map(|last| next(last.created_at.ms(), &last.offer_id.to_string()));
    let items: Vec<Value> = offers
        .iter()
        .map(|offer| serde_json::to_value(offer).unwrap_or(Value::Null))
        .collect();
    Ok(tx.reply(&page(&items, more))?)
}
