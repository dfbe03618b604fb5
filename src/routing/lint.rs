//! What rules say without meaning it: event types that nobody gets, queues that nobody reads, rules that match nothing.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Routes, Rule};
use crate::event::{Source, catalogue, fields};

/// Something to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule or the event type.
    pub subject: String,
    /// What is the matter, in a sentence.
    pub finding: String,
}

/// Fields that an envelope has (DESIGN 5); a pattern that names another asks for what a foreign producer may add.
const ENVELOPE: [&str; 10] = [
    "id",
    "source",
    "detail-type",
    "time",
    "site",
    "home",
    "resources",
    "cause",
    "correlation",
    "detail",
];

/// Who reads which queue.
#[derive(Debug, Clone, Default)]
pub struct Readers<'q> {
    /// Queues that the site's roles read.
    pub here: Vec<&'q str>,
    /// Queues of roles that this build has and the site does not run.
    pub elsewhere: Vec<&'q str>,
    /// Queues whose roles this build does not have: rules for them are not judged by their readers.
    pub later: Vec<&'q str>,
}

/// Looks the rules over.
#[must_use]
pub fn lint(routes: &Routes, readers: &Readers<'_>) -> Vec<Finding> {
    let queues = &readers.here;
    let mut findings = Vec::new();
    let mut find = |subject: &str, finding: String| {
        findings.push(Finding {
            subject: subject.to_owned(),
            finding,
        });
    };
    for rule in routes.rules() {
        if !Source::ALL
            .iter()
            .any(|source| admits_something(rule, *source))
        {
            find(
                &rule.name,
                "can never match: no event comes from such a source under such a type".to_owned(),
            );
        } else if !catalogue().any(|row| rule.pattern.admits(row.source, row.detail_type)) {
            find(
                &rule.name,
                "matches no event type of the catalogue".to_owned(),
            );
        }
        for field in unknown_fields(rule) {
            find(
                &rule.name,
                format!("asks for the field '{field}', which no event of ours has"),
            );
        }
        for field in unheard_of(rule) {
            find(
                &rule.name,
                format!("asks for the field 'detail.{field}', which no event has that it looks at"),
            );
        }
        for queue in rule.targets.iter().map(|target| target.queue.as_str()) {
            let among = |names: &[&str]| names.contains(&queue);
            if among(&readers.elsewhere) && rule.targets.len() == 1 {
                find(
                    &rule.name,
                    format!("brings events to {queue}, which no role of this site reads"),
                );
            } else if !among(queues) && !among(&readers.elsewhere) && !among(&readers.later) {
                find(
                    &rule.name,
                    format!("brings events to {queue}, which no role reads at all"),
                );
            }
        }
    }
    for row in catalogue() {
        let routed = queues.iter().any(|queue| {
            routes
                .admitting(queue, row.source, row.detail_type)
                .next()
                .is_some()
        });
        if !routed {
            find(row.detail_type, "goes to no queue of this site".to_owned());
        }
    }
    findings
}

/// Whether some event of this source could match, of a type that the catalogue knows or does not.
fn admits_something(rule: &Rule, source: Source) -> bool {
    let named = rule.pattern.filters();
    named
        .iter()
        .any(|filter| filter == "roadcall.>" || filter.split('.').nth(2) == Some(source.service()))
}

fn unknown_fields(rule: &Rule) -> BTreeSet<String> {
    let first = |name: &String| name.split('.').next().unwrap_or(name).to_owned();
    let names = rule
        .pattern
        .text()
        .as_object()
        .into_iter()
        .flat_map(|map| map.keys());
    names
        .filter(|name| *name != "$or")
        .map(first)
        .filter(|name| !ENVELOPE.contains(&name.as_str()))
        .collect()
}

/// Fields that a rule asks the detail for and that no type of the catalogue has which the rule admits.
fn unheard_of(rule: &Rule) -> BTreeSet<String> {
    let Some(asked) = rule.pattern.text()["detail"].as_object().cloned() else {
        return BTreeSet::new();
    };
    let admitted: Vec<BTreeSet<String>> = catalogue()
        .filter(|row| rule.pattern.admits(row.source, row.detail_type))
        .map(fields)
        .collect();
    let first = |name: &String| name.split('.').next().unwrap_or(name).to_owned();
    let names = asked.keys().filter(|name| *name != "$or").map(first);
    // Where it admits no type, that is the finding.
    names
        .filter(|name| !admitted.is_empty() && !admitted.iter().any(|has| has.contains(name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readers() -> Readers<'static> {
        Readers {
            here: vec!["match-queue", "audit-queue"],
            elsewhere: vec!["kb-queue"],
            later: vec!["reporting-queue"],
        }
    }

    fn of(rules: &str) -> Vec<Finding> {
        let all = "[[rule]]\nname = 'all'\npattern = { source = [{ prefix = 'roadcall.' }] }\ntargets = [{ queue = 'audit-queue' }]\n";
        lint(
            &Routes::parse(&format!("{all}{rules}")).expect("valid"),
            &readers(),
        )
    }

    #[test]
    fn good_rules_have_no_findings() {
        assert_eq!(of(""), []);
        let shipped = Routes::shipped();
        let here = shipped.queues().into_iter().collect();
        let readers = Readers {
            here,
            ..Readers::default()
        };
        assert_eq!(lint(&shipped, &readers), []);
    }

    #[test]
    fn what_matches_nothing_or_goes_nowhere_is_named() {
        let rule = |pattern: &str, queue: &str| {
            format!(
                "[[rule]]\nname = 'r'\npattern = {pattern}\ntargets = [{{ queue = '{queue}' }}]\n"
            )
        };
        for (pattern, queue, says) in [
            (
                "{ source = ['roadcall.nobody'] }",
                "match-queue",
                "can never match",
            ),
            (
                "{ source = ['roadcall.match'], detail-type = ['Offer Created'] }",
                "match-queue",
                "can never match",
            ),
            (
                "{ source = ['roadcall.match'], detail-type = ['OfferVanished'] }",
                "match-queue",
                "matches no event type",
            ),
            (
                "{ detial = { x = [1] } }",
                "match-queue",
                "asks for the field 'detial'",
            ),
            (
                "{ source = ['roadcall.match'] }",
                "kb-queue",
                "which no role of this site reads",
            ),
            (
                "{ source = ['roadcall.match'] }",
                "macth-queue",
                "which no role reads at all",
            ),
            (
                "{ source = ['roadcall.match'], detail = { incidentTpye = ['tire'], offerId = [{ exists = true }] } }",
                "match-queue",
                "asks for the field 'detail.incidentTpye'",
            ),
        ] {
            let findings = of(&rule(pattern, queue));
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert!(findings[0].finding.contains(says), "{findings:?}");
        }
        let lonely = "[[rule]]\nname = 'r'\npattern = { source = ['roadcall.match'] }\ntargets = [{ queue = 'match-queue' }]\n";
        let findings = lint(&Routes::parse(lonely).expect("valid"), &readers());
        assert!(
            findings.iter().any(|one| one.subject == "IncidentCreated"),
            "{findings:?}"
        );
        assert!(
            !findings.iter().any(|one| one.subject == "OfferCreated"),
            "{findings:?}"
        );
    }
}
