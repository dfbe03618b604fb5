//! Connections: accepted up to a number, in TLS where that is to be, their headers read within a time, drained at a stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// A client has this long for its handshake, and this long to send its headers, or its connection is somebody else's.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Waited when the system has no more connections to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What serves.
pub(super) struct Server {
    pub(super) listener: TcpListener,
    pub(super) router: Router,
    /// Nothing for plain HTTP.
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) connections_max: usize,
    pub(super) stop: CancellationToken,
    pub(super) drain: Duration,
}

impl Server {
    /// Serves until told to stop, then lets what runs finish within `drain`.
    pub(super) async fn serve(self) {
        let graceful = GracefulShutdown::new();
        let room = Arc::new(Semaphore::new(self.connections_max));
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => break,
                accepted = accept(&self.listener, &room) => accepted,
            };
            let Some((stream, peer, permit)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let client = Client {
                peer,
                router: self.router.clone(),
                watcher: graceful.watcher(),
                stop: self.stop.clone(),
            };
            let tls = self.tls.clone();
            tokio::spawn(async move {
                match tls {
                    Some(tls) => client.in_tls(tls, stream).await,
                    None => client.speak(stream).await,
                }
                drop(permit);
            });
        }
        drop(self.listener);
        if tokio::time::timeout(self.drain, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("some requests did not finish in time");
        }
    }
}

/// Somebody who connected.
struct Client {
    peer: SocketAddr,
    router: Router,
    watcher: Watcher,
    stop: CancellationToken,
}

impl Client {
    async fn in_tls(self, tls: TlsAcceptor, stream: TcpStream) {
        let shaken = tokio::select! {
            () = self.stop.cancelled() => return,
            shaken = tokio::time::timeout(HEADER_TIMEOUT, tls.accept(stream)) => shaken,
        };
        match shaken {
            Ok(Ok(stream)) => self.speak(stream).await,
            // Everybody may knock: not a line each for what a scanner does.
            Ok(Err(error)) => tracing::debug!(peer = %self.peer, %error, "no handshake"),
            Err(_) => tracing::debug!(peer = %self.peer, "no handshake in time"),
        }
    }

    async fn speak(self, stream: impl AsyncRead + AsyncWrite + Unpin + 'static) {
        let (router, peer) = (self.router, self.peer);
        let service = tower::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let mut request: Request = request.map(axum::body::Body::new);
            request.extensions_mut().insert(peer);
            router.clone().oneshot(request)
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        // A client that goes away in the middle is its own affair.
        let _ = self.watcher.watch(connection).await;
    }
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            // Small answers must not wait for each other.
            let _ = stream.set_nodelay(true);
            Some((stream, peer, permit))
        }
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            None
        }
    }
}
