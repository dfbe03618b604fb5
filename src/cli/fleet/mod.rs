//! `roadcall config render|plan|apply|rollback`: a fleet's configuration in one directory, and its way to the sites.

mod plan;
mod rollout;
mod target;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use self::plan::plan;
use self::rollout::{apply, rollback};
use self::target::{known, named};
use super::Connection;
use super::failure::Failure;
use super::output::{print_json, say};
use crate::config::depots::write_secret;
use crate::config::fleet::Fleet;
use crate::config::fleet::versions::dir_of;

#[derive(Debug, Subcommand)]
pub(super) enum FleetVerb {
    /// Print what a site (`--site ID`) gets of a fleet directory, secrets masked; with `--out` write it as it is.
    Render {
        #[command(flatten)]
        from: From,
        /// Write the files into this directory, secrets and all.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Compare what a site has with what the fleet directory says, key by key; exit 2 if something differs.
    ///
    /// The site is this machine's, or with `--sites-root` those of `--site ID,…`, all of them else. Says of each key whether a
    /// running process takes it over (live) or needs a restart, and what each process of this machine runs by.
    Plan {
        #[command(flatten)]
        from: From,
        #[command(flatten)]
        at: At,
    },
    /// Bring sites to what the fleet directory says (changes them).
    ///
    /// Everything is checked before anything is touched (exit 64). The canaries come first. A site gets its files in one step,
    /// reloads, is restarted where that is needed and possible, and must become healthy: else it goes back to what it had, the
    /// sites behind it are left alone, and the exit code is 1. The last three versions are kept.
    Apply {
        #[command(flatten)]
        from: From,
        #[command(flatten)]
        at: At,
        /// Sites that come first; else the canaries of fleet.toml.
        #[arg(long, value_delimiter = ',', value_name = "SITE")]
        canary: Vec<String>,
        /// Really do it.
        #[arg(long)]
        yes: bool,
    },
    /// Take a site back to the version before (changes it); with `--sites-root` the sites of `--site ID,…`.
    Rollback {
        /// The fleet directory, for the commands of its fleet.toml.
        #[arg(long, value_name = "DIR")]
        fleet: Option<PathBuf>,
        #[command(flatten)]
        at: At,
        /// Really do it.
        #[arg(long)]
        yes: bool,
    },
}

/// The fleet.
#[derive(Debug, Args)]
pub(super) struct From {
    /// The fleet directory: base.toml, profiles/, sites/, roles/, fleet.toml.
    #[arg(long, value_name = "DIR")]
    fleet: PathBuf,
}

/// Where the sites are.
#[derive(Debug, Args)]
pub(super) struct At {
    /// Sites that do not run here: DIR/<site> has each one's configuration, mounted or to be copied there.
    #[arg(long, value_name = "DIR")]
    sites_root: Option<PathBuf>,
}

pub(super) async fn fleet(connection: &Connection, verb: &FleetVerb) -> Result<ExitCode, Failure> {
    match verb {
        FleetVerb::Render { from, out } => render(connection, from, out.as_deref()),
        FleetVerb::Plan { from, at } => plan(connection, from, at),
        FleetVerb::Apply { yes: false, .. } => Err(Failure::usage(
            "config apply changes sites",
            "give --yes; roadcall config plan shows what it would do",
        )),
        FleetVerb::Apply {
            from, at, canary, ..
        } => apply(connection, from, at, canary).await,
        FleetVerb::Rollback { yes: false, .. } => Err(Failure::usage(
            "config rollback changes sites",
            "give --yes",
        )),
        FleetVerb::Rollback { fleet, at, .. } => rollback(connection, fleet.as_deref(), at).await,
    }
}

fn render(connection: &Connection, from: &From, out: Option<&Path>) -> Result<ExitCode, Failure> {
    let fleet = Fleet::open(&from.fleet).map_err(Failure::Config)?;
    let sites = named(connection);
    let [site] = sites.as_slice() else {
        return Err(Failure::usage("whose configuration?", "give one --site ID"));
    };
    known(&fleet, site)?;
    let version = fleet.version(site).map_err(Failure::Config)?;
    if let Some(out) = out {
        for (file, text) in &version.files {
            let path = out.join(file);
            let failed =
                |error: std::io::Error| Failure::other(format!("{}: {error}", path.display()), "");
            std::fs::create_dir_all(dir_of(&path)).map_err(failed)?;
            write_secret(&path, text).map_err(failed)?;
        }
        say(format_args!("{} is in {}", version.digest, out.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    if connection.json {
        let files: serde_json::Map<String, Value> = version
            .masked()
            .map(|(file, text)| (file.display().to_string(), text.into()))
            .collect();
        print_json(&json!({ "site": site, "version": version.digest, "files": files }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for (file, text) in version.masked() {
        say(format_args!("## {}\n{text}", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
