//! The ends outside: whoever Roadcall calls over HTTP or SMTP. A runner makes one try of one kind of call; when, how often
//! and behind which breaker is the node's matter (`node::effects`). Only here are HTTP and SMTP clients.

pub mod http;
pub mod summariser;

use std::future::Future;
use std::pin::Pin;

use serde_json::Value;

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

    /// Makes one try of `call`.
    fn call<'a>(&'a self, call: &'a EffectCall) -> Try<'a>;
}
