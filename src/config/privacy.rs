//! The section `privacy`: whether and with what personal data is sealed (DOMAIN 3.2).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::Span;

/// Sealing of personal data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Privacy {
    /// Whether personal fields are sealed before they leave a role; on in profile prod. Once on it stays on: nobody could
    /// read what is sealed.
    pub seal: bool,
    /// The file with the site's key, which wraps the keys of persons; `site.key` in the state directory where it is empty.
    pub key_file: String,
    /// After what time a person's next data is sealed with a new key. What the old one sealed stays readable.
    pub key_life: Span,
}

impl Default for Privacy {
    fn default() -> Self {
        Self {
            seal: false,
            key_file: String::new(),
            key_life: Span::secs(90 * 86_400),
        }
    }
}
