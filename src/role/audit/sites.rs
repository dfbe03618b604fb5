//! What this site says of itself (DESIGN 8, From the hub): `SiteReported`, on change and every 5 min. A role sees neither
//! broker nor configuration: `node::report` looks every `audit.alarm_period` and hands over what it found by the command
//! `site.report`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ledger, recount, sync};
use crate::event::{ArchiveReport, Key, List, ProducerReport, QueueReport, SiteReported, Text};
use crate::role::{Command, HandlerError, NoBody, Rejection};
use crate::store::Tx;

/// The command that the node gives.
pub const REPORT: &str = "site.report";
/// A site that nothing changes at is heard of this often, milliseconds.
const EVERY_MS: i64 = 5 * 60 * 1000;

/// What the node found.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "SiteReport")]
pub struct Report {
    /// The roles that run.
    pub roles: List<Text<64>, 0, 64>,
    /// The program's version.
    pub version: Text<64>,
    /// Digest of the configuration.
    pub config_digest: Text<64>,
    /// Every queue.
    pub queues: List<QueueReport, 0, 64>,
    /// The archive.
    pub archive: ArchiveReport,
    /// Every role's numbers.
    pub producers: List<ProducerReport, 0, 64>,
}

/// Says it to others, if it is new or long ago.
pub(super) fn report(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let report: Report = command.parse()?;
    recount::own_archive(tx, &report.archive)?;
    let site = tx.site().as_str().to_owned();
    let site_id: Key = site
        .parse()
        .map_err(|_| Rejection::field("siteId", "no key"))?;
    let said = SiteReported {
        site_id,
        roles: report.roles,
        // On the wire the event's own version stands in this field's place (DOMAIN 3.1); the program's has another one.
        version: report.version.clone(),
        program_version: Some(report.version),
        config_digest: report.config_digest,
        queues: report.queues,
        archive: Some(report.archive),
        producers: Some(report.producers),
        ledger: ledger::anchor(tx)?,
    };
    let last = sync::last(tx, &site)?;
    // Whoever changed it did so in files: the ledger says at least when which one came into force.
    if let Some((_, last)) = &last
        && last.config_digest != said.config_digest
    {
        let subject = format!("config/{}", said.config_digest);
        ledger::said(tx, "configuration applied", &subject)?;
    }
    let old = last.is_none_or(|(at_ms, last)| {
        tx.now().ms() - at_ms >= EVERY_MS || at_ms > tx.now().ms() || changed(&last, &said)
    });
    if old {
        tx.emit(&said)?;
        let at = tx.now();
        sync::note(tx, &site, at, &said)?;
    }
    tx.reply(&NoBody {}).map_err(Into::into)
}

/// Whether the archive has let go of everything that it had at the last word.
fn all_gone(last: &SiteReported, now: &SiteReported) -> bool {
    match (&last.archive, &now.archive) {
        (Some(last), Some(now)) => now.first_seq > last.last_seq && last.last_seq > 0,
        _ => false,
    }
}

/// Whether it is more than what grows by itself.
fn changed(a: &SiteReported, b: &SiteReported) -> bool {
    let identity = |it: &SiteReported| it.archive.as_ref().map(|archive| archive.identity);
    let what = |it: &SiteReported| {
        (
            it.roles.clone(),
            it.program_version.clone(),
            it.config_digest.clone(),
            identity(it),
        )
    };
    what(a) != what(b) || all_gone(a, b)
}
