//! What all HTTP clients here share: TLS by rustls with ring, and how an answer or its absence is judged. No text of the
//! other side is passed on: it may name a person.

use reqwest::{Client, Response};

use super::CallError;

/// A client. It follows no redirects: a call goes where it was configured to go, or nowhere.
pub(super) fn client() -> Client {
    // The second role of a process finds it installed already, which is what it wants.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder().redirect(reqwest::redirect::Policy::none());
    // Fails without a TLS backend, which is there since the line above.
    builder.build().expect("a TLS provider is installed")
}

/// The response of a service that took the call, or why it did not.
pub(super) fn judged(
    service: &str,
    sent: Result<Response, reqwest::Error>,
) -> Result<Response, CallError> {
    let response = match sent {
        Ok(response) => response,
        Err(error) if error.is_connect() => {
            return Err(CallError::Unavailable(format!("{service}: no connection")));
        }
        Err(error) if error.is_builder() => {
            return Err(CallError::Refused(format!(
                "{service}: the address or a value is unusable"
            )));
        }
        Err(_) => return Err(CallError::Unknown(format!("{service}: no answer"))),
    };
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
