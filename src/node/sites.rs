//! The hub's side of its depots, and a depot's of its hub: what the broker lets in, and letting a depot in while it runs
//! (DESIGN 8).

use std::collections::BTreeMap;
use std::path::Path;

use super::clock::Clock;
use super::filters;
use super::run::{desired, routes};
use crate::broker::{self, Cluster, Leaf, Links, Remote};
use crate::bus::jetstream::JetStream;
use crate::bus::jetstream::system::cut_leafs;
use crate::bus::links::{Link, peer_of};
use crate::bus::topology::Class;
use crate::bus::{self, EVENTS};
use crate::config::Config;
use crate::config::depots::{self, Depot};
use crate::event::Actor;

/// Why a depot could not be let in or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// A file.
    #[error("{path}: {message}")]
    File {
        /// Its path.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// There is no such depot.
    #[error("the hub knows no depot {0}")]
    Unknown(String),
}

impl Error {
    fn file(path: &Path, error: &std::io::Error) -> Self {
        Self::File {
            path: path.display().to_string(),
            message: error.to_string(),
        }
    }
}

/// What the broker of this configuration is linked to.
#[must_use]
pub fn broker_links(config: &Config) -> Links {
    let (hub, broker) = (&config.hub, &config.broker);
    let listens = |address: &str| (!address.is_empty()).then(|| address.to_owned());
    Links {
        hub: (!hub.url.is_empty()).then(|| Remote {
            urls: hub.url.clone(),
            user: match hub.user.as_str() {
                "" => config.site.id.clone(),
                user => user.to_owned(),
            },
            password: hub.password.clone(),
        }),
        // Whoever asks another site as the hub does names that site, and is still on the hub.
        leaf_listen: listens(&broker.leaf_listen).filter(|_| config.is_hub()),
        leafs: leafs(&config.depots),
        cluster: listens(&broker.cluster_listen).map(|listen| Cluster {
            server_name: broker.server_name.clone(),
            listen,
            routes: broker.cluster_routes.clone(),
        }),
    }
}

/// Whether a depot's broker may still come in as it could.
fn lets_in(config: &Config, depot: &Depot) -> bool {
    let same = |other: &Depot| other.site == depot.site && other.password == depot.password;
    config.depots.iter().any(same)
}

fn leafs(depots: &[Depot]) -> Vec<Leaf> {
    let leaf = |depot: &Depot| Leaf {
        site: depot.site.clone(),
        password: depot.password.clone(),
    };
    depots.iter().map(leaf).collect()
}

/// Keeps the broker and the archive's sources as the depots' files say, while the hub runs.
#[derive(Debug)]
pub struct Depots {
    bus: JetStream,
    config: Config,
    /// What was wrong at the last look, told once.
    told: Option<String>,
}

impl Depots {
    /// For the hub of this configuration, whose depots are those that its broker was started with.
    #[must_use]
    pub fn new(bus: JetStream, config: &Config) -> Self {
        Self {
            bus,
            config: config.clone(),
            told: None,
        }
    }

    /// Looks at the files; where they say something new, does it. What can't be done is logged and tried again.
    pub async fn look(&mut self, broker: &mut broker::Running) {
        let result = self.take(broker).await;
        let told = result.err();
        if told != self.told
            && let Some(error) = &told
        {
            tracing::error!(error, "depots are as they were");
        }
        self.told = told;
    }

    async fn take(&mut self, broker: &mut broker::Running) -> Result<(), String> {
        let state_dir = &self.config.site.state_dir;
        let found =
            depots::read(state_dir).map_err(|(path, why)| format!("{}: {why}", path.display()))?;
        if found == self.config.depots {
            return Ok(());
        }
        let mut config = self.config.clone();
        config.depots = found;
        // The link first: a source whose depot may not come in yet would only wait.
        broker
            .relink(broker_links(&config))
            .map_err(|error| error.to_string())?;
        link(&self.bus, &config).await?;
        // The server leaves a connection alone whose user is gone.
        if let Some((user, password)) = broker.system()
            && self
                .config
                .depots
                .iter()
                .any(|depot| !lets_in(&config, depot))
        {
            cut_leafs(&broker.url, user, password)
                .await
                .map_err(|error| error.to_string())?;
        }
        let names: Vec<&str> = config
            .depots
            .iter()
            .map(|depot| depot.site.as_str())
            .collect();
        tracing::info!(depots = names.join(","), "depots of this hub");
        self.config = config;
        Ok(())
    }
}

/// Makes the sources and consumers of the links, and nothing else.
async fn link(bus: &JetStream, config: &Config) -> Result<(), String> {
    let routes = routes(config).map_err(|error| error.to_string())?;
    // Without queues: they are as somebody made them, and stay.
    let wanted = desired(config, &routes, &[]);
    let by = Actor::System("topology".to_owned());
    let failed = |error: bus::Error| error.to_string();
    // The consumers that peers read by come before the sources: see `topology`.
    let mut changes = filters::plan(bus, &wanted).await.map_err(failed)?;
    changes.sort_by_key(|change| change.kind == "stream");
    for change in changes {
        let linked = change.object == EVENTS || change.object.starts_with("src-");
        if linked && change.change == Class::Safe {
            filters::apply(bus, &wanted, &change, &by, Clock.now())
                .await
                .map_err(failed)?;
        }
    }
    Ok(())
}

/// Forgets a depot: its user and its link; whoever runs the broker cuts it off at its next look. Its events stay, and so
/// does the consumer that it reads by: one made anew would begin at the first event, and a depot that has more of them than
/// the consumer may have on its way never gets to the new ones (docs/sites.md).
///
/// # Errors
/// [`Error::Unknown`], a file, or the broker.
pub async fn remove(bus: &JetStream, config: &Config, site: &str) -> Result<(), Error> {
    let path = depots::file(&config.site.state_dir, site);
    match std::fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::Unknown(site.to_owned()));
        }
        Err(error) => return Err(Error::file(&path, &error)),
    }
    let info = bus
        .api(&format!("STREAM.INFO.{EVENTS}"), &serde_json::Value::Null)
        .await?;
    let mut stream = info["config"].clone();
    if let Some(sources) = stream["sources"].as_array_mut() {
        sources.retain(|source| peer_of(source) != Some(site));
    }
    bus.api(&format!("STREAM.UPDATE.{EVENTS}"), &stream).await?;
    Ok(())
}

/// Whether the hub's archive gives and takes what the depot's file says.
///
/// # Errors
/// The broker.
pub async fn linked(bus: &JetStream, site: &str) -> Result<bool, Error> {
    let link = Link {
        peer: site.to_owned(),
        gives: Vec::new(),
    };
    let consumer = format!("CONSUMER.INFO.{EVENTS}.{}", link.consumer());
    match bus.api(&consumer, &serde_json::Value::Null).await {
        Ok(_) => {}
        Err(bus::Error::Missing(_)) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    let info = bus
        .api(&format!("STREAM.INFO.{EVENTS}"), &serde_json::Value::Null)
        .await?;
    let sources = info["config"]["sources"].as_array();
    Ok(sources.is_some_and(|sources| sources.iter().any(|source| peer_of(source) == Some(site))))
}

/// How a link stands, as this site's broker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkState {
    /// Whether anything, be it a heartbeat, came over it just now.
    pub linked: bool,
    /// Messages that the peer has for us, as far as it could say so; nothing as long as it never could.
    pub lag: Option<u64>,
    /// Messages that we have for the peer; nothing where it may not read here.
    pub behind: Option<u64>,
}

/// An idle link gives a sign of life each second.
const SILENT_NANOS: i64 = 15_000_000_000;

/// The links of this site's archive, by peer.
///
/// # Errors
/// The broker.
pub async fn link_states(bus: &JetStream) -> Result<BTreeMap<String, LinkState>, Error> {
    let info = bus
        .api(&format!("STREAM.INFO.{EVENTS}"), &serde_json::Value::Null)
        .await?;
    let mut states = BTreeMap::new();
    for source in info["sources"].as_array().into_iter().flatten() {
        let Some(peer) = peer_of(source) else {
            continue;
        };
        let active = source["active"].as_i64().unwrap_or(-1);
        let link = Link {
            peer: peer.to_owned(),
            gives: Vec::new(),
        };
        let consumer = format!("CONSUMER.INFO.{EVENTS}.{}", link.consumer());
        let behind = match bus.api(&consumer, &serde_json::Value::Null).await {
            Ok(info) => Some(number(&info["num_pending"]) + number(&info["num_ack_pending"])),
            Err(bus::Error::Missing(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let state = LinkState {
            linked: (0..SILENT_NANOS).contains(&active),
            lag: (active >= 0).then(|| number(&source["lag"])),
            behind,
        };
        states.insert(peer.to_owned(), state);
    }
    Ok(states)
}

fn number(value: &serde_json::Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// A new password: letters and digits, 160 random bits.
///
/// # Errors
/// The system has no randomness.
pub fn password() -> Result<String, Error> {
    let mut bytes = [0; 20];
    getrandom::fill(&mut bytes).map_err(|error| Error::File {
        path: "the system's random numbers".to_owned(),
        message: error.to_string(),
    })?;
    Ok(data_encoding::BASE32_NOPAD.encode(&bytes).to_lowercase())
}
