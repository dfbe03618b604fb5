//! What only the server's system account may do: have the configuration read again and cut connections off.

use std::time::Duration;

use async_nats::ConnectOptions;
use bytes::Bytes;
use serde_json::{Value, json};

use super::addresses;
use crate::bus::Error;

/// How long each answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Has the server behind `url` read its configuration again, and then cuts every leaf connection off. Whoever may still
/// come in is back a second or two later; nats-server itself leaves connections alone whose user is gone
/// (docs/sites.md). Which user a leaf came in as the server does not tell, only the name that its broker gives itself, so
/// that all of them go.
///
/// # Errors
/// The server can't be asked, or its configuration is refused.
pub async fn cut_leafs(url: &str, seed: &str) -> Result<usize, Error> {
    let unavailable = |error: String| Error::Unavailable(error);
    let options = ConnectOptions::with_nkey(seed.to_owned())
        .name("roadcall-system")
        .connection_timeout(ANSWER_MAX)
        .request_timeout(Some(ANSWER_MAX));
    let client = options
        .connect(addresses(url)?)
        .await
        .map_err(|error| unavailable(error.to_string()))?;
    let server = client.server_info().server_id;
    let ask = async |what: &str, body: Value| {
        let payload = Bytes::from(body.to_string());
        let reply = client.request(format!("$SYS.REQ.SERVER.{server}.{what}"), payload);
        let reply = reply
            .await
            .map_err(|error| unavailable(error.to_string()))?;
        let reply: Value = serde_json::from_slice(&reply.payload)
            .map_err(|error| unavailable(format!("the answer to {what} is not JSON: {error}")))?;
        match reply.get("error") {
            Some(error) => Err(unavailable(format!("{what}: {error}"))),
            None => Ok(reply),
        }
    };
    // Without this a leaf could be back before the server has heard of the new file.
    ask("RELOAD", json!({})).await?;
    let found = ask("LEAFZ", json!({})).await?;
    let leafs = found["data"]["leafs"].as_array();
    let ids: Vec<&Value> = leafs
        .into_iter()
        .flatten()
        .map(|leaf| &leaf["id"])
        .collect();
    for id in &ids {
        // One that went by itself meanwhile is as good.
        if let Err(error) = ask("KICK", json!({ "cid": id })).await {
            tracing::debug!(%error, "a leaf connection was gone already");
        }
    }
    let cut = ids.len();
    // Nothing is on its way.
    let _ = client.drain().await;
    Ok(cut)
}
