//! A plain store becomes an encrypted one. The server can do that, but only in place, and loses messages when it is killed
//! meanwhile; so it does it to a copy, which is exchanged with the store in one step when it holds what the store holds.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::rewrap::remove;
use super::{Note, Opened, failed, write_note};
use crate::broker::{Error, Links, Options, launch, leftover, monitor, probe};

/// Where the copy is; after the exchange, the plain store.
pub(in crate::broker) const COPY: &str = "encrypt.new";
/// What has to stay free beside the copy.
const SPARE_BYTES: u64 = 64 << 20;

/// What a server says of its streams.
type Census = BTreeMap<String, monitor::StreamCount>;

/// Removes what a cut-off run left: a copy that never counted, or the plain store that does not count any more.
pub(super) fn clear(store_dir: &Path) -> Result<(), Error> {
    remove(&store_dir.join(COPY))
}

/// Encrypts the store; the caller holds its lock and no server runs on it.
///
/// # Errors
/// Whatever it is, the plain store is as it was.
pub(super) async fn encrypt(options: &Options, opened: &Opened) -> Result<(), Error> {
    let store_dir = &options.store_dir;
    let (from, copy) = (store_dir.join("jetstream"), store_dir.join(COPY));
    clear(store_dir)?;
    let needed = bytes_below(&from).map_err(failed(&from))?;
    let stat = rustix::fs::statvfs(store_dir).map_err(|error| failed(store_dir)(error.into()))?;
    let free = stat.f_bavail * stat.f_frsize;
    if free < needed + SPARE_BYTES {
        return Err(Error::Rotation(format!(
            "the copy that is encrypted needs {} MiB, and {} MiB are free; nothing was changed",
            (needed + SPARE_BYTES) >> 20,
            free >> 20
        )));
    }
    copy_below(&from, &copy.join("jetstream")).map_err(failed(&copy))?;
    let found = probe(options).await?;
    let before = census(options, &found, &copy, None).await?;
    drop_empty(&copy).map_err(failed(&copy))?;
    let after = census(options, &found, &copy, Some(opened)).await?;
    check(&copy, &before, &after)?;
    write_note(&copy, &Note::of(&opened.key, opened.cipher))?;
    sync_below(&copy).map_err(failed(&copy))?;
    renameat_with(
        CWD,
        copy.join("jetstream"),
        CWD,
        &from,
        RenameFlags::EXCHANGE,
    )
    .map_err(std::io::Error::from)
    .and_then(|()| std::fs::File::open(store_dir)?.sync_all())
    .map_err(failed(&from))?;
    clear(store_dir)
}

/// Starts a server on the copy, without links and on ports of this machine, and asks what it has.
async fn census(
    options: &Options,
    found: &(PathBuf, String),
    copy: &Path,
    opened: Option<&Opened>,
) -> Result<Census, Error> {
    let alone = Options {
        listen: "127.0.0.1:0".to_owned(),
        monitor_url: String::new(),
        store_dir: copy.to_owned(),
        links: Links::default(),
        identities: None,
        ..options.clone()
    };
    let lock = leftover::lock(copy)?;
    let mut running = launch(alone, found.clone(), lock, opened.cloned()).await?;
    let counted = monitor::streams(&running.settings.listening.monitor).await;
    running.stop().await;
    counted.map_err(Error::Rotation)
}

/// Whether everything is there again, and nothing is left in the clear.
fn check(copy: &Path, before: &Census, after: &Census) -> Result<(), Error> {
    let wrong = |what: String| Error::Rotation(format!("{what}; nothing was changed"));
    for (stream, was) in before {
        let is = after.get(stream).copied().unwrap_or_default();
        // What reaches its age may go meanwhile.
        let whole = is.messages == was.messages || is.first_seq > was.first_seq;
        if !whole || is.last_seq < was.last_seq || is.consumers < was.consumers {
            return Err(wrong(format!(
                "stream {stream} lost something when a copy of the store was encrypted ({was:?}, then {is:?})"
            )));
        }
    }
    let streams = copy.join("jetstream");
    match plain_below(&streams).map_err(failed(&streams))? {
        Some(path) => Err(wrong(format!("{path} was not encrypted"))),
        None => Ok(()),
    }
}

/// The server gives a block that is empty no key, and then fails to write to it. It makes a new one where there is none.
fn drop_empty(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            drop_empty(&path)?;
        } else if path.extension().is_some_and(|ext| ext == "blk") && entry.metadata()?.len() == 0 {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The first stream, consumer or block that has no key beside it.
fn plain_below(dir: &Path) -> std::io::Result<Option<String>> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        let found = if entry.file_type()?.is_dir() {
            plain_below(&path)?
        } else {
            let kept = path
                .extension()
                .is_some_and(|ext| ext == "inf" || ext == "blk");
            let plain = kept && !path.with_extension("key").exists();
            plain.then(|| path.display().to_string())
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn bytes_below(dir: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() {
            bytes_below(&entry.path())?
        } else {
            entry.metadata()?.len()
        };
    }
    Ok(bytes)
}

fn copy_below(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_below(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn sync_below(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_below(&entry.path())?;
        } else {
            std::fs::File::open(entry.path())?.sync_all()?;
        }
    }
    std::fs::File::open(dir)?.sync_all()
}
