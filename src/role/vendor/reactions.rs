//! What a vendor's record does on other roles' events (DOMAIN 5.2). Events of one job may come in any order: what an end
//! did is remembered per offer, completed work and stars per incident: a replay by force counts nothing twice.

use super::commands::tell_update;
use super::entity::{Metrics, Vendor, legal};
use crate::event::{
    Actor, BackgroundCheckStatus, Count1, E164, Id, Known, NonNegative, OfferAccepted,
    OfferCancelled, OfferPreviousStatus, Personal, Rate, RatedBy, RatingAverage, Text,
    VendorMetricsUpdated, VendorStatus, VendorStatusChanged, VendorStatusReason, WorkCompleted,
};
use crate::role::{HandlerError, Received};
use crate::store::{Tx, params};

pub(super) fn on_event(tx: &mut Tx<'_>, received: &Received) -> Result<(), HandlerError> {
    match received.event.known() {
        Some(Known::OfferCreated(offer)) => {
            count(tx, offer.vendor_id, "offered", offer.offer_id, |metrics| {
                metrics.offers += 1;
            })
        }
        Some(Known::OfferDeclined(offer)) => {
            count(tx, offer.vendor_id, "declined", offer.offer_id, |metrics| {
                metrics.declined += 1;
                answered(metrics, offer.response_seconds.get());
            })
        }
        Some(Known::OfferExpired(offer)) => {
            count(tx, offer.vendor_id, "expired", offer.offer_id, |metrics| {
                metrics.expired += 1;
            })
        }
        Some(Known::OfferAccepted(offer)) => on_accepted(tx, offer),
        Some(Known::OfferCancelled(offer)) => on_cancelled(tx, offer),
        Some(Known::WorkCompleted(work)) => on_completed(tx, work),
        Some(Known::IncidentRated(rated)) if rated.rated_by == RatedBy::Driver => {
            count(tx, rated.vendor_id, "rated", rated.incident_id, |metrics| {
                metrics.stars_total += u64::from(rated.stars.get());
                metrics.ratings += 1;
            })
        }
        Some(Known::UserDataDeleted(deleted)) => forget(tx, deleted.user_id),
        _ => Ok(()),
    }
}

fn answered(metrics: &mut Metrics, seconds: f64) {
    metrics.response_seconds_total += seconds;
    metrics.responses += 1;
}

/// Changes a vendor's counters and tells of it, once for what became of an offer or an incident. A vendor of another site is
/// that site's to count.
fn count(
    tx: &mut Tx<'_>,
    vendor_id: Id,
    what: &str,
    of: Id,
    change: impl FnOnce(&mut Metrics),
) -> Result<(), HandlerError> {
    let Some(mut vendor) = Vendor::find(tx, vendor_id)? else {
        return Ok(());
    };
    let first = tx.execute(
        "INSERT INTO counted (fact) VALUES (?1) ON CONFLICT DO NOTHING",
        params![format!("{what}:{of}")],
    )?;
    if first == 0 {
        return Ok(());
    }
    change(&mut vendor.metrics);
    tell_metrics(tx, &mut vendor)
}

fn tell_metrics(tx: &mut Tx<'_>, vendor: &mut Vendor) -> Result<(), HandlerError> {
    vendor.metrics_version += 1;
    vendor.save(tx)?;
    let metrics = &vendor.metrics;
    // Ratios of counts, means of positive numbers and of stars are in their ranges.
    let rate = |value: f64| Rate::new(value.clamp(0.0, 1.0)).expect("in range");
    tx.emit(&VendorMetricsUpdated {
        vendor_id: vendor.vendor_id,
        rating_average: RatingAverage::new(metrics.rating_average().clamp(0.0, 5.0))
            .expect("in range"),
        rating_count: metrics.ratings,
        acceptance_rate: rate(metrics.acceptance_rate()),
        avg_response_seconds: NonNegative::new(metrics.avg_response_seconds().max(0.0))
            .expect("in range"),
        completion_rate: rate(metrics.completion_rate()),
        total_jobs: metrics.completed,
        metrics_version: Count1::new(vendor.metrics_version).expect("at least 1"),
    })?;
    Ok(())
}

/// Changes availability and tells of it.
pub(super) fn set_status(
    tx: &mut Tx<'_>,
    vendor: &mut Vendor,
    to: VendorStatus,
    incident_id: Option<Id>,
    reason: VendorStatusReason,
) -> Result<(), HandlerError> {
    let from = vendor.status;
    if !legal(from, to) {
        return Ok(());
    }
    vendor.status = to;
    vendor.save(tx)?;
    tx.emit(&VendorStatusChanged {
        vendor_id: vendor.vendor_id,
        previous_status: from,
        new_status: to,
        incident_id,
        reason,
        changed_at: tx.now(),
    })?;
    Ok(())
}

fn on_accepted(tx: &mut Tx<'_>, offer: &OfferAccepted) -> Result<(), HandlerError> {
    let Some(mut vendor) = Vendor::find(tx, offer.vendor_id)? else {
        return Ok(());
    };
    let (offer_id, incident_id) = (offer.offer_id.to_string(), offer.incident_id.to_string());
    let known: Option<(bool, Option<String>)> = job(tx, &offer_id)?;
    if known.as_ref().is_some_and(|(accepted, _)| *accepted) {
        return Ok(());
    }
    let completed: Option<i64> = tx.value(
        "SELECT 1 FROM completed WHERE incident_id = ?1 AND vendor_id = ?2",
        params![incident_id, offer.vendor_id.to_string()],
    )?;
    let ended = known
        .and_then(|(_, ended)| ended)
        .or(completed.map(|_| "completed".to_owned()));
    save_job(
        tx,
        &offer_id,
        offer.vendor_id,
        &incident_id,
        true,
        ended.as_deref(),
    )?;
    if ended.is_none() {
        vendor.current_incident_id = Some(offer.incident_id);
        set_status(
            tx,
            &mut vendor,
            VendorStatus::Busy,
            Some(offer.incident_id),
            VendorStatusReason::OfferAccepted,
        )?;
        vendor.save(tx)?;
    }
    if matches!(offer.accepted_by, Actor::Vendor(_)) {
        vendor.metrics.accepted += 1;
        if let Some(seconds) = offer.response_seconds {
            answered(&mut vendor.metrics, seconds.get());
        }
        tell_metrics(tx, &mut vendor)?;
    }
    Ok(())
}

fn on_cancelled(tx: &mut Tx<'_>, offer: &OfferCancelled) -> Result<(), HandlerError> {
    if offer.previous_status == OfferPreviousStatus::Pending {
        return Ok(());
    }
    let Some(mut vendor) = Vendor::find(tx, offer.vendor_id)? else {
        return Ok(());
    };
    let offer_id = offer.offer_id.to_string();
    let known = job(tx, &offer_id)?;
    if known.as_ref().is_some_and(|(_, ended)| ended.is_some()) {
        return Ok(());
    }
    let accepted = known.is_some_and(|(accepted, _)| accepted);
    save_job(
        tx,
        &offer_id,
        offer.vendor_id,
        &offer.incident_id.to_string(),
        accepted,
        Some("released"),
    )?;
    vendor.metrics.released += 1;
    free(
        tx,
        &mut vendor,
        offer.incident_id,
        VendorStatusReason::Released,
    )?;
    tell_metrics(tx, &mut vendor)
}

fn on_completed(tx: &mut Tx<'_>, work: &WorkCompleted) -> Result<(), HandlerError> {
    let Some(mut vendor) = Vendor::find(tx, work.vendor_id)? else {
        return Ok(());
    };
    let (incident_id, vendor_id) = (work.incident_id.to_string(), work.vendor_id.to_string());
    let first = tx.execute(
        "INSERT INTO completed (incident_id, vendor_id) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        params![incident_id, vendor_id],
    )?;
    if first == 0 {
        return Ok(());
    }
    tx.execute(
        "UPDATE job SET ended = 'completed' WHERE incident_id = ?1 AND vendor_id = ?2 AND ended IS NULL",
        params![incident_id, vendor_id],
    )?;
    vendor.metrics.completed += 1;
    free(
        tx,
        &mut vendor,
        work.incident_id,
        VendorStatusReason::WorkCompleted,
    )?;
    tell_metrics(tx, &mut vendor)
}

/// Frees a vendor from an incident, if that is the one he is on.
fn free(
    tx: &mut Tx<'_>,
    vendor: &mut Vendor,
    incident_id: Id,
    reason: VendorStatusReason,
) -> Result<(), HandlerError> {
    if vendor.current_incident_id != Some(incident_id) {
        return Ok(());
    }
    vendor.current_incident_id = None;
    let to = if vendor.wants_offline {
        VendorStatus::Offline
    } else {
        VendorStatus::Available
    };
    vendor.wants_offline = false;
    set_status(tx, vendor, to, Some(incident_id), reason)
}

/// Whether an offer's job was accepted, and how it ended.
fn job(tx: &Tx<'_>, offer_id: &str) -> Result<Option<(bool, Option<String>)>, HandlerError> {
    let accepted: Option<bool> = tx.value(
        "SELECT accepted FROM job WHERE offer_id = ?1",
        params![offer_id],
    )?;
    let Some(accepted) = accepted else {
        return Ok(None);
    };
    let ended: Option<Option<String>> = tx.value(
        "SELECT ended FROM job WHERE offer_id = ?1",
        params![offer_id],
    )?;
    Ok(Some((accepted, ended.flatten())))
}

fn save_job(
    tx: &mut Tx<'_>,
    offer_id: &str,
    vendor_id: Id,
    incident_id: &str,
    accepted: bool,
    ended: Option<&str>,
) -> Result<(), HandlerError> {
    tx.execute(
        "INSERT INTO job (offer_id, vendor_id, incident_id, accepted, ended) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (offer_id) DO UPDATE SET accepted = ?4, ended = ?5",
        params![offer_id, vendor_id.to_string(), incident_id, accepted, ended],
    )?;
    Ok(())
}

/// Forgets a vendor's person: contact data gone, offline, background check rejected.
fn forget(tx: &mut Tx<'_>, user_id: Id) -> Result<(), HandlerError> {
    let Some(mut vendor) = Vendor::find(tx, user_id)? else {
        return Ok(());
    };
    vendor.profile.contact_name = Personal::plain(Text::lossy("erased"));
    // The smallest number of the form; nobody has it.
    vendor.profile.phone = Personal::plain(E164::new("+10").expect("of the form"));
    vendor.profile.email = None;
    vendor.profile.payout_account_ref = None;
    vendor.last_location = None;
    vendor.background_check_status = BackgroundCheckStatus::Rejected;
    set_status(
        tx,
        &mut vendor,
        VendorStatus::Offline,
        None,
        VendorStatusReason::Manual,
    )?;
    let changed = [
        "contactName",
        "phone",
        "email",
        "payoutAccountRef",
        "backgroundCheckStatus",
    ];
    tell_update(
        tx,
        &mut vendor,
        changed.into_iter().map(Text::lossy).collect(),
    )
}
