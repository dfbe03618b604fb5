//! One role of a running site: what it needs is opened, its threads and tasks are started.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::effects::{Runners, make_calls};
use super::engine::{Counts, Engine, Settings, SharedRoutes};
use super::figures::Gathered;
use super::filters::FilterLog;
use super::intake::Intake;
use super::latency::Latency;
use super::preflight::sync;
use super::registry::{self, Build};
use super::relay::Relay;
use super::replay::Replays;
use super::resend::fetch::Fetcher;
use super::resend::serve::Server;
use super::run::Error;
use super::snapshot::copies::Copier;
use super::snapshot::keeper::{self, Keeper};
use super::thread::on_thread;
use super::trace::Tracer;
use super::writer::{Job, Shared, Writer};
use super::{
    advisories, api_calls, audit_notes, catchup, commands, consumer, eventlog, filters, homes,
    keys, measure, owner, publisher, status, vault,
};
use crate::bus::jetstream::JetStream;
use crate::bus::jetstream::service::Service;
use crate::bus::{Bus, EVENTS};
use crate::config::Config;
use crate::event::Site;
use crate::role::RoleName;
use crate::routing::Routes;
use crate::store::{self, Identity, Options, Store, Synchronous};

/// How long a role keeps a key that it got; it lets go of an erased person's at once.
const KEYS_KEPT: std::time::Duration = std::time::Duration::from_secs(86_400);

type Thread = std::thread::JoinHandle<Result<(), store::Error>>;

/// A role that runs.
pub(super) struct Started {
    pub(super) role: RoleName,
    queue: Option<&'static str>,
    intake: Intake,
    commands: Vec<&'static str>,
    service: Option<Service>,
    pub(super) jobs: mpsc::Sender<Job>,
    writer: Thread,
    relay: Thread,
    relay_stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    gathered: Gathered,
    pub(super) latency: Latency,
    _lock: File,
}

impl Started {
    /// Reads the queue, and does what a role does all the time. Only when the writer is ready: while it recovers, the
    /// queue's deliveries are its own.
    pub(super) fn feed(
        &mut self,
        bus: &JetStream,
        config: &Config,
        in_force: &status::SharedInForce,
        clock: Clock,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let jobs = || self.jobs.clone();
        if let Some(queue) = self.queue {
            let (intake, batch_max) = (self.intake.clone(), config.engine.batch_max);
            let stop = stop.clone();
            let consume = consumer::consume(bus.clone(), queue, batch_max, intake, jobs(), stop);
            self.tasks.push(tokio::spawn(consume));
        }
        if self.role == RoleName::Audit {
            let watch = watched(bus, config)?;
            let watch = advisories::watch(bus.clone(), watch, jobs(), stop.clone());
            let in_force = Arc::clone(in_force);
            let measure = measure::Measuring::new(bus.clone(), config, in_force, jobs(), clock);
            let log = eventlog::Writer::new(config, clock);
            if config.is_hub() {
                let copier = Copier::new(bus, config, clock);
                let run = copier.run(config.audit.alarm_period.0, stop.clone());
                self.tasks.push(tokio::spawn(run));
            }
            let calls = api_calls::watch(bus.clone(), jobs(), clock, stop.clone());
            self.tasks.push(tokio::spawn(calls));
            let fetcher = Fetcher::new(bus.clone(), config, jobs(), clock);
            self.tasks.extend([
                tokio::spawn(fetcher.run(stop.clone())),
                tokio::spawn(watch),
                tokio::spawn(measure.run(stop.clone())),
                tokio::spawn(log.run(stop.clone())),
            ]);
        }
        Ok(())
    }

    /// Answers commands, and questions about the role itself.
    pub(super) async fn listen(
        &mut self,
        bus: &JetStream,
        config: &Config,
        in_force: &status::SharedInForce,
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
            if config.privacy.seal {
                let jobs = self.jobs.downgrade();
                let keep = vault::start(bus, &service, config, jobs, clock, &self.relay_stop);
                self.tasks.extend(keep.await?);
            }
            let questions = Server::listen(bus, &service, config).await?;
            let server = Server::new(
                measure::inquiry(bus, config),
                measure::listed(config),
                clock,
            );
            self.tasks
                .extend([tokio::spawn(make), tokio::spawn(server.run(questions))]);
        }
        let names = questions.each_ref().map(String::as_str);
        let questions = bus.listen(&service, site, &names).await?;
        let wishes = bus
            .listen(&service, site, &[&keeper::wish_of(self.role)])
            .await?;
        let keeper = Keeper::new(bus, config, self.role, clock);
        self.service = Some(service);
        let database = status::Database::new(config, self.role)
            .measured(self.gathered.clone())
            .by(Arc::clone(in_force));
        let (jobs, timings) = (self.jobs.clone(), Arc::clone(&self.gathered.commands));
        let (refused, refusals) = audit_notes::refusals();
        let stop = self.relay_stop.clone();
        let bring = audit_notes::bring(bus.clone(), site.clone(), refusals, clock, stop);
        self.tasks.extend([
            tokio::spawn(commands::serve(commands, jobs, timings, refused, clock)),
            tokio::spawn(bring),
            tokio::spawn(status::serve(questions, database, clock)),
            tokio::spawn(keeper.run(wishes)),
        ]);
        Ok(())
    }

    /// What it has done so far.
    pub(super) fn counts(&self) -> Counts {
        self.gathered.counts()
    }

    /// Takes no new work, lets the writer finish and tells the relay to bring out what is left; its thread, and what
    /// became of the writer.
    pub(super) async fn finish(self) -> (Thread, Result<(), store::Error>) {
        self.tasks.iter().for_each(JoinHandle::abort);
        drop(self.service);
        self.relay_stop.cancel();
        drop(self.jobs);
        let (writer, role) = (self.writer, self.role);
        let result = tokio::task::spawn_blocking(move || writer.join()).await;
        let result = match result {
            Ok(Ok(Ok(()))) => {
                tracing::info!(%role, "stopped");
                Ok(())
            }
            Ok(Ok(Err(error))) => {
                tracing::error!(%role, %error, "the store failed");
                Err(error)
            }
            _ => {
                tracing::error!(%role, "the writer panicked");
                Ok(())
            }
        };
        (self.relay, result)
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

/// What has to be there before the role is built: its secrets, and the keys that it makes itself.
fn prepare(config: &Config, name: RoleName, clock: Clock) -> Result<(), Error> {
    registry::check_secrets(config, name).map_err(|(key, message)| Error::Secret {
        role: name,
        key,
        message,
    })?;
    let dir = &config.site.state_dir;
    if !config.privacy.seal && vault::path(dir).exists() {
        let message = "has keys of personal data, but privacy.seal is false, and nobody could read it; set it to true";
        return Err(Error::Keys {
            path: vault::path(dir),
            message: message.to_owned(),
        });
    }
    if name == RoleName::Auth {
        keys::settle(config, clock.now())?;
    }
    Ok(())
}

/// The role's database, brought up to date.
fn open(
    config: &Config,
    name: RoleName,
    migrations: &'static [&'static str],
    clock: Clock,
) -> Result<(Store, PathBuf), Error> {
    let path = config.site.state_dir.join(format!("{name}.db"));
    let options = Options {
        path: path.clone(),
        synchronous: Synchronous::Full,
        site: site(config)?,
        role: name.as_str().to_owned(),
        queue: name.queue().unwrap_or_default().to_owned(),
        codec: config.bus.codec,
    };
    let fresh = Identity {
        store_id: clock.new_id(),
        epoch: format!("{:x}", clock.now().ms()),
    };
    Ok((Store::open(options, migrations, &fresh)?, path))
}

/// The thread that brings the outbox of the database at `path` out, until `stop`.
fn start_relay(
    bus: &JetStream,
    path: &Path,
    name: RoleName,
    settings: publisher::Settings,
    jobs: mpsc::WeakSender<Job>,
    stop: CancellationToken,
) -> Result<Thread, Error> {
    let relay = Relay::new(bus.clone(), path)?;
    let run = move || async move {
        publisher::publish(relay, settings, jobs, stop).await;
        Ok(())
    };
    Ok(on_thread(
        format!("{name}-relay"),
        CancellationToken::new(),
        run,
    ))
}

/// Starts a role; the receiver hears when its writer has recovered.
pub(super) async fn start_role(
    bus: &JetStream,
    config: &Config,
    name: RoleName,
    build: Build<'_>,
    routes: &SharedRoutes,
    stop: &CancellationToken,
    (clock, tracer): (Clock, Option<&Tracer>),
) -> Result<(Started, oneshot::Receiver<()>), Error> {
    let tracer = tracer.map(|tracer| tracer.of(name));
    let lock = lock(&config.site.state_dir, name)?;
    prepare(config, name, clock)?;
    let role = build(config, name).ok_or(Error::NotBuilt(name))?;
    let commands = role.commands().iter().map(|spec| spec.name).collect();
    let (mut store, path) = open(config, name, role.migrations(), clock)?;
    owner::claim(bus, name, &store, clock.now()).await?;
    store.stand_in_for(homes::lacking(&config.depots, name));
    let keys = vault::keys(bus, config, name.as_str(), KEYS_KEPT, clock);
    if let Some(keys) = &keys {
        store.seal_with(Arc::clone(keys));
    }
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
    let engine = engine.traced(tracer.clone());
    let (jobs, receiver) = mpsc::channel(2 * config.engine.batch_max);
    let (acks, ack_receiver) = mpsc::unbounded_channel();
    let (ready, is_ready) = oneshot::channel();
    let (effects, calls) = mpsc::unbounded_channel();
    let (replays, progress) = mpsc::unbounded_channel();
    let runners = Runners::new(registry::runners(config, bus, name), clock).opening_with(keys);
    let runners = Arc::new(runners);
    let calling = make_calls(
        Arc::clone(&runners),
        calls,
        jobs.downgrade(),
        tracer.clone(),
    );
    tokio::spawn(calling);
    let shared = Shared {
        replays,
        effects,
        latency: Latency::default(),
        age: Latency::default(),
        outbox: Arc::default(),
        acks,
        counts: Arc::default(),
        stop: stop.clone(),
    };
    let (hint, latency) = (Arc::clone(&shared.outbox), shared.latency.clone());
    let gathered = Gathered {
        counts: Arc::clone(&shared.counts),
        rules: engine.rules(),
        commands: Arc::default(),
        runners,
        tracer,
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
    let (relay_stop, keep) = (CancellationToken::new(), sync(config).keep());
    let publish = publisher::Settings { keep, hint, clock };
    let (weak, stopping) = (jobs.downgrade(), relay_stop.clone());
    let relay = start_relay(bus, &path, name, publish, weak, stopping)?;
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
    let started = Started {
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
        gathered,
        latency,
        _lock: lock,
    };
    Ok((started, is_ready))
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
