//! Configuration: defaults, files, environment and flags into one checked value, with where each value came from
//! (DESIGN 11). Only this room reads the environment.

mod sections;
pub mod units;

use std::path::{Path, PathBuf};

use figment::providers::{Env, Format, Serialized, Toml};
use figment::value::{Dict, Value};
use figment::{Figment, Metadata, Profile as FigmentProfile, Provider};

pub use sections::*;

use crate::event;

/// Where a configuration may come from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `--config`, in order; without any, the system's files are read where they exist.
    pub files: Vec<PathBuf>,
    /// Flags as `(section.key, value)`.
    pub flags: Vec<(String, String)>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `section.key`.
    pub key: String,
    /// The file, variable or flag.
    pub origin: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

/// A loaded configuration.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The value.
    pub config: Config,
    /// `(section.key, value, origin)` for every key.
    pub origins: Vec<(String, String, String)>,
}

const SYSTEM_FILE: &str = "/etc/roadcall/roadcall.toml";
const SYSTEM_DIR: &str = "/etc/roadcall/conf.d";
const SITE_FILE: &str = "/etc/roadcall/site.toml";

impl Loaded {
    /// Reads all layers; later ones win.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn load(sources: &Sources) -> Result<Self, Vec<Problem>> {
        let figment = layers(sources)?;
        let mut problems = Vec::new();
        let merged: Dict = figment.extract().map_err(|error| vec![of_figment(error)])?;
        let defaults: Dict = Figment::from(Serialized::defaults(Config::default()))
            .extract()
            .unwrap_or_default();
        unknown_keys(&merged, &defaults, &figment, &mut problems);
        let mut config = Config::default();
        macro_rules! sections {
            ($($name:ident),+) => {$(
                match figment.extract_inner(stringify!($name)) {
                    Ok(section) => config.$name = section,
                    Err(error) => problems.extend(error.into_iter().map(|error| of_section(stringify!($name), error))),
                }
            )+};
        }
        sections!(
            site, bus, broker, engine, archive, dlq, rules, incident, matching, log
        );
        problems.extend(check(&config, &figment));
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut origins = Vec::new();
        flatten("", &merged, &mut |key, value| {
            let shown = if secret(key) {
                mask(value)
            } else {
                show(value)
            };
            origins.push((key.to_owned(), shown, origin(&figment, key)));
        });
        Ok(Self { config, origins })
    }
}

fn layers(sources: &Sources) -> Result<Figment, Vec<Problem>> {
    let mut figment = Figment::from(Serialized::defaults(Config::default()));
    let named = !sources.files.is_empty();
    let files = if named {
        sources.files.clone()
    } else {
        system_files()
    };
    for file in files {
        if named && !file.is_file() {
            return Err(vec![Problem {
                key: String::new(),
                origin: file.display().to_string(),
                message: "the file does not exist or can't be read".to_owned(),
                help: Some("check the path after --config".to_owned()),
            }]);
        }
        figment = figment.merge(Toml::file_exact(file));
    }
    figment = figment.merge(Env::prefixed("ROADCALL__").split("__"));
    for (key, value) in &sources.flags {
        figment = figment.merge(Flag {
            key: key.clone(),
            value: value.clone(),
        });
    }
    Ok(figment)
}

fn system_files() -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from(SYSTEM_FILE)];
    let mut extra: Vec<PathBuf> = std::fs::read_dir(SYSTEM_DIR)
        .map(|entries| {
            entries
                .filter_map(|entry| entry.ok().map(|entry| entry.path()))
                .collect()
        })
        .unwrap_or_default();
    extra.sort();
    files.extend(extra.into_iter().filter(|path| {
        path.extension()
            .is_some_and(|extension| extension == "toml")
    }));
    files.push(PathBuf::from(SITE_FILE));
    files.into_iter().filter(|path| path.is_file()).collect()
}

/// One flag as a layer of its own, so that its name is the origin.
struct Flag {
    key: String,
    value: String,
}

impl Provider for Flag {
    fn metadata(&self) -> Metadata {
        Metadata::named(format!("flag for {}", self.key))
    }

    fn data(&self) -> Result<figment::value::Map<FigmentProfile, Dict>, figment::Error> {
        Serialized::default(&self.key, &self.value).data()
    }
}

fn unknown_keys(merged: &Dict, known: &Dict, figment: &Figment, problems: &mut Vec<Problem>) {
    let mut known_keys = Vec::new();
    flatten("", known, &mut |key, _| known_keys.push(key.to_owned()));
    flatten("", merged, &mut |key, _| {
        if known_keys.iter().any(|known| known == key) {
            return;
        }
        let nearest = known_keys
            .iter()
            .max_by(|a, b| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)));
        problems.push(Problem {
            key: key.to_owned(),
            origin: origin(figment, key),
            message: "there is no such key".to_owned(),
            help: nearest.map(|nearest| format!("did you mean {nearest}?")),
        });
    });
}

/// Calls `each` for every value that is no section.
fn flatten(prefix: &str, dict: &Dict, each: &mut dyn FnMut(&str, &Value)) {
    for (name, value) in dict {
        let key = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        match value {
            Value::Dict(_, inner) => flatten(&key, inner, each),
            value => each(&key, value),
        }
    }
}

fn origin(figment: &Figment, key: &str) -> String {
    let Some(metadata) = figment.find_metadata(key) else {
        return "default".to_owned();
    };
    match &metadata.source {
        Some(figment::Source::File(path)) => path.display().to_string(),
        _ if metadata.name.contains("environment") => "environment".to_owned(),
        _ if metadata.name.starts_with("flag") => "flag".to_owned(),
        _ => "default".to_owned(),
    }
}

fn of_figment(error: figment::Error) -> Problem {
    let key = error.path.join(".");
    let origin = error.metadata.as_ref().map_or_else(
        || "configuration".to_owned(),
        |metadata| match &metadata.source {
            Some(figment::Source::File(path)) => path.display().to_string(),
            _ => metadata.name.to_string(),
        },
    );
    Problem {
        key,
        origin,
        message: error.kind.to_string(),
        help: None,
    }
}

/// The same for one section: figment puts the section's name behind the path within it.
fn of_section(section: &str, error: figment::Error) -> Problem {
    let within: Vec<&str> = error
        .path
        .iter()
        .map(String::as_str)
        .filter(|name| *name != section)
        .collect();
    let key = std::iter::once(section)
        .chain(within)
        .collect::<Vec<_>>()
        .join(".");
    Problem {
        key,
        ..of_figment(error)
    }
}

/// What types alone can't say.
fn check(config: &Config, figment: &Figment) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut refuse = |key: &str, message: String, help: &str| {
        problems.push(Problem {
            key: key.to_owned(),
            origin: origin(figment, key),
            message,
            help: Some(help.to_owned()),
        });
    };
    if let Err(error) = event::Site::new(config.site.id.clone()) {
        refuse(
            "site.id",
            format!("'{}' is {error}", config.site.id),
            "choose a name like depot-a",
        );
    }
    if !config.archive.max_age.is_empty()
        && crate::routing::parse_duration(&config.archive.max_age).is_none()
    {
        refuse(
            "archive.max_age",
            format!("'{}' is not a duration", config.archive.max_age),
            "write it like 90d",
        );
    }
    let sync = &config.broker.sync_interval;
    if sync != "always" && crate::routing::parse_duration(sync).is_none() {
        refuse(
            "broker.sync_interval",
            format!("'{sync}' is neither always nor a duration"),
            "write always, or like 10s",
        );
    }
    if config.engine.batch_max == 0 || config.engine.batch_max > 4096 {
        refuse(
            "engine.batch_max",
            "must be from 1 to 4096".to_owned(),
            "256 is the default",
        );
    }
    if config.engine.max_deliver == 0 {
        refuse(
            "engine.max_deliver",
            "must be at least 1".to_owned(),
            "3 is the default",
        );
    }
    problems
}

impl Config {
    /// How long the archive keeps events (DESIGN 6).
    #[must_use]
    pub fn archive_max_age(&self) -> std::time::Duration {
        let by_profile = if self.site.profile == Profile::Prod {
            90
        } else {
            30
        };
        crate::routing::parse_duration(&self.archive.max_age).unwrap_or(Span::days(by_profile).0)
    }

    /// Where the embedded broker keeps its streams.
    #[must_use]
    pub fn broker_store_dir(&self) -> PathBuf {
        let named = Path::new(&self.broker.store_dir);
        if self.broker.store_dir.is_empty() {
            self.site.state_dir.join("nats")
        } else {
            named.to_owned()
        }
    }
}

use units::Span;

fn secret(key: &str) -> bool {
    matches!(key, "bus.url")
}

/// An URL without its password; anything else as it is.
fn mask(value: &Value) -> String {
    let text = show(value);
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            format!("{}***{}", &text[..scheme + 3], &text[at..])
        }
        _ => text,
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::String(_, text) => text.clone(),
        Value::Array(_, items) => items.iter().map(show).collect::<Vec<_>>().join(","),
        Value::Num(_, number) => number
            .to_i128()
            .map(|n| n.to_string())
            .or_else(|| number.to_u128().map(|n| n.to_string()))
            .or_else(|| number.to_f64().map(|n| n.to_string()))
            .unwrap_or_default(),
        Value::Bool(_, yes) => yes.to_string(),
        other => format!("{other:?}"),
    }
}

/// Directories for executables, for finding a nats-server.
#[must_use]
pub fn path_dirs() -> Vec<PathBuf> {
    std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default()
}

/// The person at the machine, for `operator:<user>`.
#[must_use]
pub fn user() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"]
        .into_iter()
        .filter_map(|name| std::env::var(name).ok());
    let fits = |name: &String| {
        (1..=64).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
    };
    named
        .into_iter()
        .find(fits)
        .unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Loaded, Vec<Problem>> {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("roadcall.toml");
        std::fs::write(&file, text).expect("written");
        Loaded::load(&Sources {
            files: vec![file],
            flags: Vec::new(),
        })
    }

    #[test]
    fn later_layers_win_and_say_where_a_value_came_from() {
        let dir = tempfile::tempdir().expect("a directory");
        let (a, b) = (dir.path().join("a.toml"), dir.path().join("b.toml"));
        std::fs::write(&a, "[site]\nid = 'depot-a'\n[engine]\nretry_delay = '5s'")
            .expect("written");
        std::fs::write(&b, "[engine]\nretry_delay = '7s'").expect("written");
        let flags = vec![(
            "bus.url".to_owned(),
            "nats://joe:secret@127.0.0.1:4333".to_owned(),
        )];
        let loaded = Loaded::load(&Sources {
            files: vec![a, b.clone()],
            flags,
        })
        .expect("valid");
        assert_eq!(loaded.config.engine.retry_delay, Span::secs(7));
        let row = |key: &str| {
            loaded
                .origins
                .iter()
                .find(|row| row.0 == key)
                .cloned()
                .expect("listed")
        };
        assert_eq!(row("engine.retry_delay").2, b.display().to_string());
        assert_eq!(
            row("bus.url"),
            (
                "bus.url".to_owned(),
                "nats://***@127.0.0.1:4333".to_owned(),
                "flag".to_owned()
            )
        );
        assert_eq!(row("engine.ack_wait").2, "default");
    }

    #[test]
    fn every_problem_is_reported_at_once_with_the_nearest_key() {
        let problems = load(
            "[bus]\nulr = 'x'\n[engine]\nretry_delay = 'soon'\nbatch_max = 0\n[site]\nid = 'HUB'",
        )
        .expect_err("wrong");
        let of = |key: &str| {
            problems
                .iter()
                .find(|problem| problem.key == key)
                .unwrap_or_else(|| panic!("{problems:?}"))
        };
        assert_eq!(of("bus.ulr").help.as_deref(), Some("did you mean bus.url?"));
        assert!(
            of("engine.retry_delay")
                .message
                .contains("'soon' is not a duration")
        );
        assert!(of("site.id").message.contains("'HUB'"));
        assert!(of("bus.ulr").origin.ends_with("roadcall.toml"));
    }
}
