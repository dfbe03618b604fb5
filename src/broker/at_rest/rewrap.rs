//! Another key for an encrypted store. The server encrypts each stream, consumer and block with a random data key of its
//! own, which a file beside it holds wrapped: sealed with a key that is derived from the store's key. A rotation unwraps
//! the data keys with the old key and wraps them with the new one, so that what they encrypt stays as it is.
//!
//! The new files are prepared apart. One rename of their directory decides: before it the old key opens the store, after it
//! the new one, because then every start puts the files in place before it does anything else.

use std::path::{Path, PathBuf};

use aes_gcm::aead::consts::U16;
use aes_gcm::aead::{Aead, KeyInit, Nonce, Payload};
use aes_gcm::aes::Aes256;
use chacha20poly1305::XChaCha20Poly1305;

use super::{Cipher, NOTE, Note, StoreKey, failed, write_whole};
use crate::broker::Error;
use crate::broker::links::ACCOUNT;

/// AES-256-GCM with a nonce as long as a block, as the server has it.
type AesGcm = aes_gcm::AesGcm<Aes256, U16>;

/// Directories in the store: while files are prepared, when they count, and when they are in place.
const PREPARED: &str = "rewrap.new";
const COMING: &str = "rewrap";
const DONE: &str = "rewrap.done";

/// A file with a data key: account, what the key is for, and where it is below the store.
struct Wrapped {
    account: String,
    context: String,
    path: PathBuf,
}

/// Where files are that count already and are not in place yet.
pub(super) fn coming(store_dir: &Path) -> PathBuf {
    store_dir.join(COMING)
}

/// Wraps every data key anew. Gives their number.
///
/// # Errors
/// [`Error::Rotation`]: a file is not wrapped with `old` in the way that is known here; nothing was changed.
/// [`Error::Directory`].
pub(super) fn rotate(
    store_dir: &Path,
    (old, new): (&StoreKey, &StoreKey),
    cipher: Cipher,
) -> Result<usize, Error> {
    remove(&store_dir.join(PREPARED))?;
    let found = wrapped(store_dir)?;
    let prepared = store_dir.join(PREPARED);
    for file in &found {
        let from = store_dir.join(&file.path);
        let bytes = std::fs::read(&from).map_err(failed(&from))?;
        let parts = [file.account.as_bytes(), file.context.as_bytes()];
        let bytes = match cipher {
            Cipher::ChaChaPoly => {
                again::<XChaCha20Poly1305>(&bytes, old.derive(&parts), new.derive(&parts))
            }
            Cipher::Aes => again::<AesGcm>(&bytes, old.derive(&parts), new.derive(&parts)),
        };
        let bytes = bytes.ok_or_else(|| {
            Error::Rotation(format!(
                "{} does not open with the old key; nothing was changed",
                from.display()
            ))
        })?;
        let to = prepared.join(&file.path);
        write_whole(&to, &bytes).map_err(failed(&to))?;
    }
    let note = prepared.join("jetstream").join(ACCOUNT).join(NOTE);
    let text = serde_json::to_vec(&Note::of(new, cipher)).map_err(std::io::Error::other);
    text.and_then(|text| write_whole(&note, &text))
        .map_err(failed(&note))?;
    sync_dirs(&prepared).map_err(failed(&prepared))?;
    rename(store_dir, PREPARED, COMING)?;
    finish(store_dir)?;
    Ok(found.len())
}

/// Puts files in place that count, and removes others. Says whether there were any that count.
///
/// # Errors
/// [`Error::Directory`].
pub(super) fn finish(store_dir: &Path) -> Result<bool, Error> {
    let coming = coming(store_dir);
    let there = coming.is_dir();
    if there {
        put(&coming, store_dir).map_err(failed(&coming))?;
        rename(store_dir, COMING, DONE)?;
        tracing::info!("the data keys of the broker's store are wrapped with its new key");
    }
    remove(&store_dir.join(DONE))?;
    remove(&store_dir.join(PREPARED))?;
    Ok(there)
}

/// Seals a data key anew, under the nonce that it had: the server makes the block's cipher from it. No pair of key and nonce
/// comes twice by that, since the wrapping key is another one.
fn again<C: Aead + KeyInit>(wrapped: &[u8], old: [u8; 32], new: [u8; 32]) -> Option<Vec<u8>> {
    let nonce_length = Nonce::<C>::default().len();
    let (nonce, sealed) = wrapped.split_at_checked(nonce_length)?;
    let sealer = |key: [u8; 32]| C::new_from_slice(&key).ok();
    let nonce_of = Nonce::<C>::from_slice(nonce);
    let seed = sealer(old)?.decrypt(nonce_of, Payload::from(sealed)).ok()?;
    let again = sealer(new)?
        .encrypt(nonce_of, Payload::from(seed.as_slice()))
        .ok()?;
    Some([nonce, again.as_slice()].concat())
}

/// Every wrapped data key of every account: `streams/NAME/meta.key`, `streams/NAME/obs/CONSUMER/meta.key`,
/// `streams/NAME/msgs/N.key`.
fn wrapped(store_dir: &Path) -> Result<Vec<Wrapped>, Error> {
    let root = store_dir.join("jetstream");
    let mut paths = Vec::new();
    keys_below(&root, &mut paths).map_err(failed(&root))?;
    let mut found = Vec::new();
    for path in paths {
        let below = path.strip_prefix(&root).unwrap_or(&path).to_owned();
        let parts: Vec<&str> = below.iter().filter_map(|part| part.to_str()).collect();
        let context = match parts[..] {
            [_, "streams", stream, "meta.key"] => stream.to_owned(),
            [_, "streams", stream, "obs", consumer, "meta.key"] => format!("{stream}.{consumer}"),
            [_, "streams", stream, "msgs", block] => {
                format!("{stream}:{}", block.trim_end_matches(".key"))
            }
            _ => {
                return Err(Error::Rotation(format!(
                    "{} is no key of a stream, as a server of a cluster has; nothing was changed",
                    path.display()
                )));
            }
        };
        found.push(Wrapped {
            account: parts[0].to_owned(),
            context,
            path: Path::new("jetstream").join(below),
        });
    }
    Ok(found)
}

fn keys_below(dir: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            keys_below(&entry.path(), found)?;
        } else if entry.path().extension().is_some_and(|ext| ext == "key") {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// Each file in the place of the one with its name; done twice it comes to the same.
fn put(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            put(&entry.path(), &target)?;
        } else {
            write_whole(&target, &std::fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

fn sync_dirs(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_dirs(&entry.path())?;
        }
    }
    std::fs::File::open(dir)?.sync_all()
}

fn rename(store_dir: &Path, from: &str, to: &str) -> Result<(), Error> {
    let target = store_dir.join(to);
    remove(&target)?;
    std::fs::rename(store_dir.join(from), &target)
        .and_then(|()| std::fs::File::open(store_dir)?.sync_all())
        .map_err(failed(&target))
}

/// A directory with everything in it; none is as good.
pub(super) fn remove(dir: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(dir)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}
