//! S22 to S25: positions, the fence, estimates, and a driver who calls it off.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::*;

pub fn fix(lat: f64, time: Ts) -> Value {
    json!({ "lat": lat, "lon": NYC.1, "recordedAt": time })
}

impl World {
    /// The tracking session of an incident, once there is one.
    pub async fn session(&self, incident: &str) -> Value {
        eventually("a tracking session", || async {
            let body = json!({ "incidentId": incident });
            let reply = self.call(BOSS, "tracking.get", body).await;
            reply.get("ok").cloned()
        })
        .await
    }

    pub async fn report(&self, vendor: &str, session: &Value, fixes: &[Value]) -> Value {
        let body = json!({ "sessionId": session["sessionId"], "fixes": fixes });
        self.call(vendor, "tracking.report_fix", body).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s22_a_shuffled_and_doubled_track_ends_as_the_ordered_one() {
    let world = World::new().await;
    let driver = world.account("driver", 1).await;
    for n in 1..=2 {
        world.vendor(n, (40.80, NYC.1), &["tire_repair"], 5.0).await;
    }
    // 70 fixes, ten seconds and 140 m apart, the last at the truck.
    let start = world.now();
    let lat = |n: usize| NYC.0 + (69 - n) as f64 * 0.00126;
    let track: Vec<Value> = (0..70usize)
        .map(|n| fix(lat(n), Ts::from_ms(start.ms() + n as i64 * 10 * SECOND)))
        .collect();
    let mut ended = Vec::new();
    world.pass(700 * SECOND);
    for shuffled in [false, true] {
        let (incident, offer) = world.assigned(&driver, "tire", NYC).await;
        let session = world.session(&incident).await;
        let vendor = format!("vendor:{}", text(&offer["vendorId"]));
        let mut fixes = track.clone();
        if shuffled {
            fixes.extend_from_slice(&track);
            fixes.shuffle(&mut ChaCha8Rng::seed_from_u64(22));
        }
        for part in fixes.chunks(if shuffled { 3 } else { 1 }) {
            let reply = world.report(&vendor, &session, part).await;
            assert!(reply.get("ok").is_some(), "{reply}");
        }
        world.stands(&incident, "vendor_arrived").await;
        world.quiet().await;
        let arrived = &world.hears("VendorArrived", &incident, 1).await[0];
        assert!(
            arrived["distanceMeters"].as_f64() <= Some(100.0),
            "{arrived}"
        );
        ended.push(world.session(&incident).await);
    }
    for session in &ended {
        assert_eq!(session["status"], "arrived");
        let path = session["path"].as_array().expect("a path");
        let times: Vec<String> = path.iter().map(|fix| text(&fix["recordedAt"])).collect();
        assert_eq!(times.len(), 50);
        assert!(times.is_sorted(), "{times:?}");
        assert_eq!(session["vendorLocation"]["lat"].as_f64(), Some(NYC.0));
    }
    for field in ["path", "vendorLocation"] {
        assert_eq!(ended[0][field], ended[1][field], "{field}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s23_the_fence_is_a_hundred_meters_and_only_the_assigned_vendors_fix_counts() {
    let world = World::new().await;
    let driver = world.account("driver", 1).await;
    world.vendor(1, (40.80, NYC.1), &["tire_repair"], 5.0).await;
    world.vendor(2, (41.00, NYC.1), &["tire_repair"], 4.0).await;
    let (incident, _) = world.assigned(&driver, "tire", NYC).await;
    let session = world.session(&incident).await;
    let near = 40.713_690;
    let other = world
        .report(&as_vendor(2), &session, &[fix(near, world.now())])
        .await;
    assert_eq!(code(&other), "AUTHORIZATION_ERROR");
    let outside = fix(40.713_708, world.now());
    let reply = world.report(&as_vendor(1), &session, &[outside]).await;
    assert_eq!(reply["ok"]["status"], "active", "{reply}");
    world.pass(10 * SECOND);
    let reply = world
        .report(&as_vendor(1), &session, &[fix(near, world.now())])
        .await;
    assert_eq!(reply["ok"]["status"], "arrived", "{reply}");
    world.stands(&incident, "vendor_arrived").await;
    let arrived = &world.hears("VendorArrived", &incident, 1).await[0];
    let meters = arrived["distanceMeters"].as_f64().expect("a number");
    assert!((meters - 98.96).abs() < 0.01, "{meters}");
    assert_eq!(arrived["arrivedAt"], json!(world.now()));
    let told = world.letters(&driver, "vendor_arrived", 2).await;
    assert_eq!(told, ["push", "sms"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s24_without_a_router_an_estimate_is_the_great_circle_at_45_mph() {
    let world = World::new().await;
    let driver = world.account("driver", 1).await;
    world.vendor(1, NYC, &["tire_repair"], 5.0).await;
    let (incident, _) = world.assigned(&driver, "tire", NYC).await;
    let session = world.session(&incident).await;
    for (lat, miles, minutes) in [(41.364_09, 45.0, 60), (40.714_247, 0.1, 1)] {
        world.pass(10 * SECOND);
        let reply = world
            .report(&as_vendor(1), &session, &[fix(lat, world.now())])
            .await;
        assert_eq!(reply["ok"]["status"], "active", "{reply}");
        let updates = eventually("the update", || async {
            let updates = world.told("TrackingUpdated", &incident).await;
            let last = updates.last()?.clone();
            (last["location"]["lat"] == json!(lat)).then_some(last)
        })
        .await;
        let eta = &updates["eta"];
        assert_eq!(
            (&eta["minutes"], &eta["confidence"]),
            (&json!(minutes), &json!(0.5))
        );
        let told = eta["distanceMiles"].as_f64().expect("a number");
        assert!((told - miles).abs() < 0.001, "{told}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s25_a_cancellation_frees_everybody_until_the_work_is_done() {
    let world = World::new().await;
    let driver = world.account("driver", 1).await;
    for n in 1..=2 {
        world.vendor(n, NYC, &["tire_repair"], 5.0).await;
    }
    let solved = json!({ "reason": "solved" });
    let incident = world.breakdown(&driver, "tire", NYC).await;
    world.offers(&incident, 2).await;
    let reply = world
        .change(&driver, "incident.cancel", &incident, solved.clone())
        .await;
    assert_eq!(reply["ok"]["status"], "cancelled", "{reply}");
    for cancelled in world.hears("OfferCancelled", &incident, 2).await {
        assert_eq!(
            (&cancelled["previousStatus"], &cancelled["reason"]),
            (&json!("pending"), &json!("incident_cancelled"))
        );
    }

    let (incident, offer) = world.assigned(&driver, "tire", NYC).await;
    let (n, vendor) = match offer["vendorId"] == json!(vendor_id(1)) {
        true => (1, as_vendor(1)),
        false => (2, as_vendor(2)),
    };
    world.session(&incident).await;
    world.vendor_is(n, "busy").await;
    let leaves = json!({ "status": "vendor_en_route" });
    let reply = world
        .change(&vendor, "incident.update_status", &incident, leaves)
        .await;
    assert_eq!(reply["ok"]["status"], "vendor_en_route", "{reply}");
    let reply = world
        .change(&driver, "incident.cancel", &incident, solved.clone())
        .await;
    assert_eq!(reply["ok"]["status"], "cancelled", "{reply}");
    let stopped = &world.hears("TrackingStopped", &incident, 1).await[0];
    assert_eq!(stopped["reason"], "incident_cancelled");
    world.vendor_is(n, "available").await;
    let told = world.letters(&vendor, "incident_cancelled", 2).await;
    assert_eq!(told, ["push", "sms"]);
    world.letters(&driver, "incident_cancelled", 0).await;
    // Nothing of it is left that could fire: not the arrival's timer either.
    world.quiet().await;
    world.pass(HOUR);
    assert_eq!(world.incident(&incident).await["status"], "cancelled");
    world.quiet().await;
    world.hears("VendorTimeout", &incident, 0).await;

    let incident = world.worked(&driver, NYC, 30, json!({})).await;
    let late = world
        .change(&driver, "incident.cancel", &incident, solved)
        .await;
    assert_eq!(code(&late), "INVALID_TRANSITION", "{late}");
    world.hears("IncidentCancelled", &incident, 0).await;
    world.end().await;
}
