//! What all HTTP runners share: a client over rustls with ring, and what a failed request means.

use std::sync::OnceLock;
use std::time::Duration;

use super::CallError;

/// How long a connection may take: until then nothing was sent.
const CONNECT: Duration = Duration::from_secs(10);

/// A client, made at its first use and kept: connections are shared. Redirects are not followed: an answer from elsewhere
/// is none.
#[derive(Debug, Default)]
pub(super) struct Client(OnceLock<reqwest::Client>);

impl Client {
    /// The client.
    pub(super) fn get(&self) -> Result<reqwest::Client, CallError> {
        if let Some(client) = self.0.get() {
            return Ok(client.clone());
        }
        // The one of whoever came first is as good: all of ours are ring.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|_| CallError::Unavailable("no HTTP client can be made".to_owned()))?;
        Ok(self.0.get_or_init(|| client).clone())
    }
}

/// What a request without a whole answer means: without a connection it was not sent, else nobody knows. The address is
/// left out of the words.
#[must_use]
pub(super) fn failed(error: &reqwest::Error) -> CallError {
    if error.is_builder() {
        return CallError::Refused("the request can't be written".to_owned());
    }
    if error.is_connect() {
        return CallError::Unavailable("no connection".to_owned());
    }
    CallError::Unknown("the connection ended without an answer".to_owned())
}

/// The response of a service that took the call, or why it did not.
pub(super) fn judged(
    service: &str,
    sent: Result<reqwest::Response, reqwest::Error>,
) -> Result<reqwest::Response, CallError> {
    let response = sent.map_err(|error| failed(&error))?;
    let status = response.status();
    let words = format!("{service}: HTTP {}", status.as_u16());
    if status.is_success() {
        Ok(response)
    } else if status.is_server_error() || status.as_u16() == 429 {
        Err(CallError::Unavailable(words))
    } else {
        Err(CallError::Refused(words))
    }
}
