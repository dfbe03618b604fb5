//! For which depots the hub does a role's work (DESIGN 8, Home): for those whose file does not list the role.
//!
//! The file is looked at whenever the question comes up, since depots are added and changed while the hub runs, and the
//! answer for the first event of a new depot must be right. It comes up only for what a depot caused; its file is read again
//! only when it is another one than at the last time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::config::Config;
use crate::config::depots::{self, Depot};
use crate::event::Site;
use crate::role::RoleName;
use crate::store::Store;

/// Lets the role behind `store` stand in for depots that do not run it, where this site is the hub.
pub(super) fn stand_in(config: &Config, role: RoleName, store: &mut Store) {
    if config.is_hub() {
        let homes = Homes::new(&config.site.state_dir);
        store.stand_in(move |home| homes.lacks(home, role));
    }
}

/// The roles of each depot that was asked about.
#[derive(Debug)]
struct Homes {
    state_dir: PathBuf,
    known: Mutex<BTreeMap<Site, Known>>,
}

/// What a depot's file said, and which file that was.
#[derive(Debug, Clone)]
struct Known {
    written: SystemTime,
    roles: Vec<String>,
}

impl Known {
    fn read(state_dir: &Path, home: &Site, written: SystemTime) -> Result<Self, String> {
        let depot: Depot = depots::find(state_dir, home.as_str())?;
        Ok(Self {
            written,
            roles: depot.roles,
        })
    }

    fn lacks(&self, role: RoleName) -> bool {
        let named = |name: &String| name == "all" || name == role.as_str();
        !self.roles.iter().any(named)
    }
}

impl Homes {
    fn new(state_dir: &Path) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
            known: Mutex::default(),
        }
    }

    /// Whether `home` is a depot of this hub that does not run `role`. What is not known to lack it is left to its home. A
    /// depot that was removed is as it was: its last events may still be on their way through the queues.
    fn lacks(&self, home: &Site, role: RoleName) -> bool {
        // Nothing panics while it is held; a map half written does not exist.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let path = depots::file(&self.state_dir, home.as_str());
        let written = std::fs::metadata(path).and_then(|file| file.modified());
        if let Ok(written) = written
            && known.get(home).is_none_or(|known| known.written != written)
        {
            match Known::read(&self.state_dir, home, written) {
                Ok(read) => {
                    known.insert(home.clone(), read);
                }
                Err(error) => {
                    tracing::error!(depot = %home, error, "the depot's file can't be read");
                }
            }
        }
        known.get(home).is_some_and(|known| known.lacks(role))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Ts;

    fn write(dir: &Path, roles: &[&str], written_s: u64) {
        let depot = Depot {
            site: "depot-a".to_owned(),
            password: "secret".to_owned(),
            down: vec!["roadcall.hub.>".to_owned()],
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            since: Ts::from_ms(0),
        };
        depots::write(dir, &depot).expect("written");
        let file = std::fs::File::options()
            .write(true)
            .open(depots::file(dir, "depot-a"))
            .expect("there");
        let written = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(written_s);
        file.set_modified(written).expect("set");
    }

    #[test]
    fn the_hub_stands_in_for_what_a_depots_file_does_not_list_as_it_is_now() {
        let dir = tempfile::TempDir::new().expect("a directory");
        let homes = Homes::new(dir.path());
        let depot: Site = Site::new("depot-a").expect("a site");
        let lacks = |role| homes.lacks(&depot, role);
        assert!(!lacks(RoleName::Match), "nobody knows it");
        write(dir.path(), &["all"], 1);
        assert!(!lacks(RoleName::Match));
        write(dir.path(), &["incident", "audit"], 2);
        assert!(lacks(RoleName::Match) && !lacks(RoleName::Incident));
        write(dir.path(), &["incident", "match", "audit"], 3);
        assert!(!lacks(RoleName::Match) && lacks(RoleName::Payments));
        std::fs::remove_file(depots::file(dir.path(), "depot-a")).expect("removed");
        assert!(lacks(RoleName::Payments), "what it left behind is done");
        assert!(!homes.lacks(&Site::new("hub").expect("a site"), RoleName::Match));
    }
}
