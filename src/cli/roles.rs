//! Which roles a process is asked to run, and whether they are the site's to run.

use super::Connection;
use super::config::check_further;
use super::failure::Failure;
use crate::config::{BrokerMode, Config, Loaded, Problem};
use crate::role::RoleName;

/// What `--role` asks for.
pub(super) struct Wanted {
    pub roles: Vec<RoleName>,
    pub broker_only: bool,
    /// Whether it opens the door over HTTP.
    pub gateway: bool,
    all: bool,
}

impl Wanted {
    /// Whether the process runs the broker itself (DESIGN 9).
    pub(super) fn embedded(&self, config: &Config) -> bool {
        self.broker_only
            || config.broker.mode == BrokerMode::Embedded
            || (config.broker.mode == BrokerMode::Auto && self.all)
    }

    /// The names of the files in `role.d` that count.
    pub(super) fn files(&self) -> Vec<String> {
        let roles = self.roles.iter().map(ToString::to_string);
        roles
            .chain(self.broker_only.then(|| "broker".to_owned()))
            .chain(self.gateway.then(|| "gateway".to_owned()))
            .collect()
    }
}

pub(super) fn wanted(names: &[String]) -> Result<Wanted, Failure> {
    let mut wanted = Wanted {
        roles: Vec::new(),
        broker_only: false,
        gateway: false,
        all: false,
    };
    for name in names {
        match name.as_str() {
            "all" => {
                wanted.all = true;
                wanted.roles.extend(RoleName::BUILT);
            }
            "broker" => wanted.broker_only = true,
            "gateway" => wanted.gateway = true,
            other => wanted.roles.push(other.parse().map_err(|error: String| {
                let names: Vec<&str> = RoleName::BUILT.iter().map(|role| role.as_str()).collect();
                Failure::usage(
                    &error,
                    &format!("the roles are {}, all, broker, gateway", names.join(", ")),
                )
            })?),
        }
    }
    wanted.roles.sort_unstable();
    wanted.roles.dedup();
    wanted.broker_only &= wanted.roles.is_empty() && !wanted.gateway;
    Ok(wanted)
}

/// The names of the files in `role.d` that count for a process of these roles.
pub(super) fn role_files(names: &[String]) -> Result<Vec<String>, Failure> {
    Ok(wanted(names)?.files())
}

/// The roles whose queues a site has: `site.roles`.
pub(super) fn topology_roles(config: &Config) -> Result<Vec<RoleName>, Failure> {
    let wanted = wanted(&config.site.roles)?;
    Ok(wanted.roles)
}

/// What a process of these roles is, and its configuration. `all` is every role of the site, so that a depot runs just
/// those that its site file lists.
///
/// # Errors
/// A wrong configuration; a role by name that the hub does for this depot (DESIGN 8, Home).
pub(super) fn settle(
    connection: &Connection,
    names: &[String],
) -> Result<(Wanted, Connection, Loaded), Failure> {
    let mut wanted = wanted(names)?;
    let mut connection = Connection {
        roles: wanted.files(),
        ..connection.clone()
    };
    let mut loaded = connection.load()?;
    // Told with its file, and with what else is wrong.
    let told = |failure| check_further(&loaded).and(Err(failure));
    let listed = topology_roles(&loaded.config).or_else(told)?;
    if wanted.all {
        let named = |role: &RoleName| names.iter().any(|name| name == role.as_str());
        let before = wanted.roles.len();
        wanted
            .roles
            .retain(|role| listed.contains(role) || named(role));
        if wanted.roles.len() < before {
            connection.roles = wanted.files();
            loaded = connection.load()?;
        }
    }
    let depot = &loaded.config.site.id;
    let not_ours = wanted.roles.iter().filter(|role| !listed.contains(role));
    let problem = |role: &RoleName| Problem {
        key: "--role".to_owned(),
        origin: "flag".to_owned(),
        message: format!("site.roles lacks {role}: the hub does it for {depot}"),
        help: Some(format!(
            "leave it out, or list it in roadcall site add {depot} --roles … on the hub"
        )),
    };
    let problems: Vec<Problem> = not_ours.map(problem).collect();
    if !loaded.config.hub.url.is_empty() && !problems.is_empty() {
        return Err(Failure::Config(problems));
    }
    Ok((wanted, connection, loaded))
}
