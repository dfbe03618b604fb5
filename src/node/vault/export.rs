//! What the archive has of one person, readable.

use std::collections::HashMap;

use serde_json::Value;

use super::{Keys, WireKey};
use crate::bus::{self, Bus, EVENTS};
use crate::event::seal;
use crate::event::{DataKey, KeyError, Keyring, parse};

/// Messages in one read.
const PAGE: usize = 1000;

/// The keys of one person; whatever else is sealed stays so.
#[derive(Debug)]
pub struct Person {
    id: String,
    keys: HashMap<String, DataKey>,
}

impl Person {
    /// From the answer to `key.list`; `None` where that is none.
    #[must_use]
    pub fn of(id: &str, answer: Value) -> Option<Self> {
        let Keys { keys } = serde_json::from_value(answer).ok()?;
        let key = |wire: &WireKey| {
            Some((
                wire.key_id.clone(),
                DataKey::new(&wire.key_id, &wire.secret()?),
            ))
        };
        Some(Self {
            id: id.to_owned(),
            keys: keys.iter().filter_map(key).collect(),
        })
    }

    /// How many keys.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// Whether an event is about him: it names him, or something in it was sealed for him.
    fn is_in(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => {
                text.ends_with(&self.id)
                    || crate::event::Sealed::parse(text)
                        .is_some_and(|sealed| self.keys.contains_key(sealed.key_id()))
            }
            Value::Array(items) => items.iter().any(|item| self.is_in(item)),
            Value::Object(map) => map.values().any(|item| self.is_in(item)),
            _ => false,
        }
    }

    /// Gives each archived event about him to `take`, oldest first, with what was sealed for him readable and what was sealed for
    /// others masked.
    ///
    /// # Errors
    /// The archive can't be read, or `take` fails.
    pub async fn events<B: Bus, E: From<bus::Error>>(
        &self,
        bus: &B,
        mut take: impl FnMut(Value) -> Result<(), E>,
    ) -> Result<u64, E> {
        let (mut from, mut count) = (bus.stream(EVENTS).await?.first_seq, 0);
        loop {
            let page = bus.read(EVENTS, "roadcall.>", from, PAGE, false).await?;
            let Some(last) = page.last() else {
                return Ok(count);
            };
            from = last.seq + 1;
            for stored in &page {
                let content_type = stored.headers.get("Content-Type");
                let Ok(map) = parse(content_type, &stored.body) else {
                    continue;
                };
                let mut event = Value::Object(map);
                if self.is_in(&event) {
                    // Of these keys none has to be waited for.
                    let _ = seal::reveal(&mut event, self);
                    count += 1;
                    take(event)?;
                }
            }
        }
    }
}

impl Keyring for Person {
    fn of(&self, _subject: &str) -> Result<DataKey, KeyError> {
        Err(KeyError::Unavailable("these keys only open".to_owned()))
    }

    fn named(&self, key_id: &str) -> Result<DataKey, KeyError> {
        self.keys.get(key_id).cloned().ok_or(KeyError::Erased)
    }

    fn blind(&self) -> Result<DataKey, KeyError> {
        self.of("")
    }

    fn forget(&self, _subject: &str) {}
}
