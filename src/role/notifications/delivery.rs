//! The delivery log (DOMAIN 5.6): what became of each message to each person on each channel, kept for 90 days.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::render::Message;
use crate::event::{
    Channel, DeliveryStatus, Id, NotificationPriority, NotificationType, Personal, Ts,
};
use crate::store::{Error, Tx, params};

pub(super) const MIGRATION: &str = "
CREATE TABLE delivery (
    notification_id TEXT PRIMARY KEY,
    -- What it is once for, beside recipient and channel: an event, or an incident and its vendor.
    once_for TEXT NOT NULL,
    recipient_id TEXT NOT NULL,
    channel TEXT NOT NULL,
    status TEXT NOT NULL,
    rank INTEGER NOT NULL,
    event_at_ms INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    next_try_ms INTEGER NOT NULL,
    in_flight INTEGER NOT NULL,
    -- Counts to the limit of SMS.
    counted INTEGER NOT NULL,
    sent_at_ms INTEGER,
    provider_message_id TEXT,
    doc TEXT NOT NULL,
    UNIQUE (once_for, recipient_id, channel)
) WITHOUT ROWID;
CREATE INDEX delivery_due ON delivery (rank, event_at_ms, notification_id) WHERE status = 'pending';
CREATE INDEX delivery_flying ON delivery (recipient_id, channel) WHERE in_flight = 1;
CREATE INDEX delivery_history ON delivery (recipient_id, at_ms, notification_id);
CREATE INDEX delivery_counted ON delivery (recipient_id, status, sent_at_ms) WHERE counted = 1;
CREATE INDEX delivery_at ON delivery (at_ms);
CREATE INDEX delivery_provider ON delivery (provider_message_id) WHERE provider_message_id IS NOT NULL;
-- What the SMS service told of a message before it answered the call that sent it.
CREATE TABLE early_report (provider_message_id TEXT PRIMARY KEY, report TEXT NOT NULL, at_ms INTEGER NOT NULL) WITHOUT ROWID;
";

/// How long the log is kept (DOMAIN 6).
pub const KEPT_MS: i64 = 90 * 86_400_000;

/// One message to one person on one channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// Also the idempotency key towards whoever delivers it.
    pub notification_id: Id,
    /// The event that it is about; none for a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<Id>,
    /// To whom.
    pub recipient_id: Id,
    /// How.
    pub channel: Channel,
    /// What kind of message.
    #[serde(rename = "type")]
    pub kind: NotificationType,
    /// How urgent.
    pub priority: NotificationPriority,
    /// Where it stands.
    pub status: DeliveryStatus,
    /// Tries whose outcome is known to have been an answer or a silence; one that was never sent is none.
    pub attempts: u32,
    /// Why it failed or was dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the provider calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_message_id: Option<String>,
    /// When it was made.
    pub at: Ts,
    /// When it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Ts>,
    /// What the entity's public form does not show.
    #[schemars(skip)]
    pub inner: Inner,
}

/// See [`Delivery::inner`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inner {
    pub(super) once_for: String,
    /// Time of the event, by which one person's messages are ordered.
    pub(super) event_at: Ts,
    /// From when on it has lost its sense.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stale_at: Option<Ts>,
    /// A push message without noise.
    pub(super) silent: bool,
    /// An SMS that counts to the limit.
    pub(super) counted: bool,
    /// Asked for, and no result yet.
    pub(super) in_flight: bool,
    /// Not before.
    pub(super) next_try: Ts,
    /// What is said, sealed for whom it is said to, until it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<Personal<Message>>,
    /// Holds a secret, so it can be tried only while the process that took it lives.
    #[serde(default)]
    pub(super) once_only: bool,
}

impl Delivery {
    /// The entity as it is shown (DOMAIN 5.6).
    #[must_use]
    pub fn entity(&self) -> Value {
        let mut value = json!(self);
        if let Some(map) = value.as_object_mut() {
            map.remove("inner");
        }
        value
    }

    /// Whether nothing more happens to it by itself.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.status != DeliveryStatus::Pending
    }

    /// Ends it. What was said is forgotten: the log says that, not what.
    pub(super) fn end(&mut self, status: DeliveryStatus, reason: Option<String>) {
        self.status = status;
        self.reason = reason;
        self.inner.in_flight = false;
        self.inner.message = None;
    }

    /// Reads one.
    ///
    /// # Errors
    /// A store error.
    pub fn find(tx: &Tx<'_>, notification_id: &str) -> Result<Option<Self>, Error> {
        let sql = "SELECT doc FROM delivery WHERE notification_id = ?1";
        tx.document(sql, params![notification_id])
    }

    /// The one for this occasion, person and channel, if there is one.
    pub(super) fn of(
        tx: &Tx<'_>,
        once_for: &str,
        recipient_id: Id,
        channel: Channel,
    ) -> Result<Option<Self>, Error> {
        tx.document(
            "SELECT doc FROM delivery WHERE once_for = ?1 AND recipient_id = ?2 AND channel = ?3",
            params![once_for, recipient_id.to_string(), channel.as_str()],
        )
    }

    /// The one that the SMS service calls so.
    pub(super) fn of_provider(tx: &Tx<'_>, message_id: &str) -> Result<Option<Self>, Error> {
        let sql = "SELECT doc FROM delivery WHERE provider_message_id = ?1";
        tx.document(sql, params![message_id])
    }

    /// Whose turn it is: due, with nothing on its way to the same person on the same channel; the most urgent first, then
    /// by time of the event.
    pub(super) fn next(tx: &Tx<'_>) -> Result<Option<Self>, Error> {
        tx.document(
            "SELECT doc FROM delivery AS due WHERE status = 'pending' AND in_flight = 0 AND next_try_ms <= ?1
             AND NOT EXISTS (SELECT 1 FROM delivery AS flying WHERE flying.in_flight = 1
                 AND flying.recipient_id = due.recipient_id AND flying.channel = due.channel)
             ORDER BY rank, event_at_ms, notification_id LIMIT 1",
            params![tx.now().ms()],
        )
    }

    /// How many are on their way.
    pub(super) fn flying(tx: &Tx<'_>) -> Result<i64, Error> {
        let sql = "SELECT count(*) FROM delivery WHERE in_flight = 1";
        Ok(tx.value(sql, ())?.unwrap_or(0))
    }

    /// SMS to a person in the last hour, and those that are about to go out, this one not among them.
    pub(super) fn sms_in_the_hour(
        tx: &Tx<'_>,
        recipient_id: Id,
        but: Option<Id>,
    ) -> Result<i64, Error> {
        let hour_ago = tx.now().ms() - 3_600_000;
        let count = tx.value(
            "SELECT count(*) FROM delivery WHERE recipient_id = ?1 AND counted = 1 AND notification_id <> ?3
             AND (status = 'pending' OR (status = 'sent' AND sent_at_ms > ?2))",
            params![
                recipient_id.to_string(),
                hour_ago,
                but.map(|id| id.to_string()).unwrap_or_default()
            ],
        )?;
        Ok(count.unwrap_or(0))
    }

    /// Those of a person that have not ended.
    pub(super) fn open_of(tx: &Tx<'_>, recipient_id: Id) -> Result<Vec<Self>, Error> {
        tx.documents(
            "SELECT doc FROM delivery WHERE recipient_id = ?1 AND status = 'pending' ORDER BY notification_id",
            params![recipient_id.to_string()],
        )
    }

    /// A person's, newest first, before a place in the listing.
    pub(super) fn history(
        tx: &Tx<'_>,
        recipient_id: Id,
        before: &(i64, String),
        limit: u64,
    ) -> Result<Vec<Self>, Error> {
        tx.documents(
            "SELECT doc FROM delivery WHERE recipient_id = ?1 AND (at_ms, notification_id) < (?2, ?3)
             ORDER BY at_ms DESC, notification_id DESC LIMIT ?4",
            params![
                recipient_id.to_string(),
                before.0,
                before.1,
                i64::try_from(limit).unwrap_or(i64::MAX)
            ],
        )
    }

    /// Writes it, and sees to it that the log is cleared in time.
    pub(super) fn save(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let doc = tx.text(self)?;
        tx.execute(
            "INSERT OR REPLACE INTO delivery (notification_id, once_for, recipient_id, channel, status, rank, event_at_ms,
             at_ms, next_try_ms, in_flight, counted, sent_at_ms, provider_message_id, doc)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
            params![
                self.notification_id.to_string(),
                self.inner.once_for,
                self.recipient_id.to_string(),
                self.channel.as_str(),
                self.status.as_str(),
                rank(self.priority),
                self.inner.event_at.ms(),
                self.at.ms(),
                self.inner.next_try.ms(),
                self.inner.in_flight,
                self.inner.counted,
                self.sent_at.map(Ts::ms),
                self.provider_message_id,
                doc
            ],
        )?;
        Ok(())
    }

    /// Keeps what the SMS service told of a message that nobody knows yet.
    pub(super) fn keep_report(
        tx: &mut Tx<'_>,
        message_id: &str,
        report: &str,
    ) -> Result<(), Error> {
        let now_ms = tx.now().ms();
        tx.execute(
            "INSERT INTO early_report (provider_message_id, report, at_ms) VALUES (?1, ?2, ?3)
             ON CONFLICT (provider_message_id) DO UPDATE SET report = ?2",
            params![message_id, report, now_ms],
        )?;
        Ok(())
    }

    /// Takes such a report back.
    pub(super) fn take_report(tx: &mut Tx<'_>, message_id: &str) -> Result<Option<String>, Error> {
        let sql = "DELETE FROM early_report WHERE provider_message_id = ?1 RETURNING report";
        tx.value(sql, params![message_id])
    }

    /// Removes what is older than 90 days, and reports of messages that never became known within a day.
    pub(super) fn clear(tx: &mut Tx<'_>) -> Result<(), Error> {
        let now_ms = tx.now().ms();
        tx.execute(
            "DELETE FROM delivery WHERE at_ms < ?1 AND in_flight = 0",
            params![now_ms - KEPT_MS],
        )?;
        tx.execute(
            "DELETE FROM early_report WHERE at_ms < ?1",
            params![now_ms - 86_400_000],
        )?;
        Ok(())
    }

    /// Whether there is anything to clear some day.
    pub(super) fn any(tx: &Tx<'_>) -> Result<bool, Error> {
        let sql = "SELECT EXISTS (SELECT 1 FROM delivery) OR EXISTS (SELECT 1 FROM early_report)";
        Ok(tx.value(sql, ())?.unwrap_or(false))
    }
}

fn rank(priority: NotificationPriority) -> i64 {
    NotificationPriority::ALL
        .iter()
        .position(|other| *other == priority)
        .map_or(0, |at| at as i64)
}
