//! What the role telephony is made of: secrets, the key that raw transcripts are sealed with, the summariser.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use crate::config::Config;
use crate::provider::Runner;
use crate::provider::summariser::Summariser;
use crate::role::telephony::seal::{KEY_LEN, Sealer};
use crate::role::telephony::{SUMMARISE, TelephonyOptions};
use crate::store::Secret;

pub(super) fn options(config: &Config) -> TelephonyOptions {
    let section = &config.telephony;
    let path = &section.webhook_secret_file;
    let secret = match std::fs::read_to_string(path) {
        _ if path.is_empty() => None,
        Ok(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        Err(error) => {
            tracing::error!(key = "telephony.webhook_secret_file", %error, "webhooks can't be checked");
            None
        }
    };
    let sealer = sealing_key(&config.site.state_dir).unwrap_or_else(|error| {
        tracing::error!(%error, "transcripts can't be sealed, so none is taken");
        None
    });
    TelephonyOptions {
        webhook_secret: secret.map(Secret::new),
        sealer: sealer.as_ref().and_then(Sealer::new),
        summariser: !section.summariser_url.is_empty(),
        intake_wait: section.intake_wait.0,
    }
}

/// The key that raw transcripts are sealed with: `telephony.key` in the state directory, made at the first start, readable by
/// its owner alone. Where there is no state directory nothing runs, and no key is made.
fn sealing_key(state_dir: &Path) -> std::io::Result<Option<[u8; KEY_LEN]>> {
    if !state_dir.is_dir() {
        return Ok(None);
    }
    let path = state_dir.join("telephony.key");
    if !path.exists() {
        let mut key = [0; KEY_LEN];
        getrandom::fill(&mut key).map_err(|error| std::io::Error::other(error.to_string()))?;
        // Written whole under another name first: half a key would refuse every transcript from then on.
        let mut file = tempfile::NamedTempFile::new_in(state_dir)?;
        file.write_all(&key)?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(&path) {
            Ok(_) => {}
            // Another process was quicker; its key is the key.
            Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.error),
        }
    }
    let bytes = std::fs::read(&path)?;
    let wrong = |_| std::io::Error::other(format!("{} is not 32 bytes", path.display()));
    bytes.try_into().map(Some).map_err(wrong)
}

/// The summariser, where there is one.
pub(super) fn runners(config: &Config) -> Vec<Arc<dyn Runner>> {
    let url = &config.telephony.summariser_url;
    if url.is_empty() {
        return Vec::new();
    }
    vec![Arc::new(Summariser::new(SUMMARISE, url))]
}
