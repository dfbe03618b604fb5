//! The real engine, writer, consumer and relay, around a role that counts.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{EndToEnd, Error, Options, database, entity, per_second, site, stream_grew};
use crate::bus::jetstream::JetStream;
use crate::bus::{Bus, EVENTS};
use crate::config::Config;
use crate::event::{
    Actor, Codec, Id, Keyring, Known, NonNegative, OfferDeclined, OfferExpired, Text, WorkStarted,
};
use crate::node::clock::Clock;
use crate::node::engine::{Counts, Engine, Settings, SharedRoutes};
use crate::node::intake::Intake;
use crate::node::latency::Latency;
use crate::node::relay::Relay;
use crate::node::thread::on_thread;
use crate::node::trace::{RoleTracer, SpanCounts, Tracer};
use crate::node::writer::{Job, Shared, Writer};
use crate::node::{consumer, publisher};
use crate::role::permission::{Caller, Permission, Scope};
use crate::role::{Command, CommandSpec, Entropy, HandlerError, Input, NoBody, Role, RoleName};
use crate::routing::Routes;
use crate::store::{self, Identity, Store, Synchronous, Tx, params};

const BATCH: usize = 256;
/// Events of the steady rate are made so often, in bursts of what is due.
const TICK: Duration = Duration::from_millis(1);
/// How long the steady rate lasts, seconds.
const STEADY_SECONDS: u64 = 5;

/// What is personal in a follow-up.
const NOTE: &str = "the truck stands behind the bridge, ask for the driver with the red jacket";

/// Counts events by entity; may emit a follow-up for each. Its command makes events.
struct Counting {
    name: RoleName,
    follows_up: bool,
    /// Whether the follow-up has something personal in it, which the role looks at once more.
    personal: bool,
}

impl Counting {
    fn follow_up(&self, tx: &mut Tx<'_>, id: Id) -> Result<(), HandlerError> {
        if !self.personal {
            tx.emit(&OfferExpired {
                offer_id: id,
                incident_id: id,
                vendor_id: id,
                expired_at: tx.now(),
            })?;
            return Ok(());
        }
        let note = tx.seal(&id, Text::<500>::lossy(NOTE))?;
        // Looked at, so that opening is a part of what is measured.
        std::hint::black_box(tx.reveal(&note)?);
        tx.emit(&OfferDeclined {
            offer_id: id,
            incident_id: id,
            vendor_id: id,
            reason: None,
            note: Some(note),
            response_seconds: NonNegative::new(0.0).expect("zero is from 0 up"),
            declined_at: tx.now(),
        })?;
        Ok(())
    }
}

impl Role for Counting {
    fn name(&self) -> RoleName {
        self.name
    }

    fn migrations(&self) -> &'static [&'static str] {
        &["CREATE TABLE state (entity TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;"]
    }

    fn commands(&self) -> &'static [CommandSpec] {
        const COMMANDS: &[CommandSpec] = &[CommandSpec::new::<NoBody>(
            "bench.make",
            Permission::AdminOps,
            true,
        )];
        COMMANDS
    }

    fn scope(&self, _: &Tx<'_>, _: &Command) -> Result<Scope, HandlerError> {
        Ok(Scope::Open)
    }

    fn handle(&mut self, tx: &mut Tx<'_>, input: &Input) -> Result<(), HandlerError> {
        match input {
            Input::Event(received) => {
                let id = match received.event.known() {
                    Some(Known::IncidentRated(rated)) => rated.incident_id,
                    Some(Known::WorkStarted(work)) => work.incident_id,
                    _ => return Ok(()),
                };
                tx.execute(
                    "INSERT INTO state (entity, n) VALUES (?1, 1) ON CONFLICT DO UPDATE SET n = n + 1",
                    params![id.to_string()],
                )?;
                if self.follows_up {
                    self.follow_up(tx, id)?;
                }
            }
            Input::Command(command) => {
                let number = |name: &str| command.body.get(name).and_then(Value::as_u64);
                let first = number("first").unwrap_or(0);
                for n in first..first + number("count").unwrap_or(0) {
                    tx.emit(&WorkStarted {
                        incident_id: entity(n),
                        vendor_id: entity(n),
                        driver_id: entity(n),
                        incident_type: crate::event::IncidentType::Tire,
                        started_at: tx.now(),
                    })?;
                }
                tx.reply(&json!({}))?;
            }
            Input::Timer(_) | Input::Effect(_) => {}
        }
        Ok(())
    }
}

/// A role's writer at work, as a node has it.
struct Running {
    jobs: mpsc::Sender<Job>,
    counts: Arc<Mutex<Counts>>,
    age: Latency,
    stop: CancellationToken,
    relay_stop: CancellationToken,
    threads: Vec<std::thread::JoinHandle<Result<(), store::Error>>>,
    queue: Option<&'static str>,
    consumer: Option<tokio::task::JoinHandle<()>>,
}

impl Running {
    /// Lets the queue's deliveries in: from here on it is measured, as the baseline is from its standing pull on.
    fn consume(&mut self, bus: &JetStream) {
        let (jobs, stop) = (self.jobs.clone(), self.stop.clone());
        self.consumer = self.queue.map(|queue| {
            let intake = Intake::default();
            tokio::spawn(consumer::consume(
                bus.clone(),
                queue,
                BATCH,
                intake,
                jobs,
                stop,
            ))
        });
    }

    fn handled(&self) -> u64 {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .handled
    }

    async fn until_handled(&self, count: u64) -> Result<(), Error> {
        while self.handled() < count {
            if self.stop.is_cancelled() {
                return Err(Error::Bench(
                    "the writer ended, its log says why".to_owned(),
                ));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    async fn end(self) -> Result<(), Error> {
        self.stop.cancel();
        self.relay_stop.cancel();
        if let Some(consumer) = self.consumer {
            consumer.abort();
            // Aborted is what it should be.
            let _ = consumer.await;
        }
        drop(self.jobs);
        for thread in self.threads {
            let ended = tokio::task::spawn_blocking(move || thread.join()).await;
            match ended {
                Ok(Ok(result)) => result?,
                _ => return Err(Error::Bench("a thread panicked".to_owned())),
            }
        }
        Ok(())
    }
}

/// What runs in a pipeline.
struct Parts<'a> {
    role: Counting,
    database: &'a str,
    consumes: bool,
    publishes: bool,
    tracer: Option<RoleTracer>,
    keys: Option<Arc<dyn Keyring>>,
}

/// The bench's own side: the broker and what is to be measured on it.
pub(super) struct Bench<'a> {
    bus: JetStream,
    options: &'a Options,
    routes: SharedRoutes,
}

impl<'a> Bench<'a> {
    pub(super) fn new(bus: JetStream, options: &'a Options, routes: Routes) -> Self {
        let routes = Arc::new(RwLock::new(Arc::new(routes)));
        Self {
            bus,
            options,
            routes,
        }
    }

    /// Fetch, handle, publish the follow-up, acknowledge: until all follow-ups are in the stream.
    pub(super) async fn whole_loop(&self, name: RoleName, database: &str) -> Result<u64, Error> {
        let events = self.options.events;
        let before = self.bus.stream(EVENTS).await?.last_seq;
        let parts = Parts {
            role: Counting {
                name,
                follows_up: true,
                personal: false,
            },
            database,
            consumes: true,
            publishes: true,
            tracer: None,
            keys: None,
        };
        let mut running = self.start(parts).await?;
        let began = Instant::now();
        running.consume(&self.bus);
        running.until_handled(events).await?;
        stream_grew(&self.bus, before, events).await?;
        let taken = began.elapsed();
        running.end().await?;
        Ok(per_second(events, taken))
    }

    /// Fetch, handle, acknowledge; the follow-ups stay in the outbox, for [`Bench::relay`].
    pub(super) async fn handle(&self) -> Result<u64, Error> {
        self.handle_as(RoleName::Vendor, "handle", None).await
    }

    /// The same from another queue, with this share of it traced to `collector`.
    pub(super) async fn handle_traced(
        &self,
        name: RoleName,
        collector: &str,
        share: f64,
    ) -> Result<(u64, SpanCounts), Error> {
        let mut config = Config::default();
        collector.clone_into(&mut config.trace.otlp_url);
        config.trace.sample_ratio = share;
        let tracer = Tracer::start(&config, Clock).map_err(Error::Bench)?;
        let of_role = tracer.as_ref().map(|tracer| tracer.of(name));
        let database = format!("traced-{name}");
        let rate = self.handle_as(name, &database, of_role.clone()).await?;
        if let Some(tracer) = tracer {
            tracer.close(Duration::from_secs(10)).await;
        }
        let counts = of_role.map(|tracer| tracer.counts()).unwrap_or_default();
        Ok((rate, counts))
    }

    /// The same from another queue, into another database.
    pub(super) async fn handle_as(
        &self,
        name: RoleName,
        database: &str,
        tracer: Option<RoleTracer>,
    ) -> Result<u64, Error> {
        let parts = Parts {
            role: Counting {
                name,
                follows_up: true,
                personal: false,
            },
            database,
            consumes: true,
            publishes: false,
            tracer,
            keys: None,
        };
        self.until_all_handled(parts).await
    }

    async fn until_all_handled(&self, parts: Parts<'_>) -> Result<u64, Error> {
        let mut running = self.start(parts).await?;
        let began = Instant::now();
        running.consume(&self.bus);
        running.until_handled(self.options.events).await?;
        let taken = began.elapsed();
        running.end().await?;
        Ok(per_second(self.options.events, taken))
    }

    /// The same with something personal in each follow-up, sealed with these keys or left plain.
    pub(super) async fn handle_personal(
        &self,
        name: RoleName,
        keys: Option<Arc<dyn Keyring>>,
    ) -> Result<u64, Error> {
        let database = format!("personal-{name}");
        let parts = Parts {
            role: Counting {
                name,
                follows_up: true,
                personal: true,
            },
            database: &database,
            consumes: true,
            publishes: false,
            tracer: None,
            keys,
        };
        self.until_all_handled(parts).await
    }

    /// The outbox that [`Bench::handle`] left, to the stream.
    pub(super) async fn relay(&self) -> Result<u64, Error> {
        let before = self.bus.stream(EVENTS).await?.last_seq;
        let parts = Parts {
            role: Counting {
                name: RoleName::Vendor,
                follows_up: true,
                personal: false,
            },
            database: "handle",
            consumes: false,
            publishes: true,
            tracer: None,
            keys: None,
        };
        let began = Instant::now();
        let running = self.start(parts).await?;
        stream_grew(&self.bus, before, self.options.events).await?;
        let taken = began.elapsed();
        running.end().await?;
        Ok(per_second(self.options.events, taken))
    }

    /// A producer with an outbox makes events at a steady rate; a consumer handles them.
    pub(super) async fn end_to_end(&self) -> Result<EndToEnd, Error> {
        let rate = self.options.rate;
        let producer = Parts {
            role: Counting {
                name: RoleName::Incident,
                follows_up: false,
                personal: false,
            },
            database: "producer",
            consumes: false,
            publishes: true,
            tracer: None,
            keys: None,
        };
        let sink = Parts {
            role: Counting {
                name: RoleName::Tracking,
                follows_up: false,
                personal: false,
            },
            database: "sink",
            consumes: true,
            publishes: false,
            tracer: None,
            keys: None,
        };
        let producer = self.start(producer).await?;
        let mut sink = self.start(sink).await?;
        sink.consume(&self.bus);
        let began = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        let (mut made, total) = (0, rate * STEADY_SECONDS);
        while made < total {
            ticks.tick().await;
            let due = ((began.elapsed().as_secs_f64() * rate as f64) as u64).min(total);
            if due > made {
                make(&producer, made, due - made).await?;
                made = due;
            }
        }
        let rate_per_second = per_second(made, began.elapsed());
        sink.until_handled(total).await?;
        let age = sink.age.clone();
        producer.end().await?;
        sink.end().await?;
        Ok(EndToEnd {
            rate_per_second,
            p50_ms: age.quantile_ms(0.5),
            p99_ms: age.quantile_ms(0.99),
        })
    }

    async fn start(&self, parts: Parts<'_>) -> Result<Running, Error> {
        let path = database(&self.options.dir, parts.database);
        let (name, publishes) = (parts.role.name, parts.publishes);
        let queue = parts.consumes.then(|| name.queue()).flatten();
        let options = store::Options {
            path: path.clone(),
            synchronous: Synchronous::Full,
            site: site(),
            role: name.as_str().to_owned(),
            queue: queue.unwrap_or_default().to_owned(),
            codec: Codec::Json,
        };
        let fresh = Identity {
            store_id: Clock.new_id(),
            epoch: "1".to_owned(),
        };
        let mut store = Store::open(options, parts.role.migrations(), &fresh)?;
        if let Some(keys) = parts.keys {
            store.seal_with(keys);
        }
        store::raw::fill_inbox(&path, self.options.rows)?;
        let engine = Engine::new(
            store,
            Box::new(parts.role),
            Arc::clone(&self.routes),
            Settings::default(),
        )
        .traced(parts.tracer);
        let (jobs, receiver) = mpsc::channel(2 * BATCH);
        let (acks, ack_receiver) = mpsc::unbounded_channel();
        let (effects, _) = mpsc::unbounded_channel();
        let (ready, is_ready) = oneshot::channel();
        let (hint, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let (replays, _) = mpsc::unbounded_channel();
        let shared = Shared {
            replays,
            outbox: Arc::clone(&hint),
            acks,
            effects,
            counts: Arc::default(),
            latency: Latency::default(),
            age: Latency::default(),
            stop: stop.clone(),
        };
        let (counts, age) = (Arc::clone(&shared.counts), shared.age.clone());
        let writer = Writer {
            intake: Intake::default(),
            engine,
            bus: self.bus.clone(),
            queue,
            batch_max: BATCH,
            clock: Clock,
            shared,
        };
        let mut threads = vec![on_thread(
            format!("{name}-writer"),
            stop.clone(),
            move || writer.run(receiver, ready),
        )];
        // An error means that the writer ended: `until_handled` sees it.
        let _ = is_ready.await;
        let relay_stop = CancellationToken::new();
        if publishes {
            let relay = Relay::new(self.bus.clone(), &path)?;
            let settings = publisher::Settings {
                keep: Duration::from_secs(60),
                hint,
                clock: Clock,
            };
            let (weak, stopping) = (jobs.downgrade(), relay_stop.clone());
            let thread = format!("{name}-relay");
            threads.push(on_thread(
                thread,
                CancellationToken::new(),
                move || async move {
                    publisher::publish(relay, settings, weak, stopping).await;
                    Ok(())
                },
            ));
        }
        tokio::spawn(consumer::acknowledge(self.bus.clone(), ack_receiver));
        Ok(Running {
            jobs,
            counts,
            age,
            stop,
            relay_stop,
            threads,
            queue,
            consumer: None,
        })
    }
}

async fn make(producer: &Running, first: u64, count: u64) -> Result<(), Error> {
    let body = json!({ "first": first, "count": count });
    let command = Command {
        id: Clock.new_id(),
        name: "bench.make".to_owned(),
        caller: Caller::of(Actor::Operator("bench".to_owned())),
        body: body.as_object().cloned().unwrap_or_default(),
        client_request_id: None,
        traceparent: None,
        entropy: Entropy([7; 32]),
    };
    let (asker, _) = oneshot::channel();
    let sent = producer.jobs.send(Job::Ask(Box::new(command), asker)).await;
    sent.map_err(|_| Error::Bench("the producer's writer ended, its log says why".to_owned()))
}
