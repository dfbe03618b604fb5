//! An OpenTelemetry collector, by OTLP over HTTP: one try of one request.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::http::{Client, judged};
use super::{Believed, CallError};

/// How long a request may take (the field's default).
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where spans go.
#[derive(Debug)]
pub struct Collector {
    client: Client,
    url: String,
    headers: HeaderMap,
}

impl Collector {
    /// The collector at `url`, without the path of the signal; `headers` go with each request.
    ///
    /// # Errors
    /// Names the header that is none; its value may be a secret and is not told.
    pub fn new(
        url: &str,
        headers: Vec<(String, String)>,
        believed: Believed,
    ) -> Result<Self, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let named = HeaderName::from_bytes(name.as_bytes());
            let (Ok(named), Ok(mut value)) = (named, HeaderValue::from_str(&value)) else {
                return Err(format!("'{name}' is no header with a plain value"));
            };
            value.set_sensitive(true);
            map.append(named, value);
        }
        Ok(Self {
            client: Client::new(believed),
            url: format!("{}/v1/traces", url.trim_end_matches('/')),
            headers: map,
        })
    }

    /// Sends a request of spans in JSON.
    ///
    /// # Errors
    /// [`CallError::Refused`] for what is not taken however often it is sent; everything else may be sent again.
    pub async fn send(&self, json: &[u8]) -> Result<(), CallError> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        let packed = packed
            .write_all(json)
            .and_then(|()| packed.finish())
            .map_err(|error| CallError::Refused(format!("packing failed: {error}")))?;
        let request = self
            .client
            .get()?
            .post(&self.url)
            .headers(self.headers.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_ENCODING, "gzip")
            .timeout(TIMEOUT)
            .body(packed);
        judged("collector", request.send().await).map(|_| ())
    }
}
