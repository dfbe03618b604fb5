//! What an archive has, as the ledger counts: by maker and number.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::bus::{self, Bus, EVENTS};
use crate::event::{Producer, Ts};
use crate::node::transfer::Record;
use crate::role::audit::recount::Found;

/// Messages in one read.
const PAGE: usize = 1000;

/// Looks through the archive from `from` on; gives what it has, and where to go on later.
pub(super) async fn count<B: Bus>(bus: &B, from: u64) -> Result<(Vec<Found>, u64), bus::Error> {
    let (mut counted, mut next) = (Counted::default(), from);
    loop {
        let page = bus.read(EVENTS, "roadcall.>", next, PAGE, true).await?;
        let Some(last) = page.last() else {
            return Ok((counted.found(), next));
        };
        next = last.seq + 1;
        for stored in &page {
            let site = stored.subject.split('.').nth(1).unwrap_or_default();
            if let Some(made) = Producer::of(&stored.headers.0) {
                counted.add(site, made, stored.received_at_ms);
            }
        }
    }
}

/// The same of events that the archive has, as another site sent them.
pub(super) fn of_records(site: &str, records: &[Record]) -> Vec<Found> {
    let mut counted = Counted::default();
    for record in records {
        let made = record.headers.get(Producer::HEADER);
        if let Some(made) = made.and_then(Value::as_str).and_then(Producer::parse) {
            counted.add(site, made, record.received_at.ms());
        }
    }
    counted.found()
}

/// Numbers, and for each when the archive took its event, by site, role and life.
#[derive(Default)]
struct Counted(BTreeMap<(String, String, String), BTreeMap<u64, i64>>);

impl Counted {
    fn add(&mut self, site: &str, made: Producer, at_ms: i64) {
        let of = (site.to_owned(), made.role, made.epoch);
        self.0.entry(of).or_default().insert(made.n, at_ms);
    }

    fn found(self) -> Vec<Found> {
        let mut all: Vec<Found> = Vec::new();
        for ((site, role, epoch), numbers) in self.0 {
            for (n, at_ms) in numbers {
                let at = Ts::from_ms(at_ms);
                match all.last_mut() {
                    Some(it)
                        if it.site == site
                            && it.role == role
                            && it.epoch == epoch
                            && it.to + 1 == n =>
                    {
                        it.to = n;
                        it.at = it.at.max(at);
                    }
                    _ => all.push(Found {
                        site: site.clone(),
                        role: role.clone(),
                        epoch: epoch.clone(),
                        from: n,
                        to: n,
                        at,
                    }),
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_follow_each_other_are_one_range() {
        let mut counted = Counted::default();
        let made = |n| Producer {
            role: "incident".to_owned(),
            epoch: "e".to_owned(),
            n,
        };
        for (site, n) in [("a", 2), ("b", 3), ("a", 1), ("a", 5), ("a", 3), ("a", 3)] {
            counted.add(site, made(n), i64::try_from(n).expect("small"));
        }
        let ranges: Vec<_> = counted
            .found()
            .into_iter()
            .map(|found| (found.site, found.from, found.to, found.at.ms()))
            .collect();
        let range = |site: &str, from, to, at| (site.to_owned(), from, to, at);
        assert_eq!(
            ranges,
            [
                range("a", 1, 3, 3),
                range("a", 5, 5, 5),
                range("b", 3, 3, 3)
            ]
        );
    }
}
