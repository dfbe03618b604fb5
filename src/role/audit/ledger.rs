//! The ledger (DOMAIN 5.12): rows that are only ever added, each with a hash over the one before and itself, so that a row
//! that was altered, taken out or moved shows. `ledger_head` names the last one, so that a shortened ledger shows too.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::event::{Event, Known, LedgerReport, List, Source, Text, Ts};
use crate::role::{Command, HandlerError, NoBody, Rejection};
use crate::store::{Error, Tx, params};

/// The rows and the head.
pub(super) const MIGRATION: &str = "
CREATE TABLE ledger (
    seq INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    event_id TEXT UNIQUE,
    hash TEXT NOT NULL
);
CREATE TABLE ledger_head (id INTEGER PRIMARY KEY CHECK (id = 1), seq INTEGER NOT NULL, hash TEXT NOT NULL);
";

/// What the first row's hash is over, in the place of a row before it.
const GENESIS: &str = "roadcall-ledger-1";
/// Rows that a check reads at a time.
const PAGE: u64 = 1000;
/// Findings that a check names at the most; it counts them all.
const NAMED_MAX: usize = 100;
/// Rows in one export at the most.
const EXPORT_MAX: u64 = 1000;
/// Fields of events that say who did it, the first that is there counts.
const ACTORS: [&str; 10] = [
    "approvedBy",
    "rejectedBy",
    "refundedBy",
    "updatedBy",
    "accessedBy",
    "requestedBy",
    "startedBy",
    "cancelledBy",
    "redrivenBy",
    "purgedBy",
];

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    seq: u64,
    at_ms: i64,
    actor: String,
    action: String,
    subject: String,
    event_id: Option<String>,
    hash: String,
}

impl Row {
    /// SHA-256, in hex, over the hash before and what the row says. A JSON array keeps the fields apart.
    fn hash_after(&self, previous: &str) -> String {
        let said = json!([
            previous,
            self.seq,
            self.at_ms,
            self.actor,
            self.action,
            self.subject,
            self.event_id
        ]);
        let digest = Sha256::digest(said.to_string().as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn told(self) -> LedgerRow {
        LedgerRow {
            seq: self.seq,
            at: Ts::from_ms(self.at_ms),
            actor: self.actor,
            action: self.action,
            subject: self.subject,
            event_id: self.event_id,
            hash: self.hash,
        }
    }
}

/// A row as it is told.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct LedgerRow {
    seq: u64,
    at: Ts,
    actor: String,
    action: String,
    subject: String,
    /// The event that said it; a command of the audit role has none.
    event_id: Option<String>,
    /// Over the hash of the row before and what this one says.
    hash: String,
}

const COLUMNS: &str = "SELECT json_object('seq', seq, 'atMs', at_ms, 'actor', actor, 'action', action, 'subject', subject,
     'eventId', event_id, 'hash', hash) FROM ledger";

/// Whether the ledger has events of this kind (DOMAIN 5.12): ops events, approvals, reviews, rejections, refunds,
/// configuration changes, PII access, changes of users, erasures.
fn belongs(event: &Event) -> bool {
    event.source == Source::Ops
        || matches!(
            event.known(),
            Some(
                Known::PaymentApproved(_)
                    | Known::PaymentRejected(_)
                    | Known::PaymentRefunded(_)
                    | Known::ConfigurationChanged(_)
                    | Known::PiiAccessed(_)
                    | Known::UserRegistered(_)
                    | Known::UserVerified(_)
                    | Known::UserUpdated(_)
                    | Known::UserDataDeleted(_)
            )
        )
}

/// Appends what an event says, once, if it is one of the ledger's.
pub(super) fn event(tx: &mut Tx<'_>, event: &Event) -> Result<(), Error> {
    if !belongs(event) {
        return Ok(());
    }
    let said = |name: &str| event.detail.get(name).and_then(Value::as_str);
    let service = event.source.service();
    let actor = ACTORS.iter().find_map(|name| said(name));
    let actor = actor.map_or_else(|| format!("system:{service}"), str::to_owned);
    let subject = match said("paymentId") {
        Some(payment) => format!("payment/{payment}"),
        None => {
            let field = crate::event::lookup(&event.detail_type).map(|row| row.entity_field);
            let kind = field.map_or("entity", |field| field.trim_end_matches("Id"));
            format!("{kind}/{}", event.entity())
        }
    };
    let id = event.id.to_string();
    append(tx, actor, &event.detail_type, subject, Some(id))
}

/// Appends a command of this role that changed something. Who sat at the machine is shown beside who was acted for
/// (DOMAIN 1.2, operator).
pub(super) fn command(tx: &mut Tx<'_>, command: &Command, subject: &str) -> Result<(), Error> {
    let mut actor = command.actor().to_string();
    if let Some(operator) = &command.caller.operator {
        actor.push_str(&format!(" by operator:{operator}"));
    }
    append(tx, actor, &command.name, subject.to_owned(), None)
}

/// Appends what this role itself did.
pub(super) fn said(tx: &mut Tx<'_>, action: &str, subject: &str) -> Result<(), Error> {
    append(
        tx,
        "system:audit".to_owned(),
        action,
        subject.to_owned(),
        None,
    )
}

/// The command by which the node tells what no event says.
pub const NOTE: &str = "ledger.note";

/// What somebody did that no event tells of: a call to JetStream's API that changed something, a command that was refused.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "LedgerNote")]
pub struct Note {
    /// Whoever says it twice is heard once.
    pub id: Text<128>,
    /// Who.
    pub actor: Text<128>,
    /// What.
    pub action: Text<128>,
    /// What it was about.
    pub subject: Text<256>,
}

/// The body of `ledger.note`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "LedgerNotes")]
pub struct Notes {
    /// In their order.
    pub notes: List<Note, 1, 100>,
}

/// `ledger.note`.
pub(super) fn note(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let Notes { notes } = command.parse()?;
    for note in notes.get() {
        let subject = note.subject.to_string();
        let id = Some(note.id.to_string());
        append(
            tx,
            note.actor.to_string(),
            note.action.as_str(),
            subject,
            id,
        )?;
    }
    tx.reply(&NoBody {}).map_err(Into::into)
}

/// Where the ledger ends, for the archive; nothing before its first row.
pub(super) fn anchor(tx: &Tx<'_>) -> Result<Option<LedgerReport>, Error> {
    let (seq, hash) = head(tx)?;
    let hash = Text::lossy(&hash);
    Ok((seq > 0).then_some(LedgerReport { seq, hash }))
}

fn append(
    tx: &mut Tx<'_>,
    actor: String,
    action: &str,
    subject: String,
    event_id: Option<String>,
) -> Result<(), Error> {
    let known: Option<i64> = tx.value(
        "SELECT seq FROM ledger WHERE event_id = ?1",
        params![event_id],
    )?;
    if known.is_some() {
        return Ok(());
    }
    let (last, previous) = head(tx)?;
    let mut row = Row {
        seq: last + 1,
        at_ms: tx.now().ms(),
        actor,
        action: action.to_owned(),
        subject,
        event_id,
        hash: String::new(),
    };
    row.hash = row.hash_after(&previous);
    tx.execute(
        "INSERT INTO ledger (seq, at_ms, actor, action, subject, event_id, hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![row.seq as i64, row.at_ms, row.actor, row.action, row.subject, row.event_id, row.hash],
    )?;
    tx.execute(
        "INSERT INTO ledger_head (id, seq, hash) VALUES (1, ?1, ?2) ON CONFLICT (id) DO UPDATE SET seq = ?1, hash = ?2",
        params![row.seq as i64, row.hash],
    )?;
    Ok(())
}

/// Sequence and hash of the last row that was added.
fn head(tx: &Tx<'_>) -> Result<(u64, String), Error> {
    let seq: Option<i64> = tx.value("SELECT seq FROM ledger_head", ())?;
    let hash: Option<String> = tx.value("SELECT hash FROM ledger_head", ())?;
    Ok((
        seq.map_or(0, i64::unsigned_abs),
        hash.unwrap_or_else(|| GENESIS.to_owned()),
    ))
}

fn rows(tx: &Tx<'_>, from_seq: u64, max: u64) -> Result<Vec<Row>, Error> {
    let sql = format!("{COLUMNS} WHERE seq >= ?1 ORDER BY seq LIMIT ?2");
    tx.documents(&sql, params![from_seq as i64, max as i64])
}

/// `audit.verify`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Verify {}

/// How the ledger stands.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "LedgerVerdict")]
pub(super) struct Verdict {
    ok: bool,
    rows: u64,
    last_seq: u64,
    last_hash: String,
    /// How many findings there are; the first hundred are named.
    wrong: u64,
    findings: Vec<Finding>,
}

/// What is wrong with a row.
#[derive(Serialize, JsonSchema)]
struct Finding {
    seq: u64,
    /// `missing`, or `altered or moved`.
    finding: String,
    detail: String,
}

/// Reads the whole ledger and names what is wrong with it, in the order of the rows.
pub(super) fn verify(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let Verify {} = command.parse()?;
    let mut findings = Vec::new();
    let (mut count, mut wrong) = (0_u64, 0_u64);
    let (mut last, mut previous) = (0_u64, GENESIS.to_owned());
    let mut find = |seq: u64, finding: &str, detail: String| {
        wrong += 1;
        if findings.len() < NAMED_MAX {
            findings.push(Finding {
                seq,
                finding: finding.to_owned(),
                detail,
            });
        }
    };
    loop {
        let page = rows(tx, last + 1, PAGE)?;
        let Some(end) = page.last().map(|row| row.seq) else {
            break;
        };
        for row in page {
            count += 1;
            if row.seq != last + 1 {
                let detail = format!("rows {} to {} are not there", last + 1, row.seq - 1);
                find(last + 1, "missing", detail);
            } else if row.hash_after(&previous) != row.hash {
                let detail = "its hash does not follow from the row before and what it says";
                find(row.seq, "altered or moved", detail.to_owned());
            }
            (last, previous) = (row.seq, row.hash);
        }
        last = end;
    }
    // Rows below 1 are none of ours: somebody put or moved them there.
    let below: Option<i64> = tx.value("SELECT seq FROM ledger WHERE seq < 1 LIMIT 1", ())?;
    if below.is_some() {
        find(
            0,
            "altered or moved",
            "a row has a number below 1".to_owned(),
        );
    }
    let (head_seq, head_hash) = head(tx)?;
    if head_seq > last {
        let detail = format!("rows {} to {head_seq} are not there", last + 1);
        find(last + 1, "missing", detail);
    } else if (head_seq, &head_hash) != (last, &previous) {
        let detail = "the last row is not the one that was added last";
        find(last, "altered or moved", detail.to_owned());
    }
    tx.reply(&Verdict {
        ok: wrong == 0,
        rows: count,
        last_seq: last,
        last_hash: previous,
        wrong,
        findings,
    })
    .map_err(Into::into)
}

/// `audit.export`: the ledger's rows in their order, a page at a time.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Export {
    /// The first one; the ledger's first where it is absent.
    from_seq: Option<u64>,
    /// Rows in the answer, 1 to 1000 (default 1000).
    limit: Option<u64>,
}

/// Rows in their order.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct LedgerPage {
    items: Vec<LedgerRow>,
    /// Where it goes on; nothing at the end.
    next_seq: Option<u64>,
}

pub(super) fn export(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let export: Export = command.parse()?;
    let limit = export.limit.unwrap_or(EXPORT_MAX);
    if !(1..=EXPORT_MAX).contains(&limit) {
        let message = format!("not a whole number from 1 to {EXPORT_MAX}");
        return Err(Rejection::field("limit", message).into());
    }
    let from_seq = export.from_seq.unwrap_or(1);
    if i64::try_from(from_seq).is_err() {
        return Err(Rejection::field("fromSeq", "is too large").into());
    }
    let found = rows(tx, from_seq, limit)?;
    let next_seq = found
        .last()
        .filter(|_| found.len() as u64 == limit)
        .map(|row| row.seq + 1);
    let items = found.into_iter().map(Row::told).collect();
    tx.reply(&LedgerPage { items, next_seq })
        .map_err(Into::into)
}
