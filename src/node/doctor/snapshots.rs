//! Snapshots of the roles' databases: none, or none with what came a while ago.

use std::collections::BTreeMap;

use super::finding::{Findings, Severity, span};
use super::roles::Asked;
use super::{Doctor, now};
use crate::bus::jetstream::JetStream;
use crate::bus::{self, Bus, EVENTS};
use crate::event::Ts;
use crate::node::inquiry::Inquiry;
use crate::node::snapshot::{self, Snapshot};

/// One that is this many spans late is not coming.
const SPANS: u32 = 3;

pub(super) async fn look(
    doctor: &Doctor<'_>,
    inquiry: &Inquiry,
    asked: &[Asked],
    found: &mut Findings,
) {
    let bus = &inquiry.bus;
    let newest = match snapshot::list(bus).await {
        Ok(all) => all,
        // The topology says that the bucket is missing.
        Err(bus::Error::Missing(_)) => return,
        Err(error) => return found.unseen("the snapshots", error),
    };
    let by_role = |one: Snapshot| (one.role, one);
    // The newest of each role is the last.
    let newest: BTreeMap<_, _> = newest.into_iter().map(by_role).collect();
    let late = doctor.config.snapshot.every.0 * SPANS;
    let late_ms = i64::try_from(late.as_millis()).unwrap_or(i64::MAX);
    for one in asked {
        match newest.get(&one.role) {
            None => none(one, late_ms, found),
            Some(newest) => match first_lacked(bus, one, newest).await {
                Ok(Some(since)) if now().ms() - since.ms() > late_ms => {
                    stale(newest, since, found);
                }
                Ok(_) => {}
                Err(error) => found.unseen(&format!("the snapshots of {}", one.role), error),
            },
        }
    }
}

fn none(one: &Asked, late_ms: i64, found: &mut Findings) {
    let Some(owner) = &one.owner else { return };
    let age_ms = now().ms() - owner.since.ms();
    if age_ms <= late_ms {
        return;
    }
    let role = one.role;
    found
        .add(Severity::Warning, "snapshot-none", role.as_str())
        .says(format!(
            "role {role} has no snapshot since it began {} ago: its database is the only copy",
            span(age_ms)
        ))
        .seen(format!("bucket {}: none of {role}", bus::SNAPSHOTS_BUCKET))
        .roadcall(&format!("snapshot create --role {role}"));
}

fn stale(newest: &Snapshot, since: Ts, found: &mut Findings) {
    let role = newest.role;
    found
        .add(Severity::Warning, "snapshot-old", role.as_str())
        .says(format!(
            "the newest snapshot of role {role} ({}, {} old) lacks what it handled since {since}",
            newest.id,
            span(now().ms() - newest.taken_at.ms())
        ))
        .seen(format!(
            "snapshot {} of {role}: position {}, taken {}",
            newest.id, newest.position, newest.taken_at
        ))
        .roadcall(&format!("snapshot create --role {role}"));
}

/// When the archive took the first event that the role has handled and the snapshot lacks. A database that did not change
/// has an old snapshot for good, so its age alone says nothing.
async fn first_lacked(
    bus: &JetStream,
    one: &Asked,
    newest: &Snapshot,
) -> Result<Option<Ts>, bus::Error> {
    let Some(queue) = &one.queue else {
        return Ok(None);
    };
    let identity = bus.stream(EVENTS).await?.identity.0;
    if identity != newest.stream || queue.ack_floor_seq <= newest.position {
        return Ok(None);
    }
    let mut first: Option<Ts> = None;
    for filter in bus.filters(&queue.queue).await? {
        let next = bus
            .read(EVENTS, &filter, newest.position + 1, 1, true)
            .await?;
        let handled = next
            .first()
            .filter(|stored| stored.seq <= queue.ack_floor_seq);
        let at = handled.map(|stored| Ts::from_ms(stored.received_at_ms));
        first = first.into_iter().chain(at).min();
    }
    Ok(first)
}
