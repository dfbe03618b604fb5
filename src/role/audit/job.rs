//! A replay job: what a person asked for (DESIGN 7). The audit role writes it down, the role that owns the queue carries it
//! out, and a redrive is one with chosen sequences.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::{Actor, Key, ReplayMode, Ts};

/// Bucket of jobs and their progress (DESIGN 6).
pub const REPLAYS: &str = "REPLAYS";

/// Why events are handled again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// To repair, restore or look: what was applied is not applied again.
    Replay,
    /// Dead letters go back to their queue: counts as live.
    Redrive,
    /// The role's projection is emptied first, then fed from the archive (DESIGN 7, rebuild).
    Rebuild,
}

/// What a queue took from a sequence on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Era {
    /// First sequence that these filters decide about.
    pub from_seq: u64,
    /// Subject filters.
    pub filters: Vec<String>,
    /// A fill replay brought what only these filters take, up to this sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filled_to: Option<u64>,
}

/// What is to be replayed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Job {
    /// Its name; a key of the bucket and the entity of its events.
    pub name: Key,
    /// The queue that handles the events.
    pub queue: String,
    /// Why.
    pub kind: Kind,
    /// Whether what is done is left alone or run anew.
    pub mode: ReplayMode,
    /// First sequence; without one, the archive's first at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_seq: Option<u64>,
    /// Last sequence, inclusive; without one, the archive's last at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_seq: Option<u64>,
    /// Only these sequences, ascending; empty means all within the bounds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seqs: Vec<u64>,
    /// Only events that this pattern matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<Value>,
    /// Only events of this entity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entity: Option<Key>,
    /// Of a queue that was widened, its filters before, oldest first: what they offered is passed over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offered: Vec<Era>,
    /// Whether effects outside may run, and what `force` emits is published.
    #[serde(default)]
    pub allow_external: bool,
    /// Events a second at the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// What it is for, in somebody's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Who asked.
    pub started_by: Actor,
    /// When.
    pub started_at: Ts,
    /// Who wants it to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled_by: Option<Actor>,
}

impl Job {
    /// Where in the bucket it stands.
    #[must_use]
    pub fn key(&self) -> String {
        format!("job.{}", self.name)
    }
}
