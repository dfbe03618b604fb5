//! Files that root makes for a service: a person may run a command as root, and what it leaves belongs to the service's user.

use std::os::unix::fs::{MetadataExt, lchown};
use std::path::Path;

/// Who owns a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    /// The owner of the nearest directory above `path` that is there, or of `path` itself.
    #[must_use]
    pub fn above(path: &Path) -> Option<Self> {
        let found = path
            .ancestors()
            .find_map(|path| path.symlink_metadata().ok())?;
        Some(Self {
            uid: found.uid(),
            gid: found.gid(),
        })
    }

    /// Gives him what root has in `dir`. Nobody else may, so for anybody else it does nothing.
    pub fn take(self, dir: &Path) {
        if self.uid != 0 && rustix::process::geteuid().is_root() {
            self.take_entry(dir);
        }
    }

    fn take_entry(self, path: &Path) {
        let Ok(found) = path.symlink_metadata() else {
            return;
        };
        if found.uid() == 0
            && let Err(error) = lchown(path, Some(self.uid), Some(self.gid))
        {
            tracing::warn!(path = %path.display(), %error, "a file stays root's");
        }
        if found.is_dir() {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.for_each(|entry| self.take_entry(&entry.path()));
        }
    }
}
