//! The sections of the configuration and their defaults. An empty text means "not set".

use std::path::PathBuf;

use figment::value::{Dict, Value};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::depots::Depot;
use super::gateway::Gateway;
use super::matching::{MatchingSection, Pricing, Sla};
use super::notifications::Notifications;
use super::payments::Payments;
use super::privacy::Privacy;
use super::snapshot::Snapshot;
use super::telephony::Telephony;
use super::trace::Trace;
use super::units::{Size, Span};
use crate::event::Codec;

/// Everything that can be configured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[allow(missing_docs)] // see the sections
pub struct Config {
    pub site: Site,
    pub bus: Bus,
    pub broker: Broker,
    pub hub: Hub,
    pub tls: Tls,
    pub engine: Engine,
    pub archive: Archive,
    pub dlq: Dlq,
    pub rules: Rules,
    pub incident: Incident,
    pub matching: MatchingSection,
    pub sla: Sla,
    pub pricing: Pricing,
    pub gateway: Gateway,
    pub auth: Auth,
    pub payments: Payments,
    pub notifications: Notifications,
    pub audit: Audit,
    pub snapshot: Snapshot,
    pub telephony: Telephony,
    pub privacy: Privacy,
    pub metrics: Metrics,
    pub trace: Trace,
    pub log: Log,
    /// The depots of a hub, from their own files.
    #[serde(skip)]
    pub depots: Vec<Depot>,
    /// See [`Config::pin_digest`].
    #[serde(skip)]
    pub(super) pinned: Option<String>,
}

/// Which site this is and what it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Site {
    /// Name of the site, `[a-z0-9-]{1,32}`; `hub` is the centre.
    pub id: String,
    /// `dev`, `staging` or `prod`; prod keeps the archive for 90d where no file says otherwise.
    pub profile: Profile,
    /// Where databases and the embedded broker live.
    pub state_dir: PathBuf,
    /// The roles of the site, which `--role all` runs; topology holds their queues. `all` is every role that is built.
    pub roles: Vec<String>,
    /// The version of the fleet's files that is in force here; `roadcall config apply` writes it, nobody else.
    pub fleet: String,
}

/// See [`Site::profile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names say it
pub enum Profile {
    Dev,
    Staging,
    Prod,
}

impl Profile {
    /// The name as it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Staging => "staging",
            Self::Prod => "prod",
        }
    }

    /// What the profile sets over the built-in defaults. Only what the design gives to a profile (DESIGN 6): a value
    /// that changes behind a word is a surprise otherwise.
    #[must_use]
    pub fn values(self) -> Dict {
        match self {
            Self::Dev | Self::Staging => Dict::new(),
            Self::Prod => {
                let archive = Dict::from([("max_age".to_owned(), Value::from("90d"))]);
                let audit = Dict::from([("log_max_age".to_owned(), Value::from("365d"))]);
                let privacy = Dict::from([("seal".to_owned(), Value::from(true))]);
                Dict::from([
                    ("archive".to_owned(), Value::from(archive)),
                    ("audit".to_owned(), Value::from(audit)),
                    ("privacy".to_owned(), Value::from(privacy)),
                ])
            }
        }
    }
}

impl Default for Site {
    fn default() -> Self {
        Self {
            id: "hub".to_owned(),
            profile: Profile::Dev,
            state_dir: PathBuf::from("/var/lib/roadcall"),
            roles: vec!["all".to_owned()],
            fleet: String::new(),
        }
    }
}

/// How to reach the broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Bus {
    /// `nats://host:port`; several servers of one cluster with commas between.
    pub url: String,
    /// Credentials file.
    pub creds: String,
    /// The directory with the identities that `roadcall auth init --identities` made: a broker of ours lets in nobody else then,
    /// and each role connects as itself. Empty: whoever reaches the broker may do everything.
    pub identities_dir: String,
    /// As whom commands connect: `operator`, or `reader`, who changes nothing.
    pub identity: String,
    /// How events are written: `json` or `cbor`.
    pub codec: Codec,
    /// For the first connection.
    pub connect_timeout: Span,
    /// For each request.
    pub request_timeout: Span,
}

impl Default for Bus {
    fn default() -> Self {
        Self {
            url: "nats://127.0.0.1:4222".to_owned(),
            creds: String::new(),
            identities_dir: String::new(),
            identity: "operator".to_owned(),
            codec: Codec::Json,
            connect_timeout: Span::secs(5),
            request_timeout: Span::secs(5),
        }
    }
}

/// The broker that this process may run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Broker {
    /// `embedded`, `external`, or `auto`: embedded for `--role all`, else external.
    pub mode: BrokerMode,
    /// The nats-server to run; else the bundled one, else the one on PATH.
    pub binary: String,
    /// Where it listens; port 0 picks a free one.
    pub listen: String,
    /// Its store; else `nats` in the state directory.
    pub store_dir: String,
    /// `always`, or how long the server that we run may leave what it took unsynced.
    pub sync_interval: String,
    /// Monitoring, `http://host:port`: a broker of our own listens there (empty: on a free port), of an external one the
    /// sync interval is read there (empty: 2m is assumed).
    pub monitor_url: String,
    /// How much disk its streams may use.
    pub max_file_store: Size,
    /// A file with the key that its store is encrypted with; else `store.key` in the state directory, where that is there.
    /// Profile prod makes one for a store that is empty.
    pub store_key_file: String,
    /// What a new store is encrypted with.
    pub store_cipher: StoreCipher,
    /// At the hub: where the brokers of depots connect, `host:port`; empty for no depots.
    pub leaf_listen: String,
    /// At the hub: how depots reach it, `nats-leaf://host:port`; what `roadcall site add` tells them.
    pub leaf_url: Vec<String>,
    /// Its name among the servers of a hub that is a cluster; else the site's.
    pub server_name: String,
    /// Where the other servers of the cluster connect, `host:port`; empty for a single server.
    pub cluster_listen: String,
    /// All servers of the cluster, `nats://host:port`.
    pub cluster_routes: Vec<String>,
}

/// The hub, as a depot sees it. A site without `hub.url` stands alone, or is the hub.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Hub {
    /// `nats-leaf://host:port`, one for each server of the hub.
    pub url: Vec<String>,
    /// This depot's user there; else the site's name.
    pub user: String,
    /// The seed of its identity there (SU…).
    pub seed: String,
    /// Its password, of a site file from before there were seeds.
    pub password: String,
    /// The certificates that the hub's is to be signed by, as PEM text; with them the link is TLS 1.3 and nothing else.
    pub ca: String,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("url", &self.url)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// What this box proves itself with to others, and whom it believes (RFC 8446). Empty: no TLS.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Tls {
    /// Its certificate, and those between it and the authority's, a PEM file.
    pub cert_file: String,
    /// The certificate's key, a PEM file that only its owner reads.
    pub key_file: String,
    /// The authorities whose certificates are believed, a PEM file.
    pub ca_file: String,
}

impl Tls {
    /// Whether this box can prove itself.
    #[must_use]
    pub fn has_cert(&self) -> bool {
        !self.cert_file.is_empty() && !self.key_file.is_empty()
    }
}

/// See [`Broker::mode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names say it
pub enum BrokerMode {
    Auto,
    Embedded,
    External,
}

/// See [`Broker::store_cipher`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names say it
pub enum StoreCipher {
    ChaChaPoly,
    Aes,
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            mode: BrokerMode::Auto,
            binary: String::new(),
            listen: "127.0.0.1:4222".to_owned(),
            store_dir: String::new(),
            sync_interval: "always".to_owned(),
            monitor_url: String::new(),
            max_file_store: Size(10 << 30),
            store_key_file: String::new(),
            store_cipher: StoreCipher::ChaChaPoly,
            leaf_listen: String::new(),
            leaf_url: Vec::new(),
            server_name: String::new(),
            cluster_listen: String::new(),
            cluster_routes: Vec::new(),
        }
    }
}

/// The engine's numbers (DESIGN 4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Engine {
    /// Inputs in one commit at the most.
    pub batch_max: usize,
    /// Tries before a letter.
    pub max_deliver: u32,
    /// From one try to the next.
    pub retry_delay: Span,
    /// How long a missing predecessor is waited for.
    pub not_yet_max: Span,
    /// When the server gives a delivery to somebody else.
    pub ack_wait: Span,
    /// How long outcomes are kept beyond the archive.
    pub offline_max: Span,
    /// How long a stop may take.
    pub shutdown_grace: Span,
    /// How long a command waits for its reply.
    pub command_timeout: Span,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            batch_max: 256,
            max_deliver: 3,
            retry_delay: Span::secs(300),
            not_yet_max: Span::secs(3600),
            ack_wait: Span::secs(300),
            offline_max: Span::days(7),
            shutdown_grace: Span::secs(30),
            command_timeout: Span::secs(5),
        }
    }
}

/// The archive stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Archive {
    /// How long events are kept.
    pub max_age: Span,
    /// How large it may grow; a full archive is an error that outboxes wait out.
    pub max_bytes: Size,
    /// Copies: 1, or 3 on a clustered hub.
    pub replicas: u32,
}

impl Default for Archive {
    fn default() -> Self {
        Self {
            max_age: Span::days(30),
            max_bytes: Size(8 << 30),
            replicas: 1,
        }
    }
}

/// Dead letters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Dlq {
    /// How long letters are kept.
    pub max_age: Span,
}

impl Default for Dlq {
    fn default() -> Self {
        Self {
            max_age: Span::days(14),
        }
    }
}

/// Routing rules.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Rules {
    /// A rules file; else the shipped rules.
    pub file: String,
}

/// The role incident (DOMAIN 5, timers).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Incident {
    /// A vendor has at least this long to arrive.
    pub arrival_min: Span,
    /// Or this many times his estimate.
    pub arrival_factor: f64,
    /// From arrival to an escalation when the work is not done.
    pub work_overdue: Span,
    /// From payment_pending to an escalation when it is not closed.
    pub payment_overdue: Span,
}

impl Default for Incident {
    fn default() -> Self {
        Self {
            arrival_min: Span::secs(1800),
            arrival_factor: 1.5,
            work_overdue: Span::days(1),
            payment_overdue: Span::days(7),
        }
    }
}

/// The role auth (DOMAIN 5.9, 6).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Auth {
    /// How long an access token counts.
    pub access_token: Span,
    /// How long a refresh token counts.
    pub refresh_token: Span,
    /// How long a key signs before a new one takes its place.
    pub key_life: Span,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            access_token: Span::secs(15 * 60),
            refresh_token: Span::days(30),
            key_life: Span::days(90),
        }
    }
}

/// The role audit: its event log and its alarms (DOMAIN 4.3, 4.4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Audit {
    /// From one look at queues, letters and counts to the next.
    pub alarm_period: Span,
    /// A file of the event log is closed and compressed at this size, and at the end of the day (UTC).
    pub log_file_max: Size,
    /// How long files of the event log are kept; prod keeps them for 365d where no file says otherwise.
    pub log_max_age: Span,
    /// Where alarms are told that are raised or cleared: an HTTPS service; nobody where it is empty.
    pub alarm_webhook_url: String,
    /// A file with what such requests are signed with (Standard Webhooks), `whsec_` and base64.
    pub alarm_webhook_secret_file: String,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            alarm_period: Span::secs(60),
            log_file_max: Size(64 << 20),
            log_max_age: Span::days(30),
            alarm_webhook_url: String::new(),
            alarm_webhook_secret_file: String::new(),
        }
    }
}

/// Metrics of processes that open no door: files for the textfile collector of Prometheus' node_exporter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Metrics {
    /// The collector's directory; no file is written where it is empty.
    pub textfile_dir: String,
    /// From one writing to the next.
    pub textfile_every: Span,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            textfile_dir: String::new(),
            textfile_every: Span::secs(15),
        }
    }
}

/// What is logged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, or a filter like `info,roadcall::node=debug`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
        }
    }
}
