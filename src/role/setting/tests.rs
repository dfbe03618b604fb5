//! DOMAIN 5.11 on the bench: S27, S28, every range, versions, fences.

use serde_json::{Value, json};

use super::ConfigRole;
use crate::event::{Actor, Event, Id, Known, ids};
use crate::role::testing::{Bench, code, types};
use crate::role::{Code, HandlerError, Rejection};

fn bench() -> Bench<ConfigRole> {
    Bench::new(ConfigRole::default())
}

fn admin(n: u8) -> Actor {
    Actor::Admin(ids::derive_v7(1, &[b"admin", &[n]]))
}

type Answer = Result<(Value, Vec<Event>), HandlerError>;

fn ask(bench: &mut Bench<ConfigRole>, command: &str, body: Value) -> Answer {
    bench.command(&admin(1), command, body)
}

fn update(bench: &mut Bench<ConfigRole>, key: &str, value: &Value, expected: u64) -> Answer {
    let body = json!({ "configKey": key, "value": value, "expectedVersion": expected });
    ask(bench, "config.update", body)
}

fn get(bench: &mut Bench<ConfigRole>, key: &str) -> Value {
    let body = json!({ "configKey": key });
    ask(bench, "config.get", body).expect("answered").0
}

fn refused(answer: Answer) -> Rejection {
    match answer {
        Err(HandlerError::Rejected(rejection)) => rejection,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// The default value of a key with one field set to something else.
fn with(key: &str, pointer: &str, value: Value) -> Value {
    let mut whole = get(&mut bench(), key)["value"].clone();
    *whole.pointer_mut(pointer).expect("a field of the value") = value;
    whole
}

fn square(west: f64) -> Value {
    let east = west + 1.0;
    json!([
        [west, 0.0],
        [east, 0.0],
        [east, 1.0],
        [west, 1.0],
        [west, 0.0]
    ])
}

fn fence(n: u8, name: &str) -> Value {
    let id = ids::derive_v7(1, &[b"fence", &[n]]);
    json!({ "geofenceId": id, "name": name, "polygon": square(f64::from(n)), "region": "East", "active": true })
}

#[test]
fn s27_weights_tiers_and_polygons_are_judged() {
    let weights = |rating: f64| with("matching", "/weights/rating", json!(rating));
    let sum_too_large = refused(update(&mut bench(), "matching", &weights(0.102), 0));
    assert_eq!(sum_too_large.code, Code::ValidationError);
    assert_eq!(sum_too_large.field.as_deref(), Some("value.weights"));
    let (taken, events) = update(&mut bench(), "matching", &weights(0.1005), 0).expect("taken");
    assert_eq!(taken["configVersion"], 1);
    assert_eq!(types(&events), ["ConfigurationChanged"]);
    assert!(update(&mut bench(), "matching", &weights(0.099), 0).is_ok());
    assert!(update(&mut bench(), "matching", &weights(0.0989), 0).is_err());

    let one_rank = with("sla-tiers", "/tiers/1/rank", json!(1));
    let refusal = refused(update(&mut bench(), "sla-tiers", &one_rank, 0));
    assert_eq!(refusal.field.as_deref(), Some("value.tiers[1].rank"));

    let mut open = fence(1, "Open");
    open["polygon"] = json!([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]);
    let value = json!({ "geofences": [open] });
    let refusal = refused(update(&mut bench(), "geofences", &value, 0));
    assert_eq!(refusal.field.as_deref(), Some("value.geofences[0].polygon"));
    assert!(refusal.message.contains("not closed"), "{refusal:?}");
}

#[test]
fn every_range_of_the_table_is_kept() {
    let wrong = [
        ("matching", "/weights/distance", json!(-0.1)),
        ("matching", "/weights/distance", json!(1.1)),
        ("matching", "/distanceScaleMiles", json!(0)),
        ("matching", "/defaultRadiusMiles", json!(0)),
        ("matching", "/maxRadiusMiles", json!(50)),
        ("matching", "/expansionFactor", json!(1.0)),
        ("matching", "/expansionFactor", json!(2.01)),
        ("matching", "/rounds", json!(0)),
        ("matching", "/rounds", json!(11)),
        ("matching", "/maxCycles", json!(11)),
        ("matching", "/offersPerRound", json!(0)),
        ("matching", "/offerTimeoutSeconds", json!(29.9)),
        ("matching", "/offerTimeoutSeconds", json!(601)),
        ("sla-tiers", "/tiers", json!([])),
        ("sla-tiers", "/tiers/0/name", json!("Priority")),
        ("sla-tiers", "/tiers/0/responseMinutes", json!(0)),
        ("sla-tiers", "/tiers/0/responseMinutes", json!(121)),
        ("sla-tiers", "/tiers/0/arrivalMinutes", json!(241)),
        ("sla-tiers", "/tiers/0/arrivalMinutes", json!(15)),
        ("sla-tiers", "/tiers/0/multiplier", json!(0)),
        ("sla-tiers", "/tiers/0/multiplier", json!(5.1)),
        ("sla-tiers", "/tiers/0/rank", json!(11)),
        ("sla-tiers", "/tiers/0/priorities", json!(["low"])),
        (
            "sla-tiers",
            "/tiers/0/priorities",
            json!(["low", "normal", "high"]),
        ),
        (
            "sla-tiers",
            "/tiers/0/priorities",
            json!(["low", "normal", "normal"]),
        ),
        ("pricing", "/basePriceCents/tire", json!(0)),
        ("pricing", "/basePriceCents/tow", json!(1.5)),
        ("pricing", "/perMileCents", json!(0)),
        ("pricing", "/currency", json!("usd")),
        (
            "geofences",
            "/geofences",
            json!([fence(1, "A"), fence(2, "A")]),
        ),
        (
            "geofences",
            "/geofences",
            json!([fence(1, "A"), fence(1, "B")]),
        ),
        ("fraud", "/weights/short_work", json!(1.01)),
        ("fraud", "/bands/medium", json!(0)),
        ("fraud", "/bands/high", json!(0.3)),
        ("fraud", "/bands/flagged", json!(1)),
    ];
    for (key, pointer, value) in wrong {
        let whole = with(key, pointer, value.clone());
        let refusal = refused(update(&mut bench(), key, &whole, 0));
        assert_eq!(
            refusal.code,
            Code::ValidationError,
            "{key}{pointer} {value}"
        );
        let field = refusal.field.expect("a field");
        assert!(field.starts_with("value."), "{field}");
    }
    for key in ["matching", "sla-tiers", "pricing", "geofences", "fraud"] {
        let default = get(&mut bench(), key)["value"].clone();
        let (taken, _) = update(&mut bench(), key, &default, 0).expect("the default is sound");
        assert_eq!(taken["value"], default, "{key}");
        let mut more = default.clone();
        more["surprise"] = json!(1);
        assert_eq!(
            code(update(&mut bench(), key, &more, 0)),
            Code::ValidationError
        );
    }
    let ends = [
        ("matching", "/expansionFactor", json!(2)),
        ("matching", "/offerTimeoutSeconds", json!(30)),
        ("matching", "/offerTimeoutSeconds", json!(600)),
        ("matching", "/rounds", json!(10)),
        ("sla-tiers", "/tiers/0/multiplier", json!(5)),
        ("sla-tiers", "/tiers/0/arrivalMinutes", json!(240)),
        ("fraud", "/weights/short_work", json!(0)),
    ];
    for (key, pointer, value) in ends {
        let whole = with(key, pointer, value.clone());
        assert!(
            update(&mut bench(), key, &whole, 0).is_ok(),
            "{key}{pointer} {value}"
        );
    }
}

#[test]
fn s28_of_two_who_save_from_one_version_one_is_first() {
    let mut bench = bench();
    for version in 0..5 {
        let value = with("pricing", "/perMileCents", json!(400 + version));
        update(&mut bench, "pricing", &value, version).expect("saved");
    }
    let save = |bench: &mut Bench<ConfigRole>, n: u8| {
        let value = with("pricing", "/perMileCents", json!(500 + u64::from(n)));
        let body = json!({ "configKey": "pricing", "value": value, "expectedVersion": 5 });
        bench.command(&admin(n), "config.update", body)
    };
    let (first, events) = save(&mut bench, 1).expect("the first");
    assert_eq!(first["configVersion"], 6);
    let [event] = &events[..] else {
        panic!("{events:?}")
    };
    let Some(Known::ConfigurationChanged(changed)) = event.known() else {
        panic!("{event:?}")
    };
    assert_eq!(changed.config_version.get(), 6);
    assert_eq!(
        changed.previous_version.map(|previous| previous.get()),
        Some(5)
    );
    assert_eq!(changed.value["perMileCents"], 501);
    assert_eq!(changed.updated_by, admin(1));
    let second = refused(save(&mut bench, 2));
    assert_eq!(second.code, Code::VersionConflict);
    assert_eq!(second.details, Some(json!({ "version": 6 })));
    let latest = get(&mut bench, "pricing");
    assert_eq!(
        (&latest["configVersion"], &latest["value"]["perMileCents"]),
        (&json!(6), &json!(501))
    );
}

#[test]
fn a_rollback_is_a_new_version_and_history_stays() {
    let mut bench = bench();
    assert_eq!(get(&mut bench, "pricing")["configVersion"], 0);
    for (version, cents) in [(0, 400), (1, 500)] {
        let value = with("pricing", "/perMileCents", json!(cents));
        update(&mut bench, "pricing", &value, version).expect("saved");
    }
    let back = |bench: &mut Bench<ConfigRole>, target: u64| {
        let body = json!({ "configKey": "pricing", "targetVersion": target, "reason": "too dear" });
        ask(bench, "config.rollback", body)
    };
    assert_eq!(code(back(&mut bench, 7)), Code::NotFound);
    assert_eq!(code(back(&mut bench, 2)), Code::Conflict);
    let (third, events) = back(&mut bench, 1).expect("rolled back");
    assert_eq!(types(&events), ["ConfigurationChanged"]);
    assert_eq!(third["configVersion"], 3);
    assert_eq!(third["changeType"], "rolled_back");
    assert_eq!(third["reason"], "too dear");
    let page = |bench: &mut Bench<ConfigRole>, cursor: Option<&Value>| {
        let body = json!({ "configKey": "pricing", "limit": 2, "cursor": cursor });
        ask(bench, "config.history", body).expect("answered").0
    };
    let first = page(&mut bench, None);
    let second = page(&mut bench, first.get("cursor"));
    let both = [first["items"].as_array(), second["items"].as_array()];
    let seen: Vec<(u64, u64)> = both
        .into_iter()
        .flatten()
        .flatten()
        .map(|item| {
            let number = |value: &Value| value.as_u64().expect("a number");
            (
                number(&item["configVersion"]),
                number(&item["value"]["perMileCents"]),
            )
        })
        .collect();
    assert_eq!(seen, [(3, 400), (2, 500), (1, 400)]);
    assert!(second.get("cursor").is_none());
    let body = json!({ "configKey": "pricing", "configVersion": 2 });
    let old = ask(&mut bench, "config.get", body).expect("answered").0;
    assert_eq!(old["value"]["perMileCents"], 500);
}

#[test]
fn only_admins_and_operators_configure() {
    let id: Id = ids::derive_v7(1, &[b"somebody"]);
    let body = json!({ "configKey": "pricing" });
    for actor in [
        Actor::Driver(id),
        Actor::Vendor(id),
        Actor::Dispatcher(id),
        Actor::System("gateway".to_owned()),
    ] {
        let answer = bench().command(&actor, "config.get", body.clone());
        assert_eq!(code(answer), Code::AuthorizationError, "{actor}");
    }
    let operator = Actor::Operator("ann".to_owned());
    assert!(bench().command(&operator, "config.get", body).is_ok());
}

#[test]
fn fences_are_added_changed_listed_and_removed_one_by_one() {
    let mut bench = bench();
    let add = |bench: &mut Bench<ConfigRole>, name: &str, west: f64| {
        let body = json!({ "name": name, "polygon": square(west), "region": "East" });
        ask(bench, "geofence.add", body)
    };
    let (second, events) = add(&mut bench, "Beta", 1.0).expect("added");
    assert_eq!(types(&events), ["ConfigurationChanged"]);
    assert_eq!(
        (&second["configVersion"], &second["active"]),
        (&json!(1), &json!(true))
    );
    let (first, _) = add(&mut bench, "Alpha", 2.0).expect("added");
    assert_eq!(first["configVersion"], 2);
    assert_eq!(code(add(&mut bench, "Alpha", 3.0)), Code::Conflict);
    let body = json!({ "name": "Flat", "polygon": [[0, 0], [1, 0], [0, 0]], "region": "East" });
    let flat = refused(ask(&mut bench, "geofence.add", body));
    assert_eq!(flat.field.as_deref(), Some("polygon"));

    let list = |bench: &mut Bench<ConfigRole>, limit: u64, cursor: Option<&Value>| {
        let body = json!({ "limit": limit, "cursor": cursor });
        ask(bench, "geofence.list", body).expect("answered").0
    };
    let page = list(&mut bench, 1, None);
    assert_eq!(page["items"][0]["name"], "Alpha");
    let page = list(&mut bench, 1, page.get("cursor"));
    assert_eq!(page["items"][0]["name"], "Beta");
    assert!(page.get("cursor").is_none());

    let change = |bench: &mut Bench<ConfigRole>, name: &str, expected: u64| {
        let body = json!({
            "geofenceId": second["geofenceId"], "name": name, "active": false, "expectedVersion": expected,
        });
        ask(bench, "geofence.change", body)
    };
    assert_eq!(code(change(&mut bench, "Gamma", 1)), Code::VersionConflict);
    assert_eq!(code(change(&mut bench, "Alpha", 2)), Code::Conflict);
    let (changed, _) = change(&mut bench, "Gamma", 2).expect("changed");
    assert_eq!(
        (&changed["name"], &changed["active"]),
        (&json!("Gamma"), &json!(false))
    );
    assert_eq!(changed["polygon"], second["polygon"]);

    let remove = |bench: &mut Bench<ConfigRole>, expected: u64| {
        let body = json!({ "geofenceId": first["geofenceId"], "expectedVersion": expected });
        ask(bench, "geofence.remove", body)
    };
    assert_eq!(code(remove(&mut bench, 2)), Code::VersionConflict);
    let (_, events) = remove(&mut bench, 3).expect("removed");
    assert_eq!(types(&events), ["ConfigurationChanged"]);
    assert_eq!(code(remove(&mut bench, 4)), Code::NotFound);
    let left = list(&mut bench, 50, None);
    assert_eq!(left["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        get(&mut bench, "geofences")["value"]["geofences"],
        left["items"]
    );
}

#[test]
fn a_value_too_large_for_an_event_is_refused() {
    let ring = |at: usize| {
        let west = (at % 100) as f64;
        let mut ring: Vec<[f64; 2]> = (0..400)
            .map(|step| [west + f64::from(step) * 0.001_234_567, 0.123_456_789])
            .collect();
        ring.extend([[west, 0.9], [west, 0.123_456_789]]);
        json!(ring)
    };
    let fences: Vec<Value> = (0..30)
        .map(|at| {
            let mut fence = fence(at as u8, &format!("F{at}"));
            fence["polygon"] = ring(at);
            fence
        })
        .collect();
    let refusal = refused(update(
        &mut bench(),
        "geofences",
        &json!({ "geofences": fences }),
        0,
    ));
    assert_eq!(refusal.field.as_deref(), Some("value"));
}
