//! Who asks: the bearer token's holder (DOMAIN 1.2). Keys come from the role auth, and the last ones stay while it is away.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, header};
use serde_json::{Value, json};

use super::problem::Problem;
use crate::bus::Headers;
use crate::bus::jetstream::JetStream;
use crate::config::Config;
use crate::event::{Actor, Ts};
use crate::node::clock::Clock;
use crate::node::commands::ACTOR_HEADER;
use crate::role::Code;
use crate::role::auth::token::{self, KeySet, TokenError};
use crate::role::permission::Caller;

/// How the door itself acts: for what anybody may ask before he is known.
pub(super) const DOOR: &str = "system:gateway";
/// Keys are asked for again at most so often, however many unknown ones are named.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// Knows people by their tokens.
pub(super) struct Identities {
    bus: JetStream,
    site: String,
    timeout: Duration,
    clock: Clock,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    keys: Option<Arc<KeySet>>,
    asked_at: Option<Ts>,
}

impl Identities {
    pub(super) fn new(bus: JetStream, config: &Config, clock: Clock) -> Self {
        Self {
            bus,
            site: config.site.id.clone(),
            timeout: config.engine.command_timeout.0,
            clock,
            known: Mutex::default(),
        }
    }

    /// The holder of the request's token; `None` where there is no token.
    pub(super) async fn caller(&self, headers: &HeaderMap) -> Result<Option<Caller>, Problem> {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Ok(None);
        };
        let token = value
            .to_str()
            .ok()
            .and_then(|text| {
                let (scheme, token) = text.split_once(' ')?;
                scheme
                    .eq_ignore_ascii_case("bearer")
                    .then_some(token.trim())
            })
            .ok_or_else(|| {
                Problem::unauthenticated("write the header as 'Authorization: Bearer <token>'")
            })?;
        let keys = self.keys(false).await?;
        let claims = match token::verify(token, &keys, self.clock.now()) {
            // Signed with a key that came after ours: ask for the new ones, once.
            Err(TokenError::UnknownKey) => {
                let keys = self.keys(true).await?;
                token::verify(token, &keys, self.clock.now())
            }
            other => other,
        };
        let claims = claims.map_err(|error| Problem::unauthenticated(error.to_string()))?;
        Ok(Some(claims.caller()))
    }

    async fn keys(&self, newer: bool) -> Result<Arc<KeySet>, Problem> {
        let now = self.clock.now();
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let recent = known
                .asked_at
                .is_some_and(|asked| self.clock.since(asked) < ASK_EVERY);
            match &known.keys {
                Some(keys) if !newer || recent => return Ok(Arc::clone(keys)),
                _ => known.asked_at = Some(now),
            }
        }
        match self.ask().await {
            Ok(keys) => {
                let keys = Arc::new(keys);
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                known.keys = Some(Arc::clone(&keys));
                Ok(keys)
            }
            Err(why) => {
                tracing::warn!(why, "the keys of the role auth can't be had");
                let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                known.keys.clone().ok_or_else(|| {
                    Problem::new(
                        Code::ServiceUnavailable,
                        "tokens can't be checked right now, try again",
                    )
                })
            }
        }
    }

    async fn ask(&self) -> Result<KeySet, String> {
        let mut headers = Headers::default();
        headers.push(ACTOR_HEADER, DOOR);
        let reply = self
            .bus
            .call(
                &self.site,
                "auth.keys",
                &headers,
                json!({}).to_string().into_bytes(),
                self.timeout,
            )
            .await
            .map_err(|error| error.to_string())?;
        let reply: Value =
            serde_json::from_slice(&reply.body).map_err(|error| error.to_string())?;
        KeySet::from_json(reply.get("ok").unwrap_or(&Value::Null))
    }
}

/// The door's own identity.
pub(super) fn door() -> Caller {
    Caller::of(Actor::System("gateway".to_owned()))
}
