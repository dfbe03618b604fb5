//! TLS before an end that speaks in the clear: the versions and the certificate are the test's.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, SupportedProtocolVersion};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::certs::Pair;

/// Listens on a port of its own and passes what comes on to `port`; gives that of its own.
pub async fn before(port: u16, pair: &Pair, version: &'static SupportedProtocolVersion) -> u16 {
    let cert = CertificateDer::from_pem_file(&pair.cert).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(&pair.key).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("spoken here")
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .expect("they fit");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let own = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Whoever is refused goes away.
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let behind = TcpStream::connect(("127.0.0.1", port)).await;
                let mut behind = behind.expect("the end is there");
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut behind).await;
            });
        }
    });
    own
}
