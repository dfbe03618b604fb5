//! Calls to the outside that a role asked for: kept until their result was handled, so that a crash repeats them under
//! the same idempotency key instead of losing them.

use rusqlite::params;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::tx::Origin;
use super::{Class, Error, Store};

/// How far an effect reaches, which decides whether a replay may run it (DESIGN 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EffectClass {
    /// Computes something; changes nothing anywhere.
    Pure,
    /// Changes something on this box only.
    Local,
    /// Reaches somebody else: a message, a payment.
    External,
}

impl EffectClass {
    fn code(self) -> i64 {
        match self {
            Self::Pure => 0,
            Self::Local => 1,
            Self::External => 2,
        }
    }

    fn from_code(code: i64) -> Self {
        match code {
            0 => Self::Pure,
            1 => Self::Local,
            _ => Self::External,
        }
    }
}

/// A call that a role asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct EffectCall {
    /// Stable idempotency key: the same call again is the same key.
    pub key: String,
    /// Which runner makes the call.
    pub kind: String,
    /// How far it reaches.
    pub class: EffectClass,
    /// What the runner needs.
    pub request: Value,
    /// What the runner needs and no file may hold, such as a one-time password: gone with the process. A call that is
    /// made again after a restart comes without it, and its runner refuses.
    pub secret: Option<Secret>,
}

/// A text that is never written anywhere, a log included.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one who must send it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// How a call ended (DOMAIN 6: an unknown outcome is its own state, never success).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "outcome", content = "value")]
pub enum EffectOutcome {
    /// Done, with what came back.
    Done(Value),
    /// Definitely refused or failed.
    Failed(String),
    /// Not sent: the breaker is open.
    NotSent(String),
    /// Sent, and nobody knows.
    Unknown(String),
}

/// A call that has no handled result yet.
#[derive(Debug, Clone, PartialEq)]
pub struct PendingEffect {
    /// The call.
    pub call: EffectCall,
    /// Where the chain of causes came from.
    pub origin: Origin,
}

impl Store {
    /// False when the key is there already.
    pub(super) fn add_effect(
        &self,
        call: &EffectCall,
        origin: &Origin,
        now_ms: i64,
    ) -> Result<bool, Error> {
        let added = self.run(
            "adding an effect",
            "INSERT INTO effect (key, kind, class, request, origin, created_at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (key) DO NOTHING",
            params![call.key, call.kind, call.class.code(), call.request.to_string(), origin.write(), now_ms],
        )?;
        Ok(added > 0)
    }

    /// A pending call by its key.
    ///
    /// # Errors
    /// A store error.
    pub fn pending_effect(&self, key: &str) -> Result<Option<PendingEffect>, Error> {
        Ok(self.effects("WHERE key = ?1", params![key])?.pop())
    }

    /// All calls without a result, oldest first: what a start must run again.
    ///
    /// # Errors
    /// A store error.
    pub fn pending_effects(&self) -> Result<Vec<PendingEffect>, Error> {
        self.effects("WHERE outcome IS NULL ORDER BY created_at_ms, key", ())
    }

    /// Keeps a result that could not be handled, to be tried again at `due_at_ms`; inside a step.
    ///
    /// # Errors
    /// A store error.
    pub fn put_result_off(
        &self,
        key: &str,
        outcome: &EffectOutcome,
        due_at_ms: i64,
    ) -> Result<(), Error> {
        let outcome = serde_json::to_string(outcome)
            .map_err(|error| self.error(Class::Defect, "keeping a result", error.to_string()))?;
        self.run(
            "keeping a result",
            "UPDATE effect SET outcome = ?2, due_at_ms = ?3 WHERE key = ?1",
            params![key, outcome, due_at_ms],
        )?;
        Ok(())
    }

    /// Kept results whose time has come, at most `max`, the longest due first.
    ///
    /// # Errors
    /// A store error.
    pub fn due_results(
        &self,
        now_ms: i64,
        max: usize,
    ) -> Result<Vec<(String, EffectOutcome)>, Error> {
        let rows = self.rows(
            "reading kept results",
            "SELECT key, outcome FROM effect WHERE due_at_ms <= ?1 ORDER BY due_at_ms, key LIMIT ?2",
            params![now_ms, max as i64],
            |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)),
        )?;
        let read = |(key, text): (String, String)| {
            let outcome = serde_json::from_str(&text).map_err(|error| {
                self.error(Class::Defect, "reading a kept result", error.to_string())
            })?;
            Ok((key, outcome))
        };
        rows.into_iter().map(read).collect()
    }

    /// When the first kept result is due, Unix milliseconds.
    ///
    /// # Errors
    /// A store error.
    pub fn next_result_due(&self) -> Result<Option<i64>, Error> {
        let sql = "SELECT min(due_at_ms) FROM effect WHERE due_at_ms IS NOT NULL";
        Ok(self.value("reading kept results", sql, ())?.flatten())
    }

    fn effects(
        &self,
        tail: &str,
        params: impl rusqlite::Params,
    ) -> Result<Vec<PendingEffect>, Error> {
        let rows = self.rows(
            "reading effects",
            &format!("SELECT key, kind, class, request, origin FROM effect {tail}"),
            params,
            |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, String>(1)?,
                    row.get::<_, i64>(2)?,
                    row.get::<_, String>(3)?,
                    row.get::<_, String>(4)?,
                ))
            },
        )?;
        rows.into_iter()
            .map(|(key, kind, class, request, origin)| {
                let request = serde_json::from_str(&request).map_err(|error| {
                    self.error(Class::Defect, "reading an effect", error.to_string())
                })?;
                let call = EffectCall {
                    key,
                    kind,
                    class: EffectClass::from_code(class),
                    request,
                    secret: None,
                };
                Ok(PendingEffect {
                    call,
                    origin: Origin::read(&origin),
                })
            })
            .collect()
    }

    /// Removes a call whose result was handled; inside a step. False when it is already gone.
    ///
    /// # Errors
    /// A store error.
    pub fn remove_effect(&self, key: &str) -> Result<bool, Error> {
        Ok(self.run(
            "removing an effect",
            "DELETE FROM effect WHERE key = ?1",
            params![key],
        )? > 0)
    }
}
