//! Rules that somebody switched while the site runs (`roadcall rule enable|disable`), over what the file says; and the digest
//! by which a queue's log names its rules.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::{Error, Routes};

impl Routes {
    /// These rules with `switches` (rule to enabled) over what the file says. A switch of a rule that is not there, because
    /// this machine has other rules or an older file, changes nothing.
    #[must_use]
    pub fn switched(&self, switches: &BTreeMap<String, bool>) -> Self {
        let mut rules = self.rules.clone();
        for rule in &mut rules {
            rule.enabled = switches
                .get(&rule.name)
                .copied()
                .unwrap_or(rule.enabled_in_file);
        }
        Self { rules }
    }

    /// Whether the rules go together as they are switched now.
    ///
    /// # Errors
    /// Two of them bring one event to one queue (DOMAIN 4.1).
    pub fn check(&self) -> Result<(), Error> {
        self.refuse_double_routes()
    }

    /// SHA-256 in hexadecimal of the rules that feed `queue`, in the order in which they count. Switching one changes nothing.
    #[must_use]
    pub fn digest(&self, queue: &str) -> String {
        let mut hash = Sha256::new();
        for rule in &self.rules {
            for target in rule.targets.iter().filter(|target| target.queue == queue) {
                let age_ms = target.max_event_age.map(|age| age.as_millis());
                let text = format!(
                    "{}\n{}\n{age_ms:?} {:?}\n",
                    rule.name,
                    rule.pattern.text(),
                    target.when_older
                );
                hash.update(text);
            }
        }
        hash.finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = "
        [[rule]]
        name = 'one'
        pattern = { source = ['roadcall.match'], detail-type = ['OfferAccepted'] }
        targets = [{ queue = 'vendor-queue' }]
        [[rule]]
        name = 'two'
        enabled = false
        pattern = { source = ['roadcall.match'], detail-type = ['OfferAccepted'] }
        targets = [{ queue = 'vendor-queue' }]";

    fn switched(switches: &[(&str, bool)]) -> Routes {
        let switches = switches
            .iter()
            .map(|(name, on)| ((*name).to_owned(), *on))
            .collect();
        Routes::parse(RULES).expect("valid").switched(&switches)
    }

    #[test]
    fn a_switch_stands_over_the_file_and_without_it_the_file_counts() {
        let enabled = |routes: &Routes| routes.rules().iter().map(|rule| rule.enabled).collect();
        let both: Vec<bool> = enabled(&switched(&[("one", false), ("two", true), ("other", true)]));
        assert_eq!(both, [false, true]);
        let back: Vec<bool> =
            enabled(&switched(&[("one", false), ("two", true)]).switched(&BTreeMap::new()));
        assert_eq!(back, [true, false]);
    }

    #[test]
    fn switches_that_bring_an_event_to_a_queue_twice_are_found() {
        assert!(switched(&[("one", false), ("two", true)]).check().is_ok());
        let error = switched(&[("two", true)]).check().expect_err("twice");
        assert!(error.to_string().contains("both bring"), "{error}");
    }

    #[test]
    fn the_digest_is_of_the_queues_own_rules() {
        let (before, other) = (switched(&[]), switched(&[("one", false)]));
        assert_eq!(before.digest("vendor-queue"), other.digest("vendor-queue"));
        assert_eq!(before.digest("vendor-queue").len(), 64);
        let text = RULES.replace("'OfferAccepted'", "'OfferDeclined'");
        let changed = Routes::parse(&text).expect("valid");
        assert_ne!(
            before.digest("vendor-queue"),
            changed.digest("vendor-queue")
        );
        assert_eq!(before.digest("match-queue"), changed.digest("match-queue"));
    }
}
