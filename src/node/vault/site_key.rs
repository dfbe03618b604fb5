//! The site's key, which wraps the keys of persons: read from its file, made at the first start, replaced.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use sha2::{Digest as _, Sha256};

use crate::config::{Config, is_given};
use crate::event::DataKey;
use crate::event::seal::SECRET_LEN;
use crate::store::keys::KeyStore;
use crate::store::{self, Class};

/// Its name in the state directory.
const FILE: &str = "site.key";
/// Bytes of the name by which keys.db knows it.
const NAMED: usize = 8;

/// Why there is no site key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its file.
    #[error("the site key {} {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// What it wraps.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Where it is.
#[must_use]
pub fn path(config: &Config) -> PathBuf {
    match config.privacy.key_file.as_str() {
        "" => config.site.state_dir.join(FILE),
        given => PathBuf::from(given),
    }
}

/// Where a new one is until it has taken the old one's place.
fn coming(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn fail(path: &Path, message: impl Into<String>) -> Error {
    Error::File {
        path: path.to_owned(),
        message: message.into(),
    }
}

/// The key in a file; `None` where there is none. What the service manager handed over is not judged by its mode.
fn read(path: &Path) -> Result<Option<DataKey>, Error> {
    let mode = match std::fs::metadata(path) {
        Ok(found) => found.permissions().mode() & 0o777,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(path, format!("can't be read: {error}"))),
    };
    if !is_given(path) && mode & 0o077 != 0 {
        let message = format!("may be read by others (mode {mode:04o}); chmod 600 it");
        return Err(fail(path, message));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| fail(path, format!("can't be read: {error}")))?;
    // With or without the padding that other tools write.
    let text = text.trim_end().trim_end_matches('=');
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes());
    let secret: Option<[u8; SECRET_LEN]> = bytes.ok().and_then(|bytes| bytes.try_into().ok());
    let secret = secret.ok_or_else(|| fail(path, "is not 32 bytes of base64url"))?;
    Ok(Some(key(&secret)))
}

fn key(secret: &[u8; SECRET_LEN]) -> DataKey {
    let digest = Sha256::new()
        .chain_update(b"roadcall site key")
        .chain_update(secret)
        .finalize();
    DataKey::new(
        &format!("site-{}", HEXLOWER.encode(&digest[..NAMED])),
        secret,
    )
}

/// Random bytes.
pub(super) fn draw<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| format!("the system gives no chance: {error}"))?;
    Ok(bytes)
}

/// A new key in a file of its owner's, whole and on the disk before anything is wrapped with it.
fn make(path: &Path) -> Result<DataKey, Error> {
    let secret = draw::<SECRET_LEN>().map_err(|error| fail(path, error))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    let written = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        writeln!(file, "{}", BASE64URL_NOPAD.encode(&secret))?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path)?;
        std::fs::File::open(dir)?.sync_all()
    };
    written().map_err(|error| fail(path, format!("can't be made: {error}")))?;
    Ok(key(&secret))
}

/// Opens `keys.db` with the site's key; both are made at the first start. A new key that a broken rotation left takes its place
/// where it is the one that wraps the keys.
///
/// # Errors
/// See [`Error`]: a missing or wrong key is refused, and nothing is made over what it can't read.
pub fn open(config: &Config) -> Result<KeyStore, Error> {
    let (file, keys) = (path(config), super::path(&config.site.state_dir));
    let Some(wrapping) = read(&file)? else {
        if keys.exists() {
            return Err(missing(&file, &keys));
        }
        return Ok(KeyStore::open(&keys, make(&file)?)?);
    };
    let refused = match KeyStore::open(&keys, wrapping) {
        Err(error) if error.class == Class::NoKey => error,
        opened => return Ok(opened?),
    };
    let new = coming(&file);
    let Some(wrapping) = read(&new)? else {
        return Err(refused.into());
    };
    let store = KeyStore::open(&keys, wrapping)?;
    take_place(&new, &file)?;
    Ok(store)
}

/// Whether a start would open the keys: true, or false where both would be made. Nothing is changed.
///
/// # Errors
/// See [`Error`].
pub fn look(config: &Config) -> Result<bool, Error> {
    let (file, keys) = (path(config), super::path(&config.site.state_dir));
    let by = KeyStore::wrapped_by(&keys)?;
    let found = [read(&file)?, read(&coming(&file))?];
    match by {
        None => Ok(false),
        Some(by) if found.iter().flatten().any(|key| key.id() == by) => Ok(true),
        Some(_) if found[0].is_none() => Err(missing(&file, &keys)),
        Some(_) => Err(fail(
            &file,
            format!("is not the one that {} was written with", keys.display()),
        )),
    }
}

fn missing(file: &Path, keys: &Path) -> Error {
    let message = format!(
        "is missing, and {} can't be read without it; bring it back",
        keys.display()
    );
    fail(file, message)
}

fn take_place(new: &Path, old: &Path) -> Result<(), Error> {
    std::fs::rename(new, old).map_err(|error| fail(old, format!("can't be replaced: {error}")))
}

/// Wraps every key with a new site key. Killed at any moment it leaves keys that one of the two files opens, and [`open`] knows
/// which. The caller sees to it that nobody has the keys open. Gives how many keys there are.
///
/// # Errors
/// See [`Error`].
pub fn rotate(config: &Config) -> Result<usize, Error> {
    let mut store = open(config)?;
    let file = path(config);
    let new = coming(&file);
    // One that was made and wraps nothing yet.
    let wrapping = match read(&new)? {
        Some(wrapping) => wrapping,
        None => make(&new)?,
    };
    let count = store.rewrap(wrapping)?;
    take_place(&new, &file)?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Ts;
    use crate::store::keys::{Kept, KeyRow};

    fn config(dir: &Path) -> Config {
        let mut config = Config::default();
        config.site.state_dir = dir.to_owned();
        config
    }

    fn row() -> KeyRow {
        KeyRow {
            key_id: "k".to_owned(),
            subject: "ann".to_owned(),
            site: "hub".to_owned(),
            secret: [5; SECRET_LEN],
            made_at: Ts::from_ms(1),
        }
    }

    fn has(config: &Config) -> bool {
        let kept = open(config).expect("opened").named("k").expect("read");
        kept == Kept::Key(Box::new(row()))
    }

    #[test]
    fn it_is_made_once_and_neither_missing_nor_wrong_nor_open_to_others() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = config(dir.path());
        open(&config)
            .expect("made")
            .keep(&[row()], false)
            .expect("kept");
        assert!(has(&config));
        let file = path(&config);
        let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode));
        assert_eq!(
            file.metadata().expect("there").permissions().mode() & 0o777,
            0o600
        );
        mode(0o644).expect("set");
        let said = open(&config).expect_err("refused").to_string();
        assert!(said.contains("chmod 600"), "{said}");
        mode(0o600).expect("set");
        let away = dir.path().join("away");
        std::fs::rename(&file, &away).expect("moved");
        let before = std::fs::read(super::super::path(dir.path())).expect("read");
        let said = open(&config).expect_err("refused").to_string();
        assert!(said.contains("is missing"), "{said}");
        make(&file).expect("another");
        let said = open(&config).expect_err("refused").to_string();
        assert!(said.contains("another site key"), "{said}");
        assert_eq!(
            std::fs::read(super::super::path(dir.path())).expect("read"),
            before
        );
        std::fs::rename(&away, &file).expect("moved back");
        assert!(has(&config));
    }

    #[test]
    fn a_rotation_keeps_every_key_wherever_it_breaks() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = config(dir.path());
        open(&config)
            .expect("made")
            .keep(&[row()], false)
            .expect("kept");
        let (file, new) = (path(&config), coming(&path(&config)));
        let old = std::fs::read(&file).expect("read");
        assert_eq!(rotate(&config).expect("rotated"), 1);
        assert_ne!(std::fs::read(&file).expect("read"), old);
        assert!(!new.exists() && has(&config));
        // Killed before the commit: the new key wraps nothing yet.
        make(&new).expect("made");
        assert!(has(&config) && new.exists());
        // Killed between the commit and the rename.
        let wrapping = read(&new).expect("read").expect("there");
        open(&config)
            .expect("opened")
            .rewrap(wrapping)
            .expect("wrapped");
        assert!(has(&config) && !new.exists());
    }
}
