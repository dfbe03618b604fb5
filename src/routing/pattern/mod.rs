//! Event patterns: EventBridge's pattern language, whole.
//!
//! In reading order: `condition` (one entry of a field's list), `node` (the tree of fields and `$or`), `evaluate` (the
//! tree held against an event), `head` (what a pattern says of source and detail-type, which the server can filter by),
//! [`Index`] (many patterns at once). A dotted name is a path, in patterns and in events: `"detail.type"` is
//! `"detail": { "type": … }`.

mod condition;
mod evaluate;
mod head;
mod index;
mod node;
mod wildcard;

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::event::Source;
use head::Heads;
pub use index::Index;
use node::Node;

/// A pattern of events.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: Value,
    root: Node,
    heads: Heads,
}

impl Pattern {
    /// Reads a pattern from its JSON.
    ///
    /// # Errors
    /// One sentence that names the field.
    pub fn new(text: Value) -> Result<Self, super::Error> {
        let root = Node::parse(&text).map_err(super::Error)?;
        let heads = Heads::of(&root);
        Ok(Self { text, root, heads })
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &Value {
        &self.text
    }

    /// Whether an event, as its envelope's JSON, matches.
    #[must_use]
    pub fn matches(&self, event: &Value) -> bool {
        evaluate::matches(&self.root, event)
    }

    /// Whether events of this source and detail-type can match; they do if [`Pattern::has_residual`] is false.
    #[must_use]
    pub fn admits(&self, source: Source, detail_type: &str) -> bool {
        self.heads.admit(source.as_str(), detail_type)
    }

    /// Whether more than source and detail-type decides.
    #[must_use]
    pub fn has_residual(&self) -> bool {
        self.heads.residual()
    }

    /// Subject filters that let everything through that the pattern wants, and as little else as a NATS filter can say:
    /// its wildcard is a whole token, so a prefix on the detail-type becomes any detail-type of the service.
    #[must_use]
    pub fn filters(&self) -> BTreeSet<String> {
        self.heads.filters()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(serializer)
    }
}
