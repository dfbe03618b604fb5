//! A second copy of a depot's keys at the hub, so that a dead box does not mean dead data; keys of other sites, which the hub
//! has; and who was erased, told in both directions.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::service::{ERASE, ERASED, ESCROW, FIND, PAGE, RESTORE, Vault};
use super::{After, Erased, Granted, Keys, Named, WireKey};
use crate::bus::jetstream::JetStream;
use crate::bus::{self, Bus, EVENTS, Headers};
use crate::config::Config;
use crate::event::{Known, decode};
use crate::node::commands::ACTOR_HEADER;
use crate::role::{Code, Rejection};
use crate::store::keys::{KeyRow, KeyStore};

/// How long the hub may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// When it is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// How often the hub is asked who was erased.
const ASKED_EVERY: Duration = Duration::from_secs(300);
/// Keys in one message to the hub.
const AT_ONCE: usize = 200;

/// The hub, as a depot sees it.
#[derive(Debug, Clone)]
pub(super) struct Elsewhere {
    bus: JetStream,
    site: String,
}

impl Elsewhere {
    /// Nothing at the hub, and at a site that has none.
    pub(super) fn of(bus: &JetStream, config: &Config) -> Option<Self> {
        (!config.is_hub() && !config.hub.url.is_empty()).then(|| Self {
            bus: bus.clone(),
            site: config.site.id.clone(),
        })
    }

    async fn ask<T: DeserializeOwned>(&self, verb: &str, body: Value) -> Result<T, Rejection> {
        let unavailable =
            |why: String| Rejection::new(Code::ServiceUnavailable, format!("the hub: {why}"));
        let mut headers = Headers::default();
        headers.push(ACTOR_HEADER, "system:node".to_owned());
        let body = body.to_string().into_bytes();
        let reply = self
            .bus
            .call_hub(&self.site, verb, &headers, body, PATIENCE);
        let reply = reply
            .await
            .map_err(|error| unavailable(error.to_string()))?;
        let mut value: Value = serde_json::from_slice(&reply.body)
            .map_err(|_| unavailable("its answer can't be read".to_owned()))?;
        if let Some(error) = value.get("error") {
            let message = error["message"].as_str().unwrap_or("refused").to_owned();
            return Err(match error["code"].as_str() {
                Some("NOT_FOUND") => Rejection::new(Code::NotFound, message),
                _ => unavailable(message),
            });
        }
        serde_json::from_value(value["ok"].take())
            .map_err(|_| unavailable("its answer can't be read".to_owned()))
    }

    /// The key of a name.
    pub(super) async fn find(&self, key_id: &str) -> Result<Granted, Rejection> {
        let named = Named {
            key_id: key_id.to_owned(),
        };
        self.ask(FIND, json!(named)).await
    }
}

/// Brings back the keys that the hub has of this site, and who was erased meanwhile: for a new box in the place of a dead one.
/// Gives how many keys came.
///
/// # Errors
/// The hub does not answer, or the keys can't be written.
pub async fn restore(
    store: &mut KeyStore,
    bus: &JetStream,
    config: &Config,
) -> Result<usize, Rejection> {
    let Some(hub) = Elsewhere::of(bus, config) else {
        return Ok(0);
    };
    let failed =
        |error: crate::store::Error| Rejection::new(Code::ServiceUnavailable, error.to_string());
    // Tombstones first: no key of an erased person is written again.
    let mut after = String::new();
    loop {
        let Erased { subjects } = hub
            .ask(
                ERASED,
                json!(After {
                    after: after.clone()
                }),
            )
            .await?;
        for subject in &subjects {
            let now = crate::node::clock::Clock.now();
            store.destroy(subject, now, true).map_err(failed)?;
        }
        match subjects.last() {
            Some(last) if subjects.len() >= PAGE => after.clone_from(last),
            _ => break,
        }
    }
    let (mut after, mut count) = (String::new(), 0);
    loop {
        let Keys { keys } = hub
            .ask(
                RESTORE,
                json!(After {
                    after: after.clone()
                }),
            )
            .await?;
        let rows: Vec<KeyRow> = keys.iter().filter_map(WireKey::row).collect();
        store.keep(&rows, true).map_err(failed)?;
        count += rows.len();
        match keys.last() {
            Some(last) if keys.len() >= PAGE => after.clone_from(&last.key_id),
            _ => return Ok(count),
        }
    }
}

impl Vault {
    /// Destroys the keys of everybody whom the archive says was erased: a file of keys that came back from a copy may have them.
    ///
    /// # Errors
    /// The archive can't be read.
    pub async fn bury(&self, bus: &JetStream) -> Result<(), bus::Error> {
        let mut from = bus.stream(EVENTS).await?.first_seq;
        loop {
            let page = bus
                .read(
                    EVENTS,
                    "roadcall.*.auth.UserDataDeleted.*",
                    from,
                    PAGE,
                    false,
                )
                .await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            from = last.seq + 1;
            for stored in &page {
                let content_type = stored.headers.get("Content-Type");
                let decoded = decode(&stored.subject, content_type, &stored.body);
                let Ok(Some(Known::UserDataDeleted(erased))) =
                    decoded.as_ref().map(crate::event::Event::known)
                else {
                    continue;
                };
                let subject = erased.user_id.to_string();
                let again = self.destroy_unless_known(&subject).await;
                if let Err(rejection) = again {
                    tracing::error!(
                        error = rejection.message,
                        "keys of an erased person are not destroyed"
                    );
                }
            }
        }
    }

    async fn destroy_unless_known(&self, subject: &str) -> Result<(), Rejection> {
        let asked = subject.to_owned();
        if !self.with(move |store| store.is_erased(&asked)).await? {
            self.destroy(subject, false).await?;
        }
        Ok(())
    }

    /// Gives the hub what it lacks, until told to stop. Without a hub it does nothing.
    pub async fn escrow(self, stop: CancellationToken) {
        let Some(hub) = self.elsewhere().cloned() else {
            return;
        };
        let mut asked = None;
        loop {
            let due = asked.is_none_or(|at: tokio::time::Instant| at.elapsed() >= ASKED_EVERY);
            let given = self.give(&hub).await;
            let heard = match due {
                true => self.hear(&hub).await,
                false => Ok(()),
            };
            if due && heard.is_ok() {
                asked = Some(tokio::time::Instant::now());
            }
            let wait = match given.and(heard) {
                Ok(()) => ASKED_EVERY,
                Err(rejection) => {
                    tracing::debug!(
                        error = rejection.message,
                        "the hub does not have this site's newest keys yet"
                    );
                    AGAIN
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.news.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn give(&self, hub: &Elsewhere) -> Result<(), Rejection> {
        loop {
            let site = hub.site.clone();
            let rows = self
                .with(move |store| store.not_escrowed(&site, AT_ONCE))
                .await?;
            if rows.is_empty() {
                break;
            }
            let keys = rows.iter().map(WireKey::of).collect();
            let _: Value = hub.ask(ESCROW, json!(Keys { keys })).await?;
            self.with(move |store| store.note_escrowed(&rows)).await?;
        }
        loop {
            let erased = self.with(|store| store.erased("", true, AT_ONCE)).await?;
            if erased.is_empty() {
                return Ok(());
            }
            let subjects: Vec<String> = erased.into_keys().collect();
            let told = json!(Erased {
                subjects: subjects.clone()
            });
            let _: Value = hub.ask(ERASE, told).await?;
            self.with(move |store| store.note_told(subjects.iter()))
                .await?;
        }
    }

    /// Who was erased elsewhere.
    async fn hear(&self, hub: &Elsewhere) -> Result<(), Rejection> {
        let mut after = String::new();
        loop {
            let asked = json!(After {
                after: after.clone()
            });
            let Erased { subjects } = hub.ask(ERASED, asked).await?;
            for subject in &subjects {
                let asked = subject.clone();
                if !self.with(move |store| store.is_erased(&asked)).await? {
                    self.destroy(subject, true).await?;
                }
            }
            match subjects.last() {
                Some(last) if subjects.len() >= PAGE => after.clone_from(last),
                _ => return Ok(()),
            }
        }
    }
}
