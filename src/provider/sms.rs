//! SMS by Twilio, or by a service with its API: a form, basic authentication, a message id back.
//!
//! The API takes no idempotency key by contract; the delivery's id travels in the headers that its kind of service looks at
//! (`I-Twilio-Idempotency-Token`, `Idempotency-Key`), so that a second copy can be told by it. It is tried again all the
//! same: an SMS that does not come is worse than one that comes twice (DESIGN promise 2).

use serde_json::{Value, json};

use super::http::{Client, judged};
use super::{Believed, CallError, Runner, Try, message_not_after, message_of, text_of};
use crate::event::Ts;
use crate::store::{EffectCall, Secret};

/// An account with the service.
#[derive(Debug)]
pub struct Account {
    /// Where the API is, without a slash at the end.
    pub url: String,
    /// The account's SID.
    pub sid: String,
    /// Its token.
    pub token: Secret,
    /// The number that messages come from, or the SID of a messaging service (`MG…`).
    pub from: String,
    /// Where the service reports what became of a message.
    pub status_url: Option<String>,
}

/// The carrier of the channel `sms`.
#[derive(Debug)]
pub struct Sms {
    account: Account,
    client: Client,
}

impl Sms {
    /// With this account.
    #[must_use]
    pub fn new(account: Account, believed: Believed) -> Self {
        Self {
            account,
            client: Client::new(believed),
        }
    }

    async fn send(&self, call: &EffectCall) -> Result<Value, CallError> {
        let account = &self.account;
        let form = self.form(call)?;
        let url = format!(
            "{}/2010-04-01/Accounts/{}/Messages.json",
            account.url, account.sid
        );
        let sent = self
            .client
            .get()?
            .post(url)
            .basic_auth(&account.sid, Some(account.token.expose()))
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("I-Twilio-Idempotency-Token", &call.key)
            .header("Idempotency-Key", &call.key)
            .body(form)
            .send()
            .await;
        let answer = judged("sms", sent)?.json::<Value>().await;
        // Accepted is accepted, whatever the words that come with it.
        let id = answer
            .ok()
            .and_then(|answer| Some(answer.get("sid")?.as_str()?.to_owned()));
        Ok(json!({ "id": id }))
    }

    fn form(&self, call: &EffectCall) -> Result<String, CallError> {
        let message = message_of(call)?;
        let account = &self.account;
        let sender = if account.from.starts_with("MG") {
            "MessagingServiceSid"
        } else {
            "From"
        };
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("To", text_of(&call.request, "to")?)
            .append_pair(sender, &account.from)
            .append_pair("Body", text_of(&message, "text")?);
        if let Some(url) = &account.status_url {
            form.append_pair("StatusCallback", url);
        }
        Ok(form.finish())
    }
}

impl Runner for Sms {
    fn kind(&self) -> &'static str {
        "sms"
    }

    fn service(&self) -> &'static str {
        "sms"
    }

    fn idempotent(&self) -> bool {
        true
    }

    fn not_after(&self, call: &EffectCall) -> Option<Ts> {
        message_not_after(call)
    }

    fn call<'a>(&'a self, call: &'a EffectCall) -> Try<'a> {
        Box::pin(self.send(call))
    }
}
