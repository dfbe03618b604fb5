//! The depots that a hub knows: a file each in `sites` of its state directory. They are made and removed by `roadcall site`, and
//! read by the process that runs the hub's broker as long as it runs.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::event::{Site, Ts};

/// A depot.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Depot {
    /// Its name.
    pub site: String,
    /// What its broker proves itself with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub seed: String,
    /// The public keys of seeds before that, which still count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub older: Vec<String>,
    /// The same of a depot from before there were seeds; its user is its name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub password: String,
    /// Subjects that it gets from the hub.
    pub down: Vec<String>,
    /// The roles that it runs; `all` is every one. What is missing here the hub does for it.
    pub roles: Vec<String>,
    /// Since when it is known.
    pub since: Ts,
}

impl std::fmt::Debug for Depot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Depot")
            .field("site", &self.site)
            .field("down", &self.down)
            .field("roles", &self.roles)
            .finish_non_exhaustive()
    }
}

/// The role without which nobody would know what a depot has and what became of it.
pub const AUDIT: &str = "audit";

/// Whether a list of roles has one; `all` is every one.
#[must_use]
pub fn lists(roles: &[String], role: &str) -> bool {
    roles.iter().any(|listed| listed == "all" || listed == role)
}

impl Depot {
    /// Whether it runs a role.
    #[must_use]
    pub fn runs(&self, role: &str) -> bool {
        lists(&self.roles, role)
    }

    /// What is wrong with it.
    fn check(&self, path: &Path) -> Result<(), String> {
        if Site::new(self.site.clone()).is_err() || self.site == "hub" {
            return Err(format!("site '{}' is no name of a depot", self.site));
        }
        if path.file_stem().and_then(|stem| stem.to_str()) != Some(&self.site) {
            return Err(format!(
                "it is about site '{}', the file's name says another",
                self.site
            ));
        }
        let word = |text: &String| text.chars().all(|c| c.is_ascii_alphanumeric());
        if !word(&self.password) {
            return Err("password is not of letters and digits".to_owned());
        }
        if !word(&self.seed) || !self.older.iter().all(word) {
            return Err("seed and older are not of letters and digits".to_owned());
        }
        if self.password.is_empty() && self.seed.is_empty() {
            return Err("it has no seed".to_owned());
        }
        if !self.runs(AUDIT) {
            return Err("roles lack audit: each depot has one of its own".to_owned());
        }
        match self.down.iter().find(|down| !well_formed(down)) {
            Some(down) => Err(format!("down '{down}' is no subject like roadcall.hub.>")),
            None => Ok(()),
        }
    }
}

/// Whether a subject filter is about events of sites.
#[must_use]
pub fn well_formed(filter: &str) -> bool {
    let tokens: Vec<&str> = filter.split('.').collect();
    let last = tokens.len() - 1;
    let known = |c: char| c.is_ascii_alphanumeric() || "_-*".contains(c);
    tokens.len() >= 3
        && tokens[0] == "roadcall"
        && tokens[1] != "*"
        && tokens.iter().enumerate().all(|(at, token)| {
            (*token == ">" && at == last) || (!token.is_empty() && token.chars().all(known))
        })
}

/// Where the depots' files are.
#[must_use]
pub fn dir(state_dir: &Path) -> PathBuf {
    state_dir.join("sites")
}

/// The file of a depot.
#[must_use]
pub fn file(state_dir: &Path, site: &str) -> PathBuf {
    dir(state_dir).join(format!("{site}.toml"))
}

/// Every depot, by name.
///
/// # Errors
/// The file that can't be read or is wrong, and why.
pub fn read(state_dir: &Path) -> Result<Vec<Depot>, (PathBuf, String)> {
    let dir = dir(state_dir);
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        // A state directory that can't be is for those to tell who make it.
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err((dir, error.to_string())),
    };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).map_err(|error| error.to_string());
            let depot = text.and_then(|text| {
                let depot: Depot =
                    toml::from_str(&text).map_err(|error| error.message().to_owned())?;
                depot.check(&path).map(|()| depot)
            });
            depot.map_err(|why| (path, why))
        })
        .collect()
}

/// Writes a depot's file whole or not at all; only its owner reads it.
///
/// # Errors
/// The system's.
pub fn write(state_dir: &Path, depot: &Depot) -> std::io::Result<()> {
    let dir = dir(state_dir);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)?;
    let text = toml::to_string(depot).map_err(std::io::Error::other)?;
    let half = dir.join(format!("{}.new", depot.site));
    write_secret(&half, &text)?;
    std::fs::rename(half, file(state_dir, &depot.site))
}

/// Writes a file that only its owner reads.
///
/// # Errors
/// The system's.
pub fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = std::fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn depot() -> Depot {
        Depot {
            site: "depot-7".to_owned(),
            password: "abc".to_owned(),
            seed: String::new(),
            older: Vec::new(),
            down: vec!["roadcall.hub.>".to_owned()],
            roles: vec!["all".to_owned()],
            since: Ts::from_ms(0),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let state = tempfile::tempdir().expect("a directory");
        assert_eq!(read(state.path()), Ok(Vec::new()));
        write(state.path(), &depot()).expect("written");
        assert_eq!(read(state.path()), Ok(vec![depot()]));
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(file(state.path(), "depot-7"))
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_wrong_file_is_named() {
        let state = tempfile::tempdir().expect("a directory");
        let wrong = |change: fn(&mut Depot)| {
            let mut depot = depot();
            change(&mut depot);
            write(state.path(), &depot).expect("written");
            let (path, why) = read(state.path()).expect_err("wrong");
            std::fs::remove_file(&path).expect("removed");
            why
        };
        assert!(wrong(|depot| depot.site = "hub".to_owned()).contains("no name of a depot"));
        assert!(wrong(|depot| depot.password = "a\"b".to_owned()).contains("password"));
        assert!(wrong(|depot| depot.roles = vec!["match".to_owned()]).contains("lack audit"));
        assert!(
            wrong(|depot| depot.down = vec!["roadcall.*.>".to_owned()]).contains("roadcall.*.>")
        );
    }

    #[test]
    fn subjects_that_go_down_name_a_site() {
        for good in [
            "roadcall.hub.>",
            "roadcall.hub.vendor.>",
            "roadcall.depot-b.*.VendorUpdated.*",
        ] {
            assert!(well_formed(good), "{good}");
        }
        for bad in [
            "roadcall.>",
            "roadcall.*.vendor.>",
            "orders.hub.>",
            "roadcall.hub",
            "roadcall..>",
            "roadcall.hub.>.x",
        ] {
            assert!(!well_formed(bad), "{bad}");
        }
    }
}
