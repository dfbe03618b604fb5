//! Alarms to a webhook outside: what `role::audit` asks for, signed as Standard Webhooks are.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::http::Client;
use super::signed::Letter;
use super::{Believed, CallError, Runner, Try, text_of};
use crate::event::Ts;
use crate::store::EffectCall;

/// Makes the calls of one kind.
#[derive(Debug)]
pub struct AlarmWebhook {
    kind: &'static str,
    url: String,
    secret_file: PathBuf,
    now: fn() -> Ts,
    client: Client,
}

impl AlarmWebhook {
    /// Calls of `kind` to `url`. The secret is read for each call, so that it can be changed while we run.
    #[must_use]
    pub fn new(
        kind: &'static str,
        url: String,
        secret_file: PathBuf,
        now: fn() -> Ts,
        believed: Believed,
    ) -> Self {
        Self {
            kind,
            url,
            secret_file,
            now,
            client: Client::new(believed),
        }
    }

    async fn send(&self, call: &EffectCall) -> Result<Value, CallError> {
        let body = text_of(&call.request, "body")?.to_owned();
        // The path and the system's words say nothing of the secret.
        let secret = std::fs::read_to_string(&self.secret_file).map_err(|error| {
            let path = self.secret_file.display();
            CallError::Unavailable(format!("the secret in {path} can't be read: {error}"))
        })?;
        let letter = Letter {
            service: self.service(),
            url: &self.url,
            id: &call.key,
            at: (self.now)(),
        };
        letter.post(&self.client, secret.trim(), body).await?;
        Ok(json!({}))
    }
}

impl Runner for AlarmWebhook {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn service(&self) -> &'static str {
        "alarm-webhook"
    }

    fn idempotent(&self) -> bool {
        true
    }

    fn call<'a>(&'a self, call: &'a EffectCall) -> Try<'a> {
        Box::pin(self.send(call))
    }
}
