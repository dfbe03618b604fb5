//! What the server says of a queue's consumer beyond its place: for people who look at it.

use serde_json::{Value, json};

use super::{JetStream, queue_state};
use crate::bus::{Error, QueueState, stream_of_queue};

/// A queue as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueInfo {
    /// Where it stands.
    pub state: QueueState,
    /// Deliveries so far, repeated ones too. The server begins anew when the queue is reset or made anew.
    pub deliveries: u64,
    /// The subjects that it takes.
    pub filters: Vec<String>,
    /// Until when it hands nothing out, RFC 3339; `None` while it does.
    pub paused_until: Option<String>,
}

impl JetStream {
    /// Asks about a queue.
    ///
    /// # Errors
    /// [`Error::Missing`] for one that does not exist.
    pub async fn queue_info(&self, queue: &str) -> Result<QueueInfo, Error> {
        let info = self.consumer_info(queue).await?;
        let config = &info["config"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        // A single filter stands in a field of its own; no filter at all takes everything.
        let several = config["filter_subjects"].as_array();
        let mut filters: Vec<String> = several.into_iter().flatten().filter_map(text).collect();
        filters.extend(text(&config["filter_subject"]).filter(|filter| !filter.is_empty()));
        if filters.is_empty() {
            filters.push(">".to_owned());
        }
        Ok(QueueInfo {
            state: queue_state(&info),
            deliveries: info["delivered"]["consumer_seq"].as_u64().unwrap_or(0),
            filters,
            // The time stays in the configuration when it has passed.
            paused_until: text(&config["pause_until"]).filter(|_| info["paused"] == true),
        })
    }

    /// Lets the server hand nothing of a queue out until `until` (RFC 3339), or hand it out again. What is in hand stays
    /// there; the pause outlives the server (BROKER 5).
    ///
    /// # Errors
    /// [`Error::Missing`] for a queue that does not exist.
    pub async fn pause(&self, queue: &str, until: Option<&str>) -> Result<(), Error> {
        let subject = format!("CONSUMER.PAUSE.{}.{queue}", stream_of_queue(queue));
        let request = match until {
            Some(until) => json!({ "pause_until": until }),
            None => json!({}),
        };
        self.api(&subject, &request).await.map(|_| ())
    }
}
