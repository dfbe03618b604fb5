//! The event log, the ledger and the alarms on the bench (DOMAIN 4.4, 5.12; invariants 6, 7, 18, 20).

use std::time::Duration;

use serde_json::{Value, json};

use super::AuditRole;
use crate::event::{
    Actor, AlarmCleared, AlarmRaised, AlarmSeverity, E164, Event, Key, Known, Personal, Text, Ts,
    UserVerified, ids,
};
use crate::role::testing::{Bench, Reach, code, types};
use crate::role::{Code, Input, Mode, Received};
use crate::store::EffectOutcome;

const PHONE: &str = "+12125550147";

fn bench() -> Bench<AuditRole> {
    Bench::new(AuditRole::default())
}

fn admin() -> Actor {
    Actor::Operator("olga".to_owned())
}

fn node() -> Actor {
    Actor::System("node".to_owned())
}

fn ask(bench: &mut Bench<AuditRole>, name: &str, body: Value) -> Value {
    bench.command(&admin(), name, body).expect("answered").0
}

fn verified(n: u8) -> UserVerified {
    UserVerified {
        user_id: ids::derive_v7(1, &[b"user", &[n]]),
        phone: Some(Personal::plain(E164::new(PHONE).expect("a number"))),
        verified_at: Ts::from_ms(0),
    }
}

/// A ledger of six rows.
fn filled() -> Bench<AuditRole> {
    let mut bench = bench();
    for n in 0..6 {
        bench.event(&verified(n)).expect("handled");
    }
    bench
}

fn findings(bench: &mut Bench<AuditRole>) -> Vec<(u64, String)> {
    let found = ask(bench, "audit.verify", json!({}));
    let rows: Vec<(u64, String)> = found["findings"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| {
            let finding = row["finding"].as_str().expect("a word").to_owned();
            (row["seq"].as_u64().expect("a number"), finding)
        })
        .collect();
    assert_eq!(found["ok"], json!(rows.is_empty()), "{found}");
    rows
}

#[test]
fn a_ledger_that_nobody_touched_verifies_and_any_touch_shows() {
    assert_eq!(findings(&mut bench()), [], "an empty one");
    assert_eq!(findings(&mut filled()), []);
    let wrong = || "altered or moved".to_owned();
    let missing = || "missing".to_owned();
    let touches: [(&str, Vec<(u64, String)>); 7] = [
        (
            "UPDATE ledger SET actor = 'system:nobody' WHERE seq = 3",
            vec![(3, wrong())],
        ),
        (
            "UPDATE ledger SET at_ms = at_ms + 1 WHERE seq = 6",
            vec![(6, wrong())],
        ),
        (
            "UPDATE ledger SET subject = 'user/x' WHERE seq = 1",
            vec![(1, wrong())],
        ),
        ("DELETE FROM ledger WHERE seq = 4", vec![(4, missing())]),
        ("DELETE FROM ledger WHERE seq = 1", vec![(1, missing())]),
        ("DELETE FROM ledger WHERE seq >= 5", vec![(5, missing())]),
        (
            "UPDATE ledger SET seq = 7 WHERE seq = 2",
            vec![(2, missing()), (7, wrong()), (7, wrong())],
        ),
    ];
    for (sql, expected) in touches {
        let mut bench = filled();
        assert!(bench.alter(sql) > 0, "{sql}");
        assert_eq!(findings(&mut bench), expected, "{sql}");
    }
    // Two rows that changed places, with their own hashes.
    let mut bench = filled();
    for (from, to) in [(2, 99), (5, 2), (99, 5)] {
        bench.alter(&format!("UPDATE ledger SET seq = {to} WHERE seq = {from}"));
    }
    let found = findings(&mut bench);
    assert!(
        found.contains(&(2, wrong())) && found.contains(&(5, wrong())),
        "{found:?}"
    );
}

#[test]
fn an_event_is_logged_and_in_the_ledger_once_and_its_phone_nowhere() {
    let mut bench = bench();
    let event = Event::build(
        &verified(1),
        crate::event::Base {
            id: ids::derive_v7(5, &[b"e"]),
            time: Ts::from_ms(1_000),
            site: crate::event::Site::new("hub").expect("valid"),
            home: None,
            cause: None,
            correlation: None,
            metadata: [("note".to_owned(), PHONE.to_owned())].into(),
        },
    );
    let id = event.id;
    for mode in [Mode::Live, Mode::Replay, Mode::Redrive] {
        let received = Received {
            event: event.clone().into(),
            mode,
            too_old: false,
            producer: None,
        };
        bench
            .run(&Input::Event(Box::new(received)), id)
            .expect("handled");
    }
    let found = ask(
        &mut bench,
        "audit.search",
        json!({ "type": "UserVerified" }),
    );
    let items = found["items"].as_array().expect("a list");
    assert_eq!(items.len(), 1, "{found}");
    assert_eq!(items[0]["eventId"], json!(id));
    assert_eq!(items[0]["detail"]["phone"], "***");
    assert!(!found.to_string().contains(PHONE), "{found}");
    let ledger = ask(&mut bench, "audit.export", json!({}));
    let rows = ledger["items"].as_array().expect("a list");
    assert_eq!(rows.len(), 1, "{ledger}");
    assert_eq!(
        rows[0]["subject"],
        format!("user/{}", verified(1).user_id).as_str()
    );
}

#[test]
fn the_log_is_searched_by_each_field_and_in_pages_and_old_lines_go() {
    let mut bench = Bench::new(AuditRole {
        keep: Duration::from_secs(3600),
        ..AuditRole::default()
    });
    for n in 0..5 {
        bench.now = Ts::from_ms(bench.now.ms() + 1000);
        bench.event(&verified(n)).expect("handled");
    }
    let mut seen = Vec::new();
    let mut body = json!({ "limit": 2 });
    loop {
        let page = ask(&mut bench, "audit.search", body.clone());
        seen.extend(page["items"].as_array().expect("a list").clone());
        match page.get("cursor") {
            Some(cursor) => body["cursor"] = cursor.clone(),
            None => break,
        }
    }
    let entities: Vec<&str> = seen
        .iter()
        .map(|line| line["entity"].as_str().expect("a key"))
        .collect();
    let expected: Vec<String> = (0..5)
        .rev()
        .map(|n| verified(n).user_id.to_string())
        .collect();
    assert_eq!(entities, expected);
    let count = |bench: &mut Bench<AuditRole>, body: Value| {
        ask(bench, "audit.search", body)["items"]
            .as_array()
            .map(Vec::len)
    };
    let at = seen[2]["time"].clone();
    assert_eq!(count(&mut bench, json!({ "since": at })), Some(3));
    assert_eq!(count(&mut bench, json!({ "until": at })), Some(2));
    assert_eq!(count(&mut bench, json!({ "entity": expected[0] })), Some(1));
    assert_eq!(
        count(&mut bench, json!({ "source": "roadcall.vendor" })),
        Some(0)
    );
    let refused = bench.command(
        &admin(),
        "audit.search",
        json!({ "since": at, "until": at }),
    );
    assert_eq!(code(refused), Code::ValidationError);
    bench.now = Ts::from_ms(bench.now.ms() + 2 * 3_600_000);
    for n in 5..7 {
        bench.event(&verified(n)).expect("handled");
    }
    assert_eq!(count(&mut bench, json!({})), Some(2));
}

#[test]
fn what_an_operator_changes_is_in_the_log_and_the_ledger_with_who_he_is() {
    let mut bench = bench();
    let mut caller = crate::role::permission::Caller::of(Actor::Admin(ids::derive_v7(1, &[b"a"])));
    caller.operator = Some("olga".to_owned());
    let body = json!({ "rule": "some-rule" });
    bench
        .command_as(caller.clone(), "rule.disable", body)
        .expect("done");
    let refused = bench.command_as(
        caller.clone(),
        "dlq.purge",
        json!({ "queue": "no", "letters": [], "reason": "x" }),
    );
    assert_eq!(code(refused), Code::ValidationError);
    let line = ask(&mut bench, "audit.search", json!({}))["items"].clone();
    assert_eq!(line.as_array().map(Vec::len), Some(1), "{line}");
    assert_eq!(
        (&line[0]["kind"], &line[0]["type"]),
        (&json!("command"), &json!("rule.disable"))
    );
    assert_eq!(
        (&line[0]["entity"], &line[0]["operator"]),
        (&json!("rule/some-rule"), &json!("olga"))
    );
    let row = ask(&mut bench, "audit.export", json!({}))["items"][0].clone();
    assert_eq!(
        row["actor"],
        format!("{} by operator:olga", caller.actor).as_str()
    );
    assert_eq!(
        (&row["action"], &row["subject"]),
        (&json!("rule.disable"), &json!("rule/some-rule"))
    );
}

/// One look at one queue.
fn look(bench: &mut Bench<AuditRole>, values: [Option<u64>; 4], lost: bool) -> Vec<Event> {
    bench.now = Ts::from_ms(bench.now.ms() + 60_000);
    let body = json!({ "periodSeconds": 60, "queues": [{
        "queue": "match-queue", "deadLetters": values[0], "oldestAgeSeconds": values[1], "failed": values[2],
        "late": values[3], "lost": lost,
    }] });
    bench
        .command(&node(), "alarm.measured", body)
        .expect("taken")
        .1
}

fn raised(bench: &mut Bench<AuditRole>) -> Vec<(String, String, f64)> {
    let list = ask(bench, "alarm.list", json!({}));
    let text = |row: &Value, name: &str| row[name].as_str().expect("a text").to_owned();
    list["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| {
            let value = row["value"].as_f64().expect("a number");
            (text(row, "alarmName"), text(row, "subject"), value)
        })
        .collect()
}

#[test]
fn each_alarm_is_raised_once_over_its_threshold_and_cleared_under_it() {
    let fine = [Some(0); 4];
    let cases: [(&str, usize, u64, u64); 4] = [
        ("dead-letters", 0, 0, 1),
        ("queue-age", 1, 300, 301),
        ("failed-deliveries", 2, 10, 11),
        ("late-events", 3, 0, 1),
    ];
    for (name, at, most, over) in cases {
        let mut bench = bench();
        let with = |value| {
            let mut values = fine;
            values[at] = Some(value);
            values
        };
        assert!(look(&mut bench, with(most), false).is_empty(), "{name}");
        assert_eq!(types(&look(&mut bench, with(over), false)), ["AlarmRaised"]);
        assert!(
            look(&mut bench, with(over + 5), false).is_empty(),
            "{name}: once"
        );
        let row = (name.to_owned(), "match-queue".to_owned(), (over + 5) as f64);
        assert_eq!(raised(&mut bench), [row]);
        // Without a value it stays as it is.
        let mut silent = fine;
        silent[at] = None;
        assert!(look(&mut bench, silent, false).is_empty(), "{name}");
        assert_eq!(raised(&mut bench).len(), 1);
        assert_eq!(
            types(&look(&mut bench, with(most), false)),
            ["AlarmCleared"]
        );
        assert_eq!(raised(&mut bench), []);
    }
}

/// One look at one certificate.
fn expiry(bench: &mut Bench<AuditRole>, days_left: Option<i64>) -> Vec<(&'static str, String)> {
    bench.now = Ts::from_ms(bench.now.ms() + 60_000);
    let body = json!({ "periodSeconds": 60, "queues": [],
        "certificates": [{ "certificate": "tls.cert_file", "daysLeft": days_left }] });
    let looked = bench.command(&node(), "alarm.measured", body);
    let events = looked.expect("taken").1;
    let told = |event: &Event| match event.known().expect("known") {
        Known::AlarmRaised(alarm) => ("raised", alarm.alarm_name.to_string()),
        Known::AlarmCleared(alarm) => ("cleared", alarm.alarm_name.to_string()),
        other => panic!("{other:?}"),
    };
    events.iter().map(told).collect()
}

#[test]
fn a_certificate_warns_thirty_days_ahead_is_critical_when_it_has_expired_and_unknown_is_no_health()
{
    let mut bench = bench();
    let (soon, over) = ("certificate-expiry", "certificate-expired");
    let told = |word, name: &str| (word, name.to_owned());
    assert_eq!(expiry(&mut bench, Some(30)), []);
    assert_eq!(expiry(&mut bench, Some(29)), [told("raised", soon)]);
    assert_eq!(expiry(&mut bench, Some(0)), []);
    assert_eq!(expiry(&mut bench, Some(-1)), [told("raised", over)]);
    // Without a value both stay as they are.
    assert_eq!(expiry(&mut bench, None), []);
    assert_eq!(expiry(&mut bench, None), []);
    assert_eq!(expiry(&mut bench, None), [told("raised", "no-data")]);
    let cleared = [soon, over, "no-data"].map(|name| told("cleared", name));
    assert_eq!(expiry(&mut bench, Some(364)), cleared);
}

#[test]
fn no_data_is_an_alarm_after_three_periods_and_also_when_nobody_measures() {
    let (fine, silent) = ([Some(0); 4], [Some(0), Some(0), None, None]);
    let mut bench = bench();
    for _ in 0..2 {
        assert!(look(&mut bench, silent, false).is_empty());
    }
    look(&mut bench, fine, false);
    for _ in 0..2 {
        assert!(look(&mut bench, silent, false).is_empty(), "counted anew");
    }
    assert_eq!(types(&look(&mut bench, silent, false)), ["AlarmRaised"]);
    assert_eq!(raised(&mut bench)[0].0, "no-data");
    assert_eq!(types(&look(&mut bench, fine, false)), ["AlarmCleared"]);
    let before = bench.now;
    let events = bench.fire_next_timer().expect("set").expect("handled");
    assert_eq!(types(&events), ["AlarmRaised"]);
    assert_eq!(bench.now.ms() - before.ms(), 180_000);
    assert_eq!(raised(&mut bench)[0].1, "measuring");
    assert_eq!(types(&look(&mut bench, fine, false)), ["AlarmCleared"]);
    let refused = bench.command(
        &admin(),
        "alarm.measured",
        json!({ "periodSeconds": 1, "queues": [] }),
    );
    assert_eq!(code(refused), Code::AuthorizationError);
}

#[test]
fn a_loss_stays_until_somebody_acknowledges_it() {
    let fine = [Some(0); 4];
    let mut bench = bench();
    assert_eq!(types(&look(&mut bench, fine, true)), ["AlarmRaised"]);
    assert!(look(&mut bench, fine, false).is_empty());
    assert_eq!(raised(&mut bench)[0].0, "retention-loss");
    let body = json!({ "alarmName": "retention-loss", "subject": "vendor-queue" });
    assert_eq!(
        code(bench.command(&admin(), "alarm.acknowledge", body)),
        Code::NotFound
    );
    let body = json!({ "alarmName": "retention-loss" });
    let (_, events) = bench
        .command(&admin(), "alarm.acknowledge", body)
        .expect("done");
    assert_eq!(types(&events), ["AlarmCleared"]);
    assert_eq!(raised(&mut bench), []);
}

#[test]
fn alarms_of_other_roles_are_listed_in_whatever_order_their_events_come() {
    let subject = || Text::lossy("payment/1");
    let at = Ts::from_ms;
    let up = |since| AlarmRaised {
        alarm_name: Key::new("payment-unknown").expect("a key"),
        severity: AlarmSeverity::Critical,
        subject: subject(),
        value: 1.0,
        threshold: 0.0,
        since,
    };
    let down = AlarmCleared {
        alarm_name: Key::new("payment-unknown").expect("a key"),
        subject: subject(),
        value: 0.0,
        cleared_at: at(0),
    };
    let mut bench = bench();
    let start = bench.now.ms();
    bench.event(&up(at(start))).expect("handled");
    assert_eq!(raised(&mut bench).len(), 1);
    bench.now = at(start + 2000);
    bench.event(&down).expect("handled");
    assert_eq!(raised(&mut bench), []);
    // A raise from before the end, late; then a newer one.
    bench.now = at(start + 1000);
    bench.event(&up(at(start + 1000))).expect("handled");
    assert_eq!(raised(&mut bench), []);
    bench.now = at(start + 3000);
    bench.event(&up(at(start + 3000))).expect("handled");
    let list = ask(&mut bench, "alarm.list", json!({}));
    assert_eq!(list["items"][0]["since"], json!(at(start + 3000)));
    assert_eq!(list["items"][0]["severity"], "critical");
    let body = json!({ "alarmName": "payment-unknown" });
    ask(&mut bench, "alarm.acknowledge", body);
    let list = ask(&mut bench, "alarm.list", json!({}));
    assert_eq!(list["items"][0]["acknowledgedBy"], "operator:olga");
}

#[test]
fn a_webhook_is_told_each_alarm_under_one_key_until_it_takes_it_and_nothing_of_a_replay() {
    let mut bench = Bench::new(AuditRole {
        webhook: true,
        ..AuditRole::default()
    });
    let up = |subject: &str| AlarmRaised {
        alarm_name: Key::new("payment-unknown").expect("a key"),
        severity: AlarmSeverity::Critical,
        subject: Text::lossy(subject),
        value: 1.0,
        threshold: 0.0,
        since: Ts::from_ms(0),
    };
    let waiting = |bench: &mut Bench<AuditRole>| {
        ask(bench, "alarm.list", json!({}))["webhookWaiting"].clone()
    };
    bench.reach = Reach::NoExternal;
    bench.event(&up("payment/0")).expect("handled");
    bench.reach = Reach::Full;
    assert_eq!(waiting(&mut bench), 0);
    bench.event(&up("payment/1")).expect("handled");
    bench.event(&up("payment/2")).expect("handled");
    let calls = bench.effects();
    assert_eq!(calls.len(), 1, "one at a time: {calls:?}");
    let first = calls[0].clone();
    let body = first.request["body"].as_str().expect("a text");
    let body: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(
        (&body["type"], &body["data"]["subject"]),
        (&json!("alarm.raised"), &json!("payment/1"))
    );
    let failed = EffectOutcome::Failed("503".to_owned());
    bench.effect_result(&first.key, failed).expect("noted");
    // The other one has its turn.
    let second = bench.effects()[0].clone();
    assert_ne!(second.key, first.key);
    let done = || EffectOutcome::Done(json!({}));
    bench.effect_result(&second.key, done()).expect("noted");
    assert!(bench.effects().is_empty());
    assert_eq!(waiting(&mut bench), 1);
    let before = bench.now;
    bench.fire_next_timer().expect("set").expect("handled");
    assert_eq!(bench.now.ms() - before.ms(), 30_000);
    let again = bench.effects()[0].clone();
    assert_eq!((&again.key, &again.request), (&first.key, &first.request));
    bench.effect_result(&again.key, done()).expect("noted");
    assert_eq!(waiting(&mut bench), 0);
    assert!(bench.fire_next_timer().is_none());
}

#[test]
fn nobody_finds_out_by_trying_what_was_personal_in_what_was_published() {
    let mut bench = bench();
    let detail = json!({
        "eventId": ids::derive_v7(1, &[b"published"]), "version": "1.0", "userId": ids::derive_v7(1, &[b"user"]),
        "phone": PHONE, "verifiedAt": Ts::from_ms(0),
    });
    let plain = detail.to_string();
    let plain = ids::derive_v8(0, &[b"accepted", b"UserVerified", plain.as_bytes()]);
    let body = json!({ "entries": [{
        "source": "roadcall.auth", "detail-type": "UserVerified", "detail": detail, "time": Ts::from_ms(1),
    }] });
    let publish = |bench: &mut Bench<AuditRole>| {
        let published = bench.command(&admin(), "event.publish", body.clone());
        let (reply, events) = published.expect("published");
        assert_eq!(reply["failed"], 0, "{reply}");
        events.len()
    };
    assert_eq!((publish(&mut bench), publish(&mut bench)), (1, 0));
    assert!(!bench.rests(PHONE) && !bench.rests(&plain.to_string()));
    // What was published before there were keys is recognised as well.
    let changed = bench.alter(&format!("UPDATE accepted SET digest = '{plain}'"));
    assert_eq!((changed, publish(&mut bench)), (1, 0));
}
