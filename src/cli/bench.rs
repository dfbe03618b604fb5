//! `roadcall bench`: Roadcall against the least that could be done, on brokers of its own, lazy and always syncing.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::Connection;
use super::failure::Failure;
use super::output::{print_json, print_rows, say};
use super::run::broker_options;
use crate::config::Config;
use crate::node::bench::{self, Options, Report};

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
}

impl Bench {
    pub(super) async fn run(self, connection: &Connection) -> Result<ExitCode, Failure> {
        if self.events == 0 || self.rate == 0 {
            return Err(Failure::usage(
                "--events and --rate are over 0",
                "leave them out for 50000 and 10000",
            ));
        }
        for sync_mode in SYNC_MODES {
            let mut runs = Vec::new();
            for round in 1..=self.rounds {
                if self.rounds > 1 {
                    eprintln!("round {round} of {}", self.rounds);
                }
                runs.push(self.on_a_broker(sync_mode).await?);
            }
            let Some(report) = Report::median(&runs) else {
                return Err(Failure::other("nothing was measured", ""));
            };
            if connection.json {
                print_json(&serde_json::to_value(&report).unwrap_or_default())?;
            } else {
                print(connection, &report)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn on_a_broker(&self, sync_mode: &str) -> Result<Report, Failure> {
        let dir = tempfile::tempdir()
            .map_err(|error| Failure::other(format!("no temporary directory: {error}"), ""))?;
        let mut config = Config::default();
        config.site.state_dir = dir.path().to_owned();
        config.broker.listen = "127.0.0.1:0".to_owned();
        config.broker.sync_interval = sync_mode.to_owned();
        let broker = crate::broker::start(broker_options(&config)).await?;
        let options = Options {
            url: broker.url.clone(),
            dir: dir.path().to_owned(),
            events: self.events,
            rate: self.rate,
            size: self.size,
            rows: self.rows,
        };
        let tell = |step: &str| eprintln!("sync_interval {sync_mode}: {step}");
        let result = tokio::select! {
            result = bench::run(&options, sync_mode, tell) => {
                result.map_err(|error| Failure::other(error.to_string(), ""))
            }
            // The broker must not outlive the bench.
            _ = tokio::signal::ctrl_c() => Err(Failure::other("stopped by Ctrl-C", "")),
        };
        broker.shutdown().await;
        result
    }
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
    let latency = &roadcall.end_to_end;
    say(format_args!(
        "from made to handled at {} events/s: p50 {} ms, p99 {} ms",
        latency.rate_per_second, latency.p50_ms, latency.p99_ms
    ))
}
