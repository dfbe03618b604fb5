//! Event patterns: what the language's description says, case by case, and the real matcher against a naive one.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::support::reference;
use roadcall::routing::pattern::{Index, Pattern};

#[derive(Deserialize)]
struct Case {
    operator: String,
    pattern: Value,
    event: Value,
    matches: bool,
}

#[test]
fn every_operator_does_what_its_description_says() {
    let text = include_str!("../data/patterns.json");
    let cases: Vec<Case> = serde_json::from_str(text).expect("the table is valid");
    assert!(cases.len() >= 300, "{}", cases.len());
    for case in cases {
        let told = format!("{}: {} on {}", case.operator, case.pattern, case.event);
        let pattern = Pattern::new(case.pattern.clone()).expect(&told);
        assert_eq!(pattern.matches(&case.event), case.matches, "{told}");
        // Two of the naive one's simplifications: it folds ß, and knows $or only as an operator.
        if !told.contains('ß') && !told.contains("\"$or\":[{\"prefix\"") {
            let naive = reference::matches(&case.pattern, &case.event);
            assert_eq!(naive, case.matches, "the naive matcher: {told}");
        }
    }
}

#[test]
fn a_wrong_pattern_gets_one_sentence_that_names_the_field() {
    for (pattern, says) in [
        (json!("x"), "the pattern is no object"),
        (json!({}), "the pattern is empty; say what it has to hold"),
        (
            json!({ "detail": {} }),
            "detail is empty; say what it has to hold",
        ),
        (
            json!({ "a": "x" }),
            "a is no list; write [\"x\"] for one value",
        ),
        (
            json!({ "detail": { "a": [] } }),
            "detail.a has an empty list; nothing would match",
        ),
        (
            json!({ "a": [["x"]] }),
            "a has a list in its list; list the values themselves",
        ),
        (
            json!({ "a": [{ "prefx": "x" }] }),
            "a has the unknown operator 'prefx'; the nearest is 'prefix'",
        ),
        (json!({ "a": [{ "prefix": 1 }] }), "a prefix takes a text"),
        (
            json!({ "a": [{}] }),
            "a has an operator object that does not hold exactly one operator",
        ),
        (
            json!({ "a": [{ "exists": "yes" }] }),
            "a exists takes true or false",
        ),
        (
            json!({ "a": [{ "numeric": [">", 5, "<", 5] }] }),
            "a numeric says above 5 and below 5: no number is",
        ),
        (
            json!({ "a": [{ "numeric": ["<", 5, ">", 1] }] }),
            "a numeric takes a list like",
        ),
        (
            json!({ "a": [{ "numeric": ["~", 5] }] }),
            "a numeric takes a list like",
        ),
        (
            json!({ "a": [{ "numeric": [">", "5"] }] }),
            "a numeric takes a list like",
        ),
        (
            json!({ "a": [{ "cidr": "10.0.0.0/33" }] }),
            "a cidr '10.0.0.0/33' is no network",
        ),
        (
            json!({ "a": [{ "wildcard": "x**" }] }),
            "two stars side by side",
        ),
        (
            json!({ "a": [{ "wildcard": "x\\y" }] }),
            "escapes neither * nor \\",
        ),
        (
            json!({ "a": [{ "anything-but": [] }] }),
            "a anything-but has an empty list",
        ),
        (
            json!({ "a": [{ "anything-but": null }] }),
            "a anything-but takes texts and numbers",
        ),
        (
            json!({ "a": [{ "anything-but": { "numeric": ["=", 1] } }] }),
            "anything-but can't be said over 'numeric'",
        ),
        (
            json!({ "$or": [{ "a": [1] }, { "b": "x" }] }),
            "b is no list; write [\"x\"] for one value",
        ),
    ] {
        let error = Pattern::new(pattern.clone()).expect_err(says).to_string();
        assert!(error.contains(says), "{pattern}: {error}");
    }
    let many: Vec<Value> = (0..11).map(|n| json!({ "a": [n] })).collect();
    let levels = json!({ "x": { "$or": many }, "y": { "$or": many }, "z": { "$or": many } });
    let error = Pattern::new(levels).expect_err("1331 ways").to_string();
    assert!(error.contains("more than 1000 ways"), "{error}");
}

/// Pattern/event pairs.
const PAIRS: usize = 1_000_000;
const PATTERNS: usize = 20;
const EVENTS: usize = 50;

#[test]
fn a_million_random_pairs_match_as_the_naive_matcher_says() {
    let seed =
        std::env::var("ROADCALL_PATTERN_SEED").map_or(1, |text| text.parse().expect("a number"));
    let mut random = Random(ChaCha8Rng::seed_from_u64(seed));
    let mut matched = 0;
    for _ in 0..PAIRS / (PATTERNS * EVENTS) {
        let patterns: Vec<Value> = (0..PATTERNS).map(|_| random.pattern(2)).collect();
        let index = Index::new(
            patterns
                .iter()
                .map(|pattern| Pattern::new(pattern.clone()).expect("valid"))
                .collect(),
        );
        for _ in 0..EVENTS {
            let event = random.event();
            let found = index.matching(&event);
            for (n, pattern) in patterns.iter().enumerate() {
                let wanted = reference::matches(pattern, &event);
                let told = || format!("seed {seed}: {pattern} on {event}");
                assert_eq!(index.patterns()[n].matches(&event), wanted, "{}", told());
                assert_eq!(found.contains(&n), wanted, "by the index: {}", told());
                matched += usize::from(wanted);
            }
        }
    }
    // Else the pairs would say little.
    assert!(
        matched > PAIRS / 20 && matched < PAIRS * 19 / 20,
        "{matched}"
    );
}

/// Small alphabets, so that patterns and events meet.
struct Random(ChaCha8Rng);

impl Random {
    fn of<T: Clone>(&mut self, list: &[T]) -> T {
        list.choose(&mut self.0).expect("not empty").clone()
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.0.random_range(0..n) == 0
    }

    fn text(&mut self) -> String {
        self.of(&[
            "", "a", "ab", "aB", "abc", "b*", "ba", "10.0.0.7", "::1", "1",
        ])
        .to_owned()
    }

    fn scalar(&mut self) -> Value {
        match self.0.random_range(0..8) {
            0 => Value::Null,
            1 => json!(self.0.random_bool(0.5)),
            2 | 3 => self.of(&[
                json!(0),
                json!(1),
                json!(1.0),
                json!(1.5),
                json!(-1),
                json!(300),
                json!(1e10),
            ]),
            _ => json!(self.text()),
        }
    }

    fn event(&mut self) -> Value {
        let mut map = self.object(3);
        if self.one_in(8) {
            // A dotted name that clashes with nothing: what clashes is nobody's promise.
            map.insert("d.e".to_owned(), self.value(1));
        }
        Value::Object(map)
    }

    fn object(&mut self, depth: u32) -> Map<String, Value> {
        let mut map = Map::new();
        for name in ["a", "b", "c"] {
            if !self.one_in(3) {
                map.insert(name.to_owned(), self.value(depth - 1));
            }
        }
        map
    }

    fn value(&mut self, depth: u32) -> Value {
        match self.0.random_range(0..6) {
            0 if depth > 0 => Value::Array(
                (0..self.0.random_range(0..3))
                    .map(|_| self.value(depth - 1))
                    .collect(),
            ),
            1 | 2 if depth > 0 => Value::Object(self.object(depth)),
            3 => Value::Array(
                (0..self.0.random_range(0..3))
                    .map(|_| self.scalar())
                    .collect(),
            ),
            _ => self.scalar(),
        }
    }

    fn pattern(&mut self, depth: u32) -> Value {
        let mut map = Map::new();
        for name in ["a", "b", "c"] {
            if self.one_in(3) {
                map.insert(name.to_owned(), self.field(depth));
            }
        }
        if self.one_in(10) {
            map.insert("d.e".to_owned(), self.field(0));
        }
        if depth > 0 && self.one_in(6) {
            let alternatives: Vec<Value> = (0..2).map(|_| self.pattern(depth - 1)).collect();
            map.insert("$or".to_owned(), Value::Array(alternatives));
        }
        if map.is_empty() {
            map.insert("a".to_owned(), self.field(depth));
        }
        Value::Object(map)
    }

    fn field(&mut self, depth: u32) -> Value {
        if depth > 0 && self.one_in(3) {
            return self.pattern(depth - 1);
        }
        Value::Array(
            (0..self.0.random_range(1..3))
                .map(|_| self.condition())
                .collect(),
        )
    }

    fn condition(&mut self) -> Value {
        match self.0.random_range(0..12) {
            0 => json!({ "prefix": self.text() }),
            1 => json!({ "suffix": self.text() }),
            2 => json!({ "equals-ignore-case": self.text() }),
            3 => json!({ "wildcard": self.form() }),
            4 => self.anything_but(),
            5 => json!({ "numeric": self.range() }),
            6 => json!({ "exists": self.0.random_bool(0.5) }),
            7 => json!({ "cidr": self.of(&["10.0.0.0/29", "10.0.0.0/8", "::/64", "0.0.0.0/0"]) }),
            8 => {
                let operator = self.of(&["prefix", "suffix"]);
                json!({ operator: { "equals-ignore-case": self.text() } })
            }
            _ => self.scalar(),
        }
    }

    fn form(&mut self) -> &'static str {
        self.of(&["*", "a*", "*b", "a*b", "*a*", "b\\*", "ab", "1*7"])
    }

    fn range(&mut self) -> Value {
        self.of(&[
            json!(["=", 1]),
            json!([">", 0]),
            json!(["<=", 1.5]),
            json!([">=", -1, "<", 300]),
            json!([">", 1e9]),
        ])
    }

    fn anything_but(&mut self) -> Value {
        let but = match self.0.random_range(0..5) {
            0 => json!(self.text()),
            1 => json!([self.text(), self.text()]),
            2 => json!([1, 300]),
            3 => json!({ "wildcard": self.form() }),
            _ => {
                let operator = self.of(&["prefix", "suffix", "equals-ignore-case"]);
                json!({ operator: [self.text(), self.text()] })
            }
        };
        json!({ "anything-but": but })
    }
}
