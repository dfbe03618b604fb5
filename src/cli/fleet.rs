//! `roadcall config render|plan|apply|rollback`: a fleet's configuration in one directory, and its way to the sites.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Value, json};

use super::Connection;
use super::config::check_further;
use super::failure::Failure;
use super::output::{print_json, say};
use super::roles::{role_files, topology_roles};
use crate::config::depots::write_secret;
use crate::config::fleet::versions::{self, current, dir_of, foreign};
use crate::config::fleet::{Fleet, FleetLayers, Rollout, Version};
use crate::config::{self, Change, Config, Loaded, Problem, Sources};
use crate::event::Actor;
use crate::node::processes::{self, Process};
use crate::node::rollout::{self, Done, Here, Place};
use crate::role::permission::Caller;

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

/// A site with its files.
struct Target {
    site: String,
    main: PathBuf,
    here: bool,
}

impl Target {
    fn dir(&self) -> &Path {
        dir_of(&self.main)
    }

    /// Its configuration as `roles` would see it: with what the fleet has for it, or with what it has.
    fn load(
        &self,
        connection: &Connection,
        fleet: Option<FleetLayers>,
        roles: &[String],
    ) -> Result<Loaded, Vec<Problem>> {
        let mut sources = Sources {
            roles: roles.to_vec(),
            fleet,
            elsewhere: !self.here,
            ..Sources::default()
        };
        if self.here {
            sources.files.clone_from(&connection.config);
            sources.flags = connection.flags();
            // It names the site that is meant: the files say what it is.
            sources.flags.retain(|(key, _)| key != "site.id");
        } else {
            sources.files = vec![self.main.clone()];
        }
        Loaded::load(&sources)
    }

    fn processes(&self, config: &Config) -> Vec<Process> {
        match self.here {
            true => processes::running(&config.site.state_dir),
            false => Vec::new(),
        }
    }
}

/// The sites of `--site`.
fn named(connection: &Connection) -> Vec<String> {
    let names = connection.site.as_deref().unwrap_or_default();
    names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The sites that are meant: those named, or all of the fleet; without `--sites-root` the one of this machine.
fn targets(connection: &Connection, at: &At, all: &[String]) -> Result<Vec<Target>, Failure> {
    let mut sites = named(connection);
    let Some(root) = &at.sites_root else {
        if sites.is_empty() {
            sites.push(connection.config()?.site.id);
        }
        if sites.len() > 1 {
            return Err(Failure::usage(
                "this machine has one site",
                "give --sites-root DIR for sites elsewhere",
            ));
        }
        let main = connection.config.first().cloned();
        let main = main.unwrap_or_else(|| config::system_file().to_owned());
        let target = |site| Target {
            site,
            main: main.clone(),
            here: true,
        };
        return Ok(sites.into_iter().map(target).collect());
    };
    if sites.is_empty() {
        sites = all.to_vec();
    }
    let target = |site: String| Target {
        main: root.join(&site).join("roadcall.toml"),
        site,
        here: false,
    };
    Ok(sites.into_iter().map(target).collect())
}

fn known(fleet: &Fleet, site: &str) -> Result<(), Failure> {
    if fleet.sites.iter().any(|known| known == site) {
        return Ok(());
    }
    Err(Failure::usage(
        &format!("the fleet has no site {site}"),
        &format!("give --site; the sites are {}", fleet.sites.join(", ")),
    ))
}

/// What each site is to have.
fn fleet_for(
    connection: &Connection,
    from: &From,
    at: &At,
) -> Result<(Fleet, Vec<(Target, Version)>), Failure> {
    let fleet = Fleet::open(&from.fleet).map_err(Failure::Config)?;
    let mut problems = Vec::new();
    let mut found = Vec::new();
    for target in targets(connection, at, &fleet.sites)? {
        known(&fleet, &target.site)?;
        match fleet.version(&target.site) {
            Ok(version) => found.push((target, version)),
            Err(more) => add(&mut problems, more),
        }
    }
    if problems.is_empty() {
        Ok((fleet, found))
    } else {
        Err(Failure::Config(problems))
    }
}

/// A mistake in `base.toml` is one, however many sites it reaches.
fn add(problems: &mut Vec<Problem>, more: Vec<Problem>) {
    for problem in more {
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
}

/// Everything that can be said about a version before the site has it; its configuration if nothing is wrong.
fn check(
    connection: &Connection,
    target: &Target,
    version: &Version,
) -> Result<Config, Vec<Problem>> {
    let mut problems = Vec::new();
    for path in foreign(target.dir(), version) {
        problems.push(Problem {
            key: String::new(),
            origin: path.display().to_string(),
            message: "the site has a file of its own where the fleet's has to be".to_owned(),
            help: Some(
                "move what it says into the fleet, or into another file of conf.d".to_owned(),
            ),
        });
    }
    let mut groups = vec![Vec::new()];
    for role in version.layers.roles() {
        match role_files(&[role.to_owned()]) {
            Ok(files) if files == [role] => groups.push(files),
            Ok(_) | Err(_) => problems.push(Problem {
                key: String::new(),
                origin: version
                    .layers
                    .role_file(role)
                    .map_or_else(String::new, |path| path.display().to_string()),
                message: format!("there is no role {role}"),
                help: Some("name it like match.toml, gateway.toml or broker.toml".to_owned()),
            }),
        }
    }
    let before = target
        .load(connection, None, &[])
        .ok()
        .map(|loaded| loaded.config);
    let running = before
        .as_ref()
        .map_or_else(Vec::new, |config| target.processes(config));
    groups.extend(running.iter().map(|process| process.runs.clone()));
    let mut of_all = None;
    for group in groups {
        match target.load(connection, Some(version.layers.clone()), &group) {
            Ok(loaded) => {
                add(&mut problems, check_loaded(target, version, &loaded));
                of_all.get_or_insert(loaded.config);
            }
            Err(more) => add(&mut problems, more),
        }
    }
    if let (Some(before), Some(after)) = (&before, &of_all)
        && !running.is_empty()
        && before.site.state_dir != after.site.state_dir
    {
        problems.push(Problem {
            key: "site.state_dir".to_owned(),
            origin: version.site_file().display().to_string(),
            message: "the site runs: its databases would stay behind".to_owned(),
            help: Some("stop the site, move the directory, then apply".to_owned()),
        });
    }
    match of_all {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

fn check_loaded(target: &Target, version: &Version, loaded: &Loaded) -> Vec<Problem> {
    let further = match target.here {
        true => check_further(loaded),
        // A file of rules is on the site's disk, not here.
        false => topology_roles(&loaded.config).map(drop),
    };
    let mut problems = match further {
        Ok(()) => Vec::new(),
        Err(Failure::Config(problems)) => problems,
        Err(other) => other
            .lines()
            .into_iter()
            .map(|line| Problem {
                key: "site.roles".to_owned(),
                origin: version.site_file().display().to_string(),
                message: line.message,
                help: line.help,
            })
            .collect(),
    };
    let site = &loaded.config.site;
    let fixed = [
        ("site.id", site.id.as_str(), version.site.as_str()),
        (
            "site.profile",
            site.profile.as_str(),
            version.profile.as_str(),
        ),
        ("site.fleet", site.fleet.as_str(), version.digest.as_str()),
    ];
    for (key, is, right) in fixed {
        if is != right {
            let row = loaded.origins.iter().find(|row| row.0 == key);
            problems.push(Problem {
                key: key.to_owned(),
                origin: row.map_or_else(String::new, |row| row.2.clone()),
                message: format!("it says '{is}', and the fleet says '{right}'"),
                help: Some("let only the fleet say it".to_owned()),
            });
        }
    }
    problems
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

fn plan(connection: &Connection, from: &From, at: &At) -> Result<ExitCode, Failure> {
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

async fn apply(
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

async fn rollback(
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
