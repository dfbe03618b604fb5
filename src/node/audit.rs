//! The proof of promise 3: for each queue every sequence of the archive ends in exactly one outcome. The archive says what the
//! queue was to get, the role what became of it, and the server what it still owes.

use serde::Serialize;

use super::inquiry::{Error, Inquiry};
use super::status::Wanted;
use crate::bus::{Bus, EVENTS, QueueState, Stored, StreamState};
use crate::event::decode;
use crate::role::RoleName;
use crate::routing::filter;

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
    let filters = bus.queue_info(queue).await?.filters;
    let mut next = from;
    while next <= to {
        let page = bus.read(EVENTS, "roadcall.>", next, PAGE, false).await?;
        let Some(last) = page.last() else { break };
        next = last.seq + 1;
        let of_queue = |stored: &&Stored| {
            stored.seq <= to
                && filters
                    .iter()
                    .any(|one| filter::matches(one, &stored.subject))
        };
        let offered: Vec<(u64, Wanted)> = page
            .iter()
            .filter(of_queue)
            .map(|stored| (stored.seq, wanted(stored, &stream)))
            .collect();
        // Asked before the role: what moves on between the two looks has an outcome in the second.
        let owed = bus.queue(queue).await?;
        let asked = offered.iter().map(|(_, wanted)| *wanted).collect();
        let told = match inquiry.outcomes(role, asked).await? {
            Ok((told, _)) => told,
            Err(why) => return Ok(Some(Err(why))),
        };
        for ((seq, _), outcome) in offered.iter().zip(told) {
            account.count(*seq, outcome.as_deref(), &owed);
        }
    }
    Ok(Some(Ok(account)))
}

/// By id where there is one, else by its place.
fn wanted(stored: &Stored, stream: &StreamState) -> Wanted {
    let content_type = stored.headers.get("Content-Type");
    match decode(&stored.subject, content_type, &stored.body) {
        Ok(event) => Wanted::Event { event_id: event.id },
        Err(_) => Wanted::Place {
            stream: stream.identity.0,
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
