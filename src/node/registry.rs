//! The role registry: what runs under a role's name, made from the configuration.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use crate::config::Config;
use crate::event::IncidentType;
use crate::provider::Runner;
use crate::provider::summariser::Summariser;
use crate::role::audit::AuditRole;
use crate::role::incident::{IncidentOptions, IncidentRole};
use crate::role::kb::KbRole;
use crate::role::matching::MatchRole;
use crate::role::matching::settings::{
    BasePricing, Matching, Settings as MatchSettings, Tier, Tiers, Weights,
};
use crate::role::reporting::ReportingRole;
use crate::role::telephony::seal::{KEY_LEN, Sealer};
use crate::role::telephony::{SUMMARISE, TelephonyOptions, TelephonyRole};
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
        RoleName::Reporting => Some(Box::new(ReportingRole)),
        RoleName::Telephony => Some(Box::new(TelephonyRole::new(telephony_options(config)))),
        RoleName::Kb => Some(Box::new(KbRole)),
        RoleName::Audit => Some(Box::new(AuditRole)),
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

fn telephony_options(config: &Config) -> TelephonyOptions {
    let section = &config.telephony;
    let path = &section.webhook_secret_file;
    let secret = match std::fs::read_to_string(path) {
        _ if path.is_empty() => None,
        Ok(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        Err(error) => {
            tracing::error!(key = "telephony.webhook_secret_file", %error, "webhooks can't be checked");
            None
        }
    };
    let sealer = sealing_key(&config.site.state_dir).unwrap_or_else(|error| {
        tracing::error!(%error, "transcripts can't be sealed, so none is taken");
        None
    });
    TelephonyOptions {
        webhook_secret: secret.map(Secret::new),
        sealer: sealer.as_ref().and_then(Sealer::new),
        summariser: !section.summariser_url.is_empty(),
        intake_wait: section.intake_wait.0,
    }
}

/// The key that raw transcripts are sealed with: `telephony.key` in the state directory, made at the first start, readable by
/// its owner alone. Where there is no state directory nothing runs, and no key is made.
fn sealing_key(state_dir: &Path) -> std::io::Result<Option<[u8; KEY_LEN]>> {
    if !state_dir.is_dir() {
        return Ok(None);
    }
    let path = state_dir.join("telephony.key");
    if !path.exists() {
        let mut key = [0; KEY_LEN];
        getrandom::fill(&mut key).map_err(|error| std::io::Error::other(error.to_string()))?;
        // Written whole under another name first: half a key would refuse every transcript from then on.
        let mut file = tempfile::NamedTempFile::new_in(state_dir)?;
        file.write_all(&key)?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(&path) {
            Ok(_) => {}
            // Another process was quicker; its key is the key.
            Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.error),
        }
    }
    let bytes = std::fs::read(&path)?;
    let wrong = |_| std::io::Error::other(format!("{} is not 32 bytes", path.display()));
    bytes.try_into().map(Some).map_err(wrong)
}

/// Who makes the calls that the roles ask for, as configured.
#[must_use]
pub fn runners(config: &Config) -> Vec<Arc<dyn Runner>> {
    let mut runners: Vec<Arc<dyn Runner>> = Vec::new();
    let url = &config.telephony.summariser_url;
    if !url.is_empty() {
        runners.push(Arc::new(Summariser::new(SUMMARISE, url)));
    }
    runners
}
