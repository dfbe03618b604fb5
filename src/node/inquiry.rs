//! Asking roles about themselves: the role where it runs, else its database where that is here and the right one.
//!
//! The role first, because its file may be on another machine or in another directory than that of whoever asks; the
//! file next, because a role that is down still has what waits in it.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::commands::ACTOR_HEADER;
use super::owner;
use super::status::{Database, Many, Record, Status, Wanted, outcome_in, outcomes_in, status_of};
use crate::bus::jetstream::JetStream;
use crate::bus::jetstream::service::CallError;
use crate::bus::{self, Headers};
use crate::config::Config;
use crate::event::Ts;
use crate::role::{Code, RoleName};
use crate::store;

/// Who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// The role itself.
    Role,
    /// Its database.
    File,
}

/// An answer, or in words why there is none.
pub type Answer<T> = Result<(T, Source), String>;

/// What the audit role says of alarms: the answer to `alarm.list`, as far as it is needed here.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alarms {
    /// Those that are raised.
    pub items: Vec<Alarm>,
    /// When queues, letters and counts were measured last.
    pub measured_at: Option<Ts>,
    /// Seconds from one measurement to the next.
    pub period_seconds: Option<u64>,
    /// How many the webhook has not taken yet; none from a role that is older than this.
    #[serde(default)]
    pub webhook_waiting: u64,
}

/// A raised alarm.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alarm {
    /// Where it is raised.
    pub site: String,
    /// Which it is.
    pub alarm_name: String,
    /// What it is about.
    pub subject: String,
    /// How bad it is.
    pub severity: String,
}

/// Why nothing can be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// Whoever asks may not: the `error` object of DOMAIN 1.3.
    #[error("refused: {0}")]
    Refused(Value),
}

/// Somebody who asks.
#[derive(Debug, Clone)]
pub struct Inquiry {
    /// The connection.
    pub bus: JetStream,
    /// Site and state directory.
    pub config: Config,
    /// `Roadcall-Actor` of whoever asks.
    pub actor: String,
    /// How long a role may take.
    pub timeout: Duration,
}

impl Inquiry {
    /// How `role` stands.
    ///
    /// # Errors
    /// See [`Error`]; a role that can't be asked or read is an [`Answer`].
    pub async fn status(&self, role: RoleName) -> Result<Answer<Status>, Error> {
        let look = |database: &Database| database.status();
        self.ask(role, &status_of(role), json!({}), look).await
    }

    /// How `role` stands by its own words, or in words why it says nothing; its file is not asked.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn told(&self, role: RoleName) -> Result<Result<Status, String>, Error> {
        let told = self.call(&status_of(role), json!({})).await?;
        Ok(told.and_then(|value| {
            serde_json::from_value(value)
                .map_err(|error| format!("its answer can't be read ({error})"))
        }))
    }

    /// What `role` has about an event.
    ///
    /// # Errors
    /// See [`Error`]; a role that can't be asked or read is an [`Answer`].
    pub async fn record(&self, role: RoleName, wanted: Wanted) -> Result<Answer<Record>, Error> {
        // Two ids or two numbers always have a JSON form.
        let body = serde_json::to_value(wanted).unwrap_or(Value::Null);
        let look = move |database: &Database| database.record(wanted);
        self.ask(role, &outcome_in(role), body, look).await
    }

    /// What became of each of many events in `role`, in their order.
    ///
    /// # Errors
    /// See [`Error`]; a role that can't be asked or read is an [`Answer`].
    pub async fn outcomes(
        &self,
        role: RoleName,
        events: Vec<Wanted>,
    ) -> Result<Answer<Vec<Option<String>>>, Error> {
        let many = Many { events };
        // Ids and numbers always have a JSON form.
        let body = serde_json::to_value(&many).unwrap_or(Value::Null);
        let count = many.events.len();
        let look = move |database: &Database| database.outcomes(&many.events);
        let answer = self.ask(role, &outcomes_in(role), body, look).await?;
        if answer.is_err() && owner::of(&self.bus, role).await?.is_none() {
            // No database ever read this queue: there is nothing to know.
            return Ok(Ok((vec![None; count], Source::File)));
        }
        Ok(answer)
    }

    /// Which alarms are raised; the inner error says why that is not known.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn alarms(&self) -> Result<Result<Alarms, String>, Error> {
        let told = self.call("alarm.list", json!({})).await?;
        let read = |value| serde_json::from_value(value).map_err(|error| error.to_string());
        Ok(told.and_then(read))
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        role: RoleName,
        command: &str,
        body: Value,
        look: impl FnOnce(&Database) -> Result<T, store::Error>,
    ) -> Result<Answer<T>, Error> {
        let silence = match self.call(command, body).await? {
            Ok(value) => match serde_json::from_value(value) {
                Ok(value) => return Ok(Ok((value, Source::Role))),
                Err(error) => format!("its answer can't be read ({error})"),
            },
            Err(silence) => silence,
        };
        let read = self.read(role, look).await?;
        Ok(read
            .map(|value| (value, Source::File))
            .map_err(|why| format!("role {role}: {silence}, and {why}")))
    }

    /// Asks the role. The inner error says why it did not answer.
    async fn call(&self, command: &str, body: Value) -> Result<Result<Value, String>, Error> {
        let mut headers = Headers::default();
        headers.push(ACTOR_HEADER, self.actor.clone());
        let body = body.to_string().into_bytes();
        let site = &self.config.site.id;
        let reply = self.bus.call(site, command, &headers, body, self.timeout);
        let reply = match reply.await {
            Ok(reply) => reply,
            Err(CallError::NoResponder(_)) => return Ok(Err("it does not run".to_owned())),
            Err(CallError::Timeout(_)) => return Ok(Err("it does not answer".to_owned())),
            Err(CallError::Broker(error)) => return Err(bus::Error::Unavailable(error).into()),
        };
        let value: Value = match serde_json::from_slice(&reply.body) {
            Ok(value) => value,
            Err(error) => return Ok(Err(format!("its answer is not JSON ({error})"))),
        };
        let error = &value["error"];
        let refused = [Code::AuthenticationError, Code::AuthorizationError]
            .iter()
            .any(|code| error["code"] == code.as_str());
        match error["message"].as_str() {
            Some(_) if refused => Err(Error::Refused(error.clone())),
            Some(message) => Ok(Err(format!("it says: {message}"))),
            None => Ok(Ok(value["ok"].clone())),
        }
    }

    /// Reads the role's file, unless it is another database than the one that the queue belongs to.
    async fn read<T>(
        &self,
        role: RoleName,
        look: impl FnOnce(&Database) -> Result<T, store::Error>,
    ) -> Result<Result<T, String>, Error> {
        let database = Database::new(&self.config, role);
        let path = database.path().display();
        if !database.path().is_file() {
            return Ok(Err(format!("there is no {path}")));
        }
        let ours = match database.status() {
            Ok(status) => status.store_id,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let owner = owner::of(&self.bus, role).await?;
        if owner.is_some_and(|owner| Some(owner.store_id) != ours) {
            let queue = owner::adopted_as(role);
            return Ok(Err(format!("{path} is not the database that has {queue}")));
        }
        Ok(look(&database).map_err(|error| error.to_string()))
    }
}
