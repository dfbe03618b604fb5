//! A command that the node itself gives to a role of this process: past the broker, to its writer.

use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};

use super::clock::Clock;
use super::writer::Job;
use crate::event::Actor;
use crate::role::permission::Caller;
use crate::role::{Command, Entropy};

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    /// The role takes nothing any more.
    #[error("the audit role stops")]
    Stops,
    /// It said no.
    #[error("{0}")]
    Refused(String),
}

/// The node.
pub(super) fn node() -> Actor {
    Actor::System("node".to_owned())
}

/// Gives the audit role of this process a command, and waits for what it says.
pub(super) async fn give(
    jobs: &mpsc::Sender<Job>,
    clock: Clock,
    name: &str,
    body: &impl Serialize,
) -> Result<Value, Error> {
    // Names and numbers always have a JSON form, and a struct's is an object.
    let body = match serde_json::to_value(body) {
        Ok(Value::Object(body)) => body,
        _ => Map::new(),
    };
    let command = Command {
        id: clock.new_id(),
        name: name.to_owned(),
        caller: Caller::of(node()),
        body,
        client_request_id: None,
        traceparent: None,
        // It needs no chance.
        entropy: Entropy([0; 32]),
    };
    let (asker, reply) = oneshot::channel();
    let sent = jobs.send(Job::Ask(Box::new(command), asker)).await;
    sent.map_err(|_| Error::Stops)?;
    let said = reply.await.map_err(|_| Error::Stops)?;
    said.map_err(|rejection| Error::Refused(rejection.message))
}
