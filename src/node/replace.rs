//! A new box in the place of a depot's dead one (DESIGN 8, Replacing a box), from what the hub has: the depot's events and the
//! copies of its snapshots.
//!
//! The order matters. The hub's consumer begins anew before the archive is made, or the archive gets only what the dead box had
//! not acknowledged (BROKER 2). The depot's own events come next, and the consumer that the hub reads them by is made only then,
//! behind them, or the hub gets all of them again. Run again, it goes on where it broke off.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::import::{self, Resent};
use super::inquiry::Inquiry;
use super::preflight::guard_archive;
use super::resend::Question;
use super::resend::ask::{self, Asker};
use super::run::{self, desired, routes, settle_topology};
use super::snapshot::copies::{self, Copier};
use super::snapshot::restore::{self, Restored};
use super::vault::{escrow, site_key};
use super::{measure, snapshot};
use crate::bus::jetstream::JetStream;
use crate::bus::links::{HUB, Link};
use crate::bus::{self, Bus, EVENTS};
use crate::config::Config;
use crate::event::Actor;
use crate::node::clock::Clock;
use crate::role::RoleName;

/// How often the hub is asked whether it is there.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Why a box could not be replaced. Nothing is lost by it; the command can be run again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// The hub.
    #[error(transparent)]
    Ask(#[from] ask::Error),
    /// Its events.
    #[error(transparent)]
    Import(#[from] import::Error),
    /// The streams.
    #[error(transparent)]
    Node(#[from] run::Error),
    /// The copies of the snapshots.
    #[error(transparent)]
    Copies(#[from] copies::Error),
    /// The site's key.
    #[error(transparent)]
    SiteKey(#[from] site_key::Error),
    /// The keys of personal data.
    #[error("the keys of personal data: {0}")]
    Keys(String),
    /// A role's database.
    #[error("role {role}: {error}")]
    Restore {
        /// The role.
        role: RoleName,
        /// Why not.
        error: Box<snapshot::Error>,
    },
}

/// What was done.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replaced {
    /// Events of this site that came back from the hub.
    pub events: u64,
    /// Keys of personal data that came back from the hub.
    pub keys: usize,
    /// The databases that were restored.
    pub restored: Vec<Restored>,
    /// Roles of which the hub has no snapshot: they begin with an empty database and go through the archive.
    pub without: Vec<RoleName>,
}

/// Replaces the box; `roles` are those that it runs. `tell` hears of each step.
///
/// # Errors
/// See [`Error`].
pub async fn replace(
    bus: &JetStream,
    config: &Config,
    roles: &[RoleName],
    patience: Duration,
    tell: impl Fn(&str),
) -> Result<Replaced, Error> {
    let site = config.site.id.as_str();
    let asker = Asker::new(bus, site);
    tell("waiting for the hub");
    await_hub(&asker, site, patience).await?;
    let there = bus.stream(EVENTS).await;
    if matches!(there, Err(bus::Error::Missing(_))) {
        asker.ask(HUB, site, Question::Anew).await?;
    }
    guard_archive(bus, config).await?;
    let routes = routes(config)?;
    let mut wanted = desired(config, &routes, roles);
    for link in &mut wanted.links {
        link.gives.clear();
    }
    settle_topology(bus, &wanted, true).await?;
    tell("bringing this site's events back");
    let events = refill(bus, &asker, site).await?;
    give_from_here(bus, site).await?;
    settle_topology(bus, &desired(config, &routes, roles), true).await?;
    let keys = bring_keys_back(bus, config, &tell).await?;
    tell("bringing the snapshots back");
    let mut copier = Copier::new(bus, config, Clock);
    let snapshots = copies::bring_back(&mut copier).await?;
    let mut replaced = Replaced {
        events,
        keys,
        ..Replaced::default()
    };
    let inquiry: Inquiry = Inquiry {
        actor: Actor::System("node".to_owned()).to_string(),
        ..measure::inquiry(bus, config)
    };
    for role in roles {
        let newest = snapshots.iter().find(|snapshot| snapshot.role == *role);
        let Some(newest) = newest else {
            replaced.without.push(*role);
            continue;
        };
        // One that is there was restored by a run before this one, or its role has begun since.
        if snapshot::Subject::new(config, *role).path.exists() {
            continue;
        }
        let restored = restore::restore(&inquiry, *role, Some(newest.id), false).await;
        replaced
            .restored
            .push(restored.map_err(|error| Error::Restore {
                role: *role,
                error: Box::new(error),
            })?);
    }
    Ok(replaced)
}

/// The keys of persons first: without them what the snapshots have of them can't be read. Whoever was erased meanwhile stays so.
async fn bring_keys_back(
    bus: &JetStream,
    config: &Config,
    tell: &impl Fn(&str),
) -> Result<usize, Error> {
    if !config.privacy.seal {
        return Ok(0);
    }
    tell("bringing the keys of personal data back");
    let mut store = site_key::open(config)?;
    escrow::restore(&mut store, bus, config)
        .await
        .map_err(|rejection| Error::Keys(rejection.message))
}

async fn await_hub(asker: &Asker, site: &str, patience: Duration) -> Result<(), Error> {
    let asked = async {
        loop {
            match asker.ask(HUB, site, Question::Ends).await {
                Err(ask::Error::Call { .. }) => tokio::time::sleep(ASK_EVERY).await,
                answer => return answer,
            }
        }
    };
    match tokio::time::timeout(patience, asked).await {
        Ok(answer) => answer.map(|_| ()).map_err(Into::into),
        Err(_) => Err(ask::Error::Said {
            site: HUB.to_owned(),
            said: "does not answer over the link".to_owned(),
        }
        .into()),
    }
}

/// Publishes this site's events as the hub has them, in their order; gives how many were not here.
async fn refill(bus: &JetStream, asker: &Asker, site: &str) -> Result<u64, Error> {
    let mut own = Resent::own(bus, site).await?;
    let mut from_seq = 0;
    loop {
        let answer = asker.ask(HUB, site, Question::All { from_seq }).await?;
        own.add(&answer.records).await?;
        match answer.next_seq {
            Some(next) => from_seq = next,
            None => return Ok(own.end().await?),
        }
    }
}

/// Makes the consumer that the hub reads by, behind what it has, unless it is there.
async fn give_from_here(bus: &JetStream, site: &str) -> Result<(), bus::Error> {
    let link = Link::up(site);
    let name = link.consumer();
    let asked = format!("CONSUMER.INFO.{EVENTS}.{name}");
    match bus.api(&asked, &serde_json::Value::Null).await {
        Err(bus::Error::Missing(_)) => {}
        known => return known.map(|_| ()),
    }
    let last = bus.stream(EVENTS).await?.last_seq;
    let mut config = link.given(site, 1);
    config["deliver_policy"] = json!("by_start_sequence");
    config["opt_start_seq"] = json!(last + 1);
    let request = json!({ "stream_name": EVENTS, "config": config, "action": "create" });
    bus.api(&format!("CONSUMER.CREATE.{EVENTS}.{name}"), &request)
        .await
        .map(|_| ())
}
