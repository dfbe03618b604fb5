//! A request signed by the Standard Webhooks specification: `webhook-id`, by which the other end knows a second copy,
//! `webhook-timestamp`, `webhook-signature`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::hmac;

use super::CallError;
use super::http::{Client, judged};
use crate::event::Ts;

/// `v1,` and the base64 of HMAC-SHA256 over `id.seconds.body` under a secret of the form `whsec_` and base64. `None` for
/// a secret of another form.
#[must_use]
pub fn signature(secret: &str, id: &str, seconds: i64, body: &str) -> Option<String> {
    let key = BASE64.decode(secret.strip_prefix("whsec_")?).ok()?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let tag = hmac::sign(&key, format!("{id}.{seconds}.{body}").as_bytes());
    Some(format!("v1,{}", BASE64.encode(tag)))
}

/// Where a body goes, and what its signature says beside it.
pub(super) struct Letter<'l> {
    /// The service's name, for words about a failure.
    pub service: &'static str,
    /// Its address.
    pub url: &'l str,
    /// The same for each try.
    pub id: &'l str,
    /// The time of this try: the other end refuses what is too old by its clock.
    pub at: Ts,
}

impl Letter<'_> {
    /// Posts `body`, signed under `secret`.
    pub(super) async fn post(
        &self,
        client: &Client,
        secret: &str,
        body: String,
    ) -> Result<(), CallError> {
        let (service, seconds) = (self.service, self.at.ms() / 1000);
        let signature = signature(secret, self.id, seconds, &body).ok_or_else(|| {
            CallError::Refused(format!("{service}: the secret is not whsec_ and base64"))
        })?;
        let sent = client
            .get()?
            .post(self.url)
            .header("Content-Type", "application/json")
            .header("webhook-id", self.id)
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", signature)
            .body(body)
            .send()
            .await;
        judged(service, sent).map(|_| ())
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
