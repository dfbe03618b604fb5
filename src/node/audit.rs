//! The proof of promise 3: for each queue every sequence of the archive ends in exactly one outcome. The archive says what the
//! queue was to get, the role what became of it, and the server what it still owes.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

use super::filters;
use super::inquiry::{Error, Inquiry};
use super::status::Wanted;
use crate::bus::jetstream::JetStream;
use crate::bus::{Bus, EVENTS, QueueState, Stored};
use crate::event::decode;
use crate::role::RoleName;
use crate::role::audit::job::{Era, REPLAYS};

/// Messages in one read, and questions at once.
const PAGE: usize = 1000;
/// Sequences that are spelt out at the most.
const NAMED_MAX: usize = 100;

/// A queue's account of a range of sequences.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// The queue.
    pub queue: String,
    /// First sequence.
    pub from_seq: u64,
    /// Last sequence, inclusive.
    pub to_seq: u64,
    /// Handled.
    pub done: u64,
    /// Too old by their rule.
    pub expired: u64,
    /// Given up, with a letter.
    pub dead: u64,
    /// Not for the queue by what the role decides.
    pub filtered: u64,
    /// Not delivered yet, in hand, or waiting in the role.
    pub pending: u64,
    /// None of these: nobody knows what became of them.
    pub unaccounted: u64,
    /// The first of those.
    pub unaccounted_seqs: Vec<u64>,
    /// All of those.
    #[serde(skip)]
    pub forgotten: Vec<u64>,
}

/// The account of `role`'s queue; the inner error says why it can't be given.
///
/// # Errors
/// The broker failed, or whoever asks may not.
pub async fn account(
    inquiry: &Inquiry,
    role: RoleName,
    bounds: (Option<u64>, Option<u64>),
) -> Result<Option<Result<Account, String>>, Error> {
    let Some(queue) = role.queue() else {
        return Ok(None);
    };
    let bus = &inquiry.bus;
    let stream = bus.stream(EVENTS).await?;
    let (from, to) = (
        bounds.0.unwrap_or(stream.first_seq).max(1),
        bounds.1.unwrap_or(stream.last_seq).min(stream.last_seq),
    );
    let mut account = Account {
        queue: queue.to_owned(),
        from_seq: from,
        to_seq: to,
        ..Account::default()
    };
    let owes = Owes::of(bus, queue, stream.identity.0).await?;
    let mut next = from;
    while next <= to {
        let page = bus.read(EVENTS, "roadcall.>", next, PAGE, false).await?;
        let Some(last) = page.last() else { break };
        next = last.seq + 1;
        let of_queue =
            |stored: &&Stored| stored.seq <= to && owes.to_offer(stored.seq, &stored.subject);
        let offered: Vec<(u64, Wanted)> = page
            .iter()
            .filter(of_queue)
            .map(|stored| (stored.seq, wanted(stored, stream.identity.0)))
            .collect();
        let filling: BTreeSet<u64> = page
            .iter()
            .filter(|stored| owes.is_filling(stored.seq, &stored.subject))
            .map(|stored| stored.seq)
            .collect();
        // Asked before the role: what moves on between the two looks has an outcome in the second.
        let owed = bus.queue(queue).await?;
        let asked = offered.iter().map(|(_, wanted)| *wanted).collect();
        let told = match inquiry.outcomes(role, asked).await? {
            Ok((told, _)) => told,
            Err(why) => return Ok(Some(Err(why))),
        };
        for ((seq, _), outcome) in offered.iter().zip(told) {
            let outcome = outcome.as_deref();
            let outcome = outcome.or(filling.contains(seq).then_some("filling"));
            account.count(*seq, outcome, &owed);
        }
    }
    Ok(Some(Ok(account)))
}

/// What a queue was to get, by the filters in force for each sequence (DESIGN 6) and by its fill replays.
struct Owes {
    eras: Vec<Era>,
    /// The fill replays that have not ended: whose era each is, and its last sequence; `None` where that is not fixed yet.
    filling: Vec<(usize, Option<u64>)>,
}

impl Owes {
    async fn of(bus: &JetStream, queue: &str, stream: i64) -> Result<Self, Error> {
        let Some(log) = filters::read(bus, queue, stream).await? else {
            // A queue from before there was a log took always what it takes, as far as anybody knows.
            let era = Era {
                from_seq: 1,
                filters: bus.queue_info(queue).await?.filters,
                filled_to: None,
            };
            return Ok(Self {
                eras: vec![era],
                filling: Vec::new(),
            });
        };
        let (mut eras, mut filling) = (log.eras(false), Vec::new());
        for (n, (era, entry)) in eras.iter_mut().zip(&log.entries).enumerate() {
            let Some(fill) = &entry.fill else { continue };
            let key = format!("progress.{}", fill.job);
            let told = bus.kv_get(REPLAYS, &key).await?;
            let told = told.and_then(|told| serde_json::from_slice::<Value>(&told).ok());
            let state = told.as_ref().and_then(|told| told["state"].as_str());
            match state {
                Some("COMPLETED" | "FAILED") => {}
                // Somebody decided that the queue does not get them.
                Some("CANCELLED") => era.filled_to = None,
                _ => filling.push((n, fill.to_seq)),
            }
        }
        Ok(Self { eras, filling })
    }

    fn to_offer(&self, seq: u64, subject: &str) -> bool {
        filters::offered(&self.eras, seq, subject) || self.is_filling(seq, subject)
    }

    fn is_filling(&self, seq: u64, subject: &str) -> bool {
        self.filling.iter().any(|(n, to)| {
            to.is_none_or(|to| seq <= to)
                && filters::passes(&self.eras[*n].filters, subject)
                && !filters::offered(&self.eras[..*n], seq, subject)
        })
    }
}

/// By id where there is one, else by its place.
pub(super) fn wanted(stored: &Stored, stream: i64) -> Wanted {
    let content_type = stored.headers.get("Content-Type");
    match decode(&stored.subject, content_type, &stored.body) {
        Ok(event) => Wanted::Event { event_id: event.id },
        Err(_) => Wanted::Place {
            stream,
            seq: stored.seq,
        },
    }
}

impl Account {
    fn count(&mut self, seq: u64, outcome: Option<&str>, owed: &QueueState) {
        match outcome {
            Some("done") => self.done += 1,
            Some("expired") => self.expired += 1,
            Some("dead") => self.dead += 1,
            Some("filtered") => self.filtered += 1,
            Some(_) => self.pending += 1,
            None if is_owed(seq, owed) => self.pending += 1,
            None => {
                self.unaccounted += 1;
                self.forgotten.push(seq);
                if self.unaccounted_seqs.len() < NAMED_MAX {
                    self.unaccounted_seqs.push(seq);
                }
            }
        }
    }
}

/// Whether the server may still hand it out. Of what was delivered it only says how many are not acknowledged.
fn is_owed(seq: u64, owed: &QueueState) -> bool {
    seq > owed.delivered_seq || (owed.ack_pending > 0 && seq > owed.ack_floor_seq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_delivered_and_is_in_nobodys_hands_must_have_an_outcome() {
        let mut owed = QueueState {
            delivered_seq: 10,
            ack_floor_seq: 4,
            ack_pending: 1,
            pending: 0,
        };
        let owes = |seq, owed: &QueueState| is_owed(seq, owed);
        assert!(owes(11, &owed) && owes(5, &owed) && !owes(4, &owed));
        owed.ack_pending = 0;
        assert!(owes(11, &owed) && !owes(5, &owed));
        let mut account = Account::default();
        for (seq, outcome) in [
            (1, Some("done")),
            (2, None),
            (3, Some("waiting")),
            (12, None),
        ] {
            account.count(seq, outcome, &owed);
        }
        assert_eq!(
            (account.done, account.unaccounted, account.pending),
            (1, 1, 2)
        );
        assert_eq!(account.unaccounted_seqs, [2]);
    }
}
