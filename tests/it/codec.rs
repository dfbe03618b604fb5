//! Properties of the event codec, with messages made from the catalogue's own schemas: what a schema allows is read, kept
//! whole and written again in both encodings; what it forbids is refused with the field named; and no bytes do harm.
//!
//! A failing property prints the smallest message it found and its seed; `PROPTEST_RNG_SEED=<n>` draws the same ones
//! again, `PROPTEST_CASES=<n>` more of them.

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};
use serde_json::{Value, json};

use crate::support::schema::{Sample, Schema, anything, cbor};
use roadcall::event::seal::SECRET_LEN;
use roadcall::event::{
    Codec, DataKey, DecodeError, EncodeError, Event, Key, Known, MASK, Sealed, Site, Source,
    Subject, Ts, best_effort_id, catalogue, decode, encode, to_value,
};

const JSON: Option<&str> = Some("application/json");
const CBOR: Option<&str> = Some("application/cbor");

/// Draws from `strategy` until `property` fails or `cases` are done.
fn check<S: Strategy>(
    what: &str,
    cases: u32,
    strategy: &S,
    property: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let mut config = Config {
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => rand::random(),
    };
    config.rng_seed = RngSeed::Fixed(seed);
    let result = TestRunner::new(config).run(strategy, property);
    assert!(
        result.is_ok(),
        "{what}: {}\nagain with PROPTEST_RNG_SEED={seed}",
        result.map_or_else(|error| error.to_string(), |()| String::new())
    );
}

/// Checks a property of the messages of each version of each type, with something more that is drawn beside each.
fn check_each<E: Strategy>(
    cases: u32,
    extra: impl Fn() -> E,
    property: impl Fn(&Schema, Sample, E::Value) -> Result<(), TestCaseError>,
) {
    for schema in Schema::all() {
        let strategy = (schema.samples(), extra());
        check(&schema.name, cases, &strategy, |(sample, extra)| {
            property(&schema, sample, extra)
        });
    }
}

fn fail(message: impl Into<String>) -> TestCaseError {
    TestCaseError::fail(message.into())
}

fn read(sample: &Sample) -> Result<Event, TestCaseError> {
    decode(&sample.subject, JSON, &sample.json())
        .map_err(|error| fail(format!("a valid event was refused: {error}")))
}

/// Writes and reads an event again.
fn pass_on(event: &Event, codec: Codec) -> Result<Event, TestCaseError> {
    let bytes = encode(event, codec).map_err(|error| fail(error.to_string()))?;
    let subject = event.subject().to_string();
    decode(&subject, Some(codec.content_type()), &bytes)
        .map_err(|error| fail(format!("what was written as {codec:?} is refused: {error}")))
}

/// Whether all that `body` says stands in `event` as it was. The envelope's time is kept to the millisecond.
fn keeps(event: &Event, body: &Value) -> Result<(), TestCaseError> {
    let written = to_value(event);
    for (name, value) in body.as_object().expect("an object") {
        let kept = &written[name];
        if name == "time" {
            let time = |value: &Value| value.as_str().and_then(|text| text.parse::<Ts>().ok());
            prop_assert_eq!(time(kept), time(value));
        } else {
            prop_assert_eq!(kept, value, "{}", name);
        }
    }
    Ok(())
}

/// Whatever the decoder gave: an error names a field, an event can be passed on.
fn is_sound(result: Result<Event, DecodeError>) -> Result<(), TestCaseError> {
    let event = match result {
        Ok(event) => event,
        Err(error) => {
            prop_assert!(!error.field().is_empty(), "{}", error);
            return Ok(());
        }
    };
    for codec in [Codec::Json, Codec::Cbor] {
        match encode(&event, codec) {
            Ok(_) => prop_assert_eq!(&pass_on(&event, codec)?, &event),
            Err(EncodeError::TooLarge(_)) => {}
            Err(error) => return Err(fail(format!("{codec:?}: {error}"))),
        }
    }
    Ok(())
}

#[test]
fn what_a_schema_allows_is_read_and_passed_on_whole() {
    check_each(
        40,
        || Just(()),
        |schema, sample, ()| {
            prop_assert_eq!(schema.forbids(&sample.body), None);
            let event = read(&sample)?;
            keeps(&event, &sample.body)?;
            prop_assert_eq!(event.subject().to_string(), sample.subject.as_str());
            let from_cbor = decode(&sample.subject, CBOR, &sample.cbor());
            prop_assert_eq!(from_cbor.as_ref(), Ok(&event));
            let again = pass_on(&event, Codec::Cbor)?;
            prop_assert_eq!(&again, &event);
            let again = pass_on(&again, Codec::Json)?;
            prop_assert_eq!(&again, &event);
            keeps(&again, &sample.body)
        },
    );
}

/// Fields that are personal by their type, with what stands in them.
fn personal(event: &Event) -> Vec<(String, Value)> {
    let masked = event.known().map(Known::masked).unwrap_or_default();
    let fields = masked.as_object().into_iter().flatten();
    fields
        .filter(|(_, value)| **value == MASK)
        .map(|(name, _)| (name.clone(), event.detail[name].clone()))
        .collect()
}

fn sealed(value: &Value) -> Option<Sealed> {
    value.as_str().and_then(Sealed::parse)
}

#[test]
fn what_is_personal_is_somebodys_and_is_sealed_and_opened_whole() {
    let key = DataKey::new("k1", &[7; SECRET_LEN]);
    check_each(
        40,
        || Just(()),
        |_, sample, ()| {
            let mut event = read(&sample)?;
            let before = personal(&event);
            let has_plain = before.iter().any(|(_, value)| sealed(value).is_none());
            prop_assert_eq!(event.to_seal().is_some(), has_plain, "a data subject");
            let whole = event.detail.clone();
            event.seal(&key);
            for (name, value) in &before {
                let text = sealed(&event.detail[name]);
                prop_assert!(text.is_some(), "{} is plain still", name);
                if sealed(value).is_none() {
                    let opened = text.and_then(|text| key.open(&text));
                    let opened = opened.and_then(|bytes| serde_json::from_slice(&bytes).ok());
                    prop_assert_eq!(opened.as_ref(), Some(value), "{}", name);
                }
            }
            for (name, value) in &whole {
                if !before.iter().any(|(personal, _)| personal == name) {
                    prop_assert_eq!(&event.detail[name], value, "{}", name);
                }
            }
            let again = pass_on(&event, Codec::Json)?;
            prop_assert_eq!(again.to_seal(), None, "sealed all the same");
            prop_assert_eq!(&again.detail, &event.detail);
            Ok(())
        },
    );
}

#[test]
fn a_field_that_is_missing_or_of_another_type_is_named() {
    let wrong = [
        json!(null),
        json!(true),
        json!(-12.5),
        json!("\u{7}"),
        json!([]),
        json!({}),
    ];
    check_each(
        2,
        || Just(()),
        |schema, sample, ()| {
            let refused = |field: &str, value: Option<&Value>| {
                let mut sample = sample.clone();
                let detail = sample.body["detail"].as_object_mut().expect("an object");
                match value {
                    Some(value) => detail.insert(field.to_owned(), value.clone()),
                    None => detail.remove(field),
                };
                let error = decode(&sample.subject, JSON, &sample.json()).err();
                error.ok_or_else(|| fail(format!("{field} {value:?} was taken")))
            };
            for field in schema.required() {
                let error = refused(&field, None)?;
                prop_assert_eq!(error.to_string(), format!("detail.{field}: is missing"));
            }
            for field in schema.detail()["properties"]
                .as_object()
                .expect("fields")
                .keys()
            {
                for value in &wrong {
                    if schema.forbids_field(field, value).is_some() {
                        let error = refused(field, Some(value))?;
                        let path = format!("detail.{field}");
                        // Of an empty object it is the first field inside that is missing.
                        let inside = error.field().strip_prefix(&path);
                        let named =
                            inside.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
                        prop_assert!(named, "{} named for {}", error, path);
                    }
                }
            }
            Ok(())
        },
    );
}

/// What is done to one place of a message.
#[derive(Debug, Clone)]
enum Change {
    Remove,
    Replace(Value),
    /// `v` to `[v]`.
    Wrap,
    /// An object to the list of its values: what a reader that goes by order would take.
    Flatten,
    /// In a text: a character away, another in its place, or one more.
    Edit(Index, u8, char),
    /// In an object: a field that nobody knows.
    Add(String, Value),
}

fn changes() -> impl Strategy<Value = Change> {
    let near = [
        'z', 't', 'A', '0', '9', ' ', '@', '.', ':', '-', '+', '\n', '\u{85}', '\u{a0}',
        '\u{feff}', '\u{661}', '\u{2212}',
    ];
    let c = prop_oneof![4 => select(near.to_vec()), 1 => any::<char>()];
    prop_oneof![
        1 => Just(Change::Remove),
        2 => anything().prop_map(Change::Replace),
        1 => Just(Change::Wrap),
        1 => Just(Change::Flatten),
        4 => (any::<Index>(), 0..3_u8, c).prop_map(|(at, how, c)| Change::Edit(at, how, c)),
        1 => ("[a-z]{1,6}", anything()).prop_map(|(name, value)| Change::Add(name, value)),
    ]
}

/// A place in a message: its JSON pointer, and the path that an error names it by.
#[derive(Debug, Clone)]
struct Place {
    pointer: String,
    path: String,
}

fn places(value: &Value, at: &Place, found: &mut Vec<Place>) {
    let mut go_on = |token: &str, path: String, value: &Value| {
        let token = token.replace('~', "~0").replace('/', "~1");
        let pointer = format!("{}/{token}", at.pointer);
        let place = Place { pointer, path };
        found.push(place.clone());
        places(value, &place, found);
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| {
            let dot = if at.path.is_empty() { "" } else { "." };
            go_on(name, format!("{}{dot}{name}", at.path), value);
        }),
        Value::Array(items) => items.iter().enumerate().for_each(|(n, value)| {
            go_on(&n.to_string(), format!("{}[{n}]", at.path), value);
        }),
        _ => {}
    }
}

/// Changes one place of the body; says which one.
fn change(body: &mut Value, at: Index, change: Change) -> Place {
    let (pointer, path) = Default::default();
    let mut found = Vec::new();
    places(body, &Place { pointer, path }, &mut found);
    let place = at.get(&found).clone();
    if let Change::Remove = change {
        let (parent, _) = place.pointer.rsplit_once('/').expect("a pointer");
        let name = place.path.rsplit('.').next().unwrap_or_default();
        if let Some(Value::Object(map)) = body.pointer_mut(parent) {
            map.remove(name);
        }
        return place;
    }
    let value = body.pointer_mut(&place.pointer).expect("it is there");
    match (change, value) {
        (Change::Replace(other), value) => *value = other,
        (Change::Wrap, value) => *value = Value::Array(vec![value.take()]),
        (Change::Flatten, Value::Object(map)) => {
            let items = std::mem::take(map).into_iter().map(|(_, value)| value);
            let items = items.collect();
            *body.pointer_mut(&place.pointer).expect("it is there") = Value::Array(items);
        }
        (Change::Edit(at, how, c), Value::String(text)) => {
            let mut chars: Vec<char> = text.chars().collect();
            let at = at.index(chars.len() + 1);
            if how < 2 && at < chars.len() {
                chars.remove(at);
            }
            if how > 0 {
                chars.insert(at.min(chars.len()), c);
            }
            *text = chars.into_iter().collect();
        }
        (Change::Add(name, value), Value::Object(map)) => {
            map.insert(name, value);
        }
        _ => {}
    }
    place
}

/// Whether an error speaks of two fields, or of a field and the subject, that do not agree: no schema can say that.
fn compares(error: &DecodeError) -> bool {
    let text = error.to_string();
    text.contains("differs from") || text.contains("but the subject says")
}

#[test]
fn the_decoder_and_the_schema_refuse_the_same() {
    let extra = || (any::<Index>(), changes());
    check_each(120, extra, |schema, sample, (at, what)| {
        let mut changed = sample.clone();
        let place = change(&mut changed.body, at, what);
        let forbidden = schema.forbids(&changed.body);
        let result = decode(&changed.subject, JSON, &changed.json());
        match (&result, forbidden) {
            (Ok(_), None) => {}
            (Ok(_), Some(why)) => return Err(fail(format!("{}: taken, but {why}", place.path))),
            (Err(error), None) => prop_assert!(compares(error), "refused: {}", error),
            (Err(error), Some(_)) => {
                let (field, path) = (error.field(), place.path.as_str());
                let related = field.starts_with(path) || path.starts_with(field);
                prop_assert!(related || compares(error), "{} named for {}", error, path);
            }
        }
        let as_cbor = decode(&changed.subject, CBOR, &changed.cbor());
        prop_assert_eq!(&as_cbor, &result);
        is_sound(result)
    });
}

/// What happens to a message's bytes.
#[derive(Debug, Clone)]
enum Harm {
    FlipBit(Index),
    Cut(Index),
    Insert(Index, Vec<u8>),
    Append(Vec<u8>),
}

fn harms() -> impl Strategy<Value = Harm> {
    let bytes = || prop::collection::vec(any::<u8>(), 1..9);
    prop_oneof![
        4 => any::<Index>().prop_map(Harm::FlipBit),
        1 => any::<Index>().prop_map(Harm::Cut),
        2 => (any::<Index>(), bytes()).prop_map(|(at, bytes)| Harm::Insert(at, bytes)),
        1 => bytes().prop_map(Harm::Append),
    ]
}

fn content_types() -> impl Strategy<Value = Option<String>> {
    let odd = [
        "application/json; charset=utf-8",
        "application/cbor;",
        "application/JSON",
        "text/plain",
        ";",
        "",
    ];
    let known = select(vec![JSON, CBOR, None]).prop_map(|kind| kind.map(str::to_owned));
    prop_oneof![
        8 => known,
        1 => select(odd.to_vec()).prop_map(|kind| Some(kind.to_owned())),
        1 => any::<String>().prop_map(Some),
    ]
}

#[test]
fn a_damaged_message_is_refused_or_still_an_event() {
    let extra = || (any::<bool>(), harms(), content_types());
    check_each(40, extra, |_, sample, (as_json, harm, content_type)| {
        let mut bytes = if as_json {
            sample.json()
        } else {
            sample.cbor()
        };
        let whole = bytes.clone();
        match &harm {
            Harm::FlipBit(at) => bytes[at.index(whole.len())] ^= 1 << at.index(8),
            Harm::Cut(at) => bytes.truncate(at.index(whole.len())),
            Harm::Insert(at, more) => {
                let at = at.index(whole.len());
                bytes.splice(at..at, more.iter().copied());
            }
            Harm::Append(more) => bytes.extend(more),
        }
        let result = decode(&sample.subject, content_type.as_deref(), &bytes);
        let spaces = |more: &[u8]| as_json && more.trim_ascii().is_empty();
        if matches!(&harm, Harm::Cut(_)) || matches!(&harm, Harm::Append(more) if !spaces(more)) {
            prop_assert!(result.is_err(), "more or less than a message was taken");
        }
        let _ = best_effort_id(&bytes);
        is_sound(result)
    });
}

#[test]
fn no_bytes_do_harm() {
    let subject = "roadcall.hub.incident.WorkStarted.k";
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        anything().prop_map(|value| value.to_string().into_bytes()),
        anything().prop_map(|value| cbor(&value)),
    ];
    let strategy = (bytes, content_types());
    check("any bytes", 2000, &strategy, |(bytes, content_type)| {
        let _ = best_effort_id(&bytes);
        is_sound(decode(subject, content_type.as_deref(), &bytes))
    });
}

/// `depth` lists in each other, in a field that nobody knows.
fn nested(sample: &Sample, depth: usize) -> Sample {
    let mut value = json!([]);
    for _ in 1..depth {
        value = json!([value]);
    }
    let mut sample = sample.clone();
    sample.body["x-nested"] = value;
    sample
}

fn one_sample() -> Sample {
    let id = "0192f3c1-0000-7000-8000-000000000001";
    let time = "2026-01-15T10:00:00.000Z";
    let detail = json!({
        "eventId": id, "timestamp": time, "version": "1.0", "incidentId": id, "vendorId": id, "driverId": id,
        "incidentType": "tire", "startedAt": time,
    });
    let body = json!({
        "id": id, "source": "roadcall.incident", "detail-type": "WorkStarted", "time": time, "detail": detail,
    });
    let subject = format!("roadcall.hub.incident.WorkStarted.{id}");
    Sample { subject, body }
}

#[test]
fn what_is_deep_is_read_in_both_encodings_or_in_neither() {
    let sample = one_sample();
    for depth in [1, 63, 64, 65, 125, 126, 127, 128, 1000] {
        let sample = nested(&sample, depth);
        let json = decode(&sample.subject, JSON, &sample.json());
        let cbor = decode(&sample.subject, CBOR, &sample.cbor());
        assert_eq!(json.is_ok(), cbor.is_ok(), "{depth}: {json:?} {cbor:?}");
        assert_eq!(json.is_ok(), depth <= 126, "{depth}: {json:?}");
        is_sound(json).expect("sound");
    }
}

#[test]
fn a_personal_value_stays_out_of_the_error() {
    let secret = "12 Elm Street, expected";
    for (field, name, value) in [
        ("location", "IncidentCreated", json!(secret)),
        (
            "location",
            "IncidentCreated",
            json!({ "lat": secret, "lon": 1 }),
        ),
        ("phone", "CallStarted", json!(secret)),
        ("phone", "CallStarted", json!({ "number": secret })),
        ("name", "UserRegistered", json!([secret])),
        ("name", "UserRegistered", json!(format!("sealed:{secret}"))),
    ] {
        let row = catalogue()
            .find(|row| row.detail_type == name)
            .expect("listed");
        check(
            name,
            1,
            &Schema::of(row, &row.versions[0]).samples(),
            |mut sample| {
                sample.body["detail"][field] = value.clone();
                let error = decode(&sample.subject, JSON, &sample.json()).expect_err("refused");
                prop_assert_eq!(error.field(), format!("detail.{field}"));
                prop_assert!(!error.to_string().contains("Elm"), "{}", error);
                Ok(())
            },
        );
    }
}

#[test]
fn subjects_read_back_as_written() {
    let parts = (
        "[a-z0-9-]{1,32}",
        select(Source::ALL.to_vec()),
        "[A-Z][A-Za-z0-9]{0,63}",
        "[A-Za-z0-9_-]{1,64}",
    );
    check(
        "subjects",
        500,
        &parts,
        |(site, source, detail_type, entity)| {
            let subject = Subject {
                site: Site::new(site).map_err(|error| fail(error.to_string()))?,
                source,
                detail_type,
                entity: Key::new(entity).map_err(|error| fail(error.to_string()))?,
            };
            prop_assert_eq!(subject.to_string().parse(), Ok(subject));
            Ok(())
        },
    );
    let token = prop_oneof![
        Just("roadcall".to_owned()),
        Just("incident".to_owned()),
        "[A-Za-z0-9_*>-]{0,8}",
        any::<String>(),
    ];
    let near = prop::collection::vec(token, 0..7).prop_map(|tokens| tokens.join("."));
    let text = prop_oneof![any::<String>(), near];
    check("any text", 2000, &text, |text| {
        match text.parse::<Subject>() {
            Ok(subject) => prop_assert_eq!(subject.to_string(), text),
            Err(error) => {
                let error = error.to_string();
                prop_assert!(!error.is_empty() && error.len() < 300, "{}", error);
                let refused = decode(&text, JSON, &one_sample().json()).expect_err("refused");
                prop_assert_eq!(refused.field(), "subject");
            }
        }
        Ok(())
    });
}
