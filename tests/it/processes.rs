//! The roles as separate processes, and everything done by the command line, as a dispatcher would by hand: a vendor
//! follows a real drive over hill roads to the truck.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::processes::Processes;
use roadcall::bus::jetstream::JetStream;
use roadcall::bus::{Bus, EVENTS};
use roadcall::event::{Id, Point, ids};

const FENCE_METERS: f64 = 100.0;

fn trace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/traces/truck-hill-road.csv")
}

fn points() -> Vec<Point> {
    let text = std::fs::read_to_string(trace()).expect("the trace");
    let point = |line: &str| {
        let columns: Vec<&str> = line.split(',').collect();
        let number = |at: usize| columns[at].parse::<f64>().expect("a number");
        Point::new(number(1), number(2)).expect("on the earth")
    };
    text.lines().skip(1).map(point).collect()
}

fn id(kind: &str, n: u64) -> Id {
    ids::derive_v7(1, &[kind.as_bytes(), &n.to_be_bytes()])
}

/// Registers and approves a vendor where the drive begins, and waits until matching knows him.
async fn vendor(site: &Processes, bus: &JetStream, n: u64) -> String {
    let vendor = id("vendor", n).to_string();
    let day = json!({ "open": "00:00", "close": "24:00" });
    let week: serde_json::Map<String, Value> = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
        .iter()
        .map(|name| ((*name).to_owned(), day.clone()))
        .collect();
    let profile = json!({
        "vendorId": vendor, "businessName": "Hill Road Tires", "contactName": "H", "phone": "+15550001111",
        "capabilities": ["tire_repair"], "location": points()[0], "coverageRadiusMiles": 50, "timezone": "UTC",
        "insuranceExpiry": "2099-12-31", "operatingHours": week,
        "pricing": { "tire_repair": { "basePriceCents": 15000, "perMileCents": 350 } },
    });
    let file = site.dir.path().join(format!("vendor-{n}.json"));
    std::fs::write(&file, profile.to_string()).expect("written");
    site.json(&[
        "vendor",
        "register",
        "--file",
        file.to_str().expect("UTF-8"),
    ]);
    site.json(&["vendor", "verify", &vendor, "approved"]);
    let about_him = format!("roadcall.hub.vendor.VendorUpdated.{vendor}");
    eventually("matching to learn of the vendor", || async {
        let updated = bus.read(EVENTS, &about_him, 1, 1, true).await.ok()?;
        let queue = bus.queue("match-queue").await.ok()?;
        (queue.ack_floor_seq >= updated.first()?.seq).then_some(())
    })
    .await;
    vendor
}

/// Asks the command line until it has an answer.
async fn asked(site: &Processes, arguments: &[&str], found: impl Fn(&Value) -> bool) -> Value {
    eventually(&arguments.join(" "), || async {
        let (code, value, _) = site.run(arguments);
        (code == Some(0) && found(&value)).then_some(value)
    })
    .await
}

/// From the report to a vendor with a tracking session; gives the incident.
async fn taken(site: &Processes, vendor: &str, n: u64) -> String {
    let goal = *points().last().expect("a trace");
    let (lat, lon) = (goal.lat.to_string(), goal.lon.to_string());
    let driver = id("driver", n).to_string();
    let key = format!("key-{n}");
    let create = [
        "incident",
        "create",
        "--driver",
        &driver,
        "--type",
        "tire",
        "--lat",
        &lat,
        "--lon",
        &lon,
        "--idempotency-key",
        &key,
    ];
    let created = site.json(&create);
    assert_eq!(
        site.json(&create)["incidentId"],
        created["incidentId"],
        "a retry is the same incident"
    );
    let incident = created["incidentId"].as_str().expect("an id").to_owned();
    let list = ["offer", "list", "--incident", &incident, "--json"];
    let offers = asked(site, &list, |offers| offers[0]["offerId"].is_string()).await;
    let offer = offers[0]["offerId"].as_str().expect("an id").to_owned();
    assert_eq!(offers[0]["vendorId"], vendor);
    let accepted = site.json(&["offer", "accept", &offer, "--vendor", vendor]);
    assert_eq!(accepted["status"], "accepted");
    let session = ["tracking", "get", "--incident", &incident];
    asked(site, &session, |session| session["sessionId"].is_string()).await;
    let get = ["incident", "get", &incident];
    asked(site, &get, |incident| {
        incident["status"] == "vendor_assigned"
    })
    .await;
    let moved = site.json(&["incident", "enroute", &incident, "--vendor", vendor]);
    assert_eq!(moved["status"], "vendor_en_route");
    incident
}

async fn events(bus: &JetStream, kind: &str, incident: &str) -> Vec<Value> {
    let subject = format!("roadcall.hub.tracking.{kind}.{incident}");
    let mut events: Vec<Value> = Vec::new();
    let mut from = 1;
    loop {
        let page = bus
            .read(EVENTS, &subject, from, 1000, false)
            .await
            .expect("read");
        let Some(last) = page.last() else {
            return events;
        };
        from = last.seq + 1;
        let details = page.iter().map(|stored| {
            let event: Value = serde_json::from_slice(&stored.body).expect("JSON");
            event["detail"].clone()
        });
        events.extend(details);
    }
}

/// Where the session says that the vendor was, without times.
fn places(session: &Value) -> Vec<(Value, Value)> {
    let path = session["path"].as_array().expect("a path");
    path.iter()
        .map(|fix| (fix["lat"].clone(), fix["lon"].clone()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vendor_follows_a_real_drive_to_the_truck_in_order_and_shuffled() {
    let site = Processes::all();
    site.ready().await;
    let bus = site.connect().await;
    let csv = trace();
    let csv = csv.to_str().expect("UTF-8");
    let mut sessions = Vec::new();
    for (n, order) in [(0, &[] as &[&str]), (1, &["--shuffle", "11"])] {
        let vendor = vendor(&site, &bus, n).await;
        let incident = taken(&site, &vendor, n).await;
        let mut feed = vec![
            "tracking",
            "feed",
            "--incident",
            &incident,
            "--vendor",
            &vendor,
        ];
        feed.extend(["--pace", "4000"].iter().chain(order));
        feed.push(csv);
        site.json(&feed);
        let get = ["incident", "get", &incident];
        asked(&site, &get, |incident| {
            incident["status"] == "vendor_arrived"
        })
        .await;
        site.drained(&bus).await;
        let arrivals = events(&bus, "VendorArrived", &incident).await;
        assert_eq!(arrivals.len(), 1, "{arrivals:?}");
        let updates = events(&bus, "TrackingUpdated", &incident).await;
        assert!(!updates.is_empty());
        for update in &updates {
            let eta = &update["eta"];
            assert!(eta["minutes"].as_u64().is_some(), "{eta}");
            assert!(
                eta["distanceMiles"]
                    .as_f64()
                    .is_some_and(|miles| miles >= 0.0),
                "{eta}"
            );
        }
        if order.is_empty() {
            first_within_the_fence(&arrivals[0], &updates);
        }
        sessions.push(site.json(&["tracking", "get", "--incident", &incident]));
    }
    let (ordered, shuffled) = (&sessions[0], &sessions[1]);
    assert_eq!(ordered["status"], "arrived");
    assert_eq!(shuffled["status"], "arrived");
    assert_eq!(places(ordered).len(), 50);
    assert_eq!(places(ordered), places(shuffled));
    for axis in ["lat", "lon"] {
        assert_eq!(
            ordered["vendorLocation"][axis],
            shuffled["vendorLocation"][axis]
        );
    }
}

/// The arrival is at the first fix within the fence, and at no other.
fn first_within_the_fence(arrival: &Value, updates: &[Value]) {
    let points = points();
    let goal = points[points.len() - 1];
    let first = points
        .iter()
        .find(|point| point.distance_meters(&goal) <= FENCE_METERS);
    let first = first.expect("the drive ends at the truck");
    let meters = arrival["distanceMeters"].as_f64().expect("meters");
    assert!(
        (meters - first.distance_meters(&goal)).abs() < 0.01,
        "{meters}"
    );
    let at = updates
        .iter()
        .find(|update| update["location"]["recordedAt"] == arrival["arrivedAt"])
        .expect("the fix of the arrival");
    assert_eq!(at["location"]["lat"], json!(first.lat));
    assert_eq!(at["location"]["lon"], json!(first.lon));
}
