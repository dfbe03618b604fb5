//! The phone provider speaking by itself: signed, each kind once per call, in any order (DOMAIN 5.8).
//!
//! The payload is `{"type": "call.started", "data": {…}}`, as the Standard Webhooks specification has it.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::TelephonyOptions;
use super::entity::{Call, CallStatus, Intake, IntakeStatus, Profile, normalise};
use super::intake::{complete, press};
use super::transcribe::{self, receive_transcript};
use crate::event::{
    Actor, CallDirection, CallEnded, CallStarted, Disposition, E164, Rate, Text, Ts,
};
use crate::role::{Command, HandlerError, Rejection, Taken, signature};
use crate::store::{Tx, params};

/// The timer after which an incomplete intake is told of.
pub(super) const INTAKE: &str = "intake";
/// The timer after which a recording is forgotten.
pub(super) const RECORDING: &str = "recording";
/// Recordings and raw transcripts are kept this long (DOMAIN 6).
pub(super) const KEPT_DAYS: u64 = 90;
/// The longest body that is read.
const PAYLOAD_MAX: usize = 512 * 1024;

/// `call.webhook`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Webhook {
    /// The body, exactly as it came.
    payload: String,
    /// The header `webhook-id`.
    id: String,
    /// The header `webhook-timestamp`, Unix seconds.
    timestamp: String,
    /// The header `webhook-signature`.
    signature: String,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "type", content = "data")]
enum Payload {
    #[serde(rename = "call.started")]
    Started(Started),
    #[serde(rename = "call.ended")]
    Ended(Ended),
    #[serde(rename = "transcript.received")]
    Transcript(TranscriptText),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Started {
    provider_call_id: Text<128>,
    phone: String,
    direction: Option<CallDirection>,
    started_at: Ts,
    keypad: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ended {
    provider_call_id: Text<128>,
    phone: String,
    direction: Option<CallDirection>,
    ended_at: Ts,
    duration_seconds: u64,
    recording_ref: Option<Text<256>>,
    disposition: Disposition,
    keypad: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TranscriptText {
    pub provider_call_id: Text<128>,
    pub text: String,
    pub confidence: Rate,
}

pub(super) fn receive(
    tx: &mut Tx<'_>,
    options: &TelephonyOptions,
    command: &Command,
) -> Result<(), HandlerError> {
    let body: Webhook = command.parse()?;
    let Actor::Provider(provider) = command.actor() else {
        return Err(Rejection::field("signature", "only a provider sends webhooks").into());
    };
    let Some(secret) = &options.webhook_secret else {
        let message = "can't be checked: no webhook secret is configured";
        return Err(Rejection::field("signature", message).into());
    };
    if body.payload.len() > PAYLOAD_MAX {
        return Err(Rejection::field("payload", "is longer than 512 KiB").into());
    }
    let now = tx.now();
    signature::standard(
        secret.expose(),
        &body.id,
        &body.timestamp,
        &body.signature,
        &body.payload,
        now,
    )
    .map_err(|error| Rejection::field("signature", error.to_string()))?;
    // The parser's own words may quote the payload.
    let payload: Payload = serde_json::from_str(&body.payload).map_err(|_| {
        Rejection::field(
            "payload",
            "is no event of a call, or lacks one of its fields",
        )
    })?;
    let (id, kind) = match &payload {
        Payload::Started(started) => (&started.provider_call_id, "call.started"),
        Payload::Ended(ended) => (&ended.provider_call_id, "call.ended"),
        Payload::Transcript(text) => (&text.provider_call_id, "transcript.received"),
    };
    let first = tx.execute(
        "INSERT INTO webhook (provider, provider_call_id, kind) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        params![provider, id.as_str(), kind],
    )? > 0;
    if first {
        match payload {
            Payload::Started(started) => on_started(tx, provider, started)?,
            Payload::Ended(ended) => on_ended(tx, options, provider, ended)?,
            Payload::Transcript(text) => receive_transcript(tx, provider, text)?,
        }
    }
    Ok(tx.reply(&Taken {
        received: true,
        duplicate: !first,
    })?)
}

fn on_started(tx: &mut Tx<'_>, provider: &str, started: Started) -> Result<(), HandlerError> {
    // The end came first and told of the beginning too; only the exact time is new.
    if let Some(mut call) = Call::of_provider(tx, provider, started.provider_call_id.as_str())? {
        call.started_at = started.started_at;
        if call.intake.status.open() {
            press(&mut call, started.keypad.as_deref())?;
            return complete(tx, &mut call, &Actor::Provider(provider.to_owned()));
        }
        return Ok(call.save(tx)?);
    }
    let new = NewCall {
        id: started.provider_call_id,
        phone: number(&started.phone)?,
        direction: started.direction,
        at: started.started_at,
    };
    let mut call = begin(tx, provider, new)?;
    press(&mut call, started.keypad.as_deref())?;
    complete(tx, &mut call, &Actor::Provider(provider.to_owned()))
}

fn number(text: &str) -> Result<E164, Rejection> {
    let wrong = "its phone is no number like +15551234567";
    normalise(text).ok_or_else(|| Rejection::field("payload", wrong))
}

struct NewCall {
    id: Text<128>,
    phone: E164,
    direction: Option<CallDirection>,
    at: Ts,
}

/// Stores a call, finds its driver, and tells of its beginning.
fn begin(tx: &mut Tx<'_>, provider: &str, new: NewCall) -> Result<Call, HandlerError> {
    let driver = Profile::of_phone(tx, &new.phone)?;
    let call_id = match transcribe::waiting(tx, provider, new.id.as_str())? {
        Some((_, Some(call_id))) => call_id,
        _ => tx.new_id(),
    };
    let subject = driver.as_ref().map_or(call_id, |driver| driver.user_id);
    let phone = tx.seal(&subject, new.phone)?;
    let mut call = Call {
        call_id,
        provider: provider.to_owned(),
        provider_call_id: new.id,
        phone: Some(phone.clone()),
        direction: new.direction.unwrap_or(CallDirection::Inbound),
        driver_id: driver.as_ref().map(|driver| driver.user_id),
        company_id: driver.as_ref().and_then(|driver| driver.company_id),
        payment_type: driver.as_ref().and_then(|driver| driver.payment_type),
        incident_id: None,
        status: CallStatus::Started,
        started_at: new.at,
        ended_at: None,
        duration_seconds: None,
        recording_ref: None,
        disposition: None,
        intake: Intake {
            incident_type: None,
            location: None,
            description: None,
            priority: None,
            operator_wanted: false,
            status: IntakeStatus::Collecting,
            drop_reason: None,
        },
        version: 0,
    };
    call.save(tx)?;
    tx.emit(&CallStarted {
        call_id: call.call_id,
        phone,
        driver_id: call.driver_id,
        direction: call.direction,
        started_at: call.started_at,
    })?;
    Ok(call)
}

fn on_ended(
    tx: &mut Tx<'_>,
    options: &TelephonyOptions,
    provider: &str,
    ended: Ended,
) -> Result<(), HandlerError> {
    let found = Call::of_provider(tx, provider, ended.provider_call_id.as_str())?;
    let mut call = match found {
        Some(call) => call,
        None => {
            let lasted = i64::try_from(ended.duration_seconds).unwrap_or(i64::MAX);
            let began = ended
                .ended_at
                .ms()
                .saturating_sub(lasted.saturating_mul(1000));
            let new = NewCall {
                id: ended.provider_call_id,
                phone: number(&ended.phone)?,
                direction: ended.direction,
                at: Ts::from_ms(began),
            };
            begin(tx, provider, new)?
        }
    };
    // Erased meanwhile: there is nobody left to tell of.
    let Some(phone) = call.phone.clone() else {
        return Ok(());
    };
    call.status = CallStatus::Ended;
    call.ended_at = Some(ended.ended_at);
    call.duration_seconds = Some(ended.duration_seconds);
    call.recording_ref = ended.recording_ref;
    call.disposition = Some(ended.disposition);
    tx.emit(&CallEnded {
        call_id: call.call_id,
        phone,
        driver_id: call.driver_id,
        incident_id: call.incident_id,
        duration_seconds: ended.duration_seconds,
        recording_ref: call.recording_ref.clone(),
        disposition: ended.disposition,
        ended_at: ended.ended_at,
    })?;
    let key = call.call_id.to_string();
    let now = tx.now();
    if call.intake.status.open() {
        tx.schedule(now + options.intake_wait, INTAKE, &key, &json!({}))?;
    }
    if call.recording_ref.is_some() {
        let gone = now + std::time::Duration::from_secs(KEPT_DAYS * 86_400);
        tx.schedule(gone, RECORDING, &key, &json!({}))?;
    }
    if call.intake.status.open() {
        press(&mut call, ended.keypad.as_deref())?;
        complete(tx, &mut call, &Actor::Provider(provider.to_owned()))?;
    } else {
        call.save(tx)?;
    }
    match transcribe::waiting(tx, provider, call.provider_call_id.as_str())? {
        Some((id, _)) => transcribe::transcribe(tx, &mut call, id),
        None => Ok(()),
    }
}
