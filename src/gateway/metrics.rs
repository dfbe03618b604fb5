//! `/healthz`, `/readyz` and `/metrics`: what a supervisor and Prometheus ask. No label has personal data in it: routes stand
//! there by their templates.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Json, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::Door;
use super::figures::Told;
use crate::bus::{Bus, EVENTS};
use crate::event::Ts;
use crate::node::clock::Clock;
use crate::node::figures::BOUNDS;
use crate::node::inquiry::{Inquiry, Source};
use crate::node::queues::{self, QueueStanding};
use crate::node::status::Status;
use crate::role::RoleName;

/// What was found is told again for so long: scraping must not load the broker (DOMAIN 6: checked every 5 s).
const KEEP: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRequest {
    route: String,
    method: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfQueue {
    queue: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRole {
    role: String,
}

/// The numbers of this process, and of the site when they are asked for.
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<OfRequest, Counter>,
    durations: Family<OfRoute, Histogram, fn() -> Histogram>,
    queues: QueueGauges,
    roles: RoleFigures,
    told: Told,
    up: Family<OfRole, Gauge>,
    broker_up: Gauge,
    site: tokio::sync::Mutex<Option<(Ts, Arc<SiteState>)>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRoute {
    route: String,
}

#[derive(Default)]
struct QueueGauges {
    depth: Family<OfQueue, Gauge>,
    in_flight: Family<OfQueue, Gauge>,
    oldest_age_seconds: Family<OfQueue, Gauge>,
    dead_letters: Family<OfQueue, Gauge>,
    sent: Family<OfQueue, Counter>,
    /// What the broker said of `sent` last.
    sent_then: Mutex<BTreeMap<String, u64>>,
}

impl QueueGauges {
    /// What was sent since the last look. The broker begins anew when a queue is reset: what it says then was sent before.
    fn sent_now(&self, queue: &OfQueue, sent: u64) {
        let mut then = self
            .sent_then
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = then.insert(queue.queue.clone(), sent);
        let more = match before {
            None => sent,
            Some(before) => sent.saturating_sub(before),
        };
        self.sent.get_or_create(queue).inc_by(more);
    }
}

/// What roles say of themselves. They count since their process started, as a counter of Prometheus may.
#[derive(Default)]
struct RoleFigures {
    received: Family<OfQueue, Counter>,
    handled: Family<OfQueue, Counter>,
    failed: Family<OfQueue, Counter>,
    expired: Family<OfQueue, Counter>,
    late: Family<OfQueue, Counter>,
    commands: Family<OfRole, Counter>,
    rejected: Family<OfRole, Counter>,
    emitted: Family<OfRole, Counter>,
    outbox: Family<OfRole, Gauge>,
}

impl RoleFigures {
    fn register(&self, registry: &mut Registry) {
        let of_queues = [
            (
                "queue_received",
                "Events taken from the queue",
                &self.received,
            ),
            ("queue_handled", "Events handled", &self.handled),
            ("queue_failed", "Failed handler runs", &self.failed),
            ("queue_expired", "Events too old to handle", &self.expired),
            ("queue_late", "Events handled late", &self.late),
        ];
        for (name, help, counter) in of_queues {
            registry.register(name, help, counter.clone());
        }
        let of_roles = [
            ("role_commands", "Commands answered", &self.commands),
            ("role_commands_rejected", "Commands refused", &self.rejected),
            ("role_events_emitted", "Events published", &self.emitted),
        ];
        for (name, help, counter) in of_roles {
            registry.register(name, help, counter.clone());
        }
        let help = "Events that wait to be published";
        registry.register("role_outbox_depth", help, self.outbox.clone());
    }

    fn show(&self, status: &Status) {
        let role = OfRole {
            role: status.role.to_string(),
        };
        if let Some(depth) = status.outbox {
            let depth = i64::try_from(depth).unwrap_or(i64::MAX);
            self.outbox.get_or_create(&role).set(depth);
        }
        let Some(counts) = status.counts else { return };
        for (family, count) in [
            (&self.commands, counts.commands),
            (&self.rejected, counts.rejected),
            (&self.emitted, counts.emitted),
        ] {
            family.get_or_create(&role).inner().store(count, Relaxed);
        }
        let Some(queue) = status.role.queue() else {
            return;
        };
        let queue = OfQueue {
            queue: queue.to_owned(),
        };
        for (family, count) in [
            (&self.received, counts.received),
            (&self.handled, counts.handled),
            (&self.failed, counts.failed),
            (&self.expired, counts.expired),
            (&self.late, counts.late),
        ] {
            family.get_or_create(&queue).inner().store(count, Relaxed);
        }
    }
}

/// How the site stands.
#[derive(Debug)]
struct SiteState {
    broker: Result<(), String>,
    queues: Vec<QueueStanding>,
    roles: Vec<(RoleName, bool)>,
    figures: Vec<Status>,
}

impl SiteState {
    fn status(&self) -> &'static str {
        match (&self.broker, self.roles.iter().all(|(_, up)| *up)) {
            (Err(_), _) => "unhealthy",
            (Ok(()), false) => "degraded",
            (Ok(()), true) => "healthy",
        }
    }
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("roadcall");
        let requests = Family::default();
        registry.register("http_requests", "HTTP requests", requests.clone());
        let durations: Family<OfRoute, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(BOUNDS));
        registry.register(
            "http_request_duration_seconds",
            "How long HTTP requests took",
            durations.clone(),
        );
        let queues = QueueGauges::default();
        let gauges = [
            ("queue_depth", "Events without an outcome", &queues.depth),
            (
                "queue_in_flight",
                "Delivered and not acknowledged",
                &queues.in_flight,
            ),
            (
                "queue_oldest_age_seconds",
                "Age of the oldest event without an outcome",
                &queues.oldest_age_seconds,
            ),
            (
                "queue_dead_letters",
                "Letters neither redriven nor purged",
                &queues.dead_letters,
            ),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        let help = "Events that were sent to the queue, each time that they were";
        registry.register("queue_sent", help, queues.sent.clone());
        let roles = RoleFigures::default();
        roles.register(&mut registry);
        let told = Told::default();
        registry.register_collector(Box::new(told.clone()));
        let up = Family::default();
        registry.register("role_up", "Whether the role answers", up.clone());
        let broker_up = Gauge::default();
        registry.register("broker_up", "Whether JetStream answers", broker_up.clone());
        Self {
            registry,
            requests,
            durations,
            queues,
            roles,
            told,
            up,
            broker_up,
            site: tokio::sync::Mutex::default(),
        }
    }

    /// How the site stands, at most [`KEEP`] old.
    async fn site(&self, door: &Door) -> Arc<SiteState> {
        let mut kept = self.site.lock().await;
        if let Some((at, state)) = kept.as_ref()
            && Clock.since(*at) < KEEP
        {
            return Arc::clone(state);
        }
        let state = Arc::new(look(door).await);
        self.show(&state);
        *kept = Some((Clock.now(), Arc::clone(&state)));
        state
    }

    fn show(&self, state: &SiteState) {
        self.broker_up.set(i64::from(state.broker.is_ok()));
        for (role, up) in &state.roles {
            let role = role.to_string();
            self.up.get_or_create(&OfRole { role }).set(i64::from(*up));
        }
        for status in &state.figures {
            self.roles.show(status);
        }
        self.told.tell(state.figures.clone());
        for standing in &state.queues {
            let queue = OfQueue {
                queue: standing.queue.clone(),
            };
            let set = |gauge: &Family<OfQueue, Gauge>, value: u64| {
                gauge
                    .get_or_create(&queue)
                    .set(i64::try_from(value).unwrap_or(i64::MAX));
            };
            self.queues.sent_now(&queue, standing.sent);
            set(&self.queues.depth, standing.depth);
            set(&self.queues.in_flight, standing.in_flight);
            set(&self.queues.dead_letters, standing.dead_letters);
            let age = standing.oldest_age_seconds.unwrap_or(0);
            set(&self.queues.oldest_age_seconds, age);
        }
    }
}

/// The roles that the site has.
fn roles_of(names: &[String]) -> Vec<RoleName> {
    if names.iter().any(|name| name == "all") {
        return RoleName::BUILT.to_vec();
    }
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

async fn look(door: &Door) -> SiteState {
    let broker = match door.bus.stream(EVENTS).await {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    };
    let mut state = SiteState {
        broker,
        queues: Vec::new(),
        roles: Vec::new(),
        figures: Vec::new(),
    };
    if state.broker.is_err() {
        return state;
    }
    let inquiry = Inquiry {
        bus: door.bus.clone(),
        config: door.config.clone(),
        actor: "operator:gateway".to_owned(),
        timeout: Duration::from_secs(1),
    };
    for role in roles_of(&door.config.site.roles) {
        let up = match inquiry.status(role).await {
            Ok(Ok((status, Source::Role))) => {
                state.figures.push(status);
                true
            }
            _ => false,
        };
        state.roles.push((role, up));
        if let Ok(Some(standing)) = queues::look(&inquiry, role, Clock.now()).await {
            state.queues.push(standing);
        }
    }
    state
}

/// Whether this process can serve at all: the broker is what it can't do without.
pub(super) async fn health(State(door): State<Arc<Door>>) -> Response {
    let state = door.metrics.site(&door).await;
    let code = match state.broker {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, Json(told(&state))).into_response()
}

/// Whether requests should be sent here: not while it stops, and not without a broker.
pub(super) async fn ready(State(door): State<Arc<Door>>) -> Response {
    if door.stop.is_cancelled() {
        let stopping = json!({ "status": "stopping" });
        return (StatusCode::SERVICE_UNAVAILABLE, Json(stopping)).into_response();
    }
    health(State(door)).await
}

fn told(state: &SiteState) -> Value {
    let up = |up: bool| if up { "healthy" } else { "unhealthy" };
    let roles = state
        .roles
        .iter()
        .map(|(role, is_up)| (role.to_string(), Value::from(up(*is_up))));
    json!({
        "status": state.status(), "broker": up(state.broker.is_ok()),
        "roles": roles.collect::<serde_json::Map<_, _>>(),
    })
}

/// Prometheus' text format.
pub(super) async fn scrape(State(door): State<Arc<Door>>) -> Response {
    door.metrics.site(&door).await;
    let mut text = String::new();
    if encode(&mut text, &door.metrics.registry).is_err() {
        // Writing to a string does not fail; an empty answer would look like no data.
        let _ = write!(text, "# could not be written whole");
    }
    let media = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, media)], text).into_response()
}

/// Counts and times every request, by its route's template.
pub(super) async fn measure(
    State(door): State<Arc<Door>>,
    matched: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let route = matched.map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let method = match request.method().as_str() {
        known @ ("GET" | "POST" | "HEAD" | "OPTIONS") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let started = Clock.now();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    let seconds = Clock.since(started).as_secs_f64();
    let durations = &door.metrics.durations;
    durations
        .get_or_create(&OfRoute {
            route: route.clone(),
        })
        .observe(seconds);
    let request = OfRequest {
        route,
        method,
        status,
    };
    door.metrics.requests.get_or_create(&request).inc();
    response
}
