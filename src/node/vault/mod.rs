//! The keys of personal data (DOMAIN 3.2, DESIGN 8): who keeps them, who gets them, where a second copy is.
//!
//! The process of a site's audit role keeps `keys.db` and answers the roles ([`service`]); each role has a [`ring`] of the keys
//! that it has asked for. A depot gives its keys to the hub and asks it for those that the hub or another site made
//! ([`escrow`]). Keys are in messages between the two and in memory, and nowhere else: no stream, snapshot or export has them.

pub mod destroy;
pub mod escrow;
pub mod export;
pub mod ring;
pub mod service;
pub mod site_key;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::run;
use super::writer::Job;
use crate::bus::jetstream::JetStream;
use crate::bus::jetstream::service::Service;
use crate::config::Config;
use crate::event::seal::SECRET_LEN;
use crate::event::{Keyring, Ts};
use crate::role::RoleName;
use crate::store::keys::KeyRow;

/// Name of the file in the state directory.
const FILE: &str = "keys.db";
/// Bytes of a key's name.
const NAME_LEN: usize = 16;
/// Whose "data" the blind indexes of a site are.
const BLIND: &str = "site/blind";
/// Who asks as a person at the machine.
pub const OPERATOR: &str = "operator";
/// What a depot asks the hub about keys (see `service`).
pub const OF_DEPOTS: &str = "key.*";
/// Who shows events to people.
pub const GATEWAY: &str = "gateway";

/// The keys that `who` seals and opens with, each remembered for `keep`; `None` where nothing is sealed.
#[must_use]
pub fn keys(
    bus: &JetStream,
    config: &Config,
    who: &str,
    keep: Duration,
    clock: Clock,
) -> Option<Arc<dyn Keyring>> {
    let ring = || ring::Ring::start(bus, &config.site.id, who, keep, clock);
    config.privacy.seal.then(|| ring() as Arc<dyn Keyring>)
}

/// Begins to keep the site's keys, beside its audit role, whose jobs take notes for the ledger.
///
/// # Errors
/// The keys can't be opened, or the broker does not take the questions.
pub async fn start(
    bus: &JetStream,
    service: &Service,
    config: &Config,
    jobs: mpsc::WeakSender<Job>,
    clock: Clock,
    stop: &CancellationToken,
) -> Result<[JoinHandle<()>; 3], run::Error> {
    let opened = site_key::open(config).map_err(|error| match error {
        site_key::Error::Store(error) => run::Error::Store(error),
        site_key::Error::File { path, message } => run::Error::Keys {
            path,
            message: format!("(the site key) {message}"),
        },
    });
    let (vault, notes) = service::Vault::new(opened?, bus, config, clock);
    vault.bury(bus).await?;
    let questions = service::Vault::listen(bus, service, config).await?;
    Ok([
        tokio::spawn(vault.clone().run(questions)),
        tokio::spawn(vault.escrow(stop.clone())),
        tokio::spawn(service::bring_notes(jobs, notes, clock)),
    ])
}

/// `keys.db` of a state directory.
#[must_use]
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

/// Who may do what with keys. Roles that only count, log or configure have no business with personal data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum May {
    /// Seal and open.
    Read,
    /// Seal what passes through.
    SealOnly,
    /// Neither.
    Nothing,
}

fn may(who: &str) -> May {
    match RoleName::ALL.into_iter().find(|role| role.as_str() == who) {
        Some(RoleName::Audit) => May::SealOnly,
        Some(RoleName::Reporting | RoleName::Kb | RoleName::Config) => May::Nothing,
        Some(_) => May::Read,
        None if who == GATEWAY || who == OPERATOR => May::Read,
        None => May::Nothing,
    }
}

/// Which key is wanted.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OfSubject {
    subject: String,
}

/// The same by its name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Named {
    key_id: String,
}

/// An answer: a key, or that it is destroyed.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Granted {
    erased: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<WireKey>,
}

/// A key in a message.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WireKey {
    key_id: String,
    subject: String,
    site: String,
    /// 32 bytes in base64url.
    key: String,
    made_at: Ts,
}

impl WireKey {
    fn of(row: &KeyRow) -> Self {
        Self {
            key_id: row.key_id.clone(),
            subject: row.subject.clone(),
            site: row.site.clone(),
            key: BASE64URL_NOPAD.encode(&row.secret),
            made_at: row.made_at,
        }
    }

    fn secret(&self) -> Option<[u8; SECRET_LEN]> {
        let bytes = BASE64URL_NOPAD.decode(self.key.as_bytes()).ok()?;
        bytes.try_into().ok()
    }

    /// `None` for one whose key is not 32 bytes.
    fn row(&self) -> Option<KeyRow> {
        Some(KeyRow {
            key_id: self.key_id.clone(),
            subject: self.subject.clone(),
            site: self.site.clone(),
            secret: self.secret()?,
            made_at: self.made_at,
        })
    }
}

/// Several of them.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Keys {
    keys: Vec<WireKey>,
}

/// Where to go on.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct After {
    after: String,
}

/// Who was erased.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Erased {
    subjects: Vec<String>,
}

/// What a site's keeper of keys has.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Keys.
    pub keys: u64,
    /// Persons and calls whose keys were destroyed.
    pub erased: u64,
    /// Keys that the hub does not have yet, of the first few hundred.
    pub not_at_hub: usize,
    /// Since when the oldest of them waits.
    pub not_at_hub_since: Option<Ts>,
}

/// The question for it.
pub const STATUS: &str = "key.status.operator";

/// What destroying came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Destroyed {
    /// Keys that there were.
    destroyed: usize,
    /// Keys of the subject that can be had still: none.
    left: usize,
}
