//! What an SMS service of Twilio's kind tells back: a person said STOP, a message could not be delivered. Signed as
//! Twilio signs: HMAC-SHA1 under the account's token over the URL and the sorted parameters, in base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::hmac;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::commands::opt_out;
use super::contact::Contact;
use super::delivery::Delivery;
use super::sending::keep_clearing;
use super::{Inbound, Options};
use crate::event::{DeliveryStatus, E164, Text};
use crate::role::{Code, Command, HandlerError, Rejection};
use crate::store::Tx;

/// Words that mean "no more SMS", as operators and Twilio take them.
const STOP_WORDS: [&str; 6] = ["STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT"];

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Webhook {
    /// The request's body as it came, `application/x-www-form-urlencoded`.
    payload: Text<16384>,
    /// The header `X-Twilio-Signature`.
    signature: Text<64>,
    #[serde(rename = "clientRequestId")]
    _client_request_id: Option<Text<64>>,
}

/// The signature of these parameters under an account's token.
fn signed(inbound: &Inbound, parameters: &[(String, String)]) -> (hmac::Key, Vec<u8>) {
    let token = inbound.token.expose().as_bytes();
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, token);
    let mut text = inbound.url.clone();
    for (name, value) in parameters {
        text.push_str(name);
        text.push_str(value);
    }
    (key, text.into_bytes())
}

pub(super) fn webhook(
    tx: &mut Tx<'_>,
    options: &Options,
    command: &Command,
) -> Result<(), HandlerError> {
    let body: Webhook = command.parse()?;
    let Some(inbound) = &options.inbound else {
        let message = "no SMS service with webhooks is configured";
        return Err(Rejection::new(Code::NotFound, message).into());
    };
    let payload = body.payload.as_str().as_bytes();
    let mut parameters: Vec<(String, String)> =
        form_urlencoded::parse(payload).into_owned().collect();
    parameters.sort();
    let (key, text) = signed(inbound, &parameters);
    let signature = BASE64.decode(body.signature.as_str()).unwrap_or_default();
    if hmac::verify(&key, &text, &signature).is_err() {
        return Err(Rejection::field("signature", "is not the one of this payload").into());
    }
    let value = |name: &str| {
        let found = parameters.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    };
    match (value("MessageStatus"), value("MessageSid"), value("From")) {
        (Some(status), Some(message_id), _) => {
            on_report(tx, message_id, status, value("ErrorCode"))?;
        }
        (None, _, Some(from)) => {
            let words = value("Body")
                .unwrap_or_default()
                .trim()
                .to_ascii_uppercase();
            if STOP_WORDS.contains(&words.as_str()) || value("OptOutType") == Some("STOP") {
                on_stop(tx, from)?;
            }
        }
        _ => {}
    }
    Ok(tx.reply(&json!({}))?)
}

/// Everybody with this number; of a number that nobody here has there is nothing to remember.
fn on_stop(tx: &mut Tx<'_>, from: &str) -> Result<(), HandlerError> {
    let Ok(phone) = E164::new(from) else {
        return Ok(());
    };
    for contact in Contact::with_phone(tx, &phone)? {
        opt_out(tx, contact.user_id)?;
    }
    Ok(())
}

/// A message that was sent and did not arrive has failed, and no longer counts to the limit.
fn on_report(
    tx: &mut Tx<'_>,
    message_id: &str,
    status: &str,
    code: Option<&str>,
) -> Result<(), HandlerError> {
    if !matches!(status, "failed" | "undelivered") {
        return Ok(());
    }
    // A number of the service's list, and nothing else that it might write there.
    let code = code.and_then(|code| code.parse::<u32>().ok());
    let reason = match code {
        Some(code) => format!("{status}, code {code}"),
        None => status.to_owned(),
    };
    match Delivery::of_provider(tx, message_id)? {
        Some(mut delivery) => {
            if delivery.status == DeliveryStatus::Sent {
                delivery.end(DeliveryStatus::Failed, Some(reason));
                delivery.save(tx)?;
            }
        }
        // It overtook the answer to the call that sent it.
        None => {
            Delivery::keep_report(tx, message_id, &reason)?;
            keep_clearing(tx)?;
        }
    }
    Ok(())
}
