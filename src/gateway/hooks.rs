//! Webhooks in: `POST /v1/hooks/{provider}`. The body goes on as it came, with the signature beside it: the role checks the one
//! against the other (DOMAIN 5.5, 5.6, 5.8), because only it has the secret and knows what it has had already.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Extension, OriginalUri, Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use super::Door;
use super::commands;
use super::problem::Problem;
use crate::event::Actor;
use crate::role::Code;
use crate::role::permission::Caller;

/// A kind of webhook.
pub(super) struct Hook {
    /// The last part of its path.
    pub(super) provider: &'static str,
    /// The command that takes it.
    pub(super) command: &'static str,
    /// Headers that go on, each as a field of the command's body.
    pub(super) headers: &'static [(&'static str, &'static str)],
    /// What the provider sends; the body is not read here, so another type is not refused.
    pub(super) media: &'static str,
}

/// All of them.
pub(super) const HOOKS: &[Hook] = &[
    Hook {
        provider: "stripe",
        command: "payment.webhook",
        headers: &[("stripe-signature", "signature")],
        media: "application/json",
    },
    Hook {
        provider: "twilio",
        command: "notification.webhook",
        headers: &[("x-twilio-signature", "signature")],
        media: "application/x-www-form-urlencoded",
    },
    // Standard Webhooks.
    Hook {
        provider: "calls",
        command: "call.webhook",
        headers: &[
            ("webhook-id", "id"),
            ("webhook-timestamp", "timestamp"),
            ("webhook-signature", "signature"),
        ],
        media: "application/json",
    },
];

/// The handler.
pub(super) async fn receive(
    State(door): State<Arc<Door>>,
    Extension(peer): Extension<SocketAddr>,
    provider: Result<Path<String>, PathRejection>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let taken = async {
        door.limits.address(peer.ip())?;
        let Path(provider) = provider.map_err(|_| Problem::no_such_path())?;
        let hook = HOOKS
            .iter()
            .find(|hook| hook.provider == provider)
            .ok_or_else(Problem::no_such_path)?;
        let spec = door.specs.0.get(hook.command);
        let spec = spec.ok_or_else(Problem::no_such_path)?;
        door.limits.hook(hook.provider)?;
        let body = body.map_err(|_| Problem::too_large())?;
        let payload = std::str::from_utf8(&body)
            .map_err(|_| Problem::new(Code::ValidationError, "the body is not UTF-8 text"))?;
        let mut command = Map::from_iter([("payload".to_owned(), Value::from(payload))]);
        for (header, field) in hook.headers {
            let value = headers.get(*header).and_then(|value| value.to_str().ok());
            let value = value.ok_or_else(|| Problem::field(header, "the header is missing"))?;
            command.insert((*field).to_owned(), value.into());
        }
        if spec.fields().any(|(name, _)| name == "path") {
            command.insert("path".to_owned(), uri.to_string().into());
        }
        let caller = Caller::of(Actor::Provider(hook.provider.to_owned()));
        commands::send(&door, hook.command, &caller, &headers, command).await
    };
    taken.await.unwrap_or_else(IntoResponse::into_response)
}
