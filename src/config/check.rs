//! What types alone can't say of a configuration. Sections with a file of their own are checked there.

use std::ops::RangeInclusive;

use figment::value::{Dict, Value};

use super::depots::{AUDIT, lists};
use super::units::Span;
use super::{Audit, BrokerMode, Config, Problem};
use crate::event::Site;
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

    pub(super) fn above_zero(&mut self, key: &str, value: f64) {
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
pub(super) fn sound_address(url: &str) -> bool {
    let (encrypted, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return false,
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() || url.contains(char::is_whitespace) {
        return false;
    }
    // What stands before an @ is a user, not the host: http://localhost:x@elsewhere.example goes elsewhere.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, ""),
    };
    let here = ["127.0.0.1", "localhost", "[::1]"].contains(&host);
    encrypted || (here && port.bytes().all(|byte| byte.is_ascii_digit()))
}
