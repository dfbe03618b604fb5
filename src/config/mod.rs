//! Configuration: defaults, files, environment and flags into one checked value, with where each value came from
//! (DESIGN 11). Only this room reads the environment.

mod check;
mod credentials;
pub mod depots;
mod digest;
pub mod fleet;
mod gateway;
mod layers;
mod live;
mod matching;
mod notifications;
mod payments;
mod privacy;
mod sections;
mod snapshot;
mod telephony;
mod trace;
pub mod units;

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::Serialized;
use figment::value::{Dict, Value};
use serde::de::DeserializeOwned;

pub use gateway::*;
pub use live::{Change, Reload, changes, differences, reload};
pub use matching::*;
pub use notifications::*;
pub use payments::*;
pub use sections::*;
pub use snapshot::*;
pub use telephony::*;
pub use trace::*;

/// Where a configuration may come from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `--config`, in order: the first one's directory takes the place of `/etc/roadcall`.
    pub files: Vec<PathBuf>,
    /// The roles that the process runs: their files in `role.d` are read.
    pub roles: Vec<String>,
    /// Flags as `(section.key, value)`.
    pub flags: Vec<(String, String)>,
    /// What the fleet has for the site, in the place of the version of it that the site has.
    pub fleet: Option<fleet::FleetLayers>,
    /// Whether the files are another machine's: this one's environment says nothing then, and files that a value names need
    /// not be here.
    pub elsewhere: bool,
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
    /// The files that were read, in order.
    pub files: Vec<PathBuf>,
}

impl Loaded {
    /// Reads all layers; later ones win.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn load(sources: &Sources) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let layers::Merged {
            figment,
            site_file,
            files,
        } = layers::merge(sources, &mut problems);
        let (given, beside) = (credentials_directory(), layers::directory(sources));
        let merged: Dict = figment
            .extract()
            .map_err(|error| vec![of_figment("", error)])?;
        let defaults = as_dict(&Config::default());
        unknown_keys(&merged, &defaults, &figment, &mut problems);
        let mut config = Config::default();
        macro_rules! sections {
            ($($name:ident),+) => {$(
                if let Some(value) = section(stringify!($name), &figment, &defaults, &mut problems) {
                    config.$name = value;
                }
            )+};
        }
        sections!(
            site,
            bus,
            broker,
            hub,
            tls,
            engine,
            archive,
            dlq,
            rules,
            incident,
            matching,
            sla,
            pricing,
            payments,
            notifications,
            telephony,
            privacy,
            gateway,
            auth,
            audit,
            snapshot,
            metrics,
            trace,
            log
        );
        credentials::resolve(
            &mut config,
            given.as_deref(),
            beside,
            &|key| origin(&figment, key),
            &mut problems,
        );
        let mut check = check::Check {
            origin: &|key| origin(&figment, key),
            elsewhere: sources.elsewhere,
            problems: Vec::new(),
        };
        check.all(&config);
        check.only_its_roles(&config, &site_file);
        problems.extend(check.problems);
        if config.is_hub() && !sources.elsewhere {
            match depots::read(&config.site.state_dir) {
                Ok(found) => config.depots = found,
                Err((path, why)) => problems.push(Problem {
                    key: "site".to_owned(),
                    origin: path.display().to_string(),
                    message: why,
                    help: Some("roadcall site add makes such files".to_owned()),
                }),
            }
        }
        name_defaults(&mut problems, &defaults);
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut origins = Vec::new();
        flatten("", &merged, &mut |key, value| {
            let shown = if secret(key) {
                mask(key, value)
            } else {
                show(value)
            };
            origins.push((key.to_owned(), shown, origin(&figment, key)));
        });
        Ok(Self {
            config,
            origins,
            files,
        })
    }
}

/// A value that is wrong and has no better help: what is right.
fn name_defaults(problems: &mut [Problem], defaults: &Dict) {
    flatten("", defaults, &mut |key, value| {
        let of_key = problems
            .iter_mut()
            .filter(|problem| problem.key == key && problem.help.is_none());
        for problem in of_key {
            problem.help = Some(format!("the default is {}", show(value)));
        }
    });
    for problem in problems.iter_mut().filter(|problem| problem.help.is_none()) {
        problem.help = Some("config/roadcall.toml shows every key with its default".to_owned());
    }
}

fn as_dict(config: &Config) -> Dict {
    // A configuration is plain data: texts, numbers, lists and sections. A test lists its keys.
    Figment::from(Serialized::defaults(config))
        .extract()
        .unwrap_or_default()
}

/// One section. A value that does not fit is told and replaced by its default, so that the next one is judged too.
fn section<T: DeserializeOwned>(
    name: &str,
    figment: &Figment,
    defaults: &Dict,
    problems: &mut Vec<Problem>,
) -> Option<T> {
    let mut figment = figment.clone();
    let mut known = Vec::new();
    flatten("", defaults, &mut |key, value| {
        known.push((key.to_owned(), value.clone()));
    });
    loop {
        let errors = match figment.extract_inner(name) {
            Ok(section) => return Some(section),
            Err(errors) => errors,
        };
        for error in errors {
            let problem = of_figment(name, error);
            let at = known.iter().position(|(key, _)| {
                problem.key == *key || problem.key.starts_with(&format!("{key}."))
            });
            problems.push(problem);
            // Each key is replaced once; what still fails then is not a value's fault.
            let (key, value) = known.swap_remove(at?);
            figment = figment.merge((key.as_str(), value));
        }
    }
}

fn unknown_keys(merged: &Dict, known: &Dict, figment: &Figment, problems: &mut Vec<Problem>) {
    let mut known_keys = Vec::new();
    flatten("", known, &mut |key, _| known_keys.push(key.to_owned()));
    flatten("", merged, &mut |key, _| {
        // A value of the wrong kind is told with its section.
        let has_parts = |known: &String| {
            known == key
                || known.starts_with(&format!("{key}."))
                || key.starts_with(&format!("{known}."))
        };
        if known_keys.iter().any(has_parts) {
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

/// Calls `each` for every value that is no section, and for a section with nothing in it.
fn flatten(prefix: &str, dict: &Dict, each: &mut dyn FnMut(&str, &Value)) {
    for (name, value) in dict {
        let key = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        match value {
            Value::Dict(_, inner) if !inner.is_empty() => flatten(&key, inner, each),
            value => each(&key, value),
        }
    }
}

fn origin(figment: &Figment, key: &str) -> String {
    figment
        .find_metadata(key)
        .map_or_else(|| "default".to_owned(), origin_of)
}

fn origin_of(metadata: &figment::Metadata) -> String {
    let ours = ["environment ", "profile ", "flag"];
    match &metadata.source {
        Some(figment::Source::File(path)) => path.display().to_string(),
        _ if ours.iter().any(|name| metadata.name.starts_with(name)) => metadata.name.to_string(),
        _ => "default".to_owned(),
    }
}

/// figment names the path within the section, and then the section.
fn of_figment(section: &str, error: figment::Error) -> Problem {
    let mut key: Vec<&str> = error.path.iter().map(String::as_str).collect();
    key.pop_if(|last| *last == section);
    if !section.is_empty() {
        key.insert(0, section);
    }
    Problem {
        key: key.join("."),
        origin: error
            .metadata
            .as_ref()
            .map_or_else(|| "configuration".to_owned(), origin_of),
        message: error.kind.to_string(),
        help: None,
    }
}

impl Config {
    /// How long the archive keeps events (DESIGN 6).
    #[must_use]
    pub fn archive_max_age(&self) -> std::time::Duration {
        self.archive.max_age.0
    }

    /// Whether this is the site that depots hang on.
    #[must_use]
    pub fn is_hub(&self) -> bool {
        self.site.id == "hub"
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

    /// The file with the key of its store, and whether the configuration names it; else it need not be there.
    #[must_use]
    pub fn store_key_file(&self) -> (PathBuf, bool) {
        let named = &self.broker.store_key_file;
        if named.is_empty() {
            (self.site.state_dir.join("store.key"), false)
        } else {
            (PathBuf::from(named), true)
        }
    }
}

fn secret(key: &str) -> bool {
    matches!(
        key,
        "bus.url" | "telephony.summariser_url" | "audit.alarm_webhook_url" | "trace.otlp_url"
    ) || whole_secret(key)
}

/// Keys whose value is a secret and nothing else.
fn whole_secret(key: &str) -> bool {
    [
        ".secret_key",
        ".webhook_secret",
        ".sms_token",
        ".smtp_password",
        ".push_secret",
        "hub.password",
        "hub.seed",
    ]
    .iter()
    .any(|name| key.ends_with(name))
}

/// An URL without its password, of a secret only whether it is set; anything else as it is.
fn mask(key: &str, value: &Value) -> String {
    let text = show(value);
    if whole_secret(key) && !text.is_empty() {
        return "***".to_owned();
    }
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
        Value::Dict(_, dict) => {
            let pairs = dict
                .iter()
                .map(|(name, value)| format!("{name}={}", show(value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(" "))
        }
        other => format!("{other:?}"),
    }
}

/// The file that a configuration begins with where nothing else is named.
#[must_use]
pub fn system_file() -> &'static Path {
    Path::new(layers::SYSTEM_FILE)
}

/// This program.
#[must_use]
pub fn program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("roadcall"))
}

/// Directories for executables, for finding a nats-server.
#[must_use]
pub fn path_dirs() -> Vec<PathBuf> {
    std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default()
}

/// Where the service manager put the secrets of this process.
fn credentials_directory() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

/// Where the seed of an identity is: with what the service manager handed on (`LoadCredential=NAME.nk:…`, or the whole directory
/// as `identity`), else in `bus.identities_dir`.
#[must_use]
pub fn seed_file(config: &Config, name: &str) -> PathBuf {
    let given = credentials_directory().into_iter().flat_map(|dir| {
        [format!("{name}.nk"), format!("identity_{name}.nk")].map(|file| dir.join(file))
    });
    given
        .into_iter()
        // The units hand on the word `none` where there is none.
        .find(|path| std::fs::read(path).is_ok_and(|it| it.starts_with(b"SU")))
        .unwrap_or_else(|| Path::new(&config.bus.identities_dir).join(format!("{name}.nk")))
}

/// Whether the service manager gave this file to the process: who may read it is its business then.
#[must_use]
pub fn is_given(path: &Path) -> bool {
    credentials_directory().is_some_and(|dir| path.starts_with(dir))
}

/// The file, as device and inode, that the service manager gave as a way to its journal.
#[must_use]
pub fn journal_stream() -> Option<(u64, u64)> {
    let text = std::env::var("JOURNAL_STREAM").ok()?;
    let (device, inode) = text.split_once(':')?;
    Some((device.parse().ok()?, inode.parse().ok()?))
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
mod tests;
