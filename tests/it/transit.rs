//! What leaves the box is in TLS 1.3 and nothing older: calls to webhooks, collectors and mail servers, and the HTTP door, whose
//! certificate changes while somebody is connected.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConnection, StreamOwned, SupportedProtocolVersion};
use serde_json::{Value, json};

use crate::gateway;
use crate::support::certs::{Authority, Pair};
use crate::support::ends::{collector, front, hooks, smtp};
use roadcall::config::GatewayTls;
use roadcall::event::Ts;
use roadcall::provider::alarm::AlarmWebhook;
use roadcall::provider::otlp::Collector;
use roadcall::provider::smtp::{Server, Smtp, Tls};
use roadcall::provider::{Believed, CallError, Runner};
use roadcall::store::{EffectCall, EffectClass, Secret};

const HERE: &str = "127.0.0.1";

fn believed(ca: &Path) -> Believed {
    Believed::of(&ca.display().to_string())
}

fn call(kind: &str, request: Value) -> EffectCall {
    EffectCall {
        key: "call-1".to_owned(),
        kind: kind.to_owned(),
        class: EffectClass::External,
        request,
        secret: None,
    }
}

/// What a call that was not sent says.
fn unsent(outcome: Result<Value, CallError>) -> String {
    match outcome {
        Err(CallError::Unavailable(words)) => words,
        other => panic!("it should not have been sent: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_goes_to_who_proves_himself_in_tls_1_3_and_each_other_gets_a_sentence() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    let (ours, theirs) = (Authority::new(dir, "ours"), Authority::new(dir, "theirs"));
    let secret = dir.join("secret");
    std::fs::write(&secret, hooks::SECRET).expect("written");
    let web = hooks::start().await;
    let plain = web
        .url
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok());
    let plain = plain.expect("a port");
    let tell = async |pair: &Pair, version, ca: &Path| {
        let port = front::before(plain, pair, version).await;
        let url = format!("https://{HERE}:{port}/alarms");
        let now = || Ts::from_ms(1_700_000_000_000);
        let webhook = AlarmWebhook::new("alarm", url, secret.clone(), now, believed(ca));
        webhook.call(&call("alarm", json!({ "body": "{}" }))).await
    };
    let good = ours.sign("good", HERE, 90);
    tell(&good, &TLS13, &ours.ca).await.expect("taken");
    assert_eq!(web.seen().len(), 1);

    let expired = ours.sign("expired", HERE, -1);
    let elsewhere = ours.sign("elsewhere", "elsewhere.example", 90);
    for (pair, version, ca, words) in [
        (&good, &TLS12, &ours.ca, "speaks no TLS 1.3"),
        (&good, &TLS13, &theirs.ca, "not signed by an authority"),
        (&expired, &TLS13, &ours.ca, "has expired"),
        (&elsewhere, &TLS13, &ours.ca, "for other names"),
    ] {
        let said = unsent(tell(pair, version, ca).await);
        assert!(
            said.starts_with("no connection: ") && said.contains(words),
            "{words}: {said}"
        );
    }
    let missing = dir.join("missing.pem");
    let said = unsent(tell(&good, &TLS13, &missing).await);
    assert!(said.starts_with("tls.ca_file"), "{said}");
    assert_eq!(web.seen().len(), 1, "nothing else was said to anybody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_changes_is_believed_at_the_next_call() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    let (ours, theirs) = (Authority::new(dir, "ours"), Authority::new(dir, "theirs"));
    let ca = dir.join("ca.pem");
    std::fs::copy(&theirs.ca, &ca).expect("copied");
    let web = collector::start().await;
    let plain = web
        .url
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok());
    let pair = ours.sign("good", HERE, 90);
    let port = front::before(plain.expect("a port"), &pair, &TLS13).await;
    let url = format!("https://{HERE}:{port}");
    let collector = Collector::new(&url, Vec::new(), believed(&ca)).expect("no headers");
    let refused = collector.send(b"{}").await.map(|()| Value::Null);
    let said = unsent(refused);
    assert!(said.contains("not signed by an authority"), "{said}");
    // Both, as while an authority is replaced.
    let both = [&theirs.ca, &ours.ca].map(|ca| std::fs::read_to_string(ca).expect("read"));
    std::fs::write(&ca, both.concat()).expect("written");
    collector.send(b"{}").await.expect("believed");
    assert_eq!(web.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_goes_over_starttls_and_implicit_tls_1_3_and_not_over_1_2() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    let (ours, theirs) = (Authority::new(dir, "ours"), Authority::new(dir, "theirs"));
    let good = ours.sign("good", HERE, 90);
    let elsewhere = ours.sign("elsewhere", "mail.example", 90);
    let message = json!({ "title": "Help", "text": "It comes.", "html": "<p>It comes.</p>" });
    let mail = call(
        "email",
        json!({ "to": "joe@fleet.example", "message": message }),
    );
    let send = async |port: u16, tls, ca: &Path| {
        let server = Server {
            host: HERE.to_owned(),
            port,
            tls,
            user: None,
            password: Secret::new(String::new()),
            from: "alerts@fleet.example".to_owned(),
            believed: believed(ca),
        };
        Smtp::new(server).call(&mail).await
    };
    let server = smtp::Server::in_tls(&good, "1.3");
    send(server.port, Tls::Starttls, &ours.ca)
        .await
        .expect("taken");
    let said = unsent(send(server.port, Tls::Starttls, &theirs.ca).await);
    assert!(said.contains("not signed by an authority"), "{said}");
    assert_eq!(server.seen().len(), 1);

    let old = smtp::Server::in_tls(&good, "1.2");
    let said = unsent(send(old.port, Tls::Starttls, &ours.ca).await);
    assert!(
        said.starts_with("email: no protected connection: ") && said.contains("no TLS 1.3"),
        "{said}"
    );
    let other = smtp::Server::in_tls(&elsewhere, "1.3");
    let said = unsent(send(other.port, Tls::Starttls, &ours.ca).await);
    assert!(said.contains("for other names"), "{said}");
    assert!(old.seen().is_empty() && other.seen().is_empty());

    let plain = smtp::Server::start();
    let (new, older) = (&TLS13, &TLS12);
    let port = front::before(plain.port, &good, new).await;
    send(port, Tls::Implicit, &ours.ca).await.expect("taken");
    let port = front::before(plain.port, &good, older).await;
    let said = unsent(send(port, Tls::Implicit, &ours.ca).await);
    assert!(said.contains("no TLS 1.3"), "{said}");
    assert_eq!(plain.seen().len(), 1);
    // A server that has no TLS to offer gets nothing.
    let said = unsent(send(plain.port, Tls::Starttls, &ours.ca).await);
    assert!(said.contains("offers no STARTTLS"), "{said}");
    assert_eq!(plain.seen().len(), 1);
}

/// Somebody at the door.
struct Guest(StreamOwned<ClientConnection, TcpStream>);

impl Guest {
    /// Comes in one version of TLS.
    fn come(
        address: SocketAddr,
        ca: &Path,
        version: &'static SupportedProtocolVersion,
    ) -> Result<Self, String> {
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(ca).expect("a certificate");
        roots.add(ca).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("spoken here")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = HERE.try_into().expect("a name");
        let session = ClientConnection::new(Arc::new(config), name).expect("a session");
        let socket = TcpStream::connect(address).expect("connected");
        let mut guest = Self(StreamOwned::new(session, socket));
        guest.ask().map(|()| guest)
    }

    /// Asks for its health, on the same connection.
    fn ask(&mut self) -> Result<(), String> {
        let request = "GET /healthz HTTP/1.1\r\nHost: door\r\n\r\n";
        let say = |error: std::io::Error| error.to_string();
        self.0.write_all(request.as_bytes()).map_err(say)?;
        let mut first = [0; 15];
        self.0.read_exact(&mut first).map_err(say)?;
        assert_eq!(&first, b"HTTP/1.1 200 OK");
        // The rest of the answer; its body is short, and comes with the head.
        let mut rest = [0; 4096];
        self.0.read(&mut rest).map_err(say).map(drop)
    }

    /// The certificate that it was shown.
    fn shown(&self) -> CertificateDer<'static> {
        let chain = self.0.conn.peer_certificates().expect("shown");
        chain[0].clone().into_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_door_speaks_tls_1_3_alone_and_shows_a_renewed_certificate_while_a_guest_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(dir.path(), "ca");
    let pair = authority.sign("door", HERE, 90);
    let door = gateway::open(|config| {
        config.gateway.tls = GatewayTls::On;
        config.tls.cert_file = pair.cert.display().to_string();
        config.tls.key_file = pair.key.display().to_string();
    })
    .await;
    let ca = &authority.ca;
    let address = door.gateway.address;
    let on_file = || CertificateDer::from_pem_file(&pair.cert).expect("a certificate");
    // A guest blocks: the door is served by the runtime's other thread.
    tokio::task::block_in_place(|| {
        let refused = Guest::come(address, ca, &TLS12).err().expect("too old");
        assert!(refused.contains("ProtocolVersion"), "{refused}");
        let mut clear = TcpStream::connect(address).expect("connected");
        clear
            .write_all(b"GET /healthz HTTP/1.1\r\n\r\n")
            .expect("sent");
        let mut answer = Vec::new();
        // Cut off, or an alert of TLS.
        let _ = clear.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");

        let mut guest = Guest::come(address, ca, &TLS13).expect("in");
        let first = guest.shown();
        assert_eq!(first, on_file());
        assert_eq!(door.gateway.look(), Ok(false));
        authority.sign("door", HERE, 365);
        assert_eq!(door.gateway.look(), Ok(true));
        let other = Guest::come(address, ca, &TLS13).expect("in");
        assert_eq!(other.shown(), on_file());
        assert_ne!(other.shown(), first);
        guest.ask().expect("still in");
        assert_eq!(guest.shown(), first);

        std::fs::write(&pair.cert, "half a").expect("written");
        let wrong = door.gateway.look().expect_err("no certificate").to_string();
        assert!(wrong.starts_with("tls.cert_file"), "{wrong}");
        let still = Guest::come(address, ca, &TLS13).expect("in");
        assert_eq!(still.shown(), other.shown());
    });
    door.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_names_no_version_speaks_nothing_older_with_our_provider() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(dir.path(), "ca");
    let pair = authority.sign("good", HERE, 90);
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(&authority.ca).expect("a certificate");
    roots.add(ca).expect("an authority");
    // As the NATS client makes it, which takes the process's provider.
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(roadcall::tls::provider()))
        .with_safe_default_protocol_versions()
        .expect("some are spoken")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let web = hooks::start().await;
    let plain = web
        .url
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok());
    let plain = plain.expect("a port");
    let shake = async |version| {
        let port = front::before(plain, &pair, version).await;
        let socket = tokio::net::TcpStream::connect((HERE, port)).await;
        let name = HERE.try_into().expect("a name");
        connector.connect(name, socket.expect("connected")).await
    };
    let refused = shake(&TLS12).await.expect_err("too old");
    assert!(refused.to_string().contains("ProtocolVersion"), "{refused}");
    shake(&TLS13).await.expect("TLS 1.3 is spoken");
}
