//! Measures for the alarms (DOMAIN 4.4): a look at every queue of the site each `audit.alarm_period`, handed to the audit role
//! as the command `alarm.measured`. Here is only measured; what a number means the role decides.

use std::collections::{HashMap, VecDeque};
use std::sync::PoisonError;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::certificates;
use super::clock::Clock;
use super::engine::Counts;
use super::inquiry::Inquiry;
use super::order;
use super::queues::{self, Open, QueueStanding};
use super::report;
use super::status::SharedInForce;
use super::writer::Job;
use crate::bus::jetstream::JetStream;
use crate::bus::{Bus, EVENTS};
use crate::config::Config;
use crate::event::Ts;
use crate::role::RoleName;
use crate::role::audit::measures::{CertificateMeasure, MEASURED, Measured, QueueMeasure};
use crate::role::audit::sites::{REPORT, Report};

/// Failed handler runs are counted over this long (DOMAIN 4.4), milliseconds.
const WINDOW_MS: i64 = 60_000;

/// Looks and tells.
pub struct Measuring {
    inquiry: Inquiry,
    /// Those that have a queue.
    roles: Vec<RoleName>,
    /// All that the site lists.
    listed: Vec<RoleName>,
    in_force: SharedInForce,
    period: Duration,
    jobs: mpsc::Sender<Job>,
    clock: Clock,
    seen: HashMap<RoleName, Seen>,
}

/// What the looks before saw of a queue.
#[derive(Debug, Default)]
struct Seen {
    counts: Option<Counts>,
    /// Failed runs since the look before, by the time of the look.
    failed: VecDeque<(i64, u64)>,
    open: Option<Open>,
}

impl Measuring {
    /// For the queues of the roles that the site lists.
    #[must_use]
    pub fn new(
        bus: JetStream,
        config: &Config,
        in_force: SharedInForce,
        jobs: mpsc::Sender<Job>,
        clock: Clock,
    ) -> Self {
        let listed = listed(config);
        Self {
            inquiry: inquiry(&bus, config),
            roles: listed
                .iter()
                .copied()
                .filter(|role| role.queue().is_some())
                .collect(),
            in_force,
            listed,
            period: config.audit.alarm_period.0,
            jobs,
            clock,
            seen: HashMap::new(),
        }
    }

    /// Works until told to stop. The first look is one period after the start: then every role had time to begin.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let look = async {
                let (measured, depths) = self.look().await;
                let queues: Vec<_> = measured.queues.iter().cloned().zip(depths).collect();
                (measured, self.report(&queues).await)
            };
            let (measured, report) = tokio::select! {
                () = stop.cancelled() => return,
                looked = look => looked,
            };
            if !self.tell(MEASURED, &measured).await {
                return;
            }
            if let Some(report) = report
                && !self.tell(REPORT, &report).await
            {
                return;
            }
        }
    }

    /// What the site runs and holds; nothing where the archive can't be asked.
    async fn report(&self, queues: &[(QueueMeasure, u64)]) -> Option<Report> {
        // After a reload another one is in force.
        let in_force = self.in_force.lock();
        let digest = in_force
            .unwrap_or_else(PoisonError::into_inner)
            .config_digest
            .clone();
        let looked = report::look(&self.inquiry, &self.listed, queues, &digest).await;
        looked
            .inspect_err(|error| tracing::warn!(%error, "the site could not be looked at"))
            .ok()
    }

    /// Every queue's measure, and how much it has to do.
    async fn look(&mut self) -> (Measured, Vec<u64>) {
        let mut queues = Vec::with_capacity(self.roles.len());
        let mut depths = Vec::with_capacity(self.roles.len());
        for role in self.roles.clone() {
            let measure = match queues::look(&self.inquiry, role, self.clock.now()).await {
                Ok(Some(standing)) => {
                    depths.push(standing.depth);
                    self.measure(role, standing).await
                }
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(%role, %error, "a queue could not be measured");
                    depths.push(0);
                    QueueMeasure {
                        queue: role.queue().unwrap_or_default().to_owned(),
                        ..QueueMeasure::default()
                    }
                }
            };
            queues.push(measure);
        }
        let measured = Measured {
            period_seconds: self.period.as_secs().max(1),
            queues,
            certificates: self.certificates(),
        };
        (measured, depths)
    }

    fn certificates(&mut self) -> Vec<CertificateMeasure> {
        let in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        // A reload may have brought another one.
        self.inquiry.config.hub.ca.clone_from(&in_force.hub_ca);
        drop(in_force);
        let found = certificates::look(&self.inquiry.config, self.clock.now());
        let measure = |found: certificates::Standing| CertificateMeasure {
            certificate: found.key.to_owned(),
            days_left: found
                .days_left
                .inspect_err(|error| {
                    tracing::warn!(key = found.key, error, "a certificate can't be looked at");
                })
                .ok(),
        };
        found.into_iter().map(measure).collect()
    }

    async fn measure(&mut self, role: RoleName, standing: QueueStanding) -> QueueMeasure {
        let mut seen = self.seen.remove(&role).unwrap_or_default();
        let lost = match seen.open.take() {
            Some(open) => match self.lost(role, &open).await {
                Some(lost) => lost,
                None => {
                    // Nobody can tell yet: asked again at the next look.
                    seen.open = Some(open);
                    false
                }
            },
            None => false,
        };
        seen.open = seen.open.take().or(standing.oldest_open);
        let (failed, late) = seen.since(standing.counts, self.clock.now());
        self.seen.insert(role, seen);
        QueueMeasure {
            queue: standing.queue,
            dead_letters: Some(standing.dead_letters),
            oldest_age_seconds: Some(standing.oldest_age_seconds.unwrap_or(0)),
            failed,
            late,
            lost,
        }
    }

    /// Whether the archive let go of an event that the queue had not handled; `None` where that can't be known now.
    async fn lost(&self, role: RoleName, open: &Open) -> Option<bool> {
        let state = self.inquiry.bus.stream(EVENTS).await.ok()?;
        if state.first_seq <= open.seq {
            return Some(false);
        }
        // Its role knows whether it came in time.
        let record = self.inquiry.record(role, open.wanted).await.ok()?.ok()?.0;
        Some(record.ended.is_none() && record.waiting.is_none())
    }

    /// Gives the role what was found. False when it takes nothing any more.
    async fn tell(&self, command: &str, found: &impl Serialize) -> bool {
        let told = order::give(&self.jobs, self.clock, command, found).await;
        if let Err(order::Error::Refused(error)) = &told {
            tracing::error!(error, "the measures were refused");
        }
        told != Err(order::Error::Stops)
    }
}

impl Seen {
    /// Failed runs within the window and late events since the look before; nothing where the role says nothing.
    fn since(&mut self, now: Option<Counts>, at: Ts) -> (Option<u64>, Option<u64>) {
        let before = self.counts;
        let Some(now) = now else {
            return (None, None);
        };
        self.counts = Some(now);
        let (failed, late) = match before {
            // Its process is another one: it counts from zero.
            Some(before) if now.steps < before.steps => (now.failed, now.late),
            Some(before) => (now.failed - before.failed, now.late - before.late),
            // What it counted before anybody looked is of an unknown time.
            None => (0, 0),
        };
        self.failed.push_back((at.ms(), failed));
        // A look stands for the time before it.
        while self
            .failed
            .front()
            .is_some_and(|(when, _)| at.ms() - when >= WINDOW_MS)
        {
            self.failed.pop_front();
        }
        let failed = self.failed.iter().map(|(_, failed)| failed).sum();
        (Some(failed), Some(late))
    }
}

/// The roles that the site lists.
pub(super) fn listed(config: &Config) -> Vec<RoleName> {
    let listed = &config.site.roles;
    let wanted = |role: &RoleName| {
        let named = |name: &String| name == "all" || name == role.as_str();
        listed.iter().any(named)
    };
    RoleName::BUILT.into_iter().filter(wanted).collect()
}

/// The node asking the site's roles.
pub(super) fn inquiry(bus: &JetStream, config: &Config) -> Inquiry {
    Inquiry {
        bus: bus.clone(),
        config: config.clone(),
        actor: order::node().to_string(),
        timeout: config.engine.command_timeout.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(steps: u64, failed: u64, late: u64) -> Option<Counts> {
        Some(Counts {
            steps,
            failed,
            late,
            ..Counts::default()
        })
    }

    #[test]
    fn failures_count_for_a_minute_and_a_new_process_counts_from_zero() {
        let mut seen = Seen::default();
        let at = Ts::from_ms;
        assert_eq!(seen.since(counts(5, 7, 3), at(0)), (Some(0), Some(0)));
        assert_eq!(seen.since(counts(9, 13, 4), at(30_000)), (Some(6), Some(1)));
        assert_eq!(
            seen.since(counts(12, 18, 4), at(60_000)),
            (Some(11), Some(0))
        );
        assert_eq!(seen.since(None, at(70_000)), (None, None));
        assert_eq!(seen.since(counts(1, 2, 0), at(90_000)), (Some(7), Some(0)));
        assert_eq!(seen.since(counts(2, 2, 0), at(150_000)), (Some(0), Some(0)));
    }
}
