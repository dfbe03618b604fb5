//! Stripe over HTTP (DOMAIN 5.5): charges are PaymentIntents, vendors are paid by Transfers, money goes back by Refunds and
//! Reversals; each under the idempotency key that the role chose, with our ids as metadata for questions and webhooks.
//!
//! A 4xx is an answer and not a failure of the service, except 429 (not taken, try again) and 409 (another request with
//! this key is on its way: nobody knows yet). A 5xx says nothing of what was done.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{CallError, Runner, Try, http};
use crate::store::{EffectCall, Secret};

/// The kinds of calls, by the words that the role payments uses.
const CHARGE: &str = "payment_charge";
const TRANSFER: &str = "payment_transfer";
const REFUND: &str = "payment_refund";
const LOOKUP: &str = "payment_lookup";
const CONFIRMATION: &str = "payment_confirmation";

/// Where the secret key is.
#[derive(Debug, Clone)]
pub enum Key {
    /// Given as it is.
    Plain(Secret),
    /// In a file, read for each call, so that it can be changed while we run.
    File(PathBuf),
}

/// How Stripe is reached.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `https://api.stripe.com`, without a slash at its end.
    pub base_url: String,
    /// The API version that we were written for.
    pub api_version: String,
    /// The secret key.
    pub key: Key,
    /// How long one try may take.
    pub timeout: Duration,
    /// Before the first further try; each next one waits twice as long,
    pub retry_base: Duration,
    /// at most so long.
    pub retry_cap: Duration,
}

struct Stripe {
    settings: Settings,
    client: http::Client,
}

/// Makes one kind of call.
struct StripeRunner {
    kind: &'static str,
    stripe: Arc<Stripe>,
}

/// The runners of all kinds, over one client.
#[must_use]
pub fn runners(settings: Settings) -> Vec<Arc<dyn Runner>> {
    let stripe = Arc::new(Stripe {
        settings,
        client: http::Client::default(),
    });
    let kinds = [CHARGE, TRANSFER, REFUND, LOOKUP, CONFIRMATION];
    let runner = |kind| {
        let stripe = Arc::clone(&stripe);
        Arc::new(StripeRunner { kind, stripe }) as Arc<dyn Runner>
    };
    kinds.map(runner).to_vec()
}

impl Runner for StripeRunner {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn service(&self) -> &'static str {
        "stripe"
    }

    fn idempotent(&self) -> bool {
        true
    }

    fn timeout(&self) -> Duration {
        self.stripe.settings.timeout
    }

    fn waits(&self) -> Vec<Duration> {
        let settings = &self.stripe.settings;
        let wait = |n: u32| (settings.retry_base * 2_u32.pow(n)).min(settings.retry_cap);
        // Somebody waits for it, and asks again by himself.
        let further = if self.kind == CONFIRMATION { 0 } else { 3 };
        (0..further).map(wait).collect()
    }

    fn call<'a>(&'a self, call: &'a EffectCall) -> Try<'a> {
        Box::pin(async move {
            let (stripe, request) = (&self.stripe, &call.request);
            match self.kind {
                CHARGE => charge(stripe, &call.key, request).await,
                TRANSFER => transfer(stripe, &call.key, request).await,
                REFUND => refund(stripe, &call.key, request).await,
                CONFIRMATION => confirmation(stripe, request).await,
                _ => lookup(stripe, request).await,
            }
        })
    }
}

/// What Stripe answered: its object, or why it refuses, as a code.
enum Reply {
    Object(Value),
    Refused(String),
}

type Form = Vec<(&'static str, String)>;

fn text(request: &Value, field: &str) -> String {
    match &request[field] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn encoded(form: &Form) -> String {
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(form)
        .finish()
}

impl Stripe {
    fn key(&self) -> Result<Secret, CallError> {
        let key = match &self.settings.key {
            Key::Plain(key) => key.clone(),
            Key::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    // Not sent: it is when the file is there again.
                    CallError::Unavailable(format!("the secret key's file: {}", error.kind()))
                })?;
                Secret::new(text.trim())
            }
        };
        Ok(key)
    }

    async fn post(&self, path: &str, key: &str, form: &Form) -> Result<Reply, CallError> {
        let url = format!("{}{path}", self.settings.base_url);
        let request = self
            .client
            .get()?
            .post(url)
            .header("Idempotency-Key", key)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(encoded(form));
        self.send(request).await
    }

    async fn get(&self, path: &str, query: &Form) -> Result<Reply, CallError> {
        let url = format!("{}{path}?{}", self.settings.base_url, encoded(query));
        self.send(self.client.get()?.get(url)).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Reply, CallError> {
        let request = request
            .bearer_auth(self.key()?.expose())
            .header("Stripe-Version", &self.settings.api_version);
        let response = request.send().await.map_err(|error| http::failed(&error))?;
        let status = response.status().as_u16();
        let body = response.bytes().await;
        match status {
            429 => return Err(CallError::Unavailable("status 429".to_owned())),
            409 | 300..=399 | 500.. => return Err(CallError::Unknown(format!("status {status}"))),
            _ => {}
        }
        let body = body.map_err(|error| http::failed(&error))?;
        let object: Value = serde_json::from_slice(&body)
            .map_err(|_| CallError::Unknown(format!("status {status} and no JSON")))?;
        if (200..300).contains(&status) {
            return Ok(Reply::Object(object));
        }
        let error = &object["error"];
        let words = [&error["decline_code"], &error["code"], &error["type"]];
        let word = words.iter().find_map(|word| word.as_str());
        Ok(Reply::Refused(code(word.unwrap_or("refused"))))
    }
}

/// Any word as a code of DOMAIN 3.2: letters, digits and `_`, at most 64.
fn code(word: &str) -> String {
    let fits = |c: char| {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            c
        } else {
            '_'
        }
    };
    let word: String = word.chars().take(64).map(fits).collect();
    if word.is_empty() {
        "refused".to_owned()
    } else {
        word
    }
}

fn refused(reason: String) -> Value {
    json!({ "state": "failed", "reason": reason })
}

/// The form that every creation begins with: the money, and whose it is.
fn creation(key: &str, request: &Value) -> Form {
    vec![
        ("amount", text(request, "amountCents")),
        ("currency", text(request, "currency").to_ascii_lowercase()),
        ("metadata[payment_id]", text(request, "paymentId")),
        ("metadata[incident_id]", text(request, "incidentId")),
        ("metadata[attempt]", text(request, "attempt")),
        ("metadata[idempotency_key]", key.to_owned()),
    ]
}

/// The card holder chooses and confirms his card in the app, with what payment.action gives him.
async fn charge(stripe: &Stripe, key: &str, request: &Value) -> Result<Value, CallError> {
    let mut form = creation(key, request);
    form.push(("automatic_payment_methods[enabled]", "true".to_owned()));
    match stripe.post("/v1/payment_intents", key, &form).await? {
        Reply::Refused(reason) => Ok(refused(reason)),
        Reply::Object(intent) => Ok(of_intent(&intent)),
    }
}

fn of_intent(intent: &Value) -> Value {
    let state = match intent["status"].as_str() {
        Some("succeeded") => "succeeded",
        Some("canceled") => "failed",
        Some("requires_payment_method" | "requires_action" | "requires_confirmation") => {
            "requires_action"
        }
        _ => "pending",
    };
    let reason = (state == "failed").then(|| {
        let reason = intent["cancellation_reason"].as_str();
        code(reason.unwrap_or("canceled"))
    });
    json!({ "state": state, "reference": intent["id"], "reason": reason })
}

async fn transfer(stripe: &Stripe, key: &str, request: &Value) -> Result<Value, CallError> {
    let mut form = creation(key, request);
    form.push(("destination", text(request, "destination")));
    // What it is looked for by: transfers can't be searched by metadata.
    form.push(("transfer_group", key.to_owned()));
    match stripe.post("/v1/transfers", key, &form).await? {
        Reply::Refused(reason) => Ok(refused(reason)),
        Reply::Object(transfer) => Ok(done(&transfer)),
    }
}

/// An object that exists is done.
fn done(object: &Value) -> Value {
    json!({ "state": "succeeded", "reference": object["id"] })
}

async fn refund(stripe: &Stripe, key: &str, request: &Value) -> Result<Value, CallError> {
    let paid = text(request, "payment");
    let mut form = vec![
        ("metadata[payment_id]", text(request, "paymentId")),
        ("metadata[idempotency_key]", key.to_owned()),
        ("amount", text(request, "amountCents")),
    ];
    let path = if request["of"] == "charge" {
        form.push(("payment_intent", paid));
        "/v1/refunds".to_owned()
    } else {
        format!("/v1/transfers/{paid}/reversals")
    };
    match stripe.post(&path, key, &form).await? {
        Reply::Refused(reason) => Ok(refused(reason)),
        Reply::Object(refund) => Ok(of_refund(&refund)),
    }
}

/// A reversal has no status: it is done.
fn of_refund(refund: &Value) -> Value {
    let state = match refund["status"].as_str() {
        None | Some("succeeded") => "succeeded",
        Some("failed" | "canceled") => "failed",
        Some(_) => "pending",
    };
    json!({ "state": state, "reference": refund["id"] })
}

/// What became of a call, asked for by Stripe's name for it, or by our key where we have none.
async fn lookup(stripe: &Stripe, request: &Value) -> Result<Value, CallError> {
    let (key, reference) = (text(request, "key"), text(request, "reference"));
    let one = |object: &Value, read: fn(&Value) -> Value| match object {
        Value::Null => json!({ "state": "not_found" }),
        object => read(object),
    };
    let found = match text(request, "what").as_str() {
        CHARGE if !reference.is_empty() => {
            let path = format!("/v1/payment_intents/{reference}");
            one(&asked(stripe, &path, &Form::new()).await?, of_intent)
        }
        CHARGE => {
            let query = vec![("query", format!("metadata['idempotency_key']:'{key}'"))];
            let found = asked(stripe, "/v1/payment_intents/search", &query).await?;
            one(&found["data"][0], of_intent)
        }
        TRANSFER => {
            let query = vec![("transfer_group", key)];
            let found = asked(stripe, "/v1/transfers", &query).await?;
            one(&found["data"][0], done)
        }
        _ => {
            let paid = text(request, "payment");
            let (path, query) = if request["of"] == "charge" {
                let query = vec![("payment_intent", paid), ("limit", "100".to_owned())];
                ("/v1/refunds".to_owned(), query)
            } else {
                let query = vec![("limit", "100".to_owned())];
                (format!("/v1/transfers/{paid}/reversals"), query)
            };
            let found = asked(stripe, &path, &query).await?;
            let mut all = found["data"].as_array().into_iter().flatten();
            let ours = all.find(|refund| refund["metadata"]["idempotency_key"] == key.as_str());
            one(ours.unwrap_or(&Value::Null), of_refund)
        }
    };
    Ok(found)
}

/// What a question brings; null for what is not there.
async fn asked(stripe: &Stripe, path: &str, query: &Form) -> Result<Value, CallError> {
    match stripe.get(path, query).await? {
        Reply::Object(object) => Ok(object),
        Reply::Refused(reason) if reason == "resource_missing" => Ok(Value::Null),
        // The question was wrong; that says nothing of the payment.
        Reply::Refused(reason) => Err(CallError::Refused(reason)),
    }
}

async fn confirmation(stripe: &Stripe, request: &Value) -> Result<Value, CallError> {
    let path = format!("/v1/payment_intents/{}", text(request, "reference"));
    let intent = asked(stripe, &path, &Form::new()).await?;
    let Some(secret) = intent["client_secret"].as_str() else {
        return Err(CallError::Refused("there is nothing to confirm".to_owned()));
    };
    Ok(json!({
        "paymentId": request["paymentId"], "provider": "stripe", "providerReference": intent["id"],
        "clientSecret": secret,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_of_an_intent_is_read() {
        for (status, state) in [
            ("succeeded", "succeeded"),
            ("canceled", "failed"),
            ("requires_payment_method", "requires_action"),
            ("requires_action", "requires_action"),
            ("requires_confirmation", "requires_action"),
            ("processing", "pending"),
            ("one of tomorrow", "pending"),
        ] {
            let intent = json!({ "id": "pi_1", "status": status });
            assert_eq!(of_intent(&intent)["state"], state, "{status}");
        }
        assert_eq!(code("Insufficient-Funds!"), "insufficient_funds_");
        assert_eq!(code(""), "refused");
    }

    #[test]
    fn further_tries_wait_twice_as_long_each_and_never_longer_than_the_cap() {
        let settings = Settings {
            base_url: String::new(),
            api_version: String::new(),
            key: Key::Plain(Secret::new("k")),
            timeout: Duration::from_secs(30),
            retry_base: Duration::from_secs(3),
            retry_cap: Duration::from_secs(10),
        };
        let waits = runners(settings)[0].waits();
        assert_eq!(waits, [3, 6, 10].map(Duration::from_secs));
    }
}
