//! A short name for everything that is in force, to see from afar whether two processes are configured alike.

use sha2::{Digest, Sha256};

use super::{Config, as_dict};

/// Bytes of the hash that a digest shows: it tells configurations apart, and proves nothing.
const SHOWN: usize = 6;

impl Config {
    /// The first twelve hex digits of the SHA-256 over the configuration in force, as JSON with every key in order.
    ///
    /// Every key counts, whether a file, the environment, a flag or a default gave the value. Secrets count too, so that a
    /// changed password is a changed configuration; the digest gives none away: too little of the hash is left, and the
    /// passwords that Roadcall makes are random. Of a secret that stands in a file of its own the file's name counts. State
    /// does not count: a hub has the same digest before and after a depot joins it.
    #[must_use]
    pub fn digest(&self) -> String {
        if let Some(pinned) = &self.pinned {
            return pinned.clone();
        }
        // Sorted by key, plain data: see `as_dict`.
        let text = serde_json::to_string(&as_dict(self)).unwrap_or_default();
        let hash = Sha256::digest(text);
        hash[..SHOWN]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Lets [`Self::digest`] stay what it is: what a process finds out when it starts (where its own broker listens, how an
    /// external one syncs) and writes into its configuration is none.
    pub fn pin_digest(&mut self) {
        self.pinned = Some(self.digest());
    }
}

#[cfg(test)]
mod tests {
    use super::super::depots::Depot;
    use super::*;
    use crate::event::Ts;
    use std::collections::BTreeSet;

    #[test]
    fn every_section_and_every_secret_counts() {
        type Change = fn(&mut Config);
        let changes: [Change; 9] = [
            |_| {},
            |config| config.site.id = "depot-7".to_owned(),
            |config| config.bus.url = "nats://a:secret@127.0.0.1:4222".to_owned(),
            |config| config.bus.url = "nats://a:Secret@127.0.0.1:4222".to_owned(),
            |config| config.hub.password = "secret".to_owned(),
            |config| config.hub.seed = "secret".to_owned(),
            |config| config.payments.stripe.secret_key = "secret".to_owned(),
            |config| config.sla.tiers[0].multiplier = 2.0,
            |config| config.log.level = "debug".to_owned(),
        ];
        let digests = changes.map(|change| {
            let mut config = Config::default();
            change(&mut config);
            config.digest()
        });
        assert_eq!(digests[0], Config::default().digest());
        assert!(digests.iter().all(|digest| digest.len() == 2 * SHOWN));
        let told_apart = digests.iter().collect::<BTreeSet<_>>().len();
        assert_eq!(told_apart, digests.len(), "{digests:?}");
    }

    #[test]
    fn what_a_process_finds_out_does_not_count() {
        let mut config = Config::default();
        let before = config.digest();
        config.pin_digest();
        config.bus.url = "nats://127.0.0.1:50123".to_owned();
        assert_eq!(config.digest(), before);
    }

    #[test]
    fn a_depot_that_joins_changes_nothing() {
        let mut config = Config::default();
        let before = config.digest();
        config.depots.push(Depot {
            site: "depot-7".to_owned(),
            password: "abc".to_owned(),
            seed: String::new(),
            older: Vec::new(),
            down: Vec::new(),
            roles: Vec::new(),
            since: Ts::from_ms(0),
        });
        assert_eq!(config.digest(), before);
    }
}
