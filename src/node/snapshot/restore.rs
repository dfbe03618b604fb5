//! A snapshot brought back: checked, put in the place of the role's database, and made the owner of its queue.
//!
//! The database that is there is never written: the new one is whole beside it before anything is moved, and the old one is
//! kept under another name.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::write::GzDecoder;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{Error, Removed, Snapshot, Subject, file, hex, of_object, of_role};
use crate::bus::jetstream::JetStream;
use crate::bus::jetstream::objects::ObjectInfo;
use crate::config::Config;
use crate::event::{Id, Ts};
use crate::node::clock::Clock;
use crate::node::inquiry::{Inquiry, Source};
use crate::node::{catchup, owner, registry, started};
use crate::role::RoleName;
use crate::store::{self, CatchUp, Identity};

/// What was done.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    /// Whose database.
    pub role: RoleName,
    /// The snapshot's number.
    pub id: u64,
    /// When it was taken.
    pub taken_at: Ts,
    /// Who the database is now.
    pub store_id: Id,
    /// The life that it begins.
    pub epoch: String,
    /// The sequence that the role goes on from.
    pub from_seq: u64,
    /// Where the old database is.
    pub moved_to: Option<PathBuf>,
}

/// Brings a snapshot back: the newest, or that with number `id`. With `replace` a database that is there is moved aside.
///
/// # Errors
/// See [`Error`]. Unless it says that the database is in place, nothing was changed.
pub async fn restore(
    inquiry: &Inquiry,
    role: RoleName,
    id: Option<u64>,
    replace: bool,
) -> Result<Restored, Error> {
    let (bus, config) = (&inquiry.bus, &inquiry.config);
    let subject = Subject::new(config, role);
    let dir = &config.site.state_dir;
    std::fs::create_dir_all(dir).map_err(file(dir))?;
    // Held to the end: no process of the role starts meanwhile.
    let _lock = started::lock(dir, role)?;
    if runs_elsewhere(inquiry, role).await? {
        return Err(Error::Runs(role));
    }
    let path = &subject.path;
    if path.exists() && !replace {
        let path = path.clone();
        return Err(Error::There { role, path });
    }
    let (snapshot, info) = chosen(bus, &subject, id).await?;
    let new = subject.beside("restoring");
    let left = Removed([new.clone()]);
    left.remove();
    fetch(bus, (&snapshot, &info), &new).await?;
    let (owed, identity) = another_life(&snapshot);
    prepare(config, role, &new, &identity, &owed)?;
    let moved_to = exchange(path, &new)?;
    owner::adopt(bus, role, path).await?;
    let from_seq = catchup::set_back(bus, role, &owed).await?;
    tracing::info!(%role, snapshot = snapshot.id, from_seq, "a snapshot was restored");
    Ok(Restored {
        role,
        id: snapshot.id,
        taken_at: snapshot.taken_at,
        store_id: identity.store_id,
        epoch: identity.epoch,
        from_seq,
        moved_to,
    })
}

/// Whether a process of the role answers that has another state directory, so another lock.
async fn runs_elsewhere(inquiry: &Inquiry, role: RoleName) -> Result<bool, Error> {
    use crate::node::inquiry::Error as E;
    match inquiry.status(role).await {
        Ok(answer) => Ok(answer.is_ok_and(|(_, source)| source == Source::Role)),
        // Somebody refuses, so somebody is there.
        Err(E::Refused(_)) => Ok(true),
        Err(E::Bus(error)) => Err(error.into()),
    }
}

async fn chosen(
    bus: &JetStream,
    subject: &Subject,
    id: Option<u64>,
) -> Result<(Snapshot, ObjectInfo), Error> {
    let role = subject.role;
    let mut there = of_role(bus, role).await?;
    there.retain(|(snapshot, _)| id.is_none_or(|id| snapshot.id == id));
    let Some((snapshot, info)) = there.pop() else {
        return Err(Error::None { role, id });
    };
    if snapshot.site != subject.site {
        return Err(Error::OtherSite {
            role,
            id: snapshot.id,
            theirs: snapshot.site,
            ours: subject.site.clone(),
        });
    }
    Ok((snapshot, info))
}

/// Brings the database of a snapshot into the new file `to`, and looks whether it is the one that was taken.
async fn fetch(
    bus: &JetStream,
    (snapshot, info): (&Snapshot, &ObjectInfo),
    to: &Path,
) -> Result<(), Error> {
    let output = File::create(to).map_err(file(to))?;
    let damaged = |why: String| Error::Damaged {
        role: snapshot.role,
        id: snapshot.id,
        why,
    };
    let hashing = Hashing {
        output,
        hash: Sha256::new(),
        left: snapshot.bytes,
    };
    let mut unpacker = GzDecoder::new(hashing);
    let got = bus
        .get_object(info, |bytes| unpacker.write_all(bytes))
        .await;
    got.and_then(|()| Ok(unpacker.try_finish()?))
        .map_err(|error| {
            match of_object(error, snapshot, to) {
                // Said by the unpacker of the bytes, not by the disk.
                Error::File { error, .. } if of_the_bytes(&error) => damaged(error.to_string()),
                error => error,
            }
        })?;
    let hashing = unpacker.finish().map_err(file(to))?;
    hashing.output.sync_all().map_err(file(to))?;
    if hashing.left > 0 || hex(hashing.hash) != snapshot.sha256 {
        return Err(damaged(
            "its database is not the one that was taken".to_owned(),
        ));
    }
    Ok(())
}

fn of_the_bytes(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::InvalidInput | K::InvalidData | K::UnexpectedEof
    )
}

/// A file that takes no more than it should.
struct Hashing {
    output: File,
    hash: Sha256,
    left: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            let larger = "its database is larger than the one that was taken";
            return Err(io::Error::new(io::ErrorKind::InvalidData, larger));
        }
        let written = self.output.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

fn another_life(snapshot: &Snapshot) -> (CatchUp, Identity) {
    let owed = CatchUp {
        snapshot: snapshot.id,
        taken_at_ms: snapshot.taken_at.ms(),
        stream_id: snapshot.stream,
        stream_seq: snapshot.position,
        since_ms: snapshot.since.ms(),
        ..CatchUp::default()
    };
    let identity = Identity {
        store_id: Clock.new_id(),
        epoch: format!("{:x}", Clock.now().ms()),
    };
    (owed, identity)
}

fn prepare(
    config: &Config,
    role: RoleName,
    new: &Path,
    identity: &Identity,
    owed: &CatchUp,
) -> Result<(), Error> {
    let built = registry::build(config, role);
    let migrations = built
        .as_ref()
        .map_or(&[] as &[&str], |role| role.migrations());
    store::snapshot::look(new, migrations)?;
    store::snapshot::begin_life(new, identity, owed)?;
    let synced = File::open(new).and_then(|made| made.sync_all());
    synced.map_err(file(new))
}

/// Puts `new` in the place of the database at `path`; gives where that is now.
fn exchange(path: &Path, new: &Path) -> Result<Option<PathBuf>, Error> {
    let with = |path: &Path, end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let old = with(path, &format!(".replaced-{}", Clock.now().ms()));
    // The log of the old one goes with it: beside the new one it would be taken for its own. The database first: a crash in
    // between leaves none in its place, and never one without its log.
    let mut moved = None;
    for end in ["", "-wal", "-shm"] {
        let (from, to) = (with(path, end), with(&old, end));
        match std::fs::rename(&from, &to) {
            Ok(()) => moved = Some(old.clone()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(file(&from)(error)),
        }
    }
    std::fs::rename(new, path).map_err(file(path))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(file(dir))?;
    Ok(moved)
}
