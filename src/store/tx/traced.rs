//! What an input's trace needs to know of what it did. Nobody hears of it before the commit, and a role never does.

use super::Tx;
use crate::event::trace::{Sampler, TraceContext, span_of_event, trace_of};
use crate::event::{Detail, Event, Id, IncidentCreated};

/// Where in its trace an input is handled. The engine's matter: a role neither sees it nor can be changed by it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tracing {
    /// The input's own span.
    pub here: TraceContext,
    /// Whether the caller asked for its recording, whatever the sampler says.
    pub asked_for: bool,
    /// Which traces are recorded.
    pub sampler: Sampler,
}

impl Tracing {
    /// A place in the trace of `incident`.
    pub(super) fn in_trace_of(&self, incident: Id) -> TraceContext {
        let trace = trace_of(incident);
        if trace == self.here.trace {
            return self.here;
        }
        TraceContext {
            trace,
            span: self.here.span,
            sampled: self.asked_for || self.sampler.takes(trace),
        }
    }
}

/// What an input did that its trace tells.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Traced {
    /// Its span; in the trace of the incident that it turned out to be about.
    pub here: Option<TraceContext>,
    /// The incident.
    pub incident: Option<Id>,
    /// Whether the incident began with it.
    pub began: bool,
    /// Events that it made, those that are recorded.
    pub made: Vec<Made>,
}

/// An event that was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// Its id.
    pub id: Id,
    /// The span that made it.
    pub at: TraceContext,
    /// Its subject, with `:entity` for the entity.
    pub pattern: String,
}

impl Tx<'_> {
    /// Where in its trace the input is now, and the incident that it is about.
    #[must_use]
    pub fn place(&self) -> (Option<TraceContext>, Option<Id>) {
        let here = self.context.trace.map(|trace| trace.here);
        (here, self.context.origin.correlation)
    }

    /// Goes over to the trace of `incident`.
    pub(in crate::store) fn follow(&mut self, incident: Id) {
        if let Some(trace) = &mut self.context.trace {
            trace.here = trace.in_trace_of(incident);
            // Timers and calls take it along.
            self.context.origin.traceparent = Some(trace.here.to_string());
        }
    }

    /// Where an event of this input is made, and the header that says so. What is not traced here is passed on as it came.
    pub(super) fn traceparent(
        &self,
        event: Id,
        incident: Option<Id>,
    ) -> (Option<TraceContext>, Option<String>) {
        let Some(trace) = self.context.trace else {
            return (None, self.context.origin.traceparent.clone());
        };
        let place = incident.map_or(trace.here, |incident| trace.in_trace_of(incident));
        let place = place.at(span_of_event(event));
        (Some(place), Some(place.to_string()))
    }

    /// Keeps for the trace that `event` was made at `place`.
    pub(super) fn note(&mut self, event: &Event, place: TraceContext) {
        let traced = &mut self.output.traced;
        let own = |trace: super::Tracing| trace.here.trace == place.trace;
        traced.began |= event.detail_type == IncidentCreated::DETAIL_TYPE
            && self.context.trace.is_some_and(own);
        if place.sampled {
            let pattern = event.subject().pattern();
            traced.made.push(Made {
                id: event.id,
                at: place,
                pattern,
            });
        }
    }
}
