//! What is looked at before roles run: the broker's durability, an archive that it hides, the databases.

use super::registry;
use super::run::Error;
use crate::broker::durability::{DiskSync, archive_on_disk};
use crate::bus::jetstream::{self, Form, Identity, JetStream};
use crate::bus::{self, Bus};
use crate::config::{Config, is_given, seed_file};
use crate::ops::identities;
use crate::role::RoleName;
use crate::store;

/// Refuses to make a stream EVENTS over one that is on the disk and that our server could not load (BROKER 0 E).
///
/// # Errors
/// [`Error::ArchiveHidden`].
pub async fn guard_archive(bus: &JetStream, config: &Config) -> Result<(), Error> {
    let Some(path) = archive_on_disk(&config.broker_store_dir()) else {
        return Ok(());
    };
    match bus.stream(bus::EVENTS).await {
        Err(bus::Error::Missing(_)) => Err(Error::ArchiveHidden { path }),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}

/// A look at a role's database that changes nothing; `None` where there is none yet, or no such role.
#[must_use]
pub fn inspect_store(config: &Config, role: RoleName) -> Option<Result<store::Inspection, Error>> {
    let migrations = registry::build(config, role)?.migrations();
    let path = config.site.state_dir.join(format!("{role}.db"));
    let there = path.exists();
    there.then(|| store::inspect(&path, migrations).map_err(Error::Store))
}

/// How the broker syncs, of a configuration whose `broker.sync_interval` is that of the broker in use.
#[must_use]
pub fn sync(config: &Config) -> DiskSync {
    let text = &config.broker.sync_interval;
    DiskSync::ours(text, crate::routing::parse_duration(text))
}

/// How to publish many messages to that broker.
#[must_use]
pub fn publish_form(config: &Config) -> Form {
    match sync(config) {
        DiskSync::Every(_) => Form::Pipelined,
        DiskSync::Always | DiskSync::Unknown => Form::Batches,
    }
}

/// As whom a process connects where the broker knows identities.
#[derive(Debug, Clone, Copy)]
pub enum Who<'w> {
    /// Who has the seed of this name.
    Identity(&'w str),
    /// Whoever runs the broker, by a seed that no other process knows.
    Owner(&'w str),
}

/// Whether those who connect prove who they are by the identities of `bus.identities_dir`.
#[must_use]
pub fn has_identities(config: &Config) -> bool {
    !config.bus.identities_dir.is_empty() && config.bus.creds.is_empty()
}

/// Whether somebody's seed is there and nobody else's to read.
///
/// # Errors
/// What is wrong with its file.
pub fn check_identity(config: &Config, who: Who<'_>) -> Result<(), identities::Error> {
    match who {
        Who::Identity(name) if has_identities(config) => {
            let path = seed_file(config, name);
            identities::seed(&path, is_given(&path)).map(drop)
        }
        _ => Ok(()),
    }
}

fn identity(config: &Config, who: Who<'_>) -> Identity {
    match who {
        Who::Owner(seed) => {
            let seed = seed.to_owned();
            Identity::new(move || Ok(seed.clone()))
        }
        Who::Identity(name) => {
            let path = seed_file(config, name);
            let given = is_given(&path);
            Identity::new(move || identities::seed(&path, given).map_err(|error| error.to_string()))
        }
    }
}

/// How a process of this configuration connects, as `name`.
#[must_use]
pub fn connection(config: &Config, name: &str, who: Who<'_>) -> jetstream::Config {
    let (creds, ca) = (&config.bus.creds, &config.tls.ca_file);
    jetstream::Config {
        url: config.bus.url.clone(),
        identity: has_identities(config).then(|| identity(config, who)),
        credentials: (!creds.is_empty()).then(|| creds.into()),
        // Of a server on this machine there is nothing to prove.
        ca_file: (!ca.is_empty() && config.bus.url.starts_with("tls://")).then(|| ca.into()),
        name: name.to_owned(),
        connect_timeout: config.bus.connect_timeout.0,
        request_timeout: config.bus.request_timeout.0,
        publish: publish_form(config),
    }
}
