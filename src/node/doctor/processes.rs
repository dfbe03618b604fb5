//! The processes of the site: whether one died, whether all are of one version, and whether they run by what the files say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Doctor;
use super::finding::{Findings, Severity, count};
use super::roles::Asked;
use crate::node::processes::{Process, left, running_now};
use crate::role::RoleName;

/// What `run` of the state directory says.
pub(super) struct Seen {
    /// Those that live.
    alive: Vec<Process>,
    /// Those that ended without a word.
    dead: Vec<Process>,
}

impl Seen {
    pub(super) fn here(state_dir: &Path) -> Self {
        Self {
            alive: running_now(state_dir),
            dead: left(state_dir),
        }
    }

    /// Whether a process, alive or dead, ran `what`, as a unit of its own.
    pub(super) fn any_of(&self, what: &str) -> bool {
        let mut all = self.alive.iter().chain(&self.dead);
        all.any(|process| process.runs == [what])
    }

    pub(super) fn none_lives(&self) -> bool {
        self.alive.is_empty()
    }

    /// Whether one process that lives runs all of these.
    pub(super) fn one_runs(&self, roles: &[RoleName]) -> bool {
        let has = |process: &Process, role: &RoleName| {
            process.runs.iter().any(|run| run == role.as_str())
        };
        let mut alive = self.alive.iter();
        alive.any(|process| roles.iter().all(|role| has(process, role)))
    }

    /// The unit that runs a role.
    pub(super) fn unit(&self, role: RoleName) -> String {
        let runs = |process: &&Process| process.runs.iter().any(|run| run == role.as_str());
        let mut all = self.alive.iter().chain(&self.dead);
        match all.find(runs) {
            Some(process) if process.runs.len() > 1 => "roadcall@all".to_owned(),
            _ => format!("roadcall@{role}"),
        }
    }

    /// The process on this machine that runs a role.
    pub(super) fn of(&self, role: RoleName) -> Option<&Process> {
        let runs = |process: &&Process| process.runs.iter().any(|run| run == role.as_str());
        self.alive.iter().find(runs)
    }
}

/// What a process is called: the first thing that it runs, and how many more.
fn name(process: &Process) -> String {
    let first = process.runs.first().map_or("roadcall", String::as_str);
    match process.runs.len() {
        0 | 1 => format!("{first} (process {})", process.pid),
        more => format!("{first} and {} more (process {})", more - 1, process.pid),
    }
}

fn unit_of(process: &Process) -> String {
    match process.runs.as_slice() {
        [one] if one == "broker" => "roadcall-broker".to_owned(),
        [one] => format!("roadcall@{one}"),
        _ => "roadcall@all".to_owned(),
    }
}

pub(super) fn look(doctor: &Doctor<'_>, seen: &Seen, found: &mut Findings) {
    for process in &seen.dead {
        died(process, seen, found);
    }
    for process in &seen.alive {
        by_files(doctor, process, found);
    }
    let alive = seen.alive.iter();
    versions(
        alive.map(|process| (process.in_force.version.clone(), name(process))),
        found,
    );
}

/// A role that does not run is a finding of its own; of a broker and a door only this tells.
fn died(process: &Process, seen: &Seen, found: &mut Findings) {
    let runs_again = |what: &String| seen.alive.iter().any(|alive| alive.runs.contains(what));
    let what = process
        .runs
        .iter()
        .find(|what| what.parse::<RoleName>().is_err() && !runs_again(what));
    let Some(what) = what else { return };
    let unit = unit_of(process);
    found
        .add(Severity::Critical, "process-died", what)
        .says(format!(
            "the process {} that ran the {what} ended without a word, and none runs in its place",
            process.pid
        ))
        .seen(format!("run/{}.json without its lock", process.pid))
        .then(format!(
            "systemctl restart {unit}  # why: journalctl -u {unit} -n 50"
        ));
}

fn by_files(doctor: &Doctor<'_>, process: &Process, found: &mut Findings) {
    let waiting = &process.in_force.waiting_for_restart;
    let unit = unit_of(process);
    if !waiting.is_empty() {
        return restart(&name(process), waiting, &unit, found);
    }
    let digest = &process.in_force.config_digest;
    let by_now = (doctor.digests)(&process.runs);
    // Files that can't be read at all are told before anything is looked at.
    if by_now.is_empty() || by_now.contains(digest) {
        return;
    }
    found
        .add(Severity::Warning, "config-other", &unit)
        .says(format!(
            "{} runs by another configuration ({digest}) than the files give it now ({})",
            name(process),
            by_now.join(" or ")
        ))
        .seen(format!("configDigest in run/{}.json", process.pid))
        .then(format!(
            "kill -HUP {}  # or systemctl reload {unit}; its environment and flags count too",
            process.pid
        ));
}

fn restart(who: &str, waiting: &[String], unit: &str, found: &mut Findings) {
    found
        .add(Severity::Warning, "restart-due", unit)
        .says(format!(
            "{who} has to be restarted before {} counts that changed: {}",
            count(waiting.len() as u64, "setting"),
            waiting.join(", ")
        ))
        .seen("waitingForRestart, as it says itself")
        .then(format!("systemctl restart {unit}"));
}

/// What roles say of their processes that are not on this machine.
pub(super) fn told(asked: &[Asked], seen: &Seen, found: &mut Findings) {
    let elsewhere = asked.iter().filter(|one| seen.of(one.role).is_none());
    let told: Vec<_> = elsewhere
        .filter_map(|one| {
            let status = one.told.as_ref().ok()?;
            Some((one.role, status.in_force.clone()?))
        })
        .collect();
    let mut waiting: BTreeMap<Vec<String>, Vec<RoleName>> = BTreeMap::new();
    for (role, in_force) in &told {
        if !in_force.waiting_for_restart.is_empty() {
            let keys = in_force.waiting_for_restart.clone();
            waiting.entry(keys).or_default().push(*role);
        }
    }
    for (keys, roles) in waiting {
        let names: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
        restart(&names.join(", "), &keys, &seen.unit(roles[0]), found);
    }
    let here = seen.alive.iter();
    let here = here.map(|process| (process.in_force.version.clone(), name(process)));
    let there = told
        .into_iter()
        .map(|(role, in_force)| (in_force.version, role.to_string()));
    versions(here.chain(there), found);
}

/// Processes of one site are of one version but for the minutes of an upgrade.
fn versions(all: impl Iterator<Item = (String, String)>, found: &mut Findings) {
    let mut by: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (version, who) in all {
        by.entry(version).or_default().insert(who);
    }
    if by.len() < 2 || found.has("versions", "processes") {
        return;
    }
    let list = |who: &BTreeSet<String>| who.iter().cloned().collect::<Vec<_>>().join(", ");
    let told: Vec<String> = by
        .iter()
        .map(|(version, who)| format!("{version} ({})", list(who)))
        .collect();
    found
        .add(Severity::Warning, "versions", "processes")
        .says(format!(
            "processes of {} versions run at one site: {}",
            by.len(),
            told.join("; ")
        ))
        .seen("version, as each says itself")
        .then("systemctl restart roadcall.target  # starts all with the version that is installed");
}
