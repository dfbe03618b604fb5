//! Whether an event matches: the tree of a pattern held against the event's.
//!
//! Lists in an event stand for each of their elements; what a pattern says of one object holds of one element. A field
//! that holds an object, or an empty list, holds no value. `exists: false` says that the field is nowhere in the event.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::condition::Condition;
use super::node::{Field, Leaf, Node};

/// Whether `event` matches.
pub(super) fn matches(node: &Node, event: &Value) -> bool {
    let event = without_dots(event);
    Event(&event).node(node, Some(&event))
}

struct Event<'e>(&'e Value);

impl Event<'_> {
    fn node(&self, node: &Node, value: Option<&Value>) -> bool {
        if let Some(Value::Array(elements)) = value
            && !elements.is_empty()
        {
            return elements
                .iter()
                .any(|element| self.node(node, Some(element)));
        }
        let map = value.and_then(Value::as_object);
        let field = |(name, field): &(String, Field)| {
            let value = map.and_then(|map| map.get(name));
            match field {
                Field::Node(node) => self.node(node, value),
                Field::Leaf(leaf) => self.leaf(leaf, value),
            }
        };
        node.fields.iter().all(field)
            && node
                .any_of
                .iter()
                .all(|nodes| nodes.iter().any(|node| self.node(node, value)))
    }

    fn leaf(&self, leaf: &Leaf, value: Option<&Value>) -> bool {
        let mut there = false;
        let found = any_value(value, &mut |value| {
            there = true;
            leaf.conditions
                .iter()
                .any(|condition| condition.holds(value))
        });
        found
            || (!there
                && leaf.conditions.contains(&Condition::Exists(false))
                && !is_there(self.0, &leaf.path))
    }
}

/// Whether `test` holds for one of the values that a field stands for.
fn any_value(value: Option<&Value>, test: &mut impl FnMut(&Value) -> bool) -> bool {
    match value {
        None | Some(Value::Object(_)) => false,
        Some(Value::Array(elements)) => elements
            .iter()
            .any(|element| any_value(Some(element), test)),
        Some(value) => test(value),
    }
}

/// Whether there is a value at `path`, in whatever element of whatever list.
fn is_there(value: &Value, path: &[String]) -> bool {
    match (value, path.split_first()) {
        (Value::Array(elements), _) => elements.iter().any(|element| is_there(element, path)),
        (Value::Object(map), Some((name, rest))) => {
            map.get(name).is_some_and(|value| is_there(value, rest))
        }
        (Value::Object(_), None) | (_, Some(_)) => false,
        (_, None) => true,
    }
}

/// The event with dotted names taken for paths, as in patterns.
pub(super) fn without_dots(event: &Value) -> Cow<'_, Value> {
    if has_dots(event) {
        Cow::Owned(nested(event))
    } else {
        Cow::Borrowed(event)
    }
}

fn has_dots(value: &Value) -> bool {
    match value {
        Value::Object(map) => map
            .iter()
            .any(|(name, value)| name.contains('.') || has_dots(value)),
        Value::Array(elements) => elements.iter().any(has_dots),
        _ => false,
    }
}

fn nested(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut out = Map::new();
            for (name, value) in map {
                let path: Vec<&str> = name.split('.').collect();
                put(&mut out, &path, nested(value));
            }
            Value::Object(out)
        }
        Value::Array(elements) => Value::Array(elements.iter().map(nested).collect()),
        other => other.clone(),
    }
}

/// Puts a value at a path. Two objects at one place become one; of two values that clash both count, as in a list.
fn put(map: &mut Map<String, Value>, path: &[&str], value: Value) {
    let Some((name, rest)) = path.split_first() else {
        return;
    };
    let value = match rest {
        [] => value,
        rest => {
            let mut below = Map::new();
            put(&mut below, rest, value);
            Value::Object(below)
        }
    };
    match (map.get_mut(*name), value) {
        (None, value) => {
            map.insert((*name).to_owned(), value);
        }
        (Some(Value::Object(there)), Value::Object(more)) => {
            for (name, value) in more {
                put(there, &[&name], value);
            }
        }
        (Some(there), value) => {
            let before = there.take();
            *there = Value::Array(vec![before, value]);
        }
    }
}
