//! `roadcall tracking …`: sessions, and feeding a recorded drive as if a device sent it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use super::Connection;
use super::client::Client;
use super::failure::Failure;
use super::output::print_json;
use crate::event::{Fix, Point, Ts};
use crate::node::clock::Clock;

#[derive(Debug, Subcommand)]
pub(super) enum TrackingVerb {
    /// Show an incident's session.
    Get {
        /// The incident.
        #[arg(long)]
        incident: Option<String>,
        /// The session.
        session: Option<String>,
    },
    /// Send the fixes of a CSV file (time,lat,lon,speed_kmh) as a vendor (changes data).
    Feed {
        /// The incident.
        #[arg(long)]
        incident: String,
        /// The vendor; short for --as vendor:ID.
        #[arg(long)]
        vendor: String,
        /// So many times faster than recorded.
        #[arg(long, default_value_t = 60.0)]
        pace: f64,
        /// Send each fix twice, in an order drawn from this seed, without waiting.
        #[arg(long)]
        shuffle: Option<u64>,
        /// The file.
        csv: PathBuf,
    },
    /// Send one fix as a vendor (changes data).
    Fix {
        /// The incident.
        #[arg(long)]
        incident: String,
        /// The vendor; short for --as vendor:ID.
        #[arg(long)]
        vendor: String,
        /// Latitude, degrees.
        #[arg(long, allow_negative_numbers = true)]
        lat: f64,
        /// Longitude, degrees.
        #[arg(long, allow_negative_numbers = true)]
        lon: f64,
        /// When it was recorded; now, if absent.
        #[arg(long, value_name = "TIME")]
        at: Option<Ts>,
    },
    /// End a session by hand (changes data).
    Stop {
        /// The incident.
        #[arg(long)]
        incident: String,
    },
}

/// A recorded drive: each fix with its place in time, milliseconds after the first.
pub(super) fn read_trace(path: &Path) -> Result<Vec<(i64, Point)>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::usage(
            &format!("{}: {error}", path.display()),
            "give a CSV file with time,lat,lon,speed_kmh",
        )
    })?;
    parse_trace(&text).map_err(|error| {
        Failure::usage(
            &format!("{}: {error}", path.display()),
            "the columns are time,lat,lon,speed_kmh",
        )
    })
}

pub(super) fn parse_trace(text: &str) -> Result<Vec<(i64, Point)>, String> {
    let mut trace: Vec<(i64, Point)> = Vec::new();
    let mut first_ms = None;
    for (index, line) in text
        .lines()
        .enumerate()
        .skip(1)
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let wrong = |what: &str| format!("line {}: {what}", index + 1);
        let mut columns = line.split(',');
        let time: Ts = columns
            .next()
            .unwrap_or_default()
            .parse()
            .map_err(|error| wrong(&format!("time {error}")))?;
        let mut number = |name: &str| -> Result<f64, String> {
            columns
                .next()
                .unwrap_or_default()
                .parse()
                .map_err(|_| wrong(&format!("{name} is not a number")))
        };
        let (lat, lon) = (number("lat")?, number("lon")?);
        let point = Point::new(lat, lon).map_err(|error| wrong(&error.to_string()))?;
        let first = *first_ms.get_or_insert(time.ms());
        trace.push((time.ms() - first, point));
    }
    if trace.is_empty() {
        Err("has no fixes".to_owned())
    } else {
        Ok(trace)
    }
}

pub(super) async fn tracking(
    connection: &Connection,
    verb: TrackingVerb,
) -> Result<ExitCode, Failure> {
    match verb {
        TrackingVerb::Get { incident, session } => {
            let body = match (incident, session) {
                (Some(incident), _) => json!({ "incidentId": incident }),
                (None, Some(session)) => json!({ "sessionId": session }),
                (None, None) => {
                    return Err(Failure::usage(
                        "which session?",
                        "give --incident ID or a session id",
                    ));
                }
            };
            print_json(
                &Client::open(connection)
                    .await?
                    .call("tracking.get", &body)
                    .await?,
            )?;
        }
        TrackingVerb::Feed {
            incident,
            vendor,
            pace,
            shuffle,
            csv,
        } => {
            if !(pace.is_finite() && pace > 0.0) {
                return Err(Failure::usage(
                    "--pace is not over 0",
                    "60 plays an hour in a minute",
                ));
            }
            let trace = read_trace(&csv)?;
            let client = Client::open(&acting(connection, &vendor)).await?;
            let session = session_of(&client, &incident).await?;
            let last = feed(&client, &session, &trace, pace, shuffle).await?;
            print_json(&last)?;
        }
        TrackingVerb::Fix {
            incident,
            vendor,
            lat,
            lon,
            at,
        } => {
            let client = Client::open(&acting(connection, &vendor)).await?;
            let session = session_of(&client, &incident).await?;
            let point = Point::new(lat, lon)
                .map_err(|error| Failure::usage(&error.to_string(), "give degrees"))?;
            let fix = Fix::at(point, at.unwrap_or_else(|| Clock.now()));
            let body = json!({ "sessionId": session, "fix": fix });
            print_json(&client.call("tracking.report_fix", &body).await?)?;
        }
        TrackingVerb::Stop { incident } => {
            let client = Client::open(connection).await?;
            let body = json!({ "incidentId": incident });
            print_json(&client.call("tracking.stop", &body).await?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn acting(connection: &Connection, vendor: &str) -> Connection {
    Connection {
        acting: Some(format!("vendor:{vendor}")),
        ..connection.clone()
    }
}

async fn session_of(client: &Client, incident: &str) -> Result<Value, Failure> {
    let body = json!({ "incidentId": incident });
    Ok(client.call("tracking.get", &body).await?["sessionId"].clone())
}

async fn feed(
    client: &Client,
    session: &Value,
    trace: &[(i64, Point)],
    pace: f64,
    shuffle: Option<u64>,
) -> Result<Value, Failure> {
    let scaled = |ms: i64| (ms as f64 / pace) as i64;
    let length_ms = scaled(trace.last().map_or(0, |(ms, _)| *ms));
    let now = Clock.now();
    let start_ms = if shuffle.is_some() {
        now.ms() - length_ms
    } else {
        now.ms()
    };
    let fixes: Vec<Fix> = trace
        .iter()
        .map(|(ms, point)| Fix::at(*point, Ts::from_ms(start_ms + scaled(*ms))))
        .collect();
    let mut last = Value::Null;
    if let Some(seed) = shuffle {
        let mut doubled: Vec<&Fix> = fixes.iter().chain(&fixes).collect();
        fastrand::Rng::with_seed(seed).shuffle(&mut doubled);
        for chunk in doubled.chunks(100) {
            last = client
                .call(
                    "tracking.report_fix",
                    &json!({ "sessionId": session, "fixes": chunk }),
                )
                .await?;
        }
        return Ok(last);
    }
    for fix in &fixes {
        tokio::time::sleep(Clock.until(fix.recorded_at).min(Duration::from_secs(60))).await;
        last = client
            .call(
                "tracking.report_fix",
                &json!({ "sessionId": session, "fix": fix }),
            )
            .await?;
    }
    Ok(last)
}
