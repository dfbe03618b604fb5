//! `roadcall auth rotate-store-key`: another key for the store of a broker that does not run, or its first one.
//!
//! The new key is first in a file of its own beside the old one's, then the store takes it, then the file takes its name.
//! Cut off anywhere, one of the two files opens the store, a start uses that one, and the next run finishes.

use std::path::Path;

use super::{AtRest, Content, Keys, Mismatch, Opened, StoreKey, beside, content, encrypt, rewrap};
use crate::broker::{Error, Options, leftover};

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotated {
    /// So many data keys are wrapped with another key.
    Rewrapped(usize),
    /// The store was plain and is encrypted.
    Encrypted,
    /// The store is empty; the key is there for its first start.
    Begun,
    /// The store had taken the key of an earlier run already; that key is in its place now, and there is no further one.
    Finished,
}

/// Gives the store the key `new`, or one that is drawn; a plain store may also get the one that is configured.
///
/// # Errors
/// See [`Error`]. The store then opens with the key that it had.
pub async fn rotate(options: Options, new: Option<StoreKey>) -> Result<Rotated, Error> {
    let Some(at_rest) = options.at_rest.clone() else {
        return Err(Error::Rotation("no file for the key is named".to_owned()));
    };
    let store_dir = options.store_dir.clone();
    std::fs::create_dir_all(&store_dir).map_err(super::failed(&store_dir))?;
    let _lock = leftover::lock(&store_dir)?;
    leftover::end(&store_dir, &store_dir.join("nats-server.conf")).await;
    rewrap::finish(&store_dir)?;
    encrypt::clear(&store_dir)?;
    let keys = Keys {
        file: StoreKey::read(&at_rest.key_file, at_rest.given)?,
        next: StoreKey::read(&at_rest.next_file(), at_rest.given)?,
    };
    match content(&store_dir)? {
        Content::Encrypted(None) => Err(Error::Key(Mismatch::Unknown { store: store_dir })),
        Content::Encrypted(Some(note)) => {
            let fits =
                |key: &Option<StoreKey>| key.as_ref().is_some_and(|key| key.name() == note.key);
            if !fits(&keys.file) && fits(&keys.next) {
                install(&at_rest)?;
                return Ok(Rotated::Finished);
            }
            let Some(old) = keys.file.filter(|key| key.name() == note.key) else {
                return Err(Error::Key(Mismatch::Wrong {
                    key_file: at_rest.key_file,
                    store: store_dir,
                }));
            };
            let new = new.map_or_else(StoreKey::draw, Ok)?;
            if new == old {
                return Err(Error::Rotation("the new key is the one in use".to_owned()));
            }
            new.write(&at_rest.next_file())?;
            let files = rewrap::rotate(&store_dir, (&old, &new), note.cipher)?;
            install(&at_rest)?;
            Ok(Rotated::Rewrapped(files))
        }
        there => {
            let key = match new.or(keys.file) {
                Some(key) => key,
                None => StoreKey::draw()?,
            };
            key.write(&at_rest.next_file())?;
            let empty = matches!(there, Content::Empty);
            if !empty {
                first_key(&options, key, &at_rest).await?;
            }
            install(&at_rest)?;
            Ok(if empty {
                Rotated::Begun
            } else {
                Rotated::Encrypted
            })
        }
    }
}

/// A plain store gets its first key.
async fn first_key(options: &Options, key: StoreKey, at_rest: &AtRest) -> Result<(), Error> {
    if options.links.cluster.is_some() {
        return Err(Error::Rotation(
            "a server of a cluster has no JetStream alone; empty its store and let the others fill it".to_owned(),
        ));
    }
    let cipher = at_rest.cipher;
    encrypt::encrypt(options, &Opened { key, cipher }).await
}

/// The new key's file takes its name; the old one stays beside it, since copies of the store may need it.
fn install(at_rest: &AtRest) -> Result<(), Error> {
    let key_file = &at_rest.key_file;
    let old = beside(key_file, "old");
    let done = || {
        if key_file.exists() && std::fs::read(key_file)? != std::fs::read(at_rest.next_file())? {
            gone(&old)?;
            std::fs::hard_link(key_file, &old)?;
        }
        std::fs::rename(at_rest.next_file(), key_file)?;
        std::fs::File::open(key_file.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    done().map_err(|error: std::io::Error| Error::KeyFile {
        path: key_file.clone(),
        message: format!("can't be replaced by the new key: {error}"),
    })
}

fn gone(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
