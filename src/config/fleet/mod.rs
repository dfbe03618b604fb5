//! A fleet's configuration in one directory, and what a site gets of it.
//!
//! `base.toml` is everybody's, `profiles/<profile>.toml` that of the sites of a profile, `sites/<site>.toml` one site's: later
//! ones win, and a site is known by its file. `roles/<role>.toml` is for the processes of a role, at every site. `fleet.toml`
//! says how a rollout goes about it. What a site gets of these is a [`Version`]: [`versions`] has it on the site's disk.

pub mod versions;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use toml::{Table, Value};

use super::layers::{read, toml_files};
use super::units::Span;
use super::{Problem, Profile, mask, secret};
use crate::event::Site;

/// The first line of everything that a site gets.
const HEAD: &str =
    "# Made by roadcall config apply from the fleet directory: change that one, not this file.\n";

/// How a rollout goes about it, in `fleet.toml`. Commands are a program and its arguments; `{site}`, `{dir}` and `{config}` in
/// them stand for the site, its configuration directory and its main file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rollout {
    /// Sites that come first: the others are left alone if one of them does not become healthy.
    pub canaries: Vec<String>,
    /// Has the site's processes read their files again; else they are told here, if they run here.
    pub reload: Vec<String>,
    /// Restarts them; else systemd does, where they run under systemd here.
    pub restart: Vec<String>,
    /// Succeeds at a healthy site.
    pub health: Vec<String>,
    /// How long a site may take to become healthy.
    pub health_within: Span,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            canaries: Vec::new(),
            reload: Vec::new(),
            restart: Vec::new(),
            health: Vec::new(),
            health_within: Span::secs(60),
        }
    }
}

/// What a site's configuration is read from in the place of the version that it has.
#[derive(Debug, Clone)]
pub struct FleetLayers {
    /// Base, profile and site, in order; what is not there is left out.
    pub(super) shared: Vec<PathBuf>,
    /// What the fleet itself says of the site, as `(key, value)`.
    pub(super) said: Vec<(&'static str, String)>,
    /// The files of roles, by role.
    pub(super) roles: BTreeMap<String, PathBuf>,
}

impl FleetLayers {
    /// Those of a version that a site has on its disk.
    #[must_use]
    pub fn of_held(dir: &Path, held: Option<&versions::Held>) -> Self {
        let at = held.map(|held| versions::path_of(dir, held));
        let roles = at.iter().flat_map(|at| toml_files(&at.join("role.d")));
        Self {
            shared: at.iter().map(|at| at.join("fleet.toml")).collect(),
            said: Vec::new(),
            roles: roles.map(|path| (stem(&path), path)).collect(),
        }
    }

    /// The roles that have a file.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    /// The file of a role.
    #[must_use]
    pub fn role_file(&self, role: &str) -> Option<&Path> {
        self.roles.get(role).map(PathBuf::as_path)
    }
}

/// What a site gets.
#[derive(Debug, Clone)]
pub struct Version {
    /// The site.
    pub site: String,
    /// The site's profile.
    pub profile: Profile,
    /// Names what is in it; `site.fleet` of the site.
    pub digest: String,
    /// Its files by their path in the version: `fleet.toml`, `role.d/<role>.toml`.
    pub files: BTreeMap<PathBuf, String>,
    /// The same as layers, so that a mistake is told with the fleet's own file.
    pub layers: FleetLayers,
}

impl Version {
    /// Its files with secrets masked.
    pub fn masked(&self) -> impl Iterator<Item = (&Path, String)> {
        self.files.iter().map(|(path, whole)| {
            // What was made from a table is one.
            let mut table: Table = whole.parse().unwrap_or_default();
            mask_secrets("", &mut table);
            (path.as_path(), text(&table))
        })
    }

    /// The file that says most about the site.
    #[must_use]
    pub fn site_file(&self) -> &Path {
        // The site's own comes last and is always there.
        self.layers
            .shared
            .last()
            .map_or(Path::new(""), PathBuf::as_path)
    }
}

/// A fleet directory.
#[derive(Debug, Clone)]
pub struct Fleet {
    dir: PathBuf,
    /// From `fleet.toml`.
    pub rollout: Rollout,
    /// The sites, by name.
    pub sites: Vec<String>,
    roles: BTreeMap<String, PathBuf>,
}

impl Fleet {
    /// Looks at the directory.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn open(dir: &Path) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut sites = Vec::new();
        for path in toml_files(&dir.join("sites")) {
            let site = stem(&path);
            match Site::new(site.clone()) {
                Ok(_) => sites.push(site),
                Err(error) => problems.push(problem(
                    &path,
                    "",
                    format!("its name is no site's: {error}"),
                )),
            }
        }
        if sites.is_empty() && problems.is_empty() {
            let help = "a fleet has base.toml, profiles/<profile>.toml, sites/<site>.toml and roles/<role>.toml; config/fleet \
                        is an example";
            problems.push(Problem {
                help: Some(help.to_owned()),
                ..problem(&dir.join("sites"), "", "it has no site in it".to_owned())
            });
        }
        for path in toml_files(&dir.join("profiles")) {
            let known = [Profile::Dev, Profile::Staging, Profile::Prod];
            if !known.iter().any(|profile| profile.as_str() == stem(&path)) {
                let message = "there is no such profile".to_owned();
                problems.push(Problem {
                    help: Some("the profiles are dev, staging, prod".to_owned()),
                    ..problem(&path, "", message)
                });
            }
        }
        let rollout = rollout(&dir.join("fleet.toml"), &sites, &mut problems);
        let roles = toml_files(&dir.join("roles"));
        let roles = roles.into_iter().map(|path| (stem(&path), path)).collect();
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            dir: dir.to_owned(),
            rollout,
            sites,
            roles,
        })
    }

    /// What a site gets. Whether its values are good is judged when they are loaded as its layers.
    ///
    /// # Errors
    /// Every file that can't be read, and what a fleet may not say.
    pub fn version(&self, site: &str) -> Result<Version, Vec<Problem>> {
        let mut problems = Vec::new();
        let (base, own) = (
            self.dir.join("base.toml"),
            self.dir.join("sites").join(format!("{site}.toml")),
        );
        let mut load = |path: &Path| {
            let found = path.is_file().then(|| table(path, &mut problems));
            found.flatten()
        };
        let (base_table, own_table) = (load(&base), load(&own));
        let named = [&own_table, &base_table]
            .into_iter()
            .flatten()
            .find_map(|table| table.get("site")?.get("profile"));
        let profile = match named.map(|value| value.clone().try_into::<Profile>()) {
            None => Profile::Dev,
            Some(Ok(profile)) => profile,
            Some(Err(error)) => {
                problems.push(problem(&own, "site.profile", error.message().to_owned()));
                return Err(problems);
            }
        };
        let of_profile = self
            .dir
            .join("profiles")
            .join(format!("{}.toml", profile.as_str()));
        let mut load = |path: &Path| {
            let found = path.is_file().then(|| table(path, &mut problems));
            found.flatten()
        };
        let profile_table = load(&of_profile);
        let mut roles = BTreeMap::new();
        for (role, path) in &self.roles {
            roles.insert(role.clone(), load(path).unwrap_or_default());
        }
        let mut shared = Vec::new();
        let mut merged = Table::new();
        let parts = [
            (base, base_table),
            (of_profile, profile_table),
            (own, own_table),
        ];
        for (path, table) in parts {
            let Some(table) = table else { continue };
            refuse(&path, &table, site, profile, &mut problems);
            merge(&mut merged, table);
            shared.push(path);
        }
        for (role, table) in &roles {
            refuse(&self.roles[role], table, site, profile, &mut problems);
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(self.made(site, profile, shared, merged, &roles))
    }

    fn made(
        &self,
        site: &str,
        profile: Profile,
        shared: Vec<PathBuf>,
        mut merged: Table,
        roles: &BTreeMap<String, Table>,
    ) -> Version {
        let say = |merged: &mut Table, key: &str, value: &str| {
            let section = merged
                .entry("site")
                .or_insert_with(|| Value::Table(Table::new()));
            if let Some(section) = section.as_table_mut() {
                section.insert(key.to_owned(), Value::from(value));
            }
        };
        say(&mut merged, "id", site);
        say(&mut merged, "profile", profile.as_str());
        let mut files: BTreeMap<PathBuf, String> = roles
            .iter()
            .map(|(role, table)| {
                (
                    Path::new("role.d").join(format!("{role}.toml")),
                    text(table),
                )
            })
            .collect();
        let mut hash = Sha256::new();
        for (path, text) in &files {
            hash.update(format!("{}\n{text}\0", path.display()));
        }
        hash.update(text(&merged));
        let digest: String = hash.finalize()[..6]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        say(&mut merged, "fleet", &digest);
        files.insert(PathBuf::from("fleet.toml"), text(&merged));
        Version {
            site: site.to_owned(),
            profile,
            layers: FleetLayers {
                shared,
                said: vec![
                    ("site.id", site.to_owned()),
                    ("site.profile", profile.as_str().to_owned()),
                    ("site.fleet", digest.clone()),
                ],
                roles: self.roles.clone(),
            },
            digest,
            files,
        }
    }
}

fn rollout(path: &Path, sites: &[String], problems: &mut Vec<Problem>) -> Rollout {
    if !path.is_file() {
        return Rollout::default();
    }
    let parsed = std::fs::read_to_string(path)
        .map_err(|error| format!("can't be read: {error}"))
        .and_then(|text| {
            toml::from_str::<Rollout>(&text).map_err(|error| error.message().to_owned())
        });
    let rollout = match parsed {
        Ok(rollout) => rollout,
        Err(message) => {
            problems.push(Problem {
                help: Some(
                    "it may set canaries, reload, restart, health and health_within".to_owned(),
                ),
                ..problem(path, "", message)
            });
            return Rollout::default();
        }
    };
    for canary in rollout.canaries.iter().filter(|name| !sites.contains(name)) {
        problems.push(Problem {
            help: Some(format!("the sites are {}", sites.join(", "))),
            ..problem(
                path,
                "canaries",
                format!("{canary} is no site of the fleet"),
            )
        });
    }
    rollout
}

/// What the fleet says itself, and what no file of it may say otherwise.
fn refuse(path: &Path, table: &Table, site: &str, profile: Profile, problems: &mut Vec<Problem>) {
    let Some(section) = table.get("site").and_then(Value::as_table) else {
        return;
    };
    let fixed = [
        ("id", Some(site)),
        ("profile", Some(profile.as_str())),
        ("fleet", None),
    ];
    for (key, right) in fixed {
        let Some(value) = section.get(key) else {
            continue;
        };
        // The base may say a profile that a site's own file says otherwise.
        let base = key == "profile" && stem(path) == "base";
        if value.as_str() == right || base {
            continue;
        }
        let message = match right {
            Some(right) => format!("a rollout makes it {right} here"),
            None => "a rollout sets it".to_owned(),
        };
        problems.push(Problem {
            help: Some("leave it out".to_owned()),
            ..problem(path, &format!("site.{key}"), message)
        });
    }
}

/// Tables are merged, anything else is replaced: as the layers of a configuration are.
fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

fn mask_secrets(prefix: &str, table: &mut Table) {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        match value {
            Value::Table(inner) => mask_secrets(&format!("{key}."), inner),
            Value::String(text) if secret(&key) => *text = mask(&key, &text.clone().into()),
            _ => {}
        }
    }
}

fn text(table: &Table) -> String {
    format!("{HEAD}{table}")
}

fn table(path: &Path, problems: &mut Vec<Problem>) -> Option<Table> {
    // Judged as any other file of a configuration is, with the line of a mistake.
    read(path, problems)?;
    let text = std::fs::read_to_string(path).ok()?;
    text.parse().ok()
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn problem(path: &Path, key: &str, message: String) -> Problem {
    Problem {
        key: key.to_owned(),
        origin: path.display().to_string(),
        message,
        help: None,
    }
}

#[cfg(test)]
mod tests;
