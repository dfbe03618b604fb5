//! Many patterns against one event. The automaton of `quamina` finds candidates in a time that hardly grows with the number
//! of patterns; each candidate is then looked at by itself, because the automaton does not know the whole language: it
//! lacks `$or` and most of `anything-but`, folds case and reads numbers differently. So it is given no more of a pattern
//! than it reads as we do, and what that lets through is a superset.

use quamina::Quamina;
use serde_json::{Map, Value, json};

use super::condition::{Comparison, Condition};
use super::node::{Field, Leaf, Node};
use super::{Pattern, evaluate};

/// Below so many patterns looking at each is quicker than writing the event out for the automaton.
const AUTOMATON_FROM: usize = 16;

/// Patterns to hold against events.
pub struct Index {
    patterns: Vec<Pattern>,
    automaton: Option<Quamina<usize>>,
    /// Patterns of which the automaton can be told nothing.
    always: Vec<usize>,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index")
            .field("patterns", &self.patterns.len())
            .field("always", &self.always)
            .finish_non_exhaustive()
    }
}

impl Index {
    /// An index of `patterns`; in answers they are named by their place in it.
    #[must_use]
    pub fn new(patterns: Vec<Pattern>) -> Self {
        let (automaton, always) = if patterns.len() < AUTOMATON_FROM {
            (None, Vec::new())
        } else {
            let mut automaton = Quamina::new();
            let tell = |(n, pattern): (usize, &Pattern)| {
                let told = candidates(&pattern.root)
                    .is_some_and(|text| automaton.add_pattern(n, &text.to_string()).is_ok());
                (!told).then_some(n)
            };
            let always = patterns.iter().enumerate().filter_map(tell).collect();
            (Some(automaton), always)
        };
        Self {
            patterns,
            automaton,
            always,
        }
    }

    /// The patterns, in order.
    #[must_use]
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// The places of the patterns that match, in order.
    #[must_use]
    pub fn matching(&self, event: &Value) -> Vec<usize> {
        let event = evaluate::without_dots(event);
        let holds = |n: &usize| evaluate::matches(&self.patterns[*n].root, &event);
        let found = self.automaton.as_ref().and_then(|automaton| {
            automaton
                .matches_for_event(event.to_string().as_bytes())
                .ok()
        });
        let Some(mut found) = found else {
            return (0..self.patterns.len()).filter(holds).collect();
        };
        found.extend(&self.always);
        found.sort_unstable();
        found.dedup();
        found.retain(holds);
        found
    }
}

/// What the automaton can be told of a pattern: a part that every matching event satisfies.
fn candidates(node: &Node) -> Option<Value> {
    let mut map = Map::new();
    for (name, field) in &node.fields {
        let part = match field {
            Field::Node(node) => candidates(node),
            Field::Leaf(leaf) => list(leaf),
        };
        // Of two conditions on one field the first says enough.
        if let Some(part) = part.filter(|_| !map.contains_key(name)) {
            map.insert(name.clone(), part);
        }
    }
    (!map.is_empty()).then_some(Value::Object(map))
}

/// The whole list, or nothing: a list without one of its entries would let less through.
fn list(leaf: &Leaf) -> Option<Value> {
    // `exists` beside another entry makes the automaton (0.7.0) miss values that are neither.
    if leaf.conditions.len() > 1 && leaf.conditions.contains(&Condition::Exists(true)) {
        return None;
    }
    let entries: Option<Vec<Value>> = leaf.conditions.iter().map(entry).collect();
    entries.map(Value::Array)
}

fn entry(condition: &Condition) -> Option<Value> {
    Some(match condition {
        Condition::Text(text) => json!(text),
        Condition::Word(word) => word.clone(),
        Condition::Prefix(text) if !text.is_empty() => json!({ "prefix": text }),
        Condition::Suffix(text) if !text.is_empty() => json!({ "suffix": text }),
        Condition::EqualsIgnoreCase(text) if text.is_ascii() => {
            json!({ "equals-ignore-case": text })
        }
        Condition::Wildcard(form) => json!({ "wildcard": form.to_string() }),
        Condition::Numeric(comparisons) => {
            let flat = comparisons
                .iter()
                .flat_map(|(comparison, bound)| [json!(sign(*comparison)), json!(bound)]);
            json!({ "numeric": flat.collect::<Vec<_>>() })
        }
        Condition::Exists(true) => json!({ "exists": true }),
        _ => return None,
    })
}

fn sign(comparison: Comparison) -> &'static str {
    match comparison {
        Comparison::Equal => "=",
        Comparison::Less => "<",
        Comparison::LessOrEqual => "<=",
        Comparison::Greater => ">",
        Comparison::GreaterOrEqual => ">=",
    }
}
