//! A running site: connects, checks the topology, builds the roles, and keeps them going until told to stop.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::effects::{Runners, make_calls};
use super::engine::{Counts, Engine, Settings, SharedRoutes};
use super::filters::FilterLog;
use super::intake::Intake;
use super::latency::Latency;
use super::owner;
use super::preflight::{guard_archive, sync};
use super::registry::{self, Build};
use super::relay::Relay;
use super::replay::Replays;
use super::snapshot::keeper::{self, Keeper};
use super::switches::{self, Rules, Watch};
use super::thread::on_thread;
use super::writer::{Job, Shared, Writer};
use super::{
    advisories, catchup, commands, consumer, eventlog, filters, keys, measure, publisher, status,
};
use crate::bus::jetstream::JetStream;
use crate::bus::jetstream::service::Service;
use crate::bus::topology::{self, Change, Class, Desired, QueueSpec};
use crate::bus::{self, Bus, EVENTS};
use crate::config::Config;
use crate::event::{Actor, Id, Site, Ts};
use crate::role::RoleName;
use crate::routing::Routes;
use crate::store::{self, Identity, Options, Store, Synchronous};

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
        replicas: config.archive.replicas,
        queues: queues.filter(|queue| !queue.filters.is_empty()).collect(),
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

/// A role that runs.
pub(super) struct Started {
    pub(super) role: RoleName,
    queue: Option<&'static str>,
    intake: Intake,
    commands: Vec<&'static str>,
    service: Option<Service>,
    pub(super) jobs: mpsc::Sender<Job>,
    writer: std::thread::JoinHandle<Result<(), store::Error>>,
    relay: std::thread::JoinHandle<Result<(), store::Error>>,
    relay_stop: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    counts: Arc<Mutex<Counts>>,
    latency: Latency,
    _lock: File,
}

impl Started {
    /// Answers commands, and questions about the role itself.
    async fn listen(
        &mut self,
        bus: &JetStream,
        config: &Config,
        clock: Clock,
    ) -> Result<(), Error> {
        let (site, name) = (&config.site.id, format!("roadcall-{}", self.role));
        let service = bus.announce(&name, env!("CARGO_PKG_VERSION")).await?;
        let commands = bus.listen(&service, site, &self.commands).await?;
        let questions = [
            status::status_of(self.role),
            status::outcome_in(self.role),
            status::outcomes_in(self.role),
        ];
        if self.role == RoleName::Audit {
            let forgotten = bus.listen(&service, site, &[advisories::FORGOTTEN]).await?;
            let (watch, jobs) = (watched(bus, config)?, self.jobs.clone());
            let make = advisories::make_forgotten(bus.clone(), watch, forgotten, jobs, clock);
            self.tasks.push(tokio::spawn(make));
        }
        let names = questions.each_ref().map(String::as_str);
        let questions = bus.listen(&service, site, &names).await?;
        let wishes = bus
            .listen(&service, site, &[&keeper::wish_of(self.role)])
            .await?;
        let keeper = Keeper::new(bus, config, self.role, clock);
        self.service = Some(service);
        let database = status::Database::new(config, self.role).counting(Arc::clone(&self.counts));
        let jobs = self.jobs.clone();
        self.tasks.extend([
            tokio::spawn(commands::serve(commands, jobs, clock)),
            tokio::spawn(status::serve(questions, database, clock)),
            tokio::spawn(keeper.run(wishes)),
        ]);
        Ok(())
    }
}

/// A running site.
pub struct Node {
    pub(super) bus: JetStream,
    pub(super) started: Vec<Started>,
    pub(super) clock: Clock,
    /// The rules in force.
    pub(super) rules: Rules,
    /// Told when the queues' filters on the server come from other rules than these.
    pub rules_outdated: Arc<Notify>,
    /// Cancelled by whoever wants the site to stop, and by a role that can't go on.
    pub stop: CancellationToken,
}

impl Node {
    /// Builds and starts `roles`; returns when all of them are ready.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn start(
        bus: JetStream,
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
        bus: JetStream,
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
        bus: JetStream,
        config: &Config,
        roles: &[RoleName],
        may_apply: bool,
        build: Build<'_>,
        clock: Clock,
    ) -> Result<Self, Error> {
        let routes = routes(config)?;
        if may_apply {
            guard_archive(&bus, config).await?;
        }
        settle_topology(&bus, &desired(config, &routes, roles), may_apply).await?;
        let state_dir = &config.site.state_dir;
        std::fs::create_dir_all(state_dir).map_err(|error| Error::StateDir {
            path: state_dir.clone(),
            message: error.to_string(),
        })?;
        let rules = Rules::new(&routes, switches::read(&bus).await?);
        let rules_outdated = Arc::new(Notify::new());
        let mut node = Self {
            bus: bus.clone(),
            started: Vec::new(),
            clock,
            rules: rules.clone(),
            rules_outdated: Arc::clone(&rules_outdated),
            stop: CancellationToken::new(),
        };
        let mut waiting = Vec::new();
        for role in roles {
            let (routes, stop) = (&rules.routes, &node.stop);
            let (started, ready) =
                start_role(&bus, config, *role, build, routes, stop, clock).await?;
            waiting.push(ready);
            node.started.push(started);
        }
        for ready in waiting {
            // An error means that the writer ended; `wait` will say why.
            let _ = ready.await;
        }
        for started in &mut node.started {
            // Only now: while a writer recovers, the queue's deliveries are its own.
            if let Some(queue) = started.queue {
                let (jobs, batch_max) = (started.jobs.clone(), config.engine.batch_max);
                let (intake, stop) = (started.intake.clone(), node.stop.clone());
                let consume = consumer::consume(bus.clone(), queue, batch_max, intake, jobs, stop);
                started.tasks.push(tokio::spawn(consume));
            }
            if started.role == RoleName::Audit {
                let watch = watched(&bus, config)?;
                let (jobs, stop) = (started.jobs.clone(), node.stop.clone());
                let watch = advisories::watch(bus.clone(), watch, jobs, stop);
                started.tasks.push(tokio::spawn(watch));
                let jobs = started.jobs.clone();
                let measure = measure::Measuring::new(bus.clone(), config, jobs, clock);
                started
                    .tasks
                    .push(tokio::spawn(measure.run(node.stop.clone())));
                let log = eventlog::Writer::new(config, clock);
                started.tasks.push(tokio::spawn(log.run(node.stop.clone())));
            }
            started.listen(&bus, config, clock).await?;
        }
        let watch = Watch {
            bus,
            rules,
            queues: roles.iter().filter_map(|role| role.queue()).collect(),
            outdated: rules_outdated,
        };
        tokio::spawn(watch.run(node.stop.clone()));
        Ok(node)
    }

    /// What each role has done so far.
    #[must_use]
    pub fn counts(&self) -> Vec<(RoleName, Counts)> {
        let read = |started: &Started| {
            *started
                .counts
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        self.started
            .iter()
            .map(|started| (started.role, read(started)))
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
        for started in self.started {
            started
                .tasks
                .iter()
                .for_each(tokio::task::JoinHandle::abort);
            drop(started.service);
            started.relay_stop.cancel();
            drop(started.jobs);
            let (writer, role) = (started.writer, started.role);
            let result = tokio::task::spawn_blocking(move || writer.join()).await;
            match result {
                Ok(Ok(Ok(()))) => tracing::info!(%role, "stopped"),
                Ok(Ok(Err(error))) => {
                    tracing::error!(%role, %error, "the store failed");
                    first_error.get_or_insert(Error::Store(error));
                }
                _ => tracing::error!(%role, "the writer panicked"),
            }
            relays.push(started.relay);
        }
        let drained = tokio::task::spawn_blocking(move || {
            relays.into_iter().for_each(|relay| drop(relay.join()))
        });
        if tokio::time::timeout(grace, drained).await.is_err() {
            tracing::warn!(
                "the outbox could not be emptied in time; it is sent after the next start"
            );
        }
        self.bus.close().await;
        first_error.map_or(Ok(()), Err)
    }
}

/// Whose advisories count.
fn watched(bus: &JetStream, config: &Config) -> Result<advisories::Watch, Error> {
    Ok(advisories::Watch {
        site: site(config)?,
        domain: bus.domain(),
    })
}

fn site(config: &Config) -> Result<Site, Error> {
    Site::new(config.site.id.clone()).map_err(|error| Error::StateDir {
        path: config.site.state_dir.clone(),
        message: format!("site.id {error}"),
    })
}

/// Takes the lock that a role's process holds, before it looks at its database.
///
/// # Errors
/// [`Error::Locked`] while another process has it.
pub fn lock(dir: &Path, role: RoleName) -> Result<File, Error> {
    let path = dir.join(format!("{role}.lock"));
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| Error::StateDir {
            path: path.clone(),
            message: error.to_string(),
        })?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| Error::Locked { role, path })?;
    Ok(file)
}

async fn start_role(
    bus: &JetStream,
    config: &Config,
    name: RoleName,
    build: Build<'_>,
    routes: &SharedRoutes,
    stop: &CancellationToken,
    clock: Clock,
) -> Result<(Started, oneshot::Receiver<()>), Error> {
    registry::check_secrets(config, name).map_err(|(key, message)| Error::Secret {
        role: name,
        key,
        message,
    })?;
    let dir = &config.site.state_dir;
    let lock = lock(dir, name)?;
    if name == RoleName::Auth {
        keys::settle(config, clock.now())?;
    }
    if name == RoleName::Telephony {
        registry::calls::settle(dir).map_err(|error| Error::StateDir {
            path: dir.clone(),
            message: error.to_string(),
        })?;
    }
    let role = build(config, name).ok_or(Error::NotBuilt(name))?;
    let commands = role.commands().iter().map(|spec| spec.name).collect();
    let site = site(config)?;
    let path = dir.join(format!("{name}.db"));
    let options = Options {
        path: path.clone(),
        synchronous: Synchronous::Full,
        site: site.clone(),
        role: name.as_str().to_owned(),
        queue: name.queue().unwrap_or_default().to_owned(),
        codec: config.bus.codec,
    };
    let now = clock.now();
    let fresh = Identity {
        store_id: clock.new_id(),
        epoch: format!("{:x}", now.ms()),
    };
    let mut store = Store::open(options, role.migrations(), &fresh)?;
    owner::claim(bus, name, &store, now).await?;
    let catch_up = catchup::begin(bus, name, &mut store).await?;
    let queue = name
        .queue()
        .filter(|queue| !routes_of(routes).filters(queue).is_empty());
    let log = match queue {
        Some(queue) => filters::read(bus, queue, bus.stream(EVENTS).await?.identity.0).await?,
        None => None,
    };
    // What a restored database was not there for when the queue was made is live for it, as it was for the one before.
    let restored = |log: &FilterLog| {
        store
            .catch_up()
            .is_some_and(|of| of.stream_id != log.stream)
    };
    let intake = Intake::new(
        log.as_ref().filter(|log| !restored(log)),
        Arc::clone(routes),
    );
    let engine = Engine::new(store, role, Arc::clone(routes), settings(config));
    let (jobs, receiver) = mpsc::channel(2 * config.engine.batch_max);
    let (acks, ack_receiver) = mpsc::unbounded_channel();
    let (ready, is_ready) = oneshot::channel();
    let hint = Arc::new(Notify::new());
    let counts = Arc::new(Mutex::new(Counts::default()));
    let latency = Latency::default();
    let (effects, calls) = mpsc::unbounded_channel();
    let runners = Arc::new(Runners::new(registry::runners(config, bus), clock));
    tokio::spawn(make_calls(runners, calls, jobs.downgrade()));
    let (replays, progress) = mpsc::unbounded_channel();
    let shared = Shared {
        replays,
        effects,
        latency: latency.clone(),
        age: Latency::default(),
        outbox: Arc::clone(&hint),
        acks,
        counts: Arc::clone(&counts),
        stop: stop.clone(),
    };
    let writer = Writer {
        engine,
        bus: bus.clone(),
        queue,
        intake: intake.clone(),
        batch_max: config.engine.batch_max,
        clock,
        shared,
    };
    let writer = on_thread(format!("{name}-writer"), stop.clone(), move || {
        writer.run(receiver, ready)
    });
    let relay = Relay::new(bus.clone(), &path)?;
    let relay_stop = CancellationToken::new();
    let keep = sync(config).keep();
    let publish = publisher::Settings { keep, hint, clock };
    let (weak, stopping) = (jobs.downgrade(), relay_stop.clone());
    let relay = on_thread(
        format!("{name}-relay"),
        CancellationToken::new(),
        move || async move {
            publisher::publish(relay, publish, weak, stopping).await;
            Ok(())
        },
    );
    let mut tasks = Vec::new();
    if let Some(queue) = queue {
        let replays = Replays {
            bus: bus.clone(),
            queue,
            path,
            routes: Arc::clone(routes),
            jobs: jobs.clone(),
            progress,
            clock,
        };
        tasks.push(tokio::spawn(replays.run(stop.clone())));
    }
    if let Some(to_seq) = catch_up {
        let watch = catchup::watch(bus.clone(), queue, to_seq, jobs.clone(), stop.clone());
        tasks.push(tokio::spawn(watch));
    }
    // Not aborted at a stop: it ends when the writer lets go of its sender.
    tokio::spawn(consumer::acknowledge(bus.clone(), ack_receiver));
    Ok((
        Started {
            role: name,
            queue,
            intake,
            commands,
            service: None,
            jobs,
            writer,
            relay,
            relay_stop,
            tasks,
            counts,
            latency,
            _lock: lock,
        },
        is_ready,
    ))
}

fn routes_of(routes: &SharedRoutes) -> Arc<Routes> {
    routes
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .clone()
}

pub(super) fn settings(config: &Config) -> Settings {
    Settings {
        batch_max: config.engine.batch_max,
        max_deliver: config.engine.max_deliver,
        retry_delay: config.engine.retry_delay.0,
        not_yet_max: config.engine.not_yet_max.0,
        inbox_horizon: config.archive_max_age() + config.engine.offline_max.0,
        ..Settings::default()
    }
}
