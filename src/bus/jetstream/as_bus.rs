//! The trait [`Bus`] on a real nats-server: each method is a request or two.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use chrono::DateTime;
use futures::StreamExt;
use serde_json::{Value, json};

use super::{JetStream, created_ns, from_header_map, queue_state};
use crate::bus::{
    AckToken, Bus, Delivery, Error, Headers, Outgoing, Published, QueueState, Stored, StreamId,
    StreamState,
};

impl Bus for JetStream {
    async fn publish(&self, messages: Vec<Outgoing>) -> Published {
        self.publish_all(messages).await
    }

    async fn fetch(&self, queue: &str, max: usize, wait: Duration) -> Result<Vec<Delivery>, Error> {
        self.fetch_from(queue, max, wait).await
    }

    async fn ack(&self, tokens: Vec<AckToken>) -> Result<(), Error> {
        for token in tokens.into_iter().filter(|token| !token.0.is_empty()) {
            self.inner
                .client
                .publish(token.0, Bytes::from_static(b"+ACK"))
                .await
                .map_err(|error| Error::Unavailable(error.to_string()))?;
        }
        Ok(())
    }

    async fn reset(&self, queue: &str) -> Result<QueueState, Error> {
        // Dropping the standing pull first: what it holds is handed out anew.
        self.inner.pulls.lock().await.remove(queue);
        self.restart_delivery(queue).await
    }

    async fn queue(&self, queue: &str) -> Result<QueueState, Error> {
        Ok(queue_state(&self.consumer_info(queue).await?))
    }

    async fn filters(&self, queue: &str) -> Result<Vec<String>, Error> {
        Ok(self.queue_info(queue).await?.filters)
    }

    async fn stream(&self, stream: &str) -> Result<StreamState, Error> {
        let info = self
            .api(&format!("STREAM.INFO.{stream}"), &Value::Null)
            .await?;
        let state = &info["state"];
        let number = |name: &str| state[name].as_u64().unwrap_or(0);
        Ok(StreamState {
            identity: StreamId(created_ns(&info)?),
            server_id: self.server_id(),
            first_seq: number("first_seq"),
            last_seq: number("last_seq"),
            messages: number("messages"),
            bytes: number("bytes"),
        })
    }

    async fn read(
        &self,
        stream: &str,
        subject_filter: &str,
        from_seq: u64,
        max: usize,
        headers_only: bool,
    ) -> Result<Vec<Stored>, Error> {
        let inbox = self.inner.client.new_inbox();
        let unavailable = |error: String| Error::Unavailable(error);
        let mut replies = self
            .inner
            .client
            .subscribe(inbox.clone())
            .await
            .map_err(|error| unavailable(error.to_string()))?;
        let request = json!({ "seq": from_seq.max(1), "next_by_subj": subject_filter, "batch": max.clamp(1, 1000) });
        self.inner
            .client
            .publish_with_reply(
                format!("$JS.API.DIRECT.GET.{stream}"),
                inbox,
                Bytes::from(request.to_string()),
            )
            .await
            .map_err(|error| unavailable(error.to_string()))?;
        let mut found = Vec::new();
        loop {
            let reply = tokio::time::timeout(self.inner.request_timeout, replies.next())
                .await
                .map_err(|_| unavailable(format!("no answer while reading {stream}")))?
                .ok_or_else(|| unavailable("the connection closed".to_owned()))?;
            match reply.status.map(|status| status.as_u16()) {
                Some(204 | 404) => return Ok(found),
                Some(503) => return Err(Error::Missing(format!("stream {stream}"))),
                Some(408) | Some(500..) => {
                    return Err(unavailable(format!("reading {stream} failed")));
                }
                _ => {}
            }
            found.push(stored(&reply, headers_only)?);
        }
    }

    fn connection_epoch(&self) -> u64 {
        self.inner.epoch.load(Ordering::SeqCst)
    }
}

/// A message of a direct get: where it is stands in headers that the server adds.
fn stored(reply: &async_nats::Message, headers_only: bool) -> Result<Stored, Error> {
    let headers = from_header_map(reply.headers.as_ref());
    let lacking =
        || Error::Unavailable("a direct get came without subject, sequence or time".to_owned());
    let seq = headers
        .get("Nats-Sequence")
        .and_then(|text| text.parse().ok())
        .ok_or_else(lacking)?;
    let subject = headers.get("Nats-Subject").ok_or_else(lacking)?.to_owned();
    let time = headers
        .get("Nats-Time-Stamp")
        .and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    let added = [
        "Nats-Sequence",
        "Nats-Subject",
        "Nats-Time-Stamp",
        "Nats-Stream",
        "Nats-Num-Pending",
        "Nats-Last-Sequence",
    ];
    Ok(Stored {
        seq,
        subject,
        headers: Headers(
            headers
                .0
                .into_iter()
                .filter(|(name, _)| !added.contains(&name.as_str()))
                .collect(),
        ),
        body: if headers_only {
            Bytes::new()
        } else {
            reply.payload.clone()
        },
        received_at_ms: time.ok_or_else(lacking)?.timestamp_millis(),
    })
}
