//! The table of DOMAIN 5.6: which event, under which condition, tells whom what, on which channels.

use std::time::Duration;

use crate::event::{
    Actor, Channel, Event, IncidentStatus, IntakeField, Known, NotificationPriority,
    NotificationType, OfferCancelReason, OfferPreviousStatus, Ts, Urgency,
};

/// Who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// `driverId` of the event.
    Driver,
    /// `vendorId` of the event.
    Vendor,
    /// The company's dispatchers, else the platform's, else the admins; also called back office.
    Dispatchers,
    /// All admins.
    Admins,
}

/// One row.
#[derive(Clone, Copy)]
pub struct Row {
    /// The event.
    pub detail_type: &'static str,
    /// When the row applies, at the step's time.
    pub when: fn(&Known, Ts) -> bool,
    /// What is told.
    pub kind: NotificationType,
    /// To whom.
    pub to: To,
    /// On these channels.
    pub channels: &'static [Channel],
    /// How urgent.
    pub priority: NotificationPriority,
}

const PUSH: &[Channel] = &[Channel::Push];
const SMS: &[Channel] = &[Channel::Sms];
const PUSH_SMS: &[Channel] = &[Channel::Push, Channel::Sms];
const PUSH_EMAIL: &[Channel] = &[Channel::Push, Channel::Email];
const ALL: &[Channel] = &[Channel::Push, Channel::Sms, Channel::Email];

fn always(_: &Known, _: Ts) -> bool {
    true
}

fn offer_open(event: &Known, now: Ts) -> bool {
    matches!(event, Known::OfferCreated(offer) if now < offer.expires_at)
}

fn pending_offer_gone(event: &Known, _: Ts) -> bool {
    matches!(event, Known::OfferCancelled(offer)
        if offer.previous_status == OfferPreviousStatus::Pending && offer.reason != OfferCancelReason::VendorTaken)
}

fn released_by_dispatcher(event: &Known, _: Ts) -> bool {
    matches!(event, Known::OfferCancelled(offer)
        if offer.previous_status == OfferPreviousStatus::Accepted && offer.reason == OfferCancelReason::DispatcherRelease)
}

fn set_out(event: &Known, _: Ts) -> bool {
    matches!(event, Known::IncidentStatusChanged(change)
        if change.new_status == IncidentStatus::VendorEnRoute
            && change.reason.as_ref().is_none_or(|reason| reason.as_str() != "implied_by_arrival"))
}

/// An operator has an admin's rights (DOMAIN 1.2). An arrival by position is told by `VendorArrived`.
fn arrived_by_hand(event: &Known, _: Ts) -> bool {
    matches!(event, Known::IncidentStatusChanged(change)
        if change.new_status == IncidentStatus::VendorArrived
            && matches!(change.changed_by, Actor::Dispatcher(_) | Actor::Admin(_) | Actor::Operator(_)))
}

/// After a timeout `VendorTimeout` tells it.
fn vendor_lost(event: &Known, _: Ts) -> bool {
    matches!(event, Known::IncidentStatusChanged(change)
        if change.new_status == IncidentStatus::Created
            && change.reason.as_ref().is_some_and(|reason| ["vendor_withdrew", "dispatcher_release"].contains(&reason.as_str())))
}

fn had_vendor(event: &Known, _: Ts) -> bool {
    matches!(event, Known::IncidentCancelled(cancelled) if cancelled.vendor_id.is_some())
}

fn not_by_driver(event: &Known, _: Ts) -> bool {
    matches!(event, Known::IncidentCancelled(cancelled)
        if cancelled.cancelled_by != Actor::Driver(cancelled.driver_id))
}

fn pressing(event: &Known, _: Ts) -> bool {
    matches!(event, Known::CallSummaryGenerated(summary)
        if matches!(summary.urgency, Urgency::High | Urgency::Critical))
}

fn only_location_missing(event: &Known, _: Ts) -> bool {
    matches!(event, Known::CallAttentionNeeded(call)
        if call.driver_id.is_some() && call.missing.get() == [IntakeField::Location])
}

const fn row(
    detail_type: &'static str,
    when: fn(&Known, Ts) -> bool,
    kind: NotificationType,
    to: To,
    channels: &'static [Channel],
    priority: NotificationPriority,
) -> Row {
    Row {
        detail_type,
        when,
        kind,
        to,
        channels,
        priority,
    }
}

use NotificationPriority as P;
use NotificationType as N;

/// The table, in DOMAIN's order.
#[rustfmt::skip] // one row a line, as DOMAIN has it
pub const ROWS: &[Row] = &[
    row("OfferCreated", offer_open, N::OfferReceived, To::Vendor, PUSH_SMS, P::Urgent),
    row("OfferAccepted", always, N::OfferAccepted, To::Driver, ALL, P::High),
    row("OfferCancelled", pending_offer_gone, N::OfferWithdrawn, To::Vendor, PUSH, P::Normal),
    row("OfferCancelled", released_by_dispatcher, N::JobWithdrawn, To::Vendor, PUSH_SMS, P::High),
    row("IncidentAssigned", always, N::JobAssigned, To::Vendor, PUSH_SMS, P::High),
    row("IncidentStatusChanged", set_out, N::VendorEnRoute, To::Driver, PUSH_SMS, P::High),
    row("VendorArrived", always, N::VendorArrived, To::Driver, PUSH_SMS, P::High),
    row("IncidentStatusChanged", arrived_by_hand, N::VendorArrived, To::Driver, PUSH_SMS, P::High),
    row("IncidentStatusChanged", vendor_lost, N::Rematching, To::Driver, PUSH_SMS, P::High),
    row("VendorTimeout", always, N::Rematching, To::Driver, PUSH_SMS, P::High),
    row("VendorTimeout", always, N::JobWithdrawn, To::Vendor, PUSH_SMS, P::High),
    row("IncidentCancelled", had_vendor, N::IncidentCancelled, To::Vendor, PUSH_SMS, P::High),
    row("IncidentCancelled", not_by_driver, N::IncidentCancelled, To::Driver, PUSH_SMS, P::High),
    row("IncidentEscalated", always, N::IncidentEscalated, To::Dispatchers, ALL, P::Urgent),
    row("WorkStarted", always, N::WorkStarted, To::Driver, PUSH, P::Normal),
    row("WorkCompleted", always, N::WorkCompleted, To::Driver, ALL, P::Normal),
    row("PaymentCreated", always, N::PaymentCreated, To::Dispatchers, PUSH_EMAIL, P::Normal),
    row("PaymentFlagged", always, N::PaymentFlagged, To::Dispatchers, PUSH_EMAIL, P::High),
    row("PaymentApproved", always, N::PaymentApproved, To::Vendor, ALL, P::Normal),
    row("PaymentCompleted", always, N::PaymentCompleted, To::Vendor, ALL, P::Normal),
    row("PaymentRejected", always, N::PaymentRejected, To::Vendor, PUSH_EMAIL, P::Normal),
    row("PaymentRefunded", always, N::PaymentRefunded, To::Vendor, PUSH_EMAIL, P::Normal),
    row("PaymentFailed", always, N::PaymentFailed, To::Dispatchers, PUSH_EMAIL, P::High),
    row("PaymentRequiresAction", always, N::PaymentAction, To::Driver, PUSH_SMS, P::High),
    row("CallSummaryGenerated", pressing, N::CallSummary, To::Dispatchers, PUSH, P::Normal),
    row("CallAttentionNeeded", always, N::CallAttention, To::Dispatchers, PUSH_SMS, P::Urgent),
    row("CallAttentionNeeded", only_location_missing, N::LocationRequest, To::Driver, SMS, P::High),
    row("AlarmRaised", always, N::SystemAlert, To::Admins, ALL, P::Urgent),
    row("AlarmCleared", always, N::SystemAlert, To::Admins, PUSH, P::Normal),
];

/// Events that come to the queue and tell nobody anything: known to all by other means, or of no use to anyone's day.
pub const SILENT: [&str; 4] = [
    "OfferDeclined",
    "OfferExpired",
    "VendorStatusChanged",
    "TranscriptReady",
];

/// Events that keep the contact directory.
pub const DIRECTORY: [&str; 5] = [
    "VendorRegistered",
    "VendorUpdated",
    "UserRegistered",
    "UserUpdated",
    "UserDataDeleted",
];

/// The template of a row: its type's, but what is over is told otherwise than what begins.
#[must_use]
pub fn wording(row: &Row) -> &'static str {
    match row.detail_type {
        "AlarmCleared" => "system_alert_cleared",
        _ => row.kind.as_str(),
    }
}

/// When a message about an event has lost its sense (DOMAIN 7, 16; the ages of 4.1, rules 24 and 29): an offer when it
/// expires, an alarm after a day, everything else after an hour; what calls a dispatcher never.
#[must_use]
pub fn stale_at(event: &Event) -> Option<Ts> {
    let hour = event.time + Duration::from_secs(3_600);
    match event.known() {
        Some(Known::IncidentEscalated(_) | Known::CallAttentionNeeded(_)) => None,
        Some(Known::AlarmRaised(_) | Known::AlarmCleared(_)) => {
            Some(event.time + Duration::from_secs(86_400))
        }
        Some(Known::OfferCreated(offer)) => Some(hour.min(offer.expires_at)),
        _ => Some(hour),
    }
}
