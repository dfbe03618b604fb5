//! What all HTTP runners share: a client over rustls with ring, and what a failed request means.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Believed, CallError};
use crate::tls::{settle, trouble};

/// How long a connection may take: until then nothing was sent.
const CONNECT: Duration = Duration::from_secs(10);

/// A client, made at its first use and kept while the same authorities are believed: connections are shared. Nothing older
/// than TLS 1.3 is spoken. Redirects are not followed: an answer from elsewhere is none.
#[derive(Debug, Default)]
pub(super) struct Client {
    believed: Believed,
    made: Mutex<Option<(Vec<u8>, reqwest::Client)>>,
}

impl Client {
    /// One that believes these authorities beside the public ones.
    pub(super) fn new(believed: Believed) -> Self {
        Self {
            believed,
            made: Mutex::default(),
        }
    }

    /// The client.
    pub(super) fn get(&self) -> Result<reqwest::Client, CallError> {
        let authorities = self.believed.pem()?;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, client)) = &*made
            && *of == authorities
        {
            return Ok(client.clone());
        }
        settle();
        let own = reqwest::Certificate::from_pem_bundle(&authorities)
            .map_err(|_| self.believed.unusable())?;
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::none())
            .tls_version_min(reqwest::tls::Version::TLS_1_3)
            .tls_certs_merge(own)
            .build()
            .map_err(|_| CallError::Unavailable("no HTTP client can be made".to_owned()))?;
        *made = Some((authorities, client.clone()));
        Ok(client)
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
        let why = trouble(error).map_or_else(String::new, |why| format!(": {why}"));
        return CallError::Unavailable(format!("no connection{why}"));
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
