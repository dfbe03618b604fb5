//! Whether an event came from where its subject says it did.
//!
//! A depot decides itself what it gives away, so a hostile one can give away events under another site's name (BROKER 1).
//! Where an event came in the server wrote down, in a header that nobody may publish: which stream, behind which JetStream.
//! The hub takes a depot's events from that depot alone; a depot takes others' from the hub alone.

use sha2::{Digest, Sha256};

use crate::bus::EVENTS;
use crate::bus::links::HUB;

/// `<stream>:<hash of the API prefix>[:…] <sequence there> …`, written by the server on what it sourced.
const SOURCED: &str = "Nats-Stream-Source";

/// The server's short name of another JetStream: eight digits of base 62 made of the prefix's SHA-256.
fn hash(site: &str) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let sum = Sha256::digest(format!("$JS.{site}.API"));
    let digit = |byte: &u8| char::from(DIGITS[usize::from(*byte) % DIGITS.len()]);
    sum.iter().take(8).map(digit).collect()
}

/// What is wrong with where an event came from; nothing for one that was published here, or carried here by an operator.
pub(super) fn doubt(own: &str, subject: &str, headers: &[(String, String)]) -> Option<String> {
    let (_, sourced) = headers.iter().find(|(name, _)| name == SOURCED)?;
    let mut from = sourced.split([':', ' ']);
    if from.next() != Some(EVENTS) {
        return None;
    }
    let from = from.next().unwrap_or_default();
    let site = subject.split('.').nth(1).unwrap_or_default();
    let honest = if own == HUB {
        site != HUB && from == hash(site)
    } else {
        from == hash(HUB)
    };
    (!honest).then(|| format!("site: '{site}' is not where the event came from"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sourced(from: &str) -> Vec<(String, String)> {
        let value = format!("EVENTS:{}:C=xAwkZhAJ 1 > > roadcall.x GDnqO3jO", hash(from));
        vec![(SOURCED.to_owned(), value)]
    }

    #[test]
    fn the_hash_is_the_servers() {
        // Seen in the header of a message that nats-server 2.15.1 sourced from depot-a.
        assert_eq!(hash("depot-a"), "e65DEuoM");
    }

    #[test]
    fn the_hub_takes_a_depots_events_from_that_depot_alone() {
        let of_a = "roadcall.depot-a.incident.IncidentCreated.x";
        assert_eq!(doubt("hub", of_a, &sourced("depot-a")), None);
        assert!(doubt("hub", of_a, &sourced("depot-b")).is_some());
        assert!(
            doubt(
                "hub",
                "roadcall.hub.incident.IncidentCreated.x",
                &sourced("depot-a")
            )
            .is_some()
        );
    }

    #[test]
    fn a_depot_takes_others_events_from_the_hub_alone() {
        for site in ["hub", "depot-b", "depot-a"] {
            let subject = format!("roadcall.{site}.incident.IncidentCreated.x");
            assert_eq!(doubt("depot-a", &subject, &sourced("hub")), None, "{site}");
            assert!(
                doubt("depot-a", &subject, &sourced("depot-b")).is_some(),
                "{site}"
            );
        }
    }

    #[test]
    fn what_was_published_or_carried_here_is_not_doubted() {
        let subject = "roadcall.depot-a.incident.IncidentCreated.x";
        assert_eq!(doubt("hub", subject, &[]), None);
        let carried = vec![(
            SOURCED.to_owned(),
            "CARRY 3 carry.> roadcall.> carry.depot-a.x id".to_owned(),
        )];
        assert_eq!(doubt("hub", subject, &carried), None);
    }
}
