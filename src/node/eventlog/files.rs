//! Files that grow at their end, one after the other: `events-<day>-<number>.ndjson`, compressed to `.ndjson.gz` once the
//! next one begins.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::event::Ts;

/// How a file that still grows ends.
const OPEN: &str = ".ndjson";
/// How a finished one does.
const CLOSED: &str = ".ndjson.gz";
const BEGINNING: &str = "events-";
/// A day, milliseconds.
const DAY_MS: i64 = 24 * 3_600_000;

/// When a file ends, and when it goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes, before compression.
    pub file_max: u64,
    /// Since its day.
    pub max_age: Duration,
}

/// The directory, held by one process at a time.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
    limits: Limits,
    growing: Option<Growing>,
    _lock: File,
}

#[derive(Debug)]
struct Growing {
    file: File,
    path: PathBuf,
    day: String,
    bytes: u64,
}

impl Files {
    /// Takes the directory, cuts a line off that a crash left unfinished, and finishes what was being compressed.
    pub(super) fn open(directory: &Path, limits: Limits) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(directory.join("lock"))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        let mut files = Self {
            directory: directory.to_owned(),
            limits,
            growing: None,
            _lock: lock,
        };
        let found = list(directory)?;
        let newest = found.last().cloned();
        for path in found.iter().filter(|path| is_open(path)) {
            if Some(path) == newest.as_ref() {
                files.growing = Some(whole(path)?);
            } else {
                compress(path)?;
            }
        }
        Ok(files)
    }

    /// The last line.
    pub(super) fn last(&self) -> io::Result<Option<Value>> {
        let mut last = None;
        for path in list(&self.directory)?.into_iter().rev() {
            lines(&path, |line| {
                last = Some(line);
                true
            })?;
            if last.is_some() {
                break;
            }
        }
        Ok(last)
    }

    /// Appends lines, each with the time (Unix milliseconds) that its file is chosen by; all are on the disk afterwards.
    pub(super) fn append(&mut self, lines: impl Iterator<Item = (i64, String)>) -> io::Result<()> {
        let mut together: Vec<u8> = Vec::new();
        for (at_ms, line) in lines {
            let day = day(Ts::from_ms(at_ms));
            // A clock that was put back does not open a file of yesterday again.
            let ended = self.growing.as_ref().is_some_and(|growing| {
                let bytes = growing.bytes + together.len() as u64;
                bytes > 0 && (day > growing.day || bytes >= self.limits.file_max)
            });
            if ended {
                self.write(&together)?;
                together.clear();
                self.end()?;
            }
            if self.growing.is_none() {
                self.growing = Some(begin(&self.directory, &day)?);
            }
            together.extend_from_slice(line.as_bytes());
        }
        self.write(&together)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.growing {
            Some(growing) if !bytes.is_empty() => {
                growing.file.write_all(bytes)?;
                growing.bytes += bytes.len() as u64;
                growing.file.sync_data()
            }
            _ => Ok(()),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        self.growing
            .take()
            .map_or(Ok(()), |growing| compress(&growing.path))
    }

    /// Removes files whose day is too long ago.
    pub(super) fn forget_old(&mut self, now: Ts) -> io::Result<()> {
        let age_ms = i64::try_from(self.limits.max_age.as_millis()).unwrap_or(i64::MAX);
        // The whole of its day has to be past.
        let oldest = day(Ts::from_ms(now.ms().saturating_sub(age_ms).max(DAY_MS)));
        for path in list(&self.directory)? {
            let growing = self.growing.as_ref().map(|growing| &growing.path);
            if day_of(&path) < Some(oldest.as_str()) && growing != Some(&path) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

/// The day of a time, `2026-01-15`.
pub(super) fn day(time: Ts) -> String {
    time.datetime().format("%Y-%m-%d").to_string()
}

/// The day in a file's name.
pub(super) fn day_of(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?.strip_prefix(BEGINNING)?;
    name.get(..10)
}

/// The files in the order of their lines. Where a crash left a compressed file beside its original, only the finished one
/// counts.
pub(super) fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let ours = name.starts_with(BEGINNING) && (name.ends_with(OPEN) || name.ends_with(CLOSED));
        if ours {
            found.push(path);
        }
    }
    found.sort();
    let closed: Vec<PathBuf> = found.clone();
    found.retain(|path| !(is_open(path) && closed.contains(&closed_as(path))));
    Ok(found)
}

fn is_open(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "ndjson")
}

fn closed_as(path: &Path) -> PathBuf {
    path.with_extension("ndjson.gz")
}

fn begin(directory: &Path, day: &str) -> io::Result<Growing> {
    let number = list(directory)?
        .iter()
        .filter(|path| day_of(path) == Some(day))
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            let at = BEGINNING.len() + day.len() + 1;
            name.get(at..)?.split('.').next()?.parse::<u32>().ok()
        })
        .max()
        .map_or(1, |number| number + 1);
    let path = directory.join(format!("{BEGINNING}{day}-{number:06}{OPEN}"));
    let file = File::options().create_new(true).append(true).open(&path)?;
    File::open(directory)?.sync_all()?;
    Ok(Growing {
        file,
        path,
        day: day.to_owned(),
        bytes: 0,
    })
}

/// Opens a file to go on with, without what stands behind its last whole line.
fn whole(path: &Path) -> io::Result<Growing> {
    let mut file = File::options().read(true).append(true).open(path)?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let mut end = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        // A power cut can leave zeros where a line was to be.
        if line.last() != Some(&b'\n') || serde_json::from_slice::<Value>(line).is_err() {
            break;
        }
        end += line.len();
    }
    if end < text.len() {
        tracing::warn!(
            bytes = text.len() - end,
            "the event log ended in the middle of a line; it is written again"
        );
        file.set_len(end as u64)?;
        file.sync_all()?;
    }
    file.seek(SeekFrom::End(0))?;
    Ok(Growing {
        file,
        path: path.to_owned(),
        day: day_of(path).unwrap_or_default().to_owned(),
        bytes: end as u64,
    })
}

/// Puts the compressed file in the place of the plain one; the plain one goes only when the other is whole on the disk.
fn compress(path: &Path) -> io::Result<()> {
    let unfinished = path.with_extension("ndjson.gz.tmp");
    let mut encoder = GzEncoder::new(File::create(&unfinished)?, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::rename(&unfinished, closed_as(path))?;
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    fs::remove_file(path)
}

/// Gives every line of a file, until `take` says false; says whether it never did. An unfinished last line is passed over.
pub(super) fn lines(path: &Path, mut take: impl FnMut(Value) -> bool) -> io::Result<bool> {
    let file = File::open(path)?;
    let mut reader: Box<dyn BufRead> = if is_open(path) {
        Box::new(BufReader::new(file))
    } else {
        Box::new(BufReader::new(MultiGzDecoder::new(file)))
    };
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        if let Ok(value) = serde_json::from_slice(&line)
            && !take(value)
        {
            return Ok(false);
        }
        line.clear();
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(file_max: u64) -> Limits {
        Limits {
            file_max,
            max_age: Duration::from_secs(30 * 24 * 3600),
        }
    }

    fn line(n: u64) -> String {
        format!("{{\"n\":{n}}}\n")
    }

    fn all(directory: &Path) -> Vec<u64> {
        let mut found = Vec::new();
        for path in list(directory).expect("listed") {
            lines(&path, |line| {
                found.extend(line["n"].as_u64());
                true
            })
            .expect("read");
        }
        found
    }

    #[test]
    fn files_end_with_their_day_and_size_and_go_with_their_age() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut files = Files::open(dir.path(), limits(30)).expect("opened");
        let day_one = 100 * DAY_MS;
        let lines_of = |range: std::ops::Range<u64>, at| range.map(move |n| (at, line(n)));
        files.append(lines_of(0..10, day_one)).expect("written");
        files
            .append(lines_of(10..12, day_one + DAY_MS))
            .expect("written");
        // A clock that went back.
        files.append(lines_of(12..13, day_one)).expect("written");
        let names: Vec<String> = list(dir.path())
            .expect("listed")
            .iter()
            .map(|path| {
                path.file_name()
                    .expect("named")
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        assert_eq!(
            names,
            [
                "events-1970-04-11-000001.ndjson.gz",
                "events-1970-04-11-000002.ndjson.gz",
                "events-1970-04-11-000003.ndjson.gz",
                "events-1970-04-12-000001.ndjson",
            ]
        );
        assert_eq!(all(dir.path()), (0..13).collect::<Vec<_>>());
        files
            .forget_old(Ts::from_ms(day_one + 31 * DAY_MS))
            .expect("forgotten");
        assert_eq!(all(dir.path()), [10, 11, 12]);
    }

    #[test]
    fn what_a_crash_left_is_made_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut files = Files::open(dir.path(), limits(1 << 20)).expect("opened");
        files.append((0..3).map(|n| (0, line(n)))).expect("written");
        let path = files.growing.as_ref().expect("grows").path.clone();
        assert!(Files::open(dir.path(), limits(1)).is_err(), "two at a time");
        drop(files);
        let mut text = fs::read(&path).expect("read");
        text.extend_from_slice(b"{\"n\":3");
        fs::write(&path, &text).expect("written");
        let mut files = Files::open(dir.path(), limits(1 << 20)).expect("opened");
        assert_eq!(
            files.last().expect("read"),
            Some(serde_json::json!({"n": 2}))
        );
        files.append([(0, line(3))].into_iter()).expect("written");
        assert_eq!(all(dir.path()), [0, 1, 2, 3]);
        drop(files);
        // Killed between the finished copy and the end of the original.
        let plain = fs::read(&path).expect("read");
        compress(&path).expect("compressed");
        fs::write(&path, plain).expect("written");
        assert_eq!(all(dir.path()), [0, 1, 2, 3]);
        let mut files = Files::open(dir.path(), limits(1 << 20)).expect("opened");
        files.append([(0, line(4))].into_iter()).expect("written");
        assert_eq!(all(dir.path()), [0, 1, 2, 3, 4]);
    }
}
