//! The door over HTTP: every command as `POST /v1/{entity}/{verb}`, readable forms for what only reads, webhooks in, events
//! pushed out, health and metrics (DESIGN 10).
//!
//! It knows who asks (from the bearer token, never from a body), whether he may ask at all, and how often; what a command
//! does and whose an entity is stays with its role, which the door asks by request and reply like everybody else.

mod commands;
mod events;
mod hooks;
mod identity;
mod limits;
mod metrics;
mod openapi;
mod problem;
mod server;
mod specs;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::events::Live;
use self::identity::Identities;
use self::limits::Limits;
use self::metrics::Metrics;
use self::problem::Problem;
use self::specs::Specs;
use crate::bus::jetstream::JetStream;
use crate::config::Config;
use crate::event::Keyring;
use crate::node::clock::Clock;
use crate::node::vault::{self, GATEWAY};
use crate::tls::{self, Own};

pub use self::openapi::document;

/// How long the door keeps a person's key: it does not hear of erasures, and opens nothing of an erased person for longer.
const KEYS_KEPT: Duration = Duration::from_secs(60);

/// Why the door does not open.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody can listen there.
    #[error("gateway.listen {address}: {message}")]
    Listen {
        /// The address.
        address: String,
        /// The system's words.
        message: String,
    },
    /// It is to speak TLS and can't prove itself.
    #[error(transparent)]
    Tls(#[from] tls::Error),
}

/// What all handlers share.
struct Door {
    bus: JetStream,
    config: Config,
    timeout: Duration,
    specs: Specs,
    identities: Identities,
    limits: Limits,
    metrics: Metrics,
    live: Live,
    /// What personal fields of events are opened with; masked without it.
    keys: Option<Arc<dyn Keyring>>,
    stop: CancellationToken,
}

/// The door, open.
#[derive(Debug)]
pub struct Gateway {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it shows; nothing where it speaks plain HTTP.
    own: Option<Arc<Own>>,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Gateway {
    /// Opens the door at `gateway.listen`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn start(bus: JetStream, config: &Config) -> Result<Self, Error> {
        Self::start_at(bus, config, Clock).await
    }

    /// The same by a clock of the caller's: it decides which tokens are still valid.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn start_at(bus: JetStream, config: &Config, clock: Clock) -> Result<Self, Error> {
        let keys = vault::keys(&bus, config, GATEWAY, KEYS_KEPT, clock);
        let listen = config.gateway.listen.clone();
        let fail = |error: std::io::Error| Error::Listen {
            address: listen.clone(),
            message: error.to_string(),
        };
        let (cert, key) = (&config.tls.cert_file, &config.tls.key_file);
        let own = match config.gateway.in_tls(&config.tls) {
            true => Some(Own::read(cert.as_ref(), key.as_ref())?),
            false => None,
        };
        let listener = TcpListener::bind(&listen).await.map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        let stop = CancellationToken::new();
        let door = Arc::new(Door {
            timeout: config.engine.command_timeout.0,
            specs: Specs::new(config),
            identities: Identities::new(bus.clone(), config, clock),
            limits: Limits::new(&config.gateway),
            metrics: Metrics::new(),
            live: Live::new(config.gateway.subscriptions_per_user),
            keys,
            stop: stop.clone(),
            config: config.clone(),
            bus,
        });
        tokio::spawn(events::watch(Arc::clone(&door)));
        let server = server::Server {
            listener,
            router: router(door),
            tls: own.as_ref().map(|own| own.server().into()),
            connections_max: config.gateway.connections_max,
            stop: stop.clone(),
            drain: config.gateway.drain.0,
        };
        let serving = tokio::spawn(server.serve());
        tracing::info!(%address, tls = own.is_some(), "gateway ready");
        Ok(Self {
            address,
            own,
            stop,
            serving,
        })
    }

    /// Reads the files of its certificate again; says whether it shows another one from now on. Who is in stays in.
    ///
    /// # Errors
    /// What is wrong with them; the one before stays.
    pub fn look(&self) -> Result<bool, tls::Error> {
        self.own.as_ref().map_or(Ok(false), |own| own.look())
    }

    /// Takes no new requests, lets those that run finish within `gateway.drain`, ends event streams.
    pub async fn shutdown(self) {
        self.stop.cancel();
        if self.serving.await.is_err() {
            tracing::error!("the gateway ended by a panic");
        }
    }
}

fn router(door: Arc<Door>) -> Router {
    let mut router = Router::new()
        .route("/v1/openapi.json", get(api_document))
        .route("/v1/events", get(events::stream))
        .route("/v1/hooks/{provider}", post(hooks::receive))
        .route("/healthz", get(metrics::health))
        .route("/readyz", get(metrics::ready))
        .route("/metrics", get(metrics::scrape));
    for (path, methods) in commands::routes(&door.specs) {
        router = router.route(&path, methods);
    }
    let body_max = usize::try_from(door.config.gateway.body_max.0).unwrap_or(usize::MAX);
    router
        .fallback(async || Problem::no_such_path().into_response())
        .method_not_allowed_fallback(async || Problem::no_such_method().into_response())
        .layer(DefaultBodyLimit::max(body_max))
        .layer(axum::middleware::from_fn_with_state(
            Arc::clone(&door),
            metrics::measure,
        ))
        .with_state(door)
}

async fn api_document() -> Response {
    Json(document()).into_response()
}
