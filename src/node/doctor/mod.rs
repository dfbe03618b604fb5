//! What is wrong with a site and what to do about it, as the troubleshooting pages would look (`roadcall doctor`).
//!
//! It changes nothing, and says nothing that it has not seen. Without a broker it goes on with what lies on this machine.
//! `files`, `certificates` and `processes` need no broker; `broker`, `roles`, `queues`, `replays`, `snapshots`, `links`, `keys` and
//! `alarms` ask it, or through it the roles.

mod alarms;
mod broker;
mod certificates;
mod files;
pub mod finding;
mod keys;
mod links;
mod processes;
mod queues;
mod replays;
mod roles;
mod snapshots;

use std::path::PathBuf;

use serde_json::Value;

pub use finding::{Finding, Findings, Report, Severity};

use super::clock::Clock;
use super::commands::ACTOR_HEADER;
use super::inquiry::Inquiry;
use crate::bus::jetstream::service::CallError;
use crate::bus::{self, Headers};
use crate::config::Config;
use crate::event::Ts;
use crate::role::RoleName;

/// What is looked at.
pub struct Doctor<'d> {
    /// The site's configuration.
    pub config: &'d Config,
    /// Its roles.
    pub roles: &'d [RoleName],
    /// Files that have a secret in them, beside those that the configuration names.
    pub secrets: Vec<PathBuf>,
    /// Digests of what the files say for a process that runs these; one of them should be in force there.
    pub digests: &'d (dyn Fn(&[String]) -> Vec<String> + Sync),
    /// How a command of this program begins, with what leads to this site.
    pub program: &'d str,
}

impl std::fmt::Debug for Doctor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Doctor")
            .field("site", &self.config.site.id)
            .field("roles", &self.roles)
            .finish_non_exhaustive()
    }
}

impl Doctor<'_> {
    /// Looks at everything; `inquiry` is a connection of somebody who may ask, or why there is none.
    pub async fn look(&self, inquiry: Result<&Inquiry, &bus::Error>) -> Report {
        let mut found = Findings::new(self.program);
        let processes = processes::Seen::here(&self.config.site.state_dir);
        certificates::look(self.config, &mut found);
        keys::on_disk(self.config, &mut found);
        match inquiry {
            Ok(inquiry) => self.ask(inquiry, &processes, &mut found).await,
            Err(error) => broker::unreachable(self, error, &processes, &mut found),
        }
        files::look(self, &mut found);
        processes::look(self, &processes, &mut found);
        found.report()
    }

    /// What only a broker can tell.
    async fn ask(&self, inquiry: &Inquiry, processes: &processes::Seen, found: &mut Findings) {
        broker::look(self, inquiry, found).await;
        let seen = roles::ask(self, inquiry, found).await;
        roles::look(self, &seen, processes, found);
        queues::look(inquiry, &seen, found).await;
        processes::told(&seen, processes, found);
        replays::look(inquiry, &seen, found).await;
        snapshots::look(self, inquiry, &seen, found).await;
        links::look(self, inquiry, found).await;
        keys::look(self, inquiry, found).await;
        alarms::look(inquiry, found).await;
    }
}

fn now() -> Ts {
    Clock.now()
}

/// The items that a role lists; `None` where it can't be asked, which is told where it is no finding already.
async fn items(inquiry: &Inquiry, command: &str, found: &mut Findings) -> Option<Vec<Value>> {
    let mut headers = Headers::default();
    headers.push(ACTOR_HEADER, inquiry.actor.clone());
    let site = &inquiry.config.site.id;
    let body = b"{}".to_vec();
    let reply = inquiry
        .bus
        .call(site, command, &headers, body, inquiry.timeout);
    let body = match reply.await {
        Ok(reply) => reply.body,
        // That the role does not answer is a finding of its own.
        Err(CallError::NoResponder(_) | CallError::Timeout(_)) => return None,
        Err(error) => {
            found.unseen(command, error);
            return None;
        }
    };
    let reply: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    if let Some(message) = reply["error"]["message"].as_str() {
        found.unseen(command, message);
        return None;
    }
    reply["ok"]["items"].as_array().cloned()
}
