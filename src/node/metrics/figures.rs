//! In `/metrics`, what roles say that they measured: by rule, by service outside, by queue. It is written anew for each
//! scrape from their last answers, so that a rule that is gone is gone here too.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::node::effects::BreakerState;
use crate::node::figures::{BOUNDS, Figures, RuleCounts, Timings};
use crate::node::status::{ReplayFigures, Status};

/// The roles' last answers.
#[derive(Debug, Clone, Default)]
pub(super) struct Told(Arc<Mutex<Vec<Status>>>);

impl Told {
    /// Takes in what the roles said.
    pub(super) fn tell(&self, told: Vec<Status>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }
}

impl Collector for Told {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rules(&told, &mut encoder)?;
        commands(&told, &mut encoder)?;
        breakers(&told, &mut encoder)?;
        spans(&told, &mut encoder)?;
        replays(&told, &mut encoder)
    }
}

fn measured(told: &[Status]) -> impl Iterator<Item = (&Status, &Figures)> {
    told.iter()
        .filter_map(|status| Some((status, status.figures.as_ref()?)))
}

fn counter(encoder: &mut MetricEncoder, labels: &impl EncodeLabelSet, count: u64) -> fmt::Result {
    encoder
        .encode_family(labels)?
        .encode_counter::<NoLabelSet, _, u64>(&count, None)
}

fn gauge(encoder: &mut MetricEncoder, labels: &impl EncodeLabelSet, value: u64) -> fmt::Result {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    encoder.encode_family(labels)?.encode_gauge(&value)
}

fn rules(told: &[Status], encoder: &mut DescriptorEncoder) -> fmt::Result {
    type Pick = fn(&RuleCounts) -> u64;
    let metrics: [(&str, &str, Pick); 2] = [
        (
            "rule_matched",
            "Events that the rule brought to the queue",
            |counts| counts.matched,
        ),
        (
            "rule_failed",
            "Failed handler runs of events that the rule brought to the queue",
            |counts| counts.failed,
        ),
    ];
    for (name, help, pick) in metrics {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (status, figures) in measured(told) {
            let queue = status.role.queue().unwrap_or_default();
            for (rule, counts) in &figures.rules {
                let labels = [("queue", queue), ("rule", rule.as_str())];
                counter(&mut metric, &labels, pick(counts))?;
            }
        }
    }
    Ok(())
}

fn commands(told: &[Status], encoder: &mut DescriptorEncoder) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(
        "role_command_duration_seconds",
        "How long commands took in the role, from their arrival to the answer",
        None,
        MetricType::Histogram,
    )?;
    for (status, figures) in measured(told) {
        let Timings { counts, sum_us } = &figures.commands;
        let bounds = BOUNDS.into_iter().chain([f64::MAX]);
        let buckets: Vec<(f64, u64)> = bounds.zip(*counts).collect();
        let labels = [("role", status.role.as_str())];
        metric
            .encode_family(&labels)?
            .encode_histogram::<NoLabelSet>(
                *sum_us as f64 / 1e6,
                counts.iter().sum(),
                &buckets,
                None,
            )?;
    }
    Ok(())
}

fn spans(told: &[Status], encoder: &mut DescriptorEncoder) -> fmt::Result {
    let help = "Spans of traces, by what became of them: taken by the collector, or given up";
    let mut metric = encoder.encode_descriptor("trace_spans", help, None, MetricType::Counter)?;
    for (status, figures) in measured(told) {
        let Some(counts) = figures.spans else {
            continue;
        };
        for (outcome, count) in [("exported", counts.exported), ("dropped", counts.dropped)] {
            let labels = [("role", status.role.as_str()), ("outcome", outcome)];
            counter(&mut metric, &labels, count)?;
        }
    }
    Ok(())
}

/// One of the three states is 1.
fn breakers(told: &[Status], encoder: &mut DescriptorEncoder) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(
        "effect_breaker_state",
        "How the breaker in front of a service stands, of services that the role called",
        None,
        MetricType::Gauge,
    )?;
    let states = [
        (BreakerState::Closed, "closed"),
        (BreakerState::Open, "open"),
        (BreakerState::HalfOpen, "half_open"),
    ];
    for (status, figures) in measured(told) {
        for (service, standing) in &figures.breakers {
            for (state, name) in states {
                let labels = [
                    ("role", status.role.as_str()),
                    ("service", service.as_str()),
                    ("state", name),
                ];
                gauge(&mut metric, &labels, u64::from(state == *standing))?;
            }
        }
    }
    Ok(())
}

fn replays(told: &[Status], encoder: &mut DescriptorEncoder) -> fmt::Result {
    type Pick = fn(&ReplayFigures) -> u64;
    let metrics: [(&str, &str, Pick); 7] = [
        (
            "queue_replays_running",
            "Replays of the queue that run",
            |all| all.running,
        ),
        (
            "queue_replay_sequences",
            "Sequences within the bounds of the replays that run",
            |all| all.sequences,
        ),
        (
            "queue_replay_sequences_done",
            "Sequences that the replays that run have looked at",
            |all| all.sequences_done,
        ),
        (
            "queue_replay_handled",
            "Events that the replays that run handled",
            |all| all.handled,
        ),
        (
            "queue_replay_duplicates",
            "Events that the replays that run left alone",
            |all| all.duplicates,
        ),
        (
            "queue_replay_filtered",
            "Events of the replays that run that are not for the queue",
            |all| all.filtered,
        ),
        (
            "queue_replay_failed",
            "Events that the replays that run could not handle",
            |all| all.failed,
        ),
    ];
    for (name, help, pick) in metrics {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for status in told {
            if let (Some(queue), Some(all)) = (status.role.queue(), &status.replays) {
                gauge(&mut metric, &[("queue", queue)], pick(all))?;
            }
        }
    }
    Ok(())
}
