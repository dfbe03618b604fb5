//! `roadcall --role …`: runs roles until told to stop.

use std::io::IsTerminal;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use super::Connection;
use super::client::connect;
use super::failure::Failure;
use crate::broker::{self, durability::DiskSync};
use crate::config::{BrokerMode, Config, path_dirs};
use crate::event::Ts;
use crate::node::clock::Clock;
use crate::node::run::Node;
use crate::role::RoleName;

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::other(format!("no runtime: {error}"), ""))
}

/// What `--role` asks for.
pub(super) struct Wanted {
    pub roles: Vec<RoleName>,
    pub broker_only: bool,
    all: bool,
}

impl Wanted {
    /// Whether the process runs the broker itself (DESIGN 9).
    pub(super) fn embedded(&self, config: &Config) -> bool {
        self.broker_only
            || config.broker.mode == BrokerMode::Embedded
            || (config.broker.mode == BrokerMode::Auto && self.all)
    }

    /// The names of the files in `role.d` that count.
    fn files(&self) -> Vec<String> {
        let roles = self.roles.iter().map(ToString::to_string);
        roles
            .chain(self.broker_only.then(|| "broker".to_owned()))
            .collect()
    }
}

pub(super) fn wanted(names: &[String]) -> Result<Wanted, Failure> {
    let mut wanted = Wanted {
        roles: Vec::new(),
        broker_only: false,
        all: false,
    };
    for name in names {
        match name.as_str() {
            "all" => {
                wanted.all = true;
                wanted.roles.extend(RoleName::BUILT);
            }
            "broker" => wanted.broker_only = true,
            other => wanted.roles.push(other.parse().map_err(|error: String| {
                let names: Vec<&str> = RoleName::BUILT.iter().map(|role| role.as_str()).collect();
                Failure::usage(
                    &error,
                    &format!("the roles are {}, all, broker", names.join(", ")),
                )
            })?),
        }
    }
    wanted.roles.sort_unstable();
    wanted.roles.dedup();
    wanted.broker_only &= wanted.roles.is_empty();
    Ok(wanted)
}

/// The names of the files in `role.d` that count for a process of these roles.
pub(super) fn role_files(names: &[String]) -> Result<Vec<String>, Failure> {
    Ok(wanted(names)?.files())
}

pub(super) fn broker_options(config: &Config) -> broker::Options {
    broker::Options {
        binary: (!config.broker.binary.is_empty()).then(|| config.broker.binary.clone().into()),
        path_dirs: path_dirs(),
        site: config.site.id.clone(),
        listen: config.broker.listen.clone(),
        store_dir: config.broker_store_dir(),
        sync_interval: config.broker.sync_interval.clone(),
        max_file_store_bytes: config.broker.max_file_store.0,
        monitor_url: config.broker.monitor_url.clone(),
    }
}

pub(super) fn run(connection: &Connection, names: &[String]) -> Result<ExitCode, Failure> {
    let started = Clock.now();
    let wanted = wanted(names)?;
    let connection = &Connection {
        roles: wanted.files(),
        ..connection.clone()
    };
    let mut config = connection.config()?;
    logging(&config);
    runtime()?.block_on(async {
        let embedded = wanted.embedded(&config);
        let broker = if embedded {
            let running = broker::start(broker_options(&config)).await?;
            config.bus.url.clone_from(&running.url);
            tracing::info!(url = running.url, version = running.version, "broker ready");
            Some(running)
        } else {
            None
        };
        let sync = settle_sync(&mut config, embedded).await;
        tracing::info!(keepSeconds = sync.keep().as_secs(), "{sync}");
        let bus = connect(&config, &format!("roadcall-{}", names.join("-"))).await?;
        let roles = if wanted.broker_only {
            topology_roles(&config)?
        } else {
            wanted.roles.clone()
        };
        let result = serve(bus, &config, &wanted, &roles, embedded, started).await;
        if let Some(broker) = broker {
            broker.shutdown().await;
        }
        result
    })
}

/// How the broker in use syncs; written into `config` in the place of what would be asked of a broker of our own.
pub(super) async fn settle_sync(config: &mut Config, embedded: bool) -> DiskSync {
    if embedded {
        return crate::node::run::sync(config);
    }
    let sync = match config.broker.monitor_url.as_str() {
        "" => DiskSync::Unknown,
        url => broker::monitor::sync_interval(url)
            .await
            .unwrap_or_else(|error| {
                tracing::warn!(error, "the broker's monitoring can't be read");
                DiskSync::Unknown
            }),
    };
    config.broker.sync_interval = match sync {
        DiskSync::Always => "always".to_owned(),
        sync => format!("{}ms", sync.interval().as_millis()),
    };
    sync
}

/// The roles whose queues a site has: `site.roles`.
pub(super) fn topology_roles(config: &Config) -> Result<Vec<RoleName>, Failure> {
    let wanted = wanted(&config.site.roles)?;
    Ok(wanted.roles)
}

async fn serve(
    bus: crate::bus::jetstream::JetStream,
    config: &Config,
    wanted: &Wanted,
    roles: &[RoleName],
    embedded: bool,
    started: Ts,
) -> Result<ExitCode, Failure> {
    let node = if wanted.broker_only {
        let routes = crate::node::run::routes(config)?;
        crate::node::run::guard_archive(&bus, config).await?;
        crate::node::run::settle_topology(
            &bus,
            &crate::node::run::desired(config, &routes, roles),
            true,
        )
        .await?;
        None
    } else {
        Some(Node::start(bus, config, roles, embedded).await?)
    };
    let names: Vec<&str> = wanted.roles.iter().map(|role| role.as_str()).collect();
    let startup_ms = u64::try_from(Clock.since(started).as_millis()).unwrap_or(u64::MAX);
    tracing::info!(
        roles = names.join(","),
        site = config.site.id,
        startupMs = startup_ms,
        "ready"
    );
    // Not under systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let stop = node
        .as_ref()
        .map(|node| node.stop.clone())
        .unwrap_or_default();
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|error| Failure::other(error.to_string(), ""))?;
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(|error| Failure::other(error.to_string(), ""))?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("stopping on SIGTERM"),
        _ = interrupt.recv() => tracing::info!("stopping on SIGINT; a second one stops at once"),
        () = stop.cancelled() => tracing::error!("a role can't go on, stopping"),
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let Some(node) = node else {
        return Ok(ExitCode::SUCCESS);
    };
    tokio::select! {
        result = node.shutdown(config.engine.shutdown_grace.0) => result.map(|()| ExitCode::SUCCESS).map_err(Failure::from),
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
    }
}

/// Logs to stderr: for people on a terminal, else JSON lines.
pub(super) fn logging(config: &Config) {
    use tracing_subscriber::EnvFilter;
    // The client library tells of each connection what we tell ourselves.
    let level = format!("async_nats=warn,{}", config.log.level);
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second call (the demo starts roles in its own process) keeps the first subscriber.
    if std::io::stderr().is_terminal() {
        let _ = builder.try_init();
    } else {
        let _ = builder.json().try_init();
    }
}
