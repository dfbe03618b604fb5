//! What is wrong, in a form that sorts, prints and can be pasted.

use std::cmp::Reverse;

use serde::Serialize;

/// How bad it is; the worst is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// To be known; nothing suffers from it now.
    Note,
    /// Nothing is late or lost yet, and it will be.
    Warning,
    /// Something is not done, or lost, as long as it stays.
    Critical,
}

impl Severity {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// One thing that is wrong. Field names are those that `roadcall doctor --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// Which kind of fault, `queue-paused`.
    pub check: &'static str,
    /// What it is about: a queue, a role, a site, a file.
    pub subject: String,
    /// The fault in one line.
    pub finding: String,
    /// Where it was seen, and what stood there.
    pub evidence: String,
    /// What to do: a command, a remark behind `#`.
    #[serde(rename = "do")]
    pub remedy: String,
}

/// What was found so far.
#[derive(Debug, Default)]
pub struct Findings {
    found: Vec<Finding>,
    unseen: Vec<String>,
    /// How a command of this program begins for whoever reads it, so that it reaches the same site.
    program: String,
}

/// What a look came to.
#[derive(Debug)]
pub struct Report {
    /// The worst first, else in the order of the looks.
    pub findings: Vec<Finding>,
    /// What could not be looked at, and why, where no finding says it.
    pub unseen: Vec<String>,
}

impl Findings {
    /// Nothing yet.
    #[must_use]
    pub fn new(program: &str) -> Self {
        Self {
            program: program.to_owned(),
            ..Self::default()
        }
    }

    /// Begins a finding; it counts once it is told what to do.
    pub fn add(
        &mut self,
        severity: Severity,
        check: &'static str,
        subject: impl Into<String>,
    ) -> Draft<'_> {
        Draft {
            finding: Finding {
                severity,
                check,
                subject: subject.into(),
                finding: String::new(),
                evidence: String::new(),
                remedy: String::new(),
            },
            to: self,
        }
    }

    /// Something could not be looked at.
    pub fn unseen(&mut self, what: &str, why: impl std::fmt::Display) {
        self.unseen.push(format!("{what}: {why}"));
    }

    /// Whether this is told already.
    #[must_use]
    pub fn has(&self, check: &str, subject: &str) -> bool {
        let mut all = self.found.iter();
        all.any(|finding| finding.check == check && finding.subject == subject)
    }

    /// Everything, the worst first.
    #[must_use]
    pub fn report(mut self) -> Report {
        self.found.sort_by_key(|finding| Reverse(finding.severity));
        Report {
            findings: self.found,
            unseen: self.unseen,
        }
    }
}

/// A finding that is being written.
#[derive(Debug)]
#[must_use = "it counts once it is told what to do"]
pub struct Draft<'f> {
    finding: Finding,
    to: &'f mut Findings,
}

impl Draft<'_> {
    /// What is wrong.
    pub fn says(mut self, what: impl Into<String>) -> Self {
        self.finding.finding = what.into();
        self
    }

    /// Where that was seen.
    pub fn seen(mut self, evidence: impl Into<String>) -> Self {
        self.finding.evidence = evidence.into();
        self
    }

    /// What to do, as a line for a shell.
    pub fn then(mut self, remedy: impl Into<String>) {
        self.finding.remedy = remedy.into();
        self.to.found.push(self.finding);
    }

    /// What to do with this program.
    pub fn roadcall(self, command: &str) {
        let line = format!("{} {command}", self.to.program);
        self.then(line);
    }
}

/// A word for a shell, as it is or in quotes.
#[must_use]
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// An address as it may be shown.
#[must_use]
pub fn without_password(url: &str) -> String {
    let one = |url: &str| match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            format!("{}***{}", &url[..scheme + 3], &url[at..])
        }
        _ => url.to_owned(),
    };
    url.split(',').map(one).collect::<Vec<_>>().join(",")
}

/// A span for people, in its two largest units: `4m 10s`.
#[must_use]
pub fn span(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// `1 event`, `2 events`.
#[must_use]
pub fn count(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_first_and_each_says_what_to_do() {
        let mut found = Findings::new("roadcall --config 'a b'");
        found
            .add(Severity::Note, "one", "a")
            .says("little")
            .then("true");
        found
            .add(Severity::Critical, "two", "b")
            .says("much")
            .seen("there")
            .roadcall("queue list");
        found
            .add(Severity::Critical, "three", "c")
            .says("as much")
            .then("true");
        assert!(found.has("two", "b") && !found.has("two", "a"));
        let report = found.report();
        let order: Vec<&str> = report.findings.iter().map(|one| one.check).collect();
        assert_eq!(order, ["two", "three", "one"]);
        assert_eq!(
            report.findings[0].remedy,
            "roadcall --config 'a b' queue list"
        );
    }

    #[test]
    fn words_for_a_shell_and_spans_for_people() {
        let words = ["a.toml", "", "a b", "it's"].map(quoted);
        assert_eq!(words, ["a.toml", "''", "'a b'", r"'it'\''s'"]);
        let spans = [0, 250_000, 3_600_000, 90_000_000].map(span);
        assert_eq!(spans, ["0s", "4m 10s", "1h 0m", "1d 1h"]);
    }

    #[test]
    fn a_password_is_not_shown() {
        let shown = without_password("nats://a:secret@one:4222,nats://two:4222");
        assert_eq!(shown, "nats://***@one:4222,nats://two:4222");
    }
}
