//! A collector that takes spans and forgets them: what tracing costs is measured with somebody at the other end.

use axum::Router;
use axum::body::Bytes;
use axum::response::Json;
use axum::routing::post;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::Error;

/// The collector; it ends with the value.
pub(super) struct Sink {
    /// What `trace.otlp_url` says.
    pub(super) url: String,
    server: JoinHandle<()>,
}

impl Sink {
    pub(super) async fn start() -> Result<Self, Error> {
        let failed = |error: std::io::Error| Error::Bench(format!("no collector: {error}"));
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        // The whole request is read before it is answered, as a collector does.
        let take = |_: Bytes| async { Json::<Value>(json!({})) };
        let router = Router::new().route("/v1/traces", post(take));
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the bench's collector ended");
            }
        });
        Ok(Self {
            url: format!("http://{address}"),
            server,
        })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.server.abort();
    }
}
