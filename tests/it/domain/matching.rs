//! S1 to S10: who is asked, who gets the job, and what becomes of those who do not come.

use serde_json::{Value, json};

use super::*;

/// Vendors who got offers, by number among the first `known`.
fn asked(offers: &[Value], known: u64) -> Vec<u64> {
    let number = |offer: &Value| {
        let of = |n: &u64| offer["vendorId"] == json!(vendor_id(*n));
        (1..=known).find(of).expect("one of them")
    };
    offers.iter().map(number).collect()
}

fn near(value: &Value, wanted: f64, within: f64) {
    let number = value.as_f64().expect("a number");
    assert!((number - wanted).abs() < within, "{number}, not {wanted}");
}

/// `count` vendors at NYC who repair tires, the first the best.
async fn tire_vendors(world: &World, count: u64) {
    for n in 1..=count {
        let rating = 5.0 - 0.1 * (n - 1) as f64;
        world.vendor(n, NYC, &["tire_repair"], rating).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_the_capable_and_near_are_asked_and_the_first_to_accept_has_the_job() {
    let world = World::new().await;
    let driver = world.account("driver", 1).await;
    let tires = ["tire_repair", "tire_replacement"];
    world.vendor(1, NYC, &tires, 4.5).await;
    world.vendor(2, (40.7580, -73.9855), &tires[..1], 4.8).await;
    world.vendor(3, NYC, &["engine_repair"], 5.0).await;
    let incident = world.breakdown(&driver, "tire", NYC).await;
    let offers = world.offers(&incident, 2).await;
    assert_eq!(
        asked(&offers, 3),
        [1, 2],
        "the best first, and not the engine man"
    );
    near(&offers[0]["matchScore"], 0.9900, 5e-5);
    near(&offers[1]["matchScore"], 0.9894, 5e-5);
    near(&offers[1]["distanceMiles"], 3.302, 5e-4);
    assert_eq!(offers[1]["estimatedPayoutCents"], 16_156);

    let taken = world.accept(&offers[0]).await;
    assert_eq!(taken["ok"]["status"], "accepted", "{taken}");
    let rival = &world.hears("OfferCancelled", &incident, 1).await[0];
    assert_eq!(
        (&rival["vendorId"], &rival["reason"]),
        (&json!(vendor_id(2)), &json!("other_accepted"))
    );
    let assigned = world.stands(&incident, "vendor_assigned").await;
    assert_eq!(assigned["vendorId"], json!(vendor_id(1)));
    world.vendor_is(1, "busy").await;
    assert_eq!(world.vendor_status(2).await, "available");

    // The other one's estimate, once he has a job at the same distance.
    let second = world.breakdown(&driver, "tire", NYC).await;
    let offer = &world.offers(&second, 1).await[0];
    assert_eq!(
        asked(std::slice::from_ref(offer), 3),
        [2],
        "the first is busy"
    );
    world.accept(offer).await;
    let accepted = world.hears("OfferAccepted", &second, 1).await;
    assert_eq!(accepted[0]["etaMinutes"], 5);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_a_perfect_vendor_scores_1_a_far_one_0_7_and_the_incapable_is_filtered() {
    // Everybody is within the radius of the first round, so that distance alone decides.
    let world = World::with(START, |config| {
        config.matching.default_radius_miles = 400.0;
        config.matching.max_radius_miles = 450.0;
    })
    .await;
    let driver = world.account("driver", 1).await;
    world.vendor(1, NYC, &["tire_repair"], 5.0).await;
    world.vendor(2, NYC, &["towing"], 5.0).await;
    // His coverage reaches over the 150 miles at which distance counts nothing any more.
    let mut far = profile(3, (43.1, -74.0060), &["tire_repair"]);
    far["coverageRadiusMiles"] = json!(300);
    world.vendor_as(vendor_id(3), 3, far, 5.0).await;
    let incident = world.breakdown(&driver, "tire", NYC).await;
    let offers = world.offers(&incident, 2).await;
    assert_eq!(asked(&offers, 3), [1, 3]);
    near(&offers[0]["matchScore"], 1.0, 1e-9);
    near(&offers[1]["matchScore"], 0.70, 1e-9);
    assert!(offers[1]["distanceMiles"].as_f64() > Some(150.0));
    let breakdown = world.offer(&offers[1]).await["scoreBreakdown"].clone();
    assert_eq!(breakdown["distance"], 0.0, "{breakdown}");
    let case = world
        .ok(BOSS, "match.get", json!({ "incidentId": incident }))
        .await;
    assert_eq!(case["rejections"][0]["byFilter"]["capability"], 1, "{case}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_acceptance_rate_and_rating_count_by_their_weights() {
    let world = World::new().await;
    let driver = world.account("driver", 1).await;
    world.vendor(1, NYC, &["tire_repair"], 4.5).await;
    let metrics = json!({ "vendorId": vendor_id(1), "ratingAverage": 4.5, "ratingCount": 20, "acceptanceRate": 0.85,
        "avgResponseSeconds": 10.0, "completionRate": 1.0, "totalJobs": 20, "metricsVersion": 1_000_001 });
    world.publish("VendorMetricsUpdated", metrics).await;
    world.quiet().await;
    let incident = world.breakdown(&driver, "tire", NYC).await;
    let offers = world.offers(&incident, 1).await;
    near(&offers[0]["matchScore"], 0.9675, 1e-9);
    let parts = world.offer(&offers[0]).await["scoreBreakdown"].clone();
    let mut parts: Vec<f64> = parts
        .as_object()
        .expect("a number per factor")
        .values()
        .filter_map(Value::as_f64)
        .collect();
    parts.sort_by(f64::total_cmp);
    for (part, wanted) in parts.iter().zip([0.09, 0.1275, 0.20, 0.25, 0.30]) {
        near(&json!(part), wanted, 1e-9);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_each_round_looks_farther_until_the_greatest_radius() {
    let world = World::new().await;
    let driver = world.account("driver", 1).await;
    tire_vendors(&world, 1).await;
    // He never answers, so he is asked in every round.
    let radii = async |rounds: usize| {
        let incident = world.breakdown(&driver, "tire", NYC).await;
        for round in 1..=rounds {
            let offers = world.offers(&incident, round).await;
            world.set(at(&text(&offers[round - 1]["expiresAt"])));
        }
        let exhausted = &world.hears("MatchExhausted", &incident, 1).await[0];
        let offers = world.told("OfferCreated", &incident).await;
        let radius = |offer: &Value| offer["radiusMiles"].as_f64().expect("a number");
        let radii: Vec<f64> = offers.iter().map(radius).collect();
        assert_eq!(
            exhausted["finalRadiusMiles"].as_f64(),
            radii.last().copied()
        );
        assert_eq!(exhausted["rounds"], json!(rounds));
        radii
    };
    assert_eq!(radii(3).await, [50.0, 62.5, 78.125]);
    let now = world
        .ok(BOSS, "config.get", json!({ "configKey": "matching" }))
        .await;
    let mut value = now["value"].clone();
    value["rounds"] = json!(7);
    let body =
        json!({ "configKey": "matching", "value": value, "expectedVersion": now["configVersion"] });
    world.ok(BOSS, "config.update", body).await;
    world.quiet().await;
    let seven = [50.0, 62.5, 78.125, 97.65625, 122.070_312_5, 150.0, 150.0];
    assert_eq!(radii(7).await, seven);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s5_nobody_within_reach_ends_at_once_and_dispatchers_are_told_once() {
    let world = World::new().await;
    let driver = world.account("driver", 1).await;
    world
        .vendor(1, (41.8781, -87.6298), &["tire_repair"], 5.0)
        .await;
    let incident = world.breakdown(&driver, "tire", NYC).await;
    let exhausted = &world.hears("MatchExhausted", &incident, 1).await[0];
    assert_eq!(
        (&exhausted["rounds"], &exhausted["finalRadiusMiles"]),
        (&json!(3), &json!(78.125))
    );
    assert_eq!(exhausted["timestamp"], json!(world.now()), "at once");
    let escalated = &world.hears("IncidentEscalated", &incident, 1).await[0];
    assert_eq!(
        (
            &escalated["reason"],
            &escalated["attempts"],
            &escalated["escalatedTo"]
        ),
        (
            &json!("no_vendor"),
            &json!(3),
            &json!("dispatchers:platform")
        )
    );
    let told = world.letters(&world.office, "incident_escalated", 3).await;
    assert_eq!(told, ["email", "push", "sms"]);
    world.quiet().await;
    world.offers(&incident, 0).await;
    assert_eq!(world.incident(&incident).await["status"], "created");
    world.letters(&world.office, "incident_escalated", 3).await;
    world.hears("IncidentEscalated", &incident, 1).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s6_of_two_at_the_same_instant_one_wins() {
    let world = World::new().await;
    let driver = world.account("driver", 1).await;
    tire_vendors(&world, 2).await;
    let incident = world.breakdown(&driver, "tire", NYC).await;
    let offers = world.offers(&incident, 2).await;
    let (one, other) = tokio::join!(world.accept(&offers[0]), world.accept(&offers[1]));
    let won = |reply: &Value| reply["ok"]["status"] == "accepted";
    assert!(won(&one) != won(&other), "{one} {other}");
    let (loser, refusal) = if won(&one) {
        (&offers[1], other)
    } else {
        (&offers[0], one)
    };
    let codes = ["INCIDENT_ALREADY_ASSIGNED", "OFFER_NOT_PENDING"];
    assert!(codes.contains(&code(&refusal).as_str()), "{refusal}");
    let cancelled = &world.hears("OfferCancelled", &incident, 1).await[0];
    assert_eq!(cancelled["offerId"], loser["offerId"]);
    world.stands(&incident, "vendor_assigned").await;
    world.quiet().await;
    world.hears("OfferAccepted", &incident, 1).await;

    // One vendor, two jobs. He who is left has both offers; the busy one gets none.
    let free = if loser == &offers[0] { 1 } else { 2 };
    tire_vendor_more(&world).await;
    let (first, second) = (
        world.breakdown(&driver, "tire", NYC).await,
        world.breakdown(&driver, "tire", NYC).await,
    );
    let both = [
        world.offers(&first, 2).await,
        world.offers(&second, 2).await,
    ];
    let his = |offers: &[Value]| {
        let of = |offer: &&Value| offer["vendorId"] == json!(vendor_id(free));
        offers.iter().find(of).expect("asked").clone()
    };
    let (left, right) = (his(&both[0]), his(&both[1]));
    let (one, other) = tokio::join!(world.accept(&left), world.accept(&right));
    assert!(won(&one) != won(&other), "{one} {other}");
    let (lost, refusal) = if won(&one) {
        (&right, other)
    } else {
        (&left, one)
    };
    let codes = ["VENDOR_NOT_AVAILABLE", "OFFER_NOT_PENDING"];
    assert!(codes.contains(&code(&refusal).as_str()), "{refusal}");
    let loses = text(&lost["incidentId"]);
    let cancelled = &world.hears("OfferCancelled", &loses, 1).await[0];
    assert_eq!(
        (&cancelled["offerId"], &cancelled["reason"]),
        (&lost["offerId"], &json!("vendor_taken"))
    );
    // Its round goes on: the other vendor may still take it.
    let third = if loses == first { &both[0] } else { &both[1] };
    let third = third
        .iter()
        .find(|offer| offer["offerId"] != lost["offerId"]);
    assert!(won(&world.accept(third.expect("another")).await));
    world.stands(&loses, "vendor_assigned").await;
    world.end().await;
}

/// Vendor 3, who is there when one of the first two has a job.
async fn tire_vendor_more(world: &World) {
    world.vendor(3, NYC, &["tire_repair"], 3.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_the_winners_repeat_gets_the_same_answer_and_makes_no_second_event() {
    let world = World::new().await;
    let driver = world.account("driver", 1).await;
    tire_vendors(&world, 2).await;
    let (incident, offer) = world.assigned(&driver, "tire", NYC).await;
    let first = world.offer(&offer).await;
    world.pass(3 * SECOND);
    let again = world.accept(&offer).await;
    assert_eq!(again["ok"], first, "the same success");
    world.quiet().await;
    for once in [
        "OfferAccepted",
        "IncidentAssigned",
        "OfferCancelled",
        "TrackingStarted",
    ] {
        world.hears(once, &incident, 1).await;
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s8_an_offer_is_good_until_the_millisecond_it_expires() {
    let world = World::new().await;
    let driver = world.account("driver", 1).await;
    tire_vendors(&world, 1).await;
    let late = ["OFFER_EXPIRED", "OFFER_NOT_PENDING"];
    for after_ms in [0, SECOND] {
        let incident = world.breakdown(&driver, "tire", NYC).await;
        let offer = &world.offers(&incident, 1).await[0];
        let expires = at(&text(&offer["expiresAt"]));
        world.set(Ts::from_ms(expires.ms() + after_ms));
        let reply = world.accept(offer).await;
        assert!(late.contains(&code(&reply).as_str()), "{reply}");
        let told = eventually("the expiry", || async {
            let told = world.told("OfferExpired", &incident).await;
            (!told.is_empty()).then_some(told)
        })
        .await;
        assert_eq!(told.len(), 1);
        assert_eq!(told[0]["expiredAt"], offer["expiresAt"]);
        // The next round asks him again; so that the next breakdown is his alone, this one is called off.
        world.offers(&incident, 2).await;
        let reason = json!({ "incidentId": incident, "reason": "solved" });
        world.ok(&driver, "incident.cancel", reason).await;
        world.quiet().await;
        assert_eq!(world.told("OfferExpired", &incident).await.len(), 1, "once");
    }
    let incident = world.breakdown(&driver, "tire", NYC).await;
    let offer = &world.offers(&incident, 1).await[0];
    world.set(Ts::from_ms(at(&text(&offer["expiresAt"])).ms() - 1));
    let reply = world.accept(offer).await;
    assert_eq!(reply["ok"]["status"], "accepted", "{reply}");
    world.pass(MINUTE);
    world.stands(&incident, "vendor_assigned").await;
    world.quiet().await;
    world.hears("OfferExpired", &incident, 0).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s9_after_three_refusals_the_next_round_comes_at_once_and_the_silent_may_be_asked_again() {
    let world = World::new().await;
    let driver = world.account("driver", 1).await;
    tire_vendors(&world, 7).await;
    let incident = world.breakdown(&driver, "tire", NYC).await;
    let first = world.offers(&incident, 3).await;
    assert_eq!(asked(&first, 7), [1, 2, 3]);
    for offer in &first {
        world.pass(3 * SECOND);
        world.decline(offer).await;
    }
    let all = world.offers(&incident, 6).await;
    assert_eq!(asked(&all[3..], 7), [4, 5, 6]);
    assert_eq!(
        all[3]["timestamp"],
        json!(world.now()),
        "at once, not at 120 s"
    );

    // Two decline, one says nothing.
    world.pass(SECOND);
    world.decline(&all[3]).await;
    world.decline(&all[4]).await;
    world.quiet().await;
    world.offers(&incident, 6).await;
    let expires = at(&text(&all[5]["expiresAt"]));
    assert_eq!(
        expires.ms() - at(&text(&all[5]["timestamp"])).ms(),
        120 * SECOND
    );
    world.set(expires);
    let all = world.offers(&incident, 8).await;
    assert_eq!(
        asked(&all[6..], 7),
        [7, 6],
        "first who was not asked yet, then the silent one"
    );
    assert_eq!(all[6]["timestamp"], json!(expires));
    assert_eq!(
        (&all[6]["round"], &all[6]["attempt"]),
        (&json!(3), &json!(3))
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s10_who_does_not_come_in_time_loses_the_job_and_three_cycles_end_with_a_dispatcher() {
    let world = World::new().await;
    let driver = world.account("driver", 1).await;
    // 7 miles are 10 minutes at 45 mph; 45 miles are 60.
    let (near, far) = ((40.8135, -74.0060), (41.3640, -74.0060));
    world.vendor(1, near, &["tire_repair"], 5.0).await;
    world.vendor(2, far, &["tire_repair"], 5.0).await;
    let (incident, offer) = world.assigned(&driver, "tire", NYC).await;
    assert_eq!(asked(std::slice::from_ref(&offer), 2), [1]);
    for (cycle, n, eta, minutes) in [(1, 1, 10, 30), (2, 2, 60, 90)] {
        let assigned = world.hears("IncidentAssigned", &incident, cycle).await;
        let assigned = &assigned[cycle - 1];
        assert_eq!(assigned["etaMinutes"], json!(eta));
        let due = Ts::from_ms(at(&text(&assigned["assignedAt"])).ms() + minutes * MINUTE);
        assert_eq!(assigned["arrivalDueAt"], json!(due));
        world.vendor_is(n, "busy").await;
        world.quiet().await;
        // A millisecond before nothing happens: the timeout's own time says so.
        world.set(Ts::from_ms(due.ms() - 1));
        assert_eq!(world.incident(&incident).await["status"], "vendor_assigned");
        world.set(due);
        let timeouts = world.hears("VendorTimeout", &incident, cycle).await;
        let timeout = &timeouts[cycle - 1];
        assert_eq!(
            (
                &timeout["timestamp"],
                &timeout["vendorId"],
                &timeout["elapsedMinutes"]
            ),
            (&json!(due), &json!(vendor_id(n)), &json!(minutes as f64))
        );
        world.vendor_is(n, "available").await;
        let stopped = world.hears("TrackingStopped", &incident, cycle).await;
        assert_eq!(stopped[cycle - 1]["reason"], "vendor_released");
        let requested = world.hears("MatchRequested", &incident, cycle).await;
        assert_eq!(requested[cycle - 1]["cycle"], json!(cycle + 1));
        let found = world.letters(&driver, "rematching", 2 * cycle).await;
        assert_eq!(found.len(), 2 * cycle, "the driver is told by push and SMS");
        world.quiet().await;
        let now = world.incident(&incident).await;
        assert_eq!(now["cycle"], json!(cycle + 1));
        assert!(now.get("vendorId").is_none(), "{now}");
        if cycle == 1 {
            // The next cycle asks the other one, not him.
            let offers = world.told("OfferCreated", &incident).await;
            let newest: Vec<&Value> = offers.iter().filter(|o| o["cycle"] == 2).collect();
            let newest: Vec<Value> = newest.into_iter().cloned().collect();
            assert_eq!(asked(&newest, 2), [2]);
            world.accept(&newest[0]).await;
            world.stands(&incident, "vendor_assigned").await;
        }
    }
    // Nobody is left for the third.
    let escalated = &world.hears("IncidentEscalated", &incident, 1).await[0];
    assert_eq!(
        (&escalated["reason"], &escalated["cycle"]),
        (&json!("no_vendor"), &json!(3))
    );
    let case = world
        .ok(BOSS, "match.get", json!({ "incidentId": incident }))
        .await;
    assert_eq!(
        (&case["status"], &case["cycle"]),
        (&json!("exhausted"), &json!(3))
    );

    // With enough vendors the third automatic cycle is the last.
    for n in 3..=6 {
        world.vendor(n, near, &["tire_repair"], 5.0).await;
    }
    let incident = world.breakdown(&driver, "tire", NYC).await;
    for cycle in 1..=3 {
        let offer = eventually("an offer of the cycle", || async {
            let offers = world.told("OfferCreated", &incident).await;
            offers
                .into_iter()
                .find(|offer| offer["cycle"] == json!(cycle))
        })
        .await;
        world.accept(&offer).await;
        world.stands(&incident, "vendor_assigned").await;
        world.quiet().await;
        world.pass(90 * MINUTE);
        world.hears("VendorTimeout", &incident, cycle).await;
        world.quiet().await;
    }
    let escalated = &world.hears("IncidentEscalated", &incident, 1).await[0];
    assert_eq!(
        (&escalated["reason"], &escalated["cycle"]),
        (&json!("cycle_limit"), &json!(4))
    );
    assert_eq!(world.incident(&incident).await["status"], "created");
    world.end().await;
}
