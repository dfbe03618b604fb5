//! `roadcall site …`: depots of this hub.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Connection;
use super::client::{Client, connect, connect_as};
use super::failure::Failure;
use super::output::{print_json, print_rows, say};
use super::roles::topology_roles;
use super::run::start_broker;
use crate::bus::jetstream::JetStream;
use crate::config::depots::{self, AUDIT, Depot, lists, well_formed, write_secret};
use crate::config::{Config, Profile};
use crate::event::Site;
use crate::node::clock::Clock;
use crate::node::preflight::Who;
use crate::node::sites::{self, LinkState};
use crate::node::{replace, started};
use crate::ops::identities;
use crate::role::RoleName;
use crate::routing::parse_duration;

/// How long the hub may take to let a depot in.
const LET_IN: Duration = Duration::from_secs(15);

#[derive(Debug, Subcommand)]
pub(super) enum SiteVerb {
    /// Let a depot in and write its site file, or write the file of one that is known again (changes data).
    Add(Add),
    /// Every site that this one is linked to or has heard of: when it was last heard, what it runs, what is on its way in
    /// either direction, what is missing.
    List,
    /// The same with every missing range and its reason, for one site or all.
    Status {
        /// The site.
        #[arg(value_name = "SITE")]
        of: Option<String>,
    },
    /// Put this box in the place of a depot's dead one: with the depot's site file in place and nothing running, get its events
    /// and the snapshots of its databases back from the hub (changes data).
    Restore {
        /// How long the hub may take to be there.
        #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = duration)]
        wait: Duration,
        /// Really do it.
        #[arg(long)]
        yes: bool,
    },
    /// Forget a depot: it may not come in any more; its events stay (changes data).
    Remove {
        /// The depot.
        #[arg(value_name = "SITE")]
        depot: String,
        /// Really do it.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// The depot's name, `[a-z0-9-]{1,32}`.
    #[arg(value_name = "SITE")]
    depot: String,
    /// Where its site file is written; `<site>.site.toml` else.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How it reaches this hub, `nats-leaf://host:port`; else what broker.leaf_url says.
    #[arg(long = "hub-url", value_name = "URL")]
    hub_url: Vec<String>,
    /// Subjects that it gets from here; else `roadcall.hub.>`.
    #[arg(long, value_name = "SUBJECT")]
    down: Vec<String>,
    /// Give a known depot a new seed; the old one counts until it is retired.
    #[arg(long)]
    renew: bool,
    /// Let what a known depot proved itself with before count no more.
    #[arg(long, conflicts_with = "renew")]
    retire_old: bool,
    /// The roles that it runs; else all. What is not listed the hub does for it.
    #[arg(long, value_delimiter = ',', value_name = "ROLE")]
    roles: Vec<String>,
}

pub(super) async fn site(connection: &Connection, verb: SiteVerb) -> Result<ExitCode, Failure> {
    let config = connection.config()?;
    let changes = matches!(verb, SiteVerb::Add(_) | SiteVerb::Remove { .. });
    if changes && !config.is_hub() {
        return Err(Failure::usage(
            &format!("{} is not the hub", config.site.id),
            "depots are added and removed on the hub",
        ));
    }
    match verb {
        SiteVerb::List => list(connection, None).await,
        SiteVerb::Status { of } => status(connection, of.as_deref()).await,
        SiteVerb::Add(add) => add.run(connection, &config).await,
        SiteVerb::Restore { wait, yes } => restore(connection, config, wait, yes).await,
        SiteVerb::Remove { yes: false, .. } => {
            Err(Failure::usage("site remove cuts a depot off", "give --yes"))
        }
        SiteVerb::Remove { depot, .. } => {
            let bus = connect(&config, "roadcall-site").await?;
            sites::remove(&bus, &config, &depot).await?;
            say(format_args!(
                "{depot} may not come in any more and is cut off within seconds; its events stay here"
            ))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "is no duration like 60s".to_owned())
}

/// `site restore`: runs the box's broker for as long as it takes, and nothing else.
async fn restore(
    connection: &Connection,
    mut config: Config,
    wait: Duration,
    yes: bool,
) -> Result<ExitCode, Failure> {
    if config.is_hub() || config.hub.url.is_empty() {
        return Err(Failure::usage(
            &format!("{} is no depot with a hub", config.site.id),
            "put the depot's site file from roadcall site add in place first",
        ));
    }
    if !yes {
        return Err(Failure::usage(
            "site restore makes this box's archive and databases",
            "give --yes",
        ));
    }
    let roles = topology_roles(&config)?;
    // No role of this box starts meanwhile, and none runs.
    let dir = config.site.state_dir.clone();
    std::fs::create_dir_all(&dir)
        .map_err(|error| Failure::other(format!("{}: {error}", dir.display()), ""))?;
    for role in &roles {
        drop(started::lock(&dir, *role)?);
    }
    let broker = start_broker(&config).await?;
    config.bus.url.clone_from(&broker.url);
    let done = async {
        let owner = broker.owner();
        let own = Who::Identity(&config.bus.identity);
        let who = owner.as_deref().map_or(own, Who::Owner);
        let bus = connect_as(&config, "roadcall-restore", who).await?;
        let tell = |step: &str| tracing::info!("{step}");
        let replaced = replace::replace(&bus, &config, &roles, wait, tell).await;
        bus.close().await;
        replaced.map_err(|error| {
            Failure::other(
                error.to_string(),
                "what was done stays done; run it again when this is mended",
            )
        })
    };
    let replaced = done.await;
    broker.shutdown().await;
    let replaced = replaced?;
    if connection.json {
        print_json(&serde_json::to_value(&replaced).unwrap_or(Value::Null))?;
        return Ok(ExitCode::SUCCESS);
    }
    say(format_args!(
        "{} events and {} databases are back from the hub; start Roadcall here, it goes on by itself",
        replaced.events,
        replaced.restored.len()
    ))?;
    for role in &replaced.without {
        say(format_args!(
            "the hub has no snapshot of {role}: it begins empty and goes through the archive"
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A row for each site, as JSON.
async fn standings(connection: &Connection, of: Option<&str>) -> Result<Vec<Value>, Failure> {
    let config = connection.config()?;
    let client = Client::open(connection).await?;
    let mut links = sites::link_states(&client.bus).await?;
    let reply = client.call("site.list", &json!({})).await?;
    let mut rows = Vec::new();
    for heard in reply["items"].as_array().into_iter().flatten() {
        let site = heard["site"].as_str().unwrap_or_default();
        if site != config.site.id {
            rows.push(row(site, links.remove(site), heard));
        }
    }
    // Those that nothing was heard of yet.
    for depot in &config.depots {
        let known = rows.iter().any(|row| row["site"] == depot.site);
        if !known && !links.contains_key(&depot.site) {
            rows.push(row(&depot.site, None, &Value::Null));
        }
    }
    let silent = links
        .into_iter()
        .map(|(site, link)| row(&site, Some(link), &Value::Null));
    rows.extend(silent);
    rows.retain(|row| of.is_none_or(|of| row["site"] == of));
    match of.filter(|_| rows.is_empty()) {
        Some(of) => Err(Failure::other(
            format!("nothing is known of a site {of}"),
            "roadcall site list shows those that are known",
        )),
        None => Ok(rows),
    }
}

fn row(site: &str, link: Option<LinkState>, heard: &Value) -> Value {
    let ranges = heard["missing"].as_array().cloned().unwrap_or_default();
    let pairs: Vec<Value> = ranges
        .iter()
        .map(|range| json!([range["from"], range["to"]]))
        .collect();
    json!({
        "site": site,
        "linked": link.is_some_and(|link| link.linked),
        "lastSeen": heard["lastSeen"],
        "lag": link.and_then(|link| link.lag),
        "behind": link.and_then(|link| link.behind),
        "missing": pairs,
        "missingEvents": ranges,
        "version": heard["version"],
        "configDigest": heard["configDigest"],
        "reportedAt": heard["reportedAt"],
        "reinstalledAt": heard["reinstalledAt"],
        "queueDepth": heard["queueDepth"],
        "roles": heard["roles"],
    })
}

const COLUMNS: [&str; 9] = [
    "site",
    "linked",
    "lastSeen",
    "lag",
    "behind",
    "missing",
    "version",
    "configDigest",
    "reinstalledAt",
];

async fn list(connection: &Connection, of: Option<&str>) -> Result<ExitCode, Failure> {
    let rows = standings(connection, of).await?;
    print_rows(connection, &json!(rows), &COLUMNS)?;
    Ok(ExitCode::SUCCESS)
}

async fn status(connection: &Connection, of: Option<&str>) -> Result<ExitCode, Failure> {
    let rows = standings(connection, of).await?;
    print_rows(connection, &json!(rows), &COLUMNS)?;
    if !connection.json {
        for row in &rows {
            for gap in row["missingEvents"].as_array().into_iter().flatten() {
                let word = |name: &str| gap[name].as_str().unwrap_or_default().to_owned();
                say(format_args!(
                    "{}: events {} to {} of role {} (database {}) did not come: {}",
                    row["site"].as_str().unwrap_or_default(),
                    gap["from"],
                    gap["to"],
                    word("role"),
                    word("epoch"),
                    explain(&word("reason"))
                ))?;
            }
        }
    }
    let gaps = rows.iter().any(|row| row["missing"] != json!([]));
    Ok(ExitCode::from(if gaps { 2 } else { 0 }))
}

/// What a reason means, and what can be done.
fn explain(reason: &str) -> &str {
    match reason {
        "expired" => {
            "they had expired there before they came; an export of theirs can still be imported here"
        }
        "recreated" => {
            "that site's archive was made anew, and its old one is gone; an export can still be imported here"
        }
        "rolled_back" => {
            "that site has them, and this one passed them by, because a broker's store was set back: export them there, import \
             them here"
        }
        _ => "that site has not said yet what it has",
    }
}

impl Add {
    async fn run(self, connection: &Connection, config: &Config) -> Result<ExitCode, Failure> {
        let urls = match self.hub_url.is_empty() {
            true => config.broker.leaf_url.clone(),
            false => self.hub_url.clone(),
        };
        self.check(config, &urls)?;
        let known = config.depots.iter().find(|depot| depot.site == self.depot);
        let mut depot = self.depot(known)?;
        self.prove(&mut depot)?;
        if let Some(known) = known {
            no_role_more(known, &depot)?;
        }
        depots::write(&config.site.state_dir, &depot).map_err(|error| {
            let path = depots::file(&config.site.state_dir, &self.depot);
            Failure::other(format!("{}: {error}", path.display()), "")
        })?;
        // The depot's file is given away only when the hub's half of the link is there: see `bus::topology`.
        let bus = connect(config, "roadcall-site").await?;
        wait_for(&bus, &self.depot).await?;
        let out = self
            .out
            .unwrap_or_else(|| PathBuf::from(format!("{}.site.toml", self.depot)));
        let text = site_file(&depot, &urls, config.site.profile, &authority(config)?);
        write_secret(&out, &text)
            .map_err(|error| Failure::other(format!("{}: {error}", out.display()), ""))?;
        if connection.json {
            print_json(
                &json!({ "site": depot.site, "file": out, "down": depot.down, "roles": depot.roles }),
            )?;
        } else {
            say(format_args!(
                "{} is let in. Put {} on its box as /etc/roadcall/site.toml and start Roadcall there.",
                depot.site,
                out.display()
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn check(&self, config: &Config, urls: &[String]) -> Result<(), Failure> {
        if Site::new(self.depot.clone()).is_err() || self.depot == config.site.id {
            return Err(Failure::usage(
                &format!("'{}' is no name of a depot", self.depot),
                "choose a name like depot-a",
            ));
        }
        if config.broker.leaf_listen.is_empty() {
            return Err(Failure::usage(
                "broker.leaf_listen is not set: this hub lets no depot in",
                "set it like 0.0.0.0:7422 and restart the hub's broker",
            ));
        }
        if urls.is_empty() {
            return Err(Failure::usage(
                "nothing says how the depot reaches this hub",
                "give --hub-url nats-leaf://host:port, or set broker.leaf_url",
            ));
        }
        self.check_roles()?;
        let own = format!("roadcall.{}.", self.depot);
        match self
            .down
            .iter()
            .find(|down| !well_formed(down) || down.starts_with(&own))
        {
            Some(down) => Err(Failure::usage(
                &format!("--down '{down}' is no subject of another site's events"),
                "write it like roadcall.hub.> or roadcall.hub.vendor.>",
            )),
            None => Ok(()),
        }
    }

    fn check_roles(&self) -> Result<(), Failure> {
        for role in self.roles.iter().filter(|role| *role != "all") {
            role.parse::<RoleName>().map_err(|error| {
                let names: Vec<&str> = RoleName::BUILT.iter().map(|role| role.as_str()).collect();
                let help = format!("the roles are {}, all", names.join(", "));
                Failure::usage(&format!("--roles: {error}"), &help)
            })?;
        }
        if self.roles.is_empty() || lists(&self.roles, AUDIT) {
            return Ok(());
        }
        Err(Failure::usage(
            "--roles lacks audit: each depot has one of its own",
            "add it",
        ))
    }

    /// What it proves itself with: a known depot keeps that unless something else is asked for.
    fn prove(&self, depot: &mut Depot) -> Result<(), Failure> {
        if self.retire_old && !depot.seed.is_empty() {
            depot.older.clear();
            depot.password.clear();
        }
        let none = depot.seed.is_empty() && depot.password.is_empty();
        if none || self.renew {
            depot.older.extend(identities::public_of(&depot.seed));
            depot.seed = identities::draw().map_err(|error| Failure::other(error, ""))?;
        }
        Ok(())
    }

    /// What is kept of it: a known depot keeps its seed and what is not named anew.
    fn depot(&self, known: Option<&Depot>) -> Result<Depot, Failure> {
        let or = |named: &[String], kept: Option<&Vec<String>>, else_: &str| {
            let kept = kept.cloned().unwrap_or_else(|| vec![else_.to_owned()]);
            if named.is_empty() {
                kept
            } else {
                named.to_vec()
            }
        };
        Ok(Depot {
            site: self.depot.clone(),
            seed: known.map_or_else(String::new, |depot| depot.seed.clone()),
            older: known.map_or_else(Vec::new, |depot| depot.older.clone()),
            password: known.map_or_else(String::new, |depot| depot.password.clone()),
            down: or(&self.down, known.map(|depot| &depot.down), "roadcall.hub.>"),
            roles: or(&self.roles, known.map(|depot| &depot.roles), "all"),
            since: known.map_or_else(|| Clock.now(), |depot| depot.since),
        })
    }
}

/// A depot that had no role for something finds all of it in the archive when it gets one, and the hub has made it.
fn no_role_more(known: &Depot, depot: &Depot) -> Result<(), Failure> {
    let more = |role: &&RoleName| depot.runs(role.as_str()) && !known.runs(role.as_str());
    match RoleName::BUILT.iter().find(more) {
        Some(role) => Err(Failure::usage(
            &format!(
                "{} had no {role}: it would make again what the hub made for it",
                depot.site
            ),
            "a known depot can only give roles away; one of a new name may have every role",
        )),
        None => Ok(()),
    }
}

/// Until the process that runs the hub's broker has read the depot's file.
async fn wait_for(bus: &JetStream, site: &str) -> Result<(), Failure> {
    let since = Clock.now();
    while !sites::linked(bus, site).await? {
        if Clock.since(since) > LET_IN {
            return Err(Failure::other(
                format!("the hub's broker did not let {site} in"),
                "does roadcall --role broker (or all) run here, with this state directory? its log says more; \
                 roadcall site add writes the file again",
            ));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// What a depot's box needs to know, as one file.
/// What the depot is to believe: the hub's authorities, where it has a certificate.
fn authority(config: &Config) -> Result<String, Failure> {
    let (tls, path) = (&config.tls, &config.tls.ca_file);
    if !tls.has_cert() {
        return Ok(String::new());
    }
    if path.is_empty() {
        return Err(Failure::usage(
            "tls.ca_file is not set, and the depot must know whom to believe",
            "name the file with the authority that signed tls.cert_file",
        ));
    }
    std::fs::read_to_string(path)
        .map_err(|error| Failure::other(format!("tls.ca_file {path}: {error}"), ""))
}

fn site_file(depot: &Depot, urls: &[String], profile: Profile, ca: &str) -> String {
    let list = |texts: &[String]| json!(texts).to_string();
    let proof = match depot.seed.as_str() {
        "" => format!("password = \"{}\"", depot.password),
        seed => format!("seed = \"{seed}\""),
    };
    format!(
        "# The site file of {site}, for /etc/roadcall/site.toml. It holds what the depot proves itself with: let only roadcall read it.\n\
         [site]\nid = \"{site}\"\nprofile = \"{}\"\nroles = {}\n\n[hub]\nurl = {}\n{proof}\n{}",
        profile.as_str(),
        list(&depot.roles),
        list(urls),
        match ca {
            "" => String::new(),
            ca => format!("ca = '''\n{}\n'''\n", ca.trim()),
        },
        site = depot.site,
    )
}
