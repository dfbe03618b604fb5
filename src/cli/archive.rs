//! `roadcall archive …`: the archive as a whole.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::Connection;
use super::client::connect;
use super::event::parse_pattern;
use super::failure::Failure;
use super::output::print_json;
use crate::bus::jetstream::JetStream;
use crate::bus::{Bus, EVENTS};
use crate::event::Ts;
use crate::node::archive::first_at;
use crate::node::clock::Clock;
use crate::node::import;
use crate::node::transfer::{self, Record};

/// Messages in one read or publish.
const PAGE: usize = 1000;

#[derive(Debug, Subcommand)]
pub(super) enum ArchiveVerb {
    /// What the archive holds.
    Info,
    /// Write archived events to a file.
    Export(Export),
    /// Put exported events, this site's and others', into the archive under their old ids (changes data). What is there is
    /// passed over, so that an import that broke off can be run again. They are handled as a replay is: nobody outside is
    /// called. Those of this hub's own depots are handled as if the link had brought them, and it does not bring them again.
    Import {
        /// A file of `archive export`; its end says which format it has: .cbor, else NDJSON.
        file: PathBuf,
    },
    /// Read the whole archive and check ids, schemas and gaps; exit 2 on findings.
    Verify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One JSON object a line.
    Ndjson,
    /// A CBOR sequence (RFC 8742) of the same objects.
    Cbor,
}

#[derive(Debug, Args)]
pub(super) struct Export {
    /// First sequence.
    #[arg(long, conflicts_with = "start")]
    from_seq: Option<u64>,
    /// Last sequence, inclusive.
    #[arg(long, conflicts_with = "end")]
    to_seq: Option<u64>,
    /// Events that the archive took at this time or later.
    #[arg(long, value_name = "TIME")]
    start: Option<Ts>,
    /// Events that the archive took before this time.
    #[arg(long, value_name = "TIME")]
    end: Option<Ts>,
    /// Only events that this pattern matches.
    #[arg(long, value_name = "JSON")]
    pattern: Option<String>,
    /// How to write them.
    #[arg(long, value_enum, default_value_t = Format::Ndjson)]
    format: Format,
    /// The file; it must not exist.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) async fn archive(
    connection: &Connection,
    verb: ArchiveVerb,
) -> Result<ExitCode, Failure> {
    let config = connection.config()?;
    let bus = connect(&config, "roadcall-cli").await?;
    match verb {
        ArchiveVerb::Info => info(&bus).await,
        ArchiveVerb::Export(export) => export.run(&bus).await,
        ArchiveVerb::Import { file } => import(&bus, &config.site.id, &file).await,
        ArchiveVerb::Verify => {
            let found = transfer::verify(&bus, |read| tracing::debug!(read, "verifying")).await?;
            print_json(&serde_json::to_value(&found).unwrap_or(Value::Null))?;
            Ok(ExitCode::from(if found.is_whole() { 0 } else { 2 }))
        }
    }
}

async fn info(bus: &JetStream) -> Result<ExitCode, Failure> {
    let info = bus
        .api(&format!("STREAM.INFO.{EVENTS}"), &Value::Null)
        .await?;
    let state = &info["state"];
    let some = state["messages"].as_u64() > Some(0);
    let time = |name: &str| {
        let text = state[name].as_str()?;
        let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
        some.then(|| Ts::from_ms(time.timestamp_millis()))
    };
    let max_age_ns = info["config"]["max_age"].as_u64().unwrap_or(0);
    print_json(&json!({
        "stream": EVENTS, "firstSeq": state["first_seq"], "lastSeq": state["last_seq"],
        "messages": state["messages"], "bytes": state["bytes"], "firstTime": time("first_ts"),
        "lastTime": time("last_ts"), "maxAgeSeconds": max_age_ns / 1_000_000_000,
    }))?;
    Ok(ExitCode::SUCCESS)
}

fn file_error(path: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::other(format!("{}: {error}", path.display()), "")
}

impl Export {
    async fn run(&self, bus: &JetStream) -> Result<ExitCode, Failure> {
        let pattern = parse_pattern(self.pattern.as_deref())?;
        let state = bus.stream(EVENTS).await?;
        let end_seq = state.last_seq + 1;
        let mut from = match &self.start {
            Some(start) => first_at(bus, start.ms(), state.first_seq, end_seq).await?,
            None => self.from_seq.unwrap_or(state.first_seq),
        };
        let to = match &self.end {
            Some(end) => first_at(bus, end.ms(), state.first_seq, end_seq)
                .await?
                .saturating_sub(1),
            None => self.to_seq.unwrap_or(state.last_seq),
        };
        let file = File::create_new(&self.out).map_err(|error| file_error(&self.out, error))?;
        let mut out = BufWriter::new(file);
        let mut events = 0_u64;
        while from <= to {
            let page = bus.read(EVENTS, "roadcall.>", from, PAGE, false).await?;
            let Some(last) = page.last() else { break };
            from = last.seq + 1;
            for stored in page.iter().filter(|stored| stored.seq <= to) {
                let record = Record::of(stored);
                let wanted = pattern.as_ref().is_none_or(|pattern| {
                    record
                        .event
                        .as_ref()
                        .is_some_and(|event| pattern.matches(event))
                });
                if wanted {
                    self.write(&mut out, &record)?;
                    events += 1;
                }
            }
        }
        // On the disk before it is called done.
        out.flush().map_err(|error| file_error(&self.out, error))?;
        out.get_ref()
            .sync_all()
            .map_err(|error| file_error(&self.out, error))?;
        print_json(&json!({ "file": self.out.display().to_string(), "events": events }))?;
        Ok(ExitCode::SUCCESS)
    }

    fn write(&self, out: &mut impl Write, record: &Record) -> Result<(), Failure> {
        let written = match self.format {
            Format::Ndjson => serde_json::to_writer(&mut *out, record)
                .map_err(|error| error.to_string())
                .and_then(|()| out.write_all(b"\n").map_err(|error| error.to_string())),
            Format::Cbor => ciborium::into_writer(record, out).map_err(|error| error.to_string()),
        };
        written.map_err(|error| file_error(&self.out, error))
    }
}

/// Records of a file, one by one.
fn records(path: &Path) -> Result<Box<dyn Iterator<Item = Result<Record, String>>>, Failure> {
    let file = File::open(path).map_err(|error| file_error(path, error))?;
    let mut reader = BufReader::new(file);
    if path.extension().is_some_and(|end| end == "cbor") {
        return Ok(Box::new(std::iter::from_fn(move || {
            match reader.fill_buf() {
                Ok([]) => None,
                Ok(_) => {
                    Some(ciborium::from_reader(reader.by_ref()).map_err(|error| error.to_string()))
                }
                Err(error) => Some(Err(error.to_string())),
            }
        })));
    }
    Ok(Box::new(reader.lines().map(|line| {
        let line = line.map_err(|error| error.to_string())?;
        serde_json::from_str(&line).map_err(|error| error.to_string())
    })))
}

async fn import(bus: &JetStream, site: &str, path: &Path) -> Result<ExitCode, Failure> {
    let imported = import::run(bus, site, Clock, records(path)?).await;
    let imported = imported.map_err(|error| match error {
        import::Error::Bus(error) => Failure::Bus(error),
        import::Error::NoSource => {
            Failure::other(error.to_string(), "roadcall topology apply makes it")
        }
        import::Error::NotTaken(_) => Failure::other(
            error.to_string(),
            "see roadcall archive info and roadcall check, then import the same file again",
        ),
        import::Error::Record(..) => file_error(path, error),
    })?;
    print_json(&serde_json::to_value(imported).unwrap_or(Value::Null))?;
    Ok(ExitCode::SUCCESS)
}
