//! What a running site takes over on SIGHUP: numbers of roles and engine, and rules that need nothing from the server.

use super::keys;
use super::registry;
use super::run::{Error, Node, desired};
use super::started::settings;
use super::writer::{Job, Terms};
use crate::bus::topology;
use crate::config::Config;
use crate::role::RoleName;
use crate::routing::Routes;

impl Node {
    /// Gives every role its numbers of `config`; each takes them over between two steps.
    pub async fn reload(&self, config: &Config) {
        for started in &self.started {
            if started.role == RoleName::Auth
                && let Err(error) = keys::settle(config, self.clock.now())
            {
                tracing::error!(%error, "the role keeps its keys");
                continue;
            }
            let Some(role) = registry::build(config, started.role) else {
                continue;
            };
            let terms = Terms {
                role,
                settings: settings(config),
            };
            // A writer that is gone stops the site already.
            let _ = started.jobs.send(Job::Reload(Box::new(terms))).await;
        }
    }

    /// Takes over what `new` changes without other subject filters for a queue of this process; names the rules that stay
    /// as they were.
    pub fn take_rules(&self, new: &Routes) -> Vec<String> {
        let queues: Vec<&str> = self.roles().filter_map(|role| role.queue()).collect();
        self.rules.change(|old| old.reload(new, &queues))
    }

    /// Puts rules in force as they are: the server's queues must fit them.
    pub fn replace_rules(&self, new: Routes) {
        self.rules.change(|_| (new, ()));
    }

    /// Whether the server's queues are those of `new`.
    ///
    /// # Errors
    /// The broker can't be asked.
    pub async fn rules_fit(&self, config: &Config, new: &Routes) -> Result<bool, Error> {
        for role in self.roles() {
            let wanted = desired(config, new, &[role]);
            let changes = topology::plan(self.bus.of(role), &wanted).await?;
            if changes.iter().any(|change| change.kind == "consumer") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn roles(&self) -> impl Iterator<Item = RoleName> {
        self.started.iter().map(|started| started.role)
    }
}
