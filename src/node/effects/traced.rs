//! The span of a call to the outside, all its tries in it.

use std::borrow::Cow;

use crate::event::trace::{TraceContext, span_id};
use crate::node::trace::{Anchor, Kind, RoleTracer, Span};
use crate::store::{EffectCall, EffectOutcome};

/// A call on its way.
pub(super) struct Began<'a> {
    tracer: &'a RoleTracer,
    /// The span that asked for it.
    asked: TraceContext,
    anchor: Anchor,
    start_ns: u64,
}

pub(super) fn begin(tracer: &RoleTracer, asked: TraceContext) -> Began<'_> {
    let anchor = tracer.anchor();
    Began {
        tracer,
        asked,
        start_ns: anchor.now_ns(),
        anchor,
    }
}

impl Began<'_> {
    /// Neither the key nor the request is told: both may name a person.
    pub(super) fn end(
        self,
        call: &EffectCall,
        service: Option<&'static str>,
        outcome: &EffectOutcome,
    ) {
        let error = match outcome {
            EffectOutcome::Done(_) => None,
            EffectOutcome::Failed(_) => Some("failed"),
            EffectOutcome::NotSent(_) => Some("not_sent"),
            EffectOutcome::Unknown(_) => Some("unknown"),
        };
        if !self.asked.sampled && error.is_none() {
            return;
        }
        let salt = call
            .key
            .bytes()
            .fold(self.start_ns, |salt, byte| span_id(salt, u64::from(byte)));
        let mut attributes = vec![("roadcall.effect.kind", call.kind.clone().into())];
        attributes.extend(service.map(|service| ("peer.service", service.into())));
        self.tracer.send(vec![Span {
            at: self.asked.at(span_id(self.asked.span, salt)),
            parent: Some(self.asked.span),
            link: None,
            kind: Kind::Client,
            name: Cow::Owned(format!("call {}", call.kind)),
            start_ns: self.start_ns,
            end_ns: self.anchor.now_ns(),
            attributes,
            error: error.map(Cow::Borrowed),
        }]);
    }
}
