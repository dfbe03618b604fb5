//! How processes are told: a command of `fleet.toml`, systemd where they run under it, or a signal.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use super::Place;
use crate::config::fleet::Rollout;
use crate::config::fleet::versions::dir_of;
use crate::node::processes::Process;

/// How soon processes are looked at again.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long a command of `fleet.toml` may take, beside what it says itself.
const COMMAND_MAX: Duration = Duration::from_secs(120);

/// The processes of the site before anything was changed, each with its systemd unit if it has one.
#[derive(Debug)]
pub(super) struct Before(Vec<(Process, Option<String>)>);

impl Before {
    pub(super) fn of(processes: Vec<Process>) -> Self {
        let with_unit = |process: Process| {
            let unit = unit_of(process.pid);
            (process, unit)
        };
        Self(processes.into_iter().map(with_unit).collect())
    }

    /// Whether all of them have the version already.
    pub(super) fn all_have(&self, digest: &str) -> bool {
        let has = |process: &Process| {
            process.in_force.fleet == digest && process.in_force.waiting_for_restart.is_empty()
        };
        self.0.iter().all(|(process, _)| has(process))
    }

    /// Whether each that is still there has read the version.
    pub(super) fn read(&self, now: &[Process], digest: &str) -> Result<(), String> {
        let mut there = self.0.iter().filter_map(|(process, _)| same(now, process));
        match there.find(|process| process.in_force.fleet != digest) {
            None => Ok(()),
            Some(process) => Err(format!(
                "{} did not take it over, its log says why",
                named(process)
            )),
        }
    }

    /// Those that need a restart: they say so, or are gone.
    pub(super) fn stale(&self, now: &[Process]) -> Vec<u32> {
        let fresh = |process: &Process| {
            same(now, process)
                .is_some_and(|process| process.in_force.waiting_for_restart.is_empty())
        };
        let stale = self.0.iter().filter(|(process, _)| !fresh(process));
        stale.map(|(process, _)| process.pid).collect()
    }

    pub(super) fn all_alive(&self, now: &[Process]) -> bool {
        self.0
            .iter()
            .all(|(process, _)| same(now, process).is_some())
    }

    /// Whether in the place of each that was restarted there is one with the version, and ready.
    pub(super) fn came_back(
        &self,
        now: &[Process],
        restarted: &[u32],
        digest: &str,
    ) -> Result<(), String> {
        for (process, _) in &self.0 {
            if !restarted.contains(&process.pid) {
                continue;
            }
            let again = now.iter().any(|other| {
                other.runs == process.runs
                    && other.in_force.fleet == digest
                    && other.in_force.waiting_for_restart.is_empty()
            });
            if !again {
                let name = named(process);
                return Err(format!("{name} did not come back, its log says why"));
            }
        }
        Ok(())
    }
}

fn same<'a>(now: &'a [Process], process: &Process) -> Option<&'a Process> {
    now.iter().find(|other| other.pid == process.pid)
}

fn named(process: &Process) -> String {
    format!("the process of {}", process.runs.join(", "))
}

/// The service that a process belongs to.
fn unit_of(pid: u32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    unit_in(&text)
}

fn unit_in(cgroup: &str) -> Option<String> {
    let path = cgroup.lines().find_map(|line| line.splitn(3, ':').nth(2))?;
    let last = path.rsplit('/').find(|part| part.ends_with(".service"))?;
    // Only ours: a person's shell may run in a service too.
    last.starts_with("roadcall").then(|| last.to_owned())
}

/// Has the processes read their files again.
pub(super) async fn reload(place: &Place, before: &Before, how: &Rollout) -> Result<(), String> {
    if !how.reload.is_empty() {
        return run(&how.reload, place)
            .await
            .map_err(|why| format!("reload: {why}"));
    }
    let (mut units, now) = (Vec::new(), place.processes());
    let alive = before
        .0
        .iter()
        .filter(|(process, _)| same(&now, process).is_some());
    for (process, unit) in alive {
        match unit {
            Some(unit) => units.push(unit.clone()),
            None => hang_up(process)?,
        }
    }
    systemctl("reload", units, place).await
}

/// Restarts what needs it; says whether anything here can.
pub(super) async fn restart(
    place: &Place,
    before: &Before,
    stale: &[u32],
    how: &Rollout,
) -> Result<bool, String> {
    if !how.restart.is_empty() {
        let done = run(&how.restart, place).await;
        return done.map(|()| true).map_err(|why| format!("restart: {why}"));
    }
    let stale = before
        .0
        .iter()
        .filter(|(process, _)| stale.contains(&process.pid));
    let units: Option<Vec<String>> = stale.map(|(_, unit)| unit.clone()).collect();
    match units {
        None => Ok(false),
        Some(units) => systemctl("restart", units, place).await.map(|()| true),
    }
}

fn hang_up(process: &Process) -> Result<(), String> {
    let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
    match pid.map(|pid| kill_process(pid, Signal::HUP)) {
        // One that is gone is found to be so.
        Some(Ok(()) | Err(rustix::io::Errno::SRCH)) => Ok(()),
        Some(Err(error)) => Err(format!("{} can't be told: {error}", named(process))),
        None => Err(format!("{} has no id", named(process))),
    }
}

async fn systemctl(verb: &str, mut units: Vec<String>, place: &Place) -> Result<(), String> {
    units.sort();
    units.dedup();
    if units.is_empty() {
        return Ok(());
    }
    let mut command = vec!["systemctl".to_owned(), verb.to_owned()];
    command.extend(units);
    run(&command, place).await
}

/// Runs a command for a site; what it said, if it fails.
async fn run(command: &[String], place: &Place) -> Result<(), String> {
    let (code, said) = output(command, place).await?;
    match code {
        Some(0) => Ok(()),
        code => Err(ended(&command[0], code, &said)),
    }
}

/// In words how a command ended that should not have ended so.
pub(super) fn ended(program: &str, code: Option<i32>, said: &str) -> String {
    let how = code.map_or("by a signal".to_owned(), |code| format!("with {code}"));
    let said = said.lines().rev().find(|line| !line.trim().is_empty());
    let said = said
        .map(|line| format!(": {}", line.trim()))
        .unwrap_or_default();
    format!("{program} ended {how}{said}")
}

/// Runs a command for a site; its exit code, and what it said on standard error, or else on standard output.
pub(super) async fn output(
    command: &[String],
    place: &Place,
) -> Result<(Option<i32>, String), String> {
    let filled: Vec<String> = command.iter().map(|part| fill(part, place)).collect();
    let Some((program, arguments)) = filled.split_first() else {
        return Err("it names no program".to_owned());
    };
    let running = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(COMMAND_MAX, running)
        .await
        .map_err(|_| format!("{program} does not end"))?
        .map_err(|error| format!("{program} can't be run: {error}"))?;
    let said = match output.stderr.is_empty() {
        true => output.stdout,
        false => output.stderr,
    };
    Ok((
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

fn fill(part: &str, place: &Place) -> String {
    let path = |path: &Path| path.display().to_string();
    part.replace("{site}", &place.site)
        .replace("{dir}", &path(dir_of(&place.main)))
        .replace("{config}", &path(&place.main))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_of_ours_is_told_from_a_shell() {
        let of = |path: &str| unit_in(&format!("0::{path}\n"));
        let unit = of("/system.slice/system-roadcall.slice/roadcall@match.service");
        assert_eq!(unit.as_deref(), Some("roadcall@match.service"));
        assert_eq!(of("/user.slice/user-1000.slice/session-3.scope"), None);
        assert_eq!(of("/system.slice/ssh.service"), None);
    }

    #[test]
    fn a_command_names_its_site() {
        let place = Place {
            site: "depot-7".to_owned(),
            main: "sites/depot-7/roadcall.toml".into(),
            here: None,
        };
        assert_eq!(fill("{site}:{dir}", &place), "depot-7:sites/depot-7");
        assert_eq!(
            fill("--config={config}", &place),
            "--config=sites/depot-7/roadcall.toml"
        );
    }
}
