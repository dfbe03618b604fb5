//! A naive matcher of event patterns, written from the language's description alone and in another way than the real one:
//! the event as a flat list of named values, the pattern as all ways through its `$or`s, and for each way a search for
//! values that agree on the list elements they come from.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value};

/// A value of the event: its dotted name, and which element of which list it came through.
struct Flat {
    name: String,
    elements: BTreeMap<String, usize>,
    value: Value,
}

/// Whether `event` matches `pattern`, which is valid.
pub fn matches(pattern: &Value, event: &Value) -> bool {
    let mut flat = Vec::new();
    flatten(event, "", "", &BTreeMap::new(), &mut flat);
    ways(pattern.as_object().expect("an object"), "")
        .iter()
        .any(|way| assign(way, &flat, &BTreeMap::new()))
}

fn flatten(
    value: &Value,
    name: &str,
    place: &str,
    elements: &BTreeMap<String, usize>,
    flat: &mut Vec<Flat>,
) {
    let join = |left: &str, right: &str| match left {
        "" => right.to_owned(),
        left => format!("{left}.{right}"),
    };
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                flatten(value, &join(name, key), &join(place, key), elements, flat);
            }
        }
        Value::Array(list) => {
            for (n, value) in list.iter().enumerate() {
                let mut elements = elements.clone();
                elements.insert(place.to_owned(), n);
                flatten(value, name, &format!("{place}[{n}]"), &elements, flat);
            }
        }
        value => {
            // Which element of its own list a value is binds no other field.
            let mut elements = elements.clone();
            elements.retain(|list, _| names(list) != name);
            flat.push(Flat {
                name: name.to_owned(),
                elements,
                value: value.clone(),
            });
        }
    }
}

/// A place without its element numbers.
fn names(place: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for character in place.chars() {
        match character {
            '[' => inside = true,
            ']' => inside = false,
            other if !inside => out.push(other),
            _ => {}
        }
    }
    out
}

type Way = Vec<(String, Vec<Value>)>;

/// All ways through the pattern's `$or`s: each a list of fields with their conditions.
fn ways(pattern: &Map<String, Value>, prefix: &str) -> Vec<Way> {
    let mut all: Vec<Way> = vec![Vec::new()];
    for (key, value) in pattern {
        let name = match prefix {
            "" => key.clone(),
            prefix => format!("{prefix}.{key}"),
        };
        let mut options: Vec<Way> = Vec::new();
        match value {
            Value::Array(list) if key == "$or" && list.iter().all(Value::is_object) => {
                for map in list.iter().filter_map(Value::as_object) {
                    options.extend(ways(map, prefix));
                }
            }
            Value::Object(map) => options.extend(ways(map, &name)),
            Value::Array(list) => options.push(vec![(name, list.clone())]),
            _ => panic!("the pattern is not valid"),
        }
        let mut next = Vec::new();
        for way in &all {
            for option in &options {
                next.push([way.clone(), option.clone()].concat());
            }
        }
        all = next;
    }
    all
}

fn assign(way: &[(String, Vec<Value>)], flat: &[Flat], chosen: &BTreeMap<String, usize>) -> bool {
    let Some(((name, conditions), rest)) = way.split_first() else {
        return true;
    };
    let absent = !flat.iter().any(|one| one.name == *name);
    let may_be_absent = conditions
        .iter()
        .any(|condition| condition["exists"] == false);
    if absent && may_be_absent {
        return assign(rest, flat, chosen);
    }
    flat.iter()
        .filter(|one| one.name == *name)
        .filter(|one| {
            conditions
                .iter()
                .any(|condition| holds(condition, &one.value))
        })
        .any(|one| {
            let agrees = one
                .elements
                .iter()
                .all(|(list, n)| chosen.get(list).is_none_or(|other| other == n));
            let mut chosen = chosen.clone();
            chosen.extend(one.elements.clone());
            agrees && assign(rest, flat, &chosen)
        })
}

fn holds(condition: &Value, value: &Value) -> bool {
    let Some(map) = condition.as_object() else {
        return condition == value;
    };
    let (operator, argument) = map.iter().next().expect("an operator");
    let text = value.as_str();
    match operator.as_str() {
        "exists" => argument == true,
        "anything-but" => match argument {
            Value::Array(list) => !list.iter().any(|one| holds(one, value)),
            Value::Object(inner) => {
                let (operator, argument) = inner.iter().next().expect("an operator");
                let one =
                    |argument: &Value| holds(&serde_json::json!({ operator: argument }), value);
                match argument {
                    Value::Array(list) => !list.iter().any(one),
                    argument => !one(argument),
                }
            }
            one => !holds(one, value),
        },
        "numeric" => value
            .as_f64()
            .is_some_and(|number| in_range(argument, number)),
        "prefix" | "suffix" => text.is_some_and(|text| {
            let (text, wanted) = match &argument["equals-ignore-case"] {
                Value::String(wanted) => (text.to_lowercase(), wanted.to_lowercase()),
                _ => (
                    text.to_owned(),
                    argument.as_str().expect("a text").to_owned(),
                ),
            };
            match operator.as_str() {
                "prefix" => text.starts_with(&wanted),
                _ => text.ends_with(&wanted),
            }
        }),
        "equals-ignore-case" => text.is_some_and(|text| {
            text.to_lowercase() == argument.as_str().expect("a text").to_lowercase()
        }),
        "wildcard" => text.is_some_and(|text| {
            let form: Vec<char> = argument.as_str().expect("a text").chars().collect();
            wild(&form, &text.chars().collect::<Vec<_>>())
        }),
        "cidr" => text.is_some_and(|text| in_network(argument.as_str().expect("a text"), text)),
        other => panic!("no operator is named {other}"),
    }
}

fn in_range(argument: &Value, number: f64) -> bool {
    let list = argument.as_array().expect("a list");
    list.chunks(2).all(|pair| {
        let bound = pair[1].as_f64().expect("a number");
        match pair[0].as_str().expect("a comparison") {
            "=" => number == bound,
            "<" => number < bound,
            "<=" => number <= bound,
            ">" => number > bound,
            _ => number >= bound,
        }
    })
}

/// By trying every length for every star.
fn wild(form: &[char], text: &[char]) -> bool {
    match form {
        [] => text.is_empty(),
        ['*', rest @ ..] => (0..=text.len()).any(|n| wild(rest, &text[n..])),
        ['\\', literal, rest @ ..] | [literal, rest @ ..] => {
            text.first() == Some(literal) && wild(rest, &text[1..])
        }
    }
}

fn in_network(network: &str, address: &str) -> bool {
    let (base, bits) = network.split_once('/').expect("a length");
    let bits: u32 = bits.parse().expect("a number");
    let number = |text: &str| match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => Some((u128::from(u32::from(address)), 32)),
        Ok(IpAddr::V6(address)) => Some((u128::from(address), 128)),
        Err(_) => None,
    };
    match (number(base), number(address)) {
        (Some((base, width)), Some((address, other))) if width == other => {
            let rest = width - bits;
            rest == 128 || base >> rest == address >> rest
        }
        _ => false,
    }
}
