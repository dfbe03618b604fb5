//! `roadcall bench`: Roadcall against the least that could be done, on brokers of its own, lazy and always syncing.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::Connection;
use super::demo;
use super::failure::Failure;
use super::output::{print_json, print_rows, say};
use super::run::broker_options;
use crate::config::Config;
use crate::node::bench::{self, Options, Report, replays};
use crate::ops::certificates;

/// The broker's own default, and ours.
const SYNC_MODES: [&str; 2] = ["2m", "always"];

#[derive(Debug, Args)]
pub(super) struct Bench {
    /// Events in each backlog.
    #[arg(long, default_value_t = 50_000)]
    events: u64,
    /// Events a second for the latency.
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// Bytes of an event's body at least.
    #[arg(long, default_value_t = 400)]
    size: usize,
    /// Inbox rows that are there before: the cost of an event should not depend on it.
    #[arg(long, default_value_t = 0)]
    rows: u64,
    /// Runs; each figure is the median of all.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Incidents to drive from the call to a closed file, as `roadcall demo` does, all at once, afterwards.
    #[arg(long, default_value_t = 0)]
    incidents: u32,
    /// So many times faster than it was recorded is the drive of an incident; at 60 a truck reports its place about once a second.
    #[arg(long, default_value_t = 60.0)]
    pace: f64,
    /// Measure nothing but how long a replay takes to bring its first event, from a small archive and from a large one.
    #[arg(long)]
    replay: bool,
    /// Events in the large archive of --replay; the small one has 1000.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(2_000..))]
    archive: u64,
}

/// What driving incidents came to.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Incidents {
    incidents: u32,
    arrived: usize,
    closed: usize,
    took_ms: u64,
    call_to_offer: demo::Waits,
    call_to_assigned: demo::Waits,
    publish_to_handled_ms: Quantiles,
}

#[derive(Debug, Serialize)]
struct Quantiles {
    p50: u64,
    p99: u64,
}

impl Bench {
    pub(super) async fn run(self, connection: &Connection) -> Result<ExitCode, Failure> {
        if !(self.pace.is_finite() && self.pace > 0.0) {
            return Err(Failure::usage(
                "--pace is not over 0",
                "60 plays an hour in a minute",
            ));
        }
        if self.events == 0 || self.rate == 0 {
            return Err(Failure::usage(
                "--events and --rate are over 0",
                "leave them out for 50000 and 10000",
            ));
        }
        if self.replay {
            return self.replays(connection).await;
        }
        for sync_mode in SYNC_MODES {
            let mut runs = Vec::new();
            for round in 1..=self.rounds {
                if self.rounds > 1 {
                    eprintln!("round {round} of {}", self.rounds);
                }
                runs.push(self.measure(sync_mode).await?);
            }
            let Some(report) = Report::median(&runs) else {
                return Err(Failure::other("nothing was measured", ""));
            };
            let incidents = match self.incidents {
                0 => None,
                count => Some(drive_incidents(sync_mode, count, self.pace).await?),
            };
            if connection.json {
                let mut document = serde_json::to_value(&report).unwrap_or_default();
                if let Some(incidents) = &incidents {
                    document["incidents"] = json!(incidents);
                }
                print_json(&document)?;
            } else {
                print(connection, &report)?;
                incidents.as_ref().map_or(Ok(()), print_incidents)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// On a broker that syncs as ours do: an archive is read alike on any.
    async fn replays(&self, connection: &Connection) -> Result<ExitCode, Failure> {
        let measure = async |config: Config| {
            replays::run(&config, self.archive, self.size, |step| eprintln!("{step}"))
                .await
                .map_err(|error| Failure::other(error.to_string(), ""))
        };
        let report = on_a_broker(SYNC_MODES[1], measure).await?;
        if connection.json {
            let mut document = serde_json::to_value(&report).unwrap_or_default();
            document["syncMode"] = json!(SYNC_MODES[1]);
            print_json(&document)?;
            return Ok(ExitCode::SUCCESS);
        }
        let rows: Vec<_> = report
            .replay
            .iter()
            .map(|one| {
                json!({
                    "archived": one.archived, "from first": one.from_first_ms, "from last": one.from_last_ms,
                    "from time": one.from_time_ms, "late entity": one.late_entity_ms,
                    "late pattern": one.late_pattern_ms,
                })
            })
            .collect();
        say(format_args!(
            "milliseconds from replay start to the first event that is handled"
        ))?;
        let columns = [
            "archived",
            "from first",
            "from last",
            "from time",
            "late entity",
            "late pattern",
        ];
        print_rows(connection, &json!(rows), &columns)?;
        let ratio = &report.ratio;
        say(format_args!(
            "large over small, 1 is the aim: from first {}, from last {}, from time {}, late entity {}; handled live a \
             second, last tenth of the large archive over the first: {}",
            ratio.from_first, ratio.from_last, ratio.from_time, ratio.late_entity, ratio.live
        ))?;
        Ok(ExitCode::SUCCESS)
    }

    async fn measure(&self, sync_mode: &str) -> Result<Report, Failure> {
        let measure = async |config: Config| {
            let options = Options {
                url: config.bus.url.clone(),
                ca_file: config.tls.ca_file.clone().into(),
                dir: config.site.state_dir.clone(),
                events: self.events,
                rate: self.rate,
                size: self.size,
                rows: self.rows,
            };
            let tell = |step: &str| eprintln!("sync_interval {sync_mode}: {step}");
            bench::run(&options, sync_mode, tell)
                .await
                .map_err(|error| Failure::other(error.to_string(), ""))
        };
        on_a_broker(sync_mode, measure).await
    }
}

async fn drive_incidents(sync_mode: &str, count: u32, pace: f64) -> Result<Incidents, Failure> {
    eprintln!("sync_interval {sync_mode}: roadcall: {count} incidents");
    let drive = async |config: Config| demo::drive(&config, count, pace).await;
    let driven = on_a_broker(sync_mode, drive).await?;
    Ok(Incidents {
        incidents: count,
        arrived: driven.arrived,
        closed: driven.closed,
        took_ms: u64::try_from(driven.took.as_millis()).unwrap_or(u64::MAX),
        call_to_offer: driven.offered,
        call_to_assigned: driven.assigned,
        publish_to_handled_ms: Quantiles {
            p50: driven.latency.quantile_ms(0.5),
            p99: driven.latency.quantile_ms(0.99),
        },
    })
}

/// Does `work` with a broker of its own that syncs like this, in a directory that goes away.
async fn on_a_broker<T>(
    sync_mode: &str,
    work: impl AsyncFnOnce(Config) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let dir = tempfile::tempdir()
        .map_err(|error| Failure::other(format!("no temporary directory: {error}"), ""))?;
    let mut config = Config::default();
    config.site.state_dir = dir.path().to_owned();
    config.broker.listen = "127.0.0.1:0".to_owned();
    config.broker.sync_interval = sync_mode.to_owned();
    // For clients who ask for it, beside those who do not: what TLS costs is measured on the same broker.
    let names = ["127.0.0.1".to_owned()];
    let files = certificates::settle(&dir.path().join("certs"), &names, false)
        .map_err(|error| Failure::other(error.to_string(), ""))?;
    let text = |path: &Path| path.display().to_string();
    config.tls.ca_file = text(&files.ca);
    config.tls.cert_file = text(&files.cert);
    config.tls.key_file = text(&files.key);
    let mut options = broker_options(&config);
    options.links.clients_choose = true;
    let broker = crate::broker::start(options).await?;
    config.bus.url.clone_from(&broker.url);
    let result = tokio::select! {
        result = work(config) => result,
        // The broker must not outlive the bench.
        _ = tokio::signal::ctrl_c() => Err(Failure::other("stopped by Ctrl-C", "")),
    };
    broker.shutdown().await;
    result
}

fn print_incidents(driven: &Incidents) -> Result<(), Failure> {
    let Incidents {
        incidents,
        arrived,
        closed,
        ..
    } = driven;
    let seconds = driven.took_ms / 1000;
    say(format_args!(
        "{arrived} of {incidents} incidents have a vendor on the spot, {closed} are paid for and closed, {seconds} s after the \
         first call"
    ))?;
    for (what, waits) in [
        ("offered to a vendor", &driven.call_to_offer),
        ("assigned", &driven.call_to_assigned),
    ] {
        say(format_args!(
            "from the call to {what}: p50 {} ms, p99 {} ms, at most {} ms; within 60 s {:.1} %, the aim is 99 %",
            waits.p50_ms,
            waits.p99_ms,
            waits.max_ms,
            waits.within_60_s * 100.0
        ))?;
    }
    let Quantiles { p50, p99 } = driven.publish_to_handled_ms;
    say(format_args!(
        "from published to handled: p50 {p50} ms, p99 {p99} ms"
    ))
}

fn print(connection: &Connection, report: &Report) -> Result<(), Failure> {
    let (raw, roadcall, ratio) = (&report.raw, &report.roadcall, &report.ratio);
    let row = |what: &str, raw: u64, roadcall: u64, ratio: f64, aim: f64| json!({ "what": what, "raw/s": raw, "roadcall/s": roadcall, "ratio": ratio, "aim": aim });
    let rows = json!([
        row(
            "handle",
            raw.fetch_ack_per_second,
            roadcall.handle_per_second,
            ratio.handle,
            0.5
        ),
        row(
            "relay",
            raw.publish_per_second,
            roadcall.relay_per_second,
            ratio.relay,
            0.7
        ),
        row(
            "loop",
            raw.hand_written_loop_per_second,
            roadcall.loop_per_second,
            ratio.whole,
            0.9
        ),
    ]);
    say(format_args!("\nsync_interval {}", report.sync_mode))?;
    print_rows(
        connection,
        &rows,
        &["what", "raw/s", "roadcall/s", "ratio", "aim"],
    )?;
    let costs: Vec<_> = report
        .costs
        .iter()
        .map(|cost| {
            json!({ "with": cost.with, "what": cost.what, "roadcall/s": cost.per_second, "of without": cost.ratio })
        })
        .collect();
    let columns = ["with", "what", "roadcall/s", "of without"];
    print_rows(connection, &json!(costs), &columns)?;
    let tracing = &report.tracing;
    say(format_args!(
        "{} spans were taken by the collector, {} dropped",
        tracing.spans_exported, tracing.spans_dropped
    ))?;
    let latency = &roadcall.end_to_end;
    say(format_args!(
        "from made to handled at {} events/s: p50 {} ms, p99 {} ms",
        latency.rate_per_second, latency.p50_ms, latency.p99_ms
    ))
}
