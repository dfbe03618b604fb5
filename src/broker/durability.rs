//! The durability gate (DESIGN 9 and 4): how long the broker may leave on a lazy disk what it took, and so how long an
//! outbox row outlives its acknowledgement; and the guard over an archive that the server does not show (BROKER 0 E).

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is assumed where the broker can't be asked: nats-server's own default.
pub const ASSUMED: Duration = Duration::from_secs(120);
/// Published rows are kept at least so long.
const KEEP_MIN: Duration = Duration::from_secs(60);

/// When what the broker took is on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskSync {
    /// Before it is acknowledged.
    Always,
    /// So long after, at the latest.
    Every(Duration),
    /// Not known.
    Unknown,
}

impl DiskSync {
    /// Reads `broker.sync_interval` of a server that we run.
    #[must_use]
    pub fn ours(text: &str, parsed: Option<Duration>) -> Self {
        match parsed {
            Some(interval) => Self::Every(interval),
            None if text == "always" => Self::Always,
            None => Self::Unknown,
        }
    }

    /// How long what the broker took may be lost in a power cut of its box.
    #[must_use]
    pub fn interval(self) -> Duration {
        match self {
            Self::Always => Duration::ZERO,
            Self::Every(interval) => interval,
            Self::Unknown => ASSUMED,
        }
    }

    /// How long a published outbox row is kept: twice the interval, 60 s at least.
    #[must_use]
    pub fn keep(self) -> Duration {
        (2 * self.interval()).max(KEEP_MIN)
    }
}

impl fmt::Display for DiskSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keep = self.keep().as_secs();
        match self {
            Self::Always => write!(
                f,
                "the broker syncs before it acknowledges; outboxes keep what is published for {keep} s"
            ),
            Self::Every(interval) => write!(
                f,
                "the broker syncs every {} s; outboxes keep what is published for {keep} s and send again what a power \
                 cut took, but an event that came past an outbox can be lost for that long",
                interval.as_secs_f64()
            ),
            Self::Unknown => write!(
                f,
                "the broker's sync interval can't be read, {} s are assumed; outboxes keep what is published for {keep} s",
                ASSUMED.as_secs()
            ),
        }
    }
}

/// The directory of a stream `EVENTS` with messages in it, in the store that a server of ours uses. If the server says
/// that it has no such stream, it could not load it (a wrong or missing encryption key), and making one would delete it.
#[must_use]
pub fn archive_on_disk(store_dir: &Path) -> Option<PathBuf> {
    let accounts = std::fs::read_dir(store_dir.join("jetstream")).ok()?;
    accounts
        .filter_map(|account| Some(account.ok()?.path().join("streams/EVENTS")))
        .find(|stream| holds_messages(&stream.join("msgs")))
}

fn holds_messages(dir: &Path) -> bool {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    files
        .filter(|file| file.path().extension().is_some_and(|ext| ext == "blk"))
        .any(|file| file.metadata().is_ok_and(|data| data.len() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_kept_for_twice_the_interval_and_a_minute_at_least() {
        let seconds = |sync: DiskSync| sync.keep().as_secs();
        assert_eq!(seconds(DiskSync::ours("always", None)), 60);
        assert_eq!(
            seconds(DiskSync::ours("10s", Some(Duration::from_secs(10)))),
            60
        );
        assert_eq!(
            seconds(DiskSync::ours("5m", Some(Duration::from_secs(300)))),
            600
        );
        assert_eq!(seconds(DiskSync::Unknown), 240);
    }

    #[test]
    fn only_a_stream_with_messages_counts_as_an_archive() {
        let dir = tempfile::tempdir().expect("a directory");
        let messages = dir.path().join("jetstream/$G/streams/EVENTS/msgs");
        std::fs::create_dir_all(&messages).expect("made");
        std::fs::write(messages.join("1.blk"), "").expect("written");
        assert_eq!(archive_on_disk(dir.path()), None);
        std::fs::write(messages.join("1.blk"), "x").expect("written");
        assert!(archive_on_disk(dir.path()).is_some());
    }
}
