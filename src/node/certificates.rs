//! How long the certificates that this site uses are good for: its own and the authorities that it believes. The measures, `check`
//! and `doctor` look here.

use crate::config::Config;
use crate::event::Ts;
use crate::ops::certificates::{Of, days_left};

/// Those that are good for less are to be renewed.
pub const SOON_DAYS: i64 = 30;

/// A certificate that the configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The key that names it, `tls.cert_file`.
    pub key: &'static str,
    /// Its file; nothing where the text stands in the configuration.
    pub file: Option<String>,
    /// Whole days until it expires, below 0 when it has; or why nobody knows.
    pub days_left: Result<i64, String>,
}

/// All of them, by the clock `now`.
#[must_use]
pub fn look(config: &Config, now: Ts) -> Vec<Standing> {
    let (tls, hub) = (&config.tls, &config.hub);
    let files = [
        ("tls.cert_file", &tls.cert_file, Of::Chain),
        ("tls.ca_file", &tls.ca_file, Of::Authorities),
    ];
    let named = files.into_iter().filter(|(_, path, _)| !path.is_empty());
    let of_files = named.map(|(key, path, of)| {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        (key, Some(path.clone()), text, of)
    });
    let ca = hub.ca.clone();
    let inline = (!ca.is_empty()).then_some(("hub.ca", None, Ok(ca), Of::Authorities));
    of_files
        .chain(inline)
        .map(|(key, file, text, of)| Standing {
            key,
            file,
            days_left: text
                .and_then(|text| days_left(&text, of, now).map_err(|error| error.to_string())),
        })
        .collect()
}
