//! Numbers of roles and queues for Prometheus: the gateway tells those of the whole site at `/metrics`, a process without a gateway
//! writes those of its own roles into a file (DOMAIN 4.4). No label has personal data in it.

mod alarms;
mod figures;
pub mod textfile;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use self::alarms::Raised;
use self::figures::Told;
use super::clock::Clock;
use super::connections::Connections;
use super::inquiry::{Alarms, Inquiry, Source};
use super::queues::{self, QueueStanding};
use super::status::Status;
use crate::bus::{Bus, EVENTS};
use crate::config::Config;
use crate::role::RoleName;

/// What every name begins with.
pub const PREFIX: &str = "roadcall";
/// How long a role may take to say how it stands.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfQueue {
    queue: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRole {
    role: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBuild {
    version: &'static str,
}

/// How a site stands, or some of its roles.
#[derive(Debug)]
pub struct SiteState {
    /// Whether JetStream answers, else why not.
    pub broker: Result<(), String>,
    /// The queues that could be looked at.
    pub queues: Vec<QueueStanding>,
    /// Which roles answer.
    pub roles: Vec<(RoleName, bool)>,
    /// What they say of themselves.
    pub figures: Vec<Status>,
    /// What the audit role says of alarms, where it was asked and answers.
    pub alarms: Option<Alarms>,
}

/// Asks the broker, the roles and their queues; the audit role also for the alarms. Each role over its own connection, which may
/// be the only one that reaches it.
pub async fn look(buses: &Connections, config: &Config, roles: &[RoleName]) -> SiteState {
    let broker = match buses.own().stream(EVENTS).await {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    };
    let mut state = SiteState {
        broker,
        queues: Vec::new(),
        roles: Vec::new(),
        figures: Vec::new(),
        alarms: None,
    };
    if state.broker.is_err() {
        state.roles = roles.iter().map(|role| (*role, false)).collect();
        return state;
    }
    for role in roles {
        let inquiry = Inquiry {
            bus: buses.of(*role).clone(),
            config: config.clone(),
            actor: "operator:metrics".to_owned(),
            timeout: PATIENCE,
        };
        let up = match inquiry.status(*role).await {
            Ok(Ok((status, Source::Role))) => {
                state.figures.push(status);
                true
            }
            _ => false,
        };
        state.roles.push((*role, up));
        if let Ok(Some(standing)) = queues::look(&inquiry, *role, Clock.now()).await {
            state.queues.push(standing);
        }
        if *role == RoleName::Audit && up {
            state.alarms = inquiry.alarms().await.ok().and_then(Result::ok);
        }
    }
    state
}

/// What is told of a [`SiteState`].
pub struct SiteMetrics {
    queues: QueueGauges,
    roles: RoleFigures,
    told: Told,
    alarms: Raised,
    up: Family<OfRole, Gauge>,
    broker_up: Gauge,
}

impl SiteMetrics {
    /// Puts them into a registry.
    pub fn register(registry: &mut Registry) -> Self {
        let build = Family::<OfBuild, Gauge>::default();
        registry.register("build_info", "The program, by its version", build.clone());
        let version = env!("CARGO_PKG_VERSION");
        build.get_or_create(&OfBuild { version }).set(1);
        let metrics = Self {
            queues: QueueGauges::default(),
            roles: RoleFigures::default(),
            told: Told::default(),
            alarms: Raised::default(),
            up: Family::default(),
            broker_up: Gauge::default(),
        };
        metrics.queues.register(registry);
        metrics.roles.register(registry);
        registry.register_collector(Box::new(metrics.told.clone()));
        registry.register_collector(Box::new(metrics.alarms.clone()));
        let help = "Whether the role answers";
        registry.register("role_up", help, metrics.up.clone());
        let help = "Whether JetStream answers";
        registry.register("broker_up", help, metrics.broker_up.clone());
        metrics
    }

    /// Takes over what was found. A queue or role that was not found keeps what it counted; a gauge of a queue that nobody could
    /// look at is not told, since an old value would look like a new one.
    pub fn show(&self, state: &SiteState) {
        self.broker_up.set(i64::from(state.broker.is_ok()));
        for (role, up) in &state.roles {
            let role = role.to_string();
            self.up.get_or_create(&OfRole { role }).set(i64::from(*up));
        }
        self.roles.outbox.clear();
        for status in &state.figures {
            self.roles.show(status);
        }
        self.told.tell(state.figures.clone());
        self.alarms.tell(state.alarms.clone());
        self.queues.show(&state.queues);
    }
}

#[derive(Default)]
struct QueueGauges {
    depth: Family<OfQueue, Gauge>,
    in_flight: Family<OfQueue, Gauge>,
    oldest_age_seconds: Family<OfQueue, Gauge>,
    dead_letters: Family<OfQueue, Gauge>,
    sent: Family<OfQueue, Counter>,
    /// What the broker said of `sent` last.
    sent_then: Mutex<BTreeMap<String, u64>>,
}

impl QueueGauges {
    fn register(&self, registry: &mut Registry) {
        for (name, help, gauge) in [
            ("queue_depth", "Events without an outcome", &self.depth),
            (
                "queue_in_flight",
                "Delivered and not acknowledged",
                &self.in_flight,
            ),
            (
                "queue_oldest_age_seconds",
                "Age of the oldest event without an outcome",
                &self.oldest_age_seconds,
            ),
            (
                "queue_dead_letters",
                "Letters neither redriven nor purged",
                &self.dead_letters,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        let help = "Events that were sent to the queue, each time that they were";
        registry.register("queue_sent", help, self.sent.clone());
    }

    fn show(&self, queues: &[QueueStanding]) {
        let gauges = [
            &self.depth,
            &self.in_flight,
            &self.oldest_age_seconds,
            &self.dead_letters,
        ];
        gauges.iter().for_each(|gauge| gauge.clear());
        for standing in queues {
            let queue = OfQueue {
                queue: standing.queue.clone(),
            };
            self.sent_now(&queue, standing.sent);
            let values = [
                standing.depth,
                standing.in_flight,
                standing.oldest_age_seconds.unwrap_or(0),
                standing.dead_letters,
            ];
            for (gauge, value) in gauges.iter().zip(values) {
                let value = i64::try_from(value).unwrap_or(i64::MAX);
                gauge.get_or_create(&queue).set(value);
            }
        }
    }

    /// What was sent since the last look. The broker begins anew when a queue is reset: what it says then was sent before.
    fn sent_now(&self, queue: &OfQueue, sent: u64) {
        let mut then = self
            .sent_then
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = then.insert(queue.queue.clone(), sent);
        let more = match before {
            None => sent,
            Some(before) => sent.saturating_sub(before),
        };
        self.sent.get_or_create(queue).inc_by(more);
    }
}

/// What roles say of themselves. They count since their process started, as a counter of Prometheus may.
#[derive(Default)]
struct RoleFigures {
    received: Family<OfQueue, Counter>,
    handled: Family<OfQueue, Counter>,
    failed: Family<OfQueue, Counter>,
    expired: Family<OfQueue, Counter>,
    late: Family<OfQueue, Counter>,
    commands: Family<OfRole, Counter>,
    rejected: Family<OfRole, Counter>,
    emitted: Family<OfRole, Counter>,
    outbox: Family<OfRole, Gauge>,
}

impl RoleFigures {
    fn register(&self, registry: &mut Registry) {
        let of_queues = [
            (
                "queue_received",
                "Events taken from the queue",
                &self.received,
            ),
            ("queue_handled", "Events handled", &self.handled),
            ("queue_failed", "Failed handler runs", &self.failed),
            ("queue_expired", "Events too old to handle", &self.expired),
            ("queue_late", "Events handled late", &self.late),
        ];
        for (name, help, counter) in of_queues {
            registry.register(name, help, counter.clone());
        }
        let of_roles = [
            ("role_commands", "Commands answered", &self.commands),
            ("role_commands_rejected", "Commands refused", &self.rejected),
            ("role_events_emitted", "Events published", &self.emitted),
        ];
        for (name, help, counter) in of_roles {
            registry.register(name, help, counter.clone());
        }
        let help = "Events that wait to be published";
        registry.register("role_outbox_depth", help, self.outbox.clone());
    }

    fn show(&self, status: &Status) {
        let role = OfRole {
            role: status.role.to_string(),
        };
        if let Some(depth) = status.outbox {
            let depth = i64::try_from(depth).unwrap_or(i64::MAX);
            self.outbox.get_or_create(&role).set(depth);
        }
        let Some(counts) = status.counts else { return };
        for (family, count) in [
            (&self.commands, counts.commands),
            (&self.rejected, counts.rejected),
            (&self.emitted, counts.emitted),
        ] {
            family.get_or_create(&role).inner().store(count, Relaxed);
        }
        let Some(queue) = status.role.queue() else {
            return;
        };
        let queue = OfQueue {
            queue: queue.to_owned(),
        };
        for (family, count) in [
            (&self.received, counts.received),
            (&self.handled, counts.handled),
            (&self.failed, counts.failed),
            (&self.expired, counts.expired),
            (&self.late, counts.late),
        ] {
            family.get_or_create(&queue).inner().store(count, Relaxed);
        }
    }
}
