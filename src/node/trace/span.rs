//! A span as it is noted, before it is written for the wire.

use std::borrow::Cow;

use crate::event::trace::TraceContext;

/// What a span is between (OpenTelemetry's kinds and their numbers).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Inside of a role.
    Internal = 1,
    /// A command that is answered.
    Server = 2,
    /// A call to a service outside.
    Client = 3,
    /// A message that is made.
    Producer = 4,
    /// A message that is handled.
    Consumer = 5,
}

/// The value of an attribute. Ids, names and numbers only: nothing that a person said or is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(Cow<'static, str>),
    /// A number.
    Number(u64),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

/// A name by the conventions, and its value.
pub type Attribute = (&'static str, Value);

/// Something that was done.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Its trace and its id.
    pub at: TraceContext,
    /// The span of the same trace that it is part of; `None` for the first.
    pub parent: Option<u64>,
    /// Another one that led to it: the producer's, or one of another trace.
    pub link: Option<TraceContext>,
    /// What it is between.
    pub kind: Kind,
    /// What was done: few different ones, without ids.
    pub name: Cow<'static, str>,
    /// Unix nanoseconds.
    pub start_ns: u64,
    /// Unix nanoseconds.
    pub end_ns: u64,
    /// What else there is to know.
    pub attributes: Vec<Attribute>,
    /// The kind of error that it ended with.
    pub error: Option<Cow<'static, str>>,
}
