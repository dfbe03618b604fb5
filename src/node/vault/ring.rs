//! The keys that one role has asked for. A handler is synchronous, so whoever asks waits, on the role's own thread, for the
//! answer that a task brings.

use std::collections::HashMap;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::mpsc as tasks;

use super::{BLIND, Granted};
use crate::bus::Headers;
use crate::bus::jetstream::JetStream;
use crate::bus::jetstream::service::CallError;
use crate::event::seal::{NOBODY, SECRET_LEN};
use crate::event::{DataKey, KeyError, Keyring};
use crate::node::clock::Clock;
use crate::node::commands::ACTOR_HEADER;

/// How long the keeper of the keys may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries, while nobody is there.
const PAUSE: Duration = Duration::from_millis(50);
/// For the way through the task.
const MARGIN: Duration = Duration::from_secs(3);
/// After a failure nobody is asked for so long, or a role whose events all need keys would stand still.
const REST: Duration = Duration::from_secs(1);
/// Keys in memory at the most; more are asked for anew.
const KEPT_MAX: usize = 20_000;

/// What is asked.
struct Ask {
    verb: &'static str,
    body: Value,
    answer: mpsc::SyncSender<Result<Granted, KeyError>>,
}

/// Keys by subject and by name, with the time when they came; nothing in place of a destroyed one. A failure is a matter of the
/// machine, so its time is the machine's, also where a test sets the clock.
#[derive(Debug, Default)]
struct Known {
    of: HashMap<String, (DataKey, Duration)>,
    named: HashMap<String, (Option<DataKey>, Duration)>,
    subjects: HashMap<String, String>,
    failed: Option<(Instant, String)>,
}

/// See the module.
#[derive(Debug)]
pub struct Ring {
    asks: tasks::UnboundedSender<Ask>,
    known: Mutex<Known>,
    keep: Duration,
    clock: Clock,
}

impl Ring {
    /// For `who` (a role, or who shows events to people) at `site`; what it got it keeps for `keep`. Starts the task that asks.
    #[must_use]
    pub fn start(
        bus: &JetStream,
        site: &str,
        who: &str,
        keep: Duration,
        clock: Clock,
    ) -> Arc<Self> {
        let (asks, questions) = tasks::unbounded_channel();
        tokio::spawn(ask(bus.clone(), site.to_owned(), who.to_owned(), questions));
        Arc::new(Self {
            asks,
            known: Mutex::default(),
            keep,
            clock,
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_fresh(&self, since: Duration) -> bool {
        self.clock.steady().saturating_sub(since) < self.keep
    }

    fn ask(&self, verb: &'static str, body: Value) -> Result<Granted, KeyError> {
        if let Some((at, why)) = &self.known().failed
            && at.elapsed() < REST
        {
            return Err(KeyError::Unavailable(why.clone()));
        }
        let (answer, answered) = mpsc::sync_channel(1);
        let gone = |_| KeyError::Unavailable("the process stops".to_owned());
        let ask = Ask { verb, body, answer };
        self.asks.send(ask).map_err(|_| gone(()))?;
        let granted = match answered.recv_timeout(PATIENCE + MARGIN) {
            Ok(granted) => granted,
            Err(RecvTimeoutError::Timeout) => {
                Err(KeyError::Unavailable("no answer in time".to_owned()))
            }
            Err(RecvTimeoutError::Disconnected) => Err(gone(())),
        };
        let failed = match &granted {
            Err(KeyError::Unavailable(why)) => Some((Instant::now(), why.clone())),
            _ => None,
        };
        self.known().failed = failed;
        granted
    }

    /// Remembers an answer; `None` for a destroyed key.
    fn take(&self, granted: &Granted) -> Result<Option<DataKey>, KeyError> {
        let Some(wire) = granted.key.as_ref().filter(|_| !granted.erased) else {
            return Ok(None);
        };
        let secret = wire.secret();
        let secret =
            secret.ok_or_else(|| KeyError::Unavailable("the answer is no key".to_owned()))?;
        let key = DataKey::new(&wire.key_id, &secret);
        let now = self.clock.steady();
        let mut known = self.known();
        if known.named.len() >= KEPT_MAX {
            *known = Known::default();
        }
        known
            .named
            .insert(wire.key_id.clone(), (Some(key.clone()), now));
        known
            .subjects
            .insert(wire.key_id.clone(), wire.subject.clone());
        Ok(Some(key))
    }

    fn key_of(&self, subject: &str) -> Result<Option<DataKey>, KeyError> {
        let cached = self.known().of.get(subject).cloned();
        if let Some((key, _)) = cached.as_ref().filter(|(_, since)| self.is_fresh(*since)) {
            return Ok(Some(key.clone()));
        }
        match self.ask("of", json!({ "subject": subject })) {
            Ok(granted) => {
                let key = self.take(&granted)?;
                if let Some(key) = &key {
                    let entry = (key.clone(), self.clock.steady());
                    self.known().of.insert(subject.to_owned(), entry);
                }
                Ok(key)
            }
            // What it got earlier still seals: work goes on while the keeper is away.
            Err(KeyError::Unavailable(why)) => match cached {
                Some((key, _)) => Ok(Some(key)),
                None => Err(KeyError::Unavailable(why)),
            },
            Err(error) => Err(error),
        }
    }
}

impl Keyring for Ring {
    fn of(&self, subject: &str) -> Result<DataKey, KeyError> {
        if let Some(key) = self.key_of(subject)? {
            return Ok(key);
        }
        // Sealed with a key that nobody keeps: nothing more is kept of an erased person.
        let secret = super::site_key::draw::<SECRET_LEN>().map_err(KeyError::Unavailable)?;
        Ok(DataKey::new(NOBODY, &secret))
    }

    fn named(&self, key_id: &str) -> Result<DataKey, KeyError> {
        let cached = self.known().named.get(key_id).cloned();
        let found = match cached {
            Some((key, since)) if self.is_fresh(since) => key,
            stale => match self.ask("open", json!({ "keyId": key_id })) {
                Ok(granted) => {
                    let key = self.take(&granted)?;
                    if key.is_none() {
                        let entry = (None, self.clock.steady());
                        self.known().named.insert(key_id.to_owned(), entry);
                    }
                    key
                }
                Err(KeyError::Unavailable(why)) => match stale {
                    Some((key, _)) => key,
                    None => return Err(KeyError::Unavailable(why)),
                },
                Err(error) => return Err(error),
            },
        };
        found.ok_or(KeyError::Erased)
    }

    fn blind(&self) -> Result<DataKey, KeyError> {
        self.key_of(BLIND)?.ok_or(KeyError::Erased)
    }

    fn forget(&self, subject: &str) {
        let mut known = self.known();
        known.of.remove(subject);
        let Known {
            named, subjects, ..
        } = &mut *known;
        subjects.retain(|key_id, of| {
            if of == subject {
                named.remove(key_id);
            }
            of != subject
        });
    }
}

/// Brings questions to whoever keeps the site's keys, until nobody asks any more.
async fn ask(
    bus: JetStream,
    site: String,
    who: String,
    mut questions: tasks::UnboundedReceiver<Ask>,
) {
    while let Some(question) = questions.recv().await {
        let (bus, site) = (bus.clone(), site.clone());
        let (name, actor) = (
            format!("key.{}.{who}", question.verb),
            format!("system:{who}"),
        );
        tokio::spawn(async move {
            let mut headers = Headers::default();
            headers.push(ACTOR_HEADER, actor);
            let body = question.body.to_string().into_bytes();
            let asked = Instant::now();
            let reply = loop {
                let body = body.clone();
                match bus.call(&site, &name, &headers, body, PATIENCE).await {
                    // After a break of the connection the keeper may come back a moment later than the queue.
                    Err(CallError::NoResponder(_)) if asked.elapsed() < PATIENCE => {
                        tokio::time::sleep(PAUSE).await;
                    }
                    reply => break reply,
                }
            };
            let granted = match reply {
                Ok(reply) => granted(&reply.body),
                Err(CallError::NoResponder(_)) => Err(KeyError::Unavailable(
                    "nobody keeps the site's keys; is the audit role running?".to_owned(),
                )),
                Err(error) => Err(KeyError::Unavailable(error.to_string())),
            };
            // Whoever asked may have given up.
            let _ = question.answer.send(granted);
        });
    }
}

fn granted(body: &[u8]) -> Result<Granted, KeyError> {
    let unclear = || KeyError::Unavailable("the answer can't be read".to_owned());
    let mut value: Value = serde_json::from_slice(body).map_err(|_| unclear())?;
    if let Some(error) = value.get("error") {
        let message = error["message"].as_str().unwrap_or("refused").to_owned();
        return Err(match error["code"].as_str() {
            Some("NOT_FOUND") => KeyError::Unknown(message),
            _ => KeyError::Unavailable(message),
        });
    }
    serde_json::from_value(value["ok"].take()).map_err(|_| unclear())
}
