//! SIGHUP: the configuration is read again; what can change live changes, the rest is refused by name, a line each, and
//! the old stays. A configuration with a mistake changes nothing.

use super::Connection;
use super::failure::Failure;
use super::logging::Logging;
use crate::broker::Links;
use crate::config::{self, Config};
use crate::node::processes::Announced;
use crate::node::run::{Node, routes};
use crate::node::sites;
use crate::node::status::InForce;
use crate::ops::systemd;
use crate::routing::Routes;

/// What a running process needs in order to reload.
pub(super) struct Reloader {
    connection: Connection,
    /// As the files have it, without what this process found out (the broker's address).
    loaded: Config,
    logging: Logging,
    /// The entry of this process among those of the site.
    announced: Option<Announced>,
    /// New rules, some of which wait for `topology apply`.
    waiting: Option<Routes>,
}

impl Reloader {
    pub(super) fn new(connection: &Connection, loaded: &Config, logging: Logging) -> Self {
        Self {
            connection: connection.clone(),
            loaded: loaded.clone(),
            logging,
            announced: None,
            waiting: None,
        }
    }

    /// Says that the process is ready, and by what configuration.
    pub(super) fn announce(&mut self, runs: Vec<String>) {
        let in_force = InForce::of(&self.loaded, Vec::new());
        let announced = Announced::new(&self.loaded.site.state_dir, runs, in_force);
        self.announced = announced
            .inspect_err(|error| {
                tracing::warn!(%error, "site.state_dir takes no note of this process; roadcall config apply will not find it");
            })
            .ok();
    }

    /// What the broker of this process is linked to by what is in force.
    pub(super) fn links(&self) -> Links {
        sites::broker_links(&self.loaded)
    }

    /// Whether rules wait for `topology apply`.
    pub(super) fn waits(&self) -> bool {
        self.waiting.is_some()
    }

    /// Reads everything again. Tells systemd before and after.
    pub(super) async fn reload(&mut self, node: Option<&Node>) {
        systemd::reloading();
        match self.connection.config() {
            Ok(new) => self.take(&new, node).await,
            Err(failure) => refuse(&failure),
        }
        systemd::reloaded();
    }

    async fn take(&mut self, new: &Config, node: Option<&Node>) {
        let rules = match routes(new) {
            Ok(rules) => rules,
            Err(error) => return refuse(&error.into()),
        };
        let reload = config::reload(&self.loaded, new);
        for key in &reload.refused {
            tracing::warn!(
                key,
                "{key} changed, but needs a restart; the old value stays"
            );
        }
        for key in &reload.taken {
            tracing::info!(key, "{key} changed");
        }
        self.loaded = reload.config;
        self.logging.set(&self.loaded.log.level);
        let in_force = InForce::of(&self.loaded, reload.refused);
        if let Some(node) = node {
            node.reload(&self.loaded).await;
            let kept = node.take_rules(&rules);
            for rule in &kept {
                tracing::warn!(
                    rule,
                    "rule {rule} changes subject filters; it stays as it was until roadcall topology apply"
                );
            }
            self.waiting = (!kept.is_empty()).then_some(rules);
            node.tell(in_force.clone());
        }
        if let Some(Err(error)) = self.announced.as_mut().map(|own| own.tell(in_force)) {
            tracing::warn!(%error, "site.state_dir takes no note of the reload");
        }
        tracing::info!("configuration reloaded");
    }

    /// The queues' filters on the server are those of other rules: the file is read again, and what it says is held against
    /// the server until it fits.
    pub(super) fn look_again(&mut self) {
        let read = |config: &Config| routes(config).map_err(Failure::from);
        match self.connection.config().and_then(|config| read(&config)) {
            Ok(rules) => {
                tracing::info!("a queue's filters changed on the broker, the rules are read again");
                self.waiting = Some(rules);
            }
            Err(failure) => refuse(&failure),
        }
    }

    /// After `topology apply` the waiting rules fit the server: they are taken over.
    pub(super) async fn take_waiting(&mut self, node: &Node) {
        let Some(rules) = &self.waiting else { return };
        match node.rules_fit(&self.loaded, rules).await {
            Ok(true) => {
                node.replace_rules(rules.clone());
                self.waiting = None;
                tracing::info!("the topology fits the new rules, they are in force");
            }
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "the topology can't be looked at"),
        }
    }
}

fn refuse(failure: &Failure) {
    for line in failure.lines() {
        let (code, help) = (line.code, line.help.unwrap_or_default());
        tracing::error!(
            code,
            help,
            "not reloaded, the old configuration stays: {}",
            line.message
        );
    }
}
