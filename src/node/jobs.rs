//! Replay jobs as people see them: what somebody wanted, with how far its role says that it is.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::bus::jetstream::JetStream;
use crate::bus::{self, Bus, REPLAYS_STREAM};
use crate::role::audit::job::{Job, REPLAYS};

/// Messages in one read.
const PAGE: usize = 1000;

/// Every job with its progress, by name.
///
/// # Errors
/// Any bus error.
pub async fn all(bus: &JetStream) -> Result<BTreeMap<String, Value>, bus::Error> {
    let (mut jobs, mut progress) = (BTreeMap::new(), BTreeMap::new());
    let mut from = 1;
    loop {
        let filter = format!("$KV.{REPLAYS}.>");
        let page = bus.read(REPLAYS_STREAM, &filter, from, PAGE, false).await?;
        let Some(last) = page.last() else { break };
        from = last.seq + 1;
        for stored in &page {
            if stored.subject.contains(".progress.") {
                if let Ok(value) = serde_json::from_slice::<Value>(&stored.body) {
                    progress.insert(value["name"].as_str().unwrap_or_default().to_owned(), value);
                }
            } else if let Ok(job) = serde_json::from_slice::<Job>(&stored.body) {
                jobs.insert(job.name.to_string(), job);
            }
        }
    }
    Ok(jobs
        .into_iter()
        .map(|(name, job)| {
            let row = shown(&job, progress.get(&name));
            (name, row)
        })
        .collect())
}

/// One job as people see it.
fn shown(job: &Job, progress: Option<&Value>) -> Value {
    let mut row = json!({
        "name": job.name, "queue": job.queue, "kind": job.kind, "mode": job.mode, "state": "STARTING",
        "fromSeq": job.from_seq, "toSeq": job.to_seq, "lastSeq": null, "done": 0, "total": null, "handled": 0,
        "duplicates": 0, "filtered": 0, "failed": 0, "startedAt": job.started_at, "endedAt": null,
        "startedBy": job.started_by, "description": job.description,
    });
    if let (Some(row), Some(progress)) = (row.as_object_mut(), progress.and_then(Value::as_object))
    {
        row.extend(progress.clone());
    }
    let open = row["state"] == "STARTING" || row["state"] == "RUNNING";
    if open && job.cancelled_by.is_some() {
        row["state"] = json!("CANCELLING");
    }
    row
}
