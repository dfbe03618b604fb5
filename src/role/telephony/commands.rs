//! Commands on calls (DOMAIN 5.8). Permission and ownership were checked before.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::entity::{Call, Transcript};
use super::redact::EntityKind;
use super::{TelephonyOptions, intake, transcribe, webhook};
use crate::event::{Actor, Code as Word, Id, List, PiiAccessed, Purpose, RevealRole};
use crate::role::listing::{cursor, id_of, limit, next, page};
use crate::role::permission::Scope;
use crate::role::{Code, Command, HandlerError, Rejection};
use crate::store::{Tx, params};

/// The timer after which a row of the access log is forgotten.
pub(super) const ACCESS: &str = "access";
/// The access log is kept for 7 years (DOMAIN 6).
const ACCESS_DAYS: u64 = 7 * 365 + 2;

/// `call.get`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct One {
    call_id: Id,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// `call.list`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ListBody {
    driver_id: Option<Id>,
    /// collecting, waiting, requested or dropped.
    #[schemars(with = "Option<String>")]
    intake: Option<super::entity::IntakeStatus>,
    #[schemars(range(min = 1, max = 100))]
    limit: Option<u64>,
    cursor: Option<String>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

/// `call.reveal_pii`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Reveal {
    transcript_id: Id,
    purpose: Purpose,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

pub(super) fn run(
    tx: &mut Tx<'_>,
    options: &TelephonyOptions,
    command: &Command,
) -> Result<(), HandlerError> {
    match command.name.as_str() {
        "call.webhook" => webhook::receive(tx, options, command),
        "call.intake" => intake::intake(tx, command),
        "call.drop_intake" => intake::drop_intake(tx, command),
        "call.get" => get(tx, command),
        "call.list" => list(tx, command),
        "call.reveal_pii" => reveal(tx, command),
        other => Err(Rejection::new(Code::NotFound, format!("no command {other}")).into()),
    }
}

/// The call with this id.
pub(super) fn find(tx: &Tx<'_>, id: Id) -> Result<Call, HandlerError> {
    Call::find(tx, id)?
        .ok_or_else(|| Rejection::new(Code::NotFound, "there is no such call").into())
}

fn transcript(tx: &Tx<'_>, id: Id) -> Result<Transcript, HandlerError> {
    Transcript::find(tx, id)?
        .ok_or_else(|| Rejection::new(Code::NotFound, "there is no such transcript").into())
}

/// Whose call a command is about.
pub(super) fn scope(tx: &Tx<'_>, command: &Command) -> Result<Scope, HandlerError> {
    let call = match command.name.as_str() {
        "call.webhook" | "call.list" => return Ok(Scope::Open),
        "call.reveal_pii" => {
            let transcript = transcript(tx, id_of(command, "transcriptId")?)?;
            find(tx, transcript.call_id)?
        }
        _ => find(tx, id_of(command, "callId")?)?,
    };
    // The caller's own link, and the provider whose call it is.
    let own = match command.actor() {
        Actor::Call(id) => *id == call.call_id,
        Actor::Provider(name) => *name == call.provider,
        _ => false,
    };
    if own {
        return Ok(Scope::Open);
    }
    Ok(Scope::Owned {
        driver: call.driver_id,
        vendor: None,
        company: call.company_id,
    })
}

fn get(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: One = command.parse()?;
    let call = find(tx, body.call_id)?;
    let transcript = Transcript::of_call(tx, call.call_id)?;
    Ok(tx.reply(&WithTranscript { call, transcript })?)
}

/// A call, with what was said once it is transcribed.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "CallWithTranscript")]
pub(super) struct WithTranscript {
    #[serde(flatten)]
    call: Call,
    #[serde(skip_serializing_if = "Option::is_none")]
    transcript: Option<Transcript>,
}

/// Something that was masked.
#[derive(Serialize, JsonSchema)]
struct Unmasked {
    #[serde(rename = "type")]
    kind: EntityKind,
    /// The first character.
    begin: usize,
    /// The character behind the last one.
    end: usize,
    value: String,
}

/// What was masked in a transcript, and under which id it is written down who looked.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Revealed {
    entities: Vec<Unmasked>,
    access_log_id: Id,
}

fn list(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: ListBody = command.parse()?;
    let limit = limit(body.limit)?;
    let (ms, id) = cursor(body.cursor.as_deref())?;
    let company = command.caller.company.map(|id| id.to_string());
    let mut calls: Vec<Call> = tx.documents(
        "SELECT doc FROM call
         WHERE (?1 OR company_id IS ?2) AND (?3 IS NULL OR driver_id = ?3) AND (?4 IS NULL OR intake = ?4)
           AND (started_at_ms, call_id) < (?5, ?6)
         ORDER BY started_at_ms DESC, call_id DESC LIMIT ?7",
        params![
            command.caller.is_admin(),
            company,
            body.driver_id.map(|id| id.to_string()),
            body.intake.map(super::entity::IntakeStatus::as_str),
            ms,
            id,
            limit as i64 + 1
        ],
    )?;
    let more = calls.len() as u64 > limit;
    calls.truncate(limit as usize);
    let cursor = calls
        .last()
        .filter(|_| more)
        .map(|call| next(call.started_at.ms(), &call.call_id.to_string()));
    Ok(tx.reply(&page(&calls, cursor))?)
}

/// Shows what was masked, once it is written down who looked and why. The reply is never kept: a look is a look.
fn reveal(tx: &mut Tx<'_>, command: &Command) -> Result<(), HandlerError> {
    let body: Reveal = command.parse()?;
    let transcript = transcript(tx, body.transcript_id)?;
    let role = match command.actor() {
        Actor::Dispatcher(_) => RevealRole::Dispatcher,
        Actor::Admin(_) => RevealRole::Admin,
        _ => RevealRole::Operator,
    };
    let Some(sealed) = transcribe::open(tx, transcript.transcript_id)? else {
        let message = "what was masked is gone: it is kept for 90 days, and not of who is erased";
        return Err(Rejection::new(Code::NotFound, message).into());
    };
    let value = |begin: usize, end: usize| -> String {
        sealed
            .raw_text
            .chars()
            .skip(begin)
            .take(end - begin)
            .collect()
    };
    let entities: Vec<Unmasked> = sealed
        .entities
        .iter()
        .map(|one| Unmasked {
            kind: one.kind,
            begin: one.begin,
            end: one.end,
            value: value(one.begin, one.end),
        })
        .collect();
    let kinds: BTreeSet<&str> = sealed
        .entities
        .iter()
        .map(|one| one.kind.as_str())
        .collect();
    let kinds: Vec<Word> = kinds
        .into_iter()
        .filter_map(|kind| Word::new(kind).ok())
        .collect();
    let accessed = PiiAccessed {
        call_id: transcript.call_id,
        transcript_id: transcript.transcript_id,
        access_log_id: tx.new_id(),
        accessed_by: command.actor().clone(),
        role,
        purpose: body.purpose,
        entity_types: List::new(kinds)
            .map_err(|error| HandlerError::Transient(format!("entityTypes: {error}")))?,
        accessed_at: tx.now(),
    };
    let id = accessed.access_log_id.to_string();
    let (doc, now) = (tx.text(&accessed)?, tx.now());
    tx.execute(
        "INSERT INTO access_log (access_log_id, transcript_id, at_ms, doc) VALUES (?1, ?2, ?3, ?4)",
        params![id, transcript.transcript_id.to_string(), now.ms(), doc],
    )?;
    let gone = now + std::time::Duration::from_secs(ACCESS_DAYS * 86_400);
    tx.schedule(gone, ACCESS, &id, &json!({}))?;
    tx.emit(&accessed)?;
    let access_log_id = accessed.access_log_id;
    Ok(tx.reply(&Revealed {
        entities,
        access_log_id,
    })?)
}
