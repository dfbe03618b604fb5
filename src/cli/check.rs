//! `roadcall check`: whether roles could start here, a line each; for a person and for `ExecStartPre`.
//!
//! It changes nothing but for unpacking the bundled nats-server, for the state directory's owner. A wrong configuration is all it says then (exit 64);
//! else everything is looked at (exit 1 if something fails, 2 if only the topology differs).

mod trust;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;

use super::Connection;
use super::client::connect_as;
use super::config::{OfRoles, check_further};
use super::failure::Failure;
use super::output::{print_json, say};
use super::roles::{Wanted, settle, topology_roles};
use super::run::{broker_options, settle_sync};
use crate::broker;
use crate::bus::jetstream::JetStream;
use crate::bus::topology;
use crate::config::Config;
use crate::node::preflight::{Who, guard_archive, inspect_store};
use crate::node::run::{desired, routes};
use crate::ops::identities::GATEWAY;
use crate::ops::ownership::Owner;
use crate::role::RoleName;

/// Below this a disk counts as full.
const FREE_MIN_BYTES: u64 = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// Not wrong, but to be known.
    Note,
    Drift,
    Failed,
}

/// One line.
#[derive(Debug, Serialize)]
struct Finding {
    check: String,
    status: Status,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
}

#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, check: impl Into<String>, status: Status, detail: impl Into<String>) {
        self.0.push(Finding {
            check: check.into(),
            status,
            detail: detail.into(),
            code: None,
            help: None,
        });
    }

    fn fail(&mut self, check: impl Into<String>, failure: &Failure) {
        let check = check.into();
        for line in failure.lines() {
            self.0.push(Finding {
                check: check.clone(),
                status: Status::Failed,
                detail: line.message,
                code: Some(line.code),
                help: line.help,
            });
        }
    }

    fn print(&self, json: bool) -> Result<(), Failure> {
        if json {
            return print_json(&serde_json::to_value(&self.0).unwrap_or(Value::Null));
        }
        for finding in &self.0 {
            let mark = match finding.status {
                Status::Ok => "ok  ",
                Status::Note => "note",
                Status::Drift => "DIFF",
                Status::Failed => "FAIL",
            };
            let code = finding.code.as_deref().map(|code| format!("{code} "));
            let (check, detail) = (&finding.check, &finding.detail);
            say(format_args!(
                "{mark}  {check:14}  {}{detail}",
                code.unwrap_or_default()
            ))?;
            if let Some(help) = &finding.help {
                say(format_args!("                        help: {help}"))?;
            }
        }
        Ok(())
    }

    fn exit(&self) -> u8 {
        let any = |status| self.0.iter().any(|finding| finding.status == status);
        match (any(Status::Failed), any(Status::Drift)) {
            (true, _) => 1,
            (false, true) => 2,
            (false, false) => 0,
        }
    }
}

pub(super) async fn check(connection: &Connection, of: &OfRoles) -> Result<ExitCode, Failure> {
    let (asked, _, loaded) = settle(connection, &of.role)?;
    check_further(&loaded)?;
    let mut config = loaded.config;
    let mut found = Findings::default();
    found.add(
        "configuration",
        Status::Ok,
        format!(
            "valid, {} files, profile {}, site {}",
            loaded.files.len(),
            config.site.profile.as_str(),
            config.site.id
        ),
    );
    let roles = if of.role.is_empty() || asked.broker_only {
        topology_roles(&config)?
    } else {
        asked.roles.clone()
    };
    let embedded = asked.embedded(&config);
    let bus = broker(&mut config, &asked, embedded, &mut found).await;
    // Without --role the whole site is meant, and its broker may be a service of its own here.
    let here = of.role.is_empty() && config.broker_store_dir().join("jetstream").is_dir();
    if embedded || here {
        trust::encryption(&config, &mut found);
    }
    if let Some(bus) = &bus {
        topology(bus, &config, &roles, embedded, &mut found).await;
    }
    if !asked.broker_only {
        stores(&config, &roles, &mut found);
    }
    trust::sealing(&config, &mut found);
    trust::access(&config, &asked, embedded, &mut found);
    trust::certificates(&config, &mut found);
    disk(&config, embedded, &mut found);
    found.print(connection.json)?;
    Ok(ExitCode::from(found.exit()))
}

/// Reaches the broker, or sees whether it could be started.
async fn broker(
    config: &mut Config,
    asked: &Wanted,
    embedded: bool,
    found: &mut Findings,
) -> Option<JetStream> {
    if embedded && !broker::in_use(&config.broker_store_dir()) {
        let (store_dir, owner) = (
            config.broker_store_dir(),
            Owner::above(&config.broker_store_dir()),
        );
        let probed = broker::probe(&broker_options(config)).await;
        if let Some(owner) = owner {
            owner.take(&store_dir);
        }
        match probed {
            Ok((path, version)) => found.add(
                "broker",
                Status::Ok,
                format!(
                    "nats-server {version} at {}, started with the roles",
                    path.display()
                ),
            ),
            Err(error) => found.fail("broker", &error.into()),
        }
        let sync = settle_sync(config, true).await;
        found.add("durability", Status::Ok, sync.to_string());
        found.add("topology", Status::Ok, "made when the broker is up");
        return None;
    }
    if embedded && !config.broker.listen.ends_with(":0") {
        config.bus.url = format!("nats://{}", config.broker.listen);
    }
    // As the role that is to start, whose identity may be the only one here.
    let roles = asked.roles.iter().map(|role| role.as_str());
    let first = roles.chain(asked.gateway.then_some(GATEWAY)).next();
    let who = Who::Identity(first.unwrap_or(&config.bus.identity));
    let bus = match connect_as(config, "roadcall-check", who).await {
        Ok(bus) => bus,
        Err(failure) => {
            found.fail("broker", &failure);
            if asked.roles.is_empty() {
                let say = "a site that runs its own broker is checked with --role all";
                found.add("broker", Status::Note, say);
            }
            return None;
        }
    };
    let version = bus.server_version();
    found.add(
        "broker",
        Status::Ok,
        format!("nats-server {version} reached, JetStream answers"),
    );
    let sync = settle_sync(config, embedded).await;
    let status = if sync == broker::durability::DiskSync::Unknown {
        Status::Note
    } else {
        Status::Ok
    };
    found.add("durability", status, sync.to_string());
    Some(bus)
}

async fn topology(
    bus: &JetStream,
    config: &Config,
    roles: &[RoleName],
    embedded: bool,
    found: &mut Findings,
) {
    if embedded && let Err(error) = guard_archive(bus, config).await {
        return found.fail("topology", &error.into());
    }
    let changes = match routes(config) {
        Ok(routes) => topology::plan(bus, &desired(config, &routes, roles)).await,
        Err(error) => return found.fail("topology", &error.into()),
    };
    match changes {
        Err(error) => found.fail("topology", &error.into()),
        Ok(changes) if changes.is_empty() => {
            found.add(
                "topology",
                Status::Ok,
                "streams and queues are as configured",
            );
        }
        Ok(changes) => {
            for change in changes {
                let detail = format!("{} {} {}", change.kind, change.object, change.detail);
                found.add("topology", Status::Drift, detail);
            }
            if let Some(last) = found.0.last_mut() {
                last.help =
                    Some("roadcall topology plan, then roadcall topology apply --yes".to_owned());
            }
        }
    }
}

fn stores(config: &Config, roles: &[RoleName], found: &mut Findings) {
    let dir = &config.site.state_dir;
    if let Err(message) = writable(dir) {
        let error = crate::node::run::Error::StateDir {
            path: dir.clone(),
            message,
        };
        return found.fail("state", &error.into());
    }
    found.add(
        "state",
        Status::Ok,
        format!("{} can be written", dir.display()),
    );
    for role in roles {
        let check = format!("store {role}");
        match inspect_store(config, *role) {
            None => found.add(check, Status::Ok, "made at the first start"),
            Some(Ok(look)) => found.add(
                check,
                Status::Ok,
                format!(
                    "opens; {} deliveries wait, {} migrations due",
                    look.waiting, look.migrations_due
                ),
            ),
            Some(Err(error)) => found.fail(check, &error.into()),
        }
    }
}

/// Whether a file could be made in `dir`, or `dir` itself in the nearest folder above that is there.
fn writable(dir: &Path) -> Result<(), String> {
    let there = nearest(dir);
    if !there.is_dir() {
        return Err(format!("{} is no directory", there.display()));
    }
    tempfile::Builder::new()
        .prefix(".roadcall-check-")
        .tempfile_in(&there)
        .map(drop)
        .map_err(|error| format!("{}: {}", there.display(), error.kind()))
}

fn nearest(dir: &Path) -> PathBuf {
    let mut above = dir.ancestors();
    above
        .find(|path| path.symlink_metadata().is_ok())
        .map_or_else(|| PathBuf::from("."), Path::to_owned)
}

fn disk(config: &Config, embedded: bool, found: &mut Findings) {
    let mut dirs = vec![("site.state_dir", config.site.state_dir.clone())];
    if embedded {
        dirs.push(("broker.store_dir", config.broker_store_dir()));
    }
    for (key, dir) in dirs {
        let stat = rustix::fs::statvfs(nearest(&dir)).ok();
        let Some(stat) = stat.filter(|stat| stat.f_blocks > 0) else {
            found.add(
                "disk",
                Status::Note,
                format!("{key}: free space is not known"),
            );
            continue;
        };
        let (free, size) = (stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize);
        let mib = free >> 20;
        let detail = format!("{key}: {mib} MiB free of {}", size >> 20);
        if free < FREE_MIN_BYTES {
            found.add("disk", Status::Failed, detail);
            if let Some(last) = found.0.last_mut() {
                last.code = Some(crate::error::ErrorCode::DiskFull.to_string());
                last.help = Some("free some space".to_owned());
            }
            continue;
        }
        let store_max = config.broker.max_file_store.0;
        if key == "broker.store_dir" && store_max > size {
            let more = "less than broker.max_file_store: a full disk would stop the broker";
            found.add("disk", Status::Note, format!("{detail}; {more}"));
        } else {
            found.add("disk", Status::Ok, detail);
        }
    }
}
