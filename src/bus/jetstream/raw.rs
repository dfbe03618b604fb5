//! The least that a client can do, for `roadcall bench` to compare itself with: straight to the client library, with
//! message ids and nothing else. No promise of Roadcall's holds here.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::PublishAckFuture;
use bytes::Bytes;
use futures::StreamExt;

use crate::bus::{ATOMIC_BATCH_MAX, EVENTS, Error};

/// Publishes on their way at once.
const IN_FLIGHT: usize = 256;
/// How long a batch waits for one more message.
const FILL: Duration = Duration::from_millis(1);
/// Messages that the server may send ahead.
const AHEAD: usize = 1024;

/// A message to publish.
#[derive(Debug, Clone)]
pub struct RawMessage {
    /// Where to.
    pub subject: String,
    /// Its id.
    pub msg_id: String,
    /// Its body.
    pub body: Bytes,
}

/// A message taken from a consumer.
#[derive(Debug)]
pub struct RawDelivery {
    /// Its id.
    pub msg_id: String,
    /// Its sequence in the stream.
    pub seq: u64,
    /// Its body.
    pub body: Bytes,
    reply: Option<async_nats::Subject>,
}

/// A bare connection.
#[derive(Debug, Clone)]
pub struct Raw {
    client: async_nats::Client,
    context: async_nats::jetstream::Context,
}

fn unavailable(error: impl std::fmt::Display) -> Error {
    Error::Unavailable(error.to_string())
}

impl Raw {
    /// Connects.
    ///
    /// # Errors
    /// No connection.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        let client = async_nats::connect(url).await.map_err(unavailable)?;
        let context = async_nats::jetstream::new(client.clone());
        Ok(Self { client, context })
    }

    /// Publishes one by one, `IN_FLIGHT` at once, and awaits every ack.
    ///
    /// # Errors
    /// One was not acknowledged.
    pub async fn publish_singly(&self, messages: &[RawMessage]) -> Result<(), Error> {
        let mut in_flight: VecDeque<PublishAckFuture> = VecDeque::with_capacity(IN_FLIGHT);
        for message in messages {
            if in_flight.len() == IN_FLIGHT
                && let Some(first) = in_flight.pop_front()
            {
                first.await.map_err(unavailable)?;
            }
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", message.msg_id.as_str());
            let sent = self.context.publish_with_headers(
                message.subject.clone(),
                headers,
                message.body.clone(),
            );
            in_flight.push_back(sent.await.map_err(unavailable)?);
        }
        for ack in in_flight {
            ack.await.map_err(unavailable)?;
        }
        Ok(())
    }

    /// Publishes in atomic batches, one after the other.
    ///
    /// # Errors
    /// A batch was not acknowledged.
    pub async fn publish_in_batches(&self, messages: &[RawMessage]) -> Result<(), Error> {
        for (number, batch) in messages.chunks(ATOMIC_BATCH_MAX).enumerate() {
            let batch_id = format!("{}-{number}", batch[0].msg_id);
            for (index, message) in batch.iter().enumerate() {
                let mut headers = HeaderMap::new();
                headers.insert("Nats-Msg-Id", message.msg_id.as_str());
                headers.insert("Nats-Batch-Id", batch_id.as_str());
                headers.insert("Nats-Batch-Sequence", (index + 1).to_string());
                let (subject, body) = (message.subject.clone(), message.body.clone());
                if index + 1 < batch.len() {
                    let sent = self.client.publish_with_headers(subject, headers, body);
                    sent.await.map_err(unavailable)?;
                    continue;
                }
                headers.insert("Nats-Batch-Commit", "1");
                let commit = self.client.request_with_headers(subject, headers, body);
                let ack = commit.await.map_err(unavailable)?;
                let ack: serde_json::Value =
                    serde_json::from_slice(&ack.payload).map_err(unavailable)?;
                if ack["count"] != batch.len() {
                    return Err(unavailable(format!("a batch was refused: {ack}")));
                }
            }
        }
        Ok(())
    }

    /// A standing pull on a new durable consumer of everything that matches `filter`, from the first message on.
    ///
    /// # Errors
    /// The consumer could not be made.
    pub async fn pull(&self, name: &str, filter: &str) -> Result<RawPull, Error> {
        let stream = self.context.get_stream(EVENTS).await.map_err(unavailable)?;
        let config = pull::Config {
            durable_name: Some(name.to_owned()),
            filter_subject: filter.to_owned(),
            ack_policy: AckPolicy::Explicit,
            max_ack_pending: AHEAD as i64,
            ..pull::Config::default()
        };
        let consumer: PullConsumer = stream.create_consumer(config).await.map_err(unavailable)?;
        let messages = consumer.stream().max_messages_per_batch(AHEAD).messages();
        Ok(RawPull {
            client: self.client.clone(),
            messages: messages.await.map_err(unavailable)?,
        })
    }
}

/// A standing pull.
pub struct RawPull {
    client: async_nats::Client,
    messages: pull::Stream,
}

impl RawPull {
    /// Waits for a message and takes what else comes within `FILL` of the one before, up to `max`.
    ///
    /// # Errors
    /// The pull broke.
    pub async fn next(&mut self, max: usize) -> Result<Vec<RawDelivery>, Error> {
        let mut taken = Vec::new();
        let mut item = self.messages.next().await;
        loop {
            let message = item
                .ok_or_else(|| unavailable("the pull ended"))?
                .map_err(unavailable)?;
            let seq = message.info().map_err(unavailable)?.stream_sequence;
            let headers = message.headers.as_ref();
            let msg_id = headers.and_then(|headers| headers.get("Nats-Msg-Id"));
            taken.push(RawDelivery {
                msg_id: msg_id.map(ToString::to_string).unwrap_or_default(),
                seq,
                body: message.payload.clone(),
                reply: message.reply.clone(),
            });
            if taken.len() == max {
                return Ok(taken);
            }
            match tokio::time::timeout(FILL, self.messages.next()).await {
                Ok(next) => item = next,
                Err(_) => return Ok(taken),
            }
        }
    }

    /// Acknowledges, without waiting for the server to have seen it.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn ack(&self, deliveries: &[RawDelivery]) -> Result<(), Error> {
        for reply in deliveries
            .iter()
            .filter_map(|delivery| delivery.reply.clone())
        {
            let sent = self.client.publish(reply, Bytes::from_static(b"+ACK"));
            sent.await.map_err(unavailable)?;
        }
        Ok(())
    }

    /// Waits until everything sent so far has reached the server.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn flush(&self) -> Result<(), Error> {
        self.client.flush().await.map_err(unavailable)
    }
}
