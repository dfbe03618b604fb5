//! Publishing: in atomic batches where the server takes them, else pipelined, always with every PubAck awaited.

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishAckFuture, PublishErrorKind};
use bytes::Bytes;
use serde_json::Value;

use super::{Features, JetStream, stream_of};
use crate::bus::{ATOMIC_BATCH_MAX, Error, Outgoing, PubAck, Published};

/// A batch holds an id that the dedup window knows (BROKER 7): its messages go one by one.
const DUPLICATE_IN_BATCH: u64 = 10201;
/// Too many open batches on the stream (BROKER, 50): likewise.
const TOO_MANY_BATCHES: u64 = 10210;
/// The expected last sequence of a subject does not hold: for a letter that may only fill a gap, one is there.
const WRONG_LAST_SEQUENCE: u64 = 10071;

impl JetStream {
    pub(super) async fn publish_all(&self, messages: Vec<Outgoing>) -> Published {
        let mut acks = Vec::with_capacity(messages.len());
        let features = match self.features().await {
            Ok(features) => features,
            Err(error) => {
                return Published {
                    acks,
                    stopped: Some(error),
                };
            }
        };
        let mut rest = messages.as_slice();
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(chunk_len(rest));
            let result = self.publish_chunk(chunk, features, &mut acks).await;
            if let Err(error) = result {
                return Published {
                    acks,
                    stopped: Some(error),
                };
            }
            rest = behind;
        }
        Published {
            acks,
            stopped: None,
        }
    }

    async fn publish_chunk(
        &self,
        chunk: &[Outgoing],
        features: Features,
        acks: &mut Vec<PubAck>,
    ) -> Result<(), Error> {
        // Letters carry expectations that a batch can't, and are rare.
        let batch = features.atomic
            && chunk.len() > 1
            && stream_of(&chunk[0].subject) == crate::bus::EVENTS;
        if batch {
            match self.publish_batch(chunk).await {
                Ok(last_seq) => {
                    let first_seq = last_seq + 1 - chunk.len() as u64;
                    acks.extend((first_seq..=last_seq).map(|seq| PubAck {
                        seq,
                        duplicate: false,
                    }));
                    return Ok(());
                }
                Err(Error::Refused {
                    code: DUPLICATE_IN_BATCH | TOO_MANY_BATCHES,
                    ..
                }) => {}
                Err(error) => return Err(error),
            }
        }
        self.publish_singly(chunk, acks).await
    }

    /// One atomic batch; returns the sequence of its last message.
    async fn publish_batch(&self, chunk: &[Outgoing]) -> Result<u64, Error> {
        let client = &self.inner.client;
        let batch_id = uuid::Uuid::new_v4().simple().to_string();
        let unavailable = |error: String| Error::Unavailable(error);
        for (index, message) in chunk.iter().enumerate() {
            let mut headers = header_map(message);
            headers.insert("Nats-Batch-Id", batch_id.as_str());
            headers.insert("Nats-Batch-Sequence", (index + 1).to_string());
            let (subject, body) = (message.subject.clone(), message.body.clone());
            if index + 1 < chunk.len() {
                client
                    .publish_with_headers(subject, headers, body)
                    .await
                    .map_err(|error| unavailable(error.to_string()))?;
                continue;
            }
            headers.insert("Nats-Batch-Commit", "1");
            let reply = client
                .request_with_headers(subject, headers, body)
                .await
                .map_err(|error| unavailable(error.to_string()))?;
            return read_batch_ack(&reply.payload, chunk.len());
        }
        Err(unavailable("an empty batch".to_owned()))
    }

    async fn publish_singly(
        &self,
        chunk: &[Outgoing],
        acks: &mut Vec<PubAck>,
    ) -> Result<(), Error> {
        let context = async_nats::jetstream::context::ContextBuilder::new()
            .timeout(self.inner.request_timeout)
            .build(self.inner.client.clone());
        let mut in_flight: Vec<PublishAckFuture> = Vec::with_capacity(chunk.len());
        let mut stopped = None;
        for message in chunk {
            let sent = context.publish_with_headers(
                message.subject.clone(),
                full_headers(message),
                message.body.clone(),
            );
            match sent.await {
                Ok(ack) => in_flight.push(ack),
                Err(error) => {
                    stopped = Some(Error::Unavailable(error.to_string()));
                    break;
                }
            }
        }
        // Awaited in order; after the first failure the rest is awaited too, so that no ack is left behind unread, but
        // counts as not acknowledged: the relay's marks have no holes.
        let mut failed = None;
        for (message, ack) in chunk.iter().zip(in_flight) {
            let result = ack.await;
            if failed.is_some() {
                continue;
            }
            match result {
                Ok(ack) => acks.push(PubAck {
                    seq: ack.sequence,
                    duplicate: ack.duplicate,
                }),
                Err(error) => match publish_error(&error) {
                    Error::Refused {
                        code: WRONG_LAST_SEQUENCE,
                        ..
                    } if message.expected_last_subject_seq.is_some() => {
                        acks.push(PubAck {
                            seq: 0,
                            duplicate: true,
                        });
                    }
                    error => failed = Some(error),
                },
            }
        }
        failed.or(stopped).map_or(Ok(()), Err)
    }
}

/// How many messages from the front go together: one stream, at most a batch, and expectations alone.
fn chunk_len(messages: &[Outgoing]) -> usize {
    let stream = stream_of(&messages[0].subject);
    messages
        .iter()
        .take(ATOMIC_BATCH_MAX)
        .take_while(|message| stream_of(&message.subject) == stream)
        .count()
        .max(1)
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
