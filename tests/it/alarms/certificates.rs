//! The alarm of a certificate that expires: thirty days ahead, and when it has; ended by its renewal.

use crate::domain::SECOND;
use crate::domain::world::World;
use crate::support::certs::Authority;
use roadcall::config::units::Span;
use roadcall::node::clock::Clock;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_told_of_thirty_days_ahead_and_no_longer_once_it_is_renewed() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(dir.path(), "ca");
    let pair = authority.sign("box", "127.0.0.1", 20);
    let world = World::with(&Clock.now().to_string(), |config| {
        config.audit.alarm_period = Span::secs(1);
        config.tls.cert_file = pair.cert.display().to_string();
        config.tls.ca_file = authority.ca.display().to_string();
    })
    .await;
    let (soon, over) = ("certificate-expiry", "certificate-expired");
    let (own, ca) = ("tls.cert_file", "tls.ca_file");
    world.raised(soon, own, 1).await;
    let told = &world.alarms("AlarmRaised", soon, own).await[0]["detail"];
    assert_eq!(
        (&told["value"], &told["threshold"], &told["severity"]),
        (&20.0.into(), &30.0.into(), &"warning".into())
    );
    world.looked().await;
    // Thirty whole days and a bit.
    authority.sign("box", "127.0.0.1", 30);
    world.cleared(soon, own, 1).await;

    world.pass(SECOND);
    authority.sign("box", "127.0.0.1", -1);
    world.raised(over, own, 1).await;
    world.raised(soon, own, 2).await;
    world.pass(SECOND);
    authority.sign("box", "127.0.0.1", 90);
    world.cleared(over, own, 1).await;
    world.cleared(soon, own, 2).await;

    world.pass(SECOND);
    // What can't be read is no health.
    std::fs::write(&pair.cert, "nothing").expect("written");
    world.raised("no-data", own, 1).await;
    world.pass(SECOND);
    authority.sign("box", "127.0.0.1", 90);
    world.cleared("no-data", own, 1).await;
    for alarm in [soon, over, "no-data"] {
        let told = world.alarms("AlarmRaised", alarm, ca).await;
        assert!(told.is_empty(), "the authority is good for years: {told:?}");
    }
    world.end().await;
}
