//! `roadcall alarm …`: which alarms are raised, for people and for tools like Nagios.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::Connection;
use super::call::{body, send, text};
use super::client::Client;
use super::failure::Failure;
use super::output::{print_json, print_rows, say};

/// Alarms that the line of `--check` names; it counts all.
const NAMED_MAX: usize = 5;

#[derive(Debug, Subcommand)]
pub(super) enum AlarmVerb {
    /// List the alarms that are raised, the worst first.
    List {
        /// One line, and the exit code as plugins of Nagios have it: 0 none is raised, 1 only warnings, 2 critical ones, 3 nobody
        /// knows, because the audit role does not answer or has not measured for three periods.
        #[arg(long)]
        check: bool,
    },
    /// Note that somebody has seen it (changes data); retention-loss ends with that.
    Acknowledge {
        /// The alarm, like dead-letters.
        name: String,
        /// What it is about, like a queue; else every raised one of this name.
        #[arg(long)]
        subject: Option<String>,
    },
}

pub(super) async fn alarm(connection: &Connection, verb: AlarmVerb) -> Result<ExitCode, Failure> {
    match verb {
        AlarmVerb::List { check: false } => {
            let listed = listed(connection).await?;
            let columns = [
                "alarmName",
                "subject",
                "severity",
                "since",
                "value",
                "threshold",
                "site",
                "acknowledgedBy",
            ];
            print_rows(connection, &listed["items"], &columns)?;
            if let (false, Some(words)) = (connection.json, silence(&listed)) {
                eprintln!("{words}");
            }
            Ok(ExitCode::SUCCESS)
        }
        AlarmVerb::List { check: true } => check(connection).await,
        AlarmVerb::Acknowledge { name, subject } => {
            let body = body(&[("alarmName", text(Some(name))), ("subject", text(subject))]);
            send(connection, "alarm.acknowledge", body).await
        }
    }
}

async fn listed(connection: &Connection) -> Result<Value, Failure> {
    let client = Client::open(connection).await?;
    client.call("alarm.list", &json!({})).await
}

/// Whatever goes wrong here is an answer, too: nobody knows how the site is.
async fn check(connection: &Connection) -> Result<ExitCode, Failure> {
    let (verdict, listed) = match listed(connection).await {
        Ok(listed) => (Verdict::of(&listed), Some(listed)),
        Err(failure) => {
            let lines = failure.lines().into_iter().map(|line| line.message);
            (Verdict::unknown(lines.collect::<Vec<_>>().join("; ")), None)
        }
    };
    match listed.filter(|_| connection.json) {
        Some(listed) => print_json(&listed["items"])?,
        None if connection.json => {
            print_json(&json!({ "status": verdict.state, "message": verdict.words }))?;
        }
        None => say(verdict.line())?,
    }
    Ok(ExitCode::from(verdict.exit))
}

/// That nothing was measured for too long, if so.
fn silence(listed: &Value) -> Option<String> {
    if listed["stale"] != true {
        return None;
    }
    Some(match listed["ageSeconds"].as_u64() {
        Some(age) => format!("nothing was measured for {age} s"),
        None => "nothing was measured yet".to_owned(),
    })
}

/// What a plugin of Nagios says.
struct Verdict {
    exit: u8,
    state: &'static str,
    words: String,
    /// What its line has behind the bar.
    counts: Option<(usize, usize)>,
}

impl Verdict {
    fn unknown(words: String) -> Self {
        Self {
            exit: 3,
            state: "UNKNOWN",
            words,
            counts: None,
        }
    }

    fn of(listed: &Value) -> Self {
        let raised: Vec<&Value> = listed["items"].as_array().into_iter().flatten().collect();
        let critical = raised
            .iter()
            .filter(|alarm| alarm["severity"] == "critical");
        let critical = critical.count();
        let named: Vec<String> = raised
            .iter()
            .take(NAMED_MAX)
            .map(|alarm| name(alarm))
            .collect();
        let mut words = match raised.len() {
            0 => "no alarm is raised".to_owned(),
            count => format!("{count} raised: {}", named.join(", ")),
        };
        if raised.len() > NAMED_MAX {
            words.push_str(" and more");
        }
        // What is known of old comes behind what is not known now.
        let silence = silence(listed);
        if let Some(silence) = &silence {
            words = format!("{silence}, {words}");
        }
        let (exit, state) = match (silence, critical, raised.len()) {
            (Some(_), ..) => (3, "UNKNOWN"),
            (None, 1.., _) => (2, "CRITICAL"),
            (None, 0, 1..) => (1, "WARNING"),
            (None, 0, 0) => (0, "OK"),
        };
        Self {
            exit,
            state,
            words,
            counts: Some((critical, raised.len() - critical)),
        }
    }

    /// `ROADCALL STATE - words | performance data`. A bar in the words would end them.
    fn line(&self) -> String {
        let words = self.words.replace(['|', '\n', '\r'], " ");
        let line = format!("ROADCALL {} - {words}", self.state);
        match self.counts {
            Some((critical, warning)) => {
                format!("{line} | critical={critical};;0;0 warning={warning};0;;0")
            }
            None => line,
        }
    }
}

/// `dead-letters vendor-queue at hub`.
fn name(alarm: &Value) -> String {
    let word = |field: &str| alarm[field].as_str().unwrap_or_default().to_owned();
    format!(
        "{} {} at {}",
        word("alarmName"),
        word("subject"),
        word("site")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(severities: &[&str], stale: bool) -> Verdict {
        let items: Vec<Value> = severities
            .iter()
            .map(|severity| json!({ "alarmName": "a", "subject": "b|c", "site": "hub", "severity": severity }))
            .collect();
        Verdict::of(&json!({ "items": items, "stale": stale, "ageSeconds": 200 }))
    }

    #[test]
    fn exit_codes_are_those_of_a_plugin_and_silence_is_no_health() {
        assert_eq!(verdict(&[], false).exit, 0);
        assert_eq!(verdict(&["warning"], false).exit, 1);
        assert_eq!(verdict(&["critical", "warning"], false).exit, 2);
        assert_eq!(verdict(&[], true).exit, 3);
        assert_eq!(verdict(&["critical"], true).exit, 3);
    }

    #[test]
    fn the_line_has_one_bar_and_at_most_five_names() {
        let line = verdict(&["critical"; 6], false).line();
        let names = ["a b c at hub"; 5].join(", ");
        assert_eq!(
            line,
            format!(
                "ROADCALL CRITICAL - 6 raised: {names} and more | critical=6;;0;0 warning=0;0;;0"
            )
        );
        let line = verdict(&["warning"], true).line();
        assert!(
            line.starts_with("ROADCALL UNKNOWN - nothing was measured for 200 s, 1 raised"),
            "{line}"
        );
    }
}
