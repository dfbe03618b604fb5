//! The scenarios of DOMAIN 8, each a test that names it: a whole site of real roles on a real broker, driven by commands as
//! people send them and, where a scenario is about those, by foreign events. The site's clock is set by hand, so that what
//! takes an hour there takes no time here; the broker's own stays real.

mod delivery;
mod driving;
mod matching;
mod media;
mod money;
mod people;
mod telling;
pub mod world;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

pub use self::driving::fix;
pub use self::money::{bill, pays_by_stripe};
pub use self::people::code_sent;
use self::world::World;
use crate::support::{connect, eventually};
use roadcall::bus::{Bus, EVENTS, Headers, Outgoing};
use roadcall::config::Config;
use roadcall::event::{Id, Ts, ids};
use roadcall::node::clock::Clock;
use roadcall::role::RoleName;

/// A person at the machine, who may do what admins may.
pub const BOSS: &str = "operator:test";
/// The gateway, before anybody is known.
pub const DOOR: &str = "system:gateway";
/// The scenarios' place, latitude and longitude.
pub const NYC: (f64, f64) = (40.7128, -74.0060);
/// When a world begins, where nothing else is said.
pub const START: &str = "2026-01-15T10:00:00.000Z";
pub const SECOND: i64 = 1_000;
pub const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

fn at(text: &str) -> Ts {
    text.parse().expect("a time")
}

pub fn vendor_id(n: u64) -> Id {
    ids::derive_v7(1, &[b"vendor", &n.to_be_bytes()])
}

pub fn as_vendor(n: u64) -> String {
    format!("vendor:{}", vendor_id(n))
}

pub fn phone(role: &str, n: u64) -> String {
    let roles = ["driver", "vendor", "dispatcher", "admin"];
    let kind = roles.iter().position(|name| *name == role).expect("a role");
    format!("+1555{kind}{n:06}")
}

pub fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// The code of a refusal.
fn code(reply: &Value) -> String {
    text(&reply["error"]["code"])
}

/// What vendor `n` registers with.
pub fn profile(n: u64, place: (f64, f64), capabilities: &[&str]) -> Value {
    let day = json!({ "open": "00:00", "close": "24:00" });
    let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let week: serde_json::Map<String, Value> = days
        .iter()
        .map(|name| ((*name).to_owned(), day.clone()))
        .collect();
    let prices: serde_json::Map<String, Value> = capabilities
        .iter()
        .map(|name| {
            (
                (*name).to_owned(),
                json!({ "basePriceCents": 15_000, "perMileCents": 350 }),
            )
        })
        .collect();
    json!({
        "businessName": format!("Tires {n}"), "contactName": "Hank", "phone": phone("vendor", n),
        "email": format!("vendor{n}@fleet.example"), "capabilities": capabilities,
        "location": { "lat": place.0, "lon": place.1 }, "coverageRadiusMiles": 50, "timezone": "America/New_York",
        "insuranceExpiry": "2099-12-31", "operatingHours": week, "pricing": prices, "payoutAccountRef": format!("acct_{n}"),
    })
}

/// No scenario gets lost: each number of tests/data/scenarios.txt, which has those of DOMAIN 8, is in a test's name here.
#[test]
fn every_scenario_has_a_test_that_names_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let listed = std::fs::read_to_string(root.join("data/scenarios.txt")).expect("read");
    let listed: BTreeSet<String> = listed.split_whitespace().map(str::to_lowercase).collect();
    assert_eq!(listed.len(), 30);
    let mut named = BTreeSet::new();
    for file in std::fs::read_dir(root.join("it/domain")).expect("a folder") {
        let code = std::fs::read_to_string(file.expect("a file").path()).expect("read");
        let mut marked = false;
        for line in code.lines().map(str::trim) {
            if let Some((name, _)) = line
                .strip_prefix("async fn s")
                .or(line.strip_prefix("fn s"))
                .and_then(|rest| rest.split_once('_'))
                && marked
            {
                named.insert(format!("s{name}"));
            }
            marked = line.starts_with("#[test") || line.starts_with("#[tokio::test");
        }
    }
    assert_eq!(
        named.intersection(&listed).count(),
        listed.len(),
        "no test for {:?}",
        listed.difference(&named).collect::<Vec<_>>()
    );
}
