//! The store encrypted at rest: which key opens it, told before the server runs (BROKER 0 E and 8).
//!
//! nats-server starts with a wrong key or with none: it passes over what it can't read, and whoever then makes a stream
//! deletes it. So the store holds a note of its key, and a start that has another one is refused before the server is
//! started. A server that changes keys or encrypts a store by itself does it in place: killed in the middle it loses
//! messages, and a change of keys (`prev_encryption_key`) loses every consumer even undisturbed. So neither is left to it:
//! [`rotate`] wraps the data keys anew, `encrypt` works on a copy.

mod encrypt;
mod key;
mod rewrap;
pub mod rotate;

pub(super) use encrypt::COPY;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use super::links::ACCOUNT;
pub use key::{CHARACTERS_MIN, Cipher, StoreKey};

/// The note in the account's directory: it is copied and moved with what it speaks of. The server leaves it alone there.
const NOTE: &str = "store-key";

/// Where the key is, and what is to be done without one.
#[derive(Debug, Clone)]
pub struct AtRest {
    /// The file with the key.
    pub key_file: PathBuf,
    /// Whether the configuration names it: it has to be there then.
    pub named: bool,
    /// Whether the service manager put it there: then its mode is not ours to judge.
    pub given: bool,
    /// Whether a store that is empty gets a key of its own, made here.
    pub make: bool,
    /// The cipher of a new store.
    pub cipher: Cipher,
}

/// Whether the store is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// It is.
    On(Cipher),
    /// It is empty and will be.
    Coming(Cipher),
    /// It is not.
    Off,
}

/// What the server is started with.
#[derive(Debug, Clone)]
pub(super) struct Opened {
    pub(super) key: StoreKey,
    pub(super) cipher: Cipher,
}

/// What stands in the note: nothing that helps to find the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    key: String,
    cipher: Cipher,
}

impl Note {
    fn of(key: &StoreKey, cipher: Cipher) -> Self {
        Self {
            key: key.name(),
            cipher,
        }
    }
}

/// Why a store and a key do not go together. Nothing was started and nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum Mismatch {
    /// Another key.
    #[error("the key in {} is not the one that the store {} was written with", key_file.display(), store.display())]
    Wrong {
        /// The key's file.
        key_file: PathBuf,
        /// The store.
        store: PathBuf,
    },
    /// No key.
    #[error("the store {} is encrypted, and there is no key: broker.store_key_file is not set and {} is not there", store.display(), key_file.display())]
    Missing {
        /// Where one would be looked for.
        key_file: PathBuf,
        /// The store.
        store: PathBuf,
    },
    /// A key for a plain store.
    #[error("the store {} is not encrypted, and there is a key for it in {}", store.display(), key_file.display())]
    Plain {
        /// The key's file.
        key_file: PathBuf,
        /// The store.
        store: PathBuf,
    },
    /// Encrypted by somebody else.
    #[error("the store {} is encrypted, and no note in it says with which key", store.display())]
    Unknown {
        /// The store.
        store: PathBuf,
    },
    /// Another cipher.
    #[error("the store {} was written with the cipher {found}, and broker.store_cipher is {wanted}", store.display())]
    Cipher {
        /// The store.
        store: PathBuf,
        /// Its cipher.
        found: Cipher,
        /// The configuration's.
        wanted: Cipher,
    },
}

/// What is on the disk.
enum Content {
    Empty,
    Plain,
    Encrypted(Option<Note>),
}

/// The keys that there are: that of the key file, and that of a rotation which was cut off before it replaced the file.
struct Keys {
    file: Option<StoreKey>,
    next: Option<StoreKey>,
}

/// What a look comes to.
enum Verdict {
    Off,
    Make,
    /// An empty store that is to be written with this key.
    Begin(Opened),
    /// The note's key; whether it is the one of the cut-off rotation.
    Opens(Opened, bool),
}

impl AtRest {
    fn next_file(&self) -> PathBuf {
        beside(&self.key_file, "new")
    }

    fn keys(&self) -> Result<Keys, Error> {
        let file = StoreKey::read(&self.key_file, self.given)?;
        if file.is_none() && self.named {
            return Err(Error::KeyFile {
                path: self.key_file.clone(),
                message: "is not there".to_owned(),
            });
        }
        let next = StoreKey::read(&self.next_file(), self.given)?;
        Ok(Keys { file, next })
    }
}

/// `name` becomes `name.suffix`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Whether the store is encrypted, or would be by a start; changes nothing.
///
/// # Errors
/// As a start has them.
pub fn encryption(at_rest: Option<&AtRest>, store_dir: &Path) -> Result<Encryption, Error> {
    Ok(match judge(at_rest, store_dir)? {
        Verdict::Off => Encryption::Off,
        Verdict::Make => Encryption::Coming(at_rest.map_or_else(Cipher::default, |at| at.cipher)),
        Verdict::Begin(opened) => Encryption::Coming(opened.cipher),
        Verdict::Opens(opened, _) => Encryption::On(opened.cipher),
    })
}

/// The key to start the server with, `None` for a plain store. Finishes what a rotation left behind, makes a key where one
/// is to be made, and notes with which key a new store is written. The caller holds the store's lock.
///
/// # Errors
/// [`Error::KeyFile`], [`Error::Key`], [`Error::Directory`].
pub(super) fn settle(at_rest: Option<&AtRest>, store_dir: &Path) -> Result<Option<Opened>, Error> {
    let verdict = judge(at_rest, store_dir)?;
    rewrap::finish(store_dir)?;
    encrypt::clear(store_dir)?;
    let opened = match (verdict, at_rest) {
        (Verdict::Off, at_rest) => {
            if at_rest.is_some_and(|at_rest| at_rest.make) {
                tracing::warn!(
                    "the broker's store is not encrypted; roadcall auth rotate-store-key encrypts it"
                );
            }
            return Ok(None);
        }
        (Verdict::Make, None) => return Ok(None),
        (Verdict::Opens(opened, cut_off), at_rest) => {
            if cut_off && let Some(at_rest) = at_rest {
                tracing::warn!(
                    key = %at_rest.next_file().display(),
                    "a rotation of the store's key was cut off, this key opens it; roadcall auth rotate-store-key puts it in place"
                );
            }
            return Ok(Some(opened));
        }
        (Verdict::Begin(opened), _) => opened,
        (Verdict::Make, Some(at_rest)) => {
            let key = StoreKey::draw()?;
            key.write(&at_rest.key_file)?;
            tracing::info!(
                file = %at_rest.key_file.display(),
                "a key was made for the broker's store; without it the store can't be read, so keep a copy elsewhere"
            );
            let cipher = at_rest.cipher;
            Opened { key, cipher }
        }
    };
    write_note(store_dir, &Note::of(&opened.key, opened.cipher))?;
    Ok(Some(opened))
}

fn judge(at_rest: Option<&AtRest>, store_dir: &Path) -> Result<Verdict, Error> {
    let keys = match at_rest {
        Some(at_rest) => at_rest.keys()?,
        None => Keys {
            file: None,
            next: None,
        },
    };
    let store = || store_dir.to_owned();
    let key_file = || at_rest.map_or_else(PathBuf::new, |at_rest| at_rest.key_file.clone());
    let cipher = at_rest.map_or_else(Cipher::default, |at_rest| at_rest.cipher);
    let mismatch = match (content(store_dir)?, keys) {
        (
            Content::Empty,
            Keys {
                file: Some(key), ..
            },
        ) => {
            return Ok(Verdict::Begin(Opened { key, cipher }));
        }
        (Content::Empty, _) if at_rest.is_some_and(|at_rest| at_rest.make) => {
            return Ok(Verdict::Make);
        }
        (Content::Empty | Content::Plain, Keys { file: None, .. }) => return Ok(Verdict::Off),
        (Content::Plain, Keys { file: Some(_), .. }) => Mismatch::Plain {
            key_file: key_file(),
            store: store(),
        },
        (Content::Encrypted(None), _) => Mismatch::Unknown { store: store() },
        (Content::Encrypted(Some(note)), keys) => {
            let none = keys.file.is_none() && keys.next.is_none();
            let fits = |key: &Option<StoreKey>| key.clone().filter(|key| key.name() == note.key);
            let (file, next) = (fits(&keys.file), fits(&keys.next));
            let cut_off = file.is_none();
            match file.or(next) {
                Some(_) if note.cipher != cipher => Mismatch::Cipher {
                    store: store(),
                    found: note.cipher,
                    wanted: cipher,
                },
                Some(key) => return Ok(Verdict::Opens(Opened { key, cipher }, cut_off)),
                None if none => Mismatch::Missing {
                    key_file: key_file(),
                    store: store(),
                },
                None => Mismatch::Wrong {
                    key_file: key_file(),
                    store: store(),
                },
            }
        }
    };
    Err(Error::Key(mismatch))
}

fn content(store_dir: &Path) -> Result<Content, Error> {
    let streams = store_dir.join("jetstream");
    let mut found = (false, false);
    look(&streams, &mut found).map_err(failed(&streams))?;
    Ok(match found {
        (false, false) => Content::Empty,
        (true, false) => Content::Plain,
        (_, true) => Content::Encrypted(read_note(store_dir)?),
    })
}

/// Whether there is any stream or consumer, and whether any is encrypted.
fn look(dir: &Path, found: &mut (bool, bool)) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if name == "meta.inf" {
            found.0 = true;
        } else if name == "meta.key" {
            found.1 = true;
        } else if name != "msgs" && entry.file_type()?.is_dir() {
            look(&entry.path(), found)?;
        }
    }
    Ok(())
}

fn note_file(store_dir: &Path) -> PathBuf {
    store_dir.join("jetstream").join(ACCOUNT).join(NOTE)
}

/// The note, or the one that a rotation is about to put in its place.
fn read_note(store_dir: &Path) -> Result<Option<Note>, Error> {
    let coming = rewrap::coming(store_dir).join("jetstream");
    for path in [coming.join(ACCOUNT).join(NOTE), note_file(store_dir)] {
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            read => {
                let text = read.map_err(failed(&path))?;
                let note = serde_json::from_slice(&text).map_err(std::io::Error::other);
                return note.map(Some).map_err(failed(&path));
            }
        }
    }
    Ok(None)
}

fn write_note(store_dir: &Path, note: &Note) -> Result<(), Error> {
    let path = note_file(store_dir);
    let text = serde_json::to_vec(note).map_err(std::io::Error::other);
    text.and_then(|text| write_whole(&path, &text))
        .map_err(failed(&path))
}

/// Writes a file whole or not at all, on the disk when it returns; only its owner reads it.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    // Such a file is made for its owner alone.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    std::fs::File::open(dir)?.sync_all()
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |error| Error::Directory {
        path,
        message: error.to_string(),
    }
}

#[cfg(test)]
mod tests;
