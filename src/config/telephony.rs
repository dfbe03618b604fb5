//! How calls come in and are summarised (DOMAIN 5.8).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{Check, sound_address};
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

impl Check<'_> {
    pub(super) fn telephony(&mut self, telephony: &Telephony) {
        let url = &telephony.summariser_url;
        if !url.is_empty() && !sound_address(url) {
            // The address may have a password in it.
            let help = "leave it empty for summaries by rules";
            self.refuse("telephony.summariser_url", "is no https:// address", help);
        }
        let wait = telephony.intake_wait;
        let range = Span(std::time::Duration::from_millis(1))..=Span::secs(3600);
        self.within("telephony.intake_wait", &wait, &range);
    }
}
