//! Personal data in a transaction: sealed for its data subject when it is made, opened where a handler needs to see it
//! (DOMAIN 3.2). A role's tables, its events, calls and kept replies hold sealed texts only.
//!
//! Where the store has no keys nothing is sealed, and what came plain stays plain.

use rusqlite::Params;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Tx;
use crate::event::seal::{self, Keyring};
use crate::event::{DataKey, Event, KeyError, Personal};
use crate::store::{Class, Error};

impl Tx<'_> {
    fn keys(&self) -> Option<&dyn Keyring> {
        self.store.keys.as_deref()
    }

    /// Whether personal data is sealed here.
    #[must_use]
    pub fn seals(&self) -> bool {
        self.keys().is_some()
    }

    fn no_key(&self, op: &'static str, error: &KeyError) -> Error {
        let class = match error {
            KeyError::Unknown(_) => Class::UnknownKey,
            _ => Class::NoKey,
        };
        self.store.error(class, op, error.to_string())
    }

    fn key_of(&self, subject: &str) -> Result<Option<DataKey>, Error> {
        let Some(keys) = self.keys() else {
            return Ok(None);
        };
        let key = keys.of(subject);
        key.map(Some)
            .map_err(|error| self.no_key("sealing personal data", &error))
    }

    /// A value sealed for the person (a user's, vendor's or call's id) whom it is about.
    ///
    /// # Errors
    /// [`Class::NoKey`].
    pub fn seal<T: Serialize>(
        &self,
        subject: &impl ToString,
        value: T,
    ) -> Result<Personal<T>, Error> {
        let value = Personal::plain(value);
        Ok(match self.key_of(&subject.to_string())? {
            Some(key) => value.sealed(&key),
            None => value,
        })
    }

    /// The same for a value that came as it is, sealed already or not.
    ///
    /// # Errors
    /// [`Class::NoKey`].
    pub fn sealed<T: Serialize>(
        &self,
        subject: &impl ToString,
        value: Personal<T>,
    ) -> Result<Personal<T>, Error> {
        match value {
            Personal::Plain(value) => self.seal(subject, value),
            sealed @ Personal::Sealed(_) => Ok(sealed),
        }
    }

    /// Forgets what is remembered of a subject's keys, which are being destroyed.
    pub fn forget_keys(&self, subject: &impl ToString) {
        if let Some(keys) = self.keys() {
            keys.forget(&subject.to_string());
        }
    }

    /// What is in a personal value; `None` when the person was erased.
    ///
    /// # Errors
    /// [`Class::NoKey`].
    pub fn reveal<T: DeserializeOwned + Clone>(
        &self,
        value: &Personal<T>,
    ) -> Result<Option<T>, Error> {
        let sealed = match value {
            Personal::Plain(value) => return Ok(Some(value.clone())),
            Personal::Sealed(sealed) => sealed,
        };
        let Some(keys) = self.keys() else {
            return Ok(None);
        };
        let opened = seal::open(sealed, keys)
            .map_err(|error| self.no_key("reading personal data", &error))?;
        Ok(opened.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// What stands for a text in a column that is searched (see [`DataKey::blind`]); the text itself where nothing is sealed.
    ///
    /// # Errors
    /// [`Class::NoKey`].
    pub fn blind(&self, text: &str) -> Result<String, Error> {
        let Some(keys) = self.keys() else {
            return Ok(text.to_owned());
        };
        let key = keys
            .blind()
            .map_err(|error| self.no_key("looking personal data up", &error))?;
        Ok(key.blind(text))
    }

    /// A document's text for a `doc` column, with these of its fields sealed for `subject`. See [`Tx::open_document`].
    ///
    /// # Errors
    /// [`Class::NoKey`]; [`Class::Defect`] for a value that is not JSON.
    pub fn sealed_text(
        &self,
        subject: &impl ToString,
        document: &impl Serialize,
        fields: &[&str],
    ) -> Result<String, Error> {
        let Some(key) = self.key_of(&subject.to_string())? else {
            return self.text(document);
        };
        let mut value = serde_json::to_value(document).map_err(|error| {
            self.store
                .error(Class::Defect, "writing an entity", error.to_string())
        })?;
        for field in fields {
            if let Some(value) = value.get_mut(field).filter(|value| !value.is_null()) {
                *value = key.seal(value.to_string().as_bytes()).as_str().into();
            }
        }
        Ok(value.to_string())
    }

    /// The document that `sql` selects, opened; `None` also for one whose person was erased: a database restored from before
    /// may have it.
    ///
    /// # Errors
    /// A store error; [`Class::NoKey`]; [`Class::Defect`] for a document that does not fit `T`.
    pub fn open_document<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: impl Params,
    ) -> Result<Option<T>, Error> {
        Ok(self.open_documents(sql, params)?.pop())
    }

    /// The documents that `sql` selects, opened, without those whose persons were erased.
    ///
    /// # Errors
    /// As [`Tx::open_document`].
    pub fn open_documents<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: impl Params,
    ) -> Result<Vec<T>, Error> {
        let values: Vec<Value> = self.documents(sql, params)?;
        let mut opened = Vec::with_capacity(values.len());
        for mut value in values {
            if self.open_fields(&mut value)? {
                let document = serde_json::from_value(value).map_err(|error| {
                    self.store
                        .error(Class::Defect, "reading an entity", error.to_string())
                })?;
                opened.push(document);
            }
        }
        Ok(opened)
    }

    /// Opens the sealed fields of an object; false when one can't be opened any more.
    fn open_fields(&self, value: &mut Value) -> Result<bool, Error> {
        let (Some(keys), Value::Object(map)) = (self.keys(), value) else {
            return Ok(true);
        };
        for field in map.values_mut() {
            let Some(sealed) = field.as_str().and_then(crate::event::Sealed::parse) else {
                continue;
            };
            let opened = seal::open(&sealed, keys)
                .map_err(|error| self.no_key("reading personal data", &error))?;
            match opened.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
                Some(opened) => *field = opened,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Seals the personal fields of an event that are plain still, so that none leaves the role in clear.
    pub(super) fn seal_event(&self, event: &mut Event) -> Result<(), Error> {
        if self.keys().is_none() {
            return Ok(());
        }
        let Some(subject) = event.to_seal().map(str::to_owned) else {
            return Ok(());
        };
        if let Some(key) = self.key_of(&subject)? {
            event.seal(&key);
        }
        Ok(())
    }
}
