//! The sync ledger (DESIGN 8): which events of which site came, by the numbers that their makers gave them, and which did not;
//! and what each site last said of itself.
//!
//! Stream sequences can't tell: another site's stream numbers what it took from others, too. `Roadcall-Seq` counts each
//! role's events of each life of its database without gaps, through links, sticks and streams that were made anew.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::recount;
use crate::event::{Event, Producer, SiteReported, Ts};
use crate::role::listing::Page;
use crate::role::{Command, HandlerError, NoBody};
use crate::store::{Error, Tx, params};

/// What came, in ranges, and what each site last reported.
pub(super) const MIGRATION: &str = "
CREATE TABLE heard (
    site TEXT NOT NULL, role TEXT NOT NULL, epoch TEXT NOT NULL, from_n INTEGER NOT NULL, to_n INTEGER NOT NULL,
    at_ms INTEGER NOT NULL, PRIMARY KEY (site, role, epoch, from_n)
) WITHOUT ROWID;
CREATE TABLE site_report (
    site TEXT PRIMARY KEY, time_ms INTEGER NOT NULL, doc TEXT NOT NULL, identity INTEGER, since_ms INTEGER NOT NULL,
    first_ms INTEGER NOT NULL
) WITHOUT ROWID;
";

/// Notes that an event came; a second copy changes nothing.
pub(super) fn heard(tx: &mut Tx<'_>, event: &Event, producer: &Producer) -> Result<(), Error> {
    let site = event.site.as_str();
    let n = i64::try_from(producer.n).unwrap_or(i64::MAX);
    let (role, epoch) = (&producer.role, &producer.epoch);
    let below: Option<i64> = tx.value(
        "SELECT from_n FROM heard WHERE site = ?1 AND role = ?2 AND epoch = ?3 AND from_n <= ?4 ORDER BY from_n DESC LIMIT 1",
        params![site, role, epoch, n],
    )?;
    let below_to: Option<i64> = match below {
        Some(from) => tx.value(
            "SELECT to_n FROM heard WHERE site = ?1 AND role = ?2 AND epoch = ?3 AND from_n = ?4",
            params![site, role, epoch, from],
        )?,
        None => None,
    };
    if below_to.is_some_and(|to| to >= n) {
        return Ok(());
    }
    let above: Option<i64> = tx.value(
        "SELECT to_n FROM heard WHERE site = ?1 AND role = ?2 AND epoch = ?3 AND from_n = ?4",
        params![site, role, epoch, n + 1],
    )?;
    let from = below.filter(|_| below_to == Some(n - 1)).unwrap_or(n);
    let to = above.unwrap_or(n);
    if above.is_some() {
        tx.execute(
            "DELETE FROM heard WHERE site = ?1 AND role = ?2 AND epoch = ?3 AND from_n = ?4",
            params![site, role, epoch, n + 1],
        )?;
    }
    tx.execute(
        "INSERT INTO heard (site, role, epoch, from_n, to_n, at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (site, role, epoch, from_n) DO UPDATE SET to_n = ?5, at_ms = max(at_ms, ?6)",
        params![site, role, epoch, from, to, event.time.ms()],
    )?;
    Ok(())
}

/// What a site last said of itself, and when, milliseconds.
pub(super) fn last(tx: &Tx<'_>, site: &str) -> Result<Option<(i64, SiteReported)>, Error> {
    let found: Vec<(i64, SiteReported)> = tx.documents(
        "SELECT json_array(time_ms, json(doc)) FROM site_report WHERE site = ?1",
        [site],
    )?;
    Ok(found.into_iter().next())
}

/// Notes what a site said of itself. An older word than the last changes nothing.
pub(super) fn reported(tx: &mut Tx<'_>, event: &Event, report: &SiteReported) -> Result<(), Error> {
    note(tx, event.site.as_str(), event.time, report)
}

/// The same of a word that is on its way.
pub(super) fn note(
    tx: &mut Tx<'_>,
    site: &str,
    at: Ts,
    report: &SiteReported,
) -> Result<(), Error> {
    let identity = report
        .archive
        .as_ref()
        .and_then(|archive| i64::try_from(archive.identity).ok());
    let doc = serde_json::to_string(report).unwrap_or_default();
    tx.execute(
        "INSERT INTO site_report (site, time_ms, doc, identity, since_ms, first_ms) VALUES (?1, ?2, ?3, ?4, ?2, ?2)
         ON CONFLICT (site) DO UPDATE SET
           since_ms = CASE WHEN identity IS ?4 THEN since_ms ELSE ?2 END, time_ms = ?2, doc = ?3, identity = ?4
         WHERE ?2 >= time_ms",
        params![site, at.ms(), doc, identity],
    )?;
    Ok(())
}

/// Events of a role that did not come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "MissingEvents")]
pub struct Missing {
    /// Whose.
    pub role: String,
    /// Of which life of its database.
    pub epoch: String,
    /// The first, by `Roadcall-Seq`.
    pub from: u64,
    /// The last.
    pub to: u64,
    /// When the events before them were made, as far as any came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Ts>,
    /// Why: `expired` at their site before they came, `recreated` (the site's stream was made anew and its life before is
    /// gone), `rolled_back` (the site has them, and this one passed them by: the stream of one of the two was set back), or
    /// `unknown` as long as the site has not said what it has.
    pub reason: String,
}

/// What is known of a site.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SiteStanding")]
pub struct Standing {
    /// The site.
    pub site: String,
    /// When the newest of its events that came was made.
    pub last_seen: Option<Ts>,
    /// When it last said what it runs.
    pub reported_at: Option<Ts>,
    /// When it first said that its archive is another one than before: since then it is a reinstalled box.
    pub reinstalled_at: Option<Ts>,
    /// Its roles.
    pub roles: Vec<String>,
    /// The program's version there.
    pub version: Option<String>,
    /// Digest of its configuration.
    pub config_digest: Option<String>,
    /// Events without an outcome in its queues, as it last said.
    pub queue_depth: Option<u64>,
    /// What did not come.
    pub missing: Vec<Missing>,
    /// The last that came of each of its roles.
    #[serde(default)]
    pub heard: Vec<Heard>,
    /// Of this site itself: since when it is known that its archive was set back or made anew, until the ledger is counted anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_back_at: Option<Ts>,
}

/// How far a role was heard of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "HeardOfRole")]
pub struct Heard {
    /// The role.
    pub role: String,
    /// Which life of its database.
    pub epoch: String,
    /// The highest number that came.
    pub last: u64,
    /// When the newest of its events that came was made.
    pub at: Ts,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Range {
    role: String,
    epoch: String,
    from_n: u64,
    to_n: u64,
    at_ms: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reported {
    time_ms: i64,
    since_ms: i64,
    first_ms: i64,
    report: SiteReported,
}

/// The same question as `site.list`, by the node itself.
pub const LEDGER: &str = "site.ledger";

/// `site.list`: every site of which an event or a word came.
pub(super) fn list(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let NoBody {} = command.parse()?;
    let sites: Vec<(String, Option<i64>)> = tx.documents(
        "SELECT json_array(site, max(at_ms)) FROM heard GROUP BY site ORDER BY site",
        (),
    )?;
    let mut items = Vec::with_capacity(sites.len());
    for (site, last_ms) in sites {
        items.push(standing(tx, site, last_ms)?);
    }
    tx.reply(&Page {
        items,
        cursor: None,
    })
    .map_err(Into::into)
}

fn standing(tx: &Tx<'_>, site: String, last_ms: Option<i64>) -> Result<Standing, Error> {
    let ranges: Vec<Range> = tx.documents(
        "SELECT json_object('role', role, 'epoch', epoch, 'fromN', from_n, 'toN', to_n, 'atMs', at_ms) FROM heard WHERE site = ?1
         ORDER BY role, epoch, from_n",
        [&site],
    )?;
    let reported: Vec<Reported> = tx.documents(
        "SELECT json_object('timeMs', time_ms, 'sinceMs', since_ms, 'firstMs', first_ms, 'report', json(doc)) FROM site_report WHERE site = ?1",
        [&site],
    )?;
    let reported = reported.into_iter().next();
    let missing = gaps(&ranges)
        .into_iter()
        .map(|gap| Missing {
            reason: reason(&gap, reported.as_ref().map(|reported| &reported.report)).to_owned(),
            ..gap
        })
        .collect();
    let report = reported.as_ref().map(|reported| &reported.report);
    Ok(Standing {
        last_seen: last_ms.map(Ts::from_ms),
        reported_at: reported.as_ref().map(|it| Ts::from_ms(it.time_ms)),
        reinstalled_at: reported
            .as_ref()
            .filter(|it| it.since_ms > it.first_ms)
            .map(|it| Ts::from_ms(it.since_ms)),
        roles: report.map_or_else(Vec::new, |report| {
            report.roles.get().iter().map(ToString::to_string).collect()
        }),
        version: report
            .and_then(|report| report.program_version.as_ref())
            .map(ToString::to_string),
        config_digest: report.map(|report| report.config_digest.to_string()),
        queue_depth: report.map(|report| report.queues.get().iter().map(|queue| queue.depth).sum()),
        missing,
        heard: ends(&ranges),
        set_back_at: match site == tx.site().as_str() {
            true => recount::set_back_at(tx)?,
            false => None,
        },
        site,
    })
}

/// The last range of each role and life.
fn ends(ranges: &[Range]) -> Vec<Heard> {
    let mut ends: Vec<Heard> = Vec::new();
    for range in ranges {
        let end = Heard {
            role: range.role.clone(),
            epoch: range.epoch.clone(),
            last: range.to_n,
            at: Ts::from_ms(range.at_ms),
        };
        match ends.last_mut() {
            Some(last) if last.role == end.role && last.epoch == end.epoch => *last = end,
            _ => ends.push(end),
        }
    }
    ends
}

/// What lies before and between the ranges, each role's in order.
fn gaps(ranges: &[Range]) -> Vec<Missing> {
    let mut gaps = Vec::new();
    let mut before: Option<&Range> = None;
    for range in ranges {
        let same = before.filter(|it| it.role == range.role && it.epoch == range.epoch);
        let next = same.map_or(1, |it| it.to_n + 1);
        if range.from_n > next {
            gaps.push(Missing {
                role: range.role.clone(),
                epoch: range.epoch.clone(),
                from: next,
                to: range.from_n - 1,
                since: same.map(|before| Ts::from_ms(before.at_ms)),
                reason: String::new(),
            });
        }
        before = Some(range);
    }
    gaps
}

/// Why a range did not come, by what its site says that it still has.
fn reason(gap: &Missing, report: Option<&SiteReported>) -> &'static str {
    let Some(report) = report.filter(|report| report.archive.is_some()) else {
        return "unknown";
    };
    let producers = report.producers.iter().flat_map(|list| list.get());
    let of_role: Vec<_> = producers
        .filter(|one| one.role.as_str() == gap.role)
        .collect();
    match of_role.iter().find(|one| one.epoch.as_str() == gap.epoch) {
        // Another life of the database: what its archive has of this one it can't say.
        None => "recreated",
        // A word from before it made what came behind the gap can't say what became of the gap.
        Some(one) if one.last <= gap.to => "unknown",
        Some(one) if one.held_from == 0 || gap.to < one.held_from => {
            let archive = report.archive.as_ref();
            // An archive that begins at its first event has lost nothing by age: what came before it went with the old one.
            match archive.is_some_and(|archive| archive.first_seq <= 1) {
                true => "recreated",
                false => "expired",
            }
        }
        Some(_) => "rolled_back",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::event::{Actor, ArchiveReport, List, ProducerReport, Text};
    use crate::role::Mode;
    use crate::role::audit::AuditRole;
    use crate::role::testing::Bench;
    use serde_json::json;

    fn range(role: &str, epoch: &str, from_n: u64, to_n: u64) -> Range {
        Range {
            role: role.to_owned(),
            epoch: epoch.to_owned(),
            from_n,
            to_n,
            at_ms: 0,
        }
    }

    pub(in super::super) fn report(first_seq: u64, epoch: &str, held_from: u64) -> SiteReported {
        let producer = ProducerReport {
            role: Text::lossy("incident"),
            epoch: Text::lossy(epoch),
            last: 99,
            held_from,
        };
        SiteReported {
            site_id: "depot-a".parse().expect("a key"),
            roles: List::new(Vec::new()).expect("allowed"),
            version: Text::lossy("1"),
            program_version: None,
            config_digest: Text::lossy("d"),
            queues: List::new(Vec::new()).expect("allowed"),
            archive: Some(ArchiveReport {
                identity: 7,
                first_seq,
                last_seq: 500,
            }),
            producers: Some(List::new(vec![producer]).expect("allowed")),
            ledger: None,
        }
    }

    pub(in super::super) fn deliver(bench: &mut Bench<AuditRole>, n: u64) {
        let mut received = bench.received(&report(1, "a", 1), Mode::Live, false);
        received.producer = Producer::parse(&format!("audit:a:{n}"));
        bench.deliver(received).expect("handled");
    }

    pub(in super::super) fn ranges(bench: &mut Bench<AuditRole>) -> Vec<(u64, u64)> {
        let asked = bench.command(&Actor::Operator("olga".to_owned()), "site.list", json!({}));
        let reply = asked.expect("answered").0;
        assert_eq!(reply["items"][0]["site"], "hub");
        let missing = reply["items"][0]["missing"].as_array().expect("a list");
        missing
            .iter()
            .map(|gap| {
                (
                    gap["from"].as_u64().expect("a number"),
                    gap["to"].as_u64().expect("a number"),
                )
            })
            .collect()
    }

    #[test]
    fn what_came_in_any_order_and_twice_closes_the_gaps() {
        let mut bench = Bench::new(AuditRole::default());
        for (n, missing) in [
            (3, vec![(1, 2)]),
            (7, vec![(1, 2), (4, 6)]),
            (3, vec![(1, 2), (4, 6)]),
            (5, vec![(1, 2), (4, 4), (6, 6)]),
            (6, vec![(1, 2), (4, 4)]),
            (1, vec![(2, 2), (4, 4)]),
            (4, vec![(2, 2)]),
            (7, vec![(2, 2)]),
            (2, vec![]),
        ] {
            deliver(&mut bench, n);
            assert_eq!(ranges(&mut bench), missing, "after {n}");
        }
    }

    #[test]
    fn a_site_says_what_is_new_at_once_and_all_of_it_every_five_minutes() {
        let mut bench = Bench::new(AuditRole::default());
        let body = |version: &str, last_seq: u64| {
            json!({
                "roles": ["audit"], "version": version, "configDigest": "d", "producers": [],
                "queues": [{ "queue": "audit-queue", "depth": last_seq, "oldestAgeSeconds": 0 }],
                "archive": { "identity": 7, "firstSeq": 1, "lastSeq": last_seq },
            })
        };
        let node = Actor::System("node".to_owned());
        let mut said = |version: &str, last_seq, minutes: i64| {
            bench.now = Ts::from_ms(bench.now.ms() + minutes * 60_000);
            let done = bench.command(&node, "site.report", body(version, last_seq));
            done.expect("done").1.len()
        };
        assert_eq!(said("1", 5, 0), 1);
        assert_eq!(said("1", 9, 4), 0, "more of the same");
        assert_eq!(said("1", 9, 1), 1, "five minutes");
        assert_eq!(said("2", 9, 1), 1, "another version");
        assert_eq!(said("2", 9, 1), 0);
    }

    #[test]
    fn gaps_lie_before_and_between_what_came() {
        let ranges = [
            range("incident", "a", 1, 3),
            range("incident", "a", 6, 9),
            range("incident", "b", 2, 2),
            range("vendor", "a", 1, 1),
        ];
        let found: Vec<_> = gaps(&ranges)
            .into_iter()
            .map(|gap| (gap.role, gap.epoch, gap.from, gap.to))
            .collect();
        let gap = |role: &str, epoch: &str, from, to| (role.to_owned(), epoch.to_owned(), from, to);
        assert_eq!(
            found,
            [gap("incident", "a", 4, 5), gap("incident", "b", 1, 1)]
        );
    }

    #[test]
    fn the_reason_is_what_the_site_still_has() {
        let gap = Missing {
            role: "incident".to_owned(),
            epoch: "a".to_owned(),
            from: 4,
            to: 5,
            since: None,
            reason: String::new(),
        };
        assert_eq!(reason(&gap, None), "unknown");
        for (report, expected) in [
            (report(40, "a", 6), "expired"),
            (report(40, "a", 0), "expired"),
            (report(1, "a", 6), "recreated"),
            (report(1, "b", 1), "recreated"),
            (report(40, "a", 5), "rolled_back"),
            (report(1, "a", 1), "rolled_back"),
        ] {
            assert_eq!(reason(&gap, Some(&report)), expected, "{report:?}");
        }
    }
}
