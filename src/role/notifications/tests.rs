//! The rules of notifications on the bench: the table, the checks, once, tries (DOMAIN 5.6; S16, S17, S20).

mod checks;
mod commands;
mod erased;
mod rows;
mod tries;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Inbound, NotificationsRole, Options};
use crate::event::{
    Actor, BackgroundCheckStatus, Capability, Cents, Count1, CoverageMiles, Currency, Date, E164,
    Email, ErasureReason, Id, IncidentType, List, Miles, OfferCreated, PaymentApproved, Personal,
    Point, Priority, Rate, Text, Ts, Tz, UserDataDeleted, UserRegistered, UserRole, UserStatus,
    VendorRegistered, ids,
};
use crate::role::testing::Bench;
use crate::store::{EffectCall, EffectOutcome, Secret};

pub(super) const WEBHOOK_URL: &str = "https://fleet.example/webhooks/sms";

pub(super) fn id(n: u8) -> Id {
    ids::derive_v7(1, &[&[n]])
}

pub(super) const DRIVER: u8 = 1;
pub(super) const VENDOR: u8 = 2;
pub(super) const DISPATCHER: u8 = 3;
pub(super) const ADMIN: u8 = 4;
pub(super) const COMPANY: u8 = 5;
pub(super) const INCIDENT: u8 = 10;

pub(super) fn operator() -> Actor {
    Actor::Operator("test".to_owned())
}

pub(super) fn bench() -> Bench<NotificationsRole> {
    Bench::new(NotificationsRole::new(Options {
        sms_per_hour: 10,
        retry_delay: Duration::from_secs(60),
        link_base: "https://fleet.example".to_owned(),
        inbound: Some(Inbound {
            url: WEBHOOK_URL.to_owned(),
            token: Secret::new("12345"),
        }),
    }))
}

pub(super) fn count(n: u64) -> Count1 {
    Count1::new(n).expect("in range")
}

pub(super) fn user(n: u8, role: UserRole, company: Option<u8>) -> UserRegistered {
    UserRegistered {
        user_id: id(n),
        phone: Personal::Plain(E164::new(format!("+1555000{n:04}")).expect("valid")),
        role,
        name: Personal::Plain(Text::lossy(&format!("Person {n}"))),
        email: Some(Personal::Plain(
            Email::new(format!("p{n}@fleet.example")).expect("valid"),
        )),
        company_id: company.map(id),
        payment_type: None,
        language: Text::lossy("en"),
        timezone: Tz(chrono_tz::America::New_York),
        status: UserStatus::Active,
        profile_version: count(1),
        registered_at: Ts::from_ms(0),
    }
}

pub(super) fn vendor() -> VendorRegistered {
    VendorRegistered {
        vendor_id: id(VENDOR),
        business_name: Text::lossy("Joe's Tires & Co"),
        contact_name: Personal::Plain(Text::lossy("Joe")),
        phone: Personal::Plain(E164::new("+15551112222").expect("valid")),
        email: Some(Personal::Plain(
            Email::new("joe@tires.example").expect("valid"),
        )),
        capabilities: List::new(vec![Capability::TireRepair]).expect("one"),
        location: Point {
            lat: 40.0,
            lon: -74.0,
        },
        coverage_radius_miles: CoverageMiles::new(50.0).expect("in range"),
        timezone: Tz(chrono_tz::America::New_York),
        operating_hours: BTreeMap::new(),
        pricing: BTreeMap::new(),
        insurance_expiry: Date(chrono::NaiveDate::from_ymd_opt(2099, 1, 1).expect("a day")),
        background_check_status: BackgroundCheckStatus::Approved,
        payout_account_ref: None,
        profile_version: count(1),
        registered_at: Ts::from_ms(0),
    }
}

/// A driver, a vendor, a dispatcher of the company and an admin, each with a device.
pub(super) fn peopled() -> Bench<NotificationsRole> {
    let mut bench = bench();
    for (n, role, company) in [
        (DRIVER, UserRole::Driver, Some(COMPANY)),
        (DISPATCHER, UserRole::Dispatcher, Some(COMPANY)),
        (ADMIN, UserRole::Admin, None),
    ] {
        bench.event(&user(n, role, company)).expect("taken");
    }
    bench.event(&vendor()).expect("taken");
    for n in [DRIVER, VENDOR, DISPATCHER, ADMIN] {
        let body =
            json!({ "userId": id(n), "token": format!("device-{n}"), "platform": "android" });
        bench
            .command(&operator(), "notification.register_device", body)
            .expect("registered");
    }
    bench
}

pub(super) fn payment_approved() -> PaymentApproved {
    PaymentApproved {
        payment_id: id(20),
        incident_id: id(INCIDENT),
        vendor_id: id(VENDOR),
        amount_cents: Cents::new(20_000).expect("in range"),
        currency: Currency::default(),
        approved_by: Actor::Admin(id(ADMIN)),
        reviewed_by: None,
        approved_at: Ts::from_ms(1_768_471_200_000),
    }
}

pub(super) fn offer(bench: &Bench<NotificationsRole>) -> OfferCreated {
    OfferCreated {
        offer_id: id(30),
        incident_id: id(INCIDENT),
        vendor_id: id(VENDOR),
        company_id: None,
        incident_type: IncidentType::Tire,
        priority: Priority::Normal,
        match_score: Rate::new(0.9).expect("in range"),
        estimated_payout_cents: Cents::new(16_156).expect("in range"),
        distance_miles: Miles::new(3.302).expect("in range"),
        radius_miles: Miles::new(50.0).expect("in range"),
        attempt: count(1),
        cycle: count(1),
        round: count(1),
        expires_at: bench.now + Duration::from_secs(120),
    }
}

pub(super) fn erased(n: u8) -> UserDataDeleted {
    UserDataDeleted {
        user_id: id(n),
        reason: ErasureReason::Request,
        requested_by: operator(),
        deleted_at: Ts::from_ms(0),
    }
}

pub(super) fn sent() -> EffectOutcome {
    EffectOutcome::Done(json!({}))
}

/// Answers every call that stands, and those that follow, with success. Gives them in their order.
pub(super) fn all_sent(bench: &mut Bench<NotificationsRole>) -> Vec<EffectCall> {
    let mut done = Vec::new();
    while !bench.calls.is_empty() {
        for call in std::mem::take(&mut bench.calls) {
            bench.answer(&call, sent()).expect("taken");
            done.push(call);
        }
    }
    done
}

/// A person's log, newest first, as `(type, channel, status, reason)`.
pub(super) fn log(
    bench: &mut Bench<NotificationsRole>,
    n: u8,
) -> Vec<(String, String, String, String)> {
    let body = json!({ "userId": id(n), "limit": 100 });
    let (page, _) = bench
        .command(&operator(), "notification.history", body)
        .expect("listed");
    let text = |item: &Value, field: &str| item[field].as_str().unwrap_or_default().to_owned();
    let items = page["items"].as_array().expect("a list");
    items
        .iter()
        .map(|item| {
            (
                text(item, "type"),
                text(item, "channel"),
                text(item, "status"),
                text(item, "reason"),
            )
        })
        .collect()
}

/// The channels of calls, sorted.
pub(super) fn channels(calls: &[EffectCall]) -> Vec<&str> {
    let mut channels: Vec<&str> = calls.iter().map(|call| call.kind.as_str()).collect();
    channels.sort_unstable();
    channels
}

/// What a call says on a telephone.
pub(super) fn text(call: &EffectCall) -> String {
    call.request["message"]["text"]
        .as_str()
        .expect("a text")
        .to_owned()
}
