//! `roadcall event asyncapi`: the document hangs together, says of each payload what the schemas say, and the official
//! parser takes it (where `make asyncapi` or `make test` has installed that one).

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::support::schema::{Schema, problem};
use roadcall::event::{asyncapi, catalogue};
use roadcall::routing::Routes;

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_roadcall"))
        .env_clear()
        .args(arguments)
        .output()
        .expect("runs")
}

/// Every `$ref` in the document.
fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere_and_addresses_have_their_parameters() {
    let document = asyncapi();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 500, "{}", found.len());
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("in the document");
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    let channels = document["channels"].as_object().expect("channels");
    assert_eq!(channels.len(), catalogue().count());
    for (name, channel) in channels {
        let address = channel["address"].as_str().expect("a text");
        let named: BTreeSet<&str> = address
            .split('.')
            .filter_map(|token| token.strip_prefix('{')?.strip_suffix('}'))
            .collect();
        let parameters = channel["parameters"].as_object().expect("parameters");
        let declared: BTreeSet<&str> = parameters.keys().map(String::as_str).collect();
        assert_eq!(named, declared, "{name}");
        let example = address.replace("{site}", "hub");
        assert!(example.starts_with("roadcall.hub."), "{address}");
    }
}

#[test]
fn each_queue_receives_what_the_rules_bring_it() {
    let document = asyncapi();
    let operations = document["operations"].as_object().expect("operations");
    let routes = Routes::shipped();
    let mut wanted = BTreeSet::new();
    for row in catalogue() {
        wanted.insert(format!("send.{}", row.detail_type));
        let queues = routes.queues().into_iter();
        let fed = queues.filter(|queue| {
            let mut found = routes.admitting(queue, row.source, row.detail_type);
            found.next().is_some()
        });
        wanted.extend(fed.map(|queue| format!("{queue}.{}", row.detail_type)));
    }
    let there: BTreeSet<String> = operations.keys().cloned().collect();
    assert_eq!(there, wanted);
    let taken = &operations["audit-queue.DocumentIndexingFailed"]["messages"];
    assert_eq!(taken.as_array().map(Vec::len), Some(2), "{taken}");
    let sent = &operations["send.DocumentIndexingFailed"]["messages"];
    let sent = sent[0]["$ref"].as_str().expect("a reference");
    assert!(sent.ends_with("DocumentIndexingFailed-1.0"), "{sent}");
}

#[test]
fn its_payloads_allow_and_forbid_what_the_schemas_do() {
    let document = asyncapi();
    let mut runner = TestRunner::deterministic();
    for schema in Schema::all() {
        let key = schema.name.replace(' ', "-");
        let payload = &document["components"]["messages"][&key]["payload"];
        assert!(payload.is_object(), "{key}");
        for _ in 0..8 {
            let sample = schema.samples().new_tree(&mut runner).expect("one");
            let mut body = sample.current().body;
            assert_eq!(problem(&document, payload, &body), None, "{key} {body}");
            let field = schema.row.entity_field;
            body["detail"][field] = json!(["no key"]);
            assert!(problem(&document, payload, &body).is_some(), "{key}");
        }
    }
}

#[test]
fn the_official_parser_takes_the_document_and_refuses_a_broken_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let printed = run(&["event", "asyncapi"]);
    assert!(printed.status.success(), "{printed:?}");
    let text = String::from_utf8(printed.stdout).expect("UTF-8");
    let as_json = run(&["--json", "event", "asyncapi"]);
    assert_eq!(
        serde_json::from_slice::<Value>(&as_json.stdout).ok(),
        Some(asyncapi())
    );
    if !root.join("target/asyncapi/version").is_file() {
        eprintln!("the official parser is not there; `make asyncapi` installs it");
        return;
    }
    let dir = tempfile::TempDir::new().expect("a directory");
    let check = |text: &str| {
        let file = dir.path().join("asyncapi.yaml");
        std::fs::write(&file, text).expect("written");
        let mut command = Command::new(root.join("scripts/check-asyncapi"));
        command.arg(&file).output().expect("runs")
    };
    let whole = check(&text);
    assert!(whole.status.success(), "{whole:?}");
    let said = String::from_utf8_lossy(&whole.stdout).into_owned();
    let channels = format!("{} channels", catalogue().count());
    assert!(said.contains(&channels), "{said}");
    for (from, to) in [
        // An action that there is not, a message that is not there, a type that JSON Schema does not have.
        ("action: send", "action: shout"),
        ("/messages/WorkStarted-1.0", "/messages/WorkStarted-7.0"),
        ("type: integer", "type: whole"),
    ] {
        let broken = text.replacen(from, to, 1);
        assert_ne!(broken, text, "{from}");
        let refused = check(&broken);
        assert_eq!(refused.status.code(), Some(1), "{to}: {refused:?}");
    }
}

#[test]
fn each_version_has_a_schema_on_the_command_line() {
    let of = |arguments: &[&str]| {
        let output = run(&[&["event", "schema", "DocumentIndexingFailed"], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        let schema: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        schema["properties"]["detail"]["allOf"][1]["required"].clone()
    };
    let one = json!(["documentId", "revision", "error", "failedAt"]);
    let two = json!(["documentId", "revision", "reason", "failedAt"]);
    assert_eq!(of(&[]), one);
    assert_eq!(of(&["--version", "1.0"]), one);
    assert_eq!(of(&["--version", "2.0"]), two);
    let refused = run(&["event", "schema", "WorkStarted", "--version", "2.0"]);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(64), "{words}");
    assert!(
        words.contains("WorkStarted has no version '2.0'"),
        "{words}"
    );
    let rows = run(&["--json", "event", "catalog"]);
    let rows: Value = serde_json::from_slice(&rows.stdout).expect("JSON");
    let row = rows.as_array().expect("a list").iter();
    let mut row = row.filter(|row| row["detailType"] == "DocumentIndexingFailed");
    let row = row.next().expect("listed");
    assert_eq!(row["version"], "1.0");
    assert_eq!(row["versions"], json!(["1.0", "2.0"]));
}
