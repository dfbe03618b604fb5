//! The fleet's files on a site's disk: whole versions beside each other, and which of them is in force.
//!
//! `fleet/<number>-<digest>/` in the site's configuration directory has a version's files. `fleet/current` is a link to the one
//! in force, and changing it is a single step of the file system: whoever reads has the old version or the new one, whatever
//! dies in the middle. `conf.d/50-fleet.toml` and `role.d/<role>.toml` are links through it, so that the layers of a
//! configuration are where they always are. Numbers only grow; a version above the current one was never brought to an end,
//! and is cleared away.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::Version;

/// Versions that a site keeps, the one in force among them.
pub const KEPT: usize = 3;
/// The fleet's file among those of `conf.d`.
pub(in crate::config) const MAIN_LINK: &str = "conf.d/50-fleet.toml";
/// What such links lead to, from a directory beside `fleet`.
const THROUGH: &str = "../fleet/current";

/// Why a version could not be put in its place or taken back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system.
    #[error("{}: {message}", path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// The system's words.
        message: String,
    },
    /// A file of somebody else's stands where the fleet's has to be.
    #[error("{} is not the fleet's, and stands where its file has to be", path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
    },
    /// Another rollout is on its way.
    #[error("{} is held by another rollout", path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
    },
    /// There is nothing to go back to.
    #[error("no earlier version is kept in {}", path.display())]
    NothingEarlier {
        /// The directory of versions.
        path: PathBuf,
    },
}

/// A version on the disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    /// Its number: higher ones are later.
    pub number: u64,
    /// See [`Version::digest`].
    pub digest: String,
}

impl Held {
    fn parse(name: &str) -> Option<Self> {
        let (number, digest) = name.split_once('-')?;
        Some(Self {
            number: number.parse().ok()?,
            digest: digest.to_owned(),
        })
    }

    fn name(&self) -> String {
        format!("{:04}-{}", self.number, self.digest)
    }
}

/// The versions of one site, for somebody who changes them; nobody else may for so long.
#[derive(Debug)]
pub struct Versions {
    /// The site's configuration directory.
    dir: PathBuf,
    /// Whose owner and readers the fleet's files get.
    main: PathBuf,
    _lock: File,
}

/// The configuration directory of the site with this main file.
#[must_use]
pub fn dir_of(main: &Path) -> &Path {
    match main.parent() {
        None => Path::new("."),
        Some(dir) if dir.as_os_str().is_empty() => Path::new("."),
        Some(dir) => dir,
    }
}

/// The version in force at a site.
#[must_use]
pub fn current(dir: &Path) -> Option<Held> {
    let target = std::fs::read_link(dir.join("fleet/current")).ok()?;
    Held::parse(target.to_str()?)
}

/// Where a version's files are.
#[must_use]
pub fn path_of(dir: &Path, held: &Held) -> PathBuf {
    dir.join("fleet").join(held.name())
}

/// The version that a site would go back to; none where that is before the first.
///
/// # Errors
/// [`Error::NothingEarlier`].
pub fn earlier(dir: &Path) -> Result<Option<Held>, Error> {
    let path = dir.join("fleet");
    let Some(from) = current(dir) else {
        return Err(Error::NothingEarlier { path });
    };
    let earlier = kept(dir).into_iter().find(|held| *held < from);
    if earlier.is_none() && from.number > 1 {
        return Err(Error::NothingEarlier { path });
    }
    Ok(earlier)
}

/// The versions of a site, the latest first.
#[must_use]
pub fn kept(dir: &Path) -> Vec<Held> {
    let entries = std::fs::read_dir(dir.join("fleet"));
    let mut found: Vec<Held> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Held::parse(entry.file_name().to_str()?))
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found
}

/// Files that stand where the fleet's have to be.
#[must_use]
pub fn foreign(dir: &Path, version: &Version) -> Vec<PathBuf> {
    let links = version.files.keys().map(|file| dir.join(link_of(file)));
    links
        .filter(|path| path.symlink_metadata().is_ok() && !is_ours(path))
        .collect()
}

/// Whether the file is a link through the version in force.
pub(in crate::config) fn is_ours(path: &Path) -> bool {
    std::fs::read_link(path).is_ok_and(|target| target.starts_with(THROUGH))
}

/// Where the site's layers have a version's file.
fn link_of(file: &Path) -> PathBuf {
    match file.to_str() {
        Some("fleet.toml") => PathBuf::from(MAIN_LINK),
        _ => file.to_owned(),
    }
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |error| Error::File {
        path,
        message: error.to_string(),
    }
}

impl Versions {
    /// Takes hold of the versions of the site with this main file.
    ///
    /// # Errors
    /// Another rollout has them; the file system.
    pub fn open(main: &Path) -> Result<Self, Error> {
        let dir = dir_of(main);
        let fleet = dir.join("fleet");
        std::fs::create_dir_all(&fleet).map_err(failed(&fleet))?;
        let path = fleet.join("lock");
        let lock = File::create(&path).map_err(failed(&path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| Error::Busy { path })?;
        let versions = Self {
            dir: dir.to_owned(),
            main: main.to_owned(),
            _lock: lock,
        };
        versions.clear()?;
        Ok(versions)
    }

    /// Brings a version in force. Does nothing where it is in force already.
    ///
    /// # Errors
    /// A file that is not the fleet's; the file system. The old version is in force then.
    pub fn put(&self, version: &Version) -> Result<Held, Error> {
        if let Some(held) = current(&self.dir).filter(|held| held.digest == version.digest) {
            return Ok(held);
        }
        if let Some(path) = foreign(&self.dir, version).pop() {
            return Err(Error::Foreign { path });
        }
        let held = Held {
            number: current(&self.dir).map_or(1, |held| held.number + 1),
            digest: version.digest.clone(),
        };
        self.write(&held, version)?;
        self.switch(Some(&held))?;
        Ok(held)
    }

    /// Goes back to the version before the one in force, or to none at all before the first; gives it. What was in force is
    /// gone then.
    ///
    /// # Errors
    /// Nothing earlier is kept; the file system.
    pub fn back(&self) -> Result<Option<Held>, Error> {
        let earlier = earlier(&self.dir)?;
        self.switch(earlier.as_ref())?;
        self.clear()?;
        Ok(earlier)
    }

    /// Lets go of versions that are older than those that are kept. For when the one in force is known to be good.
    ///
    /// # Errors
    /// The file system.
    pub fn settle(&self) -> Result<(), Error> {
        for old in kept(&self.dir).into_iter().skip(KEPT) {
            self.remove(&old.name())?;
        }
        Ok(())
    }

    /// Removes the versions above the one in force: what a rollout left that died, or has gone back from.
    fn clear(&self) -> Result<(), Error> {
        let current = current(&self.dir).map_or(0, |held| held.number);
        for held in kept(&self.dir) {
            if held.number > current {
                self.remove(&held.name())?;
            }
        }
        let fleet = self.dir.join("fleet");
        for entry in std::fs::read_dir(&fleet).map_err(failed(&fleet))?.flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.starts_with("half-")) {
                self.remove(&name.to_string_lossy())?;
            }
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.dir.join("fleet").join(name);
        let is_dir = path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        let removed = match is_dir {
            true => std::fs::remove_dir_all(&path),
            false => std::fs::remove_file(&path),
        };
        removed.map_err(failed(&path))
    }

    /// Writes a version's files under another name first, so that what has its name is whole.
    fn write(&self, held: &Held, version: &Version) -> Result<(), Error> {
        let fleet = self.dir.join("fleet");
        let half = fleet.join(format!("half-{}", held.name()));
        let role_dir = half.join("role.d");
        std::fs::create_dir_all(&role_dir).map_err(failed(&role_dir))?;
        let like = self.model();
        for (file, text) in &version.files {
            let path = half.join(file);
            write_like(&path, text, &like).map_err(failed(&path))?;
        }
        for dir in [&role_dir, &half] {
            own_like(dir, &like, true).map_err(failed(dir))?;
            sync_dir(dir)?;
        }
        let whole = fleet.join(held.name());
        std::fs::rename(&half, &whole).map_err(failed(&whole))?;
        sync_dir(&fleet)
    }

    /// Whose the site's files are, and who may read them: as its main file.
    fn model(&self) -> Option<std::fs::Metadata> {
        std::fs::metadata(&self.main).ok()
    }

    /// Changes which version is in force. The links that it needs are made before, those that it lacks removed after: a link
    /// that leads nowhere is no file to whoever reads.
    fn switch(&self, to: Option<&Held>) -> Result<(), Error> {
        let fleet = self.dir.join("fleet");
        let current = fleet.join("current");
        match to {
            Some(held) => {
                self.link(&fleet.join(held.name()))?;
                let half = fleet.join("half-current");
                symlink(held.name(), &half).map_err(failed(&half))?;
                std::fs::rename(&half, &current).map_err(failed(&current))?;
            }
            None => std::fs::remove_file(&current).map_err(failed(&current))?,
        }
        sync_dir(&fleet)?;
        self.unlink()
    }

    fn link(&self, version: &Path) -> Result<(), Error> {
        let roles = version.join("role.d");
        let mut files = vec![PathBuf::from("fleet.toml")];
        for entry in std::fs::read_dir(&roles).map_err(failed(&roles))?.flatten() {
            files.push(Path::new("role.d").join(entry.file_name()));
        }
        for file in files {
            let path = self.dir.join(link_of(&file));
            if path.symlink_metadata().is_ok() {
                if !is_ours(&path) {
                    return Err(Error::Foreign { path });
                }
                continue;
            }
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir).map_err(failed(dir))?;
            }
            symlink(Path::new(THROUGH).join(&file), &path).map_err(failed(&path))?;
        }
        for dir in ["conf.d", "role.d"] {
            let dir = self.dir.join(dir);
            if dir.is_dir() {
                sync_dir(&dir)?;
            }
        }
        Ok(())
    }

    /// Removes the fleet's links that lead nowhere.
    fn unlink(&self) -> Result<(), Error> {
        for dir in ["conf.d", "role.d"] {
            let entries = std::fs::read_dir(self.dir.join(dir));
            for entry in entries.into_iter().flatten().flatten() {
                let path = entry.path();
                if is_ours(&path) && !path.exists() {
                    std::fs::remove_file(&path).map_err(failed(&path))?;
                }
            }
        }
        Ok(())
    }
}

fn write_like(path: &Path, text: &str, like: &Option<std::fs::Metadata>) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    own_like(path, like, false)?;
    file.sync_all()
}

/// Gives a file of a version the owner and readers of the model; who is not root keeps what he makes.
fn own_like(path: &Path, like: &Option<std::fs::Metadata>, dir: bool) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let Some(like) = like else { return Ok(()) };
    let _ = std::os::unix::fs::chown(path, Some(like.uid()), Some(like.gid()));
    let readers = like.mode() & 0o444;
    let mode = match dir {
        true => 0o700 | readers | (readers >> 2),
        false => 0o600 | readers,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(failed(dir))
}
