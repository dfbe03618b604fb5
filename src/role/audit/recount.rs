//! The sync ledger counted anew (DESIGN 8): an archive that was set back to an older copy, or made anew, no longer has what the
//! ledger says that came. The role sees that the archive is behind where it was; `node::resend` looks at what it has.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::{ArchiveReport, Ts};
use crate::role::{Command, HandlerError, NoBody};
use crate::store::{Error, Tx, params};

/// What this site's archive was, so that one that was set back or made anew is seen, and since when the ledger waits to be
/// counted anew for that.
pub(super) const MIGRATION: &str = "
CREATE TABLE own_archive (
    one INTEGER PRIMARY KEY CHECK (one = 1), identity INTEGER NOT NULL, last_seq INTEGER NOT NULL, set_back_ms INTEGER
);
";

/// Since when the ledger waits to be counted anew, if it does.
pub(super) fn set_back_at(tx: &Tx<'_>) -> Result<Option<Ts>, Error> {
    let at: Option<i64> = tx.value(
        "SELECT set_back_ms FROM own_archive WHERE set_back_ms IS NOT NULL",
        [],
    )?;
    Ok(at.map(Ts::from_ms))
}

/// Notes where this site's archive is; one that is behind where it was, or another one, was set back or made anew.
pub(super) fn own_archive(tx: &mut Tx<'_>, archive: &ArchiveReport) -> Result<(), Error> {
    let as_i64 = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let (identity, last_seq) = (as_i64(archive.identity), as_i64(archive.last_seq));
    tx.execute(
        "INSERT INTO own_archive (one, identity, last_seq) VALUES (1, ?1, ?2)
         ON CONFLICT (one) DO UPDATE SET identity = ?1, last_seq = ?2,
           set_back_ms = CASE WHEN identity <> ?1 OR last_seq > ?2 THEN ?3 ELSE set_back_ms END",
        params![identity, last_seq, tx.now().ms()],
    )?;
    Ok(())
}

/// Counts anew what came: what an archive that was set back or made anew really has.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "SiteRecount")]
pub struct Recount {
    /// Whether what was noted before is forgotten; else this is added.
    pub afresh: bool,
    /// What the archive has.
    pub found: Vec<Found>,
}

/// Events that an archive has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "EventsFound")]
pub struct Found {
    /// Whose.
    pub site: String,
    /// The role that made them.
    pub role: String,
    /// Which life of its database.
    pub epoch: String,
    /// The first.
    pub from: u64,
    /// The last.
    pub to: u64,
    /// When the newest was made.
    pub at: Ts,
}

/// The command that counts anew.
pub const RECOUNT: &str = "site.recount";

/// `site.recount`.
pub(super) fn recount(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let Recount { afresh, found } = command.parse()?;
    if afresh {
        tx.execute("DELETE FROM heard", ())?;
        tx.execute("UPDATE own_archive SET set_back_ms = NULL", ())?;
    }
    for found in &found {
        came(tx, found)?;
    }
    tx.reply(&NoBody {}).map_err(Into::into)
}

/// Notes a whole range, together with those that it meets.
fn came(tx: &mut Tx<'_>, found: &Found) -> Result<(), Error> {
    let as_i64 = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let (site, role, epoch) = (&found.site, &found.role, &found.epoch);
    let (from, to) = (as_i64(found.from), as_i64(found.to));
    let met: Vec<(Option<i64>, Option<i64>)> = tx.documents(
        "SELECT json_array(min(from_n), max(to_n)) FROM heard
         WHERE site = ?1 AND role = ?2 AND epoch = ?3 AND from_n <= ?5 + 1 AND to_n >= ?4 - 1",
        params![site, role, epoch, from, to],
    )?;
    let (low, high) = met.into_iter().next().unwrap_or_default();
    tx.execute(
        "DELETE FROM heard WHERE site = ?1 AND role = ?2 AND epoch = ?3 AND from_n <= ?5 + 1 AND to_n >= ?4 - 1",
        params![site, role, epoch, from, to],
    )?;
    tx.execute(
        "INSERT INTO heard (site, role, epoch, from_n, to_n, at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            site,
            role,
            epoch,
            low.map_or(from, |low| low.min(from)),
            high.map_or(to, |high| high.max(to)),
            found.at.ms()
        ],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::event::Actor;
    use crate::role::audit::AuditRole;
    use crate::role::audit::sync::tests::{deliver, ranges};
    use crate::role::testing::Bench;

    #[test]
    fn an_archive_that_is_behind_where_it_was_is_counted_anew() {
        let mut bench = Bench::new(AuditRole::default());
        for n in 1..=5 {
            deliver(&mut bench, n);
        }
        let node = Actor::System("node".to_owned());
        let report = |identity: u64, last_seq: u64| {
            json!({
                "roles": ["audit"], "version": "1", "configDigest": "d", "producers": [], "queues": [],
                "archive": { "identity": identity, "firstSeq": 1, "lastSeq": last_seq },
            })
        };
        let set_back = |bench: &mut Bench<AuditRole>| {
            let asked = bench.command(&Actor::Operator("olga".to_owned()), "site.list", json!({}));
            !asked.expect("answered").0["items"][0]["setBackAt"].is_null()
        };
        for (identity, last_seq, expected) in [
            (7, 5, false),
            (7, 5, false),
            (7, 9, false),
            (7, 8, true),
            (7, 20, true),
        ] {
            let said = bench.command(&node, "site.report", report(identity, last_seq));
            said.expect("done");
            assert_eq!(set_back(&mut bench), expected, "{last_seq}");
        }
        let found = |from: u64, to: u64| json!({ "site": "hub", "role": "audit", "epoch": "a", "from": from, "to": to, "at": bench_time() });
        let counted = json!({ "afresh": true, "found": [found(1, 2), found(4, 4)] });
        bench.command(&node, RECOUNT, counted).expect("done");
        assert!(!set_back(&mut bench));
        assert_eq!(ranges(&mut bench), [(3, 3)]);
        // What came while it was counted is added, and meets what is there.
        for (more, missing) in [
            (found(6, 9), vec![(3, 3), (5, 5)]),
            (found(7, 8), vec![(3, 3), (5, 5)]),
            (found(3, 5), vec![]),
        ] {
            let more = json!({ "afresh": false, "found": [more] });
            bench.command(&node, RECOUNT, more).expect("done");
            assert_eq!(ranges(&mut bench), missing);
        }
        // Another archive.
        bench
            .command(&node, "site.report", report(8, 30))
            .expect("done");
        assert!(set_back(&mut bench));
    }

    fn bench_time() -> Ts {
        Ts::from_ms(1_700_000_000_000)
    }
}
