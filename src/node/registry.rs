//! The role registry: what runs under a role's name, made from the configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::Config;
use crate::event::IncidentType;
use crate::provider::Runner;
use crate::role::audit::AuditRole;
use crate::role::incident::{IncidentOptions, IncidentRole};
use crate::role::matching::MatchRole;
use crate::role::matching::settings::{
    BasePricing, Matching, Settings as MatchSettings, Tier, Tiers, Weights,
};
use crate::role::reporting::ReportingRole;
use crate::role::tracking::TrackingRole;
use crate::role::vendor::VendorRole;
use crate::role::{Role, RoleName};

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
        RoleName::Reporting => Some(Box::new(ReportingRole)),
        RoleName::Audit => Some(Box::new(AuditRole {
            keep: config.archive_max_age() + config.engine.offline_max.0,
        })),
        _ => None,
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
    let pricing = &config.pricing;
    MatchSettings {
        matching,
        tiers: Tiers {
            tiers: tiers.collect(),
        },
        pricing: BasePricing {
            base_price_cents: BTreeMap::from([
                (IncidentType::Tire, pricing.tire_cents),
                (IncidentType::Engine, pricing.engine_cents),
                (IncidentType::Tow, pricing.tow_cents),
            ]),
            per_mile_cents: pricing.per_mile_cents,
        },
    }
}

/// Who makes the calls that the roles ask for, as configured.
#[must_use]
pub fn runners(_config: &Config) -> Vec<Arc<dyn Runner>> {
    Vec::new()
}
