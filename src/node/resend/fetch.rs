//! Asks for what did not come. A look each `audit.alarm_period`, by the process of the audit role, whose ledger it goes by.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::ask::{self, Asker};
use super::unnumbered::Compared;
use super::{Question, RANGES_MAX, Wanted, found};
use crate::bus;
use crate::bus::jetstream::JetStream;
use crate::bus::links::HUB;
use crate::config::Config;
use crate::event::ProducerReport;
use crate::node::clock::Clock;
use crate::node::import::{self, Resent};
use crate::node::order;
use crate::node::periodic::{self, Looks};
use crate::node::sites;
use crate::node::transfer::Record;
use crate::node::writer::Job;
use crate::role::audit::recount::{Found, RECOUNT, Recount};
use crate::role::audit::sync::{LEDGER, Standing};

/// What was asked for in vain is asked for again after ever longer, up to this.
const AGAIN_MAX: Duration = Duration::from_secs(3600);
/// Ranges in one command of the recount.
const FOUND_MAX: usize = 1000;

/// Why a look broke off; the next one does it again.
#[derive(Debug, thiserror::Error)]
pub(in crate::node) enum Error {
    #[error(transparent)]
    Bus(#[from] bus::Error),
    #[error(transparent)]
    Link(#[from] sites::Error),
    #[error(transparent)]
    Import(#[from] import::Error),
    #[error(transparent)]
    Ask(#[from] ask::Error),
    /// The audit role.
    #[error(transparent)]
    Order(#[from] order::Error),
    /// What it said is not what it says.
    #[error("{0}")]
    Said(String),
}

/// Events that did not come, by what stays the same while more of them go missing: site, role, life, first number.
type Gap = (String, String, String, u64);

/// Looks and asks.
pub struct Fetcher {
    pub(super) bus: JetStream,
    pub(super) asker: Asker,
    own: String,
    period: Duration,
    /// How long the archive keeps events.
    keeps: Duration,
    jobs: mpsc::Sender<Job>,
    clock: Clock,
    /// What the look before missed: what only is on its way has come by the next one.
    missed: HashSet<Gap>,
    /// What was asked for in vain: how often, and when it is asked for again.
    vain: HashMap<Gap, (u32, Duration)>,
    /// How far the ids of what no role made were compared, by peer and site.
    pub(super) compared: HashMap<(String, String), Compared>,
}

impl Fetcher {
    /// For the site of this configuration.
    #[must_use]
    pub fn new(bus: JetStream, config: &Config, jobs: mpsc::Sender<Job>, clock: Clock) -> Self {
        Self {
            asker: Asker::new(&bus, &config.site.id),
            bus,
            own: config.site.id.clone(),
            period: config.audit.alarm_period.0,
            keeps: config.archive_max_age(),
            jobs,
            clock,
            missed: HashSet::new(),
            vain: HashMap::new(),
            compared: HashMap::new(),
        }
    }

    /// Works until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        // Depots that were started together don't ask together.
        let early = self.period.mul_f64(fastrand::f64());
        let ticks = tokio::time::interval_at(tokio::time::Instant::now() + early, self.period);
        periodic::run(self, ticks, stop).await;
    }

    async fn look_at_all(&mut self) -> Result<(), Error> {
        let mut standings = self.standings().await?;
        let own = standings.iter().find(|it| it.site == self.own);
        if own.is_some_and(|own| own.set_back_at.is_some()) {
            self.recount().await?;
            self.compared.clear();
            standings = self.standings().await?;
        }
        let links = sites::link_states(&self.bus).await?;
        let mut missed = HashSet::new();
        let mut first_error = None;
        let peers = links.into_iter().filter(|(_, link)| link.linked);
        for (peer, _) in peers {
            // One site that does not answer keeps nobody else waiting.
            if let Err(error) = self.look_at(&peer, &standings, &mut missed).await {
                first_error.get_or_insert(error);
            }
        }
        self.vain.retain(|gap, _| missed.contains(gap));
        self.missed = missed;
        first_error.map_or(Ok(()), Err)
    }

    /// Asks one peer for what this site lacks.
    async fn look_at(
        &mut self,
        peer: &str,
        standings: &[Standing],
        missed: &mut HashSet<Gap>,
    ) -> Result<(), Error> {
        let told = self.asker.ask(peer, peer, Question::Ends).await?;
        // A depot has from the hub whatever it has of others; the hub has from a depot what is the depot's.
        let sites: HashSet<&str> = standings
            .iter()
            .map(|standing| standing.site.as_str())
            .filter(|site| *site != self.own && (peer == HUB || *site == peer))
            .chain([peer])
            .collect();
        for site in sites {
            let standing = standings.iter().find(|it| it.site == site);
            let ends: &[ProducerReport] = if site == peer { &told.producers } else { &[] };
            let now = self.clock.steady();
            let mut due = Vec::new();
            for wanted in lacking(standing, ends) {
                let gap = gap(site, &wanted);
                let vain = self.vain.get(&gap);
                if self.missed.contains(&gap) && vain.is_none_or(|(_, again)| *again <= now) {
                    // What is not there where it should be by the clocks is looked for everywhere.
                    let since = wanted.since.filter(|_| vain.is_none());
                    due.push(Wanted { since, ..wanted });
                }
                missed.insert(gap);
            }
            for part in due.chunks(RANGES_MAX) {
                self.fetch(peer, site, part).await?;
            }
            self.compare(peer, site, (told.identity, told.last_seq))
                .await?;
        }
        Ok(())
    }

    /// Asks for some ranges, until the peer has looked for all of them, and takes what comes into the archive.
    async fn fetch(&mut self, peer: &str, site: &str, ranges: &[Wanted]) -> Result<(), Error> {
        let (mut from_seq, mut resent, mut found) = (0, None, Vec::new());
        loop {
            let question = Question::Numbers {
                ranges: ranges.to_vec(),
                from_seq,
            };
            let answer = self.asker.ask(peer, site, question).await?;
            let records = self.kept(answer.records);
            if !records.is_empty() {
                let mut part = match resent.take() {
                    Some(resent) => resent,
                    None => Resent::begin(&self.bus, site).await?,
                };
                part.add(&records).await?;
                resent = Some(part);
                found.extend(found::of_records(site, &records));
            }
            match answer.next_seq {
                Some(next) => from_seq = next,
                None => break,
            }
        }
        if let Some(resent) = resent {
            tell(peer, site, resent.end().await?);
            // Of what the role had handled before its archive was set back it does not hear again.
            self.note(false, found).await?;
        }
        let now = self.clock.steady();
        for wanted in ranges {
            let (tries, again) = self.vain.entry(gap(site, wanted)).or_default();
            let wait = self.period.saturating_mul(1 << (*tries).min(16));
            *again = now + wait.min(AGAIN_MAX);
            *tries += 1;
        }
        Ok(())
    }

    /// All but what is older than this archive keeps: roles may have forgotten that they handled it.
    pub(super) fn kept(&self, mut records: Vec<Record>) -> Vec<Record> {
        let kept_ms = i64::try_from(self.keeps.as_millis()).unwrap_or(i64::MAX);
        let since_ms = self.clock.now().ms().saturating_sub(kept_ms);
        records.retain(|record| record.received_at.ms() >= since_ms);
        records
    }

    async fn standings(&self) -> Result<Vec<Standing>, Error> {
        #[derive(Deserialize)]
        struct All {
            items: Vec<Standing>,
        }
        let all: All = self.audit(LEDGER, &json!({})).await?;
        Ok(all.items)
    }

    /// Counts anew what the archive has. The second pass has what came during the first.
    async fn recount(&self) -> Result<(), Error> {
        tracing::error!(
            "this site's archive was set back or made anew; what it lacks is asked for"
        );
        let (mut afresh, mut from) = (true, 1);
        for _ in 0..2 {
            let (found, next) = found::count(&self.bus, from).await?;
            from = next;
            self.note(afresh, found).await?;
            afresh = false;
        }
        Ok(())
    }

    /// Tells the ledger what the archive has; `afresh`: and nothing else.
    async fn note(&self, mut afresh: bool, found: Vec<Found>) -> Result<(), Error> {
        let mut parts: Vec<_> = found.chunks(FOUND_MAX).map(<[_]>::to_vec).collect();
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        for found in parts {
            let _: Value = self.audit(RECOUNT, &Recount { afresh, found }).await?;
            afresh = false;
        }
        Ok(())
    }

    /// Gives the audit role a command.
    async fn audit<T: DeserializeOwned>(
        &self,
        name: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        let said = order::give(&self.jobs, self.clock, name, body).await?;
        serde_json::from_value(said).map_err(|error| Error::Said(error.to_string()))
    }
}

impl Looks for Fetcher {
    type Error = Error;
    const TROUBLE: &'static str = "what other sites have for this one could not be looked at";

    async fn look(&mut self) -> Result<(), Error> {
        self.look_at_all().await
    }
}

pub(super) fn tell(peer: &str, site: &str, events: u64) {
    if events > 0 {
        tracing::warn!(
            peer,
            site,
            events,
            "what a link had passed by was sent again"
        );
    }
}

fn gap(site: &str, wanted: &Wanted) -> Gap {
    let Wanted {
        role, epoch, from, ..
    } = wanted;
    (site.to_owned(), role.clone(), epoch.clone(), *from)
}

/// What did not come of a site: what the ledger misses, and what its roles made after the last that came.
fn lacking(standing: Option<&Standing>, ends: &[ProducerReport]) -> Vec<Wanted> {
    let missing = standing.into_iter().flat_map(|standing| &standing.missing);
    let between = missing.map(|gap| Wanted {
        role: gap.role.clone(),
        epoch: gap.epoch.clone(),
        from: gap.from,
        to: gap.to,
        since: gap.since,
    });
    let behind = ends.iter().filter_map(|end| {
        let (role, epoch) = (end.role.as_str(), end.epoch.as_str());
        let heard = standing.into_iter().flat_map(|standing| &standing.heard);
        let mut heard = heard.filter(|heard| heard.role == role && heard.epoch == epoch);
        let heard = heard.next();
        let last = heard.map_or(0, |heard| heard.last);
        (end.last > last).then(|| Wanted {
            role: role.to_owned(),
            epoch: epoch.to_owned(),
            from: last + 1,
            to: end.last,
            since: heard.map(|heard| heard.at),
        })
    });
    between.chain(behind).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Text, Ts};

    #[test]
    fn what_lies_between_and_what_lies_behind_is_lacking() {
        let standing: Standing = serde_json::from_value(json!({
            "site": "depot-a", "roles": [],
            "missing": [{ "role": "incident", "epoch": "e", "from": 4, "to": 5, "since": "2026-01-01T00:00:00.000Z",
                "reason": "unknown" }],
            "heard": [{ "role": "incident", "epoch": "e", "last": 9, "at": "2026-01-02T00:00:00.000Z" }],
        }))
        .expect("a standing");
        let end = |role: &str, last| ProducerReport {
            role: Text::lossy(role),
            epoch: Text::lossy("e"),
            last,
            held_from: 1,
        };
        let ends = [end("incident", 12), end("vendor", 2), end("auth", 0)];
        let brief = |wanted: Wanted| (wanted.role, wanted.from, wanted.to, wanted.since);
        let at = |text: &str| Some(text.parse::<Ts>().expect("a time"));
        let found: Vec<_> = lacking(Some(&standing), &ends)
            .into_iter()
            .map(brief)
            .collect();
        assert_eq!(
            found,
            [
                ("incident".to_owned(), 4, 5, at("2026-01-01T00:00:00.000Z")),
                (
                    "incident".to_owned(),
                    10,
                    12,
                    at("2026-01-02T00:00:00.000Z")
                ),
                ("vendor".to_owned(), 1, 2, None),
            ]
        );
        let none = lacking(None, &ends[..1]);
        assert_eq!((none[0].from, none[0].to), (1, 12));
    }
}
