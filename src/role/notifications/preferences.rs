//! What a person wants to be told, how, and when not (DOMAIN 5.6).

use chrono::Timelike;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contact::Contact;
use crate::event::{Channel, Id, List, NotificationPriority, NotificationType, TimeOfDay, Ts, Tz};
use crate::store::{Error, Tx, params};

pub(super) const MIGRATION: &str = "
CREATE TABLE preferences (user_id TEXT PRIMARY KEY, doc TEXT NOT NULL) WITHOUT ROWID;
";

/// Which channels are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Channels {
    /// Push messages.
    pub push: bool,
    /// Texts.
    pub sms: bool,
    /// E-mail.
    pub email: bool,
}

/// Hours without noise, both ends inclusive to the minute; `end` before `start` spans midnight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuietHours {
    /// From.
    pub start: TimeOfDay,
    /// Until.
    pub end: TimeOfDay,
    /// Where; else where the person lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<Tz>,
}

/// A person's preferences.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Preferences {
    /// Whose.
    pub user_id: Id,
    /// See [`Channels`].
    pub channels: Channels,
    /// Types that he does not want at all.
    pub muted_types: List<NotificationType, 0, 32>,
    /// See [`QuietHours`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiet_hours: Option<QuietHours>,
    /// He said STOP, by SMS or in the app.
    pub sms_opt_out: bool,
    /// Grows with each change; 0 while he has changed nothing.
    pub version: u64,
}

/// Why a message is not sent on a channel although the person can be reached: the first reason that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// He muted this type.
    Muted,
    /// He turned the channel off.
    ChannelOff,
    /// He opted out of SMS.
    OptedOut,
    /// Quiet hours.
    QuietHours,
}

impl Refusal {
    /// The word in the delivery log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Muted => "muted",
            Self::ChannelOff => "channel_off",
            Self::OptedOut => "opted_out",
            Self::QuietHours => "quiet_hours",
        }
    }
}

impl Preferences {
    /// Everything on.
    #[must_use]
    pub fn of(user_id: Id) -> Self {
        Self {
            user_id,
            channels: Channels {
                push: true,
                sms: true,
                email: true,
            },
            muted_types: List::new(Vec::new()).expect("an empty list is within 0 to 32"),
            quiet_hours: None,
            sms_opt_out: false,
            version: 0,
        }
    }

    /// A person's, or the default.
    ///
    /// # Errors
    /// A store error.
    pub fn find(tx: &Tx<'_>, user_id: Id) -> Result<Self, Error> {
        let sql = "SELECT doc FROM preferences WHERE user_id = ?1";
        let found = tx.document(sql, params![user_id.to_string()])?;
        Ok(found.unwrap_or_else(|| Self::of(user_id)))
    }

    /// Writes them as a new version.
    ///
    /// # Errors
    /// A store error.
    pub fn save(&mut self, tx: &mut Tx<'_>) -> Result<(), Error> {
        self.version += 1;
        let doc = tx.text(self)?;
        tx.execute(
            "INSERT INTO preferences (user_id, doc) VALUES (?1, ?2) ON CONFLICT (user_id) DO UPDATE SET doc = ?2",
            params![self.user_id.to_string(), doc],
        )?;
        Ok(())
    }

    /// Forgets a person's.
    ///
    /// # Errors
    /// A store error.
    pub fn erase(tx: &mut Tx<'_>, user_id: Id) -> Result<(), Error> {
        let user_id = user_id.to_string();
        tx.execute(
            "DELETE FROM preferences WHERE user_id = ?1",
            params![user_id],
        )?;
        Ok(())
    }

    /// Whether a message may go out on a channel now: `Ok(true)` silently. The order is DOMAIN's.
    ///
    /// # Errors
    /// The first reason against it.
    pub fn allow(
        &self,
        kind: NotificationType,
        priority: NotificationPriority,
        channel: Channel,
        contact: &Contact,
        now: Ts,
    ) -> Result<bool, Refusal> {
        if self.muted_types.get().contains(&kind) {
            return Err(Refusal::Muted);
        }
        let on = match channel {
            Channel::Push => self.channels.push,
            Channel::Sms => self.channels.sms,
            Channel::Email => self.channels.email,
        };
        if !on {
            return Err(Refusal::ChannelOff);
        }
        if channel == Channel::Sms && self.sms_opt_out {
            return Err(Refusal::OptedOut);
        }
        let ignores =
            priority == NotificationPriority::Urgent || kind == NotificationType::VendorArrived;
        match (&self.quiet_hours, channel) {
            (Some(quiet), _) if !ignores && quiet.hold(contact.timezone(), now) => match channel {
                Channel::Push => Ok(true),
                Channel::Sms | Channel::Email => Err(Refusal::QuietHours),
            },
            _ => Ok(false),
        }
    }
}

impl QuietHours {
    /// Whether they hold at `now` for somebody who lives in `zone`.
    #[must_use]
    pub fn hold(&self, zone: chrono_tz::Tz, now: Ts) -> bool {
        let zone = self.timezone.map_or(zone, |named| named.0);
        let local = now.datetime().with_timezone(&zone);
        let minute = local.hour() * 60 + local.minute();
        let (start, end) = (self.start.minutes(), self.end.minutes());
        if start <= end {
            (start..=end).contains(&minute)
        } else {
            minute >= start || minute <= end
        }
    }
}
