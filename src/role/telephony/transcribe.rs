//! From what was said to a redacted transcript and its summary (DOMAIN 5.8).
//!
//! A raw text is sealed from its arrival on; redaction waits for the end of the call, when the caller is known.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::entity::{Call, CallStatus, Profile, Summary, Transcript, legal};
use super::redact::{Entity, redact};
use super::summary::{Digest, Sentiment, actions, digest};
use super::webhook::{KEPT_DAYS, TranscriptText};
use super::{SUMMARISE, TelephonyOptions};
use crate::event::{
    CallSummaryGenerated, Disposition, Id, IncidentType, List, Personal, Rate, Text,
    TranscriptReady, Urgency,
};
use crate::role::{Code, Command, EffectResult, HandlerError, Mode, Rejection};
use crate::store::{EffectCall, EffectClass, EffectOutcome, Tx, params};

/// The timer after which a raw text is forgotten.
pub(super) const RAW: &str = "raw";

/// What is sealed of a transcript.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sealed {
    pub raw_text: String,
    pub entities: Vec<Entity>,
}

/// Keeps a raw text; goes on at once where the call has ended.
pub(super) fn receive_transcript(
    tx: &mut Tx<'_>,
    options: &TelephonyOptions,
    command: &Command,
    provider: &str,
    received: &TranscriptText,
) -> Result<(), HandlerError> {
    let call = Call::of_provider(tx, provider, received.provider_call_id.as_str())?;
    if call.as_ref().is_some_and(|call| call.phone.is_none()) {
        return Ok(()); // Erased meanwhile.
    }
    let id = tx.new_id();
    let raw = Sealed {
        raw_text: received.text.clone(),
        entities: Vec::new(),
    };
    let sealed = seal(options, &command.entropy.0[..12], id, &raw)?;
    tx.execute(
        "INSERT INTO transcript (transcript_id, provider, provider_call_id, sealed, confidence) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            id.to_string(),
            provider,
            received.provider_call_id.as_str(),
            sealed,
            received.confidence.get()
        ],
    )?;
    let gone = tx.now() + std::time::Duration::from_secs(KEPT_DAYS * 86_400);
    tx.schedule(gone, RAW, &id.to_string(), &json!({}))?;
    match call.filter(|call| call.status == CallStatus::Ended) {
        Some(mut call) => transcribe(tx, options, command, &mut call, id),
        None => Ok(()),
    }
}

fn seal(
    options: &TelephonyOptions,
    chance: &[u8],
    id: Id,
    content: &Sealed,
) -> Result<Vec<u8>, HandlerError> {
    let refused = || {
        let message = "a transcript can't be kept: this role has no key to seal it with";
        HandlerError::from(Rejection::new(Code::ServiceUnavailable, message))
    };
    let sealer = options.sealer.as_ref().ok_or_else(refused)?;
    let text = serde_json::to_string(content).map_err(|_| refused())?;
    let nonce = chance.try_into().map_err(|_| refused())?;
    sealer
        .seal(nonce, &id.to_string(), &text)
        .ok_or_else(refused)
}

/// Opens what was sealed of a transcript, if it is still there.
pub(super) fn open(
    tx: &Tx<'_>,
    options: &TelephonyOptions,
    id: Id,
) -> Result<Option<Sealed>, HandlerError> {
    let sealed: Option<Vec<u8>> = tx.value(
        "SELECT sealed FROM transcript WHERE transcript_id = ?1 AND sealed IS NOT NULL",
        params![id.to_string()],
    )?;
    let opened = sealed
        .zip(options.sealer.as_ref())
        .and_then(|(sealed, sealer)| {
            let text = sealer.open(&id.to_string(), &sealed)?;
            serde_json::from_str(&text).ok()
        });
    Ok(opened)
}

/// Redacts the text of a call that has ended, and tells that it is there.
pub(super) fn transcribe(
    tx: &mut Tx<'_>,
    options: &TelephonyOptions,
    command: &Command,
    call: &mut Call,
    id: Id,
) -> Result<(), HandlerError> {
    if !legal(call.status, CallStatus::Transcribed) {
        return Ok(());
    }
    let Some(mut sealed) = open(tx, options, id)? else {
        return Ok(()); // Older than 90 days, or sealed with a key that is lost.
    };
    let (redacted_text, entities) = redact(&sealed.raw_text, name_of(tx, call)?.as_deref());
    sealed.entities = entities;
    let blob = seal(options, &command.entropy.0[12..24], id, &sealed)?;
    let confidence: Option<f64> = tx.value(
        "UPDATE transcript SET sealed = ?2 WHERE transcript_id = ?1 RETURNING confidence",
        params![id.to_string(), blob],
    )?;
    let transcript = Transcript {
        transcript_id: id,
        call_id: call.call_id,
        redacted_text,
        confidence: confidence
            .and_then(|number| Rate::new(number).ok())
            .ok_or_else(|| {
                HandlerError::Transient("the transcript has no confidence".to_owned())
            })?,
        has_pii: !sealed.entities.is_empty(),
        summary: None,
    };
    transcript.save(tx)?;
    call.status = CallStatus::Transcribed;
    call.save(tx)?;
    tx.emit(&TranscriptReady {
        call_id: call.call_id,
        incident_id: call.incident_id,
        transcript_id: id,
        confidence: transcript.confidence,
        has_pii: transcript.has_pii,
    })?;
    Ok(())
}

/// The caller's name, where his profile is known and not sealed.
fn name_of(tx: &Tx<'_>, call: &Call) -> Result<Option<String>, HandlerError> {
    let Some(id) = call.driver_id else {
        return Ok(None);
    };
    let profile: Option<Profile> = tx.document(
        "SELECT doc FROM directory WHERE user_id = ?1",
        params![id.to_string()],
    )?;
    let name = profile.and_then(|profile| profile.name);
    Ok(name
        .as_ref()
        .and_then(Personal::as_plain)
        .map(|name| name.as_str().to_owned()))
}

/// On TranscriptReady: asks the summariser where there is one, else the rules. A replay asks nobody.
pub(super) fn summarise(
    tx: &mut Tx<'_>,
    options: &TelephonyOptions,
    ready: &TranscriptReady,
    mode: Mode,
) -> Result<(), HandlerError> {
    let Some(transcript) = Transcript::find(tx, ready.transcript_id)? else {
        return Ok(());
    };
    if transcript.summary.is_some() {
        return Ok(());
    }
    if options.summariser && mode != Mode::Replay {
        tx.effect(EffectCall {
            key: format!("{SUMMARISE}-{}", transcript.transcript_id),
            kind: SUMMARISE.to_owned(),
            class: EffectClass::External,
            request: json!({ "transcriptId": transcript.transcript_id, "text": transcript.redacted_text }),
            secret: None,
        })?;
        return Ok(());
    }
    let digest = digest(&transcript.redacted_text);
    finish(tx, transcript, digest, None)
}

/// What a summariser answers.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    summary: Text<4000>,
    urgency: Urgency,
    incident_type: Option<IncidentType>,
    #[serde(default)]
    action_items: Option<List<Text<200>, 0, 10>>,
    sentiment: Option<Sentiment>,
    key_phrases: Option<List<Text<100>, 0, 10>>,
}

/// The summariser's answer; whatever can't be used is answered by the rules.
pub(super) fn on_effect(tx: &mut Tx<'_>, result: &EffectResult) -> Result<(), HandlerError> {
    let id = result.request["transcriptId"].as_str().unwrap_or_default();
    let Some(id) = Id::parse(id).ok() else {
        return Ok(());
    };
    let Some(transcript) = Transcript::find(tx, id)?.filter(|found| found.summary.is_none()) else {
        return Ok(());
    };
    let ruled = digest(&transcript.redacted_text);
    let answer = match &result.outcome {
        EffectOutcome::Done(value) => serde_json::from_value::<Answer>(value.clone()).ok(),
        _ => None,
    };
    let Some(answer) = answer.filter(|answer| !answer.summary.as_str().trim().is_empty()) else {
        return finish(tx, transcript, ruled, None);
    };
    // It saw only masked text; what it may have made up is masked all the same.
    let masked = |text: &str| redact(text, None).0;
    let digest = Digest {
        summary: masked(answer.summary.as_str()),
        incident_type: answer.incident_type.or(ruled.incident_type),
        urgency: answer.urgency,
        sentiment: answer.sentiment.unwrap_or(ruled.sentiment),
        key_phrases: answer.key_phrases.map_or(ruled.key_phrases, |list| {
            list.get()
                .iter()
                .map(|text| masked(text.as_str()))
                .collect()
        }),
    };
    let actions = answer.action_items.map(|list| {
        let items = list
            .get()
            .iter()
            .map(|text| Text::lossy(&masked(text.as_str())));
        items.collect()
    });
    finish(tx, transcript, digest, actions)
}

fn finish(
    tx: &mut Tx<'_>,
    mut transcript: Transcript,
    digest: Digest,
    given: Option<Vec<Text<200>>>,
) -> Result<(), HandlerError> {
    let Some(mut call) = Call::find(tx, transcript.call_id)? else {
        return Ok(());
    };
    let incident_type = call.intake.incident_type.or(digest.incident_type);
    let cut = call
        .disposition
        .is_some_and(|how| how != Disposition::Completed);
    let ruled = || {
        let located = call.intake.location.is_some();
        let call_back = cut || call.driver_id.is_none();
        let actions = actions(incident_type, located, call_back, digest.urgency);
        actions.iter().map(|text| Text::lossy(text)).collect()
    };
    let action_items: Vec<Text<200>> = given.unwrap_or_else(ruled);
    let summary = Summary {
        summary_id: tx.new_id(),
        summary: digest.summary,
        incident_type,
        urgency: digest.urgency,
        action_items,
        sentiment: digest.sentiment,
        key_phrases: digest.key_phrases,
        generated_at: tx.now(),
    };
    tx.emit(&CallSummaryGenerated {
        call_id: call.call_id,
        incident_id: call.incident_id,
        company_id: call.company_id,
        transcript_id: transcript.transcript_id,
        summary_id: summary.summary_id,
        urgency: summary.urgency,
        incident_type,
        action_items: List::new(summary.action_items.clone())
            .map_err(|error| HandlerError::Transient(format!("actionItems: {error}")))?,
        generated_at: summary.generated_at,
    })?;
    transcript.summary = Some(summary);
    transcript.save(tx)?;
    call.status = CallStatus::Summarised;
    Ok(call.save(tx)?)
}
