//! Asking the site at the other end of a link.

use std::time::Duration;

use serde_json::Value;

use super::{Answer, Ask, OF_DEPOT, Question, RESEND};
use crate::bus::Headers;
use crate::bus::jetstream::JetStream;
use crate::bus::jetstream::service::CallError;
use crate::bus::links::HUB;
use crate::node::commands::ACTOR_HEADER;
use crate::node::order;

/// How long the other site may search for one answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody gave one.
    #[error("site {site}: {error}")]
    Call {
        /// Who was asked.
        site: String,
        /// Why not.
        error: CallError,
    },
    /// It is a refusal, or none that can be read.
    #[error("site {site}: {said}")]
    Said {
        /// Who was asked.
        site: String,
        /// What it said.
        said: String,
    },
}

/// Somebody at this site who asks others.
#[derive(Debug, Clone)]
pub struct Asker {
    bus: JetStream,
    own: String,
}

impl Asker {
    /// At site `own`.
    #[must_use]
    pub fn new(bus: &JetStream, own: &str) -> Self {
        Self {
            bus: bus.clone(),
            own: own.to_owned(),
        }
    }

    /// Asks `peer` about the events of `site`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ask(&self, peer: &str, site: &str, question: Question) -> Result<Answer, Error> {
        let mut headers = Headers::default();
        headers.push(ACTOR_HEADER, order::node().to_string());
        let ask = Ask {
            site: site.to_owned(),
            question,
        };
        // Names and numbers always have a JSON form.
        let body = serde_json::to_vec(&ask).unwrap_or_default();
        let (bus, own) = (&self.bus, &self.own);
        let reply = if peer == HUB {
            bus.call_hub(own, RESEND, &headers, body, PATIENCE).await
        } else {
            bus.call(peer, OF_DEPOT, &headers, body, PATIENCE).await
        };
        let site = || peer.to_owned();
        let reply = reply.map_err(|error| Error::Call {
            site: site(),
            error,
        })?;
        let said = |said: String| Error::Said { site: site(), said };
        let mut value: Value =
            serde_json::from_slice(&reply.body).map_err(|error| said(error.to_string()))?;
        if let Some(message) = value["error"]["message"].as_str() {
            return Err(said(message.to_owned()));
        }
        serde_json::from_value(value["ok"].take()).map_err(|error| said(error.to_string()))
    }
}
