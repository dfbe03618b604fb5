//! One fence among the others: each change is a new version of the whole key `geofences` (DOMAIN 5.11).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ConfigRole;
use super::entity::{Next, Version, expect};
use super::polygon::Corner;
use super::values::{Geofence, Geofences, geofence, read, written};
use crate::event::{ConfigKey, Id, Text};
use crate::role::listing::limit;
use crate::role::{Code, Command, HandlerError, Rejection};
use crate::store::Tx;

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Add {
    name: Text<120>,
    /// A closed ring of [lon, lat], degrees.
    polygon: Vec<Corner>,
    region: Text<64>,
    /// Active without it.
    active: Option<bool>,
    /// Refused unless this version of the key is in force; without it, whatever is.
    expected_version: Option<u64>,
    reason: Option<Text<200>>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Change {
    geofence_id: Id,
    name: Option<Text<120>>,
    /// A closed ring of [lon, lat], degrees.
    polygon: Option<Vec<Corner>>,
    region: Option<Text<64>>,
    active: Option<bool>,
    /// The version of the key that the change was made from.
    expected_version: u64,
    reason: Option<Text<200>>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Remove {
    geofence_id: Id,
    /// The version of the key that the fence was seen in.
    expected_version: u64,
    reason: Option<Text<200>>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ListBody {
    limit: Option<u64>,
    cursor: Option<String>,
}

/// The fences in force, and their version.
struct Fences {
    all: Vec<Geofence>,
    version: u64,
}

impl Fences {
    fn require(&self, expected: u64) -> Result<(), Rejection> {
        expect(ConfigKey::Geofences, expected, self.version)
    }

    fn position(&self, id: Id) -> Result<usize, Rejection> {
        let at = self.all.iter().position(|fence| fence.geofence_id == id);
        at.ok_or_else(|| Rejection::new(Code::NotFound, format!("there is no geofence {id}")))
    }

    /// CONFLICT where another fence has the name.
    fn name_is_free(&self, fence: &Geofence) -> Result<(), Rejection> {
        let taken =
            |other: &Geofence| other.name == fence.name && other.geofence_id != fence.geofence_id;
        if !self.all.iter().any(taken) {
            return Ok(());
        }
        let message = format!("another geofence is named {}", fence.name);
        Err(Rejection {
            field: Some("name".to_owned()),
            ..Rejection::new(Code::Conflict, message)
        })
    }

    /// Stores them as the next version; gives its number.
    fn save(
        self,
        tx: &mut Tx<'_>,
        command: &Command,
        reason: Option<Text<200>>,
    ) -> Result<u64, HandlerError> {
        let next = Next {
            key: ConfigKey::Geofences,
            value: written(&Geofences {
                geofences: self.all,
            }),
            rolled_back: false,
            by: command.actor().clone(),
            reason,
        };
        Ok(Version::append(tx, next)?.config_version)
    }
}

impl ConfigRole {
    fn fences(&self, tx: &Tx<'_>) -> Result<Fences, HandlerError> {
        let latest = Version::latest(tx, ConfigKey::Geofences)?;
        let version = latest.as_ref().map_or(0, |latest| latest.config_version);
        let value = latest.map_or_else(
            || self.defaults.of(ConfigKey::Geofences),
            |latest| latest.value,
        );
        let all = read::<Geofences>(&value)?.geofences;
        Ok(Fences { all, version })
    }

    pub(super) fn add_fence(&self, tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
        let body: Add = command.parse()?;
        let fence = Geofence {
            geofence_id: tx.new_id(),
            name: body.name,
            polygon: body.polygon,
            region: body.region,
            active: body.active.unwrap_or(true),
        };
        geofence("", &fence)?;
        let mut fences = self.fences(tx)?;
        if let Some(expected) = body.expected_version {
            fences.require(expected)?;
        }
        fences.name_is_free(&fence)?;
        fences.all.push(fence.clone());
        let version = fences.save(tx, command, body.reason)?;
        Ok(tx.reply(&shown(&fence, version))?)
    }

    pub(super) fn change_fence(
        &self,
        tx: &mut Tx<'_>,
        command: &Command,
    ) -> Result<(), HandlerError> {
        let body: Change = command.parse()?;
        let mut fences = self.fences(tx)?;
        let at = fences.position(body.geofence_id)?;
        fences.require(body.expected_version)?;
        let before = fences.all[at].clone();
        let fence = Geofence {
            geofence_id: before.geofence_id,
            name: body.name.unwrap_or(before.name),
            polygon: body.polygon.unwrap_or(before.polygon),
            region: body.region.unwrap_or(before.region),
            active: body.active.unwrap_or(before.active),
        };
        geofence("", &fence)?;
        fences.name_is_free(&fence)?;
        fences.all[at] = fence.clone();
        let version = fences.save(tx, command, body.reason)?;
        Ok(tx.reply(&shown(&fence, version))?)
    }

    pub(super) fn remove_fence(
        &self,
        tx: &mut Tx<'_>,
        command: &Command,
    ) -> Result<(), HandlerError> {
        let body: Remove = command.parse()?;
        let mut fences = self.fences(tx)?;
        let at = fences.position(body.geofence_id)?;
        fences.require(body.expected_version)?;
        fences.all.remove(at);
        let version = fences.save(tx, command, body.reason)?;
        Ok(tx.reply(&Removed {
            geofence_id: body.geofence_id,
            config_version: version,
        })?)
    }

    /// By name, as reports look through them (DOMAIN 5.7, region).
    pub(super) fn list_fences(
        &self,
        tx: &mut Tx<'_>,
        command: &Command,
    ) -> Result<(), HandlerError> {
        let body: ListBody = command.parse()?;
        let most = usize::try_from(limit(body.limit)?).unwrap_or(usize::MAX);
        let mut fences = self.fences(tx)?;
        fences.all.sort_by(|a, b| a.name.cmp(&b.name));
        let from = match body.cursor.as_deref() {
            None => 0,
            Some(text) => {
                let last = Id::parse(text).ok().and_then(|id| fences.position(id).ok());
                let wrong = || Rejection::field("cursor", "not a cursor of this listing");
                last.ok_or_else(wrong)? + 1
            }
        };
        let page: Vec<Geofence> = fences.all.iter().skip(from).take(most).cloned().collect();
        let last = page.last().filter(|_| from + page.len() < fences.all.len());
        Ok(tx.reply(&Listed {
            cursor: last.map(|last| last.geofence_id),
            items: page,
            config_version: fences.version,
        })?)
    }
}

/// A fence, and the version of all fences that it is in.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "GeofenceOfVersion")]
pub(super) struct Shown {
    #[serde(flatten)]
    fence: Geofence,
    config_version: u64,
}

fn shown(fence: &Geofence, config_version: u64) -> Shown {
    Shown {
        fence: fence.clone(),
        config_version,
    }
}

/// Which fence is gone, and since which version of all fences.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "GeofenceRemoved")]
pub(super) struct Removed {
    geofence_id: Id,
    config_version: u64,
}

/// A page of fences, all of one version.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "GeofencePage")]
pub(super) struct Listed {
    items: Vec<Geofence>,
    config_version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<Id>,
}
