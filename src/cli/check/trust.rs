//! What keeps others out: encryption at rest, sealed personal data, identities, certificates.

use std::os::unix::fs::PermissionsExt as _;

use super::{Findings, Status};
use crate::broker::{self, at_rest::Encryption};
use crate::cli::failure::Failure;
use crate::cli::roles::Wanted;
use crate::cli::run::broker_options;
use crate::config::{Config, GatewayTls, Profile};
use crate::node::certificates::{SOON_DAYS, Standing, look as look_at_certificates};
use crate::node::clock::Clock;
use crate::node::preflight::{Who, check_identity, has_identities};
use crate::node::vault::site_key;
use crate::ops::identities::{self, GATEWAY};

/// Whether the store of our broker is encrypted, and whether the key is the one that opens it.
pub(super) fn encryption(config: &Config, found: &mut Findings) {
    let at_rest = broker_options(config).at_rest;
    match broker::at_rest::encryption(at_rest.as_ref(), &config.broker_store_dir()) {
        Ok(Encryption::On(cipher)) => found.add(
            "encryption",
            Status::Ok,
            format!("the broker's store is encrypted ({cipher}), and the key is the right one"),
        ),
        Ok(Encryption::Coming(cipher)) => found.add(
            "encryption",
            Status::Ok,
            format!("the broker's store is empty and will be encrypted ({cipher})"),
        ),
        Ok(Encryption::Off) => {
            let say = "off: whoever has the disk reads the archive";
            found.add("encryption", Status::Note, say);
            if let Some(last) = found.0.last_mut() {
                let do_it = "roadcall auth rotate-store-key --yes, while the broker is stopped, encrypts the store";
                last.help = Some(do_it.to_owned());
            }
        }
        Err(error) => found.fail("encryption", &error.into()),
    }
}

/// Whether personal data is sealed, and whether the site's key is the one that its keys were wrapped with.
pub(super) fn sealing(config: &Config, found: &mut Findings) {
    if !config.privacy.seal {
        let say = "off: phones, names and places of people are in the archive and in databases for whoever reads them";
        found.add("privacy", Status::Note, say);
        if let Some(last) = found.0.last_mut() {
            last.help = Some("privacy.seal = true seals what comes from then on".to_owned());
        }
        return;
    }
    match site_key::look(config) {
        Ok(true) => found.add(
            "privacy",
            Status::Ok,
            "personal data is sealed, and the site key is the right one",
        ),
        // Of a site whose audit role runs elsewhere, too.
        Ok(false) => found.add(
            "privacy",
            Status::Ok,
            "personal data is sealed; the first start of the audit role makes the keys",
        ),
        Err(error) => found.fail(
            "privacy",
            &Failure::other(
                error.to_string(),
                "without that key nobody reads what was sealed",
            ),
        ),
    }
}

/// Whether the broker tells those apart who connect, and whether the identities of those who are to are there.
pub(super) fn access(config: &Config, asked: &Wanted, embedded: bool, found: &mut Findings) {
    if !has_identities(config) {
        if config.bus.creds.is_empty() && config.site.profile == Profile::Prod {
            let say = "off: whoever reaches the broker may do everything";
            found.add("identities", Status::Note, say);
            if let Some(last) = found.0.last_mut() {
                let do_it = "roadcall auth init --identities DIR makes them, bus.identities_dir names the directory";
                last.help = Some(do_it.to_owned());
            }
        }
        return;
    }
    let public = || identities::public(config.bus.identities_dir.as_ref()).map(drop);
    let names = asked.roles.iter().map(|role| role.as_str());
    let names: Vec<&str> = names.chain(asked.gateway.then_some(GATEWAY)).collect();
    let mut results: Vec<Result<(), identities::Error>> = Vec::new();
    results.extend((embedded || asked.broker_only).then(public));
    results.extend(
        names
            .iter()
            .map(|name| check_identity(config, Who::Identity(name))),
    );
    let failed: Vec<String> = results
        .into_iter()
        .filter_map(|result| result.err().map(|error| error.to_string()))
        .collect();
    match failed.is_empty() {
        true => found.add("identities", Status::Ok, "each connects as itself"),
        false => failed
            .into_iter()
            .for_each(|error| found.add("identities", Status::Failed, error)),
    }
}

/// How long certificates are good for, and whether links that leave the box are in the clear.
pub(super) fn certificates(config: &Config, found: &mut Findings) {
    let (tls, hub) = (&config.tls, &config.hub);
    for Standing { key, days_left, .. } in look_at_certificates(config, Clock.now()) {
        let (status, detail) = match days_left {
            Err(error) => (Status::Failed, format!("{key}: {error}")),
            Ok(left) if left < 0 => (Status::Failed, format!("{key}: expired {} days ago", -left)),
            Ok(left) if left < SOON_DAYS => (
                Status::Note,
                format!("{key}: good for {left} more days; renew it"),
            ),
            Ok(left) => (Status::Ok, format!("{key}: good for {left} days")),
        };
        found.add("certificate", status, detail);
    }
    if tls.has_cert() {
        match std::fs::metadata(&tls.key_file).map(|it| it.permissions().mode() & 0o077) {
            Ok(0) => {}
            Ok(_) => found.add(
                "certificate",
                Status::Failed,
                format!(
                    "tls.key_file {}: others than its owner may read it; chmod 600",
                    tls.key_file
                ),
            ),
            Err(error) => found.add(
                "certificate",
                Status::Failed,
                format!("tls.key_file {}: {error}", tls.key_file),
            ),
        }
    }
    let clear = (!hub.url.is_empty() && hub.ca.is_empty())
        || (!config.broker.leaf_listen.is_empty() && !tls.has_cert());
    if clear {
        let say = "the link between hub and depots is in the clear; roadcall auth init makes what TLS needs";
        found.add("links", Status::Note, say);
    }
    clear_doors(config, found);
}

/// Doors for clients that others than this machine reach, and that speak no TLS.
fn clear_doors(config: &Config, found: &mut Findings) {
    let (gateway, listen) = (&config.gateway, &config.broker.listen);
    if !gateway.is_here() && !gateway.in_tls(&config.tls) {
        let (address, help) = (&gateway.listen, "roadcall auth init makes what TLS needs");
        let why = match gateway.tls {
            GatewayTls::Off => "gateway.tls is off: something before it has to speak TLS",
            GatewayTls::Auto | GatewayTls::On => help,
        };
        let detail = format!("gateway.listen {address} is in the clear beyond this machine; {why}");
        found.add("links", Status::Note, detail);
    }
    if !broker::is_here(listen) && !config.tls.has_cert() {
        let detail = format!(
            "broker.listen {listen} is in the clear beyond this machine; roadcall auth init makes what TLS needs"
        );
        found.add("links", Status::Note, detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_in_the_clear_is_noted_where_others_reach_it() {
        let noted = |gateway: &str, tls: GatewayTls, broker: &str, cert: &str| {
            let mut config = Config::default();
            config.gateway.listen = gateway.to_owned();
            config.gateway.tls = tls;
            config.broker.listen = broker.to_owned();
            config.tls.cert_file = cert.to_owned();
            config.tls.key_file = cert.to_owned();
            let mut found = Findings::default();
            clear_doors(&config, &mut found);
            let details = found.0.into_iter().map(|finding| finding.detail);
            details.collect::<Vec<_>>().join("; ")
        };
        let (here, wide, auto) = ("127.0.0.1:1", "0.0.0.0:1", GatewayTls::Auto);
        assert_eq!(noted(here, auto, here, ""), "");
        assert_eq!(noted("[::1]:1", auto, "localhost:1", ""), "");
        assert_eq!(noted(wide, auto, wide, "cert.pem"), "");
        let both = noted(wide, auto, wide, "");
        assert!(
            both.contains("gateway.listen") && both.contains("broker.listen"),
            "{both}"
        );
        let off = noted("[::]:1", GatewayTls::Off, "[::]:1", "cert.pem");
        assert!(
            off.contains("gateway.tls is off") && !off.contains("broker.listen"),
            "{off}"
        );
    }
}
