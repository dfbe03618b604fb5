//! Replays and redrives that do not get on.

use serde_json::Value;

use super::finding::{Findings, Severity, span};
use super::now;
use super::roles::Asked;
use crate::event::Ts;
use crate::node::inquiry::Inquiry;
use crate::node::jobs;

/// A role begins with a job within seconds.
const BEGINS_MS: i64 = 60_000;
/// A job that failed longer ago is history.
const FAILED_MAX_MS: i64 = 86_400_000;

pub(super) async fn look(inquiry: &Inquiry, asked: &[Asked], found: &mut Findings) {
    let jobs = match jobs::all(&inquiry.bus).await {
        Ok(jobs) => jobs,
        // Without the bucket there are none; the topology says that it is missing.
        Err(crate::bus::Error::Missing(_)) => return,
        Err(error) => return found.unseen("the replays", error),
    };
    for (name, job) in jobs {
        one(&name, &job, asked, found);
    }
}

fn one(name: &str, job: &Value, asked: &[Asked], found: &mut Findings) {
    let text = |field: &str| job[field].as_str().unwrap_or_default();
    let (queue, state) = (text("queue"), text("state"));
    let ago_ms = |field: &str| {
        let at: Option<Ts> = serde_json::from_value(job[field].clone()).ok();
        at.map_or(0, |at| now().ms() - at.ms())
    };
    let seen = format!(
        "job.{name}: {state}, {} of {} done, started {} ago",
        job["done"],
        job["total"],
        span(ago_ms("startedAt"))
    );
    if state == "FAILED" {
        if ago_ms("endedAt") < FAILED_MAX_MS {
            let why = job["error"].as_str().unwrap_or("its role's log says why");
            found
                .add(Severity::Warning, "replay-failed", name)
                .says(format!("replay {name} of {queue} failed: {why}"))
                .seen(seen)
                .roadcall(&format!("replay status {name}"));
        }
        return;
    }
    if !["STARTING", "RUNNING", "CANCELLING"].contains(&state) {
        return;
    }
    let reader = asked.iter().find(|one| one.role.queue() == Some(queue));
    let Some(reader) = reader else {
        return found
            .add(Severity::Warning, "replay-stuck", name)
            .says(format!(
                "replay {name} waits for {queue}, which no role of this site reads"
            ))
            .seen(seen)
            .roadcall(&format!("replay cancel {name}"));
    };
    let why = match &reader.told {
        Err(why) => format!("of role {}: {why}", reader.role),
        Ok(_) if state == "STARTING" && ago_ms("startedAt") > BEGINS_MS => {
            format!("role {} has not begun with it", reader.role)
        }
        Ok(_) => return,
    };
    let draft = found
        .add(Severity::Warning, "replay-stuck", name)
        .says(format!(
            "replay {name} of {queue} does not get on, because {why}"
        ))
        .seen(seen);
    match &reader.told {
        Err(_) => draft.then(format!(
            "systemctl restart roadcall@{}  # the replay goes on by itself",
            reader.role
        )),
        Ok(_) => draft.roadcall(&format!("replay status {name}")),
    }
}
