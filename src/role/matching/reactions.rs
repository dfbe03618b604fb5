//! What matching does on other roles' events and on its timers (DOMAIN 5.3).

use std::collections::BTreeSet;

use super::MatchRole;
use super::candidate::{Candidate, take_over};
use super::entity::{CaseStatus, MatchCase, Offer, OfferStatus, release_claim};
use super::rounds::{
    OFFER_EXPIRY, cancel_all, cancel_offer, continue_if_over, end_offer, exhaust, move_case,
    next_round, release,
};
use super::settings::Settings;
use crate::event::{
    DeadReason, ExhaustReason, Id, IncidentCancelled, IncidentCreated, IncidentType, Known,
    MatchRequestReason, MatchRequested, OfferCancelReason, OfferExpired, Personal, Place, Priority,
};
use crate::role::{HandlerError, Received, Timer};
use crate::store::{Tx, params};

impl MatchRole {
    pub(super) fn on_event(
        &mut self,
        tx: &mut Tx<'_>,
        received: &Received,
    ) -> Result<(), HandlerError> {
        let Some(known) = received.event.known() else {
            return Ok(());
        };
        if take_over(tx, known)? {
            return Ok(());
        }
        match known {
            Known::IncidentCreated(created) => self.on_created(tx, created, received.too_old),
            Known::MatchRequested(requested) => self.on_requested(tx, requested, received.too_old),
            Known::IncidentCancelled(cancelled) => on_cancelled(tx, cancelled),
            Known::WorkCompleted(work) => on_completed(tx, work.incident_id),
            Known::ConfigurationChanged(changed) => match Settings::take(tx, changed)? {
                Ok(()) => Ok(()),
                Err(why) => Err(HandlerError::Permanent(DeadReason::InvalidEvent, why)),
            },
            Known::UserDataDeleted(deleted) => self.forget(tx, deleted.user_id),
            _ => Ok(()),
        }
    }

    fn on_created(
        &mut self,
        tx: &mut Tx<'_>,
        created: &IncidentCreated,
        too_old: bool,
    ) -> Result<(), HandlerError> {
        // Whoever is not to make the case (DESIGN 8, home) has none: an incident that came here from elsewhere has one there.
        if !tx.creates()? || MatchCase::find(tx, created.incident_id)?.is_some() {
            return Ok(());
        }
        let mut case = MatchCase {
            incident_id: created.incident_id,
            driver_id: Some(created.driver_id),
            company_id: created.company_id,
            incident_type: created.incident_type,
            priority: created.priority,
            location: Some(tx.sealed(&created.driver_id, created.location.clone())?),
            cycle: 1,
            round: 0,
            attempt: 0,
            status: CaseStatus::Matching,
            excluded_vendor_ids: BTreeSet::new(),
            rejections: Vec::new(),
            version: 0,
        };
        self.begin(tx, &mut case, too_old, false)
    }

    /// Starts rounds, or says why not.
    fn begin(
        &mut self,
        tx: &mut Tx<'_>,
        case: &mut MatchCase,
        too_old: bool,
        beyond_limit: bool,
    ) -> Result<(), HandlerError> {
        let settings = Settings::load(tx, &self.options)?;
        if beyond_limit {
            return exhaust(tx, &settings, case, ExhaustReason::CycleLimit, 0);
        }
        if too_old {
            return exhaust(tx, &settings, case, ExhaustReason::TooOld, 0);
        }
        next_round(tx, &settings, case)
    }

    fn on_requested(
        &mut self,
        tx: &mut Tx<'_>,
        requested: &MatchRequested,
        too_old: bool,
    ) -> Result<(), HandlerError> {
        let cycle = requested.cycle.get();
        let mut case = match MatchCase::find(tx, requested.incident_id)? {
            Some(case) => case,
            None if !tx.creates()? => return Ok(()),
            // It says all that IncidentCreated says; when that one comes, the case is there.
            None => MatchCase {
                incident_id: requested.incident_id,
                driver_id: Some(requested.driver_id),
                company_id: requested.company_id,
                incident_type: requested.incident_type,
                priority: requested.priority,
                location: Some(tx.sealed(&requested.driver_id, requested.location.clone())?),
                cycle: 1,
                round: 0,
                attempt: 0,
                status: CaseStatus::Matching,
                excluded_vendor_ids: BTreeSet::new(),
                rejections: Vec::new(),
                version: 0,
            },
        };
        if cycle <= case.cycle || matches!(case.status, CaseStatus::Cancelled | CaseStatus::Done) {
            return Ok(());
        }
        let reason = match requested.reason {
            MatchRequestReason::VendorTimeout => OfferCancelReason::VendorTimeout,
            MatchRequestReason::VendorWithdrew => OfferCancelReason::VendorWithdrew,
            MatchRequestReason::DispatcherRelease | MatchRequestReason::DispatcherRestart => {
                OfferCancelReason::DispatcherRelease
            }
        };
        cancel_all(tx, case.incident_id, OfferStatus::Pending, reason)?;
        release(tx, &mut case, reason)?;
        case.excluded_vendor_ids
            .extend(requested.released_vendor_id);
        case.cycle = cycle;
        case.round = 0;
        let settings = Settings::load(tx, &self.options)?;
        let by_hand = requested.reason == MatchRequestReason::DispatcherRestart;
        self.begin(
            tx,
            &mut case,
            too_old,
            cycle > settings.matching.max_cycles && !by_hand,
        )
    }

    pub(super) fn on_timer(&mut self, tx: &mut Tx<'_>, timer: &Timer) -> Result<(), HandlerError> {
        if timer.kind != OFFER_EXPIRY {
            return Ok(());
        }
        let offer = Id::parse(&timer.key)
            .ok()
            .map(|id| Offer::find(tx, id))
            .transpose()?
            .flatten();
        let Some(mut offer) = offer.filter(|offer| offer.status == OfferStatus::Pending) else {
            return Ok(());
        };
        tx.correlate(offer.incident_id)?;
        end_offer(tx, &mut offer, OfferStatus::Expired)?;
        tx.emit(&OfferExpired {
            offer_id: offer.offer_id,
            incident_id: offer.incident_id,
            vendor_id: offer.vendor_id,
            expired_at: offer.expires_at,
        })?;
        let settings = Settings::load(tx, &self.options)?;
        continue_if_over(tx, &settings, offer.incident_id)
    }

    /// Forgets a person: a vendor is no candidate any more, a driver's ended cases forget where he was.
    fn forget(&mut self, tx: &mut Tx<'_>, user_id: Id) -> Result<(), HandlerError> {
        Candidate::remove(tx, user_id)?;
        let settings = Settings::load(tx, &self.options)?;
        for mut offer in Offer::pending_of_vendor(tx, user_id)? {
            cancel_offer(tx, &mut offer, OfferCancelReason::VendorErased)?;
            continue_if_over(tx, &settings, offer.incident_id)?;
        }
        let cases: Vec<MatchCase> = tx.documents(
            "SELECT doc FROM match_case WHERE driver_id = ?1 ORDER BY incident_id",
            params![user_id.to_string()],
        )?;
        for mut case in cases {
            if matches!(case.status, CaseStatus::Cancelled | CaseStatus::Done) {
                case.location = None;
                case.save(tx)?;
            }
        }
        Ok(())
    }
}

fn on_cancelled(tx: &mut Tx<'_>, cancelled: &IncidentCancelled) -> Result<(), HandlerError> {
    let Some(mut case) = MatchCase::find(tx, cancelled.incident_id)? else {
        // Remembered, so that an IncidentCreated that comes later starts nothing.
        let mut case = MatchCase {
            incident_id: cancelled.incident_id,
            driver_id: Some(cancelled.driver_id),
            company_id: cancelled.company_id,
            incident_type: IncidentType::Tow,
            priority: Priority::Normal,
            location: None::<Personal<Place>>,
            cycle: 1,
            round: 0,
            attempt: 0,
            status: CaseStatus::Cancelled,
            excluded_vendor_ids: BTreeSet::new(),
            rejections: Vec::new(),
            version: 0,
        };
        return Ok(case.save(tx)?);
    };
    if matches!(case.status, CaseStatus::Cancelled | CaseStatus::Done) {
        return Ok(());
    }
    move_case(&mut case, CaseStatus::Cancelled)?;
    case.save(tx)?;
    for status in [OfferStatus::Pending, OfferStatus::Accepted] {
        cancel_all(
            tx,
            case.incident_id,
            status,
            OfferCancelReason::IncidentCancelled,
        )?;
    }
    Ok(release_claim(tx, case.incident_id)?)
}

fn on_completed(tx: &mut Tx<'_>, incident_id: Id) -> Result<(), HandlerError> {
    let Some(mut case) = MatchCase::find(tx, incident_id)? else {
        return Ok(());
    };
    if case.status == CaseStatus::Assigned {
        move_case(&mut case, CaseStatus::Done)?;
        case.save(tx)?;
    }
    Ok(release_claim(tx, incident_id)?)
}
