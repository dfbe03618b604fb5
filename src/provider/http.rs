//! What all HTTP runners share: a client over rustls with ring, and what a failed request means.

use std::time::Duration;

use super::CallError;

/// How long a connection may take: until then nothing was sent.
const CONNECT: Duration = Duration::from_secs(10);

/// A client. Redirects are not followed: an answer from elsewhere is none.
///
/// # Errors
/// The system's certificates can't be read.
pub fn client() -> Result<reqwest::Client, CallError> {
    // The one of whoever came first is as good: all of ours are ring.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .connect_timeout(CONNECT)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|_| CallError::Unavailable("no HTTP client can be made".to_owned()))
}

/// What a request without a whole answer means: without a connection it was not sent, else nobody knows. The address is
/// left out of the words.
#[must_use]
pub fn failed(error: &reqwest::Error) -> CallError {
    if error.is_builder() {
        return CallError::Refused("the request can't be written".to_owned());
    }
    if error.is_connect() {
        return CallError::Unavailable("no connection".to_owned());
    }
    CallError::Unknown("the connection ended without an answer".to_owned())
}
