//! How a queue stands: the broker's numbers together with what waits in the role's database (DESIGN 4: depth).

use std::collections::BTreeSet;

use serde::Serialize;

use super::audit::wanted;
use super::engine::Counts;
use super::inquiry::{Error, Inquiry, Source};
use super::letter;
use super::status::Wanted;
use crate::bus::jetstream::JetStream;
use crate::bus::jetstream::queue_info::QueueInfo;
use crate::bus::{self, Bus, EVENTS};
use crate::event::Ts;
use crate::role::RoleName;

/// A queue. Field names are those that `roadcall queue list --json` prints.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueStanding {
    /// The queue.
    pub queue: String,
    /// The role that reads it.
    pub role: RoleName,
    /// Events without an outcome: with the broker, in hand, and waiting in the role's database. Where `waiting` is not
    /// known, those that the broker has.
    pub depth: u64,
    /// Delivered and not acknowledged.
    pub in_flight: u64,
    /// Waiting in the role's database; `None` where neither the role nor its file could be asked.
    pub waiting: Option<u64>,
    /// Who said how many wait.
    pub waiting_from: Option<Source>,
    /// How long ago the archive took the oldest event without an outcome.
    pub oldest_age_seconds: Option<u64>,
    /// Letters that are neither redriven nor purged.
    pub dead_letters: u64,
    /// Until when the broker hands nothing out.
    pub paused_until: Option<Ts>,
    /// Highest sequence delivered.
    pub delivered_seq: u64,
    /// Everything up to here is acknowledged.
    pub ack_floor_seq: u64,
    /// What the broker delivered, and what it has yet to deliver.
    #[serde(skip)]
    pub sent: u64,
    /// Why it is not known how many wait.
    #[serde(skip)]
    pub note: Option<String>,
    /// The oldest event that the broker still owes the queue.
    #[serde(skip)]
    pub oldest_open: Option<Open>,
    /// What the role counted, where it answers itself.
    #[serde(skip)]
    pub counts: Option<Counts>,
}

/// An event that the broker still owes a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Its sequence in the archive.
    pub seq: u64,
    /// How its role knows it.
    pub wanted: Wanted,
    /// When the archive took it, Unix milliseconds.
    pub received_at_ms: i64,
}

/// Looks at the queue of `role`; `None` for a role that reads none.
///
/// # Errors
/// The broker failed, or whoever asks may not.
pub async fn look(
    inquiry: &Inquiry,
    role: RoleName,
    now: Ts,
) -> Result<Option<QueueStanding>, Error> {
    let Some(queue) = role.queue() else {
        return Ok(None);
    };
    let bus = &inquiry.bus;
    let info = bus.queue_info(queue).await?;
    let letters = letter::of_queue(bus, queue).await?;
    let dead: BTreeSet<u64> = letters.iter().map(|letter| letter.seq).collect();
    let (status, source, note) = match inquiry.status(role).await? {
        Ok((status, source)) => (Some(status), Some(source), None),
        Err(why) => (None, None, Some(why)),
    };
    let oldest_open = oldest_open(bus, &info, &dead).await?;
    let waiting_since = status.as_ref().and_then(|status| status.oldest_waiting_at);
    let counts = status.as_ref().and_then(|status| status.counts);
    let oldest_ms = oldest_open
        .iter()
        .map(|open| open.received_at_ms)
        .chain(waiting_since.map(Ts::ms))
        .min();
    let waiting = status.map(|status| status.waiting);
    let state = &info.state;
    Ok(Some(QueueStanding {
        queue: queue.to_owned(),
        role,
        depth: state.pending + state.ack_pending + waiting.unwrap_or(0),
        in_flight: state.ack_pending,
        waiting,
        waiting_from: source,
        oldest_age_seconds: oldest_ms.map(|ms| (now.ms() - ms).max(0).unsigned_abs() / 1000),
        dead_letters: letters.len() as u64,
        paused_until: info.paused_until.as_deref().and_then(time),
        delivered_seq: state.delivered_seq,
        ack_floor_seq: state.ack_floor_seq,
        sent: info.deliveries + state.pending,
        note,
        oldest_open,
        counts,
    }))
}

/// The oldest event that the broker still owes the queue.
///
/// With nothing in hand that is the first one behind those delivered: the acknowledged floor stays below a delivery that
/// the server gave up until the queue is idle once (BROKER 3). Such a one has a letter and is passed over; what was done
/// behind it meanwhile looks open for as long, which makes the age too high and never too low.
async fn oldest_open(
    bus: &JetStream,
    info: &QueueInfo,
    dead: &BTreeSet<u64>,
) -> Result<Option<Open>, bus::Error> {
    let state = &info.state;
    if state.pending + state.ack_pending == 0 {
        return Ok(None);
    }
    let stream = bus.stream(EVENTS).await?.identity.0;
    let done_to = match state.ack_pending {
        0 => state.delivered_seq,
        _ => state.ack_floor_seq,
    };
    let mut oldest: Option<Open> = None;
    for filter in &info.filters {
        let mut from = done_to + 1;
        // The letters of a queue are few; each is passed over once.
        let first = loop {
            let found = bus.read(EVENTS, filter, from, 1, true).await?.pop();
            match found {
                Some(stored) if dead.contains(&stored.seq) => from = stored.seq + 1,
                other => break other,
            }
        };
        let open = first.map(|stored| Open {
            seq: stored.seq,
            wanted: Wanted::Place {
                stream,
                seq: stored.seq,
            },
            received_at_ms: stored.received_at_ms,
        });
        oldest = oldest.into_iter().chain(open).min_by_key(|open| open.seq);
    }
    // Its headers do not say its id: of this one also the body is read.
    if let Some(open) = &mut oldest {
        let found = bus.read(EVENTS, "roadcall.>", open.seq, 1, false).await?;
        let found = found.first().filter(|stored| stored.seq == open.seq);
        if let Some(stored) = found {
            open.wanted = wanted(stored, stream);
        }
    }
    Ok(oldest)
}

/// As whoever paused it wrote it, in any zone.
fn time(text: &str) -> Option<Ts> {
    let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    Some(Ts::from_ms(time.timestamp_millis()))
}
