//! `roadcall vendor list` and `search`: all of them, whole as JSON, and as tables that people can choose by.

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Site, connect, site};
use roadcall::bus::Headers;
use roadcall::bus::jetstream::JetStream;
use roadcall::config::Config;
use roadcall::event::{Id, ids};
use roadcall::node::run::Node;
use roadcall::role::RoleName;

/// More than one page of a listing.
const VENDORS: u64 = 52;

/// Vendor `n`; ids grow, so that the newest is the last.
fn id(n: u64) -> Id {
    ids::derive_v7(1 + n as i64, &[b"vendor"])
}

/// Registers vendor `n`, each a tenth of a degree (6.9 miles) farther north than the one before.
async fn register(bus: &JetStream, n: u64) {
    let capability = if n.is_multiple_of(2) {
        "towing"
    } else {
        "tire_repair"
    };
    let profile = json!({
        "vendorId": id(n), "businessName": format!("Tires {n}"), "contactName": "H", "phone": "+15550001111",
        "capabilities": ["jumpstart", capability], "coverageRadiusMiles": 50, "timezone": "UTC",
        "location": { "lat": 40.0 + 0.1 * n as f64, "lon": -74.0 }, "insuranceExpiry": "2099-12-31",
        "operatingHours": { "mon": { "open": "00:00", "close": "24:00" } },
        "pricing": { "jumpstart": { "basePriceCents": 15000, "perMileCents": 350 } },
    });
    let mut headers = Headers::default();
    headers.push("Roadcall-Actor", "operator:test");
    let body = profile.to_string().into_bytes();
    let wait = Duration::from_secs(5);
    let reply = bus
        .call("hub", "vendor.register", &headers, body, wait)
        .await;
    let reply: Value = serde_json::from_slice(&reply.expect("a reply").body).expect("JSON");
    assert_eq!(reply["ok"]["vendorId"], json!(id(n)), "{reply}");
}

fn vendor(site: &Site, arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_roadcall"))
        .env_clear()
        .args(["--nats", &site.broker.url, "vendor"])
        .args(arguments)
        .output()
        .expect("runs");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {words}");
    output
}

fn json_of(site: &Site, arguments: &[&str]) -> Vec<Value> {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    serde_json::from_slice(&vendor(site, &arguments).stdout).expect("an array")
}

fn ids_of(vendors: &[Value]) -> Vec<Value> {
    vendors
        .iter()
        .map(|vendor| vendor["vendorId"].clone())
        .collect()
}

/// The words of a table's line.
fn cells(output: &Output, line: usize) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().nth(line).expect("a line");
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_vendor_is_listed_and_the_nearest_are_found_first() {
    let site = site().await;
    let mut config = Config::default();
    config.site.state_dir = site.dir.path().join("state");
    let node = Node::start(connect(&site).await, &config, &[RoleName::Vendor], true)
        .await
        .expect("started");
    let bus = connect(&site).await;
    for n in 0..VENDORS {
        register(&bus, n).await;
    }

    let all = json_of(&site, &["list"]);
    let newest_first: Vec<Value> = (0..VENDORS).rev().map(|n| json!(id(n))).collect();
    assert_eq!(ids_of(&all), newest_first);
    let metrics = json!({
        "offers": 0, "accepted": 0, "declined": 0, "expired": 0, "responseSecondsTotal": 0.0, "responses": 0,
        "completed": 0, "released": 0, "starsTotal": 0, "ratings": 0,
        "acceptanceRate": 0.0, "completionRate": 0.0, "avgResponseSeconds": 0.0, "ratingAverage": 0.0,
    });
    for (field, value) in [
        ("businessName", json!("Tires 51")),
        ("contactName", json!("H")),
        ("phone", json!("+15550001111")),
        ("capabilities", json!(["jumpstart", "tire_repair"])),
        ("coverageRadiusMiles", json!(50.0)),
        ("timezone", json!("UTC")),
        ("insuranceExpiry", json!("2099-12-31")),
        ("backgroundCheckStatus", json!("pending")),
        ("status", json!("available")),
        ("wantsOffline", json!(false)),
        ("profileVersion", json!(1)),
        ("metricsVersion", json!(0)),
        ("metrics", metrics),
    ] {
        assert_eq!(all[0][field], value, "{field}");
    }
    assert!(json_of(&site, &["list", "--status", "offline"]).is_empty());
    let table = vendor(&site, &["list"]);
    assert_eq!(
        cells(&table, 0),
        "vendorId businessName status background check capabilities coverage miles rating accepts"
    );
    assert_eq!(
        cells(&table, 1),
        format!(
            "{} Tires 51 available pending jumpstart, tire_repair 50.0 - -",
            id(51)
        )
    );

    let place = ["search", "--lat", "40.01", "--lon", "-74"];
    let near = json_of(&site, &place);
    let nearest = |count| (0..count).map(|n| json!(id(n))).collect::<Vec<_>>();
    assert_eq!(ids_of(&near), nearest(8), "within 50 miles");
    let wide = [&place[..], &["--radius-miles", "500"]].concat();
    assert_eq!(ids_of(&json_of(&site, &wide)), nearest(10));
    let more = [&wide[..], &["--limit", "100", "--available-only"]].concat();
    assert_eq!(ids_of(&json_of(&site, &more)), nearest(VENDORS));
    let towing = [&place[..], &["--capability", "towing"]].concat();
    let towing: Vec<Value> = ids_of(&json_of(&site, &towing));
    assert_eq!(towing, [0, 2, 4, 6].map(|n| json!(id(n))));
    let table = vendor(&site, &wide);
    assert_eq!(
        cells(&table, 0),
        "vendorId businessName status background check capabilities miles away rating accepts"
    );
    assert_eq!(
        cells(&table, 2),
        format!(
            "{} Tires 1 available pending jumpstart, tire_repair 6.2 - -",
            id(1)
        )
    );
    let note = String::from_utf8_lossy(&table.stderr).into_owned();
    assert_eq!(note, "note: these are the nearest 10; --limit shows more\n");
    node.shutdown(Duration::from_secs(10))
        .await
        .expect("stopped");
    site.broker.shutdown().await;
}
