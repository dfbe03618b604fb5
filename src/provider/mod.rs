//! The ends outside: whoever Roadcall calls over HTTP or SMTP. A runner makes one try of one kind of call; when, how often
//! and behind which breaker is the node's matter (`node::effects`). Only here are HTTP and SMTP clients.

pub mod alarm;
mod http;
pub mod logged;
pub mod otlp;
pub mod push;
pub mod signed;
pub mod sms;
pub mod smtp;
pub mod stripe;
pub mod summariser;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use serde_json::Value;

use crate::event::Ts;
use crate::store::EffectCall;

/// Why one try did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// The service said no, and will say so again.
    Refused(String),
    /// The service can't now (5xx, 429, no connection): it did not happen, and may succeed later.
    Unavailable(String),
    /// Sent, and no answer: nobody knows.
    Unknown(String),
}

/// The authorities that are believed beside the public ones: `tls.ca_file`, which is read for each call, so that it can be
/// changed while we run.
#[derive(Debug, Clone, Default)]
pub struct Believed(Option<PathBuf>);

impl Believed {
    /// Those of this file; none beside the public ones where there is no name.
    #[must_use]
    pub fn of(ca_file: &str) -> Self {
        Self((!ca_file.is_empty()).then(|| ca_file.into()))
    }

    /// The file's PEM text.
    fn pem(&self) -> Result<Vec<u8>, CallError> {
        let Some(path) = &self.0 else {
            return Ok(Vec::new());
        };
        std::fs::read(path).map_err(|error| {
            CallError::Unavailable(format!("tls.ca_file {}: {error}", path.display()))
        })
    }

    fn unusable(&self) -> CallError {
        let path = self.0.clone().unwrap_or_default();
        CallError::Unavailable(format!(
            "tls.ca_file {}: it is no file of certificates in PEM",
            path.display()
        ))
    }
}

/// One try, on its way.
pub type Try<'a> = Pin<Box<dyn Future<Output = Result<Value, CallError>> + Send + 'a>>;

/// Makes calls of one kind.
pub trait Runner: Send + Sync + 'static {
    /// The kind of [`EffectCall`] that it makes.
    fn kind(&self) -> &'static str;

    /// Whose service it is; kinds that name the same share a breaker.
    fn service(&self) -> &'static str;

    /// Whether the service takes the same key twice without doing it twice. Only such calls are tried again.
    fn idempotent(&self) -> bool;

    /// How long one try may take (DOMAIN 6); after that nobody knows how it ended.
    fn timeout(&self) -> Duration {
        Duration::from_secs(30)
    }

    /// What is waited before each further try of an idempotent call, give or take a quarter (DOMAIN 6).
    fn waits(&self) -> Vec<Duration> {
        [100, 200, 400].map(Duration::from_millis).to_vec()
    }

    /// When `call` has lost its sense: from then on no try of it is made, however long ago it was asked for.
    fn not_after(&self, _call: &EffectCall) -> Option<Ts> {
        None
    }

    /// Makes one try of `call`.
    fn call<'a>(&'a self, call: &'a EffectCall) -> Try<'a>;
}

/// `notAfter` of a message's request (`role::notifications`): an SMS from three days ago does not go out (DESIGN promise 6).
fn message_not_after(call: &EffectCall) -> Option<Ts> {
    call.request.get("notAfter")?.as_str()?.parse().ok()
}

/// What a message says: in the request, or, where it must be in no file, in the secret. A secret is gone after a restart.
fn message_of(call: &EffectCall) -> Result<Value, CallError> {
    let secret = call.secret.as_ref().map(|secret| secret.expose());
    let from_secret = || secret.and_then(|text| serde_json::from_str(text).ok());
    let message = call.request.get("message").cloned().or_else(from_secret);
    message.ok_or_else(|| {
        CallError::Refused("what it said was secret and is gone with the process".to_owned())
    })
}

/// A text of a message or its request.
fn text_of<'v>(value: &'v Value, field: &str) -> Result<&'v str, CallError> {
    let text = value.get(field).and_then(Value::as_str);
    text.ok_or_else(|| CallError::Refused(format!("the message has no {field}")))
}
