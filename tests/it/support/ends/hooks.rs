//! A push gateway that takes requests signed by the Standard Webhooks specification.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::hmac;
use serde_json::Value;

use super::web::{Request, Web};

pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Starts one: it answers 200.
pub async fn start() -> Web {
    Web::start(200, |_| "{}".to_owned()).await
}

/// The idempotency key and the body of a request whose signature is right.
pub fn order(request: &Request) -> (String, Value) {
    let key = BASE64.decode(&SECRET[6..]).expect("base64");
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let id = request.header("webhook-id");
    let signed = format!(
        "{id}.{}.{}",
        request.header("webhook-timestamp"),
        request.body
    );
    let signature = request
        .header("webhook-signature")
        .strip_prefix("v1,")
        .expect("version 1");
    let signature = BASE64.decode(signature).expect("base64");
    hmac::verify(&key, signed.as_bytes(), &signature).expect("the signature is right");
    (
        id.to_owned(),
        serde_json::from_str(&request.body).expect("JSON"),
    )
}
