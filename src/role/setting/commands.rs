//! The commands on whole keys: get, history, update, rollback (DOMAIN 5.11).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ConfigRole;
use super::entity::{Next, Version, expect};
use super::values;
use crate::event::{Actor, ConfigChange, ConfigKey, Text, Ts};
use crate::role::listing::{limit, page};
use crate::role::{Code, Command, HandlerError, Rejection};
use crate::store::Tx;

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Get {
    config_key: ConfigKey,
    /// Which version; the one in force without it.
    config_version: Option<u64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct History {
    config_key: ConfigKey,
    limit: Option<u64>,
    cursor: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Update {
    config_key: ConfigKey,
    value: Map<String, Value>,
    /// The version that the change was made from; 0 for a key that nobody has set.
    expected_version: u64,
    reason: Option<Text<200>>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Rollback {
    config_key: ConfigKey,
    target_version: u64,
    /// Refused unless this version is in force; without it, whatever is.
    expected_version: Option<u64>,
    reason: Option<Text<200>>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// A version of a key, or what is in force while nobody has set it: then version 0, without what only a change has.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SettingInForce")]
pub(super) struct InForce {
    config_key: ConfigKey,
    config_version: u64,
    value: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    change_type: Option<ConfigChange>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_by: Option<Actor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<Ts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Text<200>>,
}

impl From<Version> for InForce {
    fn from(version: Version) -> Self {
        Self {
            config_key: version.config_key,
            config_version: version.config_version,
            value: version.value,
            change_type: Some(version.change_type),
            updated_by: Some(version.updated_by),
            updated_at: Some(version.updated_at),
            reason: version.reason,
        }
    }
}

impl ConfigRole {
    pub(super) fn get(&self, tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
        let body: Get = command.parse()?;
        let key = body.config_key;
        let found = match body.config_version {
            None => Version::latest(tx, key)?,
            Some(version) => Some(find(tx, key, version)?),
        };
        let Some(found) = found else {
            // Nobody has set it: consumers use this until somebody does.
            return Ok(tx.reply(&InForce {
                config_key: key,
                config_version: 0,
                value: self.defaults.of(key),
                change_type: None,
                updated_by: None,
                updated_at: None,
                reason: None,
            })?);
        };
        Ok(tx.reply(&InForce::from(found))?)
    }

    pub(super) fn update(&self, tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
        let body: Update = command.parse()?;
        let key = body.config_key;
        let value = values::check(key, &body.value)?;
        let latest = Version::latest(tx, key)?.map_or(0, |latest| latest.config_version);
        expect(key, body.expected_version, latest)?;
        let next = Next {
            key,
            value,
            rolled_back: false,
            by: command.actor().clone(),
            reason: body.reason,
        };
        let version = Version::append(tx, next)?;
        Ok(tx.reply(&version)?)
    }

    pub(super) fn rollback(&self, tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
        let body: Rollback = command.parse()?;
        let key = body.config_key;
        let target = find(tx, key, body.target_version)?;
        let latest = Version::latest(tx, key)?.map_or(0, |latest| latest.config_version);
        if let Some(expected) = body.expected_version {
            expect(key, expected, latest)?;
        }
        if target.config_version == latest {
            let message = format!("version {latest} of {key} is in force");
            return Err(Rejection::new(Code::Conflict, message).into());
        }
        let next = Next {
            key,
            // Rules may have become stricter since.
            value: values::check(key, &target.value)?,
            rolled_back: true,
            by: command.actor().clone(),
            reason: body.reason,
        };
        let version = Version::append(tx, next)?;
        Ok(tx.reply(&version)?)
    }
}

fn find(tx: &Tx<'_>, key: ConfigKey, version: u64) -> Result<Version, HandlerError> {
    Version::find(tx, key, version)?.ok_or_else(|| {
        let message = format!("{key} has no version {version}");
        Rejection::new(Code::NotFound, message).into()
    })
}

pub(super) fn history(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: History = command.parse()?;
    let most = limit(body.limit)?;
    let before = match body.cursor.as_deref() {
        None => i64::MAX,
        Some(text) => text
            .parse()
            .map_err(|_| Rejection::field("cursor", "not a cursor of this listing"))?,
    };
    let versions = Version::below(tx, body.config_key, before, most)?;
    let more = versions.last().filter(|_| versions.len() as u64 == most);
    let more = more.map(|last| last.config_version.to_string());
    Ok(tx.reply(&page(&versions, more))?)
}
