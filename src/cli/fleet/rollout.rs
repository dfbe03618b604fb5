//! `roadcall config apply|rollback`: the way of a fleet's files to its sites, and back.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::target::{Target, add, check, fleet_for, known, named, targets};
use super::{At, From};
use crate::cli::Connection;
use crate::cli::failure::Failure;
use crate::cli::output::{print_json, say};
use crate::config::fleet::{Fleet, FleetLayers, Rollout, versions};
use crate::config::{self, Config};
use crate::event::Actor;
use crate::node::rollout::{self, Done, Here, Place};
use crate::role::permission::Caller;

/// The site as a rollout takes it.
fn place(connection: &Connection, target: &Target, after: Config) -> Place {
    let earlier = target
        .load(connection, None, &[])
        .map(|loaded| loaded.config);
    let actor = Caller::of(Actor::Operator(config::user())).header();
    Place {
        site: target.site.clone(),
        main: target.main.clone(),
        here: target.here.then(|| Here {
            earlier: earlier.unwrap_or_else(|_| after.clone()),
            config: after,
            actor,
        }),
    }
}

pub(super) async fn apply(
    connection: &Connection,
    from: &From,
    at: &At,
    canary: &[String],
) -> Result<ExitCode, Failure> {
    let (fleet, targets) = fleet_for(connection, from, at)?;
    canary.iter().try_for_each(|site| known(&fleet, site))?;
    let canaries = if canary.is_empty() {
        &fleet.rollout.canaries
    } else {
        canary
    };
    let mut problems = Vec::new();
    let mut steps = Vec::new();
    for (target, version) in targets {
        match check(connection, &target, &version) {
            Ok(after) => steps.push((place(connection, &target, after), version)),
            Err(more) => add(&mut problems, more),
        }
    }
    if !problems.is_empty() {
        return Err(Failure::Config(problems));
    }
    let sites = steps.iter().map(|(place, _)| place.site.clone()).collect();
    let order = rollout::in_order(sites, canaries);
    steps.sort_by_key(|(place, _)| order.iter().position(|site| *site == place.site));
    let mut report = Report::new(connection);
    for (at, (place, version)) in steps.iter().enumerate() {
        match rollout::bring(place, version, &fleet.rollout).await {
            Ok(done) => report.add(&place.site, &done)?,
            Err(error) => {
                report.end()?;
                return Err(stopped(&error, steps.len() - at - 1));
            }
        }
    }
    report.end()?;
    Ok(ExitCode::SUCCESS)
}

fn stopped(error: &rollout::Error, behind: usize) -> Failure {
    let help = match behind {
        0 => String::new(),
        1 => "the rollout ends here; the site behind it is untouched".to_owned(),
        n => format!("the rollout ends here; the {n} sites behind it are untouched"),
    };
    Failure::other(error.to_string(), &help)
}

/// What is said of each site.
struct Report<'a> {
    connection: &'a Connection,
    rows: Vec<Value>,
}

impl<'a> Report<'a> {
    fn new(connection: &'a Connection) -> Self {
        Self {
            connection,
            rows: Vec::new(),
        }
    }

    fn add(&mut self, site: &str, done: &Done) -> Result<(), Failure> {
        let (version, notes) = (&done.digest, &done.notes);
        self.rows.push(
            json!({ "site": site, "version": version, "changed": !done.had_it, "notes": notes }),
        );
        if self.connection.json {
            return Ok(());
        }
        let had = if done.had_it { " already" } else { "" };
        match version {
            Some(version) => say(format_args!("{site} has {version}{had}"))?,
            None => say(format_args!(
                "{site} has the files from before the first version"
            ))?,
        }
        for note in notes {
            eprintln!("note: {site}: {note}");
        }
        Ok(())
    }

    fn end(self) -> Result<(), Failure> {
        match self.connection.json {
            true => print_json(&Value::Array(self.rows)),
            false => Ok(()),
        }
    }
}

pub(super) async fn rollback(
    connection: &Connection,
    fleet: Option<&Path>,
    at: &At,
) -> Result<ExitCode, Failure> {
    if at.sites_root.is_some() && named(connection).is_empty() {
        return Err(Failure::usage(
            "which sites?",
            "give --site ID,…: going back everywhere would reach sites that a rollout never came to",
        ));
    }
    let rollout = match fleet {
        Some(dir) => Fleet::open(dir).map_err(Failure::Config)?.rollout,
        None => Rollout::default(),
    };
    let mut steps = Vec::new();
    for target in targets(connection, at, &[])? {
        let refuse = |error: versions::Error| {
            let help = "roadcall config apply brings a version there";
            Failure::other(format!("{}: {error}", target.site), help)
        };
        let earlier = versions::earlier(target.dir()).map_err(refuse)?;
        let layers = FleetLayers::of_held(target.dir(), earlier.as_ref());
        let after = target
            .load(connection, Some(layers), &[])
            .map_err(Failure::Config)?;
        steps.push(place(connection, &target, after.config));
    }
    let mut report = Report::new(connection);
    for (at, place) in steps.iter().enumerate() {
        match rollout::back(place, &rollout).await {
            Ok(done) => report.add(&place.site, &done)?,
            Err(error) => {
                report.end()?;
                return Err(stopped(&error, steps.len() - at - 1));
            }
        }
    }
    report.end()?;
    Ok(ExitCode::SUCCESS)
}
