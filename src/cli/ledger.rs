//! `roadcall ledger …`: the audit role's chain of hashes.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::Connection;
use super::client::Client;
use super::failure::Failure;
use super::output::{print_json, print_rows, say};
use crate::bus::jetstream::JetStream;
use crate::bus::{Bus, EVENTS};
use crate::event::{Known, decode};

/// Messages in one read.
const PAGE: usize = 1000;

#[derive(Debug, Subcommand)]
pub(super) enum LedgerVerb {
    /// Check every row against the one before, and against what the archive says that the ledger was (SiteReported has its end); exit
    /// 2 if any was altered, taken out, moved or written anew.
    Verify,
    /// Print the rows, one JSON document per line.
    Export {
        /// The first row.
        #[arg(long, value_name = "N", default_value_t = 1)]
        from_seq: u64,
    },
}

pub(super) async fn ledger(connection: &Connection, verb: LedgerVerb) -> Result<ExitCode, Failure> {
    let client = Client::open(connection).await?;
    match verb {
        LedgerVerb::Verify => {
            let mut found = client.call("audit.verify", &json!({})).await?;
            against_archive(connection, &client, &mut found).await?;
            if connection.json {
                print_json(&found)?;
            } else {
                say(format_args!(
                    "{} rows, {} wrong",
                    found["rows"], found["wrong"]
                ))?;
                if found["ok"] != true {
                    print_rows(
                        connection,
                        &found["findings"],
                        &["seq", "finding", "detail"],
                    )?;
                }
            }
            Ok(ExitCode::from(if found["ok"] == true { 0 } else { 2 }))
        }
        LedgerVerb::Export { from_seq } => {
            let mut next = json!(from_seq);
            while !next.is_null() {
                let body = json!({ "fromSeq": next });
                let page = client.call("audit.export", &body).await?;
                for row in page["items"].as_array().into_iter().flatten() {
                    say(row)?;
                }
                next = page["nextSeq"].clone();
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Holds the ledger against the archive: each report of this site there names the last row that the ledger had, and its hash.
async fn against_archive(
    connection: &Connection,
    client: &Client,
    found: &mut Value,
) -> Result<(), Failure> {
    let site = connection.config()?.site.id;
    let anchors = anchors(&client.bus, &site).await?;
    let (mut held, mut next) = (0_u64, json!(1));
    let mut differing = Vec::new();
    while !next.is_null() && !anchors.is_empty() {
        let page = client
            .call("audit.export", &json!({ "fromSeq": next }))
            .await?;
        for row in page["items"].as_array().into_iter().flatten() {
            let seq = row["seq"].as_u64().unwrap_or_default();
            if let Some(hash) = anchors.get(&seq) {
                held += 1;
                if row["hash"] != *hash {
                    differing.push(json!({ "seq": seq, "finding": "written anew",
                        "detail": format!("the archive says that its hash was {hash}") }));
                }
            }
        }
        next = page["nextSeq"].clone();
    }
    let last = found["lastSeq"].as_u64().unwrap_or_default();
    if let Some((seq, _)) = anchors.range(last + 1..).next_back() {
        differing.push(json!({ "seq": last + 1, "finding": "missing",
            "detail": format!("the archive says that there were rows up to {seq}") }));
    }
    found["anchors"] = json!(held);
    if !differing.is_empty() {
        found["ok"] = json!(false);
        let wrong = found["wrong"].as_u64().unwrap_or_default() + differing.len() as u64;
        found["wrong"] = json!(wrong);
        let mut findings = found["findings"].as_array().cloned().unwrap_or_default();
        findings.extend(differing);
        // The first broken link first.
        findings.sort_by_key(|finding| finding["seq"].as_u64());
        found["findings"] = Value::Array(findings);
    }
    Ok(())
}

/// Rows that the archive names as the ledger's last, and their hashes.
async fn anchors(bus: &JetStream, site: &str) -> Result<BTreeMap<u64, String>, Failure> {
    let filter = format!("roadcall.{site}.ops.SiteReported.{site}");
    let (mut anchors, mut from) = (BTreeMap::new(), 1);
    loop {
        let page = bus.read(EVENTS, &filter, from, PAGE, false).await?;
        let Some(last) = page.last() else {
            return Ok(anchors);
        };
        from = last.seq + 1;
        for stored in &page {
            let content_type = stored.headers.get("Content-Type");
            let Ok(event) = decode(&stored.subject, content_type, &stored.body) else {
                continue;
            };
            if let Some(Known::SiteReported(report)) = event.known()
                && let Some(end) = &report.ledger
            {
                anchors.insert(end.seq, end.hash.to_string());
            }
        }
    }
}
