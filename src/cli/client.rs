//! A connection that sends commands as somebody.

use std::time::Duration;

use serde_json::Value;

use super::Connection;
use super::failure::Failure;
use crate::bus::Headers;
use crate::bus::jetstream::JetStream;
use crate::config::{self, Config};
use crate::node::commands::ACTOR_HEADER;
use crate::node::inquiry::Inquiry;
use crate::node::preflight::{self, Who};
use crate::role::permission::Caller;

/// Connects as the configuration says.
pub(super) async fn connect(config: &Config, name: &str) -> Result<JetStream, Failure> {
    connect_as(config, name, Who::Identity(&config.bus.identity)).await
}

/// The same as somebody else, where the broker knows identities.
pub(super) async fn connect_as(
    config: &Config,
    name: &str,
    who: Who<'_>,
) -> Result<JetStream, Failure> {
    check_identity(config, who)?;
    let bus = JetStream::connect(preflight::connection(config, name, who));
    Ok(bus.await?)
}

/// Whether somebody's seed can be used; it ends with 64 if not, for the next try would end the same way.
pub(super) fn check_identity(config: &Config, who: Who<'_>) -> Result<(), Failure> {
    preflight::check_identity(config, who).map_err(|error| {
        let help = "roadcall auth init --identities makes identities; a process needs its own (docs/identities.md)";
        Failure::usage(&format!("bus.identities_dir: {error}"), help)
    })
}

/// Somebody with a connection.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub bus: JetStream,
    site: String,
    actor: String,
    timeout: Duration,
}

impl Client {
    pub(super) async fn open(connection: &Connection) -> Result<Self, Failure> {
        let config = connection.config()?;
        let operator = config::user();
        let mut caller = match &connection.acting {
            None => Caller::of(crate::event::Actor::Operator(operator.clone())),
            Some(text) => Caller::parse(text)
                .map_err(|error| Failure::usage(&error, "write it like --as vendor:<id>"))?,
        };
        if connection.acting.is_some() {
            caller.operator = Some(operator);
        }
        let bus = connect(&config, "roadcall-cli").await?;
        Ok(Self {
            bus,
            site: config.site.id,
            actor: caller.header(),
            timeout: config.engine.command_timeout.0,
        })
    }

    /// Asks roles about themselves, with the databases that `config` names where they don't answer.
    pub(super) fn inquiry(&self, config: &Config) -> Inquiry {
        Inquiry {
            bus: self.bus.clone(),
            config: config.clone(),
            actor: self.actor.clone(),
            timeout: self.timeout,
        }
    }

    /// A client for a connection that is there.
    pub(super) fn new(bus: JetStream, site: &str, actor: &str) -> Self {
        Self {
            bus,
            site: site.to_owned(),
            actor: actor.to_owned(),
            timeout: Duration::from_secs(5),
        }
    }

    /// The same, for a site with so much to do that a reply may take so long.
    pub(super) fn waiting(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The same connection as somebody else.
    pub(super) fn acting(&self, actor: &str) -> Self {
        Self {
            actor: actor.to_owned(),
            ..self.clone()
        }
    }

    /// Sends a command; gives its result.
    pub(super) async fn call(&self, command: &str, body: &Value) -> Result<Value, Failure> {
        let mut headers = Headers::default();
        headers.push(ACTOR_HEADER, self.actor.clone());
        let reply = self
            .bus
            .call(
                &self.site,
                command,
                &headers,
                body.to_string().into_bytes(),
                self.timeout,
            )
            .await?;
        let value: Value = serde_json::from_slice(&reply.body).map_err(|error| {
            Failure::other(format!("the reply to {command} is not JSON: {error}"), "")
        })?;
        match value.get("error") {
            Some(error) => Err(Failure::Refused(error.clone())),
            None => Ok(value.get("ok").cloned().unwrap_or(Value::Null)),
        }
    }
}
