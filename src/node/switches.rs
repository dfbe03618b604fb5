//! Rules that somebody switched: KV `TOPOLOGY` has a document `rule.<name>` for each, written by the audit role. Every process
//! of the site watches them, so that a switch is in force everywhere within seconds and after every restart; the same look
//! tells that a queue's filters changed.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::engine::SharedRoutes;
use super::filters::{FilterLog, same};
use crate::bus::{Bus, Error, Stored, TOPOLOGY_BUCKET, TOPOLOGY_STREAM};
use crate::role::audit::rule::Switch;
use crate::routing::Routes;

/// How often the bucket is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Documents in one read.
const PAGE: usize = 256;

/// Rule to whether it is enabled.
pub type Switches = BTreeMap<String, bool>;

/// Every switch that stands in the bucket; none where there is no bucket.
///
/// # Errors
/// The broker can't be asked.
pub async fn read<B: Bus>(bus: &B) -> Result<Switches, Error> {
    let mut switches = Switches::new();
    let mut from = 1;
    loop {
        let filter = format!("$KV.{TOPOLOGY_BUCKET}.rule.>");
        let page = match bus.read(TOPOLOGY_STREAM, &filter, from, PAGE, false).await {
            Ok(page) => page,
            Err(Error::Missing(_)) => return Ok(switches),
            Err(error) => return Err(error),
        };
        let Some(last) = page.last() else {
            return Ok(switches);
        };
        from = last.seq + 1;
        page.iter().for_each(|stored| note(&mut switches, stored));
    }
}

/// Takes a document over; one that is gone or can't be read switches nothing.
fn note(switches: &mut Switches, stored: &Stored) {
    let Some(rule) = key(stored).strip_prefix("rule.") else {
        return;
    };
    match serde_json::from_slice::<Switch>(&stored.body) {
        Ok(switch) => {
            switches.insert(rule.to_owned(), switch.enabled);
        }
        Err(error) => {
            if !stored.body.is_empty() {
                tracing::warn!(rule, %error, "the switch of a rule can't be read; its file counts");
            }
            switches.remove(rule);
        }
    }
}

fn key(stored: &Stored) -> &str {
    let prefix = "$KV.TOPOLOGY.";
    stored.subject.strip_prefix(prefix).unwrap_or_default()
}

/// The rules of a process: what the file says with what is switched over it.
#[derive(Debug, Clone)]
pub struct Rules {
    /// In force.
    pub routes: SharedRoutes,
    switches: Arc<RwLock<Switches>>,
}

impl Rules {
    /// Rules of a file and what is switched.
    #[must_use]
    pub fn new(routes: &Routes, switches: Switches) -> Self {
        Self {
            routes: Arc::new(RwLock::new(Arc::new(routes.switched(&switches)))),
            switches: Arc::new(RwLock::new(switches)),
        }
    }

    /// Puts other rules of the file in force, made from those that are.
    pub fn change<T>(&self, make: impl FnOnce(&Routes) -> (Routes, T)) -> T {
        // A poisoned lock only says that somebody panicked beside it; what is in it is whole.
        let switches = self.switches.read().unwrap_or_else(PoisonError::into_inner);
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        let (new, told) = make(&routes);
        *routes = Arc::new(new.switched(&switches));
        told
    }

    fn switch(&self, new: Switches) {
        let mut switches = self
            .switches
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if *switches == new {
            return;
        }
        for (rule, enabled) in &new {
            if switches.get(rule) != Some(enabled) {
                tracing::info!(rule, enabled, "a rule was switched");
            }
        }
        *switches = new;
        drop(switches);
        self.change(|routes| (routes.clone(), ()));
    }

    fn filters(&self, queue: &str) -> Vec<String> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        routes.filters(queue)
    }
}

/// Looks at the bucket for a process.
pub struct Watch<B> {
    /// The broker.
    pub bus: B,
    /// The process's rules.
    pub rules: Rules,
    /// Its queues.
    pub queues: Vec<&'static str>,
    /// Told when a queue has other filters than the rules give it.
    pub outdated: Arc<Notify>,
}

impl<B: Bus> Watch<B> {
    /// Watches until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let (mut from, mut epoch) = (1, self.bus.connection_epoch());
        let mut switches = Switches::new();
        loop {
            // Another server process may have lost the end of the bucket: everything is read again.
            if epoch != self.bus.connection_epoch() {
                epoch = self.bus.connection_epoch();
                from = 1;
                switches.clear();
            }
            match self.look(&mut switches, from).await {
                Ok(next) => from = next,
                Err(error) => tracing::debug!(%error, "the switches of rules can't be read"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Takes over what is new from sequence `from` on; gives the sequence behind it.
    async fn look(&self, switches: &mut Switches, mut from: u64) -> Result<u64, Error> {
        let filter = format!("$KV.{TOPOLOGY_BUCKET}.>");
        let mut logs = BTreeMap::new();
        loop {
            let page = self
                .bus
                .read(TOPOLOGY_STREAM, &filter, from, PAGE, false)
                .await?;
            let Some(last) = page.last() else { break };
            from = last.seq + 1;
            for stored in &page {
                note(switches, stored);
                if let Some(queue) = key(stored).strip_prefix("filters.") {
                    logs.insert(queue.to_owned(), stored.body.clone());
                }
            }
        }
        self.rules.switch(switches.clone());
        let outdated = |queue: &&str| {
            let log = logs.get(*queue)?;
            let log: FilterLog = serde_json::from_slice(log).ok()?;
            let last = log.entries.last()?;
            Some(!same(&last.filters, &self.rules.filters(queue)))
        };
        if self
            .queues
            .iter()
            .any(|queue| outdated(queue) == Some(true))
        {
            self.outdated.notify_one();
        }
        Ok(from)
    }
}
