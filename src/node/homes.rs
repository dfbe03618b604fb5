//! For which depots the hub's roles make what those have no role for (DESIGN 8, Home). The depots' files say it; every
//! process that runs roles of the hub looks at them as long as it runs, and tells its roles what changed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::writer::Job;
use crate::config::depots::{self, Depot};
use crate::event::Site;
use crate::role::RoleName;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The depots that lack a role.
pub(super) fn lacking(depots: &[Depot], role: RoleName) -> BTreeSet<Site> {
    depots
        .iter()
        .filter(|depot| !depot.runs(role.as_str()))
        // A file whose site is none was refused when it was read.
        .filter_map(|depot| Site::new(depot.site.clone()).ok())
        .collect()
}

/// Keeps the roles of this process up with the depots' files.
pub(super) struct Watch {
    pub(super) state_dir: PathBuf,
    /// What the roles were told last.
    pub(super) depots: Vec<Depot>,
    pub(super) writers: Vec<(RoleName, mpsc::WeakSender<Job>)>,
    /// What was wrong at the last look, told once.
    pub(super) told: Option<String>,
}

/// Looks at the files every second until told to stop.
pub(super) async fn run(watch: Arc<Mutex<Watch>>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        watch.lock().await.look().await;
    }
}

impl Watch {
    /// Reads the files and tells the roles what changed.
    pub(super) async fn look(&mut self) {
        let wrong = match depots::read(&self.state_dir) {
            Ok(found) => {
                self.take(found).await;
                None
            }
            Err((path, why)) => Some(format!("{}: {why}", path.display())),
        };
        if let Some(error) = wrong.as_ref().filter(|_| wrong != self.told) {
            tracing::error!(error, "the roles do for depots what they did");
        }
        self.told = wrong;
    }

    async fn take(&mut self, found: Vec<Depot>) {
        for (role, writer) in &self.writers {
            let sites = lacking(&found, *role);
            if sites == lacking(&self.depots, *role) {
                continue;
            }
            let names: Vec<&str> = sites.iter().map(Site::as_str).collect();
            tracing::info!(%role, depots = names.join(","), "depots that this role makes things for");
            if let Some(writer) = writer.upgrade() {
                // A writer that is gone stops the site already.
                let _ = writer.send(Job::StandIn(sites)).await;
            }
        }
        self.depots = found;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Ts;

    #[test]
    fn what_a_file_does_not_list_is_made_here() {
        let depot = |site: &str, roles: &[&str]| Depot {
            site: site.to_owned(),
            password: "abc".to_owned(),
            seed: String::new(),
            older: Vec::new(),
            down: Vec::new(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            since: Ts::from_ms(0),
        };
        let depots = [
            depot("depot-a", &["all"]),
            depot("depot-b", &["incident", "audit"]),
        ];
        let of = |role| -> Vec<String> {
            let sites = lacking(&depots, role).into_iter();
            sites.map(|site| site.as_str().to_owned()).collect()
        };
        assert_eq!(of(RoleName::Payments), ["depot-b"]);
        assert_eq!(of(RoleName::Incident), [""; 0]);
    }
}
