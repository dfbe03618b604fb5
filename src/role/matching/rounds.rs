//! Rounds: who is asked, what happens when all have answered, and every way an offer ends (DOMAIN 2.4, 5.3).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::candidate::Candidate;
use super::entity::{
    CaseStatus, MatchCase, Offer, OfferStatus, Rejections, asked, case_legal, claim, is_claimed,
    offer_legal, release_claim,
};
use super::scoring::{Breakdown, Wanted, eta_minutes, passes, payout_cents, score};
use super::settings::Settings;
use crate::event::{
    Actor, Cents, Count1, ExhaustReason, Id, MatchExhausted, Miles, NonNegative, OfferAccepted,
    OfferCancelReason, OfferCancelled, OfferCreated, OfferPreviousStatus, Rate,
};
use crate::role::HandlerError;
use crate::store::Tx;

/// Timer: an offer's time is over.
pub(super) const OFFER_EXPIRY: &str = "offer_expiry";

fn count(value: u64) -> Count1 {
    Count1::new(value.max(1)).expect("at least 1")
}

fn miles(value: f64) -> Miles {
    // Distances on the earth are finite and not negative.
    Miles::new(value.max(0.0)).unwrap_or_else(|_| Miles::new(0.0).expect("in range"))
}

/// Changes a case's status along its table.
pub(super) fn move_case(case: &mut MatchCase, to: CaseStatus) -> Result<(), HandlerError> {
    if !case_legal(Some(case.status), to) {
        return Err(HandlerError::Transient(format!(
            "a case that is {:?} can't become {to:?}",
            case.status
        )));
    }
    case.status = to;
    Ok(())
}

/// Starts the next round; rounds without candidates end at once. After the last one the case is exhausted.
pub(super) fn next_round(
    tx: &mut Tx<'_>,
    settings: &Settings,
    case: &mut MatchCase,
) -> Result<(), HandlerError> {
    loop {
        if case.round >= settings.matching.rounds {
            return exhaust(tx, settings, case, ExhaustReason::NoVendor, case.round);
        }
        case.round += 1;
        case.attempt += 1;
        let found = candidates(tx, settings, case)?;
        if found.is_empty() {
            continue;
        }
        move_case(case, CaseStatus::Matching)?;
        for (candidate, distance, breakdown) in
            found.into_iter().take(settings.matching.offers_per_round)
        {
            make_offer(tx, settings, case, &candidate, distance, breakdown)?;
        }
        case.save(tx)?;
        return Ok(());
    }
}

type Ranked = (Candidate, f64, Breakdown);

/// Who passes the hard filters, best first: not yet asked, then by score, distance, id.
fn candidates(
    tx: &Tx<'_>,
    settings: &Settings,
    case: &mut MatchCase,
) -> Result<Vec<Ranked>, HandlerError> {
    // Who was erased meanwhile stands nowhere: nobody is near.
    let Some(place) = case.place(tx)? else {
        return Ok(Vec::new());
    };
    let radius_miles = settings.matching.radius_miles(case.round);
    let wanted = Wanted {
        incident_type: case.incident_type,
        place,
        radius_miles,
        now: tx.now(),
    };
    let asked = asked(tx, case.incident_id)?;
    let mut by_filter = BTreeMap::new();
    let mut found: Vec<(bool, f64, Ranked)> = Vec::new();
    for candidate in Candidate::near(tx, place, radius_miles)? {
        let excluded = case.excluded_vendor_ids.contains(&candidate.vendor_id);
        match passes(
            &candidate,
            wanted,
            is_claimed(tx, candidate.vendor_id)?,
            excluded,
        ) {
            Ok(distance) => {
                let (acceptance, rating) = (candidate.acceptance_rate, candidate.rating_average);
                let breakdown = score(&settings.matching, distance, true, true, acceptance, rating);
                found.push((
                    asked.contains(&candidate.vendor_id),
                    -breakdown.score(),
                    (candidate, distance, breakdown),
                ));
            }
            Err(filter) => *by_filter.entry(filter).or_insert(0) += 1,
        }
    }
    case.rejections.push(Rejections {
        cycle: case.cycle,
        round: case.round,
        by_filter,
    });
    found.sort_by(|a, b| {
        a.0.cmp(&b.0)
            .then(a.1.total_cmp(&b.1))
            .then(a.2.1.total_cmp(&b.2.1))
            .then(a.2.0.vendor_id.cmp(&b.2.0.vendor_id))
    });
    Ok(found.into_iter().map(|(_, _, ranked)| ranked).collect())
}

fn make_offer(
    tx: &mut Tx<'_>,
    settings: &Settings,
    case: &MatchCase,
    candidate: &Candidate,
    distance: f64,
    breakdown: Breakdown,
) -> Result<(), HandlerError> {
    let timeout =
        Duration::from_secs_f64(settings.matching.offer_timeout_seconds.clamp(0.001, 1e6));
    let offer = Offer {
        offer_id: tx.new_id(),
        incident_id: case.incident_id,
        vendor_id: candidate.vendor_id,
        cycle: case.cycle,
        round: case.round,
        attempt: case.attempt,
        status: OfferStatus::Pending,
        manual: false,
        match_score: breakdown.score(),
        score_breakdown: breakdown,
        distance_miles: distance,
        estimated_payout_cents: payout_cents(
            settings,
            candidate,
            case.incident_type,
            case.priority,
            distance,
        ),
        created_at: tx.now(),
        expires_at: tx.now() + timeout,
        responded_at: None,
    };
    offer.save(tx)?;
    tx.schedule(
        offer.expires_at,
        OFFER_EXPIRY,
        &offer.offer_id.to_string(),
        &json!({}),
    )?;
    tx.emit(&OfferCreated {
        offer_id: offer.offer_id,
        incident_id: offer.incident_id,
        vendor_id: offer.vendor_id,
        company_id: case.company_id,
        incident_type: case.incident_type,
        priority: case.priority,
        match_score: Rate::new(offer.match_score).expect("a score is from 0 to 1"),
        estimated_payout_cents: Cents::new(offer.estimated_payout_cents)
            .expect("payouts are clamped to the range"),
        distance_miles: miles(offer.distance_miles),
        radius_miles: miles(settings.matching.radius_miles(case.round)),
        attempt: count(offer.attempt),
        cycle: count(offer.cycle),
        round: count(offer.round),
        expires_at: offer.expires_at,
    })?;
    Ok(())
}

/// Ends a case without a vendor. `rounds` is what was tried in this cycle.
pub(super) fn exhaust(
    tx: &mut Tx<'_>,
    settings: &Settings,
    case: &mut MatchCase,
    reason: ExhaustReason,
    rounds: u64,
) -> Result<(), HandlerError> {
    move_case(case, CaseStatus::Exhausted)?;
    case.save(tx)?;
    let final_radius = if rounds == 0 {
        0.0
    } else {
        settings.matching.radius_miles(rounds)
    };
    tx.emit(&MatchExhausted {
        incident_id: case.incident_id,
        rounds,
        final_radius_miles: miles(final_radius),
        cycle: count(case.cycle),
        reason,
    })?;
    Ok(())
}

/// Goes on with the next round if every offer of this one has ended unaccepted.
pub(super) fn continue_if_over(
    tx: &mut Tx<'_>,
    settings: &Settings,
    incident_id: Id,
) -> Result<(), HandlerError> {
    let Some(mut case) = MatchCase::find(tx, incident_id)? else {
        return Ok(());
    };
    let open = !Offer::of_incident(tx, incident_id, OfferStatus::Pending)?.is_empty();
    if case.status != CaseStatus::Matching || open {
        return Ok(());
    }
    next_round(tx, settings, &mut case)
}

/// Ends an offer along its table; its timer stops.
pub(super) fn end_offer(
    tx: &mut Tx<'_>,
    offer: &mut Offer,
    to: OfferStatus,
) -> Result<(), HandlerError> {
    if !offer_legal(offer.status, to) {
        return Err(HandlerError::Transient(format!(
            "an offer that is {:?} can't become {to:?}",
            offer.status
        )));
    }
    offer.status = to;
    offer.save(tx)?;
    tx.cancel_timer(OFFER_EXPIRY, &offer.offer_id.to_string())?;
    Ok(())
}

/// Withdraws an offer and tells of it.
pub(super) fn cancel_offer(
    tx: &mut Tx<'_>,
    offer: &mut Offer,
    reason: OfferCancelReason,
) -> Result<(), HandlerError> {
    let previous_status = if offer.status == OfferStatus::Accepted {
        OfferPreviousStatus::Accepted
    } else {
        OfferPreviousStatus::Pending
    };
    end_offer(tx, offer, OfferStatus::Cancelled)?;
    tx.emit(&OfferCancelled {
        offer_id: offer.offer_id,
        incident_id: offer.incident_id,
        vendor_id: offer.vendor_id,
        previous_status,
        reason,
        cancelled_at: tx.now(),
    })?;
    Ok(())
}

/// Withdraws all of an incident's offers with this status.
pub(super) fn cancel_all(
    tx: &mut Tx<'_>,
    incident_id: Id,
    status: OfferStatus,
    reason: OfferCancelReason,
) -> Result<(), HandlerError> {
    for mut offer in Offer::of_incident(tx, incident_id, status)? {
        cancel_offer(tx, &mut offer, reason)?;
    }
    Ok(())
}

/// Gives the job to an offer's vendor: incident and vendor are claimed, rivals and his other pending offers withdrawn,
/// rounds that this leaves empty go on. All or nothing.
pub(super) fn accept(
    tx: &mut Tx<'_>,
    settings: &Settings,
    case: &mut MatchCase,
    offer: &mut Offer,
    by: Actor,
) -> Result<(), HandlerError> {
    offer.responded_at = Some(tx.now());
    if offer.manual {
        offer.save(tx)?;
    } else {
        end_offer(tx, offer, OfferStatus::Accepted)?;
    }
    claim(tx, offer)?;
    move_case(case, CaseStatus::Assigned)?;
    case.save(tx)?;
    let seconds = (tx.now() - offer.created_at).num_milliseconds().max(0) as f64 / 1000.0;
    tx.emit(&OfferAccepted {
        offer_id: offer.offer_id,
        incident_id: offer.incident_id,
        vendor_id: offer.vendor_id,
        driver_id: case.driver_id.unwrap_or(case.incident_id),
        accepted_by: by,
        distance_miles: miles(offer.distance_miles),
        eta_minutes: eta_minutes(offer.distance_miles),
        cycle: count(offer.cycle),
        response_seconds: (!offer.manual).then(|| NonNegative::new(seconds).expect("not negative")),
        accepted_at: tx.now(),
    })?;
    let reason = if offer.manual {
        OfferCancelReason::AssignedManually
    } else {
        OfferCancelReason::OtherAccepted
    };
    cancel_all(tx, offer.incident_id, OfferStatus::Pending, reason)?;
    for mut other in Offer::pending_of_vendor(tx, offer.vendor_id)? {
        cancel_offer(tx, &mut other, OfferCancelReason::VendorTaken)?;
        continue_if_over(tx, settings, other.incident_id)?;
    }
    Ok(())
}

/// Takes the job away from whoever has it; he is not asked again for this incident.
pub(super) fn release(
    tx: &mut Tx<'_>,
    case: &mut MatchCase,
    reason: OfferCancelReason,
) -> Result<(), HandlerError> {
    for mut offer in Offer::of_incident(tx, case.incident_id, OfferStatus::Accepted)? {
        case.excluded_vendor_ids.insert(offer.vendor_id);
        cancel_offer(tx, &mut offer, reason)?;
    }
    release_claim(tx, case.incident_id)?;
    Ok(())
}
