//! How calls come in and are summarised (DOMAIN 5.8).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::Span;

/// The role telephony.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Telephony {
    /// A file with what the phone provider signs its webhooks with, `whsec_…`; without one no webhook is believed.
    pub webhook_secret_file: String,
    /// An outside summariser; without one the rules summarise.
    pub summariser_url: String,
    /// From the end of a call to people being called when its intake is incomplete.
    pub intake_wait: Span,
}

impl Default for Telephony {
    fn default() -> Self {
        Self {
            webhook_secret_file: String::new(),
            summariser_url: String::new(),
            intake_wait: Span::secs(60),
        }
    }
}
