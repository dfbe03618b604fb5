//! The alarm `approval-backlog` (DOMAIN 4.4): more than 100 payments pending approval for 10 minutes.

use std::time::Duration;

use serde_json::Value;

use crate::event::AlarmSeverity;
use crate::role::HandlerError;
use crate::role::alarm::{self, Alarm};
use crate::store::{Error, Tx};

/// The timer that ends the ten minutes.
pub(super) const TIMER: &str = "backlog";
/// More than so many,
const PAYMENTS: i64 = 100;
/// for so long.
const FOR: Duration = Duration::from_secs(600);
const ALARM: &str = "approval-backlog";
/// What the alarm is about, and the timer's key: there is one such line.
const SUBJECT: &str = "payments";

/// Looks at how many wait; call it after a change of that number by one.
pub(super) fn watch(tx: &mut Tx<'_>, grew: bool) -> Result<(), Error> {
    let waiting = waiting(tx)?;
    if waiting <= PAYMENTS {
        tx.cancel_timer(TIMER, SUBJECT)?;
        alarm::clear(tx, ALARM, SUBJECT, waiting as f64)?;
    } else if grew && waiting == PAYMENTS + 1 {
        // Where a short line becomes a long one; from here on the ten minutes run until it is short again.
        let at = tx.now() + FOR;
        tx.schedule(at, TIMER, SUBJECT, &Value::Null)?;
    }
    Ok(())
}

/// The line has been long for ten minutes.
pub(super) fn lasts(tx: &mut Tx<'_>) -> Result<(), HandlerError> {
    let waiting = waiting(tx)?;
    if waiting > PAYMENTS {
        alarm::raise(
            tx,
            &Alarm {
                name: ALARM,
                severity: AlarmSeverity::Warning,
                subject: SUBJECT.to_owned(),
                value: waiting as f64,
                threshold: PAYMENTS as f64,
            },
        )?;
    }
    Ok(())
}

fn waiting(tx: &Tx<'_>) -> Result<i64, Error> {
    let sql = "SELECT count(*) FROM payment WHERE status = 'pending_approval'";
    Ok(tx.value(sql, ())?.unwrap_or(0))
}
