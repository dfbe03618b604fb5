//! Traces: what roles did for whom, span by span, to an OpenTelemetry collector.
//!
//! A process has one [`Tracer`], or none, which costs nothing. The engine notes spans while it steps and gives them away
//! behind the commit; `export` sends them in the background and drops what a slow or dead collector does not take.
//! Where a span belongs is decided by [`crate::event::trace`], and no role ever sees any of it.

mod export;
mod span;
mod wire;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::span::{Attribute, Kind, Span, Value};
use super::clock::Clock;
use crate::config::Config;
use crate::event::trace::{Sampler, span_id};
use crate::provider::Believed;
use crate::provider::otlp::Collector;
use crate::role::RoleName;

/// Spans that wait to be sent at the most, of all roles of the process: about 4 MB.
const WAITING_MAX: usize = 8192;

/// What became of a role's spans since its process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanCounts {
    /// Taken by the collector.
    pub exported: u64,
    /// Given up: no room to wait, or not taken.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Counted {
    exported: AtomicU64,
    dropped: AtomicU64,
}

/// Spans of one role on their way.
#[derive(Debug)]
struct Batch {
    role: RoleName,
    spans: Vec<Span>,
    counted: Arc<Counted>,
}

/// What a process traces with.
#[derive(Debug, Clone)]
pub struct Tracer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sampler: Sampler,
    site: String,
    clock: Clock,
    batches: mpsc::UnboundedSender<Batch>,
    /// Spans that wait: the bound of the channel, which counts batches.
    waiting: Arc<AtomicUsize>,
    closing: CancellationToken,
    exporter: Mutex<Option<JoinHandle<()>>>,
}

impl Tracer {
    /// Starts sending, as section `trace` says; `None` where it says that nothing is traced.
    ///
    /// # Errors
    /// What is wrong with the file of headers.
    pub fn start(config: &Config, clock: Clock) -> Result<Option<Self>, String> {
        let section = &config.trace;
        if section.otlp_url.is_empty() {
            return Ok(None);
        }
        let believed = Believed::of(&config.tls.ca_file);
        let collector = Collector::new(&section.otlp_url, section.headers()?, believed)?;
        let (batches, receiver) = mpsc::unbounded_channel();
        let (waiting, closing) = (Arc::<AtomicUsize>::default(), CancellationToken::new());
        let exporter = export::Exporter {
            collector,
            resource: wire::Resource::of(config),
            waiting: Arc::clone(&waiting),
            closing: closing.clone(),
        };
        Ok(Some(Self(Arc::new(Inner {
            sampler: Sampler::new(section.sample_ratio),
            site: config.site.id.clone(),
            clock,
            batches,
            waiting,
            closing,
            exporter: Mutex::new(Some(tokio::spawn(exporter.run(receiver)))),
        }))))
    }

    /// The part of it that a role has.
    #[must_use]
    pub fn of(&self, role: RoleName) -> RoleTracer {
        let name = format!("{}/{role}", self.0.site);
        let salt = name
            .bytes()
            .fold(0, |salt, byte| span_id(salt, u64::from(byte)));
        RoleTracer {
            role,
            salt,
            tracer: self.clone(),
            counted: Arc::default(),
        }
    }

    /// Sends what waits, each piece once, within `grace`.
    pub async fn close(&self, grace: Duration) {
        self.0.closing.cancel();
        let exporter = self
            .0
            .exporter
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(exporter) = exporter
            && tokio::time::timeout(grace, exporter).await.is_err()
        {
            tracing::warn!("the last spans could not be sent in time, they are lost");
        }
    }
}

/// What a role traces with. Clones count together.
#[derive(Debug, Clone)]
pub struct RoleTracer {
    /// The role.
    pub role: RoleName,
    /// Keeps its spans apart from those of other roles and sites for the same input.
    pub salt: u64,
    tracer: Tracer,
    counted: Arc<Counted>,
}

impl RoleTracer {
    /// Which traces are recorded.
    #[must_use]
    pub fn sampler(&self) -> Sampler {
        self.tracer.0.sampler
    }

    /// A moment to measure times from.
    #[must_use]
    pub fn anchor(&self) -> Anchor {
        let clock = self.tracer.0.clock;
        Anchor {
            clock,
            wall_ns: clock.now().ms().unsigned_abs() * 1_000_000,
            steady: clock.steady(),
        }
    }

    /// Gives spans away. Never waits: what there is no room for is dropped and counted.
    pub fn send(&self, spans: Vec<Span>) {
        let inner = &self.tracer.0;
        let count = spans.len();
        let before = inner.waiting.fetch_add(count, Ordering::Relaxed);
        let batch = Batch {
            role: self.role,
            spans,
            counted: Arc::clone(&self.counted),
        };
        if before + count > WAITING_MAX || inner.batches.send(batch).is_err() {
            inner.waiting.fetch_sub(count, Ordering::Relaxed);
            self.counted
                .dropped
                .fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    /// What became of its spans.
    #[must_use]
    pub fn counts(&self) -> SpanCounts {
        SpanCounts {
            exported: self.counted.exported.load(Ordering::Relaxed),
            dropped: self.counted.dropped.load(Ordering::Relaxed),
        }
    }
}

/// A moment by both clocks: times of spans begin at the system's, and go on by the one that never jumps.
#[derive(Debug, Clone, Copy)]
pub struct Anchor {
    clock: Clock,
    wall_ns: u64,
    steady: Duration,
}

impl Anchor {
    /// Now, Unix nanoseconds.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        let passed = self.clock.steady().saturating_sub(self.steady);
        self.wall_ns + u64::try_from(passed.as_nanos()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::event::trace::TraceContext;

    fn span(n: u64) -> Span {
        Span {
            at: TraceContext {
                trace: 1,
                span: n,
                sampled: true,
            },
            parent: None,
            link: None,
            kind: Kind::Internal,
            name: Cow::Borrowed("test"),
            start_ns: n,
            end_ns: n,
            attributes: Vec::new(),
            error: None,
        }
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_is_dropped_and_counted_at_once() {
        let mut config = Config::default();
        assert!(Tracer::start(&config, Clock).expect("sound").is_none());
        // A listener that takes connections and never answers.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = silent.local_addr().expect("an address").port();
        config.trace.otlp_url = format!("http://127.0.0.1:{port}");
        let tracer = Tracer::start(&config, Clock).expect("sound").expect("on");
        let (one, other) = (tracer.of(RoleName::Incident), tracer.of(RoleName::Match));
        let waiting = WAITING_MAX as u64;
        for n in 1..=waiting {
            one.send(vec![span(n)]);
        }
        assert_eq!(one.counts(), SpanCounts::default());
        one.send(vec![span(1)]);
        other.send(vec![span(1), span(2)]);
        assert_eq!((one.counts().dropped, other.counts().dropped), (1, 2));
        assert_ne!(one.salt, other.salt);
        // Nobody waits longer for it than he wants to.
        tracer.close(Duration::from_millis(10)).await;
    }
}
