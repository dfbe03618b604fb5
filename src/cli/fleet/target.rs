//! The sites that a fleet's command means, with their files, and what is wrong with what they are to get.

use std::path::{Path, PathBuf};

use super::{At, From};
use crate::cli::Connection;
use crate::cli::config::check_further;
use crate::cli::failure::Failure;
use crate::cli::roles::{role_files, topology_roles};
use crate::config::fleet::versions::{dir_of, foreign};
use crate::config::fleet::{Fleet, FleetLayers, Version};
use crate::config::{self, Config, Loaded, Problem, Sources};
use crate::node::processes::{self, Process};

/// A site with its files.
pub(super) struct Target {
    pub(super) site: String,
    pub(super) main: PathBuf,
    pub(super) here: bool,
}

impl Target {
    pub(super) fn dir(&self) -> &Path {
        dir_of(&self.main)
    }

    /// Its configuration as `roles` would see it: with what the fleet has for it, or with what it has.
    pub(super) fn load(
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

    pub(super) fn processes(&self, config: &Config) -> Vec<Process> {
        match self.here {
            true => processes::running(&config.site.state_dir),
            false => Vec::new(),
        }
    }
}

/// The sites of `--site`.
pub(super) fn named(connection: &Connection) -> Vec<String> {
    let names = connection.site.as_deref().unwrap_or_default();
    names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The sites that are meant: those named, or all of the fleet; without `--sites-root` the one of this machine.
pub(super) fn targets(
    connection: &Connection,
    at: &At,
    all: &[String],
) -> Result<Vec<Target>, Failure> {
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

pub(super) fn known(fleet: &Fleet, site: &str) -> Result<(), Failure> {
    if fleet.sites.iter().any(|known| known == site) {
        return Ok(());
    }
    Err(Failure::usage(
        &format!("the fleet has no site {site}"),
        &format!("give --site; the sites are {}", fleet.sites.join(", ")),
    ))
}

/// What each site is to have.
pub(super) fn fleet_for(
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
pub(super) fn add(problems: &mut Vec<Problem>, more: Vec<Problem>) {
    for problem in more {
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
}

/// Everything that can be said about a version before the site has it; its configuration if nothing is wrong.
pub(super) fn check(
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

pub(super) fn check_loaded(target: &Target, version: &Version, loaded: &Loaded) -> Vec<Problem> {
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
