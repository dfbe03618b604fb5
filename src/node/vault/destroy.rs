//! Lets roles destroy the keys of a person: a call whose outcome comes back to them.

use serde_json::Value;

use crate::bus::Headers;
use crate::bus::jetstream::JetStream;
use crate::bus::jetstream::service::CallError as BusError;
use crate::node::commands::ACTOR_HEADER;
use crate::provider::{CallError, Runner, Try};
use crate::role::KEY_DESTROY;
use crate::store::EffectCall;

/// How long it may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// Asks the site's keeper of keys.
#[derive(Debug)]
pub struct DestroyRunner {
    bus: JetStream,
    site: String,
    role: String,
}

impl DestroyRunner {
    /// For a role of `site`.
    #[must_use]
    pub fn new(bus: JetStream, site: &str, role: &str) -> Self {
        Self {
            bus,
            site: site.to_owned(),
            role: role.to_owned(),
        }
    }

    async fn destroy(&self, call: &EffectCall) -> Result<Value, CallError> {
        let mut headers = Headers::default();
        headers.push(ACTOR_HEADER, format!("system:{}", self.role));
        let body = call.request.to_string().into_bytes();
        let name = format!("key.destroy.{}", self.role);
        let reply = self.bus.call(&self.site, &name, &headers, body, PATIENCE);
        let reply = reply.await.map_err(|error| match error {
            BusError::Timeout(_) => CallError::Unknown(error.to_string()),
            BusError::NoResponder(_) | BusError::Broker(_) => {
                CallError::Unavailable(error.to_string())
            }
        })?;
        let mut value: Value = serde_json::from_slice(&reply.body)
            .map_err(|error| CallError::Unknown(error.to_string()))?;
        match value["error"]["message"].as_str() {
            Some(why) => Err(CallError::Unavailable(why.to_owned())),
            None => Ok(value["ok"].take()),
        }
    }
}

impl Runner for DestroyRunner {
    fn kind(&self) -> &'static str {
        KEY_DESTROY
    }

    fn service(&self) -> &'static str {
        "keys"
    }

    /// What is destroyed stays so.
    fn idempotent(&self) -> bool {
        true
    }

    fn call<'a>(&'a self, call: &'a EffectCall) -> Try<'a> {
        Box::pin(self.destroy(call))
    }
}
