//! A version of a configuration key, and how versions are stored: added, never changed (DOMAIN 5.11, 7.11).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::event::{
    Actor, ConfigChange, ConfigKey, ConfigurationChanged, Count1, Text, Ts, TypeError,
};
use crate::role::{Code, HandlerError, Rejection};
use crate::store::{Error, Tx, params};

pub(super) const MIGRATIONS: &[&str] = &["
CREATE TABLE config_version (
    config_key TEXT NOT NULL,
    version INTEGER NOT NULL,
    doc TEXT NOT NULL,
    PRIMARY KEY (config_key, version)
) WITHOUT ROWID;
-- What was in force stays to be read, whoever writes to this file.
CREATE TRIGGER config_version_stays BEFORE UPDATE ON config_version
    BEGIN SELECT RAISE(ABORT, 'a version is never changed'); END;
CREATE TRIGGER config_version_remains BEFORE DELETE ON config_version
    BEGIN SELECT RAISE(ABORT, 'a version is never removed'); END;
"];

/// One version of a key; the highest is the one in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the fields are DOMAIN 5.11's own
#[schemars(rename = "Setting")]
pub struct Version {
    pub config_key: ConfigKey,
    pub config_version: u64,
    pub value: Map<String, Value>,
    pub change_type: ConfigChange,
    pub updated_by: Actor,
    pub updated_at: Ts,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Text<200>>,
}

/// A value on its way to become the next version.
#[derive(Debug)]
pub(super) struct Next {
    pub key: ConfigKey,
    pub value: Map<String, Value>,
    /// A rollback; else created or updated, as it turns out.
    pub rolled_back: bool,
    pub by: Actor,
    pub reason: Option<Text<200>>,
}

/// An event may have 256 KiB (DOMAIN 3.1); this leaves room for everything beside the value.
const VALUE_BYTES_MAX: usize = 200 * 1024;

impl Version {
    /// The version in force, if the key was ever set.
    pub(super) fn latest(tx: &Tx<'_>, key: ConfigKey) -> Result<Option<Self>, Error> {
        tx.document(
            "SELECT doc FROM config_version WHERE config_key = ?1 ORDER BY version DESC LIMIT 1",
            params![key.as_str()],
        )
    }

    pub(super) fn find(tx: &Tx<'_>, key: ConfigKey, version: u64) -> Result<Option<Self>, Error> {
        tx.document(
            "SELECT doc FROM config_version WHERE config_key = ?1 AND version = ?2",
            params![key.as_str(), i64::try_from(version).unwrap_or(i64::MAX)],
        )
    }

    /// At most `most` versions below `before`, newest first.
    pub(super) fn below(
        tx: &Tx<'_>,
        key: ConfigKey,
        before: i64,
        most: u64,
    ) -> Result<Vec<Self>, Error> {
        tx.documents(
            "SELECT doc FROM config_version WHERE config_key = ?1 AND version < ?2 ORDER BY version DESC LIMIT ?3",
            params![key.as_str(), before, most as i64],
        )
    }

    /// Stores `next` as the next version and tells of it, once.
    pub(super) fn append(tx: &mut Tx<'_>, next: Next) -> Result<Self, HandlerError> {
        if tx.text(&next.value)?.len() > VALUE_BYTES_MAX {
            let message = format!("the value is over {} KiB", VALUE_BYTES_MAX / 1024);
            return Err(Rejection::field("value", message).into());
        }
        let previous = Self::latest(tx, next.key)?.map(|latest| latest.config_version);
        let change_type = match (next.rolled_back, previous) {
            (true, _) => ConfigChange::RolledBack,
            (false, None) => ConfigChange::Created,
            (false, Some(_)) => ConfigChange::Updated,
        };
        let version = Self {
            config_key: next.key,
            config_version: previous.unwrap_or(0) + 1,
            value: next.value,
            change_type,
            updated_by: next.by,
            updated_at: tx.now(),
            reason: next.reason,
        };
        let doc = tx.text(&version)?;
        tx.execute(
            "INSERT INTO config_version (config_key, version, doc) VALUES (?1, ?2, ?3)",
            params![
                version.config_key.as_str(),
                version.config_version as i64,
                doc
            ],
        )?;
        tx.emit(&version.changed(previous).map_err(out_of_range)?)?;
        Ok(version)
    }

    fn changed(&self, previous: Option<u64>) -> Result<ConfigurationChanged, TypeError> {
        Ok(ConfigurationChanged {
            config_key: self.config_key,
            config_version: Count1::new(self.config_version)?,
            value: self.value.clone(),
            change_type: self.change_type,
            previous_version: previous.map(Count1::new).transpose()?,
            reason: self.reason.clone(),
            updated_by: self.updated_by.clone(),
            updated_at: self.updated_at,
        })
    }
}

fn out_of_range(error: TypeError) -> HandlerError {
    // Versions count up from 1: a number outside means a store that somebody else wrote to.
    HandlerError::Transient(format!("a version in the store is {error}"))
}

/// VERSION_CONFLICT unless `expected` is the version in force (0: never set).
pub(super) fn expect(key: ConfigKey, expected: u64, latest: u64) -> Result<(), Rejection> {
    if expected == latest {
        return Ok(());
    }
    let message = format!("{key} has version {latest}, not {expected}");
    Err(Rejection::new(Code::VersionConflict, message).with_details(json!({ "version": latest })))
}
