//! What a link passed by is asked for and sent again (DESIGN 8, sync ledger).
//!
//! The server's sourcing loses events without a word: of a store that was set back (BROKER 0 D), and now and then when a link
//! that came back is being set up again (docs/sites.md). The ledger of the audit role knows by `Roadcall-Seq` which ones did
//! not come. [`fetch`] asks the site at the other end of the link for them, [`serve`] gives what its archive has, and the archive
//! takes them up under their old ids, so that roles which have handled one do not handle it again.
//!
//! Either side asks only for what it was to get anyhow: the hub for a depot's own events, a depot for those that its consumer at
//! the hub lets through.

pub mod ask;
pub mod fetch;
mod found;
pub mod serve;
mod unnumbered;

use serde::{Deserialize, Serialize};

use super::snapshot::Snapshot;
use super::transfer::Record;
use crate::event::{ProducerReport, Ts};
use crate::role::RoleName;

/// The verb of the question.
pub const RESEND: &str = "resend";
/// The command by which the hub asks a depot.
pub const OF_DEPOT: &str = "site.resend";
/// Ranges in one question at the most.
const RANGES_MAX: usize = 200;

/// What is asked about the events of one site.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ask {
    /// Whose events.
    pub site: String,
    /// What of them.
    pub question: Question,
}

/// The question.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Question {
    /// How far the site's roles are.
    Ends,
    /// Events that roles made, by their numbers.
    Numbers {
        /// Which; 200 at the most.
        ranges: Vec<Wanted>,
        /// Where the answer before stopped; 0 at first.
        from_seq: u64,
    },
    /// The ids of events that no role made, which have no numbers.
    Unnumbered {
        /// From which sequence of the asked site's archive on.
        from_seq: u64,
    },
    /// All events, in order: what a new box in the place of a dead one begins with.
    All {
        /// From which sequence of the asked site's archive on.
        from_seq: u64,
    },
    /// A box in the place of a dead one wants all of the asked site's events from the first on.
    Anew,
    /// The newest snapshot of each role's database.
    Snapshots,
    /// A part of a snapshot.
    Piece {
        /// Whose.
        role: RoleName,
        /// Which.
        id: u64,
        /// Where the answer before stopped; 0 at first.
        from_seq: u64,
    },
    /// Events by their sequences in the asked site's archive.
    Places {
        /// Which; what does not go into the answer is asked for again.
        seqs: Vec<u64>,
    },
}

/// Events that somebody lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Wanted {
    /// The role that made them.
    pub role: String,
    /// Which life of its database.
    pub epoch: String,
    /// The first, by `Roadcall-Seq`.
    pub from: u64,
    /// The last.
    pub to: u64,
    /// They were made after this, as far as is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Ts>,
}

/// The answer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Which archive answers.
    pub identity: i64,
    /// Where it ends.
    pub last_seq: u64,
    /// How far the site's own roles are; nothing where the asker does not get all of their events.
    #[serde(default)]
    pub producers: Vec<ProducerReport>,
    /// What was found, in the archive's order.
    #[serde(default)]
    pub records: Vec<Record>,
    /// Sequences and ids.
    #[serde(default)]
    pub ids: Vec<(u64, String)>,
    /// Snapshots, and the digest of each as the bucket has it.
    #[serde(default)]
    pub snapshots: Vec<(Snapshot, String)>,
    /// Bytes of a snapshot, in base 64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub piece: String,
    /// Where the search goes on; nothing when it is over.
    #[serde(default)]
    pub next_seq: Option<u64>,
}
