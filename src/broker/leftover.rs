//! One supervisor per store, and an end for a nats-server whose supervisor was killed.
//!
//! A nats-server survives a SIGKILL of the roadcall that ran it, and keeps port and store. Under systemd the unit's
//! control group ends it; by hand nobody does. So the lock on the store says whether a supervisor lives, and the
//! server's pid file names what a dead one left behind.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::Error;
use super::at_rest::COPY;

/// The server writes its process id here, in the store directory.
pub(super) const PID_FILE: &str = "nats-server.pid";
/// How long a leftover may take to write out what it has before it is killed.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Takes the store for this process; held as long as the file is open.
///
/// # Errors
/// [`Error::Running`] if another process supervises it.
pub(super) fn lock(store_dir: &Path) -> Result<File, Error> {
    let path = store_dir.join("supervisor.lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| Error::Directory {
            path: path.clone(),
            message: error.to_string(),
        })?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| Error::Running { path })?;
    Ok(file)
}

/// Ends the servers that a dead supervisor of this store left running: its own, and that of a copy which was being encrypted,
/// which would go on with files that are gone. Only with the lock in hand.
pub(super) async fn end(store_dir: &Path, config: &Path) {
    end_one(store_dir, config).await;
    let copy = store_dir.join(COPY);
    if let Some(name) = config.file_name() {
        end_one(&copy, &copy.join(name)).await;
    }
}

async fn end_one(store_dir: &Path, config: &Path) {
    let Some(pid) = left(store_dir, config) else {
        return;
    };
    tracing::warn!(
        pid = pid.as_raw_nonzero().get(),
        "a nats-server of an earlier start still runs on this store, it is stopped"
    );
    // It may end by itself at any moment: then there is nothing left to do, which is what is wanted.
    let _ = kill_process(pid, Signal::TERM);
    let ended = tokio::time::timeout(STOP_MAX, async {
        while test_kill_process(pid).is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    if ended.await.is_err() {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// The process of the pid file, if it is still the server that was started with this very config: a pid may belong to
/// somebody else by now.
fn left(store_dir: &Path, config: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(store_dir.join(PID_FILE)).ok()?;
    let pid = Pid::from_raw(text.trim().parse().ok()?)?;
    let command = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
    let mut arguments = command.split(|byte| *byte == 0).skip(1);
    let ours = arguments.any(|argument| argument == config.as_os_str().as_encoded_bytes());
    ours.then_some(pid)
}
