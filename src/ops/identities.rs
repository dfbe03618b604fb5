//! The identities that a site's broker lets in: an Ed25519 key (NATS NKey) for each role, for the gateway, for operators and for
//! those who only read (`roadcall auth init --identities`).
//!
//! A directory has a seed for each, `NAME.nk`, which only its owner may read, and `identities.toml` with the public keys, which
//! is all that the broker needs. An identity that is renewed has two keys there, the newer first, until the older is retired:
//! meanwhile the broker lets in whoever proves either.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nkeys::{KeyPair, KeyPairType};

/// May do everything that the site's account may.
pub const OPERATOR: &str = "operator";
/// Reads, and changes nothing.
pub const READER: &str = "reader";
/// The door over HTTP.
pub const GATEWAY: &str = "gateway";

/// The public keys of each identity, the newest first.
pub type Public = BTreeMap<String, Vec<String>>;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory.
    #[error("{}: {message}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Others may read a seed.
    #[error("{}: others than its owner may read this identity (mode {mode:04o}); chmod 600 it, and renew it if somebody did", path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// There is no identity of this name.
    #[error("there is no identity '{name}'; there are {known}")]
    Unknown {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
}

impl Error {
    fn file(path: &Path, message: impl ToString) -> Self {
        Self::File {
            path: path.to_owned(),
            message: message.to_string(),
        }
    }
}

/// The file with the public keys.
#[must_use]
pub fn public_file(dir: &Path) -> PathBuf {
    dir.join("identities.toml")
}

/// The file with an identity's seed.
#[must_use]
pub fn seed_file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.nk"))
}

/// The public keys in a directory.
///
/// # Errors
/// [`Error::File`].
pub fn public(dir: &Path) -> Result<Public, Error> {
    let path = public_file(dir);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "; roadcall auth init --identities DIR makes it",
            _ => "",
        };
        Error::file(&path, format!("{error}{hint}"))
    })?;
    let public: Public =
        toml::from_str(&text).map_err(|error| Error::file(&path, error.message()))?;
    for (name, keys) in &public {
        let wrong = |key: &&String| !is_user(key);
        if let Some(key) = keys.iter().find(wrong) {
            let message = format!("{name}: '{key}' is no public key of a user");
            return Err(Error::file(&path, message));
        }
        if keys.is_empty() {
            return Err(Error::file(&path, format!("{name} has no key")));
        }
    }
    Ok(public)
}

fn is_user(key: &str) -> bool {
    KeyPair::from_public_key(key).is_ok_and(|pair| pair.key_pair_type() == KeyPairType::User)
}

/// An identity's seed. `given` says that the service manager handed the file on: who may read it is its business then.
///
/// # Errors
/// [`Error::TooOpen`], [`Error::File`].
pub fn seed(path: &Path, given: bool) -> Result<String, Error> {
    let fail = |error: std::io::Error| Error::file(path, format!("the identity: {error}"));
    let mode = std::fs::metadata(path).map_err(fail)?.permissions().mode() & 0o777;
    if !given && mode & 0o077 != 0 {
        return Err(Error::TooOpen {
            path: path.to_owned(),
            mode,
        });
    }
    let text = std::fs::read_to_string(path).map_err(fail)?;
    let seed = text.trim();
    match KeyPair::from_seed(seed) {
        Ok(pair) if pair.key_pair_type() == KeyPairType::User => Ok(seed.to_owned()),
        _ => Err(Error::file(path, "is no seed of a user (SU…)")),
    }
}

/// A new seed.
///
/// # Errors
/// A sentence.
pub fn draw() -> Result<String, String> {
    KeyPair::new_user()
        .seed()
        .map_err(|error| error.to_string())
}

/// The public key of a seed; `None` for what is none.
#[must_use]
pub fn public_of(seed: &str) -> Option<String> {
    let pair = KeyPair::from_seed(seed).ok()?;
    (pair.key_pair_type() == KeyPairType::User).then(|| pair.public_key())
}

/// What was done to an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It was made.
    Made,
    /// It has a new key beside the older ones.
    Renewed,
    /// Its older keys count no more.
    Retired,
}

/// Makes what is missing of the identities `names` in `dir`, and gives those in `renew` a new key; `all` is every one. What is
/// there stays else. The broker knows a key before its seed is there for anybody to use.
///
/// # Errors
/// See [`Error`].
pub fn settle(dir: &Path, names: &[&str], renew: &[String]) -> Result<Vec<(String, Done)>, Error> {
    let known = |name: &String| name == "all" || names.contains(&name.as_str());
    if let Some(name) = renew.iter().find(|name| !known(name)) {
        return Err(Error::Unknown {
            name: name.clone(),
            known: names.join(", "),
        });
    }
    // The broker reads the public keys, as another user perhaps; the seeds in it are closed.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(|error| Error::file(dir, error))?;
    let mut all = match public_file(dir).exists() {
        true => public(dir)?,
        false => Public::new(),
    };
    let mut done = Vec::new();
    let mut seeds = Vec::new();
    for name in names {
        let again = renew.iter().any(|wish| wish == "all" || wish == name);
        let there = all.contains_key(*name) && seed_file(dir, name).exists();
        if there && !again {
            continue;
        }
        let pair = KeyPair::new_user();
        let keys = all.entry((*name).to_owned()).or_default();
        keys.insert(0, pair.public_key());
        let what = if keys.len() > 1 {
            Done::Renewed
        } else {
            Done::Made
        };
        done.push(((*name).to_owned(), what));
        seeds.push((*name, pair));
    }
    if seeds.is_empty() {
        return Ok(done);
    }
    write_public(dir, &all)?;
    for (name, pair) in seeds {
        let path = seed_file(dir, name);
        let text = pair.seed().map_err(|error| Error::file(&path, error))?;
        write(&path, &format!("{text}\n"), 0o600)?;
    }
    Ok(done)
}

/// Takes the older keys of every identity away. A seed that is not the newest key's would be locked out: it is refused.
///
/// # Errors
/// See [`Error`].
pub fn retire(dir: &Path) -> Result<Vec<(String, Done)>, Error> {
    let mut all = public(dir)?;
    let mut done = Vec::new();
    for (name, keys) in &mut all {
        if keys.len() < 2 {
            continue;
        }
        let path = seed_file(dir, name);
        if path.exists() {
            let seed = seed(&path, false)?;
            let pair = KeyPair::from_seed(&seed).map_err(|error| Error::file(&path, error))?;
            if pair.public_key() != keys[0] {
                let message = "is not the seed of its newest key; renew the identity again";
                return Err(Error::file(&path, message));
            }
        }
        keys.truncate(1);
        done.push((name.clone(), Done::Retired));
    }
    if !done.is_empty() {
        write_public(dir, &all)?;
    }
    Ok(done)
}

fn write_public(dir: &Path, all: &Public) -> Result<(), Error> {
    let path = public_file(dir);
    let keys = toml::to_string(all).map_err(|error| Error::file(&path, error))?;
    let head = "# Public keys, the newest first; the seeds beside are what is secret. Written by roadcall auth init.\n";
    write(&path, &format!("{head}{keys}"), 0o644)
}

/// Writes a file whole or not at all.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let half = path.with_extension("new");
    let put = || {
        let mut file = std::fs::File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(mode)
            .open(&half)?;
        // The umask may have taken more; what is public is for others.
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&half, path)
    };
    put().map_err(|error| Error::file(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(dir: &Path, name: &str) -> String {
        let seed = seed(&seed_file(dir, name), false).expect("a seed");
        KeyPair::from_seed(&seed).expect("a key").public_key()
    }

    #[test]
    fn what_is_there_stays_and_a_renewed_one_has_both_keys_until_the_old_one_is_retired() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path();
        let names = ["incident", OPERATOR];
        assert_eq!(settle(dir, &names, &[]).expect("made").len(), 2);
        let first = public(dir).expect("read");
        assert_eq!(first["incident"], [key_of(dir, "incident")]);
        assert_eq!(settle(dir, &names, &[]).expect("nothing to do"), []);
        assert_eq!(public(dir).expect("read"), first);

        let done = settle(dir, &names, &["incident".to_owned()]).expect("renewed");
        assert_eq!(done, [("incident".to_owned(), Done::Renewed)]);
        let both = public(dir).expect("read");
        let new = key_of(dir, "incident");
        assert_eq!(
            both["incident"],
            [new.clone(), first["incident"][0].clone()]
        );
        assert_eq!(both[OPERATOR], first[OPERATOR]);

        assert_eq!(retire(dir).expect("retired").len(), 1);
        assert_eq!(public(dir).expect("read")["incident"], [new]);
        assert_eq!(retire(dir).expect("nothing to do"), []);
    }

    #[test]
    fn a_seed_that_others_may_read_is_refused_in_one_line() {
        let dir = tempfile::tempdir().expect("a directory");
        settle(dir.path(), &[READER], &[]).expect("made");
        let path = seed_file(dir.path(), READER);
        let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!(
            (mode(&path), mode(&public_file(dir.path()))),
            (0o600, 0o644)
        );
        for open in [0o640, 0o604, 0o644] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(open)).expect("set");
            let error = seed(&path, false).expect_err("too open").to_string();
            assert!(
                error.contains("chmod 600") && error.lines().count() == 1,
                "{error}"
            );
            assert!(seed(&path, true).is_ok(), "the service manager's business");
        }
    }

    #[test]
    fn what_is_no_identity_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path();
        assert!(
            public(dir)
                .expect_err("none")
                .to_string()
                .contains("auth init")
        );
        let error = settle(dir, &[READER], &["writer".to_owned()]).expect_err("unknown");
        assert!(error.to_string().contains("'writer'"), "{error}");
        let account = KeyPair::new_account();
        std::fs::write(
            public_file(dir),
            format!("reader = ['{}']", account.public_key()),
        )
        .expect("written");
        assert!(
            public(dir)
                .expect_err("an account")
                .to_string()
                .contains("no public key")
        );
        let path = dir.join("x.nk");
        write(&path, &account.seed().expect("a seed"), 0o600).expect("written");
        assert!(
            seed(&path, false)
                .expect_err("an account")
                .to_string()
                .contains("no seed")
        );
    }
}
