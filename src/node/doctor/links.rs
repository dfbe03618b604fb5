//! Links between sites: what is silent, what did not come, and whose archive was set back.

use std::collections::BTreeMap;

use serde_json::Value;

use super::finding::{Findings, Severity, count, quoted, span};
use super::{Doctor, items, now};
use crate::bus::Error;
use crate::event::Ts;
use crate::node::inquiry::Inquiry;
use crate::node::sites::{self, LinkState, link_states};
use crate::role::audit::sync::{Missing, Standing};

/// What is younger than this may still come by itself.
const ON_ITS_WAY_MS: i64 = 60_000;

/// Somebody who has just let a depot in is still on the way to its box.
const NEW_MS: i64 = 3_600_000;

pub(super) async fn look(doctor: &Doctor<'_>, inquiry: &Inquiry, found: &mut Findings) {
    let links = match link_states(&inquiry.bus).await {
        Ok(links) => links,
        // Without an archive there is no link; the topology says so.
        Err(sites::Error::Bus(Error::Missing(_))) => return,
        Err(error) => return found.unseen("the links", error),
    };
    let heard = items(inquiry, "site.list", found).await;
    let read = |item: Value| serde_json::from_value::<Standing>(item).ok();
    let heard = heard.into_iter().flatten().filter_map(read);
    let heard: BTreeMap<String, Standing> = heard.map(|one| (one.site.clone(), one)).collect();
    for (peer, link) in &links {
        if !link.linked {
            silent(doctor, peer, *link, heard.get(peer), found);
        }
    }
    for depot in &doctor.config.depots {
        if !links.contains_key(&depot.site) {
            never(&depot.site, depot.since, found);
        }
    }
    for one in heard.values() {
        said(doctor, one, found);
    }
}

fn silent(
    doctor: &Doctor<'_>,
    peer: &str,
    link: LinkState,
    heard: Option<&Standing>,
    found: &mut Findings,
) {
    let last = heard.and_then(|one| one.last_seen);
    let last = last.map_or_else(
        || "nothing of it ever came".to_owned(),
        |at| format!("its last event is {} old", span(now().ms() - at.ms())),
    );
    let waits = link.behind.filter(|n| *n > 0).map(|n| {
        let events = count(n, "event");
        format!(", {events} wait here for it")
    });
    let waits = waits.unwrap_or_default();
    let draft = found
        .add(Severity::Warning, "link-down", peer)
        .says(format!("the link to {peer} is silent: {last}{waits}"))
        .seen(format!(
            "STREAM.INFO EVENTS: source {peer} gave no sign of life"
        ));
    // A depot has the address, the hub has not.
    let hub = doctor.config.hub.url.first().and_then(|url| address(url));
    match hub {
        Some((host, port)) => draft.then(format!(
            "nc -vz {} {port}  # is the hub's broker reachable from here, and does it know this depot?",
            quoted(host)
        )),
        None => draft.roadcall(&format!(
            "site status {peer}  # does Roadcall run there, and does its network reach broker.leaf_url?"
        )),
    }
}

/// Host and port of `nats-leaf://host:port`.
fn address(url: &str) -> Option<(&str, &str)> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    rest.rsplit_once(':')
}

fn never(depot: &str, since: Ts, found: &mut Findings) {
    let age_ms = now().ms() - since.ms();
    let severity = match age_ms < NEW_MS {
        true => Severity::Note,
        false => Severity::Warning,
    };
    found
        .add(severity, "depot-silent", depot)
        .says(format!(
            "nothing was ever heard of {depot}, which was let in {} ago",
            span(age_ms)
        ))
        .seen(format!("sites/{depot}.toml, and no source {depot} in EVENTS"))
        .roadcall(&format!(
            "site add {depot}  # writes its site file again; put it on the depot's box and start Roadcall there"
        ));
}

fn said(doctor: &Doctor<'_>, one: &Standing, found: &mut Findings) {
    let site = &one.site;
    if let Some(at) = one.set_back_at {
        found
            .add(Severity::Warning, "archive-set-back", site)
            .says(format!(
                "the archive of {site} was set back or made anew at {at}: what it lost is counted anew"
            ))
            .seen(format!("site.list: setBackAt {at}"))
            .roadcall("audit");
    }
    missing(site, &one.missing, found);
    let ours = env!("CARGO_PKG_VERSION");
    let other = one.version.as_deref().filter(|version| *version != ours);
    if let Some(version) = other.filter(|_| *site != doctor.config.site.id) {
        found
            .add(Severity::Note, "site-version", site)
            .says(format!("{site} runs roadcall {version}, this is {ours}"))
            .seen(format!("SiteReported of {site}"))
            .roadcall(&format!("site status {site}"));
    }
}

fn missing(site: &str, all: &[Missing], found: &mut Findings) {
    // What is on its way comes in another order now and then.
    let on_its_way = |range: &&Missing| {
        let since = range.since.map_or(0, |since| now().ms() - since.ms());
        range.reason == "unknown" && since < ON_ITS_WAY_MS
    };
    let ranges: Vec<&Missing> = all.iter().filter(|range| !on_its_way(range)).collect();
    let Some(first) = ranges.first() else { return };
    let events: u64 = ranges.iter().map(|range| range.to + 1 - range.from).sum();
    let draft = found
        .add(Severity::Critical, "events-missing", site)
        .says(format!(
            "{} of {site} did not come: numbers {} to {} of role {} and {} more ({})",
            count(events, "event"),
            first.from,
            first.to,
            first.role,
            count(ranges.len() as u64 - 1, "range"),
            first.reason
        ))
        .seen(format!(
            "site.list: {} missing of {site}",
            count(ranges.len() as u64, "range")
        ));
    match first.reason.as_str() {
        "rolled_back" => draft.roadcall(&format!(
            "site status {site}  # asked for again by itself; else archive export there and archive import here"
        )),
        _ => draft.roadcall(&format!(
            "site status {site}  # an export of that site can still be imported here: archive import FILE"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn an_address_has_host_and_port() {
        let found = address("nats-leaf://hub.example:7422");
        assert_eq!(found, Some(("hub.example", "7422")));
        assert_eq!(address("nats-leaf://a:b@h:1"), Some(("h", "1")));
    }
}
