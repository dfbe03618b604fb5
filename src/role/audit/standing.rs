//! Which alarms are raised now, of every role and site: this role's own as it raises them, the others' as their events
//! tell, in any order. So `alarm.list` answers also while nobody delivers notifications (DOMAIN 4.4).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{measures, webhook};
use crate::event::{AlarmCleared, AlarmRaised, AlarmSeverity, Event, Ts};
use crate::role::alarm::Alarm;
use crate::role::{Code, Command, HandlerError, NoBody, Rejection};
use crate::store::{Error, Tx, params};

/// One row per alarm that was ever raised; `changed_ms` orders what is said of it.
pub(super) const MIGRATION: &str = "
CREATE TABLE standing (
    site TEXT NOT NULL,
    name TEXT NOT NULL,
    subject TEXT NOT NULL,
    raised INTEGER NOT NULL,
    changed_ms INTEGER NOT NULL,
    severity TEXT NOT NULL,
    value REAL NOT NULL,
    threshold REAL NOT NULL,
    since_ms INTEGER NOT NULL,
    acknowledged_by TEXT,
    acknowledged_ms INTEGER,
    PRIMARY KEY (site, name, subject)
) WITHOUT ROWID;
";

struct Raised<'a> {
    site: &'a str,
    name: &'a str,
    subject: &'a str,
    severity: AlarmSeverity,
    value: f64,
    threshold: f64,
    since: Ts,
}

/// This role's own: raised, or still raised with another value.
pub(super) fn measured(tx: &mut Tx<'_>, alarm: &Alarm) -> Result<(), Error> {
    let (site, now) = (tx.site().clone(), tx.now());
    let known: Option<i64> = tx.value(
        "SELECT since_ms FROM alarm WHERE name = ?1 AND subject = ?2",
        params![alarm.name, alarm.subject],
    )?;
    let raised = Raised {
        site: site.as_str(),
        name: alarm.name,
        subject: &alarm.subject,
        severity: alarm.severity,
        value: alarm.value,
        threshold: alarm.threshold,
        since: known.map_or(now, Ts::from_ms),
    };
    put(tx, &raised, now)
}

/// An alarm that an event tells of. The event's own time decides what is newer.
pub(super) fn told_raised(
    tx: &mut Tx<'_>,
    event: &Event,
    alarm: &AlarmRaised,
) -> Result<(), Error> {
    let raised = Raised {
        site: event.site.as_str(),
        name: alarm.alarm_name.as_str(),
        subject: alarm.subject.as_str(),
        severity: alarm.severity,
        value: alarm.value,
        threshold: alarm.threshold,
        since: alarm.since,
    };
    put(tx, &raised, event.time)
}

/// The end of one that an event tells of.
pub(super) fn told_cleared(
    tx: &mut Tx<'_>,
    event: &Event,
    alarm: &AlarmCleared,
) -> Result<(), Error> {
    let (name, subject) = (alarm.alarm_name.as_str(), alarm.subject.as_str());
    lowered(tx, event.site.as_str(), name, subject, event.time)
}

fn put(tx: &mut Tx<'_>, raised: &Raised<'_>, at: Ts) -> Result<(), Error> {
    // A new raise has to be acknowledged anew; a word of the same one has not.
    tx.execute(
        "INSERT INTO standing (site, name, subject, raised, changed_ms, severity, value, threshold, since_ms)
         VALUES (?1, ?2, ?3, 1, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (site, name, subject) DO UPDATE SET
           raised = 1, changed_ms = ?4, severity = ?5, value = ?6, threshold = ?7, since_ms = ?8,
           acknowledged_by = CASE WHEN raised = 1 THEN acknowledged_by END,
           acknowledged_ms = CASE WHEN raised = 1 THEN acknowledged_ms END
         WHERE ?4 > changed_ms",
        params![
            raised.site,
            raised.name,
            raised.subject,
            at.ms(),
            raised.severity.as_str(),
            raised.value,
            raised.threshold,
            raised.since.ms()
        ],
    )?;
    Ok(())
}

/// Not raised any more, as of `at`. One that is not known yet is noted too: its raise may come later.
pub(super) fn lowered(
    tx: &mut Tx<'_>,
    site: &str,
    name: &str,
    subject: &str,
    at: Ts,
) -> Result<(), Error> {
    let raised: Option<i64> = tx.value(
        "SELECT raised FROM standing WHERE site = ?1 AND name = ?2 AND subject = ?3",
        params![site, name, subject],
    )?;
    // A measure that is fine says so every time; what is new in that is nothing.
    if raised == Some(0) || (raised.is_none() && site == tx.site().as_str() && at == tx.now()) {
        return Ok(());
    }
    tx.execute(
        "INSERT INTO standing (site, name, subject, raised, changed_ms, severity, value, threshold, since_ms)
         VALUES (?1, ?2, ?3, 0, ?4, 'warning', 0, 0, ?4)
         ON CONFLICT (site, name, subject) DO UPDATE SET raised = 0, changed_ms = ?4 WHERE ?4 >= changed_ms",
        params![site, name, subject, at.ms()],
    )?;
    Ok(())
}

/// A raised alarm.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Alarm")]
pub(super) struct Told {
    site: String,
    alarm_name: String,
    subject: String,
    severity: String,
    since: Ts,
    value: f64,
    threshold: f64,
    acknowledged_by: Option<String>,
}

/// What `alarm.list` answers: silence is not health, so it says how old what it knows is.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Alarms")]
pub(super) struct Listed {
    /// All that are raised, the worst and oldest first.
    items: Vec<Told>,
    /// When queues, letters and counts were measured last; absent before the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    measured_at: Option<Ts>,
    /// How long ago that was, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
    /// Seconds from one measurement to the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    period_seconds: Option<u64>,
    /// Whether three periods passed without a measurement, or there was none yet.
    stale: bool,
    /// How many raised or cleared alarms the webhook has not taken yet.
    webhook_waiting: u64,
}

/// How many alarms somebody has seen.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "AlarmsAcknowledged")]
pub(super) struct Acknowledged {
    alarm_name: String,
    acknowledged: usize,
}

/// A raised alarm, as it is stored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    site: String,
    alarm_name: String,
    subject: String,
    severity: String,
    since_ms: i64,
    value: f64,
    threshold: f64,
    acknowledged_by: Option<String>,
}

/// `alarm.list`: all that are raised, the worst and oldest first.
pub(super) fn list(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let NoBody {} = command.parse()?;
    let rows: Vec<Shown> = tx.documents(
        "SELECT json_object('site', site, 'alarmName', name, 'subject', subject, 'severity', severity, 'sinceMs', since_ms,
           'value', value, 'threshold', threshold, 'acknowledgedBy', acknowledged_by)
         FROM standing WHERE raised = 1 ORDER BY severity, since_ms, name, subject",
        (),
    )?;
    let items: Vec<Told> = rows
        .into_iter()
        .map(|row| Told {
            site: row.site,
            alarm_name: row.alarm_name,
            subject: row.subject,
            severity: row.severity,
            since: Ts::from_ms(row.since_ms),
            value: row.value,
            threshold: row.threshold,
            acknowledged_by: row.acknowledged_by,
        })
        .collect();
    let last = measures::last(tx)?;
    let age_ms = last.map(|(at, _)| (tx.now().ms() - at.ms()).max(0).unsigned_abs());
    let silent_ms = 1000 * measures::SILENT_PERIODS.unsigned_abs();
    let stale = last
        .zip(age_ms)
        .is_none_or(|((_, period), age_ms)| age_ms > period * silent_ms);
    let listed = Listed {
        items,
        measured_at: last.map(|(at, _)| at),
        age_seconds: age_ms.map(|ms| ms / 1000),
        period_seconds: last.map(|(_, period)| period),
        stale,
        webhook_waiting: webhook::waiting(tx)?,
    };
    tx.reply(&listed).map_err(Into::into)
}

/// `alarm.acknowledge`: somebody has seen it.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Acknowledge {
    alarm_name: String,
    /// What it is about; where it is absent, every raised one of this name.
    subject: Option<String>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

pub(super) fn acknowledge(tx: &mut Tx<'_>, command: &Command) -> Result<String, HandlerError> {
    let acknowledge: Acknowledge = command.parse()?;
    let name = acknowledge.alarm_name;
    let seen = tx.execute(
        "UPDATE standing SET acknowledged_by = coalesce(acknowledged_by, ?3), acknowledged_ms = coalesce(acknowledged_ms, ?4)
         WHERE raised = 1 AND name = ?1 AND (?2 IS NULL OR subject = ?2)",
        params![name, acknowledge.subject, command.actor().to_string(), tx.now().ms()],
    )?;
    if seen == 0 {
        let message = format!("no alarm '{name}' is raised about that");
        return Err(Rejection::new(Code::NotFound, message).into());
    }
    if name == "retention-loss" {
        // What is lost is lost: having been seen is how this one ends.
        let subjects: Vec<String> = tx.documents(
            "SELECT json_quote(subject) FROM alarm WHERE name = ?1 AND (?2 IS NULL OR subject = ?2)",
            params![name, acknowledge.subject],
        )?;
        for subject in subjects {
            measures::clear(tx, "retention-loss", &subject, 0.0)?;
        }
    }
    tx.reply(&Acknowledged {
        alarm_name: name.clone(),
        acknowledged: seen,
    })?;
    Ok(format!("alarmName/{name}"))
}
