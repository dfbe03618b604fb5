//! `roadcall doctor`: what is wrong with the site, and what to do about it, the worst first. It changes nothing.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::Connection;
use super::client::Client;
use super::config::check_further;
use super::failure::Failure;
use super::output::{print_json, say};
use super::roles::topology_roles;
use crate::config::Loaded;
use crate::node::doctor::finding::{quoted, without_password};
use crate::node::doctor::{Doctor, Finding, Report};

/// Exit 0 if nothing is wrong, 2 with findings, 1 if something could not be looked at and nothing else was found.
pub(super) async fn doctor(connection: &Connection) -> Result<ExitCode, Failure> {
    let loaded = connection.load()?;
    check_further(&loaded)?;
    let config = &loaded.config;
    let roles = topology_roles(config)?;
    let program = program(connection);
    let digests = |runs: &[String]| digests(connection, runs);
    let doctor = Doctor {
        config,
        roles: &roles,
        secrets: secret_files(&loaded),
        digests: &digests,
        program: &program,
    };
    let report = match Client::open(connection).await {
        Ok(client) => doctor.look(Ok(&client.inquiry(config))).await,
        Err(Failure::Bus(error)) => doctor.look(Err(&error)).await,
        Err(failure) => return Err(failure),
    };
    print(connection, &report)?;
    Ok(ExitCode::from(exit(&report)))
}

fn exit(report: &Report) -> u8 {
    match (report.findings.is_empty(), report.unseen.is_empty()) {
        (false, _) => 2,
        (true, false) => 1,
        (true, true) => 0,
    }
}

fn print(connection: &Connection, report: &Report) -> Result<(), Failure> {
    for unseen in &report.unseen {
        match connection.json {
            true => eprintln!("{}", json!({ "notLookedAt": unseen })),
            false => eprintln!("not looked at: {unseen}"),
        }
    }
    if connection.json {
        return print_json(&serde_json::to_value(&report.findings).unwrap_or(Value::Null));
    }
    if report.findings.is_empty() && report.unseen.is_empty() {
        return say("nothing is wrong");
    }
    for Finding {
        severity,
        finding,
        remedy,
        ..
    } in &report.findings
    {
        say(format_args!("{:8}  {finding}", severity.as_str()))?;
        say(format_args!("          do: {remedy}"))?;
    }
    Ok(())
}

/// How a command begins that is to reach the same site.
fn program(connection: &Connection) -> String {
    let mut words = vec!["roadcall".to_owned()];
    for path in &connection.config {
        words.push(format!("--config {}", quoted(&path.display().to_string())));
    }
    // What is printed may be kept somewhere: whoever pastes it knows his password.
    let nats = connection.nats.as_deref().map(without_password);
    let flags = [
        ("site", &connection.site),
        ("nats", &nats),
        ("creds", &connection.creds),
        ("state-dir", &connection.state_dir),
    ];
    for (name, value) in flags {
        words.extend(
            value
                .as_ref()
                .map(|value| format!("--{name} {}", quoted(value))),
        );
    }
    words.join(" ")
}

/// The files that give a secret a value.
fn secret_files(loaded: &Loaded) -> Vec<PathBuf> {
    // A file says `***` there, or `***@` within an address.
    let secret = loaded
        .origins
        .iter()
        .filter(|(_, shown, _)| shown.contains("***"));
    let mut files: Vec<PathBuf> = secret.map(|(_, _, origin)| PathBuf::from(origin)).collect();
    files.retain(|file| loaded.files.contains(file));
    files.dedup();
    files
}

/// What the files say for a process of these roles, with the flags that were given here and without them: nobody knows which
/// it was started with.
fn digests(connection: &Connection, runs: &[String]) -> Vec<String> {
    let with_flags = Connection {
        roles: runs.to_vec(),
        ..connection.clone()
    };
    let without = Connection {
        config: connection.config.clone(),
        roles: runs.to_vec(),
        ..Connection::default()
    };
    let loaded = [with_flags, without].map(|one| one.config().ok());
    let mut found: Vec<String> = loaded
        .into_iter()
        .flatten()
        .map(|config| config.digest())
        .collect();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::doctor::{Findings, Severity};

    #[test]
    fn what_could_not_be_looked_at_is_not_healthy() {
        let mut found = Findings::new("roadcall");
        assert_eq!(exit(&Findings::new("roadcall").report()), 0);
        found.unseen("the links", "no answer");
        let mut both = Findings::new("roadcall");
        both.unseen("the links", "no answer");
        both.add(Severity::Note, "site-version", "depot-a")
            .says("a note")
            .then("true");
        assert_eq!((exit(&found.report()), exit(&both.report())), (1, 2));
    }

    #[test]
    fn a_command_leads_to_the_same_site() {
        let connection = Connection {
            config: vec![PathBuf::from("/etc/my site.toml")],
            nats: Some("nats://127.0.0.1:4222".to_owned()),
            ..Connection::default()
        };
        assert_eq!(
            program(&connection),
            "roadcall --config '/etc/my site.toml' --nats nats://127.0.0.1:4222"
        );
    }
}
