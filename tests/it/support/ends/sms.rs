//! An SMS service with Twilio's API.

use base64::Engine as _;

use super::web::{Request, Web};

pub const ACCOUNT: &str = "AC123";
pub const TOKEN: &str = "sms-token-of-the-test";
pub const FROM: &str = "+15550009999";

/// An SMS as it was ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sms {
    /// The idempotency key.
    pub key: String,
    pub to: String,
    pub text: String,
}

/// Starts one: it answers 201 with an id made of the key.
pub async fn start() -> Web {
    Web::start(201, |request| {
        format!(
            "{{\"sid\":\"SM-{}\",\"status\":\"queued\"}}",
            request.header("idempotency-key")
        )
    })
    .await
}

/// What a request orders; checks that it is a sound one.
pub fn order(request: &Request) -> Sms {
    assert_eq!(
        request.path,
        format!("/2010-04-01/Accounts/{ACCOUNT}/Messages.json")
    );
    let plain = format!("{ACCOUNT}:{TOKEN}");
    let basic = base64::engine::general_purpose::STANDARD.encode(plain);
    assert_eq!(request.header("authorization"), format!("Basic {basic}"));
    assert_eq!(
        request.header("content-type"),
        "application/x-www-form-urlencoded"
    );
    let key = request.header("idempotency-key").to_owned();
    assert_eq!(request.header("i-twilio-idempotency-token"), key);
    let form: Vec<(String, String)> = form_urlencoded::parse(request.body.as_bytes())
        .into_owned()
        .collect();
    let field = |name: &str| {
        let found = form.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    assert_eq!(field("From"), FROM);
    Sms {
        key,
        to: field("To"),
        text: field("Body"),
    }
}
