//! How long an event takes to be written and read, in both encodings.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use roadcall::event::{
    Base, Codec, Event, IncidentRated, RatedBy, Site, Stars, Ts, decode, encode, ids,
};

fn event() -> Event {
    let time = Ts::from_ms(1_768_471_200_000);
    let id = ids::derive_v7(time.ms(), &[b"entity"]);
    let detail = IncidentRated {
        incident_id: id,
        driver_id: id,
        vendor_id: id,
        rated_by: RatedBy::Driver,
        stars: Stars::new(5).expect("in range"),
        rated_at: time,
    };
    let base = Base {
        id: ids::derive_v7(time.ms(), &[b"event"]),
        time,
        site: Site::new("hub").expect("valid"),
        home: None,
        cause: Some(id),
        correlation: Some(id),
        metadata: Default::default(),
    };
    Event::build(&detail, base)
}

fn codec(criterion: &mut Criterion) {
    let event = event();
    let subject = event.subject().to_string();
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Elements(1));
    for (name, codec) in [("json", Codec::Json), ("cbor", Codec::Cbor)] {
        let body = encode(&event, codec).expect("small");
        group.bench_function(format!("encode {name}"), |bencher| {
            bencher.iter(|| encode(black_box(&event), codec).expect("small"));
        });
        group.bench_function(format!("decode {name}"), |bencher| {
            let content_type = Some(codec.content_type());
            bencher.iter(|| decode(&subject, content_type, black_box(&body)).expect("valid"));
        });
    }
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
