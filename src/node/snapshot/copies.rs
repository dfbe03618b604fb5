//! The hub's copies of its depots' snapshots (DESIGN 6): of a depot whose box is lost, they and the events here are what is left.
//!
//! The hub asks a depot for what is newer than what it has, and brings it piece by piece; a link that breaks in between costs
//! the piece. A depot whose box is replaced asks the hub for them in the same way.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio_util::sync::CancellationToken;

use super::{Error as SnapshotError, FACTS, Snapshot, all, bucket, file, of_object};
use crate::bus::jetstream::JetStream;
use crate::bus::jetstream::objects::ObjectInfo;
use crate::bus::links::HUB;
use crate::bus::{self, Bus};
use crate::config::Config;
use crate::node::clock::Clock;
use crate::node::periodic::{self, Looks};
use crate::node::resend::Question;
use crate::node::resend::ask::{self, Asker};
use crate::node::sites;
use crate::role::RoleName;

/// Chunks in one answer: 128 KiB each, which base 64 makes a third larger.
const PIECE_CHUNKS: usize = 4;

/// Why a copy can't be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bucket, or a file.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The other site.
    #[error(transparent)]
    Ask(#[from] ask::Error),
    /// The links.
    #[error(transparent)]
    Link(#[from] sites::Error),
}

impl From<bus::Error> for Error {
    fn from(error: bus::Error) -> Self {
        Self::Snapshot(error.into())
    }
}

/// The newest snapshot of each role in a bucket, with its digest there.
///
/// # Errors
/// Any bus error.
pub(in crate::node) async fn newest(
    bus: &JetStream,
    bucket: &str,
) -> Result<Vec<(Snapshot, String)>, bus::Error> {
    let mut newest: BTreeMap<&str, (Snapshot, String)> = BTreeMap::new();
    for (snapshot, info) in all(bus, bucket).await? {
        let role = snapshot.role.as_str();
        // By time: a box that began anew without being restored numbers from 1 again.
        if newest
            .get(role)
            .is_none_or(|(it, _)| it.taken_at < snapshot.taken_at)
        {
            newest.insert(role, (snapshot, info.digest));
        }
    }
    Ok(newest.into_values().collect())
}

/// Some bytes of a snapshot in a bucket, in base 64, and where the next ones are.
///
/// # Errors
/// Any bus error.
pub(in crate::node) async fn piece(
    bus: &JetStream,
    bucket: &str,
    (role, id): (RoleName, u64),
    from_seq: u64,
) -> Result<(String, Option<u64>), bus::Error> {
    let found = all(bus, bucket).await?;
    let found = found
        .into_iter()
        .find(|(snapshot, _)| (snapshot.role, snapshot.id) == (role, id));
    let Some((_, info)) = found else {
        return Err(bus::Error::Missing(format!("snapshot {role} {id}")));
    };
    let (stream, under) = (format!("OBJ_{bucket}"), info.chunks_under());
    let page = bus
        .read(&stream, &under, from_seq.max(1), PIECE_CHUNKS, false)
        .await?;
    let bytes: Vec<u8> = page
        .iter()
        .flat_map(|stored| stored.body.to_vec())
        .collect();
    let next = page.last().map(|last| last.seq + 1);
    Ok((BASE64_STANDARD.encode(bytes), next))
}

/// A snapshot on its way here.
struct Coming {
    id: u64,
    file: File,
    path: PathBuf,
    next_seq: u64,
}

impl Drop for Coming {
    fn drop(&mut self) {
        // Not there is what is wanted.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Brings snapshots from another site into buckets here.
pub struct Copier {
    bus: JetStream,
    asker: Asker,
    dir: PathBuf,
    keep: usize,
    clock: Clock,
    /// What a link broke off.
    coming: HashMap<(String, RoleName), Coming>,
}

impl Copier {
    /// For the site of this configuration.
    #[must_use]
    pub fn new(bus: &JetStream, config: &Config, clock: Clock) -> Self {
        Self {
            bus: bus.clone(),
            asker: Asker::new(bus, &config.site.id),
            dir: config.site.state_dir.clone(),
            keep: config.snapshot.keep,
            clock,
            coming: HashMap::new(),
        }
    }

    /// At the hub: looks at each depot every `period`, until told to stop.
    pub async fn run(self, period: Duration, stop: CancellationToken) {
        periodic::run(self, tokio::time::interval(period), stop).await;
    }

    /// Brings what `peer` has newer than `into`; gives what that has then.
    ///
    /// # Errors
    /// See [`Error`]. What came whole stays.
    pub(in crate::node) async fn copy(
        &mut self,
        peer: &str,
        into: &str,
    ) -> Result<Vec<Snapshot>, Error> {
        let there = self.asker.ask(peer, peer, Question::Snapshots).await?;
        let here = newest(&self.bus, into).await?;
        let mut all = Vec::new();
        for (snapshot, digest) in there.snapshots {
            let known = here
                .iter()
                .any(|(it, at)| (it.role, it.id) == (snapshot.role, snapshot.id) && *at == digest);
            if !known {
                self.bring(peer, into, &snapshot, &digest).await?;
            }
            all.push(snapshot);
        }
        Ok(all)
    }

    async fn bring(
        &mut self,
        peer: &str,
        into: &str,
        snapshot: &Snapshot,
        digest: &str,
    ) -> Result<(), Error> {
        let key = (peer.to_owned(), snapshot.role);
        let mut coming = match self.coming.remove(&key) {
            Some(coming) if coming.id == snapshot.id => coming,
            _ => self.begin(peer, snapshot)?,
        };
        loop {
            let question = Question::Piece {
                role: snapshot.role,
                id: snapshot.id,
                from_seq: coming.next_seq,
            };
            let answer = match self.asker.ask(peer, peer, question).await {
                Ok(answer) => answer,
                Err(error) => {
                    self.coming.insert(key, coming);
                    return Err(error.into());
                }
            };
            let Some(next) = answer.next_seq else { break };
            let bytes = BASE64_STANDARD.decode(&answer.piece);
            let bytes = bytes.map_err(|error| damaged(snapshot, &error.to_string()))?;
            coming.file.write_all(&bytes).map_err(file(&coming.path))?;
            coming.next_seq = next;
        }
        self.put(into, snapshot, digest, &coming.path).await
    }

    fn begin(&self, peer: &str, snapshot: &Snapshot) -> Result<Coming, Error> {
        let path = self.dir.join(format!("{}.of-{peer}.coming", snapshot.role));
        let file = File::create(&path).map_err(file(&path))?;
        Ok(Coming {
            id: snapshot.id,
            file,
            path,
            next_seq: 0,
        })
    }

    async fn put(
        &self,
        into: &str,
        snapshot: &Snapshot,
        digest: &str,
        path: &Path,
    ) -> Result<(), Error> {
        let role = snapshot.role;
        self.bus.remove_pieces(into, role.as_str()).await?;
        // Names, numbers and ids always have a JSON form.
        let facts = serde_json::to_string(snapshot).unwrap_or_default();
        let (name, put_at) = (
            format!("{role}.{}", snapshot.id),
            self.clock.now().to_string(),
        );
        let put = self.bus.put_object(
            into,
            (&name, role.as_str(), &put_at),
            BTreeMap::from([(FACTS.to_owned(), facts)]),
            File::open(path).map_err(file(path))?,
        );
        let info = put
            .await
            .map_err(|error| of_object(error, snapshot, path))?;
        if info.digest != digest {
            self.bus.remove_object(&info).await?;
            return Err(damaged(snapshot, "what came is not what was sent"));
        }
        tracing::info!(%role, site = snapshot.site, snapshot = snapshot.id, bytes = info.size, "a snapshot was copied");
        self.tidy(into, role).await
    }

    /// Removes the oldest of those that are too many.
    async fn tidy(&self, bucket: &str, role: RoleName) -> Result<(), Error> {
        let mut there: Vec<(Snapshot, ObjectInfo)> = all(&self.bus, bucket).await?;
        there.retain(|(snapshot, _)| snapshot.role == role);
        there.sort_by_key(|(snapshot, _)| snapshot.taken_at);
        let old = there.len().saturating_sub(self.keep);
        for (_, info) in there.iter().take(old) {
            self.bus.remove_object(info).await?;
        }
        Ok(())
    }
}

impl Looks for Copier {
    type Error = Error;
    const TROUBLE: &'static str = "a depot's snapshots could not be copied, trying again";

    async fn look(&mut self) -> Result<(), Error> {
        let links = sites::link_states(&self.bus).await?;
        let mut first_error = None;
        for (depot, _) in links.into_iter().filter(|(_, link)| link.linked) {
            if let Err(error) = self.copy(&depot, &bucket(Some(&depot))).await {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}

fn damaged(snapshot: &Snapshot, why: &str) -> Error {
    Error::Snapshot(SnapshotError::Damaged {
        role: snapshot.role,
        id: snapshot.id,
        why: why.to_owned(),
    })
}

/// The depot's own snapshots, which the hub has, into its own bucket.
///
/// # Errors
/// See [`Error`].
pub(in crate::node) async fn bring_back(copier: &mut Copier) -> Result<Vec<Snapshot>, Error> {
    copier.copy(HUB, &bucket(None)).await
}
