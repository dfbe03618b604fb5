//! Errors over HTTP: RFC 9457 problem details with the code, field and details of DOMAIN 1.3.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::event::Id;
use crate::node::clock::Clock;
use crate::role::{Code, Rejection};

/// The media type of RFC 9457.
pub(super) const MEDIA_TYPE: &str = "application/problem+json";

/// A refusal on its way out.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) code: String,
    message: String,
    extras: Map<String, Value>,
    retry_after_seconds: Option<u64>,
}

impl Problem {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self::with_status(status(code.status()), code.as_str(), message)
    }

    fn with_status(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.to_owned(),
            message: message.into(),
            extras: Map::new(),
            retry_after_seconds: None,
        }
    }

    pub(super) fn field(field: &str, message: impl Into<String>) -> Self {
        Rejection::field(field, message).into()
    }

    pub(super) fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(Code::AuthenticationError, message)
    }

    /// Over a limit, with how long to wait.
    pub(super) fn too_many(what: &str, wait_seconds: u64) -> Self {
        let mut problem = Self::new(
            Code::RateLimitExceeded,
            format!("too many {what}; try again in {wait_seconds} s"),
        );
        problem.retry_after_seconds = Some(wait_seconds);
        let details = json!({ "retryAfterSeconds": wait_seconds });
        problem.extras.insert("details".to_owned(), details);
        problem
    }

    pub(super) fn no_such_path() -> Self {
        Self::new(
            Code::NotFound,
            "there is nothing here; GET /v1/openapi.json lists what there is",
        )
    }

    pub(super) fn no_such_method() -> Self {
        Self::with_status(
            StatusCode::METHOD_NOT_ALLOWED,
            Code::ValidationError.as_str(),
            "this path has no such method; the header Allow lists those it has",
        )
    }

    pub(super) fn too_large() -> Self {
        Self::with_status(
            StatusCode::PAYLOAD_TOO_LARGE,
            Code::ValidationError.as_str(),
            "the body is larger than gateway.body_max",
        )
    }

    pub(super) fn media_type() -> Self {
        Self::with_status(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Code::ValidationError.as_str(),
            "send the body as application/json",
        )
    }

    /// A role's error reply: `{"code","message","field"?,"details"?,"requestId","timestamp"}`.
    pub(super) fn of_reply(error: &Value, status_code: Option<u16>) -> Self {
        let text = |name: &str| error.get(name).and_then(Value::as_str);
        let code = text("code").unwrap_or(Code::InternalError.as_str());
        let message = text("message").unwrap_or("this can't be done");
        let mut problem = Self::with_status(status(status_code.unwrap_or(500)), code, message);
        for name in ["field", "details", "requestId", "timestamp"] {
            if let Some(value) = error.get(name) {
                problem.extras.insert(name.to_owned(), value.clone());
            }
        }
        let wait = error.pointer("/details/retryAfterSeconds");
        problem.retry_after_seconds = wait.and_then(Value::as_u64);
        problem
    }
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        let mut problem = Self::new(rejection.code, rejection.message);
        if let Some(field) = rejection.field {
            problem.extras.insert("field".to_owned(), field.into());
        }
        if let Some(details) = rejection.details {
            problem.extras.insert("details".to_owned(), details);
        }
        problem
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": format!("urn:roadcall:error:{}", self.code), "title": self.code, "status": self.status.as_u16(),
            "detail": self.message, "code": self.code,
        });
        if let Some(map) = body.as_object_mut() {
            map.extend(self.extras);
            let id: Id = Clock.new_id();
            map.entry("requestId")
                .or_insert_with(|| id.to_string().into());
            map.entry("timestamp")
                .or_insert_with(|| Clock.now().to_string().into());
        }
        let mut response = (self.status, body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
