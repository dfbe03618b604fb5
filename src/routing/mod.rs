//! Routing: from rules to subject filters on the server and a residual decision here (DESIGN 6).
//!
//! [`pattern`] reads what a rule says of source and detail-type; [`Routes`] compiles all rules; [`filter`] knows how
//! subject filters contain and overlap each other. Knows only `event`.

pub mod filter;
pub mod lint;
pub mod pattern;
mod reload;
mod switch;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;

use serde_json::Value;

use crate::event::{Event, Source, catalogue, to_value};
use pattern::Pattern;

/// The rules that ship with Roadcall (DOMAIN 4.1).
pub const SHIPPED_RULES: &str = include_str!("../../config/rules.toml");

/// Why rules can't be used, as one sentence that names the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// What happens to an event older than its target's age (DOMAIN 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenOlder {
    /// Recorded as expired, not handled.
    Drop,
    /// Handled, and counted as late.
    Late,
    /// Handled, and the handler is told.
    Escalate,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<RawRule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    name: String,
    #[serde(default = "yes")]
    enabled: bool,
    pattern: Pattern,
    targets: Vec<RawTarget>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTarget {
    queue: String,
    max_event_age: Option<String>,
    when_older: Option<WhenOlder>,
}

fn yes() -> bool {
    true
}

/// One rule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// Whether it routes anything.
    pub enabled: bool,
    /// What the rules' file says of that; [`Routes::switched`] puts `enabled` over it.
    pub enabled_in_file: bool,
    /// What it matches.
    pub pattern: Pattern,
    /// Where it sends.
    pub targets: Vec<Target>,
}

/// One queue that a rule feeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The rule's name.
    pub rule: String,
    /// The queue.
    pub queue: String,
    /// Largest age, counted from the event's timestamp.
    pub max_event_age: Option<Duration>,
    /// What happens to an older one; means nothing without an age.
    pub when_older: WhenOlder,
}

/// All rules, compiled.
#[derive(Debug, Clone)]
pub struct Routes {
    rules: Vec<Rule>,
}

impl Routes {
    /// Reads rules in TOML.
    ///
    /// # Errors
    /// One sentence that names the rule and the fix.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let file: File = toml::from_str(text).map_err(|error| Error(error.to_string()))?;
        let mut names = BTreeSet::new();
        let mut rules = Vec::with_capacity(file.rule.len());
        for raw in file.rule {
            if !names.insert(raw.name.clone()) {
                return Err(Error(format!("two rules are named '{}'", raw.name)));
            }
            rules.push(raw.compile()?);
        }
        let routes = Self { rules };
        routes.refuse_double_routes()?;
        Ok(routes)
    }

    /// The shipped rules.
    #[must_use]
    pub fn shipped() -> Self {
        // A test parses exactly this text.
        Self::parse(SHIPPED_RULES).unwrap_or(Self { rules: Vec::new() })
    }

    /// The rules, in the file's order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// How `queue` takes an event, or `None` when no enabled rule brings it there. The first rule that does counts.
    #[must_use]
    pub fn decide(&self, queue: &str, event: &Event) -> Option<&Target> {
        // Written out only where a rule looks further than source and detail-type.
        let mut value: Option<Value> = None;
        self.admitting(queue, event.source, &event.detail_type)
            .find(|(rule, _)| {
                !rule.pattern.has_residual()
                    || rule
                        .pattern
                        .matches(value.get_or_insert_with(|| to_value(event)))
            })
            .map(|(_, target)| target)
    }

    /// The enabled rules that may bring events of this source and detail-type to `queue`, with their targets.
    pub fn admitting<'r, 'q>(
        &'r self,
        queue: &'q str,
        source: Source,
        detail_type: &'q str,
    ) -> impl Iterator<Item = (&'r Rule, &'r Target)> {
        self.rules.iter().filter_map(move |rule| {
            let target = rule.targets.iter().find(|target| target.queue == queue)?;
            let admits = rule.enabled && rule.pattern.admits(source, detail_type);
            admits.then_some((rule, target))
        })
    }

    /// The subject filters of a queue's consumer: none overlaps another (the server refuses that, 10138), and together
    /// they match a superset of what the rules want; the rest is decided by [`Routes::decide`]. A disabled rule counts, so
    /// that switching it needs no change of the server's (DESIGN 6).
    #[must_use]
    pub fn filters(&self, queue: &str) -> Vec<String> {
        let mut filters = BTreeSet::new();
        for rule in self
            .rules
            .iter()
            .filter(|rule| rule.targets.iter().any(|t| t.queue == queue))
        {
            filters.extend(rule.pattern.filters());
        }
        filter::without_overlaps(filters)
    }

    /// Every queue that some rule feeds.
    #[must_use]
    pub fn queues(&self) -> BTreeSet<&str> {
        self.rules
            .iter()
            .flat_map(|rule| &rule.targets)
            .map(|target| target.queue.as_str())
            .collect()
    }

    /// Two rules that look at source and detail-type alone must not bring one event to one queue twice (DOMAIN 4.1). Of
    /// rules that look further the first counts, event by event.
    fn refuse_double_routes(&self) -> Result<(), Error> {
        for row in catalogue() {
            let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
            let plain = |rule: &&Rule| {
                rule.enabled
                    && !rule.pattern.has_residual()
                    && rule.pattern.admits(row.source, row.detail_type)
            };
            for rule in self.rules.iter().filter(plain) {
                for target in &rule.targets {
                    if let Some(other) = seen.insert(&target.queue, &rule.name) {
                        return Err(Error(format!(
                            "rules '{other}' and '{}' both bring {} to {}; let one of them leave it out",
                            rule.name, row.detail_type, target.queue
                        )));
                    }
                }
            }
        }
        Ok(())
    }
}

impl RawRule {
    fn compile(self) -> Result<Rule, Error> {
        if self.targets.is_empty() {
            return Err(Error(format!(
                "rule '{}' has no target; give it one or delete it",
                self.name
            )));
        }
        let targets = self
            .targets
            .into_iter()
            .map(|raw| raw.compile(&self.name))
            .collect::<Result<_, _>>()?;
        Ok(Rule {
            name: self.name,
            enabled: self.enabled,
            enabled_in_file: self.enabled,
            pattern: self.pattern,
            targets,
        })
    }
}

impl RawTarget {
    fn compile(self, rule: &str) -> Result<Target, Error> {
        let (max_event_age, when_older) = match (self.max_event_age, self.when_older) {
            (None, None) => (None, WhenOlder::Late),
            (Some(age), Some(when_older)) => {
                let age = parse_duration(&age).ok_or_else(|| {
                    Error(format!(
                        "rule '{rule}': max_event_age '{age}' is not a duration like 2h"
                    ))
                })?;
                (Some(age), when_older)
            }
            _ => {
                return Err(Error(format!(
                    "rule '{rule}': max_event_age and when_older go together"
                )));
            }
        };
        Ok(Target {
            rule: rule.to_owned(),
            queue: self.queue,
            max_event_age,
            when_older,
        })
    }
}

/// Reads a duration like `300s`, `15m`, `2h`, `4d` or `500ms`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().ok()?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(unit_ms).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventType;

    fn routed(routes: &Routes, queue: &str, row: &EventType) -> bool {
        let mut found = routes.admitting(queue, row.source, row.detail_type);
        found.next().is_some()
    }

    #[test]
    fn shipped_rules_bring_each_event_to_the_queues_of_the_catalogue() {
        let routes = Routes::parse(SHIPPED_RULES).expect("the shipped rules are valid");
        assert_eq!(routes.rules().len(), 29);
        for row in catalogue() {
            let mut wanted: BTreeSet<String> = row
                .queues
                .iter()
                .map(|queue| format!("{queue}-queue"))
                .collect();
            wanted.extend(["reporting-queue".to_owned(), "audit-queue".to_owned()]);
            let routed: BTreeSet<String> = routes
                .queues()
                .into_iter()
                .filter(|queue| routed(&routes, queue, row))
                .map(str::to_owned)
                .collect();
            assert_eq!(routed, wanted, "{}", row.detail_type);
        }
    }

    #[test]
    fn an_event_that_is_routed_to_a_queue_passes_the_queues_filters() {
        let routes = Routes::shipped();
        for row in catalogue() {
            let subject = format!(
                "roadcall.depot-a.{}.{}.k1",
                row.source.service(),
                row.detail_type
            );
            for queue in routes.queues() {
                if routed(&routes, queue, row) {
                    let filters = routes.filters(queue);
                    assert!(
                        filters.iter().any(|f| filter::matches(f, &subject)),
                        "{subject} {queue} {filters:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn age_rules_are_those_of_the_domain() {
        let routes = Routes::shipped();
        let target = |queue, source, detail_type| {
            let mut found = routes.admitting(queue, source, detail_type);
            found.next().expect("routed").1
        };
        let created = target("match-queue", Source::Incident, "IncidentCreated");
        assert_eq!(created.max_event_age, Some(Duration::from_secs(7200)));
        assert_eq!(created.when_older, WhenOlder::Escalate);
        let offers = target("vendor-queue", Source::Match, "OfferCreated");
        assert_eq!(offers.max_event_age, None);
    }

    #[test]
    fn wrong_rules_get_a_sentence() {
        for (text, says) in [
            (
                "[[rule]]\nname = 'a'\npattern = { source = ['roadcall.match'] }\ntargets = []",
                "no target",
            ),
            (
                "[[rule]]\nname = 'a'\npattern = { source = ['roadcall.match'] }\ntargets = [{ queue = 'q', max_event_age = '1x', when_older = 'drop' }]",
                "not a duration",
            ),
            (
                "[[rule]]\nname = 'a'\npattern = { source = ['roadcall.match'] }\ntargets = [{ queue = 'q', max_event_age = '1h' }]",
                "go together",
            ),
            (
                "[[rule]]\nname = 'a'\npattern = { source = ['roadcall.match'] }\ntarget = []",
                "unknown field",
            ),
            (
                "[[rule]]\nname = 'a'\npattern = { detail = { x = '1' } }\ntargets = [{ queue = 'q' }]",
                "detail.x is no list",
            ),
            (
                "[[rule]]\nname = 'a'\npattern = { source = ['roadcall.match'] }\ntargets = [{ queue = 'q' }, { queue = 'q' }]",
                "both bring",
            ),
        ] {
            let error = Routes::parse(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
