//! What Prometheus and Grafana are given: the alert rules and the board name only metrics that a running site tells, everything of
//! DOMAIN 4.4 is told, and the files of processes without a gateway are as node_exporter wants them. promtool checks them, too, where
//! it is (`make promtool`).

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::gateway::open;
use crate::metrics::{accepted, reaches, scrape};
use crate::support::eventually;
use crate::support::processes::Processes;
use roadcall::config::units::Span;
use roadcall::event::UserRole;

const RULES: &str = "config/prometheus-rules.yml";
const BOARD: &str = "config/grafana/roadcall.json";
/// What DOMAIN 4.4 lists, by the names that it has here.
const OF_DOMAIN: [&str; 22] = [
    "roadcall_queue_sent_total",
    "roadcall_queue_received_total",
    "roadcall_queue_failed_total",
    "roadcall_queue_expired_total",
    "roadcall_queue_late_total",
    "roadcall_queue_depth",
    "roadcall_queue_oldest_age_seconds",
    "roadcall_queue_dead_letters",
    "roadcall_rule_matched_total",
    "roadcall_rule_failed_total",
    "roadcall_role_command_duration_seconds_bucket",
    "roadcall_role_command_duration_seconds_count",
    "roadcall_role_commands_total",
    "roadcall_role_commands_rejected_total",
    "roadcall_role_outbox_depth",
    "roadcall_effect_breaker_state",
    "roadcall_queue_replays_running",
    "roadcall_queue_replay_sequences",
    "roadcall_queue_replay_sequences_done",
    "roadcall_alarm_raised",
    "roadcall_alarms_measured_timestamp_seconds",
    "roadcall_role_up",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).expect("read")
}

/// promtool, as `make promtool` leaves it; says so where it is not there.
fn promtool() -> Option<PathBuf> {
    let path = root().join("target/promtool/promtool");
    if !path.is_file() {
        eprintln!("promtool is not there, so it checks nothing; `make promtool` fetches it");
        return None;
    }
    Some(path)
}

/// Runs promtool with what it reads; gives whether it was content, and its words.
fn run(tool: &Path, arguments: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new(tool)
        .current_dir(root())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut pipe = child.stdin.take().expect("piped");
    pipe.write_all(input.as_bytes()).expect("taken");
    drop(pipe);
    let output = child.wait_with_output().expect("ended");
    let words = [output.stdout, output.stderr].concat();
    let words = String::from_utf8_lossy(&words).into_owned();
    (output.status.success(), words)
}

/// The expressions of the alert rules: behind `expr:`, in the same line or in the deeper ones below it.
fn of_rules() -> Vec<String> {
    let text = read(RULES);
    let mut found: Vec<String> = Vec::new();
    let mut folded = false;
    for line in text.lines() {
        let inner = line.trim();
        if let Some(expression) = inner.strip_prefix("expr:") {
            folded = expression.trim() == ">-";
            found.push(match folded {
                true => String::new(),
                false => expression.trim().to_owned(),
            });
        } else if folded && line.starts_with("          ") {
            let last = found.last_mut().expect("begun");
            last.push(' ');
            last.push_str(inner);
        } else {
            folded = false;
        }
    }
    assert_eq!(found.len(), text.matches("- alert:").count());
    found
}

/// The expressions of the board, with a span in the place of Grafana's own.
fn of_board() -> Vec<String> {
    let board: Value = serde_json::from_str(&read(BOARD)).expect("JSON");
    let panels = board["panels"].as_array().expect("panels");
    let mut ids = BTreeSet::new();
    let mut found = Vec::new();
    for panel in panels {
        assert!(
            ids.insert(panel["id"].to_string()),
            "two have {}",
            panel["id"]
        );
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty(), "{}", panel["title"]);
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}");
            let expression = target["expr"].as_str().expect("a text");
            found.push(expression.replace("$__rate_interval", "5m"));
        }
    }
    let variable = &board["templating"]["list"][0];
    assert_eq!(
        (&variable["name"], &variable["type"]),
        (&json!("datasource"), &json!("datasource"))
    );
    found
}

/// The names of metrics in an expression: what is no label, function, keyword, number or span.
fn names(expression: &str) -> BTreeSet<String> {
    let mut plain = String::new();
    let (mut quoted, mut depth) = (false, 0);
    for c in expression.chars() {
        match c {
            '"' => quoted = !quoted,
            '{' | '[' if !quoted => depth += 1,
            '}' | ']' if !quoted => {
                depth -= 1;
                plain.push(' ');
            }
            _ if quoted || depth > 0 => {}
            c => plain.push(c),
        }
    }
    // Lists of labels.
    for word in ["by (", "without (", "on (", "ignoring ("] {
        while let Some(at) = plain.find(word) {
            let end = plain[at..].find(')').expect("a list ends");
            plain.replace_range(at..=at + end, " ");
        }
    }
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = BTreeSet::new();
    let mut rest = plain.as_str();
    while let Some(at) = rest.find(is_part) {
        let word = &rest[at..];
        let end = word.find(|c| !is_part(c)).unwrap_or(word.len());
        let (name, behind) = word.split_at(end);
        rest = behind;
        let aggregates = ["min", "max", "sum", "count"].contains(&name);
        let keyword = ["and", "or", "unless", "bool", "offset"].contains(&name);
        let calls = behind.trim_start().starts_with('(');
        let number = name.starts_with(|c: char| c.is_ascii_digit());
        if !(aggregates || keyword || calls || number) {
            found.insert(name.to_owned());
        }
    }
    found
}

/// The names of the samples in what a scrape gave.
fn told(text: &str) -> BTreeSet<String> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .filter_map(|line| line.split(['{', ' ']).next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn names_are_found_in_expressions() {
    let of = |text: &str| names(text).into_iter().collect::<Vec<_>>();
    let text = r#"max by (queue) (rate(a_total{x="b_c"}[5m])) / (d:e > 0) or time() - 3 * f"#;
    assert_eq!(of(text), ["a_total", "d:e", "f"]);
    assert_eq!(of("absent(up{job=\"roadcall\"}) == 0"), ["up"]);
}

#[test]
fn promtool_takes_the_rules_and_every_expression_of_the_board_and_refuses_broken_ones() {
    let Some(tool) = promtool() else { return };
    let (good, words) = run(&tool, &["check", "rules", "--lint-fatal", RULES], "");
    assert!(
        good && words.contains(&format!("{} rules found", of_rules().len())),
        "{words}"
    );
    let (good, words) = run(
        &tool,
        &["test", "rules", "tests/data/prometheus-tests.yml"],
        "",
    );
    assert!(good, "{words}");
    let dir = tempfile::TempDir::new().expect("a directory");
    let file = dir.path().join("board.yml");
    let check = |expressions: &[String]| {
        let rules: Vec<Value> = expressions
            .iter()
            .enumerate()
            .map(|(n, expression)| json!({ "record": format!("board:{n}"), "expr": expression }))
            .collect();
        // JSON is YAML.
        let text = json!({ "groups": [{ "name": "board", "rules": rules }] }).to_string();
        std::fs::write(&file, text).expect("written");
        run(&tool, &["check", "rules", &file.display().to_string()], "")
    };
    let mut expressions = of_board();
    let (good, words) = check(&expressions);
    assert!(good, "{words}");
    expressions.push("max by (queue (roadcall_queue_depth)".to_owned());
    let (good, words) = check(&expressions);
    assert!(!good, "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_and_board_name_only_what_a_site_tells_and_it_tells_all_of_the_domain() {
    let door = open(|config| config.audit.alarm_period = Span::secs(1)).await;
    let driver = door.token(UserRole::Driver, 1);
    let admin = door.token(UserRole::Admin, 9);
    let incident = door.incident(&driver).await;
    // Who signs up is sent a code: a call to a service outside, and so a breaker.
    let body = json!({ "phone": "+15550002200", "role": "driver", "name": "Ann" });
    let (status, reply) = door.post("/v1/auth/register", &driver, body).await;
    assert_eq!(status, StatusCode::OK, "{reply}");
    // Two acceptances of one incident: a letter, and so an alarm.
    let entries = json!({ "entries": [accepted(incident, 1), accepted(incident, 2)] });
    let (status, reply) = door.post("/v1/event/publish", &admin, entries).await;
    assert_eq!(status, StatusCode::OK, "{reply}");
    let alarm = r#"roadcall_alarm_raised{alarm="dead-letters",alarm_site="hub",severity="critical",subject="incident-queue"}"#;
    reaches(&door, alarm, 1.0).await;
    let breaker =
        r#"roadcall_effect_breaker_state{role="notifications",service="sms",state="closed"}"#;
    reaches(&door, breaker, 1.0).await;
    let text = scrape(&door).await;
    door.close().await;

    let mut known = told(&text);
    for name in OF_DOMAIN {
        assert!(known.contains(name), "{name} is not told: {text}");
    }
    // Prometheus' own, and one that only files have.
    known.insert("up".to_owned());
    known.insert("roadcall_textfile_written_timestamp_seconds".to_owned());
    for expression in of_rules().iter().chain(&of_board()) {
        let names = names(expression);
        assert!(!names.is_empty(), "{expression}");
        for name in names {
            assert!(
                known.contains(&name),
                "nobody tells {name}, of {expression}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_process_without_a_gateway_writes_a_file_as_node_exporter_wants_it() {
    let mut site = Processes::new();
    let (file, dir) = (
        site.dir.path().join("site.toml"),
        site.dir.path().join("prom"),
    );
    std::fs::create_dir(&dir).expect("made");
    let text = format!(
        "[site]\nroles = ['vendor', 'audit']\n[audit]\nalarm_period = '1s'\n[metrics]\ntextfile_dir = '{}'\ntextfile_every = '1s'\n",
        dir.display()
    );
    std::fs::write(&file, text).expect("written");
    site.arguments = vec!["--config".to_owned(), file.display().to_string()];
    site.apply_topology();
    for role in ["vendor", "audit"] {
        site.start(role);
        site.role_ready(role).await;
    }
    let path = |role: &str| dir.join(format!("roadcall-hub-{role}.prom"));
    let has = |role: &'static str, sample: String| {
        let path = path(role);
        eventually("the numbers in the file", move || {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let found = text.lines().any(|line| line.starts_with(&sample));
            std::future::ready(found.then_some(text))
        })
    };
    let labels = |role: &str| format!(r#"site="hub",process="{role}""#);
    let vendor = has(
        "vendor",
        format!(
            r#"roadcall_role_up{{{},role="vendor"}} 1"#,
            labels("vendor")
        ),
    )
    .await;
    let measured = format!(
        "roadcall_alarms_measured_timestamp_seconds{{{}}} ",
        labels("audit")
    );
    let audit = has("audit", measured).await;
    // Each tells its own roles, and no two the same series.
    assert!(
        vendor.contains("vendor-queue") && !vendor.contains("audit-queue"),
        "{vendor}"
    );
    let series = |text: &str| -> BTreeSet<String> {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples
            .filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()))
            .collect()
    };
    assert_eq!(series(&vendor).intersection(&series(&audit)).count(), 0);
    assert!(told(&audit).contains("roadcall_textfile_written_timestamp_seconds"));
    for text in [&vendor, &audit] {
        assert!(!text.contains("# EOF"), "{text}");
        let types = text.lines().filter(|line| line.starts_with("# TYPE "));
        let counters: Vec<&str> = types.filter(|line| line.ends_with(" counter")).collect();
        assert!(
            counters.len() > 5 && counters.iter().all(|line| line.ends_with("_total counter")),
            "{text}"
        );
        if let Some(tool) = promtool() {
            let (good, words) = run(&tool, &["check", "metrics"], text);
            assert!(good && words.is_empty(), "{words}\n{text}");
        }
    }
    let left = || {
        let entries = std::fs::read_dir(&dir).expect("listed");
        let names = entries.map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        });
        names
            .filter(|name| !name.starts_with(".tmp"))
            .collect::<BTreeSet<String>>()
    };
    // An orderly end takes its file away; a killed process leaves it, and its time tells.
    site.stop("vendor").await;
    site.end("audit");
    assert_eq!(
        left(),
        BTreeSet::from(["roadcall-hub-audit.prom".to_owned()])
    );
}
