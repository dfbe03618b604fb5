//! Schemathesis reads the OpenAPI document of a running door and sends what it makes of it, sound and unsound, to every
//! operation: no answer may be a server's error, and none may have a status, a media type or a body that the document
//! does not name.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::gateway::{Door, open};
use crate::support::sized;
use roadcall::event::UserRole;
use roadcall::gateway::document;

const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";

/// Runs it over the document at `location` with a person's token; `more` are further arguments.
async fn fuzz(door: &Door, location: &str, token: &str, more: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = root.join("target/schemathesis");
    assert!(
        packages.join("schemathesis").is_dir(),
        "no schemathesis; run `make schemathesis`"
    );
    let work = tempfile::TempDir::new().expect("a directory");
    let mut python = tokio::process::Command::new("python3");
    python
        .env("PYTHONPATH", packages)
        .current_dir(work.path())
        .args(["-m", "schemathesis.cli", "run", location])
        .args(["--url", &format!("http://{}", door.gateway.address)])
        .args(["--header", &format!("Authorization: Bearer {token}")])
        .args(["--checks", CHECKS, "--seed", "1", "--no-color"])
        .args(["--generation-database", "none", "--workers", "1"])
        .args(["--request-timeout", "20", "--continue-on-failure"])
        .args(more)
        .kill_on_drop(true);
    python.output().await.expect("python3 runs")
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Everything but `/v1/events`: that answer has no end, so that a client which reads it whole never comes back.
async fn holds(role: UserRole) {
    let door = open(|_| {}).await;
    let token = door.token(role, 1);
    let location = format!("http://{}/v1/openapi.json", door.gateway.address);
    let mut more = vec!["--exclude-path", "/v1/events"];
    // The long form tries the bounds of every field one by one, too, and then goes on until its time is up.
    more.extend(match sized(0, 1) {
        0 => ["--phases", "examples,fuzzing", "--max-examples", "4"],
        _ => ["--phases", "examples,coverage,fuzzing", "--max-time", "400"],
    });
    let output = fuzz(&door, &location, &token, &more).await;
    let words = words(&output);
    assert!(output.status.success(), "{words}");
    // A run that found no operation would pass, too.
    let all = document()["paths"]
        .as_object()
        .expect("paths")
        .values()
        .map(|path| path.as_object().expect("methods").len())
        .sum::<usize>();
    let tested = format!("{} selected / {all} total", all - 1);
    assert!(words.contains(&tested), "{tested}: {words}");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_to_an_admin_is_one_that_the_document_names() {
    holds(UserRole::Admin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_to_a_driver_is_one_that_the_document_names() {
    holds(UserRole::Driver).await;
}

/// What it says of the operations of `path` when the document is not what the door does.
async fn found(path: &str, doctor: impl FnOnce(&mut Value)) -> String {
    let door = open(|_| {}).await;
    let token = door.token(UserRole::Admin, 1);
    let mut doctored = document();
    doctor(&mut doctored);
    let file = tempfile::Builder::new()
        .suffix(".json")
        .tempfile()
        .expect("a file");
    std::fs::write(file.path(), doctored.to_string()).expect("written");
    let location = file.path().display().to_string();
    let more = ["--include-path", path, "--phases", "fuzzing"];
    let output = fuzz(&door, &location, &token, &more).await;
    door.close().await;
    let words = words(&output);
    assert_eq!(output.status.code(), Some(1), "{words}");
    words
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_that_the_document_does_not_name_is_found() {
    let words = found("/v1/incident/{id}", |document| {
        let responses = document.pointer_mut("/paths/~1v1~1incident~1{id}/get/responses");
        let responses = responses.and_then(Value::as_object_mut);
        responses.expect("responses").remove("404").expect("named");
    })
    .await;
    let said = words.contains("Undocumented status code") && words.contains("Received: 404");
    assert!(said, "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_is_not_what_the_document_says_is_found() {
    let words = found("/v1/kb", |document| {
        let required = document.pointer_mut("/components/schemas/PageOfDocument/required");
        let required = required.and_then(Value::as_array_mut);
        required.expect("a list").push("colour".into());
    })
    .await;
    let said = words.contains("Response violates schema") && words.contains("colour");
    assert!(said, "{words}");
}
