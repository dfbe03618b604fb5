//! The broker itself: whether it is there, its clock, how it writes to its disk, how full the archive is, and whether its
//! streams, queues and rules are those that the site needs.

use std::time::Duration;

use chrono::DateTime;
use serde_json::{Value, json};

use super::finding::{Findings, Severity, count, span, without_password};
use super::{Doctor, now, processes};
use crate::broker::durability::{DiskSync, archive_on_disk};
use crate::broker::monitor;
use crate::bus::jetstream::JetStream;
use crate::bus::topology::{Change, Class};
use crate::bus::{self, EVENTS};
use crate::config::{BrokerMode, Config};
use crate::node::clock::Clock;
use crate::node::inquiry::Inquiry;
use crate::node::run::{desired, routes};
use crate::node::{filters, preflight, switches};
use crate::routing::Routes;

/// A clock that is off by more is wrong.
const CLOCK_OFF_MS: i64 = 2_000;
/// A position from this far ahead is refused (DOMAIN 5).
const CLOCK_WRONG_MS: i64 = 60_000;
/// How full an archive may be, percent: then it is time to do something, and then events wait in outboxes soon.
const FILLING_PERCENT: u64 = 80;
const FULL_PERCENT: u64 = 95;

/// There is no broker to ask.
pub(super) fn unreachable(
    doctor: &Doctor<'_>,
    error: &bus::Error,
    processes: &processes::Seen,
    found: &mut Findings,
) {
    let config = doctor.config;
    let at = without_password(&config.bus.url);
    // The client library has no kind of its own for it.
    if error.to_string().contains("authorization violation") {
        return found
            .add(Severity::Critical, "broker-refuses", "broker")
            .says(format!("the broker at {at} does not let us in: {error}"))
            .seen("user and password of bus.url, or bus.creds, were refused; what needs a broker was not looked at")
            .roadcall("config show --origin  # who gives bus.url and bus.creds, and are they those of the broker?");
    }
    let draft = found
        .add(Severity::Critical, "broker-down", "broker")
        .says(format!("the broker at {at} can't be used: {error}"));
    if !error.retryable() {
        let seen = "it answered (RC0204)";
        return draft.seen(seen).roadcall("explain RC0204");
    }
    let unit = match config.broker.mode != BrokerMode::External && in_one(doctor, processes) {
        true => "roadcall@all",
        false => "roadcall-broker",
    };
    draft
        .seen(
            "no answer within bus.connect_timeout (RC0201); what needs a broker was not looked at",
        )
        .then(format!(
            "systemctl restart {unit}  # then: journalctl -u {unit} -n 50"
        ));
}

/// Whether the broker runs in one process with every role of the site; where none lives that could show it, whether its store
/// is here.
fn in_one(doctor: &Doctor<'_>, processes: &processes::Seen) -> bool {
    match processes.none_lives() {
        true => doctor.config.broker_store_dir().is_dir() && !processes.any_of("broker"),
        false => processes.one_runs(doctor.roles),
    }
}

pub(super) async fn look(doctor: &Doctor<'_>, inquiry: &Inquiry, found: &mut Findings) {
    let bus = &inquiry.bus;
    let before = (now(), Clock.steady());
    let asked = bus
        .api(&format!("STREAM.INFO.{EVENTS}"), &Value::Null)
        .await;
    let took = Clock.steady().saturating_sub(before.1);
    match asked {
        Ok(info) => {
            clock(&info, before.0.ms(), took, found);
            archive(&info, found);
        }
        Err(bus::Error::Missing(_)) => hidden(doctor.config, found),
        Err(error) => found.unseen("the archive", error),
    }
    sync(doctor.config, found).await;
    match routes(doctor.config) {
        Ok(routes) => {
            topology(doctor, bus, &routes, found).await;
            rules(bus, &routes, found).await;
        }
        Err(error) => found.unseen("the rules", error),
    }
}

/// The server says in its answer when that was.
fn clock(info: &Value, asked_at_ms: i64, took: Duration, found: &mut Findings) {
    let Some(theirs) = info["ts"]
        .as_str()
        .and_then(|text| DateTime::parse_from_rfc3339(text).ok())
    else {
        return;
    };
    let took_ms = i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
    // It was said at some time between question and answer.
    let ours_ms = asked_at_ms + took_ms / 2;
    let ahead_ms = ours_ms - theirs.timestamp_millis();
    let off_ms = ahead_ms.abs() - took_ms;
    if off_ms <= CLOCK_OFF_MS {
        return;
    }
    let severity = match off_ms > CLOCK_WRONG_MS {
        true => Severity::Critical,
        false => Severity::Warning,
    };
    let way = if ahead_ms > 0 { "ahead of" } else { "behind" };
    found
        .add(severity, "clock", "clock")
        .says(format!(
            "this machine's clock is {} {way} the broker's: times in events and timers are off by as much",
            span(ahead_ms.abs())
        ))
        .seen(format!(
            "here {}, there {} (the question took {took_ms} ms)",
            crate::event::Ts::from_ms(ours_ms),
            info["ts"].as_str().unwrap_or_default()
        ))
        .then("timedatectl timesync-status  # here and on the broker's machine; mend the one that is wrong");
}

fn archive(info: &Value, found: &mut Findings) {
    let max = info["config"]["max_bytes"].as_i64().unwrap_or(-1);
    let bytes = info["state"]["bytes"].as_u64().unwrap_or(0);
    let Some(max) = u64::try_from(max).ok().filter(|max| *max > 0) else {
        return;
    };
    let percent = bytes.saturating_mul(100) / max;
    let (severity, then) = match percent {
        FULL_PERCENT.. => (Severity::Critical, "events wait in outboxes"),
        FILLING_PERCENT.. => (Severity::Warning, "events will wait in outboxes"),
        _ => return,
    };
    found
        .add(severity, "archive-full", EVENTS)
        .says(format!(
            "the archive is {percent} % full, {bytes} of {max} bytes: at archive.max_bytes {then} until the oldest expire"
        ))
        .seen(format!("STREAM.INFO {EVENTS}: bytes {bytes}, max_bytes {max}"))
        .roadcall("topology apply --yes  # after raising archive.max_bytes in the configuration");
}

/// No archive, but perhaps on the disk.
fn hidden(config: &Config, found: &mut Findings) {
    // What else is missing the topology says.
    let Some(path) = archive_on_disk(&config.broker_store_dir()) else {
        return;
    };
    found
        .add(Severity::Critical, "archive-hidden", EVENTS)
        .says(format!(
            "the broker has no stream {EVENTS}, and its directory has one with events in it (RC0216): make nothing now"
        ))
        .seen(path.display().to_string())
        .roadcall("explain RC0216");
}

async fn sync(config: &Config, found: &mut Findings) {
    let broker = &config.broker;
    // Made by the process that runs a broker of ours.
    let file = config.broker_store_dir().join("nats-server.conf");
    let own = broker.mode != BrokerMode::External && file.is_file();
    let (sync, seen) = match broker.monitor_url.as_str() {
        "" if own => (
            preflight::sync(config),
            format!("broker.sync_interval = {}", broker.sync_interval),
        ),
        // Nobody can tell: no evidence.
        "" => return,
        url => match monitor::sync_interval(url).await {
            Ok(sync) => (sync, format!("/varz at {url}")),
            Err(error) => return found.unseen("the broker's sync interval", error),
        },
    };
    let DiskSync::Every(every) = sync else { return };
    let every_ms = i64::try_from(every.as_millis()).unwrap_or(i64::MAX);
    let draft = found
        .add(Severity::Warning, "broker-lazy", "broker")
        .says(format!(
            "the broker leaves what it took unsynced for up to {}: a power cut takes it; roles send theirs again, other producers don't",
            span(every_ms)
        ))
        .seen(seen);
    match own {
        true => draft.roadcall(
            "config show --origin  # set broker.sync_interval to \"always\" where it says, restart the broker",
        ),
        false => draft.then(format!(
            "curl -s {}/varz  # set jetstream {{ sync_interval: always }} in that server's configuration, restart it",
            broker.monitor_url
        )),
    }
}

async fn topology(doctor: &Doctor<'_>, bus: &JetStream, routes: &Routes, found: &mut Findings) {
    let wanted = desired(doctor.config, routes, doctor.roles);
    match filters::plan(bus, &wanted).await {
        Ok(changes) => changes.iter().for_each(|change| differs(change, found)),
        Err(error) => found.unseen("the topology", error),
    }
}

fn differs(change: &Change, found: &mut Findings) {
    let what = match change.kind {
        "consumer" | "fill" => "queue",
        other => other,
    };
    let (object, detail) = (&change.object, &change.detail);
    let (severity, check, says) = if change.is_missing() {
        let says = format!("{what} {object} is missing on the broker: what it is for is not done");
        (Severity::Critical, "topology-missing", says)
    } else if change.filters_differ() {
        let says = format!("queue {object} has other filters than the rules give it: {detail}");
        (Severity::Critical, "topology-filters", says)
    } else {
        let says = format!("{what} {object} is not as configured: {detail}");
        (Severity::Warning, "topology-drift", says)
    };
    let draft = found
        .add(severity, check, object)
        .says(says)
        .seen(format!("topology plan: {} {object}", change.kind));
    match change.change {
        Class::Safe | Class::Backfill => draft.roadcall("topology apply --yes"),
        Class::Recreate | Class::Refuse => draft.roadcall(
            "topology plan  # topology apply can't mend this one: it is to be made anew by hand, or stays",
        ),
    }
}

async fn rules(bus: &JetStream, routes: &Routes, found: &mut Findings) {
    let switches = match switches::read(bus).await {
        Ok(switches) => switches,
        Err(error) => return found.unseen("the switches of rules", error),
    };
    for rule in routes.switched(&switches).rules() {
        if rule.enabled || !rule.enabled_in_file {
            continue;
        }
        let queues: Vec<&str> = rule
            .targets
            .iter()
            .map(|target| target.queue.as_str())
            .collect();
        found
            .add(Severity::Warning, "rule-disabled", &rule.name)
            .says(format!(
                "rule {} is switched off: what it routes passes {} by ({})",
                rule.name,
                count(queues.len() as u64, "queue"),
                queues.join(", ")
            ))
            .seen(format!(
                "rule.{} in bucket {}: {}",
                rule.name,
                bus::TOPOLOGY_BUCKET,
                json!({ "enabled": false })
            ))
            .roadcall(&format!("rule enable {}", rule.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_answer_is_no_wrong_clock() {
        let info = json!({ "ts": "2026-01-01T00:00:00Z" });
        let at_ms = |text: &str| {
            let at = DateTime::parse_from_rfc3339(text).expect("a time");
            at.timestamp_millis()
        };
        let looked = |asked: &str, took: u64| {
            let mut found = Findings::new("roadcall");
            clock(&info, at_ms(asked), Duration::from_secs(took), &mut found);
            let report = found.report();
            report.findings.first().map(|one| one.severity)
        };
        assert_eq!(looked("2025-12-31T23:59:56Z", 5), None);
        assert_eq!(looked("2026-01-01T00:00:01Z", 0), None);
        assert_eq!(looked("2026-01-01T00:00:03Z", 0), Some(Severity::Warning));
        assert_eq!(looked("2025-12-31T23:50:00Z", 0), Some(Severity::Critical));
    }
}
