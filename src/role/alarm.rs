//! Alarms of a role: raised once per (name, subject) until cleared, however often the condition is seen (DOMAIN 4.4).

use crate::event::{AlarmCleared, AlarmRaised, AlarmSeverity, Key, Text};
use crate::store::{Error, Tx, params};

/// The table behind it, for the migrations of a role that raises alarms.
pub const MIGRATION: &str = "
CREATE TABLE alarm (
    name TEXT NOT NULL,
    subject TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    PRIMARY KEY (name, subject)
) WITHOUT ROWID;
";

/// What is wrong, and how much of it there is.
#[derive(Debug, Clone)]
pub struct Alarm {
    /// The alarm, by its name in DOMAIN 4.4.
    pub name: &'static str,
    /// How bad it is.
    pub severity: AlarmSeverity,
    /// What it is about: a queue, a payment. No personal data.
    pub subject: String,
    /// What was measured.
    pub value: f64,
    /// What it was measured against.
    pub threshold: f64,
}

/// Raises the alarm unless it is raised; says whether it was new.
///
/// # Errors
/// A store error.
pub fn raise(tx: &mut Tx<'_>, alarm: &Alarm) -> Result<bool, Error> {
    let now = tx.now();
    let new = tx.execute(
        "INSERT INTO alarm (name, subject, since_ms) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        params![alarm.name, alarm.subject, now.ms()],
    )? > 0;
    if new {
        tx.emit(&AlarmRaised {
            alarm_name: name(alarm.name),
            severity: alarm.severity,
            subject: Text::lossy(&alarm.subject),
            value: alarm.value,
            threshold: alarm.threshold,
            since: now,
        })?;
    }
    Ok(new)
}

/// Clears the alarm if it is raised; says whether it was. `value` is what is measured now.
///
/// # Errors
/// A store error.
pub fn clear(
    tx: &mut Tx<'_>,
    alarm: &'static str,
    subject: &str,
    value: f64,
) -> Result<bool, Error> {
    let was = tx.execute(
        "DELETE FROM alarm WHERE name = ?1 AND subject = ?2",
        params![alarm, subject],
    )? > 0;
    if was {
        let cleared_at = tx.now();
        tx.emit(&AlarmCleared {
            alarm_name: name(alarm),
            subject: Text::lossy(subject),
            value,
            cleared_at,
        })?;
    }
    Ok(was)
}

fn name(word: &'static str) -> Key {
    Key::new(word).expect("an alarm's name is a key: DOMAIN 4.4 lists them")
}
