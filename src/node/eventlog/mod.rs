//! The event log's files (DOMAIN 4.3): what the audit role wrote down, a JSON line each, in compressed files under
//! `<state_dir>/log`.
//!
//! A line is in the role's database first, in the commit that handled its event; from there it gets into a file exactly
//! once: every line has its number and the database's id, and the last whole line of the last file says how far the files
//! are. Nothing else is noted anywhere, so no crash can fall between two notes.

mod files;
pub mod search;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use crate::config::Config;
use crate::role::RoleName;
use crate::store::{self, LogLine, Reader};
use files::{Files, Limits};

/// Between two looks for new lines.
const LOOK: Duration = Duration::from_millis(500);
/// Lines in one write and sync at the most.
const BATCH: usize = 2000;

/// Where the files of a state directory are.
#[must_use]
pub fn directory(config: &Config) -> PathBuf {
    config.site.state_dir.join("log")
}

/// Why a line is not in a file yet.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("the event log's files: {0}")]
    Files(#[from] std::io::Error),
}

/// Carries lines from the audit role's database to the files.
#[derive(Debug)]
pub struct Writer {
    database: PathBuf,
    directory: PathBuf,
    limits: Limits,
    clock: Clock,
    open: Option<Opened>,
}

/// Files that are open, and how far they are.
#[derive(Debug)]
struct Opened {
    files: Files,
    reader: Reader,
    store: String,
    done: i64,
    /// Ids that the files have, where the database does not go on where they end.
    had: HashSet<String>,
}

impl Writer {
    /// For the state directory of `config`.
    #[must_use]
    pub fn new(config: &Config, clock: Clock) -> Self {
        Self {
            database: config
                .site
                .state_dir
                .join(format!("{}.db", RoleName::Audit)),
            directory: directory(config),
            limits: Limits {
                file_max: config.audit.log_file_max.0,
                max_age: config.audit.log_max_age.0,
            },
            clock,
            open: None,
        }
    }

    /// Works until told to stop. What is not carried over by then is after the next start.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut complained = false;
        loop {
            // Files and SQLite block.
            let pass = tokio::task::spawn_blocking(move || {
                let result = self.pass();
                (self, result)
            });
            let Ok((this, result)) = pass.await else {
                tracing::error!(
                    "the event log's writer panicked; its lines are kept in the database"
                );
                return;
            };
            self = this;
            match result {
                Ok(()) => complained = false,
                Err(error) => {
                    // Opened anew the next time: the file's own end says what got in.
                    self.open = None;
                    if !complained {
                        tracing::error!(%error, "the event log can't be written, trying again; its lines are kept in the database");
                    }
                    complained = true;
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Carries over everything that is there.
    fn pass(&mut self) -> Result<(), Error> {
        let opened = match &mut self.open {
            Some(opened) => opened,
            none => none.insert(open(
                &self.database,
                &self.directory,
                self.limits,
                self.clock,
            )?),
        };
        loop {
            let lines = opened.reader.log_lines(opened.done, BATCH)?;
            let Some(last) = lines.last().map(|line| line.n) else {
                break;
            };
            let new = lines.iter().filter(|line| !opened.had.contains(&line.id));
            let store = &opened.store;
            opened
                .files
                .append(new.map(|line| (line.at_ms, numbered(line, store))))?;
            opened.done = last;
        }
        opened.files.forget_old(self.clock.now())?;
        Ok(())
    }
}

/// The line as it stands in a file: with its number and whose number that is.
fn numbered(line: &LogLine, store: &str) -> String {
    // The role writes objects that are never empty.
    let fields = line.line.strip_prefix('{').unwrap_or(&line.line);
    format!("{{\"n\":{},\"store\":\"{store}\",{fields}\n", line.n)
}

fn open(database: &Path, directory: &Path, limits: Limits, clock: Clock) -> Result<Opened, Error> {
    let reader = Reader::open(database)?;
    let store = reader
        .store_id()?
        .map(|id| id.to_string())
        .unwrap_or_default();
    let mut files = Files::open(directory, limits)?;
    files.forget_old(clock.now())?;
    let (mut done, mut had) = (0, HashSet::new());
    if let Some(last) = files.last()? {
        let n = last["n"].as_i64().unwrap_or_default();
        let there = reader.log_lines(n - 1, 1)?;
        let same = match there.first().filter(|line| line.n == n) {
            Some(line) => last["eventId"] == line.id.as_str(),
            // Cleared away since, or never given out: then it is an older copy of the database.
            None => reader.last_log_number()? >= n,
        };
        if same && last["store"] == store.as_str() {
            done = n;
        } else {
            tracing::warn!(
                "the event log's files and the audit role's database don't end alike; lines are compared by their ids"
            );
            search::each(directory, None, |line| {
                had.extend(line["eventId"].as_str().map(str::to_owned));
                true
            })?;
        }
    }
    Ok(Opened {
        files,
        reader,
        store,
        done,
        had,
    })
}
