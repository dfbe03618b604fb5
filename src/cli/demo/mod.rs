//! `roadcall demo`: a whole site on a broker of its own, and incidents driven through it, from the phone call to a closed
//! file, by the commands that apps use.

mod crowd;
mod phone;
mod show;
mod story;
mod tally;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::Args;
use serde_json::json;

pub(super) use self::crowd::{Waits, drive};
use self::phone::Line;
use self::show::Show;
use self::story::{Script, Story, back_office, until};
use self::tally::{Told, kpis, told};
use super::Connection;
use super::client::{Client, connect};
use super::failure::Failure;
use super::logging;
use super::output::say;
use super::run::broker_options;
use super::tracking::{parse_trace, read_trace};
use crate::bus::jetstream::JetStream;
use crate::bus::{Bus, DLQ, EVENTS};
use crate::config::Config;
use crate::event::Point;
use crate::node::run::Node;
use crate::role::RoleName;

/// A real drive, for those who name no other.
const TRACE: &str = include_str!("../../../tests/data/traces/car-round-trip.csv");

/// How long anything of an incident that is waited for may take on a site with little to do.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// How many incidents.
    #[arg(long, default_value_t = 1)]
    incidents: u32,
    /// A GPS trace that the vendors follow (time,lat,lon,speed_kmh).
    #[arg(long, value_name = "CSV")]
    trace: Option<PathBuf>,
    /// So many times faster than recorded.
    #[arg(long, default_value_t = 60.0)]
    pace: f64,
    /// Keep databases and broker store here.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

impl Demo {
    pub(super) async fn run(self, connection: &Connection) -> Result<ExitCode, Failure> {
        let json = connection.json;
        if !(self.pace.is_finite() && self.pace > 0.0) {
            return Err(Failure::usage(
                "--pace is not over 0",
                "60 plays an hour in a minute",
            ));
        }
        let trace = match &self.trace {
            Some(path) => read_trace(path)?,
            None => parse_trace(TRACE).map_err(|error| Failure::other(error, ""))?,
        };
        let temporary = tempfile::tempdir()
            .map_err(|error| Failure::other(format!("no temporary directory: {error}"), ""))?;
        // Only what is named counts: a demo on a fleet's machine must not send messages to anybody.
        let mut config = if connection.config.is_empty() {
            Config::default()
        } else {
            connection.config()?
        };
        config.site.state_dir = self
            .keep
            .clone()
            .unwrap_or_else(|| temporary.path().to_owned());
        config.broker.listen = "127.0.0.1:0".to_owned();
        // Its broker is its own, and gone with it.
        config.bus.identities_dir.clear();
        config.log.level = "error".to_owned();
        config.privacy.seal = true;
        logging::start(&config.log.level);
        let line = Line::connect(&mut config)?;
        let broker = crate::broker::start(broker_options(&config)).await?;
        config.bus.url.clone_from(&broker.url);
        let result = tokio::select! {
            result = self.site(&config, &line, &trace, json) => result,
            // The broker must not outlive the demo; the rest is in a directory that goes away, or is kept as it is.
            _ = tokio::signal::ctrl_c() => Err(Failure::other("stopped by Ctrl-C", "")),
        };
        broker.shutdown().await;
        result
    }

    async fn site(
        &self,
        config: &Config,
        line: &Line,
        trace: &[(i64, Point)],
        json: bool,
    ) -> Result<ExitCode, Failure> {
        let bus = connect(config, "roadcall-demo").await?;
        let node = Node::start(bus.clone(), config, &RoleName::BUILT, true).await?;
        let apps = connect(config, "roadcall-demo-apps").await?;
        let client = Client::new(apps, &config.site.id, "operator:demo");
        if !json {
            let version = bus.server_version();
            say(format_args!(
                "A whole site runs: {} on nats-server {version}.",
                names()
            ))?;
        }
        let last_seq = Arc::new(OnceLock::new());
        let shown_to = Arc::clone(&last_seq);
        let show =
            Show::new(json, self.incidents).run(bus.clone(), move || shown_to.get().copied());
        let show = tokio::spawn(show);
        let office = back_office(&client).await?;
        let script = Script {
            client: client.clone(),
            line,
            trace,
            pace: self.pace,
            patience: PATIENCE,
        };
        let stories = (0..self.incidents).map(async |n| script.play(script.cast(n).await?).await);
        let ended = futures::future::try_join_all(stories).await?;
        settle(&bus, PATIENCE).await?;
        let mut people = vec![office];
        people.extend(ended.iter().flat_map(|story| story.people.clone()));
        let told = told(&client, &people, json).await?;
        // Nobody else reads or sets it.
        let _ = last_seq.set(bus.stream(EVENTS).await?.last_seq);
        show.await
            .map_err(|error| Failure::other(format!("the timeline: {error}"), ""))??;
        let code = summary(&bus, &node, &ended, &told, json).await?;
        if !json {
            kpis(&client).await?;
        }
        node.shutdown(Duration::from_secs(10)).await?;
        Ok(code)
    }
}

fn names() -> String {
    RoleName::BUILT
        .iter()
        .map(|role| role.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

/// Waits until every queue is empty.
async fn settle(bus: &JetStream, patience: Duration) -> Result<(), Failure> {
    until(patience, "the end of the queues", || async {
        for queue in RoleName::BUILT.iter().filter_map(|role| role.queue()) {
            let state = bus.queue(queue).await?;
            if state.pending + state.ack_pending > 0 {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

async fn summary(
    bus: &JetStream,
    node: &Node,
    stories: &[Story],
    told: &Told,
    json: bool,
) -> Result<ExitCode, Failure> {
    let events = bus.stream(EVENTS).await?.messages;
    let letters = bus.stream(DLQ).await?.messages;
    let arrived = stories.iter().filter(|story| story.arrived).count();
    let closed = stories.iter().filter(|story| story.closed).count();
    let paid = paid(bus).await?;
    let repeated = repeated_effects(bus).await?;
    let latency = node.latency();
    let (p50, p99) = (latency.quantile_ms(0.5), latency.quantile_ms(0.99));
    if json {
        say(json!({
            "incidents": stories.len(), "arrived": arrived, "closed": closed, "paid": paid, "events": events,
            "deadLetters": letters, "duplicateEffects": repeated, "messagesSent": told.sent, "messagesUnsent": told.unsent, "publishToHandledMs": { "p50": p50, "p99": p99 },
        }))?;
    } else {
        say(format_args!(
            "\n{arrived} of {} incidents had a vendor on the spot, {paid} are paid and {closed} closed, {} messages went out. {events} events, {letters} dead letters, \
             {repeated} duplicate effects. From published to handled: p50 {p50} ms, p99 {p99} ms.",
            stories.len(),
            told.sent.values().sum::<u64>()
        ))?;
        for story in stories.iter().filter(|story| !story.closed) {
            say(format_args!(
                "incident {} did not end as it should",
                story.number + 1
            ))?;
        }
    }
    let well = closed == stories.len() && paid == stories.len() && letters == 0 && repeated == 0;
    Ok(ExitCode::from(u8::from(!well)))
}

/// How many payments the archive says were completed.
async fn paid(bus: &JetStream) -> Result<usize, Failure> {
    let mut seen = BTreeMap::new();
    count(bus, "payment.PaymentCompleted", &mut seen).await?;
    Ok(seen.len())
}

/// Counts the archive's events of one source and type by subject.
async fn count(
    bus: &JetStream,
    what: &str,
    seen: &mut BTreeMap<String, u64>,
) -> Result<(), Failure> {
    let subject = format!("roadcall.*.{what}.*");
    let mut from = 1;
    loop {
        let stored = bus.read(EVENTS, &subject, from, 1000, true).await?;
        let Some(last) = stored.last() else {
            return Ok(());
        };
        from = last.seq + 1;
        for message in &stored {
            *seen.entry(message.subject.clone()).or_default() += 1;
        }
    }
}

/// How many incidents' events that happen once are in the archive more than once: an arrival, an assignment.
async fn repeated_effects(bus: &JetStream) -> Result<u64, Failure> {
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for once in [
        "incident.IncidentCreated",
        "tracking.VendorArrived",
        "incident.IncidentAssigned",
        "match.OfferAccepted",
        "payment.PaymentCreated",
        "payment.PaymentCompleted",
    ] {
        count(bus, once, &mut seen).await?;
    }
    Ok(seen.values().map(|count| count - 1).sum())
}
