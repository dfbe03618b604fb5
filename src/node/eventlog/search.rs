//! Looking through the event log's files.

use std::io;
use std::path::Path;

use serde_json::Value;

use super::files::{day, day_of, lines, list};
use crate::event::Ts;

/// How much earlier than an event's own time it may have been logged: clocks of two machines differ. Milliseconds.
const SKEW_MS: i64 = 3_600_000;

/// Which lines are wanted; what is not given does not matter.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The entity key, or a command's subject.
    pub entity: Option<String>,
    /// The detail-type, or a command's name.
    pub kind: Option<String>,
    /// At this time or later.
    pub since: Option<Ts>,
    /// Before this time.
    pub until: Option<Ts>,
}

impl Wanted {
    fn fits(&self, line: &Value) -> bool {
        let is = |name: &str, wanted: &Option<String>| {
            wanted
                .as_ref()
                .is_none_or(|wanted| line[name] == wanted.as_str())
        };
        let time: Option<Ts> = serde_json::from_value(line["time"].clone()).ok();
        is("entity", &self.entity)
            && is("type", &self.kind)
            && self
                .since
                .is_none_or(|since| time.is_some_and(|time| time >= since))
            && self
                .until
                .is_none_or(|until| time.is_some_and(|time| time < until))
    }
}

/// Gives every wanted line in the order in which they were logged, until `take` says false.
///
/// # Errors
/// A file that can't be read.
pub fn find(
    directory: &Path,
    wanted: &Wanted,
    mut take: impl FnMut(Value) -> bool,
) -> io::Result<()> {
    // Nothing is logged before it happens, however much later.
    let first = wanted.since.map(|since| Ts::from_ms(since.ms() - SKEW_MS));
    each(directory, first, |line| !wanted.fits(&line) || take(line))
}

/// Gives every line of the files from `first`'s day on, until `take` says false.
pub(super) fn each(
    directory: &Path,
    first: Option<Ts>,
    mut take: impl FnMut(Value) -> bool,
) -> io::Result<()> {
    let first = first.map(day);
    for path in list(directory)? {
        let too_old = first
            .as_deref()
            .is_some_and(|first| day_of(&path) < Some(first));
        if too_old {
            continue;
        }
        let more = match lines(&path, &mut take) {
            Ok(more) => more,
            // Compressed or forgotten since it was listed: a finished one has another name.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match lines(&path.with_extension("ndjson.gz"), &mut take) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => true,
                    other => other?,
                }
            }
            Err(error) => return Err(error),
        };
        if !more {
            break;
        }
    }
    Ok(())
}
