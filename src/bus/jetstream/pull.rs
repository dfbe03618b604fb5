//! One standing pull per queue: the next request is with the server before the last one is used up, which is quick, and
//! which the server needs to tell of exhausted deliveries at all (BROKER 0 G).

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{PullConsumer, pull};
use futures::{FutureExt, StreamExt};
use tokio::sync::Mutex;

use super::{JetStream, created_ns, from_header_map};
use crate::bus::{AckToken, Delivery, Error, StreamId, stream_of_queue};

/// Messages that the server may send ahead of our asking.
const AHEAD: usize = 1024;

/// A queue's pull, if it has one, and whether the last one broke with deliveries in it.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pull: Option<Pull>,
    broken: bool,
}

/// A running pull.
struct Pull {
    messages: pull::Stream,
    stream: StreamId,
}

impl std::fmt::Debug for Pull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pull")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

impl JetStream {
    pub(super) async fn fetch_from(
        &self,
        queue: &str,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery>, Error> {
        let slot: Arc<Mutex<Slot>> = Arc::clone(
            self.inner
                .pulls
                .lock()
                .await
                .entry(queue.to_owned())
                .or_default(),
        );
        let mut slot = slot.lock().await;
        if slot.broken {
            // What the broken pull had taken would come again only after ack_wait.
            self.restart_delivery(queue).await?;
            slot.broken = false;
        }
        if slot.pull.is_none() {
            slot.pull = Some(self.open_pull(queue).await?);
        }
        let Some(pull) = slot.pull.as_mut() else {
            return Ok(Vec::new());
        };
        let mut deliveries = Vec::new();
        let Ok(mut item) = tokio::time::timeout(wait, pull.messages.next()).await else {
            return Ok(deliveries);
        };
        let broken = loop {
            match item {
                Some(Ok(message)) => deliveries.push(delivery(&message, pull.stream)?),
                Some(Err(error)) => {
                    tracing::warn!(queue, %error, "the pull broke, it is made anew");
                    break true;
                }
                None => break true,
            }
            if deliveries.len() >= max {
                break false;
            }
            match pull.messages.next().now_or_never() {
                Some(next) => item = next,
                None => break false,
            }
        };
        if broken {
            *slot = Slot {
                pull: None,
                broken: true,
            };
        }
        Ok(deliveries)
    }

    async fn open_pull(&self, queue: &str) -> Result<Pull, Error> {
        let name = stream_of_queue(queue);
        let info = self
            .api(&format!("STREAM.INFO.{name}"), &serde_json::Value::Null)
            .await?;
        let stream = StreamId(created_ns(&info)?);
        // Names a missing consumer as such; the client library would only say that something went wrong.
        self.consumer_info(queue).await?;
        let context = async_nats::jetstream::new(self.inner.client.clone());
        let consumer: PullConsumer = context
            .get_consumer_from_stream(queue, name)
            .await
            .map_err(|error| Error::Unavailable(error.to_string()))?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(AHEAD)
            .expires(Duration::from_secs(30))
            .heartbeat(Duration::from_secs(10))
            .messages()
            .await
            .map_err(|error| Error::Unavailable(error.to_string()))?;
        Ok(Pull { messages, stream })
    }
}

fn delivery(message: &async_nats::jetstream::Message, stream: StreamId) -> Result<Delivery, Error> {
    let info = message
        .info()
        .map_err(|error| Error::Unavailable(format!("a delivery can't be read: {error}")))?;
    let reply = message
        .reply
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    Ok(Delivery {
        stream,
        seq: info.stream_sequence,
        subject: message.subject.to_string(),
        headers: from_header_map(message.headers.as_ref()),
        body: message.payload.clone(),
        delivered: u64::try_from(info.delivered).unwrap_or(1),
        received_at_ms: published_ms(&info),
        token: AckToken(reply),
    })
}

fn published_ms(info: &async_nats::jetstream::message::Info<'_>) -> i64 {
    i64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}
