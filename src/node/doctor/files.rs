//! What lies on this machine: files with secrets, the roles' databases, room on the disks.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Doctor;
use super::finding::{Findings, Severity, quoted};
use crate::config::{Config, depots};
use crate::node::preflight::inspect_store;
use crate::role::RoleName;
use crate::store::{self, Class};

/// Below this a disk counts as full.
const FULL_BYTES: u64 = 64 << 20;
/// Below this, and below [`LITTLE_PERCENT`], it will soon be.
const LITTLE_BYTES: u64 = 2 << 30;
const LITTLE_PERCENT: u64 = 5;
/// Files of the state directory that have keys in them.
const KEY_FILES: [&str; 2] = ["auth-keys.json", "telephony.key"];

pub(super) fn look(doctor: &Doctor<'_>, found: &mut Findings) {
    for path in secrets(doctor) {
        secret(doctor, &path, found);
    }
    for role in doctor.roles {
        database(doctor.config, *role, found);
    }
    disks(doctor.config, found);
}

/// Every file that only its owner is to read.
fn secrets(doctor: &Doctor<'_>) -> Vec<PathBuf> {
    let config = doctor.config;
    let state = &config.site.state_dir;
    let (stripe, messages) = (&config.payments.stripe, &config.notifications);
    let named = [
        &config.bus.creds,
        &stripe.secret_key_file,
        &stripe.webhook_secret_file,
        &messages.sms_token_file,
        &messages.smtp_password_file,
        &messages.push_secret_file,
        &config.telephony.webhook_secret_file,
        &config.audit.alarm_webhook_secret_file,
        &config.trace.headers_file,
        &config.tls.key_file,
    ];
    let named = named.into_iter().filter(|name| !name.is_empty());
    let depots = config.depots.iter();
    let mut all: Vec<PathBuf> = named.map(PathBuf::from).collect();
    all.extend(depots.map(|depot| depots::file(state, &depot.site)));
    all.extend(KEY_FILES.map(|name| state.join(name)));
    all.push(config.broker_store_dir().join("nats-server.conf"));
    all.extend(doctor.secrets.iter().cloned());
    all.sort();
    all.dedup();
    all
}

fn secret(doctor: &Doctor<'_>, path: &Path, found: &mut Findings) {
    let Ok(metadata) = std::fs::metadata(path) else {
        return;
    };
    let mode = metadata.permissions().mode() & 0o777;
    let state = &doctor.config.site.state_dir;
    // A group may be let in on purpose, to root's file for a service's user; to what the program made itself nobody may.
    let closed = if path.starts_with(state) {
        0o077
    } else {
        0o027
    };
    if mode & closed == 0 {
        return;
    }
    let name = path.display().to_string();
    let verb = if mode & closed & 0o022 == 0 {
        "read"
    } else {
        "change"
    };
    let mut remedy = format!("chmod 600 {}", quoted(&name));
    let owner = std::fs::metadata(state).map(|dir| dir.uid());
    if doctor.secrets.iter().any(|own| own == path) && owner.is_ok_and(|uid| uid != metadata.uid())
    {
        // A configuration is read by the service itself.
        let state = quoted(&state.display().to_string());
        remedy = format!("chown --reference={state} {} && {remedy}", quoted(&name));
    }
    found
        .add(Severity::Critical, "secret-open", &name)
        .says(format!(
            "{name} holds a secret, and others may {verb} it: its mode is {mode:04o}"
        ))
        .seen(format!("mode {mode:04o}"))
        .then(remedy);
}

fn database(config: &Config, role: RoleName, found: &mut Findings) {
    let path = config.site.state_dir.join(format!("{role}.db"));
    let Ok(metadata) = std::fs::metadata(&path) else {
        return;
    };
    if let Some(Err(crate::node::run::Error::Store(error))) = inspect_store(config, role) {
        unsound(role, &error, found);
    }
    let name = path.display().to_string();
    let dir_uid = std::fs::metadata(&config.site.state_dir).map(|dir| dir.uid());
    if let Ok(dir_uid) = dir_uid
        && dir_uid != metadata.uid()
    {
        found
            .add(Severity::Critical, "database-owner", role.as_str())
            .says(format!(
                "{name} belongs to user {}, its directory to user {dir_uid}: role {role} can't write it (RC0313)",
                metadata.uid()
            ))
            .seen(format!("owner of {name}"))
            .then(format!("chown {dir_uid} {}*", quoted(&name)));
    } else if metadata.permissions().mode() & 0o200 == 0 {
        found
            .add(Severity::Critical, "database-mode", role.as_str())
            .says(format!(
                "{name} has mode {:04o}: role {role} can't write it (RC0313)",
                metadata.permissions().mode() & 0o777
            ))
            .seen(format!("mode of {name}"))
            .then(format!("chmod u+w {}", quoted(&name)));
    }
}

fn unsound(role: RoleName, error: &store::Error, found: &mut Findings) {
    let path = quoted(&error.path.display().to_string());
    let severity = Severity::Critical;
    let name = role.as_str();
    let seen = error.to_string();
    match error.class {
        Class::Corrupt => found
            .add(severity, "database-damaged", name)
            .says(format!(
                "the database of role {role} is damaged (RC0312): {}",
                error.message
            ))
            .seen(seen)
            .roadcall(&format!(
                "snapshot restore --role {role} --yes  # with the role stopped; the damaged file is moved aside"
            )),
        Class::NewerSchema => found
            .add(severity, "database-newer", name)
            .says(format!(
                "the database of role {role} was written by a newer roadcall (RC0315): {}",
                error.message
            ))
            .seen(seen)
            .roadcall("explain RC0315  # install the newer version again"),
        Class::ReadOnly => found
            .add(severity, "database-unreadable", name)
            .says(format!(
                "the database of role {role} can't be opened (RC0313): {}",
                error.message
            ))
            .seen(seen)
            .then(format!("ls -l {path}")),
        Class::Io | Class::Full => found
            .add(severity, "database-disk", name)
            .says(format!(
                "the disk under the database of role {role} fails (RC0311): {}",
                error.message
            ))
            .seen(seen)
            .then("dmesg | tail -50"),
        // Somebody has it for a moment; a defect is for the role's log.
        Class::Busy | Class::Defect | Class::NoKey | Class::UnknownKey => found.unseen(&format!("the database of role {role}"), error),
    }
}

fn disks(config: &Config, found: &mut Findings) {
    let mut dirs = vec![("site.state_dir", config.site.state_dir.clone())];
    let store = config.broker_store_dir();
    if store.is_dir() {
        dirs.push(("broker.store_dir", store));
    }
    let mut devices = Vec::new();
    for (key, dir) in dirs {
        let Ok(metadata) = std::fs::metadata(&dir) else {
            continue;
        };
        if devices.contains(&metadata.dev()) {
            continue;
        }
        devices.push(metadata.dev());
        disk(key, &dir, found);
    }
}

fn disk(key: &str, dir: &Path, found: &mut Findings) {
    let name = dir.display().to_string();
    let stat = match rustix::fs::statvfs(dir) {
        Ok(stat) if stat.f_blocks > 0 => stat,
        Ok(_) => return,
        Err(error) => return found.unseen(&format!("the disk of {name}"), error),
    };
    let (free, size) = (stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize);
    let few = free < LITTLE_BYTES && free < size / 100 * LITTLE_PERCENT;
    let severity = match free {
        free if free < FULL_BYTES => Severity::Critical,
        _ if few => Severity::Warning,
        _ => return,
    };
    found
        .add(severity, "disk-full", key)
        .says(format!(
            "the disk of {key} is {}: {} MiB of {} MiB are free (RC0310)",
            if severity == Severity::Critical {
                "full"
            } else {
                "nearly full"
            },
            free >> 20,
            size >> 20
        ))
        .seen(format!("statvfs of {name}: {free} of {size} bytes"))
        .then(format!("du -xhd1 {} | sort -h", quoted(&name)));
}
