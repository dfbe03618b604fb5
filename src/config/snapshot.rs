//! Snapshots of the roles' databases (DESIGN 6 and 8).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::Span;

/// When roles put their databases into the broker's object store, and how many of them stay there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Snapshot {
    /// Whether roles do it by themselves.
    pub scheduled: bool,
    /// From one snapshot of a role to its next (DESIGN 6: 15 min); a database that did not change needs none.
    pub every: Span,
    /// How many of a role are kept.
    pub keep: usize,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            scheduled: true,
            every: Span::secs(15 * 60),
            keep: 3,
        }
    }
}
