//! Objects: files of any size in a bucket of the broker's (ADR-20), in the form that `nats object` reads. An object is its
//! chunks under one subject, and one message that describes it and is written last: whoever sees an object sees all of it.

use std::collections::BTreeMap;
use std::io::{self, Read};

use async_nats::HeaderMap;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::JetStream;
use crate::bus::{Bus, Error};

/// Bytes in a chunk.
const CHUNK_BYTES: usize = 128 * 1024;
/// Chunks in one read.
const READ_CHUNKS: usize = 32;

/// Why an object can't be put or read.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The broker.
    #[error(transparent)]
    Bus(#[from] Error),
    /// The file that it comes from or goes to.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What is stored is not what was put.
    #[error("object {name} is damaged: {why}")]
    Damaged {
        /// The object.
        name: String,
        /// What is wrong.
        why: String,
    },
}

/// An object as its bucket describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectInfo {
    /// Its name.
    pub name: String,
    /// What whoever put it says about it.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// The bucket.
    pub bucket: String,
    /// The token that its chunks are under.
    #[serde(default)]
    pub nuid: String,
    /// Bytes.
    #[serde(default)]
    pub size: u64,
    /// Messages that they are in.
    #[serde(default)]
    pub chunks: u64,
    /// When it was put.
    #[serde(default)]
    pub mtime: String,
    /// `SHA-256=` and the digest of the bytes.
    #[serde(default)]
    pub digest: String,
    /// Removed by somebody else's client: ours leaves nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

impl ObjectInfo {
    fn damaged(&self, why: impl Into<String>) -> ObjectError {
        ObjectError::Damaged {
            name: self.name.clone(),
            why: why.into(),
        }
    }

    fn about(bucket: &str, name: &str) -> String {
        format!("$O.{bucket}.M.{}", BASE64_URL_SAFE.encode(name))
    }

    /// The subject of its chunks.
    #[must_use]
    pub fn chunks_under(&self) -> String {
        format!("$O.{}.C.{}", self.bucket, self.nuid)
    }
}

fn digest(hash: Sha256) -> String {
    format!("SHA-256={}", BASE64_URL_SAFE.encode(hash.finalize()))
}

fn stream_of(bucket: &str) -> String {
    format!("OBJ_{bucket}")
}

impl JetStream {
    /// The objects of a bucket, in the order in which they were put.
    ///
    /// # Errors
    /// Any bus error. A description that can't be read is passed over.
    pub async fn objects(&self, bucket: &str) -> Result<Vec<ObjectInfo>, Error> {
        let stream = stream_of(bucket);
        let (mut found, mut from) = (Vec::new(), 1);
        loop {
            let filter = format!("$O.{bucket}.M.>");
            let page = self.read(&stream, &filter, from, 1000, false).await?;
            let Some(last) = page.last() else {
                return Ok(found);
            };
            from = last.seq + 1;
            let read = page.iter().filter_map(|stored| {
                let info = serde_json::from_slice::<ObjectInfo>(&stored.body);
                info.inspect_err(|error| {
                    tracing::warn!(subject = stored.subject, %error, "an object's description can't be read");
                })
                .ok()
            });
            found.extend(read.filter(|info| !info.deleted));
        }
    }

    /// Puts what `from` gives as a new object. Its pieces are known by `family`, a word, so that what is left of one that was
    /// not finished can be told from what another process puts right now (see [`Self::remove_pieces`]). `put_at` is the time.
    ///
    /// # Errors
    /// See [`ObjectError`]. What had got to the broker by then is removed again where it can be.
    pub async fn put_object(
        &self,
        bucket: &str,
        (name, family, put_at): (&str, &str, &str),
        metadata: BTreeMap<String, String>,
        mut from: impl Read,
    ) -> Result<ObjectInfo, ObjectError> {
        let mut info = ObjectInfo {
            name: name.to_owned(),
            metadata,
            bucket: bucket.to_owned(),
            nuid: format!("{family}-{}", uuid::Uuid::new_v4().simple()),
            size: 0,
            chunks: 0,
            mtime: put_at.to_owned(),
            digest: String::new(),
            deleted: false,
        };
        let result = self.put_chunks(&mut info, &mut from).await;
        if let Err(error) = result {
            if let Err(error) = self.purge(bucket, &info.chunks_under()).await {
                tracing::warn!(name, %error, "the pieces of an object that was not finished stay in the broker");
            }
            return Err(error);
        }
        Ok(info)
    }

    async fn put_chunks(
        &self,
        info: &mut ObjectInfo,
        from: &mut impl Read,
    ) -> Result<(), ObjectError> {
        let under = info.chunks_under();
        let mut hash = Sha256::new();
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            let filled = fill(from, &mut chunk)?;
            if filled == 0 {
                break;
            }
            chunk.truncate(filled);
            hash.update(&chunk);
            info.size += filled as u64;
            info.chunks += 1;
            self.put_message(under.clone(), HeaderMap::new(), chunk.into())
                .await?;
        }
        info.digest = digest(hash);
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Rollup", "sub");
        let mut about = serde_json::to_value(&*info).unwrap_or(Value::Null);
        about["options"] = json!({ "max_chunk_size": CHUNK_BYTES });
        let subject = ObjectInfo::about(&info.bucket, &info.name);
        self.put_message(subject, headers, about.to_string().into())
            .await?;
        Ok(())
    }

    async fn put_message(
        &self,
        subject: String,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(), Error> {
        let unavailable = |error: String| Error::Unavailable(error);
        let sent = self
            .inner
            .client
            .request_with_headers(subject.clone(), headers, body);
        let reply = sent.await.map_err(|error| match error.kind() {
            async_nats::RequestErrorKind::NoResponders => {
                Error::Missing(format!("a stream for {subject}"))
            }
            _ => unavailable(error.to_string()),
        })?;
        let reply: Value = serde_json::from_slice(&reply.payload)
            .map_err(|error| unavailable(format!("the answer to a put is not JSON: {error}")))?;
        match reply.get("error") {
            Some(error) => Err(super::refusal("", error)),
            None => Ok(()),
        }
    }

    /// Gives the bytes of an object to `into`, in order, and looks whether they are the ones that were put.
    ///
    /// # Errors
    /// See [`ObjectError`]; [`ObjectError::Damaged`] comes behind the last byte.
    pub async fn get_object(
        &self,
        info: &ObjectInfo,
        mut into: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ObjectError> {
        let (stream, under) = (stream_of(&info.bucket), info.chunks_under());
        let mut hash = Sha256::new();
        let (mut from, mut size) = (1, 0);
        loop {
            let page = self.read(&stream, &under, from, READ_CHUNKS, false).await?;
            let Some(last) = page.last() else { break };
            from = last.seq + 1;
            for stored in &page {
                hash.update(&stored.body);
                size += stored.body.len() as u64;
                into(&stored.body)?;
            }
        }
        if size != info.size {
            let why = format!("it has {size} bytes and should have {}", info.size);
            return Err(info.damaged(why));
        }
        if digest(hash) != info.digest {
            return Err(info.damaged("its bytes are not the ones that were put"));
        }
        Ok(())
    }

    /// Removes an object without a trace: first what describes it, so that nobody sees a part of it.
    ///
    /// # Errors
    /// Any bus error.
    pub async fn remove_object(&self, info: &ObjectInfo) -> Result<(), Error> {
        let about = ObjectInfo::about(&info.bucket, &info.name);
        self.purge(&info.bucket, &about).await?;
        self.purge(&info.bucket, &info.chunks_under()).await
    }

    /// Removes pieces of `family` that belong to no object: whoever put them died. Nobody may put one of that family now.
    ///
    /// # Errors
    /// Any bus error.
    pub async fn remove_pieces(&self, bucket: &str, family: &str) -> Result<(), Error> {
        let known: Vec<String> = self
            .objects(bucket)
            .await?
            .into_iter()
            .map(|info| info.nuid)
            .collect();
        let request = json!({ "subjects_filter": format!("$O.{bucket}.C.>") });
        let api = format!("STREAM.INFO.{}", stream_of(bucket));
        let info = self.api(&api, &request).await?;
        let subjects = info["state"]["subjects"].as_object();
        for subject in subjects.into_iter().flat_map(serde_json::Map::keys) {
            let nuid = subject.rsplit('.').next().unwrap_or_default();
            let of_family = nuid
                .strip_prefix(family)
                .is_some_and(|rest| rest.starts_with('-'));
            if of_family && !known.iter().any(|known| known == nuid) {
                self.purge(bucket, subject).await?;
            }
        }
        Ok(())
    }

    async fn purge(&self, bucket: &str, subject: &str) -> Result<(), Error> {
        let request = json!({ "filter": subject });
        let api = format!("STREAM.PURGE.{}", stream_of(bucket));
        self.api(&api, &request).await.map(|_| ())
    }
}

/// Reads until the buffer is full or there is no more.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
