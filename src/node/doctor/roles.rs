//! The roles: whether each runs and answers, with the database that its queue belongs to, and brings out what it makes.

use super::finding::{Findings, Severity, count, quoted, span};
use super::processes::Seen;
use super::{Doctor, now};
use crate::bus;
use crate::event::Ts;
use crate::node::effects::BreakerState;
use crate::node::inquiry::Inquiry;
use crate::node::owner::{self, Owner, adopted_as};
use crate::node::queues::{self, QueueStanding};
use crate::node::status::{Database, Status};
use crate::role::RoleName;

/// An event that is made goes out within a moment; one that is older than this does not go out.
const OUTBOX_MAX_MS: i64 = 30_000;

/// A role, asked.
pub(super) struct Asked {
    pub role: RoleName,
    /// What it says, or why it says nothing.
    pub told: Result<Status, String>,
    /// What its file here says, if there is one.
    file: Option<Status>,
    /// The database that its queue belongs to.
    pub owner: Option<Owner>,
    /// Its queue, where it has one and the broker knows it.
    pub queue: Option<QueueStanding>,
}

impl Asked {
    /// Itself, else its file.
    fn status(&self) -> Option<&Status> {
        self.told.as_ref().ok().or(self.file.as_ref())
    }
}

/// Asks all at once: one that hangs is waited for, and several of them together no longer.
pub(super) async fn ask(
    doctor: &Doctor<'_>,
    inquiry: &Inquiry,
    found: &mut Findings,
) -> Vec<Asked> {
    let all = doctor.roles.iter().map(|role| one(inquiry, *role));
    let mut asked = Vec::new();
    for (role, answer) in doctor
        .roles
        .iter()
        .zip(futures::future::join_all(all).await)
    {
        match answer {
            Ok(one) => asked.push(one),
            Err(error) => found.unseen(&format!("role {role}"), error),
        }
    }
    asked
}

async fn one(inquiry: &Inquiry, role: RoleName) -> Result<Asked, crate::node::inquiry::Error> {
    let told = inquiry.told(role).await?;
    let database = Database::new(&inquiry.config, role);
    // What is wrong with a file is told where files are looked at.
    let file = database
        .path()
        .is_file()
        .then(|| database.status().ok())
        .flatten();
    let owner = match owner::of(&inquiry.bus, role).await {
        Err(bus::Error::Missing(_)) => None,
        owner => owner?,
    };
    let queue = match queues::look(inquiry, role, now()).await {
        // The topology says so.
        Err(crate::node::inquiry::Error::Bus(bus::Error::Missing(_))) => None,
        queue => queue?,
    };
    Ok(Asked {
        role,
        told,
        file,
        owner,
        queue,
    })
}

pub(super) fn look(doctor: &Doctor<'_>, asked: &[Asked], processes: &Seen, found: &mut Findings) {
    for one in asked {
        if one.told.is_err() {
            silent(one, processes, found);
        }
        owned(doctor, one, processes, found);
        outbox(one, found);
        breakers(one, found);
    }
}

fn silent(one: &Asked, processes: &Seen, found: &mut Findings) {
    let Err(why) = &one.told else { return };
    let role = one.role;
    let mut says = match why.as_str() {
        "it does not run" => format!("role {role} does not run"),
        why => format!("role {role} runs and can't be used: {why}"),
    };
    if let Some(queue) = &one.queue
        && queue.depth > 0
    {
        let oldest = queue
            .oldest_age_seconds
            .map(|age| format!(", the oldest for {}", span(age.cast_signed() * 1000)))
            .unwrap_or_default();
        let events = count(queue.depth, "event");
        says += &format!(": {events} of {} wait{oldest}", queue.queue);
    }
    if let Some(made) = one
        .status()
        .and_then(|status| status.outbox)
        .filter(|n| *n > 0)
    {
        says += &format!("; {} that it made did not go out", count(made, "event"));
    }
    let unit = processes.unit(role);
    let verb = match why.as_str() {
        "it does not run" => "start",
        _ => "restart",
    };
    found
        .add(Severity::Critical, "role-down", role.as_str())
        .says(says)
        .seen(format!("svc {role}.status: {why}"))
        .then(format!(
            "systemctl {verb} {unit}  # why: journalctl -u {unit} -n 50"
        ));
}

/// A queue's place on the broker and its role's database belong together.
fn owned(doctor: &Doctor<'_>, one: &Asked, processes: &Seen, found: &mut Findings) {
    let Some(owner) = &one.owner else { return };
    let role = one.role;
    let name = adopted_as(role);
    let path = doctor.config.site.state_dir.join(format!("{role}.db"));
    let shown = path.display();
    let other = |status: &Status| status.store_id.filter(|id| *id != owner.store_id);
    let seen = format!(
        "owner.{role} names {} since {}",
        owner.store_id, owner.since
    );
    match (&one.told, &one.file) {
        (Ok(status), _) if other(status).is_some() => found
            .add(Severity::Critical, "queue-owner", name)
            .says(format!(
                "{name} belongs to another database than the one that role {role} runs with (RC0304): its next start will be refused"
            ))
            .seen(seen)
            .roadcall(&format!(
                "queue adopt {name} --yes  # only if the other database is gone for good"
            )),
        (Err(_), Some(status)) if other(status).is_some() => found
            .add(Severity::Critical, "queue-owner", name)
            .says(format!(
                "{name} belongs to another database than {shown} (RC0304): role {role} won't start with this one"
            ))
            .seen(seen)
            .roadcall(&format!(
                "queue adopt {name} --yes  # only if the other database is gone for good"
            )),
        // It runs, here, and what it has open has no name any more.
        (Ok(_), None) if processes.of(role).is_some() && !path.exists() => found
            .add(Severity::Critical, "database-missing", role.as_str())
            .says(format!(
                "role {role} runs, and its database {shown} was deleted under it: a restart begins without"
            ))
            .seen(seen)
            .roadcall(&format!(
                "snapshot restore --role {role}  # with the role stopped; then start it"
            )),
        (Err(_), None) if !path.exists() => found
            .add(Severity::Critical, "database-missing", role.as_str())
            .says(format!(
                "role {role} does not run, and the database that has {name} is not here: there is no {shown}"
            ))
            .seen(seen)
            .roadcall(&format!(
                "snapshot restore --role {role}  # if it is nowhere; else start the role with its own state directory"
            )),
        _ => {}
    }
}

fn outbox(one: &Asked, found: &mut Findings) {
    // Of one that is down it is told there.
    let Ok(status) = &one.told else { return };
    let (Some(events), Some(since)) = (status.outbox, status.outbox_since) else {
        return;
    };
    let age_ms = now().ms() - since.ms();
    if age_ms < OUTBOX_MAX_MS {
        return;
    }
    let role = one.role;
    found
        .add(Severity::Critical, "outbox-stuck", role.as_str())
        .says(format!(
            "role {role} can't bring out what it made: {} wait, the oldest for {}",
            count(events, "event"),
            span(age_ms)
        ))
        .seen(format!(
            "outbox of {role}: {events} since {}",
            Ts::from_ms(since.ms())
        ))
        .roadcall("archive info  # is it full? the role's log has the broker's words");
}

fn breakers(one: &Asked, found: &mut Findings) {
    let Ok(status) = &one.told else { return };
    let figures = status.figures.iter();
    let all = figures.flat_map(|figures| &figures.breakers);
    for (service, _) in all.filter(|(_, state)| **state != BreakerState::Closed) {
        found
            .add(Severity::Warning, "service-down", service)
            .says(format!(
                "role {} does not call {service} now: its last calls failed; what is to be sent waits",
                one.role
            ))
            .seen(format!("breaker of {service}"))
            .then(format!(
                "journalctl -u roadcall@{} -n 50  # is the service there, and the address and secret right?",
                quoted(one.role.as_str())
            ));
    }
}
