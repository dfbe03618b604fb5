//! The key figures, each from events of which the answer can be counted by hand (DOMAIN 5.7).

use serde_json::{Value, json};

use super::{event, event_of, id, story, take};
use crate::event::{Actor, Event, Id, Ts};
use crate::role::reporting::ReportingRole;
use crate::role::testing::Bench;
use crate::role::{Input, Timer};

fn told(events: &[Event]) -> Bench<ReportingRole> {
    let mut bench = Bench::new(ReportingRole);
    events.iter().for_each(|event| take(&mut bench, event));
    bench
}

fn ask(bench: &mut Bench<ReportingRole>, command: &str, body: Value) -> Value {
    let admin = Actor::Admin(id(9));
    bench.command(&admin, command, body).expect("a report").0
}

fn at(seconds: i64) -> Ts {
    Ts::from_ms(1_768_471_200_000 + seconds * 1000)
}

/// An answer to an offer of `vendor`, `seconds` after ten o'clock.
fn answer(n: u32, vendor: Id, word: &str, seconds: i64) -> [Event; 2] {
    let offer = id(100 + n);
    let mut detail = json!({ "offerId": offer, "incidentId": id(1), "vendorId": vendor });
    let made = json!({
        "offerId": offer, "incidentId": id(1), "vendorId": vendor, "incidentType": "tire", "priority": "normal",
        "matchScore": 0.9, "estimatedPayoutCents": 15000, "distanceMiles": 1.0, "radiusMiles": 50.0, "attempt": 1,
        "cycle": 1, "round": 1, "expiresAt": at(seconds + 120),
    });
    let (name, more) = match word {
        "accepted" => (
            "OfferAccepted",
            json!({
                "driverId": id(2), "acceptedBy": format!("vendor:{vendor}"), "distanceMiles": 1.0, "etaMinutes": 2,
                "cycle": 1, "responseSeconds": 10.0, "acceptedAt": at(seconds),
            }),
        ),
        "declined" => (
            "OfferDeclined",
            json!({ "responseSeconds": 10.0, "declinedAt": at(seconds) }),
        ),
        _ => ("OfferExpired", json!({ "expiredAt": at(seconds) })),
    };
    for (field, value) in more.as_object().expect("an object") {
        detail[field] = value.clone();
    }
    [
        event(
            "match",
            "OfferCreated",
            id(1),
            20 + 2 * n,
            seconds - 10,
            made,
        ),
        event("match", name, id(1), 21 + 2 * n, seconds, detail),
    ]
}

#[test]
fn nothing_measured_is_null_and_never_a_constant() {
    let mut bench = told(&[]);
    let kpis = ask(&mut bench, "report.kpis", json!({}))["kpis"].clone();
    let kpis = kpis.as_object().expect("figures");
    assert_eq!(kpis.len(), 13);
    for (name, figure) in kpis {
        assert_eq!(figure["value"], Value::Null, "{name}");
        assert_eq!(figure["samples"], 0, "{name}");
    }
}

#[test]
fn the_figures_of_one_story() {
    let mut bench = told(&story());
    let reply = ask(&mut bench, "report.kpis", json!({}));
    let figure = |name: &str| reply["kpis"][name].clone();
    assert_eq!(
        figure("timeToAssignSeconds"),
        json!({ "value": 30, "p95": 30, "samples": 1, "open": 0 })
    );
    assert_eq!(
        figure("timeToArrivalSeconds"),
        json!({ "value": 290, "p95": 290, "samples": 1 })
    );
    // Two assignments and an escalation.
    assert_eq!(
        figure("firstAttemptResolutionRate"),
        json!({ "value": 0.0, "samples": 1 })
    );
    assert_eq!(
        figure("incidentResolutionRate"),
        json!({ "value": 1.0, "samples": 1 })
    );
    assert_eq!(
        figure("costPerIncidentCents"),
        json!({ "value": 20000, "samples": 1 })
    );
    assert_eq!(
        figure("revenuePerVendorCents"),
        json!({ "value": 20000, "samples": 1 })
    );
    assert_eq!(
        figure("driverSatisfaction"),
        json!({ "value": 4.0, "samples": 1 })
    );
    assert_eq!(
        figure("vendorRating"),
        json!({ "value": 4.0, "samples": 1 })
    );
    // Assigned within 15 minutes, arrived within 60.
    assert_eq!(
        figure("slaAttainment"),
        json!({ "value": 1.0, "samples": 1 })
    );
    assert_eq!(
        figure("systemUptimePercent"),
        json!({ "value": 100.0, "samples": 0 })
    );
    assert_eq!(figure("errorRatePercent")["value"], 0.0);
    assert_eq!(figure("errorRatePercent")["samples"], story().len());
    assert_eq!(reply.get("groups"), None);
}

#[test]
fn figures_by_group_and_inside_a_window_with_both_ends() {
    let mut bench = told(&story());
    let by = |bench: &mut Bench<ReportingRole>, word: &str| {
        let reply = ask(bench, "report.kpis", json!({ "groupBy": word }));
        let groups = reply["groups"].as_array().expect("groups").clone();
        let names: Vec<String> = groups
            .iter()
            .map(|group| group["group"].as_str().expect("a name").to_owned())
            .collect();
        let resolved = groups[0]["kpis"]["incidentResolutionRate"]["samples"].clone();
        (names, resolved)
    };
    assert_eq!(
        by(&mut bench, "region"),
        (vec!["North East".to_owned()], json!(1))
    );
    assert_eq!(by(&mut bench, "type"), (vec!["tire".to_owned()], json!(1)));
    assert_eq!(
        by(&mut bench, "vendor"),
        (vec![id(5).to_string()], json!(1))
    );
    let created = at(0);
    for (since, until, expected) in [
        (created, created, 1),
        (at(1), at(5000), 0),
        (at(-5000), at(-1), 0),
    ] {
        let reply = ask(
            &mut bench,
            "report.kpis",
            json!({ "since": since, "until": until }),
        );
        assert_eq!(
            reply["kpis"]["incidentResolutionRate"]["samples"], expected,
            "{since}"
        );
    }
    let admin = Actor::Admin(id(9));
    let turned = json!({ "since": at(1), "until": at(0) });
    assert!(bench.command(&admin, "report.kpis", turned).is_err());
}

#[test]
fn answers_of_vendors_count_and_the_report_of_one() {
    let (one, other) = (id(4), id(5));
    let mut events = story();
    for (n, vendor, word) in [
        (1, other, "accepted"),
        (2, other, "declined"),
        (3, one, "expired"),
        (4, other, "accepted"),
    ] {
        events.extend(answer(n, vendor, word, 20 + i64::from(n)));
    }
    events.push(event("vendor", "VendorRegistered", other, 1, 0, json!({
        "vendorId": other, "businessName": "Road Aid", "contactName": "Ann", "phone": "+15557700100",
        "capabilities": ["tire_repair"], "location": {"lat": 40.7, "lon": -74.0}, "coverageRadiusMiles": 50.0,
        "timezone": "America/New_York", "operatingHours": {}, "pricing": {}, "insuranceExpiry": "2027-01-01",
        "backgroundCheckStatus": "approved", "profileVersion": 1, "registeredAt": at(0),
    })));
    let mut bench = told(&events);
    let kpis = ask(&mut bench, "report.kpis", json!({}))["kpis"].clone();
    assert_eq!(
        kpis["vendorAcceptanceRate"],
        json!({ "value": 0.5, "samples": 4 })
    );
    let admin = Actor::Admin(id(9));
    let report = ask(&mut bench, "report.vendor", json!({ "vendorId": other }));
    let expected = json!({
        "vendorId": other, "name": "Road Aid", "registeredAt": at(0), "jobs": 1,
        "completionRate": { "value": 1.0, "samples": 1 },
        "timeToArrivalSeconds": { "value": 290, "p95": 290, "samples": 1 },
        "acceptanceRate": { "value": 0.666_667, "samples": 3 }, "rating": { "value": 4.0, "samples": 1 },
        "revenueCents": 20000,
    });
    assert_eq!(report, expected);
    let nobody = json!({ "vendorId": id(77) });
    let refused = bench.command(&admin, "report.vendor", nobody);
    assert!(format!("{refused:?}").contains("NotFound"), "{refused:?}");
}

#[test]
fn time_under_a_critical_alarm_is_no_uptime_and_two_at_once_count_once() {
    let raised = |name: &str, n: u32, seconds, severity: &str| {
        let detail = json!({
            "alarmName": name, "severity": severity, "subject": "x", "value": 1.0, "threshold": 0.0, "since": at(seconds),
        });
        event_of(
            &format!("roadcall.hub.ops.AlarmRaised.{name}"),
            id(200 + n),
            1,
            seconds,
            detail,
        )
    };
    let cleared = |name: &str, n: u32, seconds| {
        let detail =
            json!({ "alarmName": name, "subject": "x", "value": 0.0, "clearedAt": at(seconds) });
        event_of(
            &format!("roadcall.hub.ops.AlarmCleared.{name}"),
            id(300 + n),
            2,
            seconds,
            detail,
        )
    };
    let events = [
        event("incident", "Foo", id(1), 1, 0, json!({})),
        raised("dead-letters", 1, 100, "critical"),
        raised("queue-age", 2, 150, "critical"),
        raised("late-events", 3, 300, "warning"),
        cleared("dead-letters", 1, 200),
        cleared("queue-age", 2, 250),
        event("incident", "Foo", id(1), 2, 1000, json!({})),
    ];
    let mut bench = told(&events);
    let kpis = ask(&mut bench, "report.kpis", json!({}))["kpis"].clone();
    assert_eq!(
        kpis["systemUptimePercent"],
        json!({ "value": 85.0, "samples": 2 })
    );
}

#[test]
fn exports_have_the_same_rows_in_both_forms_and_names_of_our_own() {
    let mut bench = told(&story());
    for (table, rows) in [
        ("incidents", 1),
        ("payments", 1),
        ("vendors", 0),
        ("kpis", 13),
    ] {
        let asked = |format: &str| json!({ "table": table, "format": format });
        let objects = ask(&mut bench, "report.export", asked("json"));
        let items = objects["items"].as_array().expect("items").clone();
        assert_eq!(items.len(), rows, "{table}");
        let text = ask(&mut bench, "report.export", asked("csv"));
        let lines = text["content"].as_str().expect("lines").lines().count();
        assert_eq!(lines, rows + 1, "{table}");
        let name = text["fileName"].as_str().expect("a name");
        assert!(
            name.starts_with(&format!("roadcall-{table}-2")) && name.ends_with("Z.csv"),
            "{name}"
        );
        // Every column is one of the objects', and the other way round.
        let columns: std::collections::BTreeSet<&str> = objects["columns"]
            .as_array()
            .expect("columns")
            .iter()
            .filter_map(|column| column["name"].as_str())
            .collect();
        for item in &items {
            for (field, value) in item.as_object().expect("an object") {
                assert!(
                    columns.contains(field.as_str()) || value.is_null(),
                    "{table}.{field}"
                );
            }
        }
    }
    let payment = ask(
        &mut bench,
        "report.export",
        json!({ "table": "payments", "format": "json" }),
    )["items"][0]
        .clone();
    assert_eq!(payment["status"], "completed");
    assert_eq!(payment["completedAt"], json!(at(2100)));
    assert_eq!(payment["flagged"], false);
}

/// Incidents and payments of one, two of them at each moment, east and west by turns.
fn many() -> Vec<Event> {
    let mut events = Vec::new();
    for n in 0..14_u32 {
        let (incident, payment) = (id(200 + n), id(300 + n));
        let seconds = i64::from(n / 2);
        let lon = if n % 3 == 0 { -74.0 } else { -120.0 };
        let place = json!({ "lat": 41.0, "lon": lon });
        let detail = json!({
            "incidentId": incident, "driverId": id(2), "type": "tire", "priority": "normal", "location": place,
            "areaLocation": place, "payerType": "back_office", "origin": "app",
        });
        events.push(event(
            "incident",
            "IncidentCreated",
            incident,
            1,
            seconds,
            detail,
        ));
        let detail = json!({
            "paymentId": payment, "incidentId": incident, "vendorId": id(4), "driverId": id(2), "payerType": "back_office",
            "amountCents": 1000 + n, "status": "approved", "fraudScore": 0.0, "fraudStatus": "low_risk",
            "createdAt": at(seconds),
        });
        events.push(event(
            "payment",
            "PaymentCreated",
            incident,
            1,
            seconds,
            detail,
        ));
    }
    events
}

#[test]
fn pages_of_an_export_are_the_whole_and_nothing_twice() {
    let mut bench = told(&many());
    for (table, key) in [("incidents", "incidentId"), ("payments", "paymentId")] {
        for region in [None, Some("North East")] {
            let mut asked = json!({ "table": table, "format": "json" });
            if let Some(region) = region {
                asked["region"] = json!(region);
            }
            let ids = |page: &Value| -> Vec<Value> {
                let items = page["items"].as_array().expect("items").iter();
                items.map(|item| item[key].clone()).collect()
            };
            let whole = ask(&mut bench, "report.export", asked.clone());
            assert!(whole.get("cursor").is_none());
            let whole = ids(&whole);
            assert_eq!(
                whole.len(),
                if region.is_some() { 5 } else { 14 },
                "{table}"
            );
            let (mut paged, mut pages) = (Vec::new(), 0);
            asked["limit"] = json!(3);
            loop {
                let page = ask(&mut bench, "report.export", asked.clone());
                pages += 1;
                paged.extend(ids(&page));
                match page.get("cursor") {
                    Some(cursor) => asked["cursor"] = cursor.clone(),
                    None => break,
                }
            }
            assert_eq!(paged, whole, "{table} {region:?}");
            assert_eq!(pages, whole.len().div_ceil(3), "{table} {region:?}");
        }
    }
}

#[test]
fn a_low_acceptance_rate_alarms_after_two_windows_and_clears_with_a_good_one() {
    const WINDOW: i64 = 900;
    let vendor = id(4);
    let mut bench = told(&[]);
    let mut n = 0;
    let mut window = |bench: &mut Bench<ReportingRole>, number: i64, words: &[&str]| {
        for word in words {
            n += 1;
            for event in answer(n, vendor, word, number * WINDOW + 60) {
                take(bench, &event);
            }
        }
        let due = at((number + 1) * WINDOW);
        let timer = Timer {
            kind: "window".to_owned(),
            key: "acceptance-rate".to_owned(),
            due_at: due,
            payload: Value::Null,
        };
        let (_, events) = bench.run(&Input::Timer(timer), id(5000 + n)).expect("run");
        let names: Vec<String> = events
            .iter()
            .map(|event| event.detail_type.to_string())
            .collect();
        names
    };
    assert!(window(&mut bench, 0, &["declined", "expired", "accepted"]).is_empty());
    assert_eq!(window(&mut bench, 1, &["declined"]), ["AlarmRaised"]);
    assert!(window(&mut bench, 2, &["declined"]).is_empty());
    // Silence is not healthy.
    assert!(window(&mut bench, 3, &[]).is_empty());
    assert_eq!(
        window(&mut bench, 4, &["accepted", "declined"]),
        ["AlarmCleared"]
    );
    assert!(window(&mut bench, 5, &["declined"]).is_empty());
}
