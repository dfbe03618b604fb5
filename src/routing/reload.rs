//! Taking changed rules over while a process runs (DESIGN 6): residuals, ages and `enabled` change here alone; what would
//! change a queue's subject filters needs the server, and waits for `topology apply`.

use std::collections::BTreeSet;

use super::{Routes, Rule};

impl Routes {
    /// These rules with what can be taken over from `new` without changing the filters of one of `queues`; and the names
    /// of the rules that stay as they were, because they would.
    #[must_use]
    pub fn reload(&self, new: &Self, queues: &[&str]) -> (Self, Vec<String>) {
        let changed: Vec<&str> = queues
            .iter()
            .copied()
            .filter(|queue| self.filters(queue) != new.filters(queue))
            .collect();
        let kept = self.differing(new, &changed);
        let mixed = self.mix(new, &kept);
        let fits = changed
            .iter()
            .all(|queue| self.filters(queue) == mixed.filters(queue));
        if fits && mixed.refuse_double_routes().is_ok() {
            return (mixed, kept.into_iter().collect());
        }
        // The kept rules and the new ones do not go together.
        let kept = self.differing(new, queues);
        (self.clone(), kept.into_iter().collect())
    }

    /// Rules that give one of `queues` other filters in `new` than here.
    fn differing(&self, new: &Self, queues: &[&str]) -> BTreeSet<String> {
        let filters = |rule: Option<&Rule>, queue: &str| {
            rule.filter(|rule| rule.targets.iter().any(|target| target.queue == queue))
                .map(|rule| rule.pattern.filters())
        };
        let names = self.rules.iter().chain(&new.rules).map(|rule| &rule.name);
        names
            .filter(|name| {
                let (old, new) = (self.named(name), new.named(name));
                queues
                    .iter()
                    .any(|queue| filters(old, queue) != filters(new, queue))
            })
            .cloned()
            .collect()
    }

    fn named(&self, name: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.name == name)
    }

    /// The rules of `new`, but those named in `kept` as they are here, or not at all if they are not.
    fn mix(&self, new: &Self, kept: &BTreeSet<String>) -> Self {
        let of_new = new.rules.iter().filter(|rule| !kept.contains(&rule.name));
        let of_old = self.rules.iter().filter(|rule| kept.contains(&rule.name));
        Self {
            rules: of_new.chain(of_old).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::Source;

    const OLD: &str = "
        [[rule]]
        name = 'created'
        pattern = { source = ['roadcall.incident'], detail-type = ['IncidentCreated'] }
        targets = [{ queue = 'match-queue', max_event_age = '2h', when_older = 'escalate' }]
        [[rule]]
        name = 'offers'
        pattern = { source = ['roadcall.match'], detail-type = ['OfferAccepted'] }
        targets = [{ queue = 'incident-queue' }, { queue = 'vendor-queue' }]";

    fn reload(new: &str, queues: &[&str]) -> (Routes, Vec<String>) {
        let old = Routes::parse(OLD).expect("valid");
        old.reload(&Routes::parse(new).expect("valid"), queues)
    }

    fn age(routes: &Routes) -> Option<Duration> {
        let mut found = routes.admitting("match-queue", Source::Incident, "IncidentCreated");
        found.next().and_then(|(_, target)| target.max_event_age)
    }

    #[test]
    fn ages_and_enabled_are_taken_over() {
        let new = OLD.replace("2h", "3h").replace(
            "name = 'offers'",
            "name = 'offers'\n        enabled = false",
        );
        let (routes, kept) = reload(&new, &["match-queue", "incident-queue", "vendor-queue"]);
        assert!(kept.is_empty(), "{kept:?}");
        assert_eq!(age(&routes), Some(Duration::from_secs(3 * 3600)));
        assert!(
            routes
                .admitting("vendor-queue", Source::Match, "OfferAccepted")
                .next()
                .is_none()
        );
        // Still delivered, so that enabling it again needs no server either.
        assert_eq!(
            routes.filters("vendor-queue"),
            ["roadcall.*.match.OfferAccepted.*"]
        );
    }

    #[test]
    fn a_rule_with_other_filters_stays_and_is_named_and_the_others_change() {
        let new = OLD
            .replace("2h", "3h")
            .replace("'OfferAccepted'", "'OfferAccepted', 'OfferDeclined'");
        let (routes, kept) = reload(&new, &["match-queue", "vendor-queue"]);
        assert_eq!(kept, ["offers"]);
        assert_eq!(age(&routes), Some(Duration::from_secs(3 * 3600)));
        assert_eq!(
            routes.filters("vendor-queue"),
            ["roadcall.*.match.OfferAccepted.*"]
        );
        // Another process's queue is not this one's business.
        let (_, kept) = reload(&new, &["match-queue"]);
        assert!(kept.is_empty(), "{kept:?}");
    }

    #[test]
    fn a_new_rule_and_a_removed_one_wait_too() {
        let added = format!(
            "{OLD}\n[[rule]]\nname = 'declined'\npattern = {{ source = ['roadcall.match'], detail-type = ['OfferDeclined'] }}\n\
             targets = [{{ queue = 'vendor-queue' }}]"
        );
        let (routes, kept) = reload(&added, &["vendor-queue"]);
        assert_eq!(kept, ["declined"]);
        assert_eq!(routes.rules().len(), 2);
        let at = OLD.rfind("[[rule]]").expect("two rules");
        let (routes, kept) = reload(&OLD[..at], &["vendor-queue"]);
        assert_eq!(kept, ["offers"]);
        assert_eq!(routes.rules().len(), 2);
    }
}
