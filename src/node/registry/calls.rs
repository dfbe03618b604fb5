//! What the role telephony is made of: secrets, the key that raw transcripts are sealed with, the summariser.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use crate::config::Config;
use crate::provider::summariser::Summariser;
use crate::provider::{Believed, Runner};
use crate::role::telephony::seal::{KEY_LEN, Sealer};
use crate::role::telephony::{SUMMARISE, TelephonyOptions};
use crate::store::Secret;

/// Name of the key's file.
const KEY_FILE: &str = "telephony.key";

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

/// Makes the key that raw transcripts are sealed with, `telephony.key` in the state directory, unless it is there: at the first
/// start, readable by its owner alone. Looking at a role's commands or its configuration makes none.
///
/// # Errors
/// The system's.
pub fn settle(state_dir: &Path) -> std::io::Result<()> {
    let path = state_dir.join(KEY_FILE);
    if path.exists() {
        return Ok(());
    }
    let mut key = [0; KEY_LEN];
    getrandom::fill(&mut key).map_err(|error| std::io::Error::other(error.to_string()))?;
    // Written whole under another name first: half a key would refuse every transcript from then on.
    let mut file = tempfile::NamedTempFile::new_in(state_dir)?;
    file.write_all(&key)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(&path) {
        Ok(_) => Ok(()),
        // Another process was quicker; its key is the key.
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.error),
    }
}

/// The key, once there is one.
fn sealing_key(state_dir: &Path) -> std::io::Result<Option<[u8; KEY_LEN]>> {
    let path = state_dir.join(KEY_FILE);
    let bytes = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let wrong = |_| std::io::Error::other(format!("{} is not 32 bytes", path.display()));
    bytes.try_into().map(Some).map_err(wrong)
}

/// The summariser, where there is one.
pub(super) fn runners(config: &Config) -> Vec<Arc<dyn Runner>> {
    let url = &config.telephony.summariser_url;
    if url.is_empty() {
        return Vec::new();
    }
    vec![Arc::new(Summariser::new(
        SUMMARISE,
        url,
        Believed::of(&config.tls.ca_file),
    ))]
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_start_makes_the_key_once_and_a_look_makes_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = Config::default();
        config.site.state_dir = dir.path().to_owned();
        assert!(options(&config).sealer.is_none());
        let path = dir.path().join(KEY_FILE);
        assert!(!path.exists());

        settle(dir.path()).expect("made");
        let key = std::fs::read(&path).expect("read");
        let mode = std::fs::metadata(&path)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!((key.len(), mode & 0o777), (KEY_LEN, 0o600));
        settle(dir.path()).expect("there");
        assert_eq!(std::fs::read(&path).expect("read"), key);
        assert!(options(&config).sealer.is_some());
    }
}
