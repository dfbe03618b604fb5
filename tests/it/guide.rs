//! docs/events.md and what it rests on: each step names a test that fails when the step is forgotten, each such test is
//! there, and those that have no better home are here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::schema::Schema;
use roadcall::config::Config;
use roadcall::event::{
    Code, DocumentIndexingFailed, DocumentIndexingFailed1, Id, Known, Ts, catalogue, decode,
    schema, to_value,
};
use roadcall::node::registry;
use roadcall::role::RoleName;
use roadcall::routing::Routes;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn each_step_of_the_guide_names_a_test_that_is_there() {
    let guide = text("docs/events.md");
    let named = Regex::new(r"`((?:src|tests)/[a-z_/]+\.rs)::([a-z0-9_]+)`").expect("valid");
    let mut problems = Vec::new();
    let mut steps = 0;
    let is_step = |line: &&str| {
        let first = line.strip_prefix("| ").and_then(|rest| rest.chars().next());
        first.is_some_and(|c| c.is_ascii_digit())
    };
    for line in guide.lines().filter(is_step) {
        steps += 1;
        let tests = named.captures_iter(line).count();
        if tests == 0 && !line.contains("the compiler") {
            problems.push(format!("names no test: {line}"));
        }
    }
    for test in named.captures_iter(&guide) {
        let (path, name) = (&test[1], &test[2]);
        let code = std::fs::read_to_string(root().join(path)).unwrap_or_default();
        let declared = Regex::new(&format!(
            r"#\[(?:tokio::)?test[^\n]*\]\s+(?:async )?fn {name}\("
        ));
        if !declared.expect("valid").is_match(&code) {
            problems.push(format!("{path} has no test {name}"));
        }
    }
    assert!(steps >= 20, "only {steps} steps were found");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn every_known_type_has_one_row() {
    let mut names: Vec<&str> = Known::NAMES.to_vec();
    let mut rows: Vec<&str> = catalogue().map(|row| row.detail_type).collect();
    names.sort_unstable();
    rows.sort_unstable();
    assert_eq!(rows, names);
}

#[test]
fn every_type_goes_somewhere_but_to_the_log() {
    // DOMAIN 3.3 marks these "–": reporting and audit alone take them.
    let nowhere = [
        "TrackingStarted",
        "TrackingUpdated",
        "TrackingStopped",
        "CallStarted",
        "PiiAccessed",
        "UserVerified",
        "DocumentIndexed",
        "DocumentIndexingFailed",
        "DocumentDeleted",
        "ReplayStarted",
        "ReplayCompleted",
        "ReplayCancelled",
        "SiteReported",
        "DeadLetterCreated",
        "DeadLetterRedriven",
        "DeadLetterPurged",
    ];
    let lonely = catalogue().filter(|row| row.queues.is_empty());
    let lonely: Vec<&str> = lonely.map(|row| row.detail_type).collect();
    assert_eq!(lonely, nowhere);
}

#[test]
fn versions_rise_and_the_written_one_is_read() {
    let form = Regex::new(r"^[1-9][0-9]{0,8}\.(0|[1-9][0-9]{0,8})$").expect("valid");
    for row in catalogue() {
        let name = row.detail_type;
        let majors: Vec<u32> = row.versions.iter().map(|version| version.major()).collect();
        assert!(majors.is_sorted_by(|a, b| a < b), "{name}: {majors:?}");
        let mut names = row.versions.iter().map(|version| version.name);
        assert!(names.clone().all(|name| form.is_match(name)), "{name}");
        assert!(names.any(|name| name == row.version), "{name}");
        for version in row.versions {
            let required = Schema::of(row, version).required();
            let key = row.entity_field.to_owned();
            assert!(required.contains(&key), "{name} {}: {key}", version.name);
        }
    }
}

/// What is published of the catalogue: each field of each version, and each definition.
fn published() -> String {
    let mut lines = BTreeSet::new();
    for row in catalogue() {
        for version in row.versions {
            let schema = schema(row, version);
            let parts = schema["properties"]["detail"]["allOf"].as_array();
            let own = &parts.expect("the base and the type's own")[1];
            let required = own["required"].as_array().cloned().unwrap_or_default();
            for (field, says) in own["properties"].as_object().into_iter().flatten() {
                let there = required.contains(&json!(field));
                let there = if there { "required" } else { "optional" };
                let name = row.detail_type;
                lines.insert(format!("{name} {} {field} {there} {says}", version.name));
            }
            for (name, says) in schema["$defs"].as_object().into_iter().flatten() {
                lines.insert(format!("type {name} {says}"));
            }
        }
    }
    lines
        .into_iter()
        .fold(String::new(), |text, line| text + &line + "\n")
}

#[test]
fn a_published_version_keeps_its_fields() {
    let now = published();
    let before = text("tests/data/catalogue.txt");
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (now_lines, before_lines) = (lines(&now), lines(&before));
    if now_lines == before_lines {
        return;
    }
    let file = root().join("target/catalogue.txt");
    std::fs::write(&file, &now).expect("written");
    let mut message = String::new();
    for gone in before_lines.difference(&now_lines) {
        let _ = writeln!(message, "gone or changed: {gone}");
    }
    for new in now_lines.difference(&before_lines) {
        let _ = writeln!(message, "new: {new}");
    }
    panic!(
        "{message}A version that events were written in may gain an optional field, nothing else (DOMAIN 3.4); the rest \
         is a new version (docs/events.md). Where that is what it is: cp target/catalogue.txt tests/data/catalogue.txt"
    );
}

/// Words at the end of a field's name that speak of a person.
const OF_A_PERSON: [&str; 9] = [
    "phone",
    "name",
    "email",
    "note",
    "notes",
    "description",
    "address",
    "location",
    "transcript",
];
/// Fields that end so and are none of class P (DOMAIN 3.2 and 3.3), with the reason.
const OF_NOBODY: [(&str, &str, &str); 9] = [
    ("*", "businessName", "a company's"),
    ("*", "alarmName", "an alarm's"),
    ("*", "replayName", "a replay's"),
    ("*", "areaLocation", "rounded to 0.1 degrees"),
    ("VendorRegistered", "location", "where a business works"),
    ("VendorUpdated", "location", "where a business works"),
    ("VendorLocationUpdated", "location", "class S"),
    ("TrackingUpdated", "location", "class S"),
    ("TrackingStarted", "vendorLocation", "class S"),
];

#[test]
fn a_field_that_speaks_of_a_person_is_personal() {
    let mut problems = Vec::new();
    let mut personal = 0;
    for schema in Schema::all() {
        let detail = schema.detail();
        for (field, says) in detail["properties"].as_object().expect("fields") {
            let start = field.rfind(|c: char| c.is_ascii_uppercase()).unwrap_or(0);
            let last = field[start..].to_ascii_lowercase();
            let kind = schema.row.detail_type;
            let excused = OF_NOBODY
                .iter()
                .any(|(of, name, _)| (*of == "*" || *of == kind) && name == field);
            if !OF_A_PERSON.contains(&last.as_str()) || excused {
                continue;
            }
            if says.to_string().contains("Personal") {
                personal += 1;
            } else {
                problems.push(format!(
                    "{}: {field} is not Personal<T>: {says}",
                    schema.name
                ));
            }
        }
    }
    assert!(personal >= 20, "only {personal} were found");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The folder or file of a role's sources.
fn sources(role: RoleName) -> String {
    let name = match role {
        RoleName::Match => "matching",
        other => other.as_str(),
    };
    let mut files = Vec::new();
    let folder = root().join("src/role").join(name);
    walk(&folder, &mut files);
    files.push(folder.with_extension("rs"));
    let shipped = |path: &PathBuf| !path.ends_with("tests.rs") && path.is_file();
    let read = |path: PathBuf| std::fs::read_to_string(path).expect("UTF-8");
    let code = files.into_iter().filter(shipped).map(read);
    let code: String = code.collect();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            if !path.ends_with("tests") {
                walk(&path, files);
            }
        } else {
            files.push(path);
        }
    }
}

#[test]
fn a_routed_event_has_a_reaction_in_its_role() {
    let routes = Routes::shipped();
    let mut problems = Vec::new();
    let mut reactions = 0;
    for role in RoleName::BUILT {
        // They take every event, whatever it is.
        if matches!(role, RoleName::Audit | RoleName::Reporting) {
            continue;
        }
        let Some(queue) = role.queue() else { continue };
        let code = sources(role);
        for row in catalogue() {
            let mut routed = routes.admitting(queue, row.source, row.detail_type);
            if routed.next().is_none() {
                continue;
            }
            let name = row.detail_type;
            let typed = Regex::new(&format!(r"\bKnown::{name}\b")).expect("valid");
            if typed.is_match(&code) || code.contains(&format!("\"{name}\"")) {
                reactions += 1;
            } else {
                problems.push(format!(
                    "{name} goes to {queue}, and {role} never looks at it"
                ));
            }
        }
    }
    assert!(reactions > 20, "only {reactions} were found");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn what_is_built_is_in_the_registry_and_nothing_else_is() {
    let config = Config::default();
    for name in RoleName::ALL {
        let role = registry::build(&config, name);
        let built = RoleName::BUILT.contains(&name);
        assert_eq!(role.is_some(), built, "{name}");
        if let Some(role) = role {
            assert_eq!(role.name(), name);
            let prefix = |command: &str| command.split_once('.').is_some();
            assert!(
                role.commands().iter().all(|spec| prefix(spec.name)),
                "{name}"
            );
        }
    }
}

#[test]
fn published_migrations_never_change() {
    let config = Config::default();
    let mut now: BTreeMap<String, String> = BTreeMap::new();
    let mut add = |owner: &str, migrations: &[&str]| {
        for (n, sql) in migrations.iter().enumerate() {
            let digest = Sha256::digest(sql.as_bytes());
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            now.insert(format!("{owner} {}", n + 1), digest);
        }
    };
    add("engine", roadcall::store::engine_migrations());
    for name in RoleName::BUILT {
        let role = registry::build(&config, name).expect("built");
        add(name.as_str(), role.migrations());
    }
    let listed = text("tests/data/migrations.txt");
    let mut problems = String::new();
    for line in listed.lines().filter(|line| !line.starts_with('#')) {
        let (key, digest) = line.rsplit_once(' ').expect("owner, number, digest");
        match now.remove(key) {
            Some(found) if found == digest => {}
            Some(_) => {
                let _ = writeln!(problems, "{key} was changed; put the change into a new one");
            }
            None => {
                let _ = writeln!(problems, "{key} is gone");
            }
        }
    }
    for (key, digest) in now {
        let _ = writeln!(problems, "new, to be listed: {key} {digest}");
    }
    assert!(
        problems.is_empty(),
        "tests/data/migrations.txt:\n{problems}"
    );
}

const ID: &str = "0192f3c1-0000-7000-8000-000000000001";
const TIME: &str = "2026-01-15T10:00:00.000Z";

fn read(version: &str, own: (&str, &str)) -> Result<roadcall::event::Event, String> {
    let mut body = json!({
        "id": ID, "source": "roadcall.kb", "detail-type": "DocumentIndexingFailed", "time": TIME,
        "detail": { "eventId": ID, "timestamp": TIME, "version": version, "documentId": ID, "revision": 3, "failedAt": TIME },
    });
    body["detail"][own.0] = own.1.into();
    let subject = format!("roadcall.hub.kb.DocumentIndexingFailed.{ID}");
    let body = serde_json::to_vec(&body).expect("JSON");
    decode(&subject, None, &body).map_err(|error| error.to_string())
}

#[test]
fn both_versions_of_the_worked_example_read_as_the_newest() {
    let wanted = DocumentIndexingFailed {
        document_id: Id::parse(ID).expect("an id"),
        revision: serde_json::from_value(json!(3)).expect("a count"),
        reason: Code::new("unreadable").expect("a code"),
        failed_at: TIME.parse::<Ts>().expect("a time"),
    };
    let wanted = Known::DocumentIndexingFailed(Box::new(wanted));
    for (version, field) in [
        ("1.0", "error"),
        ("1.7", "error"),
        ("2.0", "reason"),
        ("2.9", "reason"),
    ] {
        let event = read(version, (field, "unreadable")).expect(version);
        assert_eq!(event.known(), Some(&wanted), "{version}");
        // What is passed on is what came: a published event does not change.
        assert_eq!(to_value(&event)["detail"][field], "unreadable");
        assert_eq!(to_value(&event)["detail"]["version"], version);
    }
    for (version, field, says) in [
        ("1.0", "reason", "detail.error: is missing"),
        ("2.0", "error", "detail.reason: is missing"),
        (
            "3.0",
            "reason",
            "detail.version: DocumentIndexingFailed 3.0 can't be read, the newest known is 2.0",
        ),
        (
            "0.9",
            "error",
            "detail.version: DocumentIndexingFailed 0.9 can't be read, the newest known is 2.0",
        ),
    ] {
        assert_eq!(
            read(version, (field, "unreadable")).err().as_deref(),
            Some(says)
        );
    }
    let error = read("1.0", ("error", "Not A Code")).expect_err("no code");
    assert!(error.starts_with("detail.error: "), "{error}");
}

#[test]
fn the_producer_of_the_worked_example_still_writes_the_first() {
    use roadcall::event::{Base, Detail, Event, Site};
    let old = DocumentIndexingFailed1 {
        document_id: Id::parse(ID).expect("an id"),
        revision: serde_json::from_value(json!(1)).expect("a count"),
        error: Code::new("empty").expect("a code"),
        failed_at: TIME.parse::<Ts>().expect("a time"),
    };
    assert_eq!(<DocumentIndexingFailed1 as Detail>::VERSION, "1.0");
    let base = Base {
        id: Id::parse(ID).expect("an id"),
        time: TIME.parse().expect("a time"),
        site: Site::new("hub").expect("a site"),
        home: None,
        cause: None,
        correlation: None,
        metadata: BTreeMap::new(),
    };
    let event = Event::build(&old, base);
    let written: Value = to_value(&event);
    assert_eq!(written["detail"]["version"], "1.0");
    assert_eq!(written["detail"]["error"], "empty");
    let Some(Known::DocumentIndexingFailed(known)) = event.known() else {
        panic!("known as something else");
    };
    assert_eq!(known.reason.as_str(), "empty");
}
