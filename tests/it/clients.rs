//! The door from outside our own code: a client that a generator made out of the OpenAPI document, and curl.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::gateway::{Door, open};
use roadcall::event::UserRole;

async fn run(command: &mut tokio::process::Command) -> Output {
    let output = command.kill_on_drop(true).output().await.expect("runs");
    let words = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{words}");
    output
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generated_client_reports_a_breakdown_and_finds_it_again() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = root.join("target/client-generator");
    assert!(
        packages.join("openapi_python_client").is_dir(),
        "no openapi-python-client; run `make client-generator`"
    );
    let door = open(|_| {}).await;
    let url = format!("http://{}", door.gateway.address);
    let work = tempfile::TempDir::new().expect("a directory");
    // Without the formatter, which the tests do not have.
    let config = work.path().join("generator.yaml");
    std::fs::write(&config, "post_hooks: []\n").expect("written");
    let package = work.path().join("roadcall_client");
    let start = "from openapi_python_client.cli import app; app()";
    run(tokio::process::Command::new("python3")
        .env("PYTHONPATH", &packages)
        .args([
            "-c",
            start,
            "generate",
            "--meta",
            "none",
            "--fail-on-warning",
        ])
        .args(["--url", &format!("{url}/v1/openapi.json")])
        .arg("--config")
        .arg(&config)
        .arg("--output-path")
        .arg(&package))
    .await;
    let output = run(tokio::process::Command::new("python3")
        .env("PYTHONPATH", &packages)
        .arg(root.join("tests/data/typed.py"))
        .arg(work.path())
        .arg(&url)
        .arg(door.token(UserRole::Driver, 1)))
    .await;
    let id = String::from_utf8(output.stdout).expect("UTF-8");
    let token = door.token(UserRole::Driver, 1);
    let (_, seen) = door
        .get(&format!("/v1/incident/{}", id.trim()), &token)
        .await;
    assert_eq!(seen["incidentId"], id.trim());
    door.close().await;
}

/// curl is on nearly every machine; where it is not, nothing is said by its absence.
fn has_curl() -> bool {
    let asked = std::process::Command::new("curl").arg("--version").output();
    asked.is_ok_and(|output| output.status.success())
}

async fn curl(door: &Door, path: &str, more: &[&str]) -> Value {
    let token = format!("Authorization: Bearer {}", door.token(UserRole::Driver, 1));
    let output = run(tokio::process::Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--fail-with-body",
            "--header",
            &token,
        ])
        .args(more)
        .arg(format!("http://{}{path}", door.gateway.address)))
    .await;
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_reports_a_breakdown_and_finds_it_again() {
    if !has_curl() {
        eprintln!("no curl on this machine: not tried");
        return;
    }
    let door = open(|_| {}).await;
    let body = r#"{"type":"tire","lat":40.7128,"lon":-74.006}"#;
    let json = ["--header", "Content-Type: application/json", "--data", body];
    let made = curl(&door, "/v1/incident/create", &json).await;
    let id = made["incidentId"].as_str().expect("an id");
    let seen = curl(&door, &format!("/v1/incident/{id}"), &[]).await;
    assert_eq!(seen["timeline"].as_array().map(Vec::len), Some(1), "{seen}");
    let page = curl(&door, "/v1/incident?limit=10", &[]).await;
    assert_eq!(page["items"][0]["incidentId"], id);
    door.close().await;
}
