//! A running site: connects, checks the topology, builds the roles, and keeps them going until told to stop.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::connections::Connections;
use super::engine::Counts;
use super::filters;
use super::homes;
use super::latency::Latency;
use super::preflight::guard_archive;
use super::registry::{self, Build};
use super::started::{Started, start_role};
use super::status::{InForce, SharedInForce};
use super::switches::{self, Rules, Watch};
use super::trace::Tracer;
use crate::bus;
use crate::bus::jetstream::JetStream;
use crate::bus::links::Link;
use crate::bus::topology::{self, Change, Class, Desired, QueueSpec};
use crate::config::{Config, Profile};
use crate::event::{Actor, Id, Ts};
use crate::role::RoleName;
use crate::routing::Routes;
use crate::store;

/// How long a stop waits for the collector to take the last spans.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// How long the hub keeps copies of its depots' snapshots (DESIGN 6): in prod, and elsewhere.
const COPIES_MAX_AGE: Duration = Duration::from_secs(35 * 86_400);
const COPIES_MAX_AGE_DEV: Duration = Duration::from_secs(7 * 86_400);

/// Why a site does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// A role's database.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The rules.
    #[error("rules {file}: {message}")]
    Rules {
        /// The file.
        file: String,
        /// What is wrong.
        message: String,
    },
    /// The state directory can't be used.
    #[error("the state directory {}: {message}", path.display())]
    StateDir {
        /// The directory or file.
        path: PathBuf,
        /// The system's words.
        message: String,
    },
    /// The keys of personal data can't be used.
    #[error("{} {message}", path.display())]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Another process runs this role on this state directory.
    #[error("role {role} already runs with {}", path.display())]
    Locked {
        /// The role.
        role: RoleName,
        /// The lock file.
        path: PathBuf,
    },
    /// Another database owns the role's queue on this broker.
    #[error(
        "{queue} belongs to another database of role {role} ({owner}, since {since}) than {} ({ours}); \
         `roadcall queue adopt {queue} --yes` gives it to this one", path.display()
    )]
    Owned {
        /// The role.
        role: RoleName,
        /// Its queue.
        queue: &'static str,
        /// Store that owns it.
        owner: Id,
        /// Since when.
        since: Ts,
        /// Store in this state directory.
        ours: Id,
        /// Its file.
        path: PathBuf,
    },
    /// Streams or queues are missing or differ.
    #[error("the broker's topology is not what this site needs: {0}")]
    Drift(String),
    /// The broker's store has an archive that the broker does not show.
    #[error("{} has events in it, but the broker says that there is no stream EVENTS", path.display())]
    ArchiveHidden {
        /// The stream's directory.
        path: PathBuf,
    },
    /// A file with a secret that a role needs can't be read.
    #[error("role {role}: {key}: {message}")]
    Secret {
        /// The role.
        role: RoleName,
        /// The key of the configuration.
        key: &'static str,
        /// What is wrong.
        message: String,
    },
    /// What traces are sent with can't be read.
    #[error("trace.headers_file: {0}")]
    Trace(String),
    /// A role is not part of this build.
    #[error("role {0} is not built yet")]
    NotBuilt(RoleName),
}

/// The rules that a configuration names.
///
/// # Errors
/// [`Error::Rules`] with the sentence of what is wrong.
pub fn routes(config: &Config) -> Result<Routes, Error> {
    if config.rules.file.is_empty() {
        return Ok(Routes::shipped());
    }
    let file = config.rules.file.clone();
    let fail = |message: String| Error::Rules {
        file: file.clone(),
        message,
    };
    let text = std::fs::read_to_string(&file).map_err(|error| fail(error.to_string()))?;
    Routes::parse(&text).map_err(|error| fail(error.to_string()))
}

/// The links of a site: a depot's to the hub, the hub's to its depots.
fn links(config: &Config) -> Vec<Link> {
    let depots = config
        .depots
        .iter()
        .map(|depot| Link::down(&depot.site, depot.down.clone()));
    let up = (!config.hub.url.is_empty()).then(|| Link::up(&config.site.id));
    up.into_iter().chain(depots).collect()
}

/// What the broker should have for `roles`. A target whose role is not listed is left out.
#[must_use]
pub fn desired(config: &Config, routes: &Routes, roles: &[RoleName]) -> Desired {
    let queues = roles
        .iter()
        .filter_map(|role| role.queue())
        .map(|queue| QueueSpec {
            name: queue.to_owned(),
            filters: routes.filters(queue),
            rules: routes.digest(queue),
            ack_wait: config.engine.ack_wait.0,
            max_deliver: config.engine.max_deliver,
            max_ack_pending: 4 * config.engine.batch_max as u64,
        });
    Desired {
        site: config.site.id.clone(),
        archive_max_age: config.archive_max_age(),
        archive_max_bytes: Some(config.archive.max_bytes.0),
        letter_max_age: config.dlq.max_age.0,
        copies_max_age: match config.site.profile {
            Profile::Prod => COPIES_MAX_AGE,
            _ => COPIES_MAX_AGE_DEV,
        },
        replicas: config.archive.replicas,
        queues: queues.filter(|queue| !queue.filters.is_empty()).collect(),
        links: links(config),
    }
}

/// Makes what is missing, if `may_apply` (the process runs the broker itself), and refuses to go on with any other
/// difference.
///
/// # Errors
/// [`Error::Drift`] naming the objects.
pub async fn settle_topology(
    bus: &JetStream,
    desired: &Desired,
    may_apply: bool,
) -> Result<(), Error> {
    let mut left: Vec<Change> = Vec::new();
    let changes = match may_apply {
        true => filters::plan(bus, desired).await?,
        false => topology::plan(bus, desired).await?,
    };
    let by = Actor::System("topology".to_owned());
    for change in changes {
        if may_apply && (change.change == Class::Safe || change.kind == "fill") {
            filters::apply(bus, desired, &change, &by, Clock.now()).await?;
            tracing::info!(
                object = change.object,
                kind = change.kind,
                "topology object made or updated"
            );
        } else {
            left.push(change);
        }
    }
    if left.is_empty() {
        if may_apply {
            filters::begin_logs(bus, desired, Clock.now()).await?;
        }
        return Ok(());
    }
    let names: Vec<String> = left
        .iter()
        .map(|change| format!("{} {}", change.object, change.detail))
        .collect();
    Err(Error::Drift(names.join("; ")))
}

/// The same for a node. Roles that see no more of the broker than is their own look each at their own queue.
async fn check_topology(
    bus: &Connections,
    config: &Config,
    routes: &Routes,
    roles: &[RoleName],
    may_apply: bool,
) -> Result<(), Error> {
    if may_apply || !bus.apart() {
        let wanted = desired(config, routes, roles);
        return settle_topology(bus.own(), &wanted, may_apply).await;
    }
    for role in roles {
        settle_topology(bus.of(*role), &desired(config, routes, &[*role]), false).await?;
    }
    Ok(())
}

/// A running site.
pub struct Node {
    pub(super) bus: Connections,
    pub(super) started: Vec<Started>,
    pub(super) clock: Clock,
    /// The rules in force.
    pub(super) rules: Rules,
    /// Told when the queues' filters on the server come from other rules than these.
    pub rules_outdated: Arc<Notify>,
    /// What its roles say of this process.
    in_force: SharedInForce,
    /// Of the hub: for which depots its roles make what those lack.
    homes: Option<Arc<tokio::sync::Mutex<homes::Watch>>>,
    /// What the roles trace with.
    tracer: Option<Tracer>,
    /// Cancelled by whoever wants the site to stop, and by a role that can't go on.
    pub stop: CancellationToken,
}

impl Node {
    /// Builds and starts `roles`; returns when all of them are ready.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn start(
        bus: impl Into<Connections>,
        config: &Config,
        roles: &[RoleName],
        may_apply: bool,
    ) -> Result<Self, Error> {
        Self::start_with(bus, config, roles, may_apply, &registry::build).await
    }

    /// The same with roles that the caller makes: tests run roles of their own in a whole node.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn start_with(
        bus: impl Into<Connections>,
        config: &Config,
        roles: &[RoleName],
        may_apply: bool,
        build: Build<'_>,
    ) -> Result<Self, Error> {
        Self::start_at(bus, config, roles, may_apply, build, Clock).await
    }

    /// The same by a clock of the caller's: tests set it by hand and see timers of hours fire.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn start_at(
        bus: impl Into<Connections>,
        config: &Config,
        roles: &[RoleName],
        may_apply: bool,
        build: Build<'_>,
        clock: Clock,
    ) -> Result<Self, Error> {
        let (bus, routes) = (bus.into(), routes(config)?);
        if may_apply {
            guard_archive(bus.own(), config).await?;
        }
        check_topology(&bus, config, &routes, roles, may_apply).await?;
        let state_dir = &config.site.state_dir;
        std::fs::create_dir_all(state_dir).map_err(|error| Error::StateDir {
            path: state_dir.clone(),
            message: error.to_string(),
        })?;
        let rules = Rules::new(&routes, switches::read(bus.own()).await?);
        let rules_outdated = Arc::new(Notify::new());
        let mut node = Self {
            bus: bus.clone(),
            started: Vec::new(),
            clock,
            rules: rules.clone(),
            rules_outdated: Arc::clone(&rules_outdated),
            in_force: Arc::new(Mutex::new(InForce::of(config, Vec::new()))),
            homes: None,
            tracer: Tracer::start(config, clock).map_err(Error::Trace)?,
            stop: CancellationToken::new(),
        };
        let mut waiting = Vec::new();
        for role in roles {
            let (routes, stop) = (&rules.routes, &node.stop);
            let clock = (clock, node.tracer.as_ref());
            let (started, ready) =
                start_role(bus.of(*role), config, *role, build, routes, stop, clock).await?;
            waiting.push(ready);
            node.started.push(started);
        }
        for ready in waiting {
            // An error means that the writer ended; `wait` will say why.
            let _ = ready.await;
        }
        // The audit role's process keeps the keys of personal data: it answers before others ask.
        for audit in [true, false] {
            let of = |started: &&mut Started| (started.role == RoleName::Audit) == audit;
            for started in node.started.iter_mut().filter(of) {
                let bus = bus.of(started.role);
                started.feed(bus, config, &node.in_force, clock, &node.stop)?;
                started.listen(bus, config, &node.in_force, clock).await?;
            }
        }
        if config.is_hub() {
            let writers = node.started.iter();
            let watch = Arc::new(tokio::sync::Mutex::new(homes::Watch {
                state_dir: config.site.state_dir.clone(),
                depots: config.depots.clone(),
                writers: writers
                    .map(|started| (started.role, started.jobs.downgrade()))
                    .collect(),
                told: None,
            }));
            tokio::spawn(homes::run(Arc::clone(&watch), node.stop.clone()));
            node.homes = Some(watch);
        }
        let watch = Watch {
            bus: bus.own().clone(),
            rules,
            queues: roles.iter().filter_map(|role| role.queue()).collect(),
            outdated: rules_outdated,
        };
        tokio::spawn(watch.run(node.stop.clone()));
        Ok(node)
    }

    /// Tells what is in force from now on, for whoever asks the roles.
    pub fn tell(&self, in_force: InForce) {
        *self.in_force.lock().unwrap_or_else(PoisonError::into_inner) = in_force;
    }

    /// Lets the roles of a hub know at once what the depots' files say: before the archive reads a depot, or what its
    /// first events ask for would be made by nobody.
    pub async fn follow_depots(&self) {
        if let Some(homes) = &self.homes {
            homes.lock().await.look().await;
        }
    }

    /// What each role has done so far.
    #[must_use]
    pub fn counts(&self) -> Vec<(RoleName, Counts)> {
        self.started
            .iter()
            .map(|started| (started.role, started.counts()))
            .collect()
    }

    /// How long events took from the archive to their committed outcome, all roles together.
    #[must_use]
    pub fn latency(&self) -> Latency {
        let all = Latency::default();
        self.started
            .iter()
            .for_each(|started| all.add(&started.latency));
        all
    }

    /// Stops in order: no new work, the writers finish, the relays bring out what is left within `grace`.
    ///
    /// # Errors
    /// The store error that made a role stop by itself.
    pub async fn shutdown(self, grace: Duration) -> Result<(), Error> {
        self.stop.cancel();
        let mut first_error = None;
        let mut relays = Vec::new();
        // The keeper of keys last: others may need one to finish.
        let audit = |started: &Started| started.role == RoleName::Audit;
        let (keeper, others): (Vec<_>, Vec<_>) = self.started.into_iter().partition(audit);
        for started in others.into_iter().chain(keeper) {
            let (relay, result) = started.finish().await;
            if let Err(error) = result {
                first_error.get_or_insert(Error::Store(error));
            }
            relays.push(relay);
        }
        let drained = tokio::task::spawn_blocking(move || {
            relays.into_iter().for_each(|relay| drop(relay.join()))
        });
        if tokio::time::timeout(grace, drained).await.is_err() {
            tracing::warn!(
                "the outbox could not be emptied in time; it is sent after the next start"
            );
        }
        if let Some(tracer) = self.tracer {
            tracer.close(LAST_SPANS).await;
        }
        self.bus.close().await;
        first_error.map_or(Ok(()), Err)
    }
}
