//! A pattern as a tree, from JSON: fields that must all hold, each a list of conditions of which one must, and `$or`.

use serde_json::{Map, Value};

use super::condition::{Condition, OPERATORS};

/// Ways through the `$or`s of one pattern at the most; EventBridge refuses more as well.
const COMBINATIONS_MAX: usize = 1000;
/// Levels of a pattern at the most: far more than any event has, and few enough for any stack.
const DEPTH_MAX: usize = 64;

/// Conditions on an object: all of them hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Node {
    /// By the field's name; a dotted name of the pattern is a path of nodes.
    pub fields: Vec<(String, Field)>,
    /// Of each list one holds.
    pub any_of: Vec<Vec<Node>>,
}

/// Conditions on one field of an object.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Field {
    /// It holds an object, or a list of objects.
    Node(Node),
    /// It holds a value, or a list of values.
    Leaf(Leaf),
}

/// Conditions on a value: one of them holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Leaf {
    /// Where it is in the event, for `exists: false`, which looks at the whole event.
    pub path: Vec<String>,
    /// The list.
    pub conditions: Vec<Condition>,
}

impl Node {
    /// Reads a pattern.
    ///
    /// # Errors
    /// One sentence that starts with the field.
    pub(super) fn parse(pattern: &Value) -> Result<Self, String> {
        let Value::Object(map) = pattern else {
            return Err("the pattern is no object".to_owned());
        };
        let node = Self::of_map(map, &mut Vec::new())?;
        if node.combinations() > COMBINATIONS_MAX {
            return Err(format!(
                "the pattern's $or lists combine in more than {COMBINATIONS_MAX} ways; make several rules of it"
            ));
        }
        Ok(node)
    }

    fn of_map(map: &Map<String, Value>, path: &mut Vec<String>) -> Result<Self, String> {
        let place = |path: &[String]| match path {
            [] => "the pattern".to_owned(),
            path => path.join("."),
        };
        if map.is_empty() {
            return Err(format!("{} is empty; say what it has to hold", place(path)));
        }
        if path.len() > DEPTH_MAX {
            return Err(format!("the pattern is deeper than {DEPTH_MAX} levels"));
        }
        let mut node = Self::default();
        for (name, value) in map {
            if let Some(alternatives) = alternatives(name, value) {
                let parsed: Result<Vec<Self>, String> = alternatives
                    .into_iter()
                    .map(|map| Self::of_map(map, path))
                    .collect();
                node.any_of.push(parsed?);
                continue;
            }
            let before = path.len();
            path.extend(name.split('.').map(str::to_owned));
            let field = match value {
                Value::Object(map) => Field::Node(Self::of_map(map, path)?),
                Value::Array(list) => Field::Leaf(Leaf::parse(list, path)?),
                _ => {
                    return Err(format!(
                        "{} is no list; write [{value}] for one value",
                        place(path)
                    ));
                }
            };
            node.put(&path[before..], field);
            path.truncate(before);
        }
        Ok(node)
    }

    /// Puts a field at a relative path, into the nodes that are there already: what is said of one object in two ways is
    /// said of the same element of a list.
    fn put(&mut self, path: &[String], field: Field) {
        let Some((name, rest)) = path.split_first() else {
            return;
        };
        let there = self.fields.iter_mut().find_map(|(key, there)| match there {
            Field::Node(node) if key == name => Some(node),
            _ => None,
        });
        match (there, rest.is_empty(), field) {
            (Some(node), false, field) => node.put(rest, field),
            (Some(node), true, Field::Node(more)) => node.merge(more),
            (_, true, field) => self.fields.push((name.clone(), field)),
            (None, false, field) => {
                let mut node = Self::default();
                node.put(rest, field);
                self.fields.push((name.clone(), Field::Node(node)));
            }
        }
    }

    fn merge(&mut self, more: Self) {
        for (name, field) in more.fields {
            self.put(&[name], field);
        }
        self.any_of.extend(more.any_of);
    }

    /// In how many ways the lists of `$or` combine.
    fn combinations(&self) -> usize {
        let below = self.fields.iter().map(|(_, field)| match field {
            Field::Node(node) => node.combinations(),
            Field::Leaf(_) => 1,
        });
        let here = self.any_of.iter().map(|nodes| {
            nodes
                .iter()
                .map(Self::combinations)
                .fold(0, usize::saturating_add)
        });
        below.chain(here).fold(1, usize::saturating_mul)
    }
}

/// The objects of a `$or`: two at least, none of which names a field like an operator. Anything else under that name is a
/// field like any other (event-ruler, "The $or Primitive").
fn alternatives<'v>(name: &str, value: &'v Value) -> Option<Vec<&'v Map<String, Value>>> {
    let list = value
        .as_array()
        .filter(|list| name == "$or" && list.len() >= 2)?;
    let objects: Vec<_> = list.iter().map(Value::as_object).collect::<Option<_>>()?;
    let plain =
        |map: &&Map<String, Value>| !map.keys().any(|key| OPERATORS.contains(&key.as_str()));
    objects.iter().all(plain).then_some(objects)
}

impl Leaf {
    fn parse(list: &[Value], path: &[String]) -> Result<Self, String> {
        let place = path.join(".");
        if list.is_empty() {
            return Err(format!("{place} has an empty list; nothing would match"));
        }
        let conditions: Result<Vec<Condition>, String> =
            list.iter().map(Condition::parse).collect();
        Ok(Self {
            path: path.to_vec(),
            conditions: conditions.map_err(|message| format!("{place} {message}"))?,
        })
    }
}
