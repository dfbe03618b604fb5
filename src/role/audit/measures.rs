//! What the node measured, and which alarms it raises or clears (DOMAIN 4.4). A role sees no broker: `node::measure` looks
//! every `audit.alarm_period` and hands the numbers over by the command `alarm.measured`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::standing;
use crate::event::{AlarmSeverity, Ts};
use crate::role::alarm::{self, Alarm};
use crate::role::{Command, HandlerError, NoBody, Timer};
use crate::store::{Error, Tx, params};

/// How often in a row a measure had no value.
pub(super) const MIGRATION: &str = "
CREATE TABLE silence (subject TEXT PRIMARY KEY, periods INTEGER NOT NULL) WITHOUT ROWID;
";

/// When was measured last, and how often that is to be.
pub(super) const LAST_MIGRATION: &str = "
CREATE TABLE measured (one INTEGER PRIMARY KEY CHECK (one = 1), at_ms INTEGER NOT NULL, period_seconds INTEGER NOT NULL);
";

/// The command that the node gives.
pub const MEASURED: &str = "alarm.measured";
/// Any letter is one too many.
const LETTERS_MAX: f64 = 0.0;
/// Seconds that the oldest event of a queue may wait.
const AGE_MAX_SECONDS: f64 = 300.0;
/// Failed handler runs of a queue in 60 s.
const FAILED_MAX: f64 = 10.0;
/// Days that a certificate is to be good for.
const EXPIRY_DAYS: f64 = 30.0;
/// Periods in a row without a value.
pub const SILENT_PERIODS: i64 = 3;
/// The timer that notices when nobody measures any more, and what its alarm is about.
const MEASURING: &str = "measuring";

/// What was measured of all queues.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Measured {
    /// From one look to the next.
    pub period_seconds: u64,
    /// Queue by queue.
    pub queues: Vec<QueueMeasure>,
    /// Each certificate that the site uses.
    #[serde(default)]
    pub certificates: Vec<CertificateMeasure>,
}

/// How long a certificate is good for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateMeasure {
    /// The key that names it, `tls.cert_file`.
    pub certificate: String,
    /// Whole days, below 0 when it has expired; nothing where it can't be read.
    pub days_left: Option<i64>,
}

/// What was measured of a queue. Nothing means that there was no value, which is not zero.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QueueMeasure {
    /// The queue.
    pub queue: String,
    /// Letters that are neither redriven nor purged.
    pub dead_letters: Option<u64>,
    /// Age of the oldest event without an outcome, seconds; 0 when all have one.
    pub oldest_age_seconds: Option<u64>,
    /// Failed handler runs in the last 60 s.
    pub failed: Option<u64>,
    /// Events handled late since the look before.
    pub late: Option<u64>,
    /// Whether the archive's age limit took an event that the queue had not handled, since the look before.
    #[serde(default)]
    pub lost: bool,
}

/// Raises and clears.
pub(super) fn measured(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let measured: Measured = command.parse()?;
    for queue in &measured.queues {
        judge(tx, queue)?;
    }
    for certificate in &measured.certificates {
        expires(tx, certificate)?;
    }
    clear(tx, "no-data", MEASURING, 0.0)?;
    let now_ms = tx.now().ms();
    tx.execute(
        "INSERT INTO measured (one, at_ms, period_seconds) VALUES (1, ?1, ?2)
         ON CONFLICT (one) DO UPDATE SET at_ms = ?1, period_seconds = ?2",
        params![now_ms, measured.period_seconds as i64],
    )?;
    let wait_ms = measured.period_seconds as i64 * SILENT_PERIODS * 1000;
    let due = Ts::from_ms(now_ms + wait_ms);
    tx.schedule(due, MEASURING, "next", &Value::Null)?;
    tx.reply(&NoBody {}).map_err(Into::into)
}

/// The last measurement: when, and the seconds from one to the next.
pub(super) fn last(tx: &Tx<'_>) -> Result<Option<(Ts, u64)>, Error> {
    let at_ms: Option<i64> = tx.value("SELECT at_ms FROM measured", ())?;
    let period: Option<i64> = tx.value("SELECT period_seconds FROM measured", ())?;
    Ok(at_ms
        .zip(period)
        .map(|(at_ms, period)| (Ts::from_ms(at_ms), period.unsigned_abs())))
}

fn judge(tx: &mut Tx<'_>, measure: &QueueMeasure) -> Result<(), Error> {
    let queue = measure.queue.as_str();
    let critical = AlarmSeverity::Critical;
    let values = [
        ("dead-letters", measure.dead_letters, LETTERS_MAX, critical),
        (
            "queue-age",
            measure.oldest_age_seconds,
            AGE_MAX_SECONDS,
            critical,
        ),
        ("failed-deliveries", measure.failed, FAILED_MAX, critical),
        ("late-events", measure.late, 0.0, AlarmSeverity::Warning),
    ];
    for (name, value, threshold, severity) in values {
        // Without a value nothing is known: neither raised nor cleared.
        let Some(value) = value.map(|value| value as f64) else {
            continue;
        };
        if value > threshold {
            raise(tx, name, severity, queue, value, threshold)?;
        } else {
            clear(tx, name, queue, value)?;
        }
    }
    if measure.lost {
        // No later look makes this good: it stays until a person acknowledges it.
        raise(tx, "retention-loss", critical, queue, 1.0, 0.0)?;
    }
    let silent = values.iter().any(|(_, value, ..)| value.is_none());
    silence(tx, queue, silent)
}

/// Soon, and that it has: the one is a warning that somebody has time for, the other cuts links.
fn expires(tx: &mut Tx<'_>, measure: &CertificateMeasure) -> Result<(), Error> {
    let subject = measure.certificate.as_str();
    let Some(days) = measure.days_left.map(|days| days as f64) else {
        return silence(tx, subject, true);
    };
    let alarms = [
        ("certificate-expiry", AlarmSeverity::Warning, EXPIRY_DAYS),
        ("certificate-expired", AlarmSeverity::Critical, 0.0),
    ];
    for (name, severity, least) in alarms {
        if days < least {
            raise(tx, name, severity, subject, days, least)?;
        } else {
            clear(tx, name, subject, days)?;
        }
    }
    silence(tx, subject, false)
}

/// Counts periods without a value; a value begins anew.
fn silence(tx: &mut Tx<'_>, subject: &str, silent: bool) -> Result<(), Error> {
    if !silent {
        tx.execute("DELETE FROM silence WHERE subject = ?1", params![subject])?;
        return clear(tx, "no-data", subject, 0.0);
    }
    tx.execute(
        "INSERT INTO silence (subject, periods) VALUES (?1, 1)
         ON CONFLICT (subject) DO UPDATE SET periods = periods + 1",
        params![subject],
    )?;
    let periods: Option<i64> = tx.value(
        "SELECT periods FROM silence WHERE subject = ?1",
        params![subject],
    )?;
    match periods {
        Some(periods) if periods >= SILENT_PERIODS => no_data(tx, subject, periods as f64),
        _ => Ok(()),
    }
}

/// Nobody measured for as long as three periods: silence is no health.
pub(super) fn due(tx: &mut Tx<'_>, timer: &Timer) -> Result<(), HandlerError> {
    if timer.kind == MEASURING {
        no_data(tx, MEASURING, SILENT_PERIODS as f64)?;
    }
    Ok(())
}

fn no_data(tx: &mut Tx<'_>, subject: &str, periods: f64) -> Result<(), Error> {
    let threshold = SILENT_PERIODS as f64;
    raise(
        tx,
        "no-data",
        AlarmSeverity::Critical,
        subject,
        periods,
        threshold,
    )
}

fn raise(
    tx: &mut Tx<'_>,
    name: &'static str,
    severity: AlarmSeverity,
    subject: &str,
    value: f64,
    threshold: f64,
) -> Result<(), Error> {
    let alarm = Alarm {
        name,
        severity,
        subject: subject.to_owned(),
        value,
        threshold,
    };
    alarm::raise(tx, &alarm)?;
    standing::measured(tx, &alarm)
}

pub(super) fn clear(
    tx: &mut Tx<'_>,
    name: &'static str,
    subject: &str,
    value: f64,
) -> Result<(), Error> {
    alarm::clear(tx, name, subject, value)?;
    let (site, now) = (tx.site().clone(), tx.now());
    standing::lowered(tx, site.as_str(), name, subject, now)
}
