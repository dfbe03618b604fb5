//! A broker's monitoring over HTTP: whether JetStream answers, and how lazily it writes to its disk.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::durability::DiskSync;

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Largest answer that is read; /varz has a few KiB.
const BODY_MAX: u64 = 1 << 20;

/// Asks for JetStream itself, not for the port (DESIGN 9).
pub(super) async fn jetstream_answers((host, port): &(String, u16)) -> bool {
    let reply = get(host, *port, "/healthz?js-enabled-only=true").await;
    reply.is_ok_and(|(ok, _)| ok)
}

/// The effective sync interval of the server whose monitoring is at `url`, `http://host:port`.
///
/// # Errors
/// A sentence why it can't be told.
pub async fn sync_interval(url: &str) -> Result<DiskSync, String> {
    let (host, port) = address(url)?;
    let (ok, body) = get(&host, port, "/varz").await?;
    let varz: serde_json::Value = serde_json::from_slice(&body)
        .ok()
        .filter(|_| ok)
        .ok_or_else(|| "it does not answer /varz".to_owned())?;
    of_varz(&varz)
}

/// How much a stream holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct StreamCount {
    pub(super) messages: u64,
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
    pub(super) consumers: u64,
}

/// Every stream of the server, as `ACCOUNT NAME`.
///
/// # Errors
/// A sentence.
pub(super) async fn streams(
    (host, port): &(String, u16),
) -> Result<BTreeMap<String, StreamCount>, String> {
    let (ok, body) = get(host, *port, "/jsz?accounts=true&streams=true").await?;
    let jsz: serde_json::Value = serde_json::from_slice(&body)
        .ok()
        .filter(|_| ok)
        .ok_or_else(|| "nats-server does not answer /jsz".to_owned())?;
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let mut found = BTreeMap::new();
    for account in list(&jsz["account_details"]) {
        for stream in list(&account["stream_detail"]) {
            let number = |name: &str| stream["state"][name].as_u64().unwrap_or(0);
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            let name = format!("{} {}", text(&account["name"]), text(&stream["name"]));
            let count = StreamCount {
                messages: number("messages"),
                first_seq: number("first_seq"),
                last_seq: number("last_seq"),
                consumers: number("consumer_count"),
            };
            found.insert(name, count);
        }
    }
    Ok(found)
}

/// Host and port of `http://host:port`.
///
/// # Errors
/// A sentence.
pub(super) fn address(url: &str) -> Result<(String, u16), String> {
    url.strip_prefix("http://")
        .and_then(|rest| rest.trim_end_matches('/').rsplit_once(':'))
        .and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)))
        .ok_or_else(|| format!("broker.monitor_url '{url}' is not http://host:port"))
}

fn of_varz(varz: &serde_json::Value) -> Result<DiskSync, String> {
    let config = &varz["jetstream"]["config"];
    if config["sync_always"] == true {
        return Ok(DiskSync::Always);
    }
    config["sync_interval"]
        .as_u64()
        .filter(|nanos| *nanos > 0)
        .map(|nanos| DiskSync::Every(Duration::from_nanos(nanos)))
        .ok_or_else(|| "/varz does not tell a sync interval".to_owned())
}

/// Whether the answer was 200, and its body.
async fn get(host: &str, port: u16, path: &str) -> Result<(bool, Vec<u8>), String> {
    let ask = async {
        let mut stream = TcpStream::connect((host, port)).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut reply = Vec::new();
        stream.take(BODY_MAX).read_to_end(&mut reply).await?;
        Ok::<_, std::io::Error>(reply)
    };
    let mut reply = tokio::time::timeout(ANSWER_MAX, ask)
        .await
        .map_err(|_| "no answer in time".to_owned())?
        .map_err(|error| error.to_string())?;
    let ok = reply.starts_with(b"HTTP/1.0 200") || reply.starts_with(b"HTTP/1.1 200");
    let body_at = reply
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map_or(reply.len(), |at| at + 4);
    Ok((ok, reply.split_off(body_at)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sync_always_stands_beside_an_interval_that_means_nothing_then() {
        let varz = |config| json!({ "jetstream": { "config": config } });
        let always = varz(json!({ "sync_interval": 120_000_000_000_u64, "sync_always": true }));
        assert_eq!(of_varz(&always), Ok(DiskSync::Always));
        let lazy = varz(json!({ "sync_interval": 10_000_000_000_u64 }));
        assert_eq!(of_varz(&lazy), Ok(DiskSync::Every(Duration::from_secs(10))));
        assert!(of_varz(&json!({})).is_err());
    }
}
