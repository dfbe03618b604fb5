//! Brings one-time passwords from the role auth to the role notifications, as a command over the bus: so the code is in
//! no event and in no file, only in the memory of the two.

use std::time::Duration;

use serde_json::{Value, json};

use super::commands::ACTOR_HEADER;
use crate::bus::Headers;
use crate::bus::jetstream::JetStream;
use crate::bus::jetstream::service::CallError as BusError;
use crate::provider::{CallError, Runner, Try};
use crate::store::EffectCall;

/// The command that sends one (DOMAIN 5.6).
pub(super) const COMMAND: &str = "notification.send_otp";

/// Asks notifications to send a code.
pub struct OtpRunner {
    bus: JetStream,
    site: String,
    timeout: Duration,
}

impl OtpRunner {
    /// For the notifications of `site`, which have `timeout` to answer.
    #[must_use]
    pub fn new(bus: JetStream, site: &str, timeout: Duration) -> Self {
        Self {
            bus,
            site: site.to_owned(),
            timeout,
        }
    }

    async fn send(&self, call: &EffectCall) -> Result<Value, CallError> {
        let Some(code) = &call.secret else {
            let why = "the code is gone with the process that made it";
            return Err(CallError::Refused(why.to_owned()));
        };
        let mut body = call.request.clone();
        body["code"] = code.expose().into();
        body["clientRequestId"] = call.key.clone().into();
        let mut headers = Headers::default();
        headers.push(ACTOR_HEADER, "system:auth".to_owned());
        let body = body.to_string().into_bytes();
        let reply = self
            .bus
            .call(&self.site, COMMAND, &headers, body, self.timeout)
            .await
            .map_err(|error| match error {
                BusError::Timeout(_) => CallError::Unknown(error.to_string()),
                BusError::NoResponder(_) | BusError::Broker(_) => {
                    CallError::Unavailable(error.to_string())
                }
            })?;
        match reply.error_code {
            None => Ok(json!({})),
            // The message could name the phone; the status says enough.
            Some(status @ (429 | 500..)) => Err(CallError::Unavailable(refusal(status))),
            Some(status) => Err(CallError::Refused(refusal(status))),
        }
    }
}

fn refusal(status: u16) -> String {
    format!("{COMMAND} was refused with status {status}")
}

impl Runner for OtpRunner {
    fn kind(&self) -> &'static str {
        "otp"
    }

    fn service(&self) -> &'static str {
        "notifications"
    }

    /// Its `clientRequestId` makes a second request give the first answer.
    fn idempotent(&self) -> bool {
        true
    }

    fn call<'a>(&'a self, call: &'a EffectCall) -> Try<'a> {
        Box::pin(self.send(call))
    }
}
