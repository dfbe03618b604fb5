//! Arbitrary values that a schema allows.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::{BoxedStrategy, Union};
use proptest::string::string_regex;
use serde_json::{Map, Value, json};

use super::check::{from_ecma, problem, resolve};

/// Numbers at which formats and conversions have their edges: halves, singles, doubles, and integers in doubles.
const EDGES: [f64; 16] = [
    0.0,
    -0.0,
    0.1,
    0.1 + 0.2,
    1.0 / 3.0,
    5e-324,
    f64::MIN_POSITIVE,
    1e-7,
    5.960_464_477_539_063e-8,
    65_504.0,
    65_505.0,
    16_777_217.0,
    9_007_199_254_740_993.0,
    1e23,
    359.999_999_999_999_94,
    f64::MAX,
];
/// Texts that have surprised somebody.
const TEXTS: [&str; 10] = [
    "",
    " ",
    "null",
    "sealed:",
    "sealed:1:key:data",
    "e\u{301}",
    "\u{202e}abc",
    "\u{feff}",
    "\u{1d4b3}",
    "\u{10ffff}",
];

/// Values that `schema` allows; `root` has the definitions.
pub fn values(root: &Arc<Value>, schema: &Value) -> BoxedStrategy<Value> {
    let Value::Object(keywords) = schema else {
        assert_eq!(schema, &Value::Bool(true), "a schema that allows nothing");
        return anything();
    };
    let all = if let Some(reference) = keywords.get("$ref") {
        values(root, resolve(root, reference))
    } else if let Some(value) = keywords.get("const") {
        Just(value.clone()).boxed()
    } else if let Some(Value::Array(allowed)) = keywords.get("enum") {
        select(allowed.clone()).boxed()
    } else if let Some(Value::Array(schemas)) = keywords.get("anyOf") {
        Union::new(schemas.iter().map(|schema| values(root, schema))).boxed()
    } else {
        typed(root, keywords)
    };
    if !keywords.contains_key("if") {
        return all;
    }
    let (root, schema) = (Arc::clone(root), schema.clone());
    let allowed = move |value: &Value| problem(&root, &schema, value).is_none();
    all.prop_filter("what `then` forbids", allowed).boxed()
}

fn typed(root: &Arc<Value>, keywords: &Map<String, Value>) -> BoxedStrategy<Value> {
    let one = |name: &Value| match name.as_str().expect("a type") {
        "null" => Just(Value::Null).boxed(),
        "boolean" => any::<bool>().prop_map(Value::Bool).boxed(),
        "string" => texts(root, keywords),
        "integer" => integers(keywords),
        "number" => numbers(root, keywords),
        "array" => arrays(root, keywords),
        "object" => objects(root, keywords),
        other => panic!("the type {other} is new"),
    };
    match keywords.get("type").expect("a type") {
        Value::Array(types) => Union::new(types.iter().map(one)).boxed(),
        name => one(name),
    }
}

/// Any JSON, not deep.
pub fn anything() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        select(&EDGES[..]).prop_map(Value::from),
        select(&TEXTS[..]).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((text(".{0,6}"), inner), 0..4).prop_map(|pairs| pairs.into_iter().collect()),
        ]
    })
    .boxed()
}

/// Texts that a pattern matches as a whole.
pub fn text(pattern: &str) -> BoxedStrategy<String> {
    let inner = pattern.strip_prefix('^').unwrap_or(pattern);
    let inner = inner.strip_suffix('$').unwrap_or(inner);
    string_regex(&from_ecma(inner))
        .unwrap_or_else(|error| panic!("{pattern}: {error}"))
        .boxed()
}

fn texts(root: &Arc<Value>, keywords: &Map<String, Value>) -> BoxedStrategy<Value> {
    let word = |name| keywords.get(name).and_then(Value::as_str);
    let made: BoxedStrategy<String> = match (word("format"), word("pattern")) {
        (Some("date-time"), _) => times(),
        (Some("date"), _) => days(),
        (Some("iana-time-zone"), _) => select(&chrono_tz::TZ_VARIANTS[..])
            .prop_map(|zone| zone.name().to_owned())
            .boxed(),
        (Some(other), _) => panic!("the format {other} is new"),
        (None, pattern) => text(pattern.unwrap_or("(?s).*")),
    };
    let schema = Value::Object(keywords.clone());
    let allowed = |text: &Value| problem(root, &schema, text).is_none();
    let mut edges: Vec<Value> = TEXTS.iter().map(|text| json!(text)).collect();
    if let Some(max) = keywords.get("maxLength").and_then(Value::as_u64) {
        let longest = ["x", "\u{e9}", "\u{1d4b3}"].map(|c| json!(c.repeat(max as usize)));
        edges.extend(longest);
    }
    edges.retain(allowed);
    let made = made.prop_map(Value::from);
    let made = {
        let (root, schema) = (Arc::clone(root), schema.clone());
        made.prop_filter("too long", move |text| {
            problem(&root, &schema, text).is_none()
        })
    };
    if edges.is_empty() {
        return made.boxed();
    }
    prop_oneof![9 => made, 1 => select(edges)].boxed()
}

fn days() -> BoxedStrategy<String> {
    let parts = (0..=9999_i32, 1..=366_u32);
    parts
        .prop_map(|(year, day)| {
            let day = chrono::NaiveDate::from_yo_opt(year, day)
                .or_else(|| chrono::NaiveDate::from_yo_opt(year, 365));
            day.expect("a year has 365 days").to_string()
        })
        .boxed()
}

fn times() -> BoxedStrategy<String> {
    let leap = Just("23:59:60".to_owned());
    let usual = text("([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]");
    let time = prop_oneof![1 => leap, 9 => usual];
    let fraction = text(r"(\.[0-9]{1,12})?");
    let likely = (2020..=2030_i32, 1..=365_u32).prop_map(|(year, day)| {
        let day = chrono::NaiveDate::from_yo_opt(year, day);
        day.expect("a year has 365 days").to_string()
    });
    let last = Just("9999-12-31".to_owned());
    let day = prop_oneof![4 => likely, 4 => days(), 1 => last];
    (day, time, fraction, select(&["Z", "+00:00"][..]))
        .prop_map(|(day, time, fraction, zone)| format!("{day}T{time}{fraction}{zone}"))
        .boxed()
}

fn integers(keywords: &Map<String, Value>) -> BoxedStrategy<Value> {
    let bound = |name, or: u64| {
        keywords
            .get(name)
            .map_or(or, |n| n.as_u64().expect("whole"))
    };
    let (min, max) = (bound("minimum", 0), bound("maximum", u64::MAX));
    let edges = [min, min + 1, 1 << 53, (1 << 53) + 1, 1 << 63, max - 1, max];
    let edges: Vec<u64> = edges
        .into_iter()
        .filter(|n| (min..=max).contains(n))
        .collect();
    let small = min..=max.min(min + 1000);
    // 2.0 is an integer to JSON Schema, and how some languages write one.
    let as_float = (min..=max.min(1 << 53)).prop_map(|n| json!(n as f64));
    prop_oneof![
        4 => small.prop_map(|n| json!(n)),
        2 => (min..=max).prop_map(|n| json!(n)),
        2 => select(edges).prop_map(|n| json!(n)),
        1 => as_float,
    ]
    .boxed()
}

fn numbers(root: &Arc<Value>, keywords: &Map<String, Value>) -> BoxedStrategy<Value> {
    let bound = |name: &str, or: f64| {
        keywords
            .get(name)
            .map_or(or, |n| n.as_f64().expect("a number"))
    };
    let (min, max) = (bound("minimum", f64::MIN), bound("maximum", f64::MAX));
    let max = max.min(bound("exclusiveMaximum", f64::MAX));
    let (root, schema) = (Arc::clone(root), Value::Object(keywords.clone()));
    let allowed = move |n: &Value| problem(&root, &schema, n).is_none();
    let edges = EDGES.into_iter().flat_map(|n| [n, -n]).chain([min, max]);
    let edges: Vec<Value> = edges.map(Value::from).filter(&allowed).collect();
    let finite = prop::num::f64::ANY.prop_map(move |n| if min < 0.0 { n } else { n.abs() });
    // Whole numbers are written without a point, too.
    let whole = (min.max(-1e15)..=max.min(1e15)).prop_map(|n| json!(n as i64));
    let near = (min.max(-1e6)..=max.min(1e6)).prop_map(Value::from);
    let wide = finite
        .prop_filter("finite and in range", move |n| {
            n.is_finite() && (min..=max).contains(n)
        })
        .prop_map(Value::from);
    let wide = if max - min < 1e6 {
        near.clone().boxed()
    } else {
        wide.boxed()
    };
    prop_oneof![4 => near, 2 => whole, 2 => select(edges), 2 => wide]
        .prop_filter("a bound that is excluded", allowed)
        .boxed()
}

fn arrays(root: &Arc<Value>, keywords: &Map<String, Value>) -> BoxedStrategy<Value> {
    let count = |name, or| {
        keywords
            .get(name)
            .map_or(or, |n| n.as_u64().expect("whole") as usize)
    };
    let min = count("minItems", 0);
    let max = count("maxItems", usize::MAX);
    let item = values(root, keywords.get("items").expect("a list says of what"));
    let usual = vec(item.clone(), min..=max.min(min + 3)).prop_map(Value::from);
    if max > 64 {
        return usual.boxed();
    }
    let full = vec(item, max).prop_map(Value::from);
    prop_oneof![19 => usual, 1 => full].boxed()
}

fn objects(root: &Arc<Value>, keywords: &Map<String, Value>) -> BoxedStrategy<Value> {
    let empty = Map::new();
    let properties = keywords.get("properties").and_then(Value::as_object);
    let properties = properties.unwrap_or(&empty);
    let required = keywords.get("required").and_then(Value::as_array);
    let is_required = |name: &String| required.is_some_and(|names| names.contains(&json!(name)));
    let names: Vec<String> = properties.keys().cloned().collect();
    let fields: Vec<BoxedStrategy<Option<Value>>> = properties
        .iter()
        .map(|(name, schema)| {
            let value = values(root, schema);
            if is_required(name) {
                value.prop_map(Some).boxed()
            } else {
                option::of(value).boxed()
            }
        })
        .collect();
    let unknown = match keywords.get("additionalProperties") {
        Some(Value::Bool(false)) => Just(Vec::new()).boxed(),
        None => extras(&names, anything()),
        Some(schema) => extras(&names, values(root, schema)),
    };
    (fields, unknown)
        .prop_map(move |(fields, unknown)| {
            let known = names.iter().cloned().zip(fields);
            let known = known.filter_map(|(name, value)| Some((name, value?)));
            Value::Object(known.chain(unknown).collect())
        })
        .boxed()
}

/// A few fields that nobody knows.
fn extras(known: &[String], value: BoxedStrategy<Value>) -> BoxedStrategy<Vec<(String, Value)>> {
    let known = known.to_vec();
    let name = prop_oneof![text("[a-z]{1,8}"), text(".{0,6}")];
    let name = name.prop_filter("a known field", move |name| !known.contains(name));
    prop_oneof![2 => Just(Vec::new()), 1 => vec((name, value), 1..3)].boxed()
}
