//! Very many breakdowns at the same time, for `roadcall bench`: how long each driver waits for a vendor.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use super::phone::Line;
use super::story::{Cast, Script, Story, back_office};
use super::{TRACE, parse_trace, settle};
use crate::bus::jetstream::JetStream;
use crate::bus::{Bus, EVENTS};
use crate::cli::client::{Client, connect};
use crate::cli::failure::Failure;
use crate::config::Config;
use crate::event::Ts;
use crate::node::clock::Clock;
use crate::node::latency::Latency;
use crate::node::run::Node;
use crate::role::RoleName;

/// How long anything that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// So many vendors and drivers are registered at once.
const CASTING: usize = 40;
/// What the aim of matching is counted by.
const AIM: Duration = Duration::from_secs(60);

/// What driving incidents came to.
pub(in crate::cli) struct Driven {
    /// How many had a vendor on the spot in the end.
    pub arrived: usize,
    /// How many were paid for and closed.
    pub closed: usize,
    /// From the first call to the last closed file.
    pub took: Duration,
    /// From the call to the first offer to a vendor.
    pub offered: Waits,
    /// From the call to the assigned vendor.
    pub assigned: Waits,
    /// From the archive to the committed outcome, all roles' events.
    pub latency: Latency,
}

/// How long drivers waited.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::cli) struct Waits {
    /// Half of them so long or shorter, milliseconds.
    pub p50_ms: i64,
    /// 99 of a hundred.
    pub p99_ms: i64,
    /// The longest of those that ended.
    pub max_ms: i64,
    /// Which part of all incidents was done within a minute; one that never was is not.
    pub within_60_s: f64,
}

impl Waits {
    /// Of `all` incidents those in `waits` were done.
    fn of(mut waits: Vec<i64>, all: usize) -> Self {
        waits.sort_unstable();
        let at = |share: f64| {
            let last = waits.len().saturating_sub(1);
            let index = (share * last as f64).ceil() as usize;
            waits.get(index).copied().unwrap_or(0)
        };
        let aim_ms = i64::try_from(AIM.as_millis()).unwrap_or(i64::MAX);
        let within = waits.iter().filter(|wait| **wait <= aim_ms).count();
        Self {
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
            within_60_s: within as f64 / all.max(1) as f64,
        }
    }
}

/// Runs a site on the broker of `config`, lets so many drivers call for help at the same time, plays every incident to its
/// end, and shows nothing.
pub(in crate::cli) async fn drive(
    config: &Config,
    incidents: u32,
    pace: f64,
) -> Result<Driven, Failure> {
    let mut config = config.clone();
    let line = Line::connect(&mut config)?;
    let config = &config;
    let trace = parse_trace(TRACE).map_err(|error| Failure::other(error, ""))?;
    let bus = connect(config, "roadcall-bench").await?;
    let node = Node::start(bus.clone(), config, &RoleName::BUILT, true).await?;
    let apps = connect(config, "roadcall-bench-apps").await?;
    let client = Client::new(apps, &config.site.id, "operator:bench").waiting(PATIENCE);
    back_office(&client).await?;
    let script = Script {
        client,
        line: &line,
        trace: &trace,
        pace,
        patience: PATIENCE,
    };
    let casting = (0..incidents).map(|n| script.cast(n));
    let casting = futures::stream::iter(casting).buffered(CASTING);
    let casts: Vec<Cast> = casting.try_collect().await?;
    settle(&bus, PATIENCE).await?;
    let started = Clock.now();
    let stories = casts.into_iter().map(|cast| script.play(cast));
    let ended = futures::future::try_join_all(stories).await?;
    let took = Clock.since(started);
    settle(&bus, PATIENCE).await?;
    let driven = Driven {
        arrived: ended.iter().filter(|story| story.arrived).count(),
        closed: ended.iter().filter(|story| story.closed).count(),
        took,
        offered: waits(&bus, "match.OfferCreated", &ended).await?,
        assigned: waits(&bus, "incident.IncidentAssigned", &ended).await?,
        latency: node.latency(),
    };
    node.shutdown(Duration::from_secs(10)).await?;
    Ok(driven)
}

/// From each call to when the archive took the first event of a kind about its incident: the broker's clock is ours.
async fn waits(bus: &JetStream, what: &str, stories: &[Story]) -> Result<Waits, Failure> {
    let subject = format!("roadcall.*.{what}.*");
    let mut first: BTreeMap<String, Ts> = BTreeMap::new();
    let mut from = 1;
    loop {
        let stored = bus.read(EVENTS, &subject, from, 1000, true).await?;
        let Some(last) = stored.last() else {
            break;
        };
        from = last.seq + 1;
        for message in &stored {
            let incident = message.subject.rsplit('.').next().unwrap_or_default();
            first
                .entry(incident.to_owned())
                .or_insert(Ts::from_ms(message.received_at_ms));
        }
    }
    let ended = stories.iter().filter_map(|story| {
        let at = first.get(&story.incident)?;
        Some(at.ms() - story.called.ms())
    });
    Ok(Waits::of(ended.collect(), stories.len()))
}
