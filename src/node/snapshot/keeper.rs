//! Takes a running role's snapshots: by schedule, spread so that a site's roles do not all do it at once, and when asked
//! (`<role>.snapshot`).

use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;

use super::{Subject, of_role, take};
use crate::bus::jetstream::JetStream;
use crate::bus::jetstream::service::Request;
use crate::config::Config;
use crate::event::Ts;
use crate::node::clock::Clock;
use crate::node::commands::{answer, command};
use crate::role::permission::{self, Permission, Scope};
use crate::role::{Code, Rejection, RoleName};

/// After a failure the next try is no further away than this.
const AGAIN: Duration = Duration::from_secs(300);
/// What is overdue at a start, or was never done, is done within this part of the span.
const SPREAD: u32 = 8;

/// The command that asks a role for a snapshot.
#[must_use]
pub fn wish_of(role: RoleName) -> String {
    format!("{role}.snapshot")
}

/// Takes one role's snapshots.
#[derive(Debug)]
pub struct Keeper {
    bus: JetStream,
    subject: Subject,
    /// Nothing where it only does what it is asked.
    every: Option<Duration>,
    clock: Clock,
}

impl Keeper {
    /// For a role that runs in this process.
    #[must_use]
    pub fn new(bus: &JetStream, config: &Config, role: RoleName, clock: Clock) -> Self {
        Self {
            bus: bus.clone(),
            subject: Subject::new(config, role),
            every: config.snapshot.scheduled.then_some(config.snapshot.every.0),
            clock,
        }
    }

    /// Works until the service stops.
    pub async fn run(self, mut wishes: mpsc::Receiver<Request>) {
        let mut due = self.first_due().await;
        loop {
            let wish = tokio::select! {
                wish = wishes.recv() => match wish {
                    Some(wish) => Some(wish),
                    None => return,
                },
                () = reach(self.clock, due) => None,
            };
            match wish {
                Some(wish) => self.answer(&wish).await,
                None => {
                    let next = match take(&self.bus, &self.subject, self.clock.now(), false).await {
                        Ok(_) => self.every.map(about),
                        Err(error) => {
                            tracing::error!(role = %self.subject.role, %error, "the scheduled snapshot could not be taken, trying again");
                            self.every.map(|every| every.min(AGAIN))
                        }
                    };
                    due = next.map(|next| later(self.clock.now(), next));
                }
            }
        }
    }

    /// As the schedule goes on from the newest snapshot that is there.
    async fn first_due(&self) -> Option<Ts> {
        let every = self.every?;
        let there = of_role(&self.bus, self.subject.role).await;
        let newest = there.unwrap_or_default().pop();
        let now = self.clock.now();
        let soon = later(now, every.mul_f64(fastrand::f64()) / SPREAD);
        let regular = newest.map(|(snapshot, _)| later(snapshot.taken_at, about(every)));
        Some(regular.map_or(soon, |regular| regular.max(soon)))
    }

    async fn answer(&self, wish: &Request) {
        let id = self.clock.new_id();
        let reply = match command(wish, id) {
            Err(rejection) => Err(rejection),
            Ok(command) => {
                match permission::check(&command.caller, Permission::AdminOps, &Scope::Open) {
                    Err(rejection) => Err(rejection),
                    Ok(()) => match take(&self.bus, &self.subject, self.clock.now(), true).await {
                        // Numbers and names always have a JSON form.
                        Ok(snapshot) => Ok(serde_json::to_value(snapshot).unwrap_or(Value::Null)),
                        Err(error) => {
                            tracing::error!(role = %self.subject.role, %error, "a snapshot could not be taken");
                            Err(Rejection::new(Code::InternalError, error.to_string()))
                        }
                    },
                }
            }
        };
        answer(wish, id, reply, self.clock).await;
    }
}

/// A tenth more or less.
fn about(every: Duration) -> Duration {
    every.mul_f64(0.9 + 0.2 * fastrand::f64())
}

fn later(from: Ts, span: Duration) -> Ts {
    Ts::from_ms(from.ms() + i64::try_from(span.as_millis()).unwrap_or(i64::MAX / 2))
}

async fn reach(clock: Clock, due: Option<Ts>) {
    match due {
        Some(due) => clock.reach(due).await,
        None => std::future::pending().await,
    }
}
