//! `roadcall rule …`: which events go where, and why.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Connection;
use super::client::{Client, connect};
use super::event::parse_pattern;
use super::failure::Failure;
use super::output::{print_json, print_rows, say};
use super::roles::topology_roles;
use crate::bus::{Bus, EVENTS};
use crate::config::Config;
use crate::config::units::Span;
use crate::event::{Id, decode, to_value};
use crate::node::archive;
use crate::node::run::routes;
use crate::node::switches;
use crate::role::RoleName;
use crate::routing::lint::{Readers, lint};
use crate::routing::pattern::Index;
use crate::routing::{Routes, WhenOlder};

/// Messages in one read.
const PAGE: u64 = 1000;

#[derive(Debug, Subcommand)]
pub(super) enum RuleVerb {
    /// Every rule with its targets: what the server filters by, and whether the role looks further.
    List,
    /// Let a rule route again, in every process of the site, within seconds (changes the site).
    Enable {
        /// The rule.
        name: String,
    },
    /// Let a rule route nothing until it is enabled; what comes meanwhile stays filtered (changes the site).
    Disable {
        /// The rule.
        name: String,
    },
    /// Which rules match an event; or how many of the last events each rule would take.
    Test(Test),
    /// Hold a pattern against events on standard input, one JSON object a line; answers {"matches":true|false} for each.
    Match {
        /// The pattern.
        #[arg(long, value_name = "JSON")]
        pattern: String,
    },
    /// Look for event types without a route, routes without a role, and rules that match nothing; exit 2 on findings.
    Lint,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Test {
    /// This event, as its envelope's JSON.
    #[arg(long, value_name = "JSON")]
    event: Option<String>,
    /// The archived event with this id.
    #[arg(long)]
    id: Option<Id>,
    /// The last so many archived events.
    #[arg(long, value_name = "N")]
    last: Option<u64>,
}

pub(super) async fn rule(connection: &Connection, verb: RuleVerb) -> Result<ExitCode, Failure> {
    let config = connection.config()?;
    match verb {
        RuleVerb::List => {
            let columns = [
                "rule",
                "queue",
                "enabled",
                "maxEventAge",
                "whenOlder",
                "residual",
            ];
            let rules = with_switches(&config).await?;
            print_rows(connection, &listed(&rules), &columns)?;
            Ok(ExitCode::SUCCESS)
        }
        RuleVerb::Enable { name } => switch(connection, &name, true).await,
        RuleVerb::Disable { name } => switch(connection, &name, false).await,
        RuleVerb::Test(test) => test.run(connection).await,
        RuleVerb::Match { pattern } => match_lines(&pattern),
        RuleVerb::Lint => {
            let here = topology_roles(&config)?;
            let of = |wanted: &dyn Fn(&RoleName) -> bool| {
                let roles = RoleName::ALL.into_iter().filter(|role| wanted(role));
                roles.filter_map(RoleName::queue).collect()
            };
            let built = |role: &RoleName| RoleName::BUILT.contains(role);
            let readers = Readers {
                here: of(&|role| here.contains(role)),
                elsewhere: of(&|role| built(role) && !here.contains(role)),
                later: of(&|role| !built(role) && !here.contains(role)),
            };
            let findings = lint(&routes(&config)?, &readers);
            let found = !findings.is_empty();
            let rows = serde_json::to_value(findings).unwrap_or(Value::Null);
            print_rows(connection, &rows, &["subject", "finding"])?;
            Ok(ExitCode::from(if found { 2 } else { 0 }))
        }
    }
}

/// The rules with what is switched over the file; as the file has them, and a word about it, where the broker does not answer.
async fn with_switches(config: &Config) -> Result<Routes, Failure> {
    let rules = routes(config)?;
    let switched = match connect(config, "roadcall-cli").await {
        Ok(bus) => switches::read(&bus).await.map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    match switched {
        Ok(switches) => Ok(rules.switched(&switches)),
        Err(_) => {
            eprintln!(
                "the broker does not answer: rules are shown as their file has them, without what is switched"
            );
            Ok(rules)
        }
    }
}

async fn switch(connection: &Connection, name: &str, enabled: bool) -> Result<ExitCode, Failure> {
    let rules = routes(&connection.config()?)?;
    if !rules.rules().iter().any(|rule| rule.name == name) {
        return Err(Failure::usage(
            &format!("no rule is named '{name}'"),
            "roadcall rule list shows them",
        ));
    }
    let client = Client::open(connection).await?;
    let mut switches = switches::read(&client.bus).await?;
    switches.insert(name.to_owned(), enabled);
    rules
        .switched(&switches)
        .check()
        .map_err(|error| Failure::usage(&error.to_string(), "disable the other one first"))?;
    let verb = if enabled {
        "rule.enable"
    } else {
        "rule.disable"
    };
    let told = client.call(verb, &json!({ "rule": name })).await?;
    if connection.json {
        print_json(&told)?;
    } else {
        say(format!(
            "{name} is {}; every process of the site has it within seconds",
            if enabled { "enabled" } else { "disabled" }
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn listed(routes: &Routes) -> Value {
    let mut rows = Vec::new();
    for rule in routes.rules() {
        for target in &rule.targets {
            let when_older = target.max_event_age.map(|_| match target.when_older {
                WhenOlder::Drop => "drop",
                WhenOlder::Late => "late",
                WhenOlder::Escalate => "escalate",
            });
            rows.push(json!({
                "rule": rule.name, "queue": target.queue, "enabled": rule.enabled,
                "enabledInFile": rule.enabled_in_file,
                "maxEventAge": target.max_event_age.map(Span),
                "whenOlder": when_older, "subjects": rule.pattern.filters(),
                "residual": rule.pattern.has_residual().then(|| rule.pattern.text()),
            }));
        }
    }
    Value::Array(rows)
}

impl Test {
    async fn run(&self, connection: &Connection) -> Result<ExitCode, Failure> {
        let config = connection.config()?;
        let routes = with_switches(&config).await?;
        let index = Index::new(
            routes
                .rules()
                .iter()
                .map(|rule| rule.pattern.clone())
                .collect(),
        );
        if let Some(text) = &self.event {
            let event = json_line(text, "--event")?;
            return print_matches(connection, &routes, &index.matching(&event));
        }
        let bus = connect(&config, "roadcall-cli").await?;
        if let Some(id) = self.id {
            let Some(found) = archive::find(&bus, id).await? else {
                return Err(Failure::other(
                    format!("no archived event has the id {id}"),
                    "see roadcall event tail",
                ));
            };
            let stored = archive::at(&bus, found.seq).await?.unwrap_or(found);
            let content_type = stored.headers.get("Content-Type");
            let event = decode(&stored.subject, content_type, &stored.body)
                .map_err(|error| Failure::other(format!("the event can't be read: {error}"), ""))?;
            return print_matches(connection, &routes, &index.matching(&to_value(&event)));
        }
        let state = bus.stream(EVENTS).await?;
        let mut from = (state.last_seq + 1)
            .saturating_sub(self.last.unwrap_or(0))
            .max(1);
        let mut counts: BTreeMap<usize, u64> = BTreeMap::new();
        while from <= state.last_seq {
            let page = bus
                .read(EVENTS, "roadcall.>", from, PAGE as usize, false)
                .await?;
            let Some(last) = page.last() else { break };
            from = last.seq + 1;
            for stored in page.iter().filter(|stored| stored.seq <= state.last_seq) {
                let content_type = stored.headers.get("Content-Type");
                let Ok(event) = decode(&stored.subject, content_type, &stored.body) else {
                    continue;
                };
                for n in index.matching(&to_value(&event)) {
                    *counts.entry(n).or_default() += 1;
                }
            }
        }
        let row = |(n, rule): (usize, &crate::routing::Rule)| json!({ "rule": rule.name, "enabled": rule.enabled, "events": counts.get(&n).unwrap_or(&0) });
        let rows = routes.rules().iter().enumerate().map(row).collect();
        print_rows(
            connection,
            &Value::Array(rows),
            &["rule", "enabled", "events"],
        )?;
        Ok(ExitCode::SUCCESS)
    }
}

fn print_matches(
    connection: &Connection,
    routes: &Routes,
    found: &[usize],
) -> Result<ExitCode, Failure> {
    let row = |n: &usize| {
        let rule = &routes.rules()[*n];
        let queues: Vec<&str> = rule
            .targets
            .iter()
            .map(|target| target.queue.as_str())
            .collect();
        json!({ "rule": rule.name, "enabled": rule.enabled, "queues": queues })
    };
    let rows = found.iter().map(row).collect();
    print_rows(
        connection,
        &Value::Array(rows),
        &["rule", "enabled", "queues"],
    )?;
    Ok(ExitCode::SUCCESS)
}

fn json_line(text: &str, what: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| {
        Failure::usage(
            &format!("{what} is not JSON: {error}"),
            "give one event as one object",
        )
    })
}

fn match_lines(pattern: &str) -> Result<ExitCode, Failure> {
    let Some(pattern) = parse_pattern(Some(pattern))? else {
        return print_json(&Value::Null).map(|()| ExitCode::SUCCESS);
    };
    for (n, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line.map_err(|error| Failure::other(format!("standard input: {error}"), ""))?;
        if line.trim().is_empty() {
            continue;
        }
        let event = json_line(&line, &format!("line {}", n + 1))?;
        say(json!({ "matches": pattern.matches(&event) }))?;
    }
    Ok(ExitCode::SUCCESS)
}
