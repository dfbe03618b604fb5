//! Who owns a role's queue: KV `TOPOLOGY` key `owner.<role>` names the store that has its outcomes (DESIGN 6).
//!
//! A queue's place on the broker and the role's database belong together. With another database, an empty one say, the
//! role would go on where the old one stopped and know nothing of what it did. So the first start puts the store's id
//! there, and another store is refused until a person says so. The key lives in the broker: with a new or rolled-back
//! broker it may be gone, and is put again.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::clock::Clock;
use super::run::Error;
use crate::bus::jetstream::JetStream;
use crate::bus::{self, TOPOLOGY_BUCKET};
use crate::event::{Id, Ts};
use crate::role::RoleName;
use crate::store::{Reader, Store};

/// What stands under `owner.<role>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// Id of the role's database.
    pub store_id: Id,
    /// Since when.
    pub since: Ts,
}

/// The name by which an operator adopts what `role` reads: its queue, or the role where it has none.
#[must_use]
pub fn adopted_as(role: RoleName) -> &'static str {
    role.queue().unwrap_or(role.as_str())
}

/// Puts `store` where nobody owns the role's queue yet, and refuses it where another one does.
///
/// # Errors
/// [`Error::Owned`], or any bus error.
pub async fn claim(bus: &JetStream, role: RoleName, store: &Store, now: Ts) -> Result<(), Error> {
    let ours = store.identity().store_id;
    let value = text(&Owner {
        store_id: ours,
        since: now,
    });
    let owner = bus.kv_create(TOPOLOGY_BUCKET, &key(role), value).await?;
    let Some(owner) = owner else {
        return Ok(());
    };
    let owner = read(role, &owner)?;
    if owner.store_id == ours {
        return Ok(());
    }
    Err(Error::Owned {
        role,
        queue: adopted_as(role),
        owner: owner.store_id,
        since: owner.since,
        ours,
        path: store.path().to_owned(),
    })
}

/// Gives the role's queue to the database at `path`, whoever owned it. Returns its id, and the one before.
///
/// # Errors
/// There is no such database, or a bus error.
pub async fn adopt(
    bus: &JetStream,
    role: RoleName,
    path: &Path,
) -> Result<(Id, Option<Id>), Error> {
    if !path.is_file() {
        return Err(Error::StateDir {
            path: path.to_owned(),
            message: format!(
                "role {role} has no database here; name the state directory that it runs with"
            ),
        });
    }
    let Some(ours) = Reader::open(path)?.store_id()? else {
        return Err(Error::StateDir {
            path: path.to_owned(),
            message: format!("role {role} has never started with this database"),
        });
    };
    let before = bus.kv_get(TOPOLOGY_BUCKET, &key(role)).await?;
    let value = text(&Owner {
        store_id: ours,
        since: Clock.now(),
    });
    bus.kv_put(TOPOLOGY_BUCKET, &key(role), value).await?;
    // Whatever stood there is replaced; one that can't be read is as good as none.
    let before = before.and_then(|before| read(role, &before).ok());
    Ok((ours, before.map(|owner| owner.store_id)))
}

/// Who owns what `role` reads; nobody before its first start with this broker.
///
/// # Errors
/// Any bus error, also for an entry that can't be read.
pub async fn of(bus: &JetStream, role: RoleName) -> Result<Option<Owner>, bus::Error> {
    let value = bus.kv_get(TOPOLOGY_BUCKET, &key(role)).await?;
    value.map(|value| read(role, &value)).transpose()
}

fn key(role: RoleName) -> String {
    format!("owner.{role}")
}

fn text(owner: &Owner) -> Vec<u8> {
    // Two texts always have a JSON form.
    serde_json::to_vec(owner).unwrap_or_default()
}

fn read(role: RoleName, value: &[u8]) -> Result<Owner, bus::Error> {
    serde_json::from_slice(value).map_err(|error| {
        bus::Error::Unsuitable(format!(
            "{} in bucket {TOPOLOGY_BUCKET} can't be read ({error}); roadcall queue adopt {} writes it anew",
            key(role),
            adopted_as(role)
        ))
    })
}
