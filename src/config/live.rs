//! What a running process takes over on SIGHUP, and what it refuses by name (DESIGN 11).

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Config, as_dict, flatten, mask, secret, show};

/// Keys and sections that can change live; rules are judged one by one by `routing`.
const LIVE: &[&str] = &[
    "site.fleet",
    "hub.ca",
    "rules.file",
    "incident.",
    "matching.",
    "sla.",
    "pricing.",
    "auth.",
    "payments.reconcile",
    "payments.unknown_after",
    "payments.resubmit_after",
    "notifications.sms_per_hour",
    "notifications.retry_delay",
    "notifications.link_base",
    "log.level",
    "engine.retry_delay",
    "engine.not_yet_max",
];

/// What a reload comes to.
#[derive(Debug, Clone)]
pub struct Reload {
    /// The old configuration with everything that could be taken over.
    pub config: Config,
    /// Keys that were taken over.
    pub taken: Vec<String>,
    /// Keys that changed and need a restart.
    pub refused: Vec<String>,
}

/// A key in which two configurations differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// `section.key`.
    pub key: String,
    /// The old value, masked if it is a secret.
    pub from: String,
    /// The new one, likewise.
    pub to: String,
    /// Whether a running process takes it over; else it needs a restart.
    pub live: bool,
}

/// The differences for somebody to read. The version of the fleet's files is none: it follows from the others.
#[must_use]
pub fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let (was, is) = (shown(old), shown(new));
    let at = |values: &BTreeMap<String, String>, key: &str| values.get(key).cloned();
    differences(old, new)
        .into_iter()
        .filter(|key| key != "site.fleet")
        .map(|key| Change {
            from: at(&was, &key).unwrap_or_default(),
            to: at(&is, &key).unwrap_or_default(),
            live: is_live(old, new, &key),
            key,
        })
        .collect()
}

/// Every key with its value, secrets masked.
fn shown(config: &Config) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    flatten("", &as_dict(config), &mut |key, value| {
        let value = if secret(key) {
            mask(key, value)
        } else {
            show(value)
        };
        values.insert(key.to_owned(), value);
    });
    values
}

fn is_live(old: &Config, new: &Config, key: &str) -> bool {
    // A link that is in the clear does not become one in TLS, nor the other way.
    let turns = key == "hub.ca" && old.hub.ca.is_empty() != new.hub.ca.is_empty();
    !turns && LIVE.iter().any(|live| key.starts_with(live))
}

/// Sorts the differences between `old` and `new`.
#[must_use]
pub fn reload(old: &Config, new: &Config) -> Reload {
    let (taken, refused) = differences(old, new)
        .into_iter()
        .partition(|key| is_live(old, new, key));
    let mut config = old.clone();
    config.site.fleet.clone_from(&new.site.fleet);
    if is_live(old, new, "hub.ca") {
        config.hub.ca.clone_from(&new.hub.ca);
    }
    config.rules = new.rules.clone();
    config.incident = new.incident.clone();
    config.matching = new.matching.clone();
    config.sla = new.sla.clone();
    config.pricing = new.pricing.clone();
    config.auth = new.auth.clone();
    config
        .payments
        .reconcile
        .clone_from(&new.payments.reconcile);
    config.payments.unknown_after = new.payments.unknown_after;
    config.payments.resubmit_after = new.payments.resubmit_after;
    let (ours, theirs) = (&mut config.notifications, &new.notifications);
    ours.sms_per_hour = theirs.sms_per_hour;
    ours.retry_delay = theirs.retry_delay;
    ours.link_base.clone_from(&theirs.link_base);
    config.log = new.log.clone();
    config.engine.retry_delay = new.engine.retry_delay;
    config.engine.not_yet_max = new.engine.not_yet_max;
    Reload {
        config,
        taken,
        refused,
    }
}

/// The keys in which two configurations differ, in order.
#[must_use]
pub fn differences(old: &Config, new: &Config) -> Vec<String> {
    let values = |config: &Config| {
        let mut values = BTreeMap::new();
        flatten("", &as_dict(config), &mut |key, value| {
            values.insert(key.to_owned(), show(value));
        });
        values
    };
    let old = values(old);
    let differs = |(key, value): (String, String)| (old.get(&key) != Some(&value)).then_some(key);
    values(new).into_iter().filter_map(differs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::units::Span;

    #[test]
    fn differences_are_named_by_key() {
        let old = Config::default();
        let mut new = old.clone();
        new.log.level = "debug".to_owned();
        new.matching.weights.rating = 0.5;
        new.sla.tiers[0].multiplier = 2.0;
        assert_eq!(
            differences(&old, &new),
            ["log.level", "matching.weights.rating", "sla.tiers"]
        );
        assert!(differences(&old, &old).is_empty());
    }

    #[test]
    fn what_is_taken_over_is_in_force_and_what_is_refused_is_not() {
        let old = Config::default();
        let mut new = old.clone();
        new.engine.retry_delay = Span::secs(1);
        new.engine.max_deliver = 9;
        new.pricing.tow_cents = 1;
        new.bus.url = "nats://elsewhere:4222".to_owned();
        let reload = reload(&old, &new);
        assert_eq!(reload.taken, ["engine.retry_delay", "pricing.tow_cents"]);
        assert_eq!(reload.refused, ["bus.url", "engine.max_deliver"]);
        assert_eq!(differences(&old, &reload.config), reload.taken);
    }

    /// A key named live that [`reload`] forgets to copy would be told as taken and never be in force.
    #[test]
    fn every_live_section_is_copied() {
        let mut old = Config::default();
        old.hub.ca = "w".to_owned();
        let mut new = old.clone();
        new.site.fleet = "x".to_owned();
        new.hub.ca = "x".to_owned();
        new.rules.file = "x".to_owned();
        new.incident.arrival_min = Span::secs(1);
        new.matching.rounds = 9;
        new.sla.tiers.clear();
        new.pricing.tow_cents = 1;
        new.auth.key_life = Span::days(1);
        new.payments.reconcile.clear();
        new.payments.unknown_after = Span::secs(1);
        new.payments.resubmit_after = Span::secs(1);
        new.notifications.sms_per_hour = 1;
        new.notifications.retry_delay = Span::secs(1);
        new.notifications.link_base = "https://x.example".to_owned();
        new.log.level = "warn".to_owned();
        new.engine.retry_delay = Span::secs(1);
        new.engine.not_yet_max = Span::secs(1);
        let turned = reload(&Config::default(), &new);
        assert_eq!(turned.refused, ["hub.ca"]);
        assert_eq!(turned.config.hub.ca, "");
        let reload = reload(&old, &new);
        assert!(reload.refused.is_empty(), "{reload:?}");
        assert_eq!(reload.taken.len(), LIVE.len());
        assert_eq!(reload.config, new);
    }
}
