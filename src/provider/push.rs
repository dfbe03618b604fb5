//! Push messages by an HTTP gateway that passes them on to the devices, signed by the Standard Webhooks specification:
//! `webhook-id` (the delivery's id, by which the gateway knows a second copy), `webhook-timestamp`, `webhook-signature`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::hmac;
use serde_json::{Value, json};

use super::http::{Client, judged};
use super::{CallError, Runner, Try, message_not_after, message_of, text_of};
use crate::event::Ts;
use crate::store::{EffectCall, Secret};

/// The carrier of the channel `push`.
#[derive(Debug)]
pub struct Push {
    url: String,
    secret: Secret,
    now: fn() -> Ts,
    client: Client,
}

/// `v1,` and the base64 of HMAC-SHA256 over `id.seconds.body` under a secret of the form `whsec_` and base64. `None` for
/// a secret of another form.
#[must_use]
pub fn signature(secret: &str, id: &str, seconds: i64, body: &str) -> Option<String> {
    let key = BASE64.decode(secret.strip_prefix("whsec_")?).ok()?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let tag = hmac::sign(&key, format!("{id}.{seconds}.{body}").as_bytes());
    Some(format!("v1,{}", BASE64.encode(tag)))
}

impl Push {
    /// To the gateway at `url`, signed under `secret`. The other side refuses what is too old by its clock, so each try
    /// tells its own time, by `now`.
    #[must_use]
    pub fn new(url: String, secret: Secret, now: fn() -> Ts) -> Self {
        Self {
            url,
            secret,
            now,
            client: Client::default(),
        }
    }

    async fn send(&self, call: &EffectCall) -> Result<Value, CallError> {
        let message = message_of(call)?;
        let word = |field: &str| call.request.get(field).cloned().unwrap_or_default();
        let body = json!({
            "notificationId": call.key, "devices": word("to"), "type": word("type"), "priority": word("priority"),
            "silent": word("silent"), "title": text_of(&message, "title")?, "text": text_of(&message, "text")?,
            "notAfter": word("notAfter"),
        })
        .to_string();
        let seconds = (self.now)().ms() / 1000;
        let signature =
            signature(self.secret.expose(), &call.key, seconds, &body).ok_or_else(|| {
                CallError::Refused("push: the secret is not whsec_ and base64".to_owned())
            })?;
        let sent = self
            .client
            .get()?
            .post(&self.url)
            .header("Content-Type", "application/json")
            .header("webhook-id", &call.key)
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", signature)
            .body(body)
            .send()
            .await;
        judged("push", sent)?;
        Ok(json!({}))
    }
}

impl Runner for Push {
    fn kind(&self) -> &'static str {
        "push"
    }

    fn service(&self) -> &'static str {
        "push"
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification.
    #[test]
    fn a_request_is_signed_as_the_specification_shows() {
        let signed = signature(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        let shown = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(signed.as_deref(), Some(shown));
        assert_eq!(signature("MfKQ", "id", 1, ""), None);
    }
}
