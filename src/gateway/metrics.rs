//! `/healthz`, `/readyz` and `/metrics`: what a supervisor and Prometheus ask. No label has personal data in it: routes stand
//! there by their templates.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Json, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::Door;
use crate::event::Ts;
use crate::node::clock::Clock;
use crate::node::figures::BOUNDS;
use crate::node::metrics::{PREFIX, SiteMetrics, SiteState, look};
use crate::role::RoleName;

/// What was found is told again for so long: scraping must not load the broker (DOMAIN 6: checked every 5 s).
const KEEP: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRequest {
    route: String,
    method: String,
    status: u16,
}

/// The numbers of this process, and of the site when they are asked for.
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<OfRequest, Counter>,
    durations: Family<OfRoute, Histogram, fn() -> Histogram>,
    shown: SiteMetrics,
    site: tokio::sync::Mutex<Option<(Ts, Arc<SiteState>)>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRoute {
    route: String,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let requests = Family::default();
        registry.register("http_requests", "HTTP requests", requests.clone());
        let durations: Family<OfRoute, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(BOUNDS));
        registry.register(
            "http_request_duration_seconds",
            "How long HTTP requests took",
            durations.clone(),
        );
        let shown = SiteMetrics::register(&mut registry);
        Self {
            registry,
            requests,
            durations,
            shown,
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
        let roles = roles_of(&door.config.site.roles);
        let state = Arc::new(look(&door.bus.clone().into(), &door.config, &roles).await);
        self.shown.show(&state);
        *kept = Some((Clock.now(), Arc::clone(&state)));
        state
    }
}

/// The roles that the site has.
fn roles_of(names: &[String]) -> Vec<RoleName> {
    if names.iter().any(|name| name == "all") {
        return RoleName::BUILT.to_vec();
    }
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

/// In one word. A site without a broker is unhealthy, one without a role is degraded.
fn word(state: &SiteState) -> &'static str {
    match (&state.broker, state.roles.iter().all(|(_, up)| *up)) {
        (Err(_), _) => "unhealthy",
        (Ok(()), false) => "degraded",
        (Ok(()), true) => "healthy",
    }
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
        "status": word(state), "broker": up(state.broker.is_ok()),
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
