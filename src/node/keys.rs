//! The file with what the role auth signs and hashes with: made at its first start, for its owner's eyes only, and never
//! shown. A role reads no files and draws no chance, so the node does it.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use super::run::Error;
use crate::config::Config;
use crate::event::Ts;
use crate::role::auth::keys::Keys;

/// In the state directory of the role.
const FILE: &str = "auth-keys.json";
/// The key that signs and the one before: what that one signed has long expired when the next takes its place.
const KEPT: usize = 2;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    /// The newest first.
    keys: Vec<StoredKey>,
    pepper: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredKey {
    seed: String,
    made_at: Ts,
}

impl Stored {
    fn keys(&self) -> Result<Keys, String> {
        let seeds: Result<Vec<[u8; 32]>, String> =
            self.keys.iter().map(|key| bytes(&key.seed)).collect();
        let seeds = seeds?;
        if seeds.is_empty() {
            return Err("has no key".to_owned());
        }
        Keys::new(&seeds, bytes(&self.pepper)?)
    }
}

/// 32 bytes of a text; the error does not show it.
fn bytes(text: &str) -> Result<[u8; 32], String> {
    let decoded = BASE64URL_NOPAD.decode(text.as_bytes()).unwrap_or_default();
    decoded
        .try_into()
        .map_err(|_| "has a key or a pepper that is not 32 bytes of base64url".to_owned())
}

fn path(config: &Config) -> PathBuf {
    config.site.state_dir.join(FILE)
}

/// Makes the file where there is none, and a new key where the newest has signed for longer than `auth.key_life`. The
/// caller holds the role's lock. Says whether anything changed.
///
/// # Errors
/// [`Error::StateDir`]: the file can't be read or written, or others may read it.
pub fn settle(config: &Config, now: Ts) -> Result<bool, Error> {
    let path = path(config);
    let fail = |message: String| Error::StateDir {
        path: path.clone(),
        message,
    };
    let mut stored = match read(&path).map_err(fail)? {
        Some(stored) => stored,
        None => Stored {
            keys: Vec::new(),
            pepper: draw().map_err(fail)?,
        },
    };
    let life_ms = i64::try_from(config.auth.key_life.0.as_millis()).unwrap_or(i64::MAX);
    let fresh = |key: &StoredKey| now.ms().saturating_sub(key.made_at.ms()) < life_ms;
    if stored.keys.first().is_some_and(fresh) {
        return Ok(false);
    }
    let key = StoredKey {
        seed: draw().map_err(fail)?,
        made_at: now,
    };
    stored.keys.insert(0, key);
    stored.keys.truncate(KEPT);
    write(&path, &stored).map_err(fail)?;
    tracing::info!("a new key signs access tokens");
    Ok(true)
}

/// The keys that [`settle`] left; none where it never ran: such a role can only be looked at.
#[must_use]
pub fn load(config: &Config) -> Keys {
    let keys = read(&path(config)).and_then(|stored| match stored {
        Some(stored) => stored.keys(),
        None => Ok(Keys::default()),
    });
    keys.unwrap_or_else(|error| {
        tracing::error!(
            file = FILE,
            error,
            "the keys can't be read; nothing is signed"
        );
        Keys::default()
    })
}

fn read(path: &Path) -> Result<Option<Stored>, String> {
    let mode = match std::fs::metadata(path) {
        Ok(metadata) => metadata.permissions().mode(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if mode & 0o077 != 0 {
        return Err("may be read by others; chmod 600 it".to_owned());
    }
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    // The parser's own words could show a part of it.
    let stored: Stored =
        serde_json::from_slice(&text).map_err(|_| "can't be understood".to_owned())?;
    stored.keys()?;
    Ok(Some(stored))
}

/// All of it or nothing, on the disk before anything is signed with it.
fn write(path: &Path, stored: &Stored) -> Result<(), String> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let text = serde_json::to_vec(stored).map_err(|error| error.to_string())?;
    let written = || -> std::io::Result<()> {
        // Such a file is made for its owner alone.
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(&text)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        std::fs::File::open(dir)?.sync_all()
    };
    written().map_err(|error| error.to_string())
}

fn draw() -> Result<String, String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
    Ok(BASE64URL_NOPAD.encode(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;

    fn config(dir: &Path) -> Config {
        let mut config = Config::default();
        config.site.state_dir = dir.to_owned();
        config
    }

    fn names(config: &Config) -> Vec<String> {
        let keys = load(config);
        keys.signing()
            .iter()
            .map(|key| key.kid().to_owned())
            .collect()
    }

    #[test]
    fn a_key_is_made_once_kept_from_others_and_replaced_in_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = config(dir.path());
        let at = |days: i64| Ts::from_ms(1_768_471_200_000 + days * DAY_MS);
        assert!(names(&config).is_empty());
        assert!(settle(&config, at(0)).expect("made"));
        let first = names(&config);
        assert_eq!(first.len(), 1);
        let mode = std::fs::metadata(path(&config))
            .expect("a file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!settle(&config, at(89)).expect("kept"));
        assert_eq!(names(&config), first);
        assert!(settle(&config, at(90)).expect("rotated"));
        let second = names(&config);
        assert_eq!((second.len(), &second[1]), (2, &first[0]));
        settle(&config, at(180)).expect("rotated");
        let third = names(&config);
        assert_eq!((third.len(), &third[1]), (2, &second[0]));
    }

    #[test]
    fn a_file_that_others_may_read_or_nobody_can_is_refused_without_being_shown() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = config(dir.path());
        let now = Ts::from_ms(1_768_471_200_000);
        settle(&config, now).expect("made");
        let text = std::fs::read_to_string(path(&config)).expect("read");
        let open = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(path(&config), open).expect("changed");
        let said = settle(&config, now).expect_err("refused").to_string();
        assert!(said.contains("chmod 600"), "{said}");
        assert!(names(&config).is_empty());
        let own = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(path(&config), own).expect("changed");
        std::fs::write(path(&config), &text[..text.len() / 2]).expect("written");
        let said = settle(&config, now).expect_err("refused").to_string();
        let stored: Stored = serde_json::from_str(&text).expect("JSON");
        assert!(!said.contains(&stored.keys[0].seed[..8]), "{said}");
    }
}
