//! Alarms told to a webhook outside (DOMAIN 4.4): one call for each `AlarmRaised` and `AlarmCleared` of every role and site, under
//! the event's id, until the other end has taken it. One is on its way at a time, so that an end that is down is not asked by
//! all of them at once; what could not be told waits here, however long.

use serde_json::{Value, json};

use crate::event::{Event, Known, Ts};
use crate::role::{EffectResult, HandlerError};
use crate::store::{EffectCall, EffectClass, EffectOutcome, Error, Tx, params};

/// Kind of the call; a runner of this kind makes it.
pub const ALARM: &str = "alarm";
/// The timer for what waits.
pub(super) const TIMER: &str = "alarm-webhook";
/// From the first failure to the next try; each further wait is twice as long,
const WAIT_MS: i64 = 30_000;
/// at most this.
const WAIT_MAX_MS: i64 = 600_000;

/// What is still to be told.
pub(super) const MIGRATION: &str = "
CREATE TABLE alarm_call (
    event_id TEXT PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    due_ms INTEGER NOT NULL,
    tries INTEGER NOT NULL,
    flying INTEGER NOT NULL,
    body TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX alarm_call_due ON alarm_call (due_ms, at_ms, event_id);
";

/// Notes an alarm's event, if it is one, and tells it as soon as its turn comes. In a replay that stays inside nothing is told.
pub(super) fn heard(tx: &mut Tx<'_>, event: &Event) -> Result<(), Error> {
    let kind = match event.known() {
        Some(Known::AlarmRaised(_)) => "alarm.raised",
        Some(Known::AlarmCleared(_)) => "alarm.cleared",
        _ => return Ok(()),
    };
    if !tx.reaches_outside() {
        return Ok(());
    }
    let body = json!({
        "type": kind, "timestamp": event.time, "site": event.site, "eventId": event.id, "data": event.detail,
    });
    let now = tx.now();
    tx.execute(
        "INSERT INTO alarm_call (event_id, at_ms, due_ms, tries, flying, body) VALUES (?1, ?2, ?3, 0, 0, ?4)
         ON CONFLICT DO NOTHING",
        params![event.id.to_string(), event.time.ms(), now.ms(), body.to_string()],
    )?;
    pump(tx)
}

/// How many are still to be told.
pub(super) fn waiting(tx: &Tx<'_>) -> Result<u64, Error> {
    let count: Option<i64> = tx.value("SELECT count(*) FROM alarm_call", ())?;
    Ok(count.unwrap_or(0).unsigned_abs())
}

/// Asks for the call whose turn it is, unless one is on its way.
pub(super) fn pump(tx: &mut Tx<'_>) -> Result<(), Error> {
    let flying: Option<i64> = tx.value("SELECT 1 FROM alarm_call WHERE flying = 1 LIMIT 1", ())?;
    if flying.is_some() {
        return Ok(());
    }
    let first = "FROM alarm_call ORDER BY due_ms, at_ms, event_id LIMIT 1";
    let due_ms: Option<i64> = tx.value(&format!("SELECT due_ms {first}"), ())?;
    let Some(due_ms) = due_ms else {
        return Ok(());
    };
    if due_ms > tx.now().ms() {
        return tx.schedule(Ts::from_ms(due_ms), TIMER, "next", &Value::Null);
    }
    let key: Option<String> = tx.value(&format!("SELECT event_id {first}"), ())?;
    let body: Option<String> = tx.value(&format!("SELECT body {first}"), ())?;
    let (Some(key), Some(body)) = (key, body) else {
        return Ok(());
    };
    tx.execute(
        "UPDATE alarm_call SET flying = 1 WHERE event_id = ?1",
        params![key],
    )?;
    tx.effect(EffectCall {
        key,
        kind: ALARM.to_owned(),
        class: EffectClass::External,
        // A text, so that what is signed is what was written down, byte by byte.
        request: json!({ "body": body }),
        secret: None,
    })
}

/// What a call came to. Anything but a yes is tried again, under the same key: a refusal may end when somebody mends the address
/// or the secret, and an answer that got lost is told twice rather than not at all.
pub(super) fn on_result(tx: &mut Tx<'_>, result: &EffectResult) -> Result<(), HandlerError> {
    if matches!(result.outcome, EffectOutcome::Done(_)) {
        tx.execute(
            "DELETE FROM alarm_call WHERE event_id = ?1",
            params![result.key],
        )?;
        return Ok(pump(tx)?);
    }
    let tries: Option<i64> = tx.value(
        "SELECT tries FROM alarm_call WHERE event_id = ?1",
        params![result.key],
    )?;
    let tries = tries.unwrap_or(0) + 1;
    let due_ms = tx.now().ms() + wait_ms(tries);
    tx.execute(
        "UPDATE alarm_call SET flying = 0, tries = ?2, due_ms = ?3 WHERE event_id = ?1",
        params![result.key, tries, due_ms],
    )?;
    Ok(pump(tx)?)
}

/// How long to wait after so many tries.
fn wait_ms(tries: i64) -> i64 {
    let doublings = u32::try_from(tries - 1).unwrap_or(0).min(10);
    (WAIT_MS << doublings).min(WAIT_MAX_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_ten_minutes() {
        let waits = [1, 2, 5, 6, 400].map(wait_ms);
        assert_eq!(waits, [30_000, 60_000, 480_000, 600_000, 600_000]);
    }
}
