//! A fleet's configuration brought to its sites, one after the other, the canaries first (DESIGN 11).
//!
//! A site gets its version in a single step ([`versions`]), is told, and must become healthy; else it goes back to what it had,
//! and the rollout ends there: the sites behind it are not touched. The site of this machine is told by signal or by systemd,
//! and its processes say themselves what they took over ([`processes`]); any other site is a directory here, and `fleet.toml`
//! names what reloads it and what says that it is healthy.
//!
//! [`versions`]: crate::config::fleet::versions
//! [`processes`]: super::processes

mod health;
mod tools;

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::clock::Clock;
use super::processes::{self, Process};
use crate::config::Config;
use crate::config::fleet::versions::{self, Held, Versions};
use crate::config::fleet::{Rollout, Version};
use crate::event::Ts;

/// A site as a rollout finds it.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its name.
    pub site: String,
    /// Its main file: what a version needs lies beside it.
    pub main: PathBuf,
    /// Set where the site runs on this machine.
    pub here: Option<Here>,
}

/// How the site of this machine is asked.
#[derive(Debug, Clone)]
pub struct Here {
    /// Its configuration with what it is to have: state directory and broker.
    pub config: Config,
    /// The same with what it has.
    pub earlier: Config,
    /// `Roadcall-Actor` of whoever asks.
    pub actor: String,
}

impl Place {
    /// The same when it has again what it had.
    fn as_before(&self) -> Self {
        let mut place = self.clone();
        if let Some(here) = &mut place.here {
            here.config = here.earlier.clone();
        }
        place
    }

    fn processes(&self) -> Vec<Process> {
        let state_dir = self.here.as_ref().map(|here| &here.config.site.state_dir);
        state_dir.map_or_else(Vec::new, |state_dir| processes::running(state_dir))
    }
}

/// Why a site has not what it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its version could not be put there or taken away; it has what it had.
    #[error("{site}: {source}")]
    Files {
        /// The site.
        site: String,
        /// What is wrong.
        source: versions::Error,
    },
    /// It did not become healthy, and has again what it had.
    #[error("{site} did not become healthy with {digest}: {why}; it is back at {earlier}")]
    Unhealthy {
        /// The site.
        site: String,
        /// What it was to have.
        digest: String,
        /// What was wrong.
        why: String,
        /// What it has again.
        earlier: String,
    },
    /// It did not become healthy, and going back went wrong too.
    #[error("{site} did not become healthy with {digest}: {why}; {then}")]
    Broken {
        /// The site.
        site: String,
        /// What it was to have.
        digest: String,
        /// What was wrong.
        why: String,
        /// What went wrong with going back.
        then: String,
    },
}

/// What came of a site that has what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The version that it has; none where it went back to before the first.
    pub digest: Option<String>,
    /// Whether it had that before.
    pub had_it: bool,
    /// What somebody should know.
    pub notes: Vec<String>,
}

/// The order of a rollout: the canaries, then the others.
#[must_use]
pub fn in_order(sites: Vec<String>, canaries: &[String]) -> Vec<String> {
    let (mut first, rest): (Vec<String>, Vec<String>) =
        sites.into_iter().partition(|site| canaries.contains(site));
    first.extend(rest);
    first
}

/// Brings one site to its version; one that does not become healthy goes back to what it had.
///
/// # Errors
/// See [`Error`].
pub async fn bring(place: &Place, version: &Version, how: &Rollout) -> Result<Done, Error> {
    let files = |source| Error::Files {
        site: place.site.clone(),
        source,
    };
    let versions = Versions::open(&place.main).map_err(files)?;
    let before = tools::Before::of(place.processes());
    let had = versions::current(versions::dir_of(&place.main));
    let had_it = had.is_some_and(|held| held.digest == version.digest);
    if had_it && before.all_have(&version.digest) {
        return Ok(Done {
            digest: Some(version.digest.clone()),
            had_it,
            notes: Vec::new(),
        });
    }
    versions.put(version).map_err(files)?;
    let why = match take(place, &before, &version.digest, how).await {
        Ok(notes) => {
            versions.settle().map_err(files)?;
            return Ok(Done {
                digest: Some(version.digest.clone()),
                had_it,
                notes,
            });
        }
        Err(why) => why,
    };
    let (site, digest) = (place.site.clone(), version.digest.clone());
    let broken = |then: String| Error::Broken {
        site: site.clone(),
        digest: digest.clone(),
        why: why.clone(),
        then,
    };
    let earlier = versions
        .back()
        .map_err(|error| broken(format!("it could not go back: {error}")))?;
    let earlier = named(earlier.as_ref());
    take(&place.as_before(), &before, fleet_of(&earlier), how)
        .await
        .map_err(|then| broken(format!("it has {earlier} again, and {then}")))?;
    Err(Error::Unhealthy {
        site,
        digest,
        why,
        earlier,
    })
}

/// Takes one site back to the version before.
///
/// # Errors
/// See [`Error`].
pub async fn back(place: &Place, how: &Rollout) -> Result<Done, Error> {
    let files = |source| Error::Files {
        site: place.site.clone(),
        source,
    };
    let versions = Versions::open(&place.main).map_err(files)?;
    let before = tools::Before::of(place.processes());
    let earlier = versions.back().map_err(files)?;
    let digest = earlier.map(|held| held.digest);
    let fleet = digest.clone().unwrap_or_default();
    let notes = take(place, &before, &fleet, how)
        .await
        .map_err(|why| Error::Broken {
            site: place.site.clone(),
            digest: named_digest(digest.as_deref()),
            why,
            then: "it stays there: an earlier version may do".to_owned(),
        })?;
    Ok(Done {
        digest,
        had_it: false,
        notes,
    })
}

const NONE: &str = "the files before the first version";

fn named(held: Option<&Held>) -> String {
    named_digest(held.map(|held| held.digest.as_str()))
}

fn named_digest(digest: Option<&str>) -> String {
    digest.unwrap_or(NONE).to_owned()
}

fn fleet_of(named: &str) -> &str {
    if named == NONE { "" } else { named }
}

/// How long the site may still take.
struct Patience {
    since: Ts,
    how: Rollout,
}

impl Patience {
    fn is_over(&self) -> bool {
        Clock.since(self.since) >= self.how.health_within.0
    }

    /// Asks until nothing is wrong any more; what was wrong last, if it is too late.
    async fn until_right<F>(&self, mut ask: impl FnMut() -> F) -> Result<(), String>
    where
        F: Future<Output = Result<(), String>>,
    {
        loop {
            match ask().await {
                Ok(()) => return Ok(()),
                Err(why) if self.is_over() => return Err(why),
                Err(_) => tokio::time::sleep(tools::LOOK_AGAIN).await,
            }
        }
    }
}

/// Has the site's processes take over what the files say now, and waits until they are healthy with it. Notes for whoever
/// looks on, or what is wrong.
async fn take(
    place: &Place,
    before: &tools::Before,
    digest: &str,
    how: &Rollout,
) -> Result<Vec<String>, String> {
    let patience = Patience {
        since: Clock.now(),
        how: how.clone(),
    };
    tools::reload(place, before, how).await?;
    patience
        .until_right(|| async { before.read(&place.processes(), digest) })
        .await?;
    let mut notes = Vec::new();
    let now = place.processes();
    let stale = before.stale(&now);
    if !stale.is_empty() {
        let keys: BTreeSet<&str> = now
            .iter()
            .flat_map(|process| &process.in_force.waiting_for_restart)
            .map(String::as_str)
            .collect();
        let keys = keys.into_iter().collect::<Vec<_>>().join(", ");
        if tools::restart(place, before, &stale, how).await? {
            patience
                .until_right(|| async { before.came_back(&place.processes(), &stale, digest) })
                .await?;
        } else if before.all_alive(&now) {
            notes.push(format!(
                "{keys} waits for a restart; fleet.toml may name what restarts a site"
            ));
        } else {
            return Err(before
                .came_back(&now, &stale, digest)
                .err()
                .unwrap_or_default());
        }
    }
    let note = health::wait(place, digest, &patience).await?;
    notes.extend(note);
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canaries_come_first() {
        let sites = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        let canaries = ["d", "b", "x"].map(str::to_owned);
        assert_eq!(in_order(sites, &canaries), ["b", "d", "a", "c"]);
    }
}
