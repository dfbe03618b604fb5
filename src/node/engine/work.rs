//! What goes into a step, and what comes out of it.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::{Exhausted, ReplayPage};
use crate::bus::{AckToken, Delivery};
use crate::event::trace::TraceContext;
use crate::event::{DecodeError, Event, Id, decode};
use crate::node::transfer::IMPORTED;
use crate::role::{Command, Mode, Rejection};
use crate::store::{EffectCall, EffectOutcome, PublishedRun, ReplayRow};

/// A delivery with what the decoder made of it (off the writer thread).
#[derive(Debug, Clone)]
pub struct Incoming {
    /// As the bus handed it over.
    pub delivery: Delivery,
    /// The event, or why it is none.
    pub decoded: Result<Arc<Event>, DecodeError>,
    /// Why it is handled now.
    pub mode: Mode,
}

impl Incoming {
    /// Decodes a delivery from the queue. What was imported is handled as a replay is: its time was another one.
    #[must_use]
    pub fn from_queue(delivery: Delivery) -> Self {
        let mode = match delivery.headers.get(IMPORTED) {
            None => Mode::Live,
            Some(_) => Mode::Replay,
        };
        Self::new(delivery, mode)
    }

    /// Decodes a delivery.
    #[must_use]
    pub fn new(delivery: Delivery, mode: Mode) -> Self {
        let decoded = decode(
            &delivery.subject,
            delivery.headers.get("Content-Type"),
            &delivery.body,
        )
        .map(Arc::new);
        Self {
            delivery,
            decoded,
            mode,
        }
    }
}

/// One unit of work for the writer.
#[derive(Debug, Clone)]
pub enum Work {
    /// An event from the queue.
    Delivery(Box<Incoming>),
    /// A command; its reply comes back under the command's id.
    Command(Box<Command>),
    /// An outside call ended.
    Effect {
        /// Its idempotency key.
        key: String,
        /// How it ended.
        outcome: EffectOutcome,
    },
    /// The server gave a delivery up that no engine answered; for the audit role.
    Exhausted(Box<Exhausted>),
    /// A piece of a replay or redrive.
    Replay(Box<ReplayPage>),
    /// The relay published these.
    Published(Vec<PublishedRun>),
    /// The relay verified what is published: this is all of it.
    Verified(Vec<PublishedRun>),
    /// A restored role's queue has come to the end that the archive had.
    CaughtUp,
    /// Outbox rows that this server process acknowledged before then are safe on its disk.
    Settled {
        /// The server process.
        server_id: String,
        /// Unix milliseconds.
        before_ms: i64,
    },
}

/// What a step leaves to do after its commit.
#[derive(Debug, Default)]
pub struct StepOutput {
    /// Deliveries whose outcome is committed.
    pub acks: Vec<AckToken>,
    /// Replies by command id.
    pub replies: Vec<(Id, Result<Value, Rejection>)>,
    /// Calls to start.
    pub effects: Vec<EffectCall>,
    /// Commands by id that a call's outcome answers.
    pub answers: Vec<(Id, EffectCall)>,
    /// Replay jobs that got further.
    pub replays: Vec<ReplayRow>,
    /// Whether the outbox grew: a hint for the relay.
    pub outbox_grew: bool,
    /// The spans that asked for calls, by the calls' keys; nothing where nothing is traced.
    pub places: HashMap<String, TraceContext>,
}
