//! `roadcall config plan`: what would change at each site.

use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;

use super::target::{Target, add, check, fleet_for};
use super::{At, From};
use crate::cli::Connection;
use crate::cli::failure::Failure;
use crate::cli::output::{print_json, say};
use crate::config::fleet::versions::current;
use crate::config::fleet::{FleetLayers, Version};
use crate::config::{self, Change, Config, Problem};
use crate::node::processes::Process;

/// What would change at a site.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SitePlan {
    site: String,
    /// What it has.
    current: Option<String>,
    /// What it is to have.
    version: String,
    changes: Vec<RoleChange>,
    /// What runs at this machine.
    processes: Vec<Process>,
}

#[derive(Debug, Serialize)]
struct RoleChange {
    /// Set where only this role's processes see it.
    role: Option<String>,
    #[serde(flatten)]
    change: Change,
}

impl SitePlan {
    fn differs(&self) -> bool {
        let behind = |process: &Process| {
            let in_force = &process.in_force;
            in_force.fleet != self.version || !in_force.waiting_for_restart.is_empty()
        };
        self.current.as_ref() != Some(&self.version) || self.processes.iter().any(behind)
    }

    fn print(&self) -> Result<(), Failure> {
        let (site, version) = (&self.site, &self.version);
        match &self.current {
            Some(current) if current == version => say(format_args!("{site}: has {version}"))?,
            Some(current) => say(format_args!("{site}: has {current}, gets {version}"))?,
            None => say(format_args!("{site}: has none, gets {version}"))?,
        }
        for RoleChange { role, change } in &self.changes {
            let how = if change.live { "live" } else { "restart" };
            let of = role
                .as_ref()
                .map(|role| format!(" ({role})"))
                .unwrap_or_default();
            let Change { key, from, to, .. } = change;
            say(format_args!("  {how:8}{key}{of}: {from} -> {to}"))?;
        }
        for process in &self.processes {
            let (pid, in_force) = (process.pid, &process.in_force);
            let waits = match in_force.waiting_for_restart.as_slice() {
                [] => String::new(),
                keys => format!("; a restart is due for {}", keys.join(", ")),
            };
            let fleet = match in_force.fleet.as_str() {
                "" => "none",
                fleet => fleet,
            };
            say(format_args!(
                "  runs    {} (pid {pid}): version {}, configuration {} of the fleet's {fleet}{waits}",
                process.runs.join(","),
                in_force.version,
                in_force.config_digest
            ))?;
        }
        Ok(())
    }
}

pub(super) fn plan(connection: &Connection, from: &From, at: &At) -> Result<ExitCode, Failure> {
    let (_, targets) = fleet_for(connection, from, at)?;
    let mut problems = Vec::new();
    let mut plans = Vec::new();
    for (target, version) in &targets {
        match plan_of(connection, target, version) {
            Ok(plan) => plans.push(plan),
            Err(more) => add(&mut problems, more),
        }
    }
    if !problems.is_empty() {
        return Err(Failure::Config(problems));
    }
    if connection.json {
        print_json(&serde_json::to_value(&plans).unwrap_or(Value::Null))?;
    } else {
        plans.iter().try_for_each(SitePlan::print)?;
    }
    Ok(ExitCode::from(if plans.iter().any(SitePlan::differs) {
        2
    } else {
        0
    }))
}

fn plan_of(
    connection: &Connection,
    target: &Target,
    version: &Version,
) -> Result<SitePlan, Vec<Problem>> {
    check(connection, target, version)?;
    let held = current(target.dir());
    let of_held = FleetLayers::of_held(target.dir(), held.as_ref());
    let mut roles: Vec<&str> = version.layers.roles().chain(of_held.roles()).collect();
    roles.sort_unstable();
    roles.dedup();
    let between = |roles: &[String]| -> Result<(Vec<Change>, Config), Vec<Problem>> {
        let old = target.load(connection, None, roles)?.config;
        let new = target
            .load(connection, Some(version.layers.clone()), roles)?
            .config;
        Ok((config::changes(&old, &new), old))
    };
    let (shared, old) = between(&[])?;
    let mut changes = Vec::new();
    for role in roles {
        let (own, _) = between(&[role.to_owned()])?;
        let own = own.into_iter().filter(|change| !shared.contains(change));
        changes.extend(own.map(|change| RoleChange {
            role: Some(role.to_owned()),
            change,
        }));
    }
    let shared = shared
        .into_iter()
        .map(|change| RoleChange { role: None, change });
    changes.splice(0..0, shared);
    Ok(SitePlan {
        site: target.site.clone(),
        current: held.map(|held| held.digest),
        version: version.digest.clone(),
        changes,
        processes: target.processes(&old),
    })
}
