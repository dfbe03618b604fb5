//! What a pattern says of source and detail-type: these two are tokens of the subject, so the server filters by them, and
//! what more the pattern says is left for the role to decide.

use std::collections::BTreeSet;

use serde_json::Value;

use super::condition::Condition;
use super::node::{Field, Leaf, Node};
use crate::event::Source;

const SOURCE: &str = "source";
const DETAIL_TYPE: &str = "detail-type";

/// One way through the `$or`s of a pattern.
#[derive(Debug, Clone, Default, PartialEq)]
struct Head {
    /// All of them hold for the source.
    source: Vec<Leaf>,
    /// All of them hold for the detail-type.
    detail_type: Vec<Leaf>,
}

/// All ways: one of them holds.
#[derive(Debug, Clone)]
pub(super) struct Heads {
    heads: Vec<Head>,
    residual: bool,
}

impl Heads {
    pub(super) fn of(root: &Node) -> Self {
        let mut heads = Vec::new();
        for head in of_node(root) {
            if !heads.contains(&head) {
                heads.push(head);
            }
        }
        Self {
            heads,
            residual: says_more(root),
        }
    }

    pub(super) fn residual(&self) -> bool {
        self.residual
    }

    pub(super) fn admit(&self, source: &str, detail_type: &str) -> bool {
        self.heads
            .iter()
            .any(|head| hold(&head.source, source) && hold(&head.detail_type, detail_type))
    }

    pub(super) fn filters(&self) -> BTreeSet<String> {
        self.heads.iter().flat_map(Head::filters).collect()
    }
}

impl Head {
    fn filters(&self) -> BTreeSet<String> {
        let services: Vec<&str> = Source::ALL
            .iter()
            .filter(|source| hold(&self.source, source.as_str()))
            .map(|source| source.service())
            .collect();
        if services.len() == Source::ALL.len() && self.detail_type.is_empty() {
            return BTreeSet::from(["roadcall.>".to_owned()]);
        }
        let types = self.types().unwrap_or_else(|| vec!["*"]);
        let of_service = |service: &str| -> Vec<String> {
            types
                .iter()
                .map(|detail_type| format!("roadcall.*.{service}.{detail_type}.*"))
                .collect()
        };
        services.into_iter().flat_map(of_service).collect()
    }

    /// The detail-types, where they are a list; `None` where only looking tells.
    fn types(&self) -> Option<Vec<&str>> {
        let exact =
            |leaf: &'_ Leaf| -> bool { leaf.conditions.iter().all(|c| literal(c).is_some()) };
        let listed = self.detail_type.iter().find(|leaf| exact(leaf))?;
        let all = listed.conditions.iter().filter_map(literal);
        // What is no token of a subject is no detail-type.
        let token =
            |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        Some(
            all.filter(token)
                .filter(|text| hold(&self.detail_type, text))
                .collect(),
        )
    }
}

/// The only text that satisfies the condition, if there is only one.
fn literal(condition: &Condition) -> Option<&str> {
    match condition {
        Condition::Text(text) => Some(text),
        Condition::Wildcard(form) => form.literal(),
        _ => None,
    }
}

fn hold(leaves: &[Leaf], text: &str) -> bool {
    let value = Value::from(text);
    leaves.iter().all(|leaf| {
        leaf.conditions
            .iter()
            .any(|condition| condition.holds(&value))
    })
}

fn of_node(node: &Node) -> Vec<Head> {
    let mut own = Head::default();
    for (name, field) in &node.fields {
        if let Field::Leaf(leaf) = field {
            match name.as_str() {
                SOURCE => own.source.push(leaf.clone()),
                DETAIL_TYPE => own.detail_type.push(leaf.clone()),
                _ => {}
            }
        }
    }
    let mut heads = vec![own];
    for alternatives in &node.any_of {
        let ways: Vec<Head> = alternatives.iter().flat_map(of_node).collect();
        let with = |head: &Head| -> Vec<Head> {
            ways.iter()
                .map(|way| Head {
                    source: [head.source.as_slice(), &way.source].concat(),
                    detail_type: [head.detail_type.as_slice(), &way.detail_type].concat(),
                })
                .collect()
        };
        heads = heads.iter().flat_map(with).collect();
    }
    heads
}

/// Whether the pattern says anything of another field than the two.
fn says_more(node: &Node) -> bool {
    let other = |(name, field): &(String, Field)| {
        matches!(field, Field::Node(_)) || (name != SOURCE && name != DETAIL_TYPE)
    };
    node.fields.iter().any(other) || node.any_of.iter().flatten().any(says_more)
}
