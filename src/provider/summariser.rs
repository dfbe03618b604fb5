//! The outside summariser of calls: one POST with a redacted text, one JSON answer (DOMAIN 5.8).

use serde_json::Value;

use super::http::{Client, failed};
use super::{Believed, CallError, Runner, Try};
use crate::store::EffectCall;

/// The longest answer that is read.
const ANSWER_MAX: usize = 256 * 1024;

/// Calls the summariser at an address.
pub struct Summariser {
    kind: &'static str,
    url: String,
    client: Client,
}

impl Summariser {
    /// One for this address, for calls of this kind.
    #[must_use]
    pub fn new(kind: &'static str, url: impl Into<String>, believed: Believed) -> Self {
        let url = url.into();
        let client = Client::new(believed);
        Self { kind, url, client }
    }

    async fn ask(&self, call: &EffectCall) -> Result<Value, CallError> {
        let request = self
            .client
            .get()?
            .post(&self.url)
            .header("Idempotency-Key", &call.key);
        let answer = request.json(&call.request).send().await;
        let answer = answer.map_err(|error| failed(&error))?;
        let status = answer.status();
        if status.is_server_error() || status.as_u16() == 429 {
            return Err(CallError::Unavailable(format!(
                "status {}",
                status.as_u16()
            )));
        }
        if !status.is_success() {
            return Err(CallError::Refused(format!("status {}", status.as_u16())));
        }
        let body = answer.bytes().await.map_err(|error| failed(&error))?;
        if body.len() > ANSWER_MAX {
            return Err(CallError::Refused("the answer is too long".to_owned()));
        }
        // The parser's own words may quote the answer.
        serde_json::from_slice(&body)
            .map_err(|_| CallError::Refused("the answer is not JSON".to_owned()))
    }
}

impl Runner for Summariser {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn service(&self) -> &'static str {
        "summariser"
    }

    fn idempotent(&self) -> bool {
        true
    }

    fn call<'a>(&'a self, call: &'a EffectCall) -> Try<'a> {
        Box::pin(self.ask(call))
    }
}
