//! The hub's side of its depots, and a depot's of its hub: what the broker lets in, and letting a depot in while it runs
//! (DESIGN 8).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::carried;
use super::clock::Clock;
use super::commands::ACTOR_HEADER;
use super::filters;
use super::run::{desired, routes};
use super::status::status_of;
use crate::broker::{self, Cluster, Leaf, Links, Proof, Remote};
use crate::bus::jetstream::JetStream;
use crate::bus::jetstream::system::cut_leafs;
use crate::bus::links::{Link, peer_of};
use crate::bus::topology::Class;
use crate::bus::{self, EVENTS, Headers};
use crate::config::Config;
use crate::config::depots::{self, Depot};
use crate::event::Actor;
use crate::ops::identities;
use crate::role::RoleName;

/// How long a depot may take to answer.
const ANSWER_MAX: Duration = Duration::from_millis(500);

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
            seed: hub.seed.clone(),
            ca: (!hub.ca.is_empty()).then(|| hub.ca.clone()),
        }),
        proof: config.tls.has_cert().then(|| Proof {
            cert_file: (&config.tls.cert_file).into(),
            key_file: (&config.tls.key_file).into(),
            ca_file: (!config.tls.ca_file.is_empty()).then(|| (&config.tls.ca_file).into()),
        }),
        // Whoever asks another site as the hub does names that site, and is still on the hub.
        leaf_listen: listens(&broker.leaf_listen).filter(|_| config.is_hub()),
        leafs: leafs(&config.depots),
        cluster: listens(&broker.cluster_listen).map(|listen| Cluster {
            server_name: broker.server_name.clone(),
            listen,
            routes: broker.cluster_routes.clone(),
        }),
        clients_choose: false,
    }
}

/// Whether a depot's broker may still come in in every way in which it could.
fn lets_in(config: &Config, depot: &Depot) -> bool {
    let (before, now) = (leafs(std::slice::from_ref(depot)), leafs(&config.depots));
    before.iter().all(|was| {
        let same = |is: &&Leaf| is.site == was.site;
        now.iter().find(same).is_some_and(|is| {
            let password = was.password.is_empty() || was.password == is.password;
            password && was.keys.iter().all(|key| is.keys.contains(key))
        })
    })
}

fn leafs(depots: &[Depot]) -> Vec<Leaf> {
    let leaf = |depot: &Depot| Leaf {
        site: depot.site.clone(),
        password: depot.password.clone(),
        keys: identities::public_of(&depot.seed)
            .into_iter()
            .chain(depot.older.iter().cloned())
            .collect(),
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
    /// Looks so far: the depots that are not read yet are asked in turn.
    looks: usize,
}

impl Depots {
    /// For the hub of this configuration, whose depots are those that its broker was started with.
    #[must_use]
    pub fn new(bus: JetStream, config: &Config) -> Self {
        Self {
            bus,
            config: config.clone(),
            told: None,
            looks: 0,
        }
    }

    /// The configuration with the depots that are let in.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Looks at the files; where they say something new, does it. What can't be done is logged and tried again.
    pub async fn look(&mut self, broker: &mut broker::Running) {
        let result = match self.take(broker).await {
            Ok(()) => self.read_next().await.map_err(|error| error.to_string()),
            Err(error) => Err(error),
        };
        let told = result.err();
        if told != self.told
            && let Some(error) = &told
        {
            tracing::error!(error, "depots are as they were");
        }
        self.told = told;
    }

    /// Begins to read a depot that answers: its half of the link is there then, see [`Link::takes`].
    async fn read_next(&mut self) -> Result<(), Error> {
        let mut stream = stream_config(&self.bus).await?;
        let unread: Vec<&Depot> = self
            .config
            .depots
            .iter()
            .filter(|depot| !reads(&stream, &depot.site))
            .collect();
        self.looks = self.looks.wrapping_add(1);
        let Some(site) = unread
            .get(self.looks % unread.len().max(1))
            .map(|depot| depot.site.clone())
        else {
            return Ok(());
        };
        let carried = carried::of(&self.bus, &site).await?;
        if carried.as_ref().is_some_and(|it| it.under_way(Clock.now()))
            || !answers(&self.bus, &site).await
        {
            return Ok(());
        }
        let source = match &carried {
            Some(carried) => carried::attach(&self.bus, &site, carried).await?,
            None => Link::down(&site, Vec::new()).source(&self.config.site.id),
        };
        if let Some(sources) = stream["sources"].as_array_mut() {
            sources.push(source.clone());
        }
        self.bus
            .api(&format!("STREAM.UPDATE.{EVENTS}"), &stream)
            .await?;
        if carried.is_some() {
            carried::attached(&self.bus, &site, &source).await?;
        }
        tracing::info!(depot = site, "the archive reads a depot");
        Ok(())
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
        if let Some(seed) = broker.system()
            && self
                .config
                .depots
                .iter()
                .any(|depot| !lets_in(&config, depot))
        {
            cut_leafs(&broker.url, &seed)
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

/// The archive's configuration as the server has it.
async fn stream_config(bus: &JetStream) -> Result<serde_json::Value, Error> {
    let info = bus
        .api(&format!("STREAM.INFO.{EVENTS}"), &serde_json::Value::Null)
        .await?;
    Ok(info["config"].clone())
}

/// Whether a stream reads a site.
fn reads(stream: &serde_json::Value, site: &str) -> bool {
    let sources = stream["sources"].as_array();
    sources.is_some_and(|sources| sources.iter().any(|source| peer_of(source) == Some(site)))
}

/// Whether a depot's audit role, which every site has, answers over its link.
async fn answers(bus: &JetStream, site: &str) -> bool {
    let mut headers = Headers::default();
    headers.push(ACTOR_HEADER, Actor::System("node".to_owned()).to_string());
    let asked = status_of(RoleName::Audit);
    bus.call(site, &asked, &headers, b"{}".to_vec(), ANSWER_MAX)
        .await
        .is_ok()
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
        let linked = change.object == EVENTS
            || change.object.starts_with("src-")
            || change.object.starts_with("OBJ_SNAPSHOTS_");
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
    let mut stream = stream_config(bus).await?;
    if let Some(sources) = stream["sources"].as_array_mut() {
        sources.retain(|source| peer_of(source) != Some(site));
    }
    bus.api(&format!("STREAM.UPDATE.{EVENTS}"), &stream).await?;
    Ok(())
}

/// Whether the hub's archive has what a depot reads by.
///
/// # Errors
/// The broker.
pub async fn linked(bus: &JetStream, site: &str) -> Result<bool, Error> {
    let link = Link::down(site, Vec::new());
    let consumer = format!("CONSUMER.INFO.{EVENTS}.{}", link.consumer());
    match bus.api(&consumer, &serde_json::Value::Null).await {
        Ok(_) => Ok(true),
        Err(bus::Error::Missing(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
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
        let link = Link::down(peer, Vec::new());
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
