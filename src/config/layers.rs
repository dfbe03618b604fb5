//! Where values come from, and in which order: files, environment and flags as layers over the defaults (DESIGN 11).
//!
//! `--config PATH` moves the whole tree: the first PATH stands for `/etc/roadcall/roadcall.toml`, and what lies beside it
//! for what lies beside that one: `conf.d/*.toml`, `site.toml`, `role.d/<role>.toml`. Further PATHs come after all of
//! these.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::providers::Serialized;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile as FigmentProfile, Provider};

use super::fleet::versions::{MAIN_LINK, is_ours};
use super::{Config, Problem, Profile, Sources, flatten};

pub(super) const SYSTEM_FILE: &str = "/etc/roadcall/roadcall.toml";
/// The depot's file that the hub made, beside the main file.
const SITE_FILE: &str = "site.toml";
const ENV_PREFIX: &str = "ROADCALL__";

/// One origin and what it says.
#[derive(Debug, Clone)]
struct Layer {
    metadata: Metadata,
    dict: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }

    fn data(&self) -> Result<Map<FigmentProfile, Dict>, figment::Error> {
        Ok(Map::from([(FigmentProfile::Default, self.dict.clone())]))
    }
}

/// All layers merged, and the files that were read.
pub(super) struct Merged {
    pub figment: Figment,
    /// What `site.toml` says.
    pub site_file: Dict,
    pub files: Vec<PathBuf>,
}

/// Reads and merges; what can't be read is told and left out, so that the rest is judged all the same.
pub(super) fn merge(sources: &Sources, problems: &mut Vec<Problem>) -> Merged {
    let files = files(sources, problems);
    let mut layers: Vec<Layer> = Vec::new();
    let mut role_files: Vec<(PathBuf, Dict)> = Vec::new();
    let (site_path, mut site_file) = (directory(sources).join(SITE_FILE), Dict::new());
    for (path, of_role) in &files {
        let Some(dict) = read(path, problems) else {
            continue;
        };
        if *path == site_path {
            site_file.clone_from(&dict);
        }
        if *of_role {
            role_files.push((path.clone(), dict.clone()));
        }
        let metadata = Metadata::from("TOML file", path.as_path());
        layers.push(Layer { metadata, dict });
        let fleet = sources.fleet.as_ref();
        if let Some(fleet) = fleet.filter(|fleet| fleet.shared.last() == Some(path)) {
            layers.extend(fleet.said.iter().map(|(key, value)| Layer {
                metadata: Metadata::from("TOML file", path.as_path()),
                dict: nested(key, Value::from(value.clone())),
            }));
        }
    }
    refuse_conflicts(&role_files, problems);
    if !sources.elsewhere {
        layers.extend(environment());
    }
    for (key, value) in &sources.flags {
        let dict = nested(key, Value::from(value.clone()));
        let metadata = Metadata::named("flag");
        layers.push(Layer { metadata, dict });
    }
    let over = |base: Figment| {
        layers
            .iter()
            .fold(base, |figment, layer| figment.merge(layer.clone()))
    };
    let defaults = || Figment::from(Serialized::defaults(Config::default()));
    // A profile that is none is reported with the other values of its section.
    let profile: Profile = over(defaults())
        .extract_inner("site.profile")
        .unwrap_or(Profile::Dev);
    let of_profile = Layer {
        metadata: Metadata::named(format!("profile {}", profile.as_str())),
        dict: profile.values(),
    };
    Merged {
        figment: over(defaults().merge(of_profile)),
        site_file,
        files: files.into_iter().map(|(path, _)| path).collect(),
    }
}

/// Where the first file is, and what lies beside it.
pub(super) fn directory(sources: &Sources) -> &Path {
    let main = sources.files.first().map(PathBuf::as_path);
    let main = main.unwrap_or(Path::new(SYSTEM_FILE));
    main.parent().unwrap_or(Path::new("."))
}

/// The files in the order in which they are merged, and whether each belongs to a role.
fn files(sources: &Sources, problems: &mut Vec<Problem>) -> Vec<(PathBuf, bool)> {
    let (main, further) = match sources.files.split_first() {
        None => (Path::new(SYSTEM_FILE), &[][..]),
        Some((main, further)) => (main.as_path(), further),
    };
    let dir = directory(sources);
    let fleet = sources.fleet.as_ref();
    let mut found = vec![main.to_owned()];
    let mut conf_d = toml_files(&dir.join("conf.d"));
    if let Some(fleet) = fleet {
        // In the place of the version that is there.
        let place = dir.join(MAIN_LINK);
        conf_d.retain(|path| *path != place);
        let at = conf_d.partition_point(|path| *path < place);
        conf_d.splice(at..at, fleet.shared.iter().cloned());
    }
    found.extend(conf_d);
    found.push(dir.join(SITE_FILE));
    let mut found: Vec<(PathBuf, bool)> = found.into_iter().map(|path| (path, false)).collect();
    let mut roles = sources.roles.clone();
    roles.sort();
    roles.dedup();
    for role in &roles {
        let own = dir.join("role.d").join(format!("{role}.toml"));
        let of_fleet = fleet.and_then(|fleet| fleet.roles.get(role));
        found.extend(of_fleet.map(|path| (path.clone(), true)));
        if fleet.is_none() || !is_ours(&own) {
            found.push((own, true));
        }
    }
    found.extend(further.iter().map(|path| (path.clone(), false)));
    for named in &sources.files {
        if !named.is_file() {
            problems.push(Problem {
                key: String::new(),
                origin: named.display().to_string(),
                message: "the file does not exist or is no file".to_owned(),
                help: Some("check the path after --config".to_owned()),
            });
        }
    }
    found.retain(|(path, _)| path.is_file());
    found
}

pub(super) fn toml_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    files.sort();
    files
}

pub(super) fn read(path: &Path, problems: &mut Vec<Problem>) -> Option<Dict> {
    let mut fail = |message: String| {
        problems.push(Problem {
            key: String::new(),
            origin: path.display().to_string(),
            message,
            help: None,
        });
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| fail(format!("can't be read: {error}")))
        .ok()?;
    toml::from_str(&text)
        .map_err(|error: toml::de::Error| {
            let line = error
                .span()
                .map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            fail(format!("line {line}: {}", error.message()));
        })
        .ok()
}

/// A process has one configuration, so the files of two roles that it runs must agree.
fn refuse_conflicts(files: &[(PathBuf, Dict)], problems: &mut Vec<Problem>) {
    let mut said: BTreeMap<String, (&Path, Value)> = BTreeMap::new();
    for (path, dict) in files {
        flatten("", dict, &mut |key, value| {
            let first = said.entry(key.to_owned()).or_insert((path, value.clone()));
            if first.1 != *value {
                problems.push(Problem {
                    key: key.to_owned(),
                    origin: path.display().to_string(),
                    message: format!(
                        "{} has another value, and this process runs both roles",
                        first.0.display()
                    ),
                    help: Some(
                        "give both the same value, or run the roles as processes of their own"
                            .to_owned(),
                    ),
                });
            }
        });
    }
}

/// One layer per variable, so that its name is the origin.
fn environment() -> Vec<Layer> {
    let mut named: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with(ENV_PREFIX))
        .collect();
    named.sort();
    named
        .into_iter()
        .map(|(name, value)| {
            let key = name[ENV_PREFIX.len()..]
                .to_ascii_lowercase()
                .replace("__", ".");
            Layer {
                dict: nested(&key, typed(&key, value)),
                metadata: Metadata::named(format!("environment {name}")),
            }
        })
        .collect()
}

/// A variable has no types: a key whose default is a text takes it as it is, for another it is read like TOML.
fn typed(key: &str, value: String) -> Value {
    let default: Result<Value, _> =
        Figment::from(Serialized::defaults(Config::default())).extract_inner(key);
    match default {
        Ok(Value::String(..)) => Value::from(value),
        // Reading a text as a value never fails: what is nothing else is a text.
        _ => match value.parse::<Value>() {
            Ok(read) => read,
            Err(never) => match never {},
        },
    }
}

fn nested(key: &str, value: Value) -> Dict {
    match key.split_once('.') {
        None => Dict::from([(key.to_owned(), value)]),
        Some((section, rest)) => {
            Dict::from([(section.to_owned(), Value::from(nested(rest, value)))])
        }
    }
}
