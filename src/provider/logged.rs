//! The carrier of a channel that has no service: a line in the log, without address and text.

use serde_json::{Value, json};

use super::{CallError, Runner, Try, message_not_after, message_of};
use crate::event::Ts;
use crate::store::EffectCall;

/// Stands in for a channel.
#[derive(Debug)]
pub struct Logged {
    channel: &'static str,
}

impl Logged {
    /// For this channel.
    #[must_use]
    pub fn new(channel: &'static str) -> Self {
        Self { channel }
    }
}

impl Runner for Logged {
    fn kind(&self) -> &'static str {
        self.channel
    }

    fn service(&self) -> &'static str {
        self.channel
    }

    fn idempotent(&self) -> bool {
        true
    }

    fn not_after(&self, call: &EffectCall) -> Option<Ts> {
        message_not_after(call)
    }

    fn call<'a>(&'a self, call: &'a EffectCall) -> Try<'a> {
        Box::pin(std::future::ready(log(self.channel, call)))
    }
}

fn log(channel: &str, call: &EffectCall) -> Result<Value, CallError> {
    message_of(call)?;
    let word = |field: &str| {
        call.request
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or("")
    };
    tracing::info!(
        notification = call.key,
        channel,
        r#type = word("type"),
        priority = word("priority"),
        "a message, to nobody: this channel has no service"
    );
    Ok(json!({}))
}
