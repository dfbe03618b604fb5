//! What the state directory and the broker's store hold is for their owner alone: directories 0700, files 0600.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

/// What others might do with a file.
const OTHERS: u32 = 0o077;
/// The directory is everybody's, like /tmp.
const STICKY: u32 = 0o1000;
/// Files of a state directory, by what their names have in them; somebody may keep other things there. Keys that are
/// refused when others may read them are not mended: they were read, perhaps.
const FILES: [&str; 4] = [".db", ".lock", "telephony.key", ".secret"];
/// Its directories.
const DIRECTORIES: [&str; 3] = ["log", "run", "sites"];

/// From here on this process and those that it starts make files for their owner alone.
pub fn own_only() {
    rustix::process::umask(Mode::from_raw_mode(OTHERS));
}

/// Takes from others what earlier versions, another umask or a copy let them do. Gives the number of files and directories
/// that it changed, and those that it could not change.
#[must_use]
pub fn tighten(state_dir: &Path, store_dir: &Path) -> (usize, Vec<PathBuf>) {
    let mut done = Tightening::default();
    let shared = |dir: &Path| dir.metadata().is_ok_and(|found| found.mode() & STICKY != 0);
    if !shared(state_dir) {
        done.entry(state_dir);
    }
    for entry in std::fs::read_dir(state_dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if DIRECTORIES.contains(&name.as_str()) {
            done.below(&entry.path());
        } else if FILES.iter().any(|part| name.contains(part)) {
            done.entry(&entry.path());
        }
    }
    if !shared(store_dir) {
        done.below(store_dir);
    }
    (done.changed, done.refused)
}

#[derive(Default)]
struct Tightening {
    changed: usize,
    refused: Vec<PathBuf>,
}

impl Tightening {
    fn below(&mut self, path: &Path) {
        self.entry(path);
        if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.for_each(|entry| self.below(&entry.path()));
        }
    }

    /// Follows no link, and what is gone meanwhile is as good.
    fn entry(&mut self, path: &Path) {
        let Ok(found) = path.symlink_metadata() else {
            return;
        };
        let mode = found.mode();
        if found.is_symlink() || mode & OTHERS == 0 {
            return;
        }
        let own = std::fs::Permissions::from_mode(mode & 0o7777 & !OTHERS);
        match std::fs::set_permissions(path, own) {
            Ok(()) => self.changed += 1,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(_) => self.refused.push(path.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().expect("there").mode() & 0o7777
    }

    #[test]
    fn what_is_ours_is_closed_and_what_is_not_is_left() {
        let dir = tempfile::tempdir().expect("a directory");
        let set = |below: &str, mode: u32| {
            let path = dir.path().join(below);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(&path, "x").expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
            path
        };
        let ours = [
            set("state/vendor.db", 0o644),
            set("state/vendor.db-wal", 0o664),
            set("state/log/today.ndjson", 0o640),
            set("state/telephony.key", 0o644),
            set("nats/jetstream/RC/streams/EVENTS/msgs/1.blk", 0o640),
        ];
        let tool = set("nats/bin/nats-server", 0o755);
        let other = set("state/store.key", 0o644);
        let (state, nats) = (dir.path().join("state"), dir.path().join("nats"));
        let (changed, refused) = tighten(&state, &nats);
        // Above them: state, log, nats, jetstream, RC, streams, EVENTS, msgs, bin.
        assert_eq!((changed, refused), (ours.len() + 1 + 9, Vec::new()));
        assert!(ours.iter().all(|path| mode(path) == 0o600));
        assert_eq!(
            (mode(&tool), mode(&other), mode(&state)),
            (0o700, 0o644, 0o700)
        );
        assert_eq!(tighten(&state, &nats), (0, Vec::new()));
    }

    #[test]
    fn a_directory_of_everybody_stays_open() {
        let dir = tempfile::tempdir().expect("a directory");
        let shared = std::fs::Permissions::from_mode(0o1777);
        std::fs::set_permissions(dir.path(), shared).expect("set");
        assert_eq!(
            tighten(dir.path(), &dir.path().join("none")),
            (0, Vec::new())
        );
        assert_eq!(mode(dir.path()), 0o1777);
    }
}
