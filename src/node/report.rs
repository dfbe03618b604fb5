//! What this site runs and holds, for `SiteReported` (DESIGN 8): the node looks, the audit role says it to others.

use std::collections::BTreeMap;

use super::inquiry::Inquiry;
use crate::bus::{self, Bus, EVENTS};
use crate::event::{ArchiveReport, List, Producer, ProducerReport, QueueReport, Source, Text};
use crate::role::RoleName;
use crate::role::audit::measures::QueueMeasure;
use crate::role::audit::sites::Report;

/// Looks at the archive and at every role that answers.
pub(super) async fn look(
    inquiry: &Inquiry,
    roles: &[RoleName],
    queues: &[(QueueMeasure, u64)],
    config_digest: &str,
) -> Result<Report, bus::Error> {
    let state = inquiry.bus.stream(EVENTS).await?;
    let (names, producers) = producers(inquiry, roles).await?;
    let queues = queues.iter().map(|(measure, depth)| QueueReport {
        queue: Text::lossy(&measure.queue),
        depth: *depth,
        oldest_age_seconds: measure.oldest_age_seconds.unwrap_or(0),
    });
    Ok(Report {
        roles: at_most_64(names),
        version: Text::lossy(env!("CARGO_PKG_VERSION")),
        config_digest: Text::lossy(config_digest),
        queues: at_most_64(queues.collect()),
        archive: ArchiveReport {
            identity: state.identity.0.unsigned_abs(),
            first_seq: state.first_seq,
            last_seq: state.last_seq,
        },
        producers: at_most_64(producers),
    })
}

/// The roles that answer, and how far each of them is.
///
/// # Errors
/// The broker.
pub(super) async fn producers(
    inquiry: &Inquiry,
    roles: &[RoleName],
) -> Result<(Vec<Text<64>>, Vec<ProducerReport>), bus::Error> {
    let held = held(inquiry).await?;
    let mut names = Vec::new();
    let mut producers = Vec::new();
    for role in roles {
        let Ok(Ok((status, _))) = inquiry.status(*role).await else {
            continue;
        };
        names.push(Text::lossy(role.as_str()));
        let Some(made) = status.made else { continue };
        let held_from = held.get(&(role.to_string(), made.epoch.clone()));
        producers.push(ProducerReport {
            role: Text::lossy(role.as_str()),
            epoch: Text::lossy(&made.epoch),
            last: made.last,
            held_from: held_from.copied().unwrap_or(0),
        });
    }
    Ok((names, producers))
}

/// A site has fewer roles than that.
fn at_most_64<T>(mut items: Vec<T>) -> List<T, 0, 64> {
    items.truncate(64);
    List::new(items).expect("cut to what it may have")
}

/// The lowest number of each role and life that the archive still has of this site's own events, as far as the first event
/// of each source shows it.
async fn held(inquiry: &Inquiry) -> Result<BTreeMap<(String, String), u64>, bus::Error> {
    let mut lowest = BTreeMap::new();
    for source in Source::ALL {
        let own = format!("roadcall.{}.{}.>", inquiry.config.site.id, source.service());
        let first = inquiry.bus.read(EVENTS, &own, 1, 1, true).await?;
        let made = first
            .first()
            .and_then(|event| Producer::of(&event.headers.0));
        if let Some(Producer { role, epoch, n }) = made {
            let known = lowest.entry((role, epoch)).or_insert(n);
            *known = n.min(*known);
        }
    }
    Ok(lowest)
}
