//! `replay.start`, `replay.cancel`, `replay.status`, `replay.list`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::job::{Job, Kind, REPLAYS};
use super::queue;
use crate::event::{Key, ReplayMode, ReplayStarted, Text};
use crate::role::{Code, Command, HandlerError, Rejection, RoleName};
use crate::store::{Tx, params};

/// Characters of a description at the most.
const DESCRIPTION_MAX: usize = 500;

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Start {
    queue: String,
    name: Option<Key>,
    mode: Option<ReplayMode>,
    from_seq: Option<u64>,
    to_seq: Option<u64>,
    pattern: Option<Value>,
    entity: Option<Key>,
    #[serde(default, alias = "withSideEffects")]
    allow_external: bool,
    rate: Option<u32>,
    description: Option<String>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

pub(super) fn start(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let start: Start = command.parse()?;
    let queue = queue(&start.queue)?;
    // One below is an empty window: it completes with nothing.
    if start
        .from_seq
        .zip(start.to_seq)
        .is_some_and(|(from, to)| from > to.saturating_add(1))
    {
        return Err(Rejection::field("toSeq", "is below fromSeq").into());
    }
    if start.rate == Some(0) {
        return Err(Rejection::field("rate", "is 0; leave it out for no limit").into());
    }
    let description = start.description.as_deref().map(str::chars);
    if description.is_some_and(|text| text.count() > DESCRIPTION_MAX) {
        let message = format!("is longer than {DESCRIPTION_MAX} characters");
        return Err(Rejection::field("description", message).into());
    }
    let job = Job {
        name: named(tx, start.name, "replay")?,
        queue: queue.to_owned(),
        kind: Kind::Replay,
        mode: start.mode.unwrap_or(ReplayMode::Fill),
        from_seq: start.from_seq,
        to_seq: start.to_seq,
        seqs: Vec::new(),
        pattern: start.pattern,
        entity: start.entity,
        offered: Vec::new(),
        allow_external: start.allow_external,
        rate: start.rate,
        description: start.description,
        started_by: command.actor().clone(),
        started_at: tx.now(),
        cancelled_by: None,
    };
    begin(tx, &job)
}

/// Writes a new job down, tells of it, and answers.
fn begin(tx: &mut Tx<'_>, job: &Job) -> Result<(), HandlerError> {
    tx.emit(&ReplayStarted {
        replay_name: job.name.clone(),
        archive: Text::lossy("EVENTS"),
        queue: Text::lossy(&job.queue),
        from_seq: job.from_seq.unwrap_or(1),
        to_seq: job.to_seq.unwrap_or(i64::MAX as u64),
        window_start: None,
        window_end: None,
        filter: job
            .pattern
            .as_ref()
            .map(|pattern| Text::lossy(&pattern.to_string())),
        mode: job.mode,
        with_side_effects: job.allow_external,
        started_by: job.started_by.clone(),
    })?;
    write(tx, job, "STARTING")?;
    tx.reply(&told(job, "STARTING")).map_err(Into::into)
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Rebuild {
    /// The role whose projection it is.
    role: String,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// A job that empties a role's projection and feeds it from the archive (DESIGN 7).
pub(super) fn rebuild(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: Rebuild = command.parse()?;
    let role: RoleName = body
        .role
        .parse()
        .map_err(|error: String| Rejection::field("role", error))?;
    let Some(queue) = role.queue().filter(|_| role.rebuildable()) else {
        let message = format!("{role} is no projection of events alone; reporting is one");
        return Err(Rejection::field("role", message).into());
    };
    let job = Job {
        name: named(tx, None, "rebuild")?,
        queue: queue.to_owned(),
        kind: Kind::Rebuild,
        mode: ReplayMode::Force,
        from_seq: None,
        to_seq: None,
        seqs: Vec::new(),
        pattern: None,
        entity: None,
        offered: Vec::new(),
        allow_external: false,
        rate: None,
        description: None,
        started_by: command.actor().clone(),
        started_at: tx.now(),
        cancelled_by: None,
    };
    begin(tx, &job)
}

/// The name that was asked for, or a new one.
pub(super) fn named(tx: &mut Tx<'_>, wanted: Option<Key>, kind: &str) -> Result<Key, HandlerError> {
    let name = match wanted {
        Some(name) => name,
        None => {
            let own = format!("{kind}-{}", tx.new_id().short());
            Key::new(own).map_err(|error| HandlerError::Transient(error.to_string()))?
        }
    };
    match read(tx, &name)? {
        None => Ok(name),
        Some(_) => Err(Rejection {
            field: Some("name".to_owned()),
            ..Rejection::new(
                Code::Conflict,
                format!("a replay named '{name}' is there already"),
            )
        }
        .into()),
    }
}

/// Writes a job down, here and for the role that owns its queue.
pub(super) fn write(tx: &mut Tx<'_>, job: &Job, state: &str) -> Result<(), HandlerError> {
    let (doc, at_ms) = (tx.text(job)?, job.started_at.ms());
    tx.execute(
        "INSERT INTO job (name, doc, state, at_ms) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (name) DO UPDATE SET doc = ?2, state = ?3",
        params![job.name.as_str(), doc, state, at_ms],
    )?;
    tx.put_document(REPLAYS, &job.key(), job)?;
    Ok(())
}

/// What a job's command answers.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ReplayJob")]
pub(super) struct Told {
    name: Key,
    queue: String,
    mode: ReplayMode,
    /// The archive's first at the start where there is none.
    from_seq: Option<u64>,
    /// The archive's last at the start where there is none.
    to_seq: Option<u64>,
    /// STARTING until its end is known, CANCELLING, then COMPLETED, CANCELLED or FAILED.
    state: String,
}

/// What is told of a job that is in this state.
pub(super) fn told(job: &Job, state: &str) -> Told {
    Told {
        name: job.name.clone(),
        queue: job.queue.clone(),
        mode: job.mode,
        from_seq: job.from_seq,
        to_seq: job.to_seq,
        state: state.to_owned(),
    }
}

fn read(tx: &Tx<'_>, name: &Key) -> Result<Option<(Job, String)>, HandlerError> {
    let job: Option<Job> = tx.document(
        "SELECT doc FROM job WHERE name = ?1",
        params![name.as_str()],
    )?;
    let state: Option<String> = tx.value(
        "SELECT state FROM job WHERE name = ?1",
        params![name.as_str()],
    )?;
    Ok(job.zip(state))
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Named {
    name: Key,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

fn find(tx: &Tx<'_>, command: &Command) -> Result<(Job, String), HandlerError> {
    let named: Named = command.parse()?;
    read(tx, &named.name)?.ok_or_else(|| {
        let message = format!("no replay is named '{}'", named.name);
        Rejection::new(Code::NotFound, message).into()
    })
}

pub(super) fn cancel(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let (mut job, state) = find(tx, command)?;
    match state.as_str() {
        "STARTING" => {
            job.cancelled_by = Some(command.actor().clone());
            write(tx, &job, "CANCELLING")?;
        }
        "CANCELLING" => {}
        ended => {
            let message = format!("the replay has ended, it is {ended}");
            return Err(Rejection::new(Code::InvalidTransition, message).into());
        }
    }
    tx.reply(&told(&job, "CANCELLING")).map_err(Into::into)
}

pub(super) fn status(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let (job, state) = find(tx, command)?;
    tx.reply(&told(&job, &state)).map_err(Into::into)
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct List {
    state: Option<String>,
}

pub(super) fn list(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let list: List = command.parse()?;
    let sql = "SELECT json_object('job', json(doc), 'state', state) FROM job
         WHERE ?1 IS NULL OR state = ?1 ORDER BY at_ms, name";
    #[derive(Deserialize)]
    struct Row {
        job: Job,
        state: String,
    }
    let rows: Vec<Row> = tx.documents(sql, params![list.state])?;
    let jobs: Vec<Told> = rows.iter().map(|row| told(&row.job, &row.state)).collect();
    tx.reply(&jobs).map_err(Into::into)
}

/// Notes how a job ended, as the role that carried it out tells.
pub(super) fn ended(tx: &mut Tx<'_>, name: &Key, state: &str) -> Result<(), HandlerError> {
    tx.execute(
        "UPDATE job SET state = ?2 WHERE name = ?1",
        params![name.as_str(), state],
    )?;
    Ok(())
}
