//! What the role telephony is made of: secrets, the summariser.

use std::sync::Arc;

use crate::config::Config;
use crate::provider::summariser::Summariser;
use crate::provider::{Believed, Runner};
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
    TelephonyOptions {
        webhook_secret: secret.map(Secret::new),
        summariser: !section.summariser_url.is_empty(),
        intake_wait: section.intake_wait.0,
    }
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
