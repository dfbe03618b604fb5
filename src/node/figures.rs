//! What a running role measures beside its [`Counts`]: told by `<role>.status`, and from there by `/metrics`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::effects::{BreakerState, Runners};
use super::engine::Counts;
use super::trace::{RoleTracer, SpanCounts};

/// Upper bounds of durations that are told apart, seconds.
pub const BOUNDS: [f64; 9] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// What a rule did in a role since its process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleCounts {
    /// Events that it brought to the queue.
    pub matched: u64,
    /// Handler runs of such events that failed.
    pub failed: u64,
}

/// How long things took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timings {
    /// How many took so long: up to each of [`BOUNDS`] and more than the one before; the last took longer than all.
    pub counts: [u64; BOUNDS.len() + 1],
    /// All of them together, microseconds.
    pub sum_us: u64,
}

impl Timings {
    /// Counts one that took so long.
    pub fn record(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bound = BOUNDS.iter().position(|bound| seconds <= *bound);
        self.counts[bound.unwrap_or(BOUNDS.len())] += 1;
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.sum_us = self.sum_us.saturating_add(us);
    }
}

/// What a role says that it measured since its process started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Figures {
    /// By rule.
    pub rules: BTreeMap<String, RuleCounts>,
    /// From a command's arrival to its answer.
    pub commands: Timings,
    /// Of each service outside that was called.
    pub breakers: BTreeMap<String, BreakerState>,
    /// What became of its spans; nothing where nothing is traced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spans: Option<SpanCounts>,
}

/// What rules did, kept step by step: a step that is undone counts nothing. Clones share what is kept.
#[derive(Debug, Clone, Default)]
pub struct RuleTally {
    step: BTreeMap<String, RuleCounts>,
    kept: Arc<Mutex<BTreeMap<String, RuleCounts>>>,
}

impl RuleTally {
    /// Counts in the present step.
    pub fn count(&mut self, rule: &str, count: impl FnOnce(&mut RuleCounts)) {
        // Most steps are of few rules, so that a name is copied once a step and not once an event.
        match self.step.get_mut(rule) {
            Some(counts) => count(counts),
            None => count(self.step.entry(rule.to_owned()).or_default()),
        }
    }

    /// The step is committed.
    pub fn keep(&mut self) {
        if self.step.is_empty() {
            return;
        }
        let mut kept = locked(&self.kept);
        for (rule, step) in std::mem::take(&mut self.step) {
            let counts = kept.entry(rule).or_default();
            counts.matched += step.matched;
            counts.failed += step.failed;
        }
    }

    /// The step is undone.
    pub fn undo(&mut self) {
        self.step.clear();
    }
}

/// Where a running role's figures are read.
#[derive(Debug, Clone)]
pub struct Gathered {
    /// Its counts.
    pub counts: Arc<Mutex<Counts>>,
    /// What rules did.
    pub rules: RuleTally,
    /// How long its commands took.
    pub commands: Arc<Mutex<Timings>>,
    /// Who makes its calls to the outside.
    pub runners: Arc<Runners>,
    /// What it traces with.
    pub tracer: Option<RoleTracer>,
}

impl Gathered {
    /// The counts now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        *locked(&self.counts)
    }

    /// Everything else now.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures {
            rules: locked(&self.rules.kept).clone(),
            commands: locked(&self.commands).clone(),
            breakers: self.runners.breakers(),
            spans: self.tracer.as_ref().map(RoleTracer::counts),
        }
    }
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_apart_by_their_bounds() {
        let mut timings = Timings::default();
        for ms in [5, 6, 10_000] {
            timings.record(Duration::from_millis(ms));
        }
        assert_eq!(timings.counts, [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(timings.sum_us, 10_011_000);
    }

    #[test]
    fn what_is_undone_is_not_counted() {
        let mut tally = RuleTally::default();
        tally.count("a", |counts| counts.matched += 1);
        tally.undo();
        tally.count("a", |counts| counts.failed += 1);
        tally.keep();
        tally.count("a", |counts| counts.failed += 1);
        tally.keep();
        let kept = locked(&tally.kept).clone();
        let wanted = RuleCounts {
            matched: 0,
            failed: 2,
        };
        assert_eq!(kept, BTreeMap::from([("a".to_owned(), wanted)]));
    }
}
