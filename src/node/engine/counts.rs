//! What an engine counts.

use serde::{Deserialize, Serialize};

/// What happened so far, counted since the start of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the names say it
pub struct Counts {
    pub received: u64,
    pub handled: u64,
    pub late: u64,
    pub duplicates: u64,
    pub filtered: u64,
    pub expired: u64,
    pub dead: u64,
    pub failed: u64,
    pub panics: u64,
    pub parked: u64,
    pub commands: u64,
    pub rejected: u64,
    pub timers: u64,
    pub emitted: u64,
    pub steps: u64,
    pub republished: u64,
}
