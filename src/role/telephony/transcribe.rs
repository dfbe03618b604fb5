//! From what was said to a redacted transcript and its summary (DOMAIN 5.8).
//!
//! A raw text is sealed from its arrival on, for the call while nobody knows who speaks; redaction waits for the end of the call, when the caller is known.

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
use crate::role::{EffectResult, HandlerError, Mode};
use crate::store::{EffectCall, EffectClass, EffectOutcome, Tx, params};

/// The timer after which a raw text is forgotten.
pub(super) const RAW: &str = "raw";

/// What is kept of the words themselves.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Raw {
    pub raw_text: String,
    pub entities: Vec<Entity>,
}

/// The transcript of a call that has not been taken up, and the id that the call is to have, for whom it is sealed.
pub(super) fn waiting(
    tx: &Tx<'_>,
    provider: &str,
    provider_call_id: &str,
) -> Result<Option<(Id, Option<Id>)>, HandlerError> {
    Ok(tx.document(
        "SELECT json_array(transcript_id, call_id) FROM transcript
         WHERE provider = ?1 AND provider_call_id = ?2 AND doc IS NULL",
        params![provider, provider_call_id],
    )?)
}

/// Keeps a raw text; goes on at once where the call has ended.
pub(super) fn receive_transcript(
    tx: &mut Tx<'_>,
    provider: &str,
    received: TranscriptText,
) -> Result<(), HandlerError> {
    let call = Call::of_provider(tx, provider, received.provider_call_id.as_str())?;
    if call.as_ref().is_some_and(Call::erased) {
        return Ok(()); // Erased meanwhile.
    }
    let id = tx.new_id();
    let (call_id, subject) = match &call {
        Some(call) => (call.call_id, call.subject()),
        None => {
            let call_id = tx.new_id();
            (call_id, call_id)
        }
    };
    let raw = Raw {
        raw_text: received.text,
        entities: Vec::new(),
    };
    let raw = tx.text(&tx.seal(&subject, raw)?)?;
    tx.execute(
        "INSERT INTO transcript (transcript_id, provider, provider_call_id, call_id, sealed, confidence)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            id.to_string(),
            provider,
            received.provider_call_id.as_str(),
            call_id.to_string(),
            raw,
            received.confidence.get()
        ],
    )?;
    let gone = tx.now() + std::time::Duration::from_secs(KEPT_DAYS * 86_400);
    tx.schedule(gone, RAW, &id.to_string(), &json!({}))?;
    match call.filter(|call| call.status == CallStatus::Ended) {
        Some(mut call) => transcribe(tx, &mut call, id),
        None => Ok(()),
    }
}

/// The words of a transcript, if they are still there and can be read. Older versions sealed them with a key of the site's
/// that is gone; those were bytes.
pub(super) fn open(tx: &Tx<'_>, id: Id) -> Result<Option<Raw>, HandlerError> {
    let raw: Option<Personal<Raw>> = tx.document(
        "SELECT sealed FROM transcript WHERE transcript_id = ?1 AND typeof(sealed) = 'text'",
        params![id.to_string()],
    )?;
    let raw = raw.map(|raw| tx.reveal(&raw)).transpose()?;
    Ok(raw.flatten())
}

/// Redacts the text of a call that has ended, and tells that it is there.
pub(super) fn transcribe(tx: &mut Tx<'_>, call: &mut Call, id: Id) -> Result<(), HandlerError> {
    if !legal(call.status, CallStatus::Transcribed) {
        return Ok(());
    }
    let Some(mut raw) = open(tx, id)? else {
        return Ok(()); // Older than 90 days, or its key is destroyed.
    };
    let (redacted_text, entities) = redact(&raw.raw_text, name_of(tx, call)?.as_deref());
    let has_pii = !entities.is_empty();
    raw.entities = entities;
    let subject = call.subject();
    let raw = tx.text(&tx.seal(&subject, raw)?)?;
    let confidence: Option<f64> = tx.value(
        "UPDATE transcript SET sealed = ?2 WHERE transcript_id = ?1 RETURNING confidence",
        params![id.to_string(), raw],
    )?;
    let transcript = Transcript {
        transcript_id: id,
        call_id: call.call_id,
        redacted_text: tx.seal(&subject, redacted_text)?,
        confidence: confidence
            .and_then(|number| Rate::new(number).ok())
            .ok_or_else(|| {
                HandlerError::Transient("the transcript has no confidence".to_owned())
            })?,
        has_pii,
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

/// The caller's name, where his profile is known.
fn name_of(tx: &Tx<'_>, call: &Call) -> Result<Option<String>, HandlerError> {
    let Some(id) = call.driver_id else {
        return Ok(None);
    };
    let profile: Option<Profile> = tx.document(
        "SELECT doc FROM directory WHERE user_id = ?1",
        params![id.to_string()],
    )?;
    let name = profile.and_then(|profile| profile.name);
    let name = name.map(|name| tx.reveal(&name)).transpose()?.flatten();
    Ok(name.map(|name| name.as_str().to_owned()))
}

/// A transcript that is to be summarised, its call and what was said; nothing once the caller is erased.
fn unsummarised(tx: &Tx<'_>, id: Id) -> Result<Option<(Transcript, Call, String)>, HandlerError> {
    let transcript = Transcript::find(tx, id)?.filter(|found| found.summary.is_none());
    let Some(transcript) = transcript else {
        return Ok(None);
    };
    let call = Call::find(tx, transcript.call_id)?.filter(|call| !call.erased());
    let text = tx.reveal(&transcript.redacted_text)?;
    Ok(call.zip(text).map(|(call, text)| (transcript, call, text)))
}

/// On TranscriptReady: asks the summariser where there is one, else the rules. A replay asks nobody.
pub(super) fn summarise(
    tx: &mut Tx<'_>,
    options: &TelephonyOptions,
    ready: &TranscriptReady,
    mode: Mode,
) -> Result<(), HandlerError> {
    let Some((transcript, call, text)) = unsummarised(tx, ready.transcript_id)? else {
        return Ok(());
    };
    if options.summariser && mode != Mode::Replay {
        let text = tx.seal(&call.subject(), text)?;
        tx.effect(EffectCall {
            key: format!("{SUMMARISE}-{}", transcript.transcript_id),
            kind: SUMMARISE.to_owned(),
            class: EffectClass::External,
            request: json!({ "transcriptId": transcript.transcript_id, "text": text }),
            secret: None,
        })?;
        return Ok(());
    }
    let digest = digest(&text);
    finish(tx, transcript, call, digest, None)
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
    let Some((transcript, call, text)) = unsummarised(tx, id)? else {
        return Ok(());
    };
    let ruled = digest(&text);
    let answer = match &result.outcome {
        EffectOutcome::Done(value) => serde_json::from_value::<Answer>(value.clone()).ok(),
        _ => None,
    };
    let Some(answer) = answer.filter(|answer| !answer.summary.as_str().trim().is_empty()) else {
        return finish(tx, transcript, call, ruled, None);
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
    finish(tx, transcript, call, digest, actions)
}

fn finish(
    tx: &mut Tx<'_>,
    mut transcript: Transcript,
    mut call: Call,
    digest: Digest,
    given: Option<Vec<Text<200>>>,
) -> Result<(), HandlerError> {
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
        summary: tx.seal(&call.subject(), digest.summary)?,
        incident_type,
        urgency: digest.urgency,
        action_items,
        sentiment: digest.sentiment,
        key_phrases: tx.seal(&call.subject(), digest.key_phrases)?,
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
