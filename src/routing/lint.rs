//! What rules say without meaning it: event types that nobody gets, queues that nobody reads, rules that match nothing.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Routes, Rule};
use crate::event::{Source, catalogue};

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

/// Looks the rules over. `queues` are those that the site's roles read; rules for queues of `later`, whose roles this build
/// does not have, are not judged by that.
#[must_use]
pub fn lint(routes: &Routes, queues: &[&str], later: &[&str]) -> Vec<Finding> {
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
        for queue in rule.targets.iter().map(|target| target.queue.as_str()) {
            let known = queues.contains(&queue) || later.contains(&queue);
            if !known && rule.targets.len() == 1 {
                find(
                    &rule.name,
                    format!("brings events to {queue}, which no role of this site reads"),
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

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: [&str; 2] = ["match-queue", "audit-queue"];

    fn of(rules: &str) -> Vec<Finding> {
        let all = "[[rule]]\nname = 'all'\npattern = { source = [{ prefix = 'roadcall.' }] }\ntargets = [{ queue = 'audit-queue' }]\n";
        lint(
            &Routes::parse(&format!("{all}{rules}")).expect("valid"),
            &SITE,
            &["reporting-queue"],
        )
    }

    #[test]
    fn good_rules_have_no_findings() {
        assert_eq!(of(""), []);
        let queues: Vec<String> = Routes::shipped()
            .queues()
            .into_iter()
            .map(str::to_owned)
            .collect();
        let queues: Vec<&str> = queues.iter().map(String::as_str).collect();
        assert_eq!(lint(&Routes::shipped(), &queues, &[]), []);
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
        ] {
            let findings = of(&rule(pattern, queue));
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert!(findings[0].finding.contains(says), "{findings:?}");
        }
        let lonely = "[[rule]]\nname = 'r'\npattern = { source = ['roadcall.match'] }\ntargets = [{ queue = 'match-queue' }]\n";
        let findings = lint(
            &Routes::parse(lonely).expect("valid"),
            &SITE,
            &["reporting-queue"],
        );
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
