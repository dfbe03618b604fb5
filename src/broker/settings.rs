//! The configuration of the nats-server that we run, as a file in its store.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::at_rest::Cipher;
use super::identities;
use super::leftover::PID_FILE;
use super::links::{self, ACCOUNT, quoted};
use super::{Error, KEY_VARIABLE, Options};

/// From which version the flags of BROKER 0 A are known.
const FEATURE_FLAGS: (u32, u32, u32) = (2, 15, 0);

/// Where it listens, and which version it is.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) host: String,
    pub(super) port: u16,
    /// Host and port of its monitoring.
    pub(super) monitor: (String, u16),
    pub(super) version: (u32, u32, u32),
}

/// Everything that the file says.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) options: Options,
    pub(super) listening: Listening,
    /// The user of the system account, where there are depots to cut off. It is also why depots whose keys are not known are
    /// asked for a proof at all: a server that knows no key asks nobody.
    pub(super) system: Option<nkeys::KeyPair>,
    /// This process, where everybody needs an identity.
    pub(super) owner: Option<nkeys::KeyPair>,
    /// The cipher of an encrypted store; its key is in the child's environment.
    pub(super) cipher: Option<Cipher>,
    pub(super) file: PathBuf,
}

impl Settings {
    /// Writes the file whole or not at all; only its owner reads it, since it holds passwords.
    pub(super) fn write(&self) -> Result<(), Error> {
        let fail = |error: std::io::Error| Error::Directory {
            path: self.file.clone(),
            message: error.to_string(),
        };
        if let Some(ca) = self
            .options
            .links
            .hub
            .as_ref()
            .and_then(|hub| hub.ca.as_ref())
        {
            std::fs::write(self.options.store_dir.join(links::CA_FILE), ca).map_err(fail)?;
        }
        let half = self.file.with_extension("conf.new");
        let mut file = std::fs::File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&half)
            .map_err(fail)?;
        file.write_all(self.text().as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(fail)?;
        std::fs::rename(&half, &self.file).map_err(fail)
    }

    /// Those of the site's own account who are no depots.
    fn users(&self) -> Vec<String> {
        match (&self.options.identities, &self.owner) {
            (Some(known), Some(owner)) => {
                let operators = known.operators.iter().map(|key| identities::user(key));
                let owner = identities::user(&owner.public_key());
                std::iter::once(owner).chain(operators).collect()
            }
            _ => vec!["{ user: \"app\", password: \"app\" }".to_owned()],
        }
    }

    fn text(&self) -> String {
        let Options {
            site,
            store_dir,
            sync_interval,
            max_file_store_bytes,
            links,
            ..
        } = &self.options;
        let Listening {
            host,
            port,
            monitor: (monitor_host, monitor_port),
            version,
        } = &self.listening;
        // Both keep one site's acks and replies apart from another's (BROKER 0 A).
        let flags = if *version >= FEATURE_FLAGS {
            "feature_flags { js_ack_fc_v2: true, js_api_reply_v2: true }\n"
        } else {
            ""
        };
        let server_name = links
            .cluster
            .as_ref()
            .map_or(site, |cluster| &cluster.server_name);
        let mut users = self.users();
        users.extend(links.leafs.iter().flat_map(links::leaf_users));
        let system = self.system.as_ref().map_or_else(String::new, |pair| {
            let user = identities::user(&pair.public_key());
            format!("  SYS {{ users: [{user}] }}\n")
        });
        // On this machine alone nothing leaves the box.
        let choose = links.clients_choose;
        let tls = links.proof.as_ref().filter(|_| choose || !is_here(host));
        let mut tls = tls.map_or_else(String::new, links::Proof::clients);
        if choose {
            tls.push_str("allow_non_tls: true\n");
        }
        let encrypted = self.cipher.map_or_else(String::new, |cipher| {
            format!(", cipher: {cipher}, key: ${KEY_VARIABLE}")
        });
        let known = self.options.identities.as_ref();
        let (services, others) = known.map_or_else(Default::default, |known| {
            (known.site_account(), known.others())
        });
        // Without identities whoever reaches the listener, which is on this machine unless a file says otherwise, is the user
        // `app`: depots come in by another door.
        let anybody = known.map_or("no_auth_user: app\n", |_| "");
        format!(
            "# Written by roadcall; changes here are lost.\nserver_name: {}\nlisten: \"{host}:{port}\"\n\
             http: \"{monitor_host}:{monitor_port}\"\npid_file: {}\nping_interval: \"10s\"\nping_max: 2\nmax_payload: 1MB\n\
             {flags}{tls}jetstream {{ store_dir: {}, domain: {}, sync_interval: \"{sync_interval}\", \
             max_file_store: {max_file_store_bytes}{encrypted} }}\n\
             accounts {{\n{system}  {ACCOUNT} {{ jetstream: enabled, users: [\n  {}\n  ]\n{services}  }}\n{others}}}\n{}{anybody}{}{}",
            quoted(server_name),
            quoted(&store_dir.join(PID_FILE).display().to_string()),
            quoted(&store_dir.display().to_string()),
            quoted(site),
            users.join("\n  "),
            if system.is_empty() {
                ""
            } else {
                "system_account: SYS\n"
            },
            links::cluster(links),
            links::leafnodes(site, links, store_dir),
        )
    }
}

/// Whether a host is this machine, or `host:port` is on it.
#[must_use]
pub fn is_here(listen: &str) -> bool {
    let host = listen
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
        .map_or(listen, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|host| host.is_loopback())
}

/// Before there were links, everything was in the server's default account. Its store is the same; only the directory's
/// name is another.
pub(super) fn adopt_store(store_dir: &Path) -> std::io::Result<()> {
    let streams = store_dir.join("jetstream");
    let (old, new) = (streams.join("$G"), streams.join(ACCOUNT));
    if old.is_dir() && !new.exists() {
        std::fs::rename(old, new)?;
    }
    Ok(())
}
