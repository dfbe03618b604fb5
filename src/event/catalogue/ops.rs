//! `roadcall.ops`: what happens to Roadcall itself. Three entity keys: alarmName, replayName, queue, and siteId.

pub use alarm::*;
pub use letter::*;
pub use replay::*;
pub use site::*;

use super::EventType;

/// The family's rows.
pub(super) const ROWS: &[EventType] = &[
    alarm::ROWS[0],
    alarm::ROWS[1],
    replay::ROWS[0],
    replay::ROWS[1],
    replay::ROWS[2],
    site::ROWS[0],
    letter::ROWS[0],
    letter::ROWS[1],
    letter::ROWS[2],
];

mod alarm {
    //! Alarms: key alarmName.
    use crate::event::catalogue::events;
    use crate::event::lists::*;
    use crate::event::types::*;

    events! {
        Source::Ops, alarm_name = "alarmName";

        #[doc = "threshold crossed"]
        AlarmRaised ["notifications"] {
            alarm_name: Key,
            severity: AlarmSeverity,
            subject: Text<120>,
            value: f64,
            threshold: f64,
            since: Ts,
        }

        #[doc = "back to normal"]
        AlarmCleared ["notifications"] {
            alarm_name: Key,
            subject: Text<120>,
            value: f64,
            cleared_at: Ts,
        }
    }
}

mod replay {
    //! Replays: key replayName.
    use crate::event::catalogue::events;
    use crate::event::lists::*;
    use crate::event::types::*;

    events! {
        Source::Ops, replay_name = "replayName";

        #[doc = "replay began"]
        ReplayStarted [] {
            replay_name: Key,
            archive: Text<64>,
            queue: Text<64>,
            from_seq: u64,
            to_seq: u64,
            #[serde(skip_serializing_if = "Option::is_none")] window_start: Option<Ts>,
            #[serde(skip_serializing_if = "Option::is_none")] window_end: Option<Ts>,
            #[serde(skip_serializing_if = "Option::is_none")] filter: Option<Text<500>>,
            mode: ReplayMode,
            with_side_effects: bool,
            started_by: Actor,
        }

        #[doc = "replay ended by itself"]
        ReplayCompleted [] {
            replay_name: Key,
            state: ReplayEnd,
            events_replayed: u64,
            #[serde(skip_serializing_if = "Option::is_none")] event_last_replayed_time: Option<Ts>,
            #[serde(skip_serializing_if = "Option::is_none")] error: Option<Text<500>>,
        }

        #[doc = "cancel took effect"]
        ReplayCancelled [] {
            replay_name: Key,
            events_replayed: u64,
            cancelled_by: Actor,
            cancelled_at: Ts,
        }
    }
}

mod site {
    //! Sites: key siteId.
    use crate::event::catalogue::events;
    use crate::event::lists::*;
    use crate::event::types::*;

    /// How a queue stands at a site.
    #[derive(
        Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
    )]
    #[serde(rename_all = "camelCase")]
    pub struct QueueReport {
        /// The queue.
        pub queue: Text<64>,
        /// Messages not handled yet.
        pub depth: u64,
        /// Age of the oldest of them, seconds.
        pub oldest_age_seconds: u64,
    }

    /// What a site's archive holds.
    #[derive(
        Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
    )]
    #[serde(rename_all = "camelCase")]
    pub struct ArchiveReport {
        /// Which stream it is: one that was made anew has another number.
        pub identity: u64,
        /// First sequence that it still has.
        pub first_seq: u64,
        /// Last sequence that it gave out.
        pub last_seq: u64,
    }

    /// Where a site's ledger ends: with it in the archive, rows before it can't be written anew unseen.
    #[derive(
        Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
    )]
    #[serde(rename_all = "camelCase")]
    pub struct LedgerReport {
        /// The last row.
        pub seq: u64,
        /// Its hash.
        pub hash: Text<64>,
    }

    /// How many events a role has made, and which of them the archive still has.
    #[derive(
        Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
    )]
    #[serde(rename_all = "camelCase")]
    pub struct ProducerReport {
        /// The role.
        pub role: Text<64>,
        /// Which life of its database.
        pub epoch: Text<64>,
        /// The highest number that it gave out (`Roadcall-Seq`).
        pub last: u64,
        /// The lowest of this life that the archive still has; 0 where it has none.
        pub held_from: u64,
    }

    events! {
        Source::Ops, site_id = "siteId";

        #[doc = "what a site runs: on change and every 5 min"]
        SiteReported [] {
            site_id: Key,
            roles: List<Text<64>, 0, 64>,
            version: Text<64>,
            config_digest: Text<64>,
            queues: List<QueueReport, 0, 64>,
            #[serde(skip_serializing_if = "Option::is_none")] program_version: Option<Text<64>>,
            #[serde(skip_serializing_if = "Option::is_none")] archive: Option<ArchiveReport>,
            #[serde(skip_serializing_if = "Option::is_none")] producers: Option<List<ProducerReport, 0, 64>>,
            #[serde(skip_serializing_if = "Option::is_none")] ledger: Option<LedgerReport>,
        }
    }
}

mod letter {
    //! Dead letters: key queue.
    use crate::event::catalogue::events;
    use crate::event::lists::*;
    use crate::event::types::*;

    events! {
        Source::Ops, queue = "queue";

        #[doc = "message given up"]
        DeadLetterCreated [] {
            dead_letter_id: Id,
            queue: Key,
            original_event_id: Text<64>,
            original_source: Text<64>,
            original_detail_type: Text<64>,
            deliveries: Count1,
            reason: DeadReason,
            error: Text<500>,
            first_seen_at: Ts,
        }

        #[doc = "sent back to its queue"]
        DeadLetterRedriven [] {
            dead_letter_id: Id,
            queue: Key,
            original_event_id: Text<64>,
            redriven_by: Actor,
            redriven_at: Ts,
        }

        #[doc = "discarded by a person"]
        DeadLetterPurged [] {
            dead_letter_id: Id,
            queue: Key,
            original_event_id: Text<64>,
            purged_by: Actor,
            reason: Text<200>,
            purged_at: Ts,
        }
    }
}
