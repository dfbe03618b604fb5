//! Spans of what the engine does: noted while a step runs, given away behind its commit, forgotten with its rollback.
//!
//! | input | span | its parent |
//! |---|---|---|
//! | command | SERVER, `incident.create` | the caller's span, or the incident's |
//! | event | CONSUMER, `process <subject>`, linked to its producer | the span that made the event |
//! | timer, result of a call | INTERNAL | the span that asked for it |
//! | each event that is made | PRODUCER, `create <subject>` | the input's span |
//! | a letter | PRODUCER, `create DLQ`, always an error | the span that made the dead event |
//!
//! What turns out to be about an incident is in the incident's trace; a caller's own trace is linked. A timer about nothing
//! begins a new trace, or one that sets itself again would be in one for ever.

use std::borrow::Cow;

use super::Engine;
use crate::event::trace::{TraceContext, span_id, span_of_incident, trace_of};
use crate::event::{DeadReason, Event, Id};
use crate::node::trace::{Anchor, Attribute, Kind, RoleTracer, Span, Value};
use crate::role::{HandlerError, Input, Mode};
use crate::store::{Context, Made, Traced, Tracing, WaitingRow};

/// A role's spans of the present step.
pub(super) struct Traces {
    tracer: RoleTracer,
    queue: &'static str,
    anchor: Option<Anchor>,
    step: Vec<Span>,
}

/// An input whose handling has begun.
pub(super) struct Began {
    incoming: Option<TraceContext>,
    start_ns: u64,
}

/// How an input's handling ended.
pub(super) enum Ended<'a> {
    /// What it wrote is kept.
    Kept(&'a Traced),
    /// It is undone; where it was by then.
    Undone((Option<TraceContext>, Option<Id>), &'a HandlerError),
}

impl Traces {
    fn now_ns(&mut self) -> u64 {
        let tracer = &self.tracer;
        self.anchor.get_or_insert_with(|| tracer.anchor()).now_ns()
    }

    /// Gives the input its place, which everything that it leads to takes along.
    fn begin(&mut self, context: &mut Context, input: &Input) -> Began {
        let origin = &mut context.origin;
        let incoming = origin.traceparent.as_deref().and_then(TraceContext::parse);
        let sampler = self.tracer.sampler();
        let own = match origin.correlation {
            Some(incident) => trace_of(incident),
            None => match incoming {
                Some(from) if !matches!(input, Input::Timer(_)) => from.trace,
                _ => trace_of(context.input_id),
            },
        };
        let asked_for = matches!(input, Input::Command(_)) && incoming.is_some_and(|at| at.sampled);
        let sampled = match incoming.filter(|from| from.trace == own) {
            Some(from) => from.sampled,
            None => asked_for || sampler.takes(own),
        };
        // A replay handles the same event again: another time makes another span of it.
        let salt = self.tracer.salt ^ context.now.ms().unsigned_abs();
        let here = TraceContext {
            trace: own,
            span: span_id(trace_of(context.input_id) as u64, salt),
            sampled,
        };
        origin.traceparent = Some(here.to_string());
        context.trace = Some(Tracing {
            here,
            asked_for,
            sampler,
        });
        Began {
            incoming,
            start_ns: self.now_ns(),
        }
    }

    fn end(&mut self, began: &Began, input: &Input, ended: &Ended<'_>) {
        let (here, incident, made, first) = match ended {
            Ended::Kept(done) => (done.here, done.incident, done.made.as_slice(), done.began),
            Ended::Undone((here, incident), _) => (*here, *incident, &[][..], false),
        };
        let Some(here) = here else {
            return;
        };
        let end_ns = self.now_ns();
        let incident = incident.filter(|incident| trace_of(*incident) == here.trace);
        let error = match ended {
            Ended::Kept(_) => None,
            Ended::Undone(_, error) => kind_of(error),
        };
        if here.sampled || error.is_some() {
            let elsewhere = |from: &TraceContext| from.trace != here.trace;
            let root = incident.map(|_| span_of_incident(here.trace));
            let parent = began.incoming.filter(|from| !elsewhere(from));
            let is_message = matches!(input, Input::Event(_));
            let (kind, name, attributes) = self.words(input, ended);
            self.step.push(Span {
                at: here,
                parent: parent.map(|from| from.span).or(root),
                link: began.incoming.filter(|from| is_message || elsewhere(from)),
                kind,
                name,
                start_ns: began.start_ns,
                end_ns,
                attributes,
                error,
            });
            if let Some(incident) = incident.filter(|_| first) {
                let link = began.incoming.filter(elsewhere);
                self.incident(incident, here, link, (began.start_ns, end_ns));
            }
        }
        for event in made {
            self.made(event, here, end_ns);
        }
    }

    /// The span that all others of an incident descend from; made where the incident is.
    fn incident(
        &mut self,
        incident: Id,
        here: TraceContext,
        link: Option<TraceContext>,
        (start_ns, end_ns): (u64, u64),
    ) {
        self.step.push(Span {
            at: here.at(span_of_incident(here.trace)),
            parent: None,
            link,
            kind: Kind::Internal,
            name: Cow::Borrowed("incident"),
            start_ns,
            end_ns,
            attributes: vec![("roadcall.incident.id", incident.to_string().into())],
            error: None,
        });
    }

    fn made(&mut self, event: &Made, here: TraceContext, at_ns: u64) {
        let elsewhere = event.at.trace != here.trace;
        let parent = match elsewhere {
            false => here.span,
            true => span_of_incident(event.at.trace),
        };
        self.step.push(Span {
            at: event.at,
            parent: Some(parent),
            link: elsewhere.then_some(here),
            kind: Kind::Producer,
            name: Cow::Owned(format!("create {}", event.pattern)),
            start_ns: at_ns,
            end_ns: at_ns,
            attributes: message("create", "EVENTS", event.pattern.clone(), event.id),
            error: None,
        });
    }

    /// Kind, name and attributes of an input's span. Nothing of a body stands in them.
    fn words(&self, input: &Input, ended: &Ended<'_>) -> (Kind, Cow<'static, str>, Vec<Attribute>) {
        let (kind, name, mut attributes) = match input {
            Input::Command(command) => {
                let (service, method) = command.name.split_once('.').unwrap_or_default();
                let attributes: Vec<Attribute> = vec![
                    ("rpc.system", "nats".into()),
                    ("rpc.service", service.to_owned().into()),
                    ("rpc.method", method.to_owned().into()),
                ];
                (Kind::Server, command.name.clone(), attributes)
            }
            Input::Event(received) => {
                let pattern = received.event.subject().pattern();
                let name = format!("process {pattern}");
                let mut attributes = message("process", "EVENTS", pattern, received.event.id);
                attributes.push(("messaging.consumer.group.name", self.queue.into()));
                let mode = match received.mode {
                    Mode::Live => "live",
                    Mode::Replay => "replay",
                    Mode::Redrive => "redrive",
                };
                attributes.push(("roadcall.delivery", mode.into()));
                (Kind::Consumer, name, attributes)
            }
            Input::Timer(timer) => (Kind::Internal, format!("timer {}", timer.kind), Vec::new()),
            Input::Effect(result) => (
                Kind::Internal,
                format!("result {}", result.kind),
                Vec::new(),
            ),
        };
        if let Ended::Undone(_, error) = ended {
            attributes.push(("roadcall.outcome", outcome_of(error)));
        }
        (kind, Cow::Owned(name), attributes)
    }

    /// An event was given up.
    fn letter(&mut self, row: &WaitingRow, event: Option<&Event>, letter: Id, reason: DeadReason) {
        let incoming = TraceContext::of(&row.headers);
        let incident = event.and_then(|event| event.correlation);
        let trace = match (incident, incoming) {
            (Some(incident), _) => trace_of(incident),
            (None, Some(from)) => from.trace,
            (None, None) => trace_of(row.event_id),
        };
        let within = incoming.filter(|from| from.trace == trace);
        let sampled = within.map_or_else(|| self.tracer.sampler().takes(trace), |at| at.sampled);
        let parent = within.map(|from| from.span);
        let at_ns = self.now_ns();
        let salt = self.tracer.salt ^ at_ns;
        self.step.push(Span {
            at: TraceContext {
                trace,
                span: span_id(trace_of(letter) as u64, salt),
                sampled,
            },
            parent: parent.or_else(|| incident.map(|_| span_of_incident(trace))),
            link: incoming,
            kind: Kind::Producer,
            name: Cow::Borrowed("create DLQ"),
            start_ns: at_ns,
            end_ns: at_ns,
            attributes: message(
                "create",
                "DLQ",
                format!("dlq.{}.:entity", self.queue),
                letter,
            ),
            error: Some(Cow::Owned(reason.to_string())),
        });
    }

    fn keep(&mut self) {
        self.anchor = None;
        if !self.step.is_empty() {
            self.tracer.send(std::mem::take(&mut self.step));
        }
    }

    fn undo(&mut self) {
        self.anchor = None;
        self.step.clear();
    }
}

impl Engine {
    /// The same engine with its work traced.
    #[must_use]
    pub fn traced(mut self, tracer: Option<RoleTracer>) -> Self {
        let queue = self.queue;
        self.traces = tracer.map(|tracer| {
            Box::new(Traces {
                tracer,
                queue,
                anchor: None,
                step: Vec::new(),
            })
        });
        self
    }

    pub(super) fn trace_begins(&mut self, context: &mut Context, input: &Input) -> Option<Began> {
        let traces = self.traces.as_mut()?;
        Some(traces.begin(context, input))
    }

    pub(super) fn trace_ends(&mut self, began: Option<&Began>, input: &Input, ended: &Ended<'_>) {
        if let (Some(traces), Some(began)) = (&mut self.traces, began) {
            traces.end(began, input, ended);
        }
    }

    pub(super) fn trace_letter(
        &mut self,
        row: &WaitingRow,
        event: Option<&Event>,
        letter: Id,
        reason: DeadReason,
    ) {
        if let Some(traces) = &mut self.traces {
            traces.letter(row, event, letter, reason);
        }
    }

    /// The step is committed.
    pub(super) fn keep_traces(&mut self) {
        if let Some(traces) = &mut self.traces {
            traces.keep();
        }
    }

    /// The step is undone.
    pub(super) fn undo_traces(&mut self) {
        if let Some(traces) = &mut self.traces {
            traces.undo();
        }
    }
}

/// What the conventions want of a message.
fn message(
    operation: &'static str,
    stream: &'static str,
    pattern: String,
    id: Id,
) -> Vec<Attribute> {
    vec![
        ("messaging.system", "nats".into()),
        ("messaging.operation.name", operation.into()),
        ("messaging.operation.type", operation.into()),
        ("messaging.destination.name", stream.into()),
        ("messaging.destination.template", pattern.into()),
        ("messaging.message.id", id.to_string().into()),
    ]
}

/// The kind of error; `None` for what is none: a refusal is an answer, and waiting for a predecessor no fault.
fn kind_of(error: &HandlerError) -> Option<Cow<'static, str>> {
    match error {
        HandlerError::Transient(_) => Some("transient".into()),
        HandlerError::Permanent(reason, _) => Some(reason.to_string().into()),
        HandlerError::NotYet(_) => None,
        HandlerError::Rejected(refusal) if refusal.code.status() < 500 => None,
        HandlerError::Rejected(refusal) => Some(refusal.code.as_str().into()),
        HandlerError::Store(_) => Some("store".into()),
    }
}

/// What became of an input that was not handled.
fn outcome_of(error: &HandlerError) -> Value {
    match error {
        HandlerError::NotYet(_) => "not_yet".into(),
        HandlerError::Rejected(refusal) => refusal.code.as_str().into(),
        _ => "failed".into(),
    }
}
