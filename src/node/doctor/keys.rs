//! The keys of personal data: the site key that wraps them, who keeps them, whether the hub has them.

use serde_json::Value;

use super::finding::{Findings, Severity, span};
use super::{Doctor, now};
use crate::bus::Headers;
use crate::bus::jetstream::service::CallError;
use crate::config::Config;
use crate::node::commands::ACTOR_HEADER;
use crate::node::inquiry::Inquiry;
use crate::node::vault::{self, STATUS, site_key};
use crate::role::RoleName;

/// A key that waits for the hub longer than this is not only new.
const WAITS_MAX_MS: i64 = 10 * 60_000;

/// What lies on this machine.
pub(super) fn on_disk(config: &Config, found: &mut Findings) {
    if !config.privacy.seal {
        return;
    }
    if let Err(error) = site_key::look(config) {
        let keys = vault::path(&config.site.state_dir);
        found
            .add(Severity::Critical, "site-key", &config.site.id)
            .says(format!(
                "{error}: nobody can read or seal personal data at this site"
            ))
            .seen(format!("{}", keys.display()))
            .then("bring the file back from where its copy is kept; docs/privacy.md");
    }
}

/// What its keeper says.
pub(super) async fn look(doctor: &Doctor<'_>, inquiry: &Inquiry, found: &mut Findings) {
    if !doctor.config.privacy.seal {
        return;
    }
    let mut headers = Headers::default();
    headers.push(ACTOR_HEADER, inquiry.actor.clone());
    let (bus, site) = (&inquiry.bus, doctor.config.site.id.as_str());
    let reply = bus.call(site, STATUS, &headers, b"{}".to_vec(), inquiry.timeout);
    let body = match reply.await {
        Ok(reply) => reply.body,
        Err(CallError::NoResponder(_)) => return unkept(doctor, found),
        Err(error) => return found.unseen("the keys of personal data", error),
    };
    let reply: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let status: vault::Status = match serde_json::from_value(reply["ok"].clone()) {
        Ok(status) => status,
        Err(error) => return found.unseen("the keys of personal data", error),
    };
    let Some(since) = status.not_at_hub_since else {
        return;
    };
    let waits_ms = now().ms() - since.ms();
    if waits_ms > WAITS_MAX_MS {
        found
            .add(Severity::Warning, "keys-not-at-hub", site)
            .says(format!(
                "{} keys of personal data are on this box alone, the oldest for {}: with the box they would be lost, and the hub can't read what they sealed",
                status.not_at_hub,
                span(waits_ms)
            ))
            .seen(format!("{STATUS}: notAtHubSince {since}"))
            .roadcall("site status  # whether the link is up; at the hub privacy.seal has to be on, too");
    }
}

/// The role's process is asked for by other looks; here it matters where it runs and does not keep them.
fn unkept(doctor: &Doctor<'_>, found: &mut Findings) {
    if !doctor.roles.contains(&RoleName::Audit) {
        return;
    }
    found
        .add(Severity::Critical, "keys-unkept", &doctor.config.site.id)
        .says("nobody keeps the keys of personal data: what is about persons whose keys no role has yet waits or is refused".to_owned())
        .seen(format!("nobody answers {STATUS}"))
        .then("start the process with the role audit, with privacy.seal = true");
}
