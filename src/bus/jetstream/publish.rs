//! Publishing: in atomic batches where the server takes them, else pipelined, always with every PubAck awaited.

use std::collections::VecDeque;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishAckFuture, PublishErrorKind};
use bytes::Bytes;
use serde_json::Value;

use super::JetStream;
use crate::bus::{
    ATOMIC_BATCH_MAX, CARRY, EVENTS, Error, Outgoing, PubAck, Published,
    stream_of_subject as stream_of,
};

/// A batch holds an id that the dedup window knows (BROKER 7): its messages go one by one.
const DUPLICATE_IN_BATCH: u64 = 10201;
/// Too many open batches on the stream (BROKER, 50): likewise.
const TOO_MANY_BATCHES: u64 = 10210;
/// The expected last sequence of a subject does not hold: for a letter that may only fill a gap, one is there.
const WRONG_LAST_SEQUENCE: u64 = 10071;

/// Fewer messages than these go one by one: a batch costs four syncs, however small (BROKER 7).
const BATCH_MIN: usize = 5;
/// Single publishes on their way at once.
const IN_FLIGHT: usize = 1024;

/// Which way to publish many messages is the quicker one on a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// Atomic batches: for a broker that syncs before it acknowledges, which costs a sync per single message but few per
    /// batch (BROKER 7). Where nothing is known it is the safe choice.
    #[default]
    Batches,
    /// Single messages, many on their way: for a broker known to sync later, where staging a batch is the dearer way.
    Pipelined,
}

impl JetStream {
    pub(super) async fn publish_all(&self, messages: Vec<Outgoing>) -> Published {
        let mut acks = Vec::with_capacity(messages.len());
        let stopped = self.publish_parts(&messages, &mut acks).await.err();
        Published { acks, stopped }
    }

    async fn publish_parts(
        &self,
        messages: &[Outgoing],
        acks: &mut Vec<PubAck>,
    ) -> Result<(), Error> {
        let features = self.features().await?;
        let batches = features.atomic && self.inner.publish == Form::Batches;
        for part in
            messages.chunk_by(|one, next| stream_of(&one.subject) == stream_of(&next.subject))
        {
            // Letters carry expectations that a batch can't, and are rare.
            let events = matches!(stream_of(&part[0].subject), EVENTS | CARRY);
            if batches && events && part.len() >= BATCH_MIN {
                self.publish_batches(part, acks).await?;
            } else {
                self.publish_singly(part, acks).await?;
            }
        }
        Ok(())
    }

    /// Atomic batches, one after the other: while the server commits one, the next is already on its way, but it is
    /// committed only when the one before it is acknowledged. So the order holds whatever becomes of a batch; one that
    /// is never committed the server forgets by itself.
    async fn publish_batches(
        &self,
        messages: &[Outgoing],
        acks: &mut Vec<PubAck>,
    ) -> Result<(), Error> {
        let mut chunks = messages.chunks(ATOMIC_BATCH_MAX);
        let mut open = match chunks.next() {
            Some(chunk) => Some(self.open_batch(chunk).await?),
            None => None,
        };
        while let Some(batch) = open {
            let next = async {
                match chunks.next() {
                    Some(chunk) => self.open_batch(chunk).await.map(Some),
                    None => Ok(None),
                }
            };
            let (committed, opened) = futures::future::join(self.commit_batch(&batch), next).await;
            match committed {
                Ok(last_seq) => {
                    let first_seq = last_seq + 1 - batch.messages.len() as u64;
                    let ack = |seq| PubAck {
                        seq,
                        duplicate: false,
                    };
                    acks.extend((first_seq..=last_seq).map(ack));
                }
                Err(Error::Refused {
                    code: DUPLICATE_IN_BATCH | TOO_MANY_BATCHES,
                    ..
                }) => self.publish_singly(batch.messages, acks).await?,
                Err(error) => return Err(error),
            }
            open = opened?;
        }
        Ok(())
    }

    /// Sends all of a batch but its last message.
    async fn open_batch<'m>(&self, messages: &'m [Outgoing]) -> Result<OpenBatch<'m>, Error> {
        let batch = OpenBatch {
            id: uuid::Uuid::new_v4().simple().to_string(),
            messages,
        };
        for index in 0..messages.len() - 1 {
            let (subject, headers, body) = batch.part(index);
            let sent = self
                .inner
                .client
                .publish_with_headers(subject, headers, body);
            sent.await
                .map_err(|error| Error::Unavailable(error.to_string()))?;
        }
        Ok(batch)
    }

    /// Sends the last message, which commits the batch; returns its sequence.
    async fn commit_batch(&self, batch: &OpenBatch<'_>) -> Result<u64, Error> {
        let (subject, mut headers, body) = batch.part(batch.messages.len() - 1);
        headers.insert("Nats-Batch-Commit", "1");
        let commit = self
            .inner
            .client
            .request_with_headers(subject, headers, body);
        let reply = commit
            .await
            .map_err(|error| Error::Unavailable(error.to_string()))?;
        read_batch_ack(&reply.payload, batch.messages.len())
    }

    async fn publish_singly(
        &self,
        messages: &[Outgoing],
        acks: &mut Vec<PubAck>,
    ) -> Result<(), Error> {
        let context = async_nats::jetstream::context::ContextBuilder::new()
            .timeout(self.inner.request_timeout)
            .build(self.inner.client.clone());
        let mut in_flight: VecDeque<(&Outgoing, PublishAckFuture)> =
            VecDeque::with_capacity(IN_FLIGHT);
        let mut failed = None;
        for message in messages {
            if in_flight.len() == IN_FLIGHT
                && let Some((oldest, ack)) = in_flight.pop_front()
            {
                match single_ack(oldest, ack).await {
                    Ok(ack) => acks.push(ack),
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
            let (subject, headers) = (message.subject.clone(), full_headers(message));
            let sent = context.publish_with_headers(subject, headers, message.body.clone());
            match sent.await {
                Ok(ack) => in_flight.push_back((message, ack)),
                Err(error) => {
                    failed = Some(Error::Unavailable(error.to_string()));
                    break;
                }
            }
        }
        // After a failure the rest is awaited too, so that no ack is left behind unread, but counts as not acknowledged:
        // the relay's marks have no holes.
        for (message, ack) in in_flight {
            match (single_ack(message, ack).await, &failed) {
                (Ok(ack), None) => acks.push(ack),
                (Err(error), None) => failed = Some(error),
                (_, Some(_)) => {}
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// A batch of which the server has all but the last message.
struct OpenBatch<'m> {
    id: String,
    messages: &'m [Outgoing],
}

impl OpenBatch<'_> {
    fn part(&self, index: usize) -> (String, HeaderMap, Bytes) {
        let message = &self.messages[index];
        let mut headers = header_map(message);
        headers.insert("Nats-Batch-Id", self.id.as_str());
        headers.insert("Nats-Batch-Sequence", (index + 1).to_string());
        (message.subject.clone(), headers, message.body.clone())
    }
}

/// Awaits the answer to a single publish. What was to fill a gap that is filled counts as acknowledged.
async fn single_ack(message: &Outgoing, ack: PublishAckFuture) -> Result<PubAck, Error> {
    match ack.await {
        Ok(ack) => Ok(PubAck {
            seq: ack.sequence,
            duplicate: ack.duplicate,
        }),
        Err(error) => match publish_error(&error) {
            Error::Refused {
                code: WRONG_LAST_SEQUENCE,
                ..
            } if message.expected_last_subject_seq.is_some() => Ok(PubAck {
                seq: 0,
                duplicate: true,
            }),
            error => Err(error),
        },
    }
}

fn header_map(message: &Outgoing) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &message.headers.0 {
        headers.append(name.as_str(), value.as_str());
    }
    headers.insert("Nats-Msg-Id", message.msg_id.as_str());
    headers
}

fn full_headers(message: &Outgoing) -> HeaderMap {
    let mut headers = header_map(message);
    if let Some(seq) = message.expected_last_subject_seq {
        headers.insert("Nats-Expected-Last-Subject-Sequence", seq.to_string());
    }
    headers
}

fn read_batch_ack(payload: &Bytes, count: usize) -> Result<u64, Error> {
    let ack: Value = serde_json::from_slice(payload).map_err(|error| {
        Error::Unavailable(format!("the answer to a batch is not JSON: {error}"))
    })?;
    if let Some(error) = ack.get("error") {
        return Err(super::refusal("batch", error));
    }
    match (ack["seq"].as_u64(), ack["count"].as_u64()) {
        (Some(seq), Some(acked)) if acked == count as u64 => Ok(seq),
        _ => Err(Error::Unavailable(
            "the answer to a batch does not cover it".to_owned(),
        )),
    }
}

fn publish_error(error: &async_nats::jetstream::context::PublishError) -> Error {
    use std::error::Error as _;
    let refused = error
        .source()
        .and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>());
    match (refused, error.kind()) {
        (Some(refused), _) => Error::Refused {
            code: refused.error_code().0,
            message: refused.to_string(),
        },
        (None, PublishErrorKind::WrongLastSequence) => Error::Refused {
            code: WRONG_LAST_SEQUENCE,
            message: error.to_string(),
        },
        (None, PublishErrorKind::StreamNotFound) => {
            Error::Missing("stream EVENTS or DLQ".to_owned())
        }
        _ => Error::Unavailable(error.to_string()),
    }
}
