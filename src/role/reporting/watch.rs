//! The alarms `time-to-assign` and `acceptance-rate` (DOMAIN 4.4): two successive whole windows over the line.
//!
//! A window is looked at when it ends, if anything of it was measured; silence is neither bad nor healthy, so it changes
//! nothing.

use serde_json::Value;

use crate::event::{AlarmSeverity, Known, Ts};
use crate::role::HandlerError;
use crate::role::alarm::{self, Alarm};
use crate::store::{Tx, params};

/// The timer at the end of a window; its key is the alarm's name.
pub(super) const TIMER: &str = "window";

/// What the role's tables need for it.
pub(super) const MIGRATION: &str = "
CREATE INDEX assignment_at ON assignment (at_ms);
CREATE INDEX offer_step_at ON offer_step (at_ms);
";

struct Measure {
    alarm: &'static str,
    window_ms: i64,
    threshold: f64,
    /// Whether more than the threshold is bad; else less is.
    over: bool,
    /// Selects the mean of the window from `?1` to before `?2`, `NULL` where nothing was measured.
    sql: &'static str,
}

const MEASURES: [Measure; 2] = [
    Measure {
        alarm: "time-to-assign",
        window_ms: 5 * 60_000,
        threshold: 60.0,
        over: true,
        sql: "SELECT avg((a.at_ms - i.created_at_ms) / 1000.0) FROM assignment a JOIN incident i USING (incident_id)
              WHERE a.at_ms >= ?1 AND a.at_ms < ?2 AND i.created_at_ms IS NOT NULL AND NOT EXISTS (
                  SELECT 1 FROM assignment b WHERE b.incident_id = a.incident_id AND b.at_ms < a.at_ms)",
    },
    Measure {
        alarm: "acceptance-rate",
        window_ms: 15 * 60_000,
        threshold: 0.5,
        over: false,
        sql: "SELECT avg(status = 'accepted') FROM offer_step
              WHERE at_ms >= ?1 AND at_ms < ?2 AND status IN ('accepted', 'declined', 'expired')",
    },
];

/// What the alarms are about: the whole site.
const SUBJECT: &str = "site";

/// Has the window of an event looked at when it ends. Only for what happens now: a replay tells of other times.
pub(super) fn note(tx: &mut Tx<'_>, known: &Known) -> Result<(), HandlerError> {
    let alarm = match known {
        Known::IncidentAssigned(_) => "time-to-assign",
        Known::OfferAccepted(_) | Known::OfferDeclined(_) | Known::OfferExpired(_) => {
            "acceptance-rate"
        }
        _ => return Ok(()),
    };
    let Some(measure) = measure(alarm) else {
        return Ok(());
    };
    let now_ms = tx.now().ms();
    let end_ms = now_ms - now_ms.rem_euclid(measure.window_ms) + measure.window_ms;
    tx.schedule(Ts::from_ms(end_ms), TIMER, alarm, &Value::Null)?;
    Ok(())
}

fn measure(alarm: &str) -> Option<&'static Measure> {
    MEASURES.iter().find(|measure| measure.alarm == alarm)
}

/// A window ended.
pub(super) fn look(tx: &mut Tx<'_>, alarm: &str, due: Ts) -> Result<(), HandlerError> {
    let Some(measure) = measure(alarm) else {
        return Ok(());
    };
    let end_ms = due.ms();
    let mean = |tx: &Tx<'_>, from_ms: i64| -> Result<Option<f64>, HandlerError> {
        let to_ms = from_ms + measure.window_ms;
        let found: Option<Option<f64>> = tx.value(measure.sql, params![from_ms, to_ms])?;
        Ok(found.flatten())
    };
    let last = mean(tx, end_ms - measure.window_ms)?;
    let before = mean(tx, end_ms - 2 * measure.window_ms)?;
    let bad = |mean: f64| {
        if measure.over {
            mean > measure.threshold
        } else {
            mean < measure.threshold
        }
    };
    match (before, last) {
        (_, Some(now)) if !bad(now) => {
            alarm::clear(tx, measure.alarm, SUBJECT, now)?;
        }
        (Some(before), Some(now)) if bad(before) => {
            let raised = Alarm {
                name: measure.alarm,
                severity: AlarmSeverity::Warning,
                subject: SUBJECT.to_owned(),
                value: now,
                threshold: measure.threshold,
            };
            alarm::raise(tx, &raised)?;
        }
        _ => {}
    }
    Ok(())
}
