//! The bus: what the engine asks of a broker, as a trait with two implementations.
//!
//! [`jetstream::JetStream`] talks to a real nats-server; [`memory::MemoryBus`] is a deterministic model of the same
//! promises for simulation. One conformance suite (`tests/it/conformance.rs`) runs over both. Only this room knows
//! `async_nats`; nothing here knows a store, a role or the engine.

pub mod jetstream;
pub mod links;
pub mod memory;
pub mod topology;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

/// Name of the archive stream of a site (DESIGN 6).
pub const EVENTS: &str = "EVENTS";
/// Name of the stream through which another site's archived events come in: [`EVENTS`] sources it (DESIGN 7, export and
/// import), because a stream takes by itself only the subjects of its own site.
pub const CARRY: &str = "CARRY";
/// Name of the stream of dead letters (DESIGN 6).
pub const DLQ: &str = "DLQ";
/// Name of the stream that captures the server's own advisories (DESIGN 6).
pub const ADVISORIES: &str = "ADVISORIES";
/// Stream of what the server tells of calls to its API, until the audit role has looked at it.
pub const API_CALLS: &str = "API_CALLS";
/// The consumer by which the audit role reads them.
pub const API_QUEUE: &str = "audit-api-calls";
/// The durable consumer on [`ADVISORIES`] that the audit role reads: the one queue that is not on `EVENTS`.
pub const ADVISORY_QUEUE: &str = "audit-advisories";
/// The stream behind the bucket of replay jobs (DESIGN 6).
pub const REPLAYS_STREAM: &str = "KV_REPLAYS";
/// Name of the bucket that says which store owns a queue, what each queue took when, and which rules are switched (DESIGN 6).
pub const TOPOLOGY_BUCKET: &str = "TOPOLOGY";
/// The stream behind [`TOPOLOGY_BUCKET`].
pub const TOPOLOGY_STREAM: &str = "KV_TOPOLOGY";
/// Name of the object store of the roles' databases (DESIGN 6).
pub const SNAPSHOTS_BUCKET: &str = "SNAPSHOTS";
/// Messages in one atomic batch at the most (DESIGN 4, relay).
pub const ATOMIC_BATCH_MAX: usize = 256;
/// Deduplication window of every stream that the relay writes to, set explicitly (BROKER 0 H).
pub const DEDUP_WINDOW: Duration = Duration::from_secs(120);

/// What went wrong between us and the broker. [`Error::retryable`] is the one question callers ask.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No answer in time, or the connection is down: the outcome of what was sent is unknown.
    #[error("the broker did not answer: {0}")]
    Unavailable(String),
    /// The server refused, with its JetStream error code (BROKER 11 lists those that matter).
    #[error("the broker refused ({code}): {message}")]
    Refused {
        /// The server's `err_code`, for example 10077 for a full stream.
        code: u64,
        /// The server's own words.
        message: String,
    },
    /// A stream or consumer that must exist is missing.
    #[error("{0} does not exist on the broker")]
    Missing(String),
    /// The server is too old, or configured against what we need.
    #[error("{0}")]
    Unsuitable(String),
}

impl Error {
    /// Whether trying the same again later can succeed without anybody changing something by hand.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            // A full stream or server (10077, 10023, 10002) drains by age or by an operator; the outbox waits it out.
            Self::Refused { code, .. } => {
                matches!(code, 10002 | 10008 | 10023 | 10039 | 10077 | 10201 | 10210)
            }
            Self::Missing(_) | Self::Unsuitable(_) => false,
        }
    }
}

/// Message headers in the order written. Names are case-sensitive, as NATS has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The first value under `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Adds a header behind those that are there.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }
}

/// Which incarnation of a stream a sequence belongs to: its creation time in Unix nanoseconds. A recreated stream has
/// another identity; a rolled-back one keeps its own (BROKER 0 D).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub i64);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A message on its way to a stream.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Where to; it decides the stream.
    pub subject: String,
    /// All headers except `Nats-Msg-Id` and the batch headers, which the bus writes.
    pub headers: Headers,
    /// The encoded event or letter.
    pub body: Bytes,
    /// `Nats-Msg-Id`: the event's id, or the letter's key.
    pub msg_id: String,
    /// `Nats-Expected-Last-Subject-Sequence`, for letters that may only fill a gap (DESIGN 6, DLQ).
    pub expected_last_subject_seq: Option<u64>,
}

/// The broker's promise that a message is in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PubAck {
    /// Sequence in the stream that took it.
    pub seq: u64,
    /// The dedup window already held this id; `seq` is that of the first copy.
    pub duplicate: bool,
}

/// What became of a [`Bus::publish`] call: acks for a prefix of the messages, and why it stopped if it did.
///
/// Messages behind the acknowledged prefix may still have reached the stream (an ack can be lost), which is why the
/// relay verifies before it sends again.
#[derive(Debug)]
pub struct Published {
    /// One ack for each message of the prefix, in order.
    pub acks: Vec<PubAck>,
    /// Why the rest has none; `None` when every message has its ack.
    pub stopped: Option<Error>,
}

/// What an ack needs to know about a delivery. Opaque outside the bus; the default one acknowledges nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct AckToken(pub(crate) String);

/// One message handed to a queue's reader; it stays the reader's until acked or until `ack_wait` passed.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Identity of the stream that `seq` belongs to.
    pub stream: StreamId,
    /// Stream sequence.
    pub seq: u64,
    /// Subject as published.
    pub subject: String,
    /// Headers as stored.
    pub headers: Headers,
    /// Body as stored.
    pub body: Bytes,
    /// How often the server delivered it to this consumer, this time included.
    pub delivered: u64,
    /// When the stream took it, Unix milliseconds.
    pub received_at_ms: i64,
    /// How to acknowledge it.
    pub token: AckToken,
}

/// One message read from a stream outside any queue.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Stream sequence.
    pub seq: u64,
    /// Subject as published.
    pub subject: String,
    /// Headers as stored.
    pub headers: Headers,
    /// Body as stored; empty when only headers were asked for.
    pub body: Bytes,
    /// When the stream took it, Unix milliseconds.
    pub received_at_ms: i64,
}

/// Where a stream stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamState {
    /// Which incarnation this is.
    pub identity: StreamId,
    /// Id of the server process that answered: a new one means the broker was restarted.
    pub server_id: String,
    /// First sequence still held; `last_seq + 1` when empty.
    pub first_seq: u64,
    /// Last sequence given out.
    pub last_seq: u64,
    /// Messages held.
    pub messages: u64,
    /// Bytes held.
    pub bytes: u64,
}

/// Where a queue's consumer stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueState {
    /// Highest stream sequence delivered at least once.
    pub delivered_seq: u64,
    /// Every stream sequence up to here that matches is acked.
    pub ack_floor_seq: u64,
    /// Delivered and neither acked nor expired.
    pub ack_pending: u64,
    /// Matching and not delivered yet.
    pub pending: u64,
}

/// The stream that a queue is a cursor over.
#[must_use]
pub fn stream_of_queue(queue: &str) -> &'static str {
    if queue == ADVISORY_QUEUE {
        ADVISORIES
    } else if queue == API_QUEUE {
        API_CALLS
    } else {
        EVENTS
    }
}

/// The stream that a subject belongs to, of those that we write to.
#[must_use]
pub fn stream_of_subject(subject: &str) -> &'static str {
    if subject.starts_with("dlq.") {
        DLQ
    } else if subject.starts_with("carry.") {
        CARRY
    } else if subject.starts_with("$KV.REPLAYS.") {
        REPLAYS_STREAM
    } else if subject.starts_with("$KV.TOPOLOGY.") {
        TOPOLOGY_STREAM
    } else {
        EVENTS
    }
}

/// What the engine, the relay and replay need of a broker. Implementations are cheap to clone.
pub trait Bus: Clone + Send + Sync + 'static {
    /// Publishes `messages` in order: as atomic batches where the server takes them, else pipelined. Returns acks for
    /// the longest acknowledged prefix. A message that the dedup window already holds counts as acknowledged, and so
    /// does one whose expected last sequence does not hold: what it was to fill is filled (its `seq` is 0).
    fn publish(&self, messages: Vec<Outgoing>) -> impl Future<Output = Published> + Send;

    /// Takes up to `max` deliveries of `queue` (a durable consumer on `EVENTS`, or [`ADVISORY_QUEUE`]), waiting up to
    /// `wait` for the first. An empty answer means that nothing came in time.
    fn fetch(
        &self,
        queue: &str,
        max: usize,
        wait: Duration,
    ) -> impl Future<Output = Result<Vec<Delivery>, Error>> + Send;

    /// Acknowledges deliveries. Plain acks: one may be lost, then the delivery comes again and the inbox drops it.
    fn ack(&self, tokens: Vec<AckToken>) -> impl Future<Output = Result<(), Error>> + Send;

    /// Makes the server forget what is in hand so that it comes first, in order and uncounted (BROKER 5, RESET with an
    /// empty body; below API level 4 the durable is recreated at its own floor). Returns the state from before.
    fn reset(&self, queue: &str) -> impl Future<Output = Result<QueueState, Error>> + Send;

    /// Where `queue` stands.
    fn queue(&self, queue: &str) -> impl Future<Output = Result<QueueState, Error>> + Send;

    /// The subjects that `queue` takes.
    fn filters(&self, queue: &str) -> impl Future<Output = Result<Vec<String>, Error>> + Send;

    /// Where `stream` stands.
    fn stream(&self, stream: &str) -> impl Future<Output = Result<StreamState, Error>> + Send;

    /// Reads up to `max` messages of `stream` that match `subject_filter`, from sequence `from_seq` on, in order.
    /// `headers_only` leaves bodies out. An empty answer means that there are no more now.
    fn read(
        &self,
        stream: &str,
        subject_filter: &str,
        from_seq: u64,
        max: usize,
        headers_only: bool,
    ) -> impl Future<Output = Result<Vec<Stored>, Error>> + Send;

    /// Number of times a connection was established so far; grows by one at each reconnect, so that a reader can tell
    /// that the server behind it may be another process. Cheap.
    fn connection_epoch(&self) -> u64;
}
