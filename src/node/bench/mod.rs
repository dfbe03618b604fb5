//! `roadcall bench`: Roadcall against the least that could be done, on the same broker in the same run (DESIGN 13).
//!
//! `raw` measures the broker and a loop written by hand; `pipeline` runs the real engine,
//! writer, consumer and relay around a role that counts. Every figure is a rate over a backlog that was there before,
//! except the latency, which is measured under a steady rate.

mod keys;
mod pipeline;
mod raw;
pub mod replays;
mod sink;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bus::jetstream::raw::{Raw, RawMessage};
use crate::bus::jetstream::{self, Form, JetStream};
use crate::bus::topology::{self, Desired, QueueSpec};
use crate::bus::{self, Bus};
use crate::event::{Codec, Event, Id, Site, ids};
use crate::role::RoleName;
use crate::routing::Routes;
use crate::store;

/// What to measure, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The broker, which lets clients choose between TLS and the clear.
    pub url: String,
    /// The authority that its certificate is signed by.
    pub ca_file: PathBuf,
    /// An empty directory for databases.
    pub dir: PathBuf,
    /// Events in each backlog.
    pub events: u64,
    /// Events a second for the latency.
    pub rate: u64,
    /// Bytes of an event's body at least.
    pub size: usize,
    /// Inbox rows that are there before.
    pub rows: u64,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// A database.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Something of the bench's own.
    #[error("{0}")]
    Bench(String),
}

/// The least that could be done, events a second.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RawReport {
    /// The better of the two ways to publish.
    pub publish_per_second: u64,
    /// One by one, 256 on their way.
    pub publish_singly_per_second: u64,
    /// In atomic batches of 256.
    pub publish_in_batches_per_second: u64,
    /// Fetch and acknowledge.
    pub fetch_ack_per_second: u64,
    /// Fetch, commit the engine's rows, publish a follow-up, acknowledge.
    pub hand_written_loop_per_second: u64,
}

/// From an event's making to its committed outcome, at a steady rate.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndToEnd {
    /// Events a second that were made.
    pub rate_per_second: u64,
    /// Half of them were handled within so many milliseconds.
    pub p50_ms: u64,
    /// 99 of 100.
    pub p99_ms: u64,
}

/// What Roadcall does, events a second.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoadcallReport {
    /// Inbox, state, one outbox row, ack.
    pub handle_per_second: u64,
    /// Outbox to stream.
    pub relay_per_second: u64,
    /// Both at once.
    pub loop_per_second: u64,
    /// The latency.
    pub end_to_end: EndToEnd,
}

/// What a part of Roadcall costs, measured behind the same work without it, on as many events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// With what.
    pub with: String,
    /// What was done: `handle` or `loop`.
    pub what: String,
    /// With it, events a second.
    pub per_second: u64,
    /// That over the same without it; 1 is no cost.
    pub ratio: f64,
}

/// Spans of the two costs that are traced.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TracingReport {
    /// What the collector took.
    pub spans_exported: u64,
    /// And what there was no room for.
    pub spans_dropped: u64,
}

/// Roadcall over raw.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ratio {
    /// Of fetch and ack; 0.5 is the aim.
    pub handle: f64,
    /// Of the better way to publish; 0.7 is the aim.
    pub relay: f64,
    /// Of the hand-written loop; 0.9 is the aim.
    #[serde(rename = "loop")]
    pub whole: f64,
}

/// One broker's figures.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The broker's `sync_interval`.
    pub sync_mode: String,
    /// The baseline.
    pub raw: RawReport,
    /// Roadcall.
    pub roadcall: RoadcallReport,
    /// What TLS and tracing cost; the first is the same work again, which shows how far two runs of one thing are apart.
    pub costs: Vec<Cost>,
    /// What was traced meanwhile.
    pub tracing: TracingReport,
    /// One over the other.
    pub ratio: Ratio,
}

impl Report {
    /// Figure by figure the median of several runs (of an even number the lower middle one); `None` of none.
    #[must_use]
    pub fn median(runs: &[Self]) -> Option<Self> {
        let values: Option<Vec<Value>> = runs
            .iter()
            .map(|run| serde_json::to_value(run).ok())
            .collect();
        serde_json::from_value(median(&values?)?).ok()
    }
}

/// The median of each number in documents of one shape; of what is no number, the first.
fn median(values: &[Value]) -> Option<Value> {
    let first = values.first()?;
    match first {
        Value::Object(map) => {
            let of = |key: &String| {
                let all: Option<Vec<Value>> =
                    values.iter().map(|value| value.get(key).cloned()).collect();
                Some((key.clone(), median(&all?)?))
            };
            map.keys().map(of).collect::<Option<_>>().map(Value::Object)
        }
        Value::Array(items) => {
            let of = |at: usize| {
                let all: Option<Vec<Value>> =
                    values.iter().map(|value| value.get(at).cloned()).collect();
                median(&all?)
            };
            let items = (0..items.len()).map(of).collect::<Option<_>>();
            items.map(Value::Array)
        }
        Value::Number(_) => {
            let mut numbers: Vec<&Value> = values.iter().collect();
            numbers.sort_by(|one, other| {
                one.as_f64()
                    .unwrap_or_default()
                    .total_cmp(&other.as_f64().unwrap_or_default())
            });
            numbers.get((numbers.len() - 1) / 2).copied().cloned()
        }
        other => Some(other.clone()),
    }
}

/// The backlog's subject filter, and that of the latency's events.
const BACKLOG: &str = "roadcall.*.incident.IncidentRated.*";
const STEADY: &str = "roadcall.*.incident.WorkStarted.*";
/// Entities that the events are about.
const ENTITIES: u64 = 1000;

const RULES: &str = r#"
[[rule]]
name = "bench-backlog"
pattern = { source = ["roadcall.incident"], detail-type = ["IncidentRated"] }
targets = [{ queue = "vendor-queue" }, { queue = "match-queue" }, { queue = "telephony-queue" }, { queue = "payment-approval-queue" },
    { queue = "kb-queue" }, { queue = "incident-queue" }, { queue = "notifications-queue" }, { queue = "reporting-queue" }]

[[rule]]
name = "bench-steady"
pattern = { source = ["roadcall.incident"], detail-type = ["WorkStarted"] }
targets = [{ queue = "tracking-queue" }]
"#;

/// Measures everything on one broker; `tell` gets the name of each step before it begins.
///
/// # Errors
/// The broker or a database failed.
pub async fn run(options: &Options, sync_mode: &str, tell: impl Fn(&str)) -> Result<Report, Error> {
    let form = match sync_mode {
        "always" => Form::Batches,
        _ => Form::Pipelined,
    };
    let bus = connect(&options.url, form, None).await?;
    let in_tls = connect(&options.url, form, Some(options.ca_file.clone())).await?;
    let routes = Routes::parse(RULES).map_err(|error| Error::Bench(error.to_string()))?;
    make_topology(&bus).await?;
    let raw = Raw::connect(&options.url).await?;
    tell("raw publish");
    let (singly, in_batches) = raw::publish(&raw, options).await?;
    tell("raw fetch and ack");
    let fetch_ack = raw::fetch_ack(&raw, options).await?;
    tell("hand-written loop");
    let hand_written = raw::hand_written_loop(&raw, options, form).await?;
    let in_tls = pipeline::Bench::new(in_tls, options, routes.clone());
    let bench = pipeline::Bench::new(bus, options, routes);
    tell("roadcall: loop");
    let whole = bench.whole_loop(RoleName::Match, "loop").await?;
    tell("roadcall: handle");
    let handle = bench.handle().await?;
    tell("roadcall: relay");
    let relay = bench.relay().await?;
    let (handled, tracing) = handle_with(&bench, &tell).await?;
    let sealing = sealing(&bench, &tell).await?;
    tell("roadcall: loop in TLS");
    let whole_in_tls = in_tls.whole_loop(RoleName::Incident, "loop-tls").await?;
    tell("roadcall: end to end");
    let end_to_end = bench.end_to_end().await?;
    let publish = singly.max(in_batches);
    let mut costs: Vec<Cost> = handled
        .into_iter()
        .map(|(with, rate)| Cost::of(with, "handle", rate, handle))
        .collect();
    costs.insert(
        1,
        Cost::of("TLS to the broker", "loop", whole_in_tls, whole),
    );
    costs.push(sealing);
    Ok(Report {
        sync_mode: sync_mode.to_owned(),
        ratio: Ratio {
            handle: ratio(handle, fetch_ack),
            relay: ratio(relay, publish),
            whole: ratio(whole, hand_written),
        },
        costs,
        tracing,
        raw: RawReport {
            publish_per_second: publish,
            publish_singly_per_second: singly,
            publish_in_batches_per_second: in_batches,
            fetch_ack_per_second: fetch_ack,
            hand_written_loop_per_second: hand_written,
        },
        roadcall: RoadcallReport {
            handle_per_second: handle,
            relay_per_second: relay,
            loop_per_second: whole,
            end_to_end,
        },
    })
}

fn ratio(one: u64, other: u64) -> f64 {
    (one as f64 / other.max(1) as f64 * 1000.0).round() / 1000.0
}

impl Cost {
    fn of(with: &str, what: &str, per_second: u64, without: u64) -> Self {
        Self {
            with: with.to_owned(),
            what: what.to_owned(),
            per_second,
            ratio: ratio(per_second, without),
        }
    }
}

/// What it costs to seal a text in each follow-up and to look at it once: beside the same follow-ups with the text in clear.
async fn sealing(bench: &pipeline::Bench<'_>, tell: &impl Fn(&str)) -> Result<Cost, Error> {
    tell("roadcall: handle, a text in each follow-up");
    let plain = bench.handle_personal(RoleName::Reporting, None).await?;
    tell("roadcall: handle, a sealed text in each follow-up");
    let keys = Arc::new(keys::Ready::new());
    let sealed = bench
        .handle_personal(RoleName::Notifications, Some(keys))
        .await?;
    Ok(Cost::of("a personal text sealed", "handle", sealed, plain))
}

/// The same work as `handle` does, behind it and on as many events, with one thing more each time. What else is to be compared
/// takes a queue of its own here and in [`make_topology`].
async fn handle_with(
    bench: &pipeline::Bench<'_>,
    tell: &impl Fn(&str),
) -> Result<(Vec<(&'static str, u64)>, TracingReport), Error> {
    let sink = sink::Sink::start().await?;
    tell("roadcall: handle again");
    let again = bench.handle_as(RoleName::Kb, "again", None).await?;
    tell("roadcall: handle, a tenth traced");
    let (tenth, few) = bench
        .handle_traced(RoleName::Telephony, &sink.url, 0.1)
        .await?;
    tell("roadcall: handle, all traced");
    let (all, many) = bench
        .handle_traced(RoleName::Payments, &sink.url, 1.0)
        .await?;
    let rates = vec![
        ("nothing else, again", again),
        ("a tenth of all traces", tenth),
        ("all traces", all),
    ];
    let spans = TracingReport {
        spans_exported: few.exported + many.exported,
        spans_dropped: few.dropped + many.dropped,
    };
    Ok((rates, spans))
}

async fn connect(url: &str, publish: Form, ca_file: Option<PathBuf>) -> Result<JetStream, Error> {
    let config = jetstream::Config {
        url: url.to_owned(),
        credentials: None,
        identity: None,
        ca_file,
        name: "roadcall-bench".to_owned(),
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(10),
        publish,
    };
    Ok(JetStream::connect(config).await?)
}

async fn make_topology(bus: &JetStream) -> Result<(), Error> {
    let queue = |role: RoleName, filter: &str| QueueSpec {
        name: role.queue().unwrap_or_default().to_owned(),
        filters: vec![filter.to_owned()],
        rules: String::new(),
        ack_wait: Duration::from_secs(300),
        max_deliver: 3,
        max_ack_pending: 1024,
    };
    let desired = Desired {
        site: "hub".to_owned(),
        archive_max_age: Duration::from_secs(86_400),
        archive_max_bytes: None,
        letter_max_age: Duration::from_secs(86_400),
        replicas: 1,
        copies_max_age: Duration::from_secs(86_400),
        queues: vec![
            queue(RoleName::Vendor, BACKLOG),
            queue(RoleName::Match, BACKLOG),
            queue(RoleName::Telephony, BACKLOG),
            queue(RoleName::Payments, BACKLOG),
            queue(RoleName::Kb, BACKLOG),
            queue(RoleName::Incident, BACKLOG),
            queue(RoleName::Notifications, BACKLOG),
            queue(RoleName::Reporting, BACKLOG),
            queue(RoleName::Tracking, STEADY),
        ],
        links: Vec::new(),
    };
    for change in topology::plan(bus, &desired).await? {
        topology::apply(bus, &change).await?;
    }
    Ok(())
}

fn site() -> Site {
    Site::new("hub").expect("a constant that the grammar allows")
}

fn entity(n: u64) -> Id {
    ids::derive_v8(1, &[b"bench", &(n % ENTITIES).to_be_bytes()])
}

/// An event as a message, its body filled up to `size` bytes by a field that nobody knows.
fn message(mut event: Event, size: usize) -> Result<RawMessage, Error> {
    let encode = |event: &Event| {
        crate::event::encode(event, Codec::Json).map_err(|error| Error::Bench(error.to_string()))
    };
    let short = size.saturating_sub(encode(&event)?.len() + r#","padding":"""#.len());
    if short > 0 {
        let padding = "x".repeat(short);
        event.detail.insert("padding".to_owned(), padding.into());
    }
    Ok(RawMessage {
        subject: event.subject().to_string(),
        msg_id: event.id.to_string(),
        body: encode(&event)?.into(),
    })
}

fn per_second(events: u64, taken: Duration) -> u64 {
    (events as f64 / taken.as_secs_f64()).round() as u64
}

fn database(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.db"))
}

/// Waits until the stream has taken `count` more messages than `before`.
async fn stream_grew(bus: &JetStream, before: u64, count: u64) -> Result<(), Error> {
    while bus.stream(bus::EVENTS).await?.last_seq < before + count {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_median_is_taken_figure_by_figure() {
        let runs = [
            json!({ "mode": "2m", "raw": { "rate": 10, "ratio": 0.5 }, "costs": [{ "with": "a", "ratio": 3 }] }),
            json!({ "mode": "2m", "raw": { "rate": 30, "ratio": 0.25 }, "costs": [{ "with": "a", "ratio": 1 }] }),
            json!({ "mode": "2m", "raw": { "rate": 20, "ratio": 0.75 }, "costs": [{ "with": "a", "ratio": 2 }] }),
        ];
        let expected = json!({ "mode": "2m", "raw": { "rate": 20, "ratio": 0.5 },
            "costs": [{ "with": "a", "ratio": 2 }] });
        assert_eq!(median(&runs), Some(expected));
        assert_eq!(median(&[]), None);
    }
}
