//! Snapshots of the roles' databases in the broker's object store (DESIGN 6 and 8): taken, listed, and the oldest removed.
//!
//! [`keeper`] takes them while a role runs, [`restore`] brings one back, `catchup` lets the restored role come to the
//! present. Where the queue stood is asked before the database is copied: whatever is acknowledged by then is committed, so
//! the copy has the outcome of everything up to there.

pub mod copies;
pub mod keeper;
pub mod restore;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::bus::jetstream::JetStream;
use crate::bus::jetstream::objects::{ObjectError, ObjectInfo};
use crate::bus::{self, Bus, EVENTS, SNAPSHOTS_BUCKET};
use crate::event::{Id, Ts};
use crate::role::RoleName;
use crate::store;

/// The object's entry that has the facts.
const FACTS: &str = "roadcall";

/// Why a snapshot can't be taken or brought back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// The database, or a copy of it.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A file that is neither.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// What the broker has is not what was put there.
    #[error("snapshot {role} {id} is damaged: {why}")]
    Damaged {
        /// Whose it is.
        role: RoleName,
        /// Its number.
        id: u64,
        /// What is wrong.
        why: String,
    },
    /// There is none, or none with this number.
    #[error("role {role} has no snapshot{}", id.map(|id| format!(" {id}")).unwrap_or_default())]
    None {
        /// Whose it would be.
        role: RoleName,
        /// The number that was asked for.
        id: Option<u64>,
    },
    /// It is another site's.
    #[error("snapshot {role} {id} is of site {theirs}, and this is {ours}")]
    OtherSite {
        /// Whose it is.
        role: RoleName,
        /// Its number.
        id: u64,
        /// Where it was taken.
        theirs: String,
        /// This site.
        ours: String,
    },
    /// The role runs.
    #[error("role {0} runs; its database can't be replaced")]
    Runs(RoleName),
    /// There is a database already.
    #[error("role {role} has a database, {}; it would be moved aside", path.display())]
    There {
        /// The role.
        role: RoleName,
        /// The database.
        path: PathBuf,
    },
    /// Locks, ownership.
    #[error(transparent)]
    Node(Box<super::run::Error>),
}

impl From<super::run::Error> for Error {
    fn from(error: super::run::Error) -> Self {
        Self::Node(Box::new(error))
    }
}

/// A snapshot as the object store has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Its number; grows role by role.
    pub id: u64,
    /// Whose database.
    pub role: RoleName,
    /// The site.
    pub site: String,
    /// When it was taken.
    pub taken_at: Ts,
    /// Bytes of the database.
    pub bytes: u64,
    /// Bytes in the broker.
    #[serde(default)]
    pub stored_bytes: u64,
    /// Everything of the role's queue up to this sequence of the archive is in it.
    pub position: u64,
    /// Identity of that archive.
    pub stream: i64,
    /// Everything that the archive took before then is in it.
    pub since: Ts,
    /// Migrations of the engine and of the role, `2.3`.
    pub schema: String,
    /// Who the database was.
    pub store_id: Id,
    /// Which life of it.
    pub epoch: String,
    /// Digest of the database.
    pub sha256: String,
    /// The roadcall that took it.
    pub version: String,
}

/// Where a role's queue stood.
struct Position {
    stream: i64,
    seq: u64,
    since: Ts,
}

/// The database of a role and what goes with it.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The role.
    pub role: RoleName,
    /// The site.
    pub site: String,
    /// Its database.
    pub path: PathBuf,
    /// How many snapshots are kept.
    pub keep: usize,
}

impl Subject {
    /// Of the configuration's state directory.
    #[must_use]
    pub fn new(config: &crate::config::Config, role: RoleName) -> Self {
        Self {
            role,
            site: config.site.id.clone(),
            path: config.site.state_dir.join(format!("{role}.db")),
            keep: config.snapshot.keep,
        }
    }

    fn beside(&self, word: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{word}"));
        name.into()
    }
}

/// Takes a snapshot, puts it into the object store and removes those that are too many. One at a time for a role. Of a database
/// that is what it was at the last one there is nothing to take: that one is given, unless `anew`.
///
/// # Errors
/// See [`Error`]. Nothing is removed unless the new one is there.
pub async fn take(
    bus: &JetStream,
    subject: &Subject,
    now: Ts,
    anew: bool,
) -> Result<Snapshot, Error> {
    let role = subject.role;
    let before = of_role(bus, role).await?;
    let position = position(bus, role, now).await?;
    let (copy, packed) = (subject.beside("copy"), subject.beside("copy.gz"));
    // Whatever a process left that died over it.
    let left = Removed([copy.clone(), packed.clone()]);
    left.remove();
    let (from, to, gz) = (subject.path.clone(), copy, packed.clone());
    // SQLite and compression block.
    let made = tokio::task::spawn_blocking(move || {
        let copied = store::snapshot::copy(&from, &to)?;
        pack(&to, &gz).map(|(bytes, sha256)| (copied, bytes, sha256))
    });
    let (copied, bytes, sha256) = made
        .await
        .unwrap_or_else(|error| Err(file(&packed)(io::Error::other(error.to_string()))))?;
    if let Some((last, _)) = before
        .last()
        .filter(|(last, _)| !anew && last.sha256 == sha256 && last.stream == position.stream)
    {
        return Ok(last.clone());
    }
    let mut snapshot = Snapshot {
        id: before.last().map_or(1, |last| last.0.id + 1),
        role,
        site: subject.site.clone(),
        taken_at: now,
        bytes,
        stored_bytes: 0,
        position: position.seq,
        stream: position.stream,
        since: position.since,
        schema: format!("{}.{}", copied.schema.0, copied.schema.1),
        store_id: copied.identity.store_id,
        epoch: copied.identity.epoch,
        sha256,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    bus.remove_pieces(SNAPSHOTS_BUCKET, role.as_str()).await?;
    // Names, numbers and ids always have a JSON form.
    let facts = serde_json::to_string(&snapshot).unwrap_or_default();
    let name = format!("{role}.{}", snapshot.id);
    let put_at = now.to_string();
    let put = bus.put_object(
        SNAPSHOTS_BUCKET,
        (&name, role.as_str(), &put_at),
        BTreeMap::from([(FACTS.to_owned(), facts)]),
        File::open(&packed).map_err(file(&packed))?,
    );
    let info = put
        .await
        .map_err(|error| of_object(error, &snapshot, &packed))?;
    snapshot.stored_bytes = info.size;
    let old = (before.len() + 1).saturating_sub(subject.keep);
    for (_, info) in before.iter().take(old) {
        bus.remove_object(info).await?;
    }
    tracing::info!(
        %role, snapshot = snapshot.id, bytes, stored = info.size, position = snapshot.position,
        "a snapshot of the database was taken"
    );
    Ok(snapshot)
}

/// The bucket of this site's snapshots, or at the hub that of a depot's.
#[must_use]
pub fn bucket(depot: Option<&str>) -> String {
    match depot {
        None => SNAPSHOTS_BUCKET.to_owned(),
        Some(depot) => format!("{SNAPSHOTS_BUCKET}_{depot}"),
    }
}

/// The snapshots that the object store has, role by role, the oldest first.
///
/// # Errors
/// Any bus error.
pub async fn list(bus: &JetStream) -> Result<Vec<Snapshot>, bus::Error> {
    let mut found: Vec<Snapshot> = all(bus, SNAPSHOTS_BUCKET)
        .await?
        .into_iter()
        .map(|(facts, _)| facts)
        .collect();
    found.sort_by_key(|snapshot| (snapshot.role.as_str(), snapshot.id));
    Ok(found)
}

async fn of_role(
    bus: &JetStream,
    role: RoleName,
) -> Result<Vec<(Snapshot, ObjectInfo)>, bus::Error> {
    let mut found = all(bus, SNAPSHOTS_BUCKET).await?;
    found.retain(|(snapshot, _)| snapshot.role == role);
    found.sort_by_key(|(snapshot, _)| snapshot.id);
    Ok(found)
}

async fn all(bus: &JetStream, bucket: &str) -> Result<Vec<(Snapshot, ObjectInfo)>, bus::Error> {
    let objects = bus.objects(bucket).await?;
    let read = |info: ObjectInfo| {
        let facts = info.metadata.get(FACTS)?;
        let mut snapshot: Snapshot = serde_json::from_str(facts)
            .inspect_err(|error| tracing::warn!(object = info.name, %error, "a snapshot's facts can't be read"))
            .ok()?;
        snapshot.stored_bytes = info.size;
        Some((snapshot, info))
    };
    Ok(objects.into_iter().filter_map(read).collect())
}

/// Up to where the role has everything. Asked in this order: what the queue owes nothing of was there when the end was read.
async fn position(bus: &JetStream, role: RoleName, now: Ts) -> Result<Position, bus::Error> {
    let events = bus.stream(EVENTS).await?;
    let everything = Position {
        stream: events.identity.0,
        seq: events.last_seq,
        since: now,
    };
    let Some(queue) = role.queue() else {
        return Ok(everything);
    };
    let owed = match bus.queue(queue).await {
        // A queue without rules has no consumer.
        Err(bus::Error::Missing(_)) => return Ok(everything),
        owed => owed?,
    };
    if owed.pending == 0 && owed.ack_pending == 0 {
        return Ok(everything);
    }
    let seq = owed.ack_floor_seq.min(events.last_seq);
    let next = bus.read(EVENTS, "roadcall.>", seq + 1, 1, true).await?;
    let came = next
        .first()
        .map(|stored| Ts::from_ms(stored.received_at_ms));
    Ok(Position {
        stream: events.identity.0,
        seq,
        since: came.map_or(now, |came| came.min(now)),
    })
}

/// Compresses a file; gives its size and digest.
fn pack(from: &Path, to: &Path) -> Result<(u64, String), Error> {
    let mut input = File::open(from).map_err(file(from))?;
    let output = File::create(to).map_err(file(to))?;
    let mut packer = GzEncoder::new(output, Compression::fast());
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let read = input.read(&mut buffer).map_err(file(from))?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        bytes += read as u64;
        packer.write_all(&buffer[..read]).map_err(file(to))?;
    }
    packer.finish().map_err(file(to))?;
    Ok((bytes, hex(hash)))
}

fn hex(hash: Sha256) -> String {
    data_encoding::HEXLOWER.encode(&hash.finalize())
}

fn file(path: &Path) -> impl Fn(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |error| Error::File {
        path: path.clone(),
        error,
    }
}

fn of_object(error: ObjectError, snapshot: &Snapshot, path: &Path) -> Error {
    match error {
        ObjectError::Bus(error) => Error::Bus(error),
        ObjectError::Io(error) => file(path)(error),
        ObjectError::Damaged { why, .. } => Error::Damaged {
            role: snapshot.role,
            id: snapshot.id,
            why,
        },
    }
}

/// Files that go when this does.
struct Removed<const N: usize>([PathBuf; N]);

impl<const N: usize> Removed<N> {
    fn remove(&self) {
        for path in &self.0 {
            // Not there is what is wanted; another reason shows when it is written.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl<const N: usize> Drop for Removed<N> {
    fn drop(&mut self) {
        self.remove();
    }
}
