//! Whom the broker of this process lets in, as the files in `bus.identities_dir` say now: they are read again while it runs, so
//! that an identity is renewed and its old key retired without a stop.

use super::grants;
use crate::broker::{self, identities::Identities};
use crate::config::Config;
use crate::ops::identities::{Error, public};

/// Whom the broker lets in; `None` where nobody is told from anybody else.
///
/// # Errors
/// The public keys can't be read.
pub fn of(config: &Config) -> Result<Option<Identities>, Error> {
    let dir = &config.bus.identities_dir;
    if dir.is_empty() {
        return Ok(None);
    }
    let public = public(dir.as_ref())?;
    Ok(Some(grants::identities(config, &public)))
}

/// Keeps a broker as the files say.
#[derive(Debug)]
pub struct Keeper {
    config: Config,
    /// What was wrong at the last look, told once.
    told: Option<String>,
}

impl Keeper {
    /// For the broker of this configuration; `None` where it tells nobody apart.
    #[must_use]
    pub fn new(config: &Config) -> Option<Self> {
        let on = !config.bus.identities_dir.is_empty();
        on.then(|| Self {
            config: config.clone(),
            told: None,
        })
    }

    /// Looks at the files, and has the broker follow them. `config` has the depots of now: what roles may ask of them is by name.
    pub fn look(&mut self, broker: &mut broker::Running, depots: Option<&Config>) {
        if let Some(now) = depots {
            self.config.depots.clone_from(&now.depots);
        }
        let done = match of(&self.config) {
            Ok(Some(identities)) => broker.admit(identities).map_err(|error| error.to_string()),
            Ok(None) => Ok(false),
            Err(error) => Err(error.to_string()),
        };
        if done == Ok(true) {
            tracing::info!("the identities that the broker lets in are others now");
        }
        let told = done.err();
        if told != self.told
            && let Some(error) = &told
        {
            tracing::error!(error, "the broker lets in whom it let in before");
        }
        self.told = told;
    }
}
