//! What the demo came to beside its incidents: who was told, and the figures of reporting.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::PATIENCE;
use super::story::until;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::say;

/// How the messages ended.
pub(super) struct Told {
    /// Taken by their channel, by channel.
    pub sent: BTreeMap<String, u64>,
    /// Given up, or not sent for another reason.
    pub unsent: u64,
}

/// Waits until no message to these people is under way, and counts them in the log of deliveries; with `json` each is a line.
pub(super) async fn told(client: &Client, people: &[String], json: bool) -> Result<Told, Failure> {
    let mut told = Told {
        sent: BTreeMap::new(),
        unsent: 0,
    };
    for person in people {
        let items = until(PATIENCE, "the end of a message", || async {
            let items = log(client, person).await?;
            let under_way = items.iter().any(|item| item["status"] == "pending");
            Ok((!under_way).then_some(items))
        })
        .await?;
        for item in items {
            let channel = item["channel"].as_str().unwrap_or_default();
            if item["status"] == "sent" {
                *told.sent.entry(channel.to_owned()).or_default() += 1;
            } else {
                told.unsent += 1;
            }
            if json {
                let fields = [
                    "notificationId",
                    "recipientId",
                    "eventId",
                    "type",
                    "channel",
                    "status",
                ];
                let line: Map<String, Value> = fields
                    .iter()
                    .map(|name| ((*name).to_owned(), item[*name].clone()))
                    .collect();
                say(json!({ "delivery": line }))?;
            }
        }
    }
    Ok(told)
}

/// Somebody's log, all pages of it.
async fn log(client: &Client, person: &str) -> Result<Vec<Value>, Failure> {
    let mut body = json!({ "userId": person, "limit": 100 });
    let mut items = Vec::new();
    loop {
        let mut page = client.call("notification.history", &body).await?;
        if let Some(found) = page["items"].as_array_mut() {
            items.append(found);
        }
        match page.get("cursor").filter(|cursor| cursor.is_string()) {
            Some(cursor) => body["cursor"] = cursor.clone(),
            None => return Ok(items),
        }
    }
}

/// The figures of reporting, a line each.
pub(super) async fn kpis(client: &Client) -> Result<(), Failure> {
    let reply = client.call("report.kpis", &json!({})).await?;
    for (name, figure) in reply["kpis"].as_object().into_iter().flatten() {
        say(format_args!(
            "{name} {} ({} samples)",
            figure["value"], figure["samples"]
        ))?;
    }
    Ok(())
}
