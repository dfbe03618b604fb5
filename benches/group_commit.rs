//! What group commit is worth: steps of the engine with so many events each, every commit synced to the disk; and the same
//! rows written by hand, which is what the engine's order, retries and accounting are measured against.

use std::hint::black_box;
use std::sync::{Arc, RwLock};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use roadcall::bus::{Delivery, Headers, StreamId};
use roadcall::event::{
    Base, Codec, Event, Id, IncidentRated, Known, OfferExpired, RatedBy, Site, Stars, Ts, encode,
    ids,
};
use roadcall::node::engine::{Engine, Incoming, Settings, Work};
use roadcall::role::permission::Scope;
use roadcall::role::{Command, CommandSpec, HandlerError, Input, Mode, Role, RoleName};
use roadcall::routing::Routes;
use roadcall::store::raw::{RawRow, RawStore};
use roadcall::store::{Identity, Options, Store, Synchronous, Tx, params};

const GROUPS: [usize; 5] = [1, 16, 64, 256, 512];
const ENTITIES: u64 = 1000;
const START_MS: i64 = 1_768_471_200_000;

/// Counts by entity and tells of it.
struct Counting;

impl Role for Counting {
    fn name(&self) -> RoleName {
        RoleName::Vendor
    }

    fn migrations(&self) -> &'static [&'static str] {
        &["CREATE TABLE state (entity TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;"]
    }

    fn commands(&self) -> &'static [CommandSpec] {
        &[]
    }

    fn scope(&self, _: &Tx<'_>, _: &Command) -> Result<Scope, HandlerError> {
        Ok(Scope::Open)
    }

    fn handle(&mut self, tx: &mut Tx<'_>, input: &Input) -> Result<(), HandlerError> {
        let Input::Event(received) = input else {
            return Ok(());
        };
        if let Some(Known::IncidentRated(rated)) = received.event.known() {
            let id = rated.incident_id;
            tx.execute(
                "INSERT INTO state (entity, n) VALUES (?1, 1) ON CONFLICT DO UPDATE SET n = n + 1",
                params![id.to_string()],
            )?;
            tx.emit(&OfferExpired {
                offer_id: id,
                incident_id: id,
                vendor_id: id,
                expired_at: tx.now(),
            })?;
        }
        Ok(())
    }
}

fn entity(n: u64) -> Id {
    ids::derive_v8(1, &[b"entity", &(n % ENTITIES).to_be_bytes()])
}

fn incoming(n: u64) -> Incoming {
    let time = Ts::from_ms(START_MS + n as i64);
    let id = entity(n);
    let detail = IncidentRated {
        incident_id: id,
        driver_id: id,
        vendor_id: id,
        rated_by: RatedBy::Driver,
        stars: Stars::new(5).expect("in range"),
        rated_at: time,
    };
    let base = Base {
        id: ids::derive_v8(time.ms(), &[b"event", &n.to_be_bytes()]),
        time,
        site: Site::new("hub").expect("valid"),
        home: None,
        cause: None,
        correlation: None,
        metadata: Default::default(),
    };
    let event = Event::build(&detail, base);
    let mut headers = Headers::default();
    headers.push("Content-Type", "application/json");
    let delivery = Delivery {
        stream: StreamId(1),
        seq: n + 1,
        subject: event.subject().to_string(),
        headers,
        body: encode(&event, Codec::Json).expect("small").into(),
        delivered: 1,
        received_at_ms: time.ms(),
        token: Default::default(),
    };
    Incoming::new(delivery, Mode::Live)
}

fn engine(dir: &std::path::Path) -> Engine {
    let options = Options {
        path: dir.join("engine.db"),
        synchronous: Synchronous::Full,
        site: Site::new("hub").expect("valid"),
        role: "vendor".to_owned(),
        queue: "vendor-queue".to_owned(),
        codec: Codec::Json,
    };
    let fresh = Identity {
        store_id: entity(0),
        epoch: "1".to_owned(),
    };
    let store = Store::open(options, Counting.migrations(), &fresh).expect("opened");
    let routes = Arc::new(RwLock::new(Arc::new(Routes::shipped())));
    Engine::new(store, Box::new(Counting), routes, Settings::default())
}

fn group_commit(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut group = criterion.benchmark_group("group commit");
    let (mut engine, mut next) = (engine(dir.path()), 0);
    for size in GROUPS {
        group.throughput(Throughput::Elements(size as u64));
        group.bench_with_input(BenchmarkId::new("engine", size), &size, |bencher, size| {
            let work = || {
                let from = next;
                next += *size as u64;
                let delivery = |n| Work::Delivery(Box::new(incoming(n)));
                (from..next).map(delivery).collect::<Vec<_>>()
            };
            bencher.iter_batched(
                work,
                |work| black_box(engine.step(Ts::from_ms(START_MS), &work).expect("stepped")),
                BatchSize::PerIteration,
            );
        });
    }
    let mut raw = RawStore::open(&dir.path().join("raw.db")).expect("opened");
    let (mut next, body) = (0, vec![b'x'; 600]);
    for size in GROUPS {
        group.throughput(Throughput::Elements(size as u64));
        group.bench_with_input(BenchmarkId::new("by hand", size), &size, |bencher, size| {
            let names = || {
                let from = next;
                next += *size as u64;
                let name = |n: u64| {
                    let id = ids::derive_v8(START_MS + n as i64, &[b"event", &n.to_be_bytes()]);
                    (n, id.to_string(), entity(n).to_string())
                };
                (from..next).map(name).collect::<Vec<_>>()
            };
            bencher.iter_batched(
                names,
                |names| {
                    let rows: Vec<RawRow<'_>> = names
                        .iter()
                        .map(|(n, id, entity)| RawRow {
                            msg_id: id,
                            seq: *n,
                            entity,
                            follow_up: ("roadcall.hub.match.OfferExpired.k", id, &body),
                        })
                        .collect();
                    // What was published before is forgotten in the same commit.
                    raw.commit(&rows, names.first().map_or(0, |first| first.0))
                        .expect("committed");
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, group_commit);
criterion_main!(benches);
