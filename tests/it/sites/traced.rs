//! A depot's incident stays one trace where the hub works on it, too.

use std::collections::BTreeSet;

use super::{Sites, add};
use crate::support::ends::collector::{self, Span};
use crate::support::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_depots_incident_is_one_trace_at_the_depot_and_at_the_hub() {
    let web = collector::start().await;
    let traced = format!("[trace]\notlp_url = '{}'\nsample_ratio = 1.0", web.url);
    let mut sites = Sites::hub_with(&traced).await;
    let mut depot = sites.depot_with("depot-a", &traced);
    sites.hub.json(&add("depot-a", &depot));
    depot.start();
    depot.ready().await;
    sites.depots.push(depot);
    let teller = sites.tellers().await.remove(1);
    assert_eq!(teller.site, "depot-a");
    let trace = teller.tell(1).await.replace('-', "");
    sites.settle().await;
    let spans: Vec<Span> = eventually("both sites to have told of it, whole", || async {
        let spans = collector::spans(&web).into_iter();
        let spans: Vec<Span> = spans.filter(|span| span.trace == trace).collect();
        let ids: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
        let whole = spans
            .iter()
            .all(|span| span.parent.is_empty() || ids.contains(span.parent.as_str()));
        let sites: BTreeSet<&str> = spans.iter().map(|span| span.of("roadcall.site")).collect();
        (whole && sites == BTreeSet::from(["depot-a", "hub"])).then_some(spans)
    })
    .await;
    let roots: Vec<&Span> = spans.iter().filter(|span| span.parent.is_empty()).collect();
    assert_eq!(roots.len(), 1, "{roots:#?}");
    assert_eq!(roots[0].of("roadcall.site"), "depot-a");
    let made: BTreeSet<&str> = spans
        .iter()
        .filter(|span| span.of("roadcall.site") == "depot-a")
        .map(|span| span.id.as_str())
        .collect();
    // What the hub handled was made at the depot.
    let across = spans
        .iter()
        .filter(|span| span.of("roadcall.site") == "hub")
        .filter(|span| made.contains(span.parent.as_str()));
    assert!(across.count() > 10, "{spans:#?}");
}
