//! Certificates that expire soon, have expired, or can't be read.

use std::path::Path;

use super::finding::{Findings, Severity, count, quoted};
use super::now;
use crate::config::Config;
use crate::node::certificates::{SOON_DAYS, Standing, look as standings};

/// What `roadcall auth init` calls the certificate, and the authority's key beside it.
const AUTH_INIT_CERT: &str = "hub.pem";
const AUTH_INIT_KEY: &str = "ca.key";

pub(super) fn look(config: &Config, found: &mut Findings) {
    for standing in standings(config, now()) {
        one(&standing, found);
    }
}

fn one(standing: &Standing, found: &mut Findings) {
    let Standing {
        key,
        file,
        days_left,
    } = standing;
    let (severity, what) = match days_left {
        Ok(days) if *days >= SOON_DAYS => return,
        Ok(days @ 0..) => (
            Severity::Warning,
            format!("expires in {}", count(days.unsigned_abs(), "day")),
        ),
        Ok(days) => (
            Severity::Critical,
            // A begun day is a whole one to the measure.
            format!(
                "has expired {} ago: whoever is shown it refuses the link",
                count(days.unsigned_abs() - 1, "day")
            ),
        ),
        Err(error) => (Severity::Critical, format!("can't be read: {error}")),
    };
    let name = file.as_deref().unwrap_or("the configuration");
    let draft = found
        .add(severity, "certificate", *key)
        .says(format!("the certificate of {key} {what}"))
        .seen(format!("{key} in {name}"));
    let Some(file) = file else {
        return draft.then(
            "roadcall site add SITE  # on the hub, whose authority is a new one; then this site's new site file, and systemctl reload",
        );
    };
    let path = Path::new(file);
    let ours = |dir: &Path| path.ends_with(AUTH_INIT_CERT) && dir.join(AUTH_INIT_KEY).is_file();
    match path.parent().filter(|dir| ours(dir)) {
        _ if days_left.is_err() => draft.then(format!("ls -l {}", quoted(file))),
        Some(dir) => draft.roadcall(&format!(
            "auth init --dir {} --renew --name NAME  # it is taken without a restart",
            quoted(&dir.display().to_string())
        )),
        None => draft.then(format!(
            "openssl x509 -in {} -noout -issuer -dates  # renew it where it comes from; it is taken without a restart",
            quoted(file)
        )),
    }
}
