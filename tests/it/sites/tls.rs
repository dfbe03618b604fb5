//! The link between hub and depot in TLS 1.3 and nothing else: what somebody hears who listens in, and what is said of a
//! certificate that is not to be believed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustls::pki_types::pem::PemObject as _;

use super::ledger::account;
use super::place::{PATIENCE, Place};
use super::wire::Weather;
use super::{Sites, add, publish};
use crate::support::eventually_within;

/// A hub with an authority and a certificate for 127.0.0.1 of its own.
async fn hub() -> (Sites, PathBuf) {
    hub_as("all", "").await
}

/// The same with these roles, and these lines about its HTTP door.
async fn hub_as(roles: &'static str, gateway: &str) -> (Sites, PathBuf) {
    let mut sites = Sites::hub().await;
    sites.hub.kill();
    let dir = sites.hub.dir.join("certs");
    init(&sites.hub, &dir, "127.0.0.1", &[]);
    let tls = ["ca_file", "cert_file", "key_file"]
        .into_iter()
        .zip(["ca.pem", "hub.pem", "hub.key"]);
    let lines: String = tls
        .map(|(key, name)| format!("{key} = '{}'\n", dir.join(name).display()))
        .collect();
    let file = sites.hub.dir.join("roadcall.toml");
    let text = std::fs::read_to_string(&file).expect("read");
    let text = text.replace("[gateway]\n", &format!("[gateway]\n{gateway}"));
    std::fs::write(&file, format!("{text}[tls]\n{lines}")).expect("written");
    sites.hub.roles = roles;
    sites.hub.start();
    sites.hub.ready().await;
    (sites, dir)
}

fn init(hub: &Place, dir: &Path, name: &str, more: &[&str]) {
    let dir = dir.display().to_string();
    let words = ["auth", "init", "--json", "--dir", &dir, "--name", name];
    hub.json(&words.iter().chain(more).copied().collect::<Vec<_>>());
}

async fn depot(sites: &mut Sites) {
    let mut depot = sites.depot("depot-a");
    sites.hub.json(&add("depot-a", &depot));
    depot.start();
    depot.ready().await;
    sites.depots.push(depot);
}

/// Somebody who comes in one version of TLS.
fn session(
    ca: &Path,
    version: &'static rustls::SupportedProtocolVersion,
) -> rustls::ClientConnection {
    let mut roots = rustls::RootCertStore::empty();
    let ca = rustls::pki_types::CertificateDer::from_pem_file(ca).expect("a certificate");
    roots.add(ca).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("spoken here")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "127.0.0.1".try_into().expect("a name");
    rustls::ClientConnection::new(Arc::new(config), name).expect("a session")
}

/// A handshake with the hub's door in one version of TLS.
fn shake(
    sites: &Sites,
    ca: &Path,
    version: &'static rustls::SupportedProtocolVersion,
) -> Result<(), String> {
    let mut session = session(ca, version);
    let mut socket = TcpStream::connect(("127.0.0.1", sites.wire.port)).expect("connected");
    let mut stream = rustls::Stream::new(&mut session, &mut socket);
    stream.flush().map_err(|error| error.to_string())?;
    // Somebody at the other end speaks.
    let mut first = [0];
    stream
        .read_exact(&mut first)
        .map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_listens_in_hears_nothing_and_nothing_older_is_spoken() {
    let (mut sites, certs) = hub().await;
    depot(&mut sites).await;
    account(&sites.depots[0], 1);
    account(&sites.hub, 101);
    let (hub, depots) = sites.connect().await;
    for _ in 0..20 {
        tokio::join!(publish(&hub, "hub"), publish(&depots[0], "depot-a"));
    }
    sites.settle().await;
    let heard = sites.wire.heard.lock().expect("there").clone();
    assert!(heard.len() > 20_000, "{} bytes", heard.len());
    // A handshake is the first that is said, and no word of what it is about follows.
    assert_eq!(heard[..2], [0x16, 0x03]);
    for word in [
        "INFO {",
        "CONNECT",
        "roadcall.",
        "UserVerified",
        "depot-a",
        "1888",
        "EVENTS",
    ] {
        let found = heard
            .windows(word.len())
            .any(|part| part == word.as_bytes());
        assert!(!found, "{word} is to be heard");
    }
    let ca = certs.join("ca.pem");
    shake(&sites, &ca, &rustls::version::TLS13).expect("TLS 1.3 is spoken");
    let refused = shake(&sites, &ca, &rustls::version::TLS12).expect_err("TLS 1.2 is not");
    assert!(refused.contains("ProtocolVersion"), "{refused}");
}

/// The hub with another certificate; what the depot's log says of it.
async fn said(sites: &mut Sites, what: &str) {
    sites.hub.start();
    sites.hub.ready().await;
    let depot = &sites.depots[0];
    let expected = format!("a sentence about '{what}'");
    eventually_within(PATIENCE, &expected, || async {
        let log = depot.log();
        let mut lines = log
            .lines()
            .filter(|line| line.contains("a link is refused"));
        lines.any(|line| line.contains(what)).then_some(())
    })
    .await;
    sites.hub.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_not_to_be_believed_gets_one_sentence() {
    let (mut sites, certs) = hub().await;
    depot(&mut sites).await;
    sites.settle().await;
    sites.hub.kill();

    // For another name.
    init(&sites.hub, &certs, "hub.example", &["--renew"]);
    said(&mut sites, "is for other names").await;

    // Expired.
    let read = |name: &str| std::fs::read_to_string(certs.join(name)).expect("read");
    let ca_key = rcgen::KeyPair::from_pem(&read("ca.key")).expect("a key");
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("ca.pem"), ca_key).expect("an authority");
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut old = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    old.not_before = rcgen::date_time_ymd(2020, 1, 1);
    old.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let old = old.signed_by(&key, &issuer).expect("signed");
    std::fs::write(certs.join("hub.key"), key.serialize_pem()).expect("written");
    std::fs::write(certs.join("hub.pem"), old.pem()).expect("written");
    let (_, found, _) = sites.hub.run(&["check", "--json", "--role", "all"]);
    assert!(
        found.to_string().contains("tls.cert_file: expired"),
        "{found}"
    );
    said(&mut sites, "is expired").await;

    // Of another authority.
    let other = sites.hub.dir.join("other");
    init(&sites.hub, &other, "127.0.0.1", &[]);
    for name in ["hub.pem", "hub.key"] {
        std::fs::copy(other.join(name), certs.join(name)).expect("copied");
    }
    said(&mut sites, "not signed by an authority").await;
    let log = sites.depots[0].log();
    let lines = log
        .lines()
        .filter(|line| line.contains("a link is refused"));
    assert!(lines.count() <= 6, "once each, not at each try");

    // And the right one again.
    init(&sites.hub, &certs, "127.0.0.1", &["--renew"]);
    sites.hub.start();
    sites.hub.ready().await;
    account(&sites.depots[0], 1);
    sites.settle().await;
}

/// A handshake with who listens there; gives the certificate that was shown.
fn shown(port: u16, ca: &Path) -> Vec<u8> {
    let mut session = session(ca, &rustls::version::TLS13);
    let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    let mut stream = rustls::Stream::new(&mut session, &mut socket);
    // A broker speaks first, a web server when it is asked.
    let asked = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: hub\r\n\r\n");
    asked.expect("a handshake");
    let mut first = [0];
    stream.read_exact(&mut first).expect("somebody speaks");
    let chain = session.peer_certificates().expect("shown");
    chain[0].to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_shown_without_a_restart_and_links_stay() {
    let (mut sites, certs) = hub_as("all,gateway", "tls = 'on'\n").await;
    depot(&mut sites).await;
    account(&sites.depots[0], 1);
    account(&sites.hub, 101);
    let (hub, depots) = sites.connect().await;
    publish(&depots[0], "depot-a").await;
    sites.settle().await;
    let ca = certs.join("ca.pem");
    let on_file = || {
        let file = certs.join("hub.pem");
        let cert = rustls::pki_types::CertificateDer::from_pem_file(file).expect("a certificate");
        cert.to_vec()
    };
    let text = std::fs::read_to_string(sites.hub.dir.join("roadcall.toml")).expect("read");
    let door = text
        .split("[gateway]")
        .nth(1)
        .and_then(|part| part.split('\'').nth(3));
    let door = door.and_then(|listen| listen.rsplit(':').next()?.parse().ok());
    let door: u16 = door.expect("a port");
    let first = shown(sites.wire.port, &ca);
    assert_eq!(shown(door, &ca), first);
    assert_eq!(first, on_file());
    let links = || sites.wire.connections.load(Ordering::SeqCst);

    // By itself, within a few seconds; each look is a connection of its own.
    let before = links();
    init(&sites.hub, &certs, "127.0.0.1", &["--renew"]);
    assert_ne!(on_file(), first);
    let looks = std::cell::Cell::new(0);
    eventually_within(PATIENCE, "the new certificate to be shown", || async {
        looks.set(looks.get() + 1);
        (shown(sites.wire.port, &ca) == on_file()).then_some(())
    })
    .await;
    eventually_within(PATIENCE, "the door to show it", || async {
        (shown(door, &ca) == on_file()).then_some(())
    })
    .await;
    // Half a pair changes nothing, and is told once, also on SIGHUP.
    let key = std::fs::read(certs.join("hub.key")).expect("read");
    let said = |log: &str| log.matches("the certificates stay as they were").count();
    // The renewal itself may have been seen half done.
    let once = said(&sites.hub.log()) + 1;
    std::fs::write(certs.join("hub.key"), "half a").expect("written");
    sites.hub.hang_up();
    eventually_within(PATIENCE, "a sentence about the key", || async {
        (said(&sites.hub.log()) >= once).then_some(())
    })
    .await;
    std::fs::write(certs.join("hub.key"), key).expect("written");
    for _ in 0..5 {
        tokio::join!(publish(&hub, "hub"), publish(&depots[0], "depot-a"));
    }
    sites.settle().await;
    looks.set(looks.get() + 1);
    assert_eq!(shown(sites.wire.port, &ca), on_file());
    assert_eq!(links() - before, looks.get(), "the depot's link stayed");
    assert_eq!(said(&sites.hub.log()), once);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_depot_believes_the_hubs_new_authority_without_a_restart() {
    let (mut sites, certs) = hub().await;
    depot(&mut sites).await;
    account(&sites.depots[0], 1);
    account(&sites.hub, 101);
    sites.settle().await;
    let other = sites.hub.dir.join("other");
    init(&sites.hub, &other, "127.0.0.1", &[]);
    for name in ["ca.pem", "hub.key", "hub.pem"] {
        std::fs::copy(other.join(name), certs.join(name)).expect("copied");
    }
    let file = rustls::pki_types::CertificateDer::from_pem_file(certs.join("hub.pem"));
    let file = file.expect("a certificate").to_vec();
    let ca = other.join("ca.pem");
    eventually_within(PATIENCE, "the hub to show it", || async {
        let mut session = session(&ca, &rustls::version::TLS13);
        let mut socket = TcpStream::connect(("127.0.0.1", sites.wire.port)).expect("connected");
        // Of the authority before it is not to be believed.
        let _ = rustls::Stream::new(&mut session, &mut socket).flush();
        let chain = session.peer_certificates()?;
        (chain[0].to_vec() == file).then_some(())
    })
    .await;
    let refusals = |log: &str| log.matches("not signed by an authority").count();
    let knocks = |log: &str| log.matches("Error trying to connect as leafnode").count();
    let before = knocks(&sites.depots[0].log());
    sites.wire.set(Weather::Cut);
    eventually_within(PATIENCE, "the link to be lost", || async {
        (knocks(&sites.depots[0].log()) > before).then_some(())
    })
    .await;
    sites.wire.set(Weather::Clear);
    eventually_within(PATIENCE, "the depot to refuse it", || async {
        (refusals(&sites.depots[0].log()) > 0).then_some(())
    })
    .await;

    let depot = &sites.depots[0];
    sites.hub.json(&add("depot-a", depot));
    depot.hang_up();
    eventually_within(PATIENCE, "the depot to take it", || async {
        let log = depot.log();
        log.contains("hub.ca changed").then_some(())
    })
    .await;
    account(depot, 2);
    sites.settle().await;
    assert!(!sites.depots[0].log().contains("needs a restart"));
}
