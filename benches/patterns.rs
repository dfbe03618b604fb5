//! One event against many patterns: the index, and each pattern by itself.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use roadcall::routing::pattern::{Index, Pattern};
use serde_json::{Value, json};

fn event() -> Value {
    json!({
        "id": "01a20e07-f820-7a0e-998a-befd57608720", "source": "roadcall.incident", "detail-type": "IncidentCreated",
        "time": "2026-01-15T10:00:00.000Z", "site": "hub", "resources": ["incident/01a20e07-f820-7d01-b227-abef67082c2a"],
        "detail": { "incidentId": "01a20e07-f820-7d01-b227-abef67082c2a", "type": "tire", "priority": 7, "region": "eu-17",
                    "location": { "lat": 40.7, "lon": -74.0 } },
    })
}

/// Rules as people write them: a type, and something of the detail. Two in a hundred match the event.
fn patterns(count: usize) -> Vec<Pattern> {
    let pattern = |n: usize| match n % 4 {
        0 => {
            json!({ "detail-type": ["IncidentCreated"], "detail": { "region": [format!("eu-{}", n % 50)] } })
        }
        1 => {
            json!({ "detail-type": [{ "prefix": "Incident" }], "detail": { "region": [{ "prefix": format!("eu-{}", n % 50) }] } })
        }
        2 => {
            json!({ "detail": { "priority": [{ "numeric": [">", n % 50] }], "region": [format!("us-{n}")] } })
        }
        _ => {
            json!({ "detail": { "type": [{ "anything-but": ["tire"] }], "region": [{ "suffix": format!("-{}", n % 50) }] } })
        }
    };
    (0..count)
        .map(|n| Pattern::new(pattern(n)).expect("valid"))
        .collect()
}

fn matching(criterion: &mut Criterion) {
    let event = event();
    let mut group = criterion.benchmark_group("patterns");
    group.throughput(Throughput::Elements(1));
    for count in [10, 100, 1000] {
        let index = Index::new(patterns(count));
        group.bench_with_input(
            BenchmarkId::new("index", count),
            &index,
            |bencher, index| {
                bencher.iter(|| index.matching(black_box(&event)));
            },
        );
        let all = patterns(count);
        group.bench_with_input(
            BenchmarkId::new("one by one", count),
            &all,
            |bencher, all| {
                bencher.iter(|| {
                    let matching = all
                        .iter()
                        .filter(|pattern| pattern.matches(black_box(&event)));
                    matching.count()
                });
            },
        );
    }
    group.finish();
}

criterion_group!(benches, matching);
criterion_main!(benches);
