//! `report.kpis` (DOMAIN 5.7): every key figure with its sample count, of all that the window has and of each group.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::commands::bounded;
use super::fact::{Facts, Window};
use super::tally::{Figure, Tally};
use crate::role::matching::settings::Tiers;
use crate::role::{Command, HandlerError};
use crate::store::{Tx, params};

/// What figures are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum GroupBy {
    Region,
    Type,
    Vendor,
}

bounded! {
    /// Which facts the figures are made of.
    Asked {
        group_by: Option<GroupBy>,
    }
}

/// One group and its figures.
#[derive(Debug, JsonSchema, Serialize)]
pub(super) struct Group {
    pub(super) group: String,
    pub(super) kpis: BTreeMap<&'static str, Figure>,
}

/// The figures of a window.
#[derive(Debug, JsonSchema, Serialize)]
pub(super) struct Figures {
    pub(super) kpis: BTreeMap<&'static str, Figure>,
    /// Only where groups were asked for, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) groups: Option<Vec<Group>>,
}

/// Answers `report.kpis`.
pub(super) fn kpis(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let asked: Asked = command.parse()?;
    let window = asked.window(command)?;
    let figures = figures(tx, &window, asked.group_by)?;
    tx.reply(&figures).map_err(Into::into)
}

/// All figures of the window. Those of the whole site (uptime, errors) have no groups.
pub(super) fn figures(
    tx: &Tx<'_>,
    window: &Window,
    by: Option<GroupBy>,
) -> Result<Figures, HandlerError> {
    let tallies = tallies(tx, window, by)?;
    let mut kpis = tallies.all.figures();
    kpis.insert("systemUptimePercent", uptime(tx, window)?);
    kpis.insert("errorRatePercent", errors(tx, window)?);
    let groups = tallies.groups.into_iter().map(|(group, tally)| Group {
        group,
        kpis: tally.figures(),
    });
    Ok(Figures {
        kpis,
        groups: by.is_some().then(|| groups.collect()),
    })
}

#[derive(Default)]
struct Tallies {
    all: Tally,
    groups: BTreeMap<String, Tally>,
}

impl Tallies {
    /// Feeds the total, and the group if there are groups; what belongs to none is in `unknown`.
    fn feed(&mut self, group: Option<Option<&String>>, feed: impl Fn(&mut Tally)) {
        feed(&mut self.all);
        if let Some(name) = group {
            let name = name.map_or("unknown", String::as_str);
            feed(self.groups.entry(name.to_owned()).or_default());
        }
    }
}

fn tallies(tx: &Tx<'_>, window: &Window, by: Option<GroupBy>) -> Result<Tallies, HandlerError> {
    let (tiers, now_ms) = (tiers(tx)?, tx.now().ms());
    let mut tallies = Tallies::default();
    let facts = Facts::of(tx, window)?;
    for fact in &facts.incidents()? {
        let group = by.map(|by| match by {
            GroupBy::Region => fact.region.as_ref(),
            GroupBy::Type => fact.incident_type.as_ref(),
            GroupBy::Vendor => fact.vendor_id.as_ref(),
        });
        tallies.feed(group, |tally| tally.incident(fact, &tiers, now_ms));
    }
    for fact in &facts.offers()? {
        let group = by.map(|by| match by {
            GroupBy::Region => fact.about.region.as_ref(),
            GroupBy::Type => fact.about.incident_type.as_ref(),
            GroupBy::Vendor => Some(&fact.vendor_id),
        });
        tallies.feed(group, |tally| tally.offer(fact));
    }
    for fact in &facts.payments()? {
        let group = by.map(|by| match by {
            GroupBy::Region => fact.about.region.as_ref(),
            GroupBy::Type => fact.about.incident_type.as_ref(),
            GroupBy::Vendor => Some(&fact.vendor_id),
        });
        tallies.feed(group, |tally| tally.payment(fact));
    }
    Ok(tallies)
}

/// What ConfigurationChanged brought, else what the platform ships (DOMAIN 5.11).
pub(super) fn tiers(tx: &Tx<'_>) -> Result<Tiers, HandlerError> {
    let sql = "SELECT value FROM configuration WHERE config_key = 'sla-tiers'";
    Ok(tx.document(sql, params![])?.unwrap_or_default())
}

/// The part of the window that anything is known of: from the first event to the last, so that a rebuild comes to the
/// same whenever it is done. Where the window names its end, to there, but not into the future.
fn known(tx: &Tx<'_>, window: &Window) -> Result<Option<(i64, i64)>, HandlerError> {
    let first: Option<Option<i64>> = tx.value("SELECT min(at_ms) FROM seen", params![])?;
    let last: Option<Option<i64>> = tx.value("SELECT max(at_ms) FROM seen", params![])?;
    let (Some(Some(first)), Some(Some(last))) = (first, last) else {
        return Ok(None);
    };
    let until = if window.until_ms == i64::MAX {
        last
    } else {
        window.until_ms.min(tx.now().ms())
    };
    let since = window.since_ms.max(first);
    Ok((since < until).then_some((since, until)))
}

/// 100 × (1 − time under a critical alarm ÷ window).
fn uptime(tx: &Tx<'_>, window: &Window) -> Result<Figure, HandlerError> {
    let Some((since, until)) = known(tx, window)? else {
        return Ok(Figure::percent(0.0, 0.0, 0));
    };
    let mut alarms: Vec<(i64, i64)> = tx.documents(
        "SELECT json_array(r.at_ms, coalesce((SELECT min(c.at_ms) FROM alarm_cleared c WHERE c.name = r.name
            AND c.subject = r.subject AND c.at_ms >= r.at_ms), ?2))
         FROM alarm_raised r WHERE severity = 'critical' AND r.at_ms < ?2 ORDER BY r.at_ms",
        params![since, until],
    )?;
    alarms.retain(|(_, cleared)| *cleared > since);
    // Two at once are one time of trouble.
    let (mut down_ms, mut counted_to) = (0_i64, since);
    for (raised, cleared) in &alarms {
        let from = (*raised).max(counted_to);
        let to = (*cleared).min(until);
        down_ms += (to - from).max(0);
        counted_to = counted_to.max(to);
    }
    let span = (until - since) as f64;
    Ok(Figure::percent(span - down_ms as f64, span, alarms.len()))
}

/// 100 × dead letters ÷ events.
fn errors(tx: &Tx<'_>, window: &Window) -> Result<Figure, HandlerError> {
    let count = |kind: &str| -> Result<i64, HandlerError> {
        let sql = format!("SELECT count(*) FROM seen WHERE at_ms BETWEEN ?1 AND ?2 {kind}");
        let found = tx.value(&sql, params![window.since_ms, window.until_ms])?;
        Ok(found.unwrap_or(0))
    };
    let (letters, all) = (count("AND kind = 2")?, count("")?);
    let samples = usize::try_from(all).unwrap_or(usize::MAX);
    Ok(Figure::percent(letters as f64, all as f64, samples))
}
