//! Events that no role made have no numbers to go by (DESIGN 5): whether they came is seen by comparing the ids that the other
//! site's archive has with those that this one has. Each part of that archive is compared once, a look after it came.

use std::collections::HashSet;

use super::Question;
use super::fetch::{Error, Fetcher, tell};
use crate::bus::jetstream::JetStream;
use crate::bus::{Bus, EVENTS};
use crate::event::Producer;
use crate::node::import::Resent;

/// Parts that are compared at one look at the most.
const PARTS_MAX: usize = 50;
/// Messages in one read.
const PAGE: usize = 1000;

/// How far an archive was compared.
#[derive(Debug, Default)]
pub(super) struct Compared {
    /// Which archive.
    identity: i64,
    /// Up to here.
    next_seq: u64,
    /// Where the archive ended at the last look.
    last_seq: u64,
    /// What of the next part had not come at the last look.
    missed: HashSet<String>,
    /// Ids of this site's archive, and how far they were read.
    here: Here,
}

/// The ids of what no role made, in this site's archive.
#[derive(Debug, Default)]
struct Here {
    ids: HashSet<String>,
    next_seq: u64,
}

impl Here {
    /// Reads on.
    async fn read(&mut self, bus: &JetStream, site: &str) -> Result<(), Error> {
        let filter = format!("roadcall.{site}.>");
        loop {
            let from = self.next_seq.max(1);
            let page = bus.read(EVENTS, &filter, from, PAGE, true).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            self.next_seq = last.seq + 1;
            for stored in &page {
                if let Some(id) = stored.headers.get("Nats-Msg-Id")
                    && Producer::of(&stored.headers.0).is_none()
                {
                    self.ids.insert(id.to_owned());
                }
            }
        }
    }
}

impl Fetcher {
    /// Compares what is new of a site in the peer's archive with what came, and asks for what did not.
    pub(super) async fn compare(
        &mut self,
        peer: &str,
        site: &str,
        (identity, last_seq): (i64, u64),
    ) -> Result<(), Error> {
        let key = (peer.to_owned(), site.to_owned());
        let mut at = self.compared.remove(&key).unwrap_or_default();
        // Another archive, or one that was set back: what it has at the same places is something else.
        if at.identity != identity || last_seq < at.last_seq {
            at = Compared {
                identity,
                here: at.here,
                ..Compared::default()
            };
        }
        at.last_seq = last_seq;
        let done = self.go_on(peer, site, &mut at).await;
        self.compared.insert(key, at);
        done
    }

    async fn go_on(&self, peer: &str, site: &str, at: &mut Compared) -> Result<(), Error> {
        at.here.read(&self.bus, site).await?;
        for _ in 0..PARTS_MAX {
            let question = Question::Unnumbered {
                from_seq: at.next_seq,
            };
            let part = self.asker.ask(peer, site, question).await?;
            let absent: Vec<&(u64, String)> = part
                .ids
                .iter()
                .filter(|(_, id)| !at.here.ids.contains(id))
                .collect();
            // What is on its way has come by the next look.
            let lost = |(_, id): &&&(u64, String)| at.missed.contains(id);
            let seqs: Vec<u64> = absent.iter().filter(lost).map(|(seq, _)| *seq).collect();
            let waits = seqs.len() < absent.len();
            at.missed = absent.iter().map(|(_, id)| id.clone()).collect();
            if !seqs.is_empty() {
                self.bring(peer, site, seqs).await?;
            }
            if waits {
                return Ok(());
            }
            at.missed.clear();
            if let Some((seq, _)) = part.ids.last() {
                // Whatever came of this part is not asked for again.
                at.next_seq = seq + 1;
                for (_, id) in &part.ids {
                    at.here.ids.remove(id);
                }
            }
            match part.next_seq {
                Some(next) => at.next_seq = next,
                None => {
                    at.next_seq = at.next_seq.max(part.last_seq + 1);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Takes the events at these places of the peer's archive.
    async fn bring(&self, peer: &str, site: &str, mut seqs: Vec<u64>) -> Result<(), Error> {
        let mut resent = Resent::begin(&self.bus, site).await?;
        while !seqs.is_empty() {
            let question = Question::Places { seqs: seqs.clone() };
            let answer = self.asker.ask(peer, site, question).await?;
            let Some(last) = answer.records.last().map(|record| record.seq) else {
                // The archive has let them go meanwhile.
                break;
            };
            resent.add(&self.kept(answer.records)).await?;
            seqs.retain(|seq| *seq > last);
        }
        tell(peer, site, resent.end().await?);
        Ok(())
    }
}
