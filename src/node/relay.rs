//! The relay: brings the outbox to the broker, in order, and proves that it stays there.
//!
//! It reads the outbox through its own read-only connection and reports what it learned as [`Work`] for the writer; the
//! table is the truth and a wake-up only a hint. It verifies by the archive itself, not by memory: before it sends
//! anything after a start, a failure or a change of server it reads what its role has in the stream and compares ids, so
//! an ack that was lost causes no second copy however late, and what a rolled-back broker lost is sent again.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::path::Path;

use bytes::Bytes;

use super::engine::Work;
use crate::bus::{
    self, Bus, EVENTS, Headers, Outgoing, PubAck, Stored, StreamState,
    stream_of_subject as stream_of,
};
use crate::event::Ts;
use crate::store::{self, OutboxRow, PublishedRun, Reader};

/// Outbox rows published in one pass: many, because the connection falls idle from one pass to the next.
const PASS_ROWS_MAX: usize = 4096;
/// Rows read at a time: few, because what is on its way meanwhile has to be answered too.
const READ_ROWS: usize = 256;
/// Bytes of bodies in one pass, give or take one reading.
const PASS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Stored messages read at a time while verifying.
const VERIFY_ROWS: usize = 4096;

/// Why a pass could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker did not take or answer something.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// The outbox could not be read.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// What a pass did.
#[derive(Debug, Default)]
pub struct Pass {
    /// For the writer, in this order.
    pub work: Vec<Work>,
    /// Rows published in this pass.
    pub published: usize,
    /// Rows that were in a stream once, were gone, and are sent again.
    pub lost: Option<RangeInclusive<i64>>,
    /// Whether there is more to do at once.
    pub more: bool,
    /// Why it stopped early; the next pass verifies first.
    pub stopped: Option<bus::Error>,
}

/// Where the broker stood when the relay last looked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    epoch: u64,
    events: StreamState,
}

/// Publishes one role's outbox.
#[derive(Debug)]
pub struct Relay<B> {
    bus: B,
    reader: Reader,
    /// Row numbers to send before `next_n`: found missing by a verification.
    again: VecDeque<i64>,
    /// First row that was never sent by this relay.
    next_n: i64,
    /// Rows from `next_n` on that were read while the ones before them were on their way.
    ahead: Vec<OutboxRow>,
    /// `None` until a verification succeeded, and after each failure.
    verified: Option<Seen>,
}

impl<B: Bus> Relay<B> {
    /// A relay for the role whose database is at `path`.
    ///
    /// # Errors
    /// A store error.
    pub fn new(bus: B, path: &Path) -> Result<Self, store::Error> {
        Ok(Self {
            bus,
            reader: Reader::open(path)?,
            again: VecDeque::new(),
            next_n: 1,
            ahead: Vec::new(),
            verified: None,
        })
    }

    /// Publishes what is there, up to a bounded number of rows; verifies first where that is due.
    ///
    /// # Errors
    /// The broker can't be asked, or the outbox can't be read. Nothing is lost: the next pass starts over.
    pub async fn pass(&mut self, now: Ts) -> Result<Pass, Error> {
        let mut pass = Pass::default();
        if self
            .verified
            .as_ref()
            .is_none_or(|seen| seen.epoch != self.bus.connection_epoch())
        {
            self.verify(now, &mut pass).await?;
        }
        let rows = self.next_rows()?;
        let Some(last_n) = rows.last().map(|row| row.n) else {
            return Ok(pass);
        };
        let Some(seen) = self.verified.clone() else {
            return Ok(pass);
        };
        let backlog = self.again.is_empty() && rows.len() >= READ_ROWS;
        pass.more = backlog || !self.again.is_empty();
        let places: Vec<Place> = rows.iter().map(Place::of).collect();
        let publish = self.bus.publish(rows.into_iter().map(outgoing).collect());
        // Polled second: the next rows are read while the broker is at work on these.
        let read = async {
            match backlog {
                true => self.read_from(last_n + 1).await,
                false => Ok(Vec::new()),
            }
        };
        let (published, ahead) = futures::future::join(publish, read).await;
        pass.published = published.acks.len();
        let mut runs = Vec::new();
        for (place, ack) in places.iter().zip(&published.acks) {
            extend(&mut runs, *place, ack, &seen, now);
            if self.again.front() == Some(&place.n) {
                self.again.pop_front();
            } else {
                self.next_n = place.n + 1;
            }
        }
        if !runs.is_empty() {
            pass.work.push(Work::Published(runs));
        }
        match published.stopped {
            Some(error) => {
                // Some of the rest may be in the stream without our knowing: look before sending again.
                self.verified = None;
                pass.stopped = Some(error);
            }
            None => self.ahead = ahead?,
        }
        Ok(pass)
    }

    /// Rows from `n` on, as many as fit a pass; lets others go on between readings.
    async fn read_from(&self, mut n: i64) -> Result<Vec<OutboxRow>, store::Error> {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while rows.len() < PASS_ROWS_MAX && bytes < PASS_BYTES_MAX {
            let read = self.reader.outbox(n, i64::MAX, READ_ROWS)?;
            let (end, last) = (read.len() < READ_ROWS, read.last().map(|row| row.n));
            bytes += read.iter().map(|row| row.body.len()).sum::<usize>();
            rows.extend(read);
            match last {
                Some(last) if !end => n = last + 1,
                _ => break,
            }
            tokio::task::yield_now().await;
        }
        Ok(rows)
    }

    fn next_rows(&mut self) -> Result<Vec<OutboxRow>, store::Error> {
        let ahead = std::mem::take(&mut self.ahead);
        if let (Some(&first), Some(&last)) = (self.again.front(), self.again.back()) {
            let rows = self.reader.outbox(first, last, PASS_ROWS_MAX)?;
            let wanted: std::collections::HashSet<i64> = self.again.iter().copied().collect();
            return Ok(rows
                .into_iter()
                .filter(|row| wanted.contains(&row.n))
                .collect());
        }
        if ahead.first().is_some_and(|row| row.n == self.next_n) {
            return Ok(ahead);
        }
        self.reader.outbox(self.next_n, i64::MAX, READ_ROWS)
    }

    /// Compares the kept outbox with the archive. What is there is marked, what is not is sent again.
    async fn verify(&mut self, now: Ts, pass: &mut Pass) -> Result<(), Error> {
        let epoch = self.bus.connection_epoch();
        let events = self.bus.stream(EVENTS).await?;
        let kept = self.reader.outbox_ids()?;
        let runs = self.reader.published()?;
        let Some((first_n, ..)) = kept.first() else {
            self.next_n = self.next_n.max(runs.last().map_or(1, |run| run.last_n + 1));
            self.again.clear();
            self.verified = Some(Seen { epoch, events });
            return Ok(());
        };
        let found = self.find(*first_n, &kept, &runs, &events).await?;
        let seen = Seen { epoch, events };
        let was_published = |n: i64| runs.iter().any(|run| run.first_n <= n && n <= run.last_n);
        let mut rewritten: Vec<PublishedRun> = Vec::new();
        let mut missing = VecDeque::new();
        for (n, msg_id, subject) in &kept {
            match found.get(msg_id.as_str()) {
                Some((stream, seq)) => {
                    debug_assert_eq!(stream_of(subject), *stream);
                    let place = Place { n: *n, stream };
                    let ack = PubAck {
                        seq: *seq,
                        duplicate: true,
                    };
                    extend(&mut rewritten, place, &ack, &seen, now);
                }
                None => missing.push_back(*n),
            }
        }
        let lost: Vec<i64> = missing
            .iter()
            .copied()
            .filter(|n| was_published(*n))
            .collect();
        if let (Some(first), Some(last)) = (lost.first(), lost.last()) {
            tracing::warn!(
                first_n = first,
                last_n = last,
                count = lost.len(),
                "the broker lost published messages, they are sent again"
            );
            pass.lost = Some(*first..=*last);
        }
        if rewritten.is_empty() {
            // Keeps the bookmark of what was published before the kept tail.
            rewritten.extend(runs.into_iter().rfind(|run| run.last_n < *first_n));
        }
        // Behind the last one that is there nothing was ever sent, or all of it is gone: the relay goes on from there.
        self.next_n = rewritten.last().map_or(*first_n, |run| run.last_n + 1);
        missing.retain(|n| *n < self.next_n);
        self.again = missing;
        self.ahead.clear();
        self.verified = Some(seen);
        pass.work.push(Work::Verified(rewritten));
        Ok(())
    }

    /// Where each kept message is now, by message id.
    async fn find<'k>(
        &self,
        first_n: i64,
        kept: &'k [(i64, String, String)],
        runs: &[PublishedRun],
        events: &StreamState,
    ) -> Result<HashMap<&'k str, (&'static str, u64)>, Error> {
        let wanted: HashMap<&str, &'k str> = kept
            .iter()
            .map(|(_, id, _)| (id.as_str(), id.as_str()))
            .collect();
        let mut found = HashMap::new();
        let from = self.scan_start(first_n, kept, runs, events).await?;
        for filter in filters(kept) {
            self.scan(EVENTS, &filter, from, &wanted, &mut found)
                .await?;
        }
        self.find_replaceable(kept, runs, &mut found).await?;
        Ok(found)
    }

    /// The same for letters and jobs, of which a later one takes the place of an earlier one of its subject: the earlier
    /// is as good as there then.
    async fn find_replaceable<'k>(
        &self,
        kept: &'k [(i64, String, String)],
        runs: &[PublishedRun],
        found: &mut HashMap<&'k str, (&'static str, u64)>,
    ) -> Result<(), Error> {
        let mut later: HashMap<&str, u64> = HashMap::new();
        for (n, msg_id, subject) in kept.iter().rev() {
            let stream = stream_of(subject);
            if stream == EVENTS {
                continue;
            }
            if let Some(seq) = later.get(subject.as_str()) {
                found.insert(msg_id, (stream, *seq));
                continue;
            }
            let stored = self.bus.read(stream, subject, 1, 16, true).await?;
            let is_it = |stored: &&Stored| stored.headers.get("Nats-Msg-Id") == Some(msg_id);
            let run = runs
                .iter()
                .find(|run| run.stream == stream && run.first_n <= *n && *n <= run.last_n);
            let was_at = run.map(|run| run.first_seq + (n - run.first_n).unsigned_abs());
            // Somebody else's, behind where ours was: a letter that was purged must not come back.
            let behind = |stored: &&Stored| was_at.is_some_and(|seq| stored.seq > seq);
            let there = stored.iter().find(is_it).or(stored.iter().find(behind));
            if let Some(stored) = there {
                later.insert(subject, stored.seq);
                found.insert(msg_id, (stream, stored.seq));
            }
        }
        Ok(())
    }

    /// Where in the archive the kept tail can begin: at the oldest message known of it, if that one is still where it
    /// was. A rolled-back or recreated archive is read from its first sequence.
    async fn scan_start(
        &self,
        first_n: i64,
        kept: &[(i64, String, String)],
        runs: &[PublishedRun],
        events: &StreamState,
    ) -> Result<u64, Error> {
        let of_archive =
            |run: &&PublishedRun| run.stream == EVENTS && run.stream_id == events.identity.0;
        if runs
            .iter()
            .filter(of_archive)
            .any(|run| run.last_seq() > events.last_seq)
        {
            return Ok(events.first_seq);
        }
        // The bookmark: everything kept came after it.
        if let Some(run) = runs
            .iter()
            .filter(of_archive)
            .find(|run| run.last_n < first_n)
        {
            return Ok(run.last_seq() + 1);
        }
        let Some(oldest) = runs
            .iter()
            .filter(of_archive)
            .min_by_key(|run| run.first_seq)
        else {
            return Ok(events.first_seq);
        };
        let at = oldest.first_n.max(first_n);
        let seq = oldest.first_seq + (at - oldest.first_n).unsigned_abs();
        let expected = kept
            .iter()
            .find(|(n, ..)| *n == at)
            .map(|(_, id, _)| id.as_str());
        let stored = self.bus.read(EVENTS, "roadcall.>", seq, 1, true).await?;
        let intact = stored.first().is_some_and(|message| {
            message.seq == seq && message.headers.get("Nats-Msg-Id") == expected
        });
        Ok(if intact { seq } else { events.first_seq })
    }

    async fn scan<'k>(
        &self,
        stream: &'static str,
        filter: &str,
        mut from: u64,
        wanted: &HashMap<&str, &'k str>,
        found: &mut HashMap<&'k str, (&'static str, u64)>,
    ) -> Result<(), Error> {
        loop {
            let stored = self
                .bus
                .read(stream, filter, from.max(1), VERIFY_ROWS, true)
                .await?;
            let Some(last) = stored.last() else {
                return Ok(());
            };
            from = last.seq + 1;
            for message in &stored {
                if let Some(id) = message
                    .headers
                    .get("Nats-Msg-Id")
                    .and_then(|id| wanted.get(id))
                {
                    found.entry(id).or_insert((stream, message.seq));
                }
            }
        }
    }

    /// The server process that acknowledged last, for [`Work::Settled`].
    #[must_use]
    pub fn server_id(&self) -> Option<&str> {
        self.verified
            .as_ref()
            .map(|seen| seen.events.server_id.as_str())
    }
}

/// Where in the archive the kept events can be: under the services that they name. Not under the role's own alone, for every
/// role tells of its letters as `roadcall.ops`, and the audit role publishes what others give it.
fn filters(kept: &[(i64, String, String)]) -> BTreeSet<String> {
    kept.iter()
        .filter(|(.., subject)| stream_of(subject) == EVENTS)
        .map(|(.., subject)| {
            let service: Vec<&str> = subject.split('.').take(3).collect();
            format!("{}.>", service.join("."))
        })
        .collect()
}

fn outgoing(row: OutboxRow) -> Outgoing {
    Outgoing {
        subject: row.subject,
        headers: Headers(row.headers),
        body: Bytes::from(row.body),
        msg_id: row.msg_id,
        expected_last_subject_seq: row.expected_last_subject_seq,
    }
}

/// Which row, and where it goes.
#[derive(Debug, Clone, Copy)]
struct Place {
    n: i64,
    stream: &'static str,
}

impl Place {
    fn of(row: &OutboxRow) -> Self {
        Self {
            n: row.n,
            stream: stream_of(&row.subject),
        }
    }
}

/// Adds an acknowledged row to the runs: to the last one where both numbers go on by one, else as a new one.
fn extend(runs: &mut Vec<PublishedRun>, place: Place, ack: &PubAck, seen: &Seen, now: Ts) {
    if let Some(run) = runs.last_mut()
        && run.last_n + 1 == place.n
        && run.last_seq() + 1 == ack.seq
        && run.stream == place.stream
    {
        run.last_n = place.n;
        return;
    }
    runs.push(PublishedRun {
        first_n: place.n,
        last_n: place.n,
        stream: place.stream.to_owned(),
        stream_id: seen.events.identity.0,
        first_seq: ack.seq,
        server_id: seen.events.server_id.clone(),
        at_ms: now.ms(),
    });
}
