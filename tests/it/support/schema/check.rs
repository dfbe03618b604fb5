//! Whether a schema allows a value.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use regex::Regex;
use serde_json::{Map, Number, Value};

/// Why `schema` forbids `value`, as a path and a keyword; `None` if it allows it. `root` has the definitions.
pub fn problem(root: &Value, schema: &Value, value: &Value) -> Option<String> {
    if let Value::Bool(allowed) = schema {
        return (!allowed).then(|| ": nothing is allowed".to_owned());
    }
    let keywords = schema.as_object().expect("a schema is an object or a bool");
    keywords
        .iter()
        .find_map(|(keyword, says)| broken(root, keywords, keyword, says, value))
}

fn broken(
    root: &Value,
    keywords: &Map<String, Value>,
    keyword: &str,
    says: &Value,
    value: &Value,
) -> Option<String> {
    let unless = |holds: bool| (!holds).then(|| format!(": {keyword} {says}"));
    let schemas = || says.as_array().expect("a list").iter();
    match keyword {
        "$schema" | "$defs" | "title" | "description" | "default" | "then" => None,
        "$ref" => problem(root, resolve(root, says), value),
        "const" => unless(says == value),
        "enum" => unless(schemas().any(|allowed| allowed == value)),
        "if" if problem(root, says, value).is_none() => problem(root, keywords.get("then")?, value),
        "if" => None,
        "anyOf" => unless(schemas().any(|schema| problem(root, schema, value).is_none())),
        "allOf" => schemas().find_map(|schema| problem(root, schema, value)),
        "type" => unless(is_of_type(says, value)),
        "pattern" => unless(value.as_str().is_none_or(|text| regex(says).is_match(text))),
        "format" => unless(has_format(says.as_str().expect("a name"), value)),
        "maxLength" => unless(
            value
                .as_str()
                .is_none_or(|text| text.chars().count() as u64 <= count(says)),
        ),
        "minimum" | "maximum" | "exclusiveMaximum" => {
            unless(value.as_number().is_none_or(|n| within(keyword, says, n)))
        }
        "minItems" => unless(
            value
                .as_array()
                .is_none_or(|a| a.len() as u64 >= count(says)),
        ),
        "maxItems" => unless(
            value
                .as_array()
                .is_none_or(|a| a.len() as u64 <= count(says)),
        ),
        "items" => value
            .as_array()?
            .iter()
            .enumerate()
            .find_map(|(n, item)| problem(root, says, item).map(|why| format!("[{n}]{why}"))),
        "required" => {
            let object = value.as_object()?;
            let missing =
                schemas().find(|name| !object.contains_key(name.as_str().expect("a name")));
            missing.map(|name| format!(".{name}: is missing"))
        }
        "properties" => value.as_object()?.iter().find_map(|(name, value)| {
            let why = problem(root, says.get(name)?, value)?;
            Some(format!(".{name}{why}"))
        }),
        "additionalProperties" => {
            let listed = |name: &String| {
                keywords
                    .get("properties")
                    .is_some_and(|p| p.get(name).is_some())
            };
            let mut others = value.as_object()?.iter().filter(|(name, _)| !listed(name));
            others.find_map(|(name, value)| {
                problem(root, says, value).map(|why| format!(".{name}{why}"))
            })
        }
        other => panic!("the keyword {other} is new"),
    }
}

/// What a `$ref` names: a place in the same document.
pub fn resolve<'r>(root: &'r Value, reference: &Value) -> &'r Value {
    let pointer = reference
        .as_str()
        .and_then(|text| text.strip_prefix('#'))
        .expect("every reference is to a place in the document");
    root.pointer(pointer).expect("a place that is there")
}

fn count(says: &Value) -> u64 {
    says.as_u64().expect("a count")
}

fn regex(pattern: &Value) -> Rc<Regex> {
    thread_local!(static MADE: RefCell<HashMap<String, Rc<Regex>>> = RefCell::default());
    let pattern = pattern.as_str().expect("a pattern");
    MADE.with_borrow_mut(|made| {
        let new = || Rc::new(Regex::new(&from_ecma(pattern)).expect("a pattern that compiles"));
        Rc::clone(made.entry(pattern.to_owned()).or_insert_with(new))
    })
}

/// An expression of ECMA, which JSON Schema's are, as one of Rust: to ECMA the byte order mark is a space.
pub fn from_ecma(pattern: &str) -> String {
    pattern.replace(r"\s", r"\s\u{feff}")
}

fn is_of_type(says: &Value, value: &Value) -> bool {
    let one = |name: &Value| match name.as_str().expect("a type") {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.as_number().is_some_and(|n| whole(n).is_some()),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the type {other} is new"),
    };
    match says {
        Value::Array(types) => types.iter().any(one),
        name => one(name),
    }
}

/// A number without a fraction, however it is written: to JSON Schema `5.0` is an integer.
fn whole(number: &Number) -> Option<i128> {
    number.as_i128().or_else(|| {
        let float = number.as_f64()?;
        (float.fract() == 0.0).then_some(float as i128)
    })
}

fn within(keyword: &str, bound: &Value, number: &Number) -> bool {
    let bound = bound.as_number().expect("a bound is a number");
    let order = match (whole(number), whole(bound)) {
        (Some(number), Some(bound)) => number.cmp(&bound),
        _ => {
            let (number, bound) = (number.as_f64(), bound.as_f64());
            number.partial_cmp(&bound).expect("JSON has no NaN")
        }
    };
    match keyword {
        "minimum" => order.is_ge(),
        "maximum" => order.is_le(),
        _ => order.is_lt(),
    }
}

/// What the formats say beside the patterns that stand with them.
fn has_format(format: &str, value: &Value) -> bool {
    if format == "uint64" {
        let fits = |n| whole(n).is_none_or(|n| u64::try_from(n).is_ok());
        return value.as_number().is_none_or(fits);
    }
    let Some(text) = value.as_str() else {
        return true;
    };
    match format {
        "date" => text.parse::<chrono::NaiveDate>().is_ok(),
        // The pattern lets 60 be the second of 23:59 only.
        "date-time" => {
            let text = text.replace("23:59:60", "23:59:59");
            chrono::DateTime::parse_from_rfc3339(&text).is_ok()
        }
        "iana-time-zone" => text.parse::<chrono_tz::Tz>().is_ok(),
        "double" => true,
        other => panic!("the format {other} is new"),
    }
}
