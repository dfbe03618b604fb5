//! Durable timers. One is named by (kind, key); setting it again moves it. One that was due while the box was off fires
//! once on start.

use rusqlite::params;
use serde_json::Value;

use super::tx::Origin;
use super::{Class, Error, Store};
use crate::event::Ts;

/// A timer that is due.
#[derive(Debug, Clone)]
pub struct DueTimer {
    /// The role's word for what it is for.
    pub kind: String,
    /// Which one of its kind.
    pub key: String,
    /// When it was due.
    pub due_at: Ts,
    /// What the role left with it.
    pub payload: Value,
    /// How often its handler failed.
    pub attempts: u32,
    pub(super) origin: String,
}

impl DueTimer {
    /// Where the chain of causes that set this timer came from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin::read(&self.origin)
    }
}

impl Store {
    pub(super) fn set_timer(
        &self,
        kind: &str,
        key: &str,
        at: Ts,
        payload: &Value,
        origin: &Origin,
    ) -> Result<(), Error> {
        self.run(
            "setting a timer",
            "INSERT INTO timer (kind, key, due_at_ms, retry_at_ms, attempts, payload, origin)
             VALUES (?1, ?2, ?3, ?3, 0, ?4, ?5) ON CONFLICT (kind, key)
             DO UPDATE SET due_at_ms = ?3, retry_at_ms = ?3, attempts = 0, payload = ?4, origin = ?5",
            params![kind, key, at.ms(), payload.to_string(), origin.write()],
        )?;
        Ok(())
    }

    /// Removes a timer; inside a step. False when there was none.
    ///
    /// # Errors
    /// A store error.
    pub fn remove_timer(&self, kind: &str, key: &str) -> Result<bool, Error> {
        Ok(self.run(
            "removing a timer",
            "DELETE FROM timer WHERE kind = ?1 AND key = ?2",
            params![kind, key],
        )? > 0)
    }

    /// Up to `max` timers due at `now_ms`, earliest first.
    ///
    /// # Errors
    /// A store error.
    pub fn due_timers(&self, now_ms: i64, max: usize) -> Result<Vec<DueTimer>, Error> {
        let rows = self.rows(
            "reading due timers",
            "SELECT kind, key, due_at_ms, payload, attempts, origin FROM timer WHERE retry_at_ms <= ?1
             ORDER BY due_at_ms, kind, key LIMIT ?2",
            params![now_ms, max as i64],
            |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, String>(1)?,
                    row.get::<_, i64>(2)?,
                    row.get::<_, String>(3)?,
                    row.get::<_, u32>(4)?,
                    row.get::<_, String>(5)?,
                ))
            },
        )?;
        rows.into_iter()
            .map(|(kind, key, due_at_ms, payload, attempts, origin)| {
                let payload = serde_json::from_str(&payload).map_err(|error| {
                    self.error(Class::Defect, "reading a timer", error.to_string())
                })?;
                Ok(DueTimer {
                    kind,
                    key,
                    due_at: Ts::from_ms(due_at_ms),
                    payload,
                    attempts,
                    origin,
                })
            })
            .collect()
    }

    /// Puts a timer whose handler failed off until `retry_at_ms`; inside a step.
    ///
    /// # Errors
    /// A store error.
    pub fn put_timer_off(&self, timer: &DueTimer, retry_at_ms: i64) -> Result<(), Error> {
        self.run(
            "putting a timer off",
            "UPDATE timer SET retry_at_ms = ?3, attempts = attempts + 1 WHERE kind = ?1 AND key = ?2",
            params![timer.kind, timer.key, retry_at_ms],
        )?;
        Ok(())
    }

    /// When the next timer is due, Unix milliseconds.
    ///
    /// # Errors
    /// A store error.
    pub fn next_timer_due(&self) -> Result<Option<i64>, Error> {
        let due: Option<Option<i64>> = self.value(
            "looking for the next timer",
            "SELECT min(retry_at_ms) FROM timer",
            (),
        )?;
        Ok(due.flatten())
    }
}
