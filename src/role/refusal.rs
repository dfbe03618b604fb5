//! How a role says no: what became of a handler that did not succeed, and the refusals and codes of DOMAIN 1.3.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::DeadReason;
use crate::store::{self, Tx};

/// Why a handler did not succeed (DESIGN 4).
#[derive(Debug, Clone)]
pub enum HandlerError {
    /// May succeed later: tried at 0, 300 and 600 s, then dead.
    Transient(String),
    /// Never succeeds: dead now, with this reason.
    Permanent(DeadReason, String),
    /// Something that comes before it is missing: tried after each later commit of its key, spends no attempt.
    NotYet(String),
    /// Commands only: replied, nothing kept.
    Rejected(Rejection),
    /// The store failed; its class decides whether the process can go on.
    Store(store::Error),
}

impl From<store::Error> for HandlerError {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<Rejection> for HandlerError {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transient(text) | Self::NotYet(text) => f.write_str(text),
            Self::Permanent(reason, text) => write!(f, "{reason}: {text}"),
            Self::Rejected(rejection) => write!(f, "{}: {}", rejection.code, rejection.message),
            Self::Store(error) => error.fmt(f),
        }
    }
}

/// A command's refusal, in the form of DOMAIN 1.3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rejection {
    /// What kind of refusal.
    pub code: Code,
    /// One sentence for a person.
    pub message: String,
    /// The offending field, where there is one.
    pub field: Option<String>,
    /// Machine-readable extras, such as the current version.
    pub details: Option<Value>,
}

impl Rejection {
    /// A refusal without field or details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            field: None,
            details: None,
        }
    }

    /// VALIDATION_ERROR naming `field`.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: Some(field.into()),
            ..Self::new(Code::ValidationError, message)
        }
    }

    /// The same with details.
    #[must_use]
    pub fn with_details(self, details: Value) -> Self {
        Self {
            details: Some(details),
            ..self
        }
    }
}

/// Refuses a command and keeps what its handler wrote, which a [`HandlerError::Rejected`] would undo: a wrong password must
/// be counted. The handler returns this as its result.
///
/// # Errors
/// A store error.
pub fn refuse(tx: &mut Tx<'_>, rejection: &Rejection) -> Result<(), HandlerError> {
    Ok(tx.refuse(rejection)?)
}

/// The error codes of DOMAIN 1.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)] // the names are DOMAIN 1.3's own
pub enum Code {
    ValidationError,
    AuthenticationError,
    PaymentFailed,
    AuthorizationError,
    FraudDetected,
    NotFound,
    Conflict,
    VersionConflict,
    InvalidTransition,
    OfferNotPending,
    OfferExpired,
    IncidentAlreadyAssigned,
    VendorNotAvailable,
    RateLimitExceeded,
    InternalError,
    ServiceUnavailable,
    Timeout,
}

impl Code {
    /// The code as it stands in replies.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ValidationError => "VALIDATION_ERROR",
            Self::AuthenticationError => "AUTHENTICATION_ERROR",
            Self::PaymentFailed => "PAYMENT_FAILED",
            Self::AuthorizationError => "AUTHORIZATION_ERROR",
            Self::FraudDetected => "FRAUD_DETECTED",
            Self::NotFound => "NOT_FOUND",
            Self::Conflict => "CONFLICT",
            Self::VersionConflict => "VERSION_CONFLICT",
            Self::InvalidTransition => "INVALID_TRANSITION",
            Self::OfferNotPending => "OFFER_NOT_PENDING",
            Self::OfferExpired => "OFFER_EXPIRED",
            Self::IncidentAlreadyAssigned => "INCIDENT_ALREADY_ASSIGNED",
            Self::VendorNotAvailable => "VENDOR_NOT_AVAILABLE",
            Self::RateLimitExceeded => "RATE_LIMIT_EXCEEDED",
            Self::InternalError => "INTERNAL_ERROR",
            Self::ServiceUnavailable => "SERVICE_UNAVAILABLE",
            Self::Timeout => "TIMEOUT",
        }
    }

    /// The HTTP status that DOMAIN 1.3 puts it under; also the `Nats-Service-Error-Code`.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::ValidationError => 400,
            Self::AuthenticationError => 401,
            Self::PaymentFailed => 402,
            Self::AuthorizationError | Self::FraudDetected => 403,
            Self::NotFound => 404,
            Self::Conflict
            | Self::VersionConflict
            | Self::InvalidTransition
            | Self::OfferNotPending
            | Self::OfferExpired
            | Self::IncidentAlreadyAssigned
            | Self::VendorNotAvailable => 409,
            Self::RateLimitExceeded => 429,
            Self::InternalError => 500,
            Self::ServiceUnavailable => 503,
            Self::Timeout => 504,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
