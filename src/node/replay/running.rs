//! A job that is being carried out: what it looks at, and how far it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use crate::bus::{AckToken, Delivery, Stored, StreamState};
use crate::event::{Ts, to_value};
use crate::node::engine::{End, Incoming, ReplayPage, Replayed, mode_of};
use crate::node::letter::{self, Letter};
use crate::role::audit::job::{Job, Kind};
use crate::routing::pattern::Pattern;
use crate::store::ReplayRow;

/// A job on its way.
pub(super) struct Running {
    pub(super) job: Arc<Job>,
    pub(super) pattern: Option<Pattern>,
    pub(super) row: ReplayRow,
    /// By sequence: the letters of the queue when the job was taken up.
    pub(super) letters: BTreeMap<u64, Arc<Letter>>,
    pub(super) told_at_ms: i64,
}

impl Running {
    /// An empty page that moves nothing.
    pub(super) fn page(&self, end: Option<End>) -> ReplayPage {
        let bounds = (self.row.from_seq, self.row.to_seq);
        page(&self.job, bounds, self.row.next_seq, end)
    }

    /// The sequences to look at, where not all within the bounds: of a redrive those that have a letter.
    pub(super) fn chosen(&self) -> Option<Vec<u64>> {
        let has_letter = |seq: &u64| self.letters.contains_key(seq);
        match (self.job.kind, self.job.seqs.is_empty()) {
            (Kind::Redrive, true) => Some(self.letters.keys().copied().collect()),
            (Kind::Redrive, false) => {
                Some(self.job.seqs.iter().copied().filter(has_letter).collect())
            }
            (Kind::Replay | Kind::Rebuild, true) => None,
            (Kind::Replay | Kind::Rebuild, false) => Some(self.job.seqs.clone()),
        }
    }

    pub(super) fn replayed(&self, stored: Stored, stream: &StreamState) -> Replayed {
        let letter = self.letters.get(&stored.seq).cloned();
        let delivery = Delivery {
            stream: stream.identity,
            seq: stored.seq,
            subject: stored.subject,
            headers: stored.headers,
            body: stored.body,
            delivered: 0,
            received_at_ms: stored.received_at_ms,
            token: AckToken::default(),
        };
        Replayed {
            incoming: Incoming::new(delivery, mode_of(&self.job)),
            letter,
        }
    }

    pub(super) fn wants(&self, replayed: &Replayed) -> bool {
        let delivery = &replayed.incoming.delivery;
        if let Some(entity) = &self.job.entity
            && letter::entity_token(&delivery.subject) != entity.as_str()
        {
            return false;
        }
        match (&self.pattern, &replayed.incoming.decoded) {
            (None, _) => true,
            (Some(pattern), Ok(event)) => pattern.matches(&to_value(event)),
            (Some(_), Err(_)) => false,
        }
    }
}

pub(super) fn page(
    job: &Arc<Job>,
    bounds: (u64, u64),
    next_seq: u64,
    end: Option<End>,
) -> ReplayPage {
    ReplayPage {
        job: Arc::clone(job),
        bounds,
        events: Vec::new(),
        next_seq,
        end,
    }
}

/// The end is fixed here, at the start.
pub(super) fn bounds(
    job: &Job,
    state: &StreamState,
    letters: &BTreeMap<u64, Arc<Letter>>,
) -> (u64, u64) {
    let all = job.kind == Kind::Redrive && job.seqs.is_empty();
    let (first, last) = match (letters.keys().next(), letters.keys().next_back()) {
        (Some(first), Some(last)) if all => (*first, *last),
        _ if all => (1, 0),
        _ => (state.first_seq, state.last_seq),
    };
    let from = job.from_seq.unwrap_or(first).max(1);
    (from, job.to_seq.unwrap_or(last).min(state.last_seq))
}

/// What `replay status` shows of it.
pub(super) fn progress(row: &ReplayRow) -> serde_json::Value {
    let last_seq = (row.next_seq > row.from_seq).then(|| row.next_seq - 1);
    json!({
        "name": row.name, "state": row.state.as_str(), "fromSeq": row.from_seq, "toSeq": row.to_seq,
        "lastSeq": last_seq, "done": row.next_seq - row.from_seq,
        "total": (row.to_seq + 1).saturating_sub(row.from_seq), "handled": row.handled,
        "duplicates": row.duplicates, "filtered": row.filtered, "failed": row.failed,
        "startedAt": Ts::from_ms(row.started_at_ms), "endedAt": row.ended_at_ms.map(Ts::from_ms),
        "error": row.error,
    })
}
