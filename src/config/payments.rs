//! How payments are made (DOMAIN 5.5).

use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{Check, sound_address};
use super::units::Span;

/// The role payments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Payments {
    /// `manual` or `stripe`.
    pub processor: ProcessorName,
    /// From an unknown outcome to the first question, from there to the next, and so on; the last one repeats.
    pub reconcile: Vec<Span>,
    /// After so long without an outcome a person is called.
    pub unknown_after: Span,
    /// From a call that could not be made to the next try.
    pub resubmit_after: Span,
    /// Stripe.
    pub stripe: StripeSection,
}

/// See [`Payments::processor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProcessorName {
    /// The back office moves money by hand.
    Manual,
    /// Stripe does.
    Stripe,
}

impl Default for Payments {
    fn default() -> Self {
        Self {
            processor: ProcessorName::Manual,
            reconcile: [30, 60, 120, 300, 600, 1800, 3600].map(Span::secs).to_vec(),
            unknown_after: Span::days(1),
            resubmit_after: Span::secs(30),
            stripe: StripeSection::default(),
        }
    }
}

/// How Stripe is reached.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StripeSection {
    /// The API, without a slash at its end.
    pub base_url: String,
    /// The version of the API that we were written for.
    pub api_version: String,
    /// A file with the secret key.
    pub secret_key_file: String,
    /// The secret key itself.
    pub secret_key: String,
    /// A file with what Stripe signs its webhooks with.
    pub webhook_secret_file: String,
    /// What Stripe signs its webhooks with.
    pub webhook_secret: String,
    /// How long one try may take.
    pub call_timeout: Span,
    /// Before the first further try of a call.
    pub retry_base: Span,
    /// Before any further try at the most.
    pub retry_cap: Span,
}

impl std::fmt::Debug for StripeSection {
    /// Without the secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StripeSection")
            .field("base_url", &self.base_url)
            .field("secret_key_file", &self.secret_key_file)
            .field("webhook_secret_file", &self.webhook_secret_file)
            .finish_non_exhaustive()
    }
}

impl Default for StripeSection {
    fn default() -> Self {
        Self {
            base_url: "https://api.stripe.com".to_owned(),
            api_version: "2024-06-20".to_owned(),
            secret_key_file: String::new(),
            secret_key: String::new(),
            webhook_secret_file: String::new(),
            webhook_secret: String::new(),
            call_timeout: Span::secs(30),
            retry_base: Span::secs(1),
            retry_cap: Span::secs(10),
        }
    }
}

impl StripeSection {
    /// What Stripe signs its webhooks with.
    ///
    /// # Errors
    /// One sentence, for a file that can't be read or is empty.
    pub fn webhook_secret(&self) -> Result<String, String> {
        if self.webhook_secret_file.is_empty() {
            return Ok(self.webhook_secret.clone());
        }
        secret_in(Path::new(&self.webhook_secret_file))
    }

    /// Whether the secret key can be had now.
    ///
    /// # Errors
    /// As [`StripeSection::webhook_secret`].
    pub fn check_secret_key(&self) -> Result<(), String> {
        if self.secret_key_file.is_empty() {
            return Ok(());
        }
        secret_in(Path::new(&self.secret_key_file)).map(|_| ())
    }
}

fn secret_in(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{} can't be read: {error}", path.display()))?;
    match text.trim() {
        "" => Err(format!("{} is empty", path.display())),
        secret => Ok(secret.to_owned()),
    }
}

impl Check<'_> {
    pub(super) fn payments(&mut self, payments: &Payments) {
        let stripe = &payments.stripe;
        for (name, given, file) in [
            ("secret_key", &stripe.secret_key, &stripe.secret_key_file),
            (
                "webhook_secret",
                &stripe.webhook_secret,
                &stripe.webhook_secret_file,
            ),
        ] {
            let key = format!("payments.stripe.{name}");
            if !given.is_empty() && !file.is_empty() {
                let help = "leave one of the two out";
                self.refuse(&key, format!("{name}_file is given as well"), help);
            }
            let needed = payments.processor == ProcessorName::Stripe;
            if needed && given.is_empty() && file.is_empty() {
                let message = "is needed with payments.processor = \"stripe\"";
                let help = format!("name a file in payments.stripe.{name}_file");
                self.refuse(&key, message, &help);
            }
        }
        let url = &stripe.base_url;
        if !sound_address(url) || url.ends_with('/') {
            self.refuse(
                "payments.stripe.base_url",
                format!("'{url}' is no https:// address without a slash at its end"),
                "",
            );
        }
        let hour = Span::secs(3600);
        for (key, span) in [
            ("payments.stripe.call_timeout", stripe.call_timeout),
            ("payments.stripe.retry_base", stripe.retry_base),
            ("payments.stripe.retry_cap", stripe.retry_cap),
            ("payments.resubmit_after", payments.resubmit_after),
        ] {
            self.within(key, &span, &(Span(Duration::from_millis(1))..=hour));
        }
        let waits = &payments.reconcile;
        if waits.is_empty() || waits.iter().any(|wait| wait.0.is_zero()) {
            let help = "write at least one duration above 0";
            self.refuse("payments.reconcile", "is no list of waits", help);
        }
    }
}
