//! `roadcall report export`: facts as a file. The role gives pages of at most a hundred rows; they are joined here.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{Bounds, parquet};
use crate::cli::Connection;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::{print_json, say};

/// The most rows that the role gives at once.
const PAGE: u64 = 100;

#[derive(Debug, Args)]
pub(in crate::cli) struct Export {
    /// Which facts.
    #[arg(long, value_enum, default_value_t = Table::Incidents)]
    table: Table,
    /// How they are written.
    #[arg(long, value_enum)]
    format: Form,
    /// The file, or - for standard output; without it, a name with table and time in this directory.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    bounds: Bounds,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Table {
    Incidents,
    Vendors,
    Payments,
    Kpis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Csv,
    Json,
    Parquet,
}

impl Table {
    fn word(self) -> &'static str {
        match self {
            Self::Incidents => "incidents",
            Self::Vendors => "vendors",
            Self::Payments => "payments",
            Self::Kpis => "kpis",
        }
    }
}

/// All pages of an export.
struct Pages {
    file_name: String,
    columns: Value,
    rows: Vec<Value>,
    text: String,
}

impl Export {
    pub(super) async fn run(self, connection: &Connection) -> Result<ExitCode, Failure> {
        let pages = self.pages(connection).await?;
        let count = pages.rows.len();
        let bytes = match self.format {
            Form::Csv => pages.text.into_bytes(),
            Form::Json => format!("{:#}\n", Value::Array(pages.rows)).into_bytes(),
            Form::Parquet => parquet::written(&pages.columns, &pages.rows)
                .map_err(|error| Failure::other(format!("Parquet: {error}"), ""))?,
        };
        let to_stdout = self.out.as_ref().is_some_and(|out| out.as_os_str() == "-");
        if to_stdout {
            let written = std::io::stdout().lock().write_all(&bytes);
            written.map_err(|error| Failure::other(format!("standard output: {error}"), ""))?;
            return Ok(ExitCode::SUCCESS);
        }
        let named = || PathBuf::from(&pages.file_name);
        let path = self.out.unwrap_or_else(named);
        save(&path, &bytes).map_err(|error| {
            Failure::other(
                format!("{}: {error}", path.display()),
                "give --out a place that can be written",
            )
        })?;
        if connection.json {
            print_json(&json!({ "file": path, "bytes": bytes.len() }))?;
        } else if self.format == Form::Csv {
            say(format_args!("{}: {} bytes", path.display(), bytes.len()))?;
        } else {
            say(format_args!("{}: {count} rows", path.display()))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn pages(&self, connection: &Connection) -> Result<Pages, Failure> {
        let client = Client::open(connection).await?;
        let mut asked = self.bounds.clone().body();
        asked["table"] = self.table.word().into();
        asked["limit"] = PAGE.into();
        // A Parquet file is made of the same objects.
        asked["format"] = json!(if self.format == Form::Csv {
            "csv"
        } else {
            "json"
        });
        let mut pages = Pages {
            file_name: String::new(),
            columns: Value::Null,
            rows: Vec::new(),
            text: String::new(),
        };
        loop {
            let mut reply = client.call("report.export", &asked).await?;
            if pages.file_name.is_empty() {
                reply["fileName"]
                    .as_str()
                    .unwrap_or_default()
                    .clone_into(&mut pages.file_name);
                pages.columns = reply["columns"].take();
            }
            pages.text += reply["content"].as_str().unwrap_or_default();
            if let Value::Array(items) = reply["items"].take() {
                pages.rows.extend(items);
            }
            match reply.get("cursor") {
                Some(cursor) => asked["cursor"] = cursor.clone(),
                None => break,
            }
        }
        if self.format == Form::Parquet {
            pages.file_name = pages.file_name.replace(".json", ".parquet");
        }
        Ok(pages)
    }
}

/// Writes the whole file or none: a full disk leaves no half of one. What is there and no file (a pipe, a device) is
/// written to and not replaced.
fn save(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return std::fs::File::options()
            .write(true)
            .open(path)?
            .write_all(bytes);
    }
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
