//! `roadcall --role …`: runs roles until told to stop.

use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::Connection;
use super::certificates::{self, Certificates};
use super::client::check_identity;
use super::failure::Failure;
use super::logging;
use super::reload::Reloader;
use super::roles::{Wanted, settle, topology_roles};
use crate::broker::at_rest::{AtRest, Cipher};
use crate::broker::{self, durability::DiskSync};
use crate::bus::jetstream::JetStream;
use crate::bus::{Bus, EVENTS};
use crate::config::{Config, Profile, StoreCipher, is_given, path_dirs};
use crate::event::Ts;
use crate::gateway::Gateway;
use crate::node;
use crate::node::clock::Clock;
use crate::node::connections::Connections;
use crate::node::identities;
use crate::node::metrics::textfile::Textfile;
use crate::node::preflight::{Who, guard_archive, sync};
use crate::node::run::{Node, desired, routes, settle_topology};
use crate::node::sites::{self, Depots};
use crate::ops::identities::GATEWAY;
use crate::ops::{private, systemd};

/// How often rules that wait for `topology apply` are held against the server.
const LOOK_FOR_TOPOLOGY: Duration = Duration::from_secs(2);

/// How often a server of a cluster looks whether the others are there.
const LOOK_FOR_CLUSTER: Duration = Duration::from_secs(1);

/// How often the hub looks whether depots were added or removed, and a broker whether identities were.
const LOOK_FOR_DEPOTS: Duration = Duration::from_secs(1);

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::other(format!("no runtime: {error}"), ""))
}

pub(super) fn broker_options(config: &Config) -> broker::Options {
    broker::Options {
        identities: None,
        binary: (!config.broker.binary.is_empty()).then(|| config.broker.binary.clone().into()),
        path_dirs: path_dirs(),
        site: config.site.id.clone(),
        listen: config.broker.listen.clone(),
        store_dir: config.broker_store_dir(),
        sync_interval: config.broker.sync_interval.clone(),
        max_file_store_bytes: config.broker.max_file_store.0,
        monitor_url: config.broker.monitor_url.clone(),
        links: sites::broker_links(config),
        at_rest: Some(at_rest(config)),
    }
}

/// Starts the broker of this configuration, which lets in whom `bus.identities_dir` names, where it names anybody.
pub(super) async fn start_broker(config: &Config) -> Result<broker::Running, Failure> {
    let mut options = broker_options(config);
    options.identities = identities::of(config).map_err(|error| {
        Failure::usage(
            &format!("bus.identities_dir: {error}"),
            "see docs/identities.md",
        )
    })?;
    Ok(broker::start(options).await?)
}

/// Where the key of the broker's store is, and whether one is made for a new store: in profile prod.
fn at_rest(config: &Config) -> AtRest {
    let (key_file, named) = config.store_key_file();
    AtRest {
        given: is_given(&key_file),
        key_file,
        named,
        make: config.site.profile == Profile::Prod,
        cipher: match config.broker.store_cipher {
            StoreCipher::ChaChaPoly => Cipher::ChaChaPoly,
            StoreCipher::Aes => Cipher::Aes,
        },
    }
}

pub(super) fn run(connection: &Connection, names: &[String]) -> Result<ExitCode, Failure> {
    let started = Clock.now();
    let (wanted, connection, loaded) = settle(connection, names)?;
    let mut config = loaded.config;
    let logging = logging::start(&config.log.level);
    close(&config);
    let mut reloader = Reloader::new(&connection, &config, logging);
    config.pin_digest();
    runtime()?.block_on(async {
        // From here on: a SIGHUP that comes while starting would end the process else.
        let hangup = on(SignalKind::hangup())?;
        let mut terminate = on(SignalKind::terminate())?;
        let embedded = wanted.embedded(&config);
        let certificates = Certificates::new(&config, embedded);
        let names_wanted = wanted.roles.iter().map(|role| role.as_str());
        for name in names_wanted.chain(wanted.gateway.then_some(GATEWAY)) {
            check_identity(&config, Who::Identity(name))?;
        }
        let mut broker = if embedded {
            systemd::status("starting the broker");
            let running = start_broker(&config).await?;
            config.bus.url.clone_from(&running.url);
            tracing::info!(url = running.url, version = running.version, "broker ready");
            Some(running)
        } else {
            None
        };
        let sync = settle_sync(&mut config, embedded).await;
        tracing::info!(keepSeconds = sync.keep().as_secs(), "{sync}");
        systemd::status("starting the roles");
        let owner = broker.as_ref().and_then(broker::Running::owner);
        let begun = tokio::select! {
            begun = start_patiently(&config, &wanted, names, embedded, owner.as_deref()) => Some(begun),
            _ = terminate.recv() => None,
        };
        let result = match begun {
            Some(Ok(running)) => {
                reloader.announce(wanted.files());
                say_ready(&running, &config, &wanted, started);
                serve(
                    running,
                    broker.as_mut(),
                    &config,
                    (reloader, certificates),
                    (hangup, terminate),
                )
                .await
            }
            Some(Err(failure)) => Err(failure),
            None => {
                tracing::info!("stopping on SIGTERM, before the start was done");
                Ok(ExitCode::SUCCESS)
            }
        };
        if let Some(line) = result
            .as_ref()
            .err()
            .and_then(|error| error.lines().into_iter().next())
        {
            systemd::status(&format!("{}: {}", line.code, line.message));
        }
        if let Some(broker) = broker {
            broker.shutdown().await;
        }
        result
    })
}

/// What is made from here on is for this user alone, and what others may read of it already no longer is.
fn close(config: &Config) {
    private::own_only();
    let (changed, refused) = private::tighten(&config.site.state_dir, &config.broker_store_dir());
    if changed > 0 {
        tracing::warn!(
            changed,
            "others could read files of the state directory or of the broker's store; no longer"
        );
    }
    if let Some(first) = refused.first() {
        let (count, first) = (refused.len(), first.display());
        tracing::warn!(count, %first, "others may read files that this user can't change");
    }
}

fn on(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::other(format!("signals: {error}"), ""))
}

/// How the broker in use syncs; written into `config` in the place of what would be asked of a broker of our own.
pub(super) async fn settle_sync(config: &mut Config, embedded: bool) -> DiskSync {
    if embedded {
        return sync(config);
    }
    let found = match config.broker.monitor_url.as_str() {
        "" => DiskSync::Unknown,
        url => broker::monitor::sync_interval(url)
            .await
            .unwrap_or_else(|error| {
                tracing::warn!(error, "the broker's monitoring can't be read");
                DiskSync::Unknown
            }),
    };
    config.broker.sync_interval = match found {
        DiskSync::Always => "always".to_owned(),
        DiskSync::Unknown => "unknown".to_owned(),
        found => format!("{}ms", found.interval().as_millis()),
    };
    found
}

/// What a process runs beside a broker.
#[derive(Default)]
struct Running {
    node: Option<Node>,
    gateway: Option<Gateway>,
    /// What the broker of this process lets in.
    depots: Option<Depots>,
    /// Whom it lets in.
    keeper: Option<identities::Keeper>,
    /// The broker, where this process runs it.
    broker: Option<JetStream>,
    /// The metrics of a process without a gateway.
    textfile: Option<Textfile>,
}

impl Running {
    /// Whether everything that runs here gets on: each role commits steps, a broker of ours answers.
    fn alive(&self) -> impl Fn() -> futures::future::BoxFuture<'static, bool> + Send + use<> {
        let (pulse, broker) = (self.node.as_ref().map(Node::pulse), self.broker.clone());
        move || {
            let (pulse, broker) = (pulse.clone(), broker.clone());
            let answer = async move {
                if let Some(broker) = &broker
                    && let Err(error) = broker.stream(EVENTS).await
                {
                    tracing::warn!(%error, "the broker does not answer the watchdog");
                    return false;
                }
                match &pulse {
                    Some(pulse) => pulse.felt().await,
                    None => true,
                }
            };
            Box::pin(answer)
        }
    }
}

/// Connects and starts what is wanted; a process that only runs the broker has no node.
async fn start(
    config: &Config,
    wanted: &Wanted,
    names: &[String],
    embedded: bool,
    owner: Option<&str>,
) -> Result<Running, Failure> {
    let name = format!("roadcall-{}", names.join("-"));
    let (roles, gateway) = (&wanted.roles, wanted.gateway);
    let all = Connections::open(config, &name, roles, gateway, owner).await?;
    let bus = all.own().clone();
    let depots = (embedded && config.is_hub()).then(|| Depots::new(bus.clone(), config));
    let keeper = identities::Keeper::new(config).filter(|_| embedded);
    let broker = embedded.then(|| bus.clone());
    let textfile = |all: &Connections| match wanted.gateway {
        true => None,
        false => Textfile::start(all, config, &names.join("-"), &wanted.roles),
    };
    if !wanted.broker_only {
        let node = Node::start(all.clone(), config, &wanted.roles, embedded).await?;
        // Behind the roles of the same process: they answer from its first request on.
        let textfile = textfile(&all);
        let gateway = match wanted.gateway {
            true => Some(Gateway::start(all.of_gateway().clone(), config).await?),
            false => None,
        };
        return Ok(Running {
            node: Some(node),
            gateway,
            depots,
            keeper,
            broker,
            textfile,
        });
    }
    let desired = desired(config, &routes(config)?, &topology_roles(config)?);
    guard_archive(&bus, config).await?;
    settle_topology(&bus, &desired, true).await?;
    Ok(Running {
        depots,
        keeper,
        broker,
        textfile: textfile(&all),
        ..Running::default()
    })
}

/// The same. A server of a cluster has no JetStream before most of the servers are there: it waits for them as they for it.
async fn start_patiently(
    config: &Config,
    wanted: &Wanted,
    names: &[String],
    embedded: bool,
    owner: Option<&str>,
) -> Result<Running, Failure> {
    let in_cluster = embedded && !config.broker.cluster_listen.is_empty();
    let mut told = false;
    loop {
        let error = match start(config, wanted, names, embedded, owner).await {
            Err(Failure::Bus(error) | Failure::Node(node::run::Error::Bus(error)))
                if in_cluster =>
            {
                error
            }
            other => return other,
        };
        if !told {
            tracing::warn!(%error, "the hub's cluster is not there yet, waiting for its other servers");
            systemd::status("waiting for the cluster's other servers");
            told = true;
        }
        tokio::time::sleep(LOOK_FOR_CLUSTER).await;
    }
}

/// Says so once, unless a role could not go on already.
fn say_ready(running: &Running, config: &Config, wanted: &Wanted, started: Ts) {
    if running
        .node
        .as_ref()
        .is_some_and(|node| node.stop.is_cancelled())
    {
        return;
    }
    let mut names: Vec<&str> = wanted.roles.iter().map(|role| role.as_str()).collect();
    names.extend(wanted.gateway.then_some("gateway"));
    names.extend(wanted.broker_only.then_some("broker"));
    let startup_ms = u64::try_from(Clock.since(started).as_millis()).unwrap_or(u64::MAX);
    tracing::info!(
        roles = names.join(","),
        site = config.site.id,
        startupMs = startup_ms,
        "ready"
    );
    systemd::ready(&format!(
        "running {} at {}",
        names.join(", "),
        config.site.id
    ));
}

/// Until a signal or a role ends it.
async fn serve(
    running: Running,
    mut broker: Option<&mut broker::Running>,
    config: &Config,
    (mut reloader, mut certificates): (Reloader, Certificates),
    (mut hangup, mut terminate): (Signal, Signal),
) -> Result<ExitCode, Failure> {
    let watchdog = tokio::spawn(systemd::watch(running.alive()));
    let Running {
        node,
        gateway,
        mut depots,
        mut keeper,
        textfile,
        ..
    } = running;
    let stop = node
        .as_ref()
        .map(|node| node.stop.clone())
        .unwrap_or_default();
    let outdated = node
        .as_ref()
        .map(|node| node.rules_outdated.clone())
        .unwrap_or_default();
    let mut interrupt = on(SignalKind::interrupt())?;
    let mut looks = tokio::time::interval(certificates::LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("stopping on SIGTERM"),
            _ = interrupt.recv() => tracing::info!("stopping on SIGINT; a second one stops at once"),
            () = stop.cancelled() => tracing::error!("a role can't go on, stopping"),
            _ = hangup.recv() => {
                reloader.reload(node.as_ref()).await;
                if let Some(broker) = broker.as_deref_mut().filter(|_| !config.is_hub()) {
                    relink(broker, reloader.links());
                }
                certificates.look(gateway.as_ref(), broker.as_deref());
                continue;
            }
            _ = looks.tick() => {
                certificates.look(gateway.as_ref(), broker.as_deref());
                continue;
            }
            () = outdated.notified() => {
                reloader.look_again();
                continue;
            }
            () = tokio::time::sleep(LOOK_FOR_DEPOTS), if depots.is_some() || keeper.is_some() => {
                if let Some(node) = &node {
                    node.follow_depots().await;
                }
                if let (Some(depots), Some(broker)) = (&mut depots, broker.as_deref_mut()) {
                    depots.look(broker).await;
                }
                if let (Some(keeper), Some(broker)) = (&mut keeper, broker.as_deref_mut()) {
                    keeper.look(broker, depots.as_ref().map(Depots::config));
                }
                if let Some(node) = node.as_ref().filter(|_| reloader.waits()) {
                    reloader.take_waiting(node).await;
                }
                continue;
            }
            () = tokio::time::sleep(LOOK_FOR_TOPOLOGY), if reloader.waits() => {
                if let Some(node) = &node {
                    reloader.take_waiting(node).await;
                }
                continue;
            }
        }
        break;
    }
    watchdog.abort();
    systemd::stopping();
    if let Some(textfile) = textfile {
        textfile.shutdown().await;
    }
    if let Some(gateway) = gateway {
        tokio::select! {
            () = gateway.shutdown() => {}
            _ = interrupt.recv() => return Ok(ExitCode::from(130)),
        }
    }
    let Some(node) = node else {
        return Ok(ExitCode::SUCCESS);
    };
    tokio::select! {
        result = node.shutdown(config.engine.shutdown_grace.0) => result.map(|()| ExitCode::SUCCESS).map_err(Failure::from),
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
    }
}

/// A depot's authorities may be others by now.
fn relink(broker: &mut broker::Running, links: broker::Links) {
    match broker.relink(links) {
        Ok(true) => tracing::info!("the broker has the hub's other authorities"),
        Ok(false) => {}
        Err(error) => tracing::error!(%error, "the broker keeps the hub's authorities that it had"),
    }
}
