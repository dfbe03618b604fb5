//! The role registry: what runs under a role's name, made from the configuration.

mod calls;
mod messages;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::clock::Clock;
use super::keys;
use super::otp::OtpRunner;
use super::vault::destroy::DestroyRunner;
use crate::bus::jetstream::JetStream;
use crate::config::{Config, ProcessorName};
use crate::event::{Currency, IncidentType};
use crate::provider::alarm::AlarmWebhook;
use crate::provider::{Believed, Runner, stripe};
use crate::role::audit::AuditRole;
use crate::role::audit::webhook::ALARM;
use crate::role::auth::{AuthOptions, AuthRole};
use crate::role::incident::{IncidentOptions, IncidentRole};
use crate::role::kb::KbRole;
use crate::role::matching::MatchRole;
use crate::role::matching::settings::{
    BasePricing, Matching, Settings as MatchSettings, Tier, Tiers, Weights,
};
use crate::role::notifications::NotificationsRole;
use crate::role::payments::settings::Pricing as PaymentPricing;
use crate::role::payments::{PaymentOptions, PaymentRole, Processor};
use crate::role::reporting::ReportingRole;
use crate::role::setting::ConfigRole;
use crate::role::setting::values::Defaults;
use crate::role::telephony::TelephonyRole;
use crate::role::tracking::TrackingRole;
use crate::role::vendor::VendorRole;
use crate::role::{Role, RoleName};
use crate::store::Secret;

/// Makes a role from the configuration.
pub type Build<'b> = &'b (dyn Fn(&Config, RoleName) -> Option<Box<dyn Role>> + Sync);

/// Makes a role; `None` for one that is not part of this build.
#[must_use]
pub fn build(config: &Config, role: RoleName) -> Option<Box<dyn Role>> {
    let incident = &config.incident;
    match role {
        RoleName::Incident => Some(Box::new(IncidentRole::new(IncidentOptions {
            arrival_min: incident.arrival_min.0,
            arrival_factor: incident.arrival_factor,
            work_overdue: incident.work_overdue.0,
            payment_overdue: incident.payment_overdue.0,
        }))),
        RoleName::Vendor => Some(Box::new(VendorRole)),
        RoleName::Match => Some(Box::new(MatchRole::new(match_settings(config)))),
        RoleName::Tracking => Some(Box::new(TrackingRole)),
        RoleName::Payments => Some(Box::new(PaymentRole::new(payment_options(config)))),
        RoleName::Telephony => Some(Box::new(TelephonyRole::new(calls::options(config)))),
        RoleName::Kb => Some(Box::new(KbRole)),
        RoleName::Reporting => Some(Box::new(ReportingRole)),
        RoleName::Auth => Some(Box::new(AuthRole::new(auth_options(config)))),
        RoleName::Config => Some(Box::new(ConfigRole::new(Defaults::new(&match_settings(
            config,
        ))))),
        RoleName::Notifications => {
            let options = messages::options(&config.notifications);
            Some(Box::new(NotificationsRole::new(options)))
        }
        RoleName::Audit => Some(Box::new(AuditRole {
            keep: config.archive_max_age() + config.engine.offline_max.0,
            webhook: !config.audit.alarm_webhook_url.is_empty(),
        })),
    }
}

fn match_settings(config: &Config) -> MatchSettings {
    let (section, weights) = (&config.matching, &config.matching.weights);
    let matching = Matching {
        weights: Weights {
            distance: weights.distance,
            capability: weights.capability,
            availability: weights.availability,
            acceptance_rate: weights.acceptance_rate,
            rating: weights.rating,
        },
        distance_scale_miles: section.distance_scale_miles,
        default_radius_miles: section.default_radius_miles,
        max_radius_miles: section.max_radius_miles,
        expansion_factor: section.expansion_factor,
        rounds: section.rounds,
        max_cycles: section.max_cycles,
        offer_timeout_seconds: section.offer_timeout.0.as_secs_f64(),
        offers_per_round: section.offers_per_round,
    };
    let tiers = config.sla.tiers.iter().map(|tier| Tier {
        name: tier.name.clone(),
        response_minutes: tier.response.0.as_secs() / 60,
        arrival_minutes: tier.arrival.0.as_secs() / 60,
        multiplier: tier.multiplier,
        rank: tier.rank,
        priorities: tier.priorities.clone(),
    });
    MatchSettings {
        matching,
        tiers: Tiers {
            tiers: tiers.collect(),
        },
        pricing: base_pricing(config),
    }
}

fn auth_options(config: &Config) -> AuthOptions {
    AuthOptions {
        keys: keys::load(config),
        access_token: config.auth.access_token.0,
        refresh_token: config.auth.refresh_token.0,
    }
}

fn base_pricing(config: &Config) -> BasePricing {
    let pricing = &config.pricing;
    BasePricing {
        base_price_cents: BTreeMap::from([
            (IncidentType::Tire, pricing.tire_cents),
            (IncidentType::Engine, pricing.engine_cents),
            (IncidentType::Tow, pricing.tow_cents),
        ]),
        per_mile_cents: pricing.per_mile_cents,
    }
}

fn payment_options(config: &Config) -> PaymentOptions {
    let section = &config.payments;
    let secret = section.stripe.webhook_secret().unwrap_or_else(|error| {
        // A start refuses this; at a reload the rest of the role goes on, and webhooks are refused in words.
        tracing::error!(key = "payments.stripe.webhook_secret_file", %error, "webhooks can't be checked");
        String::new()
    });
    PaymentOptions {
        processor: match section.processor {
            ProcessorName::Manual => Processor::Manual,
            ProcessorName::Stripe => Processor::Stripe,
        },
        webhook_secret: (!secret.is_empty()).then(|| Secret::new(secret)),
        reconcile: section.reconcile.iter().map(|span| span.0).collect(),
        unknown_after: section.unknown_after.0,
        resubmit_after: section.resubmit_after.0,
        pricing: PaymentPricing {
            prices: base_pricing(config),
            currency: Currency::default(),
        },
        ..PaymentOptions::default()
    }
}

/// What a role can't start without beside the broker and its database: files with secrets.
///
/// # Errors
/// The key, and a sentence about it.
pub fn check_secrets(config: &Config, role: RoleName) -> Result<(), (&'static str, String)> {
    let stripe = &config.payments.stripe;
    if role != RoleName::Payments || config.payments.processor != ProcessorName::Stripe {
        return Ok(());
    }
    stripe
        .check_secret_key()
        .map_err(|error| ("payments.stripe.secret_key_file", error))?;
    stripe
        .webhook_secret()
        .map(|_| ())
        .map_err(|error| ("payments.stripe.webhook_secret_file", error))
}

/// Who makes the calls that the roles ask for, as configured.
#[must_use]
pub fn runners(config: &Config, bus: &JetStream, role: RoleName) -> Vec<Arc<dyn Runner>> {
    let timeout = config.engine.command_timeout.0;
    let otp = OtpRunner::new(bus.clone(), &config.site.id, timeout);
    let destroy = DestroyRunner::new(bus.clone(), &config.site.id, role.as_str());
    let mut runners: Vec<Arc<dyn Runner>> = vec![Arc::new(otp), Arc::new(destroy)];
    runners.extend(messages::runners(config));
    runners.extend(calls::runners(config));
    let audit = &config.audit;
    if !audit.alarm_webhook_url.is_empty() {
        let (url, secret) = (
            audit.alarm_webhook_url.clone(),
            &audit.alarm_webhook_secret_file,
        );
        let believed = Believed::of(&config.tls.ca_file);
        let webhook = AlarmWebhook::new(ALARM, url, secret.into(), || Clock.now(), believed);
        runners.push(Arc::new(webhook));
    }
    if config.payments.processor == ProcessorName::Stripe {
        let section = &config.payments.stripe;
        let key = if section.secret_key_file.is_empty() {
            stripe::Key::Plain(Secret::new(section.secret_key.clone()))
        } else {
            stripe::Key::File(section.secret_key_file.clone().into())
        };
        runners.extend(stripe::runners(stripe::Settings {
            base_url: section.base_url.clone(),
            api_version: section.api_version.clone(),
            key,
            timeout: section.call_timeout.0,
            retry_base: section.retry_base.0,
            retry_cap: section.retry_cap.0,
        }));
    }
    runners
}
