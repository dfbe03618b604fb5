//! What types alone can't say of a configuration; the ranges of matching, sla and pricing are DOMAIN 5.11's.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use figment::value::{Dict, Value};

use super::depots::{AUDIT, lists};
use super::units::Span;
use super::{Audit, BrokerMode, Config, Payments, Problem, ProcessorName, Telephony};
use crate::event::{Priority, Site};
use crate::routing::parse_duration;

/// Collects problems.
pub(super) struct Check<'a> {
    /// Tells where a key's value came from.
    pub origin: &'a dyn Fn(&str) -> String,
    /// Whether files that a value names are another machine's.
    pub elsewhere: bool,
    /// What was found.
    pub problems: Vec<Problem>,
}

impl Check<'_> {
    pub(super) fn refuse(&mut self, key: &str, message: impl Into<String>, help: &str) {
        self.problems.push(Problem {
            key: key.to_owned(),
            origin: (self.origin)(key),
            message: message.into(),
            help: (!help.is_empty()).then(|| help.to_owned()),
        });
    }

    pub(super) fn within<T: PartialOrd + std::fmt::Display>(
        &mut self,
        key: &str,
        value: &T,
        range: &RangeInclusive<T>,
    ) {
        if !range.contains(value) {
            let (from, to) = (range.start(), range.end());
            self.refuse(key, format!("{value} is not from {from} to {to}"), "");
        }
    }

    fn above_zero(&mut self, key: &str, value: f64) {
        if !(value.is_finite() && value > 0.0) {
            self.refuse(key, format!("{value} is not above 0"), "");
        }
    }

    /// Everything.
    pub(super) fn all(&mut self, config: &Config) {
        self.site_and_broker(config);
        self.links(config);
        self.audit_of_its_own(config);
        self.engine(config);
        self.matching(config);
        self.sla(config);
        self.pricing(config);
        self.gateway(config);
        self.auth(config);
        self.payments(&config.payments);
        self.notifications(&config.notifications);
        self.audit(config);
        self.snapshot(config);
        self.metrics(config);
        self.telephony(&config.telephony);
        self.trace(&config.trace);
        self.log(&config.log.level);
    }

    fn gateway(&mut self, config: &Config) {
        let gateway = &config.gateway;
        if gateway.listen.parse::<std::net::SocketAddr>().is_err() {
            self.refuse(
                "gateway.listen",
                format!("'{}' is no address and port", gateway.listen),
                "write it like 127.0.0.1:8480 or [::1]:8480",
            );
        }
        let body_max = gateway.body_max.0;
        if !(1024..=16 << 20).contains(&body_max) {
            self.refuse(
                "gateway.body_max",
                format!("{body_max} bytes are not from 1KiB to 16MiB"),
                "",
            );
        }
        for (key, value) in [
            (
                "gateway.subscriptions_per_user",
                gateway.subscriptions_per_user,
            ),
            ("gateway.connections_max", gateway.connections_max),
        ] {
            self.within(key, &value, &(1..=65_536));
        }
    }

    fn site_and_broker(&mut self, config: &Config) {
        let id = &config.site.id;
        if let Err(error) = Site::new(id.clone()) {
            self.refuse(
                "site.id",
                format!("'{id}' is {error}"),
                "choose a name like depot-a",
            );
        }
        if config.site.roles.is_empty() {
            self.refuse(
                "site.roles",
                "a site has at least one role",
                "write [\"all\"] for every role",
            );
        }
        let sync = &config.broker.sync_interval;
        if sync != "always" && parse_duration(sync).is_none_or(|span| span.is_zero()) {
            self.refuse(
                "broker.sync_interval",
                format!("'{sync}' is neither always nor a duration"),
                "write always, or like 10s",
            );
        }
        let listen = &config.broker.listen;
        let port = listen.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(_))) {
            self.refuse(
                "broker.listen",
                format!("'{listen}' is not host:port"),
                "write it like 127.0.0.1:4222",
            );
        }
        if !matches!(config.archive.replicas, 1 | 3 | 5) {
            self.refuse(
                "archive.replicas",
                format!("{} is not 1, 3 or 5", config.archive.replicas),
                "1 except on a clustered hub",
            );
        }
    }

    /// A depot's way to the hub, and the hub's doors.
    fn links(&mut self, config: &Config) {
        let (hub, broker) = (&config.hub, &config.broker);
        let is_hub = config.site.id == "hub";
        let ours = hub.url.iter().map(|url| ("hub.url", url));
        let depots = broker.leaf_url.iter().map(|url| ("broker.leaf_url", url));
        for (key, url) in ours.chain(depots) {
            let address = url
                .strip_prefix("nats-leaf://")
                .and_then(|rest| rest.rsplit_once(':'));
            if !address.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
            {
                self.refuse(
                    key,
                    format!("'{url}' is not nats-leaf://host:port"),
                    "write it like nats-leaf://hub.example:7422",
                );
            }
        }
        if is_hub && !hub.url.is_empty() {
            self.refuse(
                "hub.url",
                "the hub has no hub above it",
                "give site.id this depot's name",
            );
        }
        if !hub.url.is_empty() && hub.password.is_empty() && hub.seed.is_empty() {
            self.refuse(
                "hub.seed",
                "a depot that has a hub.url needs it",
                "roadcall site add makes it",
            );
        }
        // The depot's server would not start with another text, in words of its own.
        let is_seed = hub.seed.starts_with("SU") && hub.seed.len() == 58;
        if !hub.seed.is_empty() && !is_seed {
            self.refuse(
                "hub.seed",
                "it is no seed (SU and 56 letters and digits more)",
                "roadcall site add writes it into the site file",
            );
        }
        let words = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        for (key, text) in [
            ("hub.user", &hub.user),
            ("hub.password", &hub.password),
            ("hub.seed", &hub.seed),
            ("broker.server_name", &broker.server_name),
        ] {
            if !words(text) {
                self.refuse(key, "it is not of letters, digits and - alone", "");
            }
        }
        for (key, listen) in [
            ("broker.leaf_listen", &broker.leaf_listen),
            ("broker.cluster_listen", &broker.cluster_listen),
        ] {
            let port = listen.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
            if !listen.is_empty() && !matches!(port, Some(Ok(1..))) {
                self.refuse(
                    key,
                    format!("'{listen}' is not host:port"),
                    "write it like 0.0.0.0:7422",
                );
            }
        }
        let single = broker.cluster_listen.is_empty();
        if single != broker.cluster_routes.is_empty() || (!single && broker.server_name.is_empty())
        {
            self.refuse(
                "broker.cluster_listen",
                "a server of a cluster has broker.cluster_listen, broker.cluster_routes and broker.server_name",
                "set all three, or none",
            );
        }
        if single && config.archive.replicas > 1 && config.broker.mode == BrokerMode::Embedded {
            self.refuse(
                "archive.replicas",
                format!("{} copies need a cluster", config.archive.replicas),
                "set broker.cluster_listen, or 1",
            );
        }
    }

    /// Each depot says itself what it has, and what became of it.
    fn audit_of_its_own(&mut self, config: &Config) {
        if !config.hub.url.is_empty() && !lists(&config.site.roles, AUDIT) {
            self.refuse(
                "site.roles",
                "they lack audit: each depot has one of its own",
                "roadcall site add on the hub makes a site file with it",
            );
        }
    }

    /// A depot runs no role that its site file leaves to the hub: both would make what one of them is to make.
    pub(super) fn only_its_roles(&mut self, config: &Config, site_file: &Dict) {
        let Some(Value::Array(_, listed)) = site_file
            .get("site")
            .and_then(Value::as_dict)
            .and_then(|site| site.get("roles"))
        else {
            return;
        };
        let listed: Vec<String> = listed
            .iter()
            .filter_map(|role| role.as_str().map(str::to_owned))
            .collect();
        let depot = &config.site.id;
        for role in &config.site.roles {
            if !config.hub.url.is_empty() && !lists(&listed, role) {
                self.refuse(
                    "site.roles",
                    format!("site.toml lacks {role}: the hub does it for {depot}"),
                    &format!(
                        "leave it out, or list it in roadcall site add {depot} --roles … on the hub"
                    ),
                );
            }
        }
    }

    fn engine(&mut self, config: &Config) {
        self.within("engine.batch_max", &config.engine.batch_max, &(1..=4096));
        if config.engine.max_deliver == 0 {
            self.refuse("engine.max_deliver", "0 is below 1", "3 is the default");
        }
        self.above_zero("incident.arrival_factor", config.incident.arrival_factor);
    }

    fn audit(&mut self, config: &Config) {
        let audit = &config.audit;
        let secs = audit.alarm_period.0.as_secs();
        self.within("audit.alarm_period", &secs, &(1..=3600));
        let size = audit.log_file_max.0;
        self.within("audit.log_file_max", &size, &(64 << 10..=4 << 30));
        if audit.log_max_age.0 < Span::days(1).0 {
            self.refuse(
                "audit.log_max_age",
                "is below one day",
                "30d is the default",
            );
        }
        self.alarm_webhook(audit);
    }

    /// An address and a secret, or neither.
    fn alarm_webhook(&mut self, audit: &Audit) {
        let (url, file) = (&audit.alarm_webhook_url, &audit.alarm_webhook_secret_file);
        let key = "audit.alarm_webhook_secret_file";
        if url.is_empty() {
            return;
        }
        if !sound_address(url) {
            // The address may have a secret in it.
            let help = "leave it empty where nobody is to be called";
            self.refuse("audit.alarm_webhook_url", "is no https:// address", help);
        }
        if file.is_empty() {
            let message = "it is not set, and audit.alarm_webhook_url needs it";
            self.refuse(key, message, "name a file with whsec_ and base64 in it");
            return;
        }
        if self.elsewhere {
            return;
        }
        match std::fs::read_to_string(file) {
            Ok(text) if !text.trim().starts_with("whsec_") => {
                let message = format!("what is in {file} does not begin with whsec_");
                self.refuse(key, message, "the service's page shows its secret");
            }
            // Who only asks something at the command line need not be allowed to read it.
            Err(error) if error.kind() != std::io::ErrorKind::PermissionDenied => self.refuse(
                key,
                format!("{file} can't be read: {error}"),
                "it must be a file that Roadcall's user may read",
            ),
            Ok(_) | Err(_) => {}
        }
    }

    fn metrics(&mut self, config: &Config) {
        let secs = config.metrics.textfile_every.0.as_secs();
        self.within("metrics.textfile_every", &secs, &(1..=3600));
    }

    fn snapshot(&mut self, config: &Config) {
        let snapshot = &config.snapshot;
        self.within("snapshot.keep", &snapshot.keep, &(1..=100));
        let secs = snapshot.every.0.as_secs();
        self.within("snapshot.every", &secs, &(60..=30 * 86_400));
    }

    fn matching(&mut self, config: &Config) {
        let matching = &config.matching;
        let weights = matching.weights.all();
        for (name, weight) in weights {
            self.within(&format!("matching.weights.{name}"), &weight, &(0.0..=1.0));
        }
        let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
        if (sum - 1.0).abs() > 0.001 {
            self.refuse(
                "matching.weights",
                format!("the weights sum to {sum:.3}, not to 1"),
                "",
            );
        }
        self.above_zero(
            "matching.distance_scale_miles",
            matching.distance_scale_miles,
        );
        self.above_zero(
            "matching.default_radius_miles",
            matching.default_radius_miles,
        );
        if matching
            .max_radius_miles
            .partial_cmp(&matching.default_radius_miles)
            != Some(std::cmp::Ordering::Greater)
        {
            self.refuse(
                "matching.max_radius_miles",
                format!(
                    "{} is not above matching.default_radius_miles",
                    matching.max_radius_miles
                ),
                "",
            );
        }
        let factor = matching.expansion_factor;
        if !(factor > 1.0 && factor <= 2.0) {
            self.refuse(
                "matching.expansion_factor",
                format!("{factor} is not above 1 and at most 2"),
                "",
            );
        }
        self.within("matching.rounds", &matching.rounds, &(1..=10));
        self.within("matching.max_cycles", &matching.max_cycles, &(1..=10));
        self.within(
            "matching.offers_per_round",
            &matching.offers_per_round,
            &(1..=10),
        );
        // DOMAIN 5.11 says 30 to 600 s of what a person sets in the platform; shorter is for demonstrations.
        let timeout = matching.offer_timeout;
        self.within(
            "matching.offer_timeout",
            &timeout,
            &(Span::secs(1)..=Span::secs(600)),
        );
    }

    fn sla(&mut self, config: &Config) {
        let tiers = &config.sla.tiers;
        let names: BTreeSet<&str> = tiers.iter().map(|tier| tier.name.as_str()).collect();
        let ranks: BTreeSet<u64> = tiers.iter().map(|tier| tier.rank).collect();
        if names.len() < tiers.len() || ranks.len() < tiers.len() {
            self.refuse("sla.tiers", "two tiers have one name or one rank", "");
        }
        for tier in tiers {
            let name = &tier.name;
            let mut wrong =
                |what: &str| self.refuse("sla.tiers", format!("tier {name}: {what}"), "");
            let minutes = |span: Span| span.0.as_secs() / 60;
            let whole = |span: Span| span.0.as_millis().is_multiple_of(60_000);
            if !(whole(tier.response) && (1..=120).contains(&minutes(tier.response))) {
                wrong("response is not from 1m to 120m in whole minutes");
            }
            if !(whole(tier.arrival) && (1..=240).contains(&minutes(tier.arrival))) {
                wrong("arrival is not from 1m to 240m in whole minutes");
            }
            if tier.arrival <= tier.response {
                wrong("arrival is not later than response");
            }
            if !(tier.multiplier > 0.0 && tier.multiplier <= 5.0) {
                wrong("multiplier is not above 0 and at most 5");
            }
            if !(1..=10).contains(&tier.rank) {
                wrong("rank is not from 1 to 10");
            }
        }
        for priority in Priority::ALL {
            let holders = tiers
                .iter()
                .flat_map(|tier| &tier.priorities)
                .filter(|held| *held == priority)
                .count();
            if holders != 1 {
                self.refuse(
                    "sla.tiers",
                    format!("priority {priority} is in {holders} tiers, it belongs to exactly one"),
                    "",
                );
            }
        }
    }

    fn pricing(&mut self, config: &Config) {
        let pricing = &config.pricing;
        for (name, cents) in [
            ("tire_cents", pricing.tire_cents),
            ("engine_cents", pricing.engine_cents),
            ("tow_cents", pricing.tow_cents),
            ("per_mile_cents", pricing.per_mile_cents),
        ] {
            if cents == 0 {
                self.refuse(&format!("pricing.{name}"), "0 is not above 0", "");
            }
        }
    }

    fn auth(&mut self, config: &Config) {
        let auth = &config.auth;
        let (minute, hour) = (Span::secs(60), Span::secs(3600));
        self.within("auth.access_token", &auth.access_token, &(minute..=hour));
        self.within(
            "auth.refresh_token",
            &auth.refresh_token,
            &(hour..=Span::days(90)),
        );
        self.within(
            "auth.key_life",
            &auth.key_life,
            &(Span::days(1)..=Span::days(365)),
        );
    }

    fn payments(&mut self, payments: &Payments) {
        let stripe = &payments.stripe;
        for (name, given, file) in [
            ("secret_key", &stripe.secret_key, &stripe.secret_key_file),
            (
                "webhook_secret",
                &stripe.webhook_secret,
                &stripe.webhook_secret_file,
            ),
        ] {
            let key = format!("payments.stripe.{name}");
            if !given.is_empty() && !file.is_empty() {
                let help = "leave one of the two out";
                self.refuse(&key, format!("{name}_file is given as well"), help);
            }
            let needed = payments.processor == ProcessorName::Stripe;
            if needed && given.is_empty() && file.is_empty() {
                let message = "is needed with payments.processor = \"stripe\"";
                let help = format!("name a file in payments.stripe.{name}_file");
                self.refuse(&key, message, &help);
            }
        }
        let url = &stripe.base_url;
        if !sound_address(url) || url.ends_with('/') {
            self.refuse(
                "payments.stripe.base_url",
                format!("'{url}' is no https:// address without a slash at its end"),
                "",
            );
        }
        let hour = Span::secs(3600);
        for (key, span) in [
            ("payments.stripe.call_timeout", stripe.call_timeout),
            ("payments.stripe.retry_base", stripe.retry_base),
            ("payments.stripe.retry_cap", stripe.retry_cap),
            ("payments.resubmit_after", payments.resubmit_after),
        ] {
            self.within(key, &span, &(Span(Duration::from_millis(1))..=hour));
        }
        let waits = &payments.reconcile;
        if waits.is_empty() || waits.iter().any(|wait| wait.0.is_zero()) {
            let help = "write at least one duration above 0";
            self.refuse("payments.reconcile", "is no list of waits", help);
        }
    }

    fn telephony(&mut self, telephony: &Telephony) {
        let url = &telephony.summariser_url;
        if !url.is_empty() && !sound_address(url) {
            // The address may have a password in it.
            let help = "leave it empty for summaries by rules";
            self.refuse("telephony.summariser_url", "is no https:// address", help);
        }
        let wait = telephony.intake_wait;
        let range = Span(std::time::Duration::from_millis(1))..=Span::secs(3600);
        self.within("telephony.intake_wait", &wait, &range);
    }

    /// The filter's own reader takes any word for a target's name, so that `inof` would silence everything.
    fn log(&mut self, level: &str) {
        let is_level = |text: &str| {
            ["off", "error", "warn", "info", "debug", "trace"]
                .iter()
                .any(|level| text.eq_ignore_ascii_case(level))
        };
        let sound = |part: &str| match part.rsplit_once('=') {
            Some((target, level)) => !target.is_empty() && is_level(level),
            None => is_level(part),
        };
        if !level.split(',').all(|part| sound(part.trim())) {
            self.refuse(
                "log.level",
                format!("'{level}' is no level"),
                "write error, warn, info or debug, or a filter like info,roadcall::node=debug",
            );
        }
    }
}

/// Whether requests to this address are encrypted, or do not leave the machine.
fn sound_address(url: &str) -> bool {
    let local = ["http://127.0.0.1", "http://localhost", "http://[::1]"];
    url.starts_with("https://") || local.iter().any(|at| url.starts_with(at))
}
