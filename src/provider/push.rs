//! Push messages by an HTTP gateway that passes them on to the devices, signed by the Standard Webhooks specification:
//! `webhook-id` (the delivery's id, by which the gateway knows a second copy), `webhook-timestamp`, `webhook-signature`.

use serde_json::{Value, json};

use super::http::Client;
use super::signed::Letter;
use super::{Believed, CallError, Runner, Try, message_not_after, message_of, text_of};
use crate::event::Ts;
use crate::store::{EffectCall, Secret};

/// The carrier of the channel `push`.
#[derive(Debug)]
pub struct Push {
    url: String,
    secret: Secret,
    now: fn() -> Ts,
    client: Client,
}

impl Push {
    /// To the gateway at `url`, signed under `secret`. The other side refuses what is too old by its clock, so each try
    /// tells its own time, by `now`.
    #[must_use]
    pub fn new(url: String, secret: Secret, now: fn() -> Ts, believed: Believed) -> Self {
        Self {
            url,
            secret,
            now,
            client: Client::new(believed),
        }
    }

    async fn send(&self, call: &EffectCall) -> Result<Value, CallError> {
        let message = message_of(call)?;
        let word = |field: &str| call.request.get(field).cloned().unwrap_or_default();
        let body = json!({
            "notificationId": call.key, "devices": word("to"), "type": word("type"), "priority": word("priority"),
            "silent": word("silent"), "title": text_of(&message, "title")?, "text": text_of(&message, "text")?,
            "notAfter": word("notAfter"),
        })
        .to_string();
        let letter = Letter {
            service: "push",
            url: &self.url,
            id: &call.key,
            at: (self.now)(),
        };
        letter
            .post(&self.client, self.secret.expose(), body)
            .await?;
        Ok(json!({}))
    }
}

impl Runner for Push {
    fn kind(&self) -> &'static str {
        "push"
    }

    fn service(&self) -> &'static str {
        "push"
    }

    fn idempotent(&self) -> bool {
        true
    }

    fn not_after(&self, call: &EffectCall) -> Option<Ts> {
        message_not_after(call)
    }

    fn call<'a>(&'a self, call: &'a EffectCall) -> Try<'a> {
        Box::pin(self.send(call))
    }
}
