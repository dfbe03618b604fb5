//! The outbox: what this role has promised to publish, and which of it is known to be in a stream.
//!
//! Rows are numbered without gaps in commit order. A row counts as published while a run in `published` covers it; the
//! relay appends runs as acks come, and rewrites them when it found that the broker lost some.

use rusqlite::params;

use super::{Error, Store};

/// One message that must reach a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// Position in the outbox.
    pub n: i64,
    /// `Nats-Msg-Id`.
    pub msg_id: String,
    /// Where it goes.
    pub subject: String,
    /// Headers as `(name, value)`.
    pub headers: Vec<(String, String)>,
    /// The encoded event or letter.
    pub body: Vec<u8>,
    /// `Nats-Expected-Last-Subject-Sequence`, for letters that may only fill a gap.
    pub expected_last_subject_seq: Option<u64>,
    /// When it was committed, Unix milliseconds.
    pub created_at_ms: i64,
}

/// Consecutive outbox rows at consecutive sequences of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedRun {
    /// First outbox row of the run.
    pub first_n: i64,
    /// Last outbox row of the run.
    pub last_n: i64,
    /// The stream that holds them.
    pub stream: String,
    /// Its identity then.
    pub stream_id: i64,
    /// Stream sequence of `first_n`; that of row `n` is `first_seq + n - first_n`.
    pub first_seq: u64,
    /// The server process that acknowledged them.
    pub server_id: String,
    /// When it did, Unix milliseconds.
    pub at_ms: i64,
}

impl PublishedRun {
    /// Stream sequence of the last row.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.first_seq + (self.last_n - self.first_n).unsigned_abs()
    }
}

impl Store {
    /// Appends a message; inside a step. Returns its number.
    pub(super) fn append_outbox(
        &mut self,
        msg_id: &str,
        subject: &str,
        headers: &[(String, String)],
        body: &[u8],
        expected_last_subject_seq: Option<u64>,
        now_ms: i64,
    ) -> Result<i64, Error> {
        let n = self.counters.outbox_n + 1;
        self.run(
            "writing the outbox",
            "INSERT INTO outbox (n, msg_id, subject, headers, body, expected_last_subject_seq, created_at_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![n, msg_id, subject, join_headers(headers), body, expected_last_subject_seq.map(|seq| seq as i64), now_ms],
        )?;
        self.counters.outbox_n = n;
        Ok(n)
    }

    /// Appends a dead letter for stream `DLQ`; inside a step.
    ///
    /// # Errors
    /// A store error.
    pub fn append_letter(
        &mut self,
        msg_id: &str,
        subject: &str,
        headers: &[(String, String)],
        body: &[u8],
        only_fill_gap: bool,
        now_ms: i64,
    ) -> Result<(), Error> {
        self.append_outbox(
            msg_id,
            subject,
            headers,
            body,
            only_fill_gap.then_some(0),
            now_ms,
        )?;
        Ok(())
    }

    /// Appends what takes the place of a letter that is done with: an empty body and the header `Roadcall-Letter`
    /// (DESIGN 6); inside a step.
    ///
    /// # Errors
    /// A store error.
    pub fn retire_letter(
        &mut self,
        msg_id: &str,
        subject: &str,
        word: &str,
        now_ms: i64,
    ) -> Result<(), Error> {
        let headers = [("Roadcall-Letter".to_owned(), word.to_owned())];
        self.append_outbox(msg_id, subject, &headers, &[], None, now_ms)
            .map(|_| ())
    }

    /// Number of the newest outbox row, 0 when there never was one.
    #[must_use]
    pub fn outbox_end(&self) -> i64 {
        self.counters.outbox_n
    }

    /// Notes that rows are in a stream; inside a step. A run that directly continues the newest one is merged with it.
    ///
    /// # Errors
    /// A store error.
    pub fn mark_published(&self, run: &PublishedRun) -> Result<(), Error> {
        // Merging keeps the table small where single publishes are acked one by one, but never across a kept-tail
        // period: a merged run is pruned by the time of its first ack plus at most one second.
        let merged = self.run(
            "marking outbox rows as published",
            "UPDATE published SET last_n = ?2 WHERE first_n = (SELECT max(first_n) FROM published)
               AND last_n = ?1 - 1 AND stream = ?3 AND stream_id = ?4 AND first_seq + (?1 - first_n) = ?5
               AND server_id = ?6 AND at_ms >= ?7 - 1000",
            params![
                run.first_n,
                run.last_n,
                run.stream,
                run.stream_id,
                run.first_seq as i64,
                run.server_id,
                run.at_ms
            ],
        )?;
        if merged == 0 {
            self.insert_run(run)?;
        }
        Ok(())
    }

    fn insert_run(&self, run: &PublishedRun) -> Result<(), Error> {
        self.run(
            "marking outbox rows as published",
            "INSERT OR REPLACE INTO published (first_n, last_n, stream, stream_id, first_seq, server_id, at_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                run.first_n,
                run.last_n,
                run.stream,
                run.stream_id,
                run.first_seq as i64,
                run.server_id,
                run.at_ms
            ],
        )?;
        Ok(())
    }

    /// Replaces all that is known of publication by what a verification found; inside a step.
    ///
    /// # Errors
    /// A store error.
    pub fn rewrite_published(&self, runs: &[PublishedRun]) -> Result<(), Error> {
        self.run("rewriting what is published", "DELETE FROM published", ())?;
        runs.iter().try_for_each(|run| self.insert_run(run))
    }

    /// Deletes rows that `server_id` acknowledged before `before_ms`; inside a step. The newest run stays as a bookmark,
    /// and so does everything behind a run that is too young, so the kept tail has no holes.
    ///
    /// # Errors
    /// A store error.
    pub fn prune_outbox(&self, server_id: &str, before_ms: i64) -> Result<usize, Error> {
        let runs = self.rows(
            "pruning the outbox",
            "SELECT first_n, last_n, server_id, at_ms FROM published ORDER BY first_n",
            (),
            |row| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, i64>(1)?,
                    row.get::<_, String>(2)?,
                    row.get::<_, i64>(3)?,
                ))
            },
        )?;
        let first: Option<i64> = self
            .value("pruning the outbox", "SELECT min(n) FROM outbox", ())?
            .flatten();
        let Some(mut next_n) = first else {
            return Ok(0);
        };
        let mut keep_from = None;
        for (index, (first_n, last_n, server, at_ms)) in runs.iter().enumerate() {
            let newest = index + 1 == runs.len();
            let hole_before = *first_n > next_n;
            if newest || hole_before || server != server_id || *at_ms >= before_ms {
                keep_from = Some(next_n.min(*first_n));
                break;
            }
            next_n = last_n + 1;
        }
        let Some(keep_from) = keep_from else {
            return Ok(0);
        };
        self.run(
            "pruning the outbox",
            "DELETE FROM published WHERE last_n < ?1",
            params![keep_from],
        )?;
        self.run(
            "pruning the outbox",
            "DELETE FROM outbox WHERE n < ?1",
            params![keep_from],
        )
    }
}

/// Header lines as stored. Values never hold a line break: NATS forbids it and the codec refuses it.
pub(super) fn join_headers(headers: &[(String, String)]) -> String {
    let mut text = String::with_capacity(
        headers
            .iter()
            .map(|(name, value)| name.len() + value.len() + 2)
            .sum(),
    );
    for (name, value) in headers {
        text.push_str(name);
        text.push(':');
        text.push_str(value);
        text.push('\n');
    }
    text
}

pub(super) fn split_headers(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
