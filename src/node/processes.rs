//! The processes of a site on this machine: each says in `run` of the state directory what it runs and by what configuration,
//! and holds a lock for as long as it lives. Whoever rolls out a configuration finds them there, also those that answer no
//! questions (the broker, the door over HTTP).

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::status::InForce;

/// A process that is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// What it runs: roles, `broker`, `gateway`.
    pub runs: Vec<String>,
    /// What it is, and by what configuration.
    pub in_force: InForce,
}

/// The entry of this process; gone with it.
#[derive(Debug)]
pub struct Announced {
    process: Process,
    file: PathBuf,
    lock_file: PathBuf,
    _lock: File,
}

impl Announced {
    /// Makes the entry, once the process is ready.
    ///
    /// # Errors
    /// The system's. A process runs as well without an entry.
    pub fn new(state_dir: &Path, runs: Vec<String>, in_force: InForce) -> std::io::Result<Self> {
        let dir = state_dir.join("run");
        match std::fs::create_dir(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let pid = std::process::id();
        let lock_file = dir.join(format!("{pid}.lock"));
        let lock = File::create(&lock_file)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let announced = Self {
            process: Process {
                pid,
                runs,
                in_force,
            },
            file: dir.join(format!("{pid}.json")),
            lock_file,
            _lock: lock,
        };
        announced.write()?;
        Ok(announced)
    }

    /// Tells what is in force from now on.
    ///
    /// # Errors
    /// The system's.
    pub fn tell(&mut self, in_force: InForce) -> std::io::Result<()> {
        self.process.in_force = in_force;
        self.write()
    }

    fn write(&self) -> std::io::Result<()> {
        let text = serde_json::to_string(&self.process)?;
        let half = self.file.with_extension("new");
        std::fs::write(&half, text)?;
        std::fs::rename(half, &self.file)
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        // What stays behind has no lock, and counts for nothing.
        let _ = std::fs::remove_file(&self.file);
        let _ = std::fs::remove_file(&self.lock_file);
    }
}

/// The processes that run with this state directory, by id. What a killed one left is cleared away where that may be.
#[must_use]
pub fn running(state_dir: &Path) -> Vec<Process> {
    let entries = std::fs::read_dir(state_dir.join("run"));
    let mut found: Vec<Process> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| look(&entry.path()))
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

fn look(path: &Path) -> Option<Process> {
    match entry(path)? {
        (process, true) => Some(process),
        (_, false) => {
            let _ = std::fs::remove_file(path);
            let _ = std::fs::remove_file(path.with_extension("lock"));
            None
        }
    }
}

/// The processes that run with this state directory, by id; nothing is cleared away.
#[must_use]
pub fn running_now(state_dir: &Path) -> Vec<Process> {
    entries(state_dir, true)
}

/// Those that ended without taking their entry with them, as a killed one does.
#[must_use]
pub fn left(state_dir: &Path) -> Vec<Process> {
    entries(state_dir, false)
}

fn entries(state_dir: &Path, wanted_alive: bool) -> Vec<Process> {
    let files = std::fs::read_dir(state_dir.join("run"));
    let mut found: Vec<Process> = files
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|file| entry(&file.path()))
        .filter(|(_, alive)| *alive == wanted_alive)
        .map(|(process, _)| process)
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// What stands in an entry, and whether its process lives.
fn entry(path: &Path) -> Option<(Process, bool)> {
    if path.extension()? != "json" {
        return None;
    }
    let process: Process = serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()?;
    let lock = File::open(path.with_extension("lock")).ok()?;
    let alive = flock(&lock, FlockOperation::NonBlockingLockShared).is_err();
    Some((process, alive))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_process_is_there_for_as_long_as_it_lives() {
        let state = tempfile::tempdir().expect("a directory");
        let of = |level: &str| {
            let mut config = Config::default();
            config.log.level = level.to_owned();
            InForce::of(&config, Vec::new())
        };
        let runs = vec!["gateway".to_owned()];
        let mut announced =
            Announced::new(state.path(), runs.clone(), of("info")).expect("announced");
        announced.tell(of("debug")).expect("told");
        let expected = Process {
            pid: std::process::id(),
            runs,
            in_force: of("debug"),
        };
        assert_eq!(running(state.path()), [expected]);
        drop(announced);
        assert!(running(state.path()).is_empty());
    }

    #[test]
    fn what_a_killed_process_left_is_no_process() {
        let state = tempfile::tempdir().expect("a directory");
        let announced = Announced::new(
            state.path(),
            Vec::new(),
            InForce::of(&Config::default(), Vec::new()),
        )
        .expect("announced");
        let (file, lock_file) = (announced.file.clone(), announced.lock_file.clone());
        let text = std::fs::read_to_string(&file).expect("there");
        drop(announced);
        std::fs::write(&file, text).expect("written");
        std::fs::write(&lock_file, "").expect("written");
        assert_eq!(left(state.path()).len(), 1);
        assert!(running_now(state.path()).is_empty() && file.exists());
        assert!(running(state.path()).is_empty());
        assert!(!file.exists() && !lock_file.exists());
    }
}
