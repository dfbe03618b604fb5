//! What each queue takes, and took: the log of a queue's filters in KV `TOPOLOGY`, and changing them (DESIGN 6).
//!
//! A consumer whose filters grow goes on behind what it delivered; what only the new filters take is not offered by itself
//! (BROKER 4). So a widened queue gets a fill replay of its own. In order: the log says what is going to be, the server
//! changes the consumer, then the archive's end is read, the job is written with it as its end, and the log says so. Whatever
//! arrives after that end came after the change, so the queue offers it. What arrived before and the queue offers as well is
//! one event in the role's inbox, whoever comes first; the job lets the queue go first ([`passed`]), for an event that is
//! offered counts as live and a replayed one does not. A death in between leaves a log without the job's end: the next
//! `topology apply` goes on there.

use serde::{Deserialize, Serialize};

use crate::bus::jetstream::JetStream;
use crate::bus::jetstream::queue_info::QueueInfo;
use crate::bus::topology::{self, Change, Desired, QueueSpec};
use crate::bus::{Bus, EVENTS, Error, QueueState, TOPOLOGY_BUCKET};
use crate::event::{Actor, Key, ReplayMode, Ts, ids};
use crate::role::audit::job::{Era, Job, Kind, REPLAYS};
use crate::routing::filter;

/// What stands under `filters.<queue>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FilterLog {
    /// Identity of the stream that the sequences belong to.
    pub stream: i64,
    /// Last sequence of the archive when the queue was made: what it offers up to there is handled as a fill replay is.
    pub made_at_seq: u64,
    /// Oldest first; never empty.
    pub entries: Vec<Entry>,
}

/// One set of filters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// First sequence that they decide about.
    pub from_seq: u64,
    /// Subject filters.
    pub filters: Vec<String>,
    /// Digest of the rules that they come from; empty where they were found on the server.
    pub rules: String,
    /// Since when.
    pub since: Ts,
    /// The replay of what was never offered, where they let more through than those before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill: Option<Fill>,
}

/// The fill replay of a widened queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fill {
    /// The job's name.
    pub job: Key,
    /// Its last sequence; `None` as long as the job is not written.
    pub to_seq: Option<u64>,
}

impl FilterLog {
    /// The entries as a job has them, all or only those before the last.
    #[must_use]
    pub fn eras(&self, before_last: bool) -> Vec<Era> {
        let count = self.entries.len() - usize::from(before_last);
        let era = |entry: &Entry| Era {
            from_seq: entry.from_seq,
            filters: entry.filters.clone(),
            filled_to: entry.fill.as_ref().and_then(|fill| fill.to_seq),
        };
        self.entries[..count].iter().map(era).collect()
    }

    /// The fill replay that is announced and not written.
    fn open_fill(&self) -> Option<(&Entry, &Fill)> {
        let last = self.entries.last()?;
        let fill = last.fill.as_ref().filter(|fill| fill.to_seq.is_none())?;
        Some((last, fill))
    }
}

/// Whether one of `filters` lets `subject` through.
#[must_use]
pub fn passes(filters: &[String], subject: &str) -> bool {
    filters.iter().any(|one| filter::matches(one, subject))
}

/// Whether the filters in force at `seq` offered `subject` to the queue.
#[must_use]
pub fn in_force(eras: &[Era], seq: u64, subject: &str) -> bool {
    let era = eras.iter().rev().find(|era| era.from_seq <= seq);
    era.is_some_and(|era| passes(&era.filters, subject))
}

/// Whether the queue got `subject` at `seq`, from the filters in force or by a fill replay.
#[must_use]
pub fn offered(eras: &[Era], seq: u64, subject: &str) -> bool {
    let filled =
        |era: &Era| era.filled_to.is_some_and(|to| seq <= to) && passes(&era.filters, subject);
    in_force(eras, seq, subject) || eras.iter().any(filled)
}

/// Whether the queue has brought home everything up to `seq`.
#[must_use]
pub fn passed(state: &QueueState, seq: u64) -> bool {
    let delivered = state.delivered_seq >= seq || state.pending == 0;
    delivered && (state.ack_pending == 0 || state.ack_floor_seq >= seq)
}

/// Whether two sets of filters are the same.
#[must_use]
pub fn same(one: &[String], other: &[String]) -> bool {
    one.len() == other.len() && one.iter().all(|filter| other.contains(filter))
}

fn key(queue: &str) -> String {
    format!("filters.{queue}")
}

/// The log of `queue`; `None` where it has none, or one of another stream than the present one.
///
/// # Errors
/// Any bus error, also for a log that can't be read.
pub async fn read(bus: &JetStream, queue: &str, stream: i64) -> Result<Option<FilterLog>, Error> {
    let value = match bus.kv_get(TOPOLOGY_BUCKET, &key(queue)).await {
        Ok(Some(value)) => value,
        // Before the topology is applied there is no bucket either.
        Ok(None) | Err(Error::Missing(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let log: FilterLog = serde_json::from_slice(&value).map_err(|error| {
        let key = key(queue);
        Error::Unsuitable(format!(
            "{key} in bucket {TOPOLOGY_BUCKET} can't be read: {error}"
        ))
    })?;
    Ok(Some(log).filter(|log| log.stream == stream && !log.entries.is_empty()))
}

async fn write(bus: &JetStream, queue: &str, log: &FilterLog) -> Result<(), Error> {
    let value = serde_json::to_vec(log).map_err(|error| Error::Unsuitable(error.to_string()))?;
    bus.kv_put(TOPOLOGY_BUCKET, &key(queue), value).await
}

async fn find(bus: &JetStream, queue: &str) -> Result<Option<QueueInfo>, Error> {
    match bus.queue_info(queue).await {
        Ok(info) => Ok(Some(info)),
        Err(Error::Missing(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What differs, fill replays that were announced and never written included, those first.
///
/// # Errors
/// The broker can't be asked.
pub async fn plan(bus: &JetStream, desired: &Desired) -> Result<Vec<Change>, Error> {
    let changes = topology::plan(bus, desired).await?;
    if changes.iter().any(|change| change.object == EVENTS) {
        return Ok(changes);
    }
    let stream = bus.stream(EVENTS).await?.identity.0;
    let mut all = Vec::new();
    for queue in &desired.queues {
        let log = read(bus, &queue.name, stream).await?;
        let Some((open, _)) = log.as_ref().and_then(FilterLog::open_fill) else {
            continue;
        };
        // Where the server never got the new filters nothing was widened yet; the consumer's own change says so.
        let info = find(bus, &queue.name).await?;
        if info.is_some_and(|info| same(&info.filters, &open.filters)) {
            all.push(Change::not_filled(&queue.name));
        }
    }
    all.extend(changes);
    Ok(all)
}

/// Carries a change of [`plan`] out, with the log and the fill replay that belong to it.
///
/// # Errors
/// The server's refusal, or any bus error: what is done stays done, and planning again tells the rest.
pub async fn apply(
    bus: &JetStream,
    desired: &Desired,
    change: &Change,
    by: &Actor,
    now: Ts,
) -> Result<(), Error> {
    let wanted = desired
        .queues
        .iter()
        .find(|queue| queue.name == change.object);
    let Some(wanted) = wanted.filter(|_| change.kind != "stream" && change.kind != "bucket") else {
        return topology::apply(bus, change).await;
    };
    if change.kind == "fill" {
        return fill(bus, &wanted.name, by, now).await;
    }
    announce(bus, wanted, now).await?;
    topology::apply(bus, change).await?;
    fill(bus, &wanted.name, by, now).await
}

/// Writes down what `wanted` is going to take.
async fn announce(bus: &JetStream, wanted: &QueueSpec, now: Ts) -> Result<(), Error> {
    let state = bus.stream(EVENTS).await?;
    let stream = state.identity.0;
    let log = read(bus, &wanted.name, stream).await?;
    let Some(info) = find(bus, &wanted.name).await? else {
        // A queue that was there before, and is made anew, offers its events live again: the inbox knows what was done.
        let log = FilterLog {
            stream,
            made_at_seq: log.map_or(state.last_seq, |log| log.made_at_seq),
            entries: vec![entry(1, wanted, None, now)],
        };
        return write(bus, &wanted.name, &log).await;
    };
    // A queue from before there was a log: what it takes is what it always took, as far as anybody knows.
    let mut log = log.unwrap_or_else(|| FilterLog {
        stream,
        made_at_seq: 0,
        entries: vec![Entry {
            from_seq: 1,
            filters: info.filters.clone(),
            rules: String::new(),
            since: now,
            fill: None,
        }],
    });
    let never_there = |(last, _): (&Entry, &Fill)| !same(&last.filters, &info.filters);
    if log.open_fill().is_some_and(never_there) {
        log.entries.pop();
    }
    let news = |filter: &&String| !info.filters.iter().any(|old| filter::contains(old, filter));
    if !same(&info.filters, &wanted.filters) {
        let fill = match wanted.filters.iter().find(news) {
            None => None,
            Some(_) => Some(Fill {
                job: job_name(&wanted.name, &log, now)?,
                to_seq: None,
            }),
        };
        let from_seq = info.state.delivered_seq + 1;
        log.entries.push(entry(from_seq, wanted, fill, now));
    }
    write(bus, &wanted.name, &log).await
}

fn entry(from_seq: u64, wanted: &QueueSpec, fill: Option<Fill>, since: Ts) -> Entry {
    Entry {
        from_seq,
        filters: wanted.filters.clone(),
        rules: wanted.rules.clone(),
        since,
        fill,
    }
}

fn job_name(queue: &str, log: &FilterLog, now: Ts) -> Result<Key, Error> {
    let parts: [&[u8]; 4] = [
        b"fill",
        queue.as_bytes(),
        &log.stream.to_be_bytes(),
        &log.entries.len().to_be_bytes(),
    ];
    let name = format!("fill-{}", ids::derive_v8(now.ms(), &parts).short());
    Key::new(name).map_err(|error| Error::Unsuitable(error.to_string()))
}

/// Writes the job that is announced, if one is, and its end into the log.
async fn fill(bus: &JetStream, queue: &str, by: &Actor, now: Ts) -> Result<(), Error> {
    // Read behind the change of the consumer: everything later is the queue's.
    let state = bus.stream(EVENTS).await?;
    let Some(mut log) = read(bus, queue, state.identity.0).await? else {
        return Ok(());
    };
    let Some((_, open)) = log.open_fill() else {
        return Ok(());
    };
    let mut job = Job {
        name: open.job.clone(),
        queue: queue.to_owned(),
        kind: Kind::Replay,
        mode: ReplayMode::Fill,
        from_seq: Some(state.first_seq.max(1)),
        to_seq: Some(state.last_seq),
        seqs: Vec::new(),
        pattern: None,
        entity: None,
        offered: log.eras(true),
        allow_external: false,
        rate: None,
        description: Some("what the queue's filters did not take before".to_owned()),
        started_by: by.clone(),
        started_at: now,
        cancelled_by: None,
    };
    let value = serde_json::to_vec(&job).map_err(|error| Error::Unsuitable(error.to_string()))?;
    // One that an apply wrote which then died is begun perhaps, and counts.
    if let Some(there) = bus.kv_create(REPLAYS, &job.key(), value).await? {
        job = serde_json::from_slice(&there)
            .map_err(|error| Error::Unsuitable(format!("{} can't be read: {error}", job.key())))?;
    }
    if let Some(fill) = log.entries.last_mut().and_then(|last| last.fill.as_mut()) {
        fill.to_seq = job.to_seq;
    }
    write(bus, queue, &log).await
}

/// Writes a first log for queues that have none, because they are older than logs are.
///
/// # Errors
/// Any bus error.
pub async fn begin_logs(bus: &JetStream, desired: &Desired, now: Ts) -> Result<(), Error> {
    let stream = bus.stream(EVENTS).await?.identity.0;
    for queue in &desired.queues {
        if read(bus, &queue.name, stream).await?.is_some() {
            continue;
        }
        let info = find(bus, &queue.name).await?;
        if info.is_some_and(|info| same(&info.filters, &queue.filters)) {
            announce(bus, queue, now).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn era(from_seq: u64, filter: &str, filled_to: Option<u64>) -> Era {
        Era {
            from_seq,
            filters: vec![filter.to_owned()],
            filled_to,
        }
    }

    #[test]
    fn each_sequence_is_judged_by_the_filters_of_its_time() {
        let eras = [
            era(1, "roadcall.*.match.*.*", None),
            era(10, "roadcall.>", Some(12)),
            era(20, "roadcall.*.vendor.*.*", None),
        ];
        let (of_match, other) = ("roadcall.hub.match.A.k", "roadcall.hub.kb.A.k");
        let asked = [(5, of_match), (5, other), (15, other), (25, of_match)];
        assert_eq!(
            asked.map(|(seq, subject)| in_force(&eras, seq, subject)),
            [true, false, true, false]
        );
        // The fill replay brought the second one.
        assert!(offered(&eras, 5, other) && !offered(&eras, 25, other));
        assert!(!offered(&[], 5, other));
    }

    #[test]
    fn a_queue_has_passed_what_is_delivered_and_acknowledged() {
        let state = |delivered_seq, ack_floor_seq, ack_pending, pending| QueueState {
            delivered_seq,
            ack_floor_seq,
            ack_pending,
            pending,
        };
        assert!(passed(&state(3, 3, 0, 0), 9));
        assert!(passed(&state(9, 2, 0, 5), 9));
        assert!(passed(&state(12, 9, 2, 5), 9));
        assert!(!passed(&state(8, 8, 0, 1), 9));
        assert!(!passed(&state(9, 8, 1, 0), 9));
    }
}
